//! Nodes that are registered, chosen and dismissed in any order.

use hawser_chain::contracts::NodeRegistry::{
    addToNetworkCall, canonicalNodesCountCall, getAllNodesCall, getCanonicalNodesCall,
    removeFromNetworkCall, updateMaxCanonicalNodesCall,
};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::harness::actors::{Caller as _, admin, anyone};
use crate::harness::network::TestNetwork;

pub(super) async fn run(w: &TestNetwork, rng: &mut StdRng, steps: usize) {
    let mut model = Model { registered: 0, canonical: vec![], max: 100 };
    for _ in 0..steps {
        // Sometimes a node that does not exist.
        let node_id = rng.random_range(1..=model.registered + 1) * 100;
        match rng.random_range(0..10) {
            0..2 => model.register(w).await,
            2..6 => model.choose(w, node_id).await,
            6..9 => model.dismiss(w, node_id).await,
            _ => model.limit(w, rng.random_range(0..8)).await,
        }
        model.compare(w).await;
    }
}

struct Model {
    registered: u32,
    /// In the registry's order.
    canonical: Vec<u32>,
    max: usize,
}

impl Model {
    async fn register(&mut self, w: &TestNetwork) {
        self.registered += 1;
        w.add_node(self.registered * 100).await;
    }

    async fn choose(&mut self, w: &TestNetwork, nodeId_: u32) {
        let tx = admin().calls(w.at.nodes, addToNetworkCall { nodeId_ });
        let expected = if nodeId_ > self.registered * 100 {
            Err("ERC721NonexistentToken")
        } else if self.canonical.contains(&nodeId_) {
            Ok(())
        } else if self.canonical.len() >= self.max {
            Err("MaxCanonicalNodesReached")
        } else {
            self.canonical.push(nodeId_);
            Ok(())
        };
        super::ledger::expect(w, tx, expected).await;
    }

    async fn dismiss(&mut self, w: &TestNetwork, nodeId_: u32) {
        let tx = admin().calls(w.at.nodes, removeFromNetworkCall { nodeId_ });
        let place = self.canonical.iter().position(|id| *id == nodeId_);
        let is_known = nodeId_ <= self.registered * 100;
        super::ledger::expect(w, tx, is_known.then_some(()).ok_or("ERC721NonexistentToken")).await;
        if let Some(place) = place {
            self.canonical.swap_remove(place);
        }
    }

    async fn limit(&mut self, w: &TestNetwork, max: u32) {
        w.set("xmtp.nodeRegistry.maxCanonicalNodes", u64::from(max)).await;
        let max = usize::try_from(max).unwrap();
        let tx = anyone().calls(w.at.nodes, updateMaxCanonicalNodesCall {});
        let expected = if max == self.max {
            Err("NoChange")
        } else if max < self.canonical.len() {
            Err("MaxCanonicalNodesBelowCurrentCount")
        } else {
            self.max = max;
            Ok(())
        };
        super::ledger::expect(w, tx, expected).await;
    }

    async fn compare(&self, w: &TestNetwork) {
        let at = w.at.nodes;
        assert_eq!(w.read(at, getCanonicalNodesCall {}).await, self.canonical);
        let count = w.read(at, canonicalNodesCountCall {}).await;
        assert_eq!(usize::from(count), self.canonical.len());
        let all = w.read(at, getAllNodesCall {}).await;
        let ids: Vec<u32> = all.iter().map(|it| it.nodeId).collect();
        assert_eq!(ids, (1..=self.registered).map(|n| n * 100).collect::<Vec<_>>());
        for it in all {
            assert_eq!(it.node.isCanonical, self.canonical.contains(&it.nodeId));
        }
    }
}
