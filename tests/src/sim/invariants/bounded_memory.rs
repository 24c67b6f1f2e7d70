//! Memory that a node spends on other nodes has a bound that no peer can move.

use crate::sim::node::SPLIT_LIMITS;
use crate::sim::world::Sim;

/// Ranges that a follower searches for, and what it keeps of each peer.
const FOLLOWER_MAX: usize = 1024 + 64;
/// Bytes that wait for their turn in a split backlog.
const HELD_MAX: usize = SPLIT_LIMITS.held_bytes_max;
/// Claims that are kept of one peer: 256 about strangers, and those about members.
const CLAIMS_MAX: usize = 256 + 5;

impl Sim {
    pub(super) fn assert_bounded_memory(&self) {
        for node in self.nodes.values() {
            assert!(node.following.len() < self.members.len(), "{} follows strangers", node.id);
            for (peer, clock) in &node.clocks {
                let claims = clock.known(|_| true).len();
                assert!(claims <= CLAIMS_MAX, "{} keeps {claims} claims of {peer}", node.id);
            }
            for (originator, following) in &node.following {
                let size = following.follower.size();
                assert!(size <= FOLLOWER_MAX, "{} keeps {size} of {originator}", node.id);
                let held = following.follower.held_bytes();
                assert!(held <= HELD_MAX, "{} holds {held} bytes of {originator}", node.id);
            }
        }
    }
}
