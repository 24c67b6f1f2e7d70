//! The node registry as a value: the signer of each strand, and the addresses of nodes.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::{Address, OriginatorId, PublicKey};

use crate::absences::Absences;

/// One record of the node registry: a node that is or was registered, canonical or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The id that the registry assigned: 100, 200, 300, …
    pub id: OriginatorId,
    /// The key that verifies every envelope of this node's strand. The contract changes no key of an id.
    pub public_key: PublicKey,
    /// The account that owns the record.
    pub owner: Address,
    /// The URL of the node's API: `http://…` or `https://…`. `None` if the registry has no usable one: the node is
    /// not called then. Its owner can cause this at any time, so neither the key nor the membership depends on it.
    pub http_address: Option<String>,
    /// The address of the node's QUIC endpoint, `host:port`; `None` if it is the API's host and port.
    pub quic_address: Option<String>,
    /// True if the node is in the canonical network now.
    pub canonical: bool,
}

/// The node registry as last read.
///
/// Several records may have one key: what is signed in the name of a node states its id. At most one of these records
/// has addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Registry {
    nodes: BTreeMap<OriginatorId, NodeRecord>,
    /// The absences of nodes that have left at least once.
    absences: BTreeMap<OriginatorId, Absences>,
    /// The nodes without a record in `nodes`, because theirs has no valid key, each with true if it is canonical.
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

    /// Iterates over the ids of all canonical nodes, in no particular order, also of those without a valid key: the
    /// contracts count them like any other node.
    pub fn canonical_ids(&self) -> impl Iterator<Item = OriginatorId> {
        let usable = self.nodes().filter(|record| record.canonical).map(|record| record.id);
        let unusable = self.unusable.iter().filter(|(_, is_canonical)| **is_canonical);
        usable.chain(unusable.map(|(id, _)| *id))
    }

    /// Iterates over the ids of all nodes, in no particular order, also of those without a valid key.
    pub fn registered_ids(&self) -> impl Iterator<Item = OriginatorId> {
        self.nodes.keys().chain(self.unusable.keys()).copied()
    }

    /// Returns true if the registry has this node, canonical or not, and also without a valid key.
    #[must_use]
    pub fn is_registered(&self, id: OriginatorId) -> bool {
        self.nodes.contains_key(&id) || self.unusable.contains_key(&id)
    }

    /// Iterates over the nodes without a valid key, each with true if it is canonical.
    pub fn unusable(&self) -> impl Iterator<Item = (OriginatorId, bool)> {
        self.unusable.iter().map(|(id, is_canonical)| (*id, *is_canonical))
    }

    /// Iterates over the ids of the nodes that were in the network at `ns`, unix nanoseconds, in no particular order,
    /// also of those without a valid key. The registry does not say when a node first came, so until it leaves it
    /// counts as having always been there.
    pub fn members_at(&self, ns: i64) -> impl Iterator<Item = OriginatorId> {
        let usable = self.nodes().map(|record| (record.id, record.canonical));
        usable.chain(self.unusable()).filter_map(move |(id, is_canonical)| {
            let absences = self.absences(id);
            let has_been_member = is_canonical || !absences.is_empty();
            (has_been_member && !absences.cover(ns)).then_some(id)
        })
    }

    /// Sets the nodes without a valid key, each with true if it is canonical. Ids with a record are left out.
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

    /// Returns the record of the node that runs with a key. If several records have this key, it is the record with
    /// addresses, or the first one if none has any.
    #[must_use]
    pub fn running_with(&self, key: &PublicKey) -> Option<&NodeRecord> {
        // The first of equal ones is the minimum.
        let with_key = self.nodes().filter(|record| record.public_key == *key);
        with_key.min_by_key(|record| !record.has_address())
    }
}

impl NodeRecord {
    /// Returns true if the node can be called.
    fn has_address(&self) -> bool {
        self.http_address.is_some() || self.quic_address.is_some()
    }
}

impl FromIterator<NodeRecord> for Registry {
    /// Collects records; a later record of the same id replaces an earlier one. Of records with one key and an address,
    /// only the one with the lowest id keeps its addresses. A node finds its id by its key, so no node runs with the
    /// ids of the other records, and a later record must not displace a running node.
    fn from_iter<I: IntoIterator<Item = NodeRecord>>(records: I) -> Self {
        let mut nodes: BTreeMap<OriginatorId, NodeRecord> =
            records.into_iter().map(|record| (record.id, record)).collect();
        let mut keys = BTreeSet::new();
        for record in nodes.values_mut().filter(|record| record.has_address()) {
            if !keys.insert(record.public_key) {
                (record.http_address, record.quic_address) = (None, None);
            }
        }
        Self { nodes, absences: BTreeMap::new(), unusable: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;

    use super::*;

    fn record(id: u32, seed: u8, url: Option<&str>) -> NodeRecord {
        let public_key = SecretKey::from_bytes(&[seed; 32]).unwrap().public_key();
        NodeRecord {
            id: OriginatorId(id),
            public_key,
            owner: public_key.address(),
            http_address: url.map(str::to_owned),
            quic_address: None,
            canonical: true,
        }
    }

    #[test]
    fn of_records_with_one_key_all_verify_and_the_first_with_an_address_is_called() {
        let url = Some("http://a:1");
        let records = || {
            [record(300, 1, url), record(100, 1, None), record(200, 1, url), record(400, 2, url)]
        };
        for order in [Vec::from(records()), records().into_iter().rev().collect()] {
            let registry: Registry = order.into_iter().collect();
            assert_eq!(registry.nodes().count(), 4);
            assert!(registry.nodes().all(|it| registry.member(it.id).is_some()));
            let called = registry.nodes().filter(|it| it.http_address.is_some());
            assert_eq!(called.map(|it| it.id.0).collect::<Vec<_>>(), [200, 400]);
            let id = |seed| {
                let of_key = registry.running_with(&record(100, seed, None).public_key);
                of_key.map(|record| record.id.0)
            };
            assert_eq!([id(1), id(2), id(3)], [Some(200), Some(400), None]);
        }
        let moved: Registry = [record(100, 1, None), record(200, 1, None)].into_iter().collect();
        let key = record(100, 1, None).public_key;
        assert_eq!(moved.running_with(&key).map(|record| record.id.0), Some(100));
    }
}
