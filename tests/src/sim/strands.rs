//! Envelopes that the simulated nodes sign. Made once: a place of a strand has the same bytes in every run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use hawser_engine::replication::{EnvelopeVerifier, VerifyResult};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{OriginatorId, SecretKey, SequenceId};
use hawser_rules::{Rate, RateTable};
use prost::Message as _;

use crate::harness::envelopes::{RETENTION_DAYS, group_message, payer};
use crate::harness::seed::rng;

const START_NS: i64 = 1_750_000_000_000_000_000;

/// The statement that is signed for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// The true statement.
    True,
    /// Something else, just as well formed: a second statement for the same place.
    Other,
    /// It costs too much.
    Dear,
    /// The true statement, signed with a key of no node.
    Forged,
}

/// A key that no node has.
const NO_NODE: OriginatorId = OriginatorId(9900);

pub(super) fn key(node: OriginatorId) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node.0 / 100).unwrap(); 32]).unwrap()
}

fn rates() -> Arc<RateTable> {
    let rate = Rate {
        start_unix_s: 0,
        message_fee: 10,
        storage_fee: 1,
        congestion_fee: 0,
        target_rate_per_minute: 0,
    };
    Arc::new(RateTable::new(vec![rate], None).unwrap())
}

type Made = BTreeMap<(OriginatorId, SequenceId, Version), Bytes>;

/// The envelope for a place.
pub(super) fn envelope(originator: OriginatorId, sequence: SequenceId, version: Version) -> Bytes {
    static MADE: Mutex<Made> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry((originator, sequence, version))
        .or_insert_with(|| make(originator, sequence, version))
        .clone()
}

/// Returns the engine's verdict on bytes that come as part of a strand. A pure function, and by far the
/// most expensive one here, so verdicts are kept from run to run.
pub(super) fn judge(originator: OriginatorId, own: OriginatorId, bytes: &Bytes) -> VerifyResult {
    static JUDGED: Mutex<Judged> = Mutex::new(BTreeMap::new());
    let check = || {
        let key = key(originator).public_key();
        let judge = EnvelopeVerifier { originator, key, own, rates: rates() };
        judge.check(vec![bytes.clone()]).remove(0)
    };
    // A verdict with a fault is no verdict for other runs.
    #[cfg(feature = "faults")]
    if hawser_storage::faults::is_on(hawser_storage::faults::Fault::UncheckedSignature) {
        return check();
    }
    let mut judged = JUDGED.lock().unwrap_or_else(PoisonError::into_inner);
    judged.entry((originator, own, bytes.clone())).or_insert_with(check).clone()
}

type Judged = BTreeMap<(OriginatorId, OriginatorId, Bytes), VerifyResult>;

fn make(originator: OriginatorId, sequence: SequenceId, version: Version) -> Bytes {
    let text = sequence.0 * 2 + u64::from(version == Version::Other);
    let client = group_message([7; 16], 16, &mut rng(text, u64::from(originator.0)));
    let paid = PayerEnvelope::sign(client, originator, RETENTION_DAYS, &payer(3));
    let payer_bytes: Bytes = paid.encode_to_vec().into();
    let originator_ns = START_NS + i64::try_from(sequence.0).unwrap() * 1_000_000;
    let price = 10 + payer_bytes.len() as u64 * u64::from(RETENTION_DAYS);
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: originator.0,
        originator_sequence_id: sequence.0,
        originator_ns,
        base_fee_picodollars: price + u64::from(version == Version::Dear),
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(originator_ns / 1_000_000_000).unwrap()
            + u64::from(RETENTION_DAYS) * 86_400,
        payer_envelope_bytes: payer_bytes,
    };
    let bytes: Bytes = statement.encode_to_vec().into();
    let signer = if version == Version::Forged { NO_NODE } else { originator };
    let signature = key(signer).sign(originator_digest(&bytes));
    OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
}
