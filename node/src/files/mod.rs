//! The files a node and its tools read and write: one format a file.
//!
//! - [`registry`] and [`rates`]: what a node is told of the network and of prices;
//! - [`lines`] and [`chain`]: client envelopes as lines of JSON, and how those that belong to a
//!   chain become its strands;
//! - `deployment`: where the contracts are;
//! - [`key`]: secret keys.

pub mod chain;
pub mod deployment;
pub mod key;
pub mod lines;
pub mod rates;
pub mod registry;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::RunError;

/// A file could not be used: which one, and what about it.
#[derive(Debug, thiserror::Error)]
pub enum FileError<E> {
    /// It could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It was read and is not what it should be.
    #[error("{path}: {fault}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        fault: E,
    },
}

impl<E: std::fmt::Display> From<FileError<E>> for RunError {
    /// A file that is not there is another failure than one that is wrong.
    fn from(error: FileError<E>) -> Self {
        let absent = matches!(&error, FileError::Read { source, .. }
            if source.kind() == io::ErrorKind::NotFound);
        let text = match error {
            FileError::Read { path, source } => format!("{}: {source}", path.display()),
            FileError::Content { path, fault } => format!("{}: {fault}", path.display()),
        };
        if absent { Self::not_found(text) } else { Self::failed(text) }
    }
}

/// Reads a whole text file and parses it.
///
/// # Errors
/// Names the file in either case.
pub fn read<T, E>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, FileError<E>> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|fault| FileError::Content { path: path.to_owned(), fault })
}

/// Writes a file so that whoever reads it finds the old content or the new, never a part.
///
/// # Errors
/// What the system said.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}
