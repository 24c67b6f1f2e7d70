//! The strands of a node that runs, filled from a copy: readers get each envelope as soon as it was checked and written.
//!
//! A strand is filled in its order, from its durable head on, while its follower rests. Each envelope is checked as one of
//! a peer is, so a beginning of a strand is as good as the whole, after a crash too. Whatever is wrong with the copy or its
//! place ends filling for a while, and the strand is taken from peers: a liar delays the node by one chunk.
//!
//! Checkpoints of the copy are handed to the exchange of checkpoints, which compares them with the trees and keeps
//! what contradicts them as evidence.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hawser_api::FillingView;
use hawser_engine::Engine;
use hawser_engine::replication::EnvelopeVerifier;
use hawser_engine::runtime::replication::Replication;
use hawser_rules::Registry;
use hawser_storage::{BootstrapError, BootstrapStrand, Bootstraps, Change, Objects};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::checkpoints::Evidence;
use super::error::BootstrapFetchError;
use super::strand::{Commit, take_over};
use crate::bucket::{ObjectsAt, StopCheck};
use crate::error::RunError;
use crate::web::WebObjects;

/// The first pause after a failure; each further one is twice as long. A guess.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause. A guess.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Time between two looks if the node stops. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// Fills the strands on a thread of its own.
pub(in crate::service) struct FillTask {
    parts: Arc<FillParts>,
    thread: JoinHandle<()>,
}

struct FillParts {
    from: String,
    engine: Engine,
    replication: Replication,
    runtime: Handle,
    progress: Mutex<Option<FillProgress>>,
    stop: Arc<AtomicBool>,
}

/// Bytes of chunks, of the strands that lack something.
#[derive(Debug, Clone, Copy)]
struct FillProgress {
    done: u64,
    total: u64,
}

impl FillingView for FillParts {
    fn filling(&self) -> Option<String> {
        let FillProgress { done, total } = (*self.progress.lock())?;
        let (done, total) = (done / MIB, total.div_ceil(MIB));
        Some(format!("strands are filled from a snapshot: {done} of {total} MiB"))
    }
}

impl FillTask {
    /// Starts to fill. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub(in crate::service) fn start(
        from: &str,
        engine: &Engine,
        replication: Replication,
    ) -> std::io::Result<Self> {
        let parts = Arc::new(FillParts {
            from: from.to_owned(),
            engine: engine.clone(),
            replication,
            runtime: Handle::current(),
            progress: Mutex::default(),
            stop: Arc::default(),
        });
        let of_thread = Arc::clone(&parts);
        let thread =
            thread::Builder::new().name("filling".into()).spawn(move || of_thread.run())?;
        Ok(Self { parts, thread })
    }

    /// Returns the view for the API.
    pub(in crate::service) fn view(&self) -> Arc<dyn FillingView> {
        self.parts.clone()
    }

    /// Ends filling. Blocks until the chunk under way was given up or is written.
    pub(in crate::service) fn stop(self) {
        self.parts.stop.store(true, Ordering::Release);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl FillParts {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn run(&self) {
        let mut pause = PAUSE_MIN;
        while !self.is_stopped() {
            let filled = self.fill();
            *self.progress.lock() = None;
            match filled {
                Ok(()) => return,
                Err(_) if self.is_stopped() => return,
                Err(error) => tracing::warn!(
                    code = "filling_failed",
                    from = self.from,
                    %error,
                    "strands are taken from peers for now, and from the snapshot again after a pause"
                ),
            }
            let mut left = pause;
            while !left.is_zero() && !self.is_stopped() {
                thread::sleep(left.min(LOOK_EVERY));
                left = left.saturating_sub(LOOK_EVERY);
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn open(&self) -> Result<Arc<dyn Objects>, RunError> {
        let stopped = Arc::clone(&self.stop);
        let stop: StopCheck = Arc::new(move || stopped.load(Ordering::Acquire));
        if WebObjects::is_url(&self.from) {
            let web = WebObjects::new(&self.from, false, stop).map_err(RunError::usage)?;
            return Ok(Arc::new(web));
        }
        ObjectsAt::new(Path::new(&self.from), &|name| std::env::var(name).ok())?.open(stop)
    }

    /// Fills all strands that lack something the newest copy has.
    fn fill(&self) -> Result<(), RunError> {
        let place = Bootstraps::new(self.open()?);
        let store = self.engine.store();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let found = place.newest(&store.identity().network, now.as_secs());
        let (name, manifest) = found.map_err(BootstrapFetchError::from)?;
        let registry = self.engine.ports().registry.borrow().clone();
        let evidence = Evidence::of(&manifest, &registry)?;
        let mut lacking = Vec::new();
        for stated in &manifest.strands {
            let head = store.snapshot().head(stated.originator);
            let is_behind = head.map_err(BootstrapFetchError::from)? < stated.head;
            if is_behind
                && stated.originator != store.identity().node
                && registry.has_been_member(stated.originator)
            {
                lacking.push(stated);
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        let chunks = lacking.iter().flat_map(|stated| &stated.chunks);
        let total = chunks.fold(0_u64, |sum, chunk| sum.saturating_add(chunk.len_bytes));
        *self.progress.lock() = Some(FillProgress { done: 0, total });
        tracing::info!(snapshot = name, strands = lacking.len(), total, "filling strands");
        for stated in lacking {
            self.fill_strand(&place, stated, &registry)?;
            for checkpoint in evidence.of_strand(stated.originator) {
                // One beyond what its node may show now will come from peers.
                let _ = self.replication.show_checkpoint(checkpoint.clone());
            }
        }
        tracing::info!(snapshot = name, "the strands are filled");
        Ok(())
    }

    fn fill_strand(
        &self,
        place: &Bootstraps,
        stated: &BootstrapStrand,
        registry: &Registry,
    ) -> Result<(), BootstrapFetchError> {
        let originator = stated.originator;
        let Some(record) = registry.node(originator) else { return Ok(()) };
        let Some(_resting) = self.runtime.block_on(self.replication.rest(originator)) else {
            tracing::warn!(code = "filling_failed", %originator, "the strand is left to its follower");
            return Ok(());
        };
        let verifier = EnvelopeVerifier {
            originator,
            key: record.public_key,
            own: self.engine.store().identity().node,
            absences: registry.absences(originator).clone(),
        };
        let commit: Commit<'_> = &|changes: Vec<Change>| {
            if self.is_stopped() {
                return Err(BootstrapError::Stopped.into());
            }
            Ok(self.engine.committer().commit(changes)?)
        };
        let mut note = |bytes: u64| {
            if let Some(progress) = &mut *self.progress.lock() {
                progress.done = progress.done.saturating_add(bytes);
            }
        };
        take_over(place, self.engine.store(), stated, &verifier, commit, &mut note).map(drop)
    }
}
