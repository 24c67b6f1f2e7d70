//! Blocks of evidence, of reports, of facts, of checkpoints and of marks that the disk has damaged: each costs the rows
//! in it.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::support::*;
use bytes::Bytes;
use hawser_proto::checkpoint::{Checkpoint, CosignedCheckpoint};
use hawser_proto::merkle::TreeHash;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{
    Damage, Evidence, EvidenceTime, Family, LogItem, Misbehavior, NewReport, ReadableCheckpoint,
    ReportClass, ReportFact, SkipReason, Store, Validity,
};
use tempfile::TempDir;

/// Pieces of evidence, or reports: some seven blocks.
const RECORDS: u64 = 100;
/// Records in two of these blocks, which are not adjacent.
const DAMAGED: [u64; 2] = [30, 70];

/// Bytes that a table file has as they are, because they do not compress.
fn noise(number: u64) -> Vec<u8> {
    (0..8).flat_map(|part| digest(8 * number + part)).collect()
}

fn piece(place: u64) -> Evidence {
    let envelopes = vec![Bytes::from(noise(place))];
    Evidence { misbehavior: Misbehavior::TimeBack, at: id(PEER, place), from: None, envelopes }
}

fn report(place: u64) -> NewReport {
    let (class, sequence) = (ReportClass::Proven, SequenceId(place));
    let fact = ReportFact { accused: PEER, class, kind: 7, detail: 0, sequence, digest: [0; 16] };
    NewReport { fact, signature: [7; 65], report: Bytes::from(noise(place)) }
}

/// A store whose rows are in table files, which the disk has damaged while it was closed.
fn damaged(
    families: &[&'static str],
    fill: impl FnOnce(&Store),
    damage: impl FnOnce(&Path),
) -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    fill(&store);
    store.flush().unwrap();
    drop(store);
    damage(folder.path());
    let store = Store::open(&settings(folder.path())).unwrap();
    let found = |family: &&'static str| {
        let cause = "damaged by this test".to_owned();
        Damage { family, first: None, last: None, file: None, cause }
    };
    store.hold_compactions(&families.iter().map(found).collect::<Vec<_>>());
    (folder, store)
}

/// Flips a bit in the table file of a family, where `at` finds a place in its bytes.
fn flip(folder: &Path, family: &str, at: impl Fn(&[u8]) -> Option<usize>) {
    let name = format!("name{family}");
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|it| it != "sst") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        // The properties at a table file's end name its family.
        let is_family = bytes.windows(name.len()).any(|it| it == name.as_bytes());
        let Some(at) = at(&bytes).filter(|_| is_family) else { continue };
        let writer = fs::File::options().write(true).open(&path).unwrap();
        writer.write_all_at(&[bytes[at] ^ 4], u64::try_from(at).unwrap()).unwrap();
        return;
    }
    panic!("no table file of {family} has it");
}

fn flip_in(folder: &Path, family: &str, wanted: &[u8]) {
    flip(folder, family, |bytes| bytes.windows(wanted.len()).position(|it| it == wanted));
}

/// Asserts that the places are those of all records without two blocks. Returns the number of lost ones.
fn lost(places: &[u64]) -> u64 {
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    let holds = |place: u64| places.contains(&place);
    assert!([1, 50, RECORDS].into_iter().all(holds), "{places:?}");
    assert!(!DAMAGED.into_iter().any(holds), "{places:?}");
    let lost = RECORDS - u64::try_from(places.len()).unwrap();
    assert!((2..60).contains(&lost), "two blocks: {places:?}");
    lost
}

#[test]
fn damaged_blocks_of_evidence_cost_the_pieces_in_them() {
    let fill = |store: &Store| {
        let pieces: Vec<_> = (1..=RECORDS).map(piece).collect();
        assert_eq!(store.record_evidence(7, &pieces).unwrap(), pieces);
    };
    let (_folder, store) = damaged(&["misbehavior"], fill, |folder| {
        DAMAGED.into_iter().for_each(|it| flip_in(folder, "misbehavior", &noise(it)[64..128]));
    });
    let read = |after, limit| store.snapshot().evidence(after, limit, usize::MAX).unwrap();
    let all = read(EvidenceTime::default(), 1000);
    let places: Vec<u64> = all.iter().map(|it| it.evidence.at.sequence.0).collect();
    assert_eq!(store.evidence_unreadable(), lost(&places), "each is named");

    let (mut pages, mut after) = (Vec::new(), EvidenceTime::default());
    loop {
        let page = read(after, 7);
        let Some(last) = page.last().map(|it| it.at) else { break };
        after = last;
        pages.extend(page);
    }
    assert_eq!(pages, all);
    assert_eq!(store.evidence_unreadable(), lost(&places), "once");
    let new = [piece(RECORDS + 1)];
    assert_eq!(store.record_evidence(8, &new).unwrap(), new);
    assert_eq!(read(after, 9).len(), 1);
}

#[test]
fn damaged_blocks_of_reports_cost_the_reports_in_them() {
    let fill = |store: &Store| {
        let reports = (1..=RECORDS).map(report).collect();
        assert_eq!(store.record_reports(1, reports, None).unwrap().len(), 100);
    };
    let (_folder, store) = damaged(&["misbehavior_report"], fill, |folder| {
        let family = "misbehavior_report";
        DAMAGED.into_iter().for_each(|it| flip_in(folder, family, &noise(it)[64..128]));
    });
    let all = store.snapshot().reports(0, 1000, usize::MAX).unwrap();
    // Each has the next time.
    let places: Vec<u64> = all.iter().map(|it| it.server_time_ns).collect();
    assert_eq!(store.evidence_unreadable(), lost(&places));
    assert!(all.iter().all(|it| it.kept.report == noise(it.server_time_ns)));
}

/// The damaged block has only facts about one node, whose other facts are behind it.
#[test]
fn a_damaged_block_of_facts_hides_no_facts_behind_it() {
    const PIECES: u64 = 2000;
    /// The place of a damaged piece, whose fact is behind the damaged block of facts.
    const LOST: u64 = 1500;
    let families = ["misbehavior", "misbehavior_fact"];
    let fill = |store: &Store| {
        let pieces: Vec<_> = (1..=PIECES).map(piece).collect();
        store.record_evidence(7, &pieces).unwrap();
    };
    let (_folder, store) = damaged(&families, fill, |folder| {
        // The first block of a table file begins with it.
        flip(folder, "misbehavior_fact", |_| Some(10));
        flip_in(folder, "misbehavior", &noise(LOST)[64..128]);
    });
    let unread: Vec<_> = store.unread_families().iter().map(|it| it.family).collect();
    assert_eq!(unread, ["misbehavior_fact"], "the start tells it");
    let counted = store.evidence_counts()[&PEER].proven();
    assert!((LOST..PIECES).contains(&counted), "{counted}");

    let about = store.snapshot().evidence_about(PEER, Misbehavior::TimeBack, 5000).unwrap();
    let behind = about.iter().filter(|it| it.at.sequence.0 > LOST).count();
    assert!(behind > 400, "{behind}");
    let all = store.snapshot().evidence(EvidenceTime::default(), 5000, usize::MAX).unwrap();
    assert!((1900..2000).contains(&all.len()), "{}", all.len());
    assert_eq!(all.last().map(|it| it.evidence.clone()), Some(piece(PIECES)));
}

const OTHER: OriginatorId = OriginatorId(300);
const CHECKPOINTS: u64 = 300;

fn root(node: OriginatorId, size: u64) -> TreeHash {
    TreeHash(digest(1000 * u64::from(node.0) + size))
}

fn checkpoint(node: OriginatorId, size: u64) -> CosignedCheckpoint {
    let root = root(node, size);
    Checkpoint { node, originator: node, size, root, time_ns: 1 }.sign(&key(7)).into()
}

#[test]
fn a_damaged_block_of_checkpoints_hides_none_below_it() {
    let fill = |store: &Store| {
        let of = |node| (1..=CHECKPOINTS).map(move |size| checkpoint(node, size));
        let all: Vec<_> = of(PEER).chain(of(OTHER)).collect();
        store.put_checkpoints(&all).unwrap();
    };
    let (_folder, store) = damaged(&["checkpoint"], fill, |folder| {
        flip_in(folder, "checkpoint", &root(PEER, CHECKPOINTS).0[4..28]);
    });
    let newest = |node| store.snapshot().readable_checkpoint(node, node);
    let ReadableCheckpoint { newest: found, passed_over } = newest(PEER);
    assert!(passed_over.is_some_and(|error| error.is_damage()));
    let found = found.expect("other blocks have older ones");
    let size = found.signed.checkpoint.size;
    assert!((200..CHECKPOINTS).contains(&size), "{size}");
    assert_eq!(found, checkpoint(PEER, size));
    let is_last = store.snapshot().checkpoint(PEER, PEER, size + 1).is_err();
    assert!(is_last, "the next one is in the damaged block");
    let sound = Some(checkpoint(OTHER, CHECKPOINTS));
    assert_eq!(newest(OTHER), ReadableCheckpoint { newest: sound, passed_over: None });
}

/// A strand behind that of [`PEER`], whose marks are in a block of their own.
const MIDDLE: OriginatorId = OriginatorId(250);
/// A strand without marks, between that one and [`OTHER`].
const UNMARKED: OriginatorId = OriginatorId(260);

/// Writes a row behind the mark at a place, so long that its block ends with it.
fn end_block_behind(store: &Store, strand: OriginatorId, place: u64) {
    let key = [&strand.0.to_be_bytes()[..], &place.to_be_bytes(), &[0]].concat();
    store.put_raw_row(Family::Mark, &key, &end_of_block(strand, place));
}

/// The value of that row: longer than a block.
fn end_of_block(strand: OriginatorId, place: u64) -> Vec<u8> {
    (0..25).flat_map(|part| noise(1000 * u64::from(strand.0) + 100 * place + part)).collect()
}

/// Of the blocks of marks, the first two have a range of [`PEER`] each, the third one has a range of [`MIDDLE`], and
/// the last one has the marks of [`OTHER`]. The first and the third one are damaged.
fn damaged_marks() -> (TempDir, Store) {
    use SkipReason::{Expired, Missing};
    let fill = |store: &Store| {
        let of_peer = [
            append(PEER, 1),
            skip(PEER, 2, 800, Missing),
            append(PEER, 801),
            skip(PEER, 802, 1002, Expired),
            append(PEER, 1003),
        ];
        let of_middle = [append(MIDDLE, 1), skip(MIDDLE, 2, 9, Expired), append(MIDDLE, 10)];
        let of_other = [append(OTHER, 1), append_invalid(OTHER, 2, 7), skip(OTHER, 3, 4, Missing)];
        for changes in [&of_peer[..], &of_middle, &[append(UNMARKED, 1)], &of_other] {
            store.commit(changes).unwrap();
        }
        for (strand, place) in [(PEER, 2), (PEER, 802), (MIDDLE, 2)] {
            end_block_behind(store, strand, place);
        }
    };
    damaged(&["mark"], fill, |folder| {
        for (strand, place) in [(PEER, 2), (MIDDLE, 2)] {
            flip_in(folder, "mark", &end_of_block(strand, place)[64..128]);
        }
    })
}

#[test]
fn a_damaged_block_of_marks_hides_no_range_that_covers_the_first_place() {
    let (_folder, store) = damaged_marks();
    let snapshot = store.snapshot();
    let first = |after| snapshot.log(id(PEER, after), SequenceId(1003)).next().unwrap();
    // The mark of these places is lost. The next mark that can be read is not that of the first one.
    assert!(first(1).is_err_and(|error| error.is_damage()));
    assert!(first(499).is_err_and(|error| error.is_damage()));
    // No range covers an envelope that is stored, and marks in a sound block are read.
    let stored = first(800);
    assert!(matches!(stored, Ok(LogItem::Envelope { .. })), "{stored:?}");
    let (from, through) = (SequenceId(802), SequenceId(1002));
    assert_eq!(first(801), Ok(LogItem::Skipped { from, through, reason: SkipReason::Expired }));
}

#[test]
fn a_damaged_block_of_marks_is_no_error_of_a_strand_without_marks_in_it() {
    let (_folder, store) = damaged_marks();
    let snapshot = store.snapshot();
    assert!(snapshot.mark(id(MIDDLE, 10)).is_err(), "the search for a mark meets the block");
    let items: Vec<_> = snapshot.log(id(OTHER, 0), SequenceId(4)).map(Result::unwrap).collect();
    let is_valid =
        |item: &LogItem| matches!(item, LogItem::Envelope { validity: Validity::Valid, .. });
    assert_eq!(items.len(), 3, "{items:?}");
    assert!(is_valid(&items[0]) && !is_valid(&items[1]));
    assert_eq!(snapshot.mark(id(OTHER, 1)), Ok(None));
    let unmarked: Vec<_> =
        snapshot.log(id(UNMARKED, 0), SequenceId(1)).map(Result::unwrap).collect();
    assert!(unmarked.iter().all(is_valid) && unmarked.len() == 1, "{unmarked:?}");
    assert_eq!(snapshot.oldest(UNMARKED), Ok(None));
    let not_held =
        |strand, through| snapshot.first_not_held(strand, SequenceId::NONE, SequenceId(through));
    assert_eq!(not_held(OTHER, 4), Ok(Some((SequenceId(3), SequenceId(4)))));
    assert_eq!(not_held(UNMARKED, 1), Ok(None));
    let oldest: Vec<_> = store.oldest().unwrap().iter().map(|it| it.originator).collect();
    assert!(oldest.contains(&MIDDLE) && !oldest.contains(&UNMARKED), "{oldest:?}");
}

/// The reader of that chain would try again without end: marks are not repaired.
#[test]
fn a_damaged_block_of_marks_keeps_no_reorganisation_of_another_chain_out() {
    let [damaged_one, other] = OriginatorId::CHAINS;
    let fill = |store: &Store| {
        let first = [append(damaged_one, 1), skip(damaged_one, 2, 9, SkipReason::Missing)];
        let second = [append(other, 1), append(other, 2), append_invalid(other, 3, 7)];
        for changes in [&first[..], &second] {
            store.commit(changes).unwrap();
        }
        end_block_behind(store, damaged_one, 2);
    };
    let (_folder, store) = damaged(&["mark"], fill, |folder| {
        flip_in(folder, "mark", &end_of_block(damaged_one, 2)[64..128]);
    });
    assert!(store.snapshot().mark(id(damaged_one, 2)).is_err(), "its own cannot be read");
    store.truncate_strand(id(other, 3), None).unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.head(other), Ok(SequenceId(2)));
    assert_eq!(snapshot.get(id(other, 3)), Ok(None));
}
