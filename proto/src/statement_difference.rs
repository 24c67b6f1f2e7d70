//! The kinds of difference between two statements for one place: the rules find them, and databases keep them.

/// The kind of difference between two statements for one place; greater values are worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StatementDifference {
    /// The same fields in another encoding.
    Encoding = 0,
    /// Fees or expiry. An honest node of other software may sign twice and compute these anew.
    Metadata = 1,
    /// The payer envelope or the time: another message, or another position in time.
    Content = 2,
}

impl StatementDifference {
    /// All kinds, ascending. Databases store their numbers.
    pub const ALL: [Self; 3] = [Self::Encoding, Self::Metadata, Self::Content];

    /// Returns the name in commands, files and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Encoding => "encoding",
            Self::Metadata => "metadata",
            Self::Content => "content",
        }
    }
}
