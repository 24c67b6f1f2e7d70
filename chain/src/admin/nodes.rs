//! Operations on the node registry.

use alloy::primitives::{Address, Bytes, U256};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hawser_proto::{OriginatorId, PublicKey};

use super::onchain_reports::ASKED_AT_ONCE;
use super::{AdminError, Contract, Network, Plan};
use crate::contracts::NodeRegistry;
use crate::contracts::node_registry::NodeRegistry::NodeWithId;

/// A node's record in the registry, with its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredNode {
    /// The id that the registry assigned: 100, 200, 300, …
    pub node_id: OriginatorId,
    /// The account that may change the address and receives the fees.
    pub owner: Address,
    /// The account of the node's key.
    pub signer: Address,
    /// True if the node belongs to the canonical network.
    pub is_canonical: bool,
    /// The public key: 65 bytes, uncompressed.
    pub signing_public_key: Bytes,
    /// The URL of the node's API.
    pub http_address: String,
}

/// The content of a new record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// The account that may change the address and receives the fees.
    pub owner: Address,
    /// The public key, an uncompressed point on the curve. The contract does not check it.
    pub signing_public_key: [u8; 65],
    /// The URL of the node's API. The contract does not check it.
    pub http_address: String,
}

/// Returns all records by ascending id.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn list(network: &Network) -> Result<Vec<RegisteredNode>, AdminError> {
    let nodes = network.view(Contract::NodeRegistry, &NodeRegistry::getAllNodesCall {}).await?;
    // An endpoint can make up a hundred thousand nodes.
    let records = nodes.into_iter().map(|entry| with_owner(network, entry));
    stream::iter(records).buffered(ASKED_AT_ONCE).try_collect().await
}

async fn with_owner(network: &Network, entry: NodeWithId) -> Result<RegisteredNode, AdminError> {
    let node_id = OriginatorId(entry.nodeId);
    Ok(RegisteredNode {
        node_id,
        owner: owner_of(network, node_id).await?,
        signer: entry.node.signer,
        is_canonical: entry.node.isCanonical,
        signing_public_key: entry.node.signingPublicKey,
        http_address: entry.node.httpAddress,
    })
}

/// A node's id, status, URL and key as the node registry states them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlace {
    /// The id that the registry assigned: 100, 200, 300, …
    pub node_id: OriginatorId,
    /// True if the node belongs to the canonical network.
    pub is_canonical: bool,
    /// The URL of the node's API. The contract does not check it.
    pub http_address: String,
    /// The node's key; `None` if the bytes are no key. The contract does not check them.
    pub public_key: Option<PublicKey>,
}

/// Returns the id, status, URL and key of every node by ascending id, with a single call.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn places(network: &Network) -> Result<Vec<NodePlace>, AdminError> {
    let nodes = network.view(Contract::NodeRegistry, &NodeRegistry::getAllNodesCall {}).await?;
    let place = |entry: NodeWithId| NodePlace {
        node_id: OriginatorId(entry.nodeId),
        is_canonical: entry.node.isCanonical,
        http_address: entry.node.httpAddress,
        public_key: PublicKey::from_uncompressed(&entry.node.signingPublicKey),
    };
    let mut places: Vec<_> = nodes.into_iter().map(place).collect();
    places.sort_by_key(|place| place.node_id);
    Ok(places)
}

/// Returns one record.
///
/// # Errors
/// [`AdminError::UnknownNode`], and an error if the registry cannot be read.
pub async fn get(network: &Network, node_id: OriginatorId) -> Result<RegisteredNode, AdminError> {
    let get_node = NodeRegistry::getNodeCall { nodeId_: node_id.0 };
    let node = network.try_view(Contract::NodeRegistry, &get_node).await?;
    let node = node.ok_or(AdminError::UnknownNode { node_id })?;
    Ok(RegisteredNode {
        node_id,
        owner: owner_of(network, node_id).await?,
        signer: node.signer,
        is_canonical: node.isCanonical,
        signing_public_key: node.signingPublicKey,
        http_address: node.httpAddress,
    })
}

/// Returns the record with this key; the oldest one if there are several.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn with_key(network: &Network, key: &[u8]) -> Result<Option<RegisteredNode>, AdminError> {
    let nodes = network.view(Contract::NodeRegistry, &NodeRegistry::getAllNodesCall {}).await?;
    match nodes.into_iter().find(|entry| entry.node.signingPublicKey[..] == *key) {
        Some(entry) => get(network, OriginatorId(entry.nodeId)).await.map(Some),
        None => Ok(None),
    }
}

/// Plans to add a node, which is not canonical at first. The plan is empty if an equal record already exists.
///
/// # Errors
/// [`AdminError::KeyInUse`], [`AdminError::OwnContract`], and an error if the registry cannot be read.
pub async fn add(network: &Network, new: &NewNode) -> Result<Plan, AdminError> {
    network.refuse_contract(new.owner)?;
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

/// Plans to change the URL of a node's API.
///
/// # Errors
/// [`AdminError::UnknownNode`], and an error if the registry cannot be read.
pub async fn update_http(
    network: &Network,
    node_id: OriginatorId,
    http_address: &str,
) -> Result<Plan, AdminError> {
    let node = get(network, node_id).await?;
    if node.http_address == http_address {
        return Ok(Plan::nothing(format!("node {node_id} has this address already")));
    }
    let set_address =
        NodeRegistry::setHttpAddressCall { nodeId_: node_id.0, httpAddress_: http_address.into() };
    let step = network.step(Contract::NodeRegistry, &set_address)?;
    Ok(by_owner(Plan::of([step]), node.owner))
}

/// Plans to add a node to the canonical network.
///
/// # Errors
/// [`AdminError::UnknownNode`], and an error if the registry cannot be read.
pub async fn add_canonical(network: &Network, node_id: OriginatorId) -> Result<Plan, AdminError> {
    if get(network, node_id).await?.is_canonical {
        return Ok(Plan::nothing(format!("node {node_id} is canonical already")));
    }
    let add = NodeRegistry::addToNetworkCall { nodeId_: node_id.0 };
    by_admin(network, Plan::of([network.step(Contract::NodeRegistry, &add)?])).await
}

/// Plans to remove a node from the canonical network. Its record stays.
///
/// # Errors
/// [`AdminError::UnknownNode`], and an error if the registry cannot be read.
pub async fn remove_canonical(
    network: &Network,
    node_id: OriginatorId,
) -> Result<Plan, AdminError> {
    if !get(network, node_id).await?.is_canonical {
        return Ok(Plan::nothing(format!("node {node_id} is not canonical")));
    }
    let remove = NodeRegistry::removeFromNetworkCall { nodeId_: node_id.0 };
    by_admin(network, Plan::of([network.step(Contract::NodeRegistry, &remove)?])).await
}

/// Plans to transfer a node's token to another account, which may then change the node's URL and receives its fees. The
/// registry refuses a contract that cannot hold tokens.
///
/// # Errors
/// [`AdminError::UnknownNode`], and an error if the registry cannot be read.
pub async fn transfer(
    network: &Network,
    node_id: OriginatorId,
    to: Address,
) -> Result<Plan, AdminError> {
    let owner = get(network, node_id).await?.owner;
    if owner == to {
        return Ok(Plan::nothing(format!("node {node_id} belongs to {to} already")));
    }
    let transfer =
        NodeRegistry::safeTransferFrom_0Call { from: owner, to, tokenId: U256::from(node_id.0) };
    let step = network.step(Contract::NodeRegistry, &transfer)?;
    let who =
        format!("only the node's owner, {owner}, or the account that it has approved can do this");
    let note = "fees that were claimed and not withdrawn go to the new owner too";
    Ok(Plan::of([step]).note(who).note(note))
}

/// Plans to allow one other account to transfer a node's token; the zero address revokes the approval.
///
/// # Errors
/// [`AdminError::UnknownNode`], and an error if the registry cannot be read.
pub async fn approve(
    network: &Network,
    node_id: OriginatorId,
    to: Address,
) -> Result<Plan, AdminError> {
    let owner = get(network, node_id).await?.owner;
    if approved(network, node_id).await? == to {
        return Ok(Plan::nothing(format!("node {node_id} may be transferred so already")));
    }
    let approve = NodeRegistry::approveCall { to, tokenId: U256::from(node_id.0) };
    Ok(by_owner(Plan::of([network.step(Contract::NodeRegistry, &approve)?]), owner))
}

/// Returns the account that may transfer a node's token besides its owner; the zero address if there is none.
///
/// # Errors
/// Fails when the registry cannot be read, or has no such node.
pub async fn approved(network: &Network, node_id: OriginatorId) -> Result<Address, AdminError> {
    let get_approved = NodeRegistry::getApprovedCall { tokenId: U256::from(node_id.0) };
    network.view(Contract::NodeRegistry, &get_approved).await
}

/// Plans to set the base URI, which precedes the id in the URI of each node's token and ends with a slash.
///
/// # Errors
/// Fails when the registry cannot be read.
pub async fn set_base_uri(network: &Network, base_uri: &str) -> Result<Plan, AdminError> {
    let set = NodeRegistry::setBaseURICall { baseURI_: base_uri.into() };
    by_admin(network, Plan::of([network.step(Contract::NodeRegistry, &set)?])).await
}

fn by_owner(plan: Plan, owner: Address) -> Plan {
    plan.note(format!("only the node's owner can do this: {owner}"))
}

async fn by_admin(network: &Network, plan: Plan) -> Result<Plan, AdminError> {
    let admin = network.view(Contract::NodeRegistry, &NodeRegistry::adminCall {}).await?;
    Ok(plan.note(format!("only the registry's admin can do this: {admin}")))
}

async fn owner_of(network: &Network, node_id: OriginatorId) -> Result<Address, AdminError> {
    let owner_of = NodeRegistry::ownerOfCall { tokenId: U256::from(node_id.0) };
    network.view(Contract::NodeRegistry, &owner_of).await
}
