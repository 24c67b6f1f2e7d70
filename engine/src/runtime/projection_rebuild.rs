//! Rebuilds projections that the disk has damaged from the log while the node runs.
//!
//! Their files are dropped when the log is reopened, and a rebuild makes the rows of these projections. Usage and
//! the counts of messages are rebuilt together, and commits wait for them, as at a start: publishers get
//! UNAVAILABLE, and followers wait. The others are rebuilt while commits continue; without receipts publishers get
//! UNAVAILABLE. Readers of a projection that is being rebuilt get UNAVAILABLE too, and never a part of its rows.
//! All other reads continue as usual. After a crash, the next start rebuilds the projections.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hawser_storage::{CommitError, RebuildError, RebuildReport, Store, StoredEnvelope};

use crate::facts;

/// Time between two looks if the log has been read again. A guess: it takes a second or two.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Looks for it. A guess: half a minute, in which a failing disk may be tried again a few times.
const LOOKS_MAX: u32 = 300;
/// Time between two log lines. A guess: often enough to see progress.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The reason a rebuild of projections failed. They cannot be read until a later attempt succeeds.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProjectionRebuildError {
    /// The disk takes no write.
    #[error("the projections cannot be dropped: {0}")]
    Condemn(CommitError),
    /// The log has not been read again in time.
    #[error("the projections cannot be dropped before the log has been read again")]
    NotReopened,
    /// The rebuild has failed, or was broken off.
    #[error("the projections cannot be rebuilt: {0}")]
    Rebuild(#[from] RebuildError),
}

/// Rebuilds damaged projections until it is ended.
pub(super) struct ProjectionRebuild {
    store: Store,
    is_ending: AtomicBool,
}

impl ProjectionRebuild {
    pub(super) fn new(store: Store) -> Self {
        Self { store, is_ending: AtomicBool::new(false) }
    }

    /// Stops the running rebuild, and refuses further ones. The next start continues it.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// Rebuilds projections: those in the `damaged` families, whose files the task that reopens the log drops
    /// first, and those that an earlier attempt left incomplete. Blocks until it is done.
    ///
    /// # Errors
    /// [`ProjectionRebuildError`].
    pub(super) fn run(&self, damaged: &[&str]) -> Result<RebuildReport, ProjectionRebuildError> {
        if !damaged.is_empty() {
            if self.store.condemn_damaged(damaged).is_err() {
                // A compaction may have met the damage before: RocksDB takes no writes until the log has been read
                // again.
                self.wait_until_writable()?;
                self.store.condemn_damaged(damaged).map_err(ProjectionRebuildError::Condemn)?;
            }
            tracing::warn!(
                code = "projections_condemned",
                projections = self.store.stale_projections().join(","),
                "projections are damaged and are rebuilt from the log: their readers have to wait"
            );
        }
        self.wait_until_writable()?;
        let own = self.store.identity().node;
        let mut log_at = Instant::now() + TELL_EVERY;
        let derive = |stored: &[StoredEnvelope]| facts::of_stored_many(stored, own);
        let report = self.store.rebuild_many(&derive, &mut |made| {
            if Instant::now() >= log_at {
                log_at = Instant::now() + TELL_EVERY;
                let (done, total_estimate) = (made.done, made.total_estimate);
                tracing::info!(done, total_estimate, "rebuilding the projections from the log");
            }
            match self.is_ending.load(Ordering::Acquire) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        tracing::warn!(
            code = "projections_rebuilt",
            envelopes = report.envelopes,
            "the projections are whole again"
        );
        Ok(report)
    }

    fn wait_until_writable(&self) -> Result<(), ProjectionRebuildError> {
        for _ in 0..LOOKS_MAX {
            if self.is_ending.load(Ordering::Acquire) {
                return Err(RebuildError::Stopped.into());
            }
            if !self.store.is_poisoned() {
                return Ok(());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Err(ProjectionRebuildError::NotReopened)
    }
}
