//! How far something has come in each strand.

use hawser_proto::OriginatorId;

use super::Key;
use crate::family::Family;

/// Whose position it is. No name is the beginning of another, so the rows of one lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CursorName {
    /// The log's own: everything up to there is held or marked.
    Head,
}

impl CursorName {
    const ALL: [Self; 1] = [Self::Head];

    pub(crate) fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Head => b"head",
        }
    }
}

/// Column family `cursor`: `[name][originator u32 BE]` → `[sequence u64 BE]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CursorKey {
    pub(crate) name: CursorName,
    pub(crate) originator: OriginatorId,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::testing::{keeps_order, round_trips};

    fn head(originator: u32) -> CursorKey {
        CursorKey { name: CursorName::Head, originator: OriginatorId(originator) }
    }

    proptest! {
        #[test]
        fn bytes_read_back_and_sort_as_the_keys(a in any::<u32>(), b in any::<u32>()) {
            round_trips(head(a));
            keeps_order(head(a), head(b));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        assert_eq!(head(100).encode(), *b"head\0\0\0\x64");
    }

    #[test]
    fn no_name_is_the_beginning_of_another() {
        for (i, a) in CursorName::ALL.into_iter().enumerate() {
            for (j, b) in CursorName::ALL.into_iter().enumerate() {
                assert!(i == j || !b.as_bytes().starts_with(a.as_bytes()), "{a:?} and {b:?}");
            }
        }
    }

    #[test]
    fn unknown_names_are_no_key() {
        assert_eq!(CursorKey::decode(b"tail\0\0\0\x64"), None);
        assert_eq!(CursorKey::decode(b"abc"), None);
    }
}
