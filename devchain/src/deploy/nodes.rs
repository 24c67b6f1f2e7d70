//! Registers the nodes of a development network, in the role of its administrator.

use alloy::primitives::{Address, Bytes, U256};

use super::NATIVE_BALANCE;
use crate::control::DevChain;
use hawser_chain::contracts::NodeRegistry;
use hawser_chain::contracts::node_registry::NodeRegistry::NodeWithId;
use hawser_chain::send::{Call, RequestError, SendError, Sender, ViewError};

/// The intended record of a node in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRegistration {
    /// The node id: 100, 200, 300, …
    pub id: u32,
    /// The owner, who may change the address and receives the fees. Used only when the node is added.
    pub owner: Address,
    /// The signing key: 65 bytes, uncompressed.
    pub public_key: [u8; 65],
    /// The URL of the API.
    pub http_address: String,
    /// True if the node belongs to the canonical network.
    pub is_canonical: bool,
}

/// Error of registering a node as intended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The registry assigns ids in order, so the node would get another id.
    #[error(
        "node {id} cannot be registered now: the registry gives id {next} to the next one. Register \
         that one first, or use fresh chains"
    )]
    OtherId {
        /// The intended id.
        id: u32,
        /// The id that the registry assigns next.
        next: u64,
    },
    /// The node is registered with another key, and the registry has no way to change it.
    #[error(
        "node {id} is registered with another key, and a key cannot be changed: use fresh chains"
    )]
    OtherKey {
        /// The node.
        id: u32,
    },
    /// A transaction was not sent, or failed.
    #[error("{what}: {error}")]
    Step {
        /// The purpose of the transaction.
        what: String,
        /// The error of the transaction.
        error: SendError,
    },
    /// The registry could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The chain does not answer.
    #[error(transparent)]
    Rpc(#[from] RequestError),
}

/// Registers nodes or updates their records, and gives their keys native tokens for transactions.
///
/// Records of other nodes are left unchanged. `admin` is the registry's administrator.
///
/// # Errors
/// The node and the step that failed. A second run continues there.
pub async fn register_nodes(
    admin: &Sender,
    registry: Address,
    nodes: &[NodeRegistration],
) -> Result<(), RegisterError> {
    let mut known = admin.chain().view(registry, &NodeRegistry::getAllNodesCall {}).await?;
    let mut nodes: Vec<&NodeRegistration> = nodes.iter().collect();
    nodes.sort_by_key(|node| node.id);
    for node in nodes {
        let entry = known.iter().find(|entry| entry.nodeId == node.id);
        let was_canonical = match entry {
            Some(entry) => {
                keep(admin, registry, node, entry).await?;
                entry.node.isCanonical
            }
            None => {
                known.push(add(admin, registry, node, known.len()).await?);
                false
            }
        };
        set_canonical(admin, registry, node, was_canonical).await?;
        fund(admin, Address::from_raw_public_key(&node.public_key[1..])).await?;
    }
    Ok(())
}

async fn send(
    admin: &Sender,
    what: &str,
    node: &NodeRegistration,
    call: &Call,
) -> Result<(), RegisterError> {
    let what = || format!("{what} node {}", node.id);
    let sent = admin.send(call).await;
    sent.map(drop).map_err(|error| RegisterError::Step { what: what(), error })
}

/// Adds a node to the registry.
async fn add(
    admin: &Sender,
    registry: Address,
    node: &NodeRegistration,
    known: usize,
) -> Result<NodeWithId, RegisterError> {
    let next = (known as u64 + 1) * 100;
    if next != u64::from(node.id) {
        return Err(RegisterError::OtherId { id: node.id, next });
    }
    let add = NodeRegistry::addNodeCall {
        owner_: node.owner,
        signingPublicKey_: Bytes::from(node.public_key.to_vec()),
        httpAddress_: node.http_address.clone(),
    };
    send(admin, "adding", node, &Call::new(registry, &add)).await?;
    let entries = admin.chain().view(registry, &NodeRegistry::getAllNodesCall {}).await?;
    let added = entries.into_iter().find(|entry| entry.nodeId == node.id);
    added.ok_or(RegisterError::OtherId { id: node.id, next })
}

/// Checks the key of a registered node and updates its URL if it changed.
async fn keep(
    admin: &Sender,
    registry: Address,
    node: &NodeRegistration,
    entry: &NodeWithId,
) -> Result<(), RegisterError> {
    if entry.node.signingPublicKey[..] != node.public_key {
        return Err(RegisterError::OtherKey { id: node.id });
    }
    if entry.node.httpAddress == node.http_address {
        return Ok(());
    }
    let owner_of = NodeRegistry::ownerOfCall { tokenId: U256::from(node.id) };
    let owner = admin.chain().view(registry, &owner_of).await?;
    let set = NodeRegistry::setHttpAddressCall {
        nodeId_: node.id,
        httpAddress_: node.http_address.clone(),
    };
    let sent = DevChain(admin.chain()).send_as(owner, &Call::new(registry, &set)).await;
    let what = || format!("changing the address of node {}", node.id);
    sent.map(drop).map_err(|error| RegisterError::Step { what: what(), error })
}

/// Adds a node to the canonical network or removes it.
async fn set_canonical(
    admin: &Sender,
    registry: Address,
    node: &NodeRegistration,
    was_canonical: bool,
) -> Result<(), RegisterError> {
    let call = match (was_canonical, node.is_canonical) {
        (false, true) => Call::new(registry, &NodeRegistry::addToNetworkCall { nodeId_: node.id }),
        (true, false) => {
            Call::new(registry, &NodeRegistry::removeFromNetworkCall { nodeId_: node.id })
        }
        (true, true) | (false, false) => return Ok(()),
    };
    send(admin, "choosing", node, &call).await
}

/// Gives native tokens to the account of a node's key, which sends payer reports.
async fn fund(admin: &Sender, signer: Address) -> Result<(), RequestError> {
    let chain = DevChain(admin.chain());
    if chain.balance(signer).await?.is_zero() {
        chain.set_balance(signer, NATIVE_BALANCE).await?;
    }
    Ok(())
}
