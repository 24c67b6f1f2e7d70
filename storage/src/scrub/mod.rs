//! Reading everything back that a database holds, to find what a disk has damaged.
//!
//! - `report`: the findings;
//! - `families`: every row of every family, with RocksDB's checksums;
//! - `strands`: every envelope against its leaf, and every leaf against the root of its tree.
//!
//! A checkpoint is read and not the open database, whose caches would hide what has happened to the disk
//! since.

mod families;
mod report;
mod strands;

use std::ops::ControlFlow;

use rocksdb::checkpoint::Checkpoint;

use crate::error::DatabaseError;
use crate::folder::{checkpoint_folder, remove_checkpoint};
use crate::open::load;
use crate::opening::{Access, Location, Opening};
use crate::options::{CACHE_BYTES_MIN, OPEN_FILES_MAX};
use crate::settings::Durability;
use crate::store::Store;
use report::Scrub;

pub use report::{Damage, ScrubError, ScrubReport};

impl Store {
    /// Reads everything back that is durable now, from the disk: each row with its checksum, each envelope
    /// with its leaf, each tree with its root. Commits and readers go on meanwhile. `pace` is called with the
    /// bytes that were read, waits as long as the work has to pause, and says if it goes on.
    ///
    /// # Errors
    /// [`ScrubError`]. Damage that was found is no error: [`ScrubReport::damages`] names it.
    pub fn scrub(
        &self,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ScrubReport, ScrubError> {
        let data = self.path().ok_or(ScrubError::InMemory)?;
        let _alone = self.shared.backing_up.try_lock().ok_or(ScrubError::Busy)?;
        remove_checkpoint(data)?;
        let checkpoint = checkpoint_folder(data);
        let taken = Checkpoint::new(&self.database().db)
            .and_then(|it| it.create_checkpoint(&checkpoint))
            .map_err(|error| DatabaseError::from(error).into());
        let done = taken.and_then(|()| {
            let location = Location::Folder(checkpoint, OPEN_FILES_MAX);
            let price = self.shared.how.price;
            let how = Opening::new(location, Durability::Fsync, price, None, CACHE_BYTES_MIN);
            let (database, _) = load(&how, None, Access::ReadOnly)?;
            let mut scrub = Scrub { report: ScrubReport::default(), pace, untold: 0 };
            families::read(&database, &mut scrub)?;
            strands::read(&database, &mut scrub)?;
            Ok(scrub.report)
        });
        // A failure to remove it is told by the next scrub or backup, which cannot begin then.
        let _ = remove_checkpoint(data);
        done
    }
}
