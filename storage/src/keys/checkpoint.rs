//! Rows of checkpoints, by strand, node and size.

use hawser_proto::OriginatorId;

use super::{Key, decode_u64, take};
use crate::family::Family;

/// Column family `checkpoint`: `[originator u32 BE][node u32 BE][size u64 BE]` → the checkpoint with its known
/// cosignatures, in the binary form of `docs/protocol/checkpoints.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CheckpointKey {
    pub(crate) originator: OriginatorId,
    pub(crate) node: OriginatorId,
    pub(crate) size: u64,
}

impl Key<'_> for CheckpointKey {
    const FAMILY: Family = Family::Checkpoint;
    type Bytes = [u8; 16];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&self.originator.0.to_be_bytes());
        key[4..8].copy_from_slice(&self.node.0.to_be_bytes());
        key[8..].copy_from_slice(&self.size.to_be_bytes());
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (originator, rest) = take(bytes)?;
        let (node, size) = take(rest)?;
        Some(Self {
            originator: OriginatorId(u32::from_be_bytes(originator)),
            node: OriginatorId(u32::from_be_bytes(node)),
            size: decode_u64(size)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = CheckpointKey> {
        (any::<u32>(), any::<u32>(), any::<u64>()).prop_map(|(originator, node, size)| {
            CheckpointKey { originator: OriginatorId(originator), node: OriginatorId(node), size }
        })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, CheckpointKey { originator: a.originator, ..b });
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let (originator, node) = (OriginatorId(0x0102_0304), OriginatorId(0x0506_0708));
        let key = CheckpointKey { originator, node, size: 9 };
        assert_eq!(key.encode(), [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(CheckpointKey::decode(&[0; 15]), None);
    }
}
