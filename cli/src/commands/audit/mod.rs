//! `hawser audit`: following and judging a network without being a part of it.

mod asked_chain;
mod compare;
mod export;
mod identities;
mod keys;
mod network;
mod partition;
mod progress;
mod prove;
mod publish;
mod replay;
mod report;
pub(super) mod reports;
mod source;

use hawser_audit::EvidenceFile;
use hawser_node::error::RunError;
use hawser_node::service::stop_signal::StopOn;
use hawser_node::settings::NodeServiceSettings;
use hawser_rules::misbehavior::MisbehaviorVerdict;

use super::node;
use crate::args::NodeArgs;
use crate::args::audit::AuditCommand;
use crate::exit_codes;

pub(super) use keys::{load as load_keys, registry_of};
pub(super) use progress::StrandProgressBar;
pub(super) use report::report;
pub(super) use source::{FolderLog, StoredLog, UnopenedBackupError, open as open_log};

/// Runs the command.
///
/// # Errors
/// When files or nodes cannot be read; and with the exit code of the verdict.
pub(super) fn run(command: AuditCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        // A replica and the commands that read logs wait on threads of their own.
        AuditCommand::Watch(args) => watch(args),
        AuditCommand::Replay(args) => replay::run(&args, as_json),
        AuditCommand::Compare(args) => compare::run(&args, as_json),
        AuditCommand::Identities(args) => identities::run(&args, as_json),
        AuditCommand::Prove(args) => prove::prove(&args, as_json),
        AuditCommand::Verify(args) => prove::verify(&args, as_json),
        AuditCommand::Export(args) => export::run(&args, as_json),
        AuditCommand::CheckPartition(args) => partition::check(&args, as_json),
        AuditCommand::Merge(args) => partition::merge(&args, as_json),
        AuditCommand::Report(args) => super::blocking(report(args, as_json)),
        AuditCommand::Network(args) => super::blocking(network::run(args, as_json)),
    }
}

/// Runs a replica.
///
/// # Errors
/// When settings are wrong, and when it does not start or stop in order.
fn watch(args: NodeArgs) -> Result<(), RunError> {
    let stop_on = StopOn::of_flag(args.exit_with_parent);
    let config = NodeServiceSettings::read_replica(&args.sources());
    node::run_with(config.map_err(RunError::usage)?, stop_on)
}

/// Returns the result of the command, whose exit code is the verdict.
fn exit_of(verdict: MisbehaviorVerdict) -> Result<(), RunError> {
    let code = match verdict {
        MisbehaviorVerdict::Proven => return Ok(()),
        MisbehaviorVerdict::Claim => exit_codes::CLAIM,
        MisbehaviorVerdict::Inconclusive => exit_codes::INCONCLUSIVE,
        MisbehaviorVerdict::Refuted => exit_codes::REFUTED,
    };
    Err(exit_codes::answer(code, ""))
}

/// Reads an evidence file.
///
/// # Errors
/// When there is no such file, or it has another form.
pub(super) fn read_file(path: &std::path::Path) -> Result<EvidenceFile, RunError> {
    let text = keys::read(path)?;
    EvidenceFile::parse(&text).map_err(|error| RunError::failed(error).while_doing(path.display()))
}
