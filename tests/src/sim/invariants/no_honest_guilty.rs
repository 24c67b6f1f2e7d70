//! No honest node is ever accused, for any behaviour of the network, the clocks and a liar.

use hawser_storage::EvidenceTime;

use crate::sim::members::LIAR;
use crate::sim::world::Sim;

impl Sim {
    pub(super) fn assert_no_honest_guilty(&self) {
        for id in self.honest() {
            let snapshot = self.nodes[&id].store.snapshot();
            let all = snapshot.evidence(EvidenceTime::default(), usize::MAX, usize::MAX).unwrap();
            for found in all {
                let (at, fault) = (found.evidence.at, found.evidence.misbehavior.label());
                assert!(self.has_liar && at.originator == LIAR, "{id} accuses {at} of {fault}");
            }
        }
    }
}
