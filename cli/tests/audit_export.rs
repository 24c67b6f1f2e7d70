//! A folder is exported and checked in parts, other engines read the export, and a replay writes its report as a page.

use std::fs;
use std::ops::Range;
use std::path::Path;

use hawser_audit::export::{ExportedRow, PartReader};
use hawser_audit::replay::{GapReason, StrandRow};
use hawser_audit::{Judged, KnownKeys};
use hawser_proto::{Bytes, OriginatorId, SecretKey, SequenceId};
use hawser_rules::{PicoDollarPrice, Registry};
use hawser_storage::{Change, SkipReason};
use http::StatusCode;
use serde_json::Value;

use crate::support::fake_node::FakeNode;
use crate::support::log_folder::{
    NODE, entry, entry_at, folder, open, open_with, record, write_registry,
};
use crate::support::{Dev, free_base, json, run, session_file, stderr, stdout, until};

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
    assert!(stdout(&output).contains("rows: 1, in 1 new file\n"), "{output:?}");

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
    let registry = write_registry(place.path(), "unknown.evidence", 300, &key);
    let second = parts(&export).pop().unwrap();
    let registry = registry.to_str().unwrap();
    let output = run(&["audit", "check-partition", "--registry", registry, second.as_str()]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert!(stdout(&output).contains("no signature was checked"), "{output:?}");
}

/// Returns the places and bytes of an export's envelopes, and its other rows.
fn rows(export: &Path) -> (Vec<(SequenceId, Bytes)>, Vec<ExportedRow>) {
    let (mut envelopes, mut others) = (Vec::new(), Vec::new());
    for part in parts(export) {
        for row in PartReader::open(Path::new(&part)).unwrap() {
            match row.unwrap().1.row {
                ExportedRow::Row(StrandRow::Envelope { sequence, bytes, .. }) => {
                    envelopes.push((sequence, bytes));
                }
                other => others.push(other),
            }
        }
    }
    (envelopes, others)
}

/// The bytes of the envelopes `from..=through` of the folder's strand.
fn strand(from: u64, through: u64) -> Vec<Bytes> {
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    (from..=through).map(|at| entry(&key, at).bytes).collect()
}

#[test]
fn a_node_that_runs_is_exported_like_its_folder() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 1_200);
    let [of_folder, of_node] = ["of-folder", "of-node"].map(|name| place.path().join(name));
    let registry = registry.to_str().unwrap();
    let export = |from: &str, to: &Path| {
        let to = to.to_str().unwrap();
        json(&["audit", "export", "--json", "--from", from, "--to", to, "--registry", registry])
    };
    let whole = export(data.to_str().unwrap(), &of_folder);
    assert_eq!(whole["rows"], 1_200, "{whole}");
    let signed = whole["judged"][NODE.to_string()].as_str().unwrap();
    assert!(signed.starts_with("0x04"), "{whole}");

    // Pages of 500; places 701 and 702 are not shown, as if they broke a rule.
    let hidden = strand(701, 702);
    let page = move |_, after: u64| {
        let mut page = strand(after + 1, (after + 500).min(1_200));
        page.retain(|bytes| !hidden.contains(bytes));
        page
    };
    let node = FakeNode::start(&[(NODE, 1_200)], page);
    let shown = export(&node.url(), &of_node);
    assert_eq!(shown["rows"], 1_199, "{shown}");
    assert_eq!((&shown["judged"], &shown["tally_files"]), (&whole["judged"], &0.into()));
    let (mut expected, _) = rows(&of_folder);
    expected.retain(|(at, _)| ![701, 702].contains(&at.0));
    let (from, through, reason) = (SequenceId(701), SequenceId(702), GapReason::NotShown);
    let gap = ExportedRow::Row(StrandRow::Gap { from, through, reason });
    assert_eq!(rows(&of_node), (expected, vec![gap]));
    assert_eq!(export(&node.url(), &of_node)["rows"], 0, "a later run adds what is new");

    // The verdict is neither faulty nor clean: places that are not shown may hold anything.
    let part = parts(&of_node).remove(0);
    let checked = run(&["audit", "check-partition", &part, "--registry", registry]);
    assert_eq!(checked.status.code(), Some(9), "{checked:?}");
    assert!(stdout(&checked).contains("2 places were not shown"), "{checked:?}");
}

/// Returns the tallies of an export by the names of their files.
fn tallies(export: &Path) -> Vec<(String, Vec<u8>)> {
    let files = ["usage", "congestion"].map(|table| walk(&export.join(table)));
    let mut files: Vec<(String, Vec<u8>)> = files
        .concat()
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(export).unwrap().to_str().unwrap().to_owned();
            (name, fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_node_that_runs_has_the_tallies_of_its_folder() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 0);
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    // The node's prices are those of the rates below.
    let store = open_with(&data, &key, |_, envelope| {
        let storage = 3 * envelope.size_bytes * u64::from(envelope.retention_days);
        PicoDollarPrice(1_000 + storage)
    });
    let changes: Vec<Change> = (1..=1_200).map(|at| Change::Append(entry(&key, at))).collect();
    store.commit(&changes).unwrap();
    drop(store);
    let rates = place.path().join("rates.json");
    let rate = r#"{"rates":[{"messageFee":1000,"storageFee":3,"congestionFee":0,"targetRatePerMinute":0,"startTime":5}]}"#;
    fs::write(&rates, rate).unwrap();
    let [of_folder, of_node] = ["of-folder", "of-node"].map(|name| place.path().join(name));
    let export = |from: &str, to: &Path, more: &[&str]| {
        let [to, registry] = [to, &registry].map(|path| path.to_str().unwrap());
        let arguments = ["audit", "export", "--json", "--from", from, "--to", to];
        json(&[&arguments[..], &["--registry", registry], more].concat())
    };
    export(data.to_str().unwrap(), &of_folder, &[]);
    let node =
        FakeNode::start(&[(NODE, 1_200)], |_, after| strand(after + 1, (after + 500).min(1_200)));
    let without = export(&node.url(), &of_node, &[]);
    assert!(without["not_exported"][0].as_str().unwrap().contains("--rates"), "{without}");
    assert!(tallies(&of_node).is_empty());
    export(&node.url(), &of_node, &["--rates", rates.to_str().unwrap()]);
    assert!(tallies(&of_folder).len() >= 2);
    assert_eq!(tallies(&of_node), tallies(&of_folder));
    let origin = |export: &Path| {
        let manifest = fs::read_to_string(export.join("manifest.json")).unwrap();
        let manifest: Value = serde_json::from_str(&manifest).unwrap();
        manifest["manifest"]["tallies"][0]["origin"].clone()
    };
    assert_eq!([origin(&of_folder), origin(&of_node)], ["stored", "derived"]);
}

/// The bytes that the API of a node gives are those of its folder.
#[test]
fn a_real_node_is_exported_like_its_folder() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(2), &["--nodes", "2"]);
    let (address, key) = (dev.text(1, "grpc"), dev.payer_key());
    // Some of the envelopes are for a chain, and are refused.
    let target = ["--node", &address, "--payer-key-file", key.to_str().unwrap()];
    run(&[&["publish", "--file", session_file()], &target[..]].concat());
    let network = place.path().join("network.json");
    let [of_folder, of_node] = ["of-folder", "of-node"].map(|name| place.path().join(name));
    let export = |from: &str, to: &Path| {
        let [to, network] = [to, &network].map(|path| path.to_str().unwrap());
        json(&["audit", "export", "--json", "--from", from, "--to", to, "--registry", network])
    };
    let url = format!("http://{address}");
    let log = of_node.join("log").join(format!("originator={NODE}"));
    until("the node shows its strand", || {
        export(&url, &of_node);
        log.exists()
    });
    let data = dev.text(1, "data_dir");
    assert!(dev.stop().success());
    let whole = export(&data, &of_folder);
    assert!(whole["judged"][NODE.to_string()].is_string(), "{whole}");
    let (shown, held) = (rows(&of_node).0, rows(&of_folder).0);
    assert!(!shown.is_empty() && held.starts_with(&shown), "{} of {}", shown.len(), held.len());
}

/// The envelopes that a node gives of a strand after a place.
type LyingPage = Box<dyn Fn(u32, u64) -> Vec<Bytes> + Send + Sync>;

/// The error names the false envelope, the exit code is that of a failure, and no file contains the envelope.
#[test]
fn a_node_that_lies_is_refused_by_name() {
    let place = tempfile::tempdir().unwrap();
    let (_, registry) = folder(place.path(), "data", 0);
    let registry = registry.to_str().unwrap();
    let forged = entry(&SecretKey::from_bytes(&[3; 32]).unwrap(), 7).bytes;
    let others = move |_, after: u64| match after {
        0 => [strand(1, 6), vec![forged.clone()], strand(8, 9)].concat(),
        _ => Vec::new(),
    };
    let lies: [(&str, LyingPage, u64, &str); 5] = [
        ("other bytes", Box::new(others), 9, "200:7: forged"),
        (
            "back",
            Box::new(|_, _| [strand(1, 5), strand(4, 5)].concat()),
            9,
            "200:4 came after 200:5",
        ),
        // The same page for ever.
        ("endless", Box::new(|_, _| strand(1, 5)), u64::MAX >> 1, "200:1 came after 200:5"),
        (
            "too much",
            Box::new(|_, after| strand(after + 1, after + 1_001)),
            2_000,
            "1001 envelopes",
        ),
        // Each takes two bytes on the wire.
        ("empty", Box::new(|_, _| vec![Bytes::new(); 20_000]), 9, "more than 16000 fields"),
    ];
    for (name, lie, head, text) in lies {
        let node = FakeNode::start(&[(NODE, head)], lie);
        let export = place.path().join(name);
        let to = export.to_str().unwrap();
        let from = node.url();
        let arguments = ["audit", "export", "--from", &from, "--to", to, "--registry", registry];
        let output = run(&arguments);
        assert!(matches!(output.status.code(), Some(1 | 3)), "{name}: {output:?}");
        assert!(stderr(&output).contains(text), "{name}: {output:?}");
        let files = walk(&export.join("log"));
        assert!(files.is_empty(), "{name}: {files:?}");
    }
}

/// A node could send strands under ids that the registry does not name, with any content and without an end.
#[test]
fn what_no_key_judges_is_not_taken_from_a_node() {
    let place = tempfile::tempdir().unwrap();
    let (_, registry) = folder(place.path(), "data", 0);
    let node = FakeNode::start(&[(NODE, 9), (300, 5)], |strand, after| match (strand, after) {
        (NODE, 0) => self::strand(1, 5),
        _ => Vec::new(),
    });
    let (from, export) = (node.url(), place.path().join("export"));
    let [to, registry] = [&export, &registry].map(|path| path.to_str().unwrap());
    let arguments = ["audit", "export", "--json", "--from", &from, "--to", to];
    let done = json(&[&arguments[..], &["--registry", registry]].concat());
    assert_eq!(done["rows"], 5, "{done}");
    let notes = &done["not_exported"];
    assert!(notes[0].as_str().unwrap().contains("strand 300"), "{done}");
    assert!(notes[1].as_str().unwrap().contains("ends at 9, and shows places to 5"), "{done}");
    let with_backup = run(&[&arguments[..], &["--backup", "one"]].concat());
    assert_eq!(with_backup.status.code(), Some(2), "{with_backup:?}");
}

/// Software without a service for checkpoints answers with an HTTP page, and so does a balancer whose node restarts.
/// Such a page never leaves out checkpoints that the node has.
#[test]
fn a_page_in_place_of_a_checkpoint_counts_only_if_the_node_has_none() {
    let place = tempfile::tempdir().unwrap();
    let (_, registry) = folder(place.path(), "data", 0);
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let export = |name: &str, registry: &Path, pages: Range<u64>| {
        let node = FakeNode::start(&[(NODE, 5)], |_, after| strand(after + 1, 5));
        node.sign_as(NODE, key.clone());
        node.send_pages(pages, StatusCode::NOT_FOUND);
        let (from, export) = (node.url(), place.path().join(name));
        let [to, registry] = [export.as_path(), registry].map(|path| path.to_str().unwrap());
        let arguments = ["audit", "export", "--from", &from, "--to", to, "--registry", registry];
        let output = run(&arguments);
        (output.status.code(), walk(&export.join("checkpoints")).len(), stderr(&output))
    };
    for (name, pages, kept) in [("none", 0..0, 1), ("first", 0..1, 1), ("all", 0..u64::MAX, 0)] {
        let (code, checkpoints, text) = export(name, &registry, pages);
        assert_eq!((code, checkpoints), (Some(0), kept), "{name}: {text}");
    }

    // The checkpoint of the first node comes, and then a page in the place of that of the second one.
    let public_key = |seed: u8| SecretKey::from_bytes(&[seed; 32]).unwrap().public_key();
    let nodes = [record(NODE, public_key(2)), record(2 * NODE, public_key(3))];
    let registry: Registry = nodes.into_iter().collect();
    let file = Judged::file("test", &[], &[], &KnownKeys { registry, rates: None });
    let of_two = place.path().join("of-two.evidence");
    fs::write(&of_two, serde_json::to_string(&file).unwrap()).unwrap();
    let (code, _, text) = export("later", &of_two, 1..u64::MAX);
    assert!(matches!(code, Some(1 | 3)) && text.contains("404"), "{code:?}: {text}");

    // A proxy that fails shows nothing of the service: the pages that follow count as at any node without it.
    let node = FakeNode::start(&[(NODE, 5)], |_, after| strand(after + 1, 5));
    node.send_pages(0..1, StatusCode::BAD_GATEWAY);
    node.send_pages(1..u64::MAX, StatusCode::NOT_FOUND);
    let (from, keys) = (node.url(), of_two.to_str().unwrap());
    let output = run(&["audit", "replay", "--from", &from, "--registry", keys]);
    let report = stdout(&output);
    assert!(report.contains("502 Bad Gateway") && !report.contains("404 Not Found"), "{output:?}");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.map(|it| it.unwrap().path());
    entries.flat_map(|it| if it.is_dir() { walk(&it) } else { vec![it] }).collect()
}

/// Signatures of a folder are judged on request, and an envelope that the keys refuse ends the export.
#[test]
fn a_folder_is_judged_by_the_keys_that_are_given() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let forged = entry(&SecretKey::from_bytes(&[3; 32]).unwrap(), 21);
    let store = open(&data, &SecretKey::from_bytes(&[2; 32]).unwrap());
    store.commit(&[Change::Append(forged)]).unwrap();
    drop(store);
    let export = place.path().join("export");
    let [data, registry, to] = [&data, &registry, &export].map(|path| path.to_str().unwrap());
    let arguments = ["audit", "export", "--from", data, "--to", to];
    let refused = run(&[&arguments[..], &["--registry", registry]].concat());
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(stderr(&refused).contains("200:21: forged"), "{refused:?}");
    // A log with faults is exported without judging it.
    let taken = run(&arguments);
    assert!(stdout(&taken).contains("not checked: signatures"), "{taken:?}");
    assert_eq!(rows(&export).0.len(), 21);
}

/// DuckDB, DataFusion and Spark read the export, and Spark spreads the checks over workers. `scripts/audit-engines`
/// runs it.
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
        .arg(std::env::var_os("HAWSER_PLANTED_EXPORTS").expect("scripts/audit-engines sets it"))
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

    // The verdict of hours is told although a file cannot be written.
    let nowhere = place.path().join("nowhere").join("file");
    for file in ["--html", "--state"] {
        let output = run(&[&replay[..6], &["--json", file, nowhere.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(1), "{file}: {output:?}");
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["verdict"], "faulty", "{file}: {told}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("nowhere"), "{file}: {error}");
    }
}
