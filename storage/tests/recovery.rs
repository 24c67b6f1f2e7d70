//! Recovery after a crash: every acknowledged commit survives, and each other commit survives as a whole or not at
//! all.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::*;
use hawser_proto::SequenceId;
use hawser_storage::{CommitError, OpenError, Store};

/// Names the folder for the process that [`child_writes_until_killed`] runs in.
const CHILD_FOLDER: &str = "HAWSER_TEST_CHILD_FOLDER";

/// Each commit writes this many envelopes to each of two strands.
const PER_COMMIT: u64 = 5;

fn commit_number(store: &Store, number: u64) {
    let first = (number - 1) * PER_COMMIT + 1;
    let places = first..first + PER_COMMIT;
    let changes: Vec<_> =
        places.flat_map(|place| [append(OWN, place), append(PEER, place)]).collect();
    store.commit(&changes).unwrap();
}

/// Counts the commits in a store. Panics if one of them is incomplete.
fn whole_commits(store: &Store) -> u64 {
    let snapshot = store.snapshot();
    let (own, peer) = (snapshot.head(OWN).unwrap().0, snapshot.head(PEER).unwrap().0);
    assert_eq!(own, peer);
    assert_eq!(own % PER_COMMIT, 0);
    for place in 1..=own {
        assert_eq!(snapshot.get(id(OWN, place)).unwrap(), Some(entry(id(OWN, place)).bytes));
    }
    assert_eq!(snapshot.get(id(OWN, own + 1)).unwrap(), None);
    let expected = in_memory();
    (1..=own / PER_COMMIT).for_each(|number| commit_number(&expected, number));
    assert_eq!(
        snapshot.projection_digests().unwrap(),
        expected.snapshot().projection_digests().unwrap()
    );
    own / PER_COMMIT
}

/// Not a test by itself: the process that [`acknowledged_commits_survive_a_kill`] kills.
#[test]
fn child_writes_until_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let store = Store::open(&settings(Path::new(&folder))).unwrap();
    for number in 1.. {
        commit_number(&store, number);
        println!("\nacknowledged {number}");
    }
}

#[test]
fn acknowledged_commits_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "recovery::child_writes_until_killed", "--nocapture"])
        .env(CHILD_FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged =
        lines.filter_map(|line| line.unwrap().strip_prefix("acknowledged ")?.parse::<u64>().ok());
    acknowledged.find(|&number| number == 20).unwrap();
    let refused = Store::open(&settings(folder.path())).map(drop);
    child.kill().unwrap();
    child.wait().unwrap();
    let last = acknowledged.last().unwrap_or(20);

    assert!(matches!(refused, Err(OpenError::Held { .. })), "{refused:?}");
    assert!(folder.path().join("LOCK").exists());
    let store = Store::open(&settings(folder.path())).unwrap();
    let held = whole_commits(&store);
    // The last one may be on disk without having been acknowledged.
    assert!(held == last || held == last + 1, "{held} held, {last} acknowledged");
    commit_number(&store, held + 1);
}

fn newest_wal(folder: &Path) -> PathBuf {
    let logs = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max().unwrap()
}

/// A closed database with `commits` commits that lie in the write-ahead log only.
fn written(commits: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // The first start creates its own files, so the commits are in a separate write-ahead log.
    drop(Store::open(&settings(folder.path())).unwrap());
    let store = Store::open(&settings(folder.path())).unwrap();
    (1..=commits).for_each(|number| commit_number(&store, number));
    folder
}

fn copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap().map(|file| file.unwrap()) {
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

#[test]
fn a_torn_tail_costs_whole_commits_from_the_end_only() {
    let original = written(12);
    let len = fs::metadata(newest_wal(original.path())).unwrap().len();
    let mut seen = Vec::new();
    for cut in [0, 1, 7, 100, len / 7, len / 3, len / 2, len * 4 / 5, len - 20, len] {
        let folder = copy(original.path());
        let wal = fs::OpenOptions::new().write(true).open(newest_wal(folder.path())).unwrap();
        wal.set_len(len - cut).unwrap();
        let store = Store::open(&settings(folder.path())).unwrap();
        let held = whole_commits(&store);
        seen.push(held);
        // The strand goes on from there.
        commit_number(&store, held + 1);
        assert_eq!(whole_commits(&store), held + 1);
    }
    assert_eq!(&seen[..3], [12, 11, 11]);
    assert_eq!(seen.last(), Some(&0));
    assert!(seen.is_sorted_by(|a, b| a >= b), "{seen:?}");
}

#[test]
fn a_store_that_was_flushed_leaves_no_write_ahead_log_to_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 500);
    extend(&store, PEER, 20);
    let digests = store.snapshot().projection_digests().unwrap();
    assert!(wal_len_bytes(folder.path()) > 0);
    store.flush().unwrap();
    drop(store);
    assert_eq!(wal_len_bytes(folder.path()), 0);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(500));
    assert_eq!(store.snapshot().head(PEER).unwrap(), SequenceId(20));
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
}

fn wal_len_bytes(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    let logs = files.filter(|file| file.path().extension().is_some_and(|it| it == "log"));
    logs.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn damage_before_the_tail_is_refused_and_not_cut_off() {
    let original = written(60);
    let len = fs::metadata(newest_wal(original.path())).unwrap().len();
    assert!(len > 100_000, "damage must lie before the last block");
    for at in [len / 5, len / 2] {
        let folder = copy(original.path());
        let wal = newest_wal(folder.path());
        let mut bytes = fs::read(&wal).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 0x40;
        fs::write(&wal, bytes).unwrap();
        let refused = Store::open(&settings(folder.path())).map(drop);
        assert!(matches!(refused, Err(OpenError::Corrupt { .. })), "{refused:?}");
    }
}

#[test]
fn damage_in_what_was_written_out_is_an_error_and_not_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 500);
    store.flush().unwrap();
    drop(store);
    // Envelopes stand in the log and beside their topics.
    let tables: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .filter(|path| fs::metadata(path).unwrap().len() > 50_000)
        .collect();
    assert_eq!(tables.len(), 2);
    for table in tables {
        let mut bytes = fs::read(&table).unwrap();
        bytes[1_000] ^= 0x40;
        fs::write(&table, bytes).unwrap();
    }
    let store = Store::open(&settings(folder.path())).unwrap();
    let snapshot = store.snapshot();
    let read: Result<Vec<_>, _> = snapshot.log(id(OWN, 0), SequenceId(500)).collect();
    assert!(read.is_err());
    // The iterator ends after the error instead of repeating it.
    assert!(snapshot.log(id(OWN, 0), SequenceId(500)).count() <= 500);
    let mut topics = snapshot.topics_with_envelopes(usize::MAX);
    let mut row = topics.seek(topic("t0").as_bytes(), id(OWN, 0));
    while matches!(row, Ok(Some(_))) {
        row = topics.next_row();
    }
    assert!(row.is_err());
}

/// The file system fails: the folder of the open database is moved away, and the next log file cannot be created.
#[test]
fn a_disk_that_fails_poisons_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let store = Store::open(&settings(&path)).unwrap();
    extend(&store, OWN, 2);
    fs::remove_dir_all(&path).unwrap();
    assert!(store.flush().is_err());
    let failed = store.commit(&[append(OWN, 3)]);
    assert!(matches!(failed, Err(CommitError::Write(_))), "{failed:?}");
    assert!(store.is_poisoned());
    let refused = store.commit(&[append(OWN, 3)]);
    assert!(matches!(refused, Err(CommitError::Poisoned { .. })), "{refused:?}");
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(2));
}
