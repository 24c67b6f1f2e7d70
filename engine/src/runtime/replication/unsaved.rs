//! Checkpoints that wait for the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use hawser_proto::checkpoint::CosignedCheckpoint;

use crate::replication::CheckpointPair;

/// Checkpoints of one pair that wait. A guess: about as many as a node may show in one round. There are more only while
/// nothing can be written.
const OF_PAIR_MAX: usize = 32;

/// Checkpoints that are to be written, by pair and size.
///
/// A node can sign one for each place of its strand, and a disk can be full for days. So the smallest ones of a pair
/// are dropped: no peer has been shown them, and the larger ones cover the same places.
#[derive(Debug, Default)]
pub(super) struct UnsavedCheckpoints(
    BTreeMap<CheckpointPair, BTreeMap<u64, Arc<CosignedCheckpoint>>>,
);

impl UnsavedCheckpoints {
    /// Adds a checkpoint, in place of another one of the same pair and size.
    pub(super) fn insert(&mut self, checkpoint: Arc<CosignedCheckpoint>) {
        let of = checkpoint.signed.checkpoint;
        let of_pair = self.0.entry((of.node, of.originator)).or_default();
        of_pair.insert(of.size, checkpoint);
        while of_pair.len() > OF_PAIR_MAX {
            of_pair.pop_first();
        }
    }

    /// Returns the checkpoint of a pair with this size.
    pub(super) fn get(&self, pair: CheckpointPair, size: u64) -> Option<&Arc<CosignedCheckpoint>> {
        self.0.get(&pair)?.get(&size)
    }

    /// Returns all of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &CosignedCheckpoint> {
        self.0.values().flat_map(BTreeMap::values).map(|it| &**it)
    }

    /// Removes all of them: they are written.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::merkle::TreeHash;
    use hawser_proto::{OriginatorId, SecretKey};

    use super::*;

    fn checkpoint(node: u32, size: u64) -> Arc<CosignedCheckpoint> {
        let node = OriginatorId(node);
        let of = Checkpoint { node, originator: node, size, root: TreeHash([1; 32]), time_ns: 1 };
        Arc::new(of.sign(&SecretKey::from_bytes(&[7; 32]).unwrap()).into())
    }

    #[test]
    fn a_node_that_signs_every_place_while_nothing_can_be_written_fills_bounded_memory() {
        let mut unsaved = UnsavedCheckpoints::default();
        unsaved.insert(checkpoint(200, 5));
        for size in 1..=500 {
            unsaved.insert(checkpoint(300, size));
        }
        let of = |node| (OriginatorId(node), OriginatorId(node));
        assert_eq!(unsaved.all().count(), OF_PAIR_MAX + 1);
        assert!(unsaved.get(of(200), 5).is_some(), "it costs no other node anything");
        assert!(unsaved.get(of(300), 500).is_some(), "the newest one is kept");
        unsaved.clear();
        assert_eq!(unsaved.all().count(), 0);
    }
}
