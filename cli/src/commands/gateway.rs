//! `hawser gateway`: runs a gateway until a signal stops it.

use hawser_node::error::RunError;
use hawser_node::service::gateway;
use hawser_node::service::stop_signal::StopOn;
use hawser_node::settings::GatewayServiceSettings;

use crate::args::gateway::GatewayArgs;

use crate::{COMMIT, logging};

/// Runs the command.
///
/// # Errors
/// When settings are wrong, when the gateway does not start, or does not stop in order.
pub(super) fn run(args: GatewayArgs) -> Result<(), RunError> {
    let stop_on = StopOn::of_flag(args.exit_with_parent);
    let mut config = GatewayServiceSettings::read(&args.sources()).map_err(RunError::usage)?;
    config.commit = COMMIT;
    logging::install(config.log);
    logging::abort_on_panic();
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), commit = COMMIT, "starting");
    gateway::run(config, stop_on).inspect_err(|failure| {
        tracing::error!(code = "gateway_failed", "{failure}");
    })
}
