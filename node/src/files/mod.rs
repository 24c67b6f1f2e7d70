//! The files that a node and its tools read and write; one module per format.
//!
//! - [`registry`] and [`rates`]: the nodes of the network, and the rates;
//! - [`lines`] and [`chain`]: client envelopes as lines of JSON, and chain strands made of them;
//! - [`deployment`]: addresses of the contracts;
//! - [`key`]: secret keys.

pub mod chain;
pub mod deployment;
pub mod key;
pub mod lines;
pub mod rates;
pub mod registry;

use std::fs::Metadata;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_serve::named_file::read_text;

use crate::error::RunError;

/// The interval at which a file that stands for a chain is read, or looked at. A guess: short enough for an operator
/// who waits for it.
pub(crate) const POLL_EVERY: Duration = Duration::from_millis(500);

/// The identity, length and modification time of a file. They differ once the file is replaced or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    inode: u64,
    len_bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl FileStamp {
    /// Returns the stamp of a file with these metadata.
    pub(crate) fn of(found: &Metadata) -> Self {
        Self {
            inode: found.ino(),
            len_bytes: found.len(),
            modified_s: found.mtime(),
            modified_ns: found.mtime_nsec(),
        }
    }
}

/// Error of reading a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError<E> {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The content is invalid.
    #[error("{path}: {error}")]
    Content {
        /// Path of the file.
        path: PathBuf,
        /// The error in the content.
        error: E,
    },
    /// The file has no content but white space, and its format has no empty form.
    #[error("{path}: the file is empty")]
    Empty {
        /// Path of the file.
        path: PathBuf,
    },
}

impl<E: std::fmt::Display> From<FileError<E>> for RunError {
    /// Distinguishes a missing file from an invalid one.
    fn from(error: FileError<E>) -> Self {
        let absent = matches!(&error, FileError::Read { source, .. }
            if source.kind() == io::ErrorKind::NotFound);
        if absent { Self::not_found(error) } else { Self::failed(error) }
    }
}

/// Reads and parses a text file, or a pipe in its place.
///
/// # Errors
/// Fails when the file cannot be read or parsed; the error names the file.
pub fn read<T, E>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, FileError<E>> {
    let text =
        read_text(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|error| match text.trim().is_empty() {
        true => FileError::Empty { path: path.to_owned() },
        false => FileError::Content { path: path.to_owned(), error },
    })
}

/// Replaces a file atomically: readers find the old or the new content, never a part.
///
/// # Errors
/// Error of the operating system.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    // An interrupted run may have left its temporary file. A link with that name is removed and never followed.
    if let Err(error) = std::fs::remove_file(&beside)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = std::fs::File::create_new(&beside)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.and_then(|()| std::fs::rename(&beside, path)).inspect_err(|_| {
        // A part would take room from a full disk. If it cannot be removed, the next run replaces it.
        let _ = std::fs::remove_file(&beside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_told_from_a_wrong_one() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        let error = |content: &str| {
            std::fs::write(&file, content).unwrap();
            read(&file, registry::parse).unwrap_err().to_string()
        };
        for empty in ["", " \n"] {
            assert!(error(empty).ends_with("file: the file is empty"), "{}", error(empty));
        }
        assert!(error("{").contains("EOF while parsing"), "{}", error("{"));
        std::fs::write(&file, "").unwrap();
        assert!(read(&file, lines::parse).is_ok(), "a format with an empty form");
    }

    #[test]
    fn a_file_that_cannot_be_put_in_place_leaves_no_part_beside_it() {
        let place = tempfile::tempdir().unwrap();
        let taken = place.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert!(write_whole(&taken, b"content").is_err());
        assert!(!place.path().join("taken.new").exists());
        let file = place.path().join("file");
        write_whole(&file, b"old").unwrap();
        write_whole(&file, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
    }
}
