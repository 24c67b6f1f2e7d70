//! Files and flags of auditors that are not what they should be: each is refused or named, and no command waits for
//! ever.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use hawser_proto::SecretKey;
use serde_json::Value;

use crate::support::fake_node::FakeNode;
use crate::support::log_folder::{NODE, entry, folder, write_registry};
use crate::support::{json, run, stderr, stdout};

#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_is_refused_at_once() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 3);
    let pipe = place.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let [data, registry, pipe] = [&data, &registry, &pipe].map(|path| path.to_str().unwrap());
    let snapshots = place.path().to_str().unwrap();
    for not_a_file in [pipe, "/dev/zero"] {
        for command in [
            &["audit", "verify", not_a_file, "--registry", registry][..],
            &["audit", "replay", "--from", data, "--registry", not_a_file],
            &["audit", "merge", not_a_file],
            &["audit", "report", not_a_file],
            &["audit", "replay", "--from", data, "--registry", registry, "--state", not_a_file],
            &["audit", "replay", "--from", data, "--registry", registry, "--rates", not_a_file],
            &["audit", "check-partition", "--registry", registry, not_a_file],
            &["audit", "check-partition", "--registry", registry, "--chains", not_a_file],
            &["snapshot", "verify", "--from", snapshots, "--keys", not_a_file],
        ] {
            let output = run(command);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
        }
        let output = run(&["audit", "merge", not_a_file]);
        assert!(stderr(&output).contains("not a regular file"), "{output:?}");
    }
    let text = place.path().join("verdict.txt");
    fs::write(&text, "strand 100: places 1 to 3, 0 faults\n").unwrap();
    let output = run(&["audit", "merge", text.to_str().unwrap()]);
    assert!(stderr(&output).contains("check-partition --json"), "{output:?}");
    let empty = place.path().join("empty.parquet");
    fs::write(&empty, "").unwrap();
    for other in [&text, &empty].map(|path| path.to_str().unwrap()) {
        let output = run(&["audit", "check-partition", "--registry", registry, other]);
        assert!(stderr(&output).contains("no Parquet file"), "{output:?}");
    }
    let missing = run(&["audit", "check-partition", "--registry", registry, "nowhere.parquet"]);
    assert_eq!(missing.status.code(), Some(4), "{missing:?}");
}

/// Their writers aim at a stack overflow, at much memory, or at a terminal that fills.
#[test]
fn hostile_proof_files_are_refused_with_a_short_reason() {
    let place = tempfile::tempdir().unwrap();
    let (_, registry) = folder(place.path(), "data", 0);
    let file = place.path().join("proof.json");
    let is_refused = |reason: &str| {
        let [file, registry] = [&file, &registry].map(|path| path.to_str().unwrap());
        let verify = ["audit", "verify", file, "--registry", registry];
        for form in [&["--json"][..], &[]] {
            let output = run(&[&verify[..], form].concat());
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(1), "{reason}: {text:.300}");
            assert!(text.contains(reason) && text.len() < 100_000, "{reason}: {text:.300}");
        }
    };
    let (long, deep) = ("x".repeat(1_000_000), "[".repeat(1_000_000));
    let proof = |hashes: Value| {
        let schema = "hawser-proof/1";
        let file = serde_json::json!({
            "schema": schema, "envelope": "", "checkpoint": "", "hashes": hashes,
        });
        file.to_string()
    };
    let void = |statement: &str| {
        serde_json::json!({ "schema": "hawser-void/1", "statement": statement }).to_string()
    };
    for (text, reason) in [
        (String::new(), "the file is empty"),
        (deep.clone(), "is not a proof file"),
        (format!("{{\"schema\":\"hawser-proof/1\",\"more\":{deep}"), "is not a proof file"),
        (serde_json::json!({ "schema": long }).to_string(), "the file has schema"),
        (proof(long.clone().into()), "is not a proof file"),
        (proof(vec![""; 1_000_000].into()), "at most 64 entries"),
        (proof(serde_json::json!(["00"])), "field a hash"),
        (void("?"), "field the statement"),
        (void(&long), "the statement is malformed"),
        (void("AAAA"), "the statement is malformed"),
    ] {
        fs::write(&file, text).unwrap();
        is_refused(reason);
    }
    fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    is_refused("the file is too long");
}

#[test]
fn the_error_about_a_folder_names_the_source_that_was_meant() {
    let place = tempfile::tempdir().unwrap();
    let snapshots = place.path().join("snapshots");
    fs::create_dir(&snapshots).unwrap();
    fs::write(snapshots.join("names"), "").unwrap();
    let (_, registry) = folder(place.path(), "data", 1);
    let registry = registry.to_str().unwrap();
    let place = place.path().to_str().unwrap();
    for (name, meant) in [
        (place, format!("snapshot:{place}")),
        ("127.0.0.1:5050", "http://127.0.0.1:5050".to_owned()),
    ] {
        for command in [
            &["audit", "replay", "--from", name, "--registry", registry][..],
            &["audit", "compare", name, name],
        ] {
            let output = run(command);
            assert_eq!(output.status.code(), Some(4), "{command:?}: {output:?}");
            assert!(stderr(&output).contains(&meant), "{command:?}: {output:?}");
        }
    }
    let missing = run(&["audit", "replay", "--from", "nowhere", "--registry", registry]);
    assert!(!stderr(&missing).contains("http://"), "{missing:?}");
}

#[test]
fn keys_in_another_form_are_refused_with_the_forms_that_are_read() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 1);
    // The table that `hawser registry node list` prints without --registry-file.
    let table = place.path().join("nodes.txt");
    fs::write(&table, "nodeId: 100, owner: 0x00\n").unwrap();
    let [data, table] = [&data, &table].map(|path| path.to_str().unwrap());
    let output = run(&["audit", "replay", "--from", data, "--registry", table]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("--registry-file"), "{output:?}");
}

#[test]
fn a_node_of_the_registry_without_a_valid_key_is_named() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 1);
    let registry = place.path().join("registry.json");
    let node = serde_json::json!({
        "nodeId": NODE,
        "signer": format!("0x{}", "11".repeat(20)),
        "isCanonical": true,
        "signingPublicKey": "0x04",
        "httpAddress": "http://127.0.0.1:1",
    });
    fs::write(&registry, serde_json::json!({ "nodes": [node] }).to_string()).unwrap();
    let [data, registry] = [&data, &registry].map(|path| path.to_str().unwrap());
    let output = run(&["audit", "replay", "--from", data, "--registry", registry]);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let named = format!("node {NODE} has no valid key");
    assert!(stderr(&output).contains(&named), "{output:?}");
}

/// The owner of a node has put the name of the schema of evidence files into the node's address.
#[test]
fn the_address_of_a_node_does_not_make_a_registry_file_unreadable() {
    let place = tempfile::tempdir().unwrap();
    let (data, _) = folder(place.path(), "data", 1);
    let registry = place.path().join("registry.json");
    let key = SecretKey::from_bytes(&[2; 32]).unwrap().public_key();
    let node = serde_json::json!({
        "nodeId": NODE,
        "signer": key.address().to_string(),
        "isCanonical": true,
        "signingPublicKey": format!("0x{}", hex::encode(key.as_bytes())),
        "httpAddress": "http://127.0.0.1:1/hawser-evidence/1",
    });
    fs::write(&registry, serde_json::json!({ "nodes": [node] }).to_string()).unwrap();
    let [data, registry] = [&data, &registry].map(|path| path.to_str().unwrap());
    let replayed = json(&["audit", "replay", "--json", "--from", data, "--registry", registry]);
    assert_eq!(replayed["strands"][0]["reached"], 1, "{replayed}");
}

#[test]
fn a_backup_is_not_named_beside_the_address_of_a_node() {
    let place = tempfile::tempdir().unwrap();
    let (_, registry) = folder(place.path(), "data", 1);
    let (registry, to) = (registry.to_str().unwrap(), place.path().join("to"));
    let to = to.to_str().unwrap();
    // No node is asked: nothing listens there.
    let from = ["--from", "http://127.0.0.1:1", "--registry", registry, "--backup", "newest"];
    for command in [&["audit", "replay"][..], &["audit", "export", "--to", to]] {
        let output = run(&[command, &from[..]].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("--from names a node that runs"), "{output:?}");
    }
}

#[test]
fn a_place_without_snapshots_is_not_called_verified() {
    let place = tempfile::tempdir().unwrap();
    let verify = || run(&["snapshot", "verify", "--from", place.path().to_str().unwrap()]);
    assert_eq!(verify().status.code(), Some(4), "{:?}", verify());
    fs::create_dir(place.path().join("snapshots")).unwrap();
    let output = verify();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(stderr(&output).contains("there are no snapshots"), "{output:?}");
}

/// Returns the only file of the table `log`.
fn part_of(export: &Path) -> String {
    let strand = export.join("log").join(format!("originator={NODE}"));
    let part = fs::read_dir(strand).unwrap().next().unwrap().unwrap();
    part.path().to_str().unwrap().to_owned()
}

/// The log has no strand of a chain, so a file without verdicts is the whole one.
#[test]
fn the_times_of_chains_are_read_from_a_file_of_verdicts() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let [export, chains, ranges] =
        ["export", "chains.jsonl", "ranges.jsonl"].map(|name| place.path().join(name));
    let [data, registry, to, chains, ranges] =
        [&data, &registry, &export, &chains, &ranges].map(|path| path.to_str().unwrap());
    json(&["audit", "export", "--json", "--from", data, "--to", to]);
    let part = part_of(&export);
    let check = ["audit", "check-partition", &part, "--registry", registry, "--json", "--chains"];
    let check = || run(&[&check[..], &[chains]].concat());
    assert_eq!(check().status.code(), Some(4), "there is no such file");
    fs::write(chains, "noise\n").unwrap();
    assert_eq!(check().status.code(), Some(1), "it has no verdicts");
    fs::write(chains, "").unwrap();
    let judged = check();
    assert_eq!(judged.status.code(), Some(0), "{judged:?}");
    fs::write(ranges, stdout(&judged)).unwrap();
    let merged = json(&["audit", "merge", ranges, "--export", to, "--json"]);
    assert_eq!(merged["verdict"], "clean", "{merged}");
    assert!(!merged["unchecked"].to_string().contains("--chains"), "{merged}");
}

#[test]
fn a_payer_who_was_exchanged_in_a_file_is_named_and_a_verdict_says_what_it_left_out() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let [export, bare] = ["export", "bare"].map(|name| place.path().join(name));
    let [data, registry, to, to_bare] =
        [&data, &registry, &export, &bare].map(|path| path.to_str().unwrap());
    json(&["audit", "export", "--json", "--from", data, "--to", to]);
    json(&["audit", "export", "--json", "--from", data, "--to", to_bare, "--without-payers"]);
    let check =
        |part: &str| run(&["audit", "check-partition", part, "--registry", registry, "--json"]);
    let merge = |export: &str, lines: &str| {
        let ranges = place.path().join("ranges.jsonl");
        fs::write(&ranges, lines).unwrap();
        let output =
            run(&["audit", "merge", ranges.to_str().unwrap(), "--export", export, "--json"]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let part = part_of(&export);
    let honest = check(&part);
    assert_eq!(honest.status.code(), Some(0), "{honest:?}");
    let merged = merge(to, &stdout(&honest));
    assert_eq!(merged["verdict"], "clean", "{merged}");
    let unchecked = merged["unchecked"].to_string();
    assert!(unchecked.contains("the fees of 20 envelopes"), "{unchecked}");
    assert!(
        unchecked.contains("the roots and times of checkpoints") && unchecked.contains("--chains"),
        "{unchecked}"
    );
    let of_bare = part_of(&bare);
    let emptied = merge(to_bare, &stdout(&check(&of_bare)));
    assert_eq!(emptied["faults"], serde_json::json!({ "column": 20 }), "{emptied}");
    let arguments = [
        "audit",
        "check-partition",
        &of_bare,
        "--registry",
        registry,
        "--json",
        "--without-payers",
    ];
    let without = merge(to_bare, &stdout(&run(&arguments)));
    assert_eq!(without["verdict"], "clean", "{without}");
    assert!(without["unchecked"].to_string().contains("the payers of 20 envelopes"), "{without}");

    // The signed bytes stay, and the bill goes to another account.
    let mut bytes = fs::read(&part).unwrap();
    let is_account =
        |it: &&[u8]| it.starts_with(b"0x") && it[2..].iter().all(u8::is_ascii_hexdigit);
    let account = bytes.windows(42).find(is_account).unwrap()[2..].to_vec();
    while let Some(at) = bytes.windows(40).position(|it| it == account) {
        bytes[at..at + 40].fill(b'1');
    }
    fs::write(&part, bytes).unwrap();
    let output = check(&part);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let merged = merge(to, &stdout(&output));
    assert_eq!(merged["faults"], serde_json::json!({ "column": 20 }), "{merged}");
    let text = merged["first_faults"][0]["text"].as_str().unwrap();
    assert!(text.ends_with(": payer"), "{text}");
}

#[test]
fn the_text_of_a_fault_in_a_file_adds_no_line_to_a_verdict() {
    let place = tempfile::tempdir().unwrap();
    let (data, registry) = folder(place.path(), "data", 20);
    let export = place.path().join("export");
    let [data, registry, to] = [&data, &registry, &export].map(|path| path.to_str().unwrap());
    json(&["audit", "export", "--json", "--from", data, "--to", to]);
    let part = part_of(&export);
    let honest = run(&["audit", "check-partition", &part, "--registry", registry, "--json"]);
    let mut line: Value = serde_json::from_slice(&honest.stdout).unwrap();
    let text = "another key\nverdict: clean\n\u{1b}[2J";
    let fault = serde_json::json!({
        "kind": "forged", "originator_id": NODE, "sequence_id": 1, "text": text,
    });
    line["range"]["faults"] = serde_json::json!({ "counts": { "forged": 1 }, "kept": [fault] });
    let ranges = place.path().join("ranges.jsonl");
    fs::write(&ranges, line.to_string()).unwrap();
    let output = run(&["audit", "merge", ranges.to_str().unwrap(), "--export", to]);
    assert_eq!(output.status.code(), Some(8), "{output:?}");
    let shown = stdout(&output);
    let verdicts: Vec<_> = shown.lines().filter(|line| line.starts_with("verdict")).collect();
    assert_eq!(verdicts, ["verdict: faulty"], "{shown}");
    assert!(shown.contains("another key verdict: clean"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
}

/// The node returns five hundred more envelopes behind each place, whatever it is asked for.
#[test]
fn a_node_that_answers_without_end_or_with_another_strand_holds_up_no_audit() {
    let place = tempfile::tempdir().unwrap();
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let replayed = |id: u32| {
        let registry = write_registry(place.path(), &format!("{id}.evidence"), id, &key);
        let signer = key.clone();
        let node = FakeNode::start(&[(id, 5)], move |_, after| {
            (after + 1..=after + 500).map(|at| entry(&signer, at).bytes).collect()
        });
        let (url, registry) = (node.url(), registry.to_str().unwrap());
        let output = run(&["audit", "replay", "--json", "--from", &url, "--registry", registry]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let own = replayed(NODE);
    assert_eq!(own["strands"][0]["figures"]["envelopes"], 5, "{own}");
    let other = replayed(NODE + 100);
    let faults = other["first_faults"].to_string();
    assert!(faults.contains("200:1, which was not requested"), "{other}");
}

/// Played by a server of HTTP: the handshake takes its answer for a damaged message.
#[test]
fn a_server_without_tls_is_named_as_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = format!("https://{}", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        caller.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // The caller ends the connection.
        let _ = caller.read_to_end(&mut Vec::new());
    });
    let failed = run(&["query", "cursors", "--node", &node]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(stderr(&failed).contains("does not speak TLS: write http://"), "{failed:?}");
    server.join().unwrap();
}
