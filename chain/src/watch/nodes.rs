//! The nodes of the network.

use alloy::primitives::{Address, Bytes};

use super::WatchError;
use crate::contracts::NodeRegistry;
use crate::endpoints::Endpoints;

/// A node's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainNode {
    /// 100, 200, 300, …
    pub id: u32,
    /// The account of the node's key.
    pub signer: Address,
    /// Whether the node belongs to the canonical network.
    pub canonical: bool,
    /// 65 bytes, uncompressed, if whoever registered it was right.
    pub public_key: Bytes,
    /// Where it says that it is reached.
    pub http_address: String,
}

pub(super) async fn read(
    endpoints: &Endpoints,
    registry: Address,
) -> Result<Vec<ChainNode>, WatchError> {
    let all = endpoints
        .ask(|chain| async move { chain.view(registry, &NodeRegistry::getAllNodesCall {}).await });
    let nodes = all.await?.into_iter().map(|it| ChainNode {
        id: it.nodeId,
        signer: it.node.signer,
        canonical: it.node.isCanonical,
        public_key: it.node.signingPublicKey,
        http_address: it.node.httpAddress,
    });
    Ok(nodes.collect())
}
