//! Disputed trees of strands, from the exchange of checkpoints to the tasks that follow the strands.

use std::collections::BTreeMap;

use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::Mutex;

/// The last places of two trees of a strand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DisputedTree {
    /// The last place of the newest tree on which the holder of the other one and this node agree.
    pub(super) agreed: SequenceId,
    /// The last place of the other tree.
    pub(super) disputed: SequenceId,
}

/// The trees that the tasks of strands have not taken yet: of each strand, the last one of each peer that holds another
/// one. Bounded by the nodes of the registry: the exchange examines checkpoints of no others.
#[derive(Debug, Default)]
pub(super) struct DisputedTrees(
    Mutex<BTreeMap<OriginatorId, BTreeMap<OriginatorId, DisputedTree>>>,
);

impl DisputedTrees {
    /// Adds a tree of a strand of which `holder` holds another one.
    pub(super) fn add(&self, strand: OriginatorId, holder: OriginatorId, tree: DisputedTree) {
        self.0.lock().entry(strand).or_default().insert(holder, tree);
    }

    /// Takes those of a strand.
    pub(super) fn take(&self, strand: OriginatorId) -> BTreeMap<OriginatorId, DisputedTree> {
        self.0.lock().remove(&strand).unwrap_or_default()
    }
}
