//! Objects as files of a folder.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::named::{FoundObject, HeldObjects, ListedObject, NewObject, Objects};
use crate::folder::make_folder;

/// Held while objects are added or removed.
const LOCK: &str = "lock";
/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".part";
/// The most files of a list. A guess: a hundred times those of a large backup.
const FILES_MAX: usize = 10_000_000;
/// The most folders in one another. A guess: this program makes two.
const DEPTH_MAX: usize = 8;

/// A folder whose files are the objects.
#[derive(Debug, Clone)]
pub struct FolderObjects {
    root: PathBuf,
}

impl FolderObjects {
    /// Names a folder. It need not be there.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
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
            let len_bytes = entry.metadata()?.len();
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
        Ok(self.root.join(folder).is_dir())
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
        // The file may grow after it was looked at.
        Ok(Box::new(File::open(self.root.join(name))?.take(len_bytes_max)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn NewObject + '_>> {
        let path = self.root.join(name);
        let part = self.root.join(format!("{name}{UNFINISHED}"));
        make_folder(path.parent().unwrap_or(&self.root))?;
        match fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Box::new(NewFile { file: File::create_new(&part)?, part, path }))
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
        let file = options.write(true).create(true).truncate(false).open(self.root.join(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(HeldFile { _locked: file })),
            Err(TryLockError::WouldBlock) => Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// A file that has its other name. One that is not finished stays there, as after a crash: the next one of the same
/// name replaces it.
struct NewFile {
    file: File,
    part: PathBuf,
    path: PathBuf,
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl NewObject for NewFile {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.part, &self.path)?;
        self.path.parent().map_or(Ok(()), sync)
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
