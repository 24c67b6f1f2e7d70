//! `hawser doctor` at the chains' WebSockets and at the node that answers, and settings without a start.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::single_node::Single;
use crate::support::chains::{ADMIN, Chains};
use crate::support::{Running, free_base, hawser, json, run, signal, stderr, stdout};

/// Results and findings of the checks of WebSockets, with these URLs.
fn websockets(chains: &Chains, app: &str, settlement: &str) -> Vec<(String, String)> {
    let mut command = chains.command(ADMIN, &["doctor", "--json"]);
    command.env("XMTPD_APP_CHAIN_WSS_URL", app);
    command.env("XMTPD_SETTLEMENT_CHAIN_WSS_URL", settlement);
    command.env("XMTPD_SIGNER_PRIVATE_KEY_FILE", chains.key(ADMIN));
    command.env("HAWSER_DATA_DIR", chains.folder.path().join("data"));
    command.env("HAWSER_STATE_DIR", chains.folder.path().join("state"));
    command.args(["--listen-address", "127.0.0.1", "-p", &free_base(0).to_string()]);
    let output = command.output().unwrap();
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
    let checks = page["checks"].as_array().unwrap().iter();
    let found = checks.filter(|it| it["check"] == "websocket");
    found.map(|it| (text(it, "result"), text(it, "found"))).collect()
}

#[test]
fn a_websocket_is_well_only_if_it_serves_its_own_chain() {
    let chains = Chains::start();
    let ws = |rpc: &str| rpc.replace("http://", "ws://");
    let (app, settlement) = (ws(&chains.app), ws(&chains.settlement));
    let well = websockets(&chains, &app, &settlement);
    assert_eq!(well.len(), 2, "{well:?}");
    assert!(
        well.iter().all(|(result, found)| result == "ok" && found.contains("block")),
        "{well:?}"
    );

    let wrong = websockets(&chains, &settlement, "ws://127.0.0.1:1/secret");
    let results: Vec<_> = wrong.iter().map(|(result, _)| result.as_str()).collect();
    assert_eq!(results, ["warn", "fail"], "the settlement chain's is silent: {wrong:?}");
    assert!(wrong[1].1.contains("serves chain 31337"), "{wrong:?}");
    assert!(!wrong.iter().any(|(_, found)| found.contains("secret")), "{wrong:?}");
}

#[test]
fn the_settings_are_checked_at_the_chains_if_that_is_asked_for() {
    let chains = Chains::start();
    let check = |dial: bool, app: &str| {
        let mut command = chains.command(ADMIN, &["config", "check", "--json"]);
        command.args(dial.then_some("--dial"));
        command.env("XMTPD_APP_CHAIN_RPC_URL", app);
        command.env("XMTPD_SIGNER_PRIVATE_KEY_FILE", chains.key(ADMIN));
        command.env("HAWSER_DATA_DIR", chains.folder.path().join("data"));
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let closed = "http://127.0.0.1:1/secret";
    let (code, page, _) = check(false, closed);
    assert_eq!(code, Some(0), "no endpoint is asked");
    assert!(!page.contains("checks"), "{page}");
    // This key is no node's, as the registry of the chain shows.
    let (code, _, errors) = check(true, &chains.app);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("registry"), "{errors}");
    let (code, _, errors) = check(true, closed);
    assert_eq!(code, Some(2), "{errors}");
    assert!(errors.contains("127.0.0.1:1") && !errors.contains("secret"), "{errors}");
    assert!(!chains.folder.path().join("data").exists(), "no database");
}

#[test]
fn contract_settings_with_which_no_node_starts_are_refused_and_those_in_effect_are_printed() {
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("key").display().to_string();
    json(&["keys", "generate", "--json", "--out", &key]);
    let url = "http://127.0.0.1:1";
    let chains = [
        ["--signer.private-key-file", key.as_str()],
        ["--contracts.settlement-chain.rpc-url", url],
        ["--contracts.app-chain.rpc-url", url],
    ]
    .concat();
    let with = |command: &[&str], more: &[&str]| run(&[command, &chains, more].concat());
    for (more, reason) in [
        (&[][..], "`nodeRegistry`"),
        (&["--contracts.config-json", "{}"], "`groupMessageBroadcaster`"),
        (&["--contracts.config-json", "[]"], "contracts.config-json"),
        (&["--contracts.config-file-path", "config://moon"], "no environment is called"),
        (&["--contracts.config-file-path", "/nowhere/chain.json"], "/nowhere/chain.json"),
    ] {
        let output = with(&["config", "check"], more);
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", stdout(&output));
        assert!(stderr(&output).contains(reason), "{reason}: {}", stderr(&output));
    }
    let network = ["--contracts.environment", "mainnet"];
    let output = with(&["config", "check"], &network);
    assert!(output.status.success(), "{}", stderr(&output));
    let wallets = [&network[..], &["--wallet-chains", "84532"]].concat();
    let output = with(&["config", "check"], &wallets);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("--wallet-chains adds 84532"), "{}", stderr(&output));
    let text = stdout(&with(&["config", "print"], &network));
    let registry = "0xC5742B5F2e19B859eaE03A9c44531C33fA8e75F8";
    let line = format!("# nodeRegistry is {registry}, from the network mainnet");
    assert!(text.lines().any(|it| it == line), "{text}");
    let print = [&["config", "print", "--json"][..], &chains, &network].concat();
    let contracts = json(&print)["contracts"].as_array().unwrap().clone();
    let of_registry = contracts.iter().find(|it| it["contract"] == "nodeRegistry").unwrap();
    assert_eq!(of_registry["address"], registry);
}

#[test]
fn settings_of_a_gateway_are_checked_without_a_start() {
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name).display().to_string();
    let (key, policies) = (file("payer.key"), file("policies.toml"));
    json(&["keys", "generate", "--json", "--out", &key]);
    let check = |policy: &str, more: &[&str]| {
        fs::write(&policies, policy).unwrap();
        let flags = [
            ["config", "check-gateway"],
            ["--payer.key-file", key.as_str()],
            ["--policies-file", policies.as_str()],
            ["--contracts.settlement-chain.rpc-url", "http://127.0.0.1:1/secret"],
        ];
        run(&[&flags.concat()[..], more].concat())
    };
    let network = ["--contracts.environment", "mainnet"];
    let output = check("", &network);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("a gateway can start with these settings"));
    let output = check("nonsense = 1", &["--registry-file", "/nowhere/registry.json"]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    let errors = stderr(&output);
    for part in ["policies.toml", "/nowhere/registry.json", "`rateRegistry`"] {
        assert!(errors.contains(part), "all at once, with {part}: {errors}");
    }
    let tokens = "[identity]\nkind = \"jwt\"\n[identity.jwt]\nalgorithm = \"ES256\"\n\
                  keys_file = \"/nowhere/keys.json\"\nany_issuer = true\nany_audience = true\n";
    let output = check(tokens, &network);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(stderr(&output).contains("/nowhere/keys.json"), "{}", stderr(&output));
    let output = check("", &[&network[..], &["--dial"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    let errors = stderr(&output);
    for part in ["rpc_endpoint: ", "registry: ", "rates: "] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(!errors.contains("secret"), "{errors}");
}

/// Results and findings of the checks of this name, with the settings of this node.
fn checks(of: &Single, name: &str) -> Vec<(String, String)> {
    let (mut doctor, command) = (hawser(), of.command());
    doctor.args(["doctor", "--json"]).args(command.get_args().skip(1));
    doctor.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = doctor.output().unwrap();
    let page: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
    let checks = page["checks"].as_array().unwrap().iter();
    let named = checks.filter(|it| it["check"] == name);
    named.map(|it| (text(it, "result"), text(it, "found"))).collect()
}

fn node_ids(of: &Single) -> Vec<(String, String)> {
    checks(of, "node_id")
}

/// A node whose disk does not answer takes connections, and answers none.
#[test]
fn a_process_that_does_not_answer_is_not_taken_for_none() {
    let single = Single::new();
    assert_eq!(checks(&single, "process")[0].0, "ok", "no node runs");
    let listener = TcpListener::bind(("127.0.0.1", single.base + 1)).unwrap();
    let found = checks(&single, "process");
    let [(result, found)] = &found[..] else { panic!("{found:?}") };
    assert!(result == "fail" && found.contains("does not answer"), "{found}");
    assert!(node_ids(&single).is_empty(), "it states none");
    drop(listener);
}

#[test]
fn another_node_than_the_one_of_the_key_is_found_at_its_ports_and_at_the_registered_url() {
    let (single, mut other) = (Single::new(), Single::new());
    assert!(node_ids(&single).is_empty(), "no node runs");
    let mut node = Running::start(single.command(), true);
    node.line("start", |line| line.contains("started api server"));
    let own = node_ids(&single);
    assert_eq!(own.len(), 2, "its operators' port, and its URL: {own:?}");
    assert!(
        own.iter().all(|(result, found)| result == "ok" && found.contains("is 100")),
        "{own:?}"
    );
    let file = single.place.path().join("registry.json");
    let canonical = fs::read_to_string(&file).unwrap();
    let mut waiting: Value = serde_json::from_str(&canonical).unwrap();
    waiting["nodes"][0]["isCanonical"] = false.into();
    fs::write(&file, waiting.to_string()).unwrap();
    let early = node_ids(&single);
    let results: Vec<_> = early.iter().map(|(result, _)| result.as_str()).collect();
    assert_eq!(results, ["ok", "warn"], "it waits to become canonical: {early:?}");
    fs::write(&file, canonical).unwrap();

    // The settings of the other node lead to the first one: its ports, and its record in the registry.
    other.base = single.base;
    let registry = other.place.path().join("registry.json");
    let mut records: Value = serde_json::from_slice(&fs::read(&registry).unwrap()).unwrap();
    records["nodes"][0]["nodeId"] = 200.into();
    records["nodes"][0]["httpAddress"] = format!("http://127.0.0.1:{}", single.base).into();
    fs::write(&registry, records.to_string()).unwrap();
    let found = node_ids(&other);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|(result, _)| result == "fail"), "{found:?}");
    assert!(found[0].1.contains("is 100") && found[1].1.contains("is not node 200"), "{found:?}");
    signal(node.pid(), "TERM");
    assert!(node.end().success());
}
