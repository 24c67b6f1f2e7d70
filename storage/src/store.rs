//! The open database that everything else works on.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};

use hawser_proto::{EnvelopeId, SequenceId};
use rocksdb::{ColumnFamily, DB, WriteBatch, WriteOptions};

use crate::commit::CommitError;
use crate::error::DatabaseError;
use crate::family::Family;
use crate::keys::Key;
use crate::keys::cursor::{CursorKey, CursorName};
use crate::locks::lock;
use crate::poison::Poison;
use crate::projection_rows::Projection;
use crate::settings::{Durability, Identity};
use crate::snapshot::{ReadError, Snapshot};
use crate::strands::Strands;

/// One open database: the log and its projections. Clones share it; the last one closes it.
///
/// Everything here blocks on the disk and is meant to be called from threads that may.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones of a [`Store`] share.
pub(crate) struct Inner {
    pub(crate) db: DB,
    pub(crate) identity: Identity,
    pub(crate) incarnation: [u8; 16],
    /// `None` for a database in memory.
    pub(crate) path: Option<PathBuf>,
    pub(crate) strands: Strands,
    pub(crate) poison: Poison,
    /// Commits hold it shared, a rebuild alone.
    pub(crate) gate: RwLock<()>,
    /// Held while rates are compared and written.
    pub(crate) rates: Mutex<()>,
    /// Held while entries of the ledger get their order.
    pub(crate) ledger: Mutex<()>,
    pub(crate) stale: Mutex<Vec<Projection>>,
    durable: WriteOptions,
    buffered: WriteOptions,
}

/// What opening has learned about a database.
pub(crate) struct Opened {
    pub(crate) db: DB,
    pub(crate) identity: Identity,
    pub(crate) incarnation: [u8; 16],
    pub(crate) path: Option<PathBuf>,
    pub(crate) heads: Vec<EnvelopeId>,
    pub(crate) stale: Vec<Projection>,
    pub(crate) durability: Durability,
}

impl Store {
    /// Whose database this is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Random, made together with the database; a copy of the folder has the same.
    #[must_use]
    pub fn incarnation(&self) -> [u8; 16] {
        self.inner.incarnation
    }

    /// A view of everything that is durable now. Later commits do not change it. It keeps old
    /// rows from being cleaned up, so drop it when the answer is made.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.inner)
    }

    /// The projections whose rows were made by other code than this, or whose rebuild was
    /// interrupted. They are to be rebuilt before anything reads them.
    #[must_use]
    pub fn stale_projections(&self) -> Vec<&'static str> {
        lock(&self.inner.stale).iter().map(|projection| projection.name()).collect()
    }

    /// True after a write has failed: nothing more is accepted until the process restarts.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.inner.poison.is_set()
    }

    /// What the database takes: of the disk, or of memory for one that lives there. 0 when it
    /// cannot be told.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }

    /// What background work still has to rewrite, as RocksDB estimates it. 0 when it cannot be
    /// told.
    #[must_use]
    pub fn compaction_pending_bytes(&self) -> u64 {
        self.inner.sum_of_families(&["rocksdb.estimate-pending-compaction-bytes"])
    }

    /// For tests: the next write fails as a broken disk would make it fail.
    #[doc(hidden)]
    pub fn fail_next_write(&self) {
        self.inner.poison.inject();
    }

    /// Writes out what is in memory only, so that the next start has no write-ahead log to read
    /// back. Costs as much as writing the memory tables, 128 MiB at most. Commits and readers go
    /// on meanwhile.
    ///
    /// # Errors
    /// When RocksDB fails. What is durable stays so: the write-ahead log still has it.
    pub fn flush(&self) -> Result<(), DatabaseError> {
        for family in Family::ALL {
            self.inner.db.flush_cf(self.inner.family(family))?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("identity", self.identity()).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn new(opened: Opened) -> Self {
        let mut durable = WriteOptions::default();
        durable.set_sync(opened.durability == Durability::Fsync);
        Self {
            db: opened.db,
            identity: opened.identity,
            incarnation: opened.incarnation,
            path: opened.path,
            strands: opened.heads.into_iter().collect(),
            poison: Poison::default(),
            gate: RwLock::default(),
            rates: Mutex::default(),
            ledger: Mutex::default(),
            stale: Mutex::new(opened.stale),
            durable,
            buffered: WriteOptions::default(),
        }
    }

    pub(crate) fn family(&self, family: Family) -> &ColumnFamily {
        family_of(&self.db, family)
    }

    /// Writes one batch and returns when it is durable. RocksDB appends it to its write-ahead
    /// log, syncs that, and only then shows it to readers.
    pub(crate) fn write_durable(&self, batch: WriteBatch) -> Result<(), CommitError> {
        self.write(batch, &self.durable)
    }

    /// Writes one batch that becomes durable with the next durable one.
    pub(crate) fn write_buffered(&self, batch: WriteBatch) -> Result<(), CommitError> {
        self.write(batch, &self.buffered)
    }

    fn write(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), CommitError> {
        self.poison.check()?;
        let written = if self.poison.take_injected() {
            Err(DatabaseError::injected())
        } else {
            self.db.write_opt(batch, options).map_err(DatabaseError::from)
        };
        written.map_err(|cause| {
            self.poison.set(&cause);
            CommitError::Write(cause)
        })
    }

    fn disk_bytes(&self) -> u64 {
        match &self.path {
            Some(path) => folder_bytes(path),
            None => self.sum_of_families(&IN_MEMORY),
        }
    }

    fn sum_of_families(&self, properties: &[&str]) -> u64 {
        Family::ALL
            .into_iter()
            .flat_map(|family| properties.iter().map(move |property| (family, *property)))
            .filter_map(|(family, property)| {
                self.db.property_int_value_cf(self.family(family), property).ok().flatten()
            })
            .fold(0, u64::saturating_add)
    }
}

/// What a family without files to count takes.
const IN_MEMORY: [&str; 3] = [
    "rocksdb.total-sst-files-size",
    "rocksdb.total-blob-file-size",
    "rocksdb.cur-size-all-mem-tables",
];

fn folder_bytes(path: &std::path::Path) -> u64 {
    let Ok(files) = std::fs::read_dir(path) else { return 0 };
    files
        .filter_map(|file| file.ok()?.metadata().ok())
        .filter(std::fs::Metadata::is_file)
        .fold(0, |sum, file| sum.saturating_add(file.len()))
}

pub(crate) fn family_of(db: &DB, family: Family) -> &ColumnFamily {
    db.cf_handle(family.name()).expect("every family is made when the database is opened")
}

/// The heads of all strands, as stored.
pub(crate) fn load_heads(db: &DB) -> Result<Vec<EnvelopeId>, ReadError> {
    let name = CursorName::Head.as_bytes();
    let mut rows = db.raw_iterator_cf(family_of(db, CursorKey::FAMILY));
    rows.seek(name);
    collect_heads(&mut rows)
}

/// Reads head rows from where `rows` stands to their end.
pub(crate) fn collect_heads(
    rows: &mut rocksdb::DBRawIterator<'_>,
) -> Result<Vec<EnvelopeId>, ReadError> {
    let mut heads = Vec::new();
    while let Some((key, value)) = rows.item() {
        let corrupt = || ReadError::corrupt(CursorKey::FAMILY, key);
        let cursor = CursorKey::decode(key).ok_or_else(corrupt)?;
        if cursor.name != CursorName::Head {
            break;
        }
        let sequence = crate::keys::decode_u64(value).ok_or_else(corrupt)?;
        heads.push(EnvelopeId::new(cursor.originator, SequenceId(sequence)));
        rows.next();
    }
    rows.status().map_err(DatabaseError::from)?;
    Ok(heads)
}
