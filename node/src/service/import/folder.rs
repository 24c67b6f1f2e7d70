//! The data folder of an unfinished import, of another node's database or of a snapshot.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::error::ImportError;
use crate::service::unfinished_import::UNFINISHED;

/// The entry that a new file system has.
const LOST_AND_FOUND: &str = "lost+found";

/// The data folder of a running import.
#[derive(Debug)]
pub(in crate::service) struct ImportFolder {
    path: PathBuf,
    /// True if this run has created the folder.
    was_created: bool,
}

impl ImportFolder {
    /// Claims an empty folder, or that of an earlier run for the same database. Returns true for the latter.
    ///
    /// # Errors
    /// Fails if the folder holds something else, or cannot be read or written.
    pub(in crate::service) fn claim(
        path: &Path,
        fingerprint: &str,
    ) -> Result<(Self, bool), ImportError> {
        let folder = Self { path: path.to_owned(), was_created: !path.exists() };
        let is_resumed = Self::require_usable(path, fingerprint)?;
        if !is_resumed {
            let failed = |source| ImportError::Folder { path: path.to_owned(), source };
            folder.begin(fingerprint).map_err(failed)?;
        }
        Ok((folder, is_resumed))
    }

    /// Checks that a folder can be claimed, and writes nothing. Returns true for that of an earlier run for the same
    /// database.
    fn require_usable(path: &Path, fingerprint: &str) -> Result<bool, ImportError> {
        let failed = |source| ImportError::Folder { path: path.to_owned(), source };
        match fs::read_to_string(path.join(UNFINISHED)) {
            Ok(found) if found == fingerprint => return Ok(true),
            Ok(found) if !found.is_empty() => {
                return Err(ImportError::OtherImport { path: path.to_owned() });
            }
            // An interrupted run may have left the file empty, and then nothing else.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // A refused run empties the folder, so it must never begin beside files of the operator.
        match is_empty(path).map_err(failed)? {
            true => Ok(false),
            false => Err(ImportError::FolderInUse { path: path.to_owned() }),
        }
    }

    fn begin(&self, fingerprint: &str) -> io::Result<()> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&self.path)?;
        let mut file = File::create(self.marker())?;
        file.write_all(fingerprint.as_bytes())?;
        file.sync_all()?;
        self.sync()
    }

    /// Marks the import as finished, so that nodes may start from the folder.
    pub(in crate::service) fn release(self) -> Result<(), ImportError> {
        let done = fs::remove_file(self.marker()).and_then(|()| self.sync());
        done.map_err(|source| ImportError::Folder { path: self.path, source })
    }

    /// Removes everything that this run has written, because the database was refused for this reason. May only be
    /// called by the run that has found the folder empty, when its store is closed. Returns the error to report.
    pub(super) fn clear(self, refused: ImportError) -> ImportError {
        match self.remove_all() {
            Ok(()) => refused,
            Err(source) => {
                ImportError::NotCleared { refused: Box::new(refused), path: self.path, source }
            }
        }
    }

    fn remove_all(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            // The marker goes last, so no node starts from a part.
            if name == UNFINISHED || name == LOST_AND_FOUND {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        self.sync()?;
        fs::remove_file(self.marker())?;
        self.sync()?;
        if self.was_created { fs::remove_dir(&self.path) } else { Ok(()) }
    }

    fn marker(&self) -> PathBuf {
        self.path.join(UNFINISHED)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Returns true for a missing folder, or one without entries other than the marker and that of a new file system.
fn is_empty(path: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if name != LOST_AND_FOUND && name != UNFINISHED {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::unfinished_import::require_finished;

    #[test]
    fn only_an_empty_folder_or_the_same_import_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let (claimed, resumed) = ImportFolder::claim(&path, "one").unwrap();
        assert!(!resumed);
        require_finished(&path).unwrap_err();
        assert!(ImportFolder::claim(&path, "one").unwrap().1, "an earlier run of the same");
        let other = ImportFolder::claim(&path, "two").unwrap_err();
        assert!(matches!(other, ImportError::OtherImport { .. }), "{other}");
        fs::write(path.join("CURRENT"), "").unwrap();
        claimed.release().unwrap();
        require_finished(&path).unwrap();
        let in_use = ImportFolder::claim(&path, "one").unwrap_err();
        assert!(matches!(in_use, ImportError::FolderInUse { .. }), "{in_use}");
    }

    #[test]
    fn a_refused_import_leaves_the_folder_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let refused = || ImportError::Address("refused".to_owned());
        let fill = |path: &Path| {
            fs::write(path.join("CURRENT"), "MANIFEST-000001").unwrap();
            fs::create_dir(path.join("archive")).unwrap();
            fs::write(path.join("archive/000003.log"), "rows").unwrap();
        };
        // A folder that is there, such as a mount point, stays.
        fs::create_dir(folder.path().join(LOST_AND_FOUND)).unwrap();
        let (claimed, _) = ImportFolder::claim(folder.path(), "one").unwrap();
        fill(folder.path());
        assert!(matches!(claimed.clear(refused()), ImportError::Address(_)));
        assert!(is_empty(folder.path()).unwrap());
        assert!(!folder.path().join(UNFINISHED).exists());
        assert!(folder.path().join(LOST_AND_FOUND).exists());

        let path = folder.path().join("data");
        let (claimed, _) = ImportFolder::claim(&path, "one").unwrap();
        fill(&path);
        assert!(matches!(claimed.clear(refused()), ImportError::Address(_)));
        assert!(!path.exists());
    }

    #[test]
    fn a_run_that_was_killed_before_it_had_written_a_word_is_begun_again() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(UNFINISHED), "").unwrap();
        assert!(!ImportFolder::claim(folder.path(), "one").unwrap().1);
        assert!(ImportFolder::claim(folder.path(), "one").unwrap().1);
    }

    /// A refused run removes all files of the folder that it has begun.
    #[test]
    fn an_empty_marker_beside_files_begins_no_run() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(UNFINISHED), "").unwrap();
        fs::write(folder.path().join("CURRENT"), "MANIFEST-000001").unwrap();
        let in_use = ImportFolder::claim(folder.path(), "one").unwrap_err();
        assert!(matches!(in_use, ImportError::FolderInUse { .. }), "{in_use}");
        assert_eq!(fs::read(folder.path().join(UNFINISHED)).unwrap(), b"");
    }
}
