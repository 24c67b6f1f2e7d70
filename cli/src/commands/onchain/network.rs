//! Chains and contracts, from what was given to what can be called.

use hawser_chain::admin::{ChainRole, Network};
use hawser_chain::send::{Chain, ConnectError};
use hawser_node::error::RunError;
use hawser_node::files::deployment::Deployment;
use hawser_node::settings::ContractSettings;

use crate::args::onchain::NetworkArgs;

/// Which chains a command talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainsNeeded {
    /// The settlement chain.
    Settlement,
    /// That, and the app chain if its URL was given.
    AppIfGiven,
}

/// Reaches the chains and checks that they are the ones that were meant.
///
/// # Errors
/// Everything that is wrong with what was given, together; or why a chain was not reached.
pub(crate) async fn connect(args: &NetworkArgs, reach: ChainsNeeded) -> Result<Network, RunError> {
    let config = ContractSettings::read(&args.sources()).map_err(RunError::usage)?;
    let Deployment { settlement_id, app_id, contracts, .. } = Deployment::of(&config).await?;
    let settlement = chain(&config.settlement.urls, settlement_id, ChainRole::Settlement).await?;
    let app = match reach {
        ChainsNeeded::AppIfGiven if !config.app.urls.is_empty() => {
            Some(chain(&config.app.urls, app_id, ChainRole::App).await?)
        }
        ChainsNeeded::AppIfGiven | ChainsNeeded::Settlement => None,
    };
    Ok(Network { settlement, app, app_id, contracts })
}

/// The first of the URLs where somebody answers. Another chain than the one that was meant is a
/// mistake, and no reason to try the next.
async fn chain(urls: &[String], id: u64, side: ChainRole) -> Result<Chain, RunError> {
    let mut failures = Vec::new();
    for url in urls {
        match Chain::connect(url, id).await {
            Ok(chain) => return Ok(chain),
            Err(ConnectError::Rpc(fault)) => failures.push(fault.to_string()),
            Err(error @ ConnectError::WrongChain { .. }) => {
                return Err(RunError::failed(format!("{side}: {error}")));
            }
            Err(error @ ConnectError::Url { .. }) => {
                return Err(RunError::usage(format!("{side}: {error}")));
            }
        }
    }
    Err(RunError::failed(format!("{side}: {}", failures.join("; "))))
}
