//! The listener alone, without services behind it.

use std::time::Duration;

use hawser_serve::address::Cidr;
use hawser_serve::{
    CALLERS_BYTES_MAX, CallMetrics, MemoryBudget, MethodKind, RpcMethod, ServeSettings, Server,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::common::{channel, listen};
use super::http2_frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame,
    kinds, read_frame,
};
use super::refusals::ACK;

async fn server(adjust: impl FnOnce(&mut ServeSettings)) -> Server {
    listen(Routes::default(), CallMetrics::new(&[]), adjust).await
}

/// Sends `bytes` and waits until the other end closes.
async fn until_closed(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn connections_without_a_whole_head_are_closed() {
    let server = server(|settings| settings.head_timeout = Duration::from_millis(30)).await;
    for bytes in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM", "POST /a", "POST /a HTTP/1.1\r\nhost: x"] {
        let answer = until_closed(&server, bytes.as_bytes()).await;
        assert!(answer.is_empty(), "{bytes:?}: {answer:?}");
    }
}

/// A connection that waits for its next request is idle, not late with a head.
#[tokio::test]
async fn a_connection_may_rest_between_two_requests_and_not_within_one() {
    // On busy cores a request of this test may take a good part of it.
    let limit = Duration::from_secs(1);
    let server = server(|settings| settings.head_timeout = limit).await;
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    for _ in 0..2 {
        // The answer has no body.
        connection.write_all(b"HEAD /a HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let head = read_head(&mut connection).await;
        assert!(head.starts_with("http/1.1 405 "), "{head}");
        tokio::time::sleep(2 * limit).await;
    }
    connection.write_all(b"GET /a HTTP/1.1\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = connection.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "closed without an answer: {answer:?}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_order() {
    let server = server(|settings| settings.idle_timeout = Duration::from_millis(30)).await;
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let kinds = kinds(&until_closed(&server, &begin).await);
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
}

#[tokio::test]
async fn a_silent_stream_outlives_every_limit() {
    let (reporter, health) = tonic_health::server::health_reporter();
    // The client may rest so long between its connection and its call, which takes long on busy cores.
    let limit = Duration::from_secs(1);
    let adjust = |settings: &mut ServeSettings| {
        settings.idle_timeout = limit;
        settings.head_timeout = limit;
        settings.body_timeout = limit;
    };
    let server = listen(Routes::new(health), CallMetrics::new(&[]), adjust).await;

    let request = HealthCheckRequest { service: String::new() };
    let mut client = HealthClient::new(channel(&server).await);
    let mut stream = client.watch(request).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    tokio::time::sleep(3 * limit).await;
    reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    let response = stream.message().await.unwrap().unwrap();
    assert_eq!(response.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn pings_of_an_idle_client_are_answered_and_not_held_against_it() {
    let server = server(|_| {}).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let mut answered = 0;
    for number in 0..200u64 {
        stream.write_all(&frame(PING, 0, 0, &number.to_be_bytes())).await.unwrap();
        while answered <= number {
            let (head, payload) = read_frame(&mut stream).await;
            assert_ne!(head[3], GOAWAY);
            if (head[3], head[4] & ACK) == (PING, ACK) {
                assert_eq!(payload, number.to_be_bytes());
                answered += 1;
            }
        }
    }
}

#[tokio::test]
async fn without_services_everything_is_unimplemented() {
    let server = server(|_| {}).await;
    let channel = channel(&server).await;
    let request = http::Request::post("/a.B/C")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(http_body_util::Full::from(vec![0; 5]))) // an empty message
        .unwrap();
    let response = tower::ServiceExt::oneshot(channel.clone(), request).await.unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "no such method"));
    drop(channel);
    server.close().await;
}

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A health check in HTTP/1.1 that asks for HTTP/2 (RFC 7540 §3.2), without its body.
fn asking(content_length: usize) -> Vec<u8> {
    format!(
        "POST {CHECK} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
         http2-settings: AAMAAABkAAQAoAAA\r\ncontent-type: application/grpc\r\nte: trailers\r\n\
         content-length: {content_length}\r\n\r\n"
    )
    .into_bytes()
}

/// Reads the frames of a connection up to the first that carries data of this stream.
async fn data_of(connection: &mut TcpStream, stream: u32) -> Vec<u8> {
    loop {
        let (head, payload) = read_frame(connection).await;
        if head[3] == DATA && head[5..] == stream.to_be_bytes() {
            return payload;
        }
        assert!(![GOAWAY, RST_STREAM].contains(&head[3]), "frame {} with {payload:?}", head[3]);
    }
}

async fn read_head(connection: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

async fn healthy(adjust: impl FnOnce(&mut ServeSettings)) -> Server {
    let (_, health) = tonic_health::server::health_reporter();
    listen(Routes::new(health), CallMetrics::new(&[]), adjust).await
}

/// A framed message of one field, the status SERVING.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];

#[tokio::test]
async fn a_request_that_asks_for_http2_is_its_first_stream() {
    let server = healthy(|_| ()).await;
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    // Some clients send the preface with their request, others after the answer.
    connection.write_all(&[&asking(5), &[0; 5][..]].concat()).await.unwrap();
    let head = read_head(&mut connection).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("upgrade: h2c\r\n") && head.contains("connection: upgrade\r\n"),
        "{head}"
    );
    connection.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    assert_eq!(data_of(&mut connection, 1).await, SERVING);

    let literal = |name: &str, value: &str| {
        let len = |text: &str| u8::try_from(text.len()).unwrap();
        [&[0, len(name)], name.as_bytes(), &[len(value)], value.as_bytes()].concat()
    };
    let head = [
        literal(":method", "POST"),
        literal(":scheme", "http"),
        literal(":path", CHECK),
        literal(":authority", "x"),
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ];
    let next =
        [frame(HEADERS, END_HEADERS, 3, &head.concat()), frame(DATA, END_STREAM, 3, &[0; 5])];
    connection.write_all(&next.concat()).await.unwrap();
    assert_eq!(data_of(&mut connection, 3).await, SERVING);
}

#[tokio::test]
async fn the_preface_may_come_with_the_request_that_asks_for_http2() {
    let server = healthy(|_| ()).await;
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    let begin = [PREFACE, &frame(SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0])].concat();
    connection.write_all(&[&asking(5), &[0; 5][..], &begin].concat()).await.unwrap();
    assert!(read_head(&mut connection).await.starts_with("http/1.1 101 "));
    assert_eq!(data_of(&mut connection, 1).await, SERVING);
}

#[tokio::test]
async fn a_request_that_is_too_long_to_switch_is_answered_over_http1() {
    let server = healthy(|_| ()).await;
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    connection.write_all(&[asking(65_536), vec![0; 65_536]].concat()).await.unwrap();
    let head = read_head(&mut connection).await;
    assert!(head.starts_with("http/1.1 505 "), "gRPC needs HTTP/2: {head}");
}

#[tokio::test]
async fn frames_are_metered_behind_a_switch() {
    const PINGS: usize = 100_000;
    let server = healthy(|_| ()).await;
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    connection.write_all(&[&asking(5), &[0; 5][..]].concat()).await.unwrap();
    read_head(&mut connection).await;
    connection.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let (mut reader, mut writer) = connection.into_split();
    let sending = tokio::spawn(async move {
        let pings = frame(PING, 0, 0, &[7; 8]).repeat(1000);
        for _ in 0..PINGS / 1000 {
            if writer.write_all(&pings).await.is_err() {
                return; // closed, as it should be
            }
        }
    });
    let mut answer = Vec::new();
    let _ = reader.read_to_end(&mut answer).await;
    sending.await.unwrap();
    let answered = answer.len() / frame(PING, ACK, 0, &[7; 8]).len();
    // 250 at once, ten a second, and some for the bytes of the first answer.
    assert!(answered < PINGS / 100, "{answered} pings were answered");
}

/// If a proxy forwarded a switch to HTTP/2, later requests on the connection would bypass the proxy's rules.
#[tokio::test]
async fn what_comes_from_a_trusted_proxy_is_not_switched() {
    let trusted = Cidr::parse("127.0.0.0/8").into_iter().collect();
    let server = healthy(|settings| settings.trusted_proxies = trusted).await;
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    connection.write_all(&[&asking(5), &[0; 5][..]].concat()).await.unwrap();
    let head = read_head(&mut connection).await;
    assert!(head.starts_with("http/1.1 505 "), "{head}");
}

#[tokio::test]
async fn a_connection_that_asks_for_http2_and_does_not_speak_it_is_closed() {
    let short = Duration::from_millis(500);
    let server = healthy(|settings| settings.head_timeout = short).await;
    for next in [&b""[..], b"PRI * HTTP/2.0\r\n", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let answer = until_closed(&server, &[&asking(5), &[0; 5][..], next].concat()).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.starts_with("HTTP/1.1 101 ") && text.ends_with("\r\n\r\n"), "{text}");
        assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
    }
}

/// hyper keeps the buffer of a large head while the connection rests, and the connection is charged for a small one.
#[tokio::test]
async fn a_connection_of_http1_is_closed_after_a_large_head_and_not_after_a_small_one() {
    let server = server(|_| {}).await;
    for (filler, closes) in [(100, false), (20_000, true)] {
        let mut connection = TcpStream::connect(server.address()).await.unwrap();
        let filler = "y".repeat(filler);
        let request = format!("GET /a HTTP/1.1\r\nhost: x\r\nfiller: {filler}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut connection).await;
        assert_eq!(head.contains("connection: close"), closes, "{head}");
    }
}

/// Otherwise a thousand calls on each connection could hold 64 KiB each, for which their client is charged nothing.
#[tokio::test]
async fn a_head_is_charged_while_its_message_is_on_its_way() {
    const LONG: usize = 25_000;
    /// Below what a connection takes with a call and a long head, and above what it takes without the head.
    const WITH_HEAD_BYTES: usize = 32 * 1024 + LONG;
    for content_type in ["application/grpc-web", "application/proto", "application/json"] {
        for (target_len, header_len) in [(LONG, 1), (1, LONG)] {
            let memory = MemoryBudget::new(CALLERS_BYTES_MAX);
            let path = match content_type {
                // JSON is read for methods with a schema only.
                "application/json" => "/xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion",
                _ => CHECK,
            };
            let metrics = CallMetrics::new(&[RpcMethod::new(path, MethodKind::Unary)]);
            let adjust = |settings: &mut ServeSettings| settings.memory = memory.clone();
            let server = listen(Routes::default(), metrics, adjust).await;
            let head = format!(
                "POST {path}?{} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n\
                 x-long: {}\r\ncontent-length: 9\r\n\r\n",
                "x".repeat(target_len),
                "x".repeat(header_len)
            );
            let mut connection = TcpStream::connect(server.address()).await.unwrap();
            connection.write_all(head.as_bytes()).await.unwrap();
            let charged = async {
                while memory.used_bytes() < WITH_HEAD_BYTES {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let charged = tokio::time::timeout(Duration::from_secs(20), charged).await;
            let used_bytes = memory.used_bytes();
            assert!(charged.is_ok(), "{content_type}, {target_len}: {used_bytes} bytes");
        }
    }
}

#[tokio::test]
async fn a_deadline_ends_a_stream_that_has_begun() {
    let server = healthy(|_| {}).await;
    let channel = channel(&server).await;
    // On a busy machine a short deadline may be over before the stream begins.
    for seconds in [1, 10, 100] {
        let mut request = tonic::Request::new(HealthCheckRequest { service: String::new() });
        request.set_timeout(Duration::from_secs(seconds));
        let Ok(answer) = HealthClient::new(channel.clone()).watch(request).await else { continue };
        let mut stream = answer.into_inner();
        let Ok(Some(_)) = stream.message().await else { continue };
        let ended = tokio::time::timeout(Duration::from_secs(600), stream.message()).await;
        let status = ended.expect("the stream ends at its deadline").unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::DeadlineExceeded, "request timed out")
        );
        return;
    }
    panic!("no stream began before its deadline");
}
