//! The return to the format before a migration, with the copy that the migration has left
//! ([`kept_copy`](crate::kept_copy)).
//!
//! A return moves the newer database into `after-upgrade`, and the copy into its place. A return that is interrupted
//! leaves a note, with which no program opens the folder.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rocksdb::DB;

use crate::folder::{is_folder, make_folder, remove};
use crate::kept_copy::{
    KeptCopy, NOTE, copy_folder, discard_all, is_unfinished, kept_copies, sync,
};
use crate::meta;
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
    /// A process has the database open, or returns it to an earlier format.
    #[error("{path} is in use by another process: stop it first")]
    Held {
        /// The data folder.
        path: PathBuf,
    },
    /// The copy cannot be opened.
    #[error("the copy {path} cannot be used, and nothing was changed: {source}")]
    Copy {
        /// The folder of the copy.
        path: PathBuf,
        /// The reason.
        source: OpenError,
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
/// When there is no copy, when it cannot be read, or when a file cannot be moved. Another attempt then goes on.
pub fn roll_back(folder: &Path, price: PriceFn) -> Result<RollbackReport, RollbackError> {
    let files = |source| RollbackError::Files { path: folder.to_owned(), source };
    let _alone = alone(folder)?;
    let newer = folder.join(NEWER);
    let (step, format) = match read_note(folder).map_err(files)? {
        Some(unfinished) => unfinished,
        None => begin(folder, &newer, price)?,
    };
    let copy = copy_folder(folder, format);
    if step == RollbackStep::Aside {
        if !is_folder(&copy).map_err(files)? {
            return Err(RollbackError::NoCopy { path: folder.to_owned() });
        }
        make_folder(&newer).map_err(files)?;
        move_database(folder, &newer).map_err(files)?;
        write_note(folder, RollbackStep::Back, format).map_err(files)?;
    }
    if is_folder(&copy).map_err(files)? {
        move_database(&copy, folder).map_err(files)?;
        remove(&copy).map_err(files)?;
    }
    // Without the note, a start would make a new database in a folder that has none.
    if !has_database(folder) {
        return Err(RollbackError::NoCopy { path: folder.to_owned() });
    }
    fs::remove_file(folder.join(NOTE)).and_then(|()| sync(folder)).map_err(files)?;
    Ok(RollbackReport { format, newer })
}

/// Checks that a return is possible, and writes the note with which it begins. No process can open the database in
/// between.
fn begin(
    folder: &Path,
    newer: &Path,
    price: PriceFn,
) -> Result<(RollbackStep, u32), RollbackError> {
    let files = |source| RollbackError::Files { path: folder.to_owned(), source };
    let copy = kept_copies(folder).map_err(files)?.into_iter().max_by_key(|copy| copy.format);
    let copy = copy.ok_or_else(|| RollbackError::NoCopy { path: folder.to_owned() })?;
    let _held = hold(folder, price)?;
    if newer.exists() {
        return Err(RollbackError::NewerInTheWay { path: newer.to_owned() });
    }
    let is_whole = require_whole(&copy, price);
    is_whole.map_err(|source| RollbackError::Copy { path: copy.path, source })?;
    write_note(folder, RollbackStep::Aside, copy.format).map_err(files)?;
    Ok((RollbackStep::Aside, copy.format))
}

/// Removes the copies of earlier formats, and the newer database of a return. A node may run meanwhile. Returns the
/// number of removed folders.
///
/// # Errors
/// When a return is unfinished, or a file cannot be removed.
pub fn discard_copies(folder: &Path) -> Result<usize, RollbackError> {
    let files = |source| RollbackError::Files { path: folder.to_owned(), source };
    let _alone = alone(folder)?;
    // A return that begins later finds the folder locked.
    if is_unfinished(folder).map_err(files)? {
        return Err(RollbackError::Unfinished { path: folder.to_owned() });
    }
    let copies = discard_all(folder).map_err(files)?;
    let newer = folder.join(NEWER);
    let is_there = newer.is_dir();
    remove(&newer).map_err(files)?;
    Ok(copies + usize::from(is_there))
}

/// Locks the folder until the result is dropped. Two returns at once would move the files of the earlier database aside
/// with those of the newer one. The lock of the database cannot prevent it, because its file is moved too.
///
/// # Errors
/// [`RollbackError::Held`] while another process holds it.
fn alone(folder: &Path) -> Result<File, RollbackError> {
    let path = || folder.to_owned();
    let files = |source| RollbackError::Files { path: path(), source };
    let locked = File::open(folder).map_err(files)?;
    match locked.try_lock() {
        Ok(()) => Ok(locked),
        Err(TryLockError::WouldBlock) => Err(RollbackError::Held { path: path() }),
        Err(TryLockError::Error(source)) => Err(files(source)),
    }
}

/// Locks the database until the result is dropped. A damaged database can be left, too, and there may be none.
///
/// # Errors
/// When a process has it open.
fn hold(folder: &Path, price: PriceFn) -> Result<Option<DB>, RollbackError> {
    if !has_database(folder) {
        return Ok(None); // or this would make one
    }
    match open_database(&opening(folder, price), Access::ReadWrite) {
        Err(OpenError::Held { path }) => Err(RollbackError::Held { path }),
        opened => Ok(opened.ok()),
    }
}

/// Checks that a copy can be opened, and has the format of its name.
fn require_whole(copy: &KeptCopy, price: PriceFn) -> Result<(), OpenError> {
    let db = open_database(&opening(&copy.path, price), Access::ReadOnly)?;
    match meta::format(&db)? {
        Some(format) if format == copy.format => Ok(()),
        other => Err(OpenError::Corrupt { cause: format!("its format is {other:?}") }),
    }
}

/// Returns how to open a database of which only the folder is known.
fn opening(folder: &Path, price: PriceFn) -> Opening {
    let location = Location::Folder(folder.to_owned(), options::OPEN_FILES_MAX);
    Opening::new(location, Durability::Fsync, price, None, CACHE_BYTES_MIN)
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
    use std::os::unix::fs::symlink;

    use hawser_proto::price::PicoDollarPrice;

    use super::*;

    /// The newer database is aside already. A start would make a new one in the empty folder, and sign from place 1 on.
    #[test]
    fn a_return_whose_copy_cannot_be_found_is_not_finished() {
        let folder = tempfile::tempdir().unwrap();
        let finish = || roll_back(folder.path(), |_, _| PicoDollarPrice(0));
        write_note(folder.path(), RollbackStep::Back, 5).unwrap();
        let copy = copy_folder(folder.path(), 5);
        // The system fails to look up a link to itself.
        symlink(&copy, &copy).unwrap();
        let refused = finish();
        assert!(matches!(refused, Err(RollbackError::Files { .. })), "{refused:?}");
        fs::remove_file(&copy).unwrap();
        let refused = finish();
        assert!(matches!(refused, Err(RollbackError::NoCopy { .. })), "{refused:?}");
        assert!(is_unfinished(folder.path()).unwrap(), "no program opens the folder");
    }

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
