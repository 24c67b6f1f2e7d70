//! Errors of backups.

use std::io;
use std::path::{Path, PathBuf};

use hawser_proto::{Address, OriginatorId};

use super::manifest::{FileHash, ManifestError};
use crate::error::{DatabaseError, ReadError};
use crate::open_error::OpenError;
use crate::tree_read::TreeError;

/// The reason for which a backup was not created, verified or restored. Existing data is unchanged then; an unfinished
/// backup may leave files that [`Backups::prune`](crate::Backups::prune) removes.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file, a folder or an object of a bucket cannot be used.
    #[error("{path}: {source}")]
    File {
        /// The file or folder, or the full name of the object.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The place holds no backups.
    #[error("{path} is not a folder of backups")]
    NotBackups {
        /// The folder.
        path: PathBuf,
    },
    /// Another process, or another job of this one, is using the same backups.
    #[error("{path} is in use: another backup, or the removal of old ones, is under way")]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The place of the backups is inside the data folder.
    #[error("{to} lies in the data folder: choose another folder, best on another disk")]
    Inside {
        /// The folder as given.
        to: PathBuf,
    },
    /// The database is in memory.
    #[error("a database in memory has no backups")]
    InMemory,
    /// No backup has this name.
    #[error("there is no backup {name:?}")]
    NoBackup {
        /// The name.
        name: String,
    },
    /// A manifest cannot be used.
    #[error("manifest {name}: {error}")]
    Manifest {
        /// Its name.
        name: String,
        /// The fault.
        error: ManifestError,
    },
    /// A file of the backup does not exist.
    #[error("file {name} ({hash}) of the backup is missing")]
    Missing {
        /// The file's name in the database.
        name: String,
        /// Hash of the file's content.
        hash: FileHash,
    },
    /// The name of a backup file belongs to a symbolic link, a folder or another kind of entry.
    #[error("file {name} ({hash}) of the backup is not a plain file")]
    NotAFile {
        /// The file's name in the database.
        name: String,
        /// Hash of the file's content.
        hash: FileHash,
    },
    /// A file of the backup has another length than the manifest states.
    #[error("file {name} ({hash}) of the backup has {found} bytes instead of {stated}")]
    Length {
        /// The file's name in the database.
        name: String,
        /// Hash of the file's content.
        hash: FileHash,
        /// Its length in bytes.
        found: u64,
        /// The length that the manifest states, in bytes.
        stated: u64,
    },
    /// The bytes of a file of the backup do not have the stated hash.
    #[error("file {name} ({hash}) of the backup is damaged: its bytes have another hash")]
    Content {
        /// The file's name in the database.
        name: String,
        /// Hash of the file's content.
        hash: FileHash,
    },
    /// The backups are on the disk of the data folder, which is nearly full.
    #[error("the backup was stopped, because it is on the disk of the data folder: {reason}")]
    NoRoom {
        /// The free bytes, for people.
        reason: String,
    },
    /// The disk has no room for copies of all files of the backup.
    #[error(
        "the backup has {wanted} bytes, and the disk of {path} has {free} free: nothing was copied"
    )]
    NoDiskRoom {
        /// The folder to copy into, or the one around it.
        path: PathBuf,
        /// The length of all files together, as the manifest states it, in bytes.
        wanted: u64,
        /// The free bytes.
        free: u64,
    },
    /// The caller has cancelled the work.
    #[error("the backup, check or restore was stopped before it was done")]
    Stopped,
    /// The backup is of another network.
    #[error("the backup is of network {found:?}, not {wanted:?}")]
    OtherNetwork {
        /// The network of the backup.
        found: String,
        /// The network asked for.
        wanted: String,
    },
    /// The backup is of another node.
    #[error("the backup is of node {found}, not {wanted}")]
    OtherNode {
        /// The node of the backup.
        found: OriginatorId,
        /// The node asked for.
        wanted: OriginatorId,
    },
    /// The backup is of another key.
    #[error("the backup is of key {found}, not {wanted}")]
    OtherKey {
        /// The key of the backup.
        found: Address,
        /// The key asked for.
        wanted: Address,
    },
    /// The node's key has not signed the manifest.
    #[error(
        "the backup is not signed, so nothing shows that its node made it: if you know where it comes from, allow \
         unsigned backups (--unsigned)"
    )]
    Unsigned,
    /// The folder to restore into exists and is not empty.
    #[error("{path} is not empty: a restore never replaces data, so name a new folder")]
    TargetInUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder to restore into is a mount point, which no new folder can replace.
    #[error(
        "{path} is a mount point, and a restore puts a new folder into its place: name a folder in it that does not \
         exist"
    )]
    MountPoint {
        /// The folder.
        path: PathBuf,
    },
    /// Another restore into the folder runs, or was killed.
    #[error(
        "{path} belongs to a restore that runs, or is left of one that was killed: wait for it, or remove this folder, \
         and restore again"
    )]
    Restoring {
        /// The temporary folder.
        path: PathBuf,
    },
    /// The restored database differs from the manifest.
    #[error("the database differs from its manifest in {what}")]
    Differs {
        /// The difference.
        what: String,
    },
    /// RocksDB failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The database of the backup cannot be opened.
    #[error("the database of the backup cannot be opened: {0}")]
    Open(#[from] OpenError),
    /// A row cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The root of a tree cannot be read.
    #[error("a Merkle tree of the backup cannot be read: {0}")]
    Tree(#[from] TreeError),
}

impl BackupError {
    /// Returns true if `place`, the place of the backups, does not answer or refuses access, so that its contents
    /// are unknown. Returns false for errors that an answer shows, such as a missing file, and for failures of
    /// another folder.
    #[must_use]
    pub fn is_unreachable(&self, place: &Path) -> bool {
        let Self::File { path, source } = self else { return false };
        let is_silent = matches!(
            source.kind(),
            io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::NotConnected
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::StaleNetworkFileHandle
                | io::ErrorKind::TimedOut
        );
        is_silent && path.starts_with(place)
    }
}

/// Returns a function that adds the path to a failure of the file system.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path, source }
}
