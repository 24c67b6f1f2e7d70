//! Damaged disks at a start: readable data is served, and projections are rebuilt while the store is open.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use crate::support::*;
use hawser_proto::{Address, EnvelopeId, SequenceId, StatementDifference};
use hawser_storage::{
    Change, CommitError, Damage, Evidence, Facts, LogEntry, Misbehavior, OpenError, ReadError,
    RebuildError, ScrubReport, Store, StoreSettings, Validity,
};
use tempfile::TempDir;

/// Families without which a start cannot interpret the folder.
const NEEDED: [&str; 3] = ["cursor", "meta", "rate"];

fn derive(at: EnvelopeId, _: &bytes::Bytes, validity: Validity) -> Option<Facts> {
    (validity == Validity::Valid).then(|| facts(at))
}

fn fill(store: &Store) {
    extend(store, OWN, 300);
    extend(store, PEER, 100);
    store.commit(&[append_invalid(PEER, 101, 8), append(PEER, 102)]).unwrap();
    store.record_rates(&[rate(0, 1)]).unwrap();
    while store.reprice(&derive, 3).unwrap() == 3 {}
    let misbehavior = Misbehavior::TwoStatements(StatementDifference::Content);
    let envelopes = vec![signed("one", 1), signed("another", 1)];
    let evidence = Evidence { misbehavior, at: id(PEER, 1), from: Some(OWN), envelopes };
    store.record_evidence(7, &[evidence]).unwrap();
}

/// A stopped node's folder, with all rows in table files that RocksDB has no reason to merge, also when it opens
/// them again. A merge that meets damage would end all writes.
static WHOLE: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    fill(&store);
    store.flush().unwrap();
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    let files = || -> BTreeSet<_> {
        fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().file_name()).collect()
    };
    let (mut seen, mut same) = (files(), 0);
    while same < 25 {
        std::thread::sleep(Duration::from_millis(20));
        let now = files();
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
    }
    drop(store);
    folder
});

/// Returns a copy of [`WHOLE`].
fn folder() -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(WHOLE.path()).unwrap().map(|file| file.unwrap()) {
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// Opens a folder whose disk has damaged families, and suspends their compactions, as a scrub does that has found
/// the damage.
fn open(folder: &TempDir, families: &[&'static str]) -> Store {
    let store = Store::open(&settings(folder.path())).unwrap();
    let cause = "damaged by this test".to_owned();
    let damage = |&family: &&'static str| Damage {
        family,
        first: None,
        last: None,
        file: None,
        cause: cause.clone(),
    };
    store.hold_compactions(&families.iter().map(damage).collect::<Vec<_>>());
    store
}

/// Returns the table files of a family.
fn files_of(folder: &Path, family: &str) -> Vec<PathBuf> {
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, folder).unwrap();
    let db = rocksdb::DB::open_cf_for_read_only(&options, folder, names, false).unwrap();
    let files = db.live_files().unwrap().into_iter();
    let of_family = files.filter(|file| file.column_family_name == family);
    of_family.map(|file| folder.join(file.name.trim_start_matches('/'))).collect()
}

/// Flips a bit in the first block of each table file of a family, which is one of rows. Returns false if there is none.
fn flip(folder: &Path, family: &str) -> bool {
    let files = files_of(folder, family);
    files.iter().for_each(|path| flip_at(path, 10));
    !files.is_empty()
}

/// Parts of a table file that RocksDB reads when it opens it, by their distance from its end.
const ENDS: [(&str, u64); 3] = [("footer", 5), ("version", 9), ("index of its parts", 60)];

/// Flips a bit near the end of each of these table files.
fn flip_ends(files: &[PathBuf], from_end: u64) {
    for path in files {
        let len = fs::metadata(path).unwrap().len();
        flip_at(path, len - from_end);
    }
}

fn flip_at(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// Opens a folder so that RocksDB opens all tables at once.
fn open_all_tables(folder: &Path) -> Result<Store, OpenError> {
    Store::open(&StoreSettings { open_files_max: 1000, ..settings(folder) })
}

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Scrubs. A compaction may meet the damage first, after which RocksDB accepts no writes; the store is then
/// reopened, as a node does.
fn scrub(store: &Store) -> ScrubReport {
    for _ in 0..3 {
        if let Ok(report) = store.scrub(&mut go_on) {
            return report;
        }
        reopen(store);
    }
    store.scrub(&mut go_on).unwrap()
}

fn condemn(store: &Store) {
    if store.condemn_damaged(&PROJECTIONS).is_err() {
        reopen(store);
        store.condemn_damaged(&PROJECTIONS).unwrap();
    }
}

fn reopen(store: &Store) {
    store.reopen().unwrap();
    store.accept_writes();
}

#[test]
fn a_folder_is_opened_unless_nothing_is_known_of_it_without_the_damaged_rows() {
    let mut tried = 0;
    for family in hawser_storage::Family::ALL.map(hawser_storage::Family::name) {
        let folder = folder();
        if !flip(folder.path(), family) {
            continue;
        }
        tried += 1;
        let opened = Store::open(&settings(folder.path()));
        if NEEDED.contains(&family) {
            let refused = opened.unwrap_err();
            assert!(matches!(refused, OpenError::Corrupt { .. }), "{family}: {refused:?}");
            assert!(refused.to_string().contains("docs/runbooks/restore.md"), "{refused}");
            continue;
        }
        let store = opened.unwrap_or_else(|error| panic!("{family}: {error}"));
        let unread: Vec<_> = store.unread_families().iter().map(|it| it.family).collect();
        let is_index = ["misbehavior_fact", "reprice"].contains(&family);
        assert_eq!(unread, if is_index { vec![family] } else { vec![] }, "{family}");
        assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(300), "{family}");
        let all = store.snapshot().log(id(OWN, 0), SequenceId(300)).all(|it| it.is_ok());
        assert_eq!(all, !["log", "mark"].contains(&family), "{family}");
    }
    assert!(tried >= 13, "{tried} families have rows");
}

/// Returns true if a start can do without the family when its tables cannot be opened.
fn is_made_anew(family: &str) -> bool {
    PROJECTIONS.contains(&family) || family == "reprice"
}

#[test]
fn a_folder_is_opened_without_tables_of_projections_that_cannot_be_opened() {
    let expected = in_memory();
    fill(&expected);
    let expected = expected.snapshot().projection_digests().unwrap();
    for family in PROJECTIONS {
        for (part, from_end) in ENDS {
            let folder = folder();
            let damaged = files_of(folder.path(), family);
            assert!(!damaged.is_empty(), "{family} has rows");
            flip_ends(&damaged, from_end);
            let store = open_all_tables(folder.path())
                .unwrap_or_else(|error| panic!("{part} of {family}: {error}"));
            if !store.has_stale_projections() {
                // RocksDB opens sixteen tables at a start. A reader finds damage in the others.
                assert!(scrub(&store).damages.iter().all(|it| it.family == family));
                store.condemn_damaged(&[family]).unwrap();
                reopen(&store);
            }
            assert!(store.stale_projections().contains(&family), "{part} of {family}");
            assert!(damaged.iter().all(|file| !file.exists()), "{part} of {family}");
            assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(300));
            rebuild(&store);
            assert_eq!(store.snapshot().projection_digests().unwrap(), expected, "{family}");
            extend(&store, OWN, 2);
            assert_eq!(scrub(&store).damages, []);
            drop(store);
            let store = open_all_tables(folder.path()).unwrap();
            assert!(!store.has_stale_projections());
            assert_eq!(store.snapshot().receipt(&digest(302)).unwrap(), Some(SequenceId(302)));
        }
    }
}

/// Even if tables of a projection are damaged too. The folder stays unchanged, for the operator who restores it.
#[test]
fn a_folder_with_a_table_of_the_log_that_cannot_be_opened_is_refused_and_kept() {
    let mut refused = 0;
    for family in hawser_storage::Family::ALL.map(hawser_storage::Family::name) {
        let folder = folder();
        let damaged = files_of(folder.path(), family);
        if is_made_anew(family) || damaged.is_empty() {
            continue;
        }
        let topics = files_of(folder.path(), "topic");
        flip_ends(&[damaged, topics].concat(), ENDS[0].1);
        let before = tables(folder.path());
        match open_all_tables(folder.path()) {
            Err(error) => {
                refused += 1;
                assert!(matches!(error, OpenError::Corrupt { .. }), "{family}: {error:?}");
                assert!(error.to_string().contains("docs/runbooks/restore.md"), "{error}");
                assert_eq!(tables(folder.path()), before, "{family}: nothing is removed");
            }
            // RocksDB has not opened this table. Its readers find the damage.
            Ok(store) => {
                assert!(scrub(&store).damages.iter().any(|it| it.family == family), "{family}");
            }
        }
    }
    assert!(refused > 3, "{refused}");
}

/// Table files never change once they are written, so an older copy of the folder has the same ones.
#[test]
fn a_table_that_cannot_be_opened_is_put_back_from_a_copy() {
    let (copy, mut put_back) = (folder(), 0);
    for family in hawser_storage::Family::ALL.map(hawser_storage::Family::name) {
        let folder = folder();
        let damaged = files_of(folder.path(), family);
        if is_made_anew(family) || damaged.is_empty() {
            continue;
        }
        flip_ends(&damaged, ENDS[0].1);
        // RocksDB has not opened the table otherwise.
        let Err(error) = open_all_tables(folder.path()) else { continue };
        let error = error.to_string();
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(damaged.iter().any(|path| error.contains(&name(path))), "{family}: {error}");
        for path in &damaged {
            fs::copy(copy.path().join(name(path)), path).unwrap();
        }
        let store = open_all_tables(folder.path()).unwrap();
        assert_eq!(scrub(&store).damages, [], "{family}");
        assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(300), "{family}");
        put_back += 1;
    }
    assert!(put_back > 3, "{put_back}");
}

/// Returns the table files of a folder.
fn tables(folder: &Path) -> BTreeSet<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
    files.filter(|it| it.extension().is_some_and(|it| it == "sst")).collect()
}

/// A damaged write-ahead log is still detected if a table is damaged too. Otherwise its commits would be lost
/// silently.
#[test]
fn a_damaged_write_ahead_log_is_not_passed_over_for_a_table_that_cannot_be_opened() {
    let folder = folder();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 200);
    drop(store);
    flip_ends(&files_of(folder.path(), "topic"), ENDS[0].1);
    let files = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().path());
    let wal = files.filter(|it| it.extension().is_some_and(|it| it == "log")).max().unwrap();
    assert!(fs::metadata(&wal).unwrap().len() > 1000);
    flip_at(&wal, 300);
    let before = tables(folder.path());
    for _ in 0..2 {
        let error = open_all_tables(folder.path()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error:?}");
        assert_eq!(tables(folder.path()), before);
    }
}

#[test]
fn new_evidence_takes_no_place_of_evidence_that_cannot_be_counted() {
    let folder = folder();
    // A malformed row in place of the only one.
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, folder.path()).unwrap();
    let db = rocksdb::DB::open_cf(&options, folder.path(), names).unwrap();
    let facts = db.cf_handle("misbehavior_fact").unwrap();
    let mut rows = db.raw_iterator_cf(facts);
    rows.seek_to_first();
    db.put_cf(facts, rows.key().unwrap(), []).unwrap();
    drop(rows);
    drop(db);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert!(store.evidence_counts().is_empty(), "its index cannot be read");
    let before = store.snapshot().evidence(Default::default(), 9, usize::MAX).unwrap();
    assert_eq!(before.len(), 1);
    let envelopes = vec![signed("other", 1), signed("another", 1)];
    let misbehavior = Misbehavior::TwoStatements(StatementDifference::Content);
    let evidence = Evidence { misbehavior, at: id(OWN, 9), from: None, envelopes };
    // Recorded at the same time: by the index alone, it would get the same position.
    store.record_evidence(7, &[evidence]).unwrap();
    let after = store.snapshot().evidence(Default::default(), 9, usize::MAX).unwrap();
    assert_eq!((after.len(), after.first()), (2, before.first()), "it is still there");
}

#[test]
fn a_damaged_block_of_facts_keeps_out_no_evidence() {
    let folder = folder();
    assert!(flip(folder.path(), "misbehavior_fact"));
    let store = open(&folder, &["misbehavior_fact"]);
    let known = store.snapshot().evidence(Default::default(), 9, usize::MAX).unwrap();
    let known = known[0].evidence.clone();
    let new = Evidence { at: id(PEER, 2), ..known.clone() };
    let both = [known, new];
    assert_eq!(store.record_evidence(8, &both).unwrap(), both);
    assert_eq!(store.record_evidence(9, &both).unwrap(), []);
    assert_eq!(store.snapshot().evidence(Default::default(), 9, usize::MAX).unwrap().len(), 3);
    assert!(store.evidence_unreadable() > 0, "it is counted");
}

/// Statements for places whose envelopes are readable are compared, whatever the disk has done to others.
#[test]
fn a_place_whose_envelope_is_damaged_is_left_out_of_a_comparison() {
    let folder = folder();
    assert!(flip(folder.path(), "log"));
    let store = open(&folder, &["log"]);
    let damaged = (1..=300).find(|&place| store.snapshot().get(id(OWN, place)).is_err());
    let changes =
        [append(OWN, damaged.expect("a block of the strand is damaged")), append(OWN, 301)];
    // The folder has 300 places of the strand.
    let mut noted = Vec::new();
    let note = |left_out: &[usize]| {
        noted.extend_from_slice(left_out);
        Ok(())
    };
    let left_out = store.commit_around_conflicts(&changes, |_| false, note);
    assert_eq!((left_out.unwrap(), noted), (vec![0], vec![0]));
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(301), "the other one is stored");
}

/// A file of large envelopes is lost: each read fails, and no row is damaged.
#[test]
fn a_place_that_is_given_up_is_left_out_of_a_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let large =
        |text: &str| LogEntry { bytes: signed(&text.repeat(2000), 1), ..entry(id(PEER, 1)) };
    let store = Store::open(&settings(folder.path())).unwrap();
    store.commit(&[Change::Append(large("first"))]).unwrap();
    store.flush().unwrap();
    drop(store);
    let files = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().path());
    let blobs: Vec<_> = files.filter(|it| it.extension().is_some_and(|it| it == "blob")).collect();
    assert!(!blobs.is_empty());
    blobs.iter().for_each(|file| fs::remove_file(file).unwrap());
    let store = open(&folder, &["log"]);
    let unread = store.snapshot().get(id(PEER, 1)).unwrap_err();
    assert!(!unread.is_damage(), "the next try may succeed: {unread}");

    let changes = [Change::Append(large("other")), append(PEER, 2)];
    let refused = store.commit_around_conflicts(&changes, |_| false, |_| unreachable!());
    assert!(matches!(refused, Err(CommitError::Read(_))), "{refused:?}");
    assert_eq!(store.snapshot().head(PEER).unwrap(), SequenceId(1));
    let of_other = store.commit_around_conflicts(&changes, |at| at != id(PEER, 1), |_| Ok(()));
    assert!(matches!(of_other, Err(CommitError::Read(_))), "{of_other:?}");
    let mut noted = Vec::new();
    let note = |left_out: &[usize]| {
        noted.extend_from_slice(left_out);
        Ok(())
    };
    let left_out = store.commit_around_conflicts(&changes, |at| at == id(PEER, 1), note);
    assert_eq!((left_out.unwrap(), noted), (vec![0], vec![0]));
    assert_eq!(store.snapshot().head(PEER).unwrap(), SequenceId(2), "the other one is stored");
}

/// Peers have pruned these envelopes as well, so none may be able to bring a damaged one back.
#[test]
fn a_damaged_block_of_expired_envelopes_keeps_no_other_from_being_pruned() {
    let folder = folder();
    assert!(flip(folder.path(), "log"));
    let store = open(&folder, &["log"]);
    let mut expired = Vec::new();
    let each = |it| {
        expired.push(it);
        ControlFlow::Continue(())
    };
    assert_eq!(store.snapshot().expiring(None, 1000, each).unwrap(), None);
    let is_unread = |at: &EnvelopeId| store.snapshot().get(*at).is_err();
    let unread: Vec<_> = expired.iter().map(|it| it.id).filter(is_unread).collect();
    assert!(!unread.is_empty());
    let plain = |at: EnvelopeId, bytes: &bytes::Bytes, validity: Validity| {
        derive(at, bytes, validity).map(|facts| Facts { addresses: Vec::new(), ..facts })
    };
    let done = store.prune(&expired, &plain).unwrap();
    // The last one of each strand stays.
    assert_eq!(done.pruned.len(), expired.len() - unread.len() - 2);
    assert_eq!(done.refused.len(), unread.len() + 2);
    assert!(unread.iter().all(|at| done.refused.contains(at)), "{done:?}");
}

/// Each commit adds to the tree.
#[test]
fn a_damaged_block_of_a_tree_stops_no_strand() {
    let folder = folder();
    assert!(flip(folder.path(), "tree"));
    let store = open(&folder, &["tree"]);
    assert!(store.snapshot().root(OWN, 300).is_err());
    let whole = in_memory();
    fill(&whole);
    for store in [&store, &whole] {
        extend(store, OWN, 2);
    }
    let edges = |store: &Store| [OWN, PEER].map(|strand| store.tree_edge(strand).unwrap());
    assert_eq!(edges(&store), edges(&whole));
}

/// Returns the error that readers of each projection get.
fn read_all(store: &Store) -> Vec<Option<ReadError>> {
    let snapshot = store.snapshot();
    let minute = 0;
    let mut topics = snapshot.topics();
    let payer = Address([7; 20]);
    let is_hidden = matches!(snapshot.receipt(&digest(1)), Err(ReadError::Rebuilding { .. }));
    assert!(!is_hidden || !store.lacks_receipts_for_sure([digest(999)]));
    vec![
        snapshot.congestion(OWN, minute).err(),
        snapshot.expiring(None, 9, |_| ControlFlow::Continue(())).err(),
        snapshot.inbox(Address([1; 20])).err(),
        snapshot.receipt(&digest(1)).err(),
        topics.seek(topic("t0").as_bytes(), id(OWN, 0)).err(),
        snapshot.usage(OWN, minute, payer).err(),
        snapshot.usage_after(payer, None, 9, |_, _, _| ()).err(),
    ]
}

fn rebuilding() -> Vec<Option<ReadError>> {
    PROJECTIONS.map(|family| Some(ReadError::Rebuilding { family })).to_vec()
}

fn rebuild(store: &Store) {
    store.rebuild(&derive, &mut |_| {}).unwrap();
}

#[test]
fn damaged_projections_are_made_anew_under_an_open_store() {
    let expected = in_memory();
    fill(&expected);
    for family in PROJECTIONS {
        let folder = folder();
        assert!(flip(folder.path(), family), "{family} has rows");
        let damaged = files_of(folder.path(), family);
        let store = open(&folder, &[family]);
        let report = scrub(&store);
        assert!(!report.damages.is_empty(), "{family}");
        for damage in &report.damages {
            assert_eq!(damage.family, family);
            assert!(damage.is_of_projection() && !damage.stops_rebuilds());
        }
        condemn(&store);
        assert!(store.is_poisoned() && store.has_stale_projections());
        assert_eq!(read_all(&store), rebuilding(), "no reader gets a part of the rows");
        assert_eq!(store.snapshot().get(id(OWN, 9)).unwrap(), Some(entry(id(OWN, 9)).bytes));
        reopen(&store);
        assert_eq!(read_all(&store), rebuilding());
        assert!(damaged.iter().all(|file| !file.exists()), "{family}: no compaction meets them");
        rebuild(&store);
        assert_eq!(read_all(&store), vec![None; 7], "{family}");
        let digests = store.snapshot().projection_digests().unwrap();
        assert_eq!(digests, expected.snapshot().projection_digests().unwrap(), "{family}");
        assert_eq!(scrub(&store).damages, []);
        extend(&store, OWN, 2);
        drop(store);
        let store = Store::open(&settings(folder.path())).unwrap();
        assert!(!store.has_stale_projections());
        assert_eq!(store.snapshot().receipt(&digest(302)).unwrap(), Some(SequenceId(302)));
    }
}

#[test]
fn a_crash_between_any_two_steps_leaves_projections_to_be_made_anew() {
    let expected = in_memory();
    fill(&expected);
    let expected = expected.snapshot().projection_digests().unwrap();
    for crash_after in 0..3 {
        let folder = folder();
        assert!(flip(folder.path(), "topic"));
        let store = open(&folder, &["topic"]);
        condemn(&store);
        if crash_after > 0 {
            reopen(&store);
        }
        if crash_after > 1 {
            let stopped = store.rebuild_while(&derive, &mut |_| ControlFlow::Break(()));
            assert_eq!(stopped, Err(RebuildError::Stopped));
            assert_eq!(read_all(&store), rebuilding());
        }
        drop(store);
        let store = Store::open(&settings(folder.path())).unwrap();
        assert_eq!(read_all(&store), rebuilding(), "{crash_after}");
        rebuild(&store);
        assert_eq!(store.snapshot().projection_digests().unwrap(), expected, "{crash_after}");
        assert_eq!(scrub(&store).damages, [], "{crash_after}");
    }
}

/// Projections also contain the commits between their drop and the rebuild.
#[test]
fn commits_between_the_drop_and_the_rebuild_are_counted_once() {
    on_each(|store| {
        let expected = in_memory();
        [store, &expected].into_iter().for_each(fill);
        store.condemn_damaged(&PROJECTIONS).unwrap();
        assert!(store.commit(&[append(OWN, 301)]).is_err(), "nothing is written before");
        reopen(store);
        for store in [store, &expected] {
            extend(store, OWN, 5);
        }
        rebuild(store);
        assert_eq!(
            store.snapshot().projection_digests().unwrap(),
            expected.snapshot().projection_digests().unwrap()
        );
    });
}

/// A snapshot that was taken during a rebuild never counts as complete.
#[test]
fn a_view_of_a_rebuild_stays_unreadable_when_the_rebuild_has_ended() {
    let store = in_memory();
    fill(&store);
    let mut views = Vec::new();
    let taking = store.clone();
    let stopped = store.rebuild_while(&derive, &mut |_| {
        views.push(taking.snapshot().receipt(&digest(1)));
        ControlFlow::Break(())
    });
    assert_eq!(stopped, Err(RebuildError::Stopped));
    let view = store.snapshot();
    rebuild(&store);
    assert!(matches!(view.receipt(&digest(1)), Err(ReadError::Rebuilding { .. })));
    assert!(views.iter().all(|it| matches!(it, Err(ReadError::Rebuilding { .. }))), "{views:?}");
    assert_eq!(store.snapshot().receipt(&digest(1)).unwrap(), Some(SequenceId(1)));
}

#[test]
fn an_own_end_that_is_damaged_is_an_error_and_not_an_absence() {
    let folder = folder();
    let wanted = entry(id(OWN, 300)).bytes;
    for path in files_of(folder.path(), "log") {
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(wanted.len()).position(|it| it == wanted).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[bytes[at + 8] ^ 4], u64::try_from(at + 8).unwrap()).unwrap();
    }
    let store = Store::open(&settings(folder.path())).unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.head(OWN).unwrap(), SequenceId(300));
    let unread = snapshot.last_held(OWN).unwrap_err();
    assert!(unread.is_damage(), "{unread}");
    assert_eq!(snapshot.get(id(OWN, 9)).unwrap(), Some(entry(id(OWN, 9)).bytes), "others are read");
}
