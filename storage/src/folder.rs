//! Folders of the file system.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Creates a folder, and those above it, with mode 0700. An existing one stays as it is.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Returns the number that identifies the folder on its file system.
pub(crate) fn inode_of(folder: &Path) -> io::Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::ino(&fs::metadata(folder)?))
}

/// Returns the folder inside of a data folder in which a backup holds the files that it copies. They are hard
/// links, so they take room only as long as they outlive the database's own.
pub(crate) fn checkpoint_folder(data: &Path) -> PathBuf {
    data.join("backup-checkpoint")
}

/// Returns the folder inside of a data folder in which a scrub holds the files that it reads, as a backup does. It has
/// its own, because a scrub may take hours and a backup must not wait for it.
pub(crate) fn scrub_checkpoint_folder(data: &Path) -> PathBuf {
    data.join("scrub-checkpoint")
}

/// Removes the folder of a backup, if it is there: a crash leaves it.
pub(crate) fn remove_checkpoint(data: &Path) -> io::Result<()> {
    remove(&checkpoint_folder(data))
}

/// Removes the folder of a scrub, if it is there: a crash leaves it.
pub(crate) fn remove_scrub_checkpoint(data: &Path) -> io::Result<()> {
    remove(&scrub_checkpoint_folder(data))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
