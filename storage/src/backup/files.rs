//! Hashes, stores and fetches files at a pace that the caller sets.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::error::{BackupError, at};
use super::manifest::{BackupFile, BackupManifest, FileHash};
use crate::folder::BACKUP_FILES;
use crate::objects::{FoundObject, NewObject, ObjectTag, Objects};
use crate::uncached::{ReadBuffer, UncachedFile};

/// The hash in the temporary name of a file whose hash is not known yet. If a crash leaves it, it counts as an
/// unfinished file of backups. No file is known that has this hash.
const UNKNOWN: FileHash = FileHash([0; 32]);

/// Bytes of a read, and between two calls of a [`Pace`]. A guess: a disk reads this much in a millisecond. Measured:
/// with half of it, four threads that read past the file cache had an eighth less of the disk's rate.
const STEP_BYTES: usize = 512 << 10;

/// A function that is called with the number of bytes read since its last call. It sleeps as long as the work has
/// to pause, and returns `Break` to cancel the work.
pub type Pace<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// Returns hash and length of a file of this machine.
///
/// # Errors
/// When it cannot be read, or the work is stopped.
pub(super) fn hash(path: &Path, pace: &mut Pace<'_>) -> Result<(FileHash, u64), BackupError> {
    let mut file = UncachedFile::open(path).map_err(at(path))?;
    read(&mut file, path, pace, |_| Ok(()))
}

/// Returns hash and length of a stored file.
///
/// # Errors
/// When it cannot be read, or the work is stopped.
pub(super) fn hash_stored(
    objects: &dyn Objects,
    file: &BackupFile,
    pace: &mut Pace<'_>,
) -> Result<(FileHash, u64), BackupError> {
    let (mut source, location) = open(objects, file)?;
    read(&mut *source, &location, pace, |_| Ok(()))
}

/// Copies a stored file to this machine, durably, and returns hash and length of the written bytes. Never replaces
/// a file.
///
/// # Errors
/// An error if it cannot be read or written, or if the work is cancelled. The written part stays.
pub(super) fn fetch(
    objects: &dyn Objects,
    file: &BackupFile,
    to: &Path,
    pace: &mut Pace<'_>,
) -> Result<(FileHash, u64), BackupError> {
    let (mut source, location) = open(objects, file)?;
    let mut target = File::create_new(to).map_err(at(to))?;
    let copied =
        read(&mut *source, &location, pace, |bytes| target.write_all(bytes).map_err(at(to)))?;
    target.sync_all().map_err(at(to))?;
    Ok(copied)
}

/// Stores a file of this machine under its hash, if its bytes still have that hash. Returns the version of the
/// object. `is_idle` returns true while no other work waits for the disk.
///
/// # Errors
/// An error if it cannot be read or written, if it has changed, or if the work is cancelled. No object is stored
/// then.
pub(super) fn store(
    objects: &dyn Objects,
    from: &Path,
    file: &BackupFile,
    is_idle: &dyn Fn() -> bool,
    pace: &mut Pace<'_>,
) -> Result<Option<ObjectTag>, BackupError> {
    let name = object_name(file.hash);
    let location = objects.location(&name);
    let mut source = UncachedFile::open(from).map_err(at(from))?;
    let mut target = objects.create(&name).map_err(at(&location))?;
    let copied = read(&mut source, from, pace, |bytes| {
        target.note_idle(is_idle());
        target.write_all(bytes).map_err(at(&location))
    })?;
    require_same(file, copied)?;
    target.finish().map_err(at(&location))
}

/// A copy of a file of this machine that has no name yet. It is removed if it is dropped.
pub(super) struct UnnamedCopy<'a> {
    pub(super) hash: FileHash,
    pub(super) len_bytes: u64,
    target: Box<dyn NewObject + 'a>,
}

/// Copies a file of this machine, and computes its hash from the same bytes. For a folder, which gives a file its name
/// at the end, and for a file that no backup can have. `is_idle` is that of [`store`].
///
/// # Errors
/// An error if it cannot be read or written, or if the work is cancelled. No object is stored then.
pub(super) fn copy<'a>(
    objects: &'a dyn Objects,
    from: &Path,
    is_idle: &dyn Fn() -> bool,
    pace: &mut Pace<'_>,
) -> Result<UnnamedCopy<'a>, BackupError> {
    let name = object_name(UNKNOWN);
    let location = objects.location(&name);
    let mut source = UncachedFile::open(from).map_err(at(from))?;
    let mut target = objects.create(&name).map_err(at(&location))?;
    let (hash, len_bytes) = read(&mut source, from, pace, |bytes| {
        target.note_idle(is_idle());
        target.write_all(bytes).map_err(at(&location))
    })?;
    Ok(UnnamedCopy { hash, len_bytes, target })
}

impl UnnamedCopy<'_> {
    /// Stores the copy under its hash. Returns the version of the object.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(super) fn finish(self, objects: &dyn Objects) -> Result<Option<ObjectTag>, BackupError> {
        let Self { hash, mut target, .. } = self;
        let name = object_name(hash);
        let renamed = target.rename(&name);
        renamed.and_then(|()| target.finish()).map_err(at(&objects.location(&name)))
    }
}

/// Returns the name of the object with this hash: `files/ab/ab…`.
pub(super) fn object_name(hash: FileHash) -> String {
    let hash = hash.to_string();
    format!("{BACKUP_FILES}/{}/{hash}", &hash[..2])
}

/// Opens a stored file, of which no more bytes are read than the manifest states.
fn open<'a>(
    objects: &'a dyn Objects,
    file: &BackupFile,
) -> Result<(Box<dyn Read + 'a>, PathBuf), BackupError> {
    let name = object_name(file.hash);
    let location = objects.location(&name);
    let source = objects.open(&name, file.len_bytes).map_err(at(&location))?;
    Ok((source, location))
}

fn read(
    source: &mut dyn Read,
    path: &Path,
    pace: &mut Pace<'_>,
    mut each: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(FileHash, u64), BackupError> {
    let (mut hasher, mut len) = (blake3::Hasher::new(), 0);
    let mut memory = ReadBuffer::new(STEP_BYTES);
    let buffer = memory.bytes();
    loop {
        let read = match source.read(buffer) {
            Ok(0) => return Ok((FileHash(*hasher.finalize().as_bytes()), len)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(at(path)(error)),
        };
        let bytes = &buffer[..read];
        hasher.update(bytes);
        each(bytes)?;
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        len += read;
        if pace(read).is_break() {
            return Err(BackupError::Stopped);
        }
    }
}

/// Checks that a file of a backup exists, is a regular file and has the stated length.
///
/// # Errors
/// [`BackupError::Missing`], [`BackupError::NotAFile`] or [`BackupError::Length`].
pub(super) fn require_there(objects: &dyn Objects, file: &BackupFile) -> Result<(), BackupError> {
    let object = object_name(file.hash);
    let BackupFile { name, len_bytes, hash } = file;
    let (name, hash) = (name.clone(), *hash);
    match objects.find(&object).map_err(at(&objects.location(&object)))? {
        FoundObject::Absent => Err(BackupError::Missing { name, hash }),
        FoundObject::NotPlain => Err(BackupError::NotAFile { name, hash }),
        FoundObject::Plain(found) if found != *len_bytes => {
            Err(BackupError::Length { name, hash, found, stated: *len_bytes })
        }
        FoundObject::Plain(_) => Ok(()),
    }
}

/// Checks that a file has the length and the hash that the manifest states.
///
/// # Errors
/// [`BackupError::Content`].
pub(super) fn require_same(file: &BackupFile, read: (FileHash, u64)) -> Result<(), BackupError> {
    if read == (file.hash, file.len_bytes) {
        return Ok(());
    }
    Err(BackupError::Content { name: file.name.clone(), hash: file.hash })
}

/// Checks that the disk of an existing folder has room for copies of all files of a backup. A manifest may list one
/// file under a hundred thousand names, and the hash of each copy is right.
///
/// # Errors
/// [`BackupError::NoDiskRoom`].
pub(super) fn require_room(folder: &Path, manifest: &BackupManifest) -> Result<(), BackupError> {
    // A file system that does not tell its size may have the room, so the copy is tried.
    let disk = rustix::fs::statvfs(folder).ok().filter(|disk| disk.f_blocks > 0);
    let free = disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let wanted = manifest.len_bytes();
    if wanted > free {
        return Err(BackupError::NoDiskRoom { path: folder.to_owned(), wanted, free });
    }
    Ok(())
}

/// Makes the names in a folder durable.
///
/// # Errors
/// An error of the file system.
pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(at(path))
}
