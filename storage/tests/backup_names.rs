//! Backups are chosen and removed by the contents of their manifests, independently of file names that other
//! writers choose.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::*;
use hawser_storage::{
    BackupError, Backups, FolderObjects, ManifestError, NewBackup, Objects, Store, WantedBackup,
};
use tempfile::TempDir;

/// The time at which backups are chosen and removed.
const NOW_UNIX_S: u64 = 10_000;

/// A folder as a place of backups.
fn folder(path: &Path) -> Arc<dyn Objects> {
    Arc::new(FolderObjects::new(path))
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A folder with a store, and backups beside it.
struct Place {
    root: TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&settings(&root.path().join("data"))).unwrap();
        Self { root, store }
    }

    /// Makes a backup of a store that has grown, and returns its name.
    fn back_up(&self, now_unix_s: u64, is_signed: bool) -> String {
        extend(&self.store, OWN, 3);
        let (to, key) = (self.root.path().join("backups"), key(1));
        let new = NewBackup { to: folder(&to), key: is_signed.then_some(&key), now_unix_s };
        self.store.backup(&new, &mut go_on).unwrap().name
    }

    fn backups(&self) -> Backups {
        Backups::existing(folder(&self.root.path().join("backups"))).unwrap()
    }

    fn manifest(&self, name: &str) -> PathBuf {
        self.root.path().join("backups/manifests").join(format!("{name}.manifest"))
    }
}

#[test]
fn a_copied_manifest_and_stray_files_are_neither_restored_nor_counted() {
    let place = Place::new();
    let names: Vec<String> = (1..=3).map(|round| place.back_up(round, true)).collect();
    let (backups, any) = (place.backups(), WantedBackup::default());
    // Copies of the oldest manifest under newer names, and files that are not backups.
    let hash = names[0].split_once('-').unwrap().1;
    let copies = [format!("000000000009-{hash}"), "000000000009-0123456789abcdef".to_owned()];
    for copy in &copies {
        fs::copy(place.manifest(&names[0]), place.manifest(copy)).unwrap();
        let target = place.root.path().join("restored");
        let error = backups.restore(copy, &any, &target, price, &mut go_on).unwrap_err();
        let BackupError::Manifest { error: ManifestError::Renamed { name }, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*name, names[0]);
        assert!(!target.exists());
    }
    for stray in [format!("._{}", names[2]), "._x".to_owned(), "\u{1b}[2J".to_owned()] {
        fs::write(place.manifest(&stray), b"noise").unwrap();
    }
    assert_eq!(backups.names().unwrap().len(), names.len() + copies.len());
    assert_eq!(backups.newest(&any, NOW_UNIX_S).unwrap(), names[2]);
    assert_eq!(backups.prune(2, NOW_UNIX_S).unwrap().removed, names[..1]);
    for name in &names[1..] {
        backups.verify(name, &mut go_on).unwrap();
    }
}

/// An operator who renames manifests can give them their names back, as long as the files are there.
#[test]
fn the_files_of_renamed_manifests_are_not_removed() {
    let place = Place::new();
    let names: Vec<String> = (1..=2).map(|round| place.back_up(round, true)).collect();
    let renamed = |name: &str| name.replacen("00000000", "00000001", 1);
    let rename =
        |from: &str, to: &str| fs::rename(place.manifest(from), place.manifest(to)).unwrap();
    let backups = place.backups();
    let verify = || names.iter().for_each(|it| drop(backups.verify(it, &mut go_on).unwrap()));
    names.iter().for_each(|name| rename(name, &renamed(name)));
    let pruned = backups.prune(1, NOW_UNIX_S).unwrap();
    assert_eq!((pruned.removed.len(), pruned.files), (0, 0));
    names.iter().for_each(|name| rename(&renamed(name), name));
    verify();
    // By these names it is no longer known which files are manifests.
    names.iter().for_each(|name| rename(name, &format!("kept-{name}")));
    let refused = backups.prune(1, NOW_UNIX_S).unwrap_err().to_string();
    assert!(refused.contains("no manifest has the name of a backup"), "{refused}");
    names.iter().for_each(|name| rename(&format!("kept-{name}"), name));
    verify();
    assert_eq!(backups.prune(1, NOW_UNIX_S).unwrap().removed, names[..1]);
}

/// The hashes in two names of the same second have no order. Over several pairs, a choice without a rule would be
/// wrong for at least one.
#[test]
fn a_backup_comes_after_those_of_the_same_second_and_of_a_clock_that_was_set_back() {
    let place = Place::new();
    let mut names = Vec::new();
    for now_unix_s in [NOW_UNIX_S, NOW_UNIX_S, NOW_UNIX_S, NOW_UNIX_S - 3600, NOW_UNIX_S - 7200] {
        names.push(place.back_up(now_unix_s, true));
        let newest = place.backups().newest(&WantedBackup::default(), now_unix_s).unwrap();
        assert_eq!(newest, names[names.len() - 1], "{names:?}");
    }
    assert!(names.is_sorted(), "{names:?}");
    assert_eq!(place.backups().names().unwrap(), names);
    // An unsigned manifest does not move the time of the next backup.
    let unsigned = place.back_up(NOW_UNIX_S + 60, false);
    let signed = place.back_up(NOW_UNIX_S + 60, true);
    assert_eq!(unsigned.split_once('-').unwrap().0, signed.split_once('-').unwrap().0);
}

#[test]
fn backups_of_the_future_and_unsigned_ones_take_no_place_of_signed_ones() {
    let place = Place::new();
    let names: Vec<String> = (1..=2).map(|round| place.back_up(round, true)).collect();
    let ahead = place.back_up(NOW_UNIX_S + 24 * 60 * 60 + 1, true);
    let (backups, any) = (place.backups(), WantedBackup::default());
    assert_eq!(backups.newest(&any, NOW_UNIX_S).unwrap(), names[1]);
    assert_eq!(backups.newest(&any, NOW_UNIX_S + 1).unwrap(), ahead);
    let unsigned = place.back_up(50, false);
    assert!(backups.prune(2, NOW_UNIX_S).unwrap().removed.is_empty());
    assert_eq!(backups.prune(1, NOW_UNIX_S).unwrap().removed, names[..1]);
    for name in [&names[1], &ahead, &unsigned] {
        backups.verify(name, &mut go_on).unwrap();
    }
    let key = Some(key(1).public_key().address());
    let own = WantedBackup { key, ..WantedBackup::default() };
    assert_eq!(backups.newest(&own, NOW_UNIX_S).unwrap(), names[1]);
    let unsigned_too = WantedBackup { unsigned: true, ..own };
    assert_eq!(backups.newest(&unsigned_too, NOW_UNIX_S).unwrap(), unsigned);
    let other = WantedBackup { node: Some(PEER), ..WantedBackup::default() };
    let error = backups.newest(&other, NOW_UNIX_S).unwrap_err();
    assert!(matches!(error, BackupError::OtherNode { .. }), "{error}");
}

#[test]
fn a_place_full_of_bad_manifests_ends_the_search_for_the_newest_one() {
    let place = Place::new();
    let good = place.back_up(1, true);
    let (backups, any) = (place.backups(), WantedBackup::default());
    let bad = |made_unix_s: u64| {
        let name = format!("{made_unix_s:012}-0123456789abcdef");
        fs::write(place.manifest(&name), b"noise").unwrap();
    };
    // These names state future times, and none of the manifests can be read.
    (0..100).for_each(|less| bad(u64::MAX - less));
    (1..64).for_each(|more| bad(1000 + more));
    assert_eq!(backups.newest(&any, NOW_UNIX_S).unwrap(), good);
    bad(1064);
    let error = backups.newest(&any, NOW_UNIX_S).unwrap_err();
    let BackupError::Manifest { name, .. } = &error else { panic!("{error}") };
    assert!(name.starts_with("000000001064-"), "{error}");
}

/// A restore that said that there are no backups would hide that they are damaged.
#[test]
fn the_fault_of_the_newest_manifest_is_told_if_none_can_be_used() {
    let place = Place::new();
    let names = [place.back_up(1, true), place.back_up(2, true)];
    for name in &names {
        let mut bytes = fs::read(place.manifest(name)).unwrap();
        bytes[200] ^= 1;
        fs::remove_file(place.manifest(name)).unwrap();
        fs::write(place.manifest(name), bytes).unwrap();
    }
    let error = place.backups().newest(&WantedBackup::default(), NOW_UNIX_S).unwrap_err();
    let BackupError::Manifest { name, error: ManifestError::Damaged } = &error else {
        panic!("{error}");
    };
    assert_eq!(*name, names[1]);
    fs::remove_file(place.manifest(&names[0])).unwrap();
    fs::remove_file(place.manifest(&names[1])).unwrap();
    let error = place.backups().newest(&WantedBackup::default(), NOW_UNIX_S).unwrap_err();
    assert!(matches!(error, BackupError::NotBackups { .. }), "{error}");
}
