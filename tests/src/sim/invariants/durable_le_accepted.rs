//! A follower never counts a place as durable that it has not accepted, or that is not on disk.

use hawser_proto::OriginatorId;

use crate::sim::world::Sim;

impl Sim {
    pub(super) fn assert_durable_le_accepted(&self, id: OriginatorId) {
        let node = &self.nodes[&id];
        // One for all strands: this runs after each write.
        let snapshot = node.store.snapshot();
        for (originator, following) in &node.following {
            let (durable, accepted) = (following.follower.durable(), following.follower.accepted());
            let is_durable = durable <= snapshot.head(*originator).unwrap();
            assert!(durable <= accepted, "{id} has not accepted {originator} up to {durable}");
            assert!(is_durable, "{id} does not hold {originator} up to {durable}");
        }
    }
}
