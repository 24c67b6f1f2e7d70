//! Verifies all files of a backup.

use super::error::BackupError;
use super::files::{self, Pace};
use super::manifest::ReadManifest;
use super::stored::Backups;

impl Backups {
    /// Reads all files of a backup and compares them with the manifest. `pace` is called with the number of bytes
    /// read.
    ///
    /// # Errors
    /// [`BackupError`] with the first file that differs from the manifest.
    pub fn verify(&self, name: &str, pace: &mut Pace<'_>) -> Result<ReadManifest, BackupError> {
        let read = self.manifest(name)?;
        // The lookup is quick, so missing files are reported before any long read begins.
        for file in &read.manifest.files {
            files::require_there(&*self.objects, file)?;
        }
        for file in &read.manifest.files {
            files::require_same(file, files::hash_stored(&*self.objects, file, pace)?)?;
        }
        Ok(read)
    }
}
