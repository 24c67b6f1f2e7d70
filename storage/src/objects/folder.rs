//! Objects as files of a folder.

use std::fs::{self, File, TryLockError};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::named::{FoundObject, HeldObjects, ListedObject, NewObject, Objects};
use super::tag::ObjectTag;
use crate::folder::{make_folder, open_plain};
use crate::uncached::leave_cache;

/// Held while objects are added or removed.
const LOCK: &str = "lock";
/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".part";
/// Digits of the writer in such a name.
const WRITER_DIGITS: usize = 16;
/// Bytes of a new file that the system may keep to itself. With more, the sync of a log on the same disk would wait for
/// all of them: most file systems write the data of new files out before their own journal. A guess.
const UNSYNCED_BYTES_MAX: usize = 1 << 20;
/// Bytes that the system may keep while no other work waits for the disk. A guess: a sync costs little beside writing
/// this much, and a commit that comes waits once, for as long as a disk takes to write it.
const UNSYNCED_IDLE_BYTES_MAX: usize = 8 << 20;
/// The maximum number of files of a list. A guess: a hundred times those of a large backup.
const FILES_MAX: usize = 10_000_000;
/// The greatest depth of nested folders. A guess: this program makes two.
const DEPTH_MAX: usize = 8;

/// A folder whose files are the objects.
#[derive(Debug, Clone)]
pub struct FolderObjects {
    root: PathBuf,
}

impl FolderObjects {
    /// Creates a value for a folder, which need not exist.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Begins a file under a temporary name.
    fn begin(&self, name: &str) -> io::Result<NewFile> {
        let path = self.root.join(name);
        // A writer of this or of another machine may make the same object. The keys of the hash are random.
        let writer = RandomState::new().hash_one(std::process::id());
        let part = self.root.join(format!("{name}.{writer:0WRITER_DIGITS$x}{UNFINISHED}"));
        make_folder(path.parent().unwrap_or(&self.root))?;
        let file = File::create_new(&part)?;
        Ok(NewFile {
            root: self.root.clone(),
            file,
            part,
            path,
            synced_bytes: 0,
            unsynced_bytes: 0,
            unsynced_bytes_max: UNSYNCED_BYTES_MAX,
            is_synced: false,
            is_finished: false,
        })
    }

    fn walk(&self, folder: &str, depth: usize, found: &mut Vec<ListedObject>) -> io::Result<()> {
        for entry in fs::read_dir(self.root.join(folder))? {
            let entry = entry?;
            // This program gives names of ASCII only, so another one is not its own.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let (name, kind) = (format!("{folder}/{name}"), entry.file_type()?);
            if kind.is_dir() {
                if depth < DEPTH_MAX {
                    self.walk(&name, depth + 1, found)?;
                }
                continue;
            }
            if found.len() >= FILES_MAX {
                return Err(io::Error::other(format!("more than {FILES_MAX} files")));
            }
            let len_bytes = match entry.metadata() {
                // Another writer has given the file its name, or removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                metadata => metadata?.len(),
            };
            found.push(ListedObject { name, len_bytes, is_plain: kind.is_file() });
        }
        Ok(())
    }
}

impl Objects for FolderObjects {
    fn location(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn folder(&self) -> Option<&Path> {
        Some(&self.root)
    }

    fn has_folder(&self, folder: &str) -> io::Result<bool> {
        match fs::metadata(self.root.join(folder)) {
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(false)
            }
            found => Ok(found?.is_dir()),
        }
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        make_folder(&self.root.join(folder))?;
        sync(&self.root)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        sync(&self.root.join(folder))
    }

    fn find(&self, name: &str) -> io::Result<FoundObject> {
        match fs::symlink_metadata(self.root.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(FoundObject::Absent),
            Err(error) => Err(error),
            Ok(found) if !found.is_file() => Ok(FoundObject::NotPlain),
            Ok(found) => Ok(FoundObject::Plain(found.len())),
        }
    }

    fn open(&self, name: &str, len_bytes_max: u64) -> io::Result<Box<dyn Read + '_>> {
        // The file may grow, and another writer may replace it, after it was looked at.
        let file = open_plain(&self.root.join(name), File::options().read(true))?;
        Ok(Box::new(file.take(len_bytes_max)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn NewObject + '_>> {
        Ok(Box::new(self.begin(name)?))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<ListedObject>> {
        let mut found = Vec::new();
        self.walk(folder, 0, &mut found)?;
        Ok(found)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> io::Result<Box<dyn HeldObjects + '_>> {
        let mut options = File::options();
        options.write(true).create(true).truncate(false);
        let file = open_plain(&self.root.join(LOCK), &mut options)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(HeldFile { _locked: file })),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// Returns the object that an unfinished file would have become; `None` if the name is not that of an unfinished file.
pub(crate) fn object_of_unfinished(name: &str) -> Option<&str> {
    let part = name.strip_suffix(UNFINISHED)?;
    let is_writer = |it: &str| {
        it.len() == WRITER_DIGITS && it.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
    };
    match part.rsplit_once('.') {
        Some((object, writer)) if is_writer(writer) => Some(object),
        // Older versions of this program named no writer.
        _ => Some(part),
    }
}

/// An unfinished file under its temporary name, under which it remains after a crash.
struct NewFile {
    /// The folder of all objects.
    root: PathBuf,
    file: File,
    part: PathBuf,
    path: PathBuf,
    /// Bytes that are on the disk, and have left the file cache.
    synced_bytes: u64,
    unsynced_bytes: usize,
    unsynced_bytes_max: usize,
    /// True if nothing was written since the last sync.
    is_synced: bool,
    is_finished: bool,
}

impl NewFile {
    /// Makes the bytes that were written since the last sync durable with `sync`.
    fn sync(&mut self, sync: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        sync(&self.file)?;
        let len = self.unsynced_bytes as u64;
        leave_cache(&self.file, self.synced_bytes, len);
        self.synced_bytes += len;
        (self.unsynced_bytes, self.is_synced) = (0, true);
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.unsynced_bytes += written;
        self.is_synced = false;
        if self.unsynced_bytes >= self.unsynced_bytes_max {
            self.sync(File::sync_data)?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl NewObject for NewFile {
    fn note_idle(&mut self, is_idle: bool) {
        self.unsynced_bytes_max =
            if is_idle { UNSYNCED_IDLE_BYTES_MAX } else { UNSYNCED_BYTES_MAX };
    }

    fn rename(&mut self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        make_folder(path.parent().unwrap_or(&self.root))?;
        self.path = path;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<Option<ObjectTag>> {
        if !self.is_synced {
            self.sync(File::sync_all)?;
        }
        fs::rename(&self.part, &self.path)?;
        self.is_finished = true;
        self.path.parent().map_or(Ok(()), sync)?;
        Ok(None)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // If the removal fails, the file takes room until it is removed.
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// A lock of the system, which ends with the process.
struct HeldFile {
    _locked: File,
}

impl HeldObjects for HeldFile {
    fn keep(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn confirm(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;

    const NAME: &str = "chunks/ab/abcd";

    fn names(place: &FolderObjects) -> Vec<String> {
        place.list("chunks").unwrap().into_iter().map(|object| object.name).collect()
    }

    #[test]
    fn two_writers_of_one_object_never_publish_a_part_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = FolderObjects::new(folder.path());
        let mut slow = place.create(NAME).unwrap();
        slow.write_all(b"who").unwrap();
        let mut quick = place.create(NAME).unwrap();
        quick.write_all(b"who").unwrap();
        slow.write_all(b"le").unwrap();
        slow.finish().unwrap();
        assert_eq!(place.find(NAME).unwrap(), FoundObject::Plain(5));
        // The other writer has not finished, and its file still has its temporary name.
        assert_eq!(names(&place).len(), 2);
        quick.write_all(b"le").unwrap();
        quick.finish().unwrap();
        assert_eq!(fs::read(folder.path().join(NAME)).unwrap(), b"whole");
        assert_eq!(names(&place), [NAME]);
    }

    /// Several nodes of a machine may make snapshots in one folder at once.
    #[test]
    fn a_list_leaves_out_a_file_that_gets_its_name_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let place = FolderObjects::new(folder.path());
        place.make_folder("chunks").unwrap();
        let is_done = AtomicBool::new(false);
        let (written, listed) = thread::scope(|scope| {
            let listing = scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    place.list("chunks")?;
                }
                io::Result::Ok(())
            });
            let written: io::Result<()> =
                (0..100).try_for_each(|_| place.create(NAME)?.finish().map(drop));
            is_done.store(true, Ordering::Relaxed);
            (written, listing.join().unwrap())
        });
        written.unwrap();
        listed.unwrap();
    }

    #[test]
    fn an_object_that_is_not_finished_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let place = FolderObjects::new(folder.path());
        let new = place.create(NAME).unwrap();
        let part = names(&place);
        assert_eq!(object_of_unfinished(&part[0]), Some(NAME));
        drop(new);
        assert!(names(&place).is_empty());
    }

    #[test]
    fn an_object_has_the_name_of_its_end_and_never_that_of_its_begin() {
        let folder = tempfile::tempdir().unwrap();
        let place = FolderObjects::new(folder.path());
        let mut new = place.create("chunks/00/0000").unwrap();
        new.write_all(b"whole").unwrap();
        new.rename(NAME).unwrap();
        assert_eq!(place.find(NAME).unwrap(), FoundObject::Absent);
        new.finish().unwrap();
        assert_eq!(fs::read(folder.path().join(NAME)).unwrap(), b"whole");
        assert_eq!(names(&place), [NAME]);
    }

    /// A commit that comes must not wait for more than before, once the writer knows of it.
    #[test]
    fn the_system_holds_more_of_a_file_while_no_other_work_waits_for_the_disk() {
        let piece = vec![7; UNSYNCED_BYTES_MAX];
        let folder = tempfile::tempdir().unwrap();
        let place = FolderObjects::new(folder.path());
        let mut new = place.begin(NAME).unwrap();
        new.write_all(&piece).unwrap();
        assert_eq!((new.unsynced_bytes, new.is_synced), (0, true));
        new.note_idle(true);
        let mut unsynced = Vec::new();
        for _ in 0..UNSYNCED_IDLE_BYTES_MAX / UNSYNCED_BYTES_MAX {
            new.write_all(&piece).unwrap();
            unsynced.push(new.unsynced_bytes / UNSYNCED_BYTES_MAX);
        }
        assert_eq!(unsynced, [1, 2, 3, 4, 5, 6, 7, 0]);
        new.write_all(&piece).unwrap();
        new.note_idle(false);
        new.write_all(b"!").unwrap();
        assert_eq!((new.unsynced_bytes, new.is_synced), (0, true));
        Box::new(new).finish().unwrap();
        let len_bytes = (piece.len() * 10 + 1) as u64;
        assert_eq!(place.find(NAME).unwrap(), FoundObject::Plain(len_bytes));
    }

    /// Another user of the folder can create a pipe there, and `open(2)` of a pipe blocks without end.
    #[test]
    fn a_pipe_or_a_link_in_place_of_a_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let place = FolderObjects::new(folder.path());
        for name in [LOCK, "object"] {
            let path = folder.path().join(name);
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        }
        let refused =
            |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidData);
        refused(place.lock().map(drop));
        refused(place.open("object", 10).map(drop));

        fs::remove_file(folder.path().join(LOCK)).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        symlink(&elsewhere, folder.path().join(LOCK)).unwrap();
        refused(place.lock().map(drop));
        assert!(!elsewhere.exists(), "a link leads to no new file");
        fs::remove_file(folder.path().join(LOCK)).unwrap();
        place.lock().unwrap();
    }

    /// A place that refuses access, or does not answer, may have all that was written to it.
    #[test]
    fn a_folder_that_cannot_be_looked_at_is_not_called_absent() {
        let folder = tempfile::tempdir().unwrap();
        let place = FolderObjects::new(folder.path());
        fs::write(folder.path().join("file"), "").unwrap();
        for absent in ["absent", "file", "file/below"] {
            assert!(!place.has_folder(absent).unwrap(), "{absent}");
        }
        symlink("loop", folder.path().join("loop")).unwrap();
        assert!(place.has_folder("loop").is_err(), "it leads to itself");
    }

    #[test]
    fn names_of_unfinished_files_are_known_in_both_forms() {
        assert_eq!(object_of_unfinished("files/ab/abcd.part"), Some("files/ab/abcd"));
        let of_writer = "files/ab/abcd.0123456789abcdef.part";
        assert_eq!(object_of_unfinished(of_writer), Some("files/ab/abcd"));
        assert_eq!(object_of_unfinished("files/ab/abcd"), None);
    }
}
