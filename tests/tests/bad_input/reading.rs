//! Queries and subscriptions that ask for too much, or for nothing.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_tests::harness::client::{Client, QUERY_API, Subscription};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::seed;
use tonic::{Code, Status};

use super::{assert_goes_on, assert_refused};

fn cursor(entries: u32) -> Option<Cursor> {
    let entries = (0..entries).map(|originator| (originator * 100, 1));
    Some(Cursor { node_id_to_sequence_id: entries.collect() })
}

fn topics(count: usize, len: usize) -> Vec<Bytes> {
    vec![vec![0; len].into(); count]
}

/// Reasons to refuse a query, for every kind of query.
fn bad_queries() -> Vec<(&'static str, api::EnvelopesQuery, &'static str)> {
    let query = |topics, originator_node_ids, last_seen| api::EnvelopesQuery {
        topics,
        originator_node_ids,
        last_seen,
    };
    vec![
        ("topics and originators", query(topics(1, 5), vec![100], None), "both"),
        ("too many topics", query(topics(10_001, 5), vec![], None), "10001"),
        ("too many originators", query(vec![], vec![100; 10_001], None), "10001"),
        ("an empty topic", query(topics(1, 0), vec![], None), "topic has 0 bytes"),
        ("a long topic", query(topics(1, 129), vec![], None), "topic has 129 bytes"),
        ("a long cursor", query(topics(1, 5), vec![], cursor(101)), "101 entries"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_queries_and_subscriptions_are_refused_in_their_words() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let client = node.client();
    let invalid = Code::InvalidArgument;
    for (what, query, text) in bad_queries() {
        let status = assert_refused(what, client.query(query.clone(), 0).await, invalid, text);
        assert!(status.message().starts_with("invalid query:"), "{status}");
        let status =
            assert_refused(what, ended(subscribe(&client, query).await).await, invalid, text);
        assert!(status.message().starts_with("invalid subscription request:"), "{status}");
    }
    let nothing = ended(subscribe(&client, api::EnvelopesQuery::default()).await).await;
    let text = "query must contain either topics or originators";
    assert_refused("a subscription to nothing", nothing, invalid, text);
    let none = ended(client.subscribe_envelopes(None).await).await;
    assert_refused("a subscription without a query", none, invalid, text);
    let many = client.newest(topics(10_001, 5)).await;
    assert_refused("the newest of too many topics", many, invalid, "10001");
    strands_are_refused(&client).await;
    filters_are_refused(&client).await;
    assert_goes_on(node, &mut seed::rng(seed::seed(), 0)).await;
}

async fn subscribe(client: &Client, query: api::EnvelopesQuery) -> Result<Subscription, Status> {
    client.subscribe_envelopes(Some(query)).await
}

async fn strands_are_refused(client: &Client) {
    type Filter = api::subscribe_originators_request::OriginatorFilter;
    let filter = |originator_node_ids, last_seen| Some(Filter { originator_node_ids, last_seen });
    for (what, filter, text) in [
        ("no filter", None, "filter must not be nil"),
        ("no originator", filter(vec![], cursor(0)), "filter must contain at least one originator"),
        ("no cursor", filter(vec![100], None), "last_seen cursor is required"),
        ("too many strands", filter(vec![100; 10_001], cursor(0)), "10001"),
        ("a long cursor for strands", filter(vec![100], cursor(101)), "101 entries"),
    ] {
        let request = api::SubscribeOriginatorsRequest { filter };
        let answer = ended(client.subscribe_originators_with(request).await).await;
        assert_refused(what, answer, Code::InvalidArgument, text);
    }
}

/// Refused after the stream has said that it has started, as clients know it.
async fn filters_are_refused(client: &Client) {
    let filter = |len: usize, last_seen| api::subscribe_topics_request::TopicFilter {
        topic: vec![0; len].into(),
        last_seen,
    };
    for (what, filters, text) in [
        ("no filter at all", vec![], "filter"),
        ("too many filters", vec![filter(5, None); 10_001], "10001"),
        ("a filter without a topic", vec![filter(0, None)], "topic has 0 bytes"),
        ("a filter with a long topic", vec![filter(129, None)], "topic has 129 bytes"),
        ("a filter with a long cursor", vec![filter(5, cursor(101))], "101 entries"),
    ] {
        let request = api::SubscribeTopicsRequest { filters };
        let mut stream = client.subscribe_topics_with(request).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().status, Some(1), "{what}: started");
        assert_refused(what, stream.next().await, Code::InvalidArgument, text);
    }
}

/// The status that a stream ends with, at once or with its first message.
async fn ended(stream: Result<Subscription, Status>) -> Result<(), Status> {
    stream?.next().await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_for_nothing_is_answered_with_nothing() {
    let network = Network::start(1).await;
    let client = network.nodes[0].client();
    let nothing: Vec<Bytes> = Vec::new();
    assert_eq!(client.query(api::EnvelopesQuery::default(), 0).await.unwrap(), nothing);
    // Topics that no envelope can have select nothing.
    let query = api::EnvelopesQuery { topics: topics(2, 1), ..Default::default() };
    assert_eq!(client.query(query, 5).await.unwrap(), nothing);
    assert_eq!(client.newest(topics(3, 1)).await.unwrap(), vec![None; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_methods_and_services_are_refused() {
    let network = Network::start(1).await;
    let client = network.nodes[0].client();
    for path in [format!("{QUERY_API}/Nothing"), "/no.such.Api/QueryEnvelopes".into()] {
        let request = api::QueryEnvelopesRequest::default();
        let answer = client.unary::<_, api::QueryEnvelopesResponse>(&path, request).await;
        assert_refused(&path, answer, Code::Unimplemented, "");
    }
}
