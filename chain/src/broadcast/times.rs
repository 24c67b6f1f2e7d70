//! The durations of transactions, as metrics show them.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::payload::PayloadTopic;
use super::slots::SendOutcome;

/// Upper bounds of the times, seconds. Specified: those of the network's reference gateway, in steps of 50 ms.
const BOUNDS_S: [f64; 22] = [
    0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85,
    0.9, 1.0, 2.5, 5.0, 10.0,
];
/// Further bounds of the time until an outcome is known, seconds. A guess: a busy rollup.
const LONG_BOUNDS_S: [f64; 3] = [30.0, 60.0, 300.0];
/// The kinds of payloads, with the names that the reference gateway gives them.
const PAYLOAD_TYPES: [&str; 2] = ["group_message", "identity_update"];
/// The results of a phase.
const STATUSES: [&str; 2] = ["success", "failure"];

/// The durations of the transactions of all broadcasters that are started with the same value. Clones share state.
#[derive(Debug, Clone)]
pub struct TransactionTimes(Arc<Durations>);

#[derive(Debug)]
struct Durations {
    /// By kind of payload and result.
    sent: [[Histogram; STATUSES.len()]; PAYLOAD_TYPES.len()],
    /// By result.
    waited: [Histogram; STATUSES.len()],
}

impl Default for TransactionTimes {
    fn default() -> Self {
        let sent = |_| Histogram::new(BOUNDS_S);
        let waited = |_| Histogram::new(BOUNDS_S.into_iter().chain(LONG_BOUNDS_S));
        Self(Arc::new(Durations {
            sent: std::array::from_fn(|_| std::array::from_fn(sent)),
            waited: std::array::from_fn(waited),
        }))
    }
}

impl TransactionTimes {
    /// Adds the time from handing a transaction with a payload to the endpoints until their response.
    pub(super) fn add_sent(&self, topic: PayloadTopic, outcome: &SendOutcome, took: Duration) {
        let kind = match topic {
            PayloadTopic::Group(_) => 0,
            PayloadTopic::Inbox(_) => 1,
        };
        let is_success = matches!(outcome, SendOutcome::Accepted | SendOutcome::Contested(_));
        self.0.sent[kind][usize::from(!is_success)].observe(took.as_secs_f64());
    }

    /// Adds the time from the response to a payload's first transaction until its outcome was known.
    pub(super) fn add_waited(&self, is_success: bool, took: Duration) {
        self.0.waited[usize::from(!is_success)].observe(took.as_secs_f64());
    }

    /// Returns the times of sending, in seconds, with the labels `payload_type` and `status`.
    pub fn sent(&self) -> impl Iterator<Item = ([(&'static str, &'static str); 2], &Histogram)> {
        PAYLOAD_TYPES.into_iter().zip(&self.0.sent).flat_map(|(kind, by_status)| {
            let labels = move |status| [("payload_type", kind), ("status", status)];
            STATUSES.into_iter().zip(by_status).map(move |(status, times)| (labels(status), times))
        })
    }

    /// Returns the times until outcomes were known, in seconds, with the label `status`.
    pub fn waited(&self) -> impl Iterator<Item = ([(&'static str, &'static str); 1], &Histogram)> {
        STATUSES.into_iter().zip(&self.0.waited).map(|(it, times)| ([("status", it)], times))
    }
}
