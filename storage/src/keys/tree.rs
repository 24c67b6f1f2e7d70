//! Rows of hashes of complete subtrees.

use hawser_proto::OriginatorId;
use hawser_proto::merkle::Subtree;

use super::{Key, take};
use crate::family::Family;

/// Column family `tree`: `[originator u32 BE][level u8][index u64 BE]` → 32 bytes: the hash of a complete subtree.
///
/// Levels that [`LEVELS`] divides are stored; level 0 is the family `leaf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TreeKey {
    pub(crate) originator: OriginatorId,
    pub(crate) level: u8,
    pub(crate) index: u64,
}

/// Distance between two stored levels. A guess at the balance: a publish then writes one row for sixteen envelopes,
/// and a hash of a level between two stored ones is computed from at most eight rows.
pub(crate) const LEVELS: u8 = 4;

impl TreeKey {
    pub(crate) fn new(originator: OriginatorId, at: Subtree) -> Self {
        Self { originator, level: at.level, index: at.index }
    }
}

impl Key<'_> for TreeKey {
    const FAMILY: Family = Family::Tree;
    type Bytes = [u8; 13];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 13];
        key[..4].copy_from_slice(&self.originator.0.to_be_bytes());
        key[4] = self.level;
        key[5..].copy_from_slice(&self.index.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (originator, rest) = take(bytes)?;
        let (&level, index) = rest.split_first()?;
        Some(Self {
            originator: OriginatorId(u32::from_be_bytes(originator)),
            level,
            index: super::decode_u64(index)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = TreeKey> {
        (any::<u32>(), any::<u8>(), any::<u64>()).prop_map(|(originator, level, index)| TreeKey {
            originator: OriginatorId(originator),
            level,
            index,
        })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, TreeKey { originator: a.originator, ..b });
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = TreeKey::new(OriginatorId(0x0102_0304), Subtree { level: 8, index: 5 });
        assert_eq!(key.encode(), [1, 2, 3, 4, 8, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(TreeKey::decode(&[0; 12]), None);
    }
}
