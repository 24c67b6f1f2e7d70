//! `hawser restore`: a data folder from a backup. `hawser restore confirm`: the operator's confirmation that no other
//! process signs with a node's key, after the node's folder was restored, copied or lost. See
//! `docs/runbooks/restore.md`.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use hawser_node::backup;
use hawser_node::error::RunError;
use hawser_node::restore::{AskingNodes, RestoreAnswer, RestoreFolder, RestoreQuestion};
use hawser_node::settings;
use hawser_proto::OriginatorId;
use hawser_storage::WantedBackup;
use serde_json::json;

use super::backup as backups;
use crate::args::RestoreConfirmArgs;
use crate::args::backup::{RestoreArgs, RestoreCommand, RestoreFromArgs};
use crate::clock::now_unix_s;
use crate::output;

/// The longest wait for the node to take the answer. A guess: the node checks twice a second, and may first finish the
/// processing of a peer's envelopes.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest wait for a question of a node that has just started. A guess: four times the node's own interval.
const ASKED_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two looks. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Runs the command.
///
/// # Errors
/// When the backup is not whole or not the one that is wanted, when no node of this host asks, or the operator does not
/// confirm. In these cases nothing has been changed.
pub(super) fn run(args: RestoreArgs, as_json: bool) -> Result<(), RunError> {
    match args.command {
        Some(RestoreCommand::Confirm(args)) => confirm(&args, as_json),
        None => from_backup(args.backup, as_json),
    }
}

fn from_backup(args: RestoreFromArgs, as_json: bool) -> Result<(), RunError> {
    let data_dir = settings::data_dir(&args.data.sources()).map_err(RunError::usage)?;
    let from = args.from.ok_or_else(|| {
        RunError::usage("name the folder of the backups (--from), or use `hawser restore confirm`")
    })?;
    if args.signer.is_none() && !args.any_signer && !args.unsigned {
        let text = "name the address of the node's key (--signer), as `hawser keys show` prints it: without \
                    it every writer of the folder could have made the backup. --any-signer trusts all of \
                    them";
        return Err(RunError::usage(text));
    }
    let folder = backups::existing(&from)?;
    let node = args.node_id.map(OriginatorId);
    let wanted =
        WantedBackup { network: args.network, node, key: args.signer, unsigned: args.unsigned };
    let refused = |error| backup::run_error(&error);
    let name = match args.backup {
        Some(name) => name,
        None => folder.newest(&wanted, now_unix_s()).map_err(refused)?,
    };
    let bar = backups::bar("restore");
    let done = backup::restore(&folder, &name, &wanted, &data_dir, &mut |bytes| {
        bar.inc(bytes);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    let manifest = done.map_err(refused)?.read.manifest;
    let identity = &manifest.identity;
    if as_json {
        output::line(json!({
            "backup": name,
            "network": identity.network,
            "node_id": identity.node.0,
            "signer": identity.public_key.address().to_string(),
            "made_unix_s": manifest.made_unix_s,
            "bytes": manifest.len_bytes(),
            "data_dir": data_dir,
        }));
        return Ok(());
    }
    output::line(format_args!(
        "restored {name}, {}: node {} of network {:?}, key {}",
        output::size(manifest.len_bytes()),
        identity.node,
        identity.network,
        identity.public_key.address(),
    ));
    output::line(format_args!(
        "start the node on {} without --new-strand: it is in quarantine until its peers have shown the end \
         of its strand, or you confirm (hawser restore confirm)",
        data_dir.display()
    ));
    Ok(())
}

fn confirm(args: &RestoreConfirmArgs, as_json: bool) -> Result<(), RunError> {
    let state_dir = settings::state_dir(&args.sources()).map_err(RunError::usage)?;
    let unreadable = |error| RunError::failed(format!("{}: {error}", state_dir.display()));
    let asking = wait_until_asked(&state_dir, args).map_err(unreadable)?;
    for (folder, error) in &asking.unreadable {
        output::note(format_args!(
            "{}: the question of this node cannot be read ({error}): it is written again when the node starts",
            folder.path().display()
        ));
    }
    let (folder, question) = chosen(&asking, args.node_id, &state_dir)?;
    if !as_json {
        describe(question);
    }
    if args.complete && question.may_lack_places {
        return Err(RunError::refused(
            "nothing was changed: the data folder may lack the node's last envelopes: it was a replica's, comes from a \
             backup or from before an upgrade, its machine went down before they were on the disk, or this host or a peer \
             knows of more than it held. Confirm without --complete",
        ));
    }
    if !as_json {
        output::line(match args.complete {
            true => "when you confirm, it publishes again without a gap in its strand",
            false => {
                "when you confirm, it publishes again behind a gap of 1 to 256 million places in its strand"
            }
        });
    }
    if !args.yes {
        ask(question, args.complete)?;
    }
    let answer = match args.complete {
        true => RestoreAnswer::complete(question),
        false => RestoreAnswer::behind_gap(question),
    };
    folder.reply(&answer).map_err(unreadable)?;
    if let Some(fault) = fault_of(folder, question, WAIT_MAX).map_err(unreadable)? {
        return Err(RunError::failed(format!("node {} {fault}", question.node_id)));
    }
    if as_json {
        output::line(json!({ "node_id": question.node_id, "complete": args.complete }));
    } else {
        output::line(format_args!("node {} publishes again", question.node_id));
    }
    Ok(())
}

/// Returns the question that is meant. A node whose question cannot be read may be meant, too, unless one is `named`.
fn chosen<'a>(
    asking: &'a AskingNodes,
    named: Option<u32>,
    state_dir: &Path,
) -> Result<&'a (RestoreFolder, RestoreQuestion), RunError> {
    match asking.questions.as_slice() {
        [one] if named.is_some() || asking.unreadable.is_empty() => Ok(one),
        [] => {
            let none = || "no node waits".to_owned();
            let who = named.map_or_else(none, |id| format!("node {id} does not wait"));
            Err(RunError::not_found(format!(
                "{who} for an answer in {}: start the node first, with the same --state-dir, and look at its /status",
                state_dir.display()
            )))
        }
        several => {
            let nodes: Vec<_> = several.iter().map(|(_, it)| it.node_id.to_string()).collect();
            let nodes = nodes.join(", ");
            Err(RunError::usage(format!(
                "several nodes wait for an answer: choose one with --node-id ({nodes})"
            )))
        }
    }
}

fn describe(question: &RestoreQuestion) {
    let RestoreQuestion { node_id, network, data_dir, head, reason, .. } = question;
    output::line(format_args!("node {node_id} of network {network:?}, {}", data_dir.display()));
    output::line(format_args!("its own strand ends at {head} there"));
    output::line(reason);
}

fn ask(question: &RestoreQuestion, is_complete: bool) -> Result<(), RunError> {
    let node = question.node_id;
    let end = if is_complete {
        ", and does its data folder hold everything that it has ever signed"
    } else {
        ""
    };
    let text = format!("Has every other process with the key of node {node} ended for good{end}?");
    output::confirm(text, "nothing was changed")
}

/// Returns the questions that are meant. A node shows its quarantine up to half a second before it asks.
fn wait_until_asked(state_dir: &Path, args: &RestoreConfirmArgs) -> io::Result<AskingNodes> {
    let end = Instant::now() + ASKED_WITHIN;
    loop {
        let mut asking = RestoreFolder::asking(state_dir)?;
        let is_meant = |id: u32| args.node_id.is_none_or(|node_id| node_id == id);
        asking.questions.retain(|(_, question)| is_meant(question.node_id.0));
        if !asking.questions.is_empty() || Instant::now() >= end {
            return Ok(asking);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until the node has taken the answer and publishes. Returns the reason why this cannot be said, after the
/// node's name.
///
/// A question that is gone shows nothing by itself: a node that starts removes that of its earlier process.
fn fault_of(
    folder: &RestoreFolder,
    question: &RestoreQuestion,
    wait_max: Duration,
) -> io::Result<Option<&'static str>> {
    let end = Instant::now() + wait_max;
    loop {
        let is_last = Instant::now() >= end;
        match folder.question()? {
            Some(current) if current.process != question.process => {
                return Ok(Some(
                    "has started again and has not taken the answer: run the command again",
                ));
            }
            Some(_) if is_last => {
                return Ok(Some(
                    "has not read the answer yet: it reads it while it runs, and a restart of the node discards it",
                ));
            }
            None if folder.publishes_since(question)? => return Ok(None),
            // A version that names no process writes no note either: waiting shows no more.
            None if question.process.is_empty() => {
                return Ok(Some(
                    "asks nothing any more: it has taken the answer, or has started again. It is of an older version, \
                     which does not say that it publishes. Look at its /status",
                ));
            }
            None if is_last => {
                return Ok(Some(
                    "asks nothing any more, and has not said that it publishes: it has started again, or takes more \
                     places from a peer. Look at its /status",
                ));
            }
            Some(_) | None => std::thread::sleep(LOOK_EVERY),
        }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SequenceId;

    use super::*;

    fn question(process: &str) -> RestoreQuestion {
        RestoreQuestion {
            id: format!("{process}-1"),
            process: process.to_owned(),
            node_id: OriginatorId(100),
            network: "test".to_owned(),
            data_dir: "data".into(),
            head: SequenceId(7),
            reason: "because".to_owned(),
            may_lack_places: false,
        }
    }

    /// Played by a disk that has damaged the question of one node of a host.
    #[test]
    fn a_node_is_chosen_beside_one_whose_question_cannot_be_read() {
        let dir = Path::new("state");
        let asked = (RestoreFolder::new(dir), question("a"));
        let damaged = || (RestoreFolder::new(dir), io::Error::other("damaged"));
        let mut asking =
            AskingNodes { questions: vec![asked.clone()], unreadable: vec![damaged()] };
        assert_eq!(chosen(&asking, Some(100), dir).unwrap(), &asked);
        let refused = chosen(&asking, None, dir).unwrap_err().to_string();
        assert!(refused.contains("choose one with --node-id (100)"), "{refused}");
        asking.unreadable.clear();
        assert_eq!(chosen(&asking, None, dir).unwrap(), &asked);
        asking = AskingNodes { questions: Vec::new(), unreadable: vec![damaged()] };
        let refused = chosen(&asking, None, dir).unwrap_err().to_string();
        assert!(refused.contains("no node waits"), "{refused}");
        let refused = chosen(&asking, Some(7), dir).unwrap_err().to_string();
        assert!(refused.contains("node 7 does not wait"), "{refused}");
    }

    /// A supervisor starts the node again after the operator's answer, which its new process discards.
    #[test]
    fn only_a_node_that_publishes_is_said_to_publish() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RestoreFolder::new(dir.path());
        let asked = question("a");
        let fault = || fault_of(&folder, &asked, Duration::ZERO).unwrap().unwrap_or("publishes");
        folder.ask(&asked).unwrap();
        assert!(fault().starts_with("has not read the answer"), "{}", fault());
        folder.clear().unwrap();
        assert!(fault().contains("has not said that it publishes"), "{}", fault());
        folder.ask(&question("b")).unwrap();
        assert!(fault().starts_with("has started again"), "{}", fault());
        // The new process publishes without an answer, because its peers have answered.
        folder.note_publishing("b").unwrap();
        folder.clear().unwrap();
        assert!(fault().contains("has not said that it publishes"), "{}", fault());
        folder.ask(&asked).unwrap();
        folder.note_publishing("a").unwrap();
        folder.clear().unwrap();
        assert_eq!(fault(), "publishes");
    }

    /// A node of an older version names no process, and removes its question without a note.
    #[test]
    fn a_node_of_an_older_version_is_named_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RestoreFolder::new(dir.path());
        let asked = question("");
        folder.ask(&asked).unwrap();
        folder.clear().unwrap();
        let fault = fault_of(&folder, &asked, Duration::ZERO).unwrap();
        assert!(fault.is_some_and(|it| it.contains("an older version")), "{fault:?}");
        // The same host runs this version by now.
        folder.ask(&question("a")).unwrap();
        let fault = fault_of(&folder, &asked, Duration::ZERO).unwrap();
        assert!(fault.is_some_and(|it| it.starts_with("has started again")), "{fault:?}");
    }
}
