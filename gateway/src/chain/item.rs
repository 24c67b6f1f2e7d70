//! A payload for the chain, and its result.

use std::sync::Arc;

use hawser_proto::envelope::{ClientEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, OriginatorId};

use super::writer::ChainPublishError;
use crate::bill::BillEntry;
use crate::routing::ChainTopic;

/// A client envelope for the chain.
#[derive(Debug, Clone)]
pub(crate) struct ChainItem {
    /// Index in the request.
    pub(crate) index: usize,
    pub(crate) topic: ChainTopic,
    pub(crate) payload: Bytes,
    /// The identity update in the payload, if there is one.
    pub(crate) identity_update: Option<Arc<IdentityUpdate>>,
    pub(crate) bill: BillEntry,
}

/// The result for one payload: the originator envelope that a node shows, or the error.
pub(crate) type ChainResult = Result<OriginatorEnvelope, ChainPublishError>;

/// Returns a client envelope for the chain and, if it has one, its identity update, with a buffer of their own. A
/// transaction may be open for hours, and slices of a request would keep all of it in memory.
pub(crate) fn own_payload(
    client: &Bytes,
    has_update: bool,
) -> (Bytes, Option<Arc<IdentityUpdate>>) {
    let payload = Bytes::copy_from_slice(client);
    let update = has_update.then(|| update_in(payload.clone())).flatten();
    (payload, update)
}

/// Returns the identity update in a client envelope. Its fields share the buffer of the envelope.
fn update_in(client: Bytes) -> Option<Arc<IdentityUpdate>> {
    let client = ClientEnvelope::parse(client).ok()?;
    match client.payload() {
        Payload::IdentityUpdate(update) => Some(Arc::new(update.clone())),
        _ => None,
    }
}

/// Returns the strand of a topic's payloads.
pub(super) fn strand_of(topic: ChainTopic) -> OriginatorId {
    match topic {
        ChainTopic::Group(_) => OriginatorId::GROUP_MESSAGES,
        ChainTopic::Inbox(_) => OriginatorId::IDENTITY_UPDATES,
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::pb::xmtp::identity::associations as identity;
    use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_payload_and_its_update_keep_no_request_in_memory() {
        let key = identity::member_identifier::Kind::InstallationPublicKey(vec![7; 32].into());
        let revoke = identity::RevokeAssociation {
            member_to_revoke: Some(identity::MemberIdentifier { kind: Some(key) }),
            recovery_identifier_signature: None,
        };
        let kind = Some(identity::identity_action::Kind::Revoke(revoke));
        let actions = vec![identity::IdentityAction { kind }];
        let update = IdentityUpdate { actions, ..IdentityUpdate::default() };
        let target_topic = [&[2_u8][..], &[5; 32]].concat().into();
        let aad = pb::AuthenticatedData { target_topic, depends_on: None };
        let payload = pb::client_envelope::Payload::IdentityUpdate(update);
        let client = pb::ClientEnvelope { aad: Some(aad), payload: Some(payload) };
        let client = client.encode_to_vec();
        let request = Bytes::from([&client[..], &[0; 1000]].concat());
        let (payload, update) = own_payload(&request.slice(..client.len()), true);
        assert_eq!(payload, client);
        assert_eq!(update.as_ref().map(|update| update.actions.len()), Some(1));
        assert!(request.is_unique(), "neither holds a part of the request");
        assert_eq!(own_payload(&payload, false).1, None);
    }
}
