//! Databases that no node runs on: a data folder, or a backup in the folder where it is kept.

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
    BackupError, Backups, FolderObjects, Pace, ReadManifest, Store, WantedBackup,
};

use crate::commands::backup;
use crate::commands::rebuild::refusal;

/// Names that are tried for the folder of links. A guess: each process that runs needs one.
const NAMES_MAX: u32 = 100;

/// A database that is open for reading.
pub(in crate::commands) struct StoredLog {
    store: Store,
    /// The links to the files of a backup. Dropped after the database.
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
        let (store, _) = projections::open_read_only(at).map_err(refusal)?;
        Ok(Self { store, _links: links })
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
    ) -> Result<Self, RunError> {
        let links = Links(new_folder(&std::env::temp_dir()).map_err(RunError::failed)?);
        kept.link_verified(read, &links.0).map_err(|error| backups::run_error(&error))?;
        let (store, _) = projections::open_read_only(&links.0).map_err(refusal)?;
        Ok(Self { store, _links: Some(links) })
    }

    /// Copies a backup into a new folder below `work`, and compares the files with the manifest.
    ///
    /// # Errors
    /// [`BackupError`] if a file is not as it was written, or cannot be copied.
    pub(in crate::commands) fn of_fetched(
        kept: &Backups,
        name: &str,
        work: &Path,
        pace: &mut Pace<'_>,
    ) -> Result<(FetchedBackup, ReadManifest), BackupError> {
        let at = |source| BackupError::File { path: work.to_owned(), source };
        let folder = Links(new_folder(work).map_err(at)?);
        let read = kept.fetch(name, &folder.0, pace)?;
        Ok((FetchedBackup(folder), read))
    }
}

/// The copy of a backup, which is removed when this value is dropped.
pub(in crate::commands) struct FetchedBackup(Links);

impl FetchedBackup {
    /// Opens the database.
    ///
    /// # Errors
    /// When it does not open.
    pub(in crate::commands) fn open(self) -> Result<StoredLog, RunError> {
        let (store, _) = projections::open_read_only(&self.0.0).map_err(refusal)?;
        Ok(StoredLog { store, _links: Some(self.0) })
    }
}

/// A folder of links or copies, which is removed when this value is dropped.
struct Links(PathBuf);

impl Links {
    fn of(kept: &Backups, named: Option<&str>) -> Result<Self, RunError> {
        // The command checks everything in the backup. A signature of the manifest would prove nothing about the log.
        let any = WantedBackup { unsigned: true, ..WantedBackup::default() };
        let name = match named {
            Some(name) => name.to_owned(),
            None => {
                kept.newest(&any, backup::now_unix_s()).map_err(|it| backups::run_error(&it))?
            }
        };
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
            eprintln!("hawser: {} stays: {error}", self.0.display());
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
