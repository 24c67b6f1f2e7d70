//! Whether an envelope has arrived at a node that did not answer in time. Publishing it elsewhere
//! as well costs money and shows it twice, so the node is asked first.

use std::time::Duration;

use hawser_proto::envelope::UnsignedOriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::{Cursor, OriginatorEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{
    EnvelopesQuery, GetNewestEnvelopeRequest, QueryEnvelopesRequest,
};
use hawser_proto::{OriginatorId, SequenceId};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;

use super::{NodeItem, Placed};
use crate::nodes::Node;

/// How long a node is asked.
const ASKED_FOR: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How far before the newest envelope of a topic is looked.
const LOOK_BACK: u64 = 2000;
const PAGE: u32 = 1000;

/// For each item what the node has of it, in the same order.
pub(super) async fn find(node: &Node, items: &[NodeItem]) -> Vec<Option<Placed>> {
    let mut found: Vec<Option<Placed>> = vec![None; items.len()];
    let until = Instant::now() + ASKED_FOR;
    while found.iter().any(Option::is_none) {
        let look = look(node, items, &mut found);
        let answered = timeout_at(until, look).await;
        if answered.is_err() || Instant::now() + ASK_EVERY >= until {
            break;
        }
        sleep(ASK_EVERY).await;
    }
    found
}

async fn look(node: &Node, items: &[NodeItem], found: &mut [Option<Placed>]) {
    let mut client = ReplicationApiClient::new(node.aside.clone());
    for (item, found) in items.iter().zip(found) {
        if found.is_some() {
            continue;
        }
        // Whatever does not work is tried again, as long as there is time.
        let Some(newest) = newest(&mut client, item).await else { continue };
        *found = match placed(node, item, newest.clone()) {
            Some(placed) => Some(placed),
            None => among_earlier(node, &mut client, item, &newest).await,
        };
    }
}

async fn newest(
    client: &mut ReplicationApiClient<Channel>,
    item: &NodeItem,
) -> Option<OriginatorEnvelope> {
    let request = GetNewestEnvelopeRequest { topics: vec![item.topic.as_bytes().clone()] };
    let answer = client.get_newest_envelope(request).await.ok()?.into_inner();
    answer.results.into_iter().next()?.originator_envelope
}

/// Others may have written to the topic since.
async fn among_earlier(
    node: &Node,
    client: &mut ReplicationApiClient<Channel>,
    item: &NodeItem,
    newest: &OriginatorEnvelope,
) -> Option<Placed> {
    let newest =
        UnsignedOriginatorEnvelope::parse(newest.unsigned_originator_envelope.clone()).ok()?.id();
    let from = match newest.originator == node.id() {
        true => newest.sequence.0.saturating_sub(LOOK_BACK),
        false => 0,
    };
    // Nothing of the other strands is wanted.
    let mut cursor: std::collections::BTreeMap<u32, u64> =
        [OriginatorId::GROUP_MESSAGES, OriginatorId::IDENTITY_UPDATES, newest.originator]
            .map(|originator| (originator.0, SequenceId::MAX.0))
            .into();
    cursor.insert(node.id().0, from);
    let query = EnvelopesQuery {
        topics: vec![item.topic.as_bytes().clone()],
        originator_node_ids: Vec::new(),
        last_seen: Some(Cursor { node_id_to_sequence_id: cursor }),
    };
    let request = QueryEnvelopesRequest { query: Some(query), limit: PAGE };
    let page = client.query_envelopes(request).await.ok()?.into_inner().envelopes;
    page.into_iter().find_map(|envelope| placed(node, item, envelope))
}

fn placed(node: &Node, item: &NodeItem, envelope: OriginatorEnvelope) -> Option<Placed> {
    node.batcher.check(&item.client, envelope)
}
