//! Leaves that a caller has computed before a commit, with the bytes that they are of.

use bytes::Bytes;
use hawser_proto::envelope::{LayerError, OriginatorEnvelope, Proof};
use hawser_proto::merkle::{LeafData, TreeHash, envelope_leaf, leaf_hash};

/// The bytes of an envelope with their leaf. A commit that gets it beside the envelope does not hash the bytes again.
///
/// Invariant: the leaf is that of the bytes. No caller can state a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedEnvelope {
    bytes: Bytes,
    leaf: TreeHash,
}

impl HashedEnvelope {
    /// Hashes an envelope; `None` for bytes that are no envelope.
    #[must_use]
    pub fn new(bytes: &Bytes) -> Option<Self> {
        let leaf = envelope_leaf(bytes)?;
        Some(Self { bytes: bytes.clone(), leaf })
    }

    /// Opens the outer layer of an envelope, and hashes what is in it. Also returns the statement's bytes and their
    /// proof, so that a caller who needs them does not open the envelope again.
    ///
    /// # Errors
    /// Returns an error if this layer is malformed or not canonical.
    pub fn open(bytes: Bytes) -> Result<(Self, Bytes, Proof), LayerError> {
        let (statement, proof) = OriginatorEnvelope::open(bytes.clone())?;
        let leaf = leaf_hash(match &proof {
            Proof::Signature(_) => LeafData::Signed(&statement),
            Proof::Transaction(transaction) => LeafData::OnChain(&statement, transaction),
        });
        Ok((Self { bytes, leaf }, statement, proof))
    }

    /// Returns the hash of the leaf that the envelope adds to its strand's tree.
    #[must_use]
    pub fn leaf(&self) -> TreeHash {
        self.leaf
    }

    /// Returns the leaf of `bytes` if they are the hashed ones: the same memory, which does not change as long as this
    /// value holds it. `None` for all others, also for equal ones.
    pub(crate) fn leaf_of(&self, bytes: &Bytes) -> Option<TreeHash> {
        std::ptr::eq(&self.bytes[..], &bytes[..]).then_some(self.leaf)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;
    use hawser_proto::sign::originator_digest;

    use super::*;

    #[test]
    fn a_leaf_is_known_for_the_hashed_bytes_alone() {
        let statement = Bytes::from_static(b"a statement");
        let key = SecretKey::from_bytes(&[1; 32]).unwrap();
        let signature = key.sign(originator_digest(&statement));
        let bytes = OriginatorEnvelope::encode(statement, Proof::Signature(signature));
        let hashed = HashedEnvelope::new(&bytes).unwrap();
        assert_eq!(Some(hashed.leaf()), envelope_leaf(&bytes));
        assert_eq!(hashed.leaf_of(&bytes.clone()), Some(hashed.leaf()));
        let copy = Bytes::copy_from_slice(&bytes);
        for other in [copy, bytes.slice(1..), bytes.slice(..bytes.len() - 1), Bytes::new()] {
            assert_eq!(hashed.leaf_of(&other), None);
        }
        assert_eq!(HashedEnvelope::new(&Bytes::from_static(b"no envelope")), None);
    }

    #[test]
    fn an_opened_envelope_has_the_leaf_of_its_bytes() {
        let statement = Bytes::from_static(b"a statement");
        let signature =
            SecretKey::from_bytes(&[1; 32]).unwrap().sign(originator_digest(&statement));
        for proof in [Proof::Signature(signature), Proof::Transaction([7; 32])] {
            let bytes = OriginatorEnvelope::encode(statement.clone(), proof);
            let (hashed, opened, of) = HashedEnvelope::open(bytes.clone()).unwrap();
            assert_eq!((opened, of), (statement.clone(), proof));
            assert_eq!(Some(hashed), HashedEnvelope::new(&bytes));
            let longer = Bytes::from([&bytes[..], &[0x7a, 0]].concat());
            assert!(HashedEnvelope::new(&longer).is_some());
            assert_eq!(HashedEnvelope::open(longer), Err(LayerError::NotCanonical));
        }
    }
}
