//! Checkpoints of one node about one strand that cannot both be true.
//!
//! About the node's own strand they prove that it has lied. An observer may have been shown two histories, and may have
//! lost the first one, so against an observer they are only a claim.

use hawser_proto::PublicKey;
use hawser_proto::checkpoint::{CheckpointError, SignedCheckpoint};
use hawser_proto::merkle::{ConsistencyProof, ProofError, TreeHash};

/// Two checkpoints of one node about one strand that contradict each other. Not necessarily verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// They have the same size, and other roots.
    TwoRoots {
        /// One of them.
        first: SignedCheckpoint,
        /// The other one.
        second: SignedCheckpoint,
    },
    /// The later one has the smaller size, and the strand is the node's own. An observer that has lost its folder reads
    /// a strand again from its beginning, and may sign smaller sizes meanwhile.
    Shrinks {
        /// The one with the earlier time.
        earlier: SignedCheckpoint,
        /// The one with the later time.
        later: SignedCheckpoint,
    },
    /// The larger tree begins with another tree of the smaller size.
    OtherBeginning {
        /// The one with the smaller size.
        smaller: SignedCheckpoint,
        /// The one with the larger size.
        larger: SignedCheckpoint,
        /// Root of the tree with which the larger one begins. It is not that of the smaller checkpoint.
        root: TreeHash,
        /// The proof that the larger one begins with it.
        proof: ConsistencyProof,
    },
}

/// The reason two checkpoints prove nothing against their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoContradictionError {
    /// A checkpoint is not that of the node.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoints are about other strands, or of other nodes.
    #[error("the checkpoints are not of one node about one strand")]
    OtherStrand,
    /// Both checkpoints can be true.
    #[error("the checkpoints do not contradict each other")]
    Consistent,
    /// The proof does not show the beginning of the larger tree.
    #[error("the proof that the larger tree contains the smaller one does not verify: {0}")]
    Proof(#[from] ProofError),
}

impl Contradiction {
    /// Compares two checkpoints by their own statements; `None` if they do not contradict each other.
    #[must_use]
    pub fn between(one: &SignedCheckpoint, other: &SignedCheckpoint) -> Option<Self> {
        let (a, b) = (&one.checkpoint, &other.checkpoint);
        if (a.node, a.originator) != (b.node, b.originator) {
            return None;
        }
        if a.size == b.size && a.root != b.root {
            return Some(Self::TwoRoots { first: *one, second: *other });
        }
        let (earlier, later) = if a.time_ns < b.time_ns { (one, other) } else { (other, one) };
        let shrinks = a.node == a.originator
            && later.checkpoint.size < earlier.checkpoint.size
            && a.time_ns != b.time_ns;
        shrinks.then_some(Self::Shrinks { earlier: *earlier, later: *later })
    }

    /// Returns the two checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> [&SignedCheckpoint; 2] {
        match self {
            Self::TwoRoots { first, second } => [first, second],
            Self::Shrinks { earlier, later } => [earlier, later],
            Self::OtherBeginning { smaller, larger, .. } => [smaller, larger],
        }
    }

    /// Checks that the node with this key has contradicted itself. Needs nothing but the key. It is no proof against an
    /// observer.
    ///
    /// # Errors
    /// The first reason why it proves nothing.
    pub fn verify(&self, key: &PublicKey) -> Result<(), NoContradictionError> {
        let [one, other] = self.checkpoints();
        let strand = |it: &SignedCheckpoint| (it.checkpoint.node, it.checkpoint.originator);
        if strand(one) != strand(other) {
            return Err(NoContradictionError::OtherStrand);
        }
        one.verify(key)?;
        other.verify(key)?;
        let Self::OtherBeginning { smaller, larger, root, proof } = self else {
            let found = Self::between(one, other);
            return if found.is_some() { Ok(()) } else { Err(NoContradictionError::Consistent) };
        };
        let (from, to) = (smaller.checkpoint, larger.checkpoint);
        if *root == from.root {
            return Err(NoContradictionError::Consistent);
        }
        Ok(proof.verify(from.size, to.size, *root, to.root)?)
    }
}
