//! Acknowledged envelopes stay in the log of the honest node that gave the answer, and reach every honest node.

use hawser_proto::EnvelopeId;

use crate::sim::world::Sim;

impl Sim {
    /// Asserts that each honest node still holds what it has acknowledged.
    ///
    /// # Panics
    /// Panics if one does not.
    pub fn assert_nothing_acknowledged_lost(&self) {
        for id in self.honest() {
            self.assert_holds_acknowledged(id, id);
        }
    }

    /// Asserts that each honest node holds what every honest node has acknowledged.
    pub(in crate::sim) fn assert_acknowledged_everywhere(&self) {
        for originator in self.honest() {
            for node in self.honest() {
                self.assert_holds_acknowledged(node, originator);
            }
        }
    }

    fn assert_holds_acknowledged(
        &self,
        node: hawser_proto::OriginatorId,
        originator: hawser_proto::OriginatorId,
    ) {
        let Some(acknowledged) = self.acknowledged.get(&originator) else { return };
        let snapshot = self.nodes[&node].store.snapshot();
        for (sequence, bytes) in acknowledged {
            let id = EnvelopeId::new(originator, *sequence);
            assert_eq!(snapshot.get(id).unwrap().as_ref(), Some(bytes), "{node} has lost {id}");
        }
    }
}
