//! Every envelope up to what a node has verified was signed by its originator for this very place.

use hawser_proto::SequenceId;
use hawser_storage::LogItem;

use crate::sim::strands::judge_by;
use crate::sim::world::Sim;

impl Sim {
    /// Asserts that each envelope up to the verified end of each log was signed for its place.
    ///
    /// # Panics
    /// Panics if one was not.
    pub fn assert_nothing_forged(&self) {
        for node in self.nodes.values() {
            for originator in self.members.clone() {
                let verified = node.verified_head(originator);
                for item in node.log(originator, SequenceId::NONE) {
                    let LogItem::Envelope { id, bytes, validity } = item else { continue };
                    if id.sequence > verified {
                        break;
                    }
                    let absences = node.absences_of(originator);
                    let judged = judge_by(&absences, originator, node.id, &bytes);
                    let entry = judged.unwrap_or_else(|error| {
                        panic!("{} holds {id}, which was not signed: {error}", node.id)
                    });
                    assert_eq!(entry.id, id, "{}", node.id);
                    // Marks are set again once the running write is on disk.
                    let is_judged = !node.is_outdated || absences.is_empty();
                    assert!(!is_judged || entry.validity == validity, "{}: {id}", node.id);
                }
            }
        }
    }
}
