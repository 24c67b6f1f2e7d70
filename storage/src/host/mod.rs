//! The host marker: a record, outside of a data folder, of the folder's state that this host wrote last.
//!
//! - `marker`: the file, its fields, and how it is replaced and read;
//! - `standing`: the relation of a folder to its marker; `judge`: the comparison, without I/O;
//! - `unsynced`: the note of commits that may not be on the disk;
//! - this file: the marker of an open store.
//!
//! See `docs/decisions/0014-which-folder-may-sign.md`.
//!
//! Invariant: the marker is never ahead of the folder that it belongs to. A generation is written to the
//! folder before the marker, and a head after its commit is durable. So a folder that is behind its
//! marker is an older state of itself.

mod judge;
mod marker;
mod standing;
mod unsynced;

use parking_lot::Mutex;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use hawser_proto::SequenceId;

use crate::folder::{inode_of, make_folder};
use crate::settings::{Durability, StoreIdentity};
use marker::{Marker, MarkerFile, MarkerState};

pub(crate) use standing::FolderFacts;
pub use standing::{FolderStanding, UnknownFolder};

const MARKER: &str = "marker";
const LOCK: &str = "lock";

/// Returns the folder of a node's files in a state folder: the host marker, and the operator's answers. It differs for
/// each network, node and key.
#[must_use]
pub fn host_dir(state_dir: &Path, identity: &StoreIdentity) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let network: String = identity.network.chars().map(plain).collect();
    let address = identity.public_key.address();
    state_dir.join(format!("{network}-{}-{address}", identity.node))
}

/// Returns true if a state folder has a marker of a node, so that this host has run the node before.
///
/// # Errors
/// An error if the folder cannot be read.
pub fn has_host_marker(state_dir: &Path, identity: &StoreIdentity) -> io::Result<bool> {
    host_dir(state_dir, identity).join(MARKER).try_exists()
}

/// The error of reading or writing the host marker.
#[derive(Debug, thiserror::Error)]
pub enum HostMarkerError {
    /// The folder of the marker cannot be used.
    #[error(
        "cannot use {path}, which keeps what this host knows of the node's folder: {source}. Check owner, \
         mode and free space, or name another folder (--state-dir)"
    )]
    Unusable {
        /// The file or folder.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// Another process of this host runs with the same key.
    #[error(
        "another process of this host runs this node, perhaps on another folder ({path} is locked): stop it \
         first, two processes never share a key"
    )]
    Held {
        /// The locked file.
        path: PathBuf,
    },
    /// The folder ends before the place in the marker: the marker is damaged, or the folder is an older state.
    #[error(
        "the folder ends with place {head}, and {path} says that this host has signed up to {signed_through}: \
         if that cannot be, the file is damaged; move it aside, and start again"
    )]
    Behind {
        /// The marker.
        path: PathBuf,
        /// The last place of the folder's own strand.
        head: SequenceId,
        /// The place in the marker.
        signed_through: SequenceId,
    },
}

/// The marker of an open store. Holds the lock of the node's key on this host.
#[derive(Debug)]
pub(crate) struct HostMarker {
    dir: PathBuf,
    identity: StoreIdentity,
    /// Inode of the data folder.
    inode: u64,
    open: Mutex<OpenMarker>,
    /// True if a write of the head has failed. Only the first failure is logged.
    has_failed: AtomicBool,
    _lock: File,
}

#[derive(Debug)]
struct OpenMarker {
    standing: FolderStanding,
    /// The generation that the next adoption writes to the folder, and then to the marker.
    next_generation: u64,
    /// The marker of this folder; `None` while the folder has none.
    file: Option<MarkerFile>,
    /// The highest place in this host's marker when it was last read or replaced.
    signed_through: SequenceId,
    /// True if the disk may lack commits of an earlier run of the machine.
    is_unsynced: bool,
}

impl OpenMarker {
    fn check_head(&self, head: SequenceId, path: &Path) -> Result<(), HostMarkerError> {
        let signed_through = self.signed_through;
        match head < signed_through {
            true => Err(HostMarkerError::Behind { path: path.to_owned(), head, signed_through }),
            false => Ok(()),
        }
    }
}

impl HostMarker {
    /// Locks the node's key on this host, and compares the folder at `data` with the marker.
    ///
    /// # Errors
    /// [`HostMarkerError`].
    pub(crate) fn judge(
        state_dir: &Path,
        identity: &StoreIdentity,
        data: &Path,
        facts: FolderFacts,
    ) -> Result<Self, HostMarkerError> {
        let dir = host_dir(state_dir, identity);
        make_folder(&dir).map_err(|source| unusable(&dir, source))?;
        let guard = hold(&dir.join(LOCK))?;
        let inode = inode_of(data).map_err(|source| unusable(data, source))?;
        let path = dir.join(MARKER);
        let found = Marker::read(&path).map_err(|source| unusable(&path, source))?;
        let mut standing = judge::judge(&found, FolderFacts { inode, ..facts });
        let is_unsynced =
            unsynced::is_of_earlier_run(&dir).map_err(|source| unusable(&dir, source))?;
        if is_unsynced && standing == FolderStanding::Newest {
            standing = FolderStanding::Unknown(UnknownFolder::Unsynced);
        }
        let next_generation = judge::next_generation(&found, facts.generation, standing);
        let signed_through = match &found {
            MarkerState::Read(marker) => marker.head,
            MarkerState::Absent | MarkerState::Damaged => SequenceId::NONE,
        };
        Ok(Self {
            dir,
            identity: identity.clone(),
            inode,
            open: Mutex::new(OpenMarker {
                standing,
                next_generation,
                file: None,
                signed_through,
                is_unsynced,
            }),
            has_failed: AtomicBool::new(false),
            _lock: guard,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn standing(&self) -> FolderStanding {
        self.open.lock().standing
    }

    /// Returns the highest place in this host's marker when it was last read or replaced.
    pub(crate) fn signed_through(&self) -> SequenceId {
        self.open.lock().signed_through
    }

    /// Returns true if the disk may lack commits of an earlier run of the machine, and no folder was adopted since.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.open.lock().is_unsynced
    }

    /// Accepts the operator's statement that the key has no strand yet. Returns false if folder or marker
    /// contradict it.
    pub(crate) fn note_new(&self) -> bool {
        let mut open = self.open.lock();
        let is_new = open.standing == FolderStanding::Unknown(UnknownFolder::Empty);
        if is_new {
            open.standing = FolderStanding::New;
        }
        is_new
    }

    /// Returns the generation that the folder must have durably before the next adoption.
    pub(crate) fn next_generation(&self) -> u64 {
        self.open.lock().next_generation
    }

    /// Checks that a folder that ends with `head` has every place that this host has signed.
    ///
    /// # Errors
    /// [`HostMarkerError::Behind`].
    pub(crate) fn check_head(&self, head: SequenceId) -> Result<(), HostMarkerError> {
        self.open.lock().check_head(head, &self.dir.join(MARKER))
    }

    /// Notes if commits wait for the disk from now on. To be called while everything in the log is on the disk.
    ///
    /// # Errors
    /// [`HostMarkerError::Unusable`].
    pub(crate) fn note_durability(&self, durability: Durability) -> Result<(), HostMarkerError> {
        let noted = match durability {
            Durability::Fsync => unsynced::remove(&self.dir),
            Durability::Os => unsynced::write(&self.dir),
        };
        noted.map_err(|source| unusable(&self.dir, source))
    }

    /// Notes that everything in the log is on the disk, and that nothing more is written. Keeps the note of an earlier
    /// run of the machine until the folder is adopted: what that run has lost is not on the disk.
    pub(crate) fn note_on_disk(&self) -> io::Result<()> {
        if self.standing() == FolderStanding::Newest { unsynced::remove(&self.dir) } else { Ok(()) }
    }

    /// Records the folder, whose generation is durable, as the one that this host wrote last.
    ///
    /// # Errors
    /// [`HostMarkerError::Unusable`], or [`HostMarkerError::Behind`]: a folder may sign only if it has every place
    /// that this host has signed. The earlier marker stays then.
    pub(crate) fn adopt(&self, facts: FolderFacts) -> Result<(), HostMarkerError> {
        self.write(facts, FolderStanding::Newest)
    }

    /// Marks the folder as unknown from the next start on.
    ///
    /// # Errors
    /// The errors of [`HostMarker::adopt`].
    pub(crate) fn mark_unknown(
        &self,
        facts: FolderFacts,
        reason: UnknownFolder,
    ) -> Result<(), HostMarkerError> {
        self.write(facts, FolderStanding::Unknown(reason))
    }

    fn write(&self, facts: FolderFacts, standing: FolderStanding) -> Result<(), HostMarkerError> {
        let path = self.dir.join(MARKER);
        // Locked before the file is replaced, so that no head is written to the old file.
        let mut open = self.open.lock();
        let is_newest = standing == FolderStanding::Newest;
        if is_newest {
            open.check_head(facts.head, &path)?;
        }
        // A folder that may not sign must not lower the recorded place up to which another folder has signed.
        let head = facts.head.max(open.signed_through);
        let facts = FolderFacts { inode: self.inode, head, ..facts };
        let file = Marker::of(&self.identity, facts, standing)
            .replace(&path)
            .map_err(|source| unusable(&path, source))?;
        *open = OpenMarker {
            standing,
            next_generation: facts.generation.saturating_add(1),
            file: is_newest.then_some(file),
            signed_through: head,
            is_unsynced: open.is_unsynced && !is_newest,
        };
        Ok(())
    }

    /// Records the head of the own strand after its commit is durable. Costs one write into the page cache. A
    /// failure is logged once: the marker then protects less, but the log is not affected.
    pub(crate) fn note_head(&self, head: SequenceId) {
        let mut open = self.open.lock();
        let Some(file) = &mut open.file else { return };
        if let Err(error) = file.write_head(head)
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                code = "host_marker_unwritable",
                path = %self.dir.display(),
                %error,
                "the host marker does not follow the log: an older copy of the folder might not be noticed"
            );
        }
    }

    /// Makes the recorded head durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.open.lock().file.as_ref().map_or(Ok(()), MarkerFile::sync)
    }
}

fn hold(path: &Path) -> Result<File, HostMarkerError> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| unusable(path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HostMarkerError::Held { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(unusable(path, source)),
    }
}

fn unusable(path: &Path, source: io::Error) -> HostMarkerError {
    HostMarkerError::Unusable { path: path.to_owned(), source }
}
