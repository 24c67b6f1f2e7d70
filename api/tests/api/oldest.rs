//! The header `hawser-oldest`, by which readers learn that envelopes have expired.

use std::ops::ControlFlow;
use std::sync::Arc;

use hawser_api::{ApiSettings, NoPeers};
use hawser_engine::facts;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::common::*;

fn oldest_of(metadata: &MetadataMap) -> Option<String> {
    metadata.get("hawser-oldest").map(|it| it.to_str().unwrap().to_owned())
}

/// Returns a node with six envelopes, of which the first three have been pruned.
async fn pruned_node() -> Node {
    pruned(node().await).await
}

async fn pruned(node: Node) -> Node {
    for text in ["a", "b", "c", "d", "e", "f"] {
        node.publish(vec![message(1, text)]).await;
    }
    let store = node.engine.store();
    let mut expired = Vec::new();
    let each = |it| {
        expired.push(it);
        ControlFlow::Continue(())
    };
    store.snapshot().expiring(None, 3, each).unwrap();
    let done = store.prune(&expired, &|_, bytes, validity| facts::of_stored(bytes, validity, NODE));
    assert_eq!(done.unwrap().pruned.len(), 3);
    node
}

async fn queried(node: &Node, query: pb::EnvelopesQuery) -> (String, Option<String>) {
    let request = pb::QueryEnvelopesRequest { query: Some(query), limit: 0 };
    let answer = node.query().await.query_envelopes(request.clone()).await.unwrap();
    let other = node.replication().await.query_envelopes(request).await.unwrap();
    assert_eq!(
        oldest_of(answer.metadata()),
        oldest_of(other.metadata()),
        "both names answer alike"
    );
    let oldest = oldest_of(answer.metadata());
    (ids(&answer.into_inner().envelopes), oldest)
}

#[tokio::test]
async fn a_query_below_the_oldest_retained_place_is_told_it() {
    let node = pruned_node().await;
    let four = Some("100=4".to_owned());
    let all = "100:4 100:5 100:6".to_owned();
    assert_eq!(queried(&node, topics_query([1], None)).await, (all.clone(), four.clone()));
    let seen = |place| Some(wire_cursor([(100, place)]));
    assert_eq!(queried(&node, topics_query([1], seen(2))).await, (all.clone(), four.clone()));
    assert_eq!(queried(&node, topics_query([1], seen(3))).await, (all.clone(), None));
    let strand = |id, last_seen| pb::EnvelopesQuery {
        topics: Vec::new(),
        originator_node_ids: vec![id],
        last_seen,
    };
    assert_eq!(queried(&node, strand(100, None)).await, (all, four));
    assert_eq!(queried(&node, strand(200, None)).await, (String::new(), None), "another strand");
}

#[tokio::test]
async fn a_stream_that_begins_below_is_told_it_in_its_headers() {
    let node = pruned_node().await;
    let four = Some("100=4".to_owned());
    let filter =
        |last_seen| pb::subscribe_topics_request::TopicFilter { topic: topic_bytes(1), last_seen };
    let topics = |last_seen| pb::SubscribeTopicsRequest { filters: vec![filter(last_seen)] };
    let seen = |place| Some(wire_cursor([(100, place)]));
    let mut query = node.query().await;
    let opened = query.subscribe_topics(topics(None)).await.unwrap();
    assert_eq!(oldest_of(opened.metadata()), four);
    let opened = query.subscribe_topics(topics(seen(3))).await.unwrap();
    assert_eq!(oldest_of(opened.metadata()), None);
    let envelopes =
        |last_seen| pb::SubscribeEnvelopesRequest { query: Some(topics_query([1], last_seen)) };
    let mut replication = node.replication().await;
    let opened = replication.subscribe_envelopes(envelopes(seen(1))).await.unwrap();
    assert_eq!(oldest_of(opened.metadata()), four);
    let opened = replication.subscribe_envelopes(envelopes(None)).await.unwrap();
    assert_eq!(oldest_of(opened.metadata()), None, "it begins now");
    let filter = pb::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![100],
        last_seen: seen(0),
    };
    let request = pb::SubscribeOriginatorsRequest { filter: Some(filter) };
    let opened = replication.subscribe_originators(request).await.unwrap();
    assert_eq!(oldest_of(opened.metadata()), four);
    let mut all = Request::new(pb::SubscribeAllEnvelopesRequest::default());
    all.metadata_mut().insert("hawser-resume", "100=1".parse().unwrap());
    let opened = node.notification().await.subscribe_all_envelopes(all).await.unwrap();
    assert_eq!(oldest_of(opened.metadata()), four);
}

/// Played by queries that keep all threads which read: clients give up a stream whose headers do not come, and open one
/// that was refused again after a minute. Without the metadata, a reader takes what has expired for what never was.
#[tokio::test]
async fn a_stream_waits_for_no_query_to_be_told_what_has_expired() {
    let without_threads = |settings: &mut ApiSettings| settings.read_threads = 0;
    let node = pruned(node_with(without_threads, Arc::new(NoPeers)).await).await;
    assert_eq!(node.engine.reader().oldest_known(), None, "nothing was read since the pruning");
    let seen = Some(wire_cursor([(100, 1)]));
    let request = pb::SubscribeEnvelopesRequest { query: Some(topics_query([1], seen)) };
    let opened = node.replication().await.subscribe_envelopes(request).await.unwrap();
    // On a machine under load the read may take longer than headers wait for it: any place may have expired then.
    let told = oldest_of(opened.metadata()).unwrap();
    assert!(told == "100=4" || told.contains("100=7"), "{told}");
    let oldest = node.engine.reader().oldest().unwrap();
    assert_eq!(node.engine.reader().oldest_known(), Some(oldest));
}
