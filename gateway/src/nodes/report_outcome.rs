//! The outcomes of reporting a node's wrong answer.

use std::time::Duration;

/// Pause after a report before the node is reported again for the same kind of fault. A guess: one report proves as
/// much as many.
const REPORTED_FOR: Duration = Duration::from_secs(60 * 60);
/// Pause after a report that no host has accepted. A guess.
const FAILED_FOR: Duration = Duration::from_secs(10 * 60);
/// Pause after an answer that proved nothing. A guess: a node that mixes unprovable lies with provable ones cannot
/// hide these for long, and costs at most one judgement a second.
const UNPROVEN_FOR: Duration = Duration::from_secs(1);

/// The outcome of reporting a node's wrong answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReportOutcome {
    /// Another node has accepted the report.
    Sent,
    /// The answer proves nothing against the node.
    Unproven,
    /// The node was reported for the same kind of fault recently, or an earlier answer of it waits to be judged.
    Repeated,
    /// The queue is full, or the envelope is too long.
    Dropped,
    /// No other node has accepted the report.
    Failed,
}

impl ReportOutcome {
    pub(crate) const ALL: [Self; 5] =
        [Self::Sent, Self::Unproven, Self::Repeated, Self::Dropped, Self::Failed];

    /// Returns the value of the label `outcome` in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Unproven => "unproven",
            Self::Repeated => "repeated",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }

    /// Returns the pause before another answer of the same node and kind is judged.
    pub(super) fn pause(self) -> Duration {
        match self {
            Self::Sent | Self::Repeated => REPORTED_FOR,
            Self::Failed => FAILED_FOR,
            Self::Unproven | Self::Dropped => UNPROVEN_FOR,
        }
    }
}
