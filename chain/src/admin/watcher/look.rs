//! Reads an [`Observation`] from the chains.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::Address;
use alloy::providers::Provider as _;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hawser_proto::OriginatorId;
use hawser_rules::Rate;

use super::{Observation, OlderReports, Watched};
use crate::admin::contract::{ChainRole, Contract};
use crate::admin::error::AdminError;
use crate::admin::network::Network;
use crate::admin::nodes::NodePlace;
use crate::admin::{Wei, WeiPerGas, installed, nodes, onchain_reports, payers, rates};
use crate::contracts::PayerReportManager;
use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::pausedCall;
use crate::send::Chain;

/// The number of newest reports of each originator that are read. A guess: eight days of reports.
pub const REPORTS_LOOKED_AT: u64 = 32;
/// The largest number of nodes whose reports are read. A guess far above a network's size. It bounds the work
/// if a lying endpoint invents nodes.
pub(super) const NODES_MAX: usize = 256;
/// Originators whose newest reports are read at once. To count those of one takes some twenty questions in a row. A
/// guess: as many questions as public endpoints answer at once.
const READ_AT_ONCE: usize = 4;

/// Reads the state of the contracts. Those of the app chain are left out if it is not connected, and so are the rates
/// if the address of their registry is not known. `older` are the findings of earlier looks.
///
/// # Errors
/// [`AdminError`] if a contract cannot be read, or if `watched` has accounts of the app chain and it is not connected.
pub async fn look(
    network: &Network,
    watched: &Watched,
    older: &mut OlderReports,
) -> Result<Observation, AdminError> {
    let network = with_node_registry(network).await?;
    let network = &*network;
    let settlement = &network.settlement;
    let lacks_rates = network.contracts.get(Contract::RateRegistry).is_none();
    let newest = settlement.provider().get_block_by_number(BlockNumberOrTag::Latest).await;
    let newest = newest.map_err(|error| settlement.request_error("eth_getBlockByNumber", error))?;
    let mut seen = Observation {
        chain_time: newest.map_or(0, |block| block.header.timestamp),
        gas_price: gas_price(settlement).await?,
        rates: if lacks_rates { Vec::new() } else { rates::list(network).await? },
        lacks_rates,
        ..Observation::default()
    };
    seen.rate_to_adopt = rate_to_adopt(network, &seen.rates).await?;
    for &payer in &watched.payers {
        seen.payers.push((payer, payers::balance_in_registry(network, payer).await?));
    }
    seen.senders = native_balances(settlement, &watched.senders).await?;
    if let Ok(app) = network.chain(ChainRole::App) {
        seen.app_gas_price = Some(gas_price(app).await?);
    }
    if !watched.app_senders.is_empty() {
        let app = network.chain(ChainRole::App)?;
        seen.app_senders = native_balances(app, &watched.app_senders).await?;
    }
    let (canonical, originators) = looked_at(nodes::places(network).await?);
    let looks = originators.iter().copied();
    let looks = looks.map(|it| onchain_reports::newest_reports(network, it, REPORTS_LOOKED_AT));
    let newest: Vec<_> = stream::iter(looks).buffered(READ_AT_ONCE).try_collect().await?;
    for (originator, newest) in originators.into_iter().zip(newest) {
        if !canonical.contains(&originator) {
            // No further report is due, and a network without migrated logs has none about them.
            if newest.0 == 0 {
                continue;
            }
            seen.left.extend(originator.is_node().then_some(originator));
        }
        let open = older.read(network, originator, &newest.1).await?;
        seen.older_open.insert(originator, open);
        seen.reports.insert(originator, newest);
    }
    seen.paused = paused(network).await?;
    seen.implementations = implementations(network).await?;
    Ok(seen)
}

/// Returns the nodes of the canonical network, and all originators whose reports are read: of too many nodes, those of
/// the canonical network first. Records stay in the registry when their nodes have left.
fn looked_at(mut registered: Vec<NodePlace>) -> (BTreeSet<OriginatorId>, Vec<OriginatorId>) {
    registered.sort_by_key(|node| !node.is_canonical);
    registered.truncate(NODES_MAX);
    let canonical = registered.iter().filter(|node| node.is_canonical);
    let canonical = canonical.map(|node| node.node_id).collect();
    let nodes = registered.iter().map(|node| node.node_id);
    (canonical, nodes.chain(OriginatorId::MIGRATED).collect())
}

/// Returns the network with the node registry that the payer report manager names, if the address is not given: the
/// variables of the reference implementation's watcher do not have it.
async fn with_node_registry(network: &Network) -> Result<Cow<'_, Network>, AdminError> {
    if network.contracts.get(Contract::NodeRegistry).is_some() {
        return Ok(Cow::Borrowed(network));
    }
    let named = PayerReportManager::nodeRegistryCall {};
    let named = network.view(Contract::PayerReportManager, &named).await?;
    let mut network = network.clone();
    network.contracts.set(Contract::NodeRegistry, named);
    Ok(Cow::Owned(network))
}

/// Returns the rate that can be adopted behind the known ones; `None` also before the first one, and if the address of
/// the parameter registry is not known.
async fn rate_to_adopt(network: &Network, known: &[Rate]) -> Result<Option<Rate>, AdminError> {
    let Some(last) = known.last() else { return Ok(None) };
    match network.contracts.get(Contract::SettlementChainParameterRegistry) {
        Some(_) => rates::adoptable(network, last).await,
        None => Ok(None),
    }
}

/// Returns the gas price that a chain states.
async fn gas_price(chain: &Chain) -> Result<WeiPerGas, AdminError> {
    let price = chain.provider().get_gas_price().await;
    let price = price.map_err(|error| chain.request_error("eth_gasPrice", error))?;
    Ok(WeiPerGas(price))
}

/// Returns the accounts' balances of a chain's native token.
async fn native_balances(
    chain: &Chain,
    accounts: &[Address],
) -> Result<Vec<(Address, Wei)>, AdminError> {
    let mut balances = Vec::new();
    for &account in accounts {
        let balance = chain.provider().get_balance(account).await;
        let balance = balance.map_err(|error| chain.request_error("eth_getBalance", error))?;
        balances.push((account, Wei::of_chain(balance)));
    }
    Ok(balances)
}

/// Returns a contract's address and chain, if the address is known and the chain is connected.
fn reachable(network: &Network, contract: Contract) -> Option<(Address, &Chain)> {
    Some((network.contracts.get(contract)?, network.chain(contract.chain()).ok()?))
}

async fn paused(network: &Network) -> Result<BTreeMap<Contract, bool>, AdminError> {
    let mut paused = BTreeMap::new();
    for contract in Contract::PAUSABLE {
        let Some((address, chain)) = reachable(network, contract) else { continue };
        let is_paused = chain.view(address, &pausedCall {}).await;
        let is_paused = is_paused.map_err(|source| AdminError::View { contract, source })?;
        paused.insert(contract, is_paused);
    }
    Ok(paused)
}

async fn implementations(network: &Network) -> Result<BTreeMap<Contract, Address>, AdminError> {
    let mut implementations = BTreeMap::new();
    for contract in Contract::ALL.into_iter().chain(Contract::OPTIONAL) {
        let Some((address, chain)) = reachable(network, contract) else { continue };
        // The underlying token is a third-party contract and may not be a proxy; the deposit splitter is not one.
        if let Some(code) = installed::implementation_of(chain, address).await? {
            implementations.insert(contract, code);
        }
    }
    Ok(implementations)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ids are given out in their order, so the nodes of an old network are those with the highest ids.
    #[test]
    fn nodes_that_have_left_take_no_places_of_those_in_the_network() {
        let node = |id: u32, is_canonical| NodePlace {
            node_id: OriginatorId(id),
            is_canonical,
            http_address: String::new(),
            public_key: None,
        };
        let nodes = (0..300).map(|id| node(100 * id, id >= 290)).collect();
        let (canonical, originators) = looked_at(nodes);
        assert_eq!(originators.len(), NODES_MAX + OriginatorId::MIGRATED.len());
        assert_eq!((canonical.len(), canonical.first()), (10, Some(&OriginatorId(29_000))));
        assert!(canonical.iter().all(|it| originators.contains(it)));
    }
}
