//! Sources of logs: the folder of a node, or a node that answers.

mod folder;
mod node;

use std::path::Path;

use hawser_audit::replay::LogSource;
use hawser_node::error::RunError;
use hawser_node::service::projections;
use hawser_storage::Store;

pub(super) use folder::{FolderLog, prove as prove_from_folder};
pub(super) use node::NodeLog;

use crate::commands::rebuild::refusal;

/// A log that was opened.
pub(in super::super) enum OpenLog {
    /// That of a folder.
    Folder(Store),
    /// That of a node that runs.
    Node(NodeLog),
}

/// Opens the log of a folder, or connects to a node if the name is a URL.
///
/// # Errors
/// When there is no log.
pub(in super::super) fn open(name: &str) -> Result<OpenLog, RunError> {
    if name.contains("://") {
        return NodeLog::connect(name, Vec::new()).map(OpenLog::Node);
    }
    let (store, _) = projections::open_read_only(Path::new(name)).map_err(refusal)?;
    Ok(OpenLog::Folder(store))
}

impl OpenLog {
    /// Takes a view of the log.
    ///
    /// # Errors
    /// When rows cannot be read.
    pub(in super::super) fn view(&self) -> Result<Box<dyn LogSource + '_>, RunError> {
        match self {
            Self::Folder(store) => Ok(Box::new(FolderLog::new(store).map_err(RunError::failed)?)),
            Self::Node(log) => Ok(Box::new(log)),
        }
    }
}
