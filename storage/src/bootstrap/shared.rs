//! Serves the snapshots of a folder as files to untrusted callers.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use super::stored::len_bytes_max_of;
use crate::folder::open_plain;

/// A folder of snapshots, of which only the files of snapshots can be opened.
#[derive(Debug, Clone)]
pub struct SharedSnapshots {
    folder: PathBuf,
}

impl SharedSnapshots {
    /// Serves a folder, which may still be empty.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Opens the file of an object, and returns it with its length in bytes. `object` is untrusted. Returns `None`
    /// for a name that no object of a snapshot has, and for an object that does not exist.
    ///
    /// # Errors
    /// An error of the file system; [`ErrorKind::InvalidData`] if the name belongs to a link, a folder or a pipe,
    /// or if the file is longer than such an object may be.
    pub fn open(&self, object: &str) -> io::Result<Option<(File, u64)>> {
        let Some(len_bytes_max) = len_bytes_max_of(object) else { return Ok(None) };
        let file = match open_plain(&self.folder.join(object), File::options().read(true)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let len_bytes = file.metadata()?.len();
        if len_bytes > len_bytes_max {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "it is longer than a snapshot's may be",
            ));
        }
        Ok(Some((file, len_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_plain_files_of_snapshots_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let shared = SharedSnapshots::new(folder.path().to_owned());
        let names = "snapshots/names";
        assert!(shared.open(names).unwrap().is_none(), "nothing is there yet");
        std::fs::create_dir(folder.path().join("snapshots")).unwrap();
        std::fs::write(folder.path().join(names), b"none").unwrap();
        std::fs::write(folder.path().join("snapshots/other"), b"secret").unwrap();
        assert_eq!(shared.open(names).unwrap().unwrap().1, 4);
        assert!(shared.open("snapshots/other").unwrap().is_none());
        let manifest = "snapshots/000001700000000-0123456789abcdef.snapshot";
        symlink(folder.path().join("snapshots/other"), folder.path().join(manifest)).unwrap();
        assert_eq!(shared.open(manifest).unwrap_err().kind(), ErrorKind::InvalidData);
        File::create(folder.path().join(names)).unwrap().set_len(1 << 30).unwrap();
        assert_eq!(shared.open(names).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
