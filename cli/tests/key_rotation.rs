//! `hawser keys rotate` from the first step to the last, with the commands that it prints.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::chains::{ADMIN, Chains, write_key};
use crate::support::fake_node::FakeNode;
use crate::support::{hawser, run, stderr};

/// A node that says that it holds these strands.
fn node(heads: &[(u32, u64)]) -> FakeNode {
    FakeNode::start(heads, |_, _| Vec::new())
}

struct Rotation {
    chains: Chains,
    old_key: PathBuf,
    new_key: PathBuf,
}

impl Rotation {
    /// A network with the old node alone.
    fn begin(old: &FakeNode) -> Self {
        let chains = Chains::start();
        let old_key = chains.folder.path().join("node.key");
        let made = run(&["keys", "generate", "--out", old_key.to_str().unwrap()]);
        assert!(made.status.success(), "{}", stderr(&made));
        let file = old_key.to_str().unwrap();
        let owner = chains.accounts[ADMIN].clone();
        let words = ["registry", "node", "add", "--owner", &owner, "--http-address", &old.url()];
        chains.json(ADMIN, &[&words[..], &["--node-key-file", file, "--yes"]].concat());
        chains.json(ADMIN, &["registry", "canonical", "add", "100", "--yes"]);
        let new_key = chains.folder.path().join("node.key.new");
        Self { chains, old_key, new_key }
    }

    fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let key = ["keys", "rotate", "--json", "--key-file", self.old_key.to_str().unwrap()];
        [&key[..], more].concat()
    }

    /// The exit code of the command, and its answer.
    fn ask(&self, more: &[&str]) -> (Option<i32>, Value) {
        let output = self.chains.run(ADMIN, &self.words(more));
        let said = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), said)
    }

    /// The steps with their states.
    fn states(&self) -> (Option<i32>, Vec<String>, Value) {
        let (code, said) = self.ask(&["--check"]);
        let steps = said["steps"].as_array().unwrap_or_else(|| panic!("{said}")).iter();
        let state = |step: &Value| step["state"].as_str().unwrap().to_owned();
        (code, steps.map(state).collect(), said)
    }

    /// Runs the command that the plan has for a step, as the administrator.
    fn take(&self, said: &Value, step: usize) {
        let command = said["steps"][step]["command"].as_str().unwrap();
        let admin = self.chains.key(ADMIN);
        let words: Vec<_> = command.split(' ').skip(1).collect();
        let words = words.iter().map(|word| match *word {
            "ADMIN-KEY" => admin.to_str().unwrap(),
            own => own,
        });
        let words: Vec<_> = words.chain(["--yes"]).collect();
        let output = self.chains.run(ADMIN, &words);
        assert!(output.status.success(), "{command}: {}", stderr(&output));
    }
}

fn mode_and_text(path: &Path) -> (u32, String) {
    (fs::metadata(path).unwrap().mode() & 0o777, fs::read_to_string(path).unwrap())
}

#[test]
fn each_step_is_seen_on_the_chain_or_at_the_nodes() {
    const DONE: &str = "done";
    let old = node(&[(0, 50), (100, 5_000)]);
    let late = node(&[(0, 50), (100, 4_000)]);
    let close = node(&[(0, 50), (100, 4_950), (200, 3)]);
    let whole = node(&[(0, 51), (100, 5_000), (200, 3)]);
    let rotation = Rotation::begin(&old);

    let (code, states, said) = rotation.states();
    assert_eq!(code, Some(9), "{said}");
    assert_eq!(states, ["next", "open", "open", "open", "open", "open", "open"]);
    assert!(!rotation.new_key.exists(), "a check writes nothing");

    let sent = rotation.chains.transactions_of(ADMIN);
    let url = late.url();
    let (code, said) = rotation.ask(&["--http-address", &url]);
    assert_eq!(code, Some(0), "{said}");
    let written = mode_and_text(&rotation.new_key);
    assert_eq!(written.0, 0o600);
    let (_, again) = rotation.ask(&["--http-address", &url]);
    assert_eq!(mode_and_text(&rotation.new_key), written, "the key stays");
    assert_eq!(again["new_public_key"], said["new_public_key"]);
    assert_eq!(rotation.chains.transactions_of(ADMIN), sent, "nothing was sent");
    assert!(!said.to_string().contains(written.1.trim()), "a secret was printed");

    rotation.take(&said, 1);
    let (_, states, said) = rotation.states();
    assert_eq!(states[..4], [DONE, DONE, DONE, "next"], "{said}");
    assert_eq!((&said["old_node_id"], &said["new_node_id"]), (&100.into(), &200.into()));
    let found = said["steps"][3]["found"].as_str().unwrap();
    assert!(found.contains("100 by 1000 places"), "{found}");

    let owner = |url: &str| {
        rotation.chains.json(ADMIN, &["registry", "node", "update-http", "200", url, "--yes"]);
    };
    owner(&close.url());
    let (_, states, said) = rotation.states();
    assert_eq!(states[3..], [DONE, "next", "open", "open"], "{said}");
    rotation.take(&said, 4);
    rotation.take(&said, 5);
    let (code, states, said) = rotation.states();
    assert_eq!(states[4..], [DONE, DONE, "next"], "its last places have not arrived: {said}");
    assert_eq!(code, Some(9));
    owner(&whole.url());
    let (code, states, said) = rotation.states();
    assert_eq!((code, states), (Some(0), vec![DONE.to_owned(); 7]), "{said}");

    // A node that claims more than there is, and one that has gone.
    owner("http://127.0.0.1:1");
    let (code, states, said) = rotation.states();
    assert_eq!(code, Some(9), "{said}");
    assert_eq!(states[2], "next", "{said}");
    owner(&old.url());
    let (_, states, said) = rotation.states();
    assert_eq!(states[2], "next", "both nodes at one address: {said}");
}

#[test]
fn nothing_is_written_for_a_node_that_is_not_registered_or_over_a_file_that_is_there() {
    let old = node(&[(100, 1)]);
    let rotation = Rotation::begin(&old);
    let folder = rotation.chains.folder.path();
    let stranger = folder.join("stranger.key");
    assert!(run(&["keys", "generate", "--out", stranger.to_str().unwrap()]).status.success());
    let words = ["keys", "rotate", "--key-file", stranger.to_str().unwrap()];
    rotation.chains.failure(ADMIN, 4, &words);
    assert!(!folder.join("stranger.key.new").exists());

    let same = ["--new-key-file", rotation.old_key.to_str().unwrap()];
    rotation.chains.failure(ADMIN, 3, &rotation.words(&same));
    let other = folder.join("other.txt");
    write_key(other.clone(), "no key");
    let onto = ["--new-key-file", other.to_str().unwrap()];
    rotation.chains.failure(ADMIN, 1, &rotation.words(&onto));
    assert_eq!(fs::read_to_string(&other).unwrap(), "no key");
    let output = hawser().args(["keys", "rotate"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}
