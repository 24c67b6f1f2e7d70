//! Scrubs: what a disk has damaged is found and named, under a store that is open too.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{ScrubError, ScrubReport, Store};
use support::*;

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A store with two strands on disk, of which nothing is in memory tables.
fn store_at(folder: &Path) -> Store {
    let store = Store::open(&settings(folder)).unwrap();
    extend(&store, OWN, 600);
    extend(&store, PEER, 300);
    store.flush().unwrap();
    store
}

/// Flips a bit in the statement of an envelope, in the table file of the log, in place. Returns the file.
fn damage(folder: &Path, originator: OriginatorId, sequence: u64) -> PathBuf {
    // RocksDB may merge the file away while files are looked through.
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
    let mut told = 0;
    let report = store.scrub(&mut |bytes| {
        told += bytes;
        ControlFlow::Continue(())
    });
    let ScrubReport { rows, bytes, damages, further } = report.unwrap();
    assert_eq!((damages, further), (Vec::new(), 0));
    // An envelope has rows in the log, in its tree and in projections.
    assert!(rows > 2 * 900 && bytes > 0, "{rows} rows, {bytes} bytes");
    assert!(!folder.path().join("backup-checkpoint").exists());
}

/// A store whose envelope at `place` was damaged in this file, and the findings of a scrub.
struct Damaged {
    folder: tempfile::TempDir,
    store: Store,
    file: PathBuf,
    report: ScrubReport,
}

/// Damages an envelope whose right bytes are in the cache, and scrubs. Returns `None` if RocksDB merged files
/// meanwhile: the bit was then flipped in a file that was not in use yet or any more.
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

#[test]
fn a_scrub_ends_when_it_is_told_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    extend(&store, OWN, 3000);
    let stopped = store.scrub(&mut |_| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(ScrubError::Stopped)), "{stopped:?}");
    assert!(!folder.path().join("backup-checkpoint").exists());
    let again = store.scrub(&mut |_| {
        let second = store.scrub(&mut go_on);
        assert!(matches!(second, Err(ScrubError::Busy)), "{second:?}");
        ControlFlow::Continue(())
    });
    assert_eq!(again.unwrap().damages, []);
    let in_memory = in_memory().scrub(&mut go_on);
    assert!(matches!(in_memory, Err(ScrubError::InMemory)), "{in_memory:?}");
}
