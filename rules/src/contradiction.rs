//! Contradictions: two checkpoints of one node about one strand that cannot both be true.
//!
//! About the node's own strand they prove that the node has lied. About another strand they are only a claim, because
//! an observer may have been shown two histories and may have lost the first one.

use hawser_proto::PublicKey;
use hawser_proto::checkpoint::{CheckpointError, SignedCheckpoint};
use hawser_proto::merkle::{ConsistencyProof, ProofError, TreeHash};

/// Two contradictory checkpoints of one node about one strand. Not necessarily verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contradiction {
    /// The checkpoints have the same size and different roots.
    TwoRoots {
        /// One of them.
        first: SignedCheckpoint,
        /// The other one.
        second: SignedCheckpoint,
    },
    /// The later one has the smaller size, and the strand is the node's own. (An observer that has lost its data folder
    /// reads a strand again from the beginning, and may then sign smaller sizes.)
    Shrinks {
        /// The checkpoint with the earlier time.
        earlier: SignedCheckpoint,
        /// The checkpoint with the later time.
        later: SignedCheckpoint,
    },
    /// The larger tree does not begin with the tree of the smaller checkpoint.
    OtherBeginning {
        /// The one with the smaller size.
        smaller: SignedCheckpoint,
        /// The one with the larger size.
        larger: SignedCheckpoint,
        /// The root of the tree with which the larger tree begins. It differs from that of the smaller checkpoint.
        root: TreeHash,
        /// The proof that the larger tree begins with that root.
        proof: ConsistencyProof,
    },
}

/// Error of [`Contradiction::verify`]: the two checkpoints prove nothing against their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoContradictionError {
    /// A checkpoint is not validly signed by the node.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoints are about different strands, or of different nodes.
    #[error("the checkpoints are not of one node about one strand")]
    OtherStrand,
    /// Both checkpoints can be true.
    #[error("the checkpoints do not contradict each other")]
    Consistent,
    /// The proof does not show how the larger tree begins.
    #[error("the proof that the larger tree contains the smaller one does not verify: {0}")]
    Proof(#[from] ProofError),
}

impl Contradiction {
    /// Compares two checkpoints by their content alone; `None` if both can be true as far as it shows.
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

    /// Checks that the node with this key has contradicted itself, from the checkpoints and the key alone. A
    /// contradiction of an observer is not a proof against it.
    ///
    /// # Errors
    /// The first reason why the checkpoints prove nothing.
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
