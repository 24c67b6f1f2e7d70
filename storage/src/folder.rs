//! Folders of the file system.

use std::fs;
use std::io;
use std::path::Path;

/// Creates a folder, and those above it, with mode 0700. An existing one stays as it is.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Returns the number that tells the folder apart from others on its file system.
pub(crate) fn inode_of(folder: &Path) -> io::Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::ino(&fs::metadata(folder)?))
}
