//! No honest node is ever accused, for any behaviour of the network, the clocks and a liar.

use std::fmt::Debug;

use hawser_proto::OriginatorId;
use hawser_storage::EvidenceTime;

use crate::sim::members::LIAR;
use crate::sim::world::Sim;

impl Sim {
    pub(super) fn assert_no_honest_guilty(&self) {
        for id in self.honest() {
            let snapshot = self.nodes[&id].store.snapshot();
            let all = snapshot.evidence(EvidenceTime::default(), usize::MAX, usize::MAX).unwrap();
            for found in all {
                let (at, fault) = (found.evidence.at, found.evidence.misbehavior);
                self.assert_not_honest(id, at.originator, &fault);
            }
        }
    }

    /// Asserts that the node that `id` accuses is the liar.
    pub(in crate::sim) fn assert_not_honest(
        &self,
        id: OriginatorId,
        accused: OriginatorId,
        fault: &dyn Debug,
    ) {
        assert!(self.has_liar && accused == LIAR, "{id} accuses {accused} of {fault:?}");
    }
}
