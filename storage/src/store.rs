//! The handle to one open database.

use std::path::Path;
use std::sync::Arc;

use crate::database::Database;
use crate::error::DatabaseError;
use crate::family::Family;
use crate::host::{FolderStanding, HostMarker, HostMarkerError, UnknownFolder};
use crate::meta::write_generation;
use crate::settings::StoreIdentity;
use crate::snapshot::Snapshot;

/// One open database: the log and its projections. Clones share it; dropping the last one closes it.
///
/// Every method may block on the disk, so async code calls them from blocking threads.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Database>,
}

impl Store {
    /// Returns the network, node and key that the database belongs to.
    #[must_use]
    pub fn identity(&self) -> &StoreIdentity {
        &self.inner.identity
    }

    /// Returns 16 random bytes made together with the database. A copy of the folder has the same
    /// ones, which is how a restored backup is recognised.
    #[must_use]
    pub fn incarnation(&self) -> [u8; 16] {
        self.inner.incarnation
    }

    /// Returns the relation of the folder to what this host wrote last. A store that was opened without
    /// [`HostSettings`](crate::HostSettings) counts as the newest.
    #[must_use]
    pub fn standing(&self) -> FolderStanding {
        self.inner.host.as_ref().map_or(FolderStanding::Newest, HostMarker::standing)
    }

    /// Returns the data folder; `None` for a database in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    /// Returns the folder of this host's files about the node: the marker, and what an operator says.
    #[must_use]
    pub fn host_dir(&self) -> Option<&Path> {
        self.inner.host.as_ref().map(HostMarker::dir)
    }

    /// Makes the folder the one that this host wrote last. To be called before the first place of the own
    /// strand is given out from a folder that was not the newest.
    ///
    /// # Errors
    /// [`AdoptError`]: the folder stands as before, and must not sign.
    pub fn adopt(&self) -> Result<(), AdoptError> {
        let Some(host) = &self.inner.host else { return Ok(()) };
        let generation = host.next_generation();
        // The folder first: see the invariant of `host`.
        write_generation(&self.inner.db, generation)?;
        Ok(host.adopt(self.inner.folder_facts(generation))?)
    }

    /// Makes the folder unknown from the next start on, for this reason.
    ///
    /// # Errors
    /// When the marker cannot be written: the next start may take the folder for the newest.
    pub fn disown(&self, reason: UnknownFolder) -> Result<(), HostMarkerError> {
        let Some(host) = &self.inner.host else { return Ok(()) };
        let generation = host.next_generation().saturating_sub(1);
        host.disown(self.inner.folder_facts(generation), reason)
    }

    /// Takes a view of everything that is durable now. Later commits do not change it.
    ///
    /// RocksDB keeps replaced rows while a snapshot lives, so drop it when the answer is made.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.inner)
    }

    /// Returns the names of the projections that must be rebuilt before use: another version of this
    /// code made their rows, or their rebuild was interrupted.
    #[must_use]
    pub fn stale_projections(&self) -> Vec<&'static str> {
        self.inner.stale.lock().iter().map(|projection| projection.name()).collect()
    }

    /// Returns true after a write has failed. The store then refuses every commit until the process
    /// restarts.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.inner.poison.is_set()
    }

    /// Returns the size of the database on disk in bytes; for an in-memory database its size in
    /// memory. Returns 0 when the folder cannot be read.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.inner.disk_bytes()
    }

    /// Returns RocksDB's estimate of the bytes that compaction still has to rewrite, or 0 without
    /// one.
    #[must_use]
    pub fn compaction_pending_bytes(&self) -> u64 {
        self.inner.sum_of_families(&["rocksdb.estimate-pending-compaction-bytes"])
    }

    /// Makes the next write fail as a broken disk would. For tests.
    #[doc(hidden)]
    pub fn fail_next_write(&self) {
        self.inner.poison.inject();
    }

    /// Writes all memory tables to files, so that the next start has no write-ahead log to read
    /// back. Writes at most 128 MiB. Commits and readers go on meanwhile. Makes the host marker durable
    /// too, as far as the disk lets it.
    ///
    /// # Errors
    /// When RocksDB fails. Durable commits stay durable: the write-ahead log still holds them.
    pub fn flush(&self) -> Result<(), DatabaseError> {
        for family in Family::ALL {
            self.inner.db.flush_cf(self.inner.family(family))?;
        }
        if let Some(Err(error)) = self.inner.host.as_ref().map(HostMarker::sync) {
            tracing::warn!(%error, "the host marker is not durable yet");
        }
        Ok(())
    }
}

/// The error of [`Store::adopt`].
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The generation cannot be written to the folder.
    #[error("the generation of the folder cannot be written: {0}")]
    Folder(#[from] DatabaseError),
    /// The marker cannot be written.
    #[error(transparent)]
    Marker(#[from] HostMarkerError),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("identity", self.identity()).finish_non_exhaustive()
    }
}
