//! `grpc.health.v1`, and reflection behind its switch.

use std::sync::Arc;
use std::time::Duration;

use hawser_api::{ApiSettings, ApiStartError, NoPeers};
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::common::*;

const SERVING: i32 = 1;
const NOT_SERVING: i32 = 2;
const SERVICE_UNKNOWN: i32 = 3;
const PUBLISH: &str = "xmtp.xmtpv4.message_api.PublishApi";
const REPORTS: &str = "xmtp.xmtpv4.message_api.MisbehaviorApi";
const READING: [&str; 8] = [
    "",
    "grpc.health.v1.Health",
    "xmtp.xmtpv4.message_api.QueryApi",
    "xmtp.xmtpv4.message_api.ReplicationApi",
    "xmtp.xmtpv4.message_api.NotificationApi",
    "xmtp.xmtpv4.metadata_api.MetadataApi",
    REPORTS,
    "hawser.checkpoint_api.CheckpointApi",
];
const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn check(client: &mut HealthClient<Channel>, service: &str) -> i32 {
    client.check(about(service)).await.unwrap().into_inner().status
}

/// Waits until a service has this status: the node gives the same answer for 100 ms.
async fn until(client: &mut HealthClient<Channel>, service: &str, status: i32) {
    for _ in 0..4000 {
        if check(client, service).await == status {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{service} never has status {status}");
}

#[tokio::test]
async fn reading_and_publishing_are_told_apart() {
    let node = node().await;
    let mut client = HealthClient::new(node.channel().await);
    for service in READING.into_iter().chain([PUBLISH]) {
        assert_eq!(check(&mut client, service).await, SERVING, "{service}");
    }
    let mut other = record();
    other.canonical = false;
    node.set_registry([other]);
    until(&mut client, PUBLISH, NOT_SERVING).await;
    for service in READING {
        assert_eq!(check(&mut client, service).await, SERVING, "{service}");
    }
    node.set_registry([record()]);
    node.api.drain();
    for service in READING.into_iter().chain([PUBLISH]) {
        assert_eq!(check(&mut client, service).await, NOT_SERVING, "{service}");
    }
}

#[tokio::test]
async fn services_that_are_not_served_are_not_found() {
    let node = node().await;
    let mut client = HealthClient::new(node.channel().await);
    for service in ["xmtp.xmtpv4.payer_api.PayerApi", REFLECTION[0], REFLECTION[1], "nonsense"] {
        let refused = client.check(about(service)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        // Balancers that watch would take a refusal for a broken node, and call again and again.
        let mut watched = client.watch(about(service)).await.unwrap().into_inner();
        let first = watched.message().await.unwrap().unwrap();
        assert_eq!(first.status, SERVICE_UNKNOWN, "{service}");
    }
}

/// A balancer would otherwise send reports to a node that refuses them.
#[tokio::test]
async fn a_service_that_is_switched_off_is_named_nowhere() {
    let without = |settings: &mut ApiSettings| {
        (settings.misbehavior_api, settings.reflection) = (false, true);
    };
    let node = node_with(without, Arc::new(NoPeers)).await;
    let mut client = HealthClient::new(node.channel().await);
    for service in READING {
        let answer = client.check(about(service)).await.map_err(|refused| refused.code());
        let is_found = answer.map(|_| ());
        let expected = if service == REPORTS { Err(Code::NotFound) } else { Ok(()) };
        assert_eq!(is_found, expected, "{service}");
    }
    let names = reflected(&node).await;
    assert!(!names.contains(&REPORTS.to_owned()), "{names:?}");
    assert!(names.contains(&PUBLISH.to_owned()), "{names:?}");
}

/// The services that reflection lists.
async fn reflected(node: &Node) -> Vec<String> {
    let mut client = ServerReflectionClient::new(node.channel().await);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { host: String::new(), message_request };
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("services were asked for")
    };
    services.service.into_iter().map(|service| service.name).collect()
}

#[tokio::test]
async fn a_watch_sends_changes() {
    let node = node().await;
    let mut client = HealthClient::new(node.channel().await);
    let mut stream = client.watch(about(PUBLISH)).await.unwrap().into_inner();
    let mut next_status = async || stream.message().await.unwrap().unwrap().status;
    assert_eq!(next_status().await, SERVING);
    let mut other = record();
    other.canonical = false;
    node.set_registry([other]);
    assert_eq!(next_status().await, NOT_SERVING);
    node.set_registry([record()]);
    assert_eq!(next_status().await, SERVING);
    node.api.drain();
    assert_eq!(next_status().await, NOT_SERVING);
}

#[tokio::test]
async fn reflection_shows_the_schema_if_configured() {
    let node = node_with(|settings| settings.reflection = true, Arc::new(NoPeers)).await;
    let names = reflected(&node).await;
    let has = |service: &str| names.iter().any(|name| name == service);
    assert!(has("xmtp.xmtpv4.message_api.ReplicationApi"), "{names:?}");
    assert!(!has("xmtp.xmtpv4.payer_api.PayerApi"), "only what is served: {names:?}");
    for service in REFLECTION {
        assert!(has(service), "{service}: {names:?}");
    }
    let mut client = ServerReflectionClient::new(node.channel().await);
    let mut ask = async |message_request| {
        let request =
            ServerReflectionRequest { host: String::new(), message_request: Some(message_request) };
        let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
        answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
    };
    for symbol in ["xmtp.xmtpv4.message_api.QueryEnvelopesRequest", REFLECTION[0], REFLECTION[1]] {
        let answer = ask(MessageRequest::FileContainingSymbol(symbol.to_owned())).await;
        assert!(matches!(answer, MessageResponse::FileDescriptorResponse(_)), "{answer:?}");
    }

    let mut health = HealthClient::new(node.channel().await);
    for service in REFLECTION {
        assert_eq!(check(&mut health, service).await, SERVING, "{service}");
    }
    let older = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
    let (code, _) = call_raw(&node.channel().await, older, framed(&[])).await;
    assert_ne!(code, Code::Unimplemented);
}

/// The library repeats a request twice in its answer, and a client that reads none would have it kept uncharged.
#[tokio::test]
async fn a_long_request_of_reflection_gets_no_answer() {
    let node = node_with(|settings| settings.reflection = true, Arc::new(NoPeers)).await;
    let mut client = ServerReflectionClient::new(node.channel().await);
    for (len, is_answered) in [(1000, true), (100_000, false)] {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        let request = ServerReflectionRequest { host: "x".repeat(len), message_request };
        let answers = client.server_reflection_info(tokio_stream::iter([request])).await.unwrap();
        let answer = answers.into_inner().message().await;
        assert_eq!(matches!(answer, Ok(Some(_))), is_answered, "{len} bytes: {answer:?}");
    }
}

/// `/readyz` states that a node accepts calls, so its port is opened after the API's. If both ports are taken, a
/// start fails at the API's.
#[tokio::test]
async fn operators_are_answered_after_the_api_listens() {
    let taken = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (api, metrics) = (taken(), taken());
    let listen = api.local_addr().unwrap();
    let settings = ApiSettings {
        listen: Some(listen),
        metrics: Some(metrics.local_addr().unwrap()),
        ..ApiSettings::default()
    };
    let engine = node().await.engine;
    let started = hawser_api::start(settings, engine, Arc::new(NoPeers)).await;
    assert!(matches!(started, Err(ApiStartError::Listen { address, .. }) if address == listen));
}
