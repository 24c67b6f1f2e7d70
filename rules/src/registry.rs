//! The node registry as a value: who may sign which strand, and how a node is reached.

use std::collections::BTreeMap;

use hawser_proto::{Address, OriginatorId, PublicKey};

use crate::absences::Absences;

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
    /// Absences of nodes that have left at least once.
    absences: BTreeMap<OriginatorId, Absences>,
}

impl Registry {
    /// Returns the record of a node, canonical or not: its key verifies its strand in either case.
    #[must_use]
    pub fn node(&self, id: OriginatorId) -> Option<&NodeRecord> {
        self.nodes.get(&id)
    }

    /// Returns the record of a node that is in the canonical network now. Only with such a node are there
    /// sessions.
    #[must_use]
    pub fn member(&self, id: OriginatorId) -> Option<&NodeRecord> {
        self.node(id).filter(|record| record.canonical)
    }

    /// Returns the times in which a node was away after it had been in the network.
    #[must_use]
    pub fn absences(&self, id: OriginatorId) -> &Absences {
        static NONE: Absences = Absences::NONE;
        self.absences.get(&id).unwrap_or(&NONE)
    }

    /// Returns true if a node is in the network, or is known to have been in it. A strand of any other node
    /// is no strand of the network.
    #[must_use]
    pub fn has_been_member(&self, id: OriginatorId) -> bool {
        self.member(id).is_some() || (self.node(id).is_some() && !self.absences(id).is_empty())
    }

    /// Sets the absences of all nodes.
    #[must_use]
    pub fn with_absences(
        mut self,
        absences: impl IntoIterator<Item = (OriginatorId, Absences)>,
    ) -> Self {
        self.absences = absences.into_iter().filter(|(_, it)| !it.is_empty()).collect();
        self
    }

    /// Sets the absences to those of another reading of the registry.
    #[must_use]
    pub fn with_absences_of(mut self, other: &Self) -> Self {
        self.absences.clone_from(&other.absences);
        self
    }

    /// Iterates over all records by ascending id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }
}

impl FromIterator<NodeRecord> for Registry {
    /// Collects records; a later record of the same id replaces an earlier one.
    fn from_iter<I: IntoIterator<Item = NodeRecord>>(records: I) -> Self {
        let nodes = records.into_iter().map(|record| (record.id, record)).collect();
        Self { nodes, absences: BTreeMap::new() }
    }
}
