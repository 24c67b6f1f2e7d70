//! The hashes of a tree.

use std::fmt;

use bytes::Bytes;
use prost::Message as _;

use crate::ids::SequenceId;
use crate::pb::xmtp::xmtpv4::envelopes as pb;
use pb::originator_envelope::Proof;

/// A hash of the tree: of a leaf, of a node, or a root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreeHash(pub [u8; 32]);

impl TreeHash {
    /// Reads a hash; `None` unless it has 32 bytes.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TreeHash({self})")
    }
}

/// The data of a leaf, by what its place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafData<'a> {
    /// The unsigned bytes of an envelope of a node.
    Signed(&'a [u8]),
    /// The unsigned bytes of an envelope of a chain, and the hash of its transaction.
    OnChain(&'a [u8], &'a [u8; 32]),
    /// A place that is declared empty for ever.
    Void,
}

/// Returns the hash of a leaf: BLAKE3 over a zero byte and the data. The data of a void place is empty, and an
/// envelope's never is.
#[must_use]
pub fn leaf_hash(data: LeafData<'_>) -> TreeHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[0]);
    match data {
        LeafData::Signed(unsigned) => _ = hasher.update(unsigned),
        LeafData::OnChain(unsigned, transaction) => {
            hasher.update(unsigned);
            hasher.update(transaction);
        }
        LeafData::Void => {}
    }
    TreeHash(hasher.finalize().into())
}

/// Returns the leaf of an envelope as it is stored and sent; `None` for bytes that are no envelope. The caller has
/// verified it, or is about to.
#[must_use]
pub fn envelope_leaf(envelope: &Bytes) -> Option<TreeHash> {
    let message = pb::OriginatorEnvelope::decode(envelope.clone()).ok()?;
    let unsigned = &message.unsigned_originator_envelope;
    Some(leaf_hash(match message.proof.as_ref()? {
        Proof::OriginatorSignature(_) => LeafData::Signed(unsigned),
        Proof::BlockchainProof(proof) => {
            LeafData::OnChain(unsigned, proof.transaction_hash.as_ref().try_into().ok()?)
        }
    }))
}

/// Returns the hash of an inner node: BLAKE3 over a one byte and both children.
#[must_use]
pub fn node_hash(left: TreeHash, right: TreeHash) -> TreeHash {
    let mut input = [1; 65];
    input[1..33].copy_from_slice(&left.0);
    input[33..].copy_from_slice(&right.0);
    TreeHash(blake3::hash(&input).into())
}

/// Returns the root of the tree without leaves: BLAKE3 over nothing.
#[must_use]
pub fn empty_root() -> TreeHash {
    TreeHash(blake3::hash(&[]).into())
}

/// Returns the index of the leaf of a place; `None` for [`SequenceId::NONE`].
#[must_use]
pub fn leaf_index(place: SequenceId) -> Option<u64> {
    place.0.checked_sub(1)
}
