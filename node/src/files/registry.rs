//! `registry.json`: the node registry, with the fields of the contract's records.
//!
//! `{"nodes":[{"nodeId":100,"signer":"0x…","isCanonical":true,"signingPublicKey":"0x04…",
//! "httpAddress":"http://127.0.0.1:5050","quicAddress":"127.0.0.1:5050"}]}`
//!
//! `quicAddress` is optional; without it QUIC uses the host and port of `httpAddress`. `absences` is optional too: the
//! periods in which a node was not in the network after it had been. A node that leaves keeps its record, with
//! `"isCanonical":false,"absences":[{"from":1750000000}]` (unix seconds). When it returns, the absence gets its end:
//! `{"from":1750000000,"until":1750086400}`.
//!
//! The file may be a copy of the contract's records, which the contract does not check. As in a reading of the
//! contract, a record whose `httpAddress` is no URL keeps its key, several records may have one key, and of a record
//! without a valid key only the id and the membership count.
//!
//! `"source":{"contract":"0x…","chainId":1,"block":7}` names the contract that the records were read from; evidence
//! files pass it on. A node does not use it.

use std::collections::BTreeSet;

use hawser_chain::watch::check_node_url;
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_proto::{Address, OriginatorId, PublicKey, one_line};
use hawser_rules::{Absence, Absences, AbsencesError};
use serde::{Deserialize, Serialize};

/// Content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryFile {
    /// Records, one per node, in any order.
    pub nodes: Vec<RegistryFileEntry>,
    /// The contract that the records were read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<RegistryContract>,
}

/// The contract that the records of a file were read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistryContract {
    /// Address of the contract.
    pub contract: String,
    /// Id of its chain.
    pub chain_id: u64,
    /// The newest block of the chain before the records were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<u64>,
}

impl RegistryFile {
    /// Returns the records of a registry, without absences and ids that no node can have. The signer of each is the
    /// address of its key: the file has no other ones.
    pub(crate) fn of(registry: &Registry) -> Self {
        let node = |record: &NodeRecord| RegistryFileEntry {
            node_id: record.id,
            signer: record.public_key.address().to_string(),
            is_canonical: record.canonical,
            signing_public_key: record.public_key.to_string(),
            http_address: record.http_address.clone().unwrap_or_default(),
            quic_address: record.quic_address.clone(),
            absences: Vec::new(),
        };
        let unusable = |(node_id, is_canonical)| RegistryFileEntry {
            node_id,
            signer: String::new(),
            is_canonical,
            signing_public_key: String::new(),
            http_address: String::new(),
            quic_address: None,
            absences: Vec::new(),
        };
        let others = registry.unusable().filter(|(id, _)| id.is_assignable());
        let nodes = registry.nodes().map(node).chain(others.map(unusable));
        Self { nodes: nodes.collect(), source: None }
    }
}

/// One record of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RegistryFileEntry {
    /// Node id: 100, 200, 300, …
    pub node_id: OriginatorId,
    /// Address of the node's key.
    pub signer: String,
    /// True if the node belongs to the canonical network.
    pub is_canonical: bool,
    /// Public key: 65 bytes, uncompressed, hex. Without a valid one the node's signatures cannot be verified.
    pub signing_public_key: String,
    /// URL of the API, `http://…` or `https://…`. With any other text the node is not called.
    pub http_address: String,
    /// QUIC address, `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic_address: Option<String>,
    /// The periods in which the node was not in the network after it had been, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absences: Vec<AbsenceEntry>,
}

/// A period in which a node was not in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbsenceEntry {
    /// Time of the removal, unix seconds.
    pub from: u64,
    /// Time of the return, unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// Error of parsing a registry file.
#[derive(Debug, thiserror::Error)]
pub enum RegistryFileError {
    /// The text is not JSON of this form.
    #[error("it is no registry file (`hawser registry node list --registry-file` prints one): {0}")]
    Json(#[from] serde_json::Error),
    /// A record is invalid.
    #[error("node {node_id}: {error}")]
    Record {
        /// Id in the record.
        node_id: OriginatorId,
        /// Error of the record.
        error: NodeEntryError,
    },
}

/// Error of one record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeEntryError {
    /// No node can have the id: it is below 100, or reserved for replicas.
    #[error(
        "ids of nodes begin with {} and end before {}; the others belong to chains and replicas",
        OriginatorId::FIRST_NODE,
        OriginatorId::FIRST_RESERVED
    )]
    NoNodeId,
    /// Another record has the same id.
    #[error("another record has the same id")]
    Repeated,
    /// The signer is not an address.
    #[error("signer must be an address of 20 bytes, hex")]
    Signer,
    /// The signer is not the address of the key. Holds the key's address.
    #[error("signer must be the address of signingPublicKey, which is {0}")]
    OtherSigner(Address),
    /// The absences are out of order or overlap.
    #[error(transparent)]
    Absences(#[from] AbsencesError),
    /// A canonical node has an absence without an end.
    #[error("a canonical node must not have an absence without an end")]
    Away,
    /// The QUIC address is not a host and port.
    #[error("quicAddress must be host:port, and is {0:?}")]
    QuicAddress(String),
}

/// Parses the text of a registry file.
///
/// # Errors
/// The error of the first invalid record.
pub fn parse(text: &str) -> Result<Registry, RegistryFileError> {
    registry_of(&serde_json::from_str(text)?)
}

/// Returns the registry of a file's content.
///
/// # Errors
/// The error of the first invalid record.
pub(crate) fn registry_of(file: &RegistryFile) -> Result<Registry, RegistryFileError> {
    let (mut records, mut absent) = (Vec::with_capacity(file.nodes.len()), Vec::new());
    let (mut ids, mut unusable) = (BTreeSet::new(), Vec::new());
    for entry in &file.nodes {
        let wrong = |error| RegistryFileError::Record { node_id: entry.node_id, error };
        let (id, record) = (entry.node_id, record(entry).map_err(wrong)?);
        if !ids.insert(id) {
            return Err(wrong(NodeEntryError::Repeated));
        }
        absent.push((id, absences(entry).map_err(wrong)?));
        match record {
            Some(record) => records.push(record),
            None => unusable.push((id, entry.is_canonical)),
        }
    }
    let registry: Registry = records.into_iter().collect();
    Ok(registry.with_absences(absent).with_unusable(unusable))
}

/// Returns the record of an entry; `None` if the entry has no valid key.
fn record(entry: &RegistryFileEntry) -> Result<Option<NodeRecord>, NodeEntryError> {
    let id = entry.node_id;
    if !id.is_assignable() {
        return Err(NodeEntryError::NoNodeId);
    }
    let Some(public_key) = public_key(&entry.signing_public_key) else {
        tracing::warn!(node_id = id.0, "a node of the registry file has no valid key");
        return Ok(None);
    };
    let owner: Address = entry.signer.parse().map_err(|_| NodeEntryError::Signer)?;
    if owner != public_key.address() {
        return Err(NodeEntryError::OtherSigner(public_key.address()));
    }
    let checked = check_node_url(&entry.http_address);
    if let Err(reason) = checked {
        let (node_id, address) = (id.0, one_line(&entry.http_address));
        tracing::warn!(
            node_id,
            address,
            %reason,
            "a node of the registry file has no URL at which it could be called"
        );
    }
    let http_address = checked.is_ok().then(|| entry.http_address.clone());
    if let Some(quic) = entry.quic_address.as_ref().filter(|quic| !is_host_and_port(quic)) {
        return Err(NodeEntryError::QuicAddress(quic.clone()));
    }
    Ok(Some(NodeRecord {
        id,
        public_key,
        owner,
        http_address,
        quic_address: entry.quic_address.clone(),
        canonical: entry.is_canonical,
    }))
}

fn absences(entry: &RegistryFileEntry) -> Result<Absences, NodeEntryError> {
    if entry.is_canonical && entry.absences.last().is_some_and(|last| last.until.is_none()) {
        return Err(NodeEntryError::Away);
    }
    let absence = |it: &AbsenceEntry| Absence { from_s: it.from, until_s: it.until };
    Ok(Absences::new(entry.absences.iter().map(absence).collect())?)
}

/// Parses a public key: an uncompressed point in hex. `None` for any other text.
pub(crate) fn public_key(text: &str) -> Option<PublicKey> {
    let bytes = hex::decode(text.strip_prefix("0x").unwrap_or(text)).ok()?;
    PublicKey::from_uncompressed(&bytes)
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use hawser_proto::SecretKey;

    use super::*;

    fn entry(node_id: u32) -> RegistryFileEntry {
        let mut scalar = [1; 32];
        scalar[28..].copy_from_slice(&node_id.to_be_bytes());
        let key = SecretKey::from_bytes(&scalar).unwrap().public_key();
        RegistryFileEntry {
            node_id: OriginatorId(node_id),
            signer: key.address().to_string(),
            is_canonical: true,
            signing_public_key: key.to_string(),
            http_address: "http://127.0.0.1:5050".into(),
            quic_address: None,
            absences: Vec::new(),
        }
    }

    fn parse_entries(nodes: Vec<RegistryFileEntry>) -> Result<Registry, RegistryFileError> {
        parse(&serde_json::to_string(&RegistryFile { nodes, source: None }).unwrap())
    }

    fn fault_of(change: impl FnOnce(&mut RegistryFileEntry)) -> NodeEntryError {
        let mut entry = entry(100);
        change(&mut entry);
        match parse_entries(vec![entry]) {
            Err(RegistryFileError::Record { error, .. }) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_read_back_and_are_found_by_key() {
        let mut second = entry(200);
        second.is_canonical = false;
        second.quic_address = Some("[::1]:6000".into());
        let registry = parse_entries(vec![second.clone(), entry(100)]).unwrap();
        let ids: Vec<_> = registry.nodes().map(|record| (record.id.0, record.canonical)).collect();
        assert_eq!(ids, [(100, true), (200, false)]);
        let record = registry.node(OriginatorId(200)).unwrap();
        assert_eq!(record.quic_address.as_deref(), Some("[::1]:6000"));
        assert_eq!(registry.running_with(&record.public_key), Some(record));
        assert_eq!(record.owner.to_string(), second.signer);
    }

    #[test]
    fn each_field_is_checked() {
        for id in [OriginatorId(99), OriginatorId::FIRST_RESERVED, OriginatorId::REPLICA] {
            assert_eq!(fault_of(|entry| entry.node_id = id), NodeEntryError::NoNodeId);
        }
        assert_eq!(fault_of(|entry| entry.signer = "0x12".into()), NodeEntryError::Signer);
        let other = entry(200).signer;
        assert!(matches!(fault_of(|entry| entry.signer = other), NodeEntryError::OtherSigner(_)));
        for address in ["host", ":5", "host:0", "host:70000"] {
            let fault = fault_of(|entry| entry.quic_address = Some(address.into()));
            assert_eq!(fault, NodeEntryError::QuicAddress(address.into()));
        }
    }

    #[test]
    fn absences_read_back_and_are_checked() {
        let away = |from, until| AbsenceEntry { from, until };
        let mut left = entry(200);
        left.is_canonical = false;
        left.absences = vec![away(5, Some(7)), away(9, None)];
        let registry = parse_entries(vec![left, entry(100)]).unwrap();
        let absences = registry.absences(OriginatorId(200));
        assert!(absences.cover(6_000_000_000) && absences.cover(i64::MAX));
        assert!(!absences.cover(8_000_000_000));
        assert!(registry.has_been_member(OriginatorId(200)));
        assert!(registry.member(OriginatorId(200)).is_none());
        assert!(registry.absences(OriginatorId(100)).is_empty());
        let fault = fault_of(|entry| entry.absences = vec![away(9, None)]);
        assert_eq!(fault, NodeEntryError::Away);
        let fault = fault_of(|entry| entry.absences = vec![away(9, Some(9))]);
        assert_eq!(fault, NodeEntryError::Absences(AbsencesError));
    }

    #[test]
    fn ids_stand_once() {
        match parse_entries(vec![entry(100), entry(100)]) {
            Err(RegistryFileError::Record { node_id, error: NodeEntryError::Repeated }) => {
                assert_eq!(node_id, OriginatorId(100));
            }
            other => panic!("{other:?}"),
        }
    }

    /// Owners may register any address, and the contract takes keys that are no points.
    #[test]
    fn only_a_record_without_a_valid_key_is_left_out_and_it_stops_no_other() {
        let user = "http://user:word@127.0.0.1:5050";
        for address in ["x", "127.0.0.1:5050", "ftp://a", "http://", "", user] {
            let (mut no_url, mut same_key, mut no_key) = (entry(200), entry(100), entry(400));
            no_url.http_address = address.into();
            same_key.node_id = OriginatorId(300);
            no_key.signing_public_key = format!("0x04{}", "04".repeat(64));
            let registry = parse_entries(vec![no_url, same_key, no_key, entry(100)]).unwrap();
            let key = |id| registry.member(OriginatorId(id)).map(|record| record.public_key);
            assert_eq!(key(200), public_key(&entry(200).signing_public_key));
            assert_eq!((key(300), key(400)), (key(100), None));
            let called = registry.nodes().filter(|record| record.http_address.is_some());
            assert_eq!(called.map(|record| record.id.0).collect::<Vec<_>>(), [100], "{address:?}");
            let mut canonical: Vec<_> = registry.canonical_ids().map(|id| id.0).collect();
            canonical.sort_unstable();
            assert_eq!(canonical, [100, 200, 300, 400]);
        }
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let text =
            serde_json::to_string(&RegistryFile { nodes: vec![entry(100)], source: None }).unwrap();
        let error = parse(&text.replace("isCanonical", "isCannonical")).unwrap_err();
        assert!(error.to_string().contains("isCannonical"), "{error}");
    }
}
