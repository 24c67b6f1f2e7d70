//! The families whose compactions rest; see `compactions`.

use parking_lot::{Mutex, MutexGuard};

use crate::family::Family;

/// The beginning of RocksDB's words for bytes that are not those that were written.
const CORRUPTION: &str = "Corruption:";

/// The families whose compactions rest. Outlives the open database.
#[derive(Debug, Default)]
pub(crate) struct HeldCompactions(Mutex<Vec<Family>>);

impl HeldCompactions {
    /// Returns the families, to be changed.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Family>> {
        self.0.lock()
    }

    /// Returns true if compactions of the family rest.
    pub(crate) fn holds(&self, family: Family) -> bool {
        self.0.lock().contains(&family)
    }

    /// Notes a failed write. If damage was the reason, all compactions rest from the next opening on, until a scrub says
    /// what is damaged. Returns true then.
    pub(crate) fn note_failure(&self, cause: &str) -> bool {
        let is_damage = cause.starts_with(CORRUPTION);
        if is_damage {
            *self.0.lock() = Family::ALL.to_vec();
        }
        is_damage
    }
}
