//! An envelope for a node.

use hawser_proto::{Bytes, EnvelopeId, Topic};
use hawser_rules::PicoDollarPrice;
use hawser_serve::CallCharge;

use crate::bill::BillEntry;
use crate::landed::ClientKey;
use crate::nodes::WantedEnvelope;

/// A client envelope for a node.
#[derive(Debug, Clone)]
pub(crate) struct PublishItem {
    /// Index in the request.
    pub(crate) index: usize,
    pub(crate) topic: Topic,
    /// True if Redis has no node for the topic, so other gateways are told of it even if it has not moved.
    pub(crate) is_topic_unplaced: bool,
    pub(crate) client: Bytes,
    /// The key of `client`. It is computed once: envelopes may have megabytes.
    pub(crate) key: ClientKey,
    /// Retention of the caller's envelopes, days.
    pub(crate) retention_days: u32,
    /// The chain envelopes that this one depends on.
    pub(crate) depends_on: Vec<EnvelopeId>,
    /// Largest congestion fee that the caller's policy allows; `None` for no limit.
    pub(crate) congestion_fee_max: Option<PicoDollarPrice>,
    pub(crate) bill: BillEntry,
    /// The memory of the call, charged until the last task that has a part of the request ends.
    pub(crate) charge: CallCharge,
}

impl PublishItem {
    /// Returns the envelope as a node is asked to publish it.
    pub(crate) fn wanted(&self) -> WantedEnvelope {
        WantedEnvelope { client: self.client.clone(), retention_days: self.retention_days }
    }
}
