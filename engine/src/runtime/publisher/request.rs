//! A publish request on its way through the threads, and its reply.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::earlier::LookUp;
use super::error::PublishError;
use crate::admission::Writer;
use crate::runtime::PublishCaller;
use crate::runtime::counters::Stopwatch;
use crate::sequencer::Admitted;

/// A request whose envelopes have all been admitted.
pub(super) struct Request {
    /// Its caller. Callers take turns.
    pub(super) caller: PublishCaller,
    /// Its envelopes get their places piece by piece.
    pub(super) is_large: bool,
    pub(super) envelopes: Vec<Admitted>,
    /// Earlier publishes of them that the disk knew of. Holds the envelopes.
    pub(super) earlier: LookUp,
    pub(super) reply: PendingReply,
}

/// The result of a publish request. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The stored originator envelopes, in the order of the request.
    pub envelopes: Vec<Bytes>,
    /// The number of envelopes that this request has added. The others repeat envelopes of an earlier request, or of
    /// an earlier place in this one.
    pub added: usize,
    /// The total time for which the request waited for cores: from its queuing for a sleeping thread until that thread
    /// began to work on it. Time in which the thread worked for other requests, or waited for the disk, does not count.
    pub thread_wait: Duration,
}

impl Published {
    /// Begins with a request that has waited for no core.
    pub(super) fn of(envelopes: Vec<Bytes>, added: usize) -> Self {
        Self { envelopes, added, thread_wait: Duration::ZERO }
    }
}

/// The channel to a publisher that waits.
type ReplySender = oneshot::Sender<Result<Published, PublishError>>;

/// A request's share of the bytes in flight. Its last holder answers the request if it has failed meanwhile.
pub(super) struct InFlightShare {
    failed: Mutex<Option<(ReplySender, PublishError)>>,
    _permit: OwnedSemaphorePermit,
}

impl InFlightShare {
    /// Begins with a request that has not failed.
    pub(super) fn of(permit: OwnedSemaphorePermit) -> Self {
        Self { failed: Mutex::new(None), _permit: permit }
    }
}

impl Drop for InFlightShare {
    fn drop(&mut self) {
        if let Some((sender, error)) = self.failed.get_mut().take() {
            // A publisher that has gone away has not been promised anything.
            let _ = sender.send(Err(error));
        }
    }
}

/// A request that has room among the bytes in flight. Dropping it gives the room back, and nothing is stored.
pub struct BegunPublish {
    pub(super) writer: Writer,
    pub(super) caller: PublishCaller,
    pub(super) envelopes: Vec<pb::PayerEnvelope>,
    pub(super) permit: OwnedSemaphorePermit,
    /// Runs since its publisher came.
    pub(super) watch: Stopwatch,
    /// Runs since there was room.
    pub(super) queued: Stopwatch,
}

/// The reply that a publisher waits for. Holds the request's share of the bytes in flight, as each group with a piece
/// of the request does until it is written.
pub(super) struct PendingReply {
    pub(super) sender: ReplySender,
    pub(super) in_flight: Arc<InFlightShare>,
    /// Runs since the last stage was over.
    pub(super) stage: Stopwatch,
    /// Runs since its envelopes were admitted.
    pub(super) admitted: Stopwatch,
    /// Runs since the request was queued for the thread that it waits for.
    pub(super) queued: Stopwatch,
    /// See [`Published::thread_wait`].
    pub(super) thread_wait: Duration,
}

impl PendingReply {
    /// Begins with a request that is queued for the workers as soon as its publisher comes. `watch` runs since then.
    pub(super) fn new(
        sender: ReplySender,
        in_flight: Arc<InFlightShare>,
        watch: Stopwatch,
    ) -> Self {
        Self {
            sender,
            in_flight,
            stage: watch,
            admitted: watch,
            queued: watch,
            thread_wait: Duration::ZERO,
        }
    }

    pub(super) fn send(self, answer: Result<Published, PublishError>) {
        let Self { sender, thread_wait, .. } = self;
        // A publisher that has gone away has not been promised anything.
        let _ = sender.send(answer.map(|published| Published { thread_wait, ..published }));
    }

    /// Answers with an error once every group with a piece of the request is written, or has failed to be. The
    /// publisher may then look for what is stored: nothing more of the request is on its way.
    pub(super) fn fail_when_written(self, error: PublishError) {
        let Self { sender, in_flight, .. } = self;
        *in_flight.failed.lock() = Some((sender, error));
    }
}
