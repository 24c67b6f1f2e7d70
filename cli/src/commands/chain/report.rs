//! The events that `hawser chain dev` reports.

use std::net::SocketAddr;
use std::path::Path;

use hawser_devchain::deploy;
use hawser_devchain::devnet::{APP_ID, Devnet, SETTLEMENT_ID};
use serde_json::{Value, json};

use crate::output::{self, Reporter};

pub(super) fn ready(
    reporter: Reporter,
    devnet: &Devnet,
    chain_json: &Path,
    data_dir: Option<&Path>,
) {
    reporter.event(
        || ready_text(devnet, chain_json, data_dir),
        || ready_json(devnet, chain_json, data_dir),
    );
}

pub(super) fn stopping(reporter: Reporter) {
    reporter.event(|| "stopping both chains".to_owned(), || json!({ "event": "stopping" }));
}
fn ready_json(devnet: &Devnet, chain_json: &Path, data_dir: Option<&Path>) -> Value {
    let chain = |id: u64, address: SocketAddr| json!({ "id": id, "rpc": format!("http://{address}"), "ws": format!("ws://{address}") });
    let account = |key: &alloy::signers::local::PrivateKeySigner| json!({ "address": key.address().to_string(), "private_key": key.to_bytes() });
    let deployment = devnet.deployment();
    json!({
        "event": "ready",
        "app_chain": chain(APP_ID, devnet.app_address()),
        "settlement_chain": chain(SETTLEMENT_ID, devnet.settlement_address()),
        "chain_json": output::shown_path(chain_json),
        "data_dir": data_dir.map(output::shown_path),
        "addresses": deployment.addresses.to_json(),
        "inbox": deployment.inbox.to_string(),
        "deployment_transactions": deployment.transactions,
        "accounts": deploy::accounts().iter().map(account).collect::<Vec<_>>(),
    })
}

fn ready_text(devnet: &Devnet, chain_json: &Path, data_dir: Option<&Path>) -> String {
    let chain = |name: &str, id: u64, address: SocketAddr| {
        format!("  {name:<16}  id {id}  http://{address}  ws://{address}")
    };
    let mut lines = vec![
        "Two chains for development and tests. Every program that reaches them controls them."
            .to_owned(),
        String::new(),
        chain("app chain", APP_ID, devnet.app_address()),
        chain("settlement chain", SETTLEMENT_ID, devnet.settlement_address()),
        String::new(),
        match devnet.deployment().transactions {
            0 => "The contracts were there:".to_owned(),
            sent => {
                let sent = output::count(sent, "transaction");
                format!("The contracts were deployed by {sent}:")
            }
        },
    ];
    lines.extend(address_lines(devnet));
    lines.push(String::new());
    lines.push(
        "Accounts, each with 10000 native tokens on both chains, and fee tokens. The keys are public:".into(),
    );
    lines.extend(deploy::accounts().iter().enumerate().map(|(index, key)| {
        let role = if index == 0 { "  deploys, administers" } else { "" };
        format!("  {}  {}{role}", key.address(), key.to_bytes())
    }));
    let kept = data_dir.map_or("They are not kept.".to_owned(), |folder| {
        format!("They are kept in {}.", folder.display())
    });
    lines.extend([
        String::new(),
        "See what the contracts say, in another terminal:".into(),
        format!(
            "  hawser registry rates list --rpc-url http://{} --chain-json {}",
            devnet.settlement_address(),
            chain_json.display()
        ),
        String::new(),
        format!("Described in {}. Ctrl-C ends both chains. {kept}", chain_json.display()),
    ]);
    lines.join("\n")
}

/// Returns every address with its key, in the order of the file.
fn address_lines(devnet: &Devnet) -> Vec<String> {
    let Value::Object(addresses) = devnet.deployment().addresses.to_json() else {
        return Vec::new();
    };
    let row = |(key, value): (String, Value)| {
        value.as_str().map(|address| format!("  {key:<32}  {address}"))
    };
    addresses.into_iter().filter_map(row).collect()
}
