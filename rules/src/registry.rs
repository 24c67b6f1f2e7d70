//! The node registry as a value: the signer of each strand, and the addresses of nodes.

use std::collections::BTreeMap;

use hawser_proto::{Address, OriginatorId, PublicKey};

use crate::absences::Absences;

/// One record of the node registry: a node that is or was registered, canonical or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The id that the registry assigned: 100, 200, 300, …
    pub id: OriginatorId,
    /// The key that verifies every envelope of this node's strand. It never changes.
    pub public_key: PublicKey,
    /// The account that owns the record.
    pub owner: Address,
    /// The URL of the node's API: `http://…` or `https://…`.
    pub http_address: String,
    /// The address of the node's QUIC endpoint, `host:port`; `None` if it is the API's host and port.
    pub quic_address: Option<String>,
    /// True if the node is in the canonical network now.
    pub canonical: bool,
}

/// The node registry as last read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    nodes: BTreeMap<OriginatorId, NodeRecord>,
    /// The absences of nodes that have left at least once.
    absences: BTreeMap<OriginatorId, Absences>,
    /// The nodes without a record in `nodes`, because theirs cannot be used, each with true if it is canonical.
    unusable: BTreeMap<OriginatorId, bool>,
}

impl Registry {
    /// Returns the record of a node, canonical or not, because its key verifies its strand in either case.
    #[must_use]
    pub fn node(&self, id: OriginatorId) -> Option<&NodeRecord> {
        self.nodes.get(&id)
    }

    /// Returns the record of a node that is in the canonical network now. Sessions are held only with such nodes.
    #[must_use]
    pub fn member(&self, id: OriginatorId) -> Option<&NodeRecord> {
        self.node(id).filter(|record| record.canonical)
    }

    /// Iterates over the ids of all canonical nodes, in no particular order, also of those whose record cannot be
    /// used: the contracts count them like any other node.
    pub fn canonical_ids(&self) -> impl Iterator<Item = OriginatorId> {
        let usable = self.nodes().filter(|record| record.canonical).map(|record| record.id);
        let unusable = self.unusable.iter().filter(|(_, is_canonical)| **is_canonical);
        usable.chain(unusable.map(|(id, _)| *id))
    }

    /// Iterates over the ids of all nodes, in no particular order, also of those whose record cannot be used.
    pub fn registered_ids(&self) -> impl Iterator<Item = OriginatorId> {
        self.nodes.keys().chain(self.unusable.keys()).copied()
    }

    /// Sets the nodes whose records cannot be used, each with true if it is canonical. Ids with a record are left out.
    #[must_use]
    pub fn with_unusable(mut self, nodes: impl IntoIterator<Item = (OriginatorId, bool)>) -> Self {
        self.unusable = nodes.into_iter().filter(|(id, _)| !self.nodes.contains_key(id)).collect();
        self
    }

    /// Returns the periods in which a node was absent after it had been in the network.
    #[must_use]
    pub fn absences(&self, id: OriginatorId) -> &Absences {
        static NONE: Absences = Absences::NONE;
        self.absences.get(&id).unwrap_or(&NONE)
    }

    /// Returns true if a node is in the network, or is known to have been in it. The strand of any other
    /// node is not part of the network.
    #[must_use]
    pub fn has_been_member(&self, id: OriginatorId) -> bool {
        self.member(id).is_some() || (self.node(id).is_some() && !self.absences(id).is_empty())
    }

    /// Replaces the absences of all nodes. Nodes that are not named, or whose absences are empty, have none.
    #[must_use]
    pub fn with_absences(
        mut self,
        absences: impl IntoIterator<Item = (OriginatorId, Absences)>,
    ) -> Self {
        self.absences = absences.into_iter().filter(|(_, it)| !it.is_empty()).collect();
        self
    }

    /// Copies the absences of another reading of the registry.
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
        Self { nodes, absences: BTreeMap::new(), unusable: BTreeMap::new() }
    }
}
