//! The state of the chains as pages of nodes and gateways show it, and as `hawser doctor` finds it.

use std::cell::Cell;
use std::ffi::OsString;
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use super::{Joined, stop};
use crate::support::{Running, hawser, page, stderr, until};

/// Reads a page of a node's or gateway's operator port.
fn page_of(address: &str, path: &str) -> Value {
    let page = page(address, path);
    serde_json::from_str(page.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// Returns true if registry and rates count as read.
fn lists_are_read(address: &str) -> bool {
    let page = page_of(address, "/readyz?for=publish");
    let mut conditions = page["conditions"].as_array().unwrap().iter();
    let condition = conditions.find(|it| it["name"] == "settlement_chain_lists_read");
    let condition = condition.unwrap();
    assert_eq!(condition["met"] == true, condition["reason"].is_null());
    condition["met"] == true
}

/// Returns the failures that `hawser config check-gateway --dial` finds with these flags, without those of the clock:
/// blocks of such a chain may be far ahead of it.
fn failures_of_gateway(flags: &[OsString]) -> Vec<String> {
    let mut check = hawser();
    check.args(["config", "check-gateway", "--dial"]).args(flags);
    let output = check.output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.success(), text.is_empty(), "{text}");
    text.lines().filter(|line| !line.contains("clock: ")).map(str::to_owned).collect()
}

#[test]
fn lists_that_cannot_be_read_are_shown_by_nodes_and_gateways_until_they_are_read() {
    let network = Joined::kept(1);
    let [own, at_gateway] = [1, 3].map(|offset| format!("127.0.0.1:{}", network.base + offset));
    let often = |mut command: Command| {
        for list in ["node", "rate"] {
            let every = format!("--contracts.settlement-chain.{list}-registry-refresh-interval");
            command.args([&every, "100ms"]);
        }
        command.args(["--contracts.settlement-chain.max-chain-disconnect-time", "1s"]);
        Running::start(command, true)
    };
    let mut node = often(network.command(0));
    node.line("start", |line| line.contains("started api server"));
    let gateway = network.gateway();
    let flags: Vec<_> = gateway.get_args().skip(1).map(ToOwned::to_owned).collect();
    assert_eq!(failures_of_gateway(&flags), Vec::<String>::new());
    let mut gateway = often(gateway);
    gateway.line("start", |line| line.contains("started gateway server"));
    until("the node may publish", || network.is_ready_to_publish(0));
    until("the gateway is ready", || page(&at_gateway, "/readyz").contains("200 OK"));
    assert!(lists_are_read(&own) && lists_are_read(&at_gateway));

    let lists = |address: &str| match address == own {
        true => page_of(address, "/status")["chains"]
            .as_array()
            .unwrap()
            .iter()
            .find(|chain| chain["name"] == "settlement")
            .unwrap()["lists"]
            .clone(),
        false => page_of(address, "/status")["lists"].clone(),
    };
    let network = network.without_chains(|| {
        for address in [&own, &at_gateway] {
            until("it is said that the lists are not read", || !lists_are_read(address));
            for place in 0..2 {
                until("failures are shown", || lists(address)[place]["failures"] != 0);
                assert!(lists(address)[place]["fault"].is_string(), "{}", lists(address));
            }
        }
        assert!(page(&at_gateway, "/readyz").contains("503"));
        let nodes = &page_of(&at_gateway, "/status")["nodes"];
        assert_eq!((&nodes[0]["id"], &nodes[0]["serves"]), (&100.into(), &true.into()));
    });
    for address in [&own, &at_gateway] {
        until("the lists are read again", || lists_are_read(address));
        until("there is no fault", || lists(address)[0]["fault"].is_null());
    }
    until("the gateway is ready", || page(&at_gateway, "/readyz").contains("200 OK"));
    stop(gateway);
    stop(node);
    let failures = failures_of_gateway(&flags);
    assert!(failures.iter().any(|it| it.contains("nodes: 0 of 1 canonical")), "{failures:?}");
    drop(network);
}

/// Returns the exit code of `hawser doctor` with the flags of a node's command and further ones, and its checks: name,
/// result and finding.
fn examined(command: &Command, more: &[&str]) -> (Option<i32>, Vec<[String; 3]>) {
    let mut doctor = hawser();
    doctor.args(["doctor", "--json"]).args(command.get_args().skip(1)).args(more);
    let output = doctor.output().unwrap();
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let checks = page["checks"].as_array().unwrap().iter();
    let all = checks.map(|it| ["check", "result", "found"].map(|field| text(it, field)));
    (output.status.code(), all.collect())
}

fn results_of(checks: &[[String; 3]], name: &str) -> Vec<String> {
    let of_name = checks.iter().filter(|[check, ..]| check == name);
    of_name.map(|[_, result, _]| result.clone()).collect()
}

/// A WebSocket only announces blocks. A provider that confuses its chains, or does not answer, must not keep a stopped
/// node or gateway down, and a wrong URL must not go unnoticed.
#[test]
fn websockets_of_other_chains_and_silent_ones_end_no_start_and_are_named() {
    let network = Joined::new(1);
    let (app, settlement) = (network.chains.app_address(), network.chains.settlement_address());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap();
    let wrong = |mut command: Command, chain: &str, of_other: std::net::SocketAddr| {
        let urls = format!("ws://{of_other},ws://{silent}");
        command.args([&format!("--contracts.{chain}-chain.wss-url"), &urls]);
        command
    };
    let starts = |command: Command, name: &str| {
        let (is_started, is_named) = (Cell::new(false), Cell::new(false));
        let started = format!("started {name} server");
        let mut running = Running::start(command, true);
        running.line("start that names the WebSocket", |line| {
            is_started.set(is_started.get() || line.contains(&started));
            is_named.set(is_named.get() || line.contains("chain_websocket_foreign"));
            is_started.get() && is_named.get()
        });
        running
    };
    let node = wrong(wrong(network.command(0), "app", settlement), "settlement", app);
    let node = starts(node, "api");
    let own = format!("127.0.0.1:{}", network.base + 1);
    for condition in ["app_chain_websocket_own", "settlement_chain_websocket_own"] {
        until("the condition is not met", || {
            let status = page_of(&own, "/status");
            let mut conditions = status["conditions"].as_array().unwrap().iter();
            conditions.any(|it| it["name"] == condition && it["met"] == false)
        });
    }
    stop(node);
    stop(starts(wrong(network.gateway(), "settlement", app), "gateway"));
}

#[test]
fn a_doctor_sees_both_chains_and_tells_an_endpoint_of_another_one() {
    let network = Joined::new(1);
    let (_, checks) = examined(&network.command(0), &[]);
    // Each block of such a chain is a second younger than the one before, so it may be far ahead of the clock.
    let failed = checks.iter().filter(|[name, result, _]| result == "fail" && name != "clock");
    assert_eq!(failed.count(), 0, "{checks:?}");
    for (name, results) in [("rpc_endpoint", 2), ("registry", 1), ("rates", 1), ("account", 1)] {
        assert_eq!(results_of(&checks, name).len(), results, "{name}: {checks:?}");
    }
    assert_eq!(results_of(&checks, "rpc_endpoint"), ["ok", "ok"], "{checks:?}");
    assert_eq!(results_of(&checks, "registry"), ["ok"], "{checks:?}");

    let (app, settlement) = (network.chains.app_address(), network.chains.settlement_address());
    let (app, settlement) = (format!("http://{app}"), format!("http://{settlement}"));
    let swapped = ["--contracts.app-chain.rpc-url", &format!("{settlement},{app}")];
    let (code, checks) = examined(&network.command(0), &swapped);
    assert_eq!((code, results_of(&checks, "rpc_endpoint").len()), (Some(1), 3), "{checks:?}");
    let is_failed = |it: &&[String; 3]| it[0] == "rpc_endpoint" && it[1] == "fail";
    let [_, _, found] = checks.iter().find(is_failed).unwrap();
    assert!(found.contains("is chain 31337, and chain 31338 was expected"), "{found}");

    let swapped = ["--contracts.app-chain.wss-url", &settlement.replace("http", "ws")];
    let (code, checks) = examined(&network.command(0), &swapped);
    assert_eq!(code, Some(1), "{checks:?}");
    assert_eq!(results_of(&checks, "websocket")[1], "fail", "{checks:?}");

    let gone = ["--contracts.settlement-chain.rpc-url", "http://127.0.0.1:1"];
    let (code, checks) = examined(&network.command(0), &gone);
    assert_eq!((code, results_of(&checks, "registry")), (Some(1), vec!["fail".to_owned()]));
}
