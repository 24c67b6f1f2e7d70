//! No clock of an honest node claims a place that is not on that node's disk, or not verified.

use crate::sim::members::LIAR;
use crate::sim::world::Sim;

impl Sim {
    pub(super) fn assert_cursors_on_disk(&self) {
        for node in self.nodes.values() {
            for (peer, clock) in node.clocks.iter().filter(|(peer, _)| **peer != LIAR) {
                let claims = clock.known(|_| true);
                for claim in claims.iter().filter(|it| !self.is_mute(*peer, it.originator)) {
                    let head = self.nodes[peer].verified_head(claim.originator);
                    assert!(claim.sequence <= head, "{peer} claims {claim} and holds {head}");
                }
            }
        }
    }
}
