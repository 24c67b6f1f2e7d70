//! Drops projections that the disk has damaged. After deletions of rows their damaged files would remain, and each
//! compaction that reads them would fail and end all writes. So the families themselves are dropped with their
//! files. RocksDB drops a family only while nothing else uses the database, that is during opening.

use rocksdb::{DB, WriteBatch};

use crate::database::{family_of, write_synced};
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::meta::MetaKey;
use crate::meta;
use crate::projection::{Projection, ProjectionSet};
use crate::store::Store;
use crate::write_fault::WriteFaults;

/// The cause of refused writes from the mark until the log has been read again.
const CONDEMNED: &str =
    "projections are damaged: their files are dropped when the log is read again";

impl Store {
    /// Marks the projections in these column families, and those that are built together with them (usage and
    /// message counts), to be dropped with their files when the log is read again: by [`Store::reopen`], which this
    /// makes necessary, or at the next start. From now on none of them can be read until [`Store::rebuild`] has ended.
    /// The other projections stay readable. Log, marks and records stay.
    ///
    /// # Errors
    /// An error if the disk refuses the write: nothing is dropped then.
    pub fn condemn_damaged(&self, families: &[&str]) -> Result<(), CommitError> {
        let database = self.database();
        database.check_writable()?;
        let _no_commits = database.gate_for_a_step()?;
        let damaged = Projection::ALL.into_iter().filter(|it| families.contains(&it.name()));
        // Projections that another rebuild has not finished, or that this version has to rebuild, are incomplete too.
        let set = ProjectionSet::of(damaged.chain(database.stale.list())).with_companions();
        let mut batch = WriteBatch::default();
        meta::put_condemned(&database.db, &mut batch, set);
        database.stale.add(set);
        database.recent.forget_all();
        database.write_durable(batch)?;
        database.poison.set(CONDEMNED);
        Ok(())
    }
}

/// Records that all projections are to be dropped, and built from the log.
pub(crate) fn note(db: &DB, faults: &WriteFaults) -> Result<(), DatabaseError> {
    let mut batch = WriteBatch::default();
    meta::put_condemned(db, &mut batch, ProjectionSet::all());
    write(db, faults, batch)
}

/// Drops the families of condemned projections with their files. Returns the projections: if there are any, the
/// caller has to create their families and call [`settle`].
pub(crate) fn drop_condemned(db: &mut DB) -> Result<ProjectionSet, ReadError> {
    let set = meta::condemned(db)?;
    if set == ProjectionSet::default() {
        return Ok(set);
    }
    for family in Family::ALL.into_iter().filter(|it| set.covers(*it)) {
        if db.cf_handle(family.name()).is_some() {
            db.drop_cf(family.name()).map_err(DatabaseError::from)?;
        }
    }
    tracing::warn!("dropped the files of damaged projections");
    Ok(set)
}

/// Records that the families are empty, and that a rebuild starts from the beginning. After a crash before this
/// they are dropped again.
pub(crate) fn settle(
    db: &DB,
    faults: &WriteFaults,
    emptied: ProjectionSet,
) -> Result<(), DatabaseError> {
    let mut batch = WriteBatch::default();
    meta::put_emptied(db, &mut batch, emptied);
    if emptied.contains(Projection::Topic) {
        batch.delete_cf(family_of(db, Family::Meta), MetaKey::OlderTopicRows.encode());
    }
    write(db, faults, batch)
}

fn write(db: &DB, faults: &WriteFaults, batch: WriteBatch) -> Result<(), DatabaseError> {
    match faults.next() {
        Some(_) => Err(DatabaseError::injected()),
        None => write_synced(db, batch),
    }
}
