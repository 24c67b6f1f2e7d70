//! What must be true, a file each.

mod durable_le_accepted;
mod no_gap;
mod nothing_forged;
mod same_bytes;

use super::world::Sim;

impl Sim {
    /// What must be true after every write.
    pub(super) fn assert_after_write(&self) {
        self.assert_durable_le_accepted();
    }

    /// What must be true whenever it is looked at.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_invariants(&self) {
        self.assert_durable_le_accepted();
        self.assert_no_gap();
        self.assert_nothing_forged();
        self.assert_same_bytes();
    }
}
