//! Errors of snapshots for new nodes.

use std::io;
use std::path::{Path, PathBuf};

use hawser_proto::{OriginatorId, SequenceId};

use super::chunk::ChunkError;
use super::manifest::BootstrapManifestError;
use crate::error::ReadError;

/// The reason for which a snapshot was not created or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A file or an object of a bucket cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The full name.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The place has no usable snapshot.
    #[error("{path} holds no usable snapshot")]
    None {
        /// The place.
        path: PathBuf,
    },
    /// The place has snapshots, and none of the wanted network.
    #[error(
        "{path} holds no snapshot of network {wanted:?} (--network), only of {}",
        quoted(.found)
    )]
    OtherNetworks {
        /// The place.
        path: PathBuf,
        /// The wanted network.
        wanted: String,
        /// Networks of which it has snapshots, ascending; not more than a few.
        found: Vec<String>,
    },
    /// No snapshot has this name.
    #[error("there is no snapshot {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// A manifest cannot be used.
    #[error("manifest {name}: {error}")]
    Manifest {
        /// Its name.
        name: String,
        /// The fault.
        error: BootstrapManifestError,
    },
    /// A chunk does not exist.
    #[error("strand {originator}: the chunk from {from} is missing")]
    Missing {
        /// The strand.
        originator: OriginatorId,
        /// Its first place.
        from: SequenceId,
    },
    /// A chunk has other bytes than the manifest states.
    #[error(
        "strand {originator}: the chunk from {from} is damaged: its bytes have another hash or length"
    )]
    Damaged {
        /// The strand.
        originator: OriginatorId,
        /// Its first place.
        from: SequenceId,
    },
    /// A chunk differs from the manifest.
    #[error("strand {originator}: the chunk from {from}: {error}")]
    Chunk {
        /// The strand.
        originator: OriginatorId,
        /// Its first place.
        from: SequenceId,
        /// The fault.
        error: ChunkError,
    },
    /// The snapshots are on the disk of the data folder, which is nearly full.
    #[error("the snapshot was stopped, because it is on the disk of the data folder: {reason}")]
    NoRoom {
        /// The free bytes, and why the chunks that were written stay, if they do; for people.
        reason: String,
    },
    /// The caller has cancelled the work.
    #[error("the snapshot was stopped before it was done")]
    Stopped,
    /// A row of the log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Returns the names in quotes, one after another.
fn quoted(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    quoted.join(", ")
}

/// Returns a function that adds the name to an error of the file system.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> BootstrapError {
    let path = path.to_owned();
    move |source| BootstrapError::Io { path, source }
}
