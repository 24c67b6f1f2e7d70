//! Removing old backups.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::error::{BackupError, at};
use super::files::sync_folder;
use super::folder::{BackupFolder, UNFINISHED, is_ahead};
use super::manifest::{FileHash, ManifestError};

/// The outcome of removing old backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Names of the backups that were removed, or would be.
    pub removed: Vec<String>,
    /// Number of files that no backup needs any more.
    pub files: usize,
    /// Their length together, in bytes.
    pub bytes: u64,
}

impl BackupFolder {
    /// Removes all backups but the `keep` newest of each node (at least one), and the files that no other
    /// backup has. With `dry_run` it only says what would go.
    ///
    /// Each key of a node counts for itself, and what is signed is counted apart from what is not, so no
    /// manifest of another key pushes out those that the node signed. Backups that are more than a day ahead of
    /// `now_unix_s` stay and do not count, and neither do manifests under another name than their own.
    ///
    /// # Errors
    /// When a manifest cannot be used: its files are not known then, so nothing is removed.
    pub fn prune(
        &self,
        keep: usize,
        dry_run: bool,
        now_unix_s: u64,
    ) -> Result<PruneReport, BackupError> {
        let _lock = self.lock()?;
        let mut kept_of = BTreeMap::new();
        let (mut needed, mut report) = (BTreeSet::new(), PruneReport::default());
        for backup in self.list()?.into_iter().rev() {
            let read = match backup.manifest {
                Err(BackupError::Manifest { error: ManifestError::Renamed { .. }, .. }) => continue,
                found => found?,
            };
            let manifest = &read.manifest;
            let identity = &manifest.identity;
            let of = (
                identity.network.clone(),
                identity.node,
                identity.public_key.address(),
                read.is_signed,
            );
            let is_ahead = is_ahead(manifest.made_unix_s, now_unix_s);
            let kept = kept_of.entry(of).or_insert(0);
            if is_ahead || *kept < keep.max(1) {
                *kept += usize::from(!is_ahead);
                needed.extend(manifest.files.iter().map(|file| file.hash.to_string()));
            } else {
                report.removed.push(backup.name);
            }
        }
        if !dry_run {
            for name in &report.removed {
                let path = self.manifest_path(name);
                fs::remove_file(&path).map_err(at(&path))?;
            }
            // A manifest without its files would be worse than files without a manifest.
            sync_folder(&self.manifests())?;
        }
        let files = self.files();
        for entry in fs::read_dir(&files).map_err(at(&files))? {
            let entry = entry.map_err(at(&files))?;
            if entry.file_type().map_err(at(&files))?.is_dir() {
                remove_unneeded(&entry.path(), &needed, dry_run, &mut report)?;
            }
        }
        Ok(report)
    }
}

/// Removes files that have the form of ours and are not needed. Others stay: they are not ours.
fn remove_unneeded(
    folder: &Path,
    needed: &BTreeSet<String>,
    dry_run: bool,
    report: &mut PruneReport,
) -> Result<(), BackupError> {
    for entry in fs::read_dir(folder).map_err(at(folder))? {
        let entry = entry.map_err(at(folder))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let hash = name.strip_suffix(UNFINISHED).unwrap_or(name);
        if !FileHash::is_name(hash) || needed.contains(name) {
            continue;
        }
        let found = entry.metadata().map_err(at(folder))?;
        if !found.is_file() {
            continue;
        }
        report.files += 1;
        report.bytes += found.len();
        if !dry_run {
            fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
        }
    }
    Ok(())
}
