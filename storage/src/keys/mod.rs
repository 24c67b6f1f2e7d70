//! One file per stored key, with the row's value beside it. Integers are big-endian, so that byte
//! order is the order we read in.

pub(crate) mod congestion;
pub(crate) mod cursor;
pub(crate) mod envelope;
pub(crate) mod expiry;
pub(crate) mod inbox;
pub(crate) mod ledger;
pub(crate) mod mark;
pub(crate) mod meta;
pub(crate) mod rate;
pub(crate) mod receipt;
pub(crate) mod topic;
pub(crate) mod usage;
pub(crate) mod usage_by_payer;

use crate::family::Family;

/// A stored key. Its bytes sort as its values do, and the layout is pinned by a test beside it.
pub(crate) trait Key<'a>: Copy + Ord {
    /// Where rows with this key lie.
    const FAMILY: Family;
    /// An array where the length is fixed.
    type Bytes: AsRef<[u8]>;

    fn encode(self) -> Self::Bytes;

    /// `None` for bytes that no key encodes to.
    fn decode(bytes: &'a [u8]) -> Option<Self>;
}

/// Takes `N` bytes off the front.
pub(crate) fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (front, rest) = bytes.split_first_chunk::<N>()?;
    Some((*front, rest))
}

/// Reads a value that is one number.
pub(crate) fn decode_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod testing {
    //! What every key has to show.

    use std::fmt::Debug;

    use super::Key;

    /// Bytes back to the same key.
    pub(crate) fn round_trips<K>(key: K)
    where
        K: for<'a> Key<'a> + Debug,
    {
        let bytes = key.encode();
        assert_eq!(K::decode(bytes.as_ref()), Some(key));
    }

    /// Keys compare as their bytes do.
    pub(crate) fn keeps_order<'a, K: Key<'a> + Debug>(a: K, b: K) {
        assert_eq!(a.cmp(&b), a.encode().as_ref().cmp(b.encode().as_ref()), "{a:?} and {b:?}");
    }
}
