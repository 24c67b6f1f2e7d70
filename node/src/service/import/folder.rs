//! The data folder of an unfinished import, of another node's database or of a snapshot.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::error::ImportError;
use crate::service::unfinished_import::UNFINISHED;

/// The entry that a new file system has.
const LOST_AND_FOUND: &str = "lost+found";

/// The end of the marker of a folder that its import is removing, because the database was refused.
const EMPTYING: &str = " (being emptied)";

/// The data folder of a running import. One import at a time holds it, also of several processes.
#[derive(Debug)]
pub(in crate::service) struct ImportFolder {
    path: PathBuf,
    /// The file that says that the import is unfinished, and of what. Locked as long as it is open.
    marker: File,
    /// True if this run has created the folder.
    was_created: bool,
}

impl ImportFolder {
    /// Claims an empty folder, or that of an earlier run for the same database. Returns true for the latter.
    ///
    /// # Errors
    /// Fails if the folder holds something else, another import holds it, or it cannot be read or written. Nothing in
    /// it has changed then.
    pub(in crate::service) fn claim(
        path: &Path,
        fingerprint: &str,
    ) -> Result<(Self, bool), ImportError> {
        let failed = |source| ImportError::Folder { path: path.to_owned(), source };
        // A marker is written only where there is nothing of the operator.
        if !path.join(UNFINISHED).exists() && !is_empty(path).map_err(failed)? {
            return Err(ImportError::FolderInUse { path: path.to_owned() });
        }
        let was_created = create(path).map_err(failed)?;
        let (marker, is_new) = lock_marker(path)?;
        let folder = Self { path: path.to_owned(), marker, was_created };
        let is_resumed = folder.begin(fingerprint, is_new)?;
        Ok((folder, is_resumed))
    }

    /// Begins an import, or continues that of an earlier run for the same database. Returns true for the latter.
    fn begin(&self, fingerprint: &str, marker_is_new: bool) -> Result<bool, ImportError> {
        let failed = |source| ImportError::Folder { path: self.path.clone(), source };
        let mut found = String::new();
        (&self.marker).read_to_string(&mut found).map_err(failed)?;
        if found == fingerprint {
            return Ok(true);
        }
        if found.ends_with(EMPTYING) {
            // An earlier run was interrupted while it removed what it had written.
            self.remove_content().and_then(|()| self.marker.set_len(0)).map_err(failed)?;
        } else if !found.is_empty() {
            return Err(ImportError::OtherImport { path: self.path.clone() });
        } else if !is_empty(&self.path).map_err(failed)? {
            // An interrupted run may have left the marker empty, and then nothing else. A refused run empties the
            // folder, so it must never begin beside files of the operator.
            if marker_is_new {
                fs::remove_file(self.marker_path()).map_err(failed)?;
            }
            return Err(ImportError::FolderInUse { path: self.path.clone() });
        }
        let written = (&self.marker).write_all(fingerprint.as_bytes());
        let synced = written.and_then(|()| self.marker.sync_all()).and_then(|()| self.sync());
        synced.map_err(failed)?;
        Ok(false)
    }

    /// Marks the import as finished, so that nodes may start from the folder.
    pub(in crate::service) fn release(self) -> Result<(), ImportError> {
        let done = fs::remove_file(self.marker_path()).and_then(|()| self.sync());
        done.map_err(|source| ImportError::Folder { path: self.path, source })
    }

    /// Leaves the folder as it was before this run, which has found it empty and has written nothing yet.
    pub(in crate::service) fn undo(self) -> Result<(), ImportError> {
        self.remove_all().map_err(|source| ImportError::Folder { path: self.path, source })
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

    /// Leaves what an earlier run has written, for a later one or for the operator to remove, because the database was
    /// refused for this reason. Returns the error to report.
    pub(super) fn keep(self, refused: ImportError) -> ImportError {
        ImportError::Kept { refused: Box::new(refused), path: self.path }
    }

    fn remove_all(&self) -> io::Result<()> {
        // If this is interrupted, the next run continues it, whatever it imports.
        (&self.marker).write_all(EMPTYING.as_bytes())?;
        self.marker.sync_all()?;
        self.remove_content()?;
        // The marker goes last, so no node starts from a part.
        fs::remove_file(self.marker_path())?;
        self.sync()?;
        if !self.was_created {
            return Ok(());
        }
        match fs::remove_dir(&self.path) {
            // Another import has begun since the marker is gone.
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed,
        }
    }

    /// Removes everything but the marker.
    fn remove_content(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == UNFINISHED || name == LOST_AND_FOUND {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        self.sync()
    }

    fn marker_path(&self) -> PathBuf {
        self.path.join(UNFINISHED)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// Creates a folder and its parents. Returns false if the folder is there.
fn create(path: &Path) -> io::Result<bool> {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700);
    if let Some(parent) = path.parent() {
        builder.recursive(true).create(parent)?;
    }
    match builder.recursive(false).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens the marker, and locks it for as long as it is open. Returns true with a marker that was not there.
fn lock_marker(folder: &Path) -> Result<(File, bool), ImportError> {
    let path = folder.join(UNFINISHED);
    let failed = |source| ImportError::Folder { path: folder.to_owned(), source };
    let held = || ImportError::FolderHeld { path: folder.to_owned() };
    let mut options = File::options();
    options.read(true).append(true);
    let (marker, is_new) = match options.clone().create_new(true).open(&path) {
        Ok(marker) => (marker, true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match options.open(&path) {
            Ok(marker) => (marker, false),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(held()),
            Err(error) => return Err(failed(error)),
        },
        Err(error) => return Err(failed(error)),
    };
    match marker.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held()),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The import that held the folder may have removed this marker before it was locked here.
    let locked = marker.metadata().map_err(failed)?;
    match fs::metadata(&path) {
        Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => {
            Ok((marker, is_new))
        }
        Ok(_) => Err(held()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(held()),
        Err(error) => Err(failed(error)),
    }
}

/// Returns true for a missing folder, or one without entries other than the marker and that of a new file system.
fn is_empty(path: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
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
        drop(claimed);
        let other = ImportFolder::claim(&path, "two").unwrap_err();
        assert!(matches!(other, ImportError::OtherImport { .. }), "{other}");
        fs::write(path.join("CURRENT"), "").unwrap();
        let (claimed, resumed) = ImportFolder::claim(&path, "one").unwrap();
        assert!(resumed, "an earlier run of the same");
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

        let parent = folder.path().join("of-the-operator");
        fs::create_dir(&parent).unwrap();
        let path = parent.join("data");
        let (claimed, _) = ImportFolder::claim(&path, "one").unwrap();
        fill(&path);
        assert!(matches!(claimed.clear(refused()), ImportError::Address(_)));
        assert!(!path.exists() && parent.exists());
        ImportFolder::claim(&path, "one").unwrap().0.undo().unwrap();
        assert!(!path.exists() && parent.exists());
    }

    /// Returns the names and contents of the files in a folder.
    fn files(path: &Path) -> Vec<(PathBuf, String)> {
        let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            entries.map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect();
        files.sort();
        files
    }

    #[test]
    fn a_second_import_is_refused_before_it_writes_or_removes_anything() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let (first, _) = ImportFolder::claim(&path, "one").unwrap();
        fs::write(path.join("CURRENT"), "MANIFEST-000001").unwrap();
        let before = files(&path);
        for second in ["one", "two"] {
            let held = ImportFolder::claim(&path, second).unwrap_err();
            assert!(matches!(held, ImportError::FolderHeld { .. }), "{held}");
            assert_eq!(files(&path), before);
        }
        drop(first);
        assert!(ImportFolder::claim(&path, "one").unwrap().1);
    }

    #[test]
    fn of_imports_that_begin_at_once_one_takes_the_folder() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("data");
            let start = std::sync::Barrier::new(4);
            let claim = |fingerprint: String| {
                start.wait();
                (ImportFolder::claim(&path, &fingerprint), fingerprint)
            };
            let claims: Vec<_> = std::thread::scope(|scope| {
                let runs = (0..4).map(|run| scope.spawn(move || claim(format!("database {run}"))));
                let runs: Vec<_> = runs.collect();
                runs.into_iter().map(|run| run.join().unwrap()).collect()
            });
            let (taken, refused): (Vec<_>, Vec<_>) =
                claims.into_iter().partition(|(claim, _)| claim.is_ok());
            let [(Ok((_, false)), fingerprint)] = &taken[..] else { panic!("{taken:?}") };
            assert_eq!(&fs::read_to_string(path.join(UNFINISHED)).unwrap(), fingerprint);
            let are_held = refused
                .iter()
                .all(|(claim, _)| matches!(claim, Err(ImportError::FolderHeld { .. })));
            assert!(are_held, "{refused:?}");
        }
    }

    #[test]
    fn a_run_that_was_killed_while_it_emptied_the_folder_is_ended_by_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let (claimed, _) = ImportFolder::claim(folder.path(), "one").unwrap();
        fs::write(folder.path().join("000003.log"), "rows").unwrap();
        (&claimed.marker).write_all(EMPTYING.as_bytes()).unwrap();
        drop(claimed);
        require_finished(folder.path()).unwrap_err();
        let (_claimed, resumed) = ImportFolder::claim(folder.path(), "two").unwrap();
        assert!(!resumed);
        assert_eq!(files(folder.path()), [(folder.path().join(UNFINISHED), "two".to_owned())]);
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
