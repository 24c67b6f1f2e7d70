//! `hawser node`: runs one node until a signal stops it.

use hawser_node::environment;
use hawser_node::error::RunError;
use hawser_node::service::node;
use hawser_node::service::stop_signal::StopOn;
use hawser_node::settings::NodeServiceSettings;

use crate::args::NodeArgs;

use crate::{COMMIT, logging};

/// Runs the command.
///
/// # Errors
/// When settings are wrong, when the node does not start, or does not stop in order.
pub(super) fn run(args: NodeArgs) -> Result<(), RunError> {
    let stop_on = StopOn::of_flag(args.exit_with_parent);
    let config = NodeServiceSettings::read(&args.sources()).map_err(RunError::usage)?;
    run_with(config, stop_on)
}

/// Runs a node, or a replica, with settings that have been checked.
///
/// # Errors
/// When it does not start, or does not stop in order.
pub(super) fn run_with(mut config: NodeServiceSettings, stop_on: StopOn) -> Result<(), RunError> {
    // Before there is a second thread.
    let is_erased = environment::erase_secrets([]);
    config.commit = COMMIT;
    config.log_control = Some(logging::install(config.log));
    logging::abort_on_panic();
    if !is_erased {
        environment::warn_of_secrets();
    }
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), commit = COMMIT, "starting");
    // Operators look at the log; the error output has the error too.
    node::run(config, stop_on).inspect_err(|failure| {
        tracing::error!(code = "node_failed", "{failure}");
    })
}
