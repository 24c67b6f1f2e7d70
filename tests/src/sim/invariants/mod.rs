//! Invariants of the simulated network, a file each.

mod all_running;
mod bounded_memory;
mod durable_le_accepted;
mod equal_strands;
mod no_gap;
mod nothing_forged;
mod readable;
mod same_bytes;

use super::world::Sim;

impl Sim {
    /// Asserts the invariants that hold after every write.
    pub(super) fn assert_after_write(&self) {
        self.assert_durable_le_accepted();
        self.assert_bounded_memory();
    }

    /// Asserts the invariants that hold at any time.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_invariants(&self) {
        self.assert_durable_le_accepted();
        self.assert_bounded_memory();
        self.assert_no_gap();
        self.assert_nothing_forged();
        self.assert_same_bytes();
    }
}
