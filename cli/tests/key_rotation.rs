//! `hawser keys rotate` from the first step to the last, with the commands that it prints.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use hawser_proto::SecretKey;
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
        let rotation = Self { chains, old_key, new_key };
        old.sign_as(100, secret(&rotation.old_key));
        rotation
    }

    fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let key = ["keys", "rotate", "--json", "--key-file", self.old_key.to_str().unwrap()];
        [&key[..], more].concat()
    }

    /// The exit code of the command, and its answer.
    fn ask(&self, more: &[&str]) -> (Option<i32>, Value) {
        let output = self.chains.run(ADMIN, &self.words(more));
        let plan = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), plan)
    }

    /// The steps with their states.
    fn states(&self) -> (Option<i32>, Vec<String>, Value) {
        let (code, plan) = self.ask(&["--check"]);
        let steps = plan["steps"].as_array().unwrap_or_else(|| panic!("{plan}")).iter();
        let state = |step: &Value| step["state"].as_str().unwrap().to_owned();
        (code, steps.map(state).collect(), plan)
    }

    /// Runs the command that the plan has for a step, as the administrator.
    fn take(&self, plan: &Value, step: usize) {
        let command = plan["steps"][step]["command"].as_str().unwrap();
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

fn secret(file: &Path) -> SecretKey {
    SecretKey::from_hex(fs::read_to_string(file).unwrap().trim()).unwrap()
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

    let (code, states, plan) = rotation.states();
    assert_eq!(code, Some(9), "{plan}");
    assert_eq!(states, ["next", "open", "open", "not_known", "open", "open", "not_known"]);
    assert!(!rotation.new_key.exists(), "a check writes nothing");

    let sent = rotation.chains.transactions_of(ADMIN);
    let url = late.url();
    let (code, plan) = rotation.ask(&["--http-address", &url]);
    assert_eq!(code, Some(0), "{plan}");
    let written = mode_and_text(&rotation.new_key);
    assert_eq!(written.0, 0o600);
    let (_, again) = rotation.ask(&["--http-address", &url]);
    assert_eq!(mode_and_text(&rotation.new_key), written, "the key stays");
    assert_eq!(again["new_public_key"], plan["new_public_key"]);
    assert_eq!(rotation.chains.transactions_of(ADMIN), sent, "nothing was sent");
    assert!(!plan.to_string().contains(written.1.trim()), "a secret was printed");
    // Another person on another machine runs it, who must not need the file.
    let register = plan["steps"][1]["command"].as_str().unwrap();
    assert!(register.contains(plan["new_public_key"].as_str().unwrap()), "{register}");
    assert!(!register.contains(rotation.new_key.to_str().unwrap()), "{register}");

    rotation.take(&plan, 1);
    for new in [&late, &close, &whole] {
        new.sign_as(200, secret(&rotation.new_key));
    }
    let (_, states, plan) = rotation.states();
    assert_eq!(states[..4], [DONE, DONE, DONE, "next"], "{plan}");
    assert_eq!((&plan["old_node_id"], &plan["new_node_id"]), (&100.into(), &200.into()));
    let found = plan["steps"][3]["found"].as_str().unwrap();
    assert!(found.contains("100 by 1000 places"), "{found}");

    let owner = |url: &str| {
        rotation.chains.json(ADMIN, &["registry", "node", "update-http", "200", url, "--yes"]);
    };
    owner(&close.url());
    let (_, states, plan) = rotation.states();
    assert_eq!(states[3..], [DONE, "next", "open", "open"], "{plan}");
    rotation.take(&plan, 4);
    rotation.take(&plan, 5);
    let (code, states, plan) = rotation.states();
    assert_eq!(states[4..], [DONE, DONE, "next"], "its last places have not arrived: {plan}");
    assert_eq!(code, Some(9));
    owner(&whole.url());
    let (code, states, plan) = rotation.states();
    assert_eq!((code, states), (Some(0), vec![DONE.to_owned(); 7]), "{plan}");

    // A node that has stopped.
    owner("http://127.0.0.1:1");
    let (code, states, plan) = rotation.states();
    assert_eq!(code, Some(9), "{plan}");
    assert_eq!(states[2], "next", "{plan}");
    owner(&old.url());
    let (_, states, plan) = rotation.states();
    assert_eq!(states[2], "next", "both nodes at one address: {plan}");
}

#[test]
fn the_old_node_behind_the_new_address_is_not_taken_for_the_new_node() {
    const HEADS: [(u32, u64); 2] = [(0, 50), (100, 5_000)];
    let old = node(&HEADS);
    let rotation = Rotation::begin(&old);
    // Another address of the old node, as a second name or a balancer has it.
    let balancer = node(&HEADS);
    balancer.sign_as(100, secret(&rotation.old_key));
    let (_, plan) = rotation.ask(&["--http-address", &balancer.url()]);
    rotation.take(&plan, 1);
    rotation.chains.json(ADMIN, &["registry", "canonical", "add", "200", "--yes"]);
    rotation.chains.json(ADMIN, &["registry", "canonical", "remove", "100", "--yes"]);
    let seen = || {
        let (code, states, plan) = rotation.states();
        let found = plan["steps"][2]["found"].as_str().unwrap().to_owned();
        (code, [2, 3, 6].map(|step| states[step].clone()), found)
    };
    let unproven = |state: &str| [state, "not_known", "not_known"].map(str::to_owned);

    let (code, states, found) = seen();
    assert_eq!((code, states), (Some(9), unproven("next")), "{found}");
    assert!(found.contains("leads to node 100, not to 200"), "{found}");
    // It names the new node, and has not its key.
    balancer.sign_as(200, secret(&rotation.old_key));
    let (code, states, found) = seen();
    assert_eq!((code, states), (Some(9), unproven("next")), "{found}");
    assert!(found.contains("without the key"), "{found}");
    // A node that shows nothing that it signed, as one of other software.
    let silent = node(&HEADS);
    let url = silent.url();
    rotation.chains.json(ADMIN, &["registry", "node", "update-http", "200", &url, "--yes"]);
    let (code, states, found) = seen();
    assert_eq!((code, states), (Some(9), unproven("not_known")), "{found}");
    // The same address in another form.
    let url = format!("{}/", old.url());
    rotation.chains.json(ADMIN, &["registry", "node", "update-http", "200", &url, "--yes"]);
    let (code, states, found) = seen();
    assert_eq!((code, states), (Some(9), unproven("next")), "{found}");
    assert_eq!(found, "both nodes are registered at one address");
    // With the key it is the new node.
    silent.sign_as(200, secret(&rotation.new_key));
    let url = silent.url();
    rotation.chains.json(ADMIN, &["registry", "node", "update-http", "200", &url, "--yes"]);
    let (code, states, plan) = rotation.states();
    assert_eq!((code, states), (Some(0), vec!["done".to_owned(); 7]), "{plan}");
    // The new node at the old address proves nothing of the old strand.
    old.sign_as(200, secret(&rotation.new_key));
    let (code, states, found) = seen();
    assert_eq!((code, states), (Some(9), unproven("done")), "{found}");
}

/// The old node holds everything and the new one has the key: answers of both would make a whole node.
#[test]
fn answers_of_both_nodes_behind_a_balancer_are_not_taken_for_those_of_the_new_node() {
    let old = node(&[(0, 50), (100, 5_000)]);
    let rotation = Rotation::begin(&old);
    let new = node(&[(0, 50), (100, 1)]);
    let (_, plan) = rotation.ask(&["--http-address", &new.url()]);
    rotation.take(&plan, 1);
    new.sign_as(200, secret(&rotation.new_key));
    new.share_calls_with(&old);
    for _ in 0..3 {
        let (code, states, plan) = rotation.states();
        assert_eq!(code, Some(9), "{plan}");
        assert_eq!(states[2..4], ["next", "not_known"], "{plan}");
        let found = plan["steps"][2]["found"].as_str().unwrap();
        assert!(found.contains("leads to node 100, not to 200"), "{found}");
    }
}

#[test]
fn a_stopped_old_node_that_has_left_leaves_two_steps_not_known() {
    let rotation;
    let new = node(&[(0, 50), (100, 5_000)]);
    {
        let old = node(&[(0, 50), (100, 5_000)]);
        rotation = Rotation::begin(&old);
        let (_, plan) = rotation.ask(&["--http-address", &new.url()]);
        rotation.take(&plan, 1);
        new.sign_as(200, secret(&rotation.new_key));
        rotation.chains.json(ADMIN, &["registry", "canonical", "add", "200", "--yes"]);
    }
    let (code, states, plan) = rotation.states();
    assert_eq!((code, states[3].as_str()), (Some(9), "next"), "it may come back: {plan}");
    rotation.chains.json(ADMIN, &["registry", "canonical", "remove", "100", "--yes"]);
    let (code, states, plan) = rotation.states();
    assert_eq!(code, Some(9), "{plan}");
    assert_eq!(
        states,
        ["done", "done", "done", "not_known", "done", "done", "not_known"],
        "{plan}"
    );
}

#[test]
fn each_printed_command_can_be_pasted_and_the_rest_is_a_note() {
    let old = node(&[(0, 50), (100, 5_000)]);
    let rotation = Rotation::begin(&old);
    let (_, _, plan) = rotation.states();
    for step in plan["steps"].as_array().unwrap() {
        let Some(command) = step["command"].as_str() else {
            assert_eq!(step["step"], "hand_over", "{step}");
            continue;
        };
        // The words after the options name values that only the operator knows.
        let words = command.strip_prefix("hawser ").unwrap_or_else(|| panic!("{command}"));
        let words: Vec<_> = words.split(' ').collect();
        assert!(!command.contains([';', '(', ')']) && !command.contains(", "), "{command}");
        let help: Vec<_> = words.iter().take_while(|word| !word.starts_with('-')).collect();
        let is_name = |word: &&str| word.parse::<u32>().is_err() && *word != "NEW-ID";
        let help = help.into_iter().copied().filter(is_name);
        let help: Vec<_> = help.chain(["--help"]).collect();
        let output = run(&help);
        assert!(output.status.success(), "{command}: {}", stderr(&output));
    }
    let note = |step: usize| plan["steps"][step]["note"].as_str().unwrap();
    let start = plan["steps"][2]["command"].as_str().unwrap();
    assert!(start.ends_with(" --new-strand") && note(2).contains("first start only"), "{plan}");
    assert!(note(3).contains("wait") && note(6).contains("6 hours"), "{plan}");
    // The first command is the one that writes the key.
    assert!(!rotation.new_key.exists());
    let key = plan["steps"][0]["command"].as_str().unwrap();
    let words: Vec<_> = key.split(' ').skip(1).collect();
    let output = rotation.chains.run(ADMIN, &words);
    assert!(output.status.success(), "{key}: {}", stderr(&output));
    assert!(rotation.new_key.exists());
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
