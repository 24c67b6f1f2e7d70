//! Sources of logs: the folder of a node, a backup in a folder or bucket, a snapshot, or a running node.

mod folder;
mod folder_proof;
mod node;
mod snapshot;
mod stored;
mod strongest;

use std::ops::Deref;
use std::path::Path;

use hawser_audit::replay::LogSource;
use hawser_node::bucket::BucketSettings;
use hawser_node::error::RunError;
use hawser_proto::OriginatorId;

pub(in super::super) use folder::FolderLog;
pub(super) use folder_proof::prove as prove_from_folder;
pub(super) use node::NodeLog;
pub(super) use snapshot::SnapshotLog;
pub(in super::super) use stored::{StoredLog, UnopenedBackupError};

/// The advice about an envelope that no checkpoint covers.
const NEXT_CHECKPOINT: &str = "a node signs the next one within seconds, and none behind a gap";

/// A log that was opened.
pub(in super::super) enum OpenLog {
    /// The log of a folder, or of a backup.
    Folder(StoredLog),
    /// The log of a running node.
    Node(NodeLog),
    /// The log of a snapshot.
    Snapshot(SnapshotLog),
}

/// A view of a log that was opened.
pub(in super::super) enum LogView<'a> {
    /// The log of a folder or of a backup, as of one moment.
    Folder(Box<FolderLog<'a>>),
    /// The log of a running node or of a snapshot.
    Shown(&'a dyn LogSource),
}

impl<'a> Deref for LogView<'a> {
    type Target = dyn LogSource + 'a;

    fn deref(&self) -> &Self::Target {
        match *self {
            Self::Folder(ref log) => &**log,
            Self::Shown(log) => log,
        }
    }
}

/// Opens the log of a folder, of the newest backup in one, or of the newest snapshot of a place; or connects to a node
/// if the name is a URL.
///
/// # Errors
/// When there is no log.
pub(in super::super) fn open(name: &str) -> Result<OpenLog, RunError> {
    open_with_signers(name, Vec::new())
}

/// Opens a log like [`open`]. A node is asked for the checkpoints of each of `signers`.
///
/// # Errors
/// When there is no log.
pub(super) fn open_with_signers(
    name: &str,
    signers: Vec<OriginatorId>,
) -> Result<OpenLog, RunError> {
    if let Some(place) = SnapshotLog::place_in(name) {
        return SnapshotLog::open(place, None).map(OpenLog::Snapshot);
    }
    if name.contains("://") {
        return NodeLog::connect(name, signers).map(OpenLog::Node);
    }
    StoredLog::open(Path::new(name), None).map(OpenLog::Folder)
}

/// Returns the folder for a copy if the name is that of a bucket of backups.
///
/// # Errors
/// A usage error for a bucket without such a folder, and for such a folder beside another log.
pub(super) fn folder_for_copy<'a>(
    from: &str,
    work: Option<&'a Path>,
) -> Result<Option<&'a Path>, RunError> {
    match (BucketSettings::is_name(from), work) {
        (true, None) => Err(RunError::usage(
            "the backup is in a bucket: give a folder for a copy of it (--work DIR)",
        )),
        (false, Some(_)) => Err(RunError::usage("--work is only for --from s3://BUCKET/PREFIX")),
        _ => Ok(work),
    }
}

/// Refuses the name of a backup or snapshot beside a log that has none.
///
/// # Errors
/// A usage error for the address of a node that runs.
pub(super) fn check_backup(from: &str, backup: Option<&str>) -> Result<(), RunError> {
    let is_node = SnapshotLog::place_in(from).is_none()
        && !BucketSettings::is_name(from)
        && from.contains("://");
    match backup {
        Some(_) if is_node => Err(RunError::usage(
            "--backup names one of a folder of backups or of a place of snapshots, and --from names a node that runs",
        )),
        _ => Ok(()),
    }
}

impl OpenLog {
    /// Takes a view of the log.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(in super::super) fn view(&self) -> Result<LogView<'_>, RunError> {
        Ok(match self {
            Self::Folder(store) => {
                LogView::Folder(Box::new(FolderLog::new(store).map_err(RunError::failed)?))
            }
            Self::Node(log) => LogView::Shown(log),
            Self::Snapshot(log) => LogView::Shown(log),
        })
    }
}
