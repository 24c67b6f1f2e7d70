//! The open RocksDB database and the state beside it that all clones of a store share.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use hawser_proto::price::Rate;
use hawser_proto::{EnvelopeId, OriginatorId};
use parking_lot::{Mutex, RwLock};
use rocksdb::{
    ColumnFamily, DB, DEFAULT_COLUMN_FAMILY_NAME, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};

use crate::disk_reserve::DiskReserve;
use crate::error::{CommitError, DatabaseError};
use crate::expired_ends::ExpiredEnds;
use crate::fact_index::{FactIndex, IndexedFacts};
use crate::family::Family;
use crate::held_compactions::HeldCompactions;
use crate::host::{FolderFacts, HostMarker};
use crate::keys::misbehavior::FactKey;
use crate::keys::report::ReportFact;
use crate::last_commit::LastCommit;
use crate::poison::Poison;
use crate::price::PriceFn;
use crate::progress::OlderRows;
use crate::projection::{Projection, is_dropped_with_projections};
use crate::recent::Recent;
use crate::report_version::ReportVersion;
use crate::repricing::Repricing;
use crate::settings::{Durability, StoreIdentity};
use crate::stale::StaleProjections;
use crate::strands::Strands;
use crate::tree_edges::Trees;
use crate::unread::UnreadFamily;
use crate::write_fault::{WriteFault, WriteFaults};

/// The parts of a store that outlive the database when the log is read again. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct LastingParts {
    /// The host marker of the folder; empty if the store was opened without it.
    pub(crate) host: Arc<OnceLock<HostMarker>>,
    pub(crate) disk_reserve: Arc<DiskReserve>,
    pub(crate) faults: Arc<WriteFaults>,
    pub(crate) last_commit: Arc<LastCommit>,
    /// The families whose compactions are paused.
    pub(crate) compactions: Arc<HeldCompactions>,
    /// The version of the recorded events of payer reports. Never locked during a write: readers wait for no disk.
    pub(crate) report_version: Arc<Mutex<ReportVersion>>,
    /// Locked while such events are written, which one writer does at a time.
    pub(crate) report_writes: Arc<Mutex<()>>,
}

/// An open database, and the state in memory that belongs to it.
pub(crate) struct Database {
    pub(crate) db: DB,
    pub(crate) identity: StoreIdentity,
    pub(crate) incarnation: [u8; 16],
    /// `None` for a database in memory.
    pub(crate) path: Option<PathBuf>,
    /// The parts that outlive this database when the log is read again.
    pub(crate) lasting: LastingParts,
    /// True if RocksDB was opened for reading only.
    pub(crate) is_read_only: bool,
    pub(crate) strands: Strands,
    /// The topics of the newest envelopes.
    pub(crate) recent: Recent,
    /// The end of the expired places of each strand.
    pub(crate) expired_ends: ExpiredEnds,
    /// The edges of the strands' trees.
    pub(crate) trees: Trees,
    /// Checkpoints to write before the next search for old ones, by strand and node. Serialises their writes. Nodes
    /// that were ever in the registry have entries, so it stays small.
    pub(crate) checkpoints: Mutex<HashMap<(OriginatorId, OriginatorId), u64>>,
    pub(crate) poison: Poison,
    /// Held shared by commits and exclusively by a rebuild, which therefore sees no log grow.
    pub(crate) gate: RwLock<()>,
    /// Calculates the prices of envelopes.
    pub(crate) price: PriceFn,
    /// The recorded rates, by start ascending. Commits hold it shared, so that an amount is calculated
    /// and written with one state of it.
    pub(crate) rate_list: RwLock<Vec<Rate>>,
    /// True if minutes may be marked to be priced again.
    pub(crate) unpriced: AtomicBool,
    /// The minutes that are being priced again. Its lock is the last one in the lock order.
    pub(crate) repricing: Mutex<Repricing>,
    /// Numbers of envelopes whose stated fees differ from the booked ones, by originator. Bounded by the strands.
    pub(crate) differing_fees: Mutex<BTreeMap<OriginatorId, u64>>,
    /// Serialises ledger writes, so that each payer's entries are numbered without repeats.
    pub(crate) ledger: Mutex<()>,
    /// Serialises writes of evidence, and counts it.
    pub(crate) evidence: IndexedFacts<FactKey>,
    /// Serialises writes of reports, and counts them.
    pub(crate) reports: IndexedFacts<ReportFact>,
    /// The place up to which topic rows of an older format have been converted; `None` if there are none.
    pub(crate) older_rows: Mutex<Option<OlderRows>>,
    /// True if the next rebuild would resume an interrupted one.
    pub(crate) rebuilt_in_part: AtomicBool,
    /// Held while envelopes are pruned: one step at a time.
    pub(crate) pruning: Mutex<()>,
    /// Projections whose rows must be rebuilt before use.
    pub(crate) stale: StaleProjections,
    /// Families that could not be read when the database was opened.
    pub(crate) unread: Vec<UnreadFamily>,
    durable: WriteOptions,
    buffered: WriteOptions,
    /// Reads the newest rows without the disk.
    memory_only: ReadOptions,
}

/// The parts of a [`Database`] that opening has read or created.
pub(crate) struct OpenedDatabase {
    pub(crate) db: DB,
    pub(crate) identity: StoreIdentity,
    pub(crate) incarnation: [u8; 16],
    pub(crate) path: Option<PathBuf>,
    pub(crate) lasting: LastingParts,
    pub(crate) is_read_only: bool,
    pub(crate) heads: Vec<EnvelopeId>,
    pub(crate) stale: Vec<Projection>,
    pub(crate) durability: Durability,
    pub(crate) price: PriceFn,
    pub(crate) rates: Vec<Rate>,
    pub(crate) has_unpriced: bool,
    pub(crate) evidence: FactIndex<FactKey>,
    pub(crate) reports: FactIndex<ReportFact>,
    pub(crate) older_rows: Option<OlderRows>,
    pub(crate) rebuilt_in_part: bool,
    pub(crate) unread: Vec<UnreadFamily>,
}

impl Database {
    /// Creates the state in memory for an opened database.
    pub(crate) fn new(opened: OpenedDatabase) -> Self {
        let mut durable = WriteOptions::default();
        durable.set_sync(opened.durability == Durability::Fsync);
        let mut memory_only = ReadOptions::default();
        memory_only.set_read_tier(ReadTier::BlockCache);
        Self {
            db: opened.db,
            identity: opened.identity,
            incarnation: opened.incarnation,
            path: opened.path,
            lasting: opened.lasting,
            is_read_only: opened.is_read_only,
            recent: Recent::new(&opened.heads),
            strands: opened.heads.into_iter().collect(),
            expired_ends: ExpiredEnds::default(),
            trees: Trees::default(),
            checkpoints: Mutex::default(),
            poison: if opened.is_read_only { Poison::with(READ_ONLY) } else { Poison::default() },
            gate: RwLock::default(),
            price: opened.price,
            rate_list: RwLock::new(opened.rates),
            unpriced: AtomicBool::new(opened.has_unpriced),
            repricing: Mutex::default(),
            differing_fees: Mutex::default(),
            ledger: Mutex::default(),
            evidence: IndexedFacts::new(opened.evidence),
            reports: IndexedFacts::new(opened.reports),
            older_rows: Mutex::new(opened.older_rows),
            rebuilt_in_part: AtomicBool::new(opened.rebuilt_in_part),
            pruning: Mutex::default(),
            stale: StaleProjections::new(opened.stale),
            unread: opened.unread,
            durable,
            buffered: WriteOptions::default(),
            memory_only,
        }
    }

    pub(crate) fn family(&self, family: Family) -> &ColumnFamily {
        family_of(&self.db, family)
    }

    /// Returns true if memory alone shows that a family has no row of this key. Never waits for the disk: if the answer
    /// is there, returns false.
    pub(crate) fn lacks_in_memory(&self, family: &ColumnFamily, key: &[u8]) -> bool {
        let found = self.db.get_pinned_cf_opt(family, key, &self.memory_only);
        // An error excludes nothing. A read of the disk meets it, too.
        matches!(found, Ok(None))
    }

    /// Returns the facts about the folder that the host marker records, for a generation.
    pub(crate) fn folder_facts(&self, generation: u64) -> FolderFacts {
        let head = *self.strands.head(self.identity.node).lock();
        FolderFacts { incarnation: self.incarnation, generation, inode: 0, head }
    }

    /// Writes one batch that changes the log, its marks or projections, and returns when it is durable.
    pub(crate) fn write_change(&self, mut batch: WriteBatch) -> Result<(), CommitError> {
        let is_in_part = self.rebuilt_in_part.load(Ordering::Acquire);
        if is_in_part {
            self.stage_rebuild_from_the_beginning(&mut batch)?;
        }
        self.write_durable(batch)?;
        if is_in_part {
            self.rebuilt_in_part.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Writes one batch and returns when it is durable. RocksDB appends it to its write-ahead
    /// log, syncs that, and only then shows it to readers.
    pub(crate) fn write_durable(&self, batch: WriteBatch) -> Result<(), CommitError> {
        #[cfg(feature = "faults")]
        if crate::faults::is_on(crate::faults::SeededFault::LostSync) {
            return self.write(batch, &self.buffered);
        }
        self.write(batch, &self.durable)
    }

    /// Writes one batch without a sync. It becomes durable with the next durable write.
    pub(crate) fn write_buffered(&self, batch: WriteBatch) -> Result<(), CommitError> {
        self.write(batch, &self.buffered)
    }

    /// Checks that a write may begin: none has failed, and the disk has room.
    pub(crate) fn check_writable(&self) -> Result<(), CommitError> {
        self.poison.check()?;
        self.lasting.disk_reserve.check()
    }

    fn write(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), CommitError> {
        self.poison.check()?;
        let written = match self.lasting.faults.next() {
            None => self.db.write_opt(batch, options).map_err(DatabaseError::from),
            Some(fault) => {
                if fault == WriteFault::Kept {
                    self.lasting.faults.keep(batch);
                }
                Err(DatabaseError::injected())
            }
        };
        written.map_err(|cause| self.fail_write(cause))
    }

    /// Refuses all writes from now on, because one has failed for this reason.
    pub(crate) fn fail_write(&self, cause: DatabaseError) -> CommitError {
        let text = cause.to_string();
        self.lasting.compactions.note_failure(&text);
        self.poison.set(&text);
        CommitError::Write(cause)
    }

    /// Returns the size on disk, or in memory for an in-memory database, in bytes.
    pub(crate) fn disk_bytes(&self) -> u64 {
        match &self.path {
            Some(path) => folder_bytes(path),
            None => self.sum_of_families(&IN_MEMORY),
        }
    }

    /// Sums integer properties of RocksDB over all families. Unknown properties count as 0.
    pub(crate) fn sum_of_families(&self, properties: &[&str]) -> u64 {
        Family::ALL
            .into_iter()
            .flat_map(|family| properties.iter().map(move |property| (family, *property)))
            .filter_map(|(family, property)| {
                self.db.property_int_value_cf(self.family(family), property).ok().flatten()
            })
            .fold(0, u64::saturating_add)
    }
}

/// The cause of refused writes of a database that was opened for reading only.
const READ_ONLY: &str = "the disk cannot be written to";

/// Properties that add up to the size of an in-memory family.
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

/// Writes one batch and syncs it, independently of the durability setting of commits.
pub(crate) fn write_synced(db: &DB, batch: WriteBatch) -> Result<(), DatabaseError> {
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    Ok(db.write_opt(batch, &synced)?)
}

/// Returns the handle of a family.
///
/// If the disk fails after projections were dropped, their families may not exist, and the database is opened for
/// reading only. The empty default family of RocksDB then takes their place. Opening for writes creates them.
///
/// # Panics
/// If the family does not exist; opening creates every family.
pub(crate) fn family_of(db: &DB, family: Family) -> &ColumnFamily {
    let made = db.cf_handle(family.name());
    // Every RocksDB database has the default family. It is never written to.
    let default = || db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME);
    let instead = || is_dropped_with_projections(family).then(default).flatten();
    made.or_else(instead).expect("every family is made when the database is opened")
}
