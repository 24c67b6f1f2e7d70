//! Requests that arrive together, the memory that they take until they are decoded, and the threads that decode them.

use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use hawser_serve::{CallCharge, CallMetrics, MemoryBudget, MethodKind, RpcMethod, Server};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Channel;

use super::common::{channel, listen};
use super::test_service::TestService;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const CALLS: usize = 400;

/// A message that takes 128 KiB to decode, by the costs of a small request.
fn message() -> Vec<u8> {
    message_of(100)
}

/// A message of so many elements.
fn message_of(elements: usize) -> Vec<u8> {
    let elements = [[0x0a, 17].as_slice(), &[b'a'; 17]].concat().repeat(elements);
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
    let memory = MemoryBudget::new(64 << 20);
    let (_, health) = tonic_health::server::health_reporter();
    let stats = CallMetrics::new(&[RpcMethod::new(CHECK, MethodKind::Unary)]);
    let (_server, channel) = connected(Routes::new(health), stats, &memory).await;

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

const CALL: &str = "/test.Service/Call";
/// Header of a request whose answer is long.
const LONG: &str = "x-long";

/// The threads that have worked on something, in order.
type Threads = Arc<Mutex<Vec<ThreadId>>>;

/// Notes the thread of a request. As the stubs do, works on the request when it has been read.
async fn note_request(threads: Threads, request: http::Request<Body>) -> http::Response<Body> {
    let read = request.into_body().collect().await;
    threads.lock().push(thread::current().id());
    read.err().unwrap_or_else(|| Status::ok("")).into_http()
}

/// Makes an answer that notes the thread that encodes it. A long one is charged as such.
async fn note_answer(threads: Threads, request: http::Request<Body>) -> http::Response<Body> {
    if request.headers().contains_key(LONG) {
        CallCharge::of(request.extensions()).take(8 << 20).unwrap();
    }
    let encoded = stream::once(async move {
        threads.lock().push(thread::current().id());
        Ok::<_, Status>(Frame::data(Bytes::from_static(&[0; 5])))
    });
    http::Response::new(Body::new(StreamBody::new(encoded)))
}

/// A server of one service with one unary method, and a channel to it.
async fn connected(routes: Routes, stats: CallMetrics, memory: &MemoryBudget) -> (Server, Channel) {
    let server = listen(routes, stats, |settings| settings.memory = memory.clone()).await;
    let channel = channel(&server).await;
    (server, channel)
}

/// More than the requests and answers of a test take.
fn much() -> MemoryBudget {
    MemoryBudget::new(256 << 20)
}

/// Returns a request with a message of so many elements.
fn whole_request(elements: usize) -> http::Request<Body> {
    http::Request::post(CALL)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(Bytes::from(message_of(elements)))))
        .unwrap()
}

/// Returns for each of these threads whether it is the one of the test, which has all tasks of its runtime.
fn are_own(threads: &Threads) -> Vec<bool> {
    let own = thread::current().id();
    threads.lock().iter().map(|thread| *thread == own).collect()
}

/// Decoding a request of megabytes takes a thread for a while, and so do thousands of short elements: a stream of ten
/// thousand topics registers each of them.
#[tokio::test]
async fn only_short_requests_are_decoded_by_the_threads_of_the_runtime() {
    let threads = Threads::default();
    let noted = threads.clone();
    let service = TestService::new(move |request| note_request(noted.clone(), request));
    let stats = CallMetrics::new(&[RpcMethod::new(CALL, MethodKind::Unary)]);
    let (_server, channel) = connected(Routes::new(service), stats, &much()).await;
    for elements in [100, 3_000, 10_000] {
        let is_short = message_of(elements).len() < 64 * 1024;
        assert_eq!(is_short, elements < 10_000, "{elements} elements");
        let request = whole_request(elements);
        let response = tower::ServiceExt::oneshot(channel.clone(), request).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "0", "{elements} elements");
    }
    assert_eq!(are_own(&threads), [true, false, false]);
}

/// Encoding an answer of megabytes would block the runtime, too.
#[tokio::test]
async fn only_short_answers_are_encoded_by_the_threads_of_the_runtime() {
    let threads = Threads::default();
    let noted = threads.clone();
    let service = TestService::new(move |request| note_answer(noted.clone(), request));
    let stats = CallMetrics::new(&[RpcMethod::new(CALL, MethodKind::Unary)]);
    let (_server, channel) = connected(Routes::new(service), stats, &much()).await;
    for is_long in [false, true] {
        let mut request = whole_request(1);
        if is_long {
            request.headers_mut().insert(LONG, http::HeaderValue::from_static("1"));
        }
        let response = tower::ServiceExt::oneshot(channel.clone(), request).await.unwrap();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer[..], [0; 5]);
    }
    assert_eq!(are_own(&threads), [true, false]);
}
