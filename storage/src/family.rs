//! The column families: one per kind of row.

/// A column family. Its name is stored and never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Envelopes as their originators signed them.
    Log,
    /// Hashes of the envelopes, as leaves of their strands' trees. They stay when envelopes are removed.
    Leaf,
    /// Hashes of complete subtrees of these trees.
    Tree,
    /// Checkpoints of nodes about these trees.
    Checkpoint,
    /// Envelopes by topic. A projection.
    Topic,
    /// Envelopes by expiry time. A projection.
    Expiry,
    /// Places of the log that readers do not get, with the reason.
    Mark,
    /// Records of envelopes that were stored until they expired, with the values that tallies and trees need.
    Pruned,
    /// Published envelopes by digest of their request. A projection.
    Receipt,
    /// Rates from the chain, append-only.
    Rate,
    /// Inboxes by member address. A projection.
    Inbox,
    /// Deposits, withdrawals and settled usage of payers from the chain, append-only.
    Ledger,
    /// Evidence against nodes, append-only.
    Misbehavior,
    /// Index of the facts with evidence.
    MisbehaviorFact,
    /// Reports of misbehaviour that this node keeps as their host.
    MisbehaviorReport,
    /// Index of the facts that reports are about.
    MisbehaviorReportFact,
    /// Payer reports that were submitted and settled on the chain.
    PayerReport,
    /// Positions in each strand: its head, and its chain reader.
    Cursor,
    /// Usage by originator, minute and payer. A projection.
    Usage,
    /// Usage by payer, originator and minute. A projection.
    UsageByPayer,
    /// Messages by originator and minute, for congestion. A projection.
    Congestion,
    /// Minutes whose booked amounts have to be calculated again.
    Reprice,
    /// Removals and returns of nodes from the chain, and marks of the events by which strands were judged.
    Membership,
    /// Format, owner and state of the database itself.
    Meta,
}

impl Family {
    /// All families of this format.
    pub const ALL: [Self; 24] = [
        Self::Log,
        Self::Leaf,
        Self::Tree,
        Self::Checkpoint,
        Self::Topic,
        Self::Expiry,
        Self::Mark,
        Self::Pruned,
        Self::Receipt,
        Self::Rate,
        Self::Inbox,
        Self::Ledger,
        Self::Misbehavior,
        Self::MisbehaviorFact,
        Self::MisbehaviorReport,
        Self::MisbehaviorReportFact,
        Self::PayerReport,
        Self::Cursor,
        Self::Usage,
        Self::UsageByPayer,
        Self::Congestion,
        Self::Reprice,
        Self::Membership,
        Self::Meta,
    ];

    /// Returns the name of the column family on disk. It never changes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Leaf => "leaf",
            Self::Tree => "tree",
            Self::Checkpoint => "checkpoint",
            Self::Topic => "topic",
            Self::Expiry => "expiry",
            Self::Mark => "mark",
            Self::Pruned => "pruned",
            Self::Receipt => "receipt",
            Self::Rate => "rate",
            Self::Inbox => "inbox",
            Self::Ledger => "ledger",
            Self::Misbehavior => "misbehavior",
            Self::MisbehaviorFact => "misbehavior_fact",
            Self::MisbehaviorReport => "misbehavior_report",
            Self::MisbehaviorReportFact => "misbehavior_report_fact",
            Self::PayerReport => "payer_report",
            Self::Cursor => "cursor",
            Self::Usage => "usage",
            Self::UsageByPayer => "usage_by_payer",
            Self::Congestion => "congestion",
            Self::Reprice => "reprice",
            Self::Membership => "membership",
            Self::Meta => "meta",
        }
    }
}
