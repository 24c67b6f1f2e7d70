//! Identity updates are judged before they are put on the chain, where a bad one would cost gas and
//! be dropped by every node. Who judges is injected; what is judged against comes from a node.

use std::sync::Arc;
use std::time::Duration;

use hawser_proto::envelope::{Payload, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{EnvelopesQuery, QueryEnvelopesRequest};
use hawser_proto::{Topic, TopicKind};
use tokio::time::timeout;

use crate::nodes::Nodes;

const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// Judges an identity update.
pub trait IdentityCheck: Send + Sync + 'static {
    /// Whether `update` is valid after `earlier`, the inbox's log as a node shows it, ascending.
    /// Takes its time to compute and waits for nobody: what cannot be told without a chain is
    /// taken to be valid.
    ///
    /// # Errors
    /// Why it is not valid.
    fn check(
        &self,
        inbox: [u8; 32],
        earlier: &[IdentityUpdate],
        update: &IdentityUpdate,
    ) -> Result<(), String>;
}

/// Judges an update against what a node knows of its inbox. An inbox that no node tells of is no
/// reason to refuse: the nodes judge again.
pub(crate) async fn judge(
    check: &Arc<dyn IdentityCheck>,
    nodes: &Nodes,
    inbox: [u8; 32],
    update: IdentityUpdate,
) -> Result<(), String> {
    let Some(earlier) = log_of(nodes, inbox).await else { return Ok(()) };
    let check = check.clone();
    let judging = tokio::task::spawn_blocking(move || check.check(inbox, &earlier, &update));
    judging.await.unwrap_or_else(|_| Err("judging it was interrupted".into()))
}

async fn log_of(nodes: &Nodes, inbox: [u8; 32]) -> Option<Vec<IdentityUpdate>> {
    let topic = Topic::new(TopicKind::IdentityUpdates, &inbox).ok()?;
    let node = nodes.choose(&topic, &std::collections::BTreeSet::new())?;
    let query = EnvelopesQuery {
        topics: vec![topic.as_bytes().clone()],
        originator_node_ids: Vec::new(),
        last_seen: None,
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 0 };
    let mut client = ReplicationApiClient::new(node.aside.clone())
        .max_decoding_message_size(hawser_api::serve::MESSAGE_LEN_BYTES_MAX);
    let asked = timeout(LOG_TIMEOUT, client.query_envelopes(request)).await;
    let envelopes = asked.ok()?.ok()?.into_inner().envelopes;
    envelopes
        .into_iter()
        .map(|envelope| {
            let unsigned = envelope.unsigned_originator_envelope;
            let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
            match statement.payer().client().payload() {
                Payload::IdentityUpdate(update) => Some(update.clone()),
                _ => None,
            }
        })
        .collect()
}
