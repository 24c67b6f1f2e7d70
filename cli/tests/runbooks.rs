//! The runbooks about money, as they are written, on a network of `hawser dev`: in its folder, and without a setting
//! that names chains or contracts.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use alloy::providers::Provider as _;
use hawser_chain::send::Chain;
use hawser_conformance::envelopes::{message, new_group};
use hawser_devchain::deploy;
use hawser_devchain::devnet::SETTLEMENT_ID;
use serde_json::{Value, json};

use crate::support::chains::write_key;
use crate::support::runbooks::{PageNetwork, Places, commands};
use crate::support::{self, Dev, free_base, hawser};

/// Envelopes that are published at once.
const ENVELOPES: usize = 20;
/// Nodes of the network, which is the default.
const NODES: usize = 3;

/// Publishes new messages at the first node.
fn publish(dev: &Dev, place: &Path) {
    let topic = new_group();
    let line = |_| json!({ "hex": hex::encode(message(&topic)) }).to_string();
    let lines: Vec<_> = (0..ENVELOPES).map(line).collect();
    let file = place.join("envelopes.jsonl");
    fs::write(&file, lines.join("\n")).unwrap();
    assert_eq!(dev.publish(0, file.to_str().unwrap())["published"], ENVELOPES);
}

/// The reports about the first node, as it sees them.
fn reports(dev: &Dev) -> Vec<Value> {
    support::reports(&dev.text(0, "metrics"), 100)
}

/// Settles a report about the first node, and returns its id. The nodes' own workers may take any step first, so all
/// are taken until the chain has it.
fn settle_one(dev: &Dev, place: &Path) -> String {
    let minute = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 60;
    publish(dev, place);
    let first = minute();
    // A report ends with a minute that is followed by another one with usage.
    support::until("the next minute", || minute() != first);
    publish(dev, place);
    let step = |step: &str, node: usize| {
        let data_dir = dev.text(node, "data_dir");
        support::run(&["report", step, "--about", "100", "--data-dir", &data_dir]);
    };
    support::until("the report is settled", || {
        step("generate", 0);
        (0..NODES).for_each(|node| step("attest", node));
        step("submit", 0);
        step("settle", 0);
        reports(dev).iter().any(|report| report["state"] == "settled")
    });
    reports(dev).remove(0)["id"].as_str().unwrap().to_owned()
}

#[test]
fn each_command_of_the_runbooks_runs_in_the_folder_of_a_development_network() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(&place.path().join("hawser-dev"), free_base(3), &[]);
    let report = settle_one(&dev, place.path());
    // The nodes of a development network belong to the account that deploys it.
    let owner = deploy::deployer();
    let key = place.path().join("owner.key");
    write_key(key.clone(), &owner.to_bytes().to_string());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = dev.network["settlement_chain"]["rpc"].as_str().unwrap();
    let api = |node| format!("http://{}", dev.text(node, "grpc"));
    let pages = PageNetwork {
        places: Places {
            payer: owner.address().to_string(),
            key_file: dev.payer_key().to_str().unwrap().to_owned(),
            report,
            metrics: dev.text(0, "metrics"),
            apis: [api(0), api(1)],
        },
        data_dir: dev.text(0, "data_dir"),
        owner: &|words| {
            let mut command = hawser();
            command.args(words).stdin(Stdio::null()).current_dir(place.path());
            command.env("HAWSER_KEY_FILE", &key);
            command
        },
        pass_time: &|seconds| {
            runtime.block_on(async {
                let chain = Chain::connect(url, SETTLEMENT_ID).await.unwrap();
                let increase = ("evm_increaseTime", json!([seconds]));
                for (method, params) in [increase, ("evm_mine", json!([]))] {
                    chain.provider().raw_request::<_, Value>(method.into(), params).await.unwrap();
                }
            });
        },
    };
    pages.run_pages();
    assert!(dev.stop().success());
}

#[test]
fn a_page_is_read_line_by_line() {
    let all = commands("fund-a-payer.md");
    let cancel = all.iter().find(|it| it.words == ["payer", "withdraw", "cancel"]).unwrap();
    assert_eq!(cancel.remark, "instead");
    assert!(all.iter().any(|it| it.words[0] == "chain-watcher"), "{all:?}");
}

/// Returns the command of a text that begins with `hawser`, also if it runs as the user of a service.
fn command_of(text: &str) -> Option<String> {
    let users = ["runuser -u hawser -- ", "runuser -u hawser-gateway -- ", "sudo -u hawser "];
    let text = users.iter().find_map(|user| text.strip_prefix(user)).unwrap_or(text);
    text.starts_with("hawser ").then(|| text.to_owned())
}

/// Returns the commands of a page: lines that begin with one, and those in backticks within a sentence.
fn all_commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ").replace("--data-dir …", "--data-dir DIR");
    // Units of systemd have commands too.
    let text = text.replace("ExecStart=/usr/local/bin/", "");
    let mut commands = Vec::new();
    for line in text.lines().map(str::trim) {
        match command_of(line) {
            Some(command) => commands.push(command),
            None => commands.extend(line.split('`').skip(1).step_by(2).filter_map(command_of)),
        }
    }
    commands
}

/// Returns true for a command of a runbook that judges what nodes have signed, and names no keys to judge by. Only the
/// folder of a development network has them.
fn lacks_keys(command: &str) -> bool {
    let judging = [
        "audit network --",
        "audit replay --",
        "audit report http",
        "misbehavior export",
        "misbehavior show",
    ];
    let judges = command
        .strip_prefix("hawser ")
        .is_some_and(|rest| judging.iter().any(|it| rest.starts_with(it)));
    judges && !command.contains("--registry")
}

/// Operators follow runbooks under pressure, so a command or a flag that does not exist costs them time.
#[test]
fn every_command_of_the_pages_for_operators_exists_with_its_flags() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folders = ["docs/runbooks", "deploy/systemd"].map(|folder| fs::read_dir(root.join(folder)));
    let pages = folders.into_iter().flat_map(Result::unwrap).map(|page| page.unwrap().path());
    let (mut seen, mut broken) = (0, Vec::new());
    let others = [
        "README.md",
        "docs/administration.md",
        "docs/bench.md",
        "docs/beside-xmtpd.md",
        "docs/chain-watcher.md",
        "docs/clients.md",
        "docs/conformance.md",
        "docs/development.md",
        "docs/gateway.md",
        "docs/network-watcher.md",
        "docs/operating.md",
        "docs/performance.md",
        "docs/proxies.md",
        "docs/auditing.md",
        "docs/audit-export.md",
        "docs/audit-at-scale.md",
        "docs/configuration.md",
        "docs/log-codes.md",
        "docs/status.md",
        "docs/api/README.md",
        "docs/protocol/chain-strands.md",
        "docs/protocol/contract-wallets.md",
        "contracts/README.md",
    ];
    let others = others.map(|page| root.join(page));
    for page in pages.chain(others) {
        for command in all_commands(&fs::read_to_string(&page).unwrap()) {
            if page.parent().is_some_and(|folder| folder.ends_with("runbooks"))
                && lacks_keys(&command)
            {
                broken.push(format!("{}: {command}: no --registry", page.display()));
            }
            // A remark or another program may follow.
            let words = command.split_whitespace().skip(1);
            let words = words.take_while(|word| !["#", "|", ">", ">>", "help"].contains(word));
            let words = words.filter(|word| *word != "…");
            let words = words.map(|word| match word {
                "FILTER" => "debug",
                "0x…" | "ADDRESS" => "0x74f3CC12197b6Aa1cB71844E98922db008E4C1Ef",
                "ID" | "N" | "IDS…" | "$users" => "1",
                own => own,
            });
            let words: Vec<_> = words.chain(["--help"]).collect();
            let output = support::run(&words);
            if !output.status.success() {
                let page = page.file_name().unwrap().to_string_lossy();
                broken.push(format!("{page}: {command}: {}", support::stderr(&output)));
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} commands");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
