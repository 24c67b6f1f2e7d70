//! The trait of a place that keeps objects.

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::tag::ObjectTag;

/// The state of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundObject {
    /// No object has this name.
    Absent,
    /// A symbolic link, a folder or another kind of file has it.
    NotPlain,
    /// An object of this length has it, in bytes.
    Plain(u64),
}

/// An object of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// False for a symbolic link or another special file.
    pub is_plain: bool,
}

/// A place that keeps objects under names like `manifests/x`. Names have the parts that this program gives, joined
/// by `/`; none of them is `.` or `..`.
///
/// The place is untrusted: lengths are bounded by the caller before anything is read, and lists by the
/// implementation. Calls block, so none is made from a task.
pub trait Objects: Debug + Send + Sync {
    /// Returns a name in full, for people; the empty name is that of the place.
    fn location(&self, name: &str) -> PathBuf;

    /// Returns the folder of this machine that holds the objects, if there is one.
    fn folder(&self) -> Option<&Path>;

    /// Returns true if there is a folder of this name.
    ///
    /// # Errors
    /// When the place cannot be reached.
    fn has_folder(&self, folder: &str) -> io::Result<bool>;

    /// Makes a folder, if the place needs one.
    ///
    /// # Errors
    /// When it cannot be made.
    fn make_folder(&self, folder: &str) -> io::Result<()>;

    /// Makes the list of a folder's objects durable.
    ///
    /// # Errors
    /// Of the file system.
    fn sync_folder(&self, folder: &str) -> io::Result<()>;

    /// Looks at a name.
    ///
    /// # Errors
    /// When the place cannot be reached.
    fn find(&self, name: &str) -> io::Result<FoundObject>;

    /// Returns the version of an object; `None` if there is no object, or the place names no versions.
    ///
    /// # Errors
    /// When the place cannot be reached.
    fn tag(&self, _name: &str) -> io::Result<Option<ObjectTag>> {
        Ok(None)
    }

    /// Opens an object, of which at most `len_bytes_max` bytes are read.
    ///
    /// # Errors
    /// When it is not there or cannot be read. A place that knows the length refuses a longer object at once.
    fn open(&self, name: &str, len_bytes_max: u64) -> io::Result<Box<dyn Read + '_>>;

    /// Begins an object. It has its name once it is finished, whole and durable, in place of an earlier one.
    ///
    /// # Errors
    /// When the place cannot be written to.
    fn create(&self, name: &str) -> io::Result<Box<dyn NewObject + '_>>;

    /// Lists the objects in a folder and in its subfolders, unordered.
    ///
    /// # Errors
    /// When the place cannot be reached, or lists more than it may hold.
    fn list(&self, folder: &str) -> io::Result<Vec<ListedObject>>;

    /// Removes an object. Succeeds if it does not exist.
    ///
    /// # Errors
    /// When the place cannot be written to.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Prevents others from adding and removing objects until the result is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another one holds it.
    fn lock(&self) -> io::Result<Box<dyn HeldObjects + '_>>;
}

/// An object that is being written. One that is dropped before it is finished does not exist.
pub trait NewObject: Write {
    /// Notes if no other work waits for the disk. A folder then lets the system hold more bytes of the object before it
    /// has them written. This changes nothing about the object that is finished.
    fn note_idle(&mut self, _is_idle: bool) {}

    /// Changes the name that the object gets, for a writer that learns it at the end.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] at a place that needs the name at the begin, such as a bucket. Otherwise when the
    /// place cannot be written to.
    fn rename(&mut self, _name: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Gives the object its name. Returns the version that was written, if the place names it.
    ///
    /// # Errors
    /// When it cannot be made durable.
    fn finish(self: Box<Self>) -> io::Result<Option<ObjectTag>>;
}

/// The right to add and remove objects.
pub trait HeldObjects {
    /// Renews the right if it expires by time. Costs nothing in most calls.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another one holds it by now.
    fn keep(&mut self) -> io::Result<()>;

    /// Checks that the right is still held at this moment.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if another one holds it by now.
    fn confirm(&mut self) -> io::Result<()>;
}
