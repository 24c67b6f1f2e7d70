//! Objects under names, in a folder or in a bucket: the place of backups and snapshots.
//!
//! - `named`: the demands on such a place; - `folder`: a folder of this machine;
//! - `tag`: versions of objects; - `seen`: the versions whose bytes were verified;
//! - `dated`: the names of manifests, and the search for the newest one.
//!
//! A bucket implements the same trait in a crate that may use the network.

pub(crate) mod dated;
mod folder;
mod named;
mod seen;
mod tag;

pub use folder::FolderObjects;
pub(crate) use folder::object_of_unfinished;
pub use named::{FoundObject, HeldObjects, ListedObject, NewObject, Objects};
pub use seen::forget_seen_in_backups;
pub(crate) use seen::{SEEN_IN_BACKUPS, SEEN_IN_SNAPSHOTS, SeenObjects};
pub use tag::ObjectTag;
