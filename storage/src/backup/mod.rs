//! Backups of a data folder. They are created while the node runs, in a folder or a bucket that has many of them.
//!
//! - `manifest`: the signed facts and files of a backup; `error`: the errors of backups;
//! - `files`: hashes, stores and fetches files at a pace that the caller sets;
//! - `stored`: the backups of one place;
//! - `contents`: the facts about a database that a manifest records;
//! - `create`: creates a backup; `copying`: stores its files; `check`: verifies one; `restore`: restores one into a new
//!   data folder; `link`: makes one readable in place; `prune`: removes old ones; `wanted`: the owner that a backup
//!   must have.
//!
//! A file that several backups have is stored once, under the hash of its bytes. The manifest is written last, so
//! an interrupted backup does not exist. See `docs/decisions/0020-backups.md`.

mod check;
mod contents;
mod copying;
mod create;
mod error;
mod files;
mod link;
mod manifest;
mod prune;
mod restore;
mod stored;
mod wanted;

pub(crate) use copying::IDLE_AFTER;
pub use create::{BackupReport, NewBackup};
pub use error::BackupError;
pub use files::Pace;
pub use manifest::{
    BackupFile, BackupManifest, BackupStrand, FileHash, MANIFEST_LEN_BYTES_MAX, ManifestError,
    ReadManifest,
};
pub use prune::BackupPruneReport;
pub use restore::RestoreReport;
pub use stored::Backups;
pub use wanted::WantedBackup;
