//! Changes that come in table files, which are written before those of earlier changes are loaded.

use crate::support::*;
use hawser_proto::SequenceId;
use hawser_storage::{CommitError, Store};

#[test]
fn files_of_later_changes_are_written_before_earlier_ones_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let file = |places: std::ops::RangeInclusive<u64>| {
        store.file(places.map(|place| append(PEER, place)).collect(), Vec::new()).unwrap()
    };
    let last = || store.snapshot().last_held(PEER).unwrap().map(|(at, _)| at);
    let shared = folder.path().join("table-files");
    let (first, second, third) = (file(1..=5), file(6..=9), file(10..=12));
    let early = store.load(second, None);
    let is_gap = matches!(early, Err(CommitError::Gap { after: SequenceId(0), .. }));
    assert!(is_gap, "{early:?}");
    assert_eq!(std::fs::read_dir(&shared).unwrap().count(), 2, "the refused ones are gone");
    assert_eq!(last(), None, "nothing is in the database");
    store.load(first, None).unwrap();
    assert_eq!(last(), Some(id(PEER, 5)));
    store.load(file(6..=9), None).unwrap();
    assert_eq!(third.changes().len(), 3);
    store.load(third, None).unwrap();
    assert!(!shared.exists());
    let mirror = in_memory();
    extend(&mirror, PEER, 12);
    let (a, b) = (store.snapshot(), mirror.snapshot());
    assert_eq!(a.projection_digests().unwrap(), b.projection_digests().unwrap());
    assert_eq!(a.root(PEER, 12).unwrap(), b.root(PEER, 12).unwrap());
}
