//! The state that both halves of a contract's reader share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::sink::Sink;
use super::status::{ReaderState, StatusCell};
use super::walk::EventBatch;

/// The shortest and the longest pause between two attempts at the same request or commit. Guesses.
pub(super) const RETRY_MIN: Duration = Duration::from_millis(50);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(5);

/// A batch on its way from the page reader to the batch writer.
pub(super) struct NumberedBatch {
    pub(super) batch: EventBatch,
    /// The first block after the batch before it. Those from here to the batch have no events.
    pub(super) first_block: u64,
    /// The reading pass to which the batch belongs: see [`ReaderContext::pass`].
    pub(super) pass: u64,
    /// True if an endpoint other than the giver of the events confirms them: see `confirming`.
    pub(super) is_confirmed: bool,
    /// The endpoint that gave the last page of the batch, by scheme, host and port.
    pub(super) giver: String,
}

/// A gap that the storing half has found: events are missing before one of a batch.
pub(super) struct FoundGap {
    /// The last stored block; `None` if there is none.
    pub(super) after: Option<u64>,
    /// The endpoint that gave the batch, by scheme, host and port.
    pub(super) giver: String,
}

/// The shared state of one contract's reader.
#[derive(Clone)]
pub(super) struct ReaderContext {
    /// The name of the contract's kind, for logs.
    pub(super) name: &'static str,
    pub(super) status: StatusCell,
    /// The number of the current pass. It is incremented whenever reading starts over at an earlier block. Batches of
    /// earlier passes are dropped and not stored, because they may belong to an abandoned branch of the chain.
    pub(super) pass: Arc<AtomicU64>,
    /// True while a commit is being retried.
    pub(super) is_storing_stuck: Arc<AtomicBool>,
    /// True from the time at which the sink refuses an event, because earlier ones are missing or a stored one is
    /// another, until its block is stored. Meanwhile the reader is not at the head, and its state has the reason.
    pub(super) is_refused: Arc<AtomicBool>,
    pub(super) sink: Arc<dyn Sink>,
    /// The first block that is not rechecked.
    pub(super) recheck_from: Arc<AtomicU64>,
    pub(super) stop: watch::Receiver<()>,
}

impl ReaderContext {
    /// Returns the number of the present pass.
    pub(super) fn pass(&self) -> u64 {
        self.pass.load(Ordering::Acquire)
    }

    /// Starts a new pass, and returns its number.
    pub(super) fn begin_pass(&self) -> u64 {
        self.pass.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Sets the state to stuck, and logs the reason if it has changed.
    pub(super) fn stuck(&self, reason: &str) {
        let before = self.status.lock().state.clone();
        if before != ReaderState::Stuck(reason.to_owned()) {
            tracing::warn!(strand = self.name, "the chain cannot be read further now: {reason}");
        }
        self.status.set_state(ReaderState::Stuck(reason.to_owned()));
    }
}

/// Runs a blocking call of the sink on a thread for blocking work. Propagates its panic.
pub(super) async fn blocking<T: Send + 'static>(
    sink: &Arc<dyn Sink>,
    work: impl FnOnce(&dyn Sink) -> T + Send + 'static,
) -> T {
    let sink = sink.clone();
    match tokio::task::spawn_blocking(move || work(sink.as_ref())).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
