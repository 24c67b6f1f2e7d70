//! Folders for the tests of backups, and manifests as a liar would write them.

use std::fs;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hawser_storage::{
    BackupError, BackupFile, BackupReport, Backups, FileHash, FolderObjects, FoundObject,
    HeldObjects, ListedObject, NewBackup, NewObject, Objects, RestoreReport, SkipReason, Store,
    WantedBackup,
};
use tempfile::TempDir;

use crate::support::*;

/// A data folder with a strand of this node and one of a peer, and a place for backups beside it.
pub(super) struct Place {
    root: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(super) fn open(&self, name: &str) -> Store {
        Store::open(&settings(&self.path(name))).unwrap()
    }

    pub(super) fn with_strands(&self) -> Store {
        let store = self.open("data");
        extend(&store, OWN, 20);
        extend(&store, PEER, 10);
        store.commit(&[skip(PEER, 11, 15, SkipReason::Missing)]).unwrap();
        store
    }

    pub(super) fn backups(&self) -> Backups {
        Backups::existing(folder(&self.path("backups"))).unwrap()
    }

    pub(super) fn back_up(&self, store: &Store, now_unix_s: u64) -> BackupReport {
        self.try_backup(store, now_unix_s).unwrap()
    }

    pub(super) fn try_backup(
        &self,
        store: &Store,
        now_unix_s: u64,
    ) -> Result<BackupReport, BackupError> {
        let (to, key) = (self.path("backups"), key(1));
        let new = NewBackup { to: folder(&to), key: Some(&key), now_unix_s };
        store.backup(&new, &mut |_| ControlFlow::Continue(()))
    }

    pub(super) fn restore(&self, name: &str, to: &str) -> Result<RestoreReport, BackupError> {
        self.restore_wanted(name, &WantedBackup::default(), to)
    }

    pub(super) fn restore_wanted(
        &self,
        name: &str,
        wanted: &WantedBackup,
        to: &str,
    ) -> Result<RestoreReport, BackupError> {
        let go_on = &mut |_| ControlFlow::Continue(());
        self.backups().restore(name, wanted, &self.path(to), price, go_on)
    }

    /// The path of a file of a backup.
    pub(super) fn stored(&self, file: &BackupFile) -> PathBuf {
        let hash = file.hash.to_string();
        self.path("backups").join("files").join(&hash[..2]).join(&hash)
    }

    pub(super) fn manifest(&self, name: &str) -> PathBuf {
        self.path("backups").join("manifests").join(format!("{name}.manifest"))
    }

    /// Puts a manifest of this text there, with the right hash at its end and under the right name, and returns
    /// that.
    pub(super) fn forge(&self, lines: &[String]) -> String {
        let bytes = ended(lines);
        let made = lines.iter().find_map(|line| line.strip_prefix("made=")?.parse::<u64>().ok());
        let hash = FileHash(*blake3::hash(&bytes).as_bytes()).to_string();
        let name = format!("{:012}-{}", made.unwrap_or(9), &hash[..16]);
        fs::write(self.manifest(&name), bytes).unwrap();
        name
    }

    /// Asserts that a restore left nothing behind.
    pub(super) fn assert_nothing_at(&self, to: &str) {
        assert!(!self.path(to).exists(), "{to} is there");
        assert!(!self.path(&format!("{to}.restoring")).exists(), "{to}.restoring is there");
    }
}

/// A folder as a place of backups.
pub(super) fn folder(path: &Path) -> Arc<dyn Objects> {
    Arc::new(FolderObjects::new(path))
}

/// The difference between a place and a folder that works.
#[derive(Debug)]
pub(super) enum Defect {
    /// Its code panics when a file of a backup is begun.
    Panics,
    /// Its lists do not have the objects yet whose names end so.
    ListsWithout(String),
}

/// A folder with a defect.
#[derive(Debug)]
pub(super) struct Defective(pub(super) FolderObjects, pub(super) Defect);

impl Objects for Defective {
    fn location(&self, name: &str) -> PathBuf {
        self.0.location(name)
    }

    fn folder(&self) -> Option<&Path> {
        self.0.folder()
    }

    fn has_folder(&self, folder: &str) -> io::Result<bool> {
        self.0.has_folder(folder)
    }

    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.0.make_folder(folder)
    }

    fn sync_folder(&self, folder: &str) -> io::Result<()> {
        self.0.sync_folder(folder)
    }

    fn find(&self, name: &str) -> io::Result<FoundObject> {
        self.0.find(name)
    }

    fn open(&self, name: &str, len_bytes_max: u64) -> io::Result<Box<dyn Read + '_>> {
        self.0.open(name, len_bytes_max)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn NewObject + '_>> {
        let is_defect = matches!(self.1, Defect::Panics) && name.starts_with("files/");
        assert!(!is_defect, "a defect");
        self.0.create(name)
    }

    fn list(&self, folder: &str) -> io::Result<Vec<ListedObject>> {
        let mut listed = self.0.list(folder)?;
        if let Defect::ListsWithout(hidden) = &self.1 {
            listed.retain(|object| !object.name.ends_with(hidden));
        }
        Ok(listed)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }

    fn lock(&self) -> io::Result<Box<dyn HeldObjects + '_>> {
        self.0.lock()
    }
}

/// Ends the lines of a manifest with their hash.
pub(super) fn ended(lines: &[String]) -> Vec<u8> {
    let mut text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let hash = FileHash(*blake3::hash(text.as_bytes()).as_bytes());
    text.push_str(&format!("end={hash}\n"));
    text.into_bytes()
}

/// The lines of a manifest before its hash, with `none` for its signature.
pub(super) fn lines_of(place: &Place, name: &str) -> Vec<String> {
    let text = fs::read_to_string(place.manifest(name)).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("end="));
    let unsigned = |line: &str| match line.split_once('=') {
        Some(("signature", _)) => "signature=none".to_owned(),
        _ => line.to_owned(),
    };
    lines.map(unsigned).collect()
}
