//! The folder of snapshots that a node gives out to new nodes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hawser_api::{SnapshotFile, SnapshotsView};
use hawser_storage::SharedSnapshots;

/// A folder that `hawser snapshot create` writes to.
pub(super) struct SnapshotFolder(SharedSnapshots);

impl SnapshotFolder {
    /// Returns the view of a folder. Warns if there is no snapshot in it.
    pub(super) fn view(folder: &Path) -> Arc<dyn SnapshotsView> {
        if !folder.join("snapshots").is_dir() {
            tracing::warn!(code = "snapshots_missing", folder = %folder.display(), "the folder whose snapshots this node gives out has none: make them with `hawser snapshot create`");
        }
        Arc::new(Self(SharedSnapshots::new(folder.to_owned())))
    }
}

impl SnapshotsView for SnapshotFolder {
    fn open(&self, name: &str) -> io::Result<Option<SnapshotFile>> {
        let found = self.0.open(name)?;
        Ok(found.map(|(file, len_bytes)| SnapshotFile { file, len_bytes }))
    }
}
