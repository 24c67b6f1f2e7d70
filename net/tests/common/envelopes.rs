//! Envelopes, as honest and other nodes sign them.

use bytes::Bytes;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Payload, Proof};
use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{OriginatorId, SecretKey, Topic, TopicKind};
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
use prost::Message as _;

pub const NOW_NS: i64 = 1_750_000_000_000_000_000;
const DAYS: u32 = 60;

/// Every node has the key that its id says.
pub fn key(node: OriginatorId) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node.0 / 100).unwrap(); 32]).unwrap()
}

pub fn rates() -> RateTable {
    let rate = Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(1000),
        storage_fee: PicoDollarsPerByteDay(3),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    };
    RateTable::new(vec![rate], None).unwrap()
}

/// A payer envelope for `target`: a group message with `text`.
pub fn message(target: OriginatorId, text: u64) -> pb::PayerEnvelope {
    let mut data = vec![0, 1, 0, 2, 16];
    data.extend(GROUP);
    data.extend(1u64.to_be_bytes());
    data.extend([1, 0, 0, 8]);
    data.extend(text.to_be_bytes());
    let payer = SecretKey::from_bytes(&[99; 32]).unwrap();
    PayerEnvelope::sign(client(&[9; 4], data), target, DAYS, &payer)
}

/// The group of [`commit`].
pub const GROUP: [u8; 16] = [9; 16];

/// A commit of a group with `text`, as a client gives it to a chain.
pub fn commit(text: u64) -> Bytes {
    let mut data = vec![0, 1, 0, 2, 16];
    data.extend(GROUP);
    data.extend(1u64.to_be_bytes());
    data.extend([3, 0, 0, 0x40, 64]);
    data.extend(text.to_be_bytes());
    data.extend([0; 56]);
    client(&GROUP, data)
}

fn client(group: &[u8], data: Vec<u8>) -> Bytes {
    let v1 = V1 { data: data.into(), sender_hmac: Bytes::new(), should_push: false };
    let topic = Topic::new(TopicKind::GroupMessages, group).unwrap();
    let aad = pb::AuthenticatedData { target_topic: topic.as_bytes().clone(), depends_on: None };
    let payload = Payload::GroupMessage(GroupMessageInput { version: Some(Version::V1(v1)) });
    pb::ClientEnvelope { aad: Some(aad), payload: Some(payload) }.encode_to_vec().into()
}

/// A correct statement of `originator`.
pub fn statement(originator: OriginatorId, sequence: u64) -> pb::UnsignedOriginatorEnvelope {
    let payer: Bytes = message(originator, sequence).encode_to_vec().into();
    pb::UnsignedOriginatorEnvelope {
        originator_node_id: originator.0,
        originator_sequence_id: sequence,
        originator_ns: NOW_NS + i64::try_from(sequence).unwrap(),
        base_fee_picodollars: 1000 + 3 * payer.len() as u64 * u64::from(DAYS),
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(NOW_NS / 1_000_000_000).unwrap() + u64::from(DAYS) * 86_400,
        payer_envelope_bytes: payer,
    }
}

pub fn sign(statement: &pb::UnsignedOriginatorEnvelope, signer: OriginatorId) -> Bytes {
    let bytes: Bytes = statement.encode_to_vec().into();
    let signature = key(signer).sign(originator_digest(&bytes));
    OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
}

/// The envelope of `originator` in this place, as it should be.
pub fn envelope(originator: OriginatorId, sequence: u64) -> Bytes {
    sign(&statement(originator, sequence), originator)
}

/// The same statement, signed with another node's key.
pub fn forged(originator: OriginatorId, sequence: u64) -> Bytes {
    sign(&statement(originator, sequence), OriginatorId(9900))
}
