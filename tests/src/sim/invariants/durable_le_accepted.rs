//! A follower never takes for durable what it has not accepted, nor what is not on disk.

use crate::sim::world::Sim;

impl Sim {
    pub(super) fn assert_durable_le_accepted(&self) {
        for node in self.nodes.values() {
            for (originator, following) in &node.following {
                let (durable, accepted) =
                    (following.follower.durable(), following.follower.accepted());
                assert!(durable <= accepted, "{}: {originator}", node.id);
                assert!(durable <= node.head(*originator), "{}: {originator}", node.id);
            }
        }
    }
}
