//! Detects the data folder of an unfinished import.

use std::io;
use std::path::{Path, PathBuf};

/// The name of a file that is in the data folder until database and log were found equal.
pub(super) const UNFINISHED: &str = "import-unfinished";

/// Error: the data folder contains an unfinished import, or may contain one.
#[derive(Debug, thiserror::Error)]
pub enum UnfinishedImportError {
    /// It contains one.
    #[error(
        "{path} holds an import that has not come to its end: repeat `hawser import xmtpd` or `hawser snapshot fetch`, \
         or remove the folder. No node starts from it before, and no backup is made of it"
    )]
    Unfinished {
        /// The data folder.
        path: PathBuf,
    },
    /// The system does not say whether it contains one.
    #[error(
        "{path} cannot be looked for, which only the folder of an unfinished import has: {source}"
    )]
    Unknown {
        /// The file that such a folder has.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Refuses a data folder with an unfinished import, and one that cannot be asked for it. A path that is no folder
/// passes: whatever opens it says so.
///
/// # Errors
/// [`UnfinishedImportError`].
pub(super) fn require_finished(data_dir: &Path) -> Result<(), UnfinishedImportError> {
    let path = data_dir.join(UNFINISHED);
    match path.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => Err(UnfinishedImportError::Unfinished { path: data_dir.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
        Err(source) => Err(UnfinishedImportError::Unknown { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Played by a link to itself, which cannot be read, as a file on a disk that fails.
    #[test]
    fn a_folder_that_cannot_be_asked_for_an_unfinished_import_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let marker = folder.path().join(UNFINISHED);
        symlink(&marker, &marker).unwrap();
        let refused = require_finished(folder.path()).unwrap_err();
        assert!(matches!(refused, UnfinishedImportError::Unknown { .. }), "{refused}");
        fs::remove_file(&marker).unwrap();
        require_finished(folder.path()).unwrap();
        fs::write(&marker, "").unwrap();
        let refused = require_finished(folder.path()).unwrap_err();
        assert!(matches!(refused, UnfinishedImportError::Unfinished { .. }), "{refused}");
        for none in [folder.path().join("none"), marker] {
            require_finished(&none).unwrap();
        }
    }
}
