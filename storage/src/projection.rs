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

    /// Returns the bit of this projection in a set. It is stored.
    pub(crate) fn bit(self) -> u8 {
        match self {
            Self::Congestion => 1,
            Self::Expiry => 1 << 1,
            Self::Inbox => 1 << 2,
            Self::Receipt => 1 << 3,
            Self::Topic => 1 << 4,
            Self::Usage => 1 << 5,
            Self::UsageByPayer => 1 << 6,
        }
    }

    /// Returns the version of the code that makes the rows.
    ///
    /// Raise it when rows change their layout or their meaning, also when the engine derives other
    /// facts from the same bytes: the rows are then rebuilt at the next start.
    pub(crate) fn version(self) -> u32 {
        match self {
            // 2: amounts by this node's own calculation, and the span of each minute. 3: envelopes that break a
            // rule and are still owed are booked. 4: also those that only other software decodes. 5: also those of a
            // newer schema. `Store::keep_tallies` takes over rows of versions 2 to 4 that are equal.
            Self::Congestion | Self::Usage | Self::UsageByPayer => 5,
            Self::Expiry | Self::Inbox | Self::Receipt | Self::Topic => 1,
        }
    }
}

/// Some of the projections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ProjectionSet(u8);

impl ProjectionSet {
    /// Rows of usage are amounts, which depend on the counts of messages, so the three are rebuilt together.
    pub(crate) const TALLIES: [Projection; 3] =
        [Projection::Congestion, Projection::Usage, Projection::UsageByPayer];

    pub(crate) fn all() -> Self {
        Self::of(Projection::ALL)
    }

    pub(crate) fn of(projections: impl IntoIterator<Item = Projection>) -> Self {
        Self(projections.into_iter().fold(0, |bits, it| bits | it.bit()))
    }

    /// Returns the union of both sets.
    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the set without this projection.
    pub(crate) fn without(self, projection: Projection) -> Self {
        Self(self.0 & !projection.bit())
    }

    /// Returns the set with the projections that are rebuilt together with one of its own.
    pub(crate) fn with_companions(self) -> Self {
        if self.has_tallies() { self.or(Self::of(Self::TALLIES)) } else { self }
    }

    pub(crate) fn contains(self, projection: Projection) -> bool {
        self.0 & projection.bit() != 0
    }

    pub(crate) fn has_tallies(self) -> bool {
        Self::TALLIES.into_iter().any(|it| self.contains(it))
    }

    /// Returns true for the families that are dropped with them. The marks of minutes to be priced again go with
    /// the amounts.
    pub(crate) fn covers(self, family: Family) -> bool {
        match family {
            Family::Reprice => self.has_tallies(),
            _ => self.list().into_iter().any(|it| it.family() == family),
        }
    }

    pub(crate) fn list(self) -> Vec<Projection> {
        Projection::ALL.into_iter().filter(|it| self.contains(*it)).collect()
    }

    /// Encodes the set: a bit for each projection in the order of their names, the first one lowest.
    pub(crate) fn encode(self) -> u8 {
        self.0
    }

    /// Decodes a set; `None` for an empty one, and for bits of projections that this version does not know.
    pub(crate) fn decode(bits: u8) -> Option<Self> {
        (bits != 0 && bits & !Self::all().0 == 0).then_some(Self(bits))
    }
}

/// Returns true for the family of a projection, and for the marks of minutes to be priced again, which go with the
/// amounts.
pub(crate) fn is_dropped_with_projections(family: Family) -> bool {
    Projection::ALL.into_iter().any(|it| it.family() == family) || family == Family::Reprice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_read_back_and_others_are_refused() {
        for projection in Projection::ALL {
            let set = ProjectionSet::of([projection]);
            assert_eq!(ProjectionSet::decode(set.encode()), Some(set));
            assert_eq!(set.list(), [projection], "each has a bit of its own");
            let families: Vec<_> = Family::ALL.into_iter().filter(|it| set.covers(*it)).collect();
            assert!(families.contains(&projection.family()));
            assert_eq!(families.contains(&Family::Reprice), set.has_tallies());
        }
        assert_eq!(ProjectionSet::decode(0), None);
        assert_eq!(ProjectionSet::decode(0x80), None);
        let dropped = Family::ALL.into_iter().filter(|it| ProjectionSet::all().covers(*it));
        assert!(dropped.eq(Family::ALL.into_iter().filter(|it| is_dropped_with_projections(*it))));
    }

    #[test]
    fn amounts_and_the_counts_that_they_depend_on_go_together() {
        let usage = ProjectionSet::of([Projection::Usage]).with_companions();
        let tallies = [Projection::Congestion, Projection::Usage, Projection::UsageByPayer];
        assert_eq!(usage.list(), tallies);
        let topic = ProjectionSet::of([Projection::Topic]);
        assert_eq!(topic.with_companions(), topic);
    }
}
