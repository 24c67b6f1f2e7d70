//! Tests over sockets of the rests of addresses: for connections, and for calls that come through a trusted proxy.

use std::net::Ipv4Addr;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::transport::Endpoint;

use super::*;
use crate::address::{Cidr, ClientAddress};
use crate::call_metrics::CallMetrics;
use crate::listener::Server;
use crate::method::{MethodKind, RpcMethod};

const UNARY: &str = "/test.Idle/Unary";

/// A service that reads its requests and answers with a status.
#[derive(Clone)]
struct IdleService;

impl NamedService for IdleService {
    const NAME: &'static str = "test.Idle";
}

impl tower::Service<Request<Answer>> for IdleService {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Answer>) -> Self::Future {
        Box::pin(async move {
            let read = request.into_body().collect().await;
            Ok(read.err().unwrap_or_else(|| Status::ok("")).into_http())
        })
    }
}

/// A caller opens connections in a loop. Those that are refused have no turns, and the listener's time is the same.
#[tokio::test]
async fn an_address_rests_for_connections_that_are_refused() {
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    settings.connections_per_address_max = 0;
    let account = settings.memory.account(None);
    account.rest_with(ClientAddress::V4(Ipv4Addr::LOCALHOST));
    account.begin_rests();
    let metrics = CallMetrics::new(&[RpcMethod::new(UNARY, MethodKind::Unary)]);
    let (routes, stop) = (Routes::new(IdleService), CancellationToken::new());
    let server = Server::bind(settings, routes, metrics, stop).await.unwrap();
    let has_rested = || account.next_turn().unwrap().after(0).is_some();
    assert!(!has_rested(), "it has no connection");
    let mut refused = TcpStream::connect(server.address()).await.unwrap();
    refused.read_to_end(&mut Vec::new()).await.unwrap();
    assert!(has_rested());
}

/// A caller floods a connection with pings, and connects again for the burst of a new one.
#[tokio::test]
async fn an_address_rests_for_a_connection_that_is_closed_because_of_a_flood() {
    let settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    let account = settings.memory.account(None);
    account.rest_with(ClientAddress::V4(Ipv4Addr::LOCALHOST));
    account.begin_rests();
    let metrics = CallMetrics::new(&[RpcMethod::new(UNARY, MethodKind::Unary)]);
    let (routes, stop) = (Routes::new(IdleService), CancellationToken::new());
    let server = Server::bind(settings, routes, metrics, stop).await.unwrap();
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
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    settings.trusted_proxies = Cidr::parse("127.0.0.0/8").into_iter().collect();
    let account = settings.memory.account(None);
    account.rest_with(ClientAddress::V4(Ipv4Addr::new(203, 0, 113, 7)));
    account.begin_rests();
    let metrics = CallMetrics::new(&[RpcMethod::new(UNARY, MethodKind::Unary)]);
    let (routes, stop) = (Routes::new(IdleService), CancellationToken::new());
    let server = Server::bind(settings, routes, metrics, stop).await.unwrap();
    let url = format!("http://{}", server.address());
    let proxy = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
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
