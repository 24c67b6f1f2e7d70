//! The node registry as a value: who may sign which strand, and how a node is reached.

use std::collections::BTreeMap;

use hawser_proto::{Address, OriginatorId, PublicKey};

/// One record of the node registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The id that the registry assigned: 100, 200, 300, …
    pub id: OriginatorId,
    /// Verifies every envelope of this node's strand. Never changes.
    pub public_key: PublicKey,
    /// The account that owns the record.
    pub owner: Address,
    /// URL of the node's API: `http://…` or `https://…`.
    pub http_address: String,
    /// Address of the node's QUIC endpoint, `host:port`; `None` if it is the API's host and port.
    pub quic_address: Option<String>,
    /// Membership in the canonical network now.
    pub canonical: bool,
}

/// The node registry as last read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    nodes: BTreeMap<OriginatorId, NodeRecord>,
}

impl Registry {
    /// Returns the record of a node, canonical or not: its key verifies its strand in either case.
    #[must_use]
    pub fn node(&self, id: OriginatorId) -> Option<&NodeRecord> {
        self.nodes.get(&id)
    }

    /// Iterates over all records by ascending id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }
}

impl FromIterator<NodeRecord> for Registry {
    /// Collects records; a later record of the same id replaces an earlier one.
    fn from_iter<I: IntoIterator<Item = NodeRecord>>(records: I) -> Self {
        Self { nodes: records.into_iter().map(|record| (record.id, record)).collect() }
    }
}
