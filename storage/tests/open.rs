//! Opening and reopening: refusals, and the state that a database keeps.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::support::*;
use hawser_proto::price::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{
    FolderObjects, InvalidRule, Mark, NewBackup, OpenError, SkipReason, Store, StoreIdentity,
    StoreSettings,
};

#[test]
fn a_reopened_database_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 3);
    store.commit(&[append(PEER, 1), skip(PEER, 2, 9, SkipReason::Missing)]).unwrap();
    let (heads, digests, incarnation) = (
        store.snapshot().heads().unwrap(),
        store.snapshot().projection_digests().unwrap(),
        store.incarnation(),
    );
    drop(store);

    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.snapshot().heads().unwrap(), heads);
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
    assert_eq!(store.incarnation(), incarnation);
    assert_eq!(store.stale_projections(), [""; 0]);
    // The heads that commits are checked against are back, too.
    store.commit(&[append(OWN, 4), append(PEER, 10)]).unwrap();
    assert_eq!(store.snapshot().head(PEER).unwrap(), SequenceId(10));
}

#[test]
fn a_folder_is_made_and_is_the_owners_alone() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    let store = Store::open(&settings(&path)).unwrap();
    assert_eq!(store.identity(), &identity());
    assert!(store.disk_bytes() > 0);
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o700);
    }
}

#[test]
fn each_database_has_its_own_incarnation() {
    assert_ne!(in_memory().incarnation(), in_memory().incarnation());
}

#[test]
fn databases_in_memory_are_apart() {
    let (a, b) = (in_memory(), in_memory());
    extend(&a, OWN, 1);
    assert_eq!(b.snapshot().head(OWN).unwrap(), SequenceId(0));
}

#[test]
fn another_nodes_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(&settings(folder.path())).unwrap());
    let open = |identity: StoreIdentity| {
        Store::open(&StoreSettings { identity, ..settings(folder.path()) }).map(drop)
    };
    let refused = open(StoreIdentity { node: OriginatorId(300), ..identity() });
    assert!(matches!(refused, Err(OpenError::OtherNode { stored: OWN, .. })), "{refused:?}");
    let refused = open(StoreIdentity { public_key: key(2).public_key(), ..identity() });
    assert!(matches!(refused, Err(OpenError::OtherKey { .. })), "{refused:?}");
    let refused = open(StoreIdentity { network: "mainnet".to_owned(), ..identity() });
    assert!(
        matches!(&refused, Err(OpenError::OtherNetwork { stored, .. }) if stored == "testnet"),
        "{refused:?}"
    );
    // A refusal leaves the database usable by its owner.
    open(identity()).unwrap();
}

#[test]
fn a_database_in_use_is_refused_until_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let clone = store.clone();
    let held = |result: Result<_, OpenError>| matches!(result, Err(OpenError::Held { .. }));
    assert!(held(Store::open(&settings(folder.path())).map(drop)));
    drop(store);
    assert!(held(Store::open_existing(folder.path(), price).map(drop)));
    drop(clone);
    Store::open(&settings(folder.path())).unwrap();
}

#[test]
fn whosever_it_is_an_existing_database_can_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 2);
    drop(store);
    let (store, found) = Store::open_existing(folder.path(), price).unwrap();
    assert_eq!(found, identity());
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(2));
}

#[test]
fn a_folder_without_a_database_is_not_made_into_one_by_looking() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    for path in [folder.path(), &missing] {
        let refused = Store::open_existing(path, price).map(drop);
        assert!(matches!(refused, Err(OpenError::NotADatabase { .. })), "{refused:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Played by an operator who names the wrong folder.
#[test]
fn no_database_is_made_in_a_folder_of_backups_and_one_that_is_there_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (data, backups) = (folder.path().join("data"), folder.path().join("backups"));
    let store = Store::open(&settings(&data)).unwrap();
    extend(&store, OWN, 2);
    let (to, key) = (Arc::new(FolderObjects::new(&backups)), key(1));
    let new = NewBackup { to, key: Some(&key), now_unix_s: 1000 };
    store.backup(&new, &mut |_| ControlFlow::Continue(())).unwrap();
    drop(store);
    let names = || {
        let listed = fs::read_dir(&backups).unwrap().map(|entry| entry.unwrap().file_name());
        listed.collect::<BTreeSet<_>>()
    };
    let before = names();
    let refused = Store::open(&settings(&backups)).map(drop);
    assert!(matches!(refused, Err(OpenError::OfBackups { .. })), "{refused:?}");
    assert_eq!(names(), before);
    // Earlier builds have made one there, and a node may have signed with it.
    for name in ["manifests", "files"] {
        fs::create_dir(data.join(name)).unwrap();
    }
    let store = Store::open(&settings(&data)).unwrap();
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(2));
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let refused = Store::open(&settings(&file)).map(drop);
    assert!(matches!(refused, Err(OpenError::NotADirectory { .. })), "{refused:?}");
    let refused = Store::open(&settings(&file.join("below"))).map(drop);
    assert!(matches!(refused, Err(OpenError::Unwritable { .. })), "{refused:?}");
    // A folder in which no user can write the probe, root included.
    fs::create_dir(folder.path().join("write-probe")).unwrap();
    let refused = Store::open(&settings(folder.path())).map(drop);
    assert!(matches!(refused, Err(OpenError::Unwritable { .. })), "{refused:?}");
}

#[test]
fn a_newer_format_is_refused_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    drop(Store::open(&settings(folder.path())).unwrap());
    let mut db = raw(folder.path());
    db.put_cf(db.cf_handle("meta").unwrap(), "format", 99u32.to_be_bytes()).unwrap();
    db.put_cf(db.cf_handle("meta").unwrap(), "writer", "9.8.7-rc.1").unwrap();
    db.create_cf("future", &rocksdb::Options::default()).unwrap();
    db.drop_cf("congestion").unwrap();
    drop(db);
    let refused = Store::open(&settings(folder.path())).map(drop);
    assert!(matches!(refused, Err(OpenError::NewerFormat { found: 99, .. })), "{refused:?}");
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("wrote it (version 9.8.7-rc.1), or a newer one"), "{text}");
    let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), folder.path()).unwrap();
    assert!(names.contains(&"future".to_owned()) && !names.contains(&"congestion".to_owned()));
}

#[test]
fn an_older_database_is_brought_up_to_this_format() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 3);
    store.commit(&[append_invalid(PEER, 1, 10), append_invalid(PEER, 2, 9)]).unwrap();
    drop(store);
    // As in the first format: without two families, and without a note about one of them.
    let mut db = raw(folder.path());
    db.put_cf(db.cf_handle("meta").unwrap(), "format", 1u32.to_be_bytes()).unwrap();
    db.delete_cf(db.cf_handle("meta").unwrap(), "projection.inbox").unwrap();
    db.drop_cf("inbox").unwrap();
    db.drop_cf("ledger").unwrap();
    drop(db);
    let mut other = settings(folder.path());
    other.identity.network = "other".to_owned();
    let refused = Store::open(&other).map(drop);
    assert!(matches!(refused, Err(OpenError::OtherNetwork { .. })), "{refused:?}");

    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.stale_projections(), ["inbox"]);
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(3));
    let mark = |sequence| store.snapshot().mark(id(PEER, sequence)).unwrap();
    assert_eq!(mark(1), None, "a price is no rule any more");
    assert_eq!(mark(2), Some(Mark::Invalid(InvalidRule(9))));
    store.rebuild(&|at, _, _| Some(facts(at)), &mut |_| {}).unwrap();
    extend(&store, OWN, 1);
    drop(store);
    let db = raw(folder.path());
    let format = db.get_cf(db.cf_handle("meta").unwrap(), "format").unwrap();
    assert_eq!(format.as_deref(), Some(&6u32.to_be_bytes()[..]));
    drop(db);
    assert_eq!(Store::open(&settings(folder.path())).unwrap().stale_projections(), [""; 0]);
}

#[test]
fn another_programs_database_is_not_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, folder.path(), ["theirs"]).unwrap());
    let refused = Store::open(&settings(folder.path())).map(drop);
    assert!(matches!(refused, Err(OpenError::NotADatabase { .. })), "{refused:?}");
}

#[test]
fn a_start_that_crashed_while_making_the_database_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, folder.path(), ["log", "topic"]).unwrap());
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 1);
}

#[test]
fn an_own_strand_that_contradicts_itself_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 3);
    drop(store);
    let db = raw(folder.path());
    db.put_cf(db.cf_handle("meta").unwrap(), "highest_sequence", 2u64.to_be_bytes()).unwrap();
    drop(db);
    let refused = Store::open(&settings(folder.path())).map(drop);
    assert!(matches!(refused, Err(OpenError::Corrupt { .. })), "{refused:?}");
}

#[test]
fn rates_and_projection_versions_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let rate = Rate {
        start_unix_s: 1,
        message_fee: PicoDollarPrice(2),
        storage_fee: PicoDollarsPerByteDay(3),
        congestion_fee: PicoDollarPrice(4),
        target_rate_per_minute: 5,
    };
    store.record_rates(&[rate]).unwrap();
    let complete = |store: &Store| store.snapshot().rates_complete_until_ns().unwrap();
    assert_eq!(complete(&store), None, "as in a database of an earlier version");
    for (noted_ns, kept_ns) in [(-300, None), (7, Some(7)), (6, Some(7)), (9, Some(9))] {
        store.note_rates_complete(noted_ns).unwrap();
        assert_eq!(complete(&store), kept_ns);
    }
    drop(store);
    let db = raw(folder.path());
    let older = 0u32.to_be_bytes();
    db.put_cf(db.cf_handle("meta").unwrap(), "projection.topic", older).unwrap();
    drop(db);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.snapshot().rates().unwrap(), [rate]);
    assert_eq!(complete(&store), Some(9));
    assert_eq!(store.stale_projections(), ["topic"]);
    store.rebuild(&|_, _, _| None, &mut |_| {}).unwrap();
    assert_eq!(store.stale_projections(), [""; 0]);
}

/// Each version books more of what has a mark: version 2 nothing.
#[test]
fn tallies_of_the_versions_before_are_kept_where_they_are_equal_and_stale_where_they_are_not() {
    let tallies = ["congestion", "usage", "usage_by_payer"];
    let is_booked_since = |version: u32, InvalidRule(rule): InvalidRule| match version {
        2 => rule % 3 == 1,
        3 | 4 => rule == 4,
        other => panic!("no version {other} is kept"),
    };
    for (version, rule) in (1..=5).flat_map(|version| [1, 2, 4].map(|rule| (version, rule))) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&settings(folder.path())).unwrap();
        extend(&store, PEER, 3);
        store.commit(&[append_invalid(PEER, 4, rule)]).unwrap();
        let digests = store.snapshot().projection_digests().unwrap();
        drop(store);
        let db = raw(folder.path());
        for name in tallies {
            let key = format!("projection.{name}");
            let version = u32::to_be_bytes(version);
            db.put_cf(db.cf_handle("meta").unwrap(), key, version).unwrap();
        }
        drop(db);
        let store = Store::open(&settings(folder.path())).unwrap();
        let stale: &[&str] = if version == 5 { &[] } else { &tallies };
        assert_eq!(store.stale_projections(), stale, "version {version}, rule {rule}");
        store.keep_tallies(&is_booked_since).unwrap();
        let is_kept = match version {
            2..=4 => !is_booked_since(version, InvalidRule(rule)),
            _ => version == 5,
        };
        if !is_kept {
            assert_eq!(store.stale_projections(), tallies, "version {version}, rule {rule}");
            continue;
        }
        assert_eq!(store.stale_projections(), [""; 0], "version {version}, rule {rule}");
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
        // A later mark does not make the tallies stale, because its charge is booked with it.
        store.commit(&[append_invalid(PEER, 5, 4)]).unwrap();
        drop(store);
        let store = Store::open(&settings(folder.path())).unwrap();
        assert_eq!(store.stale_projections(), [""; 0], "version {version}, rule {rule}");
    }
}
