//! `hawser audit`: following and judging a network without being a part of it.

use hawser_node::error::RunError;
use hawser_node::settings::NodeServiceSettings;

use super::node;
use crate::args::audit::AuditCommand;

/// Runs the command.
///
/// # Errors
/// When it fails.
pub(super) fn run(command: AuditCommand) -> Result<(), RunError> {
    match command {
        AuditCommand::Watch(args) => {
            let exit_with_parent = args.exit_with_parent;
            let config = NodeServiceSettings::read_replica(&args.sources());
            node::run_with(config.map_err(RunError::usage)?, exit_with_parent)
        }
    }
}
