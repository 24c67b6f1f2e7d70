//! The task that watches the disk: it reports low free space, and reads the log again after a failed
//! write.

use std::time::Instant;

use hawser_storage::{OpenError, ReadError, Store};

use super::chain::ChainAppender;
use super::stop::StopSignal;
use super::stoppable::{StoppableTask, blocking};
use super::{Committer, Engine, LedgerAppender, Publisher};
use crate::pauses::RetryPauses;

/// Time between two looks. Guessed: a node writes far less than the watermark in this time.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Starts the task that watches the disk while the node runs.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn start_disk_task(engine: &Engine) -> StoppableTask {
    let keeper = DiskKeeper::new(engine);
    StoppableTask::start(|stopped| run(keeper, stopped))
}

async fn run(mut keeper: DiskKeeper, mut stopped: StopSignal) {
    loop {
        tokio::select! {
            () = stopped.stopped() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        keeper = blocking(move || {
            keeper.look(Instant::now());
            keeper
        })
        .await;
    }
}

/// The log could not be made writable.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// The parts that must know when the log was read again.
pub(super) struct Recovery {
    pub(super) store: Store,
    pub(super) committer: Committer,
    pub(super) chain: ChainAppender,
    pub(super) ledger: LedgerAppender,
}

impl Recovery {
    /// Reads the log again, and resumes everything that writes with the state found.
    ///
    /// # Errors
    /// When the disk does not allow it. The caller tries again later.
    pub(super) fn run(&self) -> Result<(), RecoverError> {
        self.store.reopen()?;
        // The appenders of the chain strands and of the ledger decide by the stored state: they must see either all of
        // the old state, and fail, or all of the new one.
        self.ledger.between(|| {
            self.committer.catch_up()?;
            Ok(self.chain.reload(|| self.store.accept_writes())?)
        })
    }
}

/// Looks after the disk, again and again.
struct DiskKeeper {
    recovery: Recovery,
    publisher: Publisher,
    is_low_logged: bool,
    is_fault_logged: bool,
    pauses: RetryPauses,
    next_try: Option<Instant>,
}

impl DiskKeeper {
    fn new(engine: &Engine) -> Self {
        Self {
            recovery: Recovery {
                store: engine.store.clone(),
                committer: engine.committer.clone(),
                chain: engine.chain.clone(),
                ledger: engine.ledger.clone(),
            },
            publisher: engine.publisher.clone(),
            is_low_logged: false,
            is_fault_logged: false,
            pauses: RetryPauses::default(),
            next_try: None,
        }
    }

    fn look(&mut self, now: Instant) {
        let room = self.recovery.store.check_room();
        match &room {
            Err(error) if !self.is_low_logged => {
                tracing::error!(code = "disk_low", %error, "nothing is written until the disk has room");
            }
            Ok(()) if self.is_low_logged => {
                tracing::info!("the disk has room again: the node writes again");
            }
            _ => {}
        }
        self.is_low_logged = room.is_err();
        if self.publisher.look_at_own_end() {
            tracing::info!("the end of this node's own strand can be read again");
        }
        // Reading the log again needs room for table files.
        if room.is_ok() {
            self.recover_if_due(now);
        }
    }

    /// Reads the log again after a failed write, with growing pauses between attempts. Logs the beginning and the end
    /// of the fault, and each failed attempt.
    fn recover_if_due(&mut self, now: Instant) {
        let Some(cause) = self.recovery.store.write_fault() else {
            (self.pauses, self.next_try) = (RetryPauses::default(), None);
            return;
        };
        if !self.is_fault_logged {
            tracing::error!(
                code = "log_read_only",
                %cause,
                "nothing is written until the log has been read again"
            );
            self.is_fault_logged = true;
        }
        if self.next_try.is_some_and(|at| now < at) {
            return;
        }
        match self.recovery.run() {
            Ok(()) => {
                tracing::warn!("the log was read again, and accepts writes");
                self.is_fault_logged = false;
            }
            Err(error) => {
                let pause = self.pauses.next();
                tracing::error!(
                    code = "log_reopen_failed",
                    %error,
                    retry_s = pause.as_secs(),
                    "the log cannot be read again, and stays read-only"
                );
                self.next_try = Some(Instant::now() + pause);
            }
        }
    }
}
