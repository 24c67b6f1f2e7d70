//! The runbooks about money are run: every command of their pages, in its order, on a network that has settled a report.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::network::{MoneyNetwork, MoneySettings, NODES, next_minute};
use crate::support::{self, stderr, stdout};

/// A command of a page, as words.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PageCommand {
    words: Vec<String>,
    /// The rest of its line.
    remark: String,
}

/// The commands of a page in order: its indented lines, and those within a sentence.
fn commands(page: &str) -> Vec<PageCommand> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/runbooks").join(page);
    let text = fs::read_to_string(path).unwrap();
    let mut commands = Vec::new();
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("    hawser ") {
            let (command, remark) = line.split_once('#').unwrap_or((line, ""));
            let words = command.split_whitespace().map(str::to_owned).collect();
            commands.push(PageCommand { words, remark: remark.trim().to_owned() });
        } else {
            let quoted = line.split('`').skip(1).step_by(2);
            for command in quoted.filter_map(|it| it.strip_prefix("hawser ")) {
                let words = command.split_whitespace().map(str::to_owned).collect();
                commands.push(PageCommand { words, remark: String::new() });
            }
        }
    }
    assert!(commands.len() > 8, "{page}: {commands:?}");
    commands
}

/// The values that stand in a page's places for the reader's own.
struct Places {
    payer: String,
    key_file: String,
    report: String,
    metrics: String,
    apis: [String; 2],
}

impl Places {
    /// Returns a command with this network's values.
    fn fill(&self, command: &PageCommand) -> Vec<String> {
        let filled = command.words.iter().map(|word| match word.as_str() {
            "0x…" | "ADDRESS" => self.payer.clone(),
            "FILE" => self.key_file.clone(),
            "ID" => self.report.clone(),
            "127.0.0.1:8008" => self.metrics.clone(),
            "http://node:5050" | "http://THIS-NODE:5050" => self.apis[0].clone(),
            "http://ANOTHER:5050" => self.apis[1].clone(),
            own => {
                let is_blank = own.len() > 1
                    && own.chars().all(|letter| letter.is_ascii_uppercase() || letter == '-');
                assert!(!is_blank && !own.contains('…'), "{own} has no value: {command:?}");
                own.to_owned()
            }
        });
        filled.collect()
    }
}

/// Settles a report about the first node.
fn settle_one(network: &mut MoneyNetwork) -> String {
    network.traffic("first");
    next_minute();
    network.traffic("second");
    network.replicate();
    network.until_done(0, "generate", NODES[0]);
    network.replicate();
    for at in 0..NODES.len() {
        network.until_done(at, "attest", NODES[0]);
    }
    network.replicate();
    network.until_done(0, "submit", NODES[0]);
    network.until_done(1, "settle", NODES[0]);
    support::until("the settlement is seen", || {
        let reports = network.reports(0, NODES[0]);
        reports.iter().any(|report| report["state"] == "settled")
    });
    let report = network.reports(0, NODES[0]).remove(0);
    report["id"].as_str().unwrap().to_owned()
}

#[test]
fn each_command_of_the_runbooks_does_what_the_page_says() {
    let mut network = MoneyNetwork::start(MoneySettings::default());
    let report = settle_one(&mut network);
    let places = Places {
        payer: network.owner_address(),
        key_file: network.file("key-0"),
        report,
        metrics: network.metrics(0),
        apis: [network.api(0), network.api(1)],
    };
    for command in commands("earn-as-a-node.md") {
        let mut words = places.fill(&command);
        let about = words[..2.min(words.len())].join(" ");
        match about.as_str() {
            // The page says so once, for all of them.
            "report list" | "report explain" => {
                words.extend(["--metrics".into(), network.metrics(0)])
            }
            "report generate" | "report attest" | "report submit" | "report settle" => {
                words.extend(["--data-dir".into(), network.data_dir(0)]);
            }
            "chain-watcher --sender" => words.push("--once".into()),
            _ => {}
        }
        succeeds(&network, &command, &words);
    }
    // The owner of the first node has its share, and nothing more is owed to it.
    let owed = network.as_owner(&["fees", "show"]);
    let of_first = |owed: &Value| owed["nodes"][0]["owed"]["microdollars"].clone();
    assert_eq!(of_first(&owed), "0", "{owed}");
    assert_eq!(owed["reports"][0]["claimed_by"], json!([NODES[0]]), "{owed}");

    for command in commands("fund-a-payer.md") {
        let words = places.fill(&command);
        match words.join(" ").as_str() {
            // A name and no whole command.
            "payer usage" => continue,
            "payer withdraw finalize" => network.pass_time(3 * 24 * 3600),
            "payer withdraw cancel" => {
                network.as_owner(&["payer", "withdraw", "request", "--amount", "10"]);
            }
            _ => {}
        }
        succeeds(&network, &command, &words);
    }
    let balance = network.as_owner(&["payer", "balance"]);
    assert_eq!(
        balance["balance"]["usd"], "70",
        "100 and 20 in, 50 out, and 10 that stay: {balance}"
    );
    assert_eq!(balance["withdrawal"], Value::Null, "{balance}");
    network.stop();
}

fn succeeds(network: &MoneyNetwork, command: &PageCommand, words: &[String]) {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let output = network.owner_text(&words).output().unwrap();
    let said = format!("{}{}", stdout(&output), stderr(&output));
    assert!(output.status.success(), "{command:?}: {said}");
    assert!(!said.is_empty(), "{command:?} says something");
}

#[test]
fn a_page_is_read_line_by_line() {
    let all = commands("fund-a-payer.md");
    let cancel = all.iter().find(|it| it.words == ["payer", "withdraw", "cancel"]).unwrap();
    assert_eq!(cancel.remark, "instead");
    assert!(all.iter().any(|it| it.words[0] == "chain-watcher"), "{all:?}");
}
