//! Folders of nodes with a log, written as a node would write them, and the keys to judge them with.

use std::fs;
use std::path::{Path, PathBuf};

use hawser_audit::{Judged, KnownKeys};
use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::void::VoidStatement;
use hawser_proto::{
    Address, Bytes, EnvelopeId, OriginatorId, PublicKey, SecretKey, SequenceId, Topic,
};
use hawser_rules::{NodeRecord, PicoDollarPrice, Registry};
use hawser_storage::{
    CACHE_BYTES_MIN, Change, Charge, Durability, Facts, LogEntry, PriceFn, SkipReason, Store,
    StoreIdentity, StoreSettings,
};
use prost::Message as _;

/// The node whose log it is.
pub const NODE: u32 = 200;

/// The folder of a node with `len` envelopes, written as a node would, and a registry file that names its key.
pub fn folder(place: &Path, name: &str, len: u64) -> (PathBuf, PathBuf) {
    let key = SecretKey::from_bytes(&[2; 32]).unwrap();
    let data = place.join(name);
    let store = open(&data, &key);
    let changes: Vec<Change> = (1..=len).map(|at| Change::Append(entry(&key, at))).collect();
    if !changes.is_empty() {
        store.commit(&changes).unwrap();
    }
    let registry = write_registry(place, "registry.evidence", NODE, &key);
    (data, registry)
}

/// A registry of one node, with the public key of `key`.
pub fn keys_of(id: u32, key: &SecretKey) -> KnownKeys {
    let registry: Registry = [record(id, key.public_key())].into_iter().collect();
    KnownKeys { registry, rates: None }
}

/// The registry's record of a canonical node with this key.
pub fn record(id: u32, public_key: PublicKey) -> NodeRecord {
    NodeRecord {
        id: OriginatorId(id),
        public_key,
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: true,
    }
}

/// Writes an evidence file without evidence, whose registry has one node with the public key of `key`.
pub fn write_registry(place: &Path, name: &str, id: u32, key: &SecretKey) -> PathBuf {
    let file = Judged::file("test", &[], &[], &keys_of(id, key));
    let path = place.join(name);
    fs::write(&path, serde_json::to_string(&file).unwrap()).unwrap();
    path
}

pub fn open(data: &Path, key: &SecretKey) -> Store {
    open_with(data, key, |_, _| PicoDollarPrice(0))
}

/// Opens the folder with prices of its own.
pub fn open_with(data: &Path, key: &SecretKey, price: PriceFn) -> Store {
    let settings = StoreSettings {
        path: data.to_owned(),
        identity: StoreIdentity {
            network: "testnet".to_owned(),
            node: OriginatorId(NODE),
            public_key: key.public_key(),
        },
        durability: Durability::Os,
        price,
        host: None,
        open_files_max: 64,
        cache_bytes: CACHE_BYTES_MIN,
    };
    Store::open(&settings).unwrap()
}

/// A valid welcome at a place, with the facts that a node keeps of it.
pub fn entry(key: &SecretKey, sequence: u64) -> LogEntry {
    entry_at(key, sequence, sequence)
}

/// Returns such a welcome that is dated `second` seconds after a fixed time.
pub fn entry_at(key: &SecretKey, sequence: u64, second: u64) -> LogEntry {
    let topic = Bytes::from_static(&[1, 7]);
    let aad = pb::AuthenticatedData { target_topic: topic.clone(), depends_on: None };
    let welcome = hawser_proto::pb::xmtp::mls::api::v1::WelcomeMessageInput::default();
    let payload = Some(pb::client_envelope::Payload::WelcomeMessage(welcome));
    let client = pb::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec();
    let originator = OriginatorId(NODE);
    let payer = PayerEnvelope::sign(client.into(), originator, 30, key).encode_to_vec();
    let ns = 1_750_000_000_000_000_000 + i64::try_from(second).unwrap() * 1_000_000_000;
    let charge = Charge {
        payer: key.public_key().address(),
        size_bytes: payer.len() as u64,
        retention_days: 30,
        stated_picodollars: PicoDollarPrice(1_000 + sequence),
    };
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: NODE,
        originator_sequence_id: sequence,
        originator_ns: ns,
        payer_envelope_bytes: payer.into(),
        base_fee_picodollars: 1_000 + sequence,
        expiry_unixtime: ns.unsigned_abs() / 1_000_000_000 + 30 * 86_400,
        ..Default::default()
    };
    let facts = Facts {
        topic: Some(Topic::parse(topic).unwrap()),
        originator_ns: ns,
        depends_on: Vec::new(),
        expiry_unix_s: None,
        receipt: None,
        charge: Some(charge),
        counts_for_congestion: true,
        addresses: Vec::new(),
    };
    let id = EnvelopeId::new(originator, SequenceId(sequence));
    LogEntry::valid(id, UnsealedEnvelope::new(&statement).seal(key), facts)
}

/// Adds a gap to a folder of [`folder`], from its head to a place, and the statement of its node that the places from
/// `from` on are void, signed with the key of this seed. The node's own seed is 2.
pub fn declare_gap(data: &Path, from: u64, through: u64, seed: u8) {
    let store = open(data, &SecretKey::from_bytes(&[2; 32]).unwrap());
    let originator = OriginatorId(NODE);
    let head = store.snapshot().head(originator).unwrap();
    let (from, through, reason) = (SequenceId(from), SequenceId(through), SkipReason::Missing);
    store.commit(&[Change::Skip { originator, from: head.next(), through, reason }]).unwrap();
    let of = VoidStatement { node: originator, from, through, time_ns: 5, incarnation: [4; 16] };
    let signed = of.sign(&SecretKey::from_bytes(&[seed; 32]).unwrap());
    store.record_void_statements(&[signed]).unwrap();
}
