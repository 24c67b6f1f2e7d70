//! An envelope that was replicated before the commit it depends on is hidden from readers by topic.

use std::collections::BTreeMap;

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use tonic::Streaming;

use crate::common::*;

async fn page(node: &Node, query: pb::EnvelopesQuery, limit: u32) -> String {
    let request = pb::QueryEnvelopesRequest { query: Some(query), limit };
    ids(&node.query().await.query_envelopes(request).await.unwrap().into_inner().envelopes)
}

/// Returns a node with 200:1 and 200:4 in group 1, 200:3 in group 2, and 200:2 in group 1, which depends on the
/// first commit.
async fn node_ahead_of_the_chain() -> Node {
    let node = node().await;
    node.ordered_by_peer(1, 1, None);
    node.ordered_by_peer(2, 1, Some(wire_cursor([(0, 1)])));
    node.ordered_by_peer(3, 2, None);
    node.ordered_by_peer(4, 1, None);
    node
}

#[tokio::test]
async fn queries_stop_before_it_unless_the_cursor_covers_its_commit() {
    let node = node_ahead_of_the_chain().await;
    assert_eq!(page(&node, topics_query([1], None), 0).await, "200:1");
    assert_eq!(page(&node, topics_query([1, 2], None), 0).await, "200:1", "one cursor for both");
    assert_eq!(page(&node, topics_query([2], None), 0).await, "200:3");
    let covered = Some(wire_cursor([(0, 1), (200, 1)]));
    assert_eq!(page(&node, topics_query([1], covered), 0).await, "200:2 200:4");
    let request = pb::GetNewestEnvelopeRequest { topics: vec![topic_bytes(1), topic_bytes(2)] };
    let newest = node.query().await.get_newest_envelope(request).await.unwrap().into_inner();
    let newest: Vec<_> = newest.results.into_iter().flat_map(|it| it.originator_envelope).collect();
    assert_eq!(ids(&newest), "200:4 200:3");
    let strand = pb::EnvelopesQuery { originator_node_ids: vec![200], ..Default::default() };
    assert_eq!(page(&node, strand, 0).await, "200:1 200:2 200:3 200:4", "strands do not wait");

    node.commit_on_chain(1, 1);
    assert_eq!(page(&node, topics_query([1], None), 0).await, "200:1 0:1 200:2 200:4");
}

#[tokio::test]
async fn pages_of_any_size_bring_the_commit_first() {
    let node = node().await;
    // By their times, commits come after the envelopes that depend on them.
    for round in 0..10u64 {
        for place in 1..=3 {
            let depends_on = (place > 1).then(|| wire_cursor([(0, round + 1)]));
            node.ordered_by_peer(round * 3 + place, 1, depends_on);
        }
        node.commit_on_chain(round + 1, 1);
    }
    for limit in 1..=7 {
        let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
        loop {
            let cursor =
                pb_env::Cursor { node_id_to_sequence_id: seen.clone().into_iter().collect() };
            let page = page(&node, topics_query([1], Some(cursor)), limit).await;
            if page.is_empty() {
                break;
            }
            for id in page.split(' ') {
                let (originator, sequence) = id.split_once(':').unwrap();
                let (originator, sequence) =
                    (originator.parse().unwrap(), sequence.parse().unwrap());
                if originator == 200 && sequence % 3 != 1 {
                    let commit = (sequence - 1) / 3 + 1;
                    assert!(seen.get(&0) >= Some(&commit), "{limit}: {id} before 0:{commit}");
                }
                assert_eq!(seen.insert(originator, sequence).unwrap_or(0) + 1, sequence, "{limit}");
            }
        }
        assert_eq!(seen, [(0, 10), (200, 30)].into(), "{limit}");
    }
}

#[tokio::test]
async fn streams_hold_it_back_until_the_commit_has_come() {
    let node = node_ahead_of_the_chain().await;
    let filter = |group| pb::subscribe_topics_request::TopicFilter {
        topic: topic_bytes(group),
        last_seen: None,
    };
    let request = pb::SubscribeTopicsRequest { filters: vec![filter(1), filter(2)] };
    let by_topic = node.query().await.subscribe_topics(request).await.unwrap().into_inner();
    let all = Some(pb_env::Cursor::default());
    let request = pb::SubscribeEnvelopesRequest { query: Some(topics_query([1, 2], all)) };
    let shared = node.replication().await.subscribe_envelopes(request).await.unwrap().into_inner();
    let (mut by_topic, mut shared) = (ByTopic(by_topic), OneCursor(shared));
    assert_eq!(by_topic.read(2).await, "200:1 200:3", "the other topic goes on");
    assert_eq!(shared.read(1).await, "200:1");

    node.ordered_by_peer(5, 1, None);
    node.ordered_by_peer(6, 2, None);
    assert_eq!(by_topic.read(1).await, "200:6");
    node.commit_on_chain(1, 1);
    assert_eq!(by_topic.read(4).await, "0:1 200:2 200:4 200:5");
    assert_eq!(shared.read(6).await, "0:1 200:2 200:3 200:4 200:5 200:6");
}

struct ByTopic(Streaming<pb::SubscribeTopicsResponse>);

impl ByTopic {
    /// The next `count` envelopes.
    async fn read(&mut self, count: usize) -> String {
        use pb::subscribe_topics_response::Response;
        let mut got = Vec::new();
        while got.len() < count {
            let message = self.0.message().await.unwrap().unwrap();
            if let Some(Response::Envelopes(envelopes)) = message.response {
                got.extend(envelopes.envelopes);
            }
        }
        ids(&got)
    }
}

struct OneCursor(Streaming<pb::SubscribeEnvelopesResponse>);

impl OneCursor {
    /// The next `count` envelopes.
    async fn read(&mut self, count: usize) -> String {
        let mut got = Vec::new();
        while got.len() < count {
            got.extend(self.0.message().await.unwrap().unwrap().envelopes);
        }
        ids(&got)
    }
}
