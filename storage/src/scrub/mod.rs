//! Reading everything back that a database holds, to find what a disk has damaged, and putting it back.
//!
//! - `report`: the findings;
//! - `families`: every row of every family, with RocksDB's checksums;
//! - `strands`: every envelope against its leaf, and every leaf against the root of its tree;
//! - `repair`: damaged parts are put back; `block`: a block of a table file, made again from its rows.
//!
//! A checkpoint is read and not the open database, whose caches would hide what has happened to the disk
//! since.

mod block;
mod families;
mod repair;
mod report;
mod strands;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use rocksdb::checkpoint::Checkpoint;

use crate::database::Database;
use crate::error::DatabaseError;
use crate::folder::{remove_scrub_checkpoint, scrub_checkpoint_folder};
use crate::open::load;
use crate::opening::{Access, Location, Opening};
use crate::options::{CACHE_BYTES_MIN, OPEN_FILES_MAX};
use crate::settings::Durability;
use crate::store::Store;
use report::Scrub;

pub use repair::{LostPlace, Overwritten, RepairError};
pub use report::{Damage, ScrubError, ScrubReport};

impl Store {
    /// Reads everything back that is durable now, from the disk: each row with its checksum, each envelope
    /// with its leaf, each tree with its root. Commits and readers go on meanwhile. `pace` is called with the
    /// bytes that were read, waits as long as the work has to pause, and says if it goes on.
    ///
    /// Compactions of families with damage rest from then on, until [`Store::hold_compactions`] says otherwise.
    ///
    /// # Errors
    /// [`ScrubError`]. Damage that was found is no error: [`ScrubReport::damages`] names it. If a compaction has met damage
    /// before, the store is poisoned: a scrub succeeds after [`Store::reopen`].
    pub fn scrub(
        &self,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ScrubReport, ScrubError> {
        let (report, ()) = self.read_copy(pace, |database, scrub| {
            families::read(database, scrub)?;
            strands::read(database, scrub)
        })?;
        self.hold_compactions(&report.damages);
        Ok(report)
    }

    /// Reads a damaged part again, bypassing the database's caches. Bytes that were just written come from the system's
    /// page cache. Returns the damage that is left in the part.
    ///
    /// # Errors
    /// As [`Store::scrub`].
    pub fn recheck(
        &self,
        damage: &Damage,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Vec<Damage>, ScrubError> {
        let (report, ()) =
            self.read_copy(pace, |database, scrub| read_part(database, damage, scrub))?;
        Ok(report.damages)
    }

    /// Reads something of everything that is durable now, with empty caches.
    fn read_copy<T>(
        &self,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
        read: impl FnOnce(&Arc<Database>, &mut Scrub<'_>) -> Result<T, ScrubError>,
    ) -> Result<(ScrubReport, T), ScrubError> {
        let data = self.path().ok_or(ScrubError::InMemory)?;
        let _alone = self.shared.scrubbing.try_lock().ok_or(ScrubError::Busy)?;
        remove_scrub_checkpoint(data)?;
        let checkpoint = scrub_checkpoint_folder(data);
        let taken = self.take_copy(&checkpoint);
        let done = taken.and_then(|()| {
            let location = Location::Folder(checkpoint, OPEN_FILES_MAX);
            let price = self.shared.how.price;
            let how = Opening::new(location, Durability::Fsync, price, None, CACHE_BYTES_MIN);
            let (database, _) = load(&how, None, Access::ReadOnly)?;
            let mut scrub = Scrub { report: ScrubReport::default(), pace, untold: 0 };
            let value = read(&database, &mut scrub)?;
            Ok((scrub.report, value))
        });
        // A failure to remove it is told by the next scrub, which cannot begin then.
        let _ = remove_scrub_checkpoint(data);
        done
    }
}

impl Store {
    fn take_copy(&self, folder: &Path) -> Result<(), ScrubError> {
        let database = self.database();
        let taken = Checkpoint::new(&database.db).and_then(|it| it.create_checkpoint(folder));
        taken.map_err(|error| {
            let error = DatabaseError::from(error);
            // A compaction has met damage, so RocksDB takes no writes until it is opened again.
            if database.lasting.compactions.note_failure(&error.to_string()) {
                database.poison.set(&error.to_string());
            }
            error.into()
        })
    }
}

/// Reads the places of one damaged part again.
fn read_part(
    database: &Arc<Database>,
    damage: &Damage,
    scrub: &mut Scrub<'_>,
) -> Result<(), ScrubError> {
    families::read_part(database, damage, scrub)?;
    if scrub.report.damages.is_empty() {
        strands::read_part(database, damage, scrub)?;
    }
    Ok(())
}
