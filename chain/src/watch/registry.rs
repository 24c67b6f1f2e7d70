//! Reads the node registry and selects the usable records.

use alloy::eips::BlockId;
use alloy::primitives::Address as AccountAddress;
use hawser_proto::{Address, OriginatorId, PublicKey};
use hawser_rules::{NodeRecord, Registry};

use super::agreement::{self, AgreedReading};
use super::node_url::check_node_url;
use super::{KnownList, WatchError};
use crate::contracts::NodeRegistry;
use crate::contracts::node_registry::NodeRegistry::NodeWithId;
use crate::endpoints::Endpoints;
use crate::send::Chain;

/// Reads all records with one call. Records that most endpoints contradict are discarded.
pub(super) async fn read(
    endpoints: &Endpoints,
    address: AccountAddress,
    known: Option<&KnownList<Registry>>,
) -> Result<AgreedReading<Registry>, WatchError> {
    let known = known.map(|known| (&*known.value, known.block));
    agreement::read(endpoints, known, |chain, block| read_at(chain, address, block)).await
}

/// Reads all records once, for a caller that does not come again.
pub(super) async fn read_now(
    endpoints: &Endpoints,
    address: AccountAddress,
) -> Result<Registry, WatchError> {
    agreement::read_now(endpoints, |chain, block| read_at(chain, address, block)).await
}

/// Reads the records of one endpoint at one block.
async fn read_at(
    chain: Chain,
    address: AccountAddress,
    block: u64,
) -> Result<Registry, WatchError> {
    let call = NodeRegistry::getAllNodesCall {};
    Ok(usable(chain.view_at(address, &call, BlockId::number(block)).await?))
}

/// Returns the records with a valid key. An address that is no URL of a node is left out of its record: an owner may
/// register any text, and the key still verifies what the node has signed. An invalid record affects only its own node,
/// so the others are kept. The ids of records without a valid key are kept too: payer reports list the canonical ones,
/// and there are reports about their strands.
fn usable(entries: Vec<NodeWithId>) -> Registry {
    let mut unusable = Vec::new();
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        let (id, is_canonical) = (entry.nodeId, entry.node.isCanonical);
        match record(entry) {
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
    if !id.is_assignable() {
        return None;
    }
    Some(NodeRecord {
        id,
        public_key: PublicKey::from_uncompressed(&node.signingPublicKey)?,
        owner: Address(node.signer.into_array()),
        http_address: called_at(id, node.httpAddress),
        quic_address: None,
        canonical: node.isCanonical,
    })
}

/// Returns the address at which the node is called, if it is the URL of a node.
fn called_at(node: OriginatorId, address: String) -> Option<String> {
    match check_node_url(&address) {
        Ok(()) => Some(address),
        Err(reason) => {
            tracing::debug!(node_id = node.0, %reason, "a node is not called at its registered address");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use alloy::signers::local::PrivateKeySigner;
    use hawser_proto::SecretKey;
    use hawser_proto::envelope::UnsealedEnvelope;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;
    use hawser_rules::misbehavior::report::client_safety_report;
    use hawser_rules::misbehavior::{
        self, MisbehaviorKind, MisbehaviorVerdict, NoChain, ReportCase,
    };

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

    /// Returns the ids of the nodes that are called.
    fn called(entries: Vec<NodeWithId>) -> Vec<u32> {
        let registry = usable(entries);
        let called = registry.nodes().filter(|record| record.http_address.is_some());
        called.map(|record| record.id.0).collect()
    }

    fn sorted(ids: impl Iterator<Item = OriginatorId>) -> Vec<u32> {
        let mut ids: Vec<_> = ids.map(|id| id.0).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn a_record_keeps_what_the_chain_has() {
        let key = PrivateKeySigner::random();
        let registry = usable(vec![entry(100, &key, "https://node.example:5050")]);
        let record = registry.node(OriginatorId(100)).unwrap();
        assert_eq!(record.owner, Address(key.address().into_array()));
        assert_eq!(record.http_address.as_deref(), Some("https://node.example:5050"));
        assert!(record.canonical && record.quic_address.is_none());
    }

    #[test]
    fn of_records_with_one_key_the_lowest_id_is_called_in_any_order() {
        let [shared, other] = [(); 2].map(|()| PrivateKeySigner::random());
        let entries = || {
            let url = "http://127.0.0.1:5050";
            [entry(100, &shared, url), entry(200, &other, url), entry(300, &shared, url)]
        };
        assert_eq!(called(entries().into()), [100, 200]);
        assert_eq!(called(entries().into_iter().rev().collect()), [100, 200]);
        assert_eq!(usable(entries().into()).nodes().count(), 3, "all keys verify");
    }

    #[test]
    fn a_record_without_a_url_is_not_called_and_keeps_its_key_and_its_membership() {
        let key = PrivateKeySigner::random();
        let long = format!("http://node.example/{}", "x".repeat(64_000));
        let texts = ["", "x", "node.example", "ftp://node.example", "http://", "http://me@a:1"];
        for http_address in texts.into_iter().chain([long.as_str()]) {
            let entries = || vec![entry(100, &key, http_address), entry(200, &key, "http://a:1")];
            assert_eq!(called(entries()), [200], "{http_address:?}");
            let registry = usable(entries());
            let [first, second] =
                [100, 200].map(|id| registry.member(OriginatorId(id)).unwrap().public_key);
            assert_eq!(first, second, "{http_address:?}");
        }
    }

    #[test]
    fn a_record_without_a_key_of_a_node_neither_counts_nor_claims_its_key() {
        let key = PrivateKeySigner::random();
        assert_eq!(called(vec![entry(7, &key, "http://a:1")]), [0_u32; 0], "an id of a chain");
        let reserved = OriginatorId::FIRST_RESERVED.0;
        assert_eq!(called(vec![entry(reserved, &key, "http://a:1")]), [0_u32; 0], "a reserved id");
        assert_eq!(called(vec![entry(reserved - 1, &key, "http://a:1")]), [reserved - 1]);
        let mut no_key = entry(100, &key, "http://a:1");
        no_key.node.signingPublicKey = vec![4; 65].into();
        let registry = usable(vec![no_key, entry(200, &key, "http://a:1")]);
        assert_eq!(registry.nodes().map(|record| record.id.0).collect::<Vec<_>>(), [200]);
        assert_eq!(sorted(registry.registered_ids()), [100, 200]);
    }

    /// The owner of a node may register any text as its address after the node has signed two statements for one
    /// place.
    #[test]
    fn a_report_about_a_node_without_a_url_or_with_a_shared_key_is_judged() {
        let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let accused = OriginatorId(200);
        let signed = |originator_ns| {
            let statement = UnsignedOriginatorEnvelope {
                originator_node_id: accused.0,
                originator_sequence_id: 1,
                originator_ns,
                ..UnsignedOriginatorEnvelope::default()
            };
            UnsealedEnvelope::new(&statement).seal(&key)
        };
        let statements = [signed(1), signed(2)];
        let report =
            client_safety_report(3, accused, MisbehaviorKind::DuplicateSequenceId, &statements);
        let report = report.unwrap().to_bytes();
        let url = "http://127.0.0.1:5050";
        for entries in [
            vec![entry(200, &signer, url)],
            vec![entry(200, &signer, "x")],
            vec![entry(100, &signer, url), entry(200, &signer, url)],
        ] {
            let judgement = misbehavior::verify(&ReportCase {
                report: &report,
                host_signature: None,
                host: None,
                registry: &usable(entries),
                rates: None,
                chain: &NoChain,
                held_at_ns: None,
            });
            assert_eq!(judgement.verdict, MisbehaviorVerdict::Proven, "{judgement:?}");
        }
    }

    /// The contract of payer reports takes only the list of all canonical nodes, whatever their owners have registered.
    #[test]
    fn a_canonical_node_whose_record_cannot_be_used_stays_in_the_list_of_canonical_ones() {
        let [shared, other] = [(); 2].map(|()| PrivateKeySigner::random());
        let url = "http://127.0.0.1:5050";
        let mut left = entry(500, &other, "none");
        left.node.isCanonical = false;
        let mut no_key = entry(400, &other, url);
        no_key.node.signingPublicKey = vec![4; 65].into();
        let entries = vec![
            entry(300, &shared, url),
            no_key,
            entry(100, &shared, url),
            entry(200, &other, "x"),
            left,
        ];
        let registry = usable(entries);
        assert_eq!(sorted(registry.canonical_ids()), [100, 200, 300, 400]);
        assert_eq!(sorted(registry.registered_ids()), [100, 200, 300, 400, 500]);
        assert_ne!(registry, usable(vec![entry(100, &shared, url)]), "a change is published");
    }
}
