//! A folder is exported and checked in parts, other engines read the export, and a replay writes its report as a page.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::fs;
use std::path::Path;

use hawser_audit::{Judged, KnownKeys};
use hawser_proto::{Address, OriginatorId, SecretKey, SequenceId};
use hawser_rules::{NodeRecord, Registry};
use hawser_storage::{Change, SkipReason};
use serde_json::Value;
use support::log_folder::{NODE, entry, entry_at, folder, open};
use support::{json, run, stdout};

/// Returns the files of the table `log` of an export, ascending.
fn parts(export: &Path) -> Vec<String> {
    let strand = export.join("log").join(format!("originator={NODE}"));
    let mut parts: Vec<String> = fs::read_dir(strand)
        .unwrap()
        .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
        .collect();
    parts.sort();
    parts
}

#[test]
fn a_folder_is_exported_in_runs_and_its_parts_are_checked_together() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 700);
    let export = place.path().join("export");
    let [data_dir, registry, to] = [&data, &registry, &export].map(|path| path.to_str().unwrap());
    let run_export = ["audit", "export", "--from", data_dir, "--format", "parquet", "--to", to];
    let first = json(&[&run_export[..], &["--json"]].concat());
    assert_eq!((&first["rows"], &first["files"]), (&700.into(), &1.into()), "{first}");
    assert_eq!(json(&[&run_export[..], &["--json"]].concat())["rows"], 0);
    let store = open(&data, &SecretKey::from_bytes(&[2; 32]).unwrap());
    let forged = entry(&SecretKey::from_bytes(&[3; 32]).unwrap(), 701);
    store.commit(&[Change::Append(forged)]).unwrap();
    drop(store);
    let output = run(&run_export);
    assert!(stdout(&output).contains("rows: 1, in 1 new files"), "{output:?}");

    // Each part in a process of its own, and one verdict.
    let mut lines = String::new();
    for part in parts(&export) {
        let check = ["audit", "check-partition", &part, "--registry", registry, "--json"];
        let output = run(&check);
        assert_eq!(
            output.status.code(),
            Some(if part.contains("701") { 8 } else { 0 }),
            "{output:?}"
        );
        lines.push_str(&stdout(&output));
    }
    let ranges = place.path().join("ranges.jsonl");
    fs::write(&ranges, &lines).unwrap();
    let ranges = ranges.to_str().unwrap();
    let merge = ["audit", "merge", ranges, "--export", to, "--json"];
    let output = run(&merge);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let merged: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(merged["faults"], serde_json::json!({ "forged": 1 }), "{merged}");
    assert_eq!(merged["first_faults"][0]["sequence_id"], 701);
    // Without the output of the second part something is missing.
    let clean: String = lines.lines().take(1).collect();
    fs::write(ranges, clean).unwrap();
    let output = run(&merge[..5]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert!(stdout(&output).contains("700 of 701 rows were looked at"), "{output:?}");

    let all = parts(&export);
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let check = ["audit", "check-partition", "--registry", registry];
    let output = run(&[&check[..], &all].concat());
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    assert!(stdout(&output).contains("200:701  forged, of the keeper"), "{output:?}");

    // Another log, and a folder with something else.
    let (other, _) = folder(place.path(), "other", 3);
    let other = other.to_str().unwrap();
    let output = run(&["audit", "export", "--from", other, "--to", to]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let output = run(&["audit", "export", "--from", other, "--to", data_dir]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(run(&["audit", "merge", "--export", data_dir, ranges]).status.code(), Some(4));
}

/// Without the key of its node a part shows nothing wrong, and is not clean.
#[test]
fn a_part_without_a_known_key_is_incomplete() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 5);
    let export = place.path().join("export");
    let [data_dir, to] = [&data, &export].map(|path| path.to_str().unwrap());
    let run_export = ["audit", "export", "--from", data_dir, "--format", "parquet", "--to", to];
    assert_eq!(run(&run_export).status.code(), Some(0));
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    open(&data, &key).commit(&[Change::Append(entry(&key, 6))]).unwrap();
    assert_eq!(run(&run_export).status.code(), Some(0));
    let record = NodeRecord {
        id: OriginatorId(300),
        public_key: key.public_key(),
        owner: Address([0; 20]),
        http_address: String::new(),
        quic_address: None,
        canonical: true,
    };
    let keys = KnownKeys { registry: [record].into_iter().collect::<Registry>(), rates: None };
    let registry = place.path().join("unknown.evidence");
    let file = Judged::file("test", &[], &[], &keys);
    fs::write(&registry, serde_json::to_string(&file).unwrap()).unwrap();
    let second = parts(&export).pop().unwrap();
    let registry = registry.to_str().unwrap();
    let output = run(&["audit", "check-partition", "--registry", registry, second.as_str()]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert!(stdout(&output).contains("no signature was checked"), "{output:?}");
}

/// DuckDB, DataFusion and Spark read the export, and Spark spreads the checks over workers. `scripts/audit-engines` runs it.
#[test]
#[ignore = "needs DuckDB, DataFusion, Spark and Java: scripts/audit-engines installs them"]
fn other_engines_find_the_same() {
    let python = std::env::var_os("HAWSER_ENGINES_PYTHON").expect("scripts/audit-engines sets it");
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 3_000);
    let store = open(&data, &SecretKey::from_bytes(&[2; 32]).unwrap());
    // Nine times that go back.
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let changes = (3_001..=3_009).map(|at| Change::Append(entry_at(&key, at, at - 3_000)));
    let gap = Change::Skip {
        originator: OriginatorId(NODE),
        from: SequenceId(3_010),
        through: SequenceId(3_019),
        reason: SkipReason::Missing,
    };
    let last = Change::Append(entry(&key, 3_020));
    store.commit(&changes.chain([gap, last]).collect::<Vec<_>>()).unwrap();
    drop(store);
    let export = place.path().join("export");
    let to =
        ["audit", "export", "--from", data.to_str().unwrap(), "--to", export.to_str().unwrap()];
    assert!(run(&to).status.success());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = std::process::Command::new(python)
        .arg(root.join("tests/second/audit_engines.py"))
        .arg(env!("CARGO_BIN_EXE_hawser"))
        .arg(place.path())
        .arg(root.join("docs/audit-at-scale.md"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(stdout(&output).ends_with("equal\n"), "{output:?}");
}

#[test]
fn a_replay_writes_its_report_as_a_page() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 30);
    let store = open(&data, &SecretKey::from_bytes(&[2; 32]).unwrap());
    let forged = entry(&SecretKey::from_bytes(&[3; 32]).unwrap(), 31);
    store.commit(&[Change::Append(forged)]).unwrap();
    drop(store);
    let page = place.path().join("report.html");
    let [data, registry, html] = [&data, &registry, &page].map(|path| path.to_str().unwrap());
    let replay = ["audit", "replay", "--from", data, "--registry", registry, "--html", html];
    assert_eq!(run(&replay).status.code(), Some(8));
    let page = fs::read_to_string(&page).unwrap();
    for part in ["<!doctype html>", ">faulty<", "200:31", ">forged<", "Strand 200"] {
        assert!(page.contains(part), "{part}");
    }
}
