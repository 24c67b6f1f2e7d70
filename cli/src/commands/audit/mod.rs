//! `hawser audit`: following and judging a network without being a part of it.

mod compare;
mod export;
mod keys;
mod network;
mod partition;
mod prove;
mod publish;
mod replay;
pub(super) mod reports;
mod source;

use std::collections::BTreeMap;

use hawser_audit::{EvidenceFile, Judged, JudgedTrees};
use hawser_node::error::{RunError, RunErrorKind};
use hawser_node::settings::NodeServiceSettings;
use hawser_rules::misbehavior::MisbehaviorVerdict;
use hawser_rules::misbehavior::quorum::LivenessRecord;
use serde_json::json;

use super::node;
use crate::args::NodeArgs;
use crate::args::audit::{AuditCommand, AuditReportArgs};
use crate::output;

pub(super) use compare::run as compare;
pub(super) use export::run as export;
pub(super) use keys::{load as load_keys, read as read_text};
pub(super) use partition::{check as check_partition, merge};
pub(super) use prove::{prove, verify};
pub(super) use replay::{FAULTS_EXIT_CODE, INCOMPLETE_EXIT_CODE, run as replay};
pub(super) use source::{FolderLog, StoredLog, UnopenedBackup, open as open_log};

/// Runs the command.
///
/// # Errors
/// When files or nodes cannot be read; and with the exit code of the verdict.
pub(super) async fn run(command: AuditCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        // A replica runs until a signal stops it, on threads of its own: `commands` starts it.
        AuditCommand::Watch(args) => watch(args),
        AuditCommand::Replay(args) => replay(&args, as_json),
        AuditCommand::Compare(args) => compare(&args, as_json),
        AuditCommand::Prove(args) => prove(&args, as_json),
        AuditCommand::Verify(args) => verify(&args, as_json),
        AuditCommand::Export(args) => export(&args, as_json),
        AuditCommand::CheckPartition(args) => check_partition(&args, as_json),
        AuditCommand::Merge(args) => merge(&args, as_json),
        AuditCommand::Report(args) => report(args, as_json).await,
        AuditCommand::Network(args) => network::run(args, as_json).await,
    }
}

/// Runs a replica.
///
/// # Errors
/// When settings are wrong, and when it does not start or stop in order.
pub(super) fn watch(args: NodeArgs) -> Result<(), RunError> {
    let exit_with_parent = args.exit_with_parent;
    let config = NodeServiceSettings::read_replica(&args.sources());
    node::run_with(config.map_err(RunError::usage)?, exit_with_parent)
}

/// Judges the reports of a file or of a node.
///
/// # Errors
/// See [`run`].
pub(super) async fn report(args: AuditReportArgs, as_json: bool) -> Result<(), RunError> {
    let (held, trees, file) = if args.source.contains("://") {
        (reports::all_of(&args.source, 0).await?, Vec::new(), None)
    } else {
        let file = read_file(args.source.as_ref())?;
        let trees = file.held_trees().map_err(RunError::failed)?;
        (file.held().map_err(RunError::failed)?, trees, Some(file))
    };
    let keys = keys::load(&args.keys, file.as_ref())?;
    if held.is_empty() && trees.is_empty() {
        return Err(RunError::not_found("there are no reports to judge"));
    }
    let (mut counts, mut lacking) = (BTreeMap::new(), Vec::new());
    let mut liveness = LivenessRecord::default();
    for held in held {
        let judged = Judged::new(held, &keys.known);
        if let Some(report) = &judged.report {
            liveness.add(report, &judged.judgement);
        }
        lacking.extend_from_slice(&judged.judgement.missing);
        *counts.entry(judged.judgement.verdict).or_insert(0_u64) += 1;
        match as_json {
            true => output::line(judged.to_json()),
            false => output::line(&judged),
        }
    }
    for held in trees {
        let judged = JudgedTrees::new(held, &keys.known);
        *counts.entry(judged.judgement.verdict).or_insert(0_u64) += 1;
        match as_json {
            true => output::line(judged.to_json()),
            false => output::line(&judged),
        }
    }
    // Printed beside the verdict: the agreement of most nodes is not a proof either.
    for outage in liveness.outages(&keys.known.registry) {
        match as_json {
            true => output::line(json!({ "outage": network::outage_json(&outage) })),
            false => {
                output::line(format_args!("node {}{}", outage.node, network::of_outage(&outage)))
            }
        }
    }
    // Strangers can submit reports to a node, so a worthless report does not weaken a proof beside it.
    let strongest = counts.keys().next_back().copied().unwrap_or(MisbehaviorVerdict::Refuted);
    // Nothing is proven with keys of the writer of the file.
    let most =
        if keys.is_on_trust { MisbehaviorVerdict::Claim } else { MisbehaviorVerdict::Proven };
    let total = strongest.min(most);
    let counts = counts.iter().rev().map(|(verdict, count)| (verdict.name(), count));
    let rates = keys.rates_to_give(&lacking);
    match as_json {
        true => {
            let counts: serde_json::Map<_, _> =
                counts.map(|(name, count)| (name.to_owned(), json!(count))).collect();
            let (verdict, keys) = (total.name(), keys.origin);
            let mut line = json!({ "verdict": verdict, "counts": counts, "keys": keys });
            rates.into_iter().for_each(|rates| line["rates"] = rates.into());
            output::line(line);
        }
        false => {
            let counts: Vec<_> = counts.map(|(name, count)| format!("{count} {name}")).collect();
            output::line(format_args!("verdicts: {}", counts.join(", ")));
            output::line(format_args!("keys: {}", keys.origin));
            rates.into_iter().for_each(|rates| output::line(format_args!("rates: {rates}")));
        }
    }
    exit_of(total)
}

/// Returns the result of the command, whose exit code is the verdict.
fn exit_of(verdict: MisbehaviorVerdict) -> Result<(), RunError> {
    let code = match verdict {
        MisbehaviorVerdict::Proven => return Ok(()),
        MisbehaviorVerdict::Claim => 5,
        MisbehaviorVerdict::Inconclusive => 6,
        MisbehaviorVerdict::Refuted => 7,
    };
    Err(RunError { kind: RunErrorKind::Answer(code), text: String::new() })
}

/// Reads an evidence file.
///
/// # Errors
/// When there is no such file, or it has another form.
pub(super) fn read_file(path: &std::path::Path) -> Result<EvidenceFile, RunError> {
    let text = keys::read(path)?;
    EvidenceFile::parse(&text).map_err(|error| RunError::failed(error).while_doing(path.display()))
}
