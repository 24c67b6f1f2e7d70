//! `hawser keys rotate`: a new node with a new key in place of an old one.
//!
//! The registry lets no key be changed. So the command makes a key, prints the steps with their commands, and tells by the
//! registry and both nodes which are done. It sends nothing to a chain, and never replaces a file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hawser_chain::admin::nodes::{self, RegisteredNode};
use hawser_node::error::{RunError, RunErrorKind};
use hawser_node::files::key;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::GetSyncCursorRequest;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, PublicKey, SequenceId};
use serde_json::{Value, json};

use super::audit::INCOMPLETE_EXIT_CODE;
use super::onchain::{self, ChainsNeeded};
use crate::args::keys::KeysRotateArgs;
use crate::{client, output};

/// Places by which the new node may be behind in a strand that grows. A guess: a second of a busy network.
const BEHIND_MAX: u64 = 100;
/// Time for a node to tell its cursor. A guess.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Length of a cursor's message in bytes. A guess: room for some three thousand originators of 19 bytes.
const CURSOR_LEN_BYTES_MAX: usize = 64 * 1024;

/// Runs the command.
///
/// # Errors
/// When the old key is not registered, the registry cannot be read, or the new key cannot be written; with `--check`, with the
/// exit code for steps that are left.
pub(super) async fn run(args: &KeysRotateArgs, as_json: bool) -> Result<(), RunError> {
    let old_key = key::read(&args.key_file).map_err(|error| error.at(&args.key_file))?.public_key();
    // The key comes last: nothing is written for a node that the registry does not have.
    let network = onchain::connect(&args.network, ChainsNeeded::Settlement).await?;
    let old = nodes::with_key(&network, old_key.as_bytes()).await?.ok_or_else(|| {
        RunError::not_found(format!("the registry has no node with the key {}", old_key.address()))
    })?;
    let (file, new_key) = new_key(args)?;
    if new_key.as_ref() == Some(&old_key) {
        let text = format!("{} has the old key: name another file", file.display());
        return Err(RunError::refused(text));
    }
    let new = match &new_key {
        Some(key) => nodes::with_key(&network, key.as_bytes()).await?,
        None => None,
    };
    let held = Held::ask(&old, new.as_ref()).await;
    let rotation = Rotation { args, file: &file, new_key, old, new, held };
    let steps = rotation.steps();
    rotation.tell(&steps, as_json);
    match steps.iter().all(|step| step.is_done) || !args.check {
        true => Ok(()),
        false => {
            Err(RunError { kind: RunErrorKind::Answer(INCOMPLETE_EXIT_CODE), text: String::new() })
        }
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

/// The cursors of both nodes.
struct Held {
    old: Result<Cursor, String>,
    new: Result<Cursor, String>,
}

impl Held {
    async fn ask(old: &RegisteredNode, new: Option<&RegisteredNode>) -> Self {
        let of_new = async {
            match new {
                Some(new) => cursor(new).await,
                None => Err("it is not registered".to_owned()),
            }
        };
        let (old, new) = tokio::join!(cursor(old), of_new);
        Self { old, new }
    }

    /// Returns the strands in which the new node is further behind than it may be, with the distance. `None` if a node does
    /// not answer.
    fn behind(&self) -> Option<Vec<(OriginatorId, u64)>> {
        let (old, new) = (self.old.as_ref().ok()?, self.new.as_ref().ok()?);
        let distance = |id: EnvelopeId| {
            (id.originator, id.sequence.0.saturating_sub(new.get(id.originator).0))
        };
        Some(old.iter().map(distance).filter(|(_, behind)| *behind > BEHIND_MAX).collect())
    }
}

/// Asks a node how far it holds each strand. The node is not trusted to be short or quick.
async fn cursor(node: &RegisteredNode) -> Result<Cursor, String> {
    let asked = async {
        let channel = client::connect_narrow(&node.http_address).await?;
        let api = MetadataApiClient::new(channel);
        let mut api = api.max_decoding_message_size(CURSOR_LEN_BYTES_MAX);
        let answer = api.get_sync_cursor(GetSyncCursorRequest {}).await;
        let answer = answer.map_err(|status| client::failure(&status))?.into_inner();
        Ok::<_, RunError>(Cursor::from(&answer.latest_sync.unwrap_or_default()))
    };
    let late = || RunError::failed(format!("no answer within {} s", ANSWER_MAX.as_secs()));
    let answer = tokio::time::timeout(ANSWER_MAX, asked).await;
    let fault = |error: RunError| {
        let at = format!("node {} at {}", node.node_id, node.http_address);
        output::plain(&format!("{at}: {}", error.text))
    };
    answer.unwrap_or_else(|_| Err(late())).map_err(fault)
}

/// A step, whether it is done, and the command for it.
#[derive(Debug, PartialEq, Eq)]
struct RotationStep {
    name: &'static str,
    is_done: bool,
    found: String,
    /// The command that takes the step; empty if there is none.
    command: String,
}

/// Everything that is known about the rotation.
struct Rotation<'a> {
    args: &'a KeysRotateArgs,
    file: &'a Path,
    new_key: Option<PublicKey>,
    old: RegisteredNode,
    new: Option<RegisteredNode>,
    held: Held,
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
            is_done: self.new_key.is_some(),
            found: match &self.new_key {
                Some(key) => format!("{file} has the new key, {}", key.address()),
                None => format!("{file} is not there"),
            },
            command: "the same command without --check".to_owned(),
        }
    }

    fn register(&self) -> RotationStep {
        let address = self.args.http_address.as_deref().unwrap_or("URL-OF-THE-NEW-NODE");
        let owner = self.old.owner.to_string();
        let file = self.file.display().to_string();
        let words = ["registry", "node", "add", "--owner", &owner, "--http-address", address];
        RotationStep {
            name: "register",
            is_done: self.new.is_some(),
            found: match &self.new {
                Some(new) => {
                    output::plain(&format!("node {} at {}", new.node_id, new.http_address))
                }
                None => {
                    "the registry does not have the new key; its administrator adds it".to_owned()
                }
            },
            command: self.by_admin(&[&words[..], &["--node-key-file", &file]].concat()),
        }
    }

    fn start(&self) -> RotationStep {
        let file = self.file.display().to_string();
        let words = ["node", "--signer.private-key-file", &file, "--data-dir", "NEW-FOLDER"];
        let command = shell(&[&words[..], &["--new-strand"]].concat());
        let shares = self.new.as_ref().is_some_and(|new| new.http_address == self.old.http_address);
        let (is_done, found) = match &self.held.new {
            Ok(_) if shares => (false, "both nodes are registered at one address".to_owned()),
            Ok(_) => (true, "the new node answers".to_owned()),
            Err(error) => (false, error.clone()),
        };
        RotationStep {
            name: "start",
            is_done,
            found,
            command: format!(
                "{command}, with the old node's other settings; no process has both keys"
            ),
        }
    }

    fn catch_up(&self) -> RotationStep {
        let behind = self.held.behind();
        let found = match &behind {
            None => self.held.old.as_ref().err().or(self.held.new.as_ref().err()).cloned(),
            Some(behind) => behind.iter().max_by_key(|(_, places)| *places).map(|(id, places)| {
                format!("{} strands are behind, {id} by {places} places", behind.len())
            }),
        };
        RotationStep {
            name: "catch_up",
            is_done: behind.is_some_and(|behind| behind.is_empty()),
            found: found.unwrap_or_else(|| "the new node holds what the old one does".to_owned()),
            command: "wait; hawser status --metrics ADDR-OF-THE-NEW-NODE".to_owned(),
        }
    }

    fn join(&self) -> RotationStep {
        let is_done = self.new.as_ref().is_some_and(|new| new.is_canonical);
        let id = self.new.as_ref().map_or_else(|| "NEW-ID".to_owned(), |it| it.node_id.to_string());
        RotationStep {
            name: "join",
            is_done,
            found: format!("the new node is {}", membership(is_done)),
            command: self.by_admin(&["registry", "canonical", "add", &id]),
        }
    }

    fn leave(&self) -> RotationStep {
        let id = self.old.node_id.to_string();
        RotationStep {
            name: "leave",
            is_done: !self.old.is_canonical,
            found: format!("the old node is {}", membership(self.old.is_canonical)),
            command: self.by_admin(&["registry", "canonical", "remove", &id]),
        }
    }

    /// The old node's strand has reached the new one to its end. The end moves while the old node takes envelopes.
    fn hand_over(&self) -> RotationStep {
        let strand = OriginatorId(self.old.node_id);
        let place = |cursor: &Result<Cursor, String>| cursor.as_ref().map(|it| it.get(strand)).ok();
        let (old, new) = (place(&self.held.old), place(&self.held.new));
        let held = |place: Option<SequenceId>| {
            place.map_or_else(|| "is not known".to_owned(), |place| format!("is {place}"))
        };
        let is_whole = old.is_some() && new >= old;
        RotationStep {
            name: "hand_over",
            is_done: is_whole && !self.old.is_canonical,
            found: format!(
                "the end of the old strand {} at the old node, and {} at the new one",
                held(old),
                held(new)
            ),
            command: "leave the old node running until its retention has passed, and for 6 hours at the least".to_owned(),
        }
    }

    fn by_admin(&self, words: &[&str]) -> String {
        let network = self.args.network.words();
        let network = network.iter().map(String::as_str);
        let admin = ["--key-file", "ADMIN-KEY"];
        shell(&words.iter().copied().chain(admin).chain(network).collect::<Vec<_>>())
    }

    fn tell(&self, steps: &[RotationStep], as_json: bool) {
        let next = steps.iter().position(|step| !step.is_done);
        let state = |place: usize| match (steps[place].is_done, Some(place) == next) {
            (true, _) => "done",
            (false, true) => "next",
            (false, false) => "open",
        };
        if as_json {
            let step = |(place, step): (usize, &RotationStep)| {
                json!({
                    "step": step.name,
                    "state": state(place),
                    "found": step.found,
                    "command": Some(&step.command).filter(|_| !step.is_done),
                })
            };
            output::line(json!({
                "old_node_id": self.old.node_id,
                "new_node_id": self.new.as_ref().map(|new| new.node_id),
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
            output::line(format_args!("{}  {number}. {}: {}", state(place), step.name, step.found));
            if !step.is_done {
                output::line(format_args!("         {}", step.command));
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

    fn cursor(entries: &[(u32, u64)]) -> Result<Cursor, String> {
        let id = |(originator, sequence): &(u32, u64)| {
            EnvelopeId::new(OriginatorId(*originator), SequenceId(*sequence))
        };
        Ok(entries.iter().map(id).collect())
    }

    #[test]
    fn a_strand_is_behind_by_more_than_the_bound_or_if_it_is_absent() {
        let old = cursor(&[(0, 1), (100, 500), (200, 100)]);
        let held = |new| Held { old: old.clone(), new };
        assert_eq!(held(cursor(&[(100, 400)])).behind(), Some(vec![]));
        let late = held(cursor(&[(100, 399), (300, 7)])).behind();
        assert_eq!(late, Some(vec![(OriginatorId(100), 101)]));
        assert_eq!(held(Err("silent".into())).behind(), None);
    }

    #[test]
    fn words_with_other_letters_are_quoted() {
        assert_eq!(shell(&["keys", "show", "a/b.key"]), "hawser keys show a/b.key");
        assert_eq!(shell(&["a b", "it's", "$(x)", ""]), r"hawser 'a b' 'it'\''s' '$(x)' ''");
    }
}
