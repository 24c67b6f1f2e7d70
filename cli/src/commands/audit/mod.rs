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
use hawser_node::error::{RunError, RunErrorKind};
use hawser_node::service::stop_signal::StopOn;
use hawser_node::settings::NodeServiceSettings;
use hawser_rules::misbehavior::MisbehaviorVerdict;

use super::node;
use crate::args::NodeArgs;
use crate::args::audit::AuditCommand;

pub(super) use compare::run as compare;
pub(super) use export::run as export;
pub(super) use identities::run as identities;
pub(super) use keys::load as load_keys;
pub(super) use partition::{check as check_partition, merge};
pub(super) use prove::{prove, verify};
pub(super) use replay::{FAULTS_EXIT_CODE, INCOMPLETE_EXIT_CODE, run as replay};
pub(super) use report::report;
pub(super) use source::{FolderLog, StoredLog, UnopenedBackupError, open as open_log};

/// Exit code of a verdict that nothing decides.
pub(super) const INCONCLUSIVE_EXIT_CODE: u8 = 6;

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
        AuditCommand::Identities(args) => identities(&args, as_json),
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
    let stop_on = StopOn::of_flag(args.exit_with_parent);
    let config = NodeServiceSettings::read_replica(&args.sources());
    node::run_with(config.map_err(RunError::usage)?, stop_on)
}

/// Returns the result of the command, whose exit code is the verdict.
fn exit_of(verdict: MisbehaviorVerdict) -> Result<(), RunError> {
    let code = match verdict {
        MisbehaviorVerdict::Proven => return Ok(()),
        MisbehaviorVerdict::Claim => replay::CLAIM_EXIT_CODE,
        MisbehaviorVerdict::Inconclusive => INCONCLUSIVE_EXIT_CODE,
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
