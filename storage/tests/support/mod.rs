//! Stores, envelopes and facts for tests.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod pruning;

use bytes::Bytes;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::price::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};
use hawser_proto::sign::originator_digest;
use hawser_proto::{
    Address, EnvelopeId, InboxId, OriginatorId, SecretKey, SequenceId, Topic, TopicKind,
};
use hawser_storage::{
    AddressChange, Change, Charge, Durability, Facts, InvalidRule, LogEntry, PricedEnvelope,
    SkipReason, Snapshot, Store, StoreIdentity, StoreSettings, Validity,
};

/// The node that owns the database.
pub(crate) const OWN: OriginatorId = OriginatorId(100);
/// Another node.
pub(crate) const PEER: OriginatorId = OriginatorId(200);
/// Families that are derived from the log.
pub(crate) const PROJECTIONS: [&str; 7] =
    ["congestion", "expiry", "inbox", "receipt", "topic", "usage", "usage_by_payer"];

pub(crate) fn identity() -> StoreIdentity {
    StoreIdentity { network: "testnet".to_owned(), node: OWN, public_key: key(1).public_key() }
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

/// Opens a database below the crate, to read it, or to make it into one that the crate did not write.
pub(crate) fn raw(path: &std::path::Path) -> rocksdb::DB {
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, path).unwrap();
    rocksdb::DB::open_cf(&options, path, names).unwrap()
}

pub(crate) fn settings(path: &std::path::Path) -> StoreSettings {
    let durability = Durability::Fsync;
    StoreSettings {
        path: path.to_owned(),
        identity: identity(),
        durability,
        price,
        host: None,
        open_files_max: 64,
        cache_bytes: hawser_storage::CACHE_BYTES_MIN,
    }
}

/// Returns the price: 1 for each byte, and the message fee of the rate in force for the envelope and
/// for each earlier one that counts for its congestion.
pub(crate) fn price(rates: &[Rate], envelope: &PricedEnvelope) -> PicoDollarPrice {
    let ns = |rate: &Rate| i128::from(rate.start_unix_s) * 1_000_000_000;
    let in_force = rates.iter().rev().find(|rate| ns(rate) <= i128::from(envelope.originator_ns));
    let messages = 1 + envelope.earlier.iter().sum::<u64>();
    let fee = in_force.map_or(0, |rate| rate.message_fee.0.saturating_mul(messages));
    PicoDollarPrice(envelope.size_bytes.saturating_add(fee))
}

/// Charges a payer for an envelope of so many bytes, for which its originator asked 10 picodollars.
pub(crate) fn charge(payer: u8, size_bytes: u64) -> Charge {
    let (payer, stated_picodollars) = (Address([payer; 20]), PicoDollarPrice(10));
    Charge { payer, size_bytes, retention_days: 2, stated_picodollars }
}

pub(crate) fn rate(start_unix_s: u64, message_fee: u64) -> Rate {
    Rate {
        start_unix_s,
        message_fee: PicoDollarPrice(message_fee),
        storage_fee: PicoDollarsPerByteDay(0),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    }
}

pub(crate) fn in_memory() -> Store {
    Store::in_memory(identity(), price).unwrap()
}

/// Runs a test in memory and on disk: both must behave the same.
pub(crate) fn on_each(test: impl Fn(&Store)) {
    test(&in_memory());
    let folder = tempfile::tempdir().unwrap();
    test(&Store::open(&settings(folder.path())).unwrap());
}

/// Returns the last row of a topic: the highest place of the highest originator.
pub(crate) fn last_of(snapshot: &Snapshot<'_>, topic: &[u8]) -> Option<EnvelopeId> {
    let highest = id(OriginatorId(u32::MAX), u64::MAX);
    snapshot.topics().seek_back(topic, highest).unwrap().map(|row| row.id)
}

pub(crate) fn id(originator: OriginatorId, sequence: u64) -> EnvelopeId {
    EnvelopeId::new(originator, SequenceId(sequence))
}

pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(TopicKind::GroupMessages, name.as_bytes()).unwrap()
}

/// Returns an originator envelope that states `statement`, signed with the key of `seed`.
pub(crate) fn signed(statement: &str, seed: u8) -> Bytes {
    let statement = Bytes::copy_from_slice(statement.as_bytes());
    let signature = key(seed).sign(originator_digest(&statement));
    OriginatorEnvelope::encode(statement, Proof::Signature(signature))
}

/// Returns an originator envelope that states its place and a time, unix nanoseconds.
pub(crate) fn timed(at: EnvelopeId, ns: u64) -> Bytes {
    let mut statement = Vec::new();
    for (field, mut number) in [(1, u64::from(at.originator.0)), (2, at.sequence.0), (3, ns)] {
        statement.push(field << 3);
        while number > 0x7f {
            statement.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        statement.push(u8::try_from(number).unwrap());
    }
    let signature = key(1).sign(originator_digest(&statement));
    OriginatorEnvelope::encode(statement.into(), Proof::Signature(signature))
}

/// Returns an envelope with facts for every projection.
pub(crate) fn entry(at: EnvelopeId) -> LogEntry {
    LogEntry {
        id: at,
        bytes: signed(&format!("envelope {at}"), 1),
        validity: Validity::Valid,
        facts: Some(facts(at)),
    }
}

/// Returns facts that differ from place to place; 100 places share a minute.
pub(crate) fn facts(at: EnvelopeId) -> Facts {
    let sequence = at.sequence.0;
    Facts {
        topic: Some(topic(&format!("t{}", sequence % 3))),
        originator_ns: i64::try_from(sequence % 1_000_000).unwrap() * 600_000_000,
        depends_on: Vec::new(),
        expiry_unix_s: Some(sequence % 1_000_000),
        receipt: Some(digest(sequence)),
        charge: Some(charge(7, 10)),
        counts_for_congestion: true,
        addresses: vec![AddressChange {
            address: Address([u8::try_from(sequence % 2).unwrap(); 20]),
            inbox: InboxId([7; 32]),
            is_member: true,
        }],
    }
}

pub(crate) fn digest(number: u64) -> [u8; 32] {
    *blake3::hash(&number.to_be_bytes()).as_bytes()
}

pub(crate) fn append(originator: OriginatorId, sequence: u64) -> Change {
    Change::Append(entry(id(originator, sequence)))
}

pub(crate) fn append_with(originator: OriginatorId, sequence: u64, facts: Facts) -> Change {
    let at = id(originator, sequence);
    Change::Append(LogEntry { facts: Some(facts), ..entry(at) })
}

pub(crate) fn append_invalid(originator: OriginatorId, sequence: u64, rule: u8) -> Change {
    let at = id(originator, sequence);
    let validity = Validity::Invalid(InvalidRule(rule));
    Change::Append(LogEntry { validity, facts: None, ..entry(at) })
}

pub(crate) fn skip(
    originator: OriginatorId,
    from: u64,
    through: u64,
    reason: SkipReason,
) -> Change {
    Change::Skip { originator, from: SequenceId(from), through: SequenceId(through), reason }
}

/// Commits the next `count` envelopes of a strand at once.
pub(crate) fn extend(store: &Store, originator: OriginatorId, count: u64) {
    let head = store.snapshot().head(originator).unwrap().0;
    let changes: Vec<_> = (head + 1..=head + count).map(|s| append(originator, s)).collect();
    store.commit(&changes).unwrap();
}
