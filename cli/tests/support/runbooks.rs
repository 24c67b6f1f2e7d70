//! The pages of runbooks as commands, and a network on which they are run.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::chains::confirmed;
use super::{stderr, stdout};

/// The node whose owner runs the pages.
const NODE: u32 = 100;

/// A command of a page, as words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageCommand {
    pub words: Vec<String>,
    /// The rest of its line.
    pub remark: String,
}

/// The commands of a page in order: its indented lines, and those within a sentence.
pub fn commands(page: &str) -> Vec<PageCommand> {
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
pub struct Places {
    pub payer: String,
    pub key_file: String,
    pub report: String,
    pub metrics: String,
    pub apis: [String; 2],
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

/// A network on which pages are run, as its reader has it.
pub struct PageNetwork<'a> {
    pub places: Places,
    /// The data folder of the first node.
    pub data_dir: String,
    /// A command for the owner of the nodes, who is a payer too.
    pub owner: &'a dyn Fn(&[&str]) -> Command,
    /// Lets this many seconds pass on the settlement chain.
    pub pass_time: &'a dyn Fn(u64),
}

impl PageNetwork<'_> {
    /// Runs every command of both pages in order.
    pub fn run_pages(&self) {
        for command in commands("earn-as-a-node.md") {
            let mut words = self.places.fill(&command);
            let about = words[..2.min(words.len())].join(" ");
            match about.as_str() {
                // The page says so once, for all of them.
                "report list" | "report explain" => {
                    words.extend(["--metrics".into(), self.places.metrics.clone()]);
                }
                "report generate" | "report attest" | "report submit" | "report settle" => {
                    words.extend(["--data-dir".into(), self.data_dir.clone()]);
                }
                "chain-watcher --sender" => words.push("--once".into()),
                _ => {}
            }
            self.succeeds(&command, &words);
        }
        // The owner of the first node has its share, and nothing more is owed to it.
        let owed = self.json(&["fees", "show"]);
        let of_first = |owed: &Value| owed["nodes"][0]["owed"]["microdollars"].clone();
        assert_eq!(of_first(&owed), "0", "{owed}");
        assert_eq!(owed["reports"][0]["claimed_by"], json!([NODE]), "{owed}");

        for command in commands("fund-a-payer.md") {
            let words = self.places.fill(&command);
            match words.join(" ").as_str() {
                // A name and no whole command.
                "payer usage" => continue,
                "payer withdraw finalize" => (self.pass_time)(3 * 24 * 3600),
                "payer withdraw cancel" => {
                    self.json(&["payer", "withdraw", "request", "--amount", "10"]);
                }
                _ => {}
            }
            self.succeeds(&command, &words);
        }
        let balance = self.json(&["payer", "balance"]);
        assert_eq!(
            balance["balance"]["usd"], "70",
            "100 and 20 in, 50 out, and 10 that stay: {balance}"
        );
        assert_eq!(balance["withdrawal"], Value::Null, "{balance}");
    }

    fn succeeds(&self, command: &PageCommand, words: &[String]) {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let output = (self.owner)(&confirmed(&words)).output().unwrap();
        let printed = format!("{}{}", stdout(&output), stderr(&output));
        assert!(output.status.success(), "{command:?}: {printed}");
        assert!(!printed.is_empty(), "{command:?} says something");
    }

    fn json(&self, words: &[&str]) -> Value {
        let output = (self.owner)(&confirmed(words)).arg("--json").output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}
