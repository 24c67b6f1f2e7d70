//! The memory that a node spends on other nodes has a bound that no peer can change.

use hawser_proto::OriginatorId;

use crate::sim::node::SPLIT_LIMITS;
use crate::sim::world::Sim;

/// Ranges that a follower searches for, and what it keeps of each peer.
const FOLLOWER_MAX: usize = 1024 + 64;
/// Bytes that wait for their turn in a split backlog.
const HELD_MAX: usize = SPLIT_LIMITS.held_bytes_max;
/// Claims that are kept of one peer: 256 about unknown ids, and those about members and strands of the older
/// network.
const CLAIMS_MAX: usize = 256 + 20 + OriginatorId::MIGRATED.len();

impl Sim {
    pub(super) fn assert_bounded_memory(&self, id: OriginatorId) {
        let node = &self.nodes[&id];
        let followed = node.following.keys().filter(|originator| !originator.is_migrated());
        assert!(followed.count() < self.members.len(), "{id} follows strangers");
        for (peer, clock) in &node.clocks {
            let claims = clock.known(|_| true).len();
            assert!(claims <= CLAIMS_MAX, "{id} keeps {claims} claims of {peer}");
        }
        for (originator, following) in &node.following {
            let size = following.follower.size();
            assert!(size <= FOLLOWER_MAX, "{id} keeps {size} of {originator}");
            let held = following.follower.held_bytes();
            assert!(held <= HELD_MAX, "{id} holds {held} bytes of {originator}");
        }
    }
}
