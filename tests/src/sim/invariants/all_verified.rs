//! After all faults have ended, honest nodes show their readers verified envelopes only, withdrawn ones are held as
//! evidence, and trees are equal at nodes that have shown envelopes before verifying them and at those that have not.

use hawser_proto::SequenceId;
use hawser_storage::{LogItem, Mark, Validity};

use crate::sim::members::LIAR;
use crate::sim::world::Sim;

impl Sim {
    /// Asserts that honest nodes show nothing that they have not verified, and hold what they have withdrawn.
    ///
    /// # Panics
    /// Panics if one does not.
    pub fn assert_all_verified(&self) {
        for id in self.honest() {
            let node = &self.nodes[&id];
            assert_eq!(node.store.unverified().unwrap(), [], "{id} still shows these");
            let withdrawn = node.log(LIAR, SequenceId::NONE).into_iter().filter(|item| {
                matches!(item, LogItem::Envelope { validity: Validity::Invalid(_), .. })
            });
            assert!(withdrawn.count() as u64 >= node.withdrawn, "{id} has lost evidence");
            let snapshot = node.store.snapshot();
            for item in node.log(LIAR, SequenceId::NONE) {
                let LogItem::Envelope { id: at, validity: Validity::Invalid(rule), .. } = item
                else {
                    continue;
                };
                assert_eq!(snapshot.mark(at).unwrap(), Some(Mark::Invalid(rule)), "{id}: {at}");
            }
        }
    }

    /// Asserts that the trees of honest strands are those of their own nodes, or their beginnings before a place that
    /// stays empty.
    pub(in crate::sim) fn assert_equal_trees(&self) {
        for id in self.honest().into_iter().filter(|id| !self.gone.contains(id)) {
            self.nodes[&id].extend_trees();
        }
        for originator in self.honest().into_iter().filter(|id| !self.gone.contains(id)) {
            let own = self.nodes[&originator].store.snapshot();
            let is_skip = |item: &LogItem| matches!(item, LogItem::Skipped { .. });
            let has_gaps =
                self.nodes[&originator].log(originator, SequenceId::NONE).iter().any(is_skip);
            for id in self.honest().into_iter().filter(|id| !self.gone.contains(id)) {
                let held = self.nodes[&id].store.snapshot();
                let size = held.tree_size(originator).unwrap();
                let of_own = own.tree_size(originator).unwrap();
                assert!(size == of_own || (has_gaps && size < of_own), "{id}: {originator}");
                let root = held.root(originator, size).unwrap();
                assert_eq!(root, own.root(originator, size).unwrap(), "{id}: {originator}");
            }
        }
    }
}
