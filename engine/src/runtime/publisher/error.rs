//! Errors of the publish path.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_rules::PicoDollarPrice;
use hawser_storage::ReadError;
use parking_lot::Mutex;

use crate::admission::AdmissionError;
use crate::ledger::PicoDollarBalance;
use crate::own_clock::ClockAheadError;
use crate::readiness::NotReadyError;
use crate::runtime::own_strand::OwnStrandError;

/// The largest answer to a publish, in bytes. Specified: clients and peers accept no larger message
/// (`docs/protocol/wire.md`).
pub const ANSWER_LEN_BYTES_MAX: usize = hawser_rules::ENVELOPE_LEN_BYTES_MAX;

/// Bytes that an originator adds to a payer envelope at most, with tags and lengths. Counted from
/// the fields of both outer layers, all integers at their longest.
pub(super) const STATEMENT_OVERHEAD_BYTES: usize = 160;

/// Pause for publishers while this node shuts down: another process may take over within seconds.
const RETRY_RESTART: Duration = Duration::from_secs(5);
/// Pause for publishers while something is wrong that an operator or the chain has to set right. A guess: both take
/// minutes.
const RETRY_BROKEN: Duration = Duration::from_secs(60);
/// Pause for publishers while the disk cannot be written to. Guessed: a disk that fails for a moment is
/// tried again within seconds, a full one takes an operator or a pruning run.
const RETRY_DISK: Duration = Duration::from_secs(10);

/// Least time between two log lines about reads of the same kind that fail. A guess: any caller can publish again what
/// needs a damaged place, and the lines must not fill the disk.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// The lines of this process about failed reads.
static FAILED_READS: FailedReadLines = FailedReadLines(Mutex::new(BTreeMap::new()));

/// The time of the last log line about each kind of thing that could not be read.
struct FailedReadLines(Mutex<BTreeMap<&'static str, Instant>>);

impl FailedReadLines {
    /// Returns true if no line about `what` is less than [`LINE_EVERY`] old, and records one.
    fn is_due(&self, what: &'static str, now: Instant) -> bool {
        let mut lines = self.0.lock();
        let last = lines.get(what);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(*last) >= LINE_EVERY);
        if is_due {
            lines.insert(what, now);
        }
        is_due
    }
}

/// A publish that was not acknowledged. Nothing of it is in the log, with two exceptions, both
/// [`Unavailable`](Self::Unavailable): after a failed write the disk may have it, and the first pieces of a large
/// request may be stored. A repeat finds them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// An envelope breaks a rule; the text says which envelope and which rule.
    #[error(transparent)]
    Refused(AdmissionError),
    /// The envelopes would be accepted, but the answer would be larger than a message may be.
    #[error(
        "the answer would exceed {ANSWER_LEN_BYTES_MAX} bytes: publish fewer envelopes at once"
    )]
    AnswerTooLarge,
    /// The payer cannot pay for the request.
    #[error("the request costs {} picodollars, and its payer has {} left", .price.0, .left.0)]
    Balance {
        /// Fees of the request.
        price: PicoDollarPrice,
        /// The amount that the payer can still spend.
        left: PicoDollarBalance,
        /// The place in the request, from 0, of the first envelope that this amount does not cover.
        index: usize,
    },
    /// The payer has more requests than this node takes of one payer.
    #[error("the payer of this request publishes too often")]
    PayerRate {
        /// Time after which another try succeeds, unless it publishes more meanwhile.
        retry_after: Duration,
    },
    /// The node has so many publishes in flight that the request has waited for too long, or may not wait. It was not
    /// looked at.
    #[error("this node has too many publishes in flight: try again later, or another node")]
    Busy,
    /// The node takes no publish now, whatever the request contains.
    #[error("{reason}")]
    Unavailable {
        /// The missing condition, for the publisher and the operator.
        reason: String,
        /// Time after which another try may succeed.
        retry_after: Duration,
    },
}

impl PublishError {
    /// Returns the error with the indexes of envelopes that a function makes of those that it has.
    pub(super) fn at_place(self, place: impl Fn(usize) -> usize) -> Self {
        match self {
            Self::Balance { price, left, index } => {
                Self::Balance { price, left, index: place(index) }
            }
            Self::Refused(mut refused) => {
                refused.envelopes.iter_mut().for_each(|it| it.index = place(it.index));
                Self::Refused(refused)
            }
            other => other,
        }
    }

    /// Returns the error of a request whose first `begun` envelopes were assigned places before it. The publisher may
    /// try again after `retry_after`, or after the time that the error names.
    pub(super) fn after_pieces(self, begun: usize, retry_after: Duration) -> Self {
        let retry_after = match &self {
            Self::Unavailable { retry_after, .. } => *retry_after,
            _ => retry_after,
        };
        let reason = format!("{self}; the first {begun} envelopes of the request may be stored");
        Self::Unavailable { reason, retry_after }
    }

    /// This process takes no more publishes.
    pub(super) fn stopping() -> Self {
        let reason = "node is shutting down".into();
        Self::Unavailable { reason, retry_after: RETRY_RESTART }
    }

    /// This process takes no publishes before the disk can be written to.
    pub(super) fn of_disk(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), retry_after: RETRY_DISK }
    }

    /// Returns the error of a publish for which `what` could not be read, and logs the read's error if no line about
    /// `what` is less than a minute old. The publisher gets no part of the error: the database's text names files of
    /// this host, and rows by their keys.
    pub(super) fn of_failed_read(what: &'static str, error: &ReadError) -> Self {
        if FAILED_READS.is_due(what, Instant::now()) {
            tracing::error!(
                code = "publish_read_failed",
                %error,
                what,
                "publishes are refused: further ones of the next minute for the same reason are not logged"
            );
        }
        Self::unread(what)
    }

    /// Returns the same error again. Logs nothing.
    pub(super) fn unread(what: &str) -> Self {
        Self::of_disk(format!("{what} cannot be read"))
    }

    /// Returns the error of an envelope that depends on a chain envelope whose time is `ahead_ns` ahead of the node's
    /// clock, nanoseconds.
    pub(super) fn of_chain_ahead(ahead_ns: i64) -> Self {
        let ahead_s = ahead_ns / 1_000_000_000;
        Self::broken(format!(
            "an envelope depends on a chain envelope that is {ahead_s} s ahead of this node's clock: the node's clock is behind, or the chain's is ahead"
        ))
    }

    /// This process takes no publishes before something has been set right.
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into(), retry_after: RETRY_BROKEN }
    }
}

impl From<NotReadyError> for PublishError {
    fn from(error: NotReadyError) -> Self {
        Self::broken(error.to_string())
    }
}

impl From<ClockAheadError> for PublishError {
    fn from(error: ClockAheadError) -> Self {
        Self::broken(error.to_string())
    }
}

impl From<OwnStrandError> for PublishError {
    fn from(error: OwnStrandError) -> Self {
        Self::Unavailable { reason: error.to_string(), retry_after: error.retry_after() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Played by callers who publish an envelope again and again whose look-up needs a damaged place.
    #[test]
    fn failed_reads_of_publishes_have_one_line_a_minute_for_each_kind() {
        let lines = FailedReadLines(Mutex::default());
        let began = Instant::now();
        for minute in 0..2_u32 {
            let now = began + LINE_EVERY * minute;
            for what in ["earlier publishes", "a balance"] {
                assert!(lines.is_due(what, now), "{what}: one kind does not hide another");
                for ms in 0..100 {
                    assert!(!lines.is_due(what, now + Duration::from_millis(ms)), "{what}");
                }
            }
        }
    }
}
