//! Reads the node registry and selects the usable records.

use std::collections::BTreeSet;

use alloy::eips::BlockId;
use alloy::primitives::Address as AccountAddress;
use hawser_proto::{Address, OriginatorId, PublicKey};
use hawser_rules::{NodeRecord, Registry};

use super::{WatchError, agreement};
use crate::contracts::NodeRegistry;
use crate::contracts::node_registry::NodeRegistry::NodeWithId;
use crate::endpoints::Endpoints;

/// Reads all records with one call, and returns them with the number of the block. Records that most endpoints
/// contradict are discarded.
pub(super) async fn read(
    endpoints: &Endpoints,
    address: AccountAddress,
    known: Option<&Registry>,
) -> Result<(Registry, u64), WatchError> {
    agreement::read(endpoints, known, |chain, block| async move {
        let call = NodeRegistry::getAllNodesCall {};
        Ok(usable(chain.view_at(address, &call, BlockId::number(block)).await?))
    })
    .await
}

/// Returns the usable records. An invalid record affects only its own node, so the others are kept. The ids of the
/// invalid ones are kept too: payer reports list the canonical ones, and there are reports about their strands.
fn usable(mut entries: Vec<NodeWithId>) -> Registry {
    // The oldest record with a key is kept, because a later one must not displace a running node.
    entries.sort_by_key(|entry| entry.nodeId);
    let (mut keys, mut unusable) = (BTreeSet::new(), Vec::new());
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        let (id, is_canonical) = (entry.nodeId, entry.node.isCanonical);
        match record(entry).filter(|record| keys.insert(record.public_key.to_string())) {
            Some(record) => records.push(record),
            None => {
                tracing::debug!(node_id = id, "a record of the node registry cannot be used");
                unusable.push((OriginatorId(id), is_canonical));
            }
        }
    }
    records.into_iter().collect::<Registry>().with_unusable(unusable)
}

fn record(NodeWithId { nodeId, node }: NodeWithId) -> Option<NodeRecord> {
    let id = OriginatorId(nodeId);
    let uri = node.httpAddress.parse::<http::Uri>().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty());
    if !id.is_node() || !is_http {
        return None;
    }
    Some(NodeRecord {
        id,
        public_key: PublicKey::from_uncompressed(&node.signingPublicKey)?,
        owner: Address(node.signer.into_array()),
        http_address: node.httpAddress,
        quic_address: None,
        canonical: node.isCanonical,
    })
}

#[cfg(test)]
mod tests {
    use alloy::signers::local::PrivateKeySigner;

    use super::*;
    use crate::contracts::node_registry::NodeRegistry::Node;

    fn entry(id: u32, key: &PrivateKeySigner, http_address: &str) -> NodeWithId {
        let point = key.credential().verifying_key().to_encoded_point(false);
        NodeWithId {
            nodeId: id,
            node: Node {
                signer: key.address(),
                isCanonical: true,
                signingPublicKey: point.as_bytes().to_vec().into(),
                httpAddress: http_address.into(),
            },
        }
    }

    fn ids(entries: Vec<NodeWithId>) -> Vec<u32> {
        usable(entries).nodes().map(|record| record.id.0).collect()
    }

    #[test]
    fn a_record_keeps_what_the_chain_has() {
        let key = PrivateKeySigner::random();
        let registry = usable(vec![entry(100, &key, "https://node.example:5050")]);
        let record = registry.node(OriginatorId(100)).unwrap();
        assert_eq!(record.owner, Address(key.address().into_array()));
        assert_eq!(record.http_address, "https://node.example:5050");
        assert!(record.canonical && record.quic_address.is_none());
    }

    #[test]
    fn of_records_with_one_key_the_lowest_id_stays_in_any_order() {
        let [shared, other] = [(); 2].map(|()| PrivateKeySigner::random());
        let entries = || {
            let url = "http://127.0.0.1:5050";
            [entry(100, &shared, url), entry(200, &other, url), entry(300, &shared, url)]
        };
        assert_eq!(ids(entries().into()), [100, 200]);
        assert_eq!(ids(entries().into_iter().rev().collect()), [100, 200]);
    }

    #[test]
    fn a_record_that_no_node_can_use_neither_counts_nor_claims_its_key() {
        let key = PrivateKeySigner::random();
        for http_address in ["", "node.example", "ftp://node.example", "http://"] {
            let entries = vec![entry(100, &key, http_address), entry(200, &key, "http://a:1")];
            assert_eq!(ids(entries), [200], "{http_address:?}");
        }
        assert_eq!(ids(vec![entry(7, &key, "http://a:1")]), [0_u32; 0], "an id of a chain");
        let mut no_key = entry(100, &key, "http://a:1");
        no_key.node.signingPublicKey = vec![4; 65].into();
        assert_eq!(ids(vec![no_key, entry(200, &key, "http://a:1")]), [200]);
    }

    /// The contract of payer reports takes only the list of all canonical nodes, whatever their owners have registered.
    #[test]
    fn a_canonical_node_whose_record_cannot_be_used_stays_in_the_list_of_canonical_ones() {
        let [shared, other] = [(); 2].map(|()| PrivateKeySigner::random());
        let url = "http://127.0.0.1:5050";
        let mut left = entry(500, &other, "none");
        left.node.isCanonical = false;
        let entries =
            vec![entry(300, &shared, url), entry(100, &shared, url), entry(200, &other, "x"), left];
        let registry = usable(entries);
        assert_eq!(registry.nodes().map(|record| record.id.0).collect::<Vec<_>>(), [100]);
        let mut canonical: Vec<_> = registry.canonical_ids().map(|id| id.0).collect();
        canonical.sort_unstable();
        assert_eq!(canonical, [100, 200, 300]);
        let mut all: Vec<_> = registry.registered_ids().map(|id| id.0).collect();
        all.sort_unstable();
        assert_eq!(all, [100, 200, 300, 500]);
        assert_ne!(registry, usable(vec![entry(100, &shared, url)]), "a change is published");
    }
}
