//! `hawser bench` at a real node, and at nodes that refuse, are silent or answer nonsense.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::support::{self, Dev, VECTORS, free_base, hawser, stderr};

/// Runs the command, and returns its exit code, its output as JSON, and its errors.
fn bench(target: &str, more: &[&str]) -> (Option<i32>, Value, String) {
    bench_for("1s", target, more)
}

fn bench_for(duration: &str, target: &str, more: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = hawser();
    command.args(["bench", "--json", "--yes", "--duration", duration, "--target", target]);
    let output = command.args(more).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), report, stderr(&output))
}

fn names(report: &Value) -> Vec<&str> {
    let tests = report["tests"].as_array().unwrap_or_else(|| panic!("{report}")).iter();
    tests.map(|test| test["test"].as_str().unwrap()).collect()
}

#[test]
fn every_test_has_figures_at_a_real_node_and_publishes_only_what_it_may() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(1), &["--nodes", "1", "--chain-file", VECTORS]);
    let target = dev.text(0, "grpc");
    let held = || held(&target);

    let (code, report, errors) = bench(&target, &[]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(names(&report), ["QueryEnvelopes", "GetInboxIds", "GetNewestEnvelope"]);
    assert_eq!(held(), 0, "it only reads without a payer");
    let (code, ..) = bench(&target, &["--tests", "Welcome"]);
    assert_eq!(code, Some(2), "a test that publishes needs a payer");

    let (key, out) = (dev.payer_key(), place.path().join("result.json"));
    let payer = ["--payer-key-file", key.to_str().unwrap(), "--node-id", "100"];
    let few = ["--tests", "Welcome,GroupMessage-5KB", "--publishes-max", "30"];
    let mut unasked = hawser();
    let unasked = unasked.args(["bench", "--target", &target]).args(payer).output().unwrap();
    assert_eq!(unasked.status.code(), Some(3), "{}", stderr(&unasked));
    assert!(stderr(&unasked).contains("--yes") && held() == 0, "{}", stderr(&unasked));
    // Each test takes its part of what may be published, long before its time is over.
    let (code, report, errors) = bench_for("10m", &target, &[&payer[..], &few].concat());
    assert_eq!(code, Some(0), "{errors}");
    assert!(errors.contains("up to 30 envelopes"), "{errors}");
    let count = |test: usize| report["tests"][test]["count"].as_u64();
    assert_eq!((count(0), count(1), held()), (Some(15), Some(15), 30), "{report}");

    let file = ["--out", out.to_str().unwrap()];
    let (code, report, errors) = bench(&target, &[&payer[..], &file].concat());
    assert_eq!(code, Some(0), "{errors}: {report}");
    assert_eq!(names(&report).len(), 10, "{report}");
    for test in report["tests"].as_array().unwrap() {
        assert!(test["count"].as_u64().unwrap() > 0, "{test}");
        assert!(test["p99_ms"].as_f64() >= test["p50_ms"].as_f64(), "{test}");
    }
    let written: Value = serde_json::from_slice(&fs::read(&out).unwrap()).unwrap();
    assert_eq!(written, report);

    for mode in [&["--blast"][..], &["--mix", "1000000"]] {
        let before = held();
        let (code, report, errors) = bench(&target, &[&payer[..], mode].concat());
        assert_eq!(code, Some(0), "{errors}: {report}");
        let wanted =
            ["GetInboxIds", "QueryEnvelopes", "GetNewestEnvelope", "GroupMessage-256B", "all"];
        assert_eq!(names(&report), wanted);
        let count = |test: usize| report["tests"][test]["count"].as_u64().unwrap();
        assert_eq!(held() - before, count(3), "{report}");
        assert_eq!((0..4).map(count).sum::<u64>(), count(4), "{report}");
        assert!(count(0) > count(1) && count(1) > count(3) && count(3) > 0, "{report}");
    }
    let (code, report, errors) = bench(&target, &["--blast"]);
    assert_eq!(
        (code, names(&report).len()),
        (Some(0), 4),
        "{errors}: it only reads without a payer"
    );
    assert!(dev.stop().success());
}

/// The number of envelopes in the strand of the first node.
fn held(target: &str) -> u64 {
    let output = hawser().args(["query", "cursors", "--node", target]).output().unwrap();
    let text = support::stdout(&output);
    let own = text.lines().find_map(|line| line.strip_prefix("100:"));
    own.map_or(0, |own| own.parse::<u64>().unwrap())
}

#[test]
fn daily_users_have_topics_of_their_own_and_single_calls_and_connections_are_measured() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(1), &["--nodes", "1", "--chain-file", VECTORS]);
    let (target, key) = (dev.text(0, "grpc"), dev.payer_key());
    let payer = ["--payer-key-file", key.to_str().unwrap(), "--node-id", "100"];
    let before = held(&target);
    let daily = ["--dau", "60000", "--publishes-max", "100"];
    let (code, report, errors) = bench(&target, &[&payer[..], &daily].concat());
    assert_eq!(code, Some(0), "{errors}: {report}");
    let reads = ["GetInboxIds", "QueryEnvelopes", "GetNewestEnvelope"];
    let writes = ["GroupMessage", "Welcome"];
    let streams = ["SubscribeAllEnvelopes", "all"];
    let wanted = [&["Seeding"][..], &reads, &writes, &streams].concat();
    assert_eq!(names(&report), wanted);
    let count = |test: usize| report["tests"][test]["count"].as_u64().unwrap();
    assert_eq!(count(0), 10, "half of what may be published fills topics, five messages each");
    assert_eq!(held(&target) - before, 5 * count(0) + count(4) + count(5), "{report}");
    assert!((1..6).all(|test| count(test) > 0), "{report}");
    assert_eq!(count(6), 200, "streams in the background: {report}");

    let before = held(&target);
    let (code, report, errors) = bench(&target, &["--diag"]);
    assert_eq!(code, Some(0), "{errors}: {report}");
    let alone = ["GetVersion", "QueryEnvelopes", "GetInboxIds", "GetNewestEnvelope"];
    assert_eq!(names(&report), alone);
    let (code, report, errors) = bench(&target, &[&payer[..], &["--diag"]].concat());
    assert_eq!(code, Some(0), "{errors}: {report}");
    let count = |test: usize| report["tests"][test]["count"].as_u64().unwrap();
    assert!((0..6).all(|test| (1..=50).contains(&count(test))), "{report}");
    assert_eq!(held(&target) - before, count(4) + count(5), "{report}");
    let (code, report, errors) = bench(&target, &["--diag-connect"]);
    assert_eq!(code, Some(0), "{errors}: {report}");
    assert_eq!(names(&report), ["name", "tcp", "first-call", "next-call"]);
    let count = |test: usize| report["tests"][test]["count"].as_u64().unwrap();
    assert!((0..4).all(|test| (1..=20).contains(&count(test))), "{report}");
    let (code, ..) = bench(&target, &["--diag", "--dau", "5"]);
    assert_eq!(code, Some(2), "one mode at a time");
    assert!(dev.stop().success());
}

#[test]
fn a_gateway_publishes_and_pays() {
    let place = tempfile::tempdir().unwrap();
    let dev = Dev::start(place.path(), free_base(1), &["--nodes", "1"]);
    let gateway = dev.network["gateway"]["grpc"].as_str().unwrap();
    let few = ["--gateway", gateway, "--tests", "GroupMessage-256B,SubscribeTopics"];
    let (code, report, errors) = bench(&dev.text(0, "grpc"), &few);
    assert_eq!(code, Some(0), "{errors}: {report}");
    assert!(errors.contains("through the gateway"), "{errors}");
    assert_eq!(names(&report), ["GroupMessage-256B", "SubscribeTopics"]);
    let daily = ["--gateway", gateway, "--dau", "60000", "--publishes-max", "200"];
    let (code, report, errors) = bench(&dev.text(0, "grpc"), &daily);
    assert_eq!(code, Some(0), "{errors}: {report}");
    let commits = report["tests"].as_array().unwrap().iter().find(|it| it["test"] == "Commit");
    assert!(commits.unwrap()["count"].as_u64() > Some(0), "{report}");
    let (code, _, errors) = bench(&dev.text(0, "grpc"), &["--gateway", "127.0.0.1:1"]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(dev.stop().success());
}

/// The node that answers every call alike, except that subscriptions by topics may stay.
#[derive(Clone)]
struct Alike {
    calls: Arc<AtomicUsize>,
    /// The status of every answer; without one every answer is an empty message.
    status: Option<Status>,
    /// Tells subscriptions by topics that they have caught up, and nothing more.
    has_streams: bool,
}

impl Service<http::Request<Body>> for Alike {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if self.has_streams && request.uri().path().ends_with("/SubscribeTopics") {
            // A message of four bytes: field 2, the status, is 2.
            let body = hawser_proto::Bytes::from_static(&[0, 0, 0, 0, 4, 0x12, 2, 8, 2]);
            let body = http_body_util::Full::new(body).with_trailers(std::future::pending());
            let mut response = http::Response::new(Body::new(body));
            let grpc = "application/grpc".parse().unwrap();
            response.headers_mut().insert("content-type", grpc);
            return Box::pin(async move { Ok(response) });
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let status = self.status.clone();
        Box::pin(async move {
            if let Some(status) = status {
                return Ok(status.into_http());
            }
            let body = http_body_util::Full::new(hawser_proto::Bytes::from_static(&[0; 5]));
            let mut response = http::Response::new(Body::new(body));
            let headers = response.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            headers.insert("grpc-status", "0".parse().unwrap());
            Ok(response)
        })
    }
}

fn start(runtime: &Runtime, status: Option<Status>) -> (SocketAddr, Arc<AtomicUsize>) {
    start_with(runtime, Alike { calls: Arc::default(), status, has_streams: false })
}

fn start_with(runtime: &Runtime, alike: Alike) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    let calls = alike.calls.clone();
    let server = Server::builder().serve_with_incoming(alike, TcpIncoming::from(listener));
    runtime.spawn(server);
    (address, calls)
}

#[test]
fn refusals_for_too_many_calls_are_counted_and_slow_the_caller_down() {
    let runtime = Runtime::new().unwrap();
    let (address, calls) = start(&runtime, Some(Status::resource_exhausted("too many")));
    let few = ["--concurrency", "2", "--tests", "GetInboxIds"];
    let (code, report, errors) = bench(&address.to_string(), &few);
    assert_eq!(code, Some(1), "{errors}");
    let test = &report["tests"][0];
    assert_eq!((&test["count"], &test["error_percent"]), (&0.into(), &100.0.into()), "{report}");
    let made = calls.load(Ordering::Relaxed);
    assert_eq!(test["rate_limited"], made, "{report}");
    // Each worker pauses for a second after a refusal, and begins none after the only second.
    assert!((2..=4).contains(&made), "{made}");
}

#[test]
fn publishes_that_are_refused_for_longer_than_the_run_are_errors_of_the_stream_test() {
    let runtime = Runtime::new().unwrap();
    let mut refusal = Status::resource_exhausted("too many");
    refusal.metadata_mut().insert("retry-after", "10".parse().unwrap());
    let alike = Alike { calls: Arc::default(), status: Some(refusal), has_streams: true };
    let (address, calls) = start_with(&runtime, alike);
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("payer.key");
    let key = key.to_str().unwrap();
    assert!(support::run(&["keys", "generate", "--out", key]).status.success());
    let payer = ["--payer-key-file", key, "--node-id", "100", "--concurrency", "2"];
    let stream = [&payer[..], &["--tests", "SubscribeTopics"]].concat();
    let (code, report, errors) = bench(&address.to_string(), &stream);
    assert_eq!(code, Some(1), "{errors}: {report}");
    let test = &report["tests"][0];
    assert_eq!((&test["count"], &test["error_percent"]), (&0.into(), &100.0.into()), "{report}");
    assert_eq!(test["rate_limited"], calls.load(Ordering::Relaxed), "{report}");
    assert!(test["rate_limited"].as_u64() > Some(0), "{report}");
}

#[test]
fn an_answer_without_the_published_envelope_is_no_success() {
    let runtime = Runtime::new().unwrap();
    let (address, _) = start(&runtime, None);
    let place = tempfile::tempdir().unwrap();
    let key = place.path().join("payer.key");
    let key = key.to_str().unwrap();
    assert!(support::run(&["keys", "generate", "--out", key]).status.success());
    let payer = ["--payer-key-file", key, "--node-id", "100", "--tests", "GroupMessage-256B"];
    let (code, report, errors) = bench(&address.to_string(), &payer);
    assert_eq!(code, Some(1), "{errors}");
    assert_eq!(report["tests"][0]["count"], 0, "{report}");
    assert!(report["tests"][0]["errors"]["DATA_LOSS"].as_u64() > Some(0), "{report}");
    let streams = [&payer[..4], &["--tests", "SubscribeTopics,SubscribeTopics-Catchup"]].concat();
    let (code, report, errors) = bench(&address.to_string(), &streams);
    assert_eq!(code, Some(1), "{errors}: {report}");
    assert_eq!(report["tests"].as_array().unwrap().len(), 2, "{report}");
}

#[test]
fn a_node_that_is_silent_or_absent_ends_nothing_but_its_calls() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    let (code, report, errors) = bench(&address.to_string(), &["--tests", "GetNewestEnvelope"]);
    assert_eq!(code, Some(1), "{errors}: {report}");
    let (code, report, _) = bench("127.0.0.1:1", &[]);
    assert_eq!((code, report), (Some(1), Value::Null));
    let (code, ..) = bench("nowhere", &[]);
    assert_eq!(code, Some(2));
}
