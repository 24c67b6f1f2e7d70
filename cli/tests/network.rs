//! `hawser dev` as a whole network: nodes that read chains, a gateway, and programs that use them.

use std::process::Command;

use serde_json::Value;

use crate::support::{self, Dev, Running, free_base, page, signal, until};

fn pid(part: &Value) -> u32 {
    u32::try_from(part["pid"].as_u64().unwrap()).unwrap()
}

/// Starts a killed process again by hand.
fn again(ended: &Value) -> Running {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {}", ended["command"].as_str().unwrap())]);
    Running::start(command, true)
}

fn gateway_is_ready(dev: &Dev) -> bool {
    let metrics = dev.network["gateway"]["metrics"].as_str().unwrap();
    let mut command = support::hawser();
    let health = command.args(["health", "--metrics", metrics]).output().unwrap();
    health.status.success()
}

/// Returns the answer to a health check of a service.
fn health(address: &str, service: &str) -> String {
    use std::io::{Read as _, Write as _};
    let body = format!(r#"{{"service":"{service}"}}"#);
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "POST /grpc.health.v1.Health/Check HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_network_says_where_everything_is() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(2);
    let dev = Dev::start(place.path(), base, &["--nodes", "2"]);
    let at = |offset: u16| format!("127.0.0.1:{}", base + offset);
    assert_eq!(dev.network["gateway"]["grpc"], at(2));
    assert_eq!(dev.network["gateway"]["metrics"], at(3));
    for (chain, offset, id) in [("app_chain", 10, 31338), ("settlement_chain", 11, 31337)] {
        let chain = &dev.network[chain];
        assert_eq!(chain["rpc"], format!("http://{}", at(offset)));
        assert_eq!(chain["ws"], format!("ws://{}", at(offset)));
        assert_eq!(chain["chain_id"], id);
    }
    assert_eq!(dev.network["contracts"]["appChainId"], 31338);
    assert!(gateway_is_ready(&dev));
    assert!(!page(dev.network["gateway"]["metrics"].as_str().unwrap(), "/metrics").is_empty());
    // A gateway is not taken for a node.
    let payer = ["payer", "usage", "0x0000000000000000000000000000000000000001"];
    for command in [&["status"][..], &["misbehavior", "list"], &["report", "list"], &payer] {
        let output = support::run(&[command, &["--metrics", &at(3)]].concat());
        assert_eq!(output.status.code(), Some(1), "{command:?}: {output:?}");
        let text = support::stderr(&output);
        assert!(text.contains("--metrics names the address"), "{command:?}: {text}");
    }
    // `grpcurl` needs no files of the schema.
    for address in [dev.text(0, "grpc"), at(2)] {
        let answer = health(&address, "grpc.reflection.v1.ServerReflection");
        assert!(answer.contains("SERVING") && !answer.contains("NOT_SERVING"), "{answer}");
    }
    assert!(dev.stop().success());
}

#[test]
fn a_killed_gateway_goes_on_when_started_again() {
    let place = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(place.path(), free_base(1), &["--nodes", "1"]);
    signal(pid(&dev.network["gateway"]), "KILL");
    let ended = dev.running.event("ended");
    assert_eq!(ended["process"], "gateway");
    assert_eq!(ended["node_id"], Value::Null);
    let gateway = again(&ended);
    until("the gateway is ready again", || gateway_is_ready(&dev));
    signal(gateway.pid(), "TERM");
    assert!(gateway.end().success());
    assert!(dev.stop().success());
}

#[test]
fn dependants_stop_before_what_they_use() {
    let place = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(place.path(), free_base(2), &["--nodes", "2"]);
    signal(dev.running.pid(), "INT");
    let stopped: Vec<String> = (0..4)
        .map(|_| dev.running.event("stopped")["process"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((&stopped[0][..], &stopped[3][..]), ("gateway", "chains"), "{stopped:?}");
    assert!(dev.running.end().success());
}

#[test]
fn a_network_with_blocks_at_an_interval_goes_on_with_its_chains() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(1);
    let dev = Dev::start(place.path(), base, &["--nodes", "1", "--block-time", "1s"]);
    let key = dev.text(0, "public_key");
    assert!(dev.stop().success());
    let dev = Dev::start(place.path(), base, &[]);
    assert_eq!(dev.text(0, "public_key"), key);
    assert!(gateway_is_ready(&dev));
    assert!(dev.stop().success());
}

#[test]
fn a_network_with_anvil_goes_on_with_its_chains() {
    let place = tempfile::tempdir().unwrap();
    let base = free_base(1);
    let dev = Dev::start(place.path(), base, &["--nodes", "1", "--anvil"]);
    assert!(gateway_is_ready(&dev));
    let contracts = dev.network["contracts"].clone();
    assert!(dev.stop().success());
    let log = std::fs::read_to_string(place.path().join("chain/log.txt")).unwrap();
    assert!(!log.contains("embedded chain"), "{log}");
    let dev = Dev::start(place.path(), base, &["--anvil"]);
    assert_eq!(dev.network["contracts"], contracts);
    assert!(gateway_is_ready(&dev));
    assert!(dev.stop().success());
}
