//! A backup as a data folder for reading, without a copy of its files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::error::{BackupError, at};
use super::files::{Pace, object_name};
use super::manifest::ReadManifest;
use super::stored::Backups;

impl Backups {
    /// Fills an empty folder with links to the files of a backup, after each of them was read and compared with the
    /// manifest. The database in it may be opened for reading, as long as the backup is not pruned.
    ///
    /// # Errors
    /// [`BackupError`] names the first file that is not as it was written, or is not a file of this machine.
    pub fn link(
        &self,
        name: &str,
        folder: &Path,
        pace: &mut Pace<'_>,
    ) -> Result<ReadManifest, BackupError> {
        let read = self.verify(name, pace)?;
        for file in &read.manifest.files {
            let from = self.objects.location(&object_name(file.hash));
            let from = fs::canonicalize(&from).map_err(at(&from))?;
            let link = folder.join(&file.name);
            symlink(&from, &link).map_err(at(&link))?;
        }
        Ok(read)
    }
}
