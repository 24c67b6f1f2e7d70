//! `hawser chain`: chains for development.

pub(super) mod dev;
mod report;

use hawser_node::error::RunError;

use crate::args::chain::ChainCommand;

/// The app chain's port, counted from the network's base port.
pub(super) const APP_OFFSET: u16 = 10;
/// The settlement chain's port, counted from the network's base port.
pub(super) const SETTLEMENT_OFFSET: u16 = 11;

/// The name of the file with the addresses of the contracts.
pub(super) const CHAIN_JSON: &str = "chain.json";

/// Runs the command.
///
/// # Errors
/// When the chains do not start.
pub(super) async fn run(command: ChainCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        ChainCommand::Dev(args) => dev::run(args, as_json).await,
    }
}
