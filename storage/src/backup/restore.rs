//! Restores a backup into a new data folder.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::contents::Contents;
use super::error::{BackupError, at};
use super::files::{self, Pace, sync_folder};
use super::manifest::{BackupManifest, ReadManifest};
use super::stored::Backups;
use super::wanted::WantedBackup;
use crate::folder::make_folder;
use crate::meta::write_restored;
use crate::open::new_incarnation;
use crate::price::PriceFn;
use crate::store::Store;

/// The outcome of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// The manifest of the backup.
    pub read: ReadManifest,
    /// Bytes that were copied.
    pub bytes: u64,
}

impl Backups {
    /// Creates a new data folder from a backup. The copy is checked in a temporary folder beside it, which is
    /// renamed after all checks pass: the owner, length and hash of each file, that the database opens, the ends of
    /// all strands and the roots of their trees.
    ///
    /// The new folder has a new incarnation, so no host mistakes it for the folder that it wrote last: a node
    /// starts from it in quarantine. A row says that it may lack places, so that no confirmation leaves out the gap.
    ///
    /// # Errors
    /// [`BackupError`]; the target is unchanged then.
    pub fn restore(
        &self,
        name: &str,
        wanted: &WantedBackup,
        target: &Path,
        price: PriceFn,
        pace: &mut Pace<'_>,
    ) -> Result<RestoreReport, BackupError> {
        // Beside a relative path such as `.` there is no place for the temporary folder, and no rename replaces it.
        let target = &std::path::absolute(target).map_err(at(target))?;
        let read = self.manifest(name)?;
        wanted.require(&read)?;
        require_free(target)?;
        for file in &read.manifest.files {
            files::require_there(&*self.objects, file)?;
        }
        let part = part_of(target);
        if let Some(parent) = part.parent().filter(|it| !it.as_os_str().is_empty()) {
            make_folder(parent).map_err(at(parent))?;
            files::require_room(parent, &read.manifest)?;
        }
        // Of two restores into one folder, one creates it: the other one must not remove it at its end.
        match fs::DirBuilder::new().mode(0o700).create(&part) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(BackupError::Restoring { path: part });
            }
            created => created.map_err(at(&part))?,
        }
        let done = self.fill(&read.manifest, &part, price, pace).and_then(|()| {
            require_free(target)?;
            fs::rename(&part, target).map_err(at(target))?;
            let parent = target.parent().filter(|it| !it.as_os_str().is_empty());
            sync_folder(parent.unwrap_or(Path::new(".")))
        });
        if let Err(error) = done {
            // It has only copies. If it cannot be removed, the next restore reports it.
            let _ = fs::remove_dir_all(&part);
            return Err(error);
        }
        Ok(RestoreReport { bytes: read.manifest.len_bytes(), read })
    }

    fn fill(
        &self,
        manifest: &BackupManifest,
        part: &Path,
        price: PriceFn,
        pace: &mut Pace<'_>,
    ) -> Result<(), BackupError> {
        for file in &manifest.files {
            let copied = files::fetch(&*self.objects, file, &part.join(&file.name), pace)?;
            files::require_same(file, copied)?;
        }
        let (store, _) = Store::open_existing(part, price)?;
        let database = store.database();
        Contents::of(&database)?.require(manifest)?;
        write_restored(&database.db, new_incarnation())?;
        drop(database);
        store.flush()?;
        drop(store);
        sync_folder(part)
    }
}

/// Returns the temporary folder beside the target.
fn part_of(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".restoring");
    target.with_file_name(name)
}

/// Refuses a target that is a mount point, is not empty, or is a link.
fn require_free(target: &Path) -> Result<(), BackupError> {
    let in_use = || BackupError::TargetInUse { path: target.to_owned() };
    match fs::symlink_metadata(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at(target)(error)),
        Ok(found) if !found.is_dir() => Err(in_use()),
        Ok(_) if is_mount_point(target).map_err(at(target))? => {
            Err(BackupError::MountPoint { path: target.to_owned() })
        }
        Ok(_) => match fs::read_dir(target).map_err(at(target))?.next() {
            None => Ok(()),
            Some(_) => Err(in_use()),
        },
    }
}

/// Returns true if a file system, or another folder, is mounted at this folder.
fn is_mount_point(folder: &Path) -> io::Result<bool> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    if device(folder)? != device(&folder.join(".."))? {
        return Ok(true);
    }
    // A folder of the same file system may be mounted, too. Without the list of mounts the rename at the end fails.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let real = fs::canonicalize(folder)?;
    let escaped = real.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&*escaped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rename over one fails, and only after the whole copy.
    #[test]
    fn a_mount_point_is_refused_before_anything_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_mount_point(folder.path()).unwrap());
        require_free(folder.path()).unwrap();
        for mounted in ["/", "/proc"].map(Path::new) {
            assert!(is_mount_point(mounted).unwrap(), "{}", mounted.display());
            let refused = require_free(mounted);
            assert!(matches!(refused, Err(BackupError::MountPoint { .. })), "{refused:?}");
        }
    }
}
