//! Reads the log again after a failed write, while readers continue.
//!
//! Only the disk shows the effect of a failed write: RocksDB keeps its memory tables, and a later successful sync
//! proves nothing about bytes that an earlier one has lost. So the database is closed and opened again. The rows
//! that are then read are authoritative, and RocksDB has written them to synced table files first.
//!
//! Readers never wait. While the database is closed for writing, they use one that was opened for reading
//! only, which writes and locks nothing.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::EnvelopeId;

use crate::database::Database;
use crate::error::DatabaseError;
use crate::lost_manifest::no_database;
use crate::open::{has_database, load, prepare_folder};
use crate::open_error::OpenError;
use crate::opening::Access;
use crate::store::Store;

/// Pause between two checks if operations still hold a database that has to be closed. A guess: most operations
/// take less.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The cause of refused writes between reading the log again and [`Store::accept_writes`].
const READ_AGAIN: &str = "the log is being read again after a failed write";

impl Store {
    /// Reads the log again after a failed write, or after a start from a disk that could not be written to. Does
    /// nothing if commits are accepted. They stay refused until [`Store::accept_writes`], so that the caller can
    /// first handle envelopes that the log has gained. Reads continue meanwhile.
    ///
    /// Waits for all earlier operations and [`Snapshot`](crate::Snapshot)s, so the caller must not hold one.
    ///
    /// # Errors
    /// [`OpenError`]: writes stay refused, and reads continue. The caller should try again later.
    pub fn reopen(&self) -> Result<(), OpenError> {
        let mut durable = self.shared.reopening.lock();
        let before = self.database();
        if before.poison.cause().is_none() {
            return Ok(());
        }
        if let Some(folder) = self.path() {
            // A missing folder must not be created again: an empty strand would start at 1 again.
            if !has_database(folder) {
                return Err(no_database(folder));
            }
            prepare_folder(folder)?;
        }
        if !before.is_read_only {
            *durable = before.durable_heads();
            self.close(before)?;
        }
        let (database, header) = load(&self.shared.how, None, Access::ReadWrite)?;
        self.require_same(&database)?;
        database.require_heads(&durable)?;
        database.poison.set(READ_AGAIN);
        drop(self.replace(database));
        self.judge(&header)
    }

    /// Accepts commits after [`Store::reopen`]. Does nothing while the database is open for reading only, or if a write
    /// has failed since.
    pub fn accept_writes(&self) {
        let database = self.database();
        if !database.is_read_only && database.poison.cause().as_deref() == Some(READ_AGAIN) {
            database.poison.clear();
        }
    }

    /// Refuses a database that has replaced this one in the folder.
    fn require_same(&self, database: &Database) -> Result<(), OpenError> {
        if database.incarnation == self.incarnation() && database.identity == *self.identity() {
            return Ok(());
        }
        Err(OpenError::Corrupt {
            cause: "the folder holds another database than the one that was opened".to_owned(),
        })
    }

    /// Sets the database, and returns the earlier one, which is closed when the last operation drops it.
    fn replace(&self, database: Arc<Database>) -> Arc<Database> {
        std::mem::replace(&mut *self.shared.current.write(), database)
    }

    /// Closes a database whose writes have failed. Readers get one that is open for reading only.
    fn close(&self, before: Arc<Database>) -> Result<(), OpenError> {
        // The other database would miss files that this one deletes.
        before.db.disable_file_deletions().map_err(DatabaseError::from)?;
        let (for_reading, _) = load(&self.shared.how, None, Access::ReadOnly)?;
        self.require_same(&for_reading)?;
        drop(self.replace(for_reading));
        let mut before = before;
        loop {
            match Arc::try_unwrap(before) {
                Ok(database) => {
                    for batch in self.shared.how.lasting.faults.take_kept() {
                        database.db.write(batch).map_err(DatabaseError::from)?;
                    }
                    return Ok(());
                }
                Err(held) => before = held,
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Database {
    /// Returns the heads of all strands once no commit is under way. Called after a failed write, after which no
    /// commit reaches the disk.
    fn durable_heads(&self) -> Vec<EnvelopeId> {
        let _no_commits = self.gate.write();
        self.strands.heads()
    }

    /// Compares the heads that were read again with those that were durable.
    ///
    /// # Errors
    /// An error if the disk has lost synced writes.
    fn require_heads(&self, durable: &[EnvelopeId]) -> Result<(), OpenError> {
        for head in durable {
            let found = *self.strands.head(head.originator).lock();
            if found < head.sequence {
                let cause = format!(
                    "strand {} ends at {found}, and was durable up to {}",
                    head.originator, head.sequence
                );
                return Err(OpenError::Corrupt { cause });
            }
        }
        Ok(())
    }
}
