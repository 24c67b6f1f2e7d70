//! The handle to an open database.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::{EnvelopeId, SequenceId};
use parking_lot::{Mutex, RwLock};

use crate::database::Database;
use crate::disk_reserve::DiskReserveSettings;
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::family::Family;
use crate::host::{FolderStanding, HostMarker, HostMarkerError, UnknownFolder};
use crate::meta::{self, write_generation};
use crate::opening::Opening;
use crate::projection::{Projection, ProjectionSet};
use crate::settings::StoreIdentity;
use crate::snapshot::Snapshot;
use crate::unread::UnreadFamily;
use crate::write_fault::WriteFault;

/// An open database: the log and its projections. Clones share it; dropping the last one closes it.
///
/// Every method may block on the disk, so async code calls them from blocking threads.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<StoreState>,
}

/// The state that all clones of a [`Store`] share.
pub(crate) struct StoreState {
    identity: StoreIdentity,
    incarnation: [u8; 16],
    /// Replaced when the log is read again. Operations hold their own handle and never this lock.
    pub(crate) current: RwLock<Arc<Database>>,
    pub(crate) how: Opening,
    /// The heads that were durable before the log is read again. Locked while that happens.
    pub(crate) reopening: Mutex<Vec<EnvelopeId>>,
    /// Held while a backup is created.
    pub(crate) backing_up: Mutex<()>,
    /// Held during a scrub or a recheck.
    pub(crate) scrubbing: Mutex<()>,
}

impl Store {
    pub(crate) fn new(database: Arc<Database>, how: Opening) -> Self {
        let (identity, incarnation) = (database.identity.clone(), database.incarnation);
        let current = RwLock::new(database);
        let (reopening, backing_up) = (Mutex::default(), Mutex::default());
        let scrubbing = Mutex::default();
        let state =
            StoreState { identity, incarnation, current, how, reopening, backing_up, scrubbing };
        Self { shared: Arc::new(state) }
    }

    /// Returns the current database. An operation calls this once, so that it never mixes states from before and
    /// after the log was read again.
    pub(crate) fn database(&self) -> Arc<Database> {
        Arc::clone(&self.shared.current.read())
    }

    /// Returns the network, node and key that the database belongs to.
    #[must_use]
    pub fn identity(&self) -> &StoreIdentity {
        &self.shared.identity
    }

    /// Returns 16 random bytes created with the database. A plain copy of the folder has the same ones; a restored
    /// backup gets new ones.
    #[must_use]
    pub fn incarnation(&self) -> [u8; 16] {
        self.shared.incarnation
    }

    /// Returns the number of the last run that was counted. A folder that was set back has a lower one than before.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub fn run_number(&self) -> Result<u64, ReadError> {
        meta::generation(&self.database().db)
    }

    /// Counts one more run of a process without a host marker, which counts those of a node. Returns its number, which
    /// is on the disk then.
    ///
    /// # Errors
    /// When the row cannot be read or written.
    pub fn count_run(&self) -> Result<u64, CommitError> {
        let database = self.database();
        database.poison.check()?;
        meta::count_run(&database.db)
    }

    /// Returns the relation of the folder to the one that this host wrote last. A store that was opened without
    /// [`HostSettings`](crate::HostSettings) counts as the newest.
    #[must_use]
    pub fn standing(&self) -> FolderStanding {
        match (self.host(), &self.shared.how.host) {
            (Some(host), _) => host.standing(),
            (None, Some(_)) => FolderStanding::Unjudged,
            (None, None) => FolderStanding::Newest,
        }
    }

    /// Returns the data folder; `None` for a database in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.shared.how.location.folder()
    }

    /// Returns the folder of this host's files about the node: the marker, and the operator's answers. Also `None`
    /// before the folder was compared with the marker.
    #[must_use]
    pub fn host_dir(&self) -> Option<&Path> {
        self.host().map(HostMarker::dir)
    }

    /// Returns the highest place of the own strand that this host has signed in any folder, according to the
    /// marker. It may be above the head of a restored or copied folder.
    #[must_use]
    pub fn host_head(&self) -> SequenceId {
        self.host().map_or(SequenceId::NONE, HostMarker::signed_through)
    }

    /// Returns true if the disk may lack commits of this host, because the machine was started again too early.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.host().is_some_and(HostMarker::is_unsynced)
    }

    fn host(&self) -> Option<&HostMarker> {
        self.shared.how.lasting.host.get()
    }

    /// Records the folder as the one that this host wrote last. Call it before the first place of the own strand is
    /// assigned in a folder that was not the newest.
    ///
    /// # Errors
    /// [`AdoptError`]: the folder's standing is unchanged, and it must not sign.
    pub fn adopt(&self) -> Result<(), AdoptError> {
        match (self.host(), &self.shared.how.host) {
            (Some(host), _) => self.adopt_by(host),
            (None, Some(_)) => Err(AdoptError::Unjudged),
            (None, None) => Ok(()),
        }
    }

    pub(crate) fn adopt_by(&self, host: &HostMarker) -> Result<(), AdoptError> {
        let database = self.database();
        let generation = host.next_generation();
        host.check_head(database.folder_facts(generation).head)?;
        // The folder is written before the marker: see the invariant of `host`.
        write_generation(&database.db, generation)?;
        // That write was synced, and all before it. The note has to be there before an envelope is signed.
        host.note_durability(self.shared.how.durability)?;
        Ok(host.adopt(database.folder_facts(generation))?)
    }

    /// Marks the folder as unknown from the next start on, for this reason.
    ///
    /// # Errors
    /// An error if the marker cannot be written: the next start may treat the folder as the newest.
    pub fn mark_unknown(&self, reason: UnknownFolder) -> Result<(), HostMarkerError> {
        let Some(host) = self.host() else { return Ok(()) };
        let generation = host.next_generation().saturating_sub(1);
        host.mark_unknown(self.database().folder_facts(generation), reason)
    }

    /// Notes on this host that all commits are on the disk. To be called after [`Store::flush`], when nothing is
    /// written any more.
    ///
    /// # Errors
    /// An error of the file system: if commits have not waited for the disk, the folder is unknown after the machine's
    /// next start.
    pub fn note_on_disk(&self) -> io::Result<()> {
        self.host().map_or(Ok(()), HostMarker::note_on_disk)
    }

    /// Takes a snapshot of the durable state. Later commits do not change it.
    ///
    /// RocksDB keeps replaced rows while a snapshot lives, so drop it when the answer is made.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.database())
    }

    /// Returns the names of the projections that must be rebuilt before use: another version of this code wrote
    /// their rows, or their rebuild was interrupted.
    #[must_use]
    pub fn stale_projections(&self) -> Vec<&'static str> {
        self.database().stale.list().iter().map(|projection| projection.name()).collect()
    }

    /// Returns true while a projection must be rebuilt before use.
    #[must_use]
    pub fn has_stale_projections(&self) -> bool {
        !self.database().stale.is_empty()
    }

    /// Returns true if projections that publishing needs have to be rebuilt: receipts, without which a repeat would
    /// be charged again, or the tallies.
    #[must_use]
    pub fn lacks_projections_of_publishing(&self) -> bool {
        let needed = ProjectionSet::of(ProjectionSet::TALLIES);
        let needed = needed.or(ProjectionSet::of([Projection::Receipt]));
        self.shared.current.read().stale.has_any_of(needed)
    }

    /// Returns the families that could not be read at the last opening, and without which the database works: less
    /// evidence and fewer reports are counted, and more minutes are checked.
    #[must_use]
    pub fn unread_families(&self) -> Vec<UnreadFamily> {
        self.database().unread.clone()
    }

    /// Returns true after a write has failed, and while the disk allows no writes. The store refuses
    /// every commit until [`Store::reopen`] has read the log again.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.write_fault().is_some()
    }

    /// Returns the reason why commits are refused until the log has been read again.
    #[must_use]
    pub fn write_fault(&self) -> Option<Arc<str>> {
        self.shared.current.read().poison.cause()
    }

    /// Sets the free-space watermark. Only the first call has an effect.
    pub fn keep_room(&self, settings: DiskReserveSettings) {
        self.shared.how.lasting.disk_reserve.keep(settings);
    }

    /// Checks if the disk has room for writes, and updates [`Store::has_room`].
    ///
    /// # Errors
    /// [`CommitError::NoRoom`].
    pub fn check_room(&self) -> Result<(), CommitError> {
        self.shared.how.lasting.disk_reserve.check()
    }

    /// Returns true if the disk had room for writes at the last check. Every commit checks.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.shared.how.lasting.disk_reserve.is_low()
    }

    /// Returns true if no commit of changes runs in this process, and none has begun or ended for this time: no
    /// publisher or follower waits for the disk then, and work in the background needs no pauses.
    #[must_use]
    pub fn is_without_commits_for(&self, time: Duration) -> bool {
        self.shared.how.lasting.last_commit.is_before(time)
    }

    /// Returns the time for which pruning has waited for commits, since this process opened the store.
    #[must_use]
    pub fn waited_for_commits(&self) -> Duration {
        self.shared.how.lasting.last_commit.waited()
    }

    /// Returns the size of the database on disk in bytes; for an in-memory database its size in
    /// memory. Returns 0 when the folder cannot be read.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.database().disk_bytes()
    }

    /// Returns RocksDB's estimate of the bytes that compaction still has to rewrite, or 0 without
    /// one.
    #[must_use]
    pub fn compaction_pending_bytes(&self) -> u64 {
        self.database().sum_of_families(&["rocksdb.estimate-pending-compaction-bytes"])
    }

    /// Makes the next write fail like a broken disk. For tests.
    #[doc(hidden)]
    pub fn fail_next_write(&self) {
        self.shared.how.lasting.faults.inject();
    }

    /// Calls `hook` at each write to decide if it fails. For tests.
    #[doc(hidden)]
    pub fn set_write_faults(
        &self,
        hook: Option<Arc<dyn Fn() -> Option<WriteFault> + Send + Sync>>,
    ) {
        self.shared.how.lasting.faults.set_hook(hook);
    }

    /// Writes a row of any bytes, as a damaged disk may have it. For tests.
    ///
    /// # Panics
    /// When the database fails.
    #[doc(hidden)]
    pub fn put_raw_row(&self, family: Family, key: &[u8], value: &[u8]) {
        let database = self.database();
        let written = database.db.put_cf(database.family(family), key, value);
        written.expect("a test writes raw rows to a sound disk");
    }

    /// Writes all memory tables to files, so that the next start has no write-ahead log to replay.
    /// Writes at most 128 MiB. Commits and readers continue meanwhile. Also makes the host marker
    /// durable, if the disk permits.
    ///
    /// # Errors
    /// When RocksDB fails. Durable commits stay durable: the write-ahead log still holds them.
    pub fn flush(&self) -> Result<(), DatabaseError> {
        let database = self.database();
        for family in Family::ALL {
            database.db.flush_cf(database.family(family))?;
        }
        if let Some(Err(error)) = self.host().map(HostMarker::sync) {
            tracing::warn!(%error, "the host marker is not durable yet");
        }
        Ok(())
    }
}

/// Error of [`Store::adopt`]: the folder is not recorded as the one that this host wrote last.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The generation cannot be written to the folder.
    #[error("the generation number of the data folder cannot be written: {0}")]
    Folder(#[from] DatabaseError),
    /// The marker cannot be written.
    #[error(transparent)]
    Marker(#[from] HostMarkerError),
    /// The folder was not compared with the marker, because the disk refuses writes.
    #[error(
        "the data folder has not been compared with the host marker yet, because the disk cannot be written to"
    )]
    Unjudged,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("identity", self.identity()).finish_non_exhaustive()
    }
}
