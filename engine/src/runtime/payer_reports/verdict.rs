//! The verdict on a report, and its texts for the operator.

use hawser_rules::payer_report::ReportDifference;

/// A verdict on a report of a node.
pub(super) enum PayerReportVerdict {
    /// This node has attested it.
    Attested,
    /// This node computes the same report.
    Equal,
    /// This node computes another report.
    Different(Vec<ReportDifference>),
    /// The report cannot be judged, or not be submitted, now.
    NotNow(String),
    /// Not judged in this round, because other reports of the same writers were.
    Unjudged,
}

/// The report does not list the nodes that the contract asks for.
pub(super) const OTHER_NODES: &str = "it lists other nodes than the canonical network has";
/// The report ends ahead of this node's clock.
pub(super) const NOT_COME: &str = "the minute in which it ends has not come";
/// A longer report of the same start may be submitted.
pub(super) const SHORTER: &str =
    "a longer report, which a majority has attested, waits for its submission";
/// The writer has other reports that were judged in this round.
pub(super) const UNJUDGED: &str = "its writer has written many, and other ones are judged first";
