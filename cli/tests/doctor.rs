//! `hawser doctor` at the chains' WebSockets.

use serde_json::Value;

use crate::support::chains::{ADMIN, Chains};
use crate::support::free_base;

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
    assert!(wrong.iter().all(|(result, _)| result == "warn"), "{wrong:?}");
    assert!(wrong.iter().any(|(_, found)| found.contains("serves chain 31337")), "{wrong:?}");
    assert!(!wrong.iter().any(|(_, found)| found.contains("secret")), "{wrong:?}");
}
