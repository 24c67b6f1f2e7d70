//! Envelopes that the simulated nodes sign. Made once: a place of a strand has the same bytes in every run.

use std::collections::BTreeMap;

use bytes::Bytes;
use hawser_engine::replication::{EnvelopeVerifier, VerifyResult};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Payload, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::price::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};
use hawser_proto::sign::originator_digest;
use hawser_proto::{EnvelopeId, OriginatorId, PublicKey, SecretKey, SequenceId, Signature, Topic};
use hawser_rules::{Absences, ENVELOPE_LEN_BYTES_MAX};
use parking_lot::Mutex;
use prost::Message as _;

use crate::harness::envelopes::{Frame, RETENTION_DAYS, client, group_payload, group_topic, payer};
use crate::harness::seed::rng;

pub(super) const START_NS: i64 = 1_750_000_000_000_000_000;

/// The statement that is signed for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// The true statement.
    True,
    /// The true statement, signed after so many tens of seconds of the run.
    Dated(u32),
    /// Something else, just as well formed: a second statement for the same place.
    Other,
    /// It costs too much.
    Overpriced,
    /// It costs as much as under full congestion.
    Congested,
    /// It is dated far into the future.
    Future,
    /// It is dated an hour before its turn.
    Past,
    /// It expires an hour late, as if it was signed an hour after it was dated. All nodes accept that.
    SignedLate,
    /// It expires two days too late.
    KeptTooLong,
    /// It depends on a place of a chain that will not come.
    Dependent,
    /// It orders a commit.
    Commit,
    /// It orders a payer report that a payer has paid for.
    Reserved,
    /// It orders what no payer has signed.
    Unpaid,
    /// It orders what only other software decodes.
    Odd,
    /// No answer can carry it.
    Oversized,
    /// The true statement, signed with a key of no node.
    Forged,
}

impl Version {
    /// All that a node may sign for a place of its own.
    pub(super) const SIGNED: [Self; 14] = [
        Self::True,
        Self::Other,
        Self::Overpriced,
        Self::Congested,
        Self::Future,
        Self::Past,
        Self::SignedLate,
        Self::KeptTooLong,
        Self::Dependent,
        Self::Commit,
        Self::Reserved,
        Self::Unpaid,
        Self::Odd,
        Self::Oversized,
    ];
}

/// A key that no node has.
const NO_NODE: OriginatorId = OriginatorId(9900);

/// Signs the strands of the older network.
const OLDER_NETWORK: [u8; 32] = [0x21; 32];

/// Returns the key of a node, or of the older network. Made once: making one takes longer than signing.
pub(super) fn key(node: OriginatorId) -> SecretKey {
    keys_of(node).0
}

/// Returns the public part of [`key`].
pub(super) fn public_key(node: OriginatorId) -> PublicKey {
    keys_of(node).1
}

fn keys_of(node: OriginatorId) -> (SecretKey, PublicKey) {
    static MADE: Mutex<BTreeMap<OriginatorId, (SecretKey, PublicKey)>> =
        Mutex::new(BTreeMap::new());
    let mut made = MADE.lock();
    let of_node = made.entry(node).or_insert_with(|| {
        let bytes = match node.is_migrated() {
            true => OLDER_NETWORK,
            false => [u8::try_from(node.0 / 100).unwrap(); 32],
        };
        let key = SecretKey::from_bytes(&bytes).unwrap();
        (key.clone(), key.public_key())
    });
    of_node.clone()
}

type Made = BTreeMap<(OriginatorId, SequenceId, Version), Bytes>;

/// The envelope for a place.
pub(super) fn envelope(originator: OriginatorId, sequence: SequenceId, version: Version) -> Bytes {
    static MADE: Mutex<Made> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock();
    made.entry((originator, sequence, version))
        .or_insert_with(|| make(originator, sequence, version))
        .clone()
}

/// Returns the engine's verdict on bytes that come as part of a strand. A pure function, and by far the
/// most expensive one here, so verdicts are kept from run to run.
pub(super) fn judge(originator: OriginatorId, own: OriginatorId, bytes: &Bytes) -> VerifyResult {
    judge_by(&Absences::NONE, originator, own, bytes)
}

/// Returns the engine's verdict on such bytes, by the absences that a node knows of.
pub(super) fn judge_by(
    absences: &Absences,
    originator: OriginatorId,
    own: OriginatorId,
    bytes: &Bytes,
) -> VerifyResult {
    static JUDGED: Mutex<Judged> = Mutex::new(BTreeMap::new());
    let check = || {
        let key = public_key(originator);
        let judge = EnvelopeVerifier { originator, key, own, absences: absences.clone() };
        judge.check(vec![bytes.clone()]).remove(0)
    };
    // A verdict with a fault is no verdict for other runs.
    #[cfg(feature = "faults")]
    if hawser_storage::faults::is_on(hawser_storage::faults::SeededFault::UncheckedSignature) {
        return check();
    }
    let mut judged = JUDGED.lock();
    judged
        .entry((originator, own, absences.to_bytes(), bytes.clone()))
        .or_insert_with(check)
        .clone()
}

type Judged = BTreeMap<(OriginatorId, OriginatorId, Vec<u8>, Bytes), VerifyResult>;

/// Returns which of its statements a node has signed with these bytes.
pub(super) fn version_of(id: EnvelopeId, bytes: &Bytes) -> Option<Version> {
    static KNOWN: Mutex<BTreeMap<Bytes, Option<Version>>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock();
    *known.entry(bytes.clone()).or_insert_with(|| {
        let small = Version::SIGNED.into_iter().filter(|it| *it != Version::Oversized);
        small.into_iter().find(|it| envelope(id.originator, id.sequence, *it) == *bytes)
    })
}

/// The rates of the network; the second one is in force from the tenth envelope of each strand on.
pub(super) fn rates() -> [Rate; 2] {
    let first = Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(10),
        storage_fee: PicoDollarsPerByteDay(1),
        congestion_fee: PicoDollarPrice(3),
        target_rate_per_minute: 4,
    };
    let start_unix_s = u64::try_from(START_NS / 1_000_000_000).unwrap() + 1;
    [first, Rate { start_unix_s, message_fee: PicoDollarPrice(20), ..first }]
}

/// The topic of all envelopes.
pub(super) const GROUP: [u8; 16] = [7; 16];

fn make(originator: OriginatorId, sequence: SequenceId, version: Version) -> Bytes {
    let text = sequence.0 * 2 + u64::from(version == Version::Other);
    let len = if version == Version::Oversized { ENVELOPE_LEN_BYTES_MAX } else { 16 };
    let content_type = if version == Version::Commit { 3 } else { 1 };
    let frame = Frame { content_type, ..Frame::application(GROUP, len) };
    let frame = frame.encode(&mut rng(text, u64::from(originator.0)));
    let beyond = pb::Cursor { node_id_to_sequence_id: [(0, 1 << 62)].into() };
    let depends_on = (version == Version::Dependent).then_some(beyond);
    let (topic, payload) = match version {
        Version::Reserved => {
            let report = pb::PayerReport { originator_node_id: originator.0, ..Default::default() };
            (Topic::payer_reports(originator), Payload::PayerReport(report))
        }
        _ => (group_topic(GROUP), group_payload(frame)),
    };
    let client = client(topic.as_bytes(), depends_on, Some(payload));
    // The key of payer 3 is that of node 300, which may pay for payloads of nodes.
    let payer_number = if version == Version::Reserved { 99 } else { 3 };
    let mut paid = PayerEnvelope::sign(client, originator, RETENTION_DAYS, &payer(payer_number));
    if version == Version::Unpaid {
        let signature = paid.payer_signature.as_mut().expect("it was signed");
        signature.bytes = of_no_key(&signature.bytes);
    }
    // The client envelope once more, as a number.
    let odd: &[u8] = if version == Version::Odd { &[0x08, 5] } else { &[] };
    let payer_bytes: Bytes = [&paid.encode_to_vec()[..], odd].concat().into();
    let originator_ns = match version {
        Version::Future => FUTURE_NS,
        Version::Past => START_NS - 3_600_000_000_000,
        Version::Dated(tens) => {
            let step_ns = i64::try_from(sequence.0).unwrap() * STEP_NS;
            START_NS + i64::from(tens) * TEN_SECONDS_NS + step_ns
        }
        _ => START_NS + i64::try_from(sequence.0).unwrap() * STEP_NS,
    };
    let late_s = match version {
        Version::SignedLate => 3_600,
        Version::KeptTooLong => 2 * 86_400,
        _ => 0,
    };
    let second = u64::try_from(originator_ns / 1_000_000_000).unwrap();
    let fee = rates().iter().rev().find(|it| it.start_unix_s <= second).unwrap().message_fee.0;
    let price = fee + payer_bytes.len() as u64 * u64::from(RETENTION_DAYS);
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: originator.0,
        originator_sequence_id: sequence.0,
        originator_ns,
        base_fee_picodollars: price + u64::from(version == Version::Overpriced),
        congestion_fee_picodollars: if version == Version::Congested { 300 } else { 0 },
        expiry_unixtime: second + u64::from(RETENTION_DAYS) * 86_400 + late_s,
        payer_envelope_bytes: payer_bytes,
    };
    let bytes: Bytes = statement.encode_to_vec().into();
    let signer = if version == Version::Forged { NO_NODE } else { originator };
    let signature = key(signer).sign(originator_digest(&bytes));
    OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
}

/// Changes a signature so that it has its form and belongs to no key.
fn of_no_key(signature: &Bytes) -> Bytes {
    let changed = (0..=255).map(|byte| {
        let mut bytes = signature.to_vec();
        bytes[1] = byte;
        Bytes::from(bytes)
    });
    let digest = originator_digest(&Bytes::from_static(b"any"));
    let belongs_to_none = |bytes: &Bytes| {
        Signature::from_bytes(bytes).is_ok_and(|signature| signature.recover(digest).is_err())
    };
    changed.into_iter().find(belongs_to_none).expect("half of all points are not on the curve")
}

/// Time between two envelopes of a strand. The first hundred fit into ten seconds, so that dated ones ascend.
const STEP_NS: i64 = 100_000_000;
/// The unit of [`Version::Dated`]: so coarse that runs share most envelopes, whose signatures take most of the time.
const TEN_SECONDS_NS: i64 = 10_000_000_000;
/// Some day in the year 2100.
const FUTURE_NS: i64 = 4_110_000_000_000_000_000;
