//! Backups of a data folder: made while the node runs, in a folder or a bucket that holds many of them.
//!
//! - `manifest`: what belongs to a backup, signed; `error`: what can be wrong with one;
//! - `files`: hashing, storing and fetching at a pace that the caller sets;
//! - `stored`: the backups of one place;
//! - `contents`: what a database holds, to be compared with a manifest;
//! - `create`: one more backup; `check`: reading one; `restore`: a new data folder from one;
//!   `link`: one for reading where it is; `prune`: removing old ones; `wanted`: whose backup it must be.
//!
//! A file is stored once, under the hash of its bytes, however many backups have it. A manifest is written
//! last, so a backup that was interrupted does not exist. See `docs/decisions/0020-backups.md`.

mod check;
mod contents;
mod create;
mod error;
mod files;
mod link;
mod manifest;
mod prune;
mod restore;
mod stored;
mod wanted;

pub use create::{BackupReport, NewBackup};
pub use error::BackupError;
pub use files::Pace;
pub use manifest::{
    BackupFile, BackupManifest, BackupStrand, FileHash, MANIFEST_LEN_BYTES_MAX, ManifestError,
    ReadManifest,
};
pub use prune::PruneReport;
pub use restore::RestoreReport;
pub use stored::{Backups, ListedBackup};
pub use wanted::WantedBackup;
