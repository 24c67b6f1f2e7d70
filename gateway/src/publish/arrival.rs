//! Finds out whether an envelope has arrived at a node that did not answer in time. Publishing it at
//! another node as well costs money and shows it twice, so the node is asked first.

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

use super::item::PublishItem;
use crate::nodes::{Node, PlacedEnvelope};

/// Time for which a node is asked, and the pause between two questions. Guesses: a node that is only
/// slow has committed by then.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(250);
/// Sequence ids before the newest envelope of a topic that are searched. A guess: more than a node
/// issues within the time of an attempt on one topic.
const LOOK_BACK: u64 = 2000;
/// Envelopes of one page: the most that nodes return.
const PAGE: u32 = 1000;

/// Returns for each item its envelope if the node has it, in the same order.
pub(super) async fn find(node: &Node, items: &[PublishItem]) -> Vec<Option<PlacedEnvelope>> {
    let mut found: Vec<Option<PlacedEnvelope>> = vec![None; items.len()];
    let until = Instant::now() + ASK_TIMEOUT;
    while found.iter().any(Option::is_none) {
        let search = search(node, items, &mut found);
        let answered = timeout_at(until, search).await;
        if answered.is_err() || Instant::now() + ASK_EVERY >= until {
            break;
        }
        sleep(ASK_EVERY).await;
    }
    found
}

/// Searches once for every item that is not found yet.
async fn search(node: &Node, items: &[PublishItem], found: &mut [Option<PlacedEnvelope>]) {
    let mut client = ReplicationApiClient::new(node.query_channel.clone());
    for (item, found) in items.iter().zip(found) {
        if found.is_some() {
            continue;
        }
        // A question that fails is repeated while there is time.
        let Some(newest) = newest(&mut client, item).await else { continue };
        *found = match placed(node, item, newest.clone()) {
            Some(placed) => Some(placed),
            None => among_earlier(node, &mut client, item, &newest).await,
        };
    }
}

async fn newest(
    client: &mut ReplicationApiClient<Channel>,
    item: &PublishItem,
) -> Option<OriginatorEnvelope> {
    let request = GetNewestEnvelopeRequest { topics: vec![item.topic.as_bytes().clone()] };
    let answer = client.get_newest_envelope(request).await.ok()?.into_inner();
    answer.results.into_iter().next()?.originator_envelope
}

/// Searches the envelopes before the newest one: other clients may have written to the topic since.
async fn among_earlier(
    node: &Node,
    client: &mut ReplicationApiClient<Channel>,
    item: &PublishItem,
    newest: &OriginatorEnvelope,
) -> Option<PlacedEnvelope> {
    let newest =
        UnsignedOriginatorEnvelope::parse(newest.unsigned_originator_envelope.clone()).ok()?.id();
    let from = match newest.originator == node.id() {
        true => newest.sequence.0.saturating_sub(LOOK_BACK),
        false => 0,
    };
    // The cursor covers the other strands whole, so that the page holds none of their envelopes.
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

/// Returns the envelope with its fees if it is the node's answer for this item.
fn placed(node: &Node, item: &PublishItem, envelope: OriginatorEnvelope) -> Option<PlacedEnvelope> {
    node.batcher.verify(&item.client, envelope)
}
