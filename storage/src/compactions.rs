//! Pauses compactions of column families with damaged files. A compaction that reads damage fails, and RocksDB then
//! refuses writes until it is opened again; but damage must not stop publishing.

use crate::database::Database;
use crate::family::Family;
use crate::scrub::Damage;
use crate::store::Store;

/// RocksDB's option.
const OPTION: &str = "disable_auto_compactions";

impl Store {
    /// Notes that a reader has met damage, so that a scrub should search for it.
    pub fn note_read_damage(&self) {
        self.database().lasting.compactions.note_read_damage();
    }

    /// Returns true if a compaction or a noted reader has met damage since the last call, so that a scrub should search
    /// for it.
    #[must_use]
    pub fn take_met_damage(&self) -> bool {
        self.database().lasting.compactions.take_met_damage()
    }

    /// Returns true if compactions of any family are paused.
    #[must_use]
    pub fn holds_compactions(&self) -> bool {
        !self.database().lasting.compactions.lock().is_empty()
    }

    /// Pauses compactions of the families with these damages, and resumes those of all others. Files of paused
    /// families are not merged, so reads take longer.
    pub fn hold_compactions<'a>(&self, damages: impl IntoIterator<Item = &'a Damage>) {
        let names: Vec<_> = damages.into_iter().map(|it| it.family).collect();
        let database = self.database();
        let of = |family: &Family| names.contains(&family.name());
        let held: Vec<Family> = Family::ALL.into_iter().filter(of).collect();
        let mut before = database.lasting.compactions.lock();
        for family in Family::ALL {
            let is_held = held.contains(&family);
            if is_held != before.contains(&family) {
                database.hold(family, is_held);
            }
        }
        *before = held;
    }
}

impl Database {
    /// Pauses or resumes compactions of a family.
    fn hold(&self, family: Family, is_held: bool) {
        let value = if is_held { "true" } else { "false" };
        if let Err(error) = self.db.set_options_cf(self.family(family), &[(OPTION, value)]) {
            // The next opening does it.
            tracing::warn!(%error, family = family.name(), "compactions cannot be paused or resumed");
        }
    }
}
