//! The trees of a store, as checkpoints are compared with them.

use hawser_proto::OriginatorId;
use hawser_proto::merkle::{ConsistencyProof, TreeHash};
use hawser_storage::Snapshot;

use super::checkpoints::Trees;

/// The trees that a store has at one moment, as far as their envelopes are verified. An unreadable size counts as
/// not reached yet, and a checkpoint waits for it.
pub struct StoredTrees<'a>(pub &'a Snapshot<'a>);

impl Trees for StoredTrees<'_> {
    fn size(&self, originator: OriginatorId) -> u64 {
        self.0.verified_tree_size(originator).unwrap_or(0)
    }

    fn root(&self, originator: OriginatorId, size: u64) -> Option<TreeHash> {
        (size <= self.size(originator)).then(|| self.0.root(originator, size).ok())?
    }

    fn consistency(
        &self,
        originator: OriginatorId,
        from: u64,
        to: u64,
    ) -> Option<ConsistencyProof> {
        (to <= self.size(originator)).then(|| self.0.consistency(originator, from, to).ok())?
    }
}
