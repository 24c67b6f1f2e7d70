//! Puts wrong answers of nodes into a bounded queue, at most one for each node and kind of fault.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, OriginatorId};
use hawser_rules::misbehavior::MisbehaviorKind;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::AnswerError;
use super::report_outcome::ReportOutcome;
use crate::metrics::GatewayMetrics;

/// Largest number of answers that wait to be judged. A guess: each node has one place for each of two kinds of
/// fault.
const WAITING_MAX: usize = 16;
/// Largest envelope that is reported, bytes. A guess: the queue then takes at most 16 MiB, and a host accepts 3 MiB
/// a minute.
const EVIDENCE_BYTES_MAX: usize = 1024 * 1024;
/// A wrong answer that waits to be judged.
#[derive(Debug)]
pub(super) struct Accusation {
    pub(super) accused: OriginatorId,
    pub(super) kind: MisbehaviorKind,
    /// The signed envelope, in a buffer of its own.
    pub(super) envelope: Bytes,
    pub(super) seen_ns: i64,
}

/// The state of the place of a node and a kind of fault.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// An answer waits, or is being judged and reported.
    Taken,
    /// No answer is taken before this time.
    FreeAt(Instant),
}

/// Takes wrong answers of nodes. Clones share the queue.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    queue: mpsc::Sender<Accusation>,
    places: Arc<Mutex<BTreeMap<(OriginatorId, MisbehaviorKind), Place>>>,
    metrics: Arc<GatewayMetrics>,
}

impl Reporter {
    /// Creates a reporter, and returns it with the receiving end of its queue.
    pub(super) fn new(metrics: Arc<GatewayMetrics>) -> (Self, mpsc::Receiver<Accusation>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (Self { queue, places: Arc::default(), metrics }, waiting)
    }

    /// Takes a wrong answer of a node. Does not block: publishing waits for no report.
    pub(super) fn offer(
        &self,
        accused: OriginatorId,
        error: &AnswerError,
        envelope: Option<&pb::OriginatorEnvelope>,
    ) {
        let refused = match (kind_of(error), envelope) {
            (Some(kind), Some(envelope)) => self.put(accused, kind, envelope).err(),
            _ => Some(ReportOutcome::Unproven),
        };
        if let Some(outcome) = refused {
            self.count(outcome);
        }
    }

    /// Puts an answer into the queue, and takes the place of its node and kind.
    ///
    /// # Errors
    /// The outcome of an answer that is not taken.
    fn put(
        &self,
        accused: OriginatorId,
        kind: MisbehaviorKind,
        envelope: &pb::OriginatorEnvelope,
    ) -> Result<(), ReportOutcome> {
        let mut places = self.places.lock();
        let is_free = match places.get(&(accused, kind)) {
            None => true,
            Some(Place::Taken) => false,
            Some(Place::FreeAt(time)) => *time <= Instant::now(),
        };
        if !is_free {
            return Err(ReportOutcome::Repeated);
        }
        if envelope.encoded_len() > EVIDENCE_BYTES_MAX {
            return Err(ReportOutcome::Dropped);
        }
        let queued = self.queue.try_reserve().map_err(|_| ReportOutcome::Dropped)?;
        // A copy: a part of the answer would keep the buffer of the whole answer.
        let envelope = envelope.encode_to_vec().into();
        queued.send(Accusation { accused, kind, envelope, seen_ns: crate::now_ns() });
        places.insert((accused, kind), Place::Taken);
        Ok(())
    }

    /// Counts the outcome of an answer, and frees its place after the outcome's pause.
    pub(super) fn settle(
        &self,
        accused: OriginatorId,
        kind: MisbehaviorKind,
        outcome: ReportOutcome,
    ) {
        let free_at = Place::FreeAt(Instant::now() + outcome.pause());
        let before = self.places.lock().insert((accused, kind), free_at);
        debug_assert!(matches!(before, Some(Place::Taken)), "it was taken for this answer");
        self.count(outcome);
    }

    fn count(&self, outcome: ReportOutcome) {
        self.metrics.reports[outcome as usize].inc();
    }
}

/// Returns the kind of fault that an envelope with this error may prove; `None` if it proves none, because the node
/// has not signed it.
fn kind_of(error: &AnswerError) -> Option<MisbehaviorKind> {
    match error {
        AnswerError::Layer(_)
        | AnswerError::NoSequenceId
        | AnswerError::OtherPayerEnvelope
        | AnswerError::Violation(_) => Some(MisbehaviorKind::InvalidPayload),
        AnswerError::Time { .. } => Some(MisbehaviorKind::OutOfOrder),
        AnswerError::Count { .. }
        | AnswerError::TooLong { .. }
        | AnswerError::TooManyFields { .. }
        | AnswerError::NoSignature
        | AnswerError::Signature(_)
        | AnswerError::Signer(_)
        | AnswerError::Originator(_) => None,
    }
}
