//! The updates in the log of an inbox, as a node shows them.

use std::sync::Arc;

use hawser_proto::envelope::{Payload, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId};

use crate::nodes::is_padded;

/// One update in the log of an inbox.
pub(crate) struct LogUpdate {
    pub(crate) id: EnvelopeId,
    pub(crate) client: Bytes,
    pub(crate) update: Arc<IdentityUpdate>,
    pub(crate) envelope: OriginatorEnvelope,
}

impl LogUpdate {
    /// Reads an envelope of a log; `None` if it has no update, or is far longer than one of its client envelope. Such
    /// an envelope would be kept as the answer to requests with the update.
    pub(crate) fn read(envelope: OriginatorEnvelope) -> Option<Self> {
        let unsigned = envelope.unsigned_originator_envelope.clone();
        let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
        let (id, client) = (statement.id(), statement.payer().client());
        let Payload::IdentityUpdate(update) = client.payload() else { return None };
        let (client, update) = (client.as_bytes().clone(), Arc::new(update.clone()));
        (!is_padded(&envelope, &client)).then_some(Self { id, client, update, envelope })
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use prost::Message as _;

    use super::*;

    /// A chain signs no envelopes, so a node can add to them what it wants.
    #[test]
    fn an_update_in_an_envelope_with_padding_is_not_read() {
        let envelope = |padding: &[u8]| {
            let target_topic = [&[2_u8][..], &[5; 32]].concat().into();
            let aad = pb::AuthenticatedData { target_topic, depends_on: None };
            let update = pb::client_envelope::Payload::IdentityUpdate(IdentityUpdate::default());
            let client = pb::ClientEnvelope { aad: Some(aad), payload: Some(update) };
            let payer = pb::PayerEnvelope {
                unsigned_client_envelope: client.encode_to_vec().into(),
                ..Default::default()
            };
            let statement = pb::UnsignedOriginatorEnvelope {
                originator_node_id: 1,
                originator_sequence_id: 5,
                payer_envelope_bytes: payer.encode_to_vec().into(),
                ..Default::default()
            };
            let unsigned = [&statement.encode_to_vec()[..], padding].concat().into();
            OriginatorEnvelope { unsigned_originator_envelope: unsigned, proof: None }
        };
        assert!(LogUpdate::read(envelope(&[])).is_some());
        let padding: Vec<u8> = [&[0x7a_u8, 0x80, 0x80, 0x04][..], &[0; 1 << 16]].concat();
        assert!(LogUpdate::read(envelope(&padding)).is_none());
    }
}
