//! Connections to chains and contracts.

use std::path::Path;

use hawser_chain::admin::{ChainRole, Contract, Network};
use hawser_chain::broadcast::Witnesses;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::send::{Chain, ConnectError};
use hawser_node::error::RunError;
use hawser_node::files::{self, deployment::KnownDeployment};
use hawser_node::settings::table::chains;
use hawser_node::settings::{ContractSettings, SettingSources};

use crate::args::onchain::NetworkArgs;
use crate::network_file::NetworkFile;

/// The chains that a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChainsNeeded {
    /// The settlement chain.
    Settlement,
    /// The settlement chain, and the app chain if its URL was given.
    AppIfGiven,
}

/// Connections to the chains, with all endpoints that the settings name.
pub(crate) struct ReachedNetwork {
    pub(crate) network: Network,
    /// The first block of the settlement chain with events; 0 if unknown.
    pub(crate) settlement_first_block: u64,
    /// The endpoints of the settlement chain, which have to agree on the outcomes of transactions.
    pub(crate) settlement: Witnesses,
    /// The endpoints of the app chain; `None` without a connection to it.
    pub(crate) app: Option<Witnesses>,
}

impl ReachedNetwork {
    /// Returns the error for a list on the settlement chain, such as the rates, that other endpoints contradict.
    pub(crate) fn contradicted(&self, list: &str) -> RunError {
        let endpoint = self.network.settlement.endpoint();
        RunError::failed(format!(
            "{endpoint} shows other {list} than the other endpoints, or one was changed just now: run the command \
             again, then without the endpoint that is wrong"
        ))
    }
}

/// Connects to the chains and checks their ids.
///
/// # Errors
/// Everything that is wrong with the settings, together; or the error of connecting.
pub(crate) async fn connect(args: &NetworkArgs, needed: ChainsNeeded) -> Result<Network, RunError> {
    Ok(connect_to_all(args, needed).await?.network)
}

/// Connects like [`connect`], for a command that connects again after each failure. `turn` is the number of failures:
/// in each turn another endpoint of a chain is the first one, because one may answer and refuse all questions. In
/// [`turns`] turns, each endpoint of one chain has been the first one beside each of the other chain.
///
/// # Errors
/// The errors of [`connect`].
pub(crate) async fn connect_in_turn(
    args: &NetworkArgs,
    needed: ChainsNeeded,
    turn: usize,
) -> Result<Network, RunError> {
    Ok(connect_to(args, args.file().as_deref(), needed, turn).await?.network)
}

/// Returns the number of different turns of [`connect_in_turn`].
///
/// # Errors
/// Everything that is wrong with the settings, together.
pub(crate) fn turns(args: &NetworkArgs, needed: ChainsNeeded) -> Result<usize, RunError> {
    let settings = ContractSettings::read(&sources(args)?).map_err(RunError::usage)?;
    let settlement = settings.settlement.urls.len();
    Ok(match needed {
        ChainsNeeded::Settlement => settlement,
        ChainsNeeded::AppIfGiven => settlement * settings.app.urls.len().max(1),
    })
}

/// Returns the settings of the network that the arguments name.
fn sources(args: &NetworkArgs) -> Result<SettingSources, RunError> {
    Ok(match args.file() {
        Some(path) => args.sources_beside(described(&path)?),
        None => args.sources(),
    })
}

/// Connects like [`connect`], to the chains of this network file, or by the settings if there is none. For a command
/// that also asks a node, and has chosen the file with it.
///
/// # Errors
/// The errors of [`connect`].
pub(crate) async fn connect_beside_node(
    args: &NetworkArgs,
    file: Option<&Path>,
    needed: ChainsNeeded,
) -> Result<ReachedNetwork, RunError> {
    connect_to(args, file, needed, 0).await
}

/// Connects like [`connect`], for a command that sends transactions.
///
/// # Errors
/// The errors of [`connect`].
pub(crate) async fn connect_to_all(
    args: &NetworkArgs,
    needed: ChainsNeeded,
) -> Result<ReachedNetwork, RunError> {
    connect_to(args, args.file().as_deref(), needed, 0).await
}

async fn connect_to(
    args: &NetworkArgs,
    file: Option<&Path>,
    needed: ChainsNeeded,
    turn: usize,
) -> Result<ReachedNetwork, RunError> {
    let Some(path) = file else {
        return connect_by(&args.sources(), needed, turn).await;
    };
    let sources = args.sources_beside(described(path)?);
    // The file outlives its network, so the user has to know where the addresses are from.
    let connected = connect_by(&sources, needed, turn).await;
    connected.map_err(|error| {
        error.while_doing(format_args!("connecting to the network of {}", path.display()))
    })
}

/// Returns the URLs of the app chain, and the contracts that order its strands. Sends no request to the chain.
///
/// # Errors
/// Everything that is wrong with the settings, or the contracts that they lack.
pub(crate) async fn app_chain_to_read(
    args: &NetworkArgs,
) -> Result<(Vec<String>, KnownDeployment), RunError> {
    let settings =
        ContractSettings::read_for_app_chain(&sources(args)?).map_err(RunError::usage)?;
    let needed = [Contract::GroupMessageBroadcaster, Contract::IdentityUpdateBroadcaster];
    let known = KnownDeployment::of(&settings, &needed).await?;
    Ok((settings.app.urls, known))
}

/// Checks that the settings describe a network, for a command that connects again and again. Sends no request, and
/// leaves a network file to the connection: its network may start later.
///
/// # Errors
/// Everything that is wrong with the settings, together.
pub(crate) fn require_settings(args: &NetworkArgs) -> Result<(), RunError> {
    match args.file() {
        Some(_) => Ok(()),
        None => ContractSettings::read(&args.sources()).map(drop).map_err(RunError::usage),
    }
}

/// Returns the settings that stand for the network of a file.
fn described(path: &Path) -> Result<Vec<(String, String)>, RunError> {
    let file = files::read(path, NetworkFile::parse)?;
    let (Some(settlement), Some(app)) = (file.settlement_chain, file.app_chain) else {
        let reason = "this network has no chains, because it runs with --chain-file";
        return Err(RunError::usage(format!("{}: {reason}", path.display())));
    };
    let values = [
        (&chains::SETTLEMENT_RPC, settlement.rpc),
        (&chains::APP_RPC, app.rpc),
        (&chains::TEXT, file.contracts.to_string()),
    ];
    Ok(values.map(|(setting, value)| (setting.flag.to_owned(), value)).into())
}

async fn connect_by(
    sources: &SettingSources,
    needed: ChainsNeeded,
    turn: usize,
) -> Result<ReachedNetwork, RunError> {
    let config = ContractSettings::read(sources).map_err(RunError::usage)?;
    let KnownDeployment { settlement_id, settlement_first_block, app_id, contracts, .. } =
        KnownDeployment::of(&config, &[]).await?;
    let [settlement_urls, app_urls] = both_in_turn(&config.settlement.urls, &config.app.urls, turn);
    let settlement = reach(&settlement_urls, settlement_id, ChainRole::Settlement).await?;
    let app = match needed {
        ChainsNeeded::AppIfGiven if !app_urls.is_empty() => {
            Some(reach(&app_urls, app_id, ChainRole::App).await?)
        }
        ChainsNeeded::AppIfGiven | ChainsNeeded::Settlement => None,
    };
    let witnesses = |name, urls: &[String], id| {
        Endpoints::new(name, urls, id).map(Witnesses::new).map_err(RunError::usage)
    };
    Ok(ReachedNetwork {
        settlement: witnesses("settlement", &config.settlement.urls, settlement_id)?,
        app: match app {
            Some(_) => Some(witnesses("app", &config.app.urls, app_id)?),
            None => None,
        },
        network: Network { settlement, app, app_id, contracts },
        settlement_first_block,
    })
}

/// Returns the URLs of both chains in the order of a turn. Those of the app chain come round more slowly: otherwise a
/// good endpoint of one chain could always meet a bad one of the other.
fn both_in_turn(settlement: &[String], app: &[String], turn: usize) -> [Vec<String>; 2] {
    [in_turn(settlement, turn), in_turn(app, turn / settlement.len().max(1))]
}

/// Returns the URLs of a chain in the order of its turn.
fn in_turn(urls: &[String], turn: usize) -> Vec<String> {
    let mut urls = urls.to_vec();
    if let Some(first) = turn.checked_rem(urls.len()) {
        urls.rotate_left(first);
    }
    urls
}

/// Connects to the first URL that answers. A wrong chain id is a mistake in the settings, so that the
/// next URL is not tried then.
///
/// # Errors
/// When no URL answers, or one serves another chain.
pub(crate) async fn reach(urls: &[String], id: u64, side: ChainRole) -> Result<Chain, RunError> {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// One endpoint of each chain answers and refuses all questions.
    #[test]
    fn each_endpoint_of_a_chain_is_the_first_one_beside_each_of_the_other() {
        let urls = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (settlement, app) = (urls(&["a", "b"]), urls(&["c", "d", "e"]));
        let firsts = |turn| both_in_turn(&settlement, &app, turn).map(|order| order[0].clone());
        assert_eq!((0..6).map(firsts).collect::<BTreeSet<_>>().len(), 6);
        assert_eq!(firsts(6), firsts(0));
        let whole = both_in_turn(&settlement, &app, 3);
        assert_eq!(whole, [urls(&["b", "a"]), urls(&["d", "e", "c"])]);
        assert_eq!(both_in_turn(&settlement, &[], 1), [urls(&["b", "a"]), Vec::new()]);
        assert_eq!(both_in_turn(&[], &[], usize::MAX), [Vec::new(), Vec::<String>::new()]);
    }
}
