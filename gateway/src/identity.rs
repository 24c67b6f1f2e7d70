//! Identity updates are judged before they are put on the chain, where a bad one would cost gas and
//! be dropped by every node. Who judges is injected; what is judged against comes from a node.

use std::sync::Arc;
use std::time::Duration;

use hawser_api::serve::MESSAGE_LEN_BYTES_MAX;
use hawser_proto::envelope::{Payload, UnsignedOriginatorEnvelope};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{EnvelopesQuery, QueryEnvelopesRequest};
use hawser_proto::{Bytes, Topic, TopicKind};
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

/// What an update is worth before it is sent.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// To be sent. An inbox that no node tells of is no reason to refuse: nodes judge again.
    Send,
    /// Its inbox's log has it already, like this.
    There(Box<OriginatorEnvelope>),
    /// Not to be sent.
    Invalid(String),
}

/// Judges an update, which stands in `client`, against what a node knows of its inbox.
pub(crate) async fn judge(
    check: &Arc<dyn IdentityCheck>,
    nodes: &Nodes,
    inbox: [u8; 32],
    client: &Bytes,
    update: IdentityUpdate,
) -> Verdict {
    let Some(log) = log_of(nodes, inbox).await else { return Verdict::Send };
    let mut earlier = Vec::with_capacity(log.len());
    for entry in log {
        if entry.client == *client {
            return Verdict::There(Box::new(entry.envelope));
        }
        earlier.push(entry.update);
    }
    let check = check.clone();
    let judging = tokio::task::spawn_blocking(move || check.check(inbox, &earlier, &update));
    match judging.await {
        Ok(Ok(())) => Verdict::Send,
        Ok(Err(reason)) => Verdict::Invalid(reason),
        Err(_) => Verdict::Invalid("judging it was interrupted".into()),
    }
}

/// One entry of an inbox's log.
struct Entry {
    client: Bytes,
    update: IdentityUpdate,
    envelope: OriginatorEnvelope,
}

async fn log_of(nodes: &Nodes, inbox: [u8; 32]) -> Option<Vec<Entry>> {
    let topic = Topic::new(TopicKind::IdentityUpdates, &inbox).ok()?;
    let node = nodes.choose(&topic, &std::collections::BTreeSet::new())?;
    let query = EnvelopesQuery {
        topics: vec![topic.as_bytes().clone()],
        originator_node_ids: Vec::new(),
        last_seen: None,
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: 0 };
    let mut client = ReplicationApiClient::new(node.aside.clone())
        .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX);
    let asked = timeout(LOG_TIMEOUT, client.query_envelopes(request)).await;
    asked.ok()?.ok()?.into_inner().envelopes.into_iter().map(entry).collect()
}

fn entry(envelope: OriginatorEnvelope) -> Option<Entry> {
    let unsigned = envelope.unsigned_originator_envelope.clone();
    let statement = UnsignedOriginatorEnvelope::parse(unsigned).ok()?;
    let client = statement.payer().client();
    let Payload::IdentityUpdate(update) = client.payload() else { return None };
    Some(Entry { client: client.as_bytes().clone(), update: update.clone(), envelope })
}
