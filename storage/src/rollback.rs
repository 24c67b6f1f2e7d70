//! The return to the format before a migration, with the copy that the migration has left
//! ([`kept_copy`](crate::kept_copy)).
//!
//! A return moves the newer database into `after-upgrade`, and the copy into its place. A return that is interrupted
//! leaves a note, with which no program opens the folder.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::folder::{make_folder, remove};
use crate::kept_copy::{NOTE, is_unfinished, kept_copies, sync};
use crate::open::{has_database, open_database};
use crate::open_error::OpenError;
use crate::opening::{Access, Location, Opening};
use crate::options::{self, CACHE_BYTES_MIN};
use crate::price::PriceFn;
use crate::settings::Durability;

/// Folder of the newer database after a return.
const NEWER: &str = "after-upgrade";

/// The reason for which a folder does not return to an earlier format.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// There is no copy.
    #[error(
        "{path} has no copy from before an upgrade: no program has raised its format, or the copy was removed. \
             docs/runbooks/upgrade.md says how a backup takes its place"
    )]
    NoCopy {
        /// The data folder.
        path: PathBuf,
    },
    /// A process has the database open.
    #[error("{path} is in use by another process: stop it first")]
    Held {
        /// The data folder.
        path: PathBuf,
    },
    /// The newer database of an earlier return is still there.
    #[error("{path} is left of an earlier return: remove it first")]
    NewerInTheWay {
        /// Its folder.
        path: PathBuf,
    },
    /// A return was interrupted, so copies must not be removed.
    #[error(
        "a return to the earlier format was interrupted in {path}: run `hawser rollback` again"
    )]
    Unfinished {
        /// The data folder.
        path: PathBuf,
    },
    /// A file cannot be moved, read or written.
    #[error("{path}: {source}")]
    Files {
        /// The data folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A finished return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackReport {
    /// The format that the database has again.
    pub format: u32,
    /// The folder with the newer database.
    pub newer: PathBuf,
}

/// A step of a return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RollbackStep {
    /// The newer database is moved aside.
    Aside,
    /// The copy is moved into its place.
    Back,
}

/// Returns a folder to the format before its last migration, or finishes a return that was interrupted. No process may
/// have the database open. The newer database stays in a folder of its own.
///
/// # Errors
/// When there is no copy, or a file cannot be moved. Another attempt then goes on.
pub fn roll_back(folder: &Path, price: PriceFn) -> Result<RollbackReport, RollbackError> {
    let files = |source| RollbackError::Files { path: folder.to_owned(), source };
    let newer = folder.join(NEWER);
    let copy = kept_copies(folder).map_err(files)?.into_iter().max_by_key(|copy| copy.format);
    let (step, format) = match (read_note(folder).map_err(files)?, &copy) {
        (None | Some((RollbackStep::Aside, _)), None) => {
            return Err(RollbackError::NoCopy { path: folder.to_owned() });
        }
        (Some(unfinished), _) => unfinished,
        (None, Some(copy)) => {
            require_stopped(folder, price)?;
            if newer.exists() {
                return Err(RollbackError::NewerInTheWay { path: newer });
            }
            write_note(folder, RollbackStep::Aside, copy.format).map_err(files)?;
            (RollbackStep::Aside, copy.format)
        }
    };
    if step == RollbackStep::Aside {
        make_folder(&newer).map_err(files)?;
        move_database(folder, &newer).map_err(files)?;
        write_note(folder, RollbackStep::Back, format).map_err(files)?;
    }
    if let Some(copy) = &copy {
        move_database(&copy.path, folder).map_err(files)?;
        remove(&copy.path).map_err(files)?;
    }
    fs::remove_file(folder.join(NOTE)).and_then(|()| sync(folder)).map_err(files)?;
    Ok(RollbackReport { format, newer })
}

/// Removes the copies of earlier formats, and the newer database of a return. A node may run meanwhile. Returns the
/// number of removed folders.
///
/// # Errors
/// When a return is unfinished, or a file cannot be removed.
pub fn discard_copies(folder: &Path) -> Result<usize, RollbackError> {
    if is_unfinished(folder) {
        return Err(RollbackError::Unfinished { path: folder.to_owned() });
    }
    let files = |source| RollbackError::Files { path: folder.to_owned(), source };
    let copies = kept_copies(folder).map_err(files)?.into_iter().map(|copy| copy.path);
    let all: Vec<_> = copies.chain([folder.join(NEWER)]).filter(|path| path.is_dir()).collect();
    for path in &all {
        remove(path).map_err(files)?;
    }
    Ok(all.len())
}

/// Fails if a process has the database open. A damaged database can be left, too.
fn require_stopped(folder: &Path, price: PriceFn) -> Result<(), RollbackError> {
    if !has_database(folder) {
        return Ok(()); // or this would make one
    }
    let location = Location::Folder(folder.to_owned(), options::OPEN_FILES_MAX);
    let how = Opening::new(location, Durability::Fsync, price, None, CACHE_BYTES_MIN);
    match open_database(&how, Access::ReadWrite) {
        Err(OpenError::Held { path }) => Err(RollbackError::Held { path }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Moves the files of a database from one folder to another. Files that are there stay, so a repetition goes on.
fn move_database(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && is_of_database(&entry.file_name().to_string_lossy()) {
            fs::rename(entry.path(), to.join(entry.file_name()))?;
        }
    }
    sync(from)?;
    sync(to)
}

/// Returns true for names that RocksDB gives to its files.
fn is_of_database(name: &str) -> bool {
    let starts = ["MANIFEST-", "OPTIONS-", "LOG.old."];
    let ends = [".sst", ".blob", ".log", ".dbtmp"];
    ["CURRENT", "IDENTITY", "LOCK", "LOG"].contains(&name)
        || starts.iter().any(|start| name.starts_with(start))
        || ends.iter().any(|end| name.ends_with(end))
}

fn read_note(folder: &Path) -> io::Result<Option<(RollbackStep, u32)>> {
    let text = match fs::read_to_string(folder.join(NOTE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("{NOTE} cannot be read"));
    let (step, format) = text.trim().split_once(' ').ok_or_else(broken)?;
    let step = match step {
        "aside" => RollbackStep::Aside,
        "back" => RollbackStep::Back,
        _ => return Err(broken()),
    };
    Ok(Some((step, format.parse().map_err(|_| broken())?)))
}

/// Writes the note in place of an earlier one, so that a crash leaves either of them.
fn write_note(folder: &Path, step: RollbackStep, format: u32) -> io::Result<()> {
    let word = match step {
        RollbackStep::Aside => "aside",
        RollbackStep::Back => "back",
    };
    let unnamed = folder.join(format!("{NOTE}.new"));
    let mut file = File::create(&unnamed)?;
    file.write_all(format!("{word} {format}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&unnamed, folder.join(NOTE))?;
    sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_the_database_are_moved() {
        for name in ["CURRENT", "MANIFEST-000004", "000012.sst", "000007.log", "LOG.old.1750000000"]
        {
            assert!(is_of_database(name), "{name}");
        }
        for name in ["admin.sock", "backups.json", "rollback-unfinished", "before-upgrade-5"] {
            assert!(!is_of_database(name), "{name}");
        }
    }

    #[test]
    fn a_note_that_was_changed_is_not_guessed_at() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_note(folder.path()).unwrap(), None);
        write_note(folder.path(), RollbackStep::Aside, 5).unwrap();
        write_note(folder.path(), RollbackStep::Back, 5).unwrap();
        assert_eq!(read_note(folder.path()).unwrap(), Some((RollbackStep::Back, 5)));
        for wrong in ["", "back", "back x", "there 5"] {
            fs::write(folder.path().join(NOTE), wrong).unwrap();
            assert!(read_note(folder.path()).is_err(), "{wrong:?}");
        }
    }
}
