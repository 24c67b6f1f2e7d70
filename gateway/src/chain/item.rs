//! A payload for the chain, and its result.

use std::sync::Arc;

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

/// Returns the strand of a topic's payloads.
pub(super) fn strand_of(topic: ChainTopic) -> OriginatorId {
    match topic {
        ChainTopic::Group(_) => OriginatorId::GROUP_MESSAGES,
        ChainTopic::Inbox(_) => OriginatorId::IDENTITY_UPDATES,
    }
}
