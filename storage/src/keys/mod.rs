//! Stored keys, one file each, with the row's value beside it. Integers are big-endian, so that byte
//! order is the order of scans.
//!
//! Keys of several families have the same bytes: those of envelopes, marks, leaves and pruned envelopes are an envelope
//! id, which [`envelope::EnvelopeKey`] alone encodes. Each family still has a key type of its own, because the type
//! names the family ([`Key::FAMILY`]): the compiler then refuses a key of another family.

pub(crate) mod amounts_page;
pub(crate) mod checkpoint;
pub(crate) mod congestion;
pub(crate) mod cursor;
pub(crate) mod envelope;
pub(crate) mod expiry;
pub(crate) mod fact;
pub(crate) mod inbox;
pub(crate) mod leaf;
pub(crate) mod ledger;
pub(crate) mod mark;
pub(crate) mod membership;
pub(crate) mod meta;
pub(crate) mod misbehavior;
pub(crate) mod payer_report;
pub(crate) mod pruned;
pub(crate) mod rate;
pub(crate) mod receipt;
pub(crate) mod report;
pub(crate) mod reprice;
pub(crate) mod topic;
pub(crate) mod tree;
pub(crate) mod usage;
pub(crate) mod usage_by_payer;

use crate::family::Family;

/// A stored key. Its bytes sort like its values. A test beside each key pins the layout.
pub(crate) trait Key<'a>: Copy + Ord {
    /// The family of the rows with this key.
    const FAMILY: Family;
    /// The encoded key; an array if the length is fixed.
    type Bytes: AsRef<[u8]>;

    /// Encodes the key.
    fn encode(self) -> Self::Bytes;

    /// Decodes a key; `None` for bytes that no key encodes to.
    fn decode(bytes: &'a [u8]) -> Option<Self>;
}

/// Splits `N` bytes off the front.
pub(crate) fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    let (front, rest) = bytes.split_first_chunk::<N>()?;
    Some((*front, rest))
}

/// Decodes a value of exactly one number.
pub(crate) fn decode_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
pub(crate) mod testing {
    //! Properties that every key must have.

    use std::fmt::Debug;

    use super::Key;

    /// Asserts that encoded bytes decode to the same key.
    pub(crate) fn round_trips<K>(key: K)
    where
        K: for<'a> Key<'a> + Debug,
    {
        let bytes = key.encode();
        assert_eq!(K::decode(bytes.as_ref()), Some(key));
    }

    /// Asserts that keys compare like their bytes.
    pub(crate) fn keeps_order<'a, K: Key<'a> + Debug>(a: K, b: K) {
        assert_eq!(a.cmp(&b), a.encode().as_ref().cmp(b.encode().as_ref()), "{a:?} and {b:?}");
    }
}
