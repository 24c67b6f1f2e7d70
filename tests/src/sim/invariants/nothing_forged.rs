//! Every stored envelope was signed by its originator for this very place.

use hawser_proto::SequenceId;
use hawser_storage::LogItem;

use crate::sim::strands::judge;
use crate::sim::world::Sim;

impl Sim {
    pub(super) fn assert_nothing_forged(&self) {
        for node in self.nodes.values() {
            for originator in self.members.clone() {
                for item in node.log(originator, SequenceId::NONE) {
                    let LogItem::Envelope { id, bytes, validity } = item else { continue };
                    let entry = judge(originator, node.id, &bytes).expect("signed");
                    assert_eq!((entry.id, entry.validity), (id, validity), "{}", node.id);
                }
            }
        }
    }
}
