//! Checkpoints of one strand that a source holds in memory.

use hawser_proto::OriginatorId;
use hawser_proto::checkpoint::CosignedCheckpoint;

/// The checkpoints of one strand, signed by any nodes, in any order. Each call looks at all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckpointList<'a>(&'a [CosignedCheckpoint]);

impl<'a> CheckpointList<'a> {
    /// Borrows the checkpoints. All are of one strand, which is not checked.
    #[must_use]
    pub fn new(checkpoints: &'a [CosignedCheckpoint]) -> Self {
        Self(checkpoints)
    }

    /// Returns the nodes that have signed a checkpoint, ascending, each once.
    #[must_use]
    pub fn nodes(self) -> Vec<OriginatorId> {
        let mut nodes: Vec<_> = self.0.iter().map(|it| it.signed.checkpoint.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Returns the checkpoint of a node with the smallest size above `size`.
    #[must_use]
    pub fn after(self, node: OriginatorId, size: u64) -> Option<&'a CosignedCheckpoint> {
        let later = self.of(node).filter(|it| it.signed.checkpoint.size > size);
        later.min_by_key(|it| it.signed.checkpoint.size)
    }

    /// Returns the checkpoint of a node with the largest size up to `size_max`.
    #[must_use]
    pub fn up_to(self, node: OriginatorId, size_max: u64) -> Option<&'a CosignedCheckpoint> {
        let within = self.of(node).filter(|it| it.signed.checkpoint.size <= size_max);
        within.max_by_key(|it| it.signed.checkpoint.size)
    }

    fn of(self, node: OriginatorId) -> impl Iterator<Item = &'a CosignedCheckpoint> {
        self.0.iter().filter(move |it| it.signed.checkpoint.node == node)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::checkpoint::Checkpoint;
    use hawser_proto::merkle::TreeHash;

    use super::*;
    use crate::replay::testing::{NODE, key};

    #[test]
    fn the_nearest_checkpoint_of_a_node_is_found_in_any_order() {
        let other = OriginatorId(NODE.0 + 100);
        let of = |(node, size)| {
            let root = TreeHash([7; 32]);
            let checkpoint = Checkpoint { node, originator: NODE, size, root, time_ns: size };
            CosignedCheckpoint::from(checkpoint.sign(&key(1)))
        };
        let all = [(other, 25), (NODE, 30), (NODE, 10), (NODE, 20)].map(of);
        let list = CheckpointList::new(&all);
        let size = |it: Option<&CosignedCheckpoint>| it.map(|it| it.signed.checkpoint.size);
        assert_eq!(list.nodes(), [NODE, other]);
        assert_eq!(
            [0, 10, 29, 30].map(|at| size(list.after(NODE, at))),
            [Some(10), Some(20), Some(30), None]
        );
        assert_eq!(
            [9, 10, 29, 99].map(|at| size(list.up_to(NODE, at))),
            [None, Some(10), Some(20), Some(30)]
        );
        assert_eq!(size(list.after(other, 0)), Some(25));
        assert!(CheckpointList::default().nodes().is_empty());
    }
}
