//! The node registry.

use alloy::primitives::{Address, Bytes, U256};
use futures_util::future::try_join_all;

use super::{AdminError, Contract, Network, Plan};
use crate::contracts::NodeRegistry;

/// A record of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// 100, 200, 300, …
    pub node_id: u32,
    /// Who may change its address and has its fees.
    pub owner: Address,
    /// The account of its key.
    pub signer: Address,
    /// Whether it belongs to the canonical network.
    pub is_canonical: bool,
    /// 65 bytes, uncompressed.
    pub signing_public_key: Bytes,
    /// Where it is reached.
    pub http_address: String,
}

/// What a new record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Who may change its address and has its fees.
    pub owner: Address,
    /// An uncompressed point on the curve. The contract does not check that it is one.
    pub signing_public_key: [u8; 65],
    /// Where it is reached. The contract does not check that it is a URL.
    pub http_address: String,
}

/// All records, by id.
///
/// # Errors
/// When the registry cannot be read.
pub async fn list(network: &Network) -> Result<Vec<NodeRecord>, AdminError> {
    let nodes = network.view(Contract::NodeRegistry, &NodeRegistry::getAllNodesCall {}).await?;
    let records = nodes.into_iter().map(async |entry| {
        Ok(NodeRecord {
            node_id: entry.nodeId,
            owner: owner_of(network, entry.nodeId).await?,
            signer: entry.node.signer,
            is_canonical: entry.node.isCanonical,
            signing_public_key: entry.node.signingPublicKey,
            http_address: entry.node.httpAddress,
        })
    });
    try_join_all(records).await
}

/// One record.
///
/// # Errors
/// [`AdminError::UnknownNode`]; also when the registry cannot be read.
pub async fn get(network: &Network, node_id: u32) -> Result<NodeRecord, AdminError> {
    let get_node = NodeRegistry::getNodeCall { nodeId_: node_id };
    let node = network.try_view(Contract::NodeRegistry, &get_node).await?;
    let node = node.ok_or(AdminError::UnknownNode { node_id })?;
    Ok(NodeRecord {
        node_id,
        owner: owner_of(network, node_id).await?,
        signer: node.signer,
        is_canonical: node.isCanonical,
        signing_public_key: node.signingPublicKey,
        http_address: node.httpAddress,
    })
}

/// The record that belongs to a key; the oldest of several.
///
/// # Errors
/// When the registry cannot be read.
pub async fn with_key(network: &Network, key: &[u8]) -> Result<Option<NodeRecord>, AdminError> {
    let nodes = network.view(Contract::NodeRegistry, &NodeRegistry::getAllNodesCall {}).await?;
    match nodes.into_iter().find(|entry| entry.node.signingPublicKey[..] == *key) {
        Some(entry) => get(network, entry.nodeId).await.map(Some),
        None => Ok(None),
    }
}

/// Adds a node. It is not canonical yet. Nothing is to be done if it is there already.
///
/// # Errors
/// [`AdminError::KeyInUse`]; also when the registry cannot be read.
pub async fn add(network: &Network, new: &NewNode) -> Result<Plan, AdminError> {
    if let Some(same) = with_key(network, &new.signing_public_key).await? {
        let node_id = same.node_id;
        if same.owner != new.owner || same.http_address != new.http_address {
            return Err(AdminError::KeyInUse { node_id });
        }
        return Ok(Plan::nothing(format!("node {node_id} is registered so already")));
    }
    let add_node = NodeRegistry::addNodeCall {
        owner_: new.owner,
        signingPublicKey_: new.signing_public_key.into(),
        httpAddress_: new.http_address.clone(),
    };
    by_admin(network, Plan::of([network.step(Contract::NodeRegistry, &add_node)?])).await
}

/// Says where a node is reached from now on.
///
/// # Errors
/// [`AdminError::UnknownNode`]; also when the registry cannot be read.
pub async fn update_http(
    network: &Network,
    node_id: u32,
    http_address: &str,
) -> Result<Plan, AdminError> {
    let node = get(network, node_id).await?;
    if node.http_address == http_address {
        return Ok(Plan::nothing(format!("node {node_id} has this address already")));
    }
    let set_address =
        NodeRegistry::setHttpAddressCall { nodeId_: node_id, httpAddress_: http_address.into() };
    let step = network.step(Contract::NodeRegistry, &set_address)?;
    Ok(Plan::of([step]).note(format!("only the node's owner can do this: {}", node.owner)))
}

/// Takes a node into the canonical network.
///
/// # Errors
/// [`AdminError::UnknownNode`]; also when the registry cannot be read.
pub async fn add_canonical(network: &Network, node_id: u32) -> Result<Plan, AdminError> {
    if get(network, node_id).await?.is_canonical {
        return Ok(Plan::nothing(format!("node {node_id} is canonical already")));
    }
    let add = NodeRegistry::addToNetworkCall { nodeId_: node_id };
    by_admin(network, Plan::of([network.step(Contract::NodeRegistry, &add)?])).await
}

/// Takes a node out of the canonical network. Its record stays.
///
/// # Errors
/// [`AdminError::UnknownNode`]; also when the registry cannot be read.
pub async fn remove_canonical(network: &Network, node_id: u32) -> Result<Plan, AdminError> {
    if !get(network, node_id).await?.is_canonical {
        return Ok(Plan::nothing(format!("node {node_id} is not canonical")));
    }
    let remove = NodeRegistry::removeFromNetworkCall { nodeId_: node_id };
    by_admin(network, Plan::of([network.step(Contract::NodeRegistry, &remove)?])).await
}

async fn by_admin(network: &Network, plan: Plan) -> Result<Plan, AdminError> {
    let admin = network.view(Contract::NodeRegistry, &NodeRegistry::adminCall {}).await?;
    Ok(plan.note(format!("only the registry's admin can do this: {admin}")))
}

async fn owner_of(network: &Network, node_id: u32) -> Result<Address, AdminError> {
    let owner_of = NodeRegistry::ownerOfCall { tokenId: U256::from(node_id) };
    network.view(Contract::NodeRegistry, &owner_of).await
}
