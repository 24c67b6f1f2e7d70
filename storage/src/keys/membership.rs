//! Removals from the canonical network and returns to it, and the absences by which strands were judged.

use hawser_proto::OriginatorId;

use super::{Key, decode_u64, take};
use crate::family::Family;

/// Column family `membership`: `[0][block u64 BE][log index u64 BE]` → `[node u32 BE][time u64 BE][1 or 0]` for a
/// change in the chain's registry, `[1][originator u32 BE]` → the absences by which the marks of a strand were last
/// set, in the engine's encoding, and `[2][originator u32 BE]` → the version of the rules by which they were, `u32 BE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MembershipKey {
    /// A change, by its position on the chain.
    Change { block: u64, log_index: u64 },
    /// The absences that a strand's marks follow.
    Judged(OriginatorId),
    /// The version of the rules that a strand's marks follow.
    JudgedRules(OriginatorId),
}

impl MembershipKey {
    /// A key above those of all changes.
    pub(crate) const END_OF_CHANGES: [u8; 1] = [1];
}

impl Key<'_> for MembershipKey {
    const FAMILY: Family = Family::Membership;
    type Bytes = Vec<u8>;

    fn encode(self) -> Self::Bytes {
        match self {
            Self::Change { block, log_index } => {
                [&[0][..], &block.to_be_bytes(), &log_index.to_be_bytes()].concat()
            }
            Self::Judged(originator) => [&[1][..], &originator.0.to_be_bytes()].concat(),
            Self::JudgedRules(originator) => [&[2][..], &originator.0.to_be_bytes()].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (0, rest) => {
                let (block, log_index) = take(rest)?;
                let block = u64::from_be_bytes(block);
                Some(Self::Change { block, log_index: decode_u64(log_index)? })
            }
            (1, originator) => decode_originator(originator).map(Self::Judged),
            (2, originator) => decode_originator(originator).map(Self::JudgedRules),
            _ => None,
        }
    }
}

fn decode_originator(bytes: &[u8]) -> Option<OriginatorId> {
    Some(OriginatorId(u32::from_be_bytes(bytes.try_into().ok()?)))
}

/// A node's removal from the canonical network or entry into it, from the chain's registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipChange {
    /// Number of the block.
    pub block: u64,
    /// Index of the event within the block.
    pub log_index: u64,
    /// The node that entered or was removed.
    pub node: OriginatorId,
    /// The block's time, unix seconds.
    pub time_s: u64,
    /// True if the node is in the network after the event.
    pub is_member: bool,
}

impl MembershipChange {
    pub(crate) fn key(&self) -> MembershipKey {
        MembershipKey::Change { block: self.block, log_index: self.log_index }
    }

    pub(crate) fn encode_value(&self) -> Vec<u8> {
        let (node, time_s) = (self.node.0.to_be_bytes(), self.time_s.to_be_bytes());
        [&node[..], &time_s, &[u8::from(self.is_member)]].concat()
    }

    /// Decodes the row of a change; `None` for malformed bytes.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let MembershipKey::Change { block, log_index } = MembershipKey::decode(key)? else {
            return None;
        };
        let (node, rest) = take(value)?;
        let (time_s, is_member) = take(rest)?;
        let is_member = match is_member {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let (node, time_s) = (OriginatorId(u32::from_be_bytes(node)), u64::from_be_bytes(time_s));
        Some(Self { block, log_index, node, time_s, is_member })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = MembershipKey> {
        prop_oneof![
            any::<(u64, u64)>()
                .prop_map(|(block, log_index)| MembershipKey::Change { block, log_index }),
            any::<u32>().prop_map(|id| MembershipKey::Judged(OriginatorId(id))),
            any::<u32>().prop_map(|id| MembershipKey::JudgedRules(OriginatorId(id))),
        ]
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
        }

        #[test]
        fn changes_read_back(position in any::<(u64, u64)>(), node: u32, time_s: u64, is_member: bool) {
            let (block, log_index) = position;
            let node = OriginatorId(node);
            let change = MembershipChange { block, log_index, node, time_s, is_member };
            let key = change.key().encode();
            prop_assert_eq!(MembershipChange::decode(&key, &change.encode_value()), Some(change));
            prop_assert!(key[..] < MembershipKey::END_OF_CHANGES[..]);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let node = OriginatorId(100);
        let change = MembershipChange { block: 1, log_index: 2, node, time_s: 3, is_member: true };
        assert_eq!(change.key().encode(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(change.encode_value(), [0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0, 3, 1]);
        assert_eq!(MembershipKey::Judged(node).encode(), [1, 0, 0, 0, 100]);
        assert_eq!(MembershipKey::JudgedRules(node).encode(), [2, 0, 0, 0, 100]);
        assert_eq!(MembershipChange::decode(&change.key().encode(), &[0; 13][..12]), None);
    }
}
