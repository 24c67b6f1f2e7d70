//! Creates a backup of an open database.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use hawser_proto::SecretKey;
use rocksdb::checkpoint::Checkpoint;

use super::contents::Contents;
use super::copying::{IDLE_AFTER, StoredFiles, store_files};
use super::error::{BackupError, at};
use super::files::{self, Pace};
use super::manifest::{BackupFile, BackupManifest, BackupStrand};
use super::stored::{Backups, manifest_name};
use super::wanted::WantedBackup;
use crate::disk_reserve::DiskReserveBeside;
use crate::error::DatabaseError;
use crate::folder::{BACKUP_FILES, BACKUP_MANIFESTS, checkpoint_folder, remove_checkpoint};
use crate::objects::{Objects, SEEN_IN_BACKUPS, SeenObjects};
use crate::store::Store;

/// Settings of one backup.
#[derive(Debug)]
pub struct NewBackup<'a> {
    /// The place of the backups. A missing folder is created.
    pub to: Arc<dyn Objects>,
    /// The node's key, which signs the manifest; `None` leaves it unsigned.
    pub key: Option<&'a SecretKey>,
    /// The current time, unix seconds. If the node already has a backup of this second, the new one gets a later
    /// time.
    pub now_unix_s: u64,
}

/// The outcome of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// The backup's name.
    pub name: String,
    /// Number of its files.
    pub files: usize,
    /// Their length together, in bytes.
    pub bytes: u64,
    /// Number of files that no earlier backup had.
    pub files_copied: usize,
    /// Their length together, in bytes.
    pub bytes_copied: u64,
    /// The ends of all strands.
    pub strands: Vec<BackupStrand>,
}

impl Store {
    /// Creates a backup of the state that is durable now. Commits and reads continue meanwhile: hard links keep the
    /// files, and RocksDB flushes its memory tables first.
    ///
    /// Each file is read, and copied if the place of the backups does not have its bytes yet. An object that exists
    /// there under the file's name is read as well, unless an earlier backup of this store has seen it in the same
    /// version. `pace` is called with the number of bytes read. While it does not sleep, and there are no commits,
    /// several files are read at once, and a file that a folder of backups cannot have is read once. At most one backup
    /// of a store is created at a time.
    ///
    /// # Errors
    /// [`BackupError`]. Earlier backups stay complete. [`BackupError::NoRoom`] below the watermark of the disk, if the
    /// backups are on that of the data folder; files that no backup needs are removed then, or the error says why not.
    pub fn backup(
        &self,
        new: &NewBackup<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<BackupReport, BackupError> {
        let data = self.path().ok_or(BackupError::InMemory)?;
        let checkpoint = checkpoint_folder(data);
        let busy = || BackupError::Busy { path: checkpoint.clone() };
        let _alone = self.shared.backing_up.try_lock().ok_or_else(busy)?;
        if let Some(folder) = new.to.folder() {
            require_outside(folder, data)?;
        }
        let backups = Backups::make(new.to.clone())?;
        let mut held = backups.lock()?;
        remove_checkpoint(data).map_err(at(&checkpoint))?;
        let reserve = &self.shared.how.lasting.disk_reserve;
        let mut reserve =
            DiskReserveBeside::new(reserve, new.to.folder().map(|folder| (folder, data)));
        let begun = match reserve.check() {
            ControlFlow::Continue(()) => self.take(&checkpoint),
            ControlFlow::Break(()) => Err(BackupError::Stopped),
        };
        let done = begun.and_then(|()| {
            let mut paced = |bytes: u64| match reserve.check() {
                ControlFlow::Continue(()) => pace(bytes),
                ControlFlow::Break(()) => ControlFlow::Break(()),
            };
            let read = || Contents::of_folder(&checkpoint, self.shared.how.price);
            let store_all = || {
                let mut seen = SeenObjects::read(Some(data), SEEN_IN_BACKUPS, &*new.to);
                let at = (&mut held, &mut seen);
                let files = store_files(self, &backups, at, &checkpoint, &mut paced);
                seen.write(files.is_ok());
                files
            };
            let is_idle = self.is_without_commits_for(IDLE_AFTER);
            let (contents, files) = do_both(is_idle, read, store_all)?;
            // If another process holds the lock by now, it may have removed files of this backup.
            held.confirm()?;
            finish(&backups, new, contents, files)
        });
        // If this fails, the next backup fails with the error, because the folder exists.
        let _ = remove_checkpoint(data);
        let Some(mut reason) = reserve.refused() else { return done };
        // What this backup has written would keep the node from writing. If this fails, an operator has to remove it.
        drop(held);
        if let Err(error) = backups.prune(usize::MAX, new.now_unix_s) {
            reason = format!("{reason}; files that no backup needs were not removed: {error}");
        }
        Err(BackupError::NoRoom { reason })
    }

    /// Creates a folder of hard links to the current files of the database.
    fn take(&self, checkpoint: &Path) -> Result<(), BackupError> {
        let database = self.database();
        Checkpoint::new(&database.db)
            .and_then(|it| it.create_checkpoint(checkpoint))
            .map_err(DatabaseError::from)?;
        Ok(())
    }
}

/// Does one thing on a thread of its own beside another one, or before it. If it is done before and fails, the other
/// one is not begun.
fn do_both<A: Send, B>(
    is_beside: bool,
    one: impl FnOnce() -> Result<A, BackupError> + Send,
    other: impl FnOnce() -> Result<B, BackupError>,
) -> Result<(A, B), BackupError> {
    if !is_beside {
        return Ok((one()?, other()?));
    }
    thread::scope(|scope| {
        let one = scope.spawn(one);
        let other = other();
        let one = one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((one?, other?))
    })
}

/// Writes the manifest, after everything that it names is durable.
fn finish(
    backups: &Backups,
    new: &NewBackup<'_>,
    contents: Contents,
    stored: StoredFiles,
) -> Result<BackupReport, BackupError> {
    let StoredFiles { files, files_copied, bytes_copied } = stored;
    let Contents { identity, incarnation, strands } = contents;
    let owner = WantedBackup {
        network: Some(identity.network.clone()),
        node: Some(identity.node),
        key: Some(identity.public_key.address()),
        unsigned: new.key.is_none(),
    };
    let made_unix_s = backups.time_of_next(&owner, new.now_unix_s);
    let manifest = BackupManifest { identity, incarnation, made_unix_s, strands, files };
    let wrong = |error| BackupError::Manifest { name: "(new)".to_owned(), error };
    let bytes = manifest.encode(new.key).map_err(wrong)?;
    // The files and their names must be durable before the manifest that lists them.
    backups
        .objects
        .sync_folder(BACKUP_FILES)
        .map_err(at(&backups.objects.location(BACKUP_FILES)))?;
    let name = backups.write_manifest(made_unix_s, &bytes)?;
    // A lock in a bucket may have had two holders, and a backup without its files must not count as complete. If
    // the place does not answer, the manifest stays, because an earlier backup may have the same one.
    let all = require_all(backups, &manifest.files);
    if let Err(
        BackupError::Missing { .. } | BackupError::NotAFile { .. } | BackupError::Length { .. },
    ) = &all
    {
        let (objects, object) = (&*backups.objects, manifest_name(&name));
        let location = objects.location(&object);
        objects.remove(&object).map_err(at(&location))?;
        objects.sync_folder(BACKUP_MANIFESTS).map_err(at(&location))?;
    }
    all?;
    Ok(BackupReport {
        name,
        files: manifest.files.len(),
        bytes: manifest.len_bytes(),
        files_copied,
        bytes_copied,
        strands: manifest.strands,
    })
}

/// Checks that all files of a backup exist with their lengths. One listing costs less than a request for each file.
fn require_all(backups: &Backups, files: &[BackupFile]) -> Result<(), BackupError> {
    let objects = &*backups.objects;
    let listed = objects.list(BACKUP_FILES).map_err(at(&objects.location(BACKUP_FILES)))?;
    let lengths: BTreeMap<&str, u64> = listed
        .iter()
        .filter(|object| object.is_plain)
        .map(|object| (object.name.as_str(), object.len_bytes))
        .collect();
    for file in files {
        let name = files::object_name(file.hash);
        if lengths.get(name.as_str()) != Some(&file.len_bytes) {
            files::require_there(objects, file)?;
        }
    }
    Ok(())
}

/// Refuses a folder of backups inside the data folder. A restore would have to read the backup from the
/// folder that it replaces.
fn require_outside(to: &Path, data: &Path) -> Result<(), BackupError> {
    let absolute = |path: &Path| {
        // The folder may not exist yet: its nearest existing parent decides.
        let path = std::path::absolute(path).map_err(at(path))?;
        let found = path.ancestors().find_map(|it| Some((it, fs::canonicalize(it).ok()?)));
        Ok::<_, BackupError>(match found {
            Some((there, canonical)) => match path.strip_prefix(there) {
                Ok(rest) => canonical.join(rest),
                Err(_) => canonical,
            },
            None => path.clone(),
        })
    };
    if absolute(to)?.starts_with(absolute(data)?) {
        return Err(BackupError::Inside { to: to.to_owned() });
    }
    Ok(())
}
