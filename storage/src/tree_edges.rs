//! The edges of the strands' trees in memory.

use std::collections::HashMap;

use hawser_proto::OriginatorId;
use hawser_proto::merkle::CompactRange;
use parking_lot::Mutex;

use crate::error::ReadError;

/// The edges of all trees, each changed only under its strand's lock.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    edges: Mutex<HashMap<OriginatorId, CompactRange>>,
    /// Locked while a step adds missing leaves to a tree.
    pub(crate) steps: Mutex<()>,
}

impl Trees {
    /// Returns the edge of a strand's tree, which `load` reads the first time.
    pub(crate) fn get(
        &self,
        originator: OriginatorId,
        load: impl FnOnce() -> Result<CompactRange, ReadError>,
    ) -> Result<CompactRange, ReadError> {
        if let Some(edge) = self.edges.lock().get(&originator) {
            return Ok(edge.clone());
        }
        let edge = load()?;
        self.edges.lock().insert(originator, edge.clone());
        Ok(edge)
    }

    /// Sets an edge whose rows are written.
    ///
    /// # Panics
    /// If the tree had more leaves before: only after [`forget`](Self::forget) it may have fewer.
    pub(crate) fn set(&self, originator: OriginatorId, edge: CompactRange) {
        let size = edge.size();
        let before = self.edges.lock().insert(originator, edge);
        assert!(before.is_none_or(|before| before.size() <= size), "a tree never shrinks");
    }

    /// Forgets a strand whose rows were removed.
    pub(crate) fn forget(&self, originator: OriginatorId) {
        self.edges.lock().remove(&originator);
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::merkle::{LeafData, leaf_hash};

    use super::*;

    #[test]
    #[should_panic(expected = "a tree never shrinks")]
    fn the_edge_of_a_shorter_tree_is_not_taken() {
        let (originator, trees) = (OriginatorId(100), Trees::default());
        let mut edge = CompactRange::default();
        let shorter = edge.clone();
        edge.append(leaf_hash(LeafData::Void), |_, _| {});
        trees.set(originator, edge);
        trees.set(originator, shorter);
    }
}
