//! The parts of a stored envelope that put it in its place among the envelopes of topics.

use bytes::Bytes;
use prost::Message as _;

use crate::client_aad::{ClientWithoutPayload, topic_and_dependencies};
use crate::envelope::LayerError;
use crate::ids::EnvelopeId;
use crate::pb::xmtp::xmtpv4::envelopes as pb;
use crate::topic::Topic;

/// The topic of a stored envelope, its time, and the envelopes that it depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlace {
    /// The topic that the client names.
    pub topic: Topic,
    /// The originator's time in unix nanoseconds.
    pub originator_ns: i64,
    /// The envelopes that it depends on, by originator ascending.
    pub depends_on: Vec<EnvelopeId>,
}

impl TopicPlace {
    /// Reads these parts of an envelope whose form was checked before it was stored. The form is not checked again, and
    /// the payload is not decoded, so this costs a fraction of parsing all layers.
    ///
    /// # Errors
    /// Returns an error if a layer does not decode, or names no topic.
    pub fn of_stored(bytes: Bytes) -> Result<Self, LayerError> {
        let outer = pb::OriginatorEnvelope::decode(bytes)?;
        let statement = pb::UnsignedOriginatorEnvelope::decode(outer.unsigned_originator_envelope)?;
        let payer = pb::PayerEnvelope::decode(statement.payer_envelope_bytes)?;
        let client = ClientWithoutPayload::decode(payer.unsigned_client_envelope)?;
        let aad = client.aad.ok_or(LayerError::AadMissing)?;
        let (topic, depends_on) = topic_and_dependencies(aad)?;
        Ok(Self { topic, originator_ns: statement.originator_ns, depends_on })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Cursor;
    use crate::envelope::{OriginatorEnvelope, Payload, Proof};
    use crate::ids::{OriginatorId, SequenceId};

    fn stored(client: &[u8]) -> Bytes {
        let payer = pb::PayerEnvelope {
            unsigned_client_envelope: Bytes::copy_from_slice(client),
            ..Default::default()
        };
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: 100,
            originator_sequence_id: 7,
            originator_ns: 12_345,
            payer_envelope_bytes: payer.encode_to_vec().into(),
            ..Default::default()
        };
        OriginatorEnvelope::encode(statement.encode_to_vec().into(), Proof::Transaction([1; 32]))
    }

    fn client() -> pb::ClientEnvelope {
        let on = EnvelopeId::new(OriginatorId(0), SequenceId(3));
        pb::ClientEnvelope {
            aad: Some(pb::AuthenticatedData {
                target_topic: Bytes::from_static(&[0, 1, 2]),
                depends_on: Some(Cursor::from_iter([on]).to_pb()),
            }),
            payload: Some(Payload::GroupMessage(Default::default())),
        }
    }

    #[test]
    fn the_parts_are_those_of_the_parsed_layers() {
        let bytes = stored(&client().encode_to_vec());
        let parsed = OriginatorEnvelope::parse(bytes.clone()).unwrap();
        let place = TopicPlace::of_stored(bytes).unwrap();
        let inner = parsed.unsigned().payer().client();
        assert_eq!(place.topic, *inner.topic());
        assert_eq!(place.depends_on, inner.depends_on());
        assert_eq!(place.originator_ns, parsed.unsigned().originator_ns());
    }

    #[test]
    fn layers_without_a_topic_are_errors() {
        let mut without = client();
        without.aad = None;
        let refused = TopicPlace::of_stored(stored(&without.encode_to_vec()));
        assert_eq!(refused, Err(LayerError::AadMissing));
        assert!(TopicPlace::of_stored(stored(&[0xff])).is_err());
        assert!(TopicPlace::of_stored(Bytes::from_static(&[0x0a])).is_err());
    }
}
