//! A note of this host that the last commits of a node may not be on the disk.
//!
//! If commits do not wait for the disk, a machine that loses power loses the last ones. The marker does not wait
//! either, so it may have lost the same places, and the folder looks like the newest one. But peers may hold these
//! places. So the note names the run of the machine in which the node signs; it is removed when everything is on the
//! disk. A crash of the process alone loses nothing.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

const NOTE: &str = "unsynced";
/// File in which Linux states a random id of the machine's present run.
const RUN_OF_MACHINE: &str = "/proc/sys/kernel/random/boot_id";
/// Largest note, bytes. A guess: an id has 37.
const LEN_BYTES_MAX: u64 = 4096;

/// Returns true if there is a note of an earlier run of the machine.
///
/// # Errors
/// An error if the note exists and cannot be read.
pub(super) fn is_of_earlier_run(dir: &Path) -> io::Result<bool> {
    let path = dir.join(NOTE);
    let noted = match fs::metadata(&path) {
        Ok(found) if found.len() > LEN_BYTES_MAX => return Ok(true),
        Ok(_) => fs::read(&path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(noted.is_empty() || noted != run_of_machine())
}

/// Writes the note of this run of the machine, durably.
///
/// # Errors
/// An error of the file system.
pub(super) fn write(dir: &Path) -> io::Result<()> {
    let path = dir.join(NOTE);
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&run_of_machine())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    File::open(dir)?.sync_all()
}

/// Removes the note durably, if there is one.
///
/// # Errors
/// An error of the file system.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(NOTE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| File::open(dir)?.sync_all()),
    }
}

/// Returns the id of the machine's present run. It is empty if the system states none: each note then counts as one of
/// an earlier run.
fn run_of_machine() -> Vec<u8> {
    fs::read(RUN_OF_MACHINE).unwrap_or_default()
}
