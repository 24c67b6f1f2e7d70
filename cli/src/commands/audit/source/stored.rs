//! Databases that no node runs on: a data folder, a backup in the folder where it is kept, or a copy of one from a
//! bucket.

use std::fs;
use std::io;
use std::ops::{ControlFlow, Deref};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hawser_node::backup as backups;
use hawser_node::error::RunError;
use hawser_node::service::projections;
use hawser_storage::{
    BackupError, Backups, FolderObjects, OpenError, Pace, ReadManifest, Store, WantedBackup,
};

use crate::clock::now_unix_s;
use crate::commands::backup;
use crate::commands::rebuild::refusal;
use crate::output;

/// Names that are tried for the folder of links. A guess: each process that runs needs one.
const NAMES_MAX: u32 = 100;

/// A database that is open for reading.
pub(in crate::commands) struct StoredLog {
    store: Store,
    /// The links to the files of a backup, or copies of them. Dropped after the database.
    _links: Option<Links>,
}

impl Deref for StoredLog {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl StoredLog {
    /// Opens the database of a data folder, or one backup of a folder of backups: the named one, or else the newest.
    /// Compares each file of a backup with its manifest first. Copies nothing, and changes nothing in the folder.
    ///
    /// # Errors
    /// When there is no database, or a file of the backup differs from its manifest.
    pub(in super::super) fn open(folder: &Path, named: Option<&str>) -> Result<Self, RunError> {
        let links = match (Backups::existing(Arc::new(FolderObjects::new(folder))), named) {
            (Ok(kept), _) => Some(Links::of(&kept, named)?),
            (Err(error), Some(_)) => return Err(backups::run_error(&error)),
            (Err(_), None) => None,
        };
        let at = links.as_ref().map_or(folder, |links| &links.0);
        // It is read nevertheless: an import leaves its folder for the operator if the two sides differ.
        if links.is_none()
            && let Err(unfinished) = projections::require_finished_import(folder)
        {
            output::note(format_args!("{unfinished}. This command reads the part that is there"));
        }
        let opened = projections::open_read_only(at).map_err(refusal);
        let (store, _) = opened.map_err(|error| with_other_source(folder, error))?;
        Ok(Self { store, _links: links })
    }

    /// Copies one backup of a bucket into a new folder below `work`, and opens its database there: the named one, or
    /// else the newest. Compares each file with the manifest before it opens any. The copy is removed with this value.
    ///
    /// # Errors
    /// When there is no backup, a file differs from its manifest, or the copy cannot be written.
    pub(in super::super) fn open_bucket(
        bucket: &Path,
        named: Option<&str>,
        work: &Path,
    ) -> Result<Self, RunError> {
        let kept = backup::existing(bucket)?;
        let name = wanted(&kept, named)?;
        let copy = new_folder(work)
            .map_err(|error| RunError::failed(format!("{}: {error}", work.display())))
            .map(Links)?;
        let bar = backup::bar("fetch");
        let fetched = kept.fetch(&name, &copy.0, &mut |bytes| {
            bar.inc(bytes);
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        fetched.map_err(|error| backups::run_error(&error))?;
        let (store, _) = projections::open_read_only(&copy.0).map_err(refusal)?;
        Ok(Self { store, _links: Some(copy) })
    }
}

/// Adds the way to name another source to the error about a folder, if the name fits such a source.
fn with_other_source(folder: &Path, error: RunError) -> RunError {
    let name = folder.display().to_string();
    let has_port = || name.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let other = if folder.join("snapshots/names").is_file() {
        format!("the snapshots there are snapshot:{name}")
    } else if !folder.exists() && has_port() {
        format!("the API of a node that runs is http://{name}")
    } else {
        return error;
    };
    RunError { text: format!("{}; {other}", error.text), ..error }
}

/// Returns the name of the backup to read: the given one, or else the newest.
fn wanted(kept: &Backups, named: Option<&str>) -> Result<String, RunError> {
    // The command checks everything in the backup. A signature of the manifest would prove nothing about the log.
    let any = WantedBackup { unsigned: true, ..WantedBackup::default() };
    match named {
        Some(name) => Ok(name.to_owned()),
        None => kept.newest(&any, now_unix_s()).map_err(|it| backups::run_error(&it)),
    }
}

/// The reason for which the database of a backup was not opened, although its files are as they were written.
#[derive(Debug)]
pub(in crate::commands) enum UnopenedBackupError {
    /// The database was damaged on its disk before the backup was made, or the maker of the backup lies. Or its format
    /// is newer than that of this program, which then cannot restore it.
    Damaged(String),
    /// This machine has no room for it, or its format is older and only a node migrates it. The database may be whole.
    NotHere(String),
}

impl UnopenedBackupError {
    fn of(error: &OpenError) -> Self {
        match error {
            // No restore by this program opens a newer format, either.
            OpenError::Corrupt { .. } | OpenError::NewerFormat { .. } => {
                Self::Damaged(error.to_string())
            }
            // The manifest names the files of a whole database, so this one has an older format.
            OpenError::NotADatabase { .. } => {
                let text = "its database has an older format, which this program opens for a node alone: use the \
                            program that made the backup";
                Self::NotHere(text.to_owned())
            }
            _ => Self::NotHere(error.to_string()),
        }
    }

    fn of_folder(folder: &Path, error: &io::Error) -> Self {
        Self::NotHere(format!("{}: {error}", folder.display()))
    }
}

impl StoredLog {
    /// Opens the database of a backup whose files have just been compared with their manifest.
    ///
    /// # Errors
    /// When its files are not on this machine, or it does not open.
    pub(in crate::commands) fn of_verified(
        kept: &Backups,
        read: &ReadManifest,
    ) -> Result<Self, UnopenedBackupError> {
        let temporary = std::env::temp_dir();
        let links = new_folder(&temporary)
            .map_err(|error| UnopenedBackupError::of_folder(&temporary, &error))
            .map(Links)?;
        let linked = kept.link_verified(read, &links.0);
        linked.map_err(|error| UnopenedBackupError::NotHere(error.to_string()))?;
        Self::of_links(links)
    }

    /// Compares the files of a backup with its manifest, copies them into a new folder below `work` meanwhile, and
    /// opens the database there.
    ///
    /// # Errors
    /// [`BackupError`] if a file is not as it was written, or the place does not give it.
    pub(in crate::commands) fn of_fetched(
        kept: &Backups,
        name: &str,
        work: &Path,
        pace: &mut Pace<'_>,
    ) -> Result<(ReadManifest, Result<Self, UnopenedBackupError>), BackupError> {
        let folder = match new_folder(work) {
            Ok(folder) => Links(folder),
            Err(error) => {
                let unopened = UnopenedBackupError::of_folder(work, &error);
                return Ok((kept.verify(name, pace)?, Err(unopened)));
            }
        };
        match kept.fetch(name, &folder.0, pace) {
            Ok(read) => Ok((read, Self::of_links(folder))),
            // The copy failed on this machine. The files in the place can still be read.
            Err(BackupError::File { path, source }) if path.starts_with(&folder.0) => {
                drop(folder);
                Ok((kept.verify(name, pace)?, Err(UnopenedBackupError::of_folder(&path, &source))))
            }
            // The backup may be whole, and its files can be read where they are.
            Err(error @ BackupError::NoDiskRoom { .. }) => {
                drop(folder);
                let unopened = UnopenedBackupError::NotHere(error.to_string());
                Ok((kept.verify(name, pace)?, Err(unopened)))
            }
            Err(error) => Err(error),
        }
    }

    fn of_links(links: Links) -> Result<Self, UnopenedBackupError> {
        let opened = projections::open_read_only(&links.0);
        let (store, _) = opened.map_err(|error| UnopenedBackupError::of(&error))?;
        Ok(Self { store, _links: Some(links) })
    }
}

/// A folder of links or copies, which is removed when this value is dropped.
struct Links(PathBuf);

impl Links {
    fn of(kept: &Backups, named: Option<&str>) -> Result<Self, RunError> {
        let name = wanted(kept, named)?;
        let links = Self(new_folder(&std::env::temp_dir()).map_err(RunError::failed)?);
        let bar = backup::bar("verify");
        let linked = kept.link(&name, &links.0, &mut |bytes| {
            bar.inc(bytes);
            ControlFlow::Continue(())
        });
        bar.finish_and_clear();
        linked.map_err(|error| backups::run_error(&error))?;
        Ok(links)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            output::note(format_args!("hawser: {} stays: {error}", self.0.display()));
        }
    }
}

/// Makes a folder that only this user can read, in an existing one.
fn new_folder(parent: &Path) -> io::Result<PathBuf> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 0..NAMES_MAX {
        let name = format!("hawser-backup-{}-{number}", std::process::id());
        let path = parent.join(name);
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A restore opens an older format and brings it up to date, so a backup of that format is not damaged.
    #[test]
    fn a_backup_that_a_restore_opens_is_not_called_damaged() {
        let path = PathBuf::from("backup");
        let full = io::Error::from(io::ErrorKind::StorageFull);
        for error in [
            OpenError::NotADatabase { path: path.clone() },
            OpenError::Unwritable { path, source: full },
        ] {
            let unopened = UnopenedBackupError::of(&error);
            assert!(matches!(unopened, UnopenedBackupError::NotHere(_)), "{unopened:?}");
        }
        for error in [
            OpenError::Corrupt { cause: "a row".to_owned() },
            OpenError::NewerFormat { found: 99, writer: None },
        ] {
            let damaged = UnopenedBackupError::of(&error);
            assert!(matches!(damaged, UnopenedBackupError::Damaged(_)), "{damaged:?}");
        }
    }
}
