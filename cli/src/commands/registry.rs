//! `hawser registry`: nodes, rates and parameters.

mod nodes;
mod params;
mod rates;

use hawser_node::error::RunError;
pub(super) use rates::rates_file;

use crate::args::registry::{
    CanonicalCommand, NodeCommand, ParamsCommand, RatesCommand, RegistryCommand,
};

/// Runs the command.
///
/// # Errors
/// When a step fails; the text says whether something was sent.
pub(super) async fn run(command: RegistryCommand, as_json: bool) -> Result<(), RunError> {
    match command {
        RegistryCommand::Node { command } => match command {
            NodeCommand::Add(args) => nodes::add(&args, as_json).await,
            NodeCommand::List(args) => nodes::list(&args, as_json).await,
            NodeCommand::Get(args) => nodes::get(&args, as_json).await,
            NodeCommand::UpdateHttp(args) => nodes::update_http(&args, as_json).await,
            NodeCommand::Transfer(args) => nodes::transfer(&args, as_json).await,
            NodeCommand::Approve(args) => nodes::approve(&args, as_json).await,
            NodeCommand::BaseUri(args) => nodes::base_uri(&args, as_json).await,
        },
        RegistryCommand::Canonical { command } => match command {
            CanonicalCommand::Add(args) => nodes::canonical(&args, true, as_json).await,
            CanonicalCommand::Remove(args) => nodes::canonical(&args, false, as_json).await,
        },
        RegistryCommand::Rates { command } => match command {
            RatesCommand::Add(args) => rates::add(&args, as_json).await,
            RatesCommand::List(args) => rates::list(&args, as_json).await,
        },
        RegistryCommand::Params { command } => match command {
            ParamsCommand::Get(args) => params::get(args, as_json).await,
            ParamsCommand::Set(args) => params::set(&args, as_json).await,
            ParamsCommand::Bridge(args) => params::bridge(&args, as_json).await,
        },
    }
}
