//! The backups of a place: files by their hashes, and manifests.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use super::error::{BackupError, at};
use super::manifest::{MANIFEST_LEN_BYTES_MAX, ManifestError, ReadManifest};
use super::wanted::WantedBackup;
use crate::folder::{BACKUP_FILES, BACKUP_MANIFESTS};
use crate::objects::dated::{self, NewestManifest};
use crate::objects::{FoundObject, HeldObjects, Objects};

/// Suffix of the name of a manifest's file.
const SUFFIX: &str = ".manifest";
/// Object with the names of the backups that were made last. The lists of some services lag behind writes, and reads
/// of one object do not, so this object tells of backups that no list has yet. It decides only what is kept: a wrong
/// name costs one request. It is beside the manifests, so keys that may write only backups may write it. Its name is
/// that of no backup, so lists of backups leave it out.
const RECENT: &str = "manifests/recent";
/// Number of names in it. A guess: those that ten nodes make in a day, each once an hour.
const RECENT_MAX: usize = 256;
/// Largest length of that object, bytes. Calculated: a line has at most 38.
const RECENT_LEN_BYTES_MAX: u64 = 64 * RECENT_MAX as u64;

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
        if !objects.has_folder(BACKUP_MANIFESTS).map_err(at(&objects.location(BACKUP_MANIFESTS)))? {
            return Err(BackupError::NotBackups { path: objects.location("") });
        }
        Ok(Self { objects })
    }

    /// Opens a place for new backups, and creates it if it does not exist.
    pub(super) fn make(objects: Arc<dyn Objects>) -> Result<Self, BackupError> {
        for name in [BACKUP_MANIFESTS, BACKUP_FILES] {
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
        dated::names(&*self.objects, BACKUP_MANIFESTS, SUFFIX)
            .map_err(at(&self.objects.location(BACKUP_MANIFESTS)))
    }

    /// Returns the names of all backups as [`Self::names`] does, with those made last that the list of the place does
    /// not have yet.
    ///
    /// # Errors
    /// An error if the place cannot be read.
    pub(super) fn names_with_recent(&self) -> Result<Vec<String>, BackupError> {
        let mut names: BTreeSet<_> = self.names()?.into_iter().collect();
        for name in self.recent()? {
            if names.contains(&name) {
                continue;
            }
            let object = manifest_name(&name);
            let found = self.objects.find(&object).map_err(at(&self.objects.location(&object)))?;
            // One that was removed, or whose maker ended before it wrote the manifest, needs no files.
            if found != FoundObject::Absent {
                names.insert(name);
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Returns the names of the backups that were made last, in the order of their making. An object that is no list of
    /// names counts as empty: pruning then believes the list of the place alone.
    fn recent(&self) -> Result<Vec<String>, BackupError> {
        let location = self.objects.location(RECENT);
        match self.objects.find(RECENT).map_err(at(&location))? {
            FoundObject::Plain(len) if len <= RECENT_LEN_BYTES_MAX => {}
            FoundObject::Absent | FoundObject::NotPlain | FoundObject::Plain(_) => {
                return Ok(Vec::new());
            }
        }
        let mut bytes = Vec::new();
        let mut source = self.objects.open(RECENT, RECENT_LEN_BYTES_MAX).map_err(at(&location))?;
        source.read_to_end(&mut bytes).map_err(at(&location))?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().filter(|line| dated::is_name(line)).map(str::to_owned).collect())
    }

    /// Adds a name to those of the backups that were made last.
    fn note_recent(&self, name: &str) -> Result<(), BackupError> {
        let mut names = self.recent()?;
        names.retain(|it| it != name);
        names.push(name.to_owned());
        let newest = &names[names.len().saturating_sub(RECENT_MAX)..];
        let lines: String = newest.iter().map(|name| format!("{name}\n")).collect();
        self.put(RECENT, lines.as_bytes())
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
        if !dated::is_name(name) {
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
        let named = dated::name_of(read.manifest.made_unix_s, &bytes);
        Ok((read, named))
    }

    /// Returns true if an object has the suffix of a manifest, whatever its name.
    pub(super) fn has_manifests(&self) -> Result<bool, BackupError> {
        let listed = self
            .objects
            .list(BACKUP_MANIFESTS)
            .map_err(at(&self.objects.location(BACKUP_MANIFESTS)))?;
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
        let newest_unix_s = newest.and_then(|name| dated::time_of(&name));
        newest_unix_s.map_or(now_unix_s, |it| it.saturating_add(1))
    }

    /// Like [`Self::newest`], among the backups that are not older than `since_unix_s`.
    fn newest_since(
        &self,
        since_unix_s: u64,
        wanted: &WantedBackup,
        now_unix_s: u64,
    ) -> Result<String, BackupError> {
        let mut refused = None;
        let wanted_name = |name: &str| -> Result<Option<String>, BackupError> {
            let read = self.manifest(name)?;
            let required = wanted.require(&read);
            let is_wanted = required.is_ok();
            refused = refused.take().or(required.err());
            Ok(is_wanted.then(|| name.to_owned()))
        };
        let found = dated::newest(&self.names()?, since_unix_s, now_unix_s, wanted_name);
        match found {
            NewestManifest::Found(name) => Ok(name),
            NewestManifest::TooManyUnusable(error) => Err(error),
            NewestManifest::NoneWanted(unusable) => {
                let path = self.objects.location("");
                Err(refused.or(unusable).unwrap_or(BackupError::NotBackups { path }))
            }
        }
    }

    /// Writes a manifest atomically and durably, and returns the backup's name.
    pub(super) fn write_manifest(
        &self,
        made_unix_s: u64,
        bytes: &[u8],
    ) -> Result<String, BackupError> {
        let name = dated::name_of(made_unix_s, bytes);
        // Noted before it exists: a crash between the two writes leaves no backup that is not noted.
        self.note_recent(&name)?;
        self.put(&manifest_name(&name), bytes)?;
        Ok(name)
    }

    /// Writes an object atomically and durably.
    fn put(&self, object: &str, bytes: &[u8]) -> Result<(), BackupError> {
        let write = || {
            let mut new = self.objects.create(object)?;
            new.write_all(bytes)?;
            new.finish().map(drop)
        };
        write().map_err(at(&self.objects.location(object)))
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
    format!("{BACKUP_MANIFESTS}/{name}{SUFFIX}")
}
