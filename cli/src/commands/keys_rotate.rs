//! `hawser keys rotate`: a new node with a new key in place of an old one.
//!
//! The registry does not permit a change of a key. So the command makes a key, prints the steps with their commands,
//! and determines from the registry and both nodes which steps are done. It sends nothing to a chain, and never
//! replaces a file.
//!
//! **An address proves no node.** A balancer or a name may still lead to the old node, and a comparison of it with
//! itself would show that all is well. So the new node counts as started only if a checkpoint that it signed as an
//! observer of a chain's strand comes from its address, each of the times that it is asked.

mod answers;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use hawser_chain::admin::nodes::{self, RegisteredNode};
use hawser_node::error::RunError;
use hawser_node::files::key;
use hawser_proto::{Cursor, PublicKey, SequenceId};
use serde_json::{Value, json};

use answers::{AnsweringNode, BothCursors};

use super::onchain::{self, ChainsNeeded};
use crate::args::keys::KeysRotateArgs;
use crate::{exit_codes, output};

/// The part of the start that is not in its command.
const START_NOTE: &str = "with the old node's other settings. --new-strand is for the first start only: leave it out afterwards, because a node \
                          refuses to begin a strand that has an envelope. No process has both keys";

/// Runs the command.
///
/// # Errors
/// When the old key is not registered, the registry cannot be read, or the new key cannot be written; with `--check`,
/// with the exit code for steps that are left or not known.
pub(super) async fn run(args: &KeysRotateArgs, as_json: bool) -> Result<(), RunError> {
    let old_key = key::read(&args.key_file).map_err(|error| error.at(&args.key_file))?.public_key();
    // The key comes last: nothing is written for a node that the registry does not have.
    let network = onchain::connect(&args.network, ChainsNeeded::Settlement).await?;
    let old = nodes::with_key(&network, old_key.as_bytes()).await?.ok_or_else(|| {
        RunError::not_found(format!("the registry has no node with the key {}", old_key.address()))
    })?;
    let (file, new_key) = new_key(args)?;
    if new_key.as_ref() == Some(&old_key) {
        let text =
            format!("{} holds the old key: name another file for the new one", file.display());
        return Err(RunError::refused(text));
    }
    let new = match &new_key {
        Some(key) => nodes::with_key(&network, key.as_bytes()).await?,
        None => None,
    };
    let held = BothCursors::ask((&old, &old_key), new.as_ref().zip(new_key.as_ref())).await;
    let rotation = Rotation { args, file: &file, new_key, old, new, held };
    let steps = rotation.steps();
    rotation.print(&steps, as_json);
    match steps.iter().all(|step| step.state == StepState::Done) || !args.check {
        true => Ok(()),
        false => Err(exit_codes::answer(exit_codes::INCOMPLETE, "")),
    }
}

/// Returns the file of the new key and the key, which is made unless it is there. With `--check` there may be none.
fn new_key(args: &KeysRotateArgs) -> Result<(PathBuf, Option<PublicKey>), RunError> {
    let file = args.new_key_file.clone().unwrap_or_else(|| {
        let mut name = args.key_file.clone().into_os_string();
        name.push(".new");
        name.into()
    });
    let secret = match key::read(&file) {
        Ok(secret) => secret,
        Err(key::SecretFileError::Read(error)) if error.kind() == ErrorKind::NotFound => {
            if args.check {
                return Ok((file, None));
            }
            let secret = key::generate();
            key::write_new(&file, &secret)
                .map_err(|error| RunError::failed(format!("{}: {error}", file.display())))?;
            secret
        }
        Err(error) => return Err(error.at(&file)),
    };
    Ok((file, Some(secret.public_key())))
}

/// Returns an address in one form, as far as possible without resolving names.
fn normal(address: &str) -> String {
    let url = if address.contains("://") { address.into() } else { format!("http://{address}") };
    let Ok(uri) = url.parse::<http::Uri>() else { return url };
    let scheme = uri.scheme_str().unwrap_or_default().to_ascii_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    let host = uri.host().unwrap_or_default().to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    format!("{scheme}://{host}:{port}{}", uri.path().trim_end_matches('/'))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepState {
    Done,
    Open,
    /// Not known: the nodes that would show it do not answer, or other nodes answer at their addresses.
    NotKnown,
}

/// A step, its state, and the way to take it.
#[derive(Debug, PartialEq, Eq)]
struct RotationStep {
    name: &'static str,
    state: StepState,
    found: String,
    /// The command that takes the step, to be pasted into a shell.
    command: Option<String>,
    /// The part of the step that is no command.
    note: Option<&'static str>,
}

impl StepState {
    fn of(is_done: bool) -> Self {
        if is_done { Self::Done } else { Self::Open }
    }
}

/// Everything that is known about the rotation.
struct Rotation<'a> {
    args: &'a KeysRotateArgs,
    file: &'a Path,
    new_key: Option<PublicKey>,
    old: RegisteredNode,
    new: Option<RegisteredNode>,
    held: BothCursors,
}

impl Rotation<'_> {
    fn steps(&self) -> Vec<RotationStep> {
        vec![
            self.key(),
            self.register(),
            self.start(),
            self.catch_up(),
            self.join(),
            self.leave(),
            self.hand_over(),
        ]
    }

    fn key(&self) -> RotationStep {
        let file = self.file.display();
        RotationStep {
            name: "key",
            state: StepState::of(self.new_key.is_some()),
            found: match &self.new_key {
                Some(key) => format!("{file} has the new key, {}", key.address()),
                None => format!("{file} is not there"),
            },
            command: Some(self.without_check()),
            note: None,
        }
    }

    /// Returns this command as it writes the key.
    fn without_check(&self) -> String {
        let (old, new) =
            (self.args.key_file.display().to_string(), self.file.display().to_string());
        let words = ["keys", "rotate", "--key-file", &old, "--new-key-file", &new];
        let address = self.args.http_address.as_deref();
        let address = address.map(|address| ["--http-address", address]);
        let network = self.args.network.words();
        let network = network.iter().map(String::as_str);
        shell(
            &words
                .into_iter()
                .chain(address.into_iter().flatten())
                .chain(network)
                .collect::<Vec<_>>(),
        )
    }

    fn register(&self) -> RotationStep {
        let address = self.args.http_address.as_deref().unwrap_or("URL-OF-THE-NEW-NODE");
        let owner = self.old.owner.to_string();
        // The administrator may be another person, on another machine: the secret key stays where it is.
        let key =
            self.new_key.as_ref().map_or_else(|| "NEW-PUBLIC-KEY".to_owned(), ToString::to_string);
        let words = ["registry", "node", "add", "--owner", &owner, "--http-address", address];
        RotationStep {
            name: "register",
            state: StepState::of(self.new.is_some()),
            found: match &self.new {
                Some(new) => {
                    output::plain(&format!("node {} at {}", new.node_id, new.http_address))
                }
                None => {
                    "the registry does not have the new key; its administrator adds it".to_owned()
                }
            },
            command: Some(self.by_admin(&[&words[..], &["--public-key", &key]].concat())),
            note: None,
        }
    }

    fn start(&self) -> RotationStep {
        let file = self.file.display().to_string();
        let words = ["node", "--signer.private-key-file", &file, "--data-dir", "NEW-FOLDER"];
        let at = |node: &RegisteredNode| normal(&node.http_address);
        let shares = self.new.as_ref().is_some_and(|new| at(new) == at(&self.old));
        let (state, found) = match (&self.held.new, &self.held.speaker) {
            (Err(error), _) => (StepState::Open, error.clone()),
            _ if shares => (StepState::Open, "both nodes are registered at one address".to_owned()),
            (_, AnsweringNode::Proven) => {
                (StepState::Done, "the new node answers, with its own signature".to_owned())
            }
            (_, AnsweringNode::Other(text)) => (StepState::Open, text.clone()),
            (_, AnsweringNode::NotKnown(text)) => {
                (StepState::NotKnown, format!("a node answers, and has not proven its key: {text}"))
            }
        };
        RotationStep {
            name: "start",
            state,
            found,
            command: Some(shell(&[&words[..], &["--new-strand"]].concat())),
            note: Some(START_NOTE),
        }
    }

    /// Returns the state of a step that compares the nodes, for the case that they cannot be compared.
    fn incomparable(&self) -> Option<(StepState, String)> {
        let start = self.start();
        if start.state != StepState::Done {
            let text = format!(
                "the nodes are compared once the new node has proven its key: {}",
                start.found
            );
            return Some((StepState::NotKnown, text));
        }
        let error = self.held.old.as_ref().err()?;
        // A node that has left may have been stopped for good.
        let state = if self.old.is_canonical { StepState::Open } else { StepState::NotKnown };
        Some((state, error.clone()))
    }

    fn catch_up(&self) -> RotationStep {
        let (state, found) = self.incomparable().unwrap_or_else(|| {
            let behind = self.held.behind().unwrap_or_default();
            let most = behind.iter().max_by_key(|(_, places)| *places).map(|(id, places)| {
                let (behind, places) =
                    (output::count(behind.len(), "strand"), output::count(*places, "place"));
                format!("behind: {behind}, {id} by {places}")
            });
            let whole = || "the new node holds what the old one does".to_owned();
            (StepState::of(most.is_none()), most.unwrap_or_else(whole))
        });
        let command = ["status", "--metrics", "ADDR-OF-THE-NEW-NODE"];
        RotationStep {
            name: "catch_up",
            state,
            found,
            command: Some(shell(&command)),
            note: Some("wait: the new node fetches it by itself"),
        }
    }

    fn join(&self) -> RotationStep {
        let is_done = self.new.as_ref().is_some_and(|new| new.is_canonical);
        let id = self.new.as_ref().map_or_else(|| "NEW-ID".to_owned(), |it| it.node_id.to_string());
        RotationStep {
            name: "join",
            state: StepState::of(is_done),
            found: format!("the new node is {}", membership(is_done)),
            command: Some(self.by_admin(&["registry", "canonical", "add", &id])),
            note: None,
        }
    }

    fn leave(&self) -> RotationStep {
        let id = self.old.node_id.to_string();
        RotationStep {
            name: "leave",
            state: StepState::of(!self.old.is_canonical),
            found: format!("the old node is {}", membership(self.old.is_canonical)),
            command: Some(self.by_admin(&["registry", "canonical", "remove", &id])),
            note: None,
        }
    }

    /// The old node's strand has reached the new one to its end. The end moves while the old node takes envelopes.
    fn hand_over(&self) -> RotationStep {
        let strand = self.old.node_id;
        let place = |cursor: &Result<Cursor, String>| cursor.as_ref().map(|it| it.get(strand)).ok();
        let (old, new) = (place(&self.held.old), place(&self.held.new));
        let held = |place: Option<SequenceId>| {
            place.map_or_else(|| "is not known".to_owned(), |place| format!("is {place}"))
        };
        let is_whole = old.is_some() && new >= old;
        let (state, found) = self.incomparable().unwrap_or_else(|| {
            let state = StepState::of(is_whole && !self.old.is_canonical);
            let (old, new) = (held(old), held(new));
            let text = format!(
                "the end of the old strand {old} at the old node, and {new} at the new one"
            );
            (state, text)
        });
        RotationStep {
            name: "hand_over",
            state,
            found,
            command: None,
            note: Some(
                "leave the old node running for 6 hours at the least, and until the retention of its last \
                 envelopes has passed if readers know only its address",
            ),
        }
    }

    fn by_admin(&self, words: &[&str]) -> String {
        let network = self.args.network.words();
        let network = network.iter().map(String::as_str);
        let admin = ["--key-file", "ADMIN-KEY"];
        shell(&words.iter().copied().chain(admin).chain(network).collect::<Vec<_>>())
    }

    fn print(&self, steps: &[RotationStep], as_json: bool) {
        // A comparison that is not possible blocks no step. An unproven new node does, because it must not join.
        let is_next = |step: &RotationStep| match step.state {
            StepState::Done => false,
            StepState::Open => true,
            StepState::NotKnown => step.name == "start",
        };
        let next = steps.iter().position(is_next);
        let state = |place: usize| match (steps[place].state, Some(place) == next) {
            (StepState::Done, _) => "done",
            (StepState::Open, true) => "next",
            (StepState::Open, false) => "open",
            (StepState::NotKnown, _) => "not_known",
        };
        if as_json {
            let step = |(place, step): (usize, &RotationStep)| {
                let is_left = step.state != StepState::Done;
                json!({
                    "step": step.name,
                    "state": state(place),
                    "found": step.found,
                    "command": step.command.as_ref().filter(|_| is_left),
                    "note": step.note.filter(|_| is_left),
                })
            };
            output::line(json!({
                "old_node_id": self.old.node_id.0,
                "new_node_id": self.new.as_ref().map(|new| new.node_id.0),
                "new_key_file": self.file.display().to_string(),
                "new_public_key": self.new_key.as_ref().map_or(Value::Null, |key| json!(key.to_string())),
                "steps": steps.iter().enumerate().map(step).collect::<Vec<_>>(),
            }));
            return;
        }
        let address = output::plain(&self.old.http_address);
        output::line(format_args!("node {} at {address} gets a successor", self.old.node_id));
        for (place, step) in steps.iter().enumerate() {
            let number = place + 1;
            let state_is = state(place).replace('_', " ");
            output::line(format_args!("{state_is}  {number}. {}: {}", step.name, step.found));
            if step.state == StepState::Done {
                continue;
            }
            if let Some(command) = &step.command {
                output::line(format_args!("         {command}"));
            }
            if let Some(note) = step.note {
                output::line(format_args!("         ({note})"));
            }
        }
    }
}

fn membership(is_canonical: bool) -> &'static str {
    if is_canonical { "in the canonical network" } else { "not in the canonical network" }
}

/// Returns a command for a shell.
fn shell(words: &[&str]) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@%+,".contains(letter);
    let quoted = words.iter().map(|word| match !word.is_empty() && word.chars().all(is_plain) {
        true => (*word).to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    });
    format!("hawser {}", quoted.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_in_several_forms_is_one() {
        for same in ["https://n", "https://N/", "HTTPS://n:443", "https://n.:443/"] {
            assert_eq!(normal(same), "https://n:443", "{same}");
        }
        assert_eq!(normal("n:80"), normal("http://n"));
        for other in ["http://n", "https://n:444", "https://m", "https://n/a"] {
            assert_ne!(normal(other), "https://n:443", "{other}");
        }
    }

    #[test]
    fn words_with_other_letters_are_quoted() {
        assert_eq!(shell(&["keys", "show", "a/b.key"]), "hawser keys show a/b.key");
        assert_eq!(shell(&["a b", "it's", "$(x)", ""]), r"hawser 'a b' 'it'\''s' '$(x)' ''");
    }
}
