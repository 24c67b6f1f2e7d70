//! Scrubs: damage on the disk is found, named and repaired, also in an open store.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::*;
use bytes::Bytes;
use hawser_proto::merkle::envelope_leaf;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{
    Change, CommitError, Damage, DiskReserveSettings, Family, LogEntry, RepairError, ScrubError,
    ScrubReport, Store,
};

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Returns a store with two strands on disk and nothing in memory tables.
fn store_at(folder: &Path) -> Store {
    let store = Store::open(&settings(folder)).unwrap();
    extend(&store, OWN, 600);
    extend(&store, PEER, 300);
    store.flush().unwrap();
    store
}

/// Flips a bit in the statement of an envelope, in the table file of the log, in place. Returns the file.
fn damage(folder: &Path, originator: OriginatorId, sequence: u64) -> PathBuf {
    // RocksDB may merge the file into another one during the search.
    let tries = std::iter::repeat_with(|| try_damage(folder, originator, sequence)).take(100);
    tries.flatten().next().expect("the envelope is in a table file")
}

fn try_damage(folder: &Path, originator: OriginatorId, sequence: u64) -> Option<PathBuf> {
    let wanted = entry(id(originator, sequence)).bytes;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let is_table = path.extension().is_some_and(|it| it == "sst");
        let Some(bytes) = is_table.then(|| fs::read(&path).ok()).flatten() else { continue };
        // The properties at a table file's end name its family. The log is not compressed.
        let is_log = bytes.windows(7).any(|it| it == b"namelog");
        let at = bytes.windows(wanted.len()).position(|it| it == wanted);
        let Some(at) = at.filter(|_| is_log) else { continue };
        let offset = u64::try_from(at + 8).unwrap();
        let Ok(writer) = fs::File::options().write(true).open(&path) else { continue };
        writer.write_all_at(&[bytes[at + 8] ^ 4], offset).unwrap();
        return Some(path);
    }
    None
}

#[test]
fn a_whole_database_has_no_damage_and_all_rows_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_at(folder.path());
    let mut reported = 0;
    let report = store.scrub(&mut |bytes| {
        reported += bytes;
        ControlFlow::Continue(())
    });
    let ScrubReport { rows, bytes, damages, further } = report.unwrap();
    assert_eq!((damages, further), (Vec::new(), 0));
    // An envelope has rows in the log, in its tree and in projections.
    assert!(rows > 2 * 900 && bytes > 0, "{rows} rows, {bytes} bytes");
    assert!(!folder.path().join("scrub-checkpoint").exists());
}

/// A store whose envelope at `place` was damaged in this file, and the findings of a scrub.
struct Damaged {
    folder: tempfile::TempDir,
    store: Store,
    file: PathBuf,
    report: ScrubReport,
}

/// Damages an envelope whose intact bytes are in the cache, and scrubs. Returns `None` if RocksDB merged files
/// meanwhile: the bit was then flipped in a file that was not yet or no longer in use.
fn damage_under_cache(place: EnvelopeId) -> Option<Damaged> {
    let folder = tempfile::tempdir().unwrap();
    let store = store_at(folder.path());
    let right = store.snapshot().get(place).unwrap();
    let file = damage(folder.path(), place.originator, place.sequence.0);
    let is_cached = store.snapshot().get(place).is_ok_and(|it| it == right);
    let report = store.scrub(&mut go_on).unwrap();
    let is_found = is_cached && !report.damages.is_empty();
    is_found.then_some(Damaged { folder, store, file, report })
}

#[test]
fn a_flipped_bit_is_found_under_an_open_store_whose_cache_has_the_right_bytes() {
    let place = id(PEER, 150);
    let tries = std::iter::repeat_with(|| damage_under_cache(place)).take(20);
    let damaged = tries.flatten().next().expect("the damage is found behind a cache");
    let Damaged { folder: _folder, store, file, report } = damaged;
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    assert_eq!(damage.family, "log");
    assert_eq!(damage.file.as_deref(), file.file_name().unwrap().to_str());
    let (first, last) = (damage.first.unwrap(), damage.last.unwrap());
    assert!(first <= place && place <= last, "{damage:?}");
    // Not more than the block: the rest of the strand is behind it.
    assert!(last.sequence.0 - first.sequence.0 < 150, "{damage:?}");
    assert!(last < id(PEER, 300), "{damage:?}");
    // The node goes on meanwhile.
    extend(&store, OWN, 1);
}

#[test]
fn the_damage_of_a_stopped_folder_is_found_and_names_each_strand_apart() {
    let folder = tempfile::tempdir().unwrap();
    drop(store_at(folder.path()));
    damage(folder.path(), OWN, 20);
    damage(folder.path(), PEER, 280);
    let (store, _) = Store::open_existing(folder.path(), price).unwrap();
    let report = store.scrub(&mut go_on).unwrap();
    let of = |originator| {
        let damages = report.damages.iter();
        damages.filter(move |it| it.first.is_some_and(|it| it.originator == originator))
    };
    let holds = |originator, sequence| {
        let sequence = SequenceId(sequence);
        of(originator).any(|it| {
            it.first.unwrap().sequence <= sequence && sequence <= it.last.unwrap().sequence
        })
    };
    assert!(holds(OWN, 20) && holds(PEER, 280), "{report:?}");
    assert!(report.damages.iter().all(|it| it.family == "log"), "{report:?}");
}

/// A scrub that stopped at the first unreadable block would not find what lies behind it while that one cannot be
/// repaired.
#[test]
fn rows_behind_damaged_blocks_are_compared_with_their_leaves() {
    let folder = tempfile::tempdir().unwrap();
    drop(store_at(folder.path()));
    for place in [60, 300] {
        damage(folder.path(), OWN, place);
    }
    let (store, _) = Store::open_existing(folder.path(), price).unwrap();
    let other = |place: u64| {
        let key = [&OWN.0.to_be_bytes()[..], &place.to_be_bytes()].concat();
        store.put_raw_row(Family::Log, &key, &signed("another statement", 1));
    };
    // A block has some eighty places.
    [180, 500].into_iter().for_each(other);
    let report = scrub(&store);
    let single = report.damages.iter().filter(|it| it.first == it.last);
    let wrong: Vec<_> = single.map(|it| it.first.unwrap()).collect();
    assert_eq!(wrong, [id(OWN, 180), id(OWN, 500)], "{report:?}");
    assert_eq!(report.damages.len(), 4, "{report:?}");
}

/// A node that stops does not wait for a disk that fails each read after seconds.
#[test]
fn a_scrub_that_looks_for_the_end_of_damage_ends_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    drop(store_at(folder.path()));
    damage(folder.path(), OWN, 20);
    let (store, _) = Store::open_existing(folder.path(), price).unwrap();
    let mut bytes = 0;
    let stopped = store.scrub(&mut |more| {
        bytes += more;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(ScrubError::Stopped)), "{stopped:?}");
    assert!(bytes < 100_000, "at the damage: {bytes} bytes");
}

/// The marks of the places cannot be read either. Other damage would stay if this ended a repair.
#[test]
fn damage_of_marks_is_found_when_places_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let changes: Vec<_> = (1..=20).map(|place| append_invalid(PEER, place, 1)).collect();
    store.commit(&changes).unwrap();
    // No row of a mark.
    let key = [&PEER.0.to_be_bytes()[..], &5_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Mark, &key, &[0xff; 3]);
    let (first, last) = (Some(id(PEER, 1)), Some(id(PEER, 20)));
    let part = Damage { family: "log", first, last, file: None, cause: String::new() };
    let still = store.recheck(&part, &mut go_on).unwrap();
    let [damage] = &still[..] else { panic!("{still:?}") };
    assert_eq!((damage.family, damage.last), ("log", last));
    let refused = store.lost_places(damage);
    assert!(matches!(refused, Err(RepairError::Read(_))), "{refused:?}");
}

/// Readers and pruning end at such a row, although its checksum is right.
#[test]
fn malformed_rows_of_topics_and_expiries_are_found() {
    for (family, name) in [(Family::Topic, "topic"), (Family::Expiry, "expiry")] {
        let folder = tempfile::tempdir().unwrap();
        let store = store_at(folder.path());
        store.put_raw_row(family, &[0; 20], b"damaged");
        let damage = found(&store);
        assert_eq!(damage.family, name);
        assert!(damage.is_of_projection(), "its rows are made again");
    }
}

#[test]
fn a_scrub_ends_when_it_is_told_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 3000);
    let stopped = store.scrub(&mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ScrubError::Stopped)), "{stopped:?}");
    assert!(!folder.path().join("scrub-checkpoint").exists());
    let again = store.scrub(&mut |_| {
        let second = store.scrub(&mut go_on);
        assert!(matches!(second, Err(ScrubError::Busy)), "{second:?}");
        ControlFlow::Continue(())
    });
    assert_eq!(again.unwrap().damages, []);
    let in_memory = in_memory().scrub(&mut go_on);
    assert!(matches!(in_memory, Err(ScrubError::InMemory)), "{in_memory:?}");
}

/// Flips bits of the first occurrence of `wanted` in the table file of a family, `at` bytes behind its start.
fn flip(folder: &Path, family: &str, wanted: &[u8], at: &[usize]) -> (PathBuf, Vec<u8>) {
    let properties = format!("name{family}");
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|it| it != "sst") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let is_family = bytes.windows(properties.len()).any(|it| it == properties.as_bytes());
        let found = bytes.windows(wanted.len()).position(|it| it == wanted);
        let Some(found) = found.filter(|_| is_family) else { continue };
        let writer = fs::File::options().write(true).open(&path).unwrap();
        for offset in at.iter().map(|at| found + at) {
            writer.write_all_at(&[bytes[offset] ^ 0x24], u64::try_from(offset).unwrap()).unwrap();
        }
        return (path, bytes);
    }
    panic!("no table file of {family} has it");
}

/// A closed folder with two strands, damaged, and a store on it that has nothing in its caches.
fn damaged(
    family: &str,
    wanted: &[u8],
    at: &[usize],
) -> (tempfile::TempDir, Store, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    drop(store_at(folder.path()));
    let (file, before) = flip(folder.path(), family, wanted, at);
    assert_ne!(fs::read(&file).unwrap(), before);
    let (store, _) = Store::open_existing(folder.path(), price).unwrap();
    (folder, store, file, before)
}

/// Scrubs. A compaction may meet the damage first, after which RocksDB accepts no writes; the store is then
/// reopened, as a node does.
fn scrub(store: &Store) -> ScrubReport {
    match store.scrub(&mut go_on) {
        Err(ScrubError::Database(error)) => {
            assert!(store.is_poisoned(), "{error}");
            store.reopen().unwrap();
            store.accept_writes();
            store.scrub(&mut go_on).unwrap()
        }
        done => done.unwrap(),
    }
}

fn found(store: &Store) -> Damage {
    let report = scrub(store);
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    damage.clone()
}

/// Returns the envelopes that a damaged part has lost, as an honest peer sends them.
fn brought(store: &Store, damage: &Damage) -> BTreeMap<EnvelopeId, Bytes> {
    let lost = store.lost_places(damage).unwrap();
    assert!(!lost.is_empty() && lost.len() < 150, "one block: {lost:?}");
    let right = |id| entry(id).bytes;
    assert!(lost.iter().all(|it| it.leaf == envelope_leaf(&right(it.id))), "{lost:?}");
    lost.into_iter().map(|it| (it.id, right(it.id))).collect()
}

#[test]
fn damaged_envelopes_are_put_back_byte_for_byte() {
    let place = id(PEER, 150);
    let wanted = entry(place).bytes;
    let whole: Vec<usize> = (0..wanted.len()).collect();
    for at in [&[8][..], &[0, 1, 2, 40], &whole] {
        let (folder, store, file, before) = damaged("log", &wanted, at);
        let damage = found(&store);
        assert!(store.snapshot().get(place).is_err(), "an error, not an absence");
        let none_before = id(PEER, 0);
        let read = store.snapshot().log(none_before, SequenceId(300)).collect::<Vec<_>>();
        assert!(matches!(read.last(), Some(Err(_))), "a reader does not pass it");
        let brought = brought(&store, &damage);

        let mut other = brought.clone();
        other.insert(place, signed("another statement", 1));
        let refused = store.put_back(&damage, &other);
        assert!(matches!(refused, Err(RepairError::Other { at }) if at == place), "{refused:?}");
        other.remove(&place);
        let refused = store.put_back(&damage, &other);
        assert!(matches!(refused, Err(RepairError::Lost { at }) if at == place), "{refused:?}");
        assert_eq!(found(&store), damage, "nothing was changed");

        store.put_back(&damage, &brought).unwrap();
        assert_eq!(store.recheck(&damage, &mut go_on).unwrap(), []);
        assert!(fs::read(&file).unwrap() == before, "byte for byte");
        assert_eq!(store.snapshot().get(place).unwrap(), Some(wanted.clone()));
        assert_eq!(store.snapshot().log(none_before, SequenceId(300)).count(), 300);
        assert_eq!(store.scrub(&mut go_on).unwrap().damages, []);
        // Nor does a compaction meet it.
        let (from, through) = (SequenceId(1), SequenceId(300));
        store.compact_places(&[hawser_storage::StrandPlaces { originator: PEER, from, through }]);
        extend(&store, PEER, 5);
        assert_eq!(store.scrub(&mut go_on).unwrap().damages, []);
        assert!(!folder.path().join("scrub-checkpoint").exists());
    }
}

/// RocksDB keeps long envelopes in files of their own, except for those that come in table files.
#[test]
fn damaged_long_envelopes_of_table_files_are_put_back_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let long = |sequence: u64| signed(&sequence.to_string().repeat(5000), 1);
    let change =
        |sequence| Change::Append(LogEntry { bytes: long(sequence), ..entry(id(PEER, sequence)) });
    let store = Store::open(&settings(folder.path())).unwrap();
    let filed = store.file((1..=6).map(change).collect(), Vec::new()).unwrap();
    store.load(filed, None).unwrap();
    drop(store);
    let (place, wanted) = (id(PEER, 3), long(3));
    // Of any family: files that were not written by the database do not say theirs.
    let (file, before) = flip(folder.path(), "", &wanted, &[100, 4000]);
    let (store, _) = Store::open_existing(folder.path(), price).unwrap();
    let damage = found(&store);
    assert!(store.snapshot().get(place).is_err(), "an error, not an absence");
    let lost = store.lost_places(&damage).unwrap();
    assert!(lost.iter().any(|it| it.id == place), "{lost:?}");
    let brought: BTreeMap<_, _> =
        lost.into_iter().map(|it| (it.id, long(it.id.sequence.0))).collect();
    store.put_back(&damage, &brought).unwrap();
    assert_eq!(store.recheck(&damage, &mut go_on).unwrap(), []);
    assert!(fs::read(&file).unwrap() == before, "byte for byte");
    assert_eq!(store.snapshot().get(place).unwrap(), Some(wanted));
    assert_eq!(store.scrub(&mut go_on).unwrap().damages, []);
}

/// The end of one strand and the beginning of the next one are in one block.
#[test]
fn damage_between_two_strands_is_put_back_for_both() {
    let (folder, store, _, _) = damaged("log", &entry(id(OWN, 600)).bytes, &[9]);
    let damage = found(&store);
    let brought = brought(&store, &damage);
    assert!(
        brought.contains_key(&id(OWN, 600)) && brought.contains_key(&id(PEER, 1)),
        "{damage:?}"
    );
    store.put_back(&damage, &brought).unwrap();
    assert_eq!(store.scrub(&mut go_on).unwrap().damages, []);
    drop(folder);
}

#[test]
fn damaged_leaves_are_made_again_from_envelopes() {
    let leaf = envelope_leaf(&entry(id(PEER, 150)).bytes).unwrap();
    let (_folder, store, file, before) = damaged("leaf", &leaf.0, &[3, 4]);
    let damage = found(&store);
    assert_eq!(damage.family, "leaf");
    // A lost envelope of the own strand would need its leaf as proof. Here no envelope is lost.
    assert_eq!(store.lost_places(&damage).unwrap(), []);
    store.put_back(&damage, &BTreeMap::new()).unwrap();
    assert_eq!(store.recheck(&damage, &mut go_on).unwrap(), []);
    assert!(fs::read(&file).unwrap() == before, "byte for byte");
}

/// Returns a folder in which an envelope and its leaf are damaged, and its store.
fn damaged_with_leaf(place: EnvelopeId) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    drop(store_at(folder.path()));
    flip(folder.path(), "log", &entry(place).bytes, &[8]);
    let leaf = envelope_leaf(&entry(place).bytes).unwrap();
    flip(folder.path(), "leaf", &leaf.0, &[3]);
    let (store, _) = Store::open_existing(folder.path(), price).unwrap();
    (folder, store)
}

#[test]
fn an_envelope_of_the_own_strand_is_not_taken_without_its_leaf() {
    let (_folder, store) = damaged_with_leaf(id(OWN, 150));
    let report = scrub(&store);
    let log = report.damages.iter().find(|it| it.family == "log").unwrap();
    let refused = store.lost_places(log);
    let Err(RepairError::Unproven { at }) = refused else { panic!("{refused:?}") };
    let brought = [(at, entry(at).bytes)].into();
    let refused = store.put_back(log, &brought);
    assert!(matches!(refused, Err(RepairError::Unproven { .. } | RepairError::Lost { .. })));
}

#[test]
fn no_peers_envelope_is_taken_without_its_leaf_which_is_made_again_before() {
    let (_folder, store) = damaged_with_leaf(id(PEER, 150));
    let report = scrub(&store);
    let of = |family: &str| report.damages.iter().find(|it| it.family == family).unwrap();
    let (log, leaves) = (of("log"), of("leaf"));
    // The node holds the envelopes of the other places, but can no longer prove them.
    let causes = [leaves.first, leaves.last].map(|at| {
        let held = Damage { first: at, last: at, file: None, ..log.clone() };
        store.recheck(&held, &mut go_on).unwrap()
    });
    assert!(causes.iter().flatten().any(|it| it.cause.contains("its leaf")), "{causes:?}");

    let refused = store.lost_places(log);
    assert!(matches!(refused, Err(RepairError::Unproven { .. })), "{refused:?}");
    let lost = store.lost_places(leaves).unwrap();
    let signed: BTreeMap<_, _> = lost.iter().map(|it| (it.id, entry(it.id).bytes)).collect();
    let refused = store.put_back(log, &signed);
    assert!(matches!(refused, Err(RepairError::Unproven { .. })), "{refused:?}");

    // The checksum of their block proves the leaves, and the leaves then prove the envelopes.
    store.put_back(leaves, &signed).unwrap();
    assert_eq!(store.recheck(leaves, &mut go_on).unwrap(), []);
    store.put_back(log, &brought(&store, log)).unwrap();
    assert_eq!(store.scrub(&mut go_on).unwrap().damages, []);
}

#[test]
fn a_block_that_does_not_become_whole_is_written_back_as_the_disk_had_it() {
    let place = id(PEER, 150);
    let wanted = entry(place).bytes;
    let folder = tempfile::tempdir().unwrap();
    drop(store_at(folder.path()));
    let (file, before) = flip(folder.path(), "log", &wanted, &[8]);
    // The eight bytes before a value are RocksDB's sequence number, which cannot be computed from the envelope.
    let value = before.windows(wanted.len()).position(|it| it == wanted).unwrap();
    let writer = fs::File::options().write(true).open(&file).unwrap();
    writer.write_all_at(&[before[value - 4] ^ 1], u64::try_from(value - 4).unwrap()).unwrap();
    let damaged = fs::read(&file).unwrap();
    let (store, _) = Store::open_existing(folder.path(), price).unwrap();
    let damage = found(&store);
    let overwritten = store.put_back(&damage, &brought(&store, &damage)).unwrap().unwrap();
    assert!(fs::read(&file).unwrap() != damaged);
    let still = store.recheck(&damage, &mut go_on).unwrap();
    assert!(overwritten.is_in(&still), "{still:?}");
    overwritten.restore().unwrap();
    assert!(fs::read(&file).unwrap() == damaged, "byte for byte");
}

#[test]
fn damage_of_other_rows_is_left_with_a_reason() {
    let (_folder, store, _, _) = damaged("receipt", &digest(150)[4..], &[3]);
    let damage = found(&store);
    let refused = store.lost_places(&damage);
    assert!(matches!(refused, Err(RepairError::NotOfPlaces { family: "receipt" })), "{refused:?}");
}

/// Bytes that are overwritten in a file take no room; rows that are written again do.
#[test]
fn rows_are_written_again_above_the_watermark_of_the_disk_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_at(folder.path());
    let free = Arc::new(AtomicU64::new(999));
    let seen = Arc::clone(&free);
    let free_bytes = Arc::new(move || Some(seen.load(Ordering::SeqCst)));
    store.keep_room(DiskReserveSettings { free_bytes_min: 1000, free_bytes });
    let at = Some(id(PEER, 3));
    let cause = "the envelope is not that of its leaf".to_owned();
    let damage = Damage { family: Family::Log.name(), first: at, last: at, file: None, cause };
    let refused = store.put_back(&damage, &BTreeMap::new());
    let no_room = matches!(refused, Err(RepairError::Commit(CommitError::NoRoom { .. })));
    assert!(no_room, "{refused:?}");
    free.store(1125, Ordering::SeqCst);
    let written = store.put_back(&damage, &BTreeMap::new());
    assert!(matches!(written, Ok(None)), "{written:?}");
}
