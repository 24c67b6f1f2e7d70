//! Rows without places in a range: each part with them counts once, and the kept faults do not depend on the parts.

use hawser_proto::merkle::{LeafData, leaf_hash};

use super::*;
use crate::replay::testing::{checkpoint, key};

/// Checkpoints and statements have no places, so the parts that have them may be alike.
#[test]
fn each_part_of_checkpoints_counts_once_and_lost_ones_are_told() {
    let mut log = MemoryLog::honest(90);
    log.voids = vec![declared(91, 95, 90, 1), declared(96, 99, 90, 1)];
    let expected = ExpectedStrand {
        originator_id: NODE,
        through: SequenceId(90),
        rows: 90,
        checkpoints: 9,
        statements: 2,
        head: None,
        beyond_head: None,
    };
    let verdict = |parts: &[&[RangeVerdict]]| {
        let merged = merge(parts.concat(), Some(&[expected])).unwrap();
        (merged.verdict, serde_json::to_string(&merged).unwrap())
    };
    let parts_of = |log: &MemoryLog| {
        let all = rows_and_beside(log);
        let (beside, rows) = all.split_at(11);
        let parts: Vec<RangeVerdict> = beside.chunks(1).flat_map(check).collect();
        (check(&all), parts, check(rows))
    };
    let (whole, parts, rows) = parts_of(&log);
    let one = verdict(&[&whole[..]]);
    assert_eq!((one.0, one.1.contains("looked at")), ("clean", false), "{}", one.1);
    assert_eq!(verdict(&[&parts[..], &rows[..]]), one);
    assert_eq!(verdict(&[&parts[..], &rows[..], &parts[..]]), one, "tasks that ran twice");
    for (lost, text) in [(&parts[1..], "8 of 9 checkpoints"), (&parts[..10], "1 of 2 statements")] {
        let (found, said) = verdict(&[lost, &rows[..]]);
        assert_eq!((found, said.contains(text)), ("incomplete", true), "{said}");
    }
    let (found, said) = verdict(&[&rows[..]]);
    assert_eq!((found, said.contains("0 of 9 checkpoints")), ("clean", true), "{said}");

    let of = log.checkpoints[3].signed.checkpoint;
    log.checkpoints[3].signed = of.sign(&key(5));
    let (whole, parts, rows) = parts_of(&log);
    let one = verdict(&[&whole[..]]);
    assert_eq!(one.0, "faulty");
    assert_eq!(verdict(&[&parts[..], &rows[..], &parts[..]]), one, "the fault counts once");
}

/// The keeper cuts its log and states the lower head, and a worker finds what the strand's node has signed.
#[test]
fn a_checkpoint_of_more_places_than_the_stated_head_is_told_whichever_part_has_it() {
    let log = MemoryLog::honest(90);
    let expected = |head| ExpectedStrand {
        originator_id: NODE,
        through: SequenceId(80),
        rows: 80,
        checkpoints: 9,
        statements: 0,
        head,
        beyond_head: None,
    };
    let parts_of = |log: &MemoryLog| {
        let all = rows_and_beside(log);
        let parts: Vec<RangeVerdict> = all[..9 + 80].chunks(1).flat_map(check).collect();
        parts.iter().map(|it| RangeVerdict::parse(&it.to_line()).unwrap()).collect::<Vec<_>>()
    };
    let verdict = |parts: &[RangeVerdict], head: Option<u64>| {
        let merged = merge(parts.to_vec(), Some(&[expected(head.map(SequenceId))])).unwrap();
        (merged.verdict, merged.incomplete)
    };
    let parts = parts_of(&log);
    let told = "strand 100: a checkpoint covers 90 places, and the head is 80".to_owned();
    assert_eq!(verdict(&parts, Some(80)), ("incomplete", vec![told]));
    assert_eq!(verdict(&parts, None), ("clean", vec![]), "the log of a node that runs has grown");
    // Of another key it shows no places.
    let mut forged = log;
    forged.checkpoints[8].signed = forged.checkpoints[8].signed.checkpoint.sign(&key(5));
    assert_eq!(verdict(&parts_of(&forged), Some(80)), ("faulty", vec![]));
}

/// The leaves of a long gap may fill whole parts, which have no places then.
#[test]
fn parts_of_leaves_alone_count_once_each() {
    let mut rows = rows(&MemoryLog::honest(4));
    let (from, through, reason) = (SequenceId(5), SequenceId(12), GapReason::Void);
    rows.push((NODE, read(StrandRow::Gap { from, through, reason })));
    let leaf = leaf_hash(LeafData::Void);
    for place in from.0..=through.0 {
        let row = ExportedRow::VoidLeaf(SequenceId(place), leaf);
        rows.push((NODE, ReadRow { row, columns: None }));
    }
    let expected = [ExpectedStrand {
        originator_id: NODE,
        through,
        rows: 13,
        checkpoints: 0,
        statements: 0,
        head: None,
        beyond_head: None,
    }];
    for len in 1..=rows.len() {
        let parts: Vec<RangeVerdict> = rows.chunks(len).flat_map(check).collect();
        let merged = merge(parts, Some(&expected)).unwrap();
        // No place of a node is void.
        assert_eq!(merged.faults.count(), 1, "{len} in a part");
        assert_eq!((merged.verdict, merged.incomplete), ("faulty", Vec::new()), "{len} in a part");
    }
}

/// The manifest of an export of a running node has no head. The row in the place of the last envelope keeps the number
/// of rows.
#[test]
fn a_last_envelope_whose_row_was_replaced_is_a_hole_although_no_row_is_missing() {
    let mut rows = rows(&MemoryLog::honest(20));
    let expected = |head| ExpectedStrand {
        originator_id: NODE,
        through: SequenceId(20),
        rows: 20,
        checkpoints: 0,
        statements: 0,
        head,
        beyond_head: None,
    };
    let verdict = |rows: &Rows, head| {
        let merged = merge(check(rows), Some(&[expected(head)])).unwrap();
        let places: Vec<_> =
            merged.faults.kept().iter().map(|it| (it.kind, it.sequence_id.0)).collect();
        (merged.verdict, places)
    };
    assert_eq!(verdict(&rows, None), ("clean", vec![]));
    let (sequence, leaf) = (SequenceId(20), TreeHash([1; 32]));
    rows[19].1 = read(StrandRow::Leaf { sequence, leaf });
    for head in [None, Some(SequenceId(20))] {
        assert_eq!(verdict(&rows, head), ("faulty", vec![(FaultKind::Hole, 20)]), "{head:?}");
    }
}

/// A folder states a head, and has neither an envelope nor a mark up to it.
#[test]
fn a_strand_without_any_row_is_a_hole_up_to_the_head_that_its_folder_has_stated() {
    let strand = |originator_id, rows, head| ExpectedStrand {
        originator_id,
        through: SequenceId(rows),
        rows,
        checkpoints: 0,
        statements: 0,
        head: Some(SequenceId(head)),
        beyond_head: None,
    };
    let other = OriginatorId(300);
    let expected = [strand(NODE, 20, 20), strand(other, 0, 7)];
    let merged = merge(check(&rows(&MemoryLog::honest(20))), Some(&expected)).unwrap();
    let [fault] = merged.faults.kept() else { panic!("one fault: {merged:?}") };
    assert_eq!((fault.kind, fault.originator_id), (FaultKind::Hole, Some(other)));
    assert!(fault.text.contains("places 1 to 7"), "{fault}");
    assert_eq!((merged.verdict, merged.incomplete), ("faulty", Vec::new()));
}

/// A folder has files of another export beside its own, and a query over the folder would sum up their rows, too.
#[test]
fn rows_of_a_strand_that_the_manifest_does_not_name_are_told() {
    let all = rows(&MemoryLog::honest(20));
    let listed = ExpectedStrand {
        originator_id: NODE,
        through: SequenceId(20),
        rows: 20,
        checkpoints: 0,
        statements: 0,
        head: None,
        beyond_head: None,
    };
    let merged = merge(check(&all), Some(&[listed])).unwrap();
    assert_eq!((merged.verdict, merged.incomplete), ("clean", Vec::new()));
    let merged = merge(check(&all), Some(&[])).unwrap();
    let told = "strand 100: 20 rows were looked at, and the manifest does not name the strand";
    assert_eq!((merged.verdict, merged.incomplete), ("incomplete", vec![told.to_owned()]));
}

/// A hundred faults of a kind are kept, and engines give checkpoints in any order.
#[test]
fn the_kept_faults_of_checkpoints_are_the_same_in_any_parts() {
    let mut log = MemoryLog::honest(1);
    let forged = |size| {
        let mut cosigned = checkpoint(size, TreeHash([4; 32]));
        cosigned.signed = cosigned.signed.checkpoint.sign(&key(5));
        cosigned
    };
    log.checkpoints = (1..=150).rev().map(forged).collect();
    let rows = rows_and_beside(&log);
    let whole = merge(check(&rows), None).unwrap();
    let places: Vec<u64> = whole.faults.kept().iter().map(|it| it.sequence_id.0).collect();
    let first: Vec<u64> = (1..=100).collect();
    assert_eq!((places, whole.faults.count()), (first, 150));
    let text = |merged: &MergedVerdict| serde_json::to_string(merged).unwrap();
    for len in [1, 7, 75, 149] {
        let parts: Vec<RangeVerdict> = rows.chunks(len).flat_map(check).collect();
        let merged = merge(parts, None).unwrap();
        assert_eq!(text(&merged), text(&whole), "{len} rows in a part");
    }
}
