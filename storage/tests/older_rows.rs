//! A folder of an older format is converted in steps, and is readable meanwhile.

use std::io::{BufRead as _, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::*;
use bytes::Bytes;
use hawser_proto::EnvelopeId;
use hawser_storage::{Change, CommitError, Damage, Facts, LogEntry, Store};

/// Names the folder for the process that [`child_works_until_killed`] runs in.
const CHILD_FOLDER: &str = "HAWSER_TEST_CHILD_FOLDER";
/// Envelopes of the folder. A step converts 64 of them.
const ENVELOPES: u64 = 2_000;
/// Steps that the killed process takes.
const STEPS: usize = 10;

/// Returns an envelope that is short, or too long to be stored beside its row.
fn long_or_short(at: EnvelopeId) -> LogEntry {
    let len = if at.sequence.0.is_multiple_of(7) { 2049 } else { 60 + at.sequence.0 % 400 };
    let statement = format!("{at} {}", "x".repeat(usize::try_from(len).unwrap()));
    let depends_on = vec![id(PEER, 3); usize::from(at.sequence.0.is_multiple_of(5))];
    let facts = Facts { depends_on, ..facts(at) };
    LogEntry { bytes: statement.into_bytes().into(), facts: Some(facts), ..entry(at) }
}

fn write(store: &Store, places: std::ops::RangeInclusive<u64>) {
    let changes: Vec<_> = places.map(|at| Change::Append(long_or_short(id(OWN, at)))).collect();
    store.commit(&changes).unwrap();
}

/// Converts the folder to a format before 4, in which no row has its envelope beside it.
fn make_older(folder: &Path) {
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, folder).unwrap();
    let db = rocksdb::DB::open_cf(&options, folder, names).unwrap();
    let topics = db.cf_handle("topic").unwrap();
    let rows: Vec<_> =
        db.iterator_cf(topics, rocksdb::IteratorMode::Start).map(Result::unwrap).collect();
    for (key, value) in rows {
        let len = u32::from_be_bytes(value[8..12].try_into().unwrap());
        let len_bytes = len & !(1 << 31);
        let beside = if len == len_bytes { 0 } else { usize::try_from(len_bytes).unwrap() };
        let rest = &value[12..value.len() - beside];
        let older = [&value[..8], &len_bytes.to_be_bytes(), rest].concat();
        db.put_cf(topics, key, older).unwrap();
    }
    db.put_cf(db.cf_handle("meta").unwrap(), "format", 3u32.to_be_bytes()).unwrap();
    db.flush_cf(topics).unwrap();
}

/// Returns the rows of all topics with the envelopes that stand beside them.
fn rows(store: &Store) -> Vec<(EnvelopeId, Vec<EnvelopeId>, Option<Bytes>)> {
    let snapshot = store.snapshot();
    let mut scan = snapshot.topics_with_envelopes(usize::MAX);
    let mut found = Vec::new();
    for name in ["t0", "t1", "t2"] {
        let mut row = scan.seek(topic(name).as_bytes(), id(OWN, 0)).unwrap();
        while let Some(read) = row {
            assert_eq!(read.len_bytes as usize, long_or_short(read.id).bytes.len());
            found.push((read.id, read.depends_on, read.envelope));
            row = scan.next_row().unwrap();
        }
    }
    found.sort();
    found
}

fn assert_brought_up(store: &Store, envelopes: u64) {
    assert_eq!(store.older_topic_rows(), None);
    let expected: Vec<_> = (1..=envelopes)
        .map(|at| {
            let LogEntry { id, bytes, facts, .. } = long_or_short(id(OWN, at));
            let beside = Some(bytes).filter(|bytes| bytes.len() <= 2048);
            (id, facts.unwrap().depends_on, beside)
        })
        .collect();
    assert!(rows(store) == expected, "not all rows have their envelopes beside them");
    let digests = store.snapshot().projection_digests().unwrap();
    store.rebuild(&|at, _, _| long_or_short(at).facts, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
}

fn older_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    write(&store, 1..=ENVELOPES);
    drop(store);
    make_older(folder.path());
    folder
}

/// Not a test by itself: the process that [`a_kill_in_the_middle_loses_no_step_and_repeats_none`] kills.
#[test]
fn child_works_until_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let store = Store::open(&settings(Path::new(&folder))).unwrap();
    for _ in 0..STEPS {
        assert!(!store.convert_topic_rows(1).unwrap());
    }
    println!("\nlooked at {}", store.older_topic_rows().unwrap().looked_at);
    loop {
        std::thread::park();
    }
}

#[test]
fn a_kill_in_the_middle_loses_no_step_and_repeats_none() {
    let folder = older_folder();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "older_rows::child_works_until_killed", "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let looked_at: Option<u64> =
        lines.find_map(|line| line.unwrap().strip_prefix("looked at ")?.parse().ok());
    child.kill().unwrap();
    child.wait().unwrap();

    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.older_topic_rows().map(|progress| progress.looked_at), looked_at);
    let beside = rows(&store).iter().filter(|(_, _, envelope)| envelope.is_some()).count();
    assert_eq!(beside, STEPS * 64);
    while !store.convert_topic_rows(1).unwrap() {}
    assert_brought_up(&store, ENVELOPES);
}

#[test]
fn a_folder_serves_and_grows_while_its_rows_are_brought_up() {
    let folder = older_folder();
    let store = Store::open(&settings(folder.path())).unwrap();
    let before = store.snapshot();
    assert_eq!(store.stale_projections(), [""; 0], "no rebuild is needed");
    let mut written = ENVELOPES;
    loop {
        let found = rows(&store);
        assert_eq!(found.len() as u64, written);
        let ids: Vec<_> = found.iter().map(|(id, ..)| *id).collect();
        let stored = store.snapshot().get_many(&ids).unwrap();
        for ((id, depends_on, beside), stored) in found.into_iter().zip(stored) {
            assert_eq!(stored.as_ref(), Some(&long_or_short(id).bytes));
            assert_eq!(depends_on, long_or_short(id).facts.unwrap().depends_on);
            assert!(beside.is_none() || beside == stored, "{id}");
        }
        write(&store, written + 1..=written + 10);
        written += 10;
        if store.convert_topic_rows(7).unwrap() {
            break;
        }
    }
    assert_eq!(
        before.topics().seek(topic("t1").as_bytes(), id(OWN, 0)).unwrap().unwrap().id.sequence.0,
        1
    );
    drop(before);
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_brought_up(&store, written);
}

/// The checksum of such a row is right, so only its form shows that it is damaged.
#[test]
fn a_row_of_no_known_form_stops_the_steps_and_a_scrub_finds_it() {
    let folder = older_folder();
    {
        let options = rocksdb::Options::default();
        let names = rocksdb::DB::list_cf(&options, folder.path()).unwrap();
        let db = rocksdb::DB::open_cf(&options, folder.path(), names).unwrap();
        let topics = db.cf_handle("topic").unwrap();
        let first = db.iterator_cf(topics, rocksdb::IteratorMode::Start).next();
        let (key, _) = first.unwrap().unwrap();
        db.put_cf(topics, key, b"short").unwrap();
        db.flush_cf(topics).unwrap();
    }
    let store = Store::open(&settings(folder.path())).unwrap();
    assert!(
        matches!(store.convert_topic_rows(1), Err(CommitError::Read(error)) if error.is_damage())
    );
    let found = || -> Vec<Damage> {
        let report = store.scrub(&mut |_| ControlFlow::Continue(())).unwrap();
        report.damages.into_iter().filter(|it| it.family == "topic").collect()
    };
    let damages = found();
    let [damage] = &damages[..] else { panic!("{damages:?}") };
    assert!(damage.is_of_projection(), "a node makes the rows again: {damage:?}");
    store.rebuild(&|at, _, _| long_or_short(at).facts, &mut |_| {}).unwrap();
    assert_eq!(found(), []);
    assert_brought_up(&store, ENVELOPES);
}

#[test]
fn a_rebuild_leaves_nothing_to_bring_up() {
    let folder = older_folder();
    let store = Store::open(&settings(folder.path())).unwrap();
    assert!(!store.convert_topic_rows(2).unwrap());
    store.rebuild(&|at, _, _| long_or_short(at).facts, &mut |_| {}).unwrap();
    assert_brought_up(&store, ENVELOPES);
    drop(store);
    assert_eq!(Store::open(&settings(folder.path())).unwrap().older_topic_rows(), None);
}
