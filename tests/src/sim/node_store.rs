//! The stores of simulated nodes. Opening one is a good part of the time of a run, so a node gets the store of a node
//! of an earlier run, emptied. A run of one seed alone (`HAWSER_TEST_SEED`) has new ones.

use std::cell::RefCell;
use std::ops::Deref;

use hawser_proto::OriginatorId;
use hawser_storage::{Store, StoreIdentity};

use super::strands::public_key;
use super::world::Sim;

/// Nodes that use a store, one after the other. RocksDB keeps deleted rows in memory, and a search for the last leaf of
/// a tree passes them one by one. Measured with 60 seeds of the scripted liars, the longest test: 8.2 s of computing
/// time with eight uses, 6.9 s with four or three, 6.6 s with two. The test of the hostile node gains nothing, and all
/// others together 6 %.
const USES_MAX: u32 = 4;

thread_local! {
    /// The stores that no node of this thread uses any more, each with the number of nodes that have used it.
    static UNUSED: RefCell<Vec<(Store, u32)>> = const { RefCell::new(Vec::new()) };
}

/// The store of one simulated node. A later node of the same thread gets it.
pub(super) struct NodeStore {
    /// Present until this value is dropped.
    store: Option<Store>,
    /// The number of nodes that have used it, this one included.
    uses: u32,
}

impl NodeStore {
    pub(super) fn new(node: OriginatorId) -> Self {
        let public_key = public_key(node);
        let identity = StoreIdentity { network: "sim".to_owned(), node, public_key };
        let unused = UNUSED.with_borrow_mut(Vec::pop);
        let emptied = unused.and_then(|(store, uses)| {
            let store = store.emptied(identity.clone())?;
            Some((store, uses + 1))
        });
        let (store, uses) = emptied.unwrap_or_else(|| {
            (Store::in_memory(identity, hawser_engine::price::price).unwrap(), 1)
        });
        Self { store: Some(store), uses }
    }
}

impl Deref for NodeStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store.as_ref().expect("it is present until this value is dropped")
    }
}

impl Drop for NodeStore {
    fn drop(&mut self) {
        // A failed run may have left it in any state.
        if let Some(store) = self.store.take()
            && self.uses < USES_MAX
            && !std::thread::panicking()
        {
            UNUSED.with_borrow_mut(|unused| unused.push((store, self.uses)));
        }
    }
}

impl Sim {
    /// Returns the number of nodes whose stores were used before, by nodes of earlier runs.
    #[must_use]
    pub fn used_stores(&self) -> usize {
        self.nodes.values().filter(|node| node.store.uses > 1).count()
    }
}
