//! Connections of publishers have threads of their own.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use hawser_serve::{CallCharge, CallMetrics, MethodKind, RpcMethod, Server};
use http::HeaderValue;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Channel;

use crate::common;
use crate::test_service::TestService;
use crate::tls::{Files, connected, endpoint};

const PATH: &str = "/test.Service/Call";
/// A method that answers with a stream of [`PIECES`].
const STREAM: &str = "/test.Service/Stream";
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
/// Time after which a call counts as hung and the test fails.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A service that answers with the request's own bytes.
#[derive(Clone)]
struct EchoService {
    /// Notifies the test that a thread is kept busy.
    blocked: mpsc::Sender<()>,
    /// Lets one thread go.
    release: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl EchoService {
    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        if parts.headers.contains_key(BLOCKS) {
            self.blocked.send(()).unwrap();
            self.release.lock().recv().unwrap();
        }
        if parts.headers.contains_key(STORES) {
            CallCharge::of(&parts.extensions).stored(1, Duration::ZERO);
        }
        if parts.uri.path() == STREAM {
            let pieces = std::iter::repeat_n(Bytes::from(framed(FIELDS)), PIECES);
            let pieces = stream::iter(pieces.map(|piece| Ok::<_, Status>(Frame::data(piece))));
            return http::Response::new(Body::new(StreamBody::new(pieces)));
        }
        let echo = stream::iter([Ok::<_, Status>(Frame::data(body))]);
        let mut response = http::Response::new(Body::new(StreamBody::new(echo)));
        let name = HeaderValue::from_str(thread::current().name().unwrap()).unwrap();
        response.headers_mut().insert(THREAD, name);
        response
    }
}

/// A listener with one thread for publishers and one for all others, and its clients.
struct Listening {
    server: Server,
    blocked: mpsc::Receiver<()>,
    release: mpsc::Sender<()>,
    clients: Runtime,
    /// The files of its certificate; `None` without TLS.
    tls: Option<Files>,
    /// Kept, because they end with this.
    _runtimes: [Runtime; 2],
}

fn runtime(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().unwrap()
}

impl Listening {
    fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts it with TLS if there are files of a certificate.
    fn start_with(tls: Option<Files>) -> Self {
        let (all, publishers) = (runtime(ALL), runtime(PUBLISHERS));
        let ((blocked, is_blocked), (release, released)) = (mpsc::channel(), mpsc::channel());
        let service = EchoService { blocked, release: Arc::new(Mutex::new(released)) };
        let service = TestService::new(move |request| service.clone().answer(request));
        let stats = CallMetrics::new(&[
            RpcMethod::new(PATH, MethodKind::Unary),
            RpcMethod::new(STREAM, MethodKind::ServerStream),
        ]);
        let server = all.block_on(common::listen(Routes::new(service), stats, |settings| {
            settings.publishers = Some(publishers.handle().clone());
            settings.tls = tls.as_ref().map(Files::tls);
        }));
        let clients = runtime("clients");
        Self { server, blocked: is_blocked, release, clients, tls, _runtimes: [all, publishers] }
    }

    fn connect(&self) -> Channel {
        let endpoint = match &self.tls {
            None => common::endpoint(&self.server),
            Some(files) => endpoint(&self.server, &files.authority, None),
        };
        let endpoint = endpoint.initial_stream_window_size(WINDOW_BYTES);
        self.clients.block_on(endpoint.connect()).unwrap()
    }

    /// Connects an HTTP/1.1 client.
    fn connect_http1(&self) -> Http1 {
        let stream: Box<dyn Duplex> = self.run(async {
            match &self.tls {
                None => {
                    let stream = TcpStream::connect(self.server.address()).await.unwrap();
                    Box::new(stream) as Box<dyn Duplex>
                }
                Some(files) => {
                    let (authority, version) = (&files.authority, &rustls::version::TLS13);
                    let stream = connected(&self.server, authority, version, &[b"http/1.1"]).await;
                    Box::new(stream.unwrap()) as Box<dyn Duplex>
                }
            }
        });
        Http1 { stream: BufReader::new(stream) }
    }

    /// Runs the part of a client, which must end.
    fn run<T>(&self, part: impl Future<Output = T>) -> T {
        let part = self.clients.block_on(async { tokio::time::timeout(WAIT_MAX, part).await });
        part.expect("the client is served")
    }

    /// Makes a call and checks its answer. Returns the name of the thread that made the answer.
    fn call(&self, channel: &Channel, header: Option<&'static str>) -> String {
        self.run(answered(channel.clone(), header))
    }
}

/// A socket, with TLS or without.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A browser's connection, with one call after the other.
struct Http1 {
    stream: BufReader<Box<dyn Duplex>>,
}

impl Http1 {
    /// Makes a call and checks its answer. Returns the name of the thread that made the answer.
    async fn call(&mut self, header: Option<&'static str>) -> String {
        let (framed, header) = (framed(2000), header.map(|name| format!("{name}: 1\r\n")));
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web+proto\r\n\
             content-length: {}\r\n{}\r\n",
            framed.len(),
            header.unwrap_or_default()
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes()).await.unwrap();
        // Several pieces, so that parts of it arrive before and after a move.
        for piece in framed.chunks(10_000) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert_eq!(self.line().await, "HTTP/1.1 200 OK");
        let mut thread = None;
        loop {
            let line = self.line().await;
            match line.split_once(": ") {
                Some((THREAD, name)) => thread = Some(name.to_owned()),
                Some(_) => {}
                None => break,
            }
        }
        let body = self.chunks().await;
        // Trailers of gRPC-Web may follow.
        assert!(body.starts_with(&framed), "the answer is whole");
        thread.expect("the answer names its thread")
    }

    /// Reads a body in chunks (RFC 9112 §7.1).
    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let len_bytes = usize::from_str_radix(&self.line().await, 16).unwrap();
            let mut chunk = vec![0; len_bytes];
            self.stream.read_exact(&mut chunk).await.unwrap();
            assert_eq!(self.line().await, "");
            if chunk.is_empty() {
                return body;
            }
            body.extend(chunk);
        }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line.strip_suffix("\r\n").expect("the connection stays open").to_owned()
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
    listening.blocked.recv_timeout(WAIT_MAX).expect("the thread is kept");
    for _ in 0..20 {
        assert_eq!(listening.call(&publisher, Some(STORES)), PUBLISHERS);
    }
    assert!(!kept.is_finished());
    listening.release.send(()).unwrap();
    assert_eq!(listening.clients.block_on(kept).unwrap(), ALL);
}

/// Makes calls until a connection has moved to the threads of publishers and back, three times.
fn move_there_and_back(mut call: impl FnMut(Option<&'static str>) -> String) {
    for _ in 0..3 {
        call(Some(STORES));
        assert_eq!(call(None), PUBLISHERS);
        let back = (0..500).find(|_| call(None) == ALL);
        assert!(back.is_some(), "500 calls were not paid for");
    }
}

/// One envelope does not give its caller these threads for good.
#[test]
fn a_connection_goes_back_when_publishes_no_longer_pay_for_its_turns() {
    let listening = Listening::start();
    let channel = listening.connect();
    move_there_and_back(|header| listening.call(&channel, header));
    // Moved there and idle, the connection closes in order.
    listening.call(&channel, Some(STORES));
    let Listening { server, clients, _runtimes, .. } = listening;
    let closed = clients.block_on(async { tokio::time::timeout(WAIT_MAX, server.close()).await });
    closed.expect("all connections have closed");
}

/// Bytes that were decrypted before a move are read after it.
#[test]
fn a_connection_over_tls_moves_with_its_calls_and_streams() {
    let listening = Listening::start_with(Some(Files::new()));
    let channel = listening.connect();
    move_there_and_back(|header| listening.call(&channel, header));
    read_streams_while_their_connection_moves(&listening);
}

/// Its calls have no tasks of their own: they are parts of the connection's task.
#[test]
fn a_connection_of_http_1_1_moves_between_its_calls() {
    for tls in [None, Some(Files::new())] {
        let listening = Listening::start_with(tls);
        let mut client = listening.connect_http1();
        move_there_and_back(|header| listening.run(client.call(header)));
    }
}

#[test]
fn streams_go_on_while_their_connection_moves() {
    read_streams_while_their_connection_moves(&Listening::start());
}

/// Reads two streams slowly, so that they wait for their client while the connection moves.
fn read_streams_while_their_connection_moves(listening: &Listening) {
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
