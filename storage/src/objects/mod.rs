//! Objects under names, in a folder or in a bucket: the place of backups and snapshots.
//!
//! - `named`: the demands on such a place; - `folder`: a folder of this machine.
//!
//! A bucket is another user of the same demands, in a crate that may reach the network.

mod folder;
mod named;

pub use folder::FolderObjects;
pub(crate) use folder::object_of_unfinished;
pub use named::{FoundObject, HeldObjects, ListedObject, NewObject, Objects};
