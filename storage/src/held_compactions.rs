//! The families whose compactions are paused; see `compactions`.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::error::CORRUPTION;
use crate::family::Family;

/// The families whose compactions are paused. Outlives the open database.
#[derive(Debug, Default)]
pub(crate) struct HeldCompactions {
    families: Mutex<Vec<Family>>,
    /// A write has failed because of damage, or a reader has met some.
    has_met_damage: AtomicBool,
}

impl HeldCompactions {
    /// Locks the families for changes.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Family>> {
        self.families.lock()
    }

    /// Returns true if compactions of the family are paused.
    pub(crate) fn holds(&self, family: Family) -> bool {
        self.families.lock().contains(&family)
    }

    /// Notes that a reader has met damage. Compactions go on.
    pub(crate) fn note_read_damage(&self) {
        self.has_met_damage.store(true, Ordering::Release);
    }

    /// Returns true if a write has failed because of damage, or a reader has met some, since the last call.
    pub(crate) fn take_met_damage(&self) -> bool {
        self.has_met_damage.swap(false, Ordering::AcqRel)
    }

    /// Records a failed write. If damage was the cause, pauses all compactions from the next opening on until a
    /// scrub has found the damage, and returns true.
    pub(crate) fn note_failure(&self, cause: &str) -> bool {
        let is_damage = cause.starts_with(CORRUPTION);
        if is_damage {
            *self.families.lock() = Family::ALL.to_vec();
            self.has_met_damage.store(true, Ordering::Release);
        }
        is_damage
    }
}
