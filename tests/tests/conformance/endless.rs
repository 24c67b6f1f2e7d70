//! The suite against a node that never stops sending: every answer is a body without an end, every stream one of
//! messages.

use std::convert::Infallible;
use std::process::Command;

use bytes::{BufMut as _, Bytes, BytesMut};
use hawser_conformance::http::framed;
use hawser_conformance::wire::{Number32, SubscribeFrame, SubscribeV1};
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::envelopes::payer;
use hawser_tests::harness::files;
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use prost::Message as _;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::local;

/// Memory that the suite may allocate, in KiB. Six cases run at once; each may hold 64 MiB of envelopes, and a message
/// of 26 MiB twice while it is read (`conformance/src/listener.rs`, `connection.rs`). A second of what this node sends
/// is more.
const DATA_KIB_MAX: u64 = 1024 * 1024;
/// Bytes of one message of a stream.
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;

/// Cases of every way in which answers are read.
pub(crate) const CASES: &[&str] = &[
    "published-is-read-at-once",
    "usage-of-an-unknown-payer",
    "checkpoint-covers-the-published",
    "pages-of-nothing-are-404",
    "reports-ascend",
    "sync-cursor-is-streamed",
    "grpc-web-text-reads",
    "cors-marks-every-answer",
    "other-methods-are-refused",
    "connect-errors-are-json",
    "connect-stream-ends-with-its-status",
    "connect-stream-reads",
    "topics-stream-tells-its-states",
    "envelopes-stream-has-history",
    "all-stream-has-everything",
    "subscribe-wave-then-live",
    "subscribe-changes-during-publishes",
    "claimed-lengths-are-not-believed",
];

/// Field 1 with these bytes.
fn field(content: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::from(&[0x0a][..]);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.put_slice(content);
    bytes.into()
}

type Endless = BoxBody<Bytes, Infallible>;

fn endless(first: Option<Bytes>, piece: Bytes) -> Endless {
    let pieces = first.into_iter().chain(std::iter::repeat(piece));
    let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    StreamBody::new(tokio_stream::iter(frames)).boxed()
}

async fn answer(request: Request<Incoming>) -> Result<Response<Endless>, Infallible> {
    let content_type = request.headers().get("content-type").cloned();
    let is_grpc = content_type.as_ref().is_some_and(|it| it == "application/grpc");
    if !is_grpc {
        let mut response = Response::new(endless(None, vec![b'['; MESSAGE_BYTES].into()));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert("content-type", content_type.unwrap_or(json));
        return Ok(response);
    }
    // A list of one element in every layout of an answer: the levels stand for one another.
    let message = field(&field(&field(&vec![7; MESSAGE_BYTES])));
    let v1 = SubscribeV1 { started: Some(Number32 { value: 30_000 }), ..SubscribeV1::default() };
    let started = framed(&SubscribeFrame { v1: Some(v1) }.encode_to_vec());
    let first = request.uri().path().ends_with("/Subscribe").then(|| started.into());
    let mut response = Response::new(endless(first, framed(&message).into()));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", grpc);
    Ok(response)
}

async fn serve(listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // The suite hangs up, which is no fault here.
            let _ = server.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

/// Runs cases of the program against a target, and returns what it says of each. The suite's memory is limited from
/// outside: an allocation beyond that ends it with another code than that of cases which have failed.
pub(crate) async fn judged(target: &str, cases: &[&str], arguments: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("payer.key");
    files::write_key(&key, &payer(5));
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -d {DATA_KIB_MAX} && exec \"$@\"")).arg("sh");
    command.arg(hawser()).args([
        "conformance",
        "--json",
        "--answer-timeout",
        "2",
        "--target",
        target,
    ]);
    command.arg("--payer-key-file").arg(&key).args(["--node-id", "100"]).args(arguments);
    command.args(cases.iter().flat_map(|case| ["--only", case]));
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{errors}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = result["cases"].as_array().unwrap();
    assert_eq!(results.len(), cases.len());
    results.clone()
}

/// Cases that did not fail, or ended the suite's task.
pub(crate) fn wrong(cases: &[Value]) -> Vec<&Value> {
    let is_wrong = |case: &&Value| {
        let reason = case["reason"].as_str().unwrap_or_default();
        case["outcome"] != "failed" || reason.contains("a panic")
    };
    cases.iter().filter(is_wrong).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_streams_without_an_end_fail_their_cases_and_take_bounded_memory() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = local(listener.local_addr().unwrap().port());
    let serving = tokio::spawn(serve(listener));
    let cases = judged(&target, CASES, &[]).await;
    serving.abort();
    assert_eq!(wrong(&cases), Vec::<&Value>::new());
}
