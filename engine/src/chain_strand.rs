//! Strands of the app chain: the same event becomes the same bytes on every node.
//!
//! The envelope is made from the block alone: its time is the block's, it has no price and no
//! expiry, and its proof is the transaction. See `docs/protocol/chain-strands.md`.

use hawser_proto::envelope::{
    ClientEnvelope, OriginatorEnvelope, Payload, Proof, UnsignedOriginatorEnvelope,
};
use hawser_proto::mls::parse_group_message;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::Version;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use prost::Message as _;

/// A payload that a broadcaster contract has put in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainEvent {
    /// The contract's sequence id.
    pub sequence: SequenceId,
    /// The block's time, unix seconds.
    pub block_time_s: u64,
    /// The transaction that emitted the event.
    pub transaction_hash: [u8; 32],
    /// The client envelope, as broadcast.
    pub client_bytes: Bytes,
}

/// What becomes of an event.
#[derive(Debug, Clone)]
pub enum ChainEntry {
    /// An envelope of the strand.
    Envelope(Box<OriginatorEnvelope>),
    /// Every node can see from the bytes that this is no envelope: its place stays empty.
    Void(EnvelopeId),
}

/// Makes the entry that belongs to an event of `originator`, one of the two chain strands.
#[must_use]
pub fn entry(originator: OriginatorId, event: &ChainEvent) -> ChainEntry {
    let id = EnvelopeId::new(originator, event.sequence);
    let well_formed = ClientEnvelope::parse(event.client_bytes.clone())
        .is_ok_and(|client| belongs(originator, &client));
    if !well_formed {
        return ChainEntry::Void(id);
    }
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: originator.0,
        originator_sequence_id: event.sequence.0,
        originator_ns: block_time_ns(event.block_time_s),
        payer_envelope_bytes: pb::PayerEnvelope {
            unsigned_client_envelope: event.client_bytes.clone(),
            ..Default::default()
        }
        .encode_to_vec()
        .into(),
        ..Default::default()
    };
    let bytes = OriginatorEnvelope::encode(
        statement.encode_to_vec().into(),
        Proof::Transaction(event.transaction_hash),
    );
    let envelope =
        OriginatorEnvelope::parse(bytes).expect("made from a client envelope that parses");
    ChainEntry::Envelope(Box::new(envelope))
}

fn belongs(originator: OriginatorId, client: &ClientEnvelope) -> bool {
    if client.topic().kind() != client.payload_kind() {
        return false;
    }
    match client.payload() {
        Payload::GroupMessage(message) => {
            originator == OriginatorId::GROUP_MESSAGES
                && matches!(&message.version, Some(Version::V1(v1)) if parse_group_message(&v1.data).is_ok())
        }
        Payload::IdentityUpdate(_) => originator == OriginatorId::IDENTITY_UPDATES,
        _ => false,
    }
}

fn block_time_ns(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)
}

/// The statement of an entry, for those that have one.
impl ChainEntry {
    /// The statement inside, if there is an envelope.
    #[must_use]
    pub fn statement(&self) -> Option<&UnsignedOriginatorEnvelope> {
        match self {
            Self::Envelope(envelope) => Some(envelope.unsigned()),
            Self::Void(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(route: &str) -> Bytes {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.contains(route)).unwrap();
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        hex::decode(line["hex"].as_str().unwrap()).unwrap().into()
    }

    fn event(client_bytes: Bytes) -> ChainEvent {
        ChainEvent {
            sequence: SequenceId(3),
            block_time_s: 1_750_000_001,
            transaction_hash: [5; 32],
            client_bytes,
        }
    }

    #[test]
    fn an_event_becomes_an_envelope_with_the_clients_bytes_and_the_blocks_time() {
        let client = vector("chain:group");
        let entry = entry(OriginatorId::GROUP_MESSAGES, &event(client.clone()));
        let ChainEntry::Envelope(envelope) = entry else { panic!("{entry:?}") };
        assert_eq!(envelope.id(), EnvelopeId::new(OriginatorId(0), SequenceId(3)));
        assert_eq!(envelope.proof(), Proof::Transaction([5; 32]));
        assert_eq!(envelope.unsigned().originator_ns(), 1_750_000_001_000_000_000);
        assert_eq!(envelope.unsigned().payer().client().as_bytes(), &client);
        assert_eq!(envelope.unsigned().expiry_unix_s(), 0);
    }

    #[test]
    fn what_is_no_payload_of_the_strand_leaves_its_place_empty() {
        let void =
            |originator, bytes| matches!(entry(originator, &event(bytes)), ChainEntry::Void(_));
        assert!(void(OriginatorId::GROUP_MESSAGES, Bytes::from_static(b"\xff")));
        assert!(void(OriginatorId::GROUP_MESSAGES, Bytes::new()));
        assert!(void(OriginatorId::GROUP_MESSAGES, vector("chain:identity")));
        assert!(void(OriginatorId::IDENTITY_UPDATES, vector("chain:group")));
        assert!(!void(OriginatorId::IDENTITY_UPDATES, vector("chain:identity")));
    }
}
