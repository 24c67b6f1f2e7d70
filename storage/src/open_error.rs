//! Errors of opening a folder as a store. Their texts say what the operator can do.

use std::io;
use std::path::PathBuf;

use hawser_proto::{Address, OriginatorId};

use crate::error::{DatabaseError, ReadError};
use crate::host::HostMarkerError;
use crate::meta::FORMAT;
use crate::store::AdoptError;

/// The reason for which a folder was not opened, with advice for the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The path is not a folder.
    #[error("{path} is not a folder: name a folder for the data, or one that can be made")]
    NotADirectory {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder has no database and is a place of backups.
    #[error(
        "{path} is a folder of backups: name the data folder of the node, or restore a backup into a new folder \
             (`hawser restore --from`) and name that one"
    )]
    OfBackups {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder cannot be created, or a file in it cannot be written and synced.
    #[error(
        "cannot write to {path}: {source}. Check owner, mode and free space, and that the \
             file system can sync"
    )]
    Unwritable {
        /// The path as given.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// Another process, or another store of this process, has the database open.
    #[error("{path} is in use by another process: stop it first, two nodes never share a folder")]
    Held {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder cannot be listed, so it is not known if it has a database.
    #[error(
        "cannot read {path}: {source}. Check owner and mode, and run this as the user of the folder"
    )]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The folder has no database of a node.
    #[error(
        "{path} holds no database of a node: name the data folder of a node that has started before"
    )]
    NotADatabase {
        /// The path as given.
        path: PathBuf,
    },
    /// A newer version of this program wrote the database.
    #[error(
        "the database has format {found}, this program knows {FORMAT}: use the program that \
             wrote it{}, or a newer one",
        version(.writer.as_deref())
    )]
    NewerFormat {
        /// The format of the database.
        found: u32,
        /// The version of the program that wrote it; `None` if it is unknown.
        writer: Option<String>,
    },
    /// A return to an earlier format was interrupted.
    #[error(
        "a return to the earlier format was interrupted in {path}: run `hawser rollback` again"
    )]
    RollbackUnfinished {
        /// The path as given.
        path: PathBuf,
    },
    /// The database belongs to another network.
    #[error(
        "the database belongs to network {stored}, not {wanted}: choose another folder or \
             the other network"
    )]
    OtherNetwork {
        /// The stored value.
        stored: String,
        /// The configured value.
        wanted: String,
    },
    /// The database belongs to another node, or one of both is a replica.
    #[error("{}", owner_fault(*.stored, *.wanted))]
    OtherNode {
        /// The stored value.
        stored: OriginatorId,
        /// The configured value.
        wanted: OriginatorId,
    },
    /// The database belongs to the same node id, but to another key.
    #[error(
        "the database belongs to key {stored}, not {wanted}: a strand is signed with one key \
             only, so bring that key or choose another folder"
    )]
    OtherKey {
        /// The stored value.
        stored: Address,
        /// The configured value.
        wanted: Address,
    },
    /// Durable data is damaged.
    #[error(
        "the database is damaged ({cause}), and acknowledged envelopes may be lost: keep the folder and the state \
             folder as they are, and follow docs/runbooks/restore.md, Damaged database. A backup may have the table \
             file (.sst) that is named here. Never set --new-strand for this node"
    )]
    Corrupt {
        /// The finding of RocksDB or of a check in this crate.
        cause: String,
    },
    /// RocksDB failed for another reason.
    #[error("the database cannot be opened now ({0}): if it stays so, see docs/runbooks/disk.md")]
    Database(#[from] DatabaseError),
    /// Rows that a start needs could not be read, but are not damaged: another attempt may succeed.
    #[error(
        "{0}: the disk has failed to read what a start needs, which may pass. Nothing was changed: start again, \
             and see docs/runbooks/disk.md if it fails again"
    )]
    Read(ReadError),
    /// The host marker cannot be used.
    #[error(transparent)]
    Host(#[from] HostMarkerError),
    /// The folder cannot be recorded as the one that this host wrote last.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// The operator has stated that the key has no strand, but it has one.
    #[error(
        "--new-strand says that this node has published nothing in this network yet, but {found}: start \
             it without the flag, and see docs/runbooks/restore.md"
    )]
    StrandExists {
        /// The contradiction.
        found: String,
    },
}

/// Returns the text about the database of another owner. The id of a replica is no id that an operator knows.
fn owner_fault(stored: OriginatorId, wanted: OriginatorId) -> String {
    match (stored, wanted) {
        (OriginatorId::REPLICA, _) => format!(
            "the database belongs to a replica, not to node {wanted}: choose another folder. `hawser promote` gives \
             the folder of a replica to a node whose own one is lost"
        ),
        (_, OriginatorId::REPLICA) => format!(
            "the database belongs to node {stored}, and a replica does not start from it: choose another folder"
        ),
        _ => format!(
            "the database belongs to node {stored}, not {wanted}: choose another folder or the other node's key"
        ),
    }
}

impl OpenError {
    /// Returns true if the cause is the disk and the database may be intact: the disk is full, fails, or is
    /// read-only.
    pub(crate) fn is_of_disk(&self) -> bool {
        match self {
            Self::Database(_) | Self::Adopt(AdoptError::Folder(_)) => true,
            Self::Unwritable { source, .. }
            | Self::Host(HostMarkerError::Unusable { source, .. })
            | Self::Adopt(AdoptError::Marker(HostMarkerError::Unusable { source, .. })) => {
                is_of_disk(source)
            }
            _ => false,
        }
    }

    /// Returns true if the disk has damaged or lost a part of the database, so that another attempt is useless. Of many
    /// table files, RocksDB misses some only when it reads them.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } => true,
            Self::Database(error) | Self::Read(ReadError::Database(error)) => {
                error.is_of_missing_file()
            }
            _ => false,
        }
    }
}

/// Returns the version of a writer in brackets; empty if it is unknown.
fn version(writer: Option<&str>) -> String {
    writer.map(|writer| format!(" (version {writer})")).unwrap_or_default()
}

/// Distinguishes a failing disk from a folder with a wrong name or owner.
fn is_of_disk(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let text = error.to_string();
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        || text.contains("Input/output error") // EIO has no kind of its own
}

impl From<ReadError> for OpenError {
    /// Every start needs these rows: without them the contents of the folder are unknown.
    fn from(error: ReadError) -> Self {
        if error.is_damage() {
            Self::Corrupt { cause: error.to_string() }
        } else {
            Self::Read(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A copy that counts as unreadable stops the upgrade: a part that is lost would stop it for ever.
    #[test]
    fn a_lost_file_is_damage_and_a_failed_read_is_none() {
        let error = |code| {
            let error = io::Error::from_raw_os_error(code);
            DatabaseError::of_file(Path::new("000012.sst"), &error)
        };
        let (lost, unread) = (error(2), error(5));
        for (error, is_damage) in [(lost, true), (unread, false)] {
            let read = OpenError::from(ReadError::from(error.clone()));
            assert_eq!(read.is_damage(), is_damage, "{read}");
            assert_eq!(OpenError::from(error).is_damage(), is_damage);
        }
        assert!(OpenError::Corrupt { cause: String::new() }.is_damage());
    }
}
