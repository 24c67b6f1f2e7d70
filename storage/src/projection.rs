//! The projections: families whose rows are derived from the log.

use crate::family::Family;

/// A family whose rows can be dropped and rebuilt from the log. Variants are in the order of their
/// names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Projection {
    Congestion,
    Expiry,
    Inbox,
    Receipt,
    Topic,
    Usage,
    UsageByPayer,
}

impl Projection {
    pub(crate) const ALL: [Self; 7] = [
        Self::Congestion,
        Self::Expiry,
        Self::Inbox,
        Self::Receipt,
        Self::Topic,
        Self::Usage,
        Self::UsageByPayer,
    ];

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Congestion => Family::Congestion,
            Self::Expiry => Family::Expiry,
            Self::Inbox => Family::Inbox,
            Self::Receipt => Family::Receipt,
            Self::Topic => Family::Topic,
            Self::Usage => Family::Usage,
            Self::UsageByPayer => Family::UsageByPayer,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.family().name()
    }

    /// Returns the version of the code that makes the rows.
    ///
    /// Raise it when rows change their layout or their meaning, also when the engine derives other
    /// facts from the same bytes: the rows are then rebuilt at the next start.
    pub(crate) fn version(self) -> u32 {
        match self {
            // 2: amounts by this node's own calculation, and the span of each minute.
            Self::Congestion | Self::Usage | Self::UsageByPayer => 2,
            Self::Expiry | Self::Inbox | Self::Receipt | Self::Topic => 1,
        }
    }
}

/// Returns true for the family of a projection, and for the marks of minutes to be priced again, which go with the amounts.
pub(crate) fn is_dropped_with_projections(family: Family) -> bool {
    Projection::ALL.into_iter().any(|it| it.family() == family) || family == Family::Reprice
}
