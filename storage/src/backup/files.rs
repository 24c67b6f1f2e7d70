//! Hashing and copying files at a pace that the caller sets.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use super::error::{BackupError, at};
use super::manifest::{BackupFile, FileHash};

/// Bytes between two calls of a [`Pace`]. A guess: a disk writes them in a millisecond.
const STEP_BYTES: usize = 256 << 10;

/// A function that is called with the number of bytes that were read since its last call. It waits as long
/// as the work has to pause, and says if the work goes on.
pub type Pace<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// Returns hash and length of a file.
///
/// # Errors
/// When it cannot be read, or the work is stopped.
pub(super) fn hash(path: &Path, pace: &mut Pace<'_>) -> Result<(FileHash, u64), BackupError> {
    let mut file = File::open(path).map_err(at(path))?;
    read(&mut file, path, pace, |_| Ok(()))
}

/// Copies a file durably, and returns hash and length of what was written. Never replaces a file.
///
/// # Errors
/// When it cannot be read or written, or the work is stopped. The part that was written stays.
pub(super) fn copy(
    from: &Path,
    to: &Path,
    pace: &mut Pace<'_>,
) -> Result<(FileHash, u64), BackupError> {
    let mut source = File::open(from).map_err(at(from))?;
    let mut target = File::create_new(to).map_err(at(to))?;
    let copied = read(&mut source, from, pace, |bytes| target.write_all(bytes).map_err(at(to)))?;
    target.sync_all().map_err(at(to))?;
    Ok(copied)
}

fn read(
    file: &mut File,
    path: &Path,
    pace: &mut Pace<'_>,
    mut each: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(FileHash, u64), BackupError> {
    let (mut hasher, mut len, mut buffer) = (blake3::Hasher::new(), 0, vec![0; STEP_BYTES]);
    loop {
        let read = match file.read(&mut buffer) {
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

/// Checks that a file of a backup is there, plain, and as long as stated.
///
/// # Errors
/// [`BackupError::Missing`], [`BackupError::NotAFile`] or [`BackupError::Length`].
pub(super) fn require_there(path: &Path, file: &BackupFile) -> Result<(), BackupError> {
    let BackupFile { name, len_bytes, hash } = file;
    let (name, hash) = (name.clone(), *hash);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(BackupError::Missing { name, hash })
        }
        Err(error) => Err(at(path)(error)),
        Ok(found) if !found.is_file() => Err(BackupError::NotAFile { name, hash }),
        Ok(found) if found.len() != *len_bytes => {
            Err(BackupError::Length { name, hash, found: found.len(), stated: *len_bytes })
        }
        Ok(_) => Ok(()),
    }
}

/// Compares what was read with what the manifest states.
///
/// # Errors
/// [`BackupError::Content`].
pub(super) fn require_same(file: &BackupFile, read: (FileHash, u64)) -> Result<(), BackupError> {
    if read == (file.hash, file.len_bytes) {
        return Ok(());
    }
    Err(BackupError::Content { name: file.name.clone(), hash: file.hash })
}

/// Makes the names in a folder durable.
///
/// # Errors
/// Of the file system.
pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(at(path))
}
