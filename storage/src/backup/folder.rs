//! The folder of backups: its files by their hashes, its manifests, and its lock.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::error::{BackupError, at};
use super::files::sync_folder;
use super::manifest::{FileHash, MANIFEST_LEN_BYTES_MAX, ManifestError, ReadManifest};
use super::wanted::WantedBackup;
use crate::folder::make_folder;

/// Folder of the files of all backups: `files/ab/ab…`, by hash.
const FILES: &str = "files";
/// Folder of the manifests.
const MANIFESTS: &str = "manifests";
/// Held while files are added or removed.
const LOCK: &str = "lock";
/// Ends the name of a manifest's file.
const SUFFIX: &str = ".manifest";
/// Ends the name of a file that is being written.
pub(super) const UNFINISHED: &str = ".part";
/// The fewest digits of the time in a backup's name, unix seconds.
const TIME_DIGITS_MIN: usize = 12;
/// The most: those of the largest number of 64 bits.
const TIME_DIGITS_MAX: usize = 20;
/// Digits of the manifest's hash in a backup's name.
const HASH_DIGITS: usize = 16;
/// Lead over the reader's clock from which on a backup's time is in the future. A guess: more than clocks differ.
const LEAD_S_MAX: u64 = 24 * 60 * 60;

/// A folder that holds backups, of one node or of several.
#[derive(Debug, Clone)]
pub struct BackupFolder {
    root: PathBuf,
}

/// One backup of a folder.
#[derive(Debug)]
pub struct ListedBackup {
    /// Its name. Names of one node ascend with time.
    pub name: String,
    /// Its manifest, or the reason it cannot be used.
    pub manifest: Result<ReadManifest, BackupError>,
}

impl BackupFolder {
    /// Names a folder that holds backups already.
    ///
    /// # Errors
    /// When it does not.
    pub fn existing(root: &Path) -> Result<Self, BackupError> {
        if !root.join(MANIFESTS).is_dir() {
            return Err(BackupError::NotBackups { path: root.to_owned() });
        }
        Ok(Self { root: root.to_owned() })
    }

    /// Makes a folder for backups, if it is not there.
    pub(super) fn make(root: &Path) -> Result<Self, BackupError> {
        for name in [MANIFESTS, FILES] {
            let path = root.join(name);
            make_folder(&path).map_err(at(&path))?;
        }
        sync_folder(root)?;
        Ok(Self { root: root.to_owned() })
    }

    /// Keeps others from adding and removing files until the result is dropped.
    pub(super) fn lock(&self) -> Result<File, BackupError> {
        let path = self.root.join(LOCK);
        let mut options = File::options();
        let file =
            options.write(true).create(true).truncate(false).open(&path).map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(BackupError::Busy { path }),
            Err(TryLockError::Error(error)) => Err(at(&path)(error)),
        }
    }

    /// Returns all backups, oldest first; with damaged ones, and with those whose name is not that of their
    /// content. Files with names that this program never gives are left out.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<ListedBackup>, BackupError> {
        let folder = self.root.join(MANIFESTS);
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let name = entry.map_err(at(&folder))?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(SUFFIX));
            names.extend(name.filter(|name| is_backup_name(name)).map(ToOwned::to_owned));
        }
        names.sort_unstable();
        let list = names.into_iter();
        Ok(list.map(|name| ListedBackup { manifest: self.manifest(&name), name }).collect())
    }

    /// Reads the manifest of one backup.
    ///
    /// # Errors
    /// When there is none of this name, or it cannot be used.
    pub fn manifest(&self, name: &str) -> Result<ReadManifest, BackupError> {
        if !is_backup_name(name) {
            return Err(BackupError::NoBackup { name: name.to_owned() });
        }
        let path = self.manifest_path(name);
        let wrong = |error| BackupError::Manifest { name: name.to_owned(), error };
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::NoBackup { name: name.to_owned() });
            }
            found => found.map_err(at(&path))?,
        };
        if !found.is_file() {
            return Err(wrong(ManifestError::NotAManifest));
        }
        let mut bytes = Vec::new();
        let file = File::open(&path).map_err(at(&path))?;
        // The file may grow after it was looked at.
        file.take(MANIFEST_LEN_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(at(&path))?;
        let read = ReadManifest::decode(&bytes).map_err(wrong)?;
        // A copy of an old manifest under a newer name would pass for a new backup.
        let named = name_of(read.manifest.made_unix_s, &bytes);
        if named != name {
            return Err(wrong(ManifestError::Renamed { name: named }));
        }
        Ok(read)
    }

    /// Returns the name of the newest backup that can be used and is wanted. One that is more than a day ahead
    /// of `now_unix_s` is never it.
    ///
    /// # Errors
    /// When there is none, or the folder cannot be read. If none is wanted, the error tells why the newest one
    /// is not.
    pub fn newest(&self, wanted: &WantedBackup, now_unix_s: u64) -> Result<String, BackupError> {
        let mut refused = None;
        for ListedBackup { name, manifest } in self.list()?.into_iter().rev() {
            let Ok(read) = manifest else { continue };
            if is_ahead(read.manifest.made_unix_s, now_unix_s) {
                continue;
            }
            match wanted.require(&read) {
                Ok(()) => return Ok(name),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| BackupError::NotBackups { path: self.root.clone() }))
    }

    /// Writes a manifest as a whole, durably, and returns the backup's name.
    pub(super) fn write_manifest(
        &self,
        made_unix_s: u64,
        bytes: &[u8],
    ) -> Result<String, BackupError> {
        let name = name_of(made_unix_s, bytes);
        let path = self.manifest_path(&name);
        let part = path.with_extension("part");
        let mut file = File::create(&part).map_err(at(&part))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(&part))?;
        fs::rename(&part, &path).map_err(at(&path))?;
        sync_folder(&self.root.join(MANIFESTS))?;
        Ok(name)
    }

    pub(super) fn manifest_path(&self, name: &str) -> PathBuf {
        self.root.join(MANIFESTS).join(format!("{name}{SUFFIX}"))
    }

    pub(super) fn manifests(&self) -> PathBuf {
        self.root.join(MANIFESTS)
    }

    pub(super) fn files(&self) -> PathBuf {
        self.root.join(FILES)
    }

    /// Returns the path of the file with a content.
    pub(super) fn file_path(&self, hash: FileHash) -> PathBuf {
        let hash = hash.to_string();
        self.root.join(FILES).join(&hash[..2]).join(&hash)
    }
}

/// Returns the name of the backup that was made at a time and has these bytes for its manifest.
fn name_of(made_unix_s: u64, bytes: &[u8]) -> String {
    let hash = FileHash(*blake3::hash(bytes).as_bytes()).to_string();
    format!("{made_unix_s:0TIME_DIGITS_MIN$}-{}", &hash[..HASH_DIGITS])
}

/// Returns true for names of the form that this program gives. None of them leads out of the folder, or holds
/// what a terminal would obey.
fn is_backup_name(name: &str) -> bool {
    let is_hex = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
    name.split_once('-').is_some_and(|(time, hash)| {
        (TIME_DIGITS_MIN..=TIME_DIGITS_MAX).contains(&time.len())
            && time.bytes().all(|it| it.is_ascii_digit())
            && hash.len() == HASH_DIGITS
            && hash.bytes().all(is_hex)
    })
}

/// Returns true for a time that is more than a day ahead.
pub(super) fn is_ahead(made_unix_s: u64, now_unix_s: u64) -> bool {
    made_unix_s > now_unix_s.saturating_add(LEAD_S_MAX)
}
