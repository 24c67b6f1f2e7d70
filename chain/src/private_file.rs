//! Files that only their owner may read and that are replaced as a whole: the records of payloads, which hold
//! payloads before they are published.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The part of a replacement that has to reach the disk, beside the content of the new file, before [`replace`]
/// returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectorySync {
    /// The directory entry too: after a power failure the path names the new file.
    Wait,
    /// Nothing else: after a power failure the path names the old or the new file, each of them whole.
    Skip,
}

/// Opens a file for reading and writing, or creates it with its folders. A new file has permissions for its owner
/// alone.
///
/// # Errors
/// Error of the operating system.
pub fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Replaces a file atomically, and returns the new one, open behind its content. Readers of the path find the old or
/// the new content. The new file has a name with `.new` until it is complete; an earlier file of that name,
/// which a killed process may have left, is removed.
///
/// # Errors
/// Error of the operating system. The path then names the old file or, only if the folder could not be synced, the new
/// one.
pub fn replace(path: &Path, content: &[u8], directory: DirectorySync) -> io::Result<File> {
    let fresh = path.with_added_extension("new");
    if let Err(error) = fs::remove_file(&fresh)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    if directory == DirectorySync::Wait
        && let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty())
    {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_replaced_file_is_whole_and_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/record");
        drop(open(&path).unwrap());
        for directory in [DirectorySync::Wait, DirectorySync::Skip] {
            // A killed process has left a longer file, and others may read it.
            fs::write(path.with_added_extension("new"), "longer than the content").unwrap();
            let mut file = replace(&path, b"content", directory).unwrap();
            file.write_all(b", and more").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"content, and more");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(!path.with_added_extension("new").exists());
        }
    }

    #[test]
    fn a_failed_replacement_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        fs::write(&path, "old").unwrap();
        fs::create_dir(path.with_added_extension("new")).unwrap();
        replace(&path, b"new", DirectorySync::Wait).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
