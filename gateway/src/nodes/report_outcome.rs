//! The outcomes of reporting a wrong answer.

use std::time::Duration;

/// Time for which a node is not reported again for the same kind of fault. A guess: one report proves as much as many.
const REPORTED_FOR: Duration = Duration::from_secs(60 * 60);
/// Time after which a report is tried again that no host has accepted. A guess.
const FAILED_FOR: Duration = Duration::from_secs(10 * 60);
/// Time after which another answer of the same node is judged if the last one proved nothing. A guess: a node that
/// mixes lies without proof with others cannot hide these for long, and costs one judgement a second.
const UNPROVEN_FOR: Duration = Duration::from_secs(1);

/// The outcome of reporting a wrong answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportOutcome {
    /// Another node has accepted the report.
    Sent,
    /// The answer proves nothing against its node.
    Unproven,
    /// The node was reported for the same kind of fault a short time ago, or is about to be.
    Repeated,
    /// The queue is full, or the envelope is too long.
    Dropped,
    /// No other node has accepted the report.
    Failed,
}

impl ReportOutcome {
    pub(crate) const ALL: [Self; 5] =
        [Self::Sent, Self::Unproven, Self::Repeated, Self::Dropped, Self::Failed];

    /// Returns the name in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Unproven => "unproven",
            Self::Repeated => "repeated",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }

    /// Returns the time after which the task judges an answer of the same node and kind again.
    pub(super) fn pause(self) -> Duration {
        match self {
            Self::Sent | Self::Repeated => REPORTED_FOR,
            Self::Failed => FAILED_FOR,
            Self::Unproven | Self::Dropped => UNPROVEN_FOR,
        }
    }
}
