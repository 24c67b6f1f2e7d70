//! The strands of a copy, as they were taken over or read.

use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::{OriginatorId, SequenceId};

/// Counts of a strand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reached {
    /// Envelopes that this run has written.
    pub envelopes: u64,
    /// Envelopes of this run that readers do not get, because they break a rule.
    pub invalid: u64,
    /// Places of this run without an envelope.
    pub missing: u64,
}

/// A strand that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedStrand {
    /// The strand.
    pub originator: OriginatorId,
    /// Its last place here.
    pub head: SequenceId,
    /// Counts.
    pub reached: Reached,
    /// The largest checkpoint whose tree came out of the envelopes, with the cosignatures that hold; `None` if none
    /// did. Envelopes behind it are checked by their own signatures alone.
    pub covered: Option<CosignedCheckpoint>,
    /// True if a checkpoint could not be compared, because a place before its end has no envelope.
    pub is_tree_short: bool,
    /// The grounds on which a chain's strand was taken; `None` for that of a node.
    pub of_chain: Option<FetchedChain>,
}

/// The grounds on which a chain's strand was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedChain {
    /// The nodes of the network whose word it is, ascending.
    pub nodes: Vec<OriginatorId>,
    /// Envelopes that the node's own endpoints of the chain were asked for.
    pub confirmed: u64,
    /// The block from which on the node reads the chain itself.
    pub next_block: u64,
}

/// A strand of a copy that was read as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedStrand {
    /// The strand.
    pub originator: OriginatorId,
    /// Its last place, as the copy says.
    pub head: SequenceId,
    /// Its envelopes.
    pub envelopes: u64,
    /// True if each envelope was checked by the key of its node.
    pub is_signed: bool,
    /// The largest checkpoint whose tree came out of the envelopes.
    pub covered: Option<CosignedCheckpoint>,
    /// True if a checkpoint could not be compared, because a place before its end has no envelope.
    pub is_tree_short: bool,
}
