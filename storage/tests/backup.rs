//! Backups: their contents, refusals, and that no file is replaced.

mod lists;
mod manifests;
mod place;

use crate::support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::*;
use hawser_storage::{
    BackupError, BackupFile, Backups, BootstrapError, Bootstraps, DiskReserveSettings,
    FolderObjects, FolderStanding, HostSettings, LogItem, ManifestError, NewBackup, Objects,
    OpenError, Store, StoreSettings, UnknownFolder, WantedBackup,
};
use place::{Defect, Defective, Place, folder, lines_of};

/// The time at which backups are chosen and removed.
const NOW_UNIX_S: u64 = 10_000;

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Returns the whole log of a store, and the digests of its projections.
fn contents(store: &Store) -> (Vec<LogItem>, BTreeMap<&'static str, [u8; 32]>) {
    let snapshot = store.snapshot();
    let mut items = Vec::new();
    for head in snapshot.heads().unwrap().iter() {
        let begin = id(head.originator, 0);
        items.extend(snapshot.log(begin, head.sequence).map(|item| item.unwrap()));
    }
    (items, snapshot.projection_digests().unwrap())
}

#[test]
fn each_backup_restores_to_the_state_that_was_durable_when_it_began() {
    let place = Place::new();
    let store = place.with_strands();
    let mut states = Vec::new();
    for round in 0..4 {
        states.push((contents(&store), place.back_up(&store, 1000 + round)));
        extend(&store, OWN, 5 + round);
        store.commit(&[append(PEER, 16 + round)]).unwrap();
    }
    drop(store);
    let names = place.backups().names().unwrap();
    assert_eq!(names, states.iter().map(|(_, it)| it.name.clone()).collect::<Vec<_>>());
    for (state, backup) in &states {
        assert!(place.backups().verify(&backup.name, &mut go_on).unwrap().is_signed);
        let restored = place.restore(&backup.name, &backup.name).unwrap();
        assert_eq!(restored.read.manifest.strands, backup.strands);
        assert_eq!(restored.bytes, backup.bytes);
        let store = place.open(&backup.name);
        assert_eq!(contents(&store), *state);
        // The strand continues where it ended.
        extend(&store, PEER, 1);
    }
}

#[test]
fn commits_go_on_during_a_backup_and_are_not_in_it() {
    let place = Place::new();
    let store = place.with_strands();
    let before = contents(&store);
    let (to, key) = (place.path("backups"), key(1));
    let new = NewBackup { to: folder(&to), key: Some(&key), now_unix_s: 5 };
    let mut steps = 0;
    let report = store.backup(&new, &mut |_| {
        steps += 1;
        extend(&store, OWN, 1);
        // Table files of the backup may go from the database meanwhile.
        store.flush().unwrap();
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert!(steps > 3, "{steps}");
    assert_eq!(store.snapshot().head(OWN).unwrap().0, 20 + steps);
    place.restore(&report.name, "restored").unwrap();
    assert_eq!(contents(&place.open("restored")), before);
}

/// An operator may keep the key and the settings in the data folder.
#[test]
fn keys_and_settings_that_lie_in_the_data_folder_are_not_in_a_backup() {
    const SECRET: &[u8] = b"a key of the operator";
    let place = Place::new();
    let store = place.with_strands();
    let names = ["node.key", "hawser.toml"];
    for name in names {
        fs::write(place.path("data").join(name), SECRET).unwrap();
    }
    let report = place.back_up(&store, 5);
    let manifest = place.backups().manifest(&report.name).unwrap().manifest;
    for file in &manifest.files {
        let stored = fs::read(place.stored(file)).unwrap();
        let has_secret = stored.windows(SECRET.len()).any(|it| it == SECRET);
        assert!(!has_secret && !names.contains(&file.name.as_str()), "{}", file.name);
    }
    place.restore(&report.name, "restored").unwrap();
    for name in names {
        assert!(!place.path("restored").join(name).exists(), "{name}");
    }
}

#[test]
fn files_that_are_there_are_not_copied_again() {
    let place = Place::new();
    let store = place.with_strands();
    let first = place.back_up(&store, 1);
    assert_eq!((first.files, first.bytes), (first.files_copied, first.bytes_copied));
    extend(&store, OWN, 1);
    let second = place.back_up(&store, 2);
    assert!(second.files_copied < second.files, "{second:?}");
    assert!(second.bytes_copied < second.bytes, "{second:?}");
    // A file that was cut off is no copy.
    let manifest = place.backups().manifest(&second.name).unwrap().manifest;
    let longest = manifest.files.iter().max_by_key(|file| file.len_bytes).unwrap();
    fs::write(place.stored(longest), b"cut").unwrap();
    let third = place.back_up(&store, 3);
    place.backups().verify(&third.name, &mut go_on).unwrap();
    place.backups().verify(&second.name, &mut go_on).unwrap();
}

/// The disk of the backups may have changed a file since, or another writer of the folder.
#[test]
fn a_file_with_other_bytes_of_the_same_length_is_written_again() {
    let place = Place::new();
    let store = place.with_strands();
    let first = place.back_up(&store, 5);
    let read = place.backups().manifest(&first.name).unwrap();
    let is_table = |file: &&BackupFile| file.name.ends_with(".sst");
    let file = read.manifest.files.iter().find(is_table).unwrap();
    let path = place.stored(file);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&path, &flipped).unwrap();
    assert!(place.backups().verify(&first.name, &mut go_on).is_err());
    place.back_up(&store, 6);
    assert_eq!(fs::read(&path).unwrap(), whole);
    place.backups().verify(&first.name, &mut go_on).unwrap();
}

/// Begins a backup, which is stopped after this number of reports of progress and does not exist.
fn stop_a_backup(place: &Place, store: &Store, stop_after: i32) {
    let (to, key) = (place.path("backups"), key(1));
    let new = NewBackup { to: folder(&to), key: Some(&key), now_unix_s: 5 };
    let mut left = stop_after;
    let stopped = store.backup(&new, &mut |_| {
        left -= 1;
        if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(BackupError::Stopped)), "{stopped:?}");
    assert!(place.backups().names().unwrap().is_empty());
}

/// A backup on the disk of the data folder must not take the room that the log needs.
#[test]
fn a_backup_on_the_disk_of_the_data_stops_at_the_watermark_and_a_later_one_is_whole() {
    let place = Place::new();
    let store = place.with_strands();
    let free = Arc::new(AtomicU64::new(999));
    let seen = Arc::clone(&free);
    let free_bytes = Arc::new(move || Some(seen.load(Ordering::SeqCst)));
    store.keep_room(DiskReserveSettings { free_bytes_min: 1000, free_bytes });
    let refused = place.try_backup(&store, 5);
    assert!(matches!(refused, Err(BackupError::NoRoom { .. })), "{refused:?}");
    free.store(1125, Ordering::SeqCst);
    let (to, key) = (place.path("backups"), key(1));
    let new = NewBackup { to: folder(&to), key: Some(&key), now_unix_s: 5 };
    let full = store.backup(&new, &mut |_| {
        free.store(999, Ordering::SeqCst);
        ControlFlow::Continue(())
    });
    assert!(matches!(full, Err(BackupError::NoRoom { .. })), "{full:?}");
    assert!(place.backups().names().unwrap().is_empty());
    // Otherwise its files would keep the node below the watermark.
    let of_hashes = fs::read_dir(to.join("files")).into_iter().flatten();
    let files = of_hashes.flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
    assert_eq!(files.count(), 0);
    let copies: Arc<dyn Objects> = Arc::new(FolderObjects::new(&place.path("copies")));
    let refused = store.create_bootstrap(Arc::clone(&copies), 5, &mut go_on);
    assert!(matches!(refused, Err(BootstrapError::NoRoom { .. })), "{refused:?}");
    assert!(!refused.unwrap_err().to_string().contains("stay"), "none were written");
    assert!(Bootstraps::new(Arc::clone(&copies)).names().unwrap().is_empty());
    free.store(1125, Ordering::SeqCst);
    let backup = place.back_up(&store, 6);
    place.backups().verify(&backup.name, &mut go_on).unwrap();
    store.create_bootstrap(copies, 6, &mut go_on).unwrap();
}

/// Files that are needed are unknown while a manifest cannot be read, so what such a backup has written stays.
#[test]
fn a_backup_that_stops_at_the_watermark_tells_that_its_files_could_not_be_removed() {
    let place = Place::new();
    let store = place.with_strands();
    let backup = place.back_up(&store, 5);
    fs::write(place.manifest(&backup.name), "noise").unwrap();
    let free_bytes = Arc::new(|| Some(999_u64));
    store.keep_room(DiskReserveSettings { free_bytes_min: 1000, free_bytes });
    let error = place.try_backup(&store, 6).unwrap_err();
    assert!(matches!(error, BackupError::NoRoom { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("were not removed: ") && text.contains(&backup.name), "{text}");
}

#[test]
fn a_backup_that_is_stopped_does_not_exist_and_the_next_one_is_whole() {
    let place = Place::new();
    let store = place.with_strands();
    let state = contents(&store);
    for stop_after in [0, 1, 5, 9] {
        stop_a_backup(&place, &store, stop_after);
        assert!(!place.path("data/backup-checkpoint").exists());
    }
    let whole = place.back_up(&store, 6);
    place.restore(&whole.name, "restored").unwrap();
    assert_eq!(contents(&place.open("restored")), state);

    // A crash leaves links, which would keep removed files on the disk.
    drop(store);
    fs::create_dir(place.path("data/backup-checkpoint")).unwrap();
    fs::write(place.path("data/backup-checkpoint/000001.sst"), b"left").unwrap();
    drop(place.open("data"));
    assert!(!place.path("data/backup-checkpoint").exists());
}

/// Several threads store the files then.
#[test]
fn a_backup_without_commits_beside_it_is_whole_or_does_not_exist() {
    let place = Place::new();
    drop(place.with_strands());
    let store = place.open("data");
    assert!(store.is_without_commits_for(Duration::MAX));
    let state = contents(&store);
    for stop_after in [0, 1, 5, 9] {
        stop_a_backup(&place, &store, stop_after);
    }
    let whole = place.back_up(&store, 6);
    let files = place.backups().verify(&whole.name, &mut go_on).unwrap().manifest.files;
    assert!(files.is_sorted_by_key(|file| &file.name));
    place.restore(&whole.name, "restored").unwrap();
    assert_eq!(contents(&place.open("restored")), state);

    // One of the files cannot be stored: a file has the place of its folder.
    let table = files.iter().find(|file| file.name.ends_with(".sst")).unwrap();
    let other = place.path("other");
    fs::create_dir_all(other.join("files")).unwrap();
    fs::write(other.join("files").join(&table.hash.to_string()[..2]), b"").unwrap();
    let key = key(1);
    let new = NewBackup { to: folder(&other), key: Some(&key), now_unix_s: 5 };
    let failed = store.backup(&new, &mut go_on);
    assert!(matches!(failed, Err(BackupError::File { .. })), "{failed:?}");
    assert!(Backups::existing(folder(&other)).unwrap().names().unwrap().is_empty());
}

/// A second read of what a folder cannot have is most of the work of a backup on a quick disk.
#[test]
fn a_backup_without_commits_beside_it_reads_each_new_file_once() {
    let place = Place::new();
    drop(place.with_strands());
    let store = place.open("data");
    let (to, key) = (place.path("backups"), key(1));
    let new = NewBackup { to: folder(&to), key: Some(&key), now_unix_s: 5 };
    let mut read = 0;
    let report = store.backup(&new, &mut |bytes| {
        read += bytes;
        ControlFlow::Continue(())
    });
    let report = report.unwrap();
    assert_eq!((report.bytes_copied, report.files_copied), (report.bytes, report.files));
    // A core that is late can look like a pace that pauses; the next file is then hashed first.
    assert!(read < report.bytes * 2, "{read} of {report:?}");
    place.backups().verify(&report.name, &mut go_on).unwrap();

    // All files may be there, so their hashes are computed before anything is written, and what is there is read.
    let mut read = 0;
    let again = store.backup(&NewBackup { now_unix_s: 6, ..new }, &mut |bytes| {
        read += bytes;
        ControlFlow::Continue(())
    });
    let again = again.unwrap();
    assert!(again.bytes_copied < again.bytes, "{again:?}");
    assert!(read > again.bytes, "{read} of {again:?}");
    place.backups().verify(&again.name, &mut go_on).unwrap();
}

/// The node has just had commits, and the pace then pauses, so only the first worker begins files. A backup whose other
/// workers wait for an idle node never returns: this test then runs for ever.
#[test]
fn a_panic_of_the_first_worker_ends_the_backup_of_a_busy_node() {
    let place = Place::new();
    let store = place.with_strands();
    let objects = Defective(FolderObjects::new(&place.path("backups")), Defect::Panics);
    let new = NewBackup { to: Arc::new(objects), key: None, now_unix_s: 5 };
    let failed = catch_unwind(AssertUnwindSafe(|| {
        store.backup(&new, &mut |_| {
            thread::sleep(Duration::from_millis(100));
            ControlFlow::Continue(())
        })
    }));
    assert!(failed.is_err(), "the panic is passed on");
    assert!(place.backups().names().unwrap().is_empty());
    // It holds no lock any more.
    let whole = place.back_up(&store, 6);
    place.backups().verify(&whole.name, &mut go_on).unwrap();
}

#[test]
fn one_backup_is_made_at_a_time_and_never_inside_of_the_data() {
    let place = Place::new();
    let store = place.with_strands();
    let (to, other, key) = (place.path("backups"), place.path("other"), key(1));
    let new = NewBackup { to: folder(&to), key: Some(&key), now_unix_s: 5 };
    store
        .backup(&new, &mut |_| {
            let elsewhere = NewBackup { to: folder(&other), key: None, now_unix_s: 5 };
            let second = store.backup(&elsewhere, &mut go_on);
            assert!(matches!(second, Err(BackupError::Busy { .. })), "{second:?}");
            let prune = place.backups().prune(1, NOW_UNIX_S);
            assert!(matches!(prune, Err(BackupError::Busy { .. })), "{prune:?}");
            ControlFlow::Continue(())
        })
        .unwrap();
    symlink(place.path("data"), place.path("link")).unwrap();
    for inside in ["data", "data/backups", "link/backups"] {
        let to = place.path(inside);
        let refused = store
            .backup(&NewBackup { to: folder(&to), key: None, now_unix_s: 5 }, &mut go_on)
            .unwrap_err();
        assert!(matches!(refused, BackupError::Inside { .. }), "{refused:?}");
    }
    let new = NewBackup { to: folder(&to), key: None, now_unix_s: 5 };
    let in_memory = in_memory().backup(&new, &mut go_on);
    assert!(matches!(in_memory, Err(BackupError::InMemory)), "{in_memory:?}");
    let key = support::key(2);
    let new = NewBackup { to: folder(&to), key: Some(&key), now_unix_s: 5 };
    let wrong_key = store.backup(&new, &mut go_on).unwrap_err().to_string();
    assert!(wrong_key.contains("not by the key"), "{wrong_key}");
}

#[test]
fn no_host_takes_a_restored_folder_for_the_one_that_it_wrote() {
    let place = Place::new();
    let host = |data: &str| StoreSettings {
        host: Some(HostSettings { state_dir: place.path("state"), new_strand: false }),
        ..settings(&place.path(data))
    };
    let store = Store::open(&host("data")).unwrap();
    store.adopt().unwrap();
    extend(&store, OWN, 3);
    // Nothing is signed after the backup, so head and generation are those of the marker.
    let backup = place.back_up(&store, 1);
    drop(store);
    assert_eq!(Store::open(&host("data")).unwrap().standing(), FolderStanding::Newest);
    fs::remove_dir_all(place.path("data")).unwrap();
    place.restore(&backup.name, "data").unwrap();
    let standing = Store::open(&host("data")).unwrap().standing();
    assert_eq!(standing, FolderStanding::Unknown(UnknownFolder::OtherFolder));
}

/// Played by an operator who restores a backup on another host, where nothing shows that the node has signed since, and
/// confirms the folder as complete.
#[test]
fn a_restored_folder_may_lack_places_until_its_node_signs_from_it() {
    let place = Place::new();
    let store = place.with_strands();
    assert!(!store.may_lack_places().unwrap());
    let backup = place.back_up(&store, 1);
    place.restore(&backup.name, "restored").unwrap();
    assert!(!store.may_lack_places().unwrap(), "the folder of the backup is as before");
    let on_other_host = StoreSettings {
        host: Some(HostSettings { state_dir: place.path("other-state"), new_strand: false }),
        ..settings(&place.path("restored"))
    };
    let restored = Store::open(&on_other_host).unwrap();
    assert_eq!(restored.standing(), FolderStanding::Unknown(UnknownFolder::NoMarker));
    assert!(restored.may_lack_places().unwrap());
    drop(restored);
    let restored = Store::open(&on_other_host).unwrap();
    assert!(restored.may_lack_places().unwrap(), "a start alone signs nothing");
    restored.adopt().unwrap();
    assert!(!restored.may_lack_places().unwrap());
}

/// Played by a script that restores a backup of before the node's first envelope, and still has the flag of its first
/// start.
#[test]
fn a_restored_folder_without_a_strand_is_no_new_strand() {
    let place = Place::new();
    let backup = place.back_up(&Store::open(&settings(&place.path("data"))).unwrap(), 1);
    place.restore(&backup.name, "restored").unwrap();
    let open = |new_strand| {
        let host = Some(HostSettings { state_dir: place.path("state"), new_strand });
        Store::open(&StoreSettings { host, ..settings(&place.path("restored")) })
    };
    let refused = open(true).map(drop);
    assert!(matches!(refused, Err(OpenError::StrandExists { .. })), "{refused:?}");
    let standing = open(false).unwrap().standing();
    assert_eq!(standing, FolderStanding::Unknown(UnknownFolder::Empty));
}

#[test]
fn a_damaged_file_is_named_and_nothing_is_put_in_place() {
    let place = Place::new();
    let store = place.with_strands();
    let backup = place.back_up(&store, 1);
    let files = place.backups().manifest(&backup.name).unwrap().manifest.files;
    let refused = |what: &str, file: &BackupFile| {
        let restored = place.restore(&backup.name, "restored").unwrap_err().to_string();
        let verified = place.backups().verify(&backup.name, &mut go_on).unwrap_err().to_string();
        for error in [restored, verified] {
            assert!(error.contains(what) && error.contains(&file.name), "{error}");
        }
        place.assert_nothing_at("restored");
    };
    for file in files.iter().filter(|file| file.len_bytes > 0) {
        let path = place.stored(file);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[usize::from(file.hash.0[0]) % whole.len()] ^= 0x10;
        fs::write(&path, flipped).unwrap();
        refused("damaged", file);
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        refused("bytes instead of", file);
        fs::remove_file(&path).unwrap();
        refused("missing", file);
        fs::create_dir(&path).unwrap();
        refused("not a plain file", file);
        fs::remove_dir(&path).unwrap();
        symlink("/dev/zero", &path).unwrap();
        refused("not a plain file", file);
        fs::remove_file(&path).unwrap();
        fs::write(&path, whole).unwrap();
    }
    place.restore(&backup.name, "restored").unwrap();
}

#[test]
fn a_backup_of_another_owner_is_refused_and_an_unsigned_one_without_the_word_for_it() {
    let place = Place::new();
    let store = place.with_strands();
    let backup = place.back_up(&store, 1);
    let refused = |wanted: WantedBackup| {
        let error = place.restore_wanted(&backup.name, &wanted, "restored").unwrap_err();
        place.assert_nothing_at("restored");
        error
    };
    let network = WantedBackup { network: Some("mainnet".to_owned()), ..WantedBackup::default() };
    assert!(matches!(refused(network), BackupError::OtherNetwork { .. }));
    let node = WantedBackup { node: Some(PEER), ..WantedBackup::default() };
    assert!(matches!(refused(node), BackupError::OtherNode { .. }));
    let other = key(2).public_key().address();
    let other = WantedBackup { key: Some(other), ..WantedBackup::default() };
    assert!(matches!(refused(other), BackupError::OtherKey { .. }));
    let right = WantedBackup {
        network: Some("testnet".to_owned()),
        node: Some(OWN),
        key: Some(key(1).public_key().address()),
        unsigned: false,
    };
    place.restore_wanted(&backup.name, &right, "right").unwrap();

    let to = place.path("backups");
    let new = NewBackup { to: folder(&to), key: None, now_unix_s: 2 };
    let unsigned = store.backup(&new, &mut go_on).unwrap();
    let error = place.restore(&unsigned.name, "restored").unwrap_err();
    assert!(matches!(error, BackupError::Unsigned), "{error}");
    let wanted = WantedBackup { unsigned: true, ..WantedBackup::default() };
    place.restore_wanted(&unsigned.name, &wanted, "restored").unwrap();

    // A signature of another key, or of another manifest, counts as none.
    let signature = |name: &str| {
        let text = fs::read_to_string(place.manifest(name)).unwrap();
        text.lines().find(|line| line.starts_with("signature=")).unwrap().to_owned()
    };
    let mut lines = lines_of(&place, &unsigned.name);
    *lines.last_mut().unwrap() = signature(&backup.name);
    let error = place.restore_wanted(&place.forge(&lines), &wanted, "other").unwrap_err();
    assert!(
        matches!(error, BackupError::Manifest { error: ManifestError::Signature, .. }),
        "{error}"
    );
}

#[test]
fn a_restore_never_replaces_anything() {
    let place = Place::new();
    let store = place.with_strands();
    let backup = place.back_up(&store, 1);
    let state = contents(&store);
    drop(store);
    let in_use = |to: &str| {
        let error = place.restore(&backup.name, to).unwrap_err();
        assert!(matches!(error, BackupError::TargetInUse { .. }), "{to}: {error}");
    };
    in_use("data");
    assert_eq!(contents(&place.open("data")), state);
    fs::write(place.path("file"), b"mine").unwrap();
    in_use("file");
    fs::create_dir(place.path("mine")).unwrap();
    symlink(place.path("mine"), place.path("symlink")).unwrap();
    in_use("symlink");
    fs::create_dir(place.path("left.restoring")).unwrap();
    let left = place.restore(&backup.name, "left").unwrap_err();
    assert!(matches!(left, BackupError::Restoring { .. }), "{left}");
    assert!(left.to_string().contains("remove this folder"), "{left}");
    // An empty folder is no data.
    place.restore(&backup.name, "mine").unwrap();
    assert_eq!(contents(&place.open("mine")), state);
    place.restore(&backup.name, "new/below/another").unwrap();
}

/// The folder in which a restore works belongs to the one that has created it.
#[test]
fn of_restores_into_one_folder_at_once_one_succeeds() {
    let place = Place::new();
    let store = place.with_strands();
    let backup = place.back_up(&store, 1);
    let state = contents(&store);
    drop(store);
    for round in 0..10 {
        let to = format!("round-{round}");
        let start = std::sync::Barrier::new(2);
        let restore = || {
            start.wait();
            place.restore(&backup.name, &to).is_ok()
        };
        let made = std::thread::scope(|scope| {
            let both = [scope.spawn(restore), scope.spawn(restore)];
            both.map(|it| usize::from(it.join().unwrap())).iter().sum::<usize>()
        });
        assert_eq!(made, 1, "round {round}");
        assert!(!place.path(&format!("{to}.restoring")).exists());
        assert_eq!(contents(&place.open(&to)), state);
    }
}

#[test]
fn pruning_keeps_the_newest_of_each_node_and_every_file_that_they_need() {
    let place = Place::new();
    let store = place.with_strands();
    let names: Vec<_> = (0..5)
        .map(|round| {
            extend(&store, OWN, 3);
            place.back_up(&store, round).name
        })
        .collect();
    let backups = place.backups();
    let mine = place.path("backups/files/00");
    fs::create_dir_all(&mine).unwrap();
    fs::write(mine.join("not ours"), b"x").unwrap();
    // Files of killed writers, of this version and of older ones.
    let left_parts =
        [".part", ".0123456789abcdef.part"].map(|end| format!("{}{end}", "0".repeat(64)));
    for name in &left_parts {
        fs::write(mine.join(name), b"x").unwrap();
    }
    let count = || count_files(&place.path("backups/files"));
    let before = count();
    let dry = backups.prunable(2, NOW_UNIX_S).unwrap();
    assert_eq!(dry.removed, [2, 1, 0].map(|at| names[at].clone()));
    assert_eq!(count(), before);
    assert_eq!(backups.prune(2, NOW_UNIX_S).unwrap(), dry);
    assert_eq!(count(), before - dry.files);
    let left = backups.names().unwrap();
    assert_eq!(left, names[3..]);
    for name in &left {
        backups.verify(name, &mut go_on).unwrap();
    }
    assert!(mine.join("not ours").exists());
    assert!(!left_parts.iter().any(|name| mine.join(name).exists()));
    assert_eq!(backups.prune(0, NOW_UNIX_S).unwrap().removed, names[3..4]);
    assert!(backups.verify(&names[4], &mut go_on).is_ok(), "one always stays");
}

fn count_files(folder: &Path) -> usize {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count())
        .sum()
}
