//! `hawser chain dev`, by itself and as a part of `hawser dev`.

use std::fs;
use std::path::Path;
use std::process::Command;

use alloy::providers::Provider as _;
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::NodeRegistry;
use hawser_chain::send::Chain;
use serde_json::Value;

use crate::support::{self, Dev, Running, free_base, hawser, run, signal, stderr};

/// Starts the chains and waits until they say that they are ready.
fn start(folder: &Path, base: u16, more: &[&str]) -> (Running, Value) {
    let mut command = hawser();
    command.current_dir(folder).args(["chain", "dev", "--json"]);
    command.args(["--base-port", &base.to_string()]).args(more);
    let mut running = Running::start(command, false);
    let ready = running.event("ready");
    (running, ready)
}

fn stop(running: Running) {
    signal(running.pid(), "INT");
    assert!(running.end().success());
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Ids of the registered nodes, which of them are canonical, and where their APIs are.
fn registered(settlement: &str, addresses: &Addresses) -> Vec<(u32, bool, String)> {
    wait(async {
        let chain = Chain::connect(settlement, 31337).await.unwrap();
        let all = NodeRegistry::getAllNodesCall {};
        let nodes = chain.view(addresses.node_registry, &all).await.unwrap();
        let rows = nodes
            .into_iter()
            .map(|entry| (entry.nodeId, entry.node.isCanonical, entry.node.httpAddress));
        rows.collect()
    })
}

#[test]
fn both_chains_run_and_print_their_addresses() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(1);
    let (running, ready) = start(place.path(), base, &[]);
    assert_eq!(ready["app_chain"]["rpc"], format!("http://127.0.0.1:{}", base + 10));
    assert_eq!(ready["settlement_chain"]["ws"], format!("ws://127.0.0.1:{}", base + 11));
    wait(async {
        for (chain, id) in [("app_chain", 31338), ("settlement_chain", 31337)] {
            let url = ready[chain]["rpc"].as_str().unwrap();
            let chain = Chain::connect(url, id).await.unwrap();
            assert!(chain.provider().get_block_number().await.unwrap() > 0);
        }
    });
    let file = place.path().join("hawser-chain/chain.json");
    let addresses = Addresses::read(&file).unwrap();
    assert_eq!(addresses.to_json(), ready["addresses"]);
    assert_eq!(ready["accounts"].as_array().unwrap().len(), 10);
    stop(running);

    let (again, second) = start(place.path(), base, &[]);
    assert_eq!(second["addresses"], ready["addresses"], "the same on every fresh start");
    assert_ne!(second["deployment_transactions"], 0);
    stop(again);
}

#[test]
fn chains_in_a_folder_go_on_after_a_kill() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(1);
    let (running, first) = start(place.path(), base, &["--data-dir", "kept"]);
    signal(running.pid(), "KILL");
    assert!(!running.end().success());
    let (running, second) = start(place.path(), base, &["--data-dir", "kept"]);
    assert_eq!(second["deployment_transactions"], 0);
    assert_eq!(second["addresses"], first["addresses"]);
    assert!(place.path().join("kept/chain.json").exists());
    stop(running);
}

#[test]
fn a_port_in_use_is_told() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(1);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", base + 11)).unwrap();
    let mut command = hawser();
    command.current_dir(place.path());
    let output = command.args(["chain", "dev", "--base-port", &base.to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains(&format!("127.0.0.1:{}", base + 11)), "{text}");
    assert!(text.contains("another --base-port"), "{text}");
}

#[test]
fn strange_arguments_are_usage_errors() {
    for args in [&["--block-time", "5"][..], &["--base-port", "65530"], &["--node-owner", "0x1"]] {
        let output = run(&[&["chain", "dev"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    let output = run(&["chain", "dev", "--register-nodes", "does-not-exist.json"]);
    assert!(stderr(&output).contains("does-not-exist.json"));
}

#[test]
fn a_network_has_its_nodes_in_the_registry_on_its_chain() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(3);
    let dev = Dev::start(place.path(), base, &["--nodes", "2"]);
    let file = place.path().join("chain.json");
    let addresses = Addresses::read(&file).unwrap();
    assert_eq!(dev.network["contracts"], addresses.to_json());
    assert_eq!(dev.network["app_chain"]["rpc"], format!("http://127.0.0.1:{}", base + 10));
    assert_eq!(dev.network["app_chain"]["ws"], format!("ws://127.0.0.1:{}", base + 10));
    assert_eq!(dev.network["app_chain"]["chain_id"], 31338);
    assert_eq!(dev.network["settlement_chain"]["rpc"], format!("http://127.0.0.1:{}", base + 11));
    assert_eq!(dev.network["settlement_chain"]["chain_id"], 31337);
    let rpc = dev.network["settlement_chain"]["rpc"].as_str().unwrap().to_owned();
    let url = |i: u16| format!("http://127.0.0.1:{}", base + 100 * i);
    assert_eq!(registered(&rpc, &addresses), [(100, true, url(0)), (200, true, url(1))]);
    assert!(dev.stop().success());
    assert!(file.exists(), "it is as true as before");

    // One more node, and other ports.
    let base = free_base(3);
    let dev = Dev::start(place.path(), base, &["--nodes", "3"]);
    let rpc = dev.network["settlement_chain"]["rpc"].as_str().unwrap().to_owned();
    let url = |i: u16| format!("http://127.0.0.1:{}", base + 100 * i);
    let expected = [(100, true, url(0)), (200, true, url(1)), (300, true, url(2))];
    assert_eq!(registered(&rpc, &addresses), expected);
    assert_eq!(Addresses::read(&file).unwrap(), addresses);
    assert!(dev.stop().success());
}

#[test]
fn killed_chains_are_reported_and_go_on_when_started_again() {
    let place = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(place.path(), free_base(1), &["--nodes", "1"]);
    let chain = dev.network["settlement_chain"].clone();
    let addresses = Addresses::read(&place.path().join("chain.json")).unwrap();
    signal(u32::try_from(chain["pid"].as_u64().unwrap()).unwrap(), "KILL");
    let ended = dev.running.event("ended");
    assert_eq!(ended["process"], "chains");
    assert_eq!(ended["node_id"], Value::Null);
    assert_eq!(ended["running"], 1, "the node goes on");

    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {} --json", ended["command"].as_str().unwrap())]);
    let mut again = Running::start(command, false);
    assert_eq!(again.event("ready")["deployment_transactions"], 0);
    let rpc = chain["rpc"].as_str().unwrap();
    assert_eq!(registered(rpc, &addresses).len(), 1);
    stop(again);
    assert!(dev.stop().success());
}

#[test]
fn chains_end_with_a_parent_that_was_killed() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(1);
    let dev = Dev::start(place.path(), base, &["--nodes", "1"]);
    signal(dev.running.pid(), "KILL");
    assert!(!dev.running.end().success());
    support::until("the port is free", || {
        std::net::TcpListener::bind(("127.0.0.1", base + 10)).is_ok()
    });
}

#[test]
fn a_fresh_network_has_fresh_chains() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(1);
    let dev = Dev::start(place.path(), base, &["--nodes", "1"]);
    assert!(dev.stop().success());
    // Its key is another one, which the chain of before would not take.
    let dev = Dev::start(place.path(), base, &["--nodes", "1", "--fresh"]);
    assert!(dev.stop().success());
    let log = fs::read_to_string(place.path().join("chain/log.txt")).unwrap();
    assert!(log.contains("embedded chain"), "{log}");
}
