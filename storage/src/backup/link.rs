//! Makes a backup readable as a data folder, with links to its files or copies of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::error::{BackupError, at};
use super::files::{self, Pace, object_name};
use super::manifest::ReadManifest;
use super::stored::Backups;

impl Backups {
    /// Verifies all files of a backup, and fills an empty folder with links to them. The database in it may be
    /// opened for reading as long as the backup is not pruned.
    ///
    /// # Errors
    /// [`BackupError`] with the first file that differs from the manifest or is not on this machine.
    pub fn link(
        &self,
        name: &str,
        folder: &Path,
        pace: &mut Pace<'_>,
    ) -> Result<ReadManifest, BackupError> {
        let read = self.verify(name, pace)?;
        self.link_verified(&read, folder)?;
        Ok(read)
    }

    /// Fills an empty folder with links to the files of a backup that [`Self::verify`] has just read.
    ///
    /// # Errors
    /// [`BackupError`] with the first file that is not on this machine.
    pub fn link_verified(&self, read: &ReadManifest, folder: &Path) -> Result<(), BackupError> {
        for file in &read.manifest.files {
            let from = self.objects.location(&object_name(file.hash));
            let from = fs::canonicalize(&from).map_err(at(&from))?;
            let link = folder.join(&file.name);
            symlink(&from, &link).map_err(at(&link))?;
        }
        Ok(())
    }

    /// Fills an empty folder with copies of the files of a backup, and compares them with the manifest.
    ///
    /// # Errors
    /// [`BackupError`] with the first file that differs from the manifest or cannot be copied.
    pub fn fetch(
        &self,
        name: &str,
        folder: &Path,
        pace: &mut Pace<'_>,
    ) -> Result<ReadManifest, BackupError> {
        let read = self.manifest(name)?;
        for file in &read.manifest.files {
            files::require_there(&*self.objects, file)?;
        }
        files::require_room(folder, &read.manifest)?;
        for file in &read.manifest.files {
            let copied = files::fetch(&*self.objects, file, &folder.join(&file.name), pace)?;
            files::require_same(file, copied)?;
        }
        Ok(read)
    }

    /// Returns true if the files are on this machine, so that they can be linked.
    #[must_use]
    pub fn is_in_folder(&self) -> bool {
        self.objects.folder().is_some()
    }
}
