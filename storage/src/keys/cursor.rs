//! Positions in strands: heads, and chain readers.

use hawser_proto::OriginatorId;

use super::{Key, decode_u64};
use crate::change::ChainPosition;
use crate::family::Family;

/// The kind of a position. No name is a prefix of another, so the rows of one kind are adjacent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CursorName {
    /// Position of the chain reader of a strand: `[block u64 BE][block hash, 32 bytes]`.
    Chain,
    /// Head of a strand: every place up to it is stored or marked. `[sequence u64 BE]`.
    Head,
    /// The last place of a strand up to which signatures are checked, while readers get more. `[sequence u64 BE]`.
    /// Absent if all places up to the head are checked. The name sorts directly after the heads, so that a program
    /// that does not know it refuses the folder: it would otherwise treat all places up to the head as checked.
    InDoubt,
    /// Position of the reader of payer events, stored under originator 0. Value as for `Chain`.
    Ledger,
    /// Position of the reader of payer reports, stored under originator 0. Value as for `Chain`.
    PayerReports,
    /// Position that the reader of payer events has to have reached for balances to be known, stored under
    /// originator 0: that at which it came to the head of its chain first, or to this block again. While the reader is
    /// behind entries that it has reversed, their last block, without its hash. Absent while it reads the chain for the
    /// first time. Value as for `Chain`.
    PayersRead,
    /// Position of the reader of the node registry's events, stored under originator 0. Value as for
    /// `Chain`.
    Registry,
    /// Position that the reader of payer reports has to have reached for balances to be known, as `PayersRead`.
    ReportsRead,
    /// The proof that a strand's node has signed the envelopes that readers get before verification: an encoded
    /// signed prefix. Absent if all places up to the head are checked.
    ShownBy,
}

impl CursorName {
    const ALL: [Self; 9] = [
        Self::Chain,
        Self::Head,
        Self::InDoubt,
        Self::Ledger,
        Self::PayerReports,
        Self::PayersRead,
        Self::Registry,
        Self::ReportsRead,
        Self::ShownBy,
    ];

    pub(crate) fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Chain => b"chain",
            Self::Head => b"head",
            Self::InDoubt => b"in_doubt",
            Self::Ledger => b"ledger",
            Self::PayerReports => b"payer_reports",
            Self::PayersRead => b"payers_read",
            Self::Registry => b"registry",
            Self::ReportsRead => b"reports_read",
            Self::ShownBy => b"shown_by",
        }
    }
}

/// Column family `cursor`: `[name][originator u32 BE]` → a position in the format of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CursorKey {
    pub(crate) name: CursorName,
    pub(crate) originator: OriginatorId,
}

impl CursorKey {
    /// The position of the reader of payer events.
    pub(crate) const LEDGER: Self = Self { name: CursorName::Ledger, originator: OriginatorId(0) };
    /// The position of the reader of payer reports.
    pub(crate) const PAYER_REPORTS: Self =
        Self { name: CursorName::PayerReports, originator: OriginatorId(0) };
    /// The position that the reader of payer events has to have reached for balances to be known.
    pub(crate) const PAYERS_READ: Self =
        Self { name: CursorName::PayersRead, originator: OriginatorId(0) };
    /// The position that the reader of payer reports has to have reached for balances to be known.
    pub(crate) const REPORTS_READ: Self =
        Self { name: CursorName::ReportsRead, originator: OriginatorId(0) };
    /// The position of the reader of the node registry's events.
    pub(crate) const REGISTRY: Self =
        Self { name: CursorName::Registry, originator: OriginatorId(0) };
}

impl Key<'_> for CursorKey {
    const FAMILY: Family = Family::Cursor;
    type Bytes = Vec<u8>;

    fn encode(self) -> Self::Bytes {
        [self.name.as_bytes(), &self.originator.0.to_be_bytes()].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (name, originator) = bytes.split_last_chunk::<4>()?;
        let name = CursorName::ALL.into_iter().find(|known| known.as_bytes() == name)?;
        Some(Self { name, originator: OriginatorId(u32::from_be_bytes(*originator)) })
    }
}

/// The hash in the note of a reader that has taken back events: the block that it names may be of another branch.
pub(crate) const HASH_UNKNOWN: [u8; 32] = [0; 32];

/// Returns true if a reader at `position` is as far as its note asks. One without a position has taken nothing back.
pub(crate) fn is_reached(note: ChainPosition, position: Option<ChainPosition>) -> bool {
    position.is_none_or(|position| position.block >= note.block)
}

/// Encodes the position of a chain reader.
pub(crate) fn encode_position(position: ChainPosition) -> [u8; 40] {
    let mut value = [0; 40];
    value[..8].copy_from_slice(&position.block.to_be_bytes());
    value[8..].copy_from_slice(&position.hash);
    value
}

/// Decodes the position of a chain reader; `None` for malformed bytes.
pub(crate) fn decode_position(value: &[u8]) -> Option<ChainPosition> {
    let (block, hash) = value.split_at_checked(8)?;
    Some(ChainPosition { block: decode_u64(block)?, hash: hash.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn keys() -> impl Strategy<Value = CursorKey> {
        (0..CursorName::ALL.len(), any::<u32>()).prop_map(|(name, originator)| CursorKey {
            name: CursorName::ALL[name],
            originator: OriginatorId(originator),
        })
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in keys(), b in keys()) {
            round_trips(a);
            keeps_order(a, b);
        }

        #[test]
        fn positions_read_back(block in any::<u64>(), hash in any::<[u8; 32]>()) {
            let position = ChainPosition { block, hash };
            prop_assert_eq!(decode_position(&encode_position(position)), Some(position));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let key = |name| CursorKey { name, originator: OriginatorId(100) }.encode();
        assert_eq!(key(CursorName::Chain), *b"chain\0\0\0\x64");
        assert_eq!(key(CursorName::Head), *b"head\0\0\0\x64");
        assert_eq!(key(CursorName::InDoubt), *b"in_doubt\0\0\0\x64");
        assert_eq!(key(CursorName::Ledger), *b"ledger\0\0\0\x64");
        assert_eq!(key(CursorName::PayerReports), *b"payer_reports\0\0\0\x64");
        assert_eq!(key(CursorName::PayersRead), *b"payers_read\0\0\0\x64");
        assert_eq!(key(CursorName::Registry), *b"registry\0\0\0\x64");
        assert_eq!(key(CursorName::ReportsRead), *b"reports_read\0\0\0\x64");
        assert_eq!(key(CursorName::ShownBy), *b"shown_by\0\0\0\x64");
        let value = encode_position(ChainPosition { block: 0x0102, hash: [7; 32] });
        assert_eq!(value[..8], [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(value[8..], [7; 32]);
        assert_eq!(decode_position(&value[..39]), None);
    }

    #[test]
    fn no_name_is_the_beginning_of_another() {
        for (i, a) in CursorName::ALL.into_iter().enumerate() {
            for (j, b) in CursorName::ALL.into_iter().enumerate() {
                assert!(i == j || !b.as_bytes().starts_with(a.as_bytes()), "{a:?} and {b:?}");
            }
        }
    }

    /// Programs that do not know [`CursorName::InDoubt`] read the heads up to the next unknown name, and refuse
    /// there.
    #[test]
    fn what_is_in_doubt_stands_right_behind_the_heads() {
        let all = CursorName::ALL.map(CursorName::as_bytes);
        let behind = all.into_iter().filter(|name| *name > CursorName::Head.as_bytes()).min();
        assert_eq!(behind, Some(CursorName::InDoubt.as_bytes()));
    }

    #[test]
    fn unknown_names_are_no_key() {
        assert_eq!(CursorKey::decode(b"tail\0\0\0\x64"), None);
        assert_eq!(CursorKey::decode(b"abc"), None);
    }
}
