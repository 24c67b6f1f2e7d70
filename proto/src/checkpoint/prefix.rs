//! A prefix of a strand's tree, with a proof that a tree which a node has signed begins with it.

use bytes::BufMut as _;

use super::codec::{CHECKPOINT_LEN, CheckpointCodecError};
use super::statement::SignedCheckpoint;
use crate::ids::SequenceId;
use crate::merkle::{ConsistencyProof, PROOF_LEN_MAX, ProofError, TreeHash};

/// Length of a signed prefix in bytes, with the longest proof.
pub const PREFIX_LEN_MAX: usize = 8 + CHECKPOINT_LEN + 32 * PROOF_LEN_MAX;

/// The claim that a signed tree begins with a tree of `size` leaves, and its proof. Untrusted until both the proof and
/// the signature are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPrefix {
    /// Number of leaves of the prefix.
    pub size: u64,
    /// The signed tree.
    pub signed: SignedCheckpoint,
    /// Proof that the signed tree begins with the prefix.
    pub proof: ConsistencyProof,
}

impl SignedPrefix {
    /// Checks that the tree of [`size`](Self::size) leaves with this root is the beginning of the signed one. Verifies
    /// no signature.
    ///
    /// # Errors
    /// The first reason why the proof does not show it.
    pub fn begins_with(&self, root: TreeHash) -> Result<(), ProofError> {
        let of = self.signed.checkpoint;
        self.proof.verify(self.size, of.size, root, of.root)
    }

    /// Encodes the prefix: its size, the checkpoint, and the hashes of the proof.
    ///
    /// # Panics
    /// Panics if the proof has more than [`PROOF_LEN_MAX`] hashes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.proof.0.len() <= PROOF_LEN_MAX, "no proof that is made is longer");
        let mut bytes = Vec::with_capacity(PREFIX_LEN_MAX);
        bytes.put_u64(self.size);
        bytes.put_slice(&self.signed.encode());
        self.proof.0.iter().for_each(|hash| bytes.put_slice(&hash.0));
        bytes
    }

    /// Decodes a prefix, to the last byte. Verifies neither proof nor signature.
    ///
    /// # Errors
    /// Returns an error if the bytes are not the canonical encoding of a signed prefix.
    pub fn decode(bytes: &[u8]) -> Result<Self, CheckpointCodecError> {
        let cut = CheckpointCodecError::Truncated;
        let (size, rest) = bytes.split_first_chunk().ok_or(cut)?;
        let (signed, hashes) = rest.split_at_checked(CHECKPOINT_LEN).ok_or(cut)?;
        let size = u64::from_be_bytes(*size);
        if size > SequenceId::MAX.0 {
            return Err(CheckpointCodecError::Size(size));
        }
        let chunks = hashes.chunks_exact(32);
        if !chunks.remainder().is_empty() {
            return Err(cut);
        }
        if chunks.len() > PROOF_LEN_MAX {
            return Err(CheckpointCodecError::Trailing(hashes.len() - 32 * PROOF_LEN_MAX));
        }
        let signed = SignedCheckpoint::decode(signed)?;
        let proof = ConsistencyProof(chunks.filter_map(TreeHash::from_slice).collect());
        Ok(Self { size, signed, proof })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::ids::OriginatorId;
    use crate::sign::SecretKey;

    fn prefix(hashes: usize) -> SignedPrefix {
        let key = SecretKey::from_bytes(&[7; 32]).expect("a key");
        let (node, originator) = (OriginatorId(100), OriginatorId(100));
        let of = Checkpoint { node, originator, size: 9, root: TreeHash([3; 32]), time_ns: 5 };
        let proof = ConsistencyProof(vec![TreeHash([1; 32]); hashes]);
        SignedPrefix { size: 4, signed: of.sign(&key), proof }
    }

    #[test]
    fn bytes_read_back_up_to_the_longest_proof() {
        for hashes in [0, 1, PROOF_LEN_MAX] {
            let prefix = prefix(hashes);
            let bytes = prefix.encode();
            assert!(bytes.len() <= PREFIX_LEN_MAX);
            assert_eq!(SignedPrefix::decode(&bytes), Ok(prefix));
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let bytes = prefix(1).encode();
        for cut in 0..bytes.len() {
            let is_whole = cut == bytes.len() - 32;
            assert_eq!(SignedPrefix::decode(&bytes[..cut]).is_ok(), is_whole, "{cut} bytes");
        }
        let longer = [prefix(PROOF_LEN_MAX).encode(), vec![0; 32]].concat();
        assert_eq!(SignedPrefix::decode(&longer), Err(CheckpointCodecError::Trailing(32)));
        let mut beyond = bytes;
        beyond[0] = 0x80;
        assert!(matches!(SignedPrefix::decode(&beyond), Err(CheckpointCodecError::Size(_))));
    }
}
