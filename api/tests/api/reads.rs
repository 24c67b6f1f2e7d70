//! Queries that never end do not delay other work.

use std::sync::Arc;

use hawser_api::NoPeers;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::common::*;

/// Returns a node without threads for queries: it behaves as if all of them were stuck.
async fn stuck() -> Node {
    node_with(|settings| settings.read_threads = 0, Arc::new(NoPeers)).await
}

fn by_topic() -> pb::QueryEnvelopesRequest {
    let topics = vec![group_topic(1).as_bytes().clone()];
    let query = pb::EnvelopesQuery { topics, ..pb::EnvelopesQuery::default() };
    pb::QueryEnvelopesRequest { query: Some(query), limit: 0 }
}

#[tokio::test]
async fn nothing_else_waits_for_queries() {
    let node = stuck().await;
    let mut queries = Vec::new();
    let channels = [node.channel().await, node.channel().await, node.channel().await];
    for number in 0..500 {
        let mut client = QueryApiClient::new(channels[number % 3].clone());
        queries.push(tokio::spawn(async move { client.query_envelopes(by_topic()).await }));
    }
    let mut stream = node.notification().await;
    let request = pb::SubscribeAllEnvelopesRequest {};
    let mut stream = stream.subscribe_all_envelopes(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().unwrap().envelopes.is_empty());

    let request = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, "text")] };
    let answer = node.publishing().await.publish_payer_envelopes(request).await.unwrap();
    assert_eq!(ids(&answer.into_inner().originator_envelopes), "100:1");
    assert_eq!(ids(&stream.message().await.unwrap().unwrap().envelopes), "100:1");
    let health = HealthCheckRequest { service: "xmtp.xmtpv4.message_api.PublishApi".into() };
    let answer = HealthClient::new(node.channel().await).check(health).await.unwrap();
    assert_eq!(answer.into_inner().status, 1, "SERVING");
    assert!(queries.iter().all(|query| !query.is_finished()));
    queries.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn queries_beyond_the_queue_are_refused_with_a_time_to_retry() {
    let node = stuck().await;
    let channels = [node.channel().await, node.channel().await];
    let mut queries = tokio::task::JoinSet::new();
    for number in 0..1100 {
        let mut client = QueryApiClient::new(channels[number % 2].clone());
        queries.spawn(async move { client.query_envelopes(by_topic()).await });
    }
    let answer = queries.join_next().await.unwrap().unwrap();
    let refused = answer.expect_err("no query can be answered");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.metadata().get("retry-after").is_some());
}
