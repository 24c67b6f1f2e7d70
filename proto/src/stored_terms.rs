//! The parts of a stored envelope from which its price, its expiry and its place among topics follow.

use bytes::Bytes;
use prost::Message as _;

use crate::client_aad::{ClientWithoutPayload, topic_and_dependencies};
use crate::envelope::{ClientEnvelope, LayerError};
use crate::ids::{EnvelopeId, OriginatorId, SequenceId};
use crate::pb::xmtp::xmtpv4::envelopes as pb;
use crate::price::PicoDollarPrice;
use crate::topic::Topic;

/// An originator envelope without its proof, which is skipped and not decoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StatementAlone {
    /// The statement.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) unsigned_originator_envelope: Bytes,
}

/// A payer envelope without its signature and its target, which are skipped and not decoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PayerWithoutSignature {
    /// The client envelope.
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) unsigned_client_envelope: Bytes,
    /// The retention in days.
    #[prost(uint32, tag = "4")]
    message_retention_days: u32,
}

/// The parts of a stored envelope that decide about everything but its payer, and the content of its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTerms {
    /// Originator and sequence id, as stated.
    pub id: EnvelopeId,
    /// The originator's time in unix nanoseconds.
    pub originator_ns: i64,
    /// The stated base fee.
    pub base_fee: PicoDollarPrice,
    /// The stated congestion fee.
    pub congestion_fee: PicoDollarPrice,
    /// The stated expiry, unix seconds.
    pub expiry_unix_s: u64,
    /// Length of the payer envelope.
    pub size_bytes: u64,
    /// The retention in days.
    pub retention_days: u32,
    /// The topic that the client names.
    pub topic: Topic,
    /// The envelopes that it depends on, by originator ascending.
    pub depends_on: Vec<EnvelopeId>,
    /// True if the payload is an identity update.
    pub has_identity_update: bool,
}

impl StoredTerms {
    /// Reads these parts of an envelope whose form was checked before it was stored. The form is not checked again, and
    /// neither payload nor signatures are decoded, so this costs a fraction of parsing all layers.
    ///
    /// # Errors
    /// Returns an error if a layer does not decode, or names no topic.
    pub fn of_stored(bytes: Bytes) -> Result<Self, LayerError> {
        let outer = StatementAlone::decode(bytes)?;
        let statement = pb::UnsignedOriginatorEnvelope::decode(outer.unsigned_originator_envelope)?;
        let size_bytes = statement.payer_envelope_bytes.len() as u64;
        let payer = PayerWithoutSignature::decode(statement.payer_envelope_bytes)?;
        let client = payer.unsigned_client_envelope;
        let has_identity_update = ClientEnvelope::has_identity_update(&client);
        let aad = ClientWithoutPayload::decode(client)?.aad.ok_or(LayerError::AadMissing)?;
        let (topic, depends_on) = topic_and_dependencies(aad)?;
        let originator = OriginatorId(statement.originator_node_id);
        Ok(Self {
            id: EnvelopeId::new(originator, SequenceId(statement.originator_sequence_id)),
            originator_ns: statement.originator_ns,
            base_fee: PicoDollarPrice(statement.base_fee_picodollars),
            congestion_fee: PicoDollarPrice(statement.congestion_fee_picodollars),
            expiry_unix_s: statement.expiry_unixtime,
            size_bytes,
            retention_days: payer.message_retention_days,
            topic,
            depends_on,
            has_identity_update,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Cursor;
    use crate::envelope::{OriginatorEnvelope, PayerEnvelope, Payload, Proof};
    use crate::sign::{SecretKey, originator_digest};

    /// Returns a signed envelope with this payload, as a node stores it.
    fn stored(payload: Option<Payload>, has_aad: bool) -> Bytes {
        let on = [(0, 3), (100, 9)];
        let on = on.map(|(of, at)| EnvelopeId::new(OriginatorId(of), SequenceId(at)));
        let aad = pb::AuthenticatedData {
            target_topic: Bytes::from_static(&[2, 1, 2]),
            depends_on: Some(Cursor::from_iter(on).to_pb()),
        };
        let client = pb::ClientEnvelope { aad: has_aad.then_some(aad), payload };
        let key = SecretKey::from_bytes(&[7; 32]).unwrap();
        let payer = PayerEnvelope::sign(client.encode_to_vec().into(), OriginatorId(100), 30, &key);
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: 100,
            originator_sequence_id: 7,
            originator_ns: 12_345,
            payer_envelope_bytes: payer.encode_to_vec().into(),
            base_fee_picodollars: 4,
            congestion_fee_picodollars: 5,
            expiry_unixtime: 6,
        };
        let statement = Bytes::from(statement.encode_to_vec());
        let proof = Proof::Signature(key.sign(originator_digest(&statement)));
        OriginatorEnvelope::encode(statement, proof)
    }

    #[test]
    fn the_parts_are_those_of_the_parsed_layers() {
        // An identity update without content has no addresses, so it need not be told from others.
        let update = crate::pb::xmtp::identity::associations::IdentityUpdate {
            inbox_id: "some".into(),
            ..Default::default()
        };
        let payloads = [
            (Payload::GroupMessage(Default::default()), false),
            (Payload::WelcomeMessage(Default::default()), false),
            (Payload::IdentityUpdate(update), true),
        ];
        for (payload, is_update) in payloads {
            let bytes = stored(Some(payload), true);
            let parsed = OriginatorEnvelope::parse(bytes.clone()).unwrap();
            let (statement, payer) = (parsed.unsigned(), parsed.unsigned().payer());
            let expected = StoredTerms {
                id: statement.id(),
                originator_ns: statement.originator_ns(),
                base_fee: statement.base_fee(),
                congestion_fee: statement.congestion_fee(),
                expiry_unix_s: statement.expiry_unix_s(),
                size_bytes: payer.as_bytes().len() as u64,
                retention_days: payer.retention_days(),
                topic: payer.client().topic().clone(),
                depends_on: payer.client().depends_on().to_vec(),
                has_identity_update: is_update,
            };
            assert_eq!(StoredTerms::of_stored(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn layers_without_a_topic_are_errors() {
        assert_eq!(StoredTerms::of_stored(stored(None, false)), Err(LayerError::AadMissing));
        assert!(StoredTerms::of_stored(Bytes::from_static(b"no envelope")).is_err());
        assert!(StoredTerms::of_stored(Bytes::new()).is_err());
    }
}
