//! Requests that arrive together, and the memory that they take until they are decoded.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use hawser_serve::{CallMetrics, MemoryBudget, MethodKind, RpcMethod, ServeSettings, Server};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Endpoint;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const CALLS: usize = 400;

/// A message that takes 128 KiB to decode, by the costs of a small request.
fn message() -> Vec<u8> {
    let elements = [[0x0a, 17].as_slice(), &[b'a'; 17]].concat().repeat(100);
    let len = u32::try_from(elements.len()).unwrap();
    [&[0][..], &len.to_be_bytes()[..], &elements[..]].concat()
}

/// A request whose message is sent at once, and which ends with `end`.
fn request(end: &CancellationToken) -> http::Request<Body> {
    let first = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from(message())))]);
    let rest = stream::once(end.clone().cancelled_owned());
    let rest = rest.filter_map(|()| std::future::ready(None));
    http::Request::post(CHECK)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(StreamBody::new(first.chain(rest))))
        .unwrap()
}

/// Decoded, they would take more than their connection may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_take_little_until_they_end_and_then_all_are_answered() {
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    settings.memory = MemoryBudget::new(64 << 20);
    let memory = settings.memory.clone();
    let (_, health) = tonic_health::server::health_reporter();
    let stats = CallMetrics::new(&[RpcMethod::new(CHECK, MethodKind::Unary)]);
    let (routes, stop) = (Routes::new(health), CancellationToken::new());
    let server = Server::bind(settings, routes, stats, stop).await.unwrap();
    let url = format!("http://{}", server.address());
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();

    let end = CancellationToken::new();
    let mut calls = JoinSet::new();
    for _ in 0..CALLS {
        calls.spawn(tower::ServiceExt::oneshot(channel.clone(), request(&end)));
    }
    // Less than what a call takes with its message, more than what it takes with its head alone.
    let arrived_bytes = CALLS * (7168 + message().len());
    let arrived = async {
        while memory.used_bytes() < arrived_bytes {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), arrived).await.expect("all calls arrive");
    let each_bytes = memory.used_bytes() / CALLS;
    assert!(each_bytes < 16 * 1024, "{each_bytes} bytes for each call");

    end.cancel();
    while let Some(answered) = calls.join_next().await {
        let response = answered.unwrap().unwrap();
        // The service of that name is not known; RESOURCE_EXHAUSTED would be 8.
        assert_eq!(response.headers()["grpc-status"], "5");
    }
}
