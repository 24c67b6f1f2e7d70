//! Removes old backups.

use std::collections::BTreeMap;
use std::io;

use super::error::{BackupError, at};
use super::files::object_name;
use super::manifest::FileHash;
use super::stored::{Backups, manifest_name};
use crate::folder::{BACKUP_FILES, BACKUP_MANIFESTS};
use crate::objects::dated::is_ahead;
use crate::objects::object_of_unfinished;

/// The outcome of removing old backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupPruneReport {
    /// Names of the backups that were removed, or would be.
    pub removed: Vec<String>,
    /// Number of files that no backup needs.
    pub files: usize,
    /// Their length together, in bytes.
    pub bytes: u64,
}

/// The treatment of objects that are not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// The objects are removed.
    Done,
    /// The objects stay, and are only counted.
    Skipped,
}

impl Backups {
    /// Removes all backups except the `keep` newest of each node (at least one), and the files that no remaining
    /// backup needs.
    ///
    /// Backups are counted by the key of their node, and signed ones separately from unsigned ones, so a forged
    /// manifest displaces no backup that the node has signed. Backups dated more than a day after `now_unix_s`, and
    /// manifests under a wrong name, are kept with their files and not counted.
    ///
    /// # Errors
    /// An error if a manifest cannot be read, or if all manifests have names that are no backup's: the needed files are
    /// unknown then, so nothing is removed.
    pub fn prune(&self, keep: usize, now_unix_s: u64) -> Result<BackupPruneReport, BackupError> {
        self.prune_or_count(keep, now_unix_s, Removal::Done)
    }

    /// Returns the report that [`prune`](Self::prune) would return now, and removes nothing.
    ///
    /// # Errors
    /// The errors of [`prune`](Self::prune).
    pub fn prunable(&self, keep: usize, now_unix_s: u64) -> Result<BackupPruneReport, BackupError> {
        self.prune_or_count(keep, now_unix_s, Removal::Skipped)
    }

    fn prune_or_count(
        &self,
        keep: usize,
        now_unix_s: u64,
        removal: Removal,
    ) -> Result<BackupPruneReport, BackupError> {
        let mut held = self.lock()?;
        let objects = &*self.objects;
        // A list is bounded, and the files that manifests of other writers name are not. So the files are listed first,
        // and each manifest is forgotten once its files are taken from the list.
        let listed =
            objects.list(BACKUP_FILES).map_err(at(&objects.location(BACKUP_FILES)))?.into_iter();
        let stored = listed.filter(|object| object.is_plain && is_of_backups(&object.name));
        let mut unneeded: BTreeMap<_, _> = stored.map(|it| (it.name, it.len_bytes)).collect();
        let (mut kept_of, mut report) = (BTreeMap::new(), BackupPruneReport::default());
        // A list that lacks a new manifest would have its files removed.
        let names = self.names_with_recent()?;
        if names.is_empty() && !unneeded.is_empty() && self.has_manifests()? {
            return Err(at(&objects.location(BACKUP_MANIFESTS))(only_other_names()));
        }
        for name in names.into_iter().rev() {
            let (read, named) = self.manifest_under(&name)?;
            let manifest = &read.manifest;
            if named != name {
                // The operator who gives the manifest its name back needs its files.
                for file in &manifest.files {
                    unneeded.remove(&object_name(file.hash));
                }
                continue;
            }
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
                for file in &manifest.files {
                    unneeded.remove(&object_name(file.hash));
                }
            } else {
                report.removed.push(name);
            }
        }
        if removal == Removal::Done {
            held.confirm()?;
            for name in &report.removed {
                let name = manifest_name(name);
                objects.remove(&name).map_err(at(&objects.location(&name)))?;
            }
            // A manifest without its files would be worse than files without a manifest.
            objects
                .sync_folder(BACKUP_MANIFESTS)
                .map_err(at(&objects.location(BACKUP_MANIFESTS)))?;
        }
        for (name, len_bytes) in unneeded {
            if removal == Removal::Done {
                held.keep()?;
                objects.remove(&name).map_err(at(&objects.location(&name)))?;
            }
            report.files += 1;
            // The bucket states the lengths and may state any number, so the sum saturates.
            report.bytes = report.bytes.saturating_add(len_bytes);
        }
        Ok(report)
    }
}

/// Makes the error of a place all of whose manifests have names that are no backup's.
fn only_other_names() -> io::Error {
    let text = "no manifest has the name of a backup, so the files that they need are unknown: give the manifests their \
                names back, or remove them";
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Returns true for the name of a backup's file, `files/ab/ab…`, and of one that was not finished. Files with other
/// names are not ours and stay.
fn is_of_backups(name: &str) -> bool {
    let mut parts = name.split('/');
    let (Some(BACKUP_FILES), Some(start), Some(name), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let hash = object_of_unfinished(name).unwrap_or(name);
    FileHash::is_name(hash) && hash.get(..2) == Some(start)
}
