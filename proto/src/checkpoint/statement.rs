//! The statements of nodes about a tree.

use crate::ids::{OriginatorId, SequenceId};
use crate::merkle::TreeHash;
use crate::sign::{Digest, PublicKey, SecretKey, Signature, SignatureError, keccak256};

/// The state of a strand's tree, as one node states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The node that states it.
    pub node: OriginatorId,
    /// The originator of the strand.
    pub originator: OriginatorId,
    /// Number of leaves, which is also the sequence id of the last one. At most [`SequenceId::MAX`].
    pub size: u64,
    /// Root of the tree of this size.
    pub root: TreeHash,
    /// Time of the statement, unix nanoseconds. Strictly increases from one checkpoint of a node for a strand to
    /// the next.
    pub time_ns: u64,
}

impl Checkpoint {
    /// Returns true if the node observes the strand of another originator.
    #[must_use]
    pub fn is_observers(&self) -> bool {
        self.node != self.originator
    }

    /// Returns the sequence id of the last envelope that the tree covers.
    #[must_use]
    pub fn last(&self) -> SequenceId {
        SequenceId(self.size)
    }

    /// Returns the digest that the node signs.
    #[must_use]
    pub fn digest(&self) -> Digest {
        keccak256(&[
            b"checkpoint|",
            &self.node.0.to_be_bytes(),
            &self.originator.0.to_be_bytes(),
            &self.size.to_be_bytes(),
            &self.root.0,
            &self.time_ns.to_be_bytes(),
        ])
    }

    /// Returns the digest that another node signs as a cosignature. It states that, at the time `time_ns` of the
    /// cosigner, no statement of this node about this strand that the cosigner had seen contradicted the size and the
    /// root. The checkpoint's own time is not part of the digest.
    #[must_use]
    pub fn cosignature_digest(&self, cosigner: OriginatorId, time_ns: u64) -> Digest {
        keccak256(&[
            b"cosignature|",
            &cosigner.0.to_be_bytes(),
            &self.node.0.to_be_bytes(),
            &self.originator.0.to_be_bytes(),
            &self.size.to_be_bytes(),
            &self.root.0,
            &time_ns.to_be_bytes(),
        ])
    }

    /// Signs the checkpoint. The caller makes sure that the node never signs another root for this size: two such
    /// checkpoints are proof of misbehaviour.
    #[must_use]
    pub fn sign(self, key: &SecretKey) -> SignedCheckpoint {
        SignedCheckpoint { checkpoint: self, signature: key.sign(self.digest()) }
    }

    /// Signs the checkpoint of another node. The caller has checked that the checkpoint agrees with the last one that
    /// it saw of that node.
    #[must_use]
    pub fn cosign(&self, cosigner: OriginatorId, time_ns: u64, key: &SecretKey) -> Cosignature {
        let signature = key.sign(self.cosignature_digest(cosigner, time_ns));
        Cosignature { cosigner, time_ns, signature }
    }
}

/// The reason why a checkpoint or a cosignature is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The signature is malformed, or not in the one form that is accepted.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Another key than the node's has signed.
    #[error("the checkpoint is not signed with the key of node {0}")]
    OtherKey(OriginatorId),
    /// The tree is larger than a strand can be.
    #[error("a strand has at most 2^63 - 1 places, not {0}")]
    Size(u64),
}

/// A checkpoint with its signature, which need not be verified: see [`verify`](Self::verify).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// The statement.
    pub checkpoint: Checkpoint,
    /// The node's signature over [`Checkpoint::digest`].
    pub signature: Signature,
}

impl SignedCheckpoint {
    /// Checks the signature with the key that the registry holds for the node.
    ///
    /// # Errors
    /// Returns an error if the key did not sign the checkpoint, the signature is not canonical, or the size is larger
    /// than a strand can be.
    pub fn verify(&self, key: &PublicKey) -> Result<(), CheckpointError> {
        let Checkpoint { node, size, .. } = self.checkpoint;
        if size > SequenceId::MAX.0 {
            return Err(CheckpointError::Size(size));
        }
        require_signer(self.signature, self.checkpoint.digest(), node, key)
    }
}

/// The statement of a node about the checkpoint of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cosignature {
    /// The node that states it.
    pub cosigner: OriginatorId,
    /// Time of the statement, unix nanoseconds.
    pub time_ns: u64,
    /// The signature over [`Checkpoint::cosignature_digest`].
    pub signature: Signature,
}

impl Cosignature {
    /// Checks the signature with the key that the registry holds for the cosigner.
    ///
    /// # Errors
    /// Returns an error if the key did not sign the cosignature, or the signature is not canonical.
    pub fn verify(&self, of: &Checkpoint, key: &PublicKey) -> Result<(), CheckpointError> {
        let digest = of.cosignature_digest(self.cosigner, self.time_ns);
        require_signer(self.signature, digest, self.cosigner, key)
    }
}

fn require_signer(
    signature: Signature,
    digest: Digest,
    node: OriginatorId,
    key: &PublicKey,
) -> Result<(), CheckpointError> {
    signature.require_canonical()?;
    if signature.recover(digest)? == *key { Ok(()) } else { Err(CheckpointError::OtherKey(node)) }
}
