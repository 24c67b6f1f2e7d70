//! The updates in the log of an inbox, as a node shows them.

use std::sync::Arc;

use hawser_proto::budget::has_at_most;
use hawser_proto::envelope::{Payload, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId};

use crate::nodes::is_padded;

/// Levels of messages from an originator's statement down to the actions of an update in it.
const ACTION_LEVELS: usize = 4;
/// A statement may have one field on these levels for each of so many bytes, and so many further fields. Calculated:
/// the identifier and the signature of an action are longer, and the layers have a few fields of their own.
const FIELD_LEN_BYTES: usize = 64;
const FIELDS_MORE: usize = 64;

/// One update in the log of an inbox.
pub(crate) struct LogUpdate {
    pub(crate) id: EnvelopeId,
    pub(crate) client: Bytes,
    pub(crate) update: Arc<IdentityUpdate>,
    pub(crate) envelope: OriginatorEnvelope,
}

impl LogUpdate {
    /// Reads an envelope of a log; `None` if it has no update, or is far longer than an envelope around its client
    /// envelope can be. Such an envelope would be kept as the answer to requests with the update. `None` also for more
    /// actions than fit into its length: an empty one has two bytes, and hundreds once it is decoded.
    pub(crate) fn read(envelope: OriginatorEnvelope) -> Option<Self> {
        let unsigned = envelope.unsigned_originator_envelope.clone();
        let fields_max = unsigned.len() / FIELD_LEN_BYTES + FIELDS_MORE;
        if !has_at_most(&unsigned, fields_max, ACTION_LEVELS) {
            return None;
        }
        let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
        let (id, client) = (statement.id(), statement.payer().client());
        let Payload::IdentityUpdate(update) = client.payload() else { return None };
        let (client, update) = (client.as_bytes().clone(), Arc::new(update.clone()));
        (!is_padded(&envelope, &client)).then_some(Self { id, client, update, envelope })
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::identity::associations as identity;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use prost::Message as _;

    use super::*;

    /// Returns an envelope of a chain with an update of these actions, and bytes behind the fields of its statement.
    fn envelope(actions: Vec<identity::IdentityAction>, padding: &[u8]) -> OriginatorEnvelope {
        let target_topic = [&[2_u8][..], &[5; 32]].concat().into();
        let aad = pb::AuthenticatedData { target_topic, depends_on: None };
        let update =
            IdentityUpdate { actions, client_timestamp_ns: u64::MAX, inbox_id: "05".repeat(32) };
        let update = pb::client_envelope::Payload::IdentityUpdate(update);
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
    }

    /// Returns the shortest action that an inbox may have: a contract wallet that accepts an empty signature, and whose
    /// chain has a short number, removes an installation.
    fn shortest_action() -> identity::IdentityAction {
        let key = identity::member_identifier::Kind::InstallationPublicKey(vec![7; 32].into());
        let wallet = identity::SmartContractWalletSignature {
            account_id: format!("eip155:1:0x{}", "7".repeat(40)),
            block_number: 1,
            signature: Bytes::new(),
        };
        let signed = identity::signature::Signature::Erc6492(wallet);
        let revoke = identity::RevokeAssociation {
            member_to_revoke: Some(identity::MemberIdentifier { kind: Some(key) }),
            recovery_identifier_signature: Some(identity::Signature { signature: Some(signed) }),
        };
        let kind = Some(identity::identity_action::Kind::Revoke(revoke));
        identity::IdentityAction { kind }
    }

    #[test]
    fn an_update_of_thousands_of_empty_actions_is_not_read_and_one_of_short_ones_is() {
        for count in [1, 10, 2000] {
            assert!(LogUpdate::read(envelope(vec![shortest_action(); count], &[])).is_some());
        }
        let empty = identity::IdentityAction::default();
        assert!(LogUpdate::read(envelope(vec![empty.clone(); 10], &[])).is_some());
        assert!(LogUpdate::read(envelope(vec![empty; 2000], &[])).is_none());
    }

    /// A chain signs no envelopes, so a node can add to them what it wants.
    #[test]
    fn an_update_in_an_envelope_with_padding_is_not_read() {
        assert!(LogUpdate::read(envelope(Vec::new(), &[])).is_some());
        let padding: Vec<u8> = [&[0x7a_u8, 0x80, 0x80, 0x04][..], &[0; 1 << 16]].concat();
        assert!(LogUpdate::read(envelope(Vec::new(), &padding)).is_none());
    }
}
