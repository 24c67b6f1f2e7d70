//! Streams: first messages, stored envelopes, new envelopes, keepalives, and ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hawser_api::NoPeers;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_response::SubscriptionStatus;
use tonic::{Code, Streaming};

use crate::common::*;

/// Returns the next message of a stream of topics as text: a status, or ids.
async fn next_message(stream: &mut Streaming<pb::SubscribeTopicsResponse>) -> String {
    use pb::subscribe_topics_response::Response;
    match stream.message().await.unwrap().unwrap().response.unwrap() {
        Response::Envelopes(envelopes) => ids(&envelopes.envelopes),
        Response::StatusUpdate(update) => {
            SubscriptionStatus::try_from(update.status).unwrap().as_str_name().to_owned()
        }
    }
}

/// Returns the ids in the next message of a stream of envelopes; empty for a keepalive.
async fn brought(stream: &mut Streaming<pb::SubscribeEnvelopesResponse>) -> String {
    ids(&stream.message().await.unwrap().unwrap().envelopes)
}

fn filter(topic: Bytes, last_seen: Option<pb_env::Cursor>) -> TopicFilter {
    TopicFilter { topic, last_seen }
}

use pb::subscribe_topics_request::TopicFilter;

fn topics(filters: Vec<TopicFilter>) -> pb::SubscribeTopicsRequest {
    pb::SubscribeTopicsRequest { filters }
}

fn envelopes(query: pb::EnvelopesQuery) -> pb::SubscribeEnvelopesRequest {
    pb::SubscribeEnvelopesRequest { query: Some(query) }
}

const STARTED: &str = "SUBSCRIPTION_STATUS_STARTED";
const CAUGHT_UP: &str = "SUBSCRIPTION_STATUS_CATCHUP_COMPLETE";
const WAITING: &str = "SUBSCRIPTION_STATUS_WAITING";

async fn restless_node() -> Node {
    let interval = |settings: &mut hawser_api::ApiSettings| {
        settings.keepalive_interval = Duration::from_millis(20);
    };
    node_with(interval, Arc::new(NoPeers)).await
}

#[tokio::test]
async fn a_stream_of_topics_says_what_it_does() {
    let node = node().await;
    node.publish(vec![message(1, "a"), message(2, "b"), message(1, "c"), message(3, "d")]).await;
    let filters = vec![
        filter(topic_bytes(1), Some(wire_cursor([(100, 1)]))),
        filter(topic_bytes(2), None),
        filter(topic_bytes(1), None),
        filter(Bytes::from_static(&[9, 9]), None),
    ];
    let mut stream =
        node.query().await.subscribe_topics(topics(filters)).await.unwrap().into_inner();
    assert_eq!(next_message(&mut stream).await, STARTED);
    assert_eq!(
        next_message(&mut stream).await,
        "100:2 100:3",
        "a topic counts once, with its first cursor"
    );
    assert_eq!(next_message(&mut stream).await, CAUGHT_UP);
    node.publish(vec![message(3, "no"), message(2, "e")]).await;
    assert_eq!(next_message(&mut stream).await, "100:6");
}

#[tokio::test]
async fn a_stream_without_news_gives_signs_of_life() {
    let node = restless_node().await;
    let request = topics(vec![filter(topic_bytes(1), None)]);
    let mut by_topic =
        node.replication().await.subscribe_topics(request).await.unwrap().into_inner();
    for expected in [STARTED, CAUGHT_UP, WAITING, WAITING] {
        assert_eq!(next_message(&mut by_topic).await, expected);
    }
    let all = pb::SubscribeAllEnvelopesRequest {};
    let mut all =
        node.notification().await.subscribe_all_envelopes(all).await.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(brought(&mut all).await, "");
    }
    let filter = pb::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![100],
        last_seen: Some(pb_env::Cursor::default()),
    };
    let request = pb::SubscribeOriginatorsRequest { filter: Some(filter) };
    let mut strands =
        node.replication().await.subscribe_originators(request).await.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(strands.message().await.unwrap().unwrap().response, None);
    }
}

#[tokio::test]
async fn filters_are_judged_after_the_stream_has_started() {
    let node = node().await;
    let cursor = pb_env::Cursor { node_id_to_sequence_id: (0..101).map(|id| (id, 1)).collect() };
    let refused = [
        (vec![], "at least one filter"),
        (vec![filter(topic_bytes(1), None); 10_001], "too many"),
        (vec![filter(topic_bytes(1), None); 20_000], "too many"),
        (vec![filter(Bytes::new(), None)], "topic has 0 bytes"),
        (vec![filter(Bytes::from(vec![0; 129]), None)], "topic has 129 bytes"),
        (vec![filter(topic_bytes(1), Some(cursor))], "cursor has 101 entries"),
    ];
    let mut client = node.query().await;
    for (filters, text) in refused {
        let mut stream = client.subscribe_topics(topics(filters)).await.unwrap().into_inner();
        assert_eq!(next_message(&mut stream).await, STARTED);
        let status = stream.message().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(text), "{}", status.message());
    }
    // Still more are refused before they are decoded.
    let more = vec![filter(topic_bytes(1), None); 20_001];
    let status = client.subscribe_topics(topics(more)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("too many"), "{}", status.message());
}

#[tokio::test]
async fn a_shared_cursor_begins_at_the_start_or_now() {
    let node = node().await;
    node.publish(vec![message(1, "a"), message(2, "b")]).await;
    let mut client = node.replication().await;
    let live = client.subscribe_envelopes(envelopes(topics_query([1, 2], None))).await;
    let mut live = live.unwrap().into_inner();
    let all = Some(pb_env::Cursor::default());
    let past = client.subscribe_envelopes(envelopes(topics_query([1, 2], all))).await;
    let mut past = past.unwrap().into_inner();
    assert_eq!(brought(&mut live).await, "", "a sign of life comes first");
    assert_eq!(brought(&mut past).await, "");
    assert_eq!(brought(&mut past).await, "100:1 100:2");
    node.publish(vec![message(2, "c")]).await;
    assert_eq!(brought(&mut live).await, "100:3");
    assert_eq!(brought(&mut past).await, "100:3");
}

#[tokio::test]
async fn strands_come_whole_and_without_waiting() {
    let node = node().await;
    node.commit_on_chain(1, 1);
    node.publish(vec![message(1, "a"), message(2, "b")]).await;
    let mut client = node.replication().await;
    let filter = pb::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![100, 100, 0],
        last_seen: Some(wire_cursor([(100, 1)])),
    };
    let request = pb::SubscribeOriginatorsRequest { filter: Some(filter) };
    let mut stream = client.subscribe_originators(request).await.unwrap().into_inner();
    let mut batch = async || {
        let response = stream.message().await.unwrap().unwrap().response;
        response.map(|list| ids(&originators_list(Some(list))))
    };
    assert_eq!(batch().await, None);
    assert_eq!(batch().await.as_deref(), Some("100:2 0:1"), "by time");
    node.publish(vec![message(7, "c")]).await;
    assert_eq!(batch().await.as_deref(), Some("100:3"));

    let query = pb::EnvelopesQuery {
        topics: Vec::new(),
        originator_node_ids: vec![0],
        last_seen: Some(pb_env::Cursor::default()),
    };
    let mut older = client.subscribe_envelopes(envelopes(query)).await.unwrap().into_inner();
    assert_eq!(brought(&mut older).await, "");
    assert_eq!(brought(&mut older).await, "0:1");
}

/// Only damage that passes the checksums of the database leaves such an envelope. The reader gets its bytes, and what
/// follows (`docs/decisions/0060-streams-send-stored-bytes.md`).
#[tokio::test]
async fn an_envelope_that_does_not_decode_reaches_the_reader_and_ends_no_stream() {
    let node = node().await;
    let damaged = Bytes::from_static(&[0xff; 40]);
    node.ordered_by_peer(1, 1, None);
    node.damaged_in_log(2, 1, damaged.clone());
    node.ordered_by_peer(3, 1, None);
    let filter = pb::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![PEER.0],
        last_seen: Some(pb_env::Cursor::default()),
    };
    let request = pb::SubscribeOriginatorsRequest { filter: Some(filter) };
    let mut client = node.replication().await;
    let mut stream = client.subscribe_originators(request).await.unwrap().into_inner();
    let mut read: Vec<Bytes> = Vec::new();
    let mut read_up_to = async |count: usize| {
        while read.len() < count {
            let response = stream.message().await.unwrap().unwrap().response;
            read.extend(originators_list(response));
        }
        read.clone()
    };
    let stored = read_up_to(3).await;
    assert_eq!(ids(&[stored[0].clone(), stored[2].clone()]), "200:1 200:3");
    assert_eq!(stored[1], damaged);
    // And of those that are new.
    node.damaged_in_log(4, 1, damaged.clone());
    node.ordered_by_peer(5, 1, None);
    let all = read_up_to(5).await;
    assert_eq!(all[3], damaged);
    assert_eq!(ids(&all[4..]), "200:5");
}

/// Each strand of a stream is registered, also one that does not exist.
#[tokio::test]
async fn each_strand_of_a_stream_is_charged_for_its_registration() {
    const STRANDS: u32 = 10_000;
    let (used, node) = ("xmtp_api_memory_bytes", node().await);
    let mut client = node.replication().await;
    let before = node.sample(used).await.unwrap();
    let query = pb::EnvelopesQuery {
        topics: Vec::new(),
        originator_node_ids: (100_000..100_000 + STRANDS).collect(),
        last_seen: None,
    };
    let mut stream = client.subscribe_envelopes(envelopes(query)).await.unwrap().into_inner();
    assert_eq!(brought(&mut stream).await, "");
    let held = node.sample(used).await.unwrap() - before;
    assert!(held > f64::from(100 * STRANDS), "{held}");
}

#[tokio::test]
async fn everything_is_live_only() {
    let node = node().await;
    node.publish(vec![message(1, "a")]).await;
    let all = pb::SubscribeAllEnvelopesRequest {};
    let mut all =
        node.notification().await.subscribe_all_envelopes(all).await.unwrap().into_inner();
    assert_eq!(brought(&mut all).await, "");
    node.commit_on_chain(1, 1);
    assert_eq!(brought(&mut all).await, "0:1");
    node.publish(vec![message(2, "b")]).await;
    assert_eq!(brought(&mut all).await, "100:2");
}

#[tokio::test]
async fn every_refused_subscription_has_its_text() {
    let node = node().await;
    let mut client = node.replication().await;
    let both = pb::EnvelopesQuery { originator_node_ids: vec![1], ..topics_query([1], None) };
    let refused = [
        (Some(both), "invalid subscription request: cannot filter by both"),
        (Some(pb::EnvelopesQuery::default()), "query must contain either topics or originators"),
        (None, "query must contain either topics or originators"),
    ];
    for (query, text) in refused {
        let request = pb::SubscribeEnvelopesRequest { query };
        let status = client.subscribe_envelopes(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("invalid subscription request:"));
        assert!(status.message().contains(text), "{}", status.message());
    }
    let filter = |originator_node_ids, last_seen| {
        Some(pb::subscribe_originators_request::OriginatorFilter { originator_node_ids, last_seen })
    };
    let cursor = Some(pb_env::Cursor::default());
    let large =
        Some(pb_env::Cursor { node_id_to_sequence_id: (0..101).map(|id| (id, 1)).collect() });
    let refused = [
        (None, "filter must not be nil"),
        (filter(vec![], None), "filter must contain at least one originator node id"),
        (filter(vec![1], None), "last_seen cursor is required"),
        (filter((0..10_001).collect(), cursor), "invalid subscription request: too many"),
        (filter(vec![1], large), "invalid subscription request: cursor has 101 entries"),
    ];
    for (filter, text) in refused {
        let request = pb::SubscribeOriginatorsRequest { filter };
        let status = client.subscribe_originators(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(text), "{}", status.message());
    }
}

#[tokio::test]
async fn a_client_that_leaves_leaves_nothing_behind() {
    let node = node().await;
    let mut client = node.replication().await;
    let request = topics(vec![filter(topic_bytes(1), None)]);
    let mut one = client.subscribe_topics(request.clone()).await.unwrap().into_inner();
    let mut other = client.subscribe_topics(request).await.unwrap().into_inner();
    assert_eq!(next_message(&mut one).await, STARTED);
    assert_eq!(next_message(&mut other).await, STARTED);
    node.until_sample("xmtp_subscribers", 2.0).await;
    drop(one); // cancels the call
    node.until_sample("xmtp_subscribers", 1.0).await;
    drop((other, client)); // closes the connection
    node.until_sample("xmtp_subscribers", 0.0).await;
    let ended = r#"grpc_server_handled_total{grpc_type="server",grpc_service="xmtp.xmtpv4.message_api.ReplicationApi",grpc_method="SubscribeTopics",grpc_code="canceled"}"#;
    node.until_sample(ended, 2.0).await;
    let open = r#"xmtp_api_open_connections_gauge{style="stream",method="/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeTopics"}"#;
    assert_eq!(node.sample(open).await, Some(0.0));
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let node = node().await;
    let client = node.replication().await;
    let mut streams = Vec::new();
    for group in 0..200u8 {
        let request = topics(vec![filter(topic_bytes(group), None)]);
        let mut stream = client.clone().subscribe_topics(request).await.unwrap().into_inner();
        assert_eq!(next_message(&mut stream).await, STARTED);
        assert_eq!(next_message(&mut stream).await, CAUGHT_UP);
        streams.push(stream);
    }
    node.publish((0..200u8).map(|group| message(group, "text")).collect()).await;
    for (sequence, stream) in (1..).zip(&mut streams) {
        assert_eq!(next_message(stream).await, format!("100:{sequence}"));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_misses_nothing_and_delays_no_other() {
    let node = node().await;
    let request = topics(vec![filter(topic_bytes(1), None)]);
    let mut slow =
        node.replication().await.subscribe_topics(request.clone()).await.unwrap().into_inner();
    let mut quick = node.replication().await.subscribe_topics(request).await.unwrap().into_inner();
    for stream in [&mut slow, &mut quick] {
        assert_eq!(next_message(stream).await, STARTED);
        assert_eq!(next_message(stream).await, CAUGHT_UP);
    }
    // Far more bytes than sockets, windows and queues hold.
    for sequence in 1..=40u64 {
        let text = vec![u8::try_from(sequence).unwrap(); 1024 * 1024];
        let payload = group_payload(frame(1, 1, &text));
        node.publish(vec![sign(client(&group_topic(1), None, payload))]).await;
        assert_eq!(next_message(&mut quick).await, format!("100:{sequence}"));
    }
    let mut seen = Vec::new();
    while seen.len() < 40 {
        seen.extend(next_message(&mut slow).await.split(' ').map(str::to_owned));
    }
    let all: Vec<String> = (1..=40).map(|sequence| format!("100:{sequence}")).collect();
    assert_eq!(seen, all);
}

/// After an interruption, a push server gets the envelopes that it missed, once each, and then the new ones.
#[tokio::test]
async fn a_stream_of_everything_begins_behind_its_resume_point() {
    let node = node().await;
    node.commit_on_chain(1, 1);
    for text in ["a", "b", "c"] {
        node.publish(vec![message(1, text)]).await;
    }
    let open = async |resume: &str| {
        let mut request = tonic::Request::new(pb::SubscribeAllEnvelopesRequest::default());
        request.metadata_mut().insert("hawser-resume", resume.parse().unwrap());
        node.notification().await.subscribe_all_envelopes(request).await
    };
    let mut resumed = open("100=1").await.unwrap().into_inner();
    let mut seen = Vec::new();
    let mut published = false;
    while seen.len() < 4 {
        let envelopes = resumed.message().await.unwrap().unwrap().envelopes;
        seen.extend(envelopes.iter().map(|envelope| id(envelope).to_string()));
        if seen.len() == 3 && !published {
            node.publish(vec![message(2, "d")]).await;
            published = true;
        }
    }
    seen[..3].sort();
    assert_eq!(seen, ["0:1", "100:2", "100:3", "100:4"]);
    for wrong in ["100", "100=1,100=2", "100=-1"] {
        let refused = open(wrong).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("hawser-resume"), "{refused}");
    }
}
