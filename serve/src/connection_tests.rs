//! Tests over sockets: rests of addresses, for connections and for calls that come through a trusted proxy, and
//! requests that are refused before their service gets them.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::address::{Cidr, ClientAddress};
use crate::budget::MemoryBudget;
use crate::call_metrics::CallMetrics;
use crate::call_share::CallCharge;
use crate::frame_head::{HEADERS, SETTINGS};
use crate::listener::Server;
use crate::method::{MethodKind, RpcMethod};
use crate::public_pages::{PageFuture, PublicPages};
use crate::test_service::TestService;

const UNARY: &str = "/test.Service/Unary";
const STREAM: &str = "/test.Service/Stream";

/// Refuses a call because of a limit, and counts it.
fn refuse(calls: &AtomicUsize, request: &Request<Answer>) -> Response<Answer> {
    calls.fetch_add(1, Ordering::Relaxed);
    let refused = Status::resource_exhausted("later");
    CallCharge::of(request.extensions()).refuse_further(UNARY, &refused);
    refused.into_http()
}

/// Returns a request with these bytes as its body.
fn unary(body: &'static [u8]) -> Request<Answer> {
    Request::post(UNARY)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Answer::new(http_body_util::Full::new(Bytes::from_static(body))))
        .unwrap()
}

/// Calls, and returns the code in the head of the answer.
async fn code_of(channel: &Channel, body: &'static [u8]) -> Option<HeaderValue> {
    let answered = tower::ServiceExt::oneshot(channel.clone(), unary(body)).await.unwrap();
    answered.headers().get("grpc-status").cloned()
}

fn settings() -> ServeSettings {
    ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// Starts a server that refuses all calls. Returns it with the number of those that it has got.
async fn limited_server(settings: ServeSettings) -> (Server, Arc<AtomicUsize>) {
    let metrics = CallMetrics::new(&[RpcMethod::new(UNARY, MethodKind::Unary)]);
    let (calls, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let counted = calls.clone();
    let service = TestService::new(move |request| std::future::ready(refuse(&counted, &request)));
    let server = Server::bind(settings, Routes::new(service), metrics, stop).await.unwrap();
    (server, calls)
}

async fn channel_to(server: &Server) -> Channel {
    let url = format!("http://{}", server.address());
    Endpoint::from_shared(url).unwrap().connect().await.unwrap()
}

/// A caller goes on calling after its limit has refused it. A refusal holds for a second, and thirty calls take much
/// less, on a busy machine too: most of them come while it holds.
#[tokio::test]
async fn calls_after_a_refusal_reach_the_service_only_once_in_a_while() {
    let (server, calls) = limited_server(settings()).await;
    let called = || calls.load(Ordering::Relaxed);
    let greedy = channel_to(&server).await;
    for _ in 0..30 {
        assert_eq!(code_of(&greedy, &[0; 5]).await.unwrap(), "8");
    }
    let of_greedy = called();
    assert!((1..30).contains(&of_greedy), "{of_greedy}");
    let other = channel_to(&server).await;
    assert_eq!(code_of(&other, &[0; 5]).await.unwrap(), "8");
    assert_eq!(called(), of_greedy + 1, "another connection of the address is asked about anew");
}

/// The service would only repeat the refusal. A connection may end with a thousand such requests.
#[tokio::test]
async fn a_request_that_is_refused_before_it_is_whole_reaches_no_service() {
    let (server, calls) = limited_server(settings()).await;
    let channel = channel_to(&server).await;
    assert_eq!(code_of(&channel, &[0, 0, 0, 0, 9, 7]).await.unwrap(), "3", "a part of a message");
    assert_eq!(code_of(&channel, &[]).await.unwrap(), "3", "no message");
    assert_eq!(code_of(&channel, &[0; 10]).await.unwrap(), "3", "two messages");
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(code_of(&channel, &[0; 5]).await.unwrap(), "8");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

/// A caller opens connections in a loop. Those that are refused have no turns, and the listener's time is the same.
#[tokio::test]
async fn an_address_rests_for_connections_that_are_refused() {
    let mut settings = settings();
    settings.connections_per_address_max = 0;
    let account = settings.memory.account(None);
    account.rest_with(ClientAddress::V4(Ipv4Addr::LOCALHOST));
    account.begin_rests();
    let (server, _) = limited_server(settings).await;
    let has_rested = || account.next_turn().unwrap().after(0).is_some();
    assert!(!has_rested(), "it has no connection");
    let mut refused = TcpStream::connect(server.address()).await.unwrap();
    refused.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(has_rested());
}

/// A caller floods a connection with pings, and connects again for the burst of a new one.
#[tokio::test]
async fn an_address_rests_for_a_connection_that_is_closed_because_of_a_flood() {
    let settings = settings();
    let account = settings.memory.account(None);
    account.rest_with(ClientAddress::V4(Ipv4Addr::LOCALHOST));
    account.begin_rests();
    let (server, _) = limited_server(settings).await;
    let mut flood = TcpStream::connect(server.address()).await.unwrap();
    let ping = [0_u8, 0, 8, 6, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7];
    let sent = [HTTP2_PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &ping.repeat(1000)].concat();
    // The end of the connection may come as an error.
    let _ = flood.write_all(&sent).await;
    let _ = flood.read_to_end(&mut Vec::new()).await;
    let rest_ns = account.next_turn().unwrap().after(0).unwrap();
    assert!(rest_ns >= u64::try_from(FLOOD_TIME.as_nanos()).unwrap(), "{rest_ns}");
}

/// A caller floods a node with calls through a proxy.
#[tokio::test]
async fn an_address_behind_a_proxy_rests_for_its_unary_calls() {
    let mut settings = settings();
    settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
    let account = settings.memory.account(None);
    account.rest_with(ClientAddress::V4(Ipv4Addr::new(203, 0, 113, 7)));
    account.begin_rests();
    let (server, _) = limited_server(settings).await;
    let proxy = channel_to(&server).await;
    let has_rested = || account.next_turn().unwrap().after(0).is_some();
    assert!(!has_rested(), "the proxy's connection has turns of its own");

    let request = Request::post(UNARY)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-forwarded-for", "203.0.113.7")
        .body(Answer::empty())
        .unwrap();
    let response = tower::ServiceExt::oneshot(proxy, request).await.unwrap();
    assert!(response.headers().contains_key("grpc-status"));
    assert!(has_rested());
}

/// Returns an answer with one message and no end.
fn endless() -> Response<Answer> {
    let message = Ok::<_, Status>(Frame::data(Bytes::from_static(&[0; 5])));
    let waiting = futures_util::stream::pending();
    let frames = futures_util::StreamExt::chain(futures_util::stream::iter([message]), waiting);
    let mut answer = Response::new(Answer::new(StreamBody::new(frames)));
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer
}

/// The answers of unary calls are charged by their lengths, which are a few bytes.
#[tokio::test]
async fn only_calls_that_stream_are_charged_for_the_state_of_their_streams() {
    const CALLS: usize = 100;
    // 4 KiB for the state alone, and 6 KiB for the stream with it. Heads that were just written may count or not.
    for (path, least, most) in [(UNARY, 4_000, 5_000), (STREAM, 6_000, 8_000)] {
        let settings = settings();
        let memory = settings.memory.clone();
        let methods = [
            RpcMethod::new(UNARY, MethodKind::Unary),
            RpcMethod::new(STREAM, MethodKind::ServerStream),
        ];
        let service = TestService::new(|_| std::future::ready(endless()));
        let (metrics, stop) = (CallMetrics::new(&methods), CancellationToken::new());
        let server = Server::bind(settings, Routes::new(service), metrics, stop).await.unwrap();
        let channel = channel_to(&server).await;
        let begun = async || {
            let mut request = unary(&[0; 5]);
            *request.uri_mut() = http::Uri::from_static(path);
            let mut answer =
                tower::ServiceExt::oneshot(channel.clone(), request).await.unwrap().into_body();
            answer.frame().await.unwrap().unwrap();
            answer
        };
        let first = begun().await;
        let (before, mut open) = (memory.used_bytes(), Vec::new());
        while open.len() < CALLS {
            open.push(begun().await);
        }
        let charged = (memory.used_bytes() - before) / CALLS;
        assert!((least..most).contains(&charged), "{path}: {charged} bytes");
        drop((first, open));
    }
}

/// Settings of HTTP/2 without room for the data of a stream.
const NO_WINDOW: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];

/// Reads the next frame of an HTTP/2 connection, and returns its kind.
async fn next_kind(stream: &mut TcpStream) -> u8 {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let [a, b, c, kind, ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    kind
}

/// A caller opens a call behind GOAWAY, as it may after five idle minutes, and does not read the answer. Until it
/// answers a ping, the library takes new calls.
#[tokio::test]
async fn a_connection_that_ignores_goaway_gives_memory_and_slot_to_others() {
    const GOAWAY: u8 = 7;
    const LIMIT_BYTES: usize = 1024 * 1024;
    /// `GET /`, which is refused with a line of text: END_STREAM and END_HEADERS, and three indexed fields.
    const GET: [u8; 12] = [0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84];
    for needs_slot in [false, true] {
        let mut settings = settings();
        (settings.memory, settings.connections_max) = (MemoryBudget::new(LIMIT_BYTES), 8);
        let (memory, body_timeout) = (settings.memory.clone(), settings.body_timeout);
        let dispatcher =
            Dispatcher::new(Routes::default(), CallMetrics::new(&[]), Vec::new(), body_timeout);
        let connections = Connections::new(dispatcher, settings, CancellationToken::new());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        // A connection of the same address from before, without a socket, so that the newer one is to end.
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let any = TcpStream::connect(other.local_addr().unwrap()).await.unwrap();
        let take_slot = |peer: [u8; 4]| connections.arrivals.take_slot(&any, (peer, 1).into());
        let mut slots = vec![take_slot([127, 0, 0, 1])];
        let accepting = tokio::spawn(connections.clone().accept(listener));

        let mut greedy = TcpStream::connect(address).await.unwrap();
        greedy.write_all(&[HTTP2_PREFACE, &NO_WINDOW].concat()).await.unwrap();
        while next_kind(&mut greedy).await != SETTINGS {}
        connections.stop.cancel();
        while next_kind(&mut greedy).await != GOAWAY {}
        greedy.write_all(&GET).await.unwrap();
        while next_kind(&mut greedy).await != HEADERS {}

        // Its calls belong to others, so the connection of a proxy is not closed for memory.
        let proxy = memory.proxy(Ipv4Addr::new(192, 0, 2, 1).into(), memory.account(None));
        let proxy = proxy.unwrap();
        if needs_slot {
            slots.extend((1..8).map(|last| take_slot([203, 0, 113, last])));
        } else {
            proxy.take_anyway(LIMIT_BYTES / 16 * 15 - memory.used_bytes());
        }
        let ended = timeout(Duration::from_secs(60), greedy.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "needs_slot: {needs_slot}");
        accepting.await.unwrap();
    }
}

/// A page that is never made, and counts its requests.
#[derive(Debug, Clone, Default)]
struct PendingPage(Arc<AtomicUsize>);

impl PublicPages for PendingPage {
    fn prefix(&self) -> &'static str {
        "/never"
    }

    fn show(&self, _: Parts, _: CallCharge) -> PageFuture {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::pending())
    }

    fn answered(&self, _: http::StatusCode) {}
}

/// The listener stops while a call is under way, and then the call's memory is needed. Its caller gets an answer as it
/// would without GOAWAY, and not the end of the connection alone.
#[tokio::test]
async fn a_call_behind_goaway_is_refused_when_its_memory_is_needed() {
    const GOAWAY: u8 = 7;
    const LIMIT_BYTES: usize = 1024 * 1024;
    /// END_STREAM and END_HEADERS, two indexed fields, and the path.
    const GET: &[u8] = b"\x00\x00\x0a\x01\x05\x00\x00\x00\x01\x82\x86\x04\x06/never";
    let mut settings = settings();
    settings.memory = MemoryBudget::new(LIMIT_BYTES);
    let (memory, body_timeout) = (settings.memory.clone(), settings.body_timeout);
    let asked = PendingPage::default();
    let pages: Vec<Arc<dyn PublicPages>> = vec![Arc::new(asked.clone())];
    let dispatcher = Dispatcher::new(Routes::default(), CallMetrics::new(&[]), pages, body_timeout);
    let connections = Connections::new(dispatcher, settings, CancellationToken::new());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(connections.clone().accept(listener));

    let mut caller = TcpStream::connect(address).await.unwrap();
    caller.write_all(&[HTTP2_PREFACE, &NO_WINDOW, GET].concat()).await.unwrap();
    while asked.0.load(Ordering::Relaxed) == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    connections.stop.cancel();
    while next_kind(&mut caller).await != GOAWAY {}
    let proxy = memory.proxy(Ipv4Addr::new(192, 0, 2, 1).into(), memory.account(None)).unwrap();
    proxy.take_anyway(LIMIT_BYTES / 16 * 15 - memory.used_bytes());
    let answered = async { while next_kind(&mut caller).await != HEADERS {} };
    assert!(timeout(Duration::from_secs(60), answered).await.is_ok());
    let ended = timeout(Duration::from_secs(60), caller.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok());
    accepting.await.unwrap();
}

const MIB: usize = 1024 * 1024;

/// A page of 40 MiB.
#[derive(Debug)]
struct LargePage;

impl PublicPages for LargePage {
    fn prefix(&self) -> &'static str {
        "/large"
    }

    fn show(&self, _: Parts, _: CallCharge) -> PageFuture {
        let page = http_body_util::Full::new(Bytes::from(vec![7; 40 * MIB]));
        Box::pin(async move { Response::new(Answer::new(page)) })
    }

    fn answered(&self, _: http::StatusCode) {}
}

/// A client has its proxy ask for a page, and reads nothing, so that the proxy reads no more either. The library asks
/// for nothing more of the body over HTTP/1.1 while the socket takes nothing, and over HTTP/2 while the stream has no
/// window.
#[tokio::test]
async fn an_unread_answer_behind_a_proxy_ends_when_its_memory_is_needed() {
    const PING: u8 = 6;
    const HTTP1: &[u8] =
        b"GET /large HTTP/1.1\r\nHost: node\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    /// END_STREAM and END_HEADERS, two indexed fields, and the path.
    const HTTP2: &[u8] = b"\x00\x00\x0a\x01\x05\x00\x00\x00\x01\x82\x86\x04\x06/large";
    for is_http2 in [false, true] {
        let mut settings = settings();
        settings.memory = MemoryBudget::new(64 * MIB);
        settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
        let (memory, body_timeout) = (settings.memory.clone(), settings.body_timeout);
        let pages: Vec<Arc<dyn PublicPages>> = vec![Arc::new(LargePage)];
        let dispatcher =
            Dispatcher::new(Routes::default(), CallMetrics::new(&[]), pages, body_timeout);
        let connections = Connections::new(dispatcher, settings, CancellationToken::new());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(connections.clone().accept(listener));

        let mut proxy = TcpStream::connect(address).await.unwrap();
        if is_http2 {
            proxy.write_all(&[HTTP2_PREFACE, &NO_WINDOW, HTTP2].concat()).await.unwrap();
            while next_kind(&mut proxy).await != HEADERS {}
        } else {
            proxy.write_all(HTTP1).await.unwrap();
            proxy.read_exact(&mut [0]).await.unwrap();
        }
        assert!(memory.used_bytes() > 40 * MIB, "it is charged until all of it is written");
        let other = Ipv4Addr::new(198, 51, 100, 1).into();
        let other = memory.connection(other, memory.account(None)).unwrap();
        other.take_anyway(20 * MIB);
        let freed = async {
            while memory.used_bytes() > 40 * MIB {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let freed = timeout(Duration::from_secs(60), freed).await;
        assert!(freed.is_ok(), "is_http2: {is_http2}");
        if is_http2 {
            // The connection has other calls.
            proxy.write_all(&[0, 0, 8, PING, 0, 0, 0, 0, 0, 7, 7, 7, 7, 7, 7, 7, 7]).await.unwrap();
            while next_kind(&mut proxy).await != PING {}
        }
        drop(proxy);
        connections.stop.cancel();
        accepting.await.unwrap();
    }
}
