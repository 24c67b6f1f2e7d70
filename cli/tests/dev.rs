//! `hawser dev` and the commands around it, as a user runs them at a terminal.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{self, Dev, Running, VECTORS, free_base, run, session_file, signal, stderr};

/// Envelopes of the recorded session: those for a node, commits and proposals, identity updates.
const FOR_NODES: u64 = 33;
const GROUPS: u64 = 24;
const IDENTITIES: u64 = 10;

fn hexes(envelopes: &[Value]) -> Vec<&str> {
    envelopes.iter().map(|envelope| envelope["hex"].as_str().unwrap()).collect()
}

#[test]
fn every_node_shows_the_same_bytes() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(3), &["--chain-file", VECTORS]);
    let written: Value =
        serde_json::from_slice(&fs::read(place.path().join("network.json")).unwrap()).unwrap();
    assert_eq!(written, dev.network);

    let summary = dev.publish(0, session_file());
    assert_eq!(summary["published"], FOR_NODES);
    assert_eq!(summary["target"], 100);
    assert_eq!(summary["left_out"], json!({ "chain:group": GROUPS, "chain:identity": IDENTITIES }));
    assert_eq!(summary["refused"], json!([]));

    for (originator, count) in [("100", FOR_NODES), ("0", GROUPS), ("1", IDENTITIES)] {
        let first = dev.strand(0, originator, count);
        let ids: Vec<u64> =
            first.iter().map(|envelope| envelope["sequence_id"].as_u64().unwrap()).collect();
        assert_eq!(ids, (1..=count).collect::<Vec<_>>());
        for node in [1, 2] {
            assert_eq!(hexes(&dev.strand(node, originator, count)), hexes(&first), "node {node}");
        }
    }
    let topic = dev.strand(0, "100", 1)[0]["topic"].as_str().unwrap().to_owned();
    let address = dev.text(2, "grpc");
    let by_topic = ["tail", "--json", "--node", &address, "--topic", &topic, "--from", "start"];
    let found = support::json(&[&by_topic[..], &["--limit", "1"]].concat());
    assert_eq!(found["id"], "100:1");
    queries_show_what_the_strands_show(&dev, &topic);
    assert!(dev.stop().success());
}

fn queries_show_what_the_strands_show(dev: &Dev, topic: &str) {
    let address = dev.text(1, "grpc");
    let ask = |what: &[&str]| {
        let output = run(&[&["query", "--json"][..], what, &["--node", &address]].concat());
        let lines: Vec<Value> = support::stdout(&output)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (output.status.code().unwrap(), lines)
    };
    let strand = dev.strand(1, "100", FOR_NODES);
    let (code, all) = ask(&["originators", "100"]);
    assert_eq!((code, hexes(&all)), (0, hexes(&strand)));
    let (_, some) = ask(&["originators", "100", "--from", "100:3", "--limit", "2"]);
    assert_eq!(hexes(&some), hexes(&strand[3..5]));

    let of_topic: Vec<Value> =
        strand.iter().filter(|envelope| envelope["topic"] == topic).cloned().collect();
    let (_, found) = ask(&["topics", topic]);
    let found: Vec<Value> =
        found.into_iter().filter(|envelope| envelope["originator_id"] == 100).collect();
    assert_eq!(hexes(&found), hexes(&of_topic));
    let nothing = "00ff";
    let (code, found) = ask(&["newest", nothing, topic]);
    assert_eq!((code, found.len()), (0, 2));
    assert_eq!(found[0], json!({ "topic": nothing, "id": null }));
    assert_eq!(found[1]["topic"], topic);
    assert_eq!(ask(&["newest", nothing]).0, 4, "not found");
    for what in [
        &["topics", nothing][..],
        &["originators", "9999"],
        &["originators", "100", "--from", "100:99999"],
    ] {
        assert_eq!(ask(what), (4, Vec::new()), "{what:?}");
    }
    let silent = run(&["query", "topics", nothing, "--node", &address]);
    assert!(
        support::stderr(&silent).contains("the node has no envelope of these topics"),
        "{silent:?}"
    );
    assert_eq!(ask(&["topics", nothing, "--limit", "0"]).0, 0, "nothing was asked for");
    assert_eq!(ask(&["topics", &"00".repeat(129)]), (3, Vec::new()), "the node refuses the topic");

    let (_, cursors) = ask(&["cursors"]);
    assert!(cursors.contains(&json!({ "originator_id": 100, "sequence_id": FOR_NODES })));
    let (code, found) = ask(&["inbox", "0x0000000000000000000000000000000000000001"]);
    assert_eq!((code, &found[0]["inbox_id"]), (4, &Value::Null));
}

#[test]
fn a_stream_tells_why_it_ends_when_the_node_stops() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(1), &["--nodes", "1"]);
    let mut command = support::hawser();
    command.args(["tail", "--node", &dev.text(0, "grpc"), "--originator", "100"]);
    let mut tail = Running::start(command, true);
    let metrics = dev.text(0, "metrics");
    // The gateway of the network follows the node's chain strands over a stream of its own.
    support::until("both streams are open", || {
        support::page(&metrics, "/metrics").contains("xmtp_subscribers 2\n")
    });
    assert!(dev.stop().success());
    tail.line("the reason", |line| line.contains("UNAVAILABLE: server is shutting down"));
    assert_eq!(tail.end().code(), Some(1));
}

#[test]
fn the_same_file_again_gets_the_same_answers() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(1), &["--nodes", "1", "--chain-file", VECTORS]);
    let first = dev.publish(0, session_file());
    assert_eq!(dev.publish(0, session_file())["ids"], first["ids"]);
    assert!(dev.stop().success());
}

#[test]
fn a_server_without_the_pages_of_a_node_is_not_taken_for_its_metrics() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(1), &["--nodes", "1", "--chain-file", VECTORS]);
    let api = dev.text(0, "grpc");
    for command in [&["health"][..], &["misbehavior", "list"], &["report", "list"]] {
        let output = run(&[command, &["--metrics", &api]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
        let text = support::stderr(&output);
        assert!(text.contains("--metrics names the address"), "{command:?}: {text}");
    }
    assert!(dev.stop().success());
}

#[test]
fn a_killed_node_is_reported_and_goes_on_when_started_again() {
    let place = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(place.path(), free_base(3), &["--chain-file", VECTORS]);
    dev.publish(0, session_file());
    let before = dev.strand(1, "100", FOR_NODES);

    signal(dev.pid(1), "KILL");
    let ended = dev.running.event("ended");
    assert_eq!(ended["node_id"], 200);
    assert_eq!(ended["running"], 2);
    assert!(ended["status"].as_str().unwrap().contains("SIGKILL"), "{ended}");
    assert_eq!(dev.publish(2, session_file())["published"], FOR_NODES, "the others go on");

    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {}", ended["command"].as_str().unwrap())]);
    let mut again = Running::start(command, true);
    again.line("start", |line| line.contains("started api server"));
    assert_eq!(hexes(&dev.strand(1, "100", FOR_NODES)), hexes(&before));
    let late = dev.strand(1, "300", FOR_NODES);
    assert_eq!(hexes(&late), hexes(&dev.strand(2, "300", FOR_NODES)));
    signal(again.pid(), "TERM");
    assert!(again.end().success());
    assert!(dev.stop().success());
}

#[test]
fn a_folder_goes_on_with_its_data_until_it_is_made_fresh() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(2);
    let chain = ["--chain-file", VECTORS];
    let dev = Dev::start(place.path(), base, &[&["--nodes", "2"][..], &chain].concat());
    dev.publish(1, session_file());
    let before = dev.strand(0, "200", FOR_NODES);
    assert!(dev.stop().success());

    let dev = Dev::start(place.path(), base, &chain);
    assert_eq!(dev.network["nodes"].as_array().unwrap().len(), 2, "as many as the folder has");
    assert_eq!(hexes(&dev.strand(0, "200", FOR_NODES)), hexes(&before));
    let key = dev.text(0, "public_key");
    assert!(dev.stop().success());

    let dev = Dev::start(place.path(), base, &["--fresh", "--nodes", "1"]);
    assert_ne!(dev.text(0, "public_key"), key);
    assert!(dev.stop().success());
}

#[test]
fn nodes_end_with_a_parent_that_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(1);
    let dev = Dev::start(place.path(), base, &["--nodes", "1"]);
    let log = place.path().join("node-100/log.txt");
    signal(dev.running.pid(), "KILL");
    assert!(!dev.running.end().success());
    support::until("the node has stopped in order", || {
        fs::read_to_string(&log).unwrap().trim_end().ends_with("stopped")
    });
    let dev = Dev::start(place.path(), base, &["--nodes", "1"]);
    assert!(dev.stop().success());
}

#[test]
fn appended_chain_lines_are_read_and_what_waits_for_them_is_told() {
    let place = tempfile::tempdir().unwrap();
    let chain = place.path().join("chain.jsonl");
    fs::write(&chain, "").unwrap();
    let folder = place.path().join("net");
    let more = ["--nodes", "1", "--chain-file", chain.to_str().unwrap()];
    let dev = Dev::start(&folder, free_base(1), &more);
    let (address, key) = (dev.text(0, "grpc"), dev.payer_key());
    let args = ["publish", "--node", &address, "--file", session_file(), "--payer-key-file"];
    let output = run(&[&args[..], &[key.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let text = support::stdout(&output);
    assert!(text.contains("depends on 0:"), "{text}");
    assert!(text.contains("has strand 0 up to 0 only"), "{text}");

    fs::copy(VECTORS, &chain).unwrap();
    assert_eq!(dev.strand(0, "0", GROUPS).len() as u64, GROUPS);
    dev.strand(0, "1", IDENTITIES);
    assert_eq!(dev.publish(0, session_file())["published"], FOR_NODES);
    assert!(dev.stop().success());
}

#[test]
fn a_rebuild_makes_the_same_projections() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(1), &["--nodes", "1", "--chain-file", VECTORS]);
    dev.publish(0, session_file());
    let data_dir = dev.text(0, "data_dir");
    let held = run(&["rebuild", "--data-dir", &data_dir]);
    assert_eq!(held.status.code(), Some(3), "a running node's database is not touched");
    assert!(dev.stop().success());
    let report = support::json(&["rebuild", "--json", "--data-dir", &data_dir]);
    assert_eq!(report["same"], true, "{report}");
    assert_eq!(report["envelopes"], FOR_NODES + GROUPS + IDENTITIES);
    assert_eq!(report["ledger_dropped"], false, "{report}");
    let report = support::json(&["rebuild", "--json", "--ledger", "--data-dir", &data_dir]);
    assert_eq!((&report["same"], &report["ledger_dropped"]), (&true.into(), &true.into()));
    assert_eq!(report["rates_dropped"], false, "{report}");
    let report = support::json(&["rebuild", "--json", "--rates", "--data-dir", &data_dir]);
    let dropped = (&report["ledger_dropped"], &report["rates_dropped"]);
    assert_eq!(dropped, (&false.into(), &true.into()));
    assert_ne!(report["before"], report["after"], "nothing has a price");
}

/// The folder's own files are what the documents give to an auditor, and its nodes are honest.
#[test]
fn an_audit_by_the_files_of_the_folder_is_clean() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(1), &["--nodes", "1"]);
    // Some of them depend on events that this chain does not have, and are refused.
    let (address, key) = (dev.text(0, "grpc"), dev.payer_key());
    let publish = ["publish", "--json", "--node", &address, "--file", session_file()];
    let output = run(&[&publish[..], &["--payer-key-file", key.to_str().unwrap()]].concat());
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(summary["published"].as_u64().unwrap() > 0, "{summary}");
    // A gateway is no node, and the file is not published there.
    let gateway = dev.network["gateway"]["grpc"].as_str().unwrap();
    let publish = ["publish", "--node", gateway, "--target", "100", "--file", session_file()];
    let output = run(&[&publish[..], &["--payer-key-file", key.to_str().unwrap()]].concat());
    let text = support::stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("may be that of a gateway"), "{text}");
    let data_dir = dev.text(0, "data_dir");
    assert!(dev.stop().success());
    let file = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (registry, rates) = (file("registry.json"), file("rates.json"));
    let keys = ["--registry", &registry, "--rates", &rates];
    let line = [&["audit", "replay", "--json", "--from", &data_dir][..], &keys].concat();
    let output = run(&line);
    let printed = format!("{}{}", support::stdout(&output), stderr(&output));
    assert!(output.status.success(), "{printed}");
    assert!(!printed.contains("were given"), "the rates are those of the chain: {printed}");
}

#[test]
fn a_port_in_use_is_named_before_anything_starts() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(2);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", base + 101)).unwrap();
    let folder = place.path().join("net");
    let output =
        run(&["dev", "--base-port", &base.to_string(), "--data-dir", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains(&format!("{}/tcp (metrics of node 200)", base + 101)), "{text}");
    assert!(!folder.exists(), "no mark of a network, of which --fresh would delete files");
}

#[test]
fn commands_find_the_network_of_the_current_folder() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("hawser-dev");
    let dev = Dev::start(&folder, free_base(1), &["--nodes", "1"]);
    let asked = |args: &[&str]| {
        let mut command = support::hawser();
        command.args(args).arg("--json").current_dir(place.path());
        command
    };
    for line in [
        &["registry", "node", "list"][..],
        &["fees", "show"],
        &["report", "list"],
        &["report", "attest", "--dry-run"],
        &["misbehavior", "list"],
        &["health"],
        &["peers"],
        &["log-level"],
    ] {
        let output = asked(line).output().unwrap();
        let printed = format!("{}{}", support::stdout(&output), support::stderr(&output));
        assert!(output.status.success(), "{line:?}: {printed}");
    }
    let mut evidence = support::hawser();
    evidence.args(["misbehavior", "list"]).current_dir(place.path());
    assert_eq!(support::stdout(&evidence.output().unwrap()), "there is no evidence\n");
    let payer = dev.network["payer_key_file"].as_str().unwrap();
    let mut balance = asked(&["payer", "balance"]);
    let output = balance.env("HAWSER_KEY_FILE", payer).output().unwrap();
    assert!(output.status.success(), "{}", support::stderr(&output));

    // Settings win: this file has no contracts.
    let mut other = asked(&["registry", "node", "list"]);
    other.env("XMTPD_SETTLEMENT_CHAIN_RPC_URL", "http://127.0.0.1:1");
    assert!(!other.output().unwrap().status.success());
    // So does a data folder, on which no node runs here.
    let mut step = asked(&["report", "attest", "--dry-run"]);
    step.env("HAWSER_DATA_DIR", place.path().join("other"));
    assert_eq!(step.output().unwrap().status.code(), Some(4));
    let mut peers = asked(&["peers"]);
    peers.env("HAWSER_DATA_DIR", place.path().join("other"));
    assert_eq!(peers.output().unwrap().status.code(), Some(4));
    // And a port of metrics, at which no node answers.
    for line in [&["health"][..], &["misbehavior", "list"]] {
        let mut elsewhere = asked(line);
        elsewhere.env("XMTPD_METRICS_METRICS_PORT", free_base(0).to_string());
        assert_eq!(elsewhere.output().unwrap().status.code(), Some(1), "{line:?}");
    }
    // A file that is named wins over the environment.
    let file = folder.join("network.json");
    other.arg("--network").arg(&file);
    assert!(other.output().unwrap().status.success());
    step.arg("--network").arg(&file);
    assert!(step.output().unwrap().status.success());
    let mut elsewhere = support::hawser();
    elsewhere.args(["report", "list", "--network"]).arg(&file);
    assert!(elsewhere.output().unwrap().status.success());

    // The file stays when the network ends, and the reason names it.
    assert!(dev.stop().success());
    let output = asked(&["registry", "node", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let printed = format!("{}{}", support::stdout(&output), support::stderr(&output));
    assert!(printed.contains("network.json"), "{printed}");
}
