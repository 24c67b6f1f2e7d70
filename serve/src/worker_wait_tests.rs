//! Tests over sockets of requests that wait for one of the threads that work on long messages.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, Stream, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

use crate::budget::MemoryBudget;
use crate::call_metrics::CallMetrics;
use crate::listener::Server;
use crate::long_work::occupy_workers;
use crate::method::{MethodKind, RpcMethod};
use crate::request_messages::RequestMessages;
use crate::settings::ServeSettings;
use crate::test_service::TestService;

/// Time after which a test counts as hung and fails. Generous, for busy machines.
const HANGS_AFTER: Duration = Duration::from_secs(60);
const UNARY: &str = "/test.Service/Unary";
const BIDI: &str = "/test.Service/Bidi";
const DECODING: &str = "/test.Service/Decoding";
const OK: &str = "0";
const INVALID_ARGUMENT: &str = "3";
const DEADLINE_EXCEEDED: &str = "4";

/// A service that reads its requests to their end: those of the unary method as the stubs do, the others itself. The
/// third method decodes one message, which it takes before `taken` and decodes after `decode`.
#[derive(Clone, Default)]
struct WaitingService {
    taken: Arc<Notify>,
    decode: Arc<Notify>,
}

impl WaitingService {
    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        if request.uri().path() == UNARY {
            let read = request.into_body().collect().await;
            return read.err().unwrap_or_else(|| Status::ok("")).into_http();
        }
        let mut messages = RequestMessages::take(request.extensions());
        let is_decoding = request.uri().path() == DECODING;
        drop(request);
        if is_decoding {
            let message = messages.next().await.unwrap().unwrap();
            self.taken.notify_one();
            self.decode.notified().await;
            let mut decoding = messages.decode(message, |_| Ok(()));
            let decoded = messages.decoded(&mut decoding).await;
            return decoded.err().unwrap_or_else(|| Status::ok("")).into_http();
        }
        let ended = loop {
            match messages.next().await {
                Ok(Some(_)) => {}
                Ok(None) => break Status::ok(""),
                Err(status) => break status,
            }
        };
        ended.into_http()
    }
}

async fn serving(body_timeout: Duration) -> (Server, MemoryBudget, Channel) {
    serving_with(WaitingService::default(), body_timeout).await
}

async fn serving_with(
    service: WaitingService,
    body_timeout: Duration,
) -> (Server, MemoryBudget, Channel) {
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    settings.memory = MemoryBudget::new(256 << 20);
    settings.body_timeout = body_timeout;
    let memory = settings.memory.clone();
    let [bidi, decoding] = [BIDI, DECODING]
        .map(|path| RpcMethod::new(path, MethodKind::Bidi).decoding(&[]).taking_messages());
    let unary = RpcMethod::new(UNARY, MethodKind::Unary);
    let metrics = CallMetrics::new(&[unary, bidi, decoding]);
    let service = TestService::new(move |request| service.clone().answer(request));
    let (routes, stop) = (Routes::new(service), CancellationToken::new());
    let server = Server::bind(settings, routes, metrics, stop).await.unwrap();
    let url = format!("http://{}", server.address());
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    (server, memory, channel)
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let len = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &len, message].concat()
}

/// Returns a compressed message that takes more than one turn.
fn compressed() -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&[9; 20_000]).unwrap();
    framed(1, &encoder.finish().unwrap())
}

/// Sends a request in these pieces, and returns the status of the answer.
async fn call<S>(channel: Channel, path: &str, pieces: S) -> String
where
    S: Stream<Item = Vec<u8>> + Send + 'static,
{
    let body =
        StreamBody::new(pieces.map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece)))));
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .header("te", "trailers")
        .body(Body::new(body))
        .unwrap();
    let response = tower::ServiceExt::oneshot(channel, request).await.unwrap();
    response.headers()["grpc-status"].to_str().unwrap().to_owned()
}

/// The window of a call would hold a MiB behind its message, for which nothing is charged.
#[tokio::test]
async fn a_request_with_anything_behind_its_message_does_not_wait() {
    let _occupied = occupy_workers().await;
    let (_server, _, channel) = serving(Duration::from_secs(3600)).await;
    let pieces = stream::iter([compressed(), vec![0]]).chain(stream::pending());
    let status = timeout(HANGS_AFTER, call(channel, UNARY, pieces)).await;
    assert_eq!(status.expect("it is refused at once"), INVALID_ARGUMENT);
}

#[tokio::test]
async fn a_request_without_an_end_has_its_time_while_its_message_waits() {
    let _occupied = occupy_workers().await;
    let (_server, _, channel) = serving(Duration::from_millis(100)).await;
    let pieces = stream::iter([compressed()]).chain(stream::pending());
    let status = timeout(HANGS_AFTER, call(channel, UNARY, pieces)).await;
    assert_eq!(status.expect("it is refused after its time"), DEADLINE_EXCEEDED);
}

#[tokio::test]
async fn a_request_that_is_here_waits_for_its_turn_however_long_it_takes() {
    let occupied = occupy_workers().await;
    let body_timeout = Duration::from_secs(5);
    let (_server, _, channel) = serving(body_timeout).await;
    let mut answered = tokio::spawn(call(channel, UNARY, stream::iter([compressed()])));
    let early = timeout(body_timeout + Duration::from_secs(1), &mut answered).await;
    assert!(early.is_err(), "{early:?}");
    drop(occupied);
    assert_eq!(answered.await.unwrap(), OK);
}

/// Waits until the budget is charged `bytes`.
async fn until_charged(memory: &MemoryBudget, bytes: usize) {
    let charged = async {
        while memory.used_bytes() < bytes {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let charged = timeout(HANGS_AFTER, charged).await;
    assert!(charged.is_ok(), "{} of {bytes} bytes", memory.used_bytes());
}

/// A client fills the window of its stream behind a compressed message.
#[tokio::test]
async fn what_comes_while_a_message_waits_to_be_decompressed_is_charged() {
    let occupied = occupy_workers().await;
    let (_server, memory, channel) = serving(Duration::from_secs(30)).await;
    let (client, pieces) = mpsc::channel(4);
    let answered = tokio::spawn(call(channel, BIDI, ReceiverStream::new(pieces)));
    client.send(compressed()).await.unwrap();
    let before_bytes = memory.used_bytes();
    client.send(framed(0, &[9; 500_000])).await.unwrap();
    until_charged(&memory, before_bytes + 500_000).await;
    drop((client, occupied));
    assert_eq!(answered.await.unwrap(), OK);
}

/// A client fills the window of its stream behind a long message, which the handler decodes.
#[tokio::test]
async fn what_comes_while_a_message_waits_to_be_decoded_is_charged() {
    let service = WaitingService::default();
    let (_server, memory, channel) = serving_with(service.clone(), Duration::from_secs(30)).await;
    let (client, pieces) = mpsc::channel(4);
    let answered = tokio::spawn(call(channel, DECODING, ReceiverStream::new(pieces)));
    client.send(framed(0, &[9; 100_000])).await.unwrap();
    service.taken.notified().await;
    let occupied = occupy_workers().await;
    service.decode.notify_one();
    let before_bytes = memory.used_bytes();
    client.send(framed(0, &[9; 500_000])).await.unwrap();
    until_charged(&memory, before_bytes + 500_000).await;
    drop((client, occupied));
    assert_eq!(answered.await.unwrap(), OK);
}
