//! Every place up to a strand's head is held or marked.

use hawser_proto::SequenceId;
use hawser_storage::LogItem;

use crate::sim::world::Sim;

impl Sim {
    pub(super) fn assert_no_gap(&self) {
        for node in self.nodes.values() {
            for originator in self.members.clone() {
                let mut reached = SequenceId::NONE;
                for item in node.log(originator, SequenceId::NONE) {
                    let (from, to) = match item {
                        LogItem::Envelope { id, .. } => (id.sequence, id.sequence),
                        LogItem::Skipped { from, through, .. } => (from, through),
                    };
                    assert_eq!(from, reached.next(), "{}: {originator}", node.id);
                    reached = to;
                }
                assert_eq!(reached, node.head(originator), "{}: {originator}", node.id);
            }
        }
    }
}
