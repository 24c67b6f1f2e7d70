//! Pages of the amounts of payer reports.

use super::{Key, take};
use crate::family::Family;

/// The beginning of the keys: no name of another row of the family begins so.
const PREFIX: [u8; 15] = *b"report_amounts.";
/// Length of a key, bytes.
const LEN_BYTES: usize = PREFIX.len() + 32 + 4;

/// Column family `meta`: `report_amounts.[report, 32 bytes][page u32 BE]` → amounts, `[payer, 20 bytes][picodollars u64
/// BE]` each. Before those of page 0: `[originator u32 BE][start u64 BE][place u64 BE][number of amounts u64 BE]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AmountsPageKey {
    pub(crate) report: [u8; 32],
    pub(crate) page: u32,
}

impl AmountsPageKey {
    /// The first key.
    pub(crate) const FIRST: Self = Self { report: [0; 32], page: 0 };
    /// The last key. No report has so many pages.
    pub(crate) const LAST: Self = Self { report: [0xff; 32], page: u32::MAX };

    /// Returns the first key of a report, and one above all keys of its pages.
    pub(crate) fn pages_of(report: [u8; 32]) -> [Self; 2] {
        [0, u32::MAX].map(|page| Self { report, page })
    }
}

impl Key<'_> for AmountsPageKey {
    const FAMILY: Family = Family::Meta;
    type Bytes = [u8; LEN_BYTES];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; LEN_BYTES];
        key[..15].copy_from_slice(&PREFIX);
        key[15..47].copy_from_slice(&self.report);
        key[47..].copy_from_slice(&self.page.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (prefix, rest) = take::<15>(bytes)?;
        if prefix != PREFIX {
            return None;
        }
        let (report, page) = take(rest)?;
        Some(Self { report, page: u32::from_be_bytes(page.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::meta::MetaKey;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = AmountsPageKey> {
        any::<([u8; 32], u32)>().prop_map(|(report, page)| AmountsPageKey { report, page })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, AmountsPageKey { report: a.report, ..b });
        }
    }

    #[test]
    fn the_layout_is_pinned_and_no_other_name_of_the_family_is_a_page() {
        let key = AmountsPageKey { report: [7; 32], page: 258 }.encode();
        assert_eq!(key[..], [&b"report_amounts."[..], &[7; 32], &[0, 0, 1, 2]].concat());
        assert_eq!(AmountsPageKey::decode(&key[..50]), None);
        for name in [MetaKey::ReportAmounts, MetaKey::ReportedEvidence] {
            assert_eq!(AmountsPageKey::decode(name.encode()), None);
        }
        assert!(MetaKey::ReportAmounts.encode() < &AmountsPageKey::FIRST.encode()[..]);
        assert!(MetaKey::ReportedEvidence.encode() > &AmountsPageKey::LAST.encode()[..]);
    }
}
