//! The backups of a place: files by their hashes, and manifests.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use super::error::{BackupError, at};
use super::files::FILES;
use super::manifest::{FileHash, MANIFEST_LEN_BYTES_MAX, ManifestError, ReadManifest};
use super::wanted::WantedBackup;
use crate::objects::{FoundObject, HeldObjects, Objects};

/// Folder of the manifests.
pub(super) const MANIFESTS: &str = "manifests";
/// Suffix of the name of a manifest's file.
const SUFFIX: &str = ".manifest";
/// Least number of digits of the time in a backup's name, unix seconds.
const TIME_DIGITS_MIN: usize = 12;
/// Largest number of these digits: those of the largest 64-bit number.
const TIME_DIGITS_MAX: usize = 20;
/// Digits of the manifest's hash in a backup's name. Chosen: 64 bits distinguish the backups of one second. The whole
/// hash is in the manifest.
const HASH_DIGITS: usize = 16;
/// Seconds ahead of the reader's clock from which a backup's time counts as in the future. A guess: more than
/// clocks differ.
const LEAD_S_MAX: u64 = 24 * 60 * 60;
/// Number of unusable manifests after which the search for the newest backup ends. A guess: they are rare.
const UNUSABLE_MAX: usize = 64;
/// Number of backups of other owners after which this search ends. A guess: the daily backups of ten nodes for a
/// year.
const OTHERS_MAX: usize = 4096;

/// The backups of a place, of one node or of several.
#[derive(Debug, Clone)]
pub struct Backups {
    pub(super) objects: Arc<dyn Objects>,
}

impl Backups {
    /// Opens a place that has backups already.
    ///
    /// # Errors
    /// When it does not.
    pub fn existing(objects: Arc<dyn Objects>) -> Result<Self, BackupError> {
        if !objects.has_folder(MANIFESTS).map_err(at(&objects.location(MANIFESTS)))? {
            return Err(BackupError::NotBackups { path: objects.location("") });
        }
        Ok(Self { objects })
    }

    /// Opens a place for new backups, and creates it if it does not exist.
    pub(super) fn make(objects: Arc<dyn Objects>) -> Result<Self, BackupError> {
        for name in [MANIFESTS, FILES] {
            objects.make_folder(name).map_err(at(&objects.location(name)))?;
        }
        Ok(Self { objects })
    }

    /// Locks the place, so that no other process adds or removes files until the result is dropped.
    pub(super) fn lock(&self) -> Result<HeldBackups<'_>, BackupError> {
        let held = self.objects.lock().map_err(|error| lock_error(&*self.objects, error))?;
        Ok(HeldBackups { held, objects: &*self.objects })
    }

    /// Returns the names of all backups, ascending, which for those of one node is oldest first. Damaged ones and ones
    /// whose name does not match their content are included. Objects whose names do not have the form of a backup's
    /// name are left out.
    ///
    /// No manifest is read. Any writer of the place can fill it with the longest manifests, so callers read them one at
    /// a time and keep none.
    ///
    /// # Errors
    /// An error if the place cannot be read.
    pub fn names(&self) -> Result<Vec<String>, BackupError> {
        let listed = self.objects.list(MANIFESTS).map_err(at(&self.objects.location(MANIFESTS)))?;
        let name_of = |object: &str| {
            let name = object.strip_prefix(MANIFESTS)?.strip_prefix('/')?.strip_suffix(SUFFIX)?;
            is_backup_name(name).then(|| name.to_owned())
        };
        let mut names: Vec<_> = listed.iter().filter_map(|it| name_of(&it.name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Reads the manifest of one backup.
    ///
    /// # Errors
    /// An error if there is no backup of this name, or if its manifest cannot be used.
    pub fn manifest(&self, name: &str) -> Result<ReadManifest, BackupError> {
        let (read, named) = self.manifest_under(name)?;
        // Otherwise a copy of an old manifest under a newer name would count as a new backup.
        if named != name {
            let error = ManifestError::Renamed { name: named };
            return Err(BackupError::Manifest { name: name.to_owned(), error });
        }
        Ok(read)
    }

    /// Reads a manifest, also one under a wrong name, and returns it with the name that matches its content.
    pub(super) fn manifest_under(&self, name: &str) -> Result<(ReadManifest, String), BackupError> {
        if !is_backup_name(name) {
            return Err(BackupError::NoBackup { name: name.to_owned() });
        }
        let object = manifest_name(name);
        let location = self.objects.location(&object);
        let wrong = |error| BackupError::Manifest { name: name.to_owned(), error };
        match self.objects.find(&object).map_err(at(&location))? {
            FoundObject::Absent => return Err(BackupError::NoBackup { name: name.to_owned() }),
            FoundObject::NotPlain => return Err(wrong(ManifestError::NotAManifest)),
            FoundObject::Plain(len) if len > MANIFEST_LEN_BYTES_MAX => {
                return Err(wrong(ManifestError::TooLong));
            }
            FoundObject::Plain(_) => {}
        }
        let mut bytes = Vec::new();
        // The object may have grown since its length was checked.
        let mut source =
            self.objects.open(&object, MANIFEST_LEN_BYTES_MAX + 1).map_err(at(&location))?;
        source.read_to_end(&mut bytes).map_err(at(&location))?;
        let read = ReadManifest::decode(&bytes).map_err(wrong)?;
        let named = name_of(read.manifest.made_unix_s, &bytes);
        Ok((read, named))
    }

    /// Returns true if an object has the suffix of a manifest, whatever its name.
    pub(super) fn has_manifests(&self) -> Result<bool, BackupError> {
        let listed = self.objects.list(MANIFESTS).map_err(at(&self.objects.location(MANIFESTS)))?;
        Ok(listed.iter().any(|object| object.name.ends_with(SUFFIX)))
    }

    /// Returns the name of the newest usable backup of the wanted owner. Skips backups dated more than a day after
    /// `now_unix_s`.
    ///
    /// Manifests are read one at a time, newest first. Any writer of the place can fill it with manifests, so the
    /// search ends after a number of them.
    ///
    /// # Errors
    /// An error if there is none, or if the place cannot be read. If all are of other owners, it is the mismatch of
    /// the newest one. If none can be used, or too many cannot, it is the error of the newest of these.
    pub fn newest(&self, wanted: &WantedBackup, now_unix_s: u64) -> Result<String, BackupError> {
        self.newest_since(0, wanted, now_unix_s)
    }

    /// Returns the time for the name of an owner's next backup, unix seconds: now, or the second after the owner's
    /// newest backup if that is not older. That happens with two backups in a second, or after the clock was set
    /// back. Otherwise the two would sort by their hashes, and a restore might take the older one.
    pub(super) fn time_of_next(&self, owner: &WantedBackup, now_unix_s: u64) -> u64 {
        let newest = self.newest_since(now_unix_s, owner, now_unix_s).ok();
        let newest_unix_s = newest.and_then(|name| time_of(&name));
        newest_unix_s.map_or(now_unix_s, |it| it.saturating_add(1))
    }

    /// Like [`Self::newest`], among the backups that are not older than `since_unix_s`.
    fn newest_since(
        &self,
        since_unix_s: u64,
        wanted: &WantedBackup,
        now_unix_s: u64,
    ) -> Result<String, BackupError> {
        let (mut refused, mut unusable) = (None, None);
        let (mut others, mut failures) = (0, 0);
        for name in self.names()?.into_iter().rev() {
            // A manifest whose time differs from that in its name cannot be used.
            let Some(made_unix_s) = time_of(&name) else { continue };
            if made_unix_s < since_unix_s || is_ahead(made_unix_s, now_unix_s) {
                continue;
            }
            match self.manifest(&name) {
                Ok(read) => {
                    match wanted.require(&read) {
                        Ok(()) => return Ok(name),
                        Err(error) => refused = refused.or(Some(error)),
                    }
                    others += 1;
                }
                Err(error) => {
                    unusable = unusable.or(Some(error));
                    failures += 1;
                }
            }
            if failures >= UNUSABLE_MAX {
                refused = unusable.take();
                break;
            }
            if others >= OTHERS_MAX {
                break;
            }
        }
        let path = self.objects.location("");
        Err(refused.or(unusable).unwrap_or(BackupError::NotBackups { path }))
    }

    /// Writes a manifest atomically and durably, and returns the backup's name.
    pub(super) fn write_manifest(
        &self,
        made_unix_s: u64,
        bytes: &[u8],
    ) -> Result<String, BackupError> {
        let name = name_of(made_unix_s, bytes);
        let object = manifest_name(&name);
        let write = || {
            let mut new = self.objects.create(&object)?;
            new.write_all(bytes)?;
            new.finish().map(drop)
        };
        write().map_err(at(&self.objects.location(&object)))?;
        Ok(name)
    }
}

/// The lock of a place, which permits adding and removing files.
pub(super) struct HeldBackups<'a> {
    held: Box<dyn HeldObjects + 'a>,
    objects: &'a dyn Objects,
}

impl HeldBackups<'_> {
    /// Renews the lock where it expires by itself.
    ///
    /// # Errors
    /// [`BackupError::Busy`] if another one has it by now.
    pub(super) fn keep(&mut self) -> Result<(), BackupError> {
        self.held.keep().map_err(|error| lock_error(self.objects, error))
    }

    /// Checks that the lock is still held.
    ///
    /// # Errors
    /// [`BackupError::Busy`] if another one has it by now.
    pub(super) fn confirm(&mut self) -> Result<(), BackupError> {
        self.held.confirm().map_err(|error| lock_error(self.objects, error))
    }
}

fn lock_error(objects: &dyn Objects, error: io::Error) -> BackupError {
    let path = objects.location("lock");
    match error.kind() {
        io::ErrorKind::WouldBlock => BackupError::Busy { path },
        _ => at(&path)(error),
    }
}

/// Returns the name of the object of a manifest.
pub(super) fn manifest_name(name: &str) -> String {
    format!("{MANIFESTS}/{name}{SUFFIX}")
}

/// Returns the name of a backup from its time and the bytes of its manifest.
fn name_of(made_unix_s: u64, bytes: &[u8]) -> String {
    let hash = FileHash(*blake3::hash(bytes).as_bytes()).to_string();
    format!("{made_unix_s:0TIME_DIGITS_MIN$}-{}", &hash[..HASH_DIGITS])
}

/// Returns the time in a backup's name, or `None` if it has too many digits.
fn time_of(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok()
}

/// Returns true for names in the form of a backup's name. None of them leads out of the folder, or has control
/// characters for a terminal.
fn is_backup_name(name: &str) -> bool {
    let is_hex = |it: u8| it.is_ascii_digit() || (b'a'..=b'f').contains(&it);
    name.split_once('-').is_some_and(|(time, hash)| {
        (TIME_DIGITS_MIN..=TIME_DIGITS_MAX).contains(&time.len())
            && time.bytes().all(|it| it.is_ascii_digit())
            && hash.len() == HASH_DIGITS
            && hash.bytes().all(is_hex)
    })
}

/// Returns true for a time more than a day in the future.
pub(super) fn is_ahead(made_unix_s: u64, now_unix_s: u64) -> bool {
    made_unix_s > now_unix_s.saturating_add(LEAD_S_MAX)
}
