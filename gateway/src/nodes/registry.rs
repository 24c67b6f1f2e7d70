//! Starts and stops nodes when the registry changes.

use std::sync::Arc;
use std::time::Duration;

use hawser_rules::{NodeRecord, Registry};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tonic::transport::Error as TransportError;

use super::batch::PayerSettings;
use super::follow::ChainStrands;
use super::node::Node;
use super::reporter::Reporter;
use super::set::{NodeMap, Nodes};
use super::watch;
use crate::metrics::GatewayMetrics;
use crate::select::Strategy;
use crate::sharing::GatewayShare;

/// The values with which each node is started.
pub(crate) struct NodeSetup {
    pub(crate) strategy: Strategy,
    pub(crate) payer: Arc<PayerSettings>,
    pub(crate) metrics: Arc<GatewayMetrics>,
    /// Reports wrong answers of nodes.
    pub(crate) reporter: Reporter,
    /// Collects the chain envelopes that nodes show; `None` without an app chain.
    pub(crate) chain_strands: Option<ChainStrands>,
    /// Interval at which the time to connect is measured; `None` if the strategy does not need it.
    pub(crate) connect_time_every: Option<Duration>,
    /// Time after which a connection that is being measured counts as failed.
    pub(crate) connect_timeout: Duration,
    /// Connections to private addresses are allowed.
    pub(crate) allow_private: bool,
    /// The state that gateways share; `None` for a single gateway.
    pub(crate) share: Option<Arc<GatewayShare>>,
}

/// Follows `registry` until `end`. Returns the nodes; those of the current version are started already.
pub(crate) fn follow_registry(
    setup: NodeSetup,
    mut registry: channel::Receiver<Arc<Registry>>,
    end: CancellationToken,
) -> Nodes {
    let nodes = Nodes::new(setup.strategy.clone(), setup.share.clone());
    let follower = RegistryFollower { nodes: nodes.clone(), setup, end: end.clone() };
    follower.apply(&registry.borrow_and_update().clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                changed = registry.changed() => {
                    if changed.is_err() {
                        return; // the reader of the registry has ended: the last version stays
                    }
                }
            }
            let records = registry.borrow_and_update().clone();
            follower.apply(&records);
        }
    });
    nodes
}

struct RegistryFollower {
    nodes: Nodes,
    setup: NodeSetup,
    end: CancellationToken,
}

impl RegistryFollower {
    /// Applies a version of the registry. A node with the same key and address keeps its connections and its state. A
    /// node without an address is not used.
    fn apply(&self, registry: &Registry) {
        let before = self.nodes.all();
        let mut after = NodeMap::new();
        for record in registry.nodes().filter(|record| record.canonical) {
            let Some(address) = &record.http_address else { continue };
            let same = before.get(&record.id).filter(|node| is_reached_alike(&node.record, record));
            match same.cloned().map_or_else(|| self.start(record, address), Ok) {
                Ok(node) => {
                    after.insert(record.id, node);
                }
                Err(error) => tracing::error!(
                    code = "node_address",
                    node_id = record.id.0,
                    address,
                    %error,
                    "the registry has an unusable address for a node"
                ),
            }
        }
        // A node that has left may have made up what it has shown, so that others look behind for ever.
        if let Some(strands) = &self.setup.chain_strands {
            strands.keep_nodes(|id| after.contains_key(&id));
        }
        self.nodes.replace(after);
    }

    fn start(&self, record: &NodeRecord, address: &str) -> Result<Arc<Node>, TransportError> {
        let end = self.end.child_token();
        let (metrics, payer) = (self.setup.metrics.of(record.id), self.setup.payer.clone());
        let (reporter, allow_private) = (self.setup.reporter.clone(), self.setup.allow_private);
        let ended = end.clone();
        let node = Node::new(record, address, metrics, payer, reporter, allow_private, ended)?;
        let node = Arc::new(node);
        tracing::info!(node_id = record.id.0, address, "a node is used");
        if let Some(strands) = &self.setup.chain_strands {
            strands.follow(record.id, node.query_channel.clone(), end.clone());
        }
        let probe = watch::ConnectProbe {
            every: self.setup.connect_time_every,
            timeout: self.setup.connect_timeout,
        };
        watch::start(self.nodes.clone(), &node, probe, end);
        Ok(node)
    }
}

/// Returns true if a node is called and verified in the same way with both records.
fn is_reached_alike(before: &NodeRecord, after: &NodeRecord) -> bool {
    before.public_key == after.public_key && before.http_address == after.http_address
}
