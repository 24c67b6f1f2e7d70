//! Uses a database in memory again, because opening one is a good part of the time of a short simulation: about 9 ms on
//! two slow cores (measured).

use std::sync::Arc;

use rocksdb::{DB, ReadOptions, WriteBatch};

use crate::database::{LastingParts, family_of, write_synced};
use crate::error::{DatabaseError, ReadError};
use crate::family::Family;
use crate::open::load_opened;
use crate::opening::{Access, Opening};
use crate::raw_rows::is_empty;
use crate::settings::StoreIdentity;
use crate::store::{Store, StoreState};

impl Store {
    /// Deletes all rows of a database in memory, and returns it as a new one of this owner, with the same price
    /// function. RocksDB keeps the memory of deleted rows, so create another one after some uses. For tests.
    ///
    /// Returns `None` if the database is in a folder, if a clone of the store is in use, or after a failed write. The
    /// database in a folder stays as it is.
    ///
    /// # Panics
    /// When RocksDB fails, or keeps a row.
    #[doc(hidden)]
    #[must_use]
    pub fn emptied(self, identity: StoreIdentity) -> Option<Self> {
        let StoreState { current, how, .. } = Arc::into_inner(self.shared)?;
        let database = Arc::into_inner(current.into_inner())?;
        let is_usable = how.location.folder().is_none()
            && database.poison.cause().is_none()
            && how.lasting.compactions.lock().is_empty();
        if !is_usable {
            return None;
        }
        let db = database.db;
        delete_rows(&db).expect("memory can be read and written");
        for family in Family::ALL {
            let is_empty = is_empty(&db, family).expect("memory can be read");
            assert!(is_empty, "{} still has rows", family.name());
        }
        // The families keep the block cache that they were created with.
        let how = Opening { lasting: LastingParts::default(), ..how };
        let (database, _) = load_opened(db, &how, Some(&identity), Access::ReadWrite)
            .expect("an empty database in memory can be opened");
        Some(Self::new(database, how))
    }
}

/// Deletes each row by its key. A deletion of the whole range would make each later read of the family look for rows in
/// it.
fn delete_rows(db: &DB) -> Result<(), ReadError> {
    let mut batch = WriteBatch::default();
    for family in Family::ALL {
        let family = family_of(db, family);
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        let mut rows = db.raw_iterator_cf_opt(family, options);
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            batch.delete_cf(family, key);
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
    }
    Ok(write_synced(db, batch)?)
}
