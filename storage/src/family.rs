//! The column families: one per kind of row.

/// A column family. Stored by its name, which is never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Envelopes as their originators signed them: the truth.
    Log,
    /// Envelopes by topic. A projection.
    Topic,
    /// Envelopes by the time from which they may be pruned. A projection.
    Expiry,
    /// Why readers do not get what stands, or should stand, in a place of the log.
    Mark,
    /// What was published already, by digest of the request. A projection.
    Receipt,
    /// Rates as they were learned from the chain, append-only.
    Rate,
    /// Which inbox an address belongs to. A projection.
    Inbox,
    /// What payers deposited, withdrew and used, as learned from the chain, append-only.
    Ledger,
    /// How far something has come in each strand.
    Cursor,
    /// What payers owe, by originator and minute. A projection.
    Usage,
    /// The same rows, payer first. A projection.
    UsageByPayer,
    /// How busy an originator was, by minute. A projection.
    Congestion,
    /// What the database says about itself.
    Meta,
}

impl Family {
    /// Every family of this format.
    pub const ALL: [Self; 13] = [
        Self::Log,
        Self::Topic,
        Self::Expiry,
        Self::Mark,
        Self::Receipt,
        Self::Rate,
        Self::Inbox,
        Self::Ledger,
        Self::Cursor,
        Self::Usage,
        Self::UsageByPayer,
        Self::Congestion,
        Self::Meta,
    ];

    /// The name on disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Topic => "topic",
            Self::Expiry => "expiry",
            Self::Mark => "mark",
            Self::Receipt => "receipt",
            Self::Rate => "rate",
            Self::Inbox => "inbox",
            Self::Ledger => "ledger",
            Self::Cursor => "cursor",
            Self::Usage => "usage",
            Self::UsageByPayer => "usage_by_payer",
            Self::Congestion => "congestion",
            Self::Meta => "meta",
        }
    }
}
