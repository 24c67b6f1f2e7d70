//! Projections that the disk has damaged. Their files would stay behind deletions, and each compaction that reads
//! them would fail and end all writes. So the families themselves are dropped, with their files. RocksDB drops a family
//! only of a database that nothing else uses, which it is while it is being opened.

use rocksdb::{DB, WriteBatch};

use crate::database::{family_of, write_synced};
use crate::error::{CommitError, DatabaseError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::meta::MetaKey;
use crate::meta;
use crate::projection::is_dropped_with_projections;
use crate::store::Store;
use crate::write_fault::WriteFaults;

/// The cause of refused writes from then on, until the log has been read again.
const CONDEMNED: &str =
    "projections are damaged: their files are dropped when the log is read again";

impl Store {
    /// Has all projections dropped, with their files, when the log is read again: by [`Store::reopen`], which this
    /// makes necessary, or at the next start. None of them can be read from now on, until [`Store::rebuild`] has
    /// ended. Log, marks and records stay.
    ///
    /// # Errors
    /// When the disk takes no write: nothing is dropped then.
    pub fn condemn_projections(&self) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let _no_commits = database.gate.write();
        let mut batch = WriteBatch::default();
        meta::put_condemned(&database.db, &mut batch);
        database.stale.add_all();
        database.recent.forget_all();
        database.write_durable(batch)?;
        database.poison.set(CONDEMNED);
        Ok(())
    }
}

/// Notes that the projections are dropped, and are made from the log.
pub(crate) fn note(db: &DB, faults: &WriteFaults) -> Result<(), DatabaseError> {
    let mut batch = WriteBatch::default();
    meta::put_condemned(db, &mut batch);
    write(db, faults, batch)
}

/// Drops the families of condemned projections, with their files. Returns true if there were any: their families are
/// to be made then, and [`settle`] is to be called.
pub(crate) fn drop_condemned(db: &mut DB) -> Result<bool, crate::error::ReadError> {
    if !meta::are_condemned(db)? {
        return Ok(false);
    }
    for family in Family::ALL.into_iter().filter(|it| is_dropped_with_projections(*it)) {
        if db.cf_handle(family.name()).is_some() {
            db.drop_cf(family.name()).map_err(DatabaseError::from)?;
        }
    }
    tracing::warn!("dropped the files of damaged projections");
    Ok(true)
}

/// Notes that the families are empty, and that a rebuild begins from the beginning. A crash before that has them
/// dropped again.
pub(crate) fn settle(db: &DB, faults: &WriteFaults) -> Result<(), DatabaseError> {
    let mut batch = WriteBatch::default();
    let family = family_of(db, Family::Meta);
    batch.put_cf(family, MetaKey::Rebuilding.encode(), []);
    batch.delete_cf(family, MetaKey::OlderTopicRows.encode());
    write(db, faults, batch)
}

fn write(db: &DB, faults: &WriteFaults, batch: WriteBatch) -> Result<(), DatabaseError> {
    match faults.next() {
        Some(_) => Err(DatabaseError::injected()),
        None => write_synced(db, batch),
    }
}
