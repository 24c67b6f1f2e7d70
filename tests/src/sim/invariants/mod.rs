//! Invariants of the simulated network, a file each.

mod all_running;
mod all_verified;
mod bounded_memory;
mod cursors_on_disk;
mod durable_le_accepted;
mod equal_strands;
mod evidence_verifies;
mod liar_named;
mod no_gap;
mod no_honest_guilty;
mod none_passed_over;
mod nothing_acknowledged_lost;
mod nothing_forged;
mod readable;
mod same_bytes;

pub use evidence_verifies::FiledFault;

use hawser_proto::OriginatorId;

use super::world::Sim;

impl Sim {
    /// Asserts the invariants that hold at a node after every write.
    pub(super) fn assert_after_write(&self, node: OriginatorId) {
        self.assert_durable_le_accepted(node);
        self.assert_bounded_memory(node);
    }

    /// Asserts the invariants that hold at any time.
    ///
    /// # Panics
    /// Panics if an invariant does not hold.
    pub fn assert_invariants(&self) {
        for &node in self.nodes.keys() {
            self.assert_durable_le_accepted(node);
            self.assert_bounded_memory(node);
        }
        self.assert_cursors_on_disk();
        self.assert_no_gap();
        self.assert_nothing_forged();
        self.assert_same_bytes();
        self.assert_nothing_acknowledged_lost();
        self.assert_no_honest_guilty();
    }
}
