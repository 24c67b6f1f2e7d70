//! Opens and creates folders, and opens files in folders that other users may write to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Folder of the manifests at a place of backups.
pub(crate) const BACKUP_MANIFESTS: &str = "manifests";
/// Folder of the files of all backups there.
pub(crate) const BACKUP_FILES: &str = "files";

/// Opens a file of a folder that other users may write to. Does not follow a link, and does not block on a pipe: a
/// plain `open(2)` on a pipe without a writer or reader blocks for ever.
///
/// # Errors
/// The system's error; [`io::ErrorKind::InvalidData`] if the name belongs to a link, a folder, a pipe or a device.
pub fn open_plain(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let not_plain = || io::Error::new(io::ErrorKind::InvalidData, "it is not a plain file");
    let file = match options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        // The system's errors for a pipe without a reader and for a link, whose texts mention neither.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ELOOP)) => {
            return Err(not_plain());
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(not_plain());
    }
    Ok(file)
}

/// Creates a folder and its missing parents with mode 0700. An existing folder is unchanged.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Returns true if there is a folder of this name. A name that cannot be looked up does not count as absent.
pub(crate) fn is_folder(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(found?.is_dir()),
    }
}

/// Returns true if the folder is a place of backups. A name in it that cannot be looked up is an error.
pub(crate) fn is_of_backups(folder: &Path) -> io::Result<bool> {
    Ok(is_folder(&folder.join(BACKUP_MANIFESTS))? && is_folder(&folder.join(BACKUP_FILES))?)
}

/// Returns the number that identifies the folder on its file system.
pub(crate) fn inode_of(folder: &Path) -> io::Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::ino(&fs::metadata(folder)?))
}

/// Returns the folder inside a data folder in which a backup keeps the files that it copies. They are hard links,
/// so they take room only after the database has deleted its own links.
pub(crate) fn checkpoint_folder(data: &Path) -> PathBuf {
    data.join("backup-checkpoint")
}

/// Returns the folder inside a data folder in which a scrub keeps the files that it reads. It differs from that of
/// backups, because a scrub may take hours and a backup must not wait for it.
pub(crate) fn scrub_checkpoint_folder(data: &Path) -> PathBuf {
    data.join("scrub-checkpoint")
}

/// Returns the folder inside a data folder for table files that the database has not taken over.
pub(crate) fn table_files_folder(data: &Path) -> PathBuf {
    data.join("table-files")
}

/// Removes the folder of a backup if a crash has left it.
pub(crate) fn remove_checkpoint(data: &Path) -> io::Result<()> {
    remove(&checkpoint_folder(data))
}

/// Removes the folder of a scrub if a crash has left it.
pub(crate) fn remove_scrub_checkpoint(data: &Path) -> io::Result<()> {
    remove(&scrub_checkpoint_folder(data))
}

/// Removes the folder of table files if a crash has left it. Files that the database has taken over have other names by
/// then.
pub(crate) fn remove_table_files(data: &Path) -> io::Result<()> {
    remove(&table_files_folder(data))
}

/// Removes a folder with all that is in it. A missing one counts as removed.
pub(crate) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
