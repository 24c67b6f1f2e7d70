//! The result of taking over or reading the strands of a snapshot.

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::{OriginatorId, SequenceId};

/// Counts of a strand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StrandCounts {
    /// The number of envelopes written by this run.
    pub envelopes: u64,
    /// The number of this run's envelopes that are hidden from readers, because they break a rule.
    pub invalid: u64,
    /// The number of this run's sequence ids without an envelope.
    pub missing: u64,
}

impl StrandCounts {
    /// Returns the sums of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            envelopes: self.envelopes + other.envelopes,
            invalid: self.invalid + other.invalid,
            missing: self.missing + other.missing,
        }
    }
}

/// A strand that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedStrand {
    /// The strand.
    pub originator: OriginatorId,
    /// Its last sequence id in this log.
    pub head: SequenceId,
    /// Counts.
    pub reached: StrandCounts,
    /// The largest checkpoint whose tree matches the envelopes, with its valid cosignatures; `None` if there is none.
    /// Later envelopes are verified only by their own signatures.
    pub covered: Option<CosignedCheckpoint>,
    /// True if a checkpoint could not be compared, because an earlier sequence id has no envelope.
    pub is_tree_short: bool,
    /// The grounds for taking a chain's strand; `None` for a node's strand.
    pub of_chain: Option<FetchedChain>,
    /// The number of its last sequence ids whose signatures the node verifies after its start, because enough nodes
    /// vouch for a tree with them.
    pub unverified: u64,
}

impl FetchedStrand {
    /// Creates the result of a strand whose tree is not compared yet, and whose places are all verified.
    pub(super) fn new(originator: OriginatorId, head: SequenceId, reached: StrandCounts) -> Self {
        Self {
            originator,
            head,
            reached,
            covered: None,
            is_tree_short: false,
            of_chain: None,
            unverified: 0,
        }
    }
}

/// The grounds for taking a chain's strand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedChain {
    /// The nodes of the network that signed its tree, ascending.
    pub nodes: Vec<OriginatorId>,
    /// The number of envelopes that were confirmed by the node's own endpoints of the chain.
    pub confirmed: u64,
    /// The first block that the node reads from the chain itself.
    pub next_block: u64,
}

/// A strand of a snapshot that was read completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedStrand {
    /// The strand.
    pub originator: OriginatorId,
    /// The sequence id of its last envelope; 0 if it has none. The snapshot may state a later end, which nothing shows.
    pub last: SequenceId,
    /// The number of its envelopes.
    pub envelopes: u64,
    /// True if each envelope was verified with the originator's key.
    pub is_signed: bool,
    /// The largest checkpoint whose tree matches the envelopes.
    pub covered: Option<CosignedCheckpoint>,
    /// True if a checkpoint could not be compared, because an earlier sequence id has no envelope.
    pub is_tree_short: bool,
}
