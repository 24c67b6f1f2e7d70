//! Reopening the log after a failed write, and refusing writes while the disk is full.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::*;
use hawser_proto::OriginatorId;
use hawser_storage::{
    CommitError, DiskReserveSettings, FolderStanding, HostSettings, LogItem, OpenError, Store,
    StoreSettings, WriteFault,
};

/// Returns the places of a strand that hold an envelope.
fn places(store: &Store, originator: OriginatorId) -> String {
    let snapshot = store.snapshot();
    let through = snapshot.head(originator).unwrap();
    let items = snapshot.log(id(originator, 0), through).map(|item| match item.unwrap() {
        LogItem::Envelope { id, .. } => id.sequence.to_string(),
        skipped @ LogItem::Skipped { .. } => format!("{skipped:?}"),
    });
    items.collect::<Vec<_>>().join(" ")
}

/// Makes every write fail from now on, or none.
fn fail(store: &Store, fault: Option<WriteFault>) {
    store.set_write_faults(Some(Arc::new(move || fault)));
}

#[test]
fn a_failed_write_is_there_afterwards_as_a_whole_or_not_at_all() {
    on_each(|store| {
        extend(store, OWN, 2);
        for (fault, held) in [(WriteFault::Lost, "1 2"), (WriteFault::Kept, "1 2 3 4")] {
            fail(store, Some(fault));
            let failed = store.commit(&[append(OWN, 3), append(OWN, 4)]);
            assert!(matches!(failed, Err(CommitError::Write(_))), "{failed:?}");
            fail(store, None);
            assert_eq!(places(store, OWN), "1 2", "readers do not see what is in doubt");
            store.reopen().unwrap();
            assert_eq!(places(store, OWN), held);
            let refused = store.commit(&[append(OWN, 5)]);
            assert!(matches!(refused, Err(CommitError::Poisoned { .. })), "{refused:?}");
            store.accept_writes();
            assert!(!store.is_poisoned());
        }
        // The head in memory equals that on the disk.
        store.commit(&[append(OWN, 5)]).unwrap();
        assert_eq!(places(store, OWN), "1 2 3 4 5");
    });
}

#[test]
fn readers_go_on_while_the_log_is_read_again() {
    on_each(|store| {
        extend(store, OWN, 3);
        fail(store, Some(WriteFault::Lost));
        store.commit(&[append(OWN, 4)]).unwrap_err();
        fail(store, None);
        let before = store.snapshot();
        std::thread::scope(|scope| {
            let reopening = scope.spawn(|| store.reopen());
            // The old database is closed when its last reader has gone; new readers have another one.
            for _ in 0..50 {
                assert_eq!(places(store, OWN), "1 2 3");
                assert_eq!(before.head(OWN).unwrap().0, 3);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            assert!(!reopening.is_finished());
            drop(before);
            reopening.join().unwrap().unwrap();
        });
        assert_eq!(places(store, OWN), "1 2 3");
    });
}

#[test]
fn a_store_that_works_is_not_opened_again() {
    on_each(|store| {
        extend(store, OWN, 1);
        let _reader = store.snapshot();
        store.reopen().unwrap();
        extend(store, OWN, 1);
    });
}

#[test]
fn a_folder_that_has_gone_is_not_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    let store = Store::open(&settings(&path)).unwrap();
    extend(&store, OWN, 2);
    fail(&store, Some(WriteFault::Lost));
    store.commit(&[append(OWN, 3)]).unwrap_err();
    fail(&store, None);
    let moved = root.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    assert!(matches!(store.reopen(), Err(OpenError::NotADatabase { .. })));
    assert!(!path.exists());
    fs::rename(&moved, &path).unwrap();
    store.reopen().unwrap();
    store.accept_writes();
    extend(&store, OWN, 1);
    assert_eq!(places(&store, OWN), "1 2 3");
}

#[test]
fn a_folder_that_lost_what_was_durable_stays_read_only() {
    let root = tempfile::tempdir().unwrap();
    let (path, older) = (root.path().join("data"), root.path().join("older"));
    let store = Store::open(&settings(&path)).unwrap();
    extend(&store, OWN, 2);
    drop(store);
    copy(&path, &older);
    let store = Store::open(&settings(&path)).unwrap();
    extend(&store, OWN, 2);
    fail(&store, Some(WriteFault::Lost));
    store.commit(&[append(OWN, 5)]).unwrap_err();
    fail(&store, None);
    fs::rename(&path, root.path().join("gone")).unwrap();
    copy(&older, &path);
    for _ in 0..2 {
        let refused = store.reopen();
        assert!(matches!(refused, Err(OpenError::Corrupt { .. })), "{refused:?}");
        store.accept_writes();
        assert!(store.is_poisoned());
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// The folder cannot be locked. The test uses this in place of a read-only mount, which only root could make.
#[test]
fn a_disk_that_cannot_be_written_to_is_read_and_becomes_writable_later() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("data");
    let host = HostSettings { state_dir: root.path().join("state"), new_strand: true };
    let settings = StoreSettings { host: Some(host), ..settings(&path) };
    let store = Store::open(&settings).unwrap();
    store.adopt().unwrap();
    extend(&store, OWN, 3);
    drop(store);
    let lock = path.join("LOCK");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();

    let settings = StoreSettings {
        host: settings.host.map(|host| HostSettings { new_strand: false, ..host }),
        ..settings
    };
    let store = Store::open(&settings).unwrap();
    assert!(store.is_poisoned());
    assert_eq!(store.standing(), FolderStanding::Unjudged);
    assert!(store.adopt().is_err(), "a folder that is read only is not adopted");
    assert_eq!(places(&store, OWN), "1 2 3");
    let refused = store.commit(&[append(OWN, 4)]);
    assert!(matches!(refused, Err(CommitError::Poisoned { .. })), "{refused:?}");
    assert!(store.reopen().is_err());
    assert_eq!(places(&store, OWN), "1 2 3");

    fs::remove_dir(&lock).unwrap();
    store.reopen().unwrap();
    store.accept_writes();
    assert_eq!(store.standing(), FolderStanding::Newest);
    extend(&store, OWN, 1);
    assert_eq!(places(&store, OWN), "1 2 3 4");
    drop(store);
    assert_eq!(Store::open(&settings).unwrap().standing(), FolderStanding::Newest);
}

#[test]
fn nothing_is_written_below_the_watermark_and_nothing_has_to_be_read_again() {
    on_each(|store| {
        let free = Arc::new(AtomicU64::new(1000));
        let seen = Arc::clone(&free);
        let free_bytes = Arc::new(move || Some(seen.load(Ordering::SeqCst)));
        store.keep_room(DiskReserveSettings { free_bytes_min: 1000, free_bytes });
        extend(store, OWN, 1);
        free.store(999, Ordering::SeqCst);
        let no_room = |result| matches!(result, Err(CommitError::NoRoom { .. }));
        assert!(no_room(store.commit(&[append(OWN, 2)])));
        assert!(no_room(store.record_ledger(0, &[], None)));
        assert!(no_room(store.record_evidence(0, &[]).map(drop)));
        assert!(no_room(store.reprice(&|_, _, _| None, 1).map(drop)));
        assert!(!store.has_room() && !store.is_poisoned());
        assert_eq!(places(store, OWN), "1");
        free.store(1125, Ordering::SeqCst);
        extend(store, OWN, 1);
        assert!(store.has_room());
    });
}
