//! Reads an [`Observation`] from the chains.

use std::borrow::Cow;
use std::collections::BTreeMap;

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::Address;
use alloy::providers::Provider as _;
use hawser_proto::OriginatorId;

use super::{Observation, OlderReports, Watched};
use crate::admin::contract::{ChainRole, Contract};
use crate::admin::error::AdminError;
use crate::admin::network::Network;
use crate::admin::nodes::RegisteredNode;
use crate::admin::rates::RateEntry;
use crate::admin::{Wei, WeiPerGas, fees, installed, nodes, payers, rates};
use crate::contracts::PayerReportManager;
use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::pausedCall;
use crate::send::Chain;

/// The number of newest reports of each originator that are read. A guess: eight days of reports.
pub const REPORTS_LOOKED_AT: u64 = 32;
/// The largest number of nodes whose reports are read. A guess far above a network's size. It bounds the work
/// if a lying endpoint invents nodes.
pub(super) const NODES_MAX: usize = 256;

/// Reads the state of the contracts. Those of the app chain are left out if it is not connected, and so are the rates
/// if the address of their registry is not known. `older` is what the looks before have found.
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
    for node in looked_at(nodes::list(network).await?) {
        let newest = fees::newest_reports(network, node.node_id, REPORTS_LOOKED_AT).await?;
        if !node.is_canonical {
            if newest.0 == 0 {
                continue;
            }
            seen.left.insert(node.node_id);
        }
        let open = older.read(network, node.node_id, &newest.1).await?;
        seen.older_open.insert(node.node_id, open);
        seen.reports.insert(node.node_id, newest);
    }
    for migrated in OriginatorId::MIGRATED {
        let newest = fees::newest_reports(network, migrated, REPORTS_LOOKED_AT).await?;
        // A network without migrated logs has no reports about them.
        if newest.0 > 0 {
            let open = older.read(network, migrated, &newest.1).await?;
            seen.older_open.insert(migrated, open);
            seen.reports.insert(migrated, newest);
        }
    }
    seen.paused = paused(network).await?;
    seen.implementations = implementations(network).await?;
    Ok(seen)
}

/// Returns the nodes whose reports are read: of too many, those of the canonical network first. Records stay in the
/// registry when their nodes have left.
fn looked_at(mut registered: Vec<RegisteredNode>) -> Vec<RegisteredNode> {
    registered.sort_by_key(|node| !node.is_canonical);
    registered.truncate(NODES_MAX);
    registered
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
async fn rate_to_adopt(
    network: &Network,
    known: &[RateEntry],
) -> Result<Option<RateEntry>, AdminError> {
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
    use alloy::primitives::Bytes;

    use super::*;

    /// Ids are given out in their order, so the nodes of an old network are those with the highest ids.
    #[test]
    fn nodes_that_have_left_take_no_places_of_those_in_the_network() {
        let node = |id: u32, is_canonical| RegisteredNode {
            node_id: OriginatorId(id),
            owner: Address::ZERO,
            signer: Address::ZERO,
            is_canonical,
            signing_public_key: Bytes::new(),
            http_address: String::new(),
        };
        let nodes = (0..300).map(|id| node(100 * id, id >= 290)).collect();
        let looked_at = looked_at(nodes);
        assert_eq!(looked_at.len(), NODES_MAX);
        let canonical: Vec<_> = looked_at.iter().filter(|it| it.is_canonical).collect();
        assert_eq!((canonical.len(), canonical[0].node_id), (10, OriginatorId(29_000)));
    }
}
