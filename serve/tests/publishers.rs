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
        let stats = CallMetrics::new(&[RpcMethod::new(PATH, MethodKind::Unary)]);
        let (routes, stop) = (Routes::new(service), CancellationToken::new());
        let server = all.block_on(Server::bind(settings, routes, stats, stop)).unwrap();
        let clients = runtime("clients");
        Self { server, blocked: is_blocked, release, clients, _runtimes: [all, publishers] }
    }

    fn connect(&self) -> Channel {
        let url = format!("http://{}", self.server.address());
        self.clients.block_on(Endpoint::from_shared(url).unwrap().connect()).unwrap()
    }

    /// Makes a call and checks its answer. Returns the name of the thread that made the answer.
    fn call(&self, channel: &Channel, header: Option<&'static str>) -> String {
        let call = answered(channel.clone(), header);
        let call = self.clients.block_on(async { tokio::time::timeout(PATIENCE, call).await });
        call.expect("the call is answered")
    }
}

async fn answered(channel: Channel, header: Option<&'static str>) -> String {
    // Several frames, so that parts of it arrive before and after a move.
    let message = [[0x0a, 17].as_slice(), &[b'a'; 17]].concat().repeat(2000);
    let len = u32::try_from(message.len()).unwrap();
    let framed = [&[0][..], &len.to_be_bytes()[..], &message[..]].concat();
    let mut request = http::Request::post(PATH)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(Bytes::from(framed.clone()))))
        .unwrap();
    if let Some(header) = header {
        request.headers_mut().insert(header, HeaderValue::from_static("1"));
    }
    let response = tower::ServiceExt::oneshot(channel, request).await.unwrap();
    let name = response.headers()[THREAD].to_str().unwrap().to_owned();
    let echo = response.into_body().collect().await.unwrap().to_bytes();
    assert!(echo[..] == framed[..], "the answer is whole");
    name
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
