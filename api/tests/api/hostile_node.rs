//! Effects of a hostile node on readers of an honest one. Its envelopes have valid signatures, so they are in the
//! log.

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_request::TopicFilter;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_response::{
    Response, SubscriptionStatus,
};
use tonic::Streaming;

use crate::common::*;

/// The year 2100.
const FAR_NS: i64 = 4_102_444_800_000_000_000;
const MINUTE_NS: i64 = 60_000_000_000;

async fn newest(node: &Node, group: u8) -> String {
    let request = pb::GetNewestEnvelopeRequest { topics: vec![topic_bytes(group)] };
    let newest = node.query().await.get_newest_envelope(request).await.unwrap().into_inner();
    let found: Vec<_> = newest.results.into_iter().flat_map(|it| it.originator_envelope).collect();
    ids(&found)
}

async fn page(node: &Node, group: u8, limit: u32) -> String {
    page_after(node, group, limit, None).await
}

async fn page_after(
    node: &Node,
    group: u8,
    limit: u32,
    last_seen: Option<pb_env::Cursor>,
) -> String {
    let request =
        pb::QueryEnvelopesRequest { query: Some(topics_query([group], last_seen)), limit };
    ids(&node.query().await.query_envelopes(request).await.unwrap().into_inner().envelopes)
}

#[tokio::test]
async fn an_envelope_of_2100_hides_no_other_and_counts_when_its_time_has_come() {
    let node = node().await;
    node.dated_by_peer(1, 1, FAR_NS, None);
    assert_eq!(newest(&node, 1).await, "200:1", "there is no other");
    node.publish(vec![message(1, "honest")]).await;
    assert_eq!(newest(&node, 1).await, "100:1");
    node.dated_by_peer(2, 1, START_NS - MINUTE_NS, None);
    assert_eq!(newest(&node, 1).await, "100:1", "dated back behind one of 2100");
    node.dated_by_peer(3, 1, START_NS + 10 * MINUTE_NS, None);
    assert_eq!(newest(&node, 1).await, "100:1");
    node.clock.advance(6 * 60);
    assert_eq!(newest(&node, 1).await, "100:1", "four minutes ahead");
    node.clock.advance(4 * 60);
    assert_eq!(newest(&node, 1).await, "200:3", "its time has come");
    assert_eq!(page(&node, 1, 0).await, "100:1 200:1", "its own strand comes late");
    let rest = page_after(&node, 1, 0, Some(wire_cursor([(100, 1), (200, 1)]))).await;
    assert_eq!(rest, "200:2 200:3", "clients would lose what is dated before and behind them");
}

/// Clients sort a page, and a message of a stream, by time, and pass over an envelope whose place is below one that
/// they have. A node whose clock was set back does the same as a hostile one.
#[tokio::test]
async fn what_a_node_dates_back_comes_in_a_page_and_a_message_of_its_own() {
    let node = node().await;
    let filters = vec![TopicFilter { topic: topic_bytes(1), last_seen: None }];
    let request = pb::SubscribeTopicsRequest { filters };
    let mut live = node.query().await.subscribe_topics(request.clone()).await.unwrap().into_inner();
    for (sequence, later_ns) in [(1, 5), (2, 4), (3, 4), (4, 9)] {
        node.dated_by_peer(sequence, 1, START_NS + later_ns, None);
    }
    node.publish(vec![message(1, "honest")]).await;
    assert_eq!(page(&node, 1, 0).await, "100:1 200:1");
    let rest = page_after(&node, 1, 0, Some(wire_cursor([(100, 1), (200, 1)]))).await;
    assert_eq!(rest, "200:2 200:3 200:4");

    let mut stored = node.query().await.subscribe_topics(request).await.unwrap().into_inner();
    for stream in [&mut live, &mut stored] {
        let (mut got, mut last) = (Vec::new(), String::new());
        while got.len() < 5 {
            last = envelopes(stream).await;
            assert!(!last.contains("200:1 200:2"), "{last}: dated the wrong way round");
            got.extend(last.split(' ').map(ToOwned::to_owned));
        }
        got.sort_unstable();
        assert_eq!(got, ["100:1", "200:1", "200:2", "200:3", "200:4"], "{last}");
    }
}

#[tokio::test]
async fn a_node_that_dates_back_fills_half_of_a_page() {
    let node = node().await;
    (1..=8).for_each(|sequence| node.dated_by_peer(sequence, 1, 0, None));
    for text in ["a", "b", "c"] {
        node.publish(vec![message(1, text)]).await;
    }
    assert_eq!(page(&node, 1, 4).await, "200:1 200:2 100:1 100:2");
    let all = "200:1 200:2 200:3 200:4 200:5 200:6 200:7 200:8 100:1 100:2 100:3";
    assert_eq!(page(&node, 1, 0).await, all, "by time, if everything has room");
}

async fn envelopes(stream: &mut Streaming<pb::SubscribeTopicsResponse>) -> String {
    loop {
        let message = stream.message().await.unwrap().unwrap();
        if let Some(Response::Envelopes(found)) = message.response {
            return ids(&found.envelopes);
        }
    }
}

#[tokio::test]
async fn what_waits_for_a_place_that_never_comes_wakes_no_stream() {
    let node = node().await;
    let filters =
        (1..=100).map(|group| TopicFilter { topic: topic_bytes(group), last_seen: None }).collect();
    let request = pb::SubscribeTopicsRequest { filters };
    let mut stream = node.replication().await.subscribe_topics(request).await.unwrap().into_inner();
    loop {
        let message = stream.message().await.unwrap().unwrap();
        let caught_up = i32::from(SubscriptionStatus::CatchupComplete);
        if matches!(message.response, Some(Response::StatusUpdate(it)) if it.status == caught_up) {
            break;
        }
    }
    let never = Some(wire_cursor([(0, 1 << 62)]));
    (1..=100).for_each(|group| node.ordered_by_peer(group.into(), group, never.clone()));
    node.publish(vec![message(1, "honest")]).await;
    assert_eq!(envelopes(&mut stream).await, "100:1");
    let before = node.sample("xmtp_subscriber_wakeups_total").await;
    assert!(before.is_some());
    for sequence in 1..=100 {
        node.commit_on_chain(sequence, 200);
        node.publish(vec![message(201, &sequence.to_string())]).await;
    }
    node.engine.committer().streams_settled().await;
    assert_eq!(node.sample("xmtp_subscriber_wakeups_total").await, before);
    node.publish(vec![message(2, "honest too")]).await;
    assert_eq!(envelopes(&mut stream).await, "100:102");
    assert_eq!(newest(&node, 1).await, "100:1");
    assert_eq!(newest(&node, 3).await, "", "nothing that can be shown");
}
