//! The four layers of an envelope, each parsed beside the exact bytes that arrived.
//!
//! Each layer is opaque bytes to the one around it. Digests cover the bytes that were sent, and no
//! function encodes a signed layer again. Parsing checks structure only, never signatures.

mod originator;

use bytes::Bytes;
use prost::Message as _;

use crate::budget::field_len_bytes;
use crate::client_aad::topic_and_dependencies;
use crate::digests::payer_digests;
use crate::ids::{EnvelopeId, OriginatorId};
use crate::pb::xmtp::identity::associations::RecoverableEcdsaSignature;
use crate::pb::xmtp::xmtpv4::envelopes as pb;
use crate::sign::{Digest, SecretKey, SignatureError, payer_digest};
use crate::topic::{Topic, TopicError, TopicKind};

pub use originator::{
    OpenedStatement, OriginatorEnvelope, Proof, UnsealedEnvelope, UnsignedOriginatorEnvelope,
};
pub use pb::client_envelope::Payload;

/// The reason bytes do not parse as the expected layer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LayerError {
    /// The bytes are no protobuf message of this layer.
    #[error("the bytes do not decode: {0}")]
    Wire(#[from] prost::DecodeError),
    /// The client envelope has no `aad`, which names its topic.
    #[error("aad is missing")]
    AadMissing,
    /// The payload is unset, or a member of a newer schema.
    #[error("payload is missing")]
    PayloadMissing,
    /// The target topic is malformed.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The statement has neither a signature nor a chain transaction.
    #[error("proof is missing")]
    ProofMissing,
    /// The originator's signature is not 65 bytes in canonical form.
    #[error("originator signature: {0}")]
    Signature(#[from] SignatureError),
    /// The transaction hash does not have 32 bytes.
    #[error("transaction hash has {0} bytes instead of 32")]
    TransactionHash(usize),
    /// An identity update or report is longer than its limit. Decoded, it would take far more memory than its bytes.
    #[error("payload of {0} bytes is too long for its kind")]
    TooLong(usize),
    /// The originator envelope is not in canonical form: known fields in order, and no others.
    #[error("envelope is not in canonical form")]
    NotCanonical,
}

/// Length of the longest identity update or report: the most that the chain's contracts can be set to accept from
/// payers. Gateways and nodes decode and judge none that is longer.
pub(crate) const STRUCTURED_LEN_BYTES_MAX: usize = 256 * 1024;

/// The innermost layer: the client's payload, its topic, and the commits that it depends on.
#[derive(Debug, Clone)]
pub struct ClientEnvelope {
    bytes: Bytes,
    topic: Topic,
    depends_on: Vec<EnvelopeId>,
    payload: Payload,
}

impl ClientEnvelope {
    /// Parses the layer. Checks, in this order: length, protobuf, `aad`, payload, topic.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn parse(bytes: Bytes) -> Result<Self, LayerError> {
        let structured = Self::structured_len_bytes(&bytes);
        if structured > STRUCTURED_LEN_BYTES_MAX {
            return Err(LayerError::TooLong(structured));
        }
        let message = pb::ClientEnvelope::decode(bytes.clone())?;
        let aad = message.aad.ok_or(LayerError::AadMissing)?;
        let payload = message.payload.ok_or(LayerError::PayloadMissing)?;
        let (topic, depends_on) = topic_and_dependencies(aad)?;
        Ok(Self { bytes, topic, depends_on, payload })
    }

    /// Returns the length of payloads that consist of many small messages (identity updates, reports),
    /// without decoding them. Decoded they take up to some hundred times as much.
    #[must_use]
    pub fn structured_len_bytes(bytes: &[u8]) -> usize {
        field_len_bytes(bytes, 5..=7)
    }

    /// Returns true if the payload is an identity update, without decoding it.
    #[must_use]
    pub fn has_identity_update(bytes: &[u8]) -> bool {
        field_len_bytes(bytes, 5..=5) > 0
    }

    /// Returns the bytes that the payer signed.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the topic that the client names.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Returns the envelopes that this one depends on, mostly one commit or none. By originator
    /// ascending. An entry of sequence 0 is kept, because rules judge each named entry.
    #[must_use]
    pub fn depends_on(&self) -> &[EnvelopeId] {
        &self.depends_on
    }

    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Returns the topic kind that belongs to the payload.
    #[must_use]
    pub fn payload_kind(&self) -> TopicKind {
        match self.payload {
            Payload::GroupMessage(_) => TopicKind::GroupMessages,
            Payload::WelcomeMessage(_) => TopicKind::Welcomes,
            Payload::UploadKeyPackage(_) => TopicKind::KeyPackages,
            Payload::IdentityUpdate(_) => TopicKind::IdentityUpdates,
            Payload::PayerReport(_) => TopicKind::PayerReports,
            Payload::PayerReportAttestation(_) => TopicKind::PayerReportAttestations,
        }
    }
}

/// A client envelope with its payer's signature, for one node.
#[derive(Debug, Clone)]
pub struct PayerEnvelope {
    bytes: Bytes,
    client: ClientEnvelope,
    signature: Option<Bytes>,
    target: OriginatorId,
    retention_days: u32,
}

impl PayerEnvelope {
    /// Takes a message of a publish request. Its bytes are this node's encoding of it (fields
    /// ascending, without defaults and unknown fields), which the originator signs and the fee is
    /// computed from.
    ///
    /// # Errors
    /// Returns an error if the client envelope inside is malformed.
    pub fn from_message(message: pb::PayerEnvelope) -> Result<Self, LayerError> {
        let bytes = message.encode_to_vec().into();
        Self::assemble(bytes, message)
    }

    /// Parses the bytes inside an originator's statement.
    ///
    /// # Errors
    /// Returns an error if this layer or the client envelope inside is malformed.
    pub fn parse(bytes: Bytes) -> Result<Self, LayerError> {
        let message = pb::PayerEnvelope::decode(bytes.clone())?;
        Self::assemble(bytes, message)
    }

    fn assemble(bytes: Bytes, message: pb::PayerEnvelope) -> Result<Self, LayerError> {
        Ok(Self {
            bytes,
            client: ClientEnvelope::parse(message.unsigned_client_envelope)?,
            signature: message.payer_signature.map(|signature| signature.bytes),
            target: OriginatorId(message.target_originator),
            retention_days: message.message_retention_days,
        })
    }

    /// Signs a client envelope for `target`.
    #[must_use]
    pub fn sign(
        client_bytes: Bytes,
        target: OriginatorId,
        retention_days: u32,
        payer: &SecretKey,
    ) -> pb::PayerEnvelope {
        let signature = payer.sign(payer_digest(target, &client_bytes));
        pb::PayerEnvelope {
            unsigned_client_envelope: client_bytes,
            payer_signature: Some(RecoverableEcdsaSignature {
                bytes: Bytes::copy_from_slice(signature.as_bytes()),
            }),
            target_originator: target.0,
            message_retention_days: retention_days,
        }
    }

    /// Returns the bytes inside the originator's statement. The payer pays for their length.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the layer inside.
    #[must_use]
    pub fn client(&self) -> &ClientEnvelope {
        &self.client
    }

    /// Returns the payer's signature as sent, of any length; `None` on chain traffic.
    #[must_use]
    pub fn signature_bytes(&self) -> Option<&Bytes> {
        self.signature.as_ref()
    }

    /// Returns the digest that the payer's signature must cover.
    #[must_use]
    pub fn digest(&self) -> Digest {
        payer_digest(self.target, &self.client.bytes)
    }

    /// Returns the [`digest`](Self::digest) of each of these envelopes, in their order.
    #[must_use]
    pub fn digests(envelopes: &[&Self]) -> Vec<Digest> {
        payer_digests(envelopes.iter().map(|it| (it.target, &it.client.bytes[..])))
    }

    /// Returns the node that the payer asks to sequence this envelope.
    #[must_use]
    pub fn target(&self) -> OriginatorId {
        self.target
    }

    /// Returns the requested retention in days. The payer's signature does not cover it.
    #[must_use]
    pub fn retention_days(&self) -> u32 {
        self.retention_days
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known test keys: the second payer and the first originator of the published chain example.
    const PAYER: &str = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a";
    const NODE: &str = "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";
    const CLIENT: &str = "0a13121100aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa12250a230a210001000210aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000000000000101000000";
    const SIGNED: &str = "0454702b60bf51db8312b76313cdec2419ea19c94faa8fa808bec10b244c871f17b39591e91fec14bd2392bbe5f9fe8b753a8dde03bbe92011e1f7651629bf0600";

    fn example() -> (pb::UnsignedOriginatorEnvelope, Bytes) {
        let payer = SecretKey::from_hex(PAYER).unwrap();
        let client = Bytes::from(hex::decode(CLIENT).unwrap());
        let envelope = PayerEnvelope::sign(client, OriginatorId(100), 60, &payer);
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: 100,
            originator_sequence_id: 7,
            originator_ns: 1_700_000_000_123_456_000,
            payer_envelope_bytes: envelope.encode_to_vec().into(),
            base_fee_picodollars: 25_300,
            congestion_fee_picodollars: 0,
            expiry_unixtime: 1_705_184_000,
        };
        let sealed = UnsealedEnvelope::new(&statement).seal(&SecretKey::from_hex(NODE).unwrap());
        (statement, sealed)
    }

    #[test]
    fn the_published_example_is_reproduced_to_the_byte() {
        let (_, sealed) = example();
        let envelope = OriginatorEnvelope::parse(sealed).unwrap();
        let Proof::Signature(signature) = envelope.proof() else { panic!("{envelope:?}") };
        assert_eq!(hex::encode(signature.as_bytes()), SIGNED);
        assert_eq!(envelope.unsigned().as_bytes().len(), 162);
        assert_eq!(envelope.unsigned().payer().as_bytes().len(), 135);
        let node = SecretKey::from_hex(NODE).unwrap().public_key();
        assert_eq!(envelope.recover_originator(), Ok(Some(node)));
    }

    #[test]
    fn a_sealed_envelope_is_what_the_generated_types_encode() {
        let (statement, sealed) = example();
        let envelope = OriginatorEnvelope::parse(sealed.clone()).unwrap();
        assert_eq!(envelope.unsigned().as_bytes().as_ref(), statement.encode_to_vec());
        let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), envelope.proof());
        assert_eq!(bytes, sealed);
    }

    #[test]
    fn the_outer_layer_has_one_form() {
        let (_, sealed) = example();
        let with = |bytes: &[u8]| {
            OriginatorEnvelope::parse([sealed.as_ref(), bytes].concat().into()).map(|_| ())
        };
        assert_eq!(with(&[]), Ok(()));
        // An unknown field, the same field once more, an empty chain proof over the signature.
        assert_eq!(with(&[0x7a, 0]), Err(LayerError::NotCanonical));
        assert_eq!(with(&[0x0a, 0]), Err(LayerError::NotCanonical));
        assert!(with(&[0x1a, 0]).is_err());
        // A length written with a byte more than it needs.
        let mut long = sealed.to_vec();
        long[2] |= 0x80;
        long.insert(3, 0);
        assert_eq!(
            OriginatorEnvelope::parse(long.into()).map(|_| ()),
            Err(LayerError::NotCanonical)
        );
    }

    /// The form is checked without encoding the statement again.
    #[test]
    fn an_envelope_has_the_canonical_form_exactly_if_it_is_its_own_encoding() {
        let (_, sealed) = example();
        let of_chain =
            |statement| OriginatorEnvelope::encode(statement, Proof::Transaction([7; 32]));
        let (short, empty) = (of_chain(Bytes::from_static(&[8, 1])), of_chain(Bytes::new()));
        let mut refused = 0;
        for sound in [sealed, short, empty] {
            assert!(OriginatorEnvelope::open(sound.clone()).is_ok());
            for (at, byte) in (0..=sound.len())
                .flat_map(|at| [0, 1, 2, 0x0a, 0x12, 0x1a, 0x22, 0x80, 0xff].map(|byte| (at, byte)))
            {
                let (mut longer, mut changed) = (sound.to_vec(), sound.to_vec());
                longer.insert(at, byte);
                changed.get_mut(at).into_iter().for_each(|it| *it = byte);
                for bytes in [longer, changed].map(Bytes::from) {
                    let Ok(message) = pb::OriginatorEnvelope::decode(bytes.clone()) else {
                        continue;
                    };
                    let is_other = message.encode_to_vec() != bytes;
                    let opened = OriginatorEnvelope::open(bytes).map(|_| ());
                    assert_eq!(opened == Err(LayerError::NotCanonical), is_other, "{at} {byte}");
                    refused += u32::from(is_other);
                }
            }
        }
        assert!(refused > 0);
    }

    #[test]
    fn a_stored_envelope_is_parsed_without_another_look_at_its_form() {
        let (_, sealed) = example();
        let parsed = OriginatorEnvelope::parse(sealed.clone()).unwrap();
        let stored = OriginatorEnvelope::parse_stored(sealed.clone()).unwrap();
        assert_eq!(stored.as_bytes(), &sealed);
        assert_eq!((stored.id(), stored.proof()), (parsed.id(), parsed.proof()));
        assert_eq!(stored.unsigned().as_bytes(), parsed.unsigned().as_bytes());
        let topic = |it: &OriginatorEnvelope| it.unsigned().payer().client().topic().clone();
        assert_eq!(topic(&stored), topic(&parsed));
        let other = [sealed.as_ref(), &[0x7a, 0]].concat();
        assert!(OriginatorEnvelope::parse_stored(other.into()).is_ok());
        assert!(OriginatorEnvelope::parse_stored(sealed.slice(..sealed.len() - 1)).is_err());
    }

    #[test]
    fn a_swarm_of_empty_actions_is_refused_before_it_is_decoded() {
        let mut bytes = vec![0x2a, 0x80, 0x80, 0x20];
        bytes.resize(4 + 512 * 1024, 0);
        bytes[4..].chunks_mut(2).for_each(|action| action[0] = 0x0a);
        // An empty group of an unknown number does not hide the fields behind it.
        for before in [&[] as &[u8], &[0x7b, 0x7c]] {
            let bytes = [before, &bytes].concat();
            let refused = ClientEnvelope::parse(bytes.into()).map(|_| ()).unwrap_err();
            assert_eq!(refused, LayerError::TooLong(512 * 1024));
        }
    }

    #[test]
    fn client_layers_are_checked_in_order() {
        let parse = |message: pb::ClientEnvelope| {
            ClientEnvelope::parse(message.encode_to_vec().into()).map(|_| ()).unwrap_err()
        };
        let aad = |topic: &'static [u8]| {
            Some(pb::AuthenticatedData {
                target_topic: Bytes::from_static(topic),
                depends_on: None,
            })
        };
        let payload = Some(Payload::GroupMessage(Default::default()));
        assert_eq!(parse(pb::ClientEnvelope::default()), LayerError::AadMissing);
        let no_payload = pb::ClientEnvelope { aad: aad(&[9]), payload: None };
        assert_eq!(parse(no_payload), LayerError::PayloadMissing);
        let short = pb::ClientEnvelope { aad: aad(&[0]), payload: payload.clone() };
        assert_eq!(parse(short), LayerError::Topic(TopicError::TooShort));
        let unknown = pb::ClientEnvelope { aad: aad(&[9, 1]), payload };
        assert_eq!(parse(unknown), LayerError::Topic(TopicError::UnknownKind(9)));
    }
}
