//! Columns that differ from the signed bytes are named, and a verdict says which columns it could not compare.

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{Signature, minute_of};
use serde_json::{Value, json};

use super::*;
use crate::export::{PartReader, encode_part};
use crate::replay::odd_tests::logs;

/// Returns the row of an envelope with all columns, as an engine writes them.
fn whole_line(log: &mut MemoryLog, place: u64) -> Value {
    let (mark, leaf) = log.row_at(place);
    assert_eq!(*mark, StoredMark::Valid);
    let leaf = STANDARD.encode(leaf.unwrap().0);
    let bytes = log.bytes_at(place).clone();
    let envelope = OriginatorEnvelope::parse(bytes.clone()).unwrap();
    let statement = envelope.unsigned();
    let payer = statement.payer();
    let signature = Signature::from_bytes(payer.signature_bytes().unwrap()).unwrap();
    let account = signature.recover(payer.digest()).unwrap().address();
    let topic = payer.client().topic().as_bytes();
    json!({
        "originator_id": NODE.0, "sequence_id": place, "through_sequence_id": place,
        "kind": "envelope", "mark": "valid", "originator_ns": statement.originator_ns(),
        "minute": minute_of(statement.originator_ns()), "topic": STANDARD.encode(topic),
        "topic_kind": topic[0], "payer": format!("0x{}", hex::encode(account.0)),
        "len_bytes": bytes.len(), "payer_len_bytes": payer.as_bytes().len(),
        "base_fee_picodollars": statement.base_fee().0,
        "congestion_fee_picodollars": statement.congestion_fee().0.to_string(),
        "retention_days": payer.retention_days(), "expiry_unix_s": statement.expiry_unix_s(),
        "is_charged": true, "counts_for_congestion": true, "leaf_hash": leaf,
        "bytes": STANDARD.encode(&bytes),
    })
}

#[test]
fn each_altered_column_is_named_though_the_signed_bytes_are_untouched() {
    let mut log = MemoryLog::honest(20);
    let honest = whole_line(&mut log, 7);
    let verdict = |line: &Value| {
        let mut rows = rows(&log);
        rows[6] = read_lines(&line.to_string()).remove(0);
        assert_eq!(equal_parts(&rows, 8), equal_parts(&rows, 1));
        let merged = merge(check(&rows), None).unwrap();
        let faults: Vec<_> = merged.faults.kept().iter().map(|it| it.to_string()).collect();
        (faults.join("; "), merged.unchecked.join("; "))
    };
    let (faults, unchecked) = verdict(&honest);
    assert_eq!(faults, "");
    assert!(!unchecked.contains("columns"), "{unchecked}");
    for (column, value) in [
        ("rule", json!(4)),
        ("originator_ns", json!(ns_of(8))),
        ("minute", json!(5)),
        ("topic", json!(STANDARD.encode([1, 8]))),
        ("topic_kind", json!(2)),
        ("payer", json!(format!("0x{}", "11".repeat(20)))),
        ("len_bytes", json!(1)),
        ("payer_len_bytes", json!(1)),
        ("base_fee_picodollars", json!(0)),
        ("congestion_fee_picodollars", json!(9)),
        ("retention_days", json!(2)),
        ("expiry_unix_s", json!(u64::MAX)),
        ("is_charged", json!(false)),
        ("counts_for_congestion", json!(false)),
    ] {
        let mut line = honest.clone();
        line[column] = value;
        let (faults, _) = verdict(&line);
        let named = faults.strip_prefix("100:7  column, of the keeper: ");
        assert!(named.is_some_and(|it| it.ends_with(&format!(": {column}"))), "{column}: {faults}");
    }
    // A column that is emptied: the verdict names it, or says what it could not compare.
    let emptied =
        ["minute", "topic", "payer", "len_bytes", "expiry_unix_s", "counts_for_congestion"];
    for column in emptied {
        let mut line = honest.clone();
        line[column] = Value::Null;
        assert!(verdict(&line).0.contains(column), "{column}");
    }
    let mut line = honest.clone();
    line["is_charged"] = Value::Null;
    let (faults, unchecked) = verdict(&line);
    assert_eq!(faults, "", "its columns need not be whole");
    assert!(unchecked.contains("of 1 rows"), "{unchecked}");
}

#[test]
fn a_row_without_its_payer_is_a_fault_unless_the_export_was_made_without_payers() {
    let mut log = MemoryLog::honest(20);
    let mut line = whole_line(&mut log, 7);
    line["payer"] = Value::Null;
    let mut rows = rows(&log);
    rows[6] = read_lines(&line.to_string()).remove(0);
    let verdict = |payers| {
        let rows = rows.iter().cloned().map(Ok);
        merge(check_partition(rows, &settings(), payers, &ChainsOfLog::default()).unwrap(), None)
            .unwrap()
    };
    let found = verdict(ExportedPayers::Named);
    let [fault] = found.faults.kept() else { panic!("{found:?}") };
    assert_eq!((fault.kind, fault.sequence_id), (FaultKind::Column, SequenceId(7)));
    assert!(fault.text.ends_with(": payer"), "{fault}");
    let may_lack = verdict(ExportedPayers::MayLack);
    assert_eq!(may_lack.faults.count(), 0);
    assert!(may_lack.unchecked.join("; ").contains("the payers of 1 envelopes"), "{may_lack:?}");
}

#[test]
fn a_verdict_says_what_its_parts_left_unchecked() {
    let mut log = MemoryLog::honest(20);
    let row = ExportedRow::Checkpoint(log.checkpoints[1].encode().into());
    let mut rows = rows(&log);
    rows.push((NODE, ReadRow { row, columns: None }));
    rows[6] = read_lines(&whole_line(&mut log, 7).to_string()).remove(0);
    let of_node: Registry = settings().registry.nodes().take(1).cloned().collect();
    let less = ReplaySettings { rates: None, registry: of_node, ..settings() };
    let halves = [&rows[..9], &rows[9..]].map(|half| {
        let parts = check_partition(
            half.iter().cloned().map(Ok),
            &less,
            ExportedPayers::Named,
            &ChainsOfLog::default(),
        )
        .unwrap();
        RangeVerdict::parse(&parts[0].to_line()).unwrap()
    });
    let merged = merge(halves.to_vec(), None).unwrap();
    let text = merged.unchecked.join("; ");
    for part in
        ["the fees of 20 envelopes", "1 checkpoints and cosignatures", "(--export)", "trees"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!serde_json::to_value(&merged).unwrap()["unchecked"].as_array().unwrap().is_empty());
}

#[test]
fn files_are_held_to_their_columns_too() {
    let mut log = MemoryLog::honest(40);
    log.prune(5);
    let part = |log: &MemoryLog| Bytes::from(encode_part(NODE, log.rows.clone()).unwrap());
    let verdict = |file: Bytes| {
        let rows: Rows = PartReader::from_bytes(file).unwrap().map(Result::unwrap).collect();
        merge(check(&rows), None).unwrap()
    };
    let honest = part(&log);
    let merged = verdict(honest.clone());
    assert_eq!((merged.verdict, merged.unchecked.len()), ("clean", 3), "{merged:?}");
    // One payer's account is in the file's dictionary once: all of its rows name another payer.
    let (_, payer) = log.usage.keys().next().unwrap();
    let name = hex::encode(payer.0).into_bytes();
    let mut other = honest.to_vec();
    while let Some(at) = other.windows(name.len()).position(|it| it == name) {
        other[at..at + name.len()].fill(b'1');
    }
    assert_ne!(other, honest);
    let merged = verdict(other.into());
    assert!(merged.faults.counts()[&FaultKind::Column] > 1, "{merged:?}");
    assert!(merged.faults.kept().iter().all(|it| it.text.ends_with(": payer")), "{merged:?}");
}

#[test]
fn the_columns_of_what_only_other_software_decodes_are_made_from_its_bytes() {
    let [_, log] = logs();
    let rows = rows(&log);
    let merged = merge(check(&rows), None).unwrap();
    assert_eq!(merged.verdict, "clean", "{merged:?}");
    assert_eq!(equal_parts(&rows, 8), equal_parts(&rows, 1));
}
