//! A log in any number of parts has the verdict of the whole, and rows that are no part of it are refused.

mod chains;
mod columns;
mod parts;

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hawser_proto::checkpoint::CosignedCheckpoint;
use hawser_proto::merkle::TreeHash;
use hawser_proto::void::SignedVoid;
use hawser_proto::{Bytes, OriginatorId, SequenceId};
use hawser_rules::Registry;

use super::*;
use crate::export::columns::read_back;
use crate::export::{ExportedRow, ReadRow};
use crate::replay::planted::{PLANTED, PlantedFault, flip_signature};
use crate::replay::testing::{MemoryLog, NODE, declared, draft, ns_of, settings};
use crate::replay::tests::replay;
use crate::replay::{
    FaultKind, Faults, GapReason, ReplaySettings, SourceError, StoredMark, StrandRow,
};

type Rows = Vec<(OriginatorId, ReadRow)>;

fn rows(log: &MemoryLog) -> Rows {
    read_back(NODE, log.rows.clone())
}

/// A row of the strand.
fn read(row: StrandRow) -> ReadRow {
    read_back(NODE, vec![row]).remove(0).1
}

/// The checkpoints of a log, the statements about its void places, and its rows.
fn rows_and_beside(log: &MemoryLog) -> Rows {
    let row = |row| (NODE, ReadRow { row, columns: None });
    let checkpoint = |it: &CosignedCheckpoint| ExportedRow::Checkpoint(it.encode().into());
    let statement =
        |it: &SignedVoid| ExportedRow::VoidStatement(Bytes::copy_from_slice(&it.encode()));
    let checkpoints = log.checkpoints.iter().map(checkpoint);
    let beside = checkpoints.chain(log.voids.iter().map(statement)).map(row);
    beside.chain(rows(log)).collect()
}

fn check(rows: &[(OriginatorId, ReadRow)]) -> Vec<RangeVerdict> {
    check_by(&settings(), rows.iter().cloned().map(Ok)).unwrap()
}

/// Checks rows by these settings, with named payers and without chains.
fn check_by(
    settings: &ReplaySettings,
    rows: impl Iterator<Item = Result<(OriginatorId, ReadRow), SourceError>> + Send,
) -> Result<Vec<RangeVerdict>, SourceError> {
    check_partition(rows, settings, ExportedPayers::Named, &ChainsOfLog::default())
}

/// Checks rows in parts that begin at these rows, and joins the verdicts in another order.
fn in_parts(rows: &Rows, starts: &[usize]) -> String {
    let mut verdicts = Vec::new();
    let ends = starts[1..].iter().copied().chain([rows.len()]);
    for (start, end) in starts.iter().copied().zip(ends) {
        for verdict in check(&rows[start..end]) {
            verdicts.insert(0, RangeVerdict::parse(&verdict.to_line()).unwrap());
        }
    }
    serde_json::to_string(&merge(verdicts, None).unwrap()).unwrap()
}

fn equal_parts(rows: &Rows, parts: usize) -> String {
    let starts: Vec<usize> = (0..parts).map(|at| at * rows.len() / parts).collect();
    in_parts(rows, &starts)
}

/// True for faults that need more than rows and the manifest: trees, tallies, recorded rates, and statements about the
/// places of other rows.
pub(crate) fn needs_the_strand(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::Root
            | FaultKind::CheckpointRoot
            | FaultKind::CheckpointTime
            | FaultKind::OtherTree
            | FaultKind::OtherChain
            | FaultKind::Usage
            | FaultKind::Congestion
            | FaultKind::Rates
            | FaultKind::VoidSigned
    )
}

#[test]
fn planted_faults_are_named_as_by_a_replay_whatever_the_number_of_parts() {
    for (name, plant, faults) in PLANTED {
        let mut log = MemoryLog::honest(500);
        plant(&mut log);
        let rows = rows_and_beside(&log);
        let rows_of_log = log.rows.len() as u64;
        let (originator_id, through) = (NODE, SequenceId(500));
        let head = Some(SequenceId(log.head));
        let beyond_head = Some(SequenceId(log.last_held)).filter(|last| last.0 > log.head);
        let expected = [ExpectedStrand {
            originator_id,
            through,
            rows: rows_of_log,
            checkpoints: log.checkpoints.len() as u64,
            statements: log.voids.len() as u64,
            head,
            beyond_head,
        }];
        let [one, two, eight] = [1, 2, 8].map(|parts| equal_parts(&rows, parts));
        assert_eq!(one, two, "{name}");
        assert_eq!(one, eight, "{name}");
        let merged = merge(check(&rows), Some(&expected)).unwrap();
        let found: Vec<_> =
            merged.faults.kept().iter().map(|it| (it.kind, it.sequence_id.0, it.rule)).collect();
        let expected: Vec<_> =
            faults.iter().copied().filter(|(kind, ..)| !needs_the_strand(*kind)).collect();
        assert_eq!(found, expected, "{name}");
        let whole = replay(&log, &settings()).all_faults();
        for fault in merged.faults.kept() {
            assert!(whole.kept().contains(fault), "{name}: {fault}");
        }
    }
}

/// Rows of the older network that could not be taken over at first have later times than those behind them.
/// The auditor's clock may be behind, so such a time is a claim in evidence files, too.
#[test]
fn a_time_in_the_future_is_a_claim_in_the_whole_log_and_in_parts() {
    let is_ahead = |it: &&PlantedFault| it.2[0].0 == FaultKind::TimeAhead;
    let (_, plant, _) = PLANTED.iter().find(is_ahead).unwrap();
    let mut log = MemoryLog::honest(500);
    plant(&mut log);
    let whole = replay(&log, &settings());
    assert_eq!((whole.verdict(), whole.all_faults().count()), ("claim", 1));
    let merged = merge(check(&rows(&log)), None).unwrap();
    assert_eq!((merged.verdict, merged.faults.count()), ("claim", 1));
    assert_eq!(FaultKind::TimeAhead.party(), "signer, as a claim");
}

#[test]
fn times_that_go_back_are_no_faults_of_the_older_networks_strands() {
    let mut times = super::times::Times::default();
    times.take(SequenceId(3), ns_of(90));
    times.take(SequenceId(4), ns_of(1));
    let late_in = |originator| {
        let mut faults = Faults::default();
        times.add_to(originator, &mut faults);
        faults.count()
    };
    assert_eq!(late_in(NODE), 1);
    assert_eq!(OriginatorId::MIGRATED.map(late_in), [0; 3]);
}

#[test]
fn the_borders_of_parts_hide_nothing() {
    // Times that go back at several places, holes, gaps, and a wrong leaf of a void place.
    let mut log = MemoryLog::honest(40);
    for (place, ns) in [(9, ns_of(3)), (10, ns_of(4)), (20, ns_of(2_000_000)), (21, ns_of(1))] {
        *log.bytes_at(place) = draft(place, ns).seal();
        let StrandRow::Envelope { bytes, leaf, .. } =
            &mut log.rows[usize::try_from(place).unwrap() - 1]
        else {
            panic!("no envelope")
        };
        *leaf = hawser_proto::merkle::envelope_leaf(bytes);
    }
    let mut rows = rows(&log);
    let gap =
        StrandRow::Gap { from: SequenceId(26), through: SequenceId(27), reason: GapReason::Void };
    rows[25].1 = read(gap);
    let (sequence, leaf) = (SequenceId(27), TreeHash([1; 32]));
    rows[26].1 = read(StrandRow::Leaf { sequence, leaf });
    rows[26].1.row = ExportedRow::VoidLeaf(sequence, leaf);
    rows.drain(14..16);
    let whole = in_parts(&rows, &[0]);
    let found: serde_json::Value = serde_json::from_str(&whole).unwrap();
    let kinds = &found["faults"]["counts"];
    assert_eq!(kinds["time_back"], 3, "{whole}");
    assert_eq!(
        (&kinds["hole"], &kinds["leaf"], &kinds["time_ahead"]),
        (&1.into(), &1.into(), &1.into())
    );
    for first in 1..rows.len() {
        assert_eq!(in_parts(&rows, &[0, first]), whole, "one border, at row {first}");
        for second in first + 1..rows.len() {
            assert_eq!(in_parts(&rows, &[0, first, second]), whole, "at rows {first} and {second}");
        }
    }
}

#[test]
fn missing_parts_are_told_and_doubled_ones_count_once() {
    let log = MemoryLog::honest(90);
    let rows = rows(&log);
    let parts: Vec<RangeVerdict> = rows.chunks(30).flat_map(check).collect();
    let expected = [ExpectedStrand {
        originator_id: NODE,
        through: SequenceId(90),
        rows: 90,
        checkpoints: 0,
        statements: 0,
        head: None,
        beyond_head: None,
    }];
    let verdict = |parts: &[&RangeVerdict]| {
        let parts = parts.iter().map(|part| (*part).clone()).collect();
        merge(parts, Some(&expected)).unwrap()
    };
    let [one, two, three] = [&parts[0], &parts[1], &parts[2]];
    assert_eq!(verdict(&[three, one, two]).verdict, "clean");
    assert_eq!(verdict(&[three, one, two, one]).verdict, "clean", "a task that ran twice");
    for lost in [vec![two, three], vec![one, three], vec![one, two], vec![]] {
        let merged = verdict(&lost);
        assert_eq!((merged.verdict, merged.faults.count()), ("incomplete", 0), "{merged:?}");
    }
    // Without the manifest, places between two ranges are a hole.
    let merged = merge(vec![one.clone(), three.clone()], None).unwrap();
    assert_eq!(merged.faults.counts()[&FaultKind::Hole], 1);
    // The same with the manifest, if no row is missing.
    let mut short = rows.clone();
    short.remove(30);
    let halves: Vec<RangeVerdict> =
        [&short[..30], &short[30..]].into_iter().flat_map(check).collect();
    let expected = [ExpectedStrand {
        originator_id: NODE,
        through: SequenceId(90),
        rows: 89,
        checkpoints: 0,
        statements: 0,
        head: None,
        beyond_head: None,
    }];
    let merged = merge(halves, Some(&expected)).unwrap();
    assert_eq!((merged.verdict, merged.faults.kept()[0].sequence_id), ("faulty", SequenceId(31)));

    let overlapping: Vec<RangeVerdict> =
        [&rows[..40], &rows[30..]].into_iter().flat_map(check).collect();
    let overlap = MergeError::Overlap { originator_id: NODE, place: SequenceId(31) };
    assert_eq!(merge(overlapping, None).unwrap_err(), overlap);
    let other = ReplaySettings { rates: None, ..settings() };
    let judged = check_by(&other, rows[30..].iter().cloned().map(Ok)).unwrap();
    let mixed = vec![one.clone(), judged[0].clone()];
    assert_eq!(merge(mixed, None).unwrap_err(), MergeError::OtherKeys);
}

/// Writes a row as an engine does that selects some columns alone, and with a decimal that has a fraction.
fn line((originator, read): &(OriginatorId, ReadRow)) -> String {
    let base64 = |bytes: &[u8]| STANDARD.encode(bytes);
    let ExportedRow::Row(StrandRow::Envelope { sequence, bytes, mark, leaf }) = &read.row else {
        panic!("no envelope")
    };
    assert_eq!(*mark, StoredMark::Valid);
    let line = serde_json::json!({
        "originator_id": originator.0, "sequence_id": sequence.0, "through_sequence_id": sequence.0,
        "kind": "envelope", "mark": "valid", "congestion_fee_picodollars": 0.0, "more": [{}],
        "leaf_hash": leaf.map(|leaf| base64(&leaf.0)), "bytes": base64(bytes),
    });
    format!("{line}\n")
}

/// Reads lines of text.
fn read_lines(text: &str) -> Rows {
    let rows: Result<Rows, SourceError> = LineReader::new(Cursor::new(text.to_owned())).collect();
    rows.unwrap()
}

#[test]
fn lines_of_text_are_rows_and_bad_ones_are_refused_by_their_number() {
    let log = MemoryLog::honest(30);
    let rows = rows(&log);
    let text: String = rows.iter().map(line).collect();
    let found: Vec<ExportedRow> = read_lines(&text).into_iter().map(|(_, it)| it.row).collect();
    assert_eq!(found, rows.iter().map(|(_, it)| it.row.clone()).collect::<Vec<_>>());
    for bad in [
        "{}",
        "noise",
        "[[[[",
        r#"{"originator_id":100,"sequence_id":1,"through_sequence_id":1,"kind":"envelope","mark":"valid"}"#,
        r#"{"originator_id":100,"sequence_id":1,"through_sequence_id":1,"kind":"envelope","mark":"valid","bytes":"?"}"#,
        r#"{"originator_id":100,"sequence_id":9,"through_sequence_id":8,"kind":"void"}"#,
        r#"{"originator_id":100,"sequence_id":9,"through_sequence_id":18446744073709551615,"kind":"void"}"#,
        r#"{"originator_id":-1,"sequence_id":9,"through_sequence_id":8,"kind":"void"}"#,
        r#"{"originator_id":100,"sequence_id":9,"through_sequence_id":9,"kind":"other"}"#,
        r#"{"originator_id":100,"sequence_id":9,"through_sequence_id":9,"kind":"void","expiry_unix_s":1.5}"#,
        r#"{"originator_id":100,"sequence_id":9,"through_sequence_id":9,"kind":"void","expiry_unix_s":[[]]}"#,
    ] {
        let mut reader = LineReader::new(Cursor::new(format!("{text}{bad}\n{text}")));
        let error = reader.by_ref().find_map(Result::err).unwrap();
        assert!(error.0.starts_with("line 31: "), "{error}");
        assert!(reader.next().is_none());
    }
    // A line without an end is not collected.
    let endless = std::io::BufReader::new(std::io::repeat(b'x'));
    let error = LineReader::new(endless).next().unwrap().unwrap_err();
    assert_eq!(error.0, "line 1: it is too long");
}

#[test]
fn rows_that_do_not_ascend_and_hostile_verdicts_are_refused() {
    let log = MemoryLog::honest(10);
    let mut rows = rows(&log);
    rows.swap(4, 5);
    let found = check_by(&settings(), rows.into_iter().map(Ok));
    assert!(found.unwrap_err().0.contains("place 5 after 6"));
    let huge = StrandRow::Gap {
        from: SequenceId(1),
        through: SequenceId(u64::MAX),
        reason: GapReason::Void,
    };
    let row = (NODE, ReadRow { row: ExportedRow::Row(huge), columns: None });
    assert!(check_by(&settings(), [Ok(row)].into_iter()).is_err());

    let [verdict] = &check(&self::rows(&log))[..] else { panic!("one range") };
    let line = verdict.to_line();
    for (from, to) in [
        ("hawser-range/1", "hawser-range/2"),
        ("\"from\":1", "\"from\":11"),
        ("\"through\":10", "\"through\":18446744073709551615"),
        ("\"rows\":10", "\"rows\":-1"),
        ("\"late_count\":0", "\"late_count\":0,\"more\":1"),
    ] {
        let lie = line.replace(from, to);
        assert_ne!(lie, line);
        assert!(RangeVerdict::parse(&lie).is_err(), "{lie}");
    }
    // A worker's line, or a file with it, is altered so that its fault does not count.
    let mut forged = log.clone();
    flip_signature(&mut forged);
    let line_of_forged = check(&self::rows(&forged))[0].to_line();
    assert!(RangeVerdict::parse(&line_of_forged).is_ok());
    for counts in ["{}", "{\"forged\":0}", "{\"time_ahead\":1}"] {
        let lie = line_of_forged.replace("{\"forged\":1}", counts);
        assert_ne!(lie, line_of_forged);
        let refused = RangeVerdict::parse(&lie).unwrap_err().to_string();
        assert!(refused.contains("faults are not those that it counts"), "{refused}");
    }
    // Sums of false counts do not overflow.
    let lie = line.replace("\"rows\":10", "\"rows\":18446744073709551615");
    let lie = lie.replace("\"late_count\":0", "\"late_count\":18446744073709551615");
    let lie = RangeVerdict::parse(&lie).unwrap();
    let mut next = lie.clone();
    (next.from, next.through) = (SequenceId(11), SequenceId(20));
    assert_eq!(merge(vec![lie, next], None).unwrap().verdict, "faulty");
}

#[test]
fn each_strand_of_a_partition_has_its_verdict_and_an_unknown_one_is_named_once() {
    let log = MemoryLog::honest(20);
    let mut rows = rows(&log);
    let other = OriginatorId(300);
    let noise = |at| StrandRow::Envelope {
        sequence: SequenceId(at),
        bytes: Bytes::from_static(b"noise"),
        mark: StoredMark::Valid,
        leaf: None,
    };
    rows.extend(read_back(other, (1..=4).map(noise).collect()));
    let whole = equal_parts(&rows, 1);
    assert_eq!(equal_parts(&rows, 8), whole);
    let merged = merge(check(&rows), None).unwrap();
    assert_eq!(merged.strands.iter().map(|it| it.originator_id.0).collect::<Vec<_>>(), [100, 300]);
    assert_eq!(merged.faults.counts()[&FaultKind::UnknownOriginator], 1);
    assert_eq!(merged.faults.counts()[&FaultKind::NotCanonical], 4);
}

#[test]
fn a_pruned_place_is_a_fault_unless_its_record_says_that_it_has_expired() {
    let log = MemoryLog::honest(20);
    let line = |place: u64, originator_ns: Option<i64>, retention_days: Option<u32>| {
        let line = serde_json::json!({
            "originator_id": NODE.0, "sequence_id": place, "through_sequence_id": place,
            "kind": "pruned", "originator_ns": originator_ns, "retention_days": retention_days,
        });
        read_lines(&line.to_string()).remove(0)
    };
    let found = |originator_ns, retention_days| {
        let mut rows = rows(&log);
        rows[6] = line(7, originator_ns, retention_days);
        assert_eq!(equal_parts(&rows, 8), equal_parts(&rows, 1));
        let faults = merge(check(&rows), None).unwrap().faults;
        faults.kept().iter().map(|it| (it.kind, it.sequence_id.0)).collect::<Vec<_>>()
    };
    assert_eq!(found(Some(ns_of(7)), Some(30)), []);
    assert_eq!(found(Some(ns_of(7)), None), []);
    let now_ns = settings().now_ns;
    for (ns, days) in [
        (None, None),
        (None, Some(30)),
        (Some(now_ns), Some(30)),
        (Some(ns_of(7)), Some(365)),
        (Some(ns_of(7)), Some(u32::MAX)),
    ] {
        assert_eq!(found(ns, days), [(FaultKind::NotExpired, 7)], "{ns:?} {days:?}");
    }
    let pruned = |originator_ns, retention_days| {
        let sequence = SequenceId(9);
        ExportedRow::Pruned { sequence, originator_ns, retention_days }
    };
    assert_eq!(line(9, None, None).1.row, pruned(None, None));
    assert_eq!(line(9, Some(5), Some(30)).1.row, pruned(Some(5), Some(30)));
}

#[test]
fn rows_that_alternate_between_strands_are_refused_before_they_fill_memory() {
    let row = |at: u32| {
        let place = SequenceId(u64::from(at) + 1);
        let gap = StrandRow::Gap { from: place, through: place, reason: GapReason::Missing };
        Ok((OriginatorId(100 + at % 2), read(gap)))
    };
    let settings = ReplaySettings { threads: 1, ..settings() };
    let error = check_by(&settings, (0..).map(row)).unwrap_err();
    assert!(error.0.contains("more than 10000 ranges"), "{error}");
}

#[test]
fn a_part_whose_signatures_could_not_be_checked_is_not_clean() {
    let log = MemoryLog::honest(30);
    let rows = rows(&log);
    let unknown = ReplaySettings { registry: Registry::default(), ..settings() };
    let judged = check_by(&unknown, rows[10..].iter().cloned().map(Ok)).unwrap();
    assert!(!judged[0].incomplete().is_empty() && !judged[0].signatures_checked);
    let judged = vec![RangeVerdict::parse(&judged[0].to_line()).unwrap()];
    let merged = merge(judged, None).unwrap();
    assert_eq!((merged.verdict, merged.faults.count()), ("incomplete", 0));
    let text = merged.incomplete.join("; ");
    assert!(text.contains("no signature was checked"), "{text}");
    let known = check(&rows);
    assert_eq!((known[0].incomplete(), known[0].signatures_checked), (Vec::new(), true));
    // No key signs for a chain: this is reported as by a replay, and is no fault.
    let gap =
        StrandRow::Gap { from: SequenceId(1), through: SequenceId(1), reason: GapReason::Void };
    let of_chain = check(&read_back(OriginatorId(1), vec![gap]));
    let left = unchecked(&of_chain);
    assert_eq!(left.len(), 3);
    assert!(
        left[2].contains("times of checkpoints, congestion fees that are too high"),
        "{left:?}"
    );
    let merged = merge(of_chain, None).unwrap();
    assert_eq!((merged.verdict, merged.unchecked.len()), ("clean", 4));
}

#[test]
fn a_manifest_may_list_ten_thousand_strands_and_no_more() {
    let strand = |originator_id| ExpectedStrand {
        originator_id,
        through: SequenceId(5),
        rows: 0,
        checkpoints: 0,
        statements: 0,
        head: Some(SequenceId(5)),
        beyond_head: Some(SequenceId(7)),
    };
    let listed: Vec<ExpectedStrand> = (0..=10_000).map(OriginatorId).map(strand).collect();
    let merged = merge(check(&rows(&MemoryLog::honest(5))), Some(&listed[..10_000])).unwrap();
    assert_eq!(merged.strands.len(), 10_000);
    assert_eq!(merged.faults.counts()[&FaultKind::BeyondHead], 10_000);
    let error = merge(Vec::new(), Some(&listed)).unwrap_err();
    assert_eq!(error, MergeError::TooManyStrands { found: 10_001 });
    assert!(error.to_string().contains("at most 10000"), "{error}");
}

#[test]
fn a_statement_that_is_not_its_nodes_is_a_fault_and_one_of_an_unknown_node_is_not_checked() {
    let line = |originator: u32, bytes: &[u8]| {
        let statement = STANDARD.encode(bytes);
        let line = serde_json::json!({ "originator_id": originator, "statement": statement });
        read_lines(&line.to_string())
    };
    let genuine = declared(3, 9, 20, 1).encode();
    let found = check(&line(NODE.0, &genuine)).remove(0);
    assert_eq!((found.from.0, found.rows, found.all_faults().count()), (0, 0, 0));
    let forged = declared(3, 9, 20, 5).encode();
    let mut other = genuine;
    other[3] += 1; // the node
    for (bytes, text) in [
        (&forged[..], "has not signed that places 3 to 9 are void"),
        (&other[..], "is of node 101"),
        (&genuine[1..], "has 109 bytes, not 108"),
    ] {
        let faults = check(&line(NODE.0, bytes)).remove(0).all_faults();
        let [fault] = faults.kept() else { panic!("one fault: {faults:?}") };
        assert_eq!(fault.kind, FaultKind::Forged);
        assert!(fault.text.contains(text), "{fault}");
    }
    let mut unknown = genuine;
    unknown[..4].copy_from_slice(&300_u32.to_be_bytes());
    let found = check(&line(300, &unknown));
    assert_eq!(found[0].all_faults().count(), 0);
    let text = merge(found, None).unwrap().unchecked.join("; ");
    assert!(text.contains("1 checkpoints and cosignatures, or statements"), "{text}");
}
