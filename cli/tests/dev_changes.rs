//! Changes of a network that `hawser dev` runs: nodes that come, go, are killed and are cut off.

use std::fs;
use std::path::Path;

use hawser_devchain::deploy;
use serde_json::Value;

use crate::support::chains::{confirmed, write_key};
use crate::support::{self, Dev, VECTORS, free_base, run, session_file, stderr};

/// Envelopes for a node in the recorded session.
const FOR_NODES: u64 = 33;

/// Runs a subcommand of `hawser dev` that succeeds.
fn change(folder: &Path, what: &[&str]) -> Value {
    let place = ["--json", "--data-dir", folder.to_str().unwrap()];
    support::json(&[&["dev"][..], what, &place].concat())
}

/// Runs a subcommand of `hawser dev` that fails, and returns its exit code.
fn refused(folder: &Path, what: &[&str]) -> Option<i32> {
    let place = ["--data-dir", folder.to_str().unwrap()];
    let output = run(&[&["dev"][..], what, &place].concat());
    assert!(!stderr(&output).is_empty(), "{what:?} says why");
    output.status.code()
}

/// Registers a node with a key that the folder does not have.
fn register_by_hand(folder: &Path, network: &Path) {
    let [admin, other] = ["admin.key", "other.key"].map(|name| folder.join(name));
    let deployer = deploy::deployer();
    write_key(admin.clone(), &deployer.to_bytes().to_string());
    let all = [admin.as_path(), other.as_path(), network];
    let [admin, other, network] = all.map(|path| path.to_str().unwrap());
    support::json(&["keys", "generate", "--json", "--out", other]);
    let owner = deployer.address().to_string();
    let keys = ["--node-key-file", other, "--key-file", admin, "--network", network];
    let node = ["--owner", owner.as_str(), "--http-address", "http://127.0.0.1:1"];
    let line = [&["registry", "node", "add", "--json"][..], &node, &keys].concat();
    support::json(&confirmed(&line));
}

/// Reads the description of the network again.
fn look_again(dev: &mut Dev, folder: &Path) {
    let text = fs::read(folder.join("network.json")).unwrap();
    dev.network = serde_json::from_slice(&text).unwrap();
}

fn ids(network: &Value) -> Vec<u64> {
    let nodes = network["nodes"].as_array().unwrap();
    nodes.iter().map(|node| node["node_id"].as_u64().unwrap()).collect()
}

fn hexes(envelopes: &[Value]) -> Vec<&str> {
    envelopes.iter().map(|envelope| envelope["hex"].as_str().unwrap()).collect()
}

#[test]
fn a_node_is_added_and_removed_while_the_network_runs() {
    let place = tempfile::tempdir().unwrap();
    let (folder, base) = (place.path(), free_base(3));
    let chain = ["--chain-file", VECTORS];
    let mut dev = Dev::start(folder, base, &[&["--nodes", "2"][..], &chain].concat());
    dev.publish(0, session_file());
    let added = change(folder, &["add-node"]);
    assert_eq!(added["node"]["node_id"], 300);
    assert_eq!(added["node"]["grpc"], format!("127.0.0.1:{}", base + 200));
    look_again(&mut dev, folder);
    assert_eq!(ids(&dev.network), [100, 200, 300]);
    // It takes over what was there, and what it signs comes to the others.
    assert_eq!(hexes(&dev.strand(2, "100", FOR_NODES)), hexes(&dev.strand(0, "100", FOR_NODES)));
    assert_eq!(dev.publish(2, session_file())["published"], FOR_NODES);
    assert_eq!(hexes(&dev.strand(0, "300", FOR_NODES)), hexes(&dev.strand(2, "300", FOR_NODES)));

    assert_eq!(change(folder, &["remove-node", "200"])["event"], "removed");
    look_again(&mut dev, folder);
    assert_eq!(ids(&dev.network), [100, 300]);
    assert_eq!(refused(folder, &["remove-node", "200"]), Some(4));
    assert_eq!(refused(folder, &["start", "200"]), Some(4));
    assert!(dev.stop().success());

    // It stays away when the network starts again, and its id is given to no other node.
    let dev = Dev::start(folder, base, &chain);
    assert_eq!(ids(&dev.network), [100, 300]);
    assert!(dev.stop().success());
}

#[test]
fn the_registry_on_the_chain_follows_and_a_command_stops_the_network() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let dev = Dev::start(folder, free_base(3), &["--nodes", "1"]);
    let network = folder.join("network.json");
    let registered = || -> Vec<(u64, bool)> {
        let line = ["registry", "node", "list", "--json", "--network", network.to_str().unwrap()];
        let nodes = support::json(&line);
        let record = |node: &Value| {
            (node["nodeId"].as_u64().unwrap(), node["isCanonical"].as_bool().unwrap())
        };
        nodes.as_array().unwrap().iter().map(record).collect()
    };
    change(folder, &["add-node"]);
    assert_eq!(registered(), [(100, true), (200, true)]);
    register_by_hand(folder, &network);
    assert_eq!(refused(folder, &["add-node"]), Some(1), "its id has another key");
    // What has failed hinders no other change.
    change(folder, &["remove-node", "200"]);
    assert_eq!(registered(), [(100, true), (200, false), (300, false)]);
    assert_eq!(refused(folder, &["remove-node", "100"]), Some(3), "the last one stays");
    assert_eq!(refused(folder, &["reset", "--yes"]), Some(3), "it runs");

    assert_eq!(change(folder, &["down"])["event"], "down");
    assert!(dev.running.end().success());
    assert_eq!(refused(folder, &["down"]), Some(4));
    assert_eq!(refused(folder, &["reset"]), Some(3), "a script has to say --yes");
    assert!(folder.join("payer.key").exists(), "the data stays");
    assert_eq!(change(folder, &["reset", "--yes"])["event"], "deleted");
    assert!(!folder.join("payer.key").exists() && !folder.join("node-100").exists());
}

#[test]
fn a_node_is_killed_and_started_again_by_commands() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let mut dev = Dev::start(folder, free_base(3), &["--chain-file", VECTORS]);
    let before = dev.pid(1);
    assert_eq!(change(folder, &["kill", "200"])["running"], 2);
    let ended = dev.running.event("ended");
    assert_eq!(ended["node_id"], 200);
    assert!(ended["status"].as_str().unwrap().contains("SIGKILL"), "{ended}");
    assert_eq!(refused(folder, &["kill", "200"]), Some(3), "it does not run");
    dev.publish(0, session_file());
    let started = change(folder, &["start", "200"]);
    assert_eq!(started["node"]["node_id"], 200);
    assert_eq!(refused(folder, &["start", "200"]), Some(3), "it runs");
    look_again(&mut dev, folder);
    assert_ne!(dev.pid(1), before);
    assert_eq!(hexes(&dev.strand(1, "100", FOR_NODES)), hexes(&dev.strand(0, "100", FOR_NODES)));
    assert!(dev.stop().success());
}

#[test]
fn a_node_that_has_lost_its_data_gets_its_strand_from_the_others_and_publishes() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let mut dev = Dev::start(folder, free_base(3), &["--chain-file", VECTORS]);
    dev.publish(1, session_file());
    let held = dev.strand(0, "200", FOR_NODES);
    assert_eq!(hexes(&dev.strand(2, "200", FOR_NODES)), hexes(&held));
    change(folder, &["kill", "200"]);
    fs::remove_dir_all(dev.text(1, "data_dir")).unwrap();
    assert_eq!(change(folder, &["start", "200"])["event"], "started");
    look_again(&mut dev, folder);
    assert_eq!(hexes(&dev.strand(1, "200", FOR_NODES)), hexes(&held));
    assert!(dev.stop().success());
}

#[test]
fn a_partition_cuts_a_node_off_until_it_is_healed() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    let dev = Dev::start(folder, free_base(3), &["--chain-file", VECTORS]);
    let cut = change(folder, &["partition", "300", "--for", "1h"]);
    let apart = |node: usize| -> Vec<u64> {
        let peers = cut["nodes"][node]["apart"].as_array().unwrap();
        peers.iter().map(|peer| peer["node_id"].as_u64().unwrap()).collect()
    };
    assert_eq!([apart(0), apart(1), apart(2)], [vec![300], vec![300], vec![100, 200]]);
    support::until("the node that is cut off has no peer", || {
        let metrics = support::page(&dev.text(2, "metrics"), "/metrics");
        let mut peers = metrics.lines().filter(|line| line.starts_with("xmtp_peer_up{"));
        peers.all(|line| line.ends_with(" 0"))
    });
    dev.publish(0, session_file());
    let first = dev.strand(0, "100", FOR_NODES);
    assert_eq!(hexes(&dev.strand(1, "100", FOR_NODES)), hexes(&first), "the others go on");
    let asked = run(&["query", "originators", "100", "--node", &dev.text(2, "grpc")]);
    assert_eq!(asked.status.code(), Some(4), "nothing has come over");

    an_order_about_a_peer_is_shown(&dev.text(2, "data_dir"));

    change(folder, &["heal"]);
    assert_eq!(hexes(&dev.strand(2, "100", FOR_NODES)), hexes(&first));
    assert_eq!(refused(folder, &["partition", "900"]), Some(4));
    assert_eq!(refused(folder, &["partition", "100,200,300"]), Some(2), "one side");
    assert_eq!(refused(folder, &["partition", "100", "--for", "25h"]), Some(2));
    assert!(dev.stop().success());
}

/// The same orders as an operator of a single node gives and sees them.
fn an_order_about_a_peer_is_shown(data_dir: &str) {
    let peers = |more: &[&str]| run(&[&["peers", "--data-dir", data_dir][..], more].concat());
    let shown = support::stdout(&peers(&[]));
    assert!(shown.contains("apart from node 100, for another "), "{shown}");
    let ended = support::json(&["peers", "--together", "--json", "--data-dir", data_dir]);
    assert_eq!(ended["apart"], serde_json::json!([]));
    let kept = peers(&["--apart", "100,200", "--for", "1h"]);
    assert!(support::stdout(&kept).contains("apart from node 200"), "{kept:?}");
    for (more, code) in [
        (&["--apart", "900"][..], 3),
        (&["--apart", "300"], 3),
        (&["--apart", "100", "--for", "0"], 2),
        (&["--apart", "x"], 2),
    ] {
        assert_eq!(peers(more).status.code(), Some(code), "{more:?}");
    }
    let nowhere = run(&["peers", "--data-dir", "missing"]);
    assert_eq!(nowhere.status.code(), Some(4));
    assert!(stderr(&nowhere).contains("name the data folder"), "{nowhere:?}");
}
