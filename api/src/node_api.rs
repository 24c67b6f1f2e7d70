//! State and helpers that the handlers of all envelope services share.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt as _};
use hawser_engine::Engine;
use hawser_engine::read::{EnvelopeEntries, is_deliverable};
use hawser_engine::runtime::Reader;
use hawser_proto::Bytes;
use hawser_proto::envelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_serve::{CallCharge, MESSAGE_LEN_BYTES_MAX};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use tracing::Level;

use crate::callers::Callers;
use crate::conditions::NodeChecks;
use crate::error::CallError;
use crate::methods::EnvelopeMethod;
use crate::metrics::HandlerMetrics;
use crate::oldest_reads::OldestReads;
use crate::read_workers::{CallMemory, ReadWorkers};

/// The response of a streaming method.
pub(crate) type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Returns the same stream, which keeps `held` until it is dropped.
pub(crate) fn holding<T: 'static>(
    stream: MessageStream<T>,
    held: impl Send + 'static,
) -> MessageStream<T> {
    let keep = move |message| {
        let _ = &held;
        message
    };
    stream.map(keep).boxed()
}

/// The state of the handlers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NodeApi {
    pub(crate) engine: Engine,
    pub(crate) checks: Arc<NodeChecks>,
    pub(crate) callers: Callers,
    pub(crate) metrics: Arc<HandlerMetrics>,
    pub(crate) reads: ReadWorkers,
    pub(crate) oldest: OldestReads,
    /// Silence after which a stream sends a sign of life.
    pub(crate) keepalive_interval: Duration,
    /// Largest number of topics of a stream whose client changes them.
    pub(crate) topics_per_stream_max: usize,
    /// Largest number of bytes in each of the two queues of a stream.
    pub(crate) queue_per_stream_bytes: usize,
    /// Cancelled when streams are to end.
    pub(crate) stop: CancellationToken,
}

impl NodeApi {
    /// Returns a reader whose answers are charged to a call before they are read.
    pub(crate) fn reader(&self, charge: &CallCharge) -> Reader {
        let memory = Arc::new(CallMemory(charge.clone()));
        self.engine.reader().charged_to(memory).queueing(self.queue_per_stream_bytes)
    }
}

/// Returns the charge of the call that a request belongs to, and its message.
pub(crate) fn charged<T>(request: Request<T>) -> (CallCharge, T) {
    (CallCharge::of(request.extensions()), request.into_inner())
}

/// Decodes the outer layer of one stored envelope.
///
/// # Errors
/// [`CallError::Undecodable`]: the log holds something else.
pub(crate) fn decode(stored: Bytes) -> Result<OriginatorEnvelope, CallError> {
    OriginatorEnvelope::decode(stored).map_err(|_| CallError::Undecodable)
}

/// Turns stored envelopes into messages. A message points into the stored bytes: nothing is copied.
///
/// # Errors
/// [`CallError::Undecodable`] if a stored envelope is broken.
pub(crate) fn decode_all(stored: Vec<Bytes>) -> Result<Vec<OriginatorEnvelope>, CallError> {
    stored.into_iter().map(decode).collect()
}

/// Counts stored envelopes as handed to a reader, and logs the id of each at level debug.
pub(crate) fn count_delivered<'a>(
    metrics: &HandlerMetrics,
    method: EnvelopeMethod,
    stored: impl IntoIterator<Item = &'a Bytes, IntoIter: Clone>,
) {
    let stored = stored.into_iter();
    metrics.delivered(method, stored.clone().count() as u64);
    if !tracing::enabled!(Level::DEBUG) {
        return; // an id is known only after parsing the envelope
    }
    stored.for_each(log_delivered);
}

/// Does the same for envelopes that are entries of a message.
pub(crate) fn count_entries(
    metrics: &HandlerMetrics,
    method: EnvelopeMethod,
    entries: &EnvelopeEntries,
) {
    metrics.delivered(method, entries.count as u64);
    if tracing::enabled!(Level::DEBUG) {
        entries.envelopes().for_each(|bytes| log_delivered(&bytes));
    }
}

fn log_delivered(bytes: &Bytes) {
    if let Ok(id) = envelope::OriginatorEnvelope::id_of(bytes.clone()) {
        tracing::debug!(envelope = %id, "delivered");
    }
}

/// Checks that so many bytes fit into one message.
///
/// # Errors
/// [`CallError::AnswerTooLarge`].
pub(crate) fn check_size(len_bytes: usize) -> Result<(), CallError> {
    if len_bytes > MESSAGE_LEN_BYTES_MAX { Err(CallError::AnswerTooLarge) } else { Ok(()) }
}

/// Counts envelopes of a stream as delivered and returns those that a message carries. An envelope that is too large
/// for a message is left out, so that the stream continues.
pub(crate) fn rendered(
    metrics: &HandlerMetrics,
    method: EnvelopeMethod,
    mut stored: Vec<Bytes>,
) -> Vec<Bytes> {
    let len = stored.len();
    stored.retain(|envelope| is_deliverable(envelope.len()));
    if stored.len() < len {
        let left_out = len - stored.len();
        tracing::warn!(left_out, "envelopes fit into no message and were left out");
    }
    count_delivered(metrics, method, &stored);
    stored
}
