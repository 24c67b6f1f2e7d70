//! Detects the data folder of an unfinished import.

use std::path::{Path, PathBuf};

/// The name of a file that is in the data folder until database and log were found equal.
pub(super) const UNFINISHED: &str = "import-unfinished";

/// Error: the data folder contains an unfinished import.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} holds an import that has not come to its end: repeat `hawser import xmtpd` or `hawser snapshot fetch`, \
     or remove the folder. No node starts from it before, and no backup is made of it"
)]
pub struct UnfinishedImportError {
    path: PathBuf,
}

/// Refuses a data folder with an unfinished import.
///
/// # Errors
/// [`UnfinishedImportError`].
pub(super) fn require_finished(data_dir: &Path) -> Result<(), UnfinishedImportError> {
    if data_dir.join(UNFINISHED).exists() {
        return Err(UnfinishedImportError { path: data_dir.to_owned() });
    }
    Ok(())
}
