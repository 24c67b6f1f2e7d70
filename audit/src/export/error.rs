//! Errors of exports.

use std::io;
use std::path::{Path, PathBuf};

use hawser_proto::{EnvelopeId, OriginatorId};
use parquet::errors::ParquetError;

use crate::replay::{FaultKind, STRANDS_MAX, SourceError};

/// The reason why an export cannot be made, continued or read. With such an error nothing is overwritten.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file does not have the form that this program writes.
    #[error("{}: {text}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The fault, for people.
        text: String,
    },
    /// The log could not be read.
    #[error("the log cannot be read: {0}")]
    Source(#[from] SourceError),
    /// Signatures are judged, and an envelope cannot stand at its place. Files with earlier places are complete.
    #[error("{id}: {}: {text}", kind.name())]
    Refused {
        /// The place.
        id: EnvelopeId,
        /// The kind of the fault.
        kind: FaultKind,
        /// The fault, for people.
        text: String,
    },
    /// Another run writes to the folder.
    #[error("{}: another export is writing to this folder: wait for it, or name another folder", .0.display())]
    Busy(PathBuf),
    /// A link, a pipe or a device has the name of a file or folder of the export. Another user who may write into the
    /// folder can put it there, so that the export would write elsewhere.
    #[error(
        "{}: it is a link, or not what an export has there: remove it, and let no other user write into the folder",
        .0.display()
    )]
    InTheWay(PathBuf),
    /// The folder holds something else.
    #[error("{}: the folder is not empty and does not hold an export: name another folder", .0.display())]
    NotAnExport(PathBuf),
    /// The folder has the export of another log.
    #[error("the export is of another log: that of node {node_id} in network {network:?}")]
    OtherLog {
        /// The network of that log.
        network: String,
        /// The node of that log.
        node_id: OriginatorId,
    },
    /// The log or the manifest lists more strands than a network has.
    #[error(
        "{found} strands, and an export has at most {STRANDS_MAX}: its source or its manifest is false"
    )]
    TooManyStrands {
        /// The number of strands.
        found: usize,
    },
    /// The export holds an envelope that the log lacks.
    #[error("strand {originator_id}: the export has {exported}, and the log has {held}")]
    OtherStrand {
        /// The strand.
        originator_id: OriginatorId,
        /// The content of the export, for people.
        exported: String,
        /// The content of the log, for people.
        held: String,
    },
}

impl ExportError {
    pub(super) fn malformed(path: &Path, text: impl std::fmt::Display) -> Self {
        Self::Malformed { path: path.to_owned(), text: text.to_string() }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Returns the error of writing, which comes from the file or from this program's own values. The encoder wraps an
    /// error of the system, such as that of a full disk.
    pub(super) fn parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self {
        move |error| match error {
            ParquetError::External(cause) => match cause.downcast::<io::Error>() {
                Ok(source) => Self::io(path)(*source),
                Err(cause) => Self::malformed(path, cause),
            },
            error => Self::malformed(path, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Played by a disk that is full while rows are written.
    #[test]
    fn a_full_disk_under_the_encoder_stays_an_error_of_the_file() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let error = ExportError::parquet(Path::new("a.parquet"))(full().into());
        assert!(matches!(error, ExportError::Io { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("a.parquet: {}", full()));
        let other = ParquetError::General("a column is missing".to_owned());
        let error = ExportError::parquet(Path::new("a.parquet"))(other);
        assert!(matches!(error, ExportError::Malformed { .. }), "{error:?}");
    }
}
