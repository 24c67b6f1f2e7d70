//! The data folder of an unfinished import, of another node's database or of a snapshot.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
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
    /// The open folder, locked as long as it is open. A lock on the marker would not do: when an import ends, it
    /// removes its marker, and the next one would make another beside the finished database.
    folder: File,
    created: CreatedFolders,
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
        let created = CreatedFolders::up_to(path).map_err(failed)?;
        // While another import holds the folder, nothing of it is removed here.
        let folder = lock(path)?;
        let claimed = Self { path: path.to_owned(), folder, created };
        let begun = begin(path, fingerprint).and_then(|is_resumed| {
            claimed.folder.sync_all().map_err(failed)?;
            Ok(is_resumed)
        });
        match begun {
            Ok(is_resumed) => Ok((claimed, is_resumed)),
            Err(error) => {
                claimed.created.remove().map_err(failed)?;
                Err(error)
            }
        }
    }

    /// Marks the import as finished, so that nodes may start from the folder.
    pub(in crate::service) fn release(self) -> Result<(), ImportError> {
        let done = fs::remove_file(self.marker_path()).and_then(|()| self.folder.sync_all());
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

    /// Keeps the envelopes that an earlier run has written: a later run may continue, or the operator removes them.
    /// Returns the error to report for `refused`, the reason for which the database was refused.
    pub(super) fn keep(self, refused: ImportError) -> ImportError {
        ImportError::Kept { refused: Box::new(refused), path: self.path }
    }

    fn remove_all(&self) -> io::Result<()> {
        // If this is interrupted, the next run continues it, whatever it imports.
        let mut marker = File::options().append(true).open(self.marker_path())?;
        marker.write_all(EMPTYING.as_bytes())?;
        marker.sync_all()?;
        remove_content(&self.path)?;
        // The marker goes last, so no node starts from a part.
        fs::remove_file(self.marker_path())?;
        self.folder.sync_all()?;
        self.created.remove()
    }

    fn marker_path(&self) -> PathBuf {
        self.path.join(UNFINISHED)
    }
}

/// Begins an import in a locked folder, or continues that of an earlier run for the same database. Returns true for the
/// latter.
fn begin(path: &Path, fingerprint: &str) -> Result<bool, ImportError> {
    let failed = |source| ImportError::Folder { path: path.to_owned(), source };
    let marker = path.join(UNFINISHED);
    let found = match fs::read_to_string(&marker) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        found => found.map_err(failed)?,
    };
    if found == fingerprint {
        return Ok(true);
    }
    if found.ends_with(EMPTYING) {
        // An earlier run was interrupted while it removed what it had written.
        remove_content(path).map_err(failed)?;
    } else if !found.is_empty() {
        return Err(ImportError::OtherImport { path: path.to_owned() });
    } else if !is_empty(path).map_err(failed)? {
        // An interrupted run may have left the marker empty, and then nothing else. A refused run empties the folder,
        // so it must never begin beside files of the operator.
        return Err(ImportError::FolderInUse { path: path.to_owned() });
    }
    write_marker(&marker, fingerprint).map_err(failed)?;
    Ok(false)
}

/// Writes the marker in place of an earlier one. A link there is replaced: it may lead to a file of the operator, or to
/// a place where nothing removes what is written.
fn write_marker(marker: &Path, fingerprint: &str) -> io::Result<()> {
    match fs::remove_file(marker) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        removed => removed?,
    }
    let mut file = File::create_new(marker)?;
    file.write_all(fingerprint.as_bytes())?;
    file.sync_all()
}

/// Removes everything but the marker.
fn remove_content(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
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
    File::open(path)?.sync_all()
}

/// The folders that a run has created: parents of the data folder, and then the data folder itself.
#[derive(Debug, Default)]
struct CreatedFolders(Vec<PathBuf>);

impl CreatedFolders {
    /// Creates a folder and its parents, as far as they are missing.
    fn up_to(path: &Path) -> io::Result<Self> {
        let mut created = Self::default();
        match created.create(path) {
            Ok(()) => Ok(created),
            Err(error) => {
                created.remove()?;
                Err(error)
            }
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<()> {
        let mut made = fs::DirBuilder::new().mode(0o700).create(path);
        let lacks_parent = matches!(&made, Err(error) if error.kind() == ErrorKind::NotFound);
        let parent = path.parent().filter(|parent| lacks_parent && !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create(parent)?;
            made = fs::DirBuilder::new().mode(0o700).create(path);
        }
        match made {
            Ok(()) => self.0.push(path.to_owned()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Removes the folders again. One that has content by now stays, with its parents.
    fn remove(&self) -> io::Result<()> {
        for path in self.0.iter().rev() {
            match fs::remove_dir(path) {
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => break,
                // Another import has created and removed it, too.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(())
    }
}

/// Opens the folder, and locks it for as long as it is open.
fn lock(path: &Path) -> Result<File, ImportError> {
    let failed = |source| ImportError::Folder { path: path.to_owned(), source };
    let held = || ImportError::FolderHeld { path: path.to_owned() };
    let folder = match File::open(path) {
        // A link without a target stays as it is. A folder was removed by the import that held it.
        Err(error) if error.kind() == ErrorKind::NotFound && !path.is_symlink() => {
            return Err(held());
        }
        opened => opened.map_err(failed)?,
    };
    match folder.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held()),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // The import that held the folder may have removed it before it was locked here.
    let locked = folder.metadata().map_err(failed)?;
    match fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => Ok(folder),
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
    use std::os::unix::fs::symlink;

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

    #[test]
    fn a_refused_import_removes_the_parents_that_it_has_created_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let (outer, inner) = (folder.path().join("outer"), folder.path().join("outer/inner"));
        let refused = ImportError::Address("refused".to_owned());
        let (claimed, _) = ImportFolder::claim(&inner.join("data"), "one").unwrap();
        fs::write(inner.join("data/CURRENT"), "MANIFEST-000001").unwrap();
        assert!(matches!(claimed.clear(refused), ImportError::Address(_)));
        assert!(!outer.exists());

        let (claimed, _) = ImportFolder::claim(&inner.join("data"), "one").unwrap();
        fs::write(outer.join("of-the-operator"), "").unwrap();
        claimed.undo().unwrap();
        assert!(!inner.exists() && outer.exists());

        // A path that cannot be made leaves no part of it.
        let below_a_file = outer.join("of-the-operator/data");
        let error = ImportFolder::claim(&below_a_file, "one").unwrap_err();
        assert!(matches!(error, ImportError::Folder { .. }), "{error}");
        let too_long = folder.path().join("other").join("n".repeat(300));
        ImportFolder::claim(&too_long, "one").unwrap_err();
        assert!(!folder.path().join("other").exists());
    }

    /// A process that is killed would leave such a marker, and then no node would start from the database.
    #[test]
    fn no_import_makes_a_marker_beside_the_database_of_one_that_has_just_ended() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("data");
            let (first, _) = ImportFolder::claim(&path, "one").unwrap();
            fs::write(path.join("CURRENT"), "MANIFEST-000001").unwrap();
            let claim_until_in_use = || {
                loop {
                    match ImportFolder::claim(&path, "two").unwrap_err() {
                        ImportError::FolderHeld { .. } => {}
                        ImportError::FolderInUse { .. } => return,
                        other => panic!("{other}"),
                    }
                }
            };
            std::thread::scope(|scope| {
                let others: Vec<_> = (0..3).map(|_| scope.spawn(claim_until_in_use)).collect();
                first.release().unwrap();
                while !others.iter().all(|other| other.is_finished()) {
                    assert!(!path.join(UNFINISHED).exists(), "a marker beside the database");
                }
            });
        }
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
        ImportFolder::claim(folder.path(), "one").unwrap();
        fs::write(folder.path().join("000003.log"), "rows").unwrap();
        fs::write(folder.path().join(UNFINISHED), format!("one{EMPTYING}")).unwrap();
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

    /// A run may be killed, refused or ended at any step.
    #[test]
    fn a_node_starts_from_a_whole_import_or_an_empty_folder_and_from_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let database = path.join("CURRENT");
        let refused = || ImportError::Address("refused".to_owned());
        let claim = || ImportFolder::claim(&path, "one").unwrap();
        let fill = || fs::write(&database, "MANIFEST-000001").unwrap();
        // Killed before its first row, and after it.
        for is_continued in [false, true] {
            let (_claimed, resumed) = claim();
            assert_eq!(resumed, is_continued);
            require_finished(&path).unwrap_err();
            fill();
        }
        let (continued, _) = claim();
        assert!(matches!(continued.keep(refused()), ImportError::Kept { .. }));
        assert!(database.exists());
        require_finished(&path).unwrap_err();
        // Killed while it removes rows. The next run removes the rest, begins anew, and is refused.
        fs::write(path.join(UNFINISHED), format!("one{EMPTYING}")).unwrap();
        require_finished(&path).unwrap_err();
        let (begun, resumed) = claim();
        assert!(!resumed && !database.exists());
        require_finished(&path).unwrap_err();
        fill();
        assert!(matches!(begun.clear(refused()), ImportError::Address(_)));
        require_finished(&path).unwrap();
        assert!(files(&path).is_empty());
        let (whole, _) = claim();
        fill();
        require_finished(&path).unwrap_err();
        whole.release().unwrap();
        require_finished(&path).unwrap();
        assert_eq!(files(&path), [(database.clone(), "MANIFEST-000001".to_owned())]);
    }

    /// The disk to which the link leads is not mounted.
    #[test]
    fn a_link_without_a_target_is_no_folder_that_another_import_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        symlink(folder.path().join("not-mounted"), &path).unwrap();
        let error = ImportFolder::claim(&path, "one").unwrap_err();
        assert!(matches!(error, ImportError::Folder { .. }), "{error}");
        assert!(path.is_symlink(), "it stays");
        fs::create_dir(folder.path().join("not-mounted")).unwrap();
        ImportFolder::claim(&path, "one").unwrap().0.undo().unwrap();
        assert!(path.is_symlink() && path.is_dir());
    }

    #[test]
    fn nothing_is_written_where_a_link_in_place_of_the_marker_leads() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("data"), folder.path().join("elsewhere"));
        fs::create_dir(&path).unwrap();
        for is_there in [false, true] {
            if is_there {
                fs::write(&elsewhere, "").unwrap();
            }
            symlink(&elsewhere, path.join(UNFINISHED)).unwrap();
            let (claimed, _) = ImportFolder::claim(&path, "one").unwrap();
            assert_eq!(fs::read(&elsewhere).ok(), is_there.then(Vec::new));
            claimed.undo().unwrap();
            assert!(files(&path).is_empty());
        }
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
