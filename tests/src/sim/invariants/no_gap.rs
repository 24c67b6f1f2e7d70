//! Every place up to a strand's head is held or marked.

use hawser_proto::SequenceId;
use hawser_storage::LogItem;

use crate::sim::world::Sim;

impl Sim {
    /// Asserts that the items of each log follow each other up to its head.
    ///
    /// # Panics
    /// Panics if a place is neither held nor marked.
    pub fn assert_no_gap(&self) {
        for node in self.nodes.values() {
            for originator in self.members.clone() {
                let mut reached = SequenceId::NONE;
                for item in node.log(originator, SequenceId::NONE) {
                    let (from, to) = match item {
                        LogItem::Envelope { id, .. } => (id.sequence, id.sequence),
                        LogItem::Skipped { from, through, .. } => (from, through),
                    };
                    assert_eq!(from, reached.next(), "{} has a gap in {originator}", node.id);
                    reached = to;
                }
                let head = node.head(originator);
                assert_eq!(reached, head, "{} has a gap in {originator}", node.id);
            }
        }
    }
}
