//! A client envelope that a node is asked to publish.

use hawser_proto::Bytes;

/// A client envelope, with the terms on which the gateway's payer signs it.
#[derive(Debug, Clone)]
pub(crate) struct WantedEnvelope {
    pub(crate) client: Bytes,
    /// Retention that the payer envelope asks for, days.
    pub(crate) retention_days: u32,
}
