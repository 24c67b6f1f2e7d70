//! Projections whose families were dropped, on a disk that fails before they are created again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::*;
use hawser_proto::{EnvelopeId, SequenceId};
use hawser_storage::{Facts, OpenError, ReadError, Store, Validity, WriteFault};

fn derive(at: EnvelopeId, _: &bytes::Bytes, validity: Validity) -> Option<Facts> {
    (validity == Validity::Valid).then(|| facts(at))
}

/// The digests of all projections of a store that has never been damaged.
fn expected() -> BTreeMap<&'static str, [u8; 32]> {
    let store = in_memory();
    extend(&store, OWN, 30);
    store.snapshot().projection_digests().unwrap()
}

/// Drops the families of condemned projections, and lets the write fail that would create them again.
fn drop_only(path: &Path) {
    let store = Store::open(&settings(path)).unwrap();
    extend(&store, OWN, 30);
    store.condemn_damaged(&PROJECTIONS).unwrap();
    store.set_write_faults(Some(Arc::new(|| Some(WriteFault::Lost))));
    let refused = store.reopen();
    assert!(matches!(refused, Err(OpenError::Database(_))), "{refused:?}");
    drop(store);
    let names = families(path);
    assert!(!names.iter().any(|it| it == "topic" || it == "reprice"), "{names:?}");
}

fn families(path: &Path) -> Vec<String> {
    rocksdb::DB::list_cf(&rocksdb::Options::default(), path).unwrap()
}

fn drop_family(path: &Path, family: &str) {
    let options = rocksdb::Options::default();
    let mut db = rocksdb::DB::open_cf(&options, path, families(path)).unwrap();
    db.drop_cf(family).unwrap();
}

fn assert_hidden(store: &Store) {
    assert!(store.has_stale_projections());
    let snapshot = store.snapshot();
    let hidden = snapshot.receipt(&digest(1));
    assert!(matches!(hidden, Err(ReadError::Rebuilding { .. })), "{hidden:?}");
    let hidden = snapshot.topics().seek(topic("t0").as_bytes(), id(OWN, 0)).err();
    assert!(matches!(hidden, Some(ReadError::Rebuilding { .. })), "{hidden:?}");
    assert_eq!(snapshot.get(id(OWN, 9)).unwrap(), Some(entry(id(OWN, 9)).bytes));
    assert_eq!(snapshot.head(OWN).unwrap(), SequenceId(30));
}

fn assert_rebuilt(store: &Store) {
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert!(!store.has_stale_projections());
    assert_eq!(store.snapshot().projection_digests().unwrap(), expected());
}

#[test]
fn families_that_could_not_be_made_again_are_made_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    drop_only(folder.path());
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_hidden(&store);
    assert_rebuilt(&store);
}

/// The folder cannot be locked, as on a disk that accepts no writes.
#[test]
fn a_folder_without_them_is_read_while_its_disk_cannot_be_written_to() {
    let folder = tempfile::tempdir().unwrap();
    drop_only(folder.path());
    let lock = folder.path().join("LOCK");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    assert!(store.is_poisoned(), "it is opened for reading");
    assert_hidden(&store);
    assert!(store.reopen().is_err());
    assert_hidden(&store);

    fs::remove_dir(&lock).unwrap();
    store.reopen().unwrap();
    store.accept_writes();
    assert_hidden(&store);
    assert_rebuilt(&store);
    extend(&store, OWN, 1);
}

/// The family is missing without a note that it was condemned.
#[test]
fn a_projection_without_a_family_is_made_and_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 30);
    drop(store);
    drop_family(folder.path(), "receipt");
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_hidden(&store);
    assert_rebuilt(&store);
}

/// For a failure of each write before the families are created again: the next start does not take an empty family
/// for a complete one.
#[test]
fn a_family_that_was_made_again_is_not_taken_for_whole() {
    let mut failed = 0;
    for nth in 0..16 {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&settings(folder.path())).unwrap();
        extend(&store, OWN, 30);
        drop(store);
        drop_family(folder.path(), "receipt");
        let lock = folder.path().join("LOCK");
        fs::remove_file(&lock).unwrap();
        fs::create_dir(&lock).unwrap();
        let store = Store::open(&settings(folder.path())).unwrap();
        let written = AtomicU64::new(0);
        store.set_write_faults(Some(Arc::new(move || {
            (written.fetch_add(1, Ordering::SeqCst) == nth).then_some(WriteFault::Lost)
        })));
        fs::remove_dir(&lock).unwrap();
        failed += usize::from(store.reopen().is_err());
        drop(store);
        let store = Store::open(&settings(folder.path())).unwrap();
        assert_hidden(&store);
        assert_rebuilt(&store);
    }
    // The note, the families of seven projections and of the marks, and the end: 1 + 8 + 1 writes.
    assert_eq!(failed, 10);
}

#[test]
fn a_folder_without_a_family_of_the_log_is_opened_by_no_reader() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 30);
    drop(store);
    drop_family(folder.path(), "mark");
    let lock = folder.path().join("LOCK");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    assert!(Store::open(&settings(folder.path())).is_err());
}
