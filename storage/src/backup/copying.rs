//! Stores the files of a backup. In a folder several threads do it: while one waits until its bytes are synced, others
//! read and hash.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use std::vec;

use parking_lot::Mutex;

use super::error::{BackupError, at};
use super::files::{self, Pace};
use super::manifest::{BackupFile, is_database_file};
use super::stored::{Backups, HeldBackups};
use crate::folder::BACKUP_FILES;
use crate::objects::{Objects, SeenObjects};
use crate::store::Store;

/// Threads that store files in a folder. Chosen: two keep two cores busy with hashes while two wait for the disk. Each
/// takes the memory of a step, and may have 8 MiB that are not synced.
const WORKERS: usize = 4;
/// Steps that workers may be ahead of the caller's pace, besides one of each worker. Chosen: the caller is woken up
/// late when all cores are busy.
const STEPS_AHEAD: usize = WORKERS;
/// Time without a commit after which a node counts as idle. A guess: the first publisher after that time waits once,
/// until the bytes of the backup that are not on disk yet are synced.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(1);
/// The caller wants a slower backup if its calls take one of this many parts of the time. A guess: calls without pauses
/// take much less, also when the cores are busy.
const PAUSED_PART: u32 = 4;
/// Time after which a worker looks again if the node is idle. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The files of a backup, with the number and bytes of new ones.
pub(super) struct StoredFiles {
    pub(super) files: Vec<BackupFile>,
    pub(super) files_copied: usize,
    pub(super) bytes_copied: u64,
}

/// A file that the place of the backups has.
struct StoredFile {
    file: BackupFile,
    /// True if no earlier backup had it.
    is_new: bool,
}

/// Stores the files of a checkpoint that the backups lack, and returns the names and hashes of all, ascending by name.
///
/// # Errors
/// The error of the caller's pace, or else one of a file. No worker reads on then.
pub(super) fn store_files(
    store: &Store,
    backups: &Backups,
    (held, seen): (&mut HeldBackups<'_>, &mut SeenObjects),
    checkpoint: &Path,
    pace: &mut Pace<'_>,
) -> Result<StoredFiles, BackupError> {
    let copying = Copying {
        store,
        backups,
        checkpoint,
        lengths: backups.is_in_folder().then(|| lengths_in(&*backups.objects)).transpose()?,
        seen: Mutex::new(seen),
        names: Mutex::new(names_of(checkpoint)?.into_iter()),
        is_paced: AtomicBool::new(false),
        has_failed: AtomicBool::new(false),
    };
    let mut all = match backups.is_in_folder() {
        true => copying.on_threads(held, pace)?,
        // The memory of an upload is that of its parts, and a bucket gets one request at a time.
        false => copying.store_next(&mut || held.keep().map(|()| true), pace)?,
    };
    all.sort_unstable_by(|one, other| one.file.name.cmp(&other.file.name));
    let mut stored = StoredFiles { files: Vec::new(), files_copied: 0, bytes_copied: 0 };
    for StoredFile { file, is_new } in all {
        stored.files_copied += usize::from(is_new);
        stored.bytes_copied += if is_new { file.len_bytes } else { 0 };
        stored.files.push(file);
    }
    Ok(stored)
}

/// Returns the names of the files of a checkpoint, the longest one first: no worker then begins it when the others have
/// ended.
fn names_of(checkpoint: &Path) -> Result<Vec<String>, BackupError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(checkpoint).map_err(at(checkpoint))? {
        let entry = entry.map_err(at(checkpoint))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_database_file(&name) {
            let len_bytes = entry.metadata().map_err(at(checkpoint))?.len();
            found.push((Reverse(len_bytes), name));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// Returns the lengths of all files that the backups have.
fn lengths_in(objects: &dyn Objects) -> Result<BTreeSet<u64>, BackupError> {
    let listed = objects.list(BACKUP_FILES).map_err(at(&objects.location(BACKUP_FILES)))?;
    Ok(listed.into_iter().filter(|it| it.is_plain).map(|it| it.len_bytes).collect())
}

/// Returns the failure that explains the others: a worker that another one's failure has stopped knows no reason.
fn first_failure(failed: Option<BackupError>, error: BackupError) -> BackupError {
    match failed {
        None | Some(BackupError::Stopped) => error,
        Some(failed) => failed,
    }
}

/// The work on the files of one backup, which its workers share.
struct Copying<'a> {
    store: &'a Store,
    backups: &'a Backups,
    checkpoint: &'a Path,
    /// The lengths of the files that the backups had at the begin. `None` in a bucket, which needs the name of an
    /// object before its bytes.
    lengths: Option<BTreeSet<u64>>,
    seen: Mutex<&'a mut SeenObjects>,
    /// The names of the files that no worker has begun.
    names: Mutex<vec::IntoIter<String>>,
    /// True while the caller pauses the work.
    is_paced: AtomicBool,
    /// True once a worker has ended with an error: the backup will not exist, whatever else is stored.
    has_failed: AtomicBool,
}

/// Removes the remaining names when it is dropped, also after a panic. The other workers then end after their current
/// files, and do not wait without end for an idle node.
struct EndOfNames<'a>(&'a Mutex<vec::IntoIter<String>>);

impl Drop for EndOfNames<'_> {
    fn drop(&mut self) {
        *self.0.lock() = Vec::new().into_iter();
    }
}

impl Copying<'_> {
    /// Stores all files on several threads, at the caller's pace.
    fn on_threads(
        &self,
        held: &mut HeldBackups<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<Vec<StoredFile>, BackupError> {
        let (read_to, read) = sync_channel(STEPS_AHEAD);
        thread::scope(|scope| {
            let start = |number| {
                let read_to = read_to.clone();
                scope.spawn(move || self.work(number, &read_to))
            };
            let workers: Vec<_> = (0..WORKERS).map(start).collect();
            // The receiver ends with the last worker.
            drop(read_to);
            let paced = self.pace(read, held, pace);
            let (mut all, mut failed) = (Vec::new(), None);
            for worker in workers {
                match worker.join() {
                    Ok(Ok(mut stored)) => all.append(&mut stored),
                    Ok(Err(error)) => failed = Some(first_failure(failed, error)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            paced?;
            failed.map_or(Ok(all), Err)
        })
    }

    /// Calls the caller's pace with the bytes that workers have read, until all of them have ended. After an error the
    /// workers end, because their bytes find no receiver.
    fn pace(
        &self,
        read: Receiver<u64>,
        held: &mut HeldBackups<'_>,
        pace: &mut Pace<'_>,
    ) -> Result<(), BackupError> {
        let (begun, mut paused) = (Instant::now(), Duration::ZERO);
        for bytes in read {
            held.keep()?;
            let asked = Instant::now();
            if pace(bytes).is_break() {
                return Err(BackupError::Stopped);
            }
            paused += asked.elapsed();
            let is_paced = paused * PAUSED_PART > begun.elapsed();
            self.is_paced.store(is_paced, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Does the work of one thread. All but the first one begin files only while the node is idle.
    fn work(
        &self,
        number: usize,
        read_to: &SyncSender<u64>,
    ) -> Result<Vec<StoredFile>, BackupError> {
        let mut may_begin = || Ok(number == 0 || self.wait_until_idle());
        // A worker without an error or a panic ends when there are no names left.
        let _ended = EndOfNames(&self.names);
        let stored = self.store_next(&mut may_begin, &mut |bytes| self.hand_over(bytes, read_to));
        if stored.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        stored
    }

    /// Hands the number of bytes that a worker has read over to the caller's pace. Ends the worker if there is no pace
    /// any more, or if another worker has failed.
    fn hand_over(&self, bytes: u64, read_to: &SyncSender<u64>) -> ControlFlow<()> {
        if self.has_failed.load(Ordering::Relaxed) || read_to.send(bytes).is_err() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// Waits until the node is idle. Returns false if there is nothing to begin then.
    fn wait_until_idle(&self) -> bool {
        while !self.names.lock().as_slice().is_empty() {
            if self.is_idle() {
                return true;
            }
            thread::sleep(LOOK_EVERY);
        }
        false
    }

    /// Returns true if no commit waits for the disk, and the caller makes no pauses for other work.
    fn is_idle(&self) -> bool {
        !self.is_paced.load(Ordering::Relaxed) && self.store.is_without_commits_for(IDLE_AFTER)
    }

    /// Stores files that no worker has begun, until there are none. `may_begin` is called before each of them, and
    /// returns false to leave the rest to others.
    fn store_next(
        &self,
        may_begin: &mut dyn FnMut() -> Result<bool, BackupError>,
        pace: &mut Pace<'_>,
    ) -> Result<Vec<StoredFile>, BackupError> {
        let mut stored = Vec::new();
        while may_begin()? {
            let next = self.names.lock().next();
            let Some(name) = next else { break };
            stored.push(self.store_file(name, pace)?);
        }
        Ok(stored)
    }

    /// Stores a file, unless the place of the backups has its bytes.
    fn store_file(&self, name: String, pace: &mut Pace<'_>) -> Result<StoredFile, BackupError> {
        let from = self.checkpoint.join(&name);
        // Beside commits a file is hashed first: its bytes reach the disk in half of the time then.
        if self.is_idle() && self.is_absent(&from)? {
            return self.copy_file(name, &from, pace);
        }
        let (hash, len_bytes) = files::hash(&from, pace)?;
        let file = BackupFile { name, len_bytes, hash };
        // An object with another length or other bytes is replaced.
        let is_new = !self.is_there(&file)? || !self.check_whole(&file, pace)?;
        if is_new {
            let objects = &*self.backups.objects;
            let tag = files::store(objects, &from, &file, &|| self.is_idle(), pace)?;
            self.seen.lock().note(&files::object_name(file.hash), tag);
        }
        Ok(StoredFile { file, is_new })
    }

    /// Returns true if the backups cannot have a file, because none of theirs has its length.
    fn is_absent(&self, from: &Path) -> Result<bool, BackupError> {
        let Some(lengths) = &self.lengths else { return Ok(false) };
        let len_bytes = fs::metadata(from).map_err(at(from))?.len();
        Ok(!lengths.contains(&len_bytes))
    }

    /// Stores a file that the backups did not have at the begin. Reads it once.
    fn copy_file(
        &self,
        name: String,
        from: &Path,
        pace: &mut Pace<'_>,
    ) -> Result<StoredFile, BackupError> {
        let objects = &*self.backups.objects;
        let copy = files::copy(objects, from, &|| self.is_idle(), pace)?;
        let file = BackupFile { name, len_bytes: copy.len_bytes, hash: copy.hash };
        // Another worker may have stored the same bytes meanwhile.
        let is_new = !self.is_there(&file)? || !self.check_whole(&file, pace)?;
        if is_new {
            let tag = copy.finish(objects)?;
            self.seen.lock().note(&files::object_name(file.hash), tag);
        }
        Ok(StoredFile { file, is_new })
    }

    /// Returns true if a file is stored already.
    fn is_there(&self, file: &BackupFile) -> Result<bool, BackupError> {
        match files::require_there(&*self.backups.objects, file) {
            Ok(()) => Ok(true),
            Err(
                BackupError::Missing { .. }
                | BackupError::NotAFile { .. }
                | BackupError::Length { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Compares an object with a file. Returns true if they have the same bytes, and remembers this version of the
    /// object as read. Reads no version twice.
    fn check_whole(&self, file: &BackupFile, pace: &mut Pace<'_>) -> Result<bool, BackupError> {
        let objects = &*self.backups.objects;
        let object = files::object_name(file.hash);
        let location = objects.location(&object);
        if self.seen.lock().meet(objects, &object).map_err(at(&location))? {
            return Ok(true);
        }
        // The version is looked up before the bytes, because another writer may replace the object meanwhile.
        let tag = objects.tag(&object).map_err(at(&location))?;
        match files::hash_stored(objects, file, pace) {
            Ok(read) if files::require_same(file, read).is_ok() => {
                self.seen.lock().note(&object, tag);
                Ok(true)
            }
            Err(BackupError::Stopped) => Err(BackupError::Stopped),
            Err(error) if error.is_unreachable(&objects.location("")) => Err(error),
            // An object that cannot be read is damaged, too, and is replaced.
            Ok(_) | Err(_) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::objects::{FolderObjects, SEEN_IN_BACKUPS};
    use crate::testing;

    /// A folder for backups, and a checkpoint with a file that cannot be read and a number of whole ones.
    struct Folders {
        root: tempfile::TempDir,
        backups: Backups,
    }

    impl Folders {
        fn new(whole: usize) -> Self {
            let root = tempfile::tempdir().unwrap();
            let place = FolderObjects::new(&root.path().join("backups"));
            let folders = Self { root, backups: Backups::make(Arc::new(place)).unwrap() };
            fs::create_dir(folders.checkpoint()).unwrap();
            symlink("absent", folders.checkpoint().join("000001.sst")).unwrap();
            for number in 2..2 + whole {
                let bytes = vec![u8::try_from(number).unwrap(); 1 << 20];
                fs::write(folders.checkpoint().join(format!("{number:06}.sst")), bytes).unwrap();
            }
            folders
        }

        fn checkpoint(&self) -> PathBuf {
            self.root.path().join("checkpoint")
        }

        fn seen(&self) -> SeenObjects {
            SeenObjects::read(None, SEEN_IN_BACKUPS, &*self.backups.objects)
        }
    }

    #[test]
    fn a_worker_ends_within_its_file_when_another_one_has_failed() {
        let (folders, store) = (Folders::new(1), testing::store());
        let (checkpoint, mut seen) = (folders.checkpoint(), folders.seen());
        let copying = Copying {
            store: &store,
            backups: &folders.backups,
            checkpoint: &checkpoint,
            lengths: Some(BTreeSet::new()),
            seen: Mutex::new(&mut seen),
            names: Mutex::new(vec!["000001.sst".to_owned()].into_iter()),
            is_paced: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
        };
        let (read_to, read) = sync_channel(100);
        let failed = copying.work(0, &read_to).map(|stored| stored.len());
        assert!(matches!(failed, Err(BackupError::File { .. })), "{failed:?}");
        // Another worker has begun this file meanwhile.
        let name = "000002.sst".to_owned();
        let stopped = copying.store_file(name, &mut |bytes| copying.hand_over(bytes, &read_to));
        assert!(matches!(stopped, Err(BackupError::Stopped)));
        assert!(read.try_recv().is_err(), "nothing more counts");
    }

    #[test]
    fn a_failed_backup_names_the_file_and_not_the_workers_that_were_stopped() {
        let store = testing::store();
        for _ in 0..8 {
            let folders = Folders::new(6);
            let mut held = folders.backups.lock().unwrap();
            let mut seen = folders.seen();
            let kept = (&mut held, &mut seen);
            let go_on: &mut Pace<'_> = &mut |_| ControlFlow::Continue(());
            let done = store_files(&store, &folders.backups, kept, &folders.checkpoint(), go_on);
            let error = done.map(|stored| stored.files.len()).unwrap_err();
            assert!(matches!(error, BackupError::File { .. }), "{error}");
        }
        let other = BackupError::InMemory;
        let first = first_failure(Some(BackupError::Stopped), other);
        assert!(matches!(first_failure(Some(first), BackupError::Stopped), BackupError::InMemory));
    }
}
