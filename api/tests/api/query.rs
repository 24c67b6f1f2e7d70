//! Queries: limits, pages, newest envelopes of topics, and refused requests.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use tonic::Code;

use crate::common::*;

async fn page(node: &Node, query: pb::EnvelopesQuery, limit: u32) -> String {
    let request = pb::QueryEnvelopesRequest { query: Some(query), limit };
    let one = node.query().await.query_envelopes(request.clone()).await.unwrap().into_inner();
    let other = node.replication().await.query_envelopes(request).await.unwrap().into_inner();
    assert_eq!(one, other, "both names answer alike");
    ids(&one.envelopes)
}

fn originators(ids: impl IntoIterator<Item = u32>) -> pb::EnvelopesQuery {
    pb::EnvelopesQuery {
        topics: Vec::new(),
        originator_node_ids: ids.into_iter().collect(),
        last_seen: None,
    }
}

#[tokio::test]
async fn pages_follow_the_cursor() {
    let node = node().await;
    for (group, text) in [(1, "a"), (1, "b"), (2, "c"), (2, "d"), (1, "e")] {
        node.publish(vec![message(group, text)]).await;
    }
    assert_eq!(page(&node, topics_query([1], None), 0).await, "100:1 100:2 100:5");
    assert_eq!(page(&node, topics_query([1, 2], None), 3).await, "100:1 100:2 100:3");
    let seen = Some(wire_cursor([(100, 2)]));
    assert_eq!(page(&node, topics_query([1, 2], seen.clone()), 0).await, "100:3 100:4 100:5");
    assert_eq!(page(&node, originators([100, 200]), 2).await, "100:1 100:2");
    let query = pb::EnvelopesQuery { last_seen: seen, ..originators([100]) };
    assert_eq!(page(&node, query, 1000).await, "100:3 100:4 100:5");
    assert_eq!(page(&node, originators([u32::MAX]), 0).await, "");
    assert_eq!(page(&node, pb::EnvelopesQuery::default(), 0).await, "", "nothing asked");
}

#[tokio::test]
async fn a_cursor_beyond_what_peers_store_means_everything_seen() {
    let node = node().await;
    node.publish(vec![message(1, "text")]).await;
    let seen = Some(wire_cursor([(100, u64::MAX), (u32::MAX, 3)]));
    assert_eq!(page(&node, topics_query([1], seen), 0).await, "");
}

#[tokio::test]
async fn a_message_is_not_shown_before_the_commit_it_depends_on() {
    let node = node().await;
    node.commit_on_chain(1, 1);
    let depends_on = Some(wire_cursor([(0, 1)]));
    node.publish(vec![dependent_message(1, "text", depends_on)]).await;
    assert_eq!(page(&node, topics_query([1], None), 0).await, "0:1 100:1");
    assert_eq!(page(&node, topics_query([1], None), 1).await, "0:1");
}

#[tokio::test]
async fn every_limit_is_refused_with_its_text() {
    let node = node().await;
    let mut both = originators([100]);
    both.topics = vec![topic_bytes(1)];
    let topics = |topics: Vec<Bytes>| pb::EnvelopesQuery { topics, ..Default::default() };
    let entries = |count| {
        let entries = (0..count).map(|id| (id, 1)).collect();
        let last_seen = Some(hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor {
            node_id_to_sequence_id: entries,
        });
        pb::EnvelopesQuery { last_seen, ..originators([100]) }
    };
    let refused = [
        (both, "cannot filter by both"),
        (originators(0..10_001), "too many"),
        (topics(vec![topic_bytes(1); 10_001]), "too many"),
        (topics(vec![Bytes::new()]), "topic has 0 bytes"),
        (topics(vec![Bytes::from(vec![0; 129])]), "topic has 129 bytes"),
        (entries(101), "cursor has 101 entries"),
    ];
    let mut client = node.query().await;
    for (query, text) in refused {
        let request = pb::QueryEnvelopesRequest { query: Some(query), limit: 0 };
        let status = client.query_envelopes(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("invalid query:"), "{}", status.message());
        assert!(status.message().contains(text), "{}", status.message());
    }
    let allowed = [originators(0..10_000), topics(vec![Bytes::from(vec![9; 128])]), entries(100)];
    for query in allowed {
        let request = pb::QueryEnvelopesRequest { query: Some(query), limit: u32::MAX };
        client.query_envelopes(request).await.unwrap();
    }
}

#[tokio::test]
async fn more_newest_envelopes_than_a_query_has_topics_are_refused() {
    let node = node().await;
    let mut client = node.query().await;
    let request = |count| pb::GetNewestEnvelopeRequest { topics: vec![topic_bytes(1); count] };
    assert!(client.get_newest_envelope(request(10_000)).await.is_ok());
    let status = client.get_newest_envelope(request(10_001)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "invalid query: too many subscriptions: 10001, at most 10000 are allowed"
    );
    // Not even decoded.
    let status = client.get_newest_envelope(request(20_001)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let expected = "invalid query: too many subscriptions: 20001, at most 10000 are allowed";
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn the_newest_comes_for_each_topic_in_its_place() {
    let node = node().await;
    node.publish(vec![message(1, "old"), message(2, "only"), message(1, "new")]).await;
    let unknown_kind = Bytes::from_static(&[9, 9]);
    let longer_than_of_queries = Bytes::from(vec![0; 129]);
    let topics = vec![
        topic_bytes(3),
        topic_bytes(1),
        unknown_kind,
        Bytes::new(),
        longer_than_of_queries,
        topic_bytes(2),
        topic_bytes(1),
    ];
    let request = pb::GetNewestEnvelopeRequest { topics };
    let one = node.query().await.get_newest_envelope(request.clone()).await.unwrap().into_inner();
    let other = node.replication().await.get_newest_envelope(request).await.unwrap().into_inner();
    assert_eq!(one, other);
    let newest: Vec<String> = one
        .results
        .iter()
        .map(|result| {
            result.originator_envelope.as_ref().map_or("-".into(), |it| id(it).to_string())
        })
        .collect();
    assert_eq!(newest, ["-", "100:3", "-", "-", "-", "100:2", "100:3"]);

    let too_many = pb::GetNewestEnvelopeRequest { topics: vec![topic_bytes(1); 10_001] };
    let refused = node.query().await.get_newest_envelope(too_many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// A scrub finds such damage. Until then it reaches readers, and ends no call of this node.
#[tokio::test]
async fn a_stored_envelope_that_does_not_decode_reaches_readers_as_it_is() {
    use pb::subscribe_topics_request::TopicFilter;
    use pb::subscribe_topics_response::Response;
    let node = node().await;
    node.ordered_by_peer(1, 1, None);
    let broken = Bytes::from_static(&[0x0a, 0xff, 0xff]);
    node.damaged_in_log(2, 1, broken.clone());
    node.ordered_by_peer(3, 1, None);
    let check = |mut shown: Vec<Bytes>| {
        assert_eq!(shown.remove(1), broken, "as the log has it");
        assert_eq!(ids(&shown), "200:1 200:3");
    };
    for query in [topics_query([1], None), originators([200])] {
        let request = pb::QueryEnvelopesRequest { query: Some(query), limit: 0 };
        let page = node.query().await.query_envelopes(request).await.unwrap().into_inner();
        check(page.envelopes);
    }
    let filter = TopicFilter { topic: topic_bytes(1), last_seen: None };
    let request = pb::SubscribeTopicsRequest { filters: vec![filter] };
    let mut stream = node.query().await.subscribe_topics(request).await.unwrap().into_inner();
    let mut streamed = Vec::new();
    while streamed.len() < 3 {
        let message = stream.message().await.unwrap().unwrap();
        if let Some(Response::Envelopes(found)) = message.response {
            streamed.extend(found.envelopes);
        }
    }
    check(streamed);
}

#[tokio::test]
async fn an_answer_is_cut_below_the_message_limit() {
    let node = node().await;
    for index in 0..4u8 {
        let payload = group_payload(frame(1, 1, &vec![index; 8 * 1024 * 1024]));
        node.publish(vec![sign(client(&group_topic(1), None, payload))]).await;
    }
    let mut reader = node.replication().await;
    let request = pb::QueryEnvelopesRequest { query: Some(topics_query([1], None)), limit: 0 };
    let page = reader.query_envelopes(request).await.unwrap().into_inner();
    assert_eq!(ids(&page.envelopes), "100:1 100:2 100:3");
    let seen = Some(wire_cursor([(100, 3)]));
    let request = pb::QueryEnvelopesRequest { query: Some(topics_query([1], seen)), limit: 0 };
    let page = reader.query_envelopes(request).await.unwrap().into_inner();
    assert_eq!(ids(&page.envelopes), "100:4");

    let request = pb::GetNewestEnvelopeRequest { topics: vec![topic_bytes(1); 4] };
    let refused = reader.get_newest_envelope(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "every place must be filled");
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let node = node().await;
    let channel = node.channel().await;
    for path in [
        "/xmtp.xmtpv4.payer_api.PayerApi/GetNodes",
        "/xmtp.xmtpv4.gateway_api.GatewayApi/GetNodes",
        "/xmtp.xmtpv4.message_api.QueryApi/Nonsense",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/nonsense",
    ] {
        let (code, text) = call_raw(&channel, path, framed(&[])).await;
        assert_eq!((code, text.as_str()), (Code::Unimplemented, "no such method"), "{path}");
    }
}
