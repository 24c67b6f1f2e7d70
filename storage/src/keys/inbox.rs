//! Rows of inboxes, by member address.

use hawser_proto::{Address, InboxId};

use super::{Key, decode_u64, take};
use crate::family::Family;

/// Kind byte of Ethereum addresses. Further identifier kinds take other numbers.
const ETHEREUM: u8 = 1;

/// Column family `inbox`: `[1][Ethereum address, 20 bytes][inbox id, 32 bytes]` →
/// `[sequence that set it u64 BE][sequence that cleared it u64 BE]`, 0 for never.
///
/// The inbox is part of the key, because an address may be a member of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct InboxKey {
    pub(crate) address: Address,
    pub(crate) inbox: InboxId,
}

impl InboxKey {
    /// Returns the common prefix of the keys of all inboxes of an address.
    pub(crate) fn prefix(address: Address) -> [u8; 21] {
        let mut prefix = [ETHEREUM; 21];
        prefix[1..].copy_from_slice(&address.0);
        prefix
    }
}

impl Key<'_> for InboxKey {
    const FAMILY: Family = Family::Inbox;
    type Bytes = [u8; 53];

    fn encode(self) -> Self::Bytes {
        let mut key = [0; 53];
        key[..21].copy_from_slice(&Self::prefix(self.address));
        key[21..].copy_from_slice(&self.inbox.0);
        key
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let ([kind], rest) = take::<1>(bytes)?;
        let (address, inbox) = take::<20>(rest)?;
        let key = Self { address: Address(address), inbox: InboxId::from_slice(inbox)? };
        (kind == ETHEREUM).then_some(key)
    }
}

/// The sequence ids of the last updates of an inbox that changed an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct InboxRow {
    /// The last update after which the address was a member; 0 for none.
    pub(crate) set: u64,
    /// The last update after which the address was not a member; 0 for none.
    pub(crate) cleared: u64,
}

impl InboxRow {
    /// Keeps the later update of each kind. Commutative, so the order of updates does not matter.
    pub(crate) fn merge(&mut self, other: Self) {
        self.set = self.set.max(other.set);
        self.cleared = self.cleared.max(other.cleared);
    }

    /// Returns the update that made the address a member; `None` if it is not a member.
    pub(crate) fn member_since(self) -> Option<u64> {
        (self.set > self.cleared).then_some(self.set)
    }

    pub(crate) fn encode(self) -> [u8; 16] {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&self.set.to_be_bytes());
        value[8..].copy_from_slice(&self.cleared.to_be_bytes());
        value
    }

    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let (set, cleared) = value.split_at_checked(8)?;
        Some(Self { set: decode_u64(set)?, cleared: decode_u64(cleared)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = InboxKey> {
        (any::<[u8; 20]>(), any::<[u8; 32]>()).prop_map(|(address, inbox)| InboxKey {
            address: Address(address),
            inbox: InboxId(inbox),
        })
    }

    fn rows() -> impl Strategy<Value = InboxRow> {
        (any::<u64>(), any::<u64>()).prop_map(|(set, cleared)| InboxRow { set, cleared })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
            keeps_order(a, InboxKey { address: a.address, ..b });
        }

        #[test]
        fn values_read_back(row in rows()) {
            prop_assert_eq!(InboxRow::decode(&row.encode()), Some(row));
        }

        #[test]
        fn merging_knows_no_order(a in rows(), b in rows()) {
            let (mut ab, mut ba) = (a, b);
            ab.merge(b);
            ba.merge(a);
            prop_assert_eq!(ab, ba);
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = InboxKey { address: Address([7; 20]), inbox: InboxId([9; 32]) }.encode();
        assert_eq!((key[0], &key[1..21], &key[21..]), (1, &[7; 20][..], &[9; 32][..]));
        assert!(key.starts_with(&InboxKey::prefix(Address([7; 20]))));
        let row = InboxRow { set: 3, cleared: 0x0102 };
        assert_eq!(row.encode(), [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn other_kinds_and_lengths_are_no_key() {
        let mut key = InboxKey { address: Address([7; 20]), inbox: InboxId([9; 32]) }.encode();
        assert_eq!(InboxKey::decode(&key[..52]), None);
        key[0] = 2;
        assert_eq!(InboxKey::decode(&key), None);
    }
}
