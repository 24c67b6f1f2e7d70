//! Fuzz target: the typed layers of an envelope, which keep the bytes they came in.

use bytes::Bytes;
use hawser_proto::envelope::{
    ClientEnvelope, OriginatorEnvelope, PayerEnvelope, UnsealedEnvelope, UnsignedOriginatorEnvelope,
};
use hawser_proto::loose::LoosePayerEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{OriginatorId, SecretKey, TopicKind};
use hawser_rules::odd_terms;
use prost::{Message as _, Name as _};

use super::Target;
use super::wire::DECODED_PER_BYTE;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "layers", run, seeds, memory_factor: DECODED_PER_BYTE };

fn run(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    if let Ok(envelope) = ClientEnvelope::parse(input.clone()) {
        assert_eq!(envelope.as_bytes(), &input);
        assert!(!envelope.topic().identifier().is_empty());
    }
    let loose = LoosePayerEnvelope::read(&input);
    let terms = odd_terms(OriginatorId::FIRST_NODE, &input);
    assert!(terms.is_none() || loose.is_some(), "a payer owes for what can be read alone");
    if let Ok(envelope) = PayerEnvelope::parse(input.clone()) {
        assert_eq!(envelope.as_bytes(), &input);
        let kind = envelope.client().payload_kind();
        let is_ordered_by_nodes = !kind.is_reserved() && kind != TopicKind::IdentityUpdates;
        let is_read = is_ordered_by_nodes && envelope.client().topic().kind() == kind;
        assert_eq!(loose.is_some(), is_read, "what is read strictly is read loosely, too");
        if let Some(loose) = loose {
            assert!(!loose.is_newer(), "what is read strictly is of this schema");
            assert_eq!(loose.digest(), envelope.digest());
            assert_eq!(loose.signature_bytes(), envelope.signature_bytes());
            assert_eq!(
                (loose.target(), loose.retention_days()),
                (envelope.target(), envelope.retention_days())
            );
        }
    }
    if let Ok(statement) = UnsignedOriginatorEnvelope::parse(input.clone()) {
        assert_eq!(statement.as_bytes(), &input);
        let (id, originator_ns) =
            OriginatorEnvelope::statement(input.clone()).expect("the outer part parsed above");
        assert_eq!((id, originator_ns), (statement.id(), statement.originator_ns()));
    }
    if let Ok((statement, proof)) = OriginatorEnvelope::open(input.clone()) {
        assert_eq!(OriginatorEnvelope::encode(statement, proof), input, "one form on disk");
    }
    if let Ok(envelope) = OriginatorEnvelope::parse(input.clone()) {
        assert_eq!(envelope.as_bytes(), &input);
    }
}

/// The layers' vectors, and what real clients sent at every layer.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = corpus::client_envelopes();
    seeds.extend(corpus::messages_of(&pb::PayerEnvelope::full_name()));
    seeds.extend(corpus::messages_of(&pb::UnsignedOriginatorEnvelope::full_name()));
    seeds.extend(corpus::messages_of(&pb::OriginatorEnvelope::full_name()));
    for client in corpus::client_envelopes().into_iter().step_by(7) {
        seeds.extend(wrapped(client.into()));
    }
    seeds
}

/// The three layers around a client envelope.
fn wrapped(client: Bytes) -> [Vec<u8>; 3] {
    let key = SecretKey::from_bytes(&[7; 32]).expect("a key");
    let payer = PayerEnvelope::sign(client, OriginatorId(100), 60, &key).encode_to_vec();
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: 100,
        originator_sequence_id: 7,
        originator_ns: 1_700_000_000_123_456_000,
        payer_envelope_bytes: payer.clone().into(),
        ..Default::default()
    };
    let sealed = UnsealedEnvelope::new(&statement).seal(&key).to_vec();
    [payer, statement.encode_to_vec(), sealed]
}
