//! Rows of leaf hashes, by place.

use hawser_proto::EnvelopeId;

use super::Key;
use super::envelope::EnvelopeKey;
use crate::family::Family;

/// Column family `leaf`: `[originator u32 BE][sequence u64 BE]` → 32 bytes: the hash of the leaf.
///
/// The rows of a strand go from 1 to the size of its tree, without a gap. They stay when envelopes are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeafKey(pub(crate) EnvelopeId);

impl Key<'_> for LeafKey {
    const FAMILY: Family = Family::Leaf;
    type Bytes = [u8; 12];

    fn encode(self) -> Self::Bytes {
        EnvelopeKey(self.0).encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        EnvelopeKey::decode(bytes).map(|key| Self(key.0))
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::{OriginatorId, SequenceId};
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = LeafKey> {
        (any::<u32>(), any::<u64>())
            .prop_map(|(o, s)| LeafKey(EnvelopeId::new(OriginatorId(o), SequenceId(s))))
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = LeafKey(EnvelopeId::new(OriginatorId(0x0102_0304), SequenceId(5)));
        assert_eq!(key.encode(), [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
    }
}
