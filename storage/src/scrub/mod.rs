//! Reads a whole database back to find damage by the disk, and repairs it.
//!
//! - `report`: the findings;
//! - `families`: every row of every family, with RocksDB's checksums;
//! - `strands`: every envelope against its leaf, and every leaf against the root of its tree;
//! - `repair`: repairs damaged parts; `block`: reconstructs a block of a table file from its rows.
//!
//! A checkpoint of the database is read instead of the open one, whose caches would hide damage on the disk.

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

pub use repair::{LostPlace, OverwrittenBlock, RepairError};
pub use report::{Damage, ScrubError, ScrubReport};

impl Store {
    /// Reads all durable rows back from the disk: each row with its checksum, each envelope with its leaf, each
    /// tree with its root. Commits and reads continue meanwhile. `pace` is called with the number of bytes read,
    /// sleeps as long as the work has to pause, and returns `Break` to cancel it.
    ///
    /// Compactions of families with damage stay paused until [`Store::hold_compactions`] resumes them.
    ///
    /// # Errors
    /// [`ScrubError`]. Found damage is not an error; it is in [`ScrubReport::damages`]. If a compaction has met
    /// damage before, the store is poisoned, and a scrub succeeds only after [`Store::reopen`].
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

    /// Reads a damaged part again, bypassing the database's caches. Bytes that were just written come from the
    /// system's page cache. Returns the remaining damage in the part.
    ///
    /// # Errors
    /// The errors of [`Store::scrub`].
    pub fn recheck(
        &self,
        damage: &Damage,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Vec<Damage>, ScrubError> {
        let (report, ()) =
            self.read_copy(pace, |database, scrub| read_part(database, damage, scrub))?;
        Ok(report.damages)
    }

    /// Runs a read on a checkpoint of the durable state, with empty caches.
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
        // If this fails, the next scrub fails with the error, because the folder exists.
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
            // A compaction has met damage, so RocksDB refuses writes until it is opened again.
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
