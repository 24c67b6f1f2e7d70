//! Connections of publishers have threads of their own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hawser_serve::{CallCharge, CallMetrics, MethodKind, RpcMethod, ServeSettings, Server};
use http::HeaderValue;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

const PATH: &str = "/test.Echo/Call";
/// A method that answers with a stream of [`PIECES`].
const STREAM: &str = "/test.Echo/Stream";
/// Messages of a stream, and the fields of each, of 19 bytes.
const PIECES: usize = 1024;
const FIELDS: usize = 54;
/// Bytes of a stream that its client takes before it reads them: a part of the stream.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Header of a request that stores an envelope.
const STORES: &str = "x-stores";
/// Header of a request that keeps its thread until the test lets it go.
const BLOCKS: &str = "x-blocks";
/// Header of an answer: the name of the thread that made it.
const THREAD: &str = "x-thread";
/// The names of the threads.
const ALL: &str = "all";
const PUBLISHERS: &str = "publishers";
/// So long may a call take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service that answers with the request's own bytes.
#[derive(Clone)]
struct EchoService {
    /// Told that a thread is kept.
    blocked: mpsc::Sender<()>,
    /// Lets one thread go.
    release: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl NamedService for EchoService {
    const NAME: &'static str = "test.Echo";
}

impl tower::Service<http::Request<Body>> for EchoService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            if parts.headers.contains_key(BLOCKS) {
                service.blocked.send(()).unwrap();
                service.release.lock().recv().unwrap();
            }
            if parts.headers.contains_key(STORES) {
                CallCharge::of(&parts.extensions).stored(1);
            }
            if parts.uri.path() == STREAM {
                let pieces = std::iter::repeat_n(Bytes::from(framed(FIELDS)), PIECES);
                let pieces = stream::iter(pieces.map(|piece| Ok::<_, Status>(Frame::data(piece))));
                return Ok(http::Response::new(Body::new(StreamBody::new(pieces))));
            }
            let echo = stream::iter([Ok::<_, Status>(Frame::data(body))]);
            let mut response = http::Response::new(Body::new(StreamBody::new(echo)));
            let name = HeaderValue::from_str(thread::current().name().unwrap()).unwrap();
            response.headers_mut().insert(THREAD, name);
            Ok(response)
        })
    }
}

/// A listener with one thread for publishers and one for all others, and its clients.
struct Listening {
    server: Server,
    blocked: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
    clients: Runtime,
    /// Kept, because they end with this.
    _runtimes: [Runtime; 2],
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().unwrap()
}

impl Listening {
    fn start() -> Self {
        let (all, publishers) = (runtime(ALL), runtime(PUBLISHERS));
        let ((blocked, is_blocked), (release, released)) = (mpsc::channel(), mpsc::channel());
        let service = EchoService { blocked, release: Arc::new(Mutex::new(released)) };
        let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        settings.publishers = Some(publishers.handle().clone());
        let stats = CallMetrics::new(&[
            RpcMethod::new(PATH, MethodKind::Unary),
            RpcMethod::new(STREAM, MethodKind::ServerStream),
        ]);
        let (routes, stop) = (Routes::new(service), CancellationToken::new());
        let server = all.block_on(Server::bind(settings, routes, stats, stop)).unwrap();
        let clients = runtime("clients");
        Self { server, blocked: is_blocked, release, clients, _runtimes: [all, publishers] }
    }

    fn connect(&self) -> Channel {
        let url = format!("http://{}", self.server.address());
        let endpoint = Endpoint::from_shared(url).unwrap().initial_stream_window_size(WINDOW_BYTES);
        self.clients.block_on(endpoint.connect()).unwrap()
    }

    /// Runs the part of a client, which must end.
    fn run<T>(&self, part: impl Future<Output = T>) -> T {
        let part = self.clients.block_on(async { tokio::time::timeout(PATIENCE, part).await });
        part.expect("the client is served")
    }

    /// Makes a call and checks its answer. Returns the name of the thread that made the answer.
    fn call(&self, channel: &Channel, header: Option<&'static str>) -> String {
        self.run(answered(channel.clone(), header))
    }
}

/// Returns a message with its head.
fn framed(fields: usize) -> Vec<u8> {
    let message = [[0x0a, 17].as_slice(), &[b'a'; 17]].concat().repeat(fields);
    let len = u32::try_from(message.len()).unwrap();
    [&[0][..], &len.to_be_bytes()[..], &message[..]].concat()
}

fn request(path: &str, framed: Vec<u8>) -> http::Request<Body> {
    http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(Bytes::from(framed))))
        .unwrap()
}

async fn answered(channel: Channel, header: Option<&'static str>) -> String {
    // Several frames, so that parts of it arrive before and after a move.
    let framed = framed(2000);
    let mut request = request(PATH, framed.clone());
    if let Some(header) = header {
        request.headers_mut().insert(header, HeaderValue::from_static("1"));
    }
    let response = tower::ServiceExt::oneshot(channel, request).await.unwrap();
    let name = response.headers()[THREAD].to_str().unwrap().to_owned();
    let echo = response.into_body().collect().await.unwrap().to_bytes();
    assert!(echo[..] == framed[..], "the answer is whole");
    name
}

/// Opens a stream.
async fn streamed(channel: Channel) -> Body {
    let opened = tower::ServiceExt::oneshot(channel, request(STREAM, framed(1))).await;
    opened.unwrap().into_body()
}

/// Reads this number of bytes or a little more, or to the end. Returns the number that were read.
async fn read(stream: &mut Body, len_bytes: usize) -> usize {
    let mut read_bytes = 0;
    while read_bytes < len_bytes
        && let Some(frame) = stream.frame().await
    {
        read_bytes += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    read_bytes
}

/// A stranger keeps the thread of all connections busy. A publisher's calls, and its socket, do not need it.
#[test]
fn a_publisher_is_answered_while_the_threads_of_all_others_are_kept() {
    let listening = Listening::start();
    let (publisher, stranger) = (listening.connect(), listening.connect());
    assert_eq!(listening.call(&publisher, Some(STORES)), ALL, "nothing was stored before");
    assert_eq!(listening.call(&publisher, Some(STORES)), PUBLISHERS);
    assert_eq!(listening.call(&stranger, None), ALL);

    let kept = listening.clients.spawn(answered(stranger, Some(BLOCKS)));
    listening.blocked.recv_timeout(PATIENCE).expect("the thread is kept");
    for _ in 0..20 {
        assert_eq!(listening.call(&publisher, Some(STORES)), PUBLISHERS);
    }
    assert!(!kept.is_finished());
    listening.release.send(()).unwrap();
    assert_eq!(listening.clients.block_on(kept).unwrap(), ALL);
}

/// One envelope does not give its caller these threads for good.
#[test]
fn a_connection_goes_back_when_publishes_no_longer_pay_for_its_turns() {
    let listening = Listening::start();
    let channel = listening.connect();
    for _ in 0..3 {
        listening.call(&channel, Some(STORES));
        assert_eq!(listening.call(&channel, None), PUBLISHERS);
        let back = (0..500).find(|_| listening.call(&channel, None) == ALL);
        assert!(back.is_some(), "500 calls were not paid for");
    }
    // Moved there and idle, the connection closes in order.
    listening.call(&channel, Some(STORES));
    let Listening { server, clients, _runtimes, .. } = listening;
    let closed = clients.block_on(async { tokio::time::timeout(PATIENCE, server.close()).await });
    closed.expect("all connections have closed");
}

/// Their client reads them slowly, so that they wait for it while the connection moves.
#[test]
fn streams_go_on_while_their_connection_moves() {
    let listening = Listening::start();
    let channel = listening.connect();
    let before = listening.run(streamed(channel.clone()));
    listening.call(&channel, Some(STORES));
    let after = listening.run(streamed(channel.clone()));
    let mut streams = [(before, 0), (after, 0)];
    let mut read_more = |len_bytes| {
        for (stream, read_bytes) in &mut streams {
            *read_bytes += listening.run(read(stream, len_bytes));
        }
    };
    for _ in 0..3 {
        let is_back = (0..500).any(|_| listening.call(&channel, None) == ALL);
        assert!(is_back, "500 calls were not paid for");
        read_more(100_000);
        listening.call(&channel, Some(STORES));
        read_more(100_000);
    }
    read_more(usize::MAX);
    let len_bytes = PIECES * framed(FIELDS).len();
    assert_eq!(streams.map(|(_, read_bytes)| read_bytes), [len_bytes; 2]);
}
