//! Connections to chains and contracts.

use hawser_chain::admin::{ChainRole, Network};
use hawser_chain::send::{Chain, ConnectError};
use hawser_node::error::RunError;
use hawser_node::files::deployment::KnownDeployment;
use hawser_node::settings::ContractSettings;

use crate::args::onchain::NetworkArgs;

/// The chains that a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainsNeeded {
    /// The settlement chain.
    Settlement,
    /// The settlement chain, and the app chain if its URL was given.
    AppIfGiven,
}

/// Connects to the chains and checks their ids.
///
/// # Errors
/// Everything that is wrong with the settings, together; or the error of connecting.
pub(crate) async fn connect(args: &NetworkArgs, reach: ChainsNeeded) -> Result<Network, RunError> {
    let config = ContractSettings::read(&args.sources()).map_err(RunError::usage)?;
    let KnownDeployment { settlement_id, app_id, contracts, .. } =
        KnownDeployment::of(&config).await?;
    let settlement = chain(&config.settlement.urls, settlement_id, ChainRole::Settlement).await?;
    let app = match reach {
        ChainsNeeded::AppIfGiven if !config.app.urls.is_empty() => {
            Some(chain(&config.app.urls, app_id, ChainRole::App).await?)
        }
        ChainsNeeded::AppIfGiven | ChainsNeeded::Settlement => None,
    };
    Ok(Network { settlement, app, app_id, contracts })
}

/// Connects to the first URL that answers. A wrong chain id is a mistake in the settings, so that the
/// next URL is not tried then.
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
