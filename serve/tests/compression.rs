//! Compressed messages in both directions.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hawser_serve::{CallMetrics, MESSAGE_LEN_BYTES_MAX, MemoryBudget, ServeSettings, Server};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::body::Body;
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use super::common::{channel, listen};
use super::test_service::TestService;

const ECHO: &str = "/test.Service/Echo";

/// Returns the bytes of the request as the service sees them, with the frames' heads.
async fn echo(request: Request<Body>) -> Response<Body> {
    let bytes = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(status) => return status.into_http(),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert(Status::GRPC_STATUS, 0.into());
    // In two pieces, because a frame of a stream may arrive in parts.
    let half = bytes.len() / 2;
    let pieces = [bytes.slice(..half), bytes.slice(half..)].map(Frame::data);
    let frames = pieces.into_iter().chain([Frame::trailers(trailers)]).map(Ok::<_, Status>);
    let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

async fn server(budget: usize) -> (Server, MemoryBudget) {
    let memory = MemoryBudget::new(budget);
    let (_, health) = tonic_health::server::health_reporter();
    let mut routes = RoutesBuilder::default();
    routes.add_service(TestService::new(echo)).add_service(health);
    let adjust = |settings: &mut ServeSettings| settings.memory = memory.clone();
    let server = listen(routes.routes(), CallMetrics::new(&[]), adjust).await;
    (server, memory)
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

/// Returns bytes that compress to about a ninth of `len`.
fn compressible(len: usize) -> Vec<u8> {
    let numbers = (0u32..).flat_map(|number| {
        [&number.wrapping_mul(2_654_435_761).to_be_bytes()[..], &[0; 60]].concat()
    });
    numbers.take(len).collect()
}

fn framed(flag: u8, body: &[u8]) -> Vec<u8> {
    let mut framed = vec![flag];
    framed.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    framed.extend(body);
    framed
}

/// Calls a method and returns the headers, the bytes and the status of the answer.
async fn call(
    channel: &Channel,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (HeaderMap, Bytes, Status) {
    let mut request = Request::post(path).header("content-type", "application/grpc");
    for (name, value) in headers.iter().chain(&[("te", "trailers")]) {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::new(Full::from(body))).unwrap();
    let response = channel.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = Status::from_header_map(&parts.headers)
        .or_else(|| Status::from_header_map(&trailers))
        .unwrap();
    (parts.headers, body.to_bytes(), status)
}

const GZIP: [(&str, &str); 1] = [("grpc-encoding", "gzip")];
const WANTS_GZIP: [(&str, &str); 1] = [("grpc-accept-encoding", "identity,gzip")];

#[tokio::test]
async fn a_compressed_request_is_taken_and_the_service_sees_it_plain() {
    let (server, _) = server(1 << 30).await;
    let channel = channel(&server).await;
    for len in [0, 10, 100_000, 5 << 20] {
        let message = compressible(len);
        let (headers, bytes, status) =
            call(&channel, ECHO, &GZIP, framed(1, &gzip(&message))).await;
        assert_eq!(status.code(), Code::Ok, "{status:?}");
        assert_eq!(bytes, framed(0, &message));
        assert!(headers.get("grpc-encoding").is_none(), "the caller has not asked for it");
    }
    // A publish of equal bytes is a thousand times as long when it is decompressed.
    let equal = vec![7; 1 << 20];
    let (_, bytes, status) = call(&channel, ECHO, &GZIP, framed(1, &gzip(&equal))).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    assert_eq!(bytes, framed(0, &equal));
    // A client that compresses may send plain messages too.
    let (_, bytes, _) = call(&channel, ECHO, &GZIP, framed(0, b"plain")).await;
    assert_eq!(bytes, framed(0, b"plain"));
}

#[tokio::test]
async fn a_generated_service_takes_compressed_requests() {
    let (server, _) = server(1 << 30).await;
    let channel = channel(&server).await;
    let check = "/grpc.health.v1.Health/Check";
    let (_, _, status) = call(&channel, check, &GZIP, framed(1, &gzip(&[]))).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let other = [("grpc-encoding", "snappy")];
    let (headers, _, status) = call(&channel, check, &other, framed(1, b"?")).await;
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(headers.get("grpc-accept-encoding").unwrap(), "identity,gzip");
    let (_, _, status) = call(&channel, check, &[], framed(1, &gzip(&[]))).await;
    assert_eq!(status.code(), Code::Internal, "it does not say how it is compressed: {status:?}");
}

#[tokio::test]
async fn an_answer_is_compressed_when_that_is_asked_for_and_helps() {
    let (server, _) = server(1 << 30).await;
    let channel = channel(&server).await;
    let message = b"the same again ".repeat(50_000);
    let (headers, bytes, status) = call(&channel, ECHO, &WANTS_GZIP, framed(0, &message)).await;
    assert_eq!(status.code(), Code::Ok);
    assert_eq!(headers.get("grpc-encoding").unwrap(), "gzip");
    assert!(bytes.len() < message.len() / 10, "{}", bytes.len());
    assert_eq!(
        (bytes[0], bytes.len() - 5),
        (1, u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]) as usize)
    );
    let mut unpacked = Vec::new();
    GzDecoder::new(&bytes[5..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, message);

    // A message that does not shrink is sent uncompressed.
    let noise =
        gzip(&(0..100_000u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect::<Vec<_>>());
    let (_, bytes, _) = call(&channel, ECHO, &WANTS_GZIP, framed(0, &noise)).await;
    assert_eq!(bytes, framed(0, &noise));
}

#[tokio::test]
async fn a_message_that_grows_beyond_the_limit_is_refused() {
    let (server, memory) = server(1 << 30).await;
    let channel = channel(&server).await;
    for (bomb, reason) in [
        (compressible(MESSAGE_LEN_BYTES_MAX + 1), "decompressed message is larger"),
        (vec![0; 5 << 20], "64 times"),
    ] {
        let (_, _, status) = call(&channel, ECHO, &GZIP, framed(1, &gzip(&bomb))).await;
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains(reason), "{}", status.message());
    }
    drop(channel);
    server.close().await;
    assert_eq!(memory.used_bytes(), 0);
}

#[tokio::test]
async fn the_budget_refuses_a_bomb_before_it_has_grown() {
    let limit = 8 << 20;
    let (server, memory) = server(limit).await;
    let channel = channel(&server).await;
    let bomb = framed(1, &gzip(&compressible(20 << 20)));
    let most = {
        let memory = memory.clone();
        tokio::spawn(async move {
            let mut most = 0;
            loop {
                most = most.max(memory.used_bytes());
                assert!(most <= limit);
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..5 {
        let (_, _, status) = call(&channel, ECHO, &GZIP, bomb.clone()).await;
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.metadata().get("retry-after").is_some(), "{status:?}");
    }
    assert!(!most.is_finished(), "never more than the budget");
    most.abort();
}

#[tokio::test]
async fn browsers_send_compressed_requests_too() {
    let (server, _) = server(1 << 30).await;
    let body = framed(1, &gzip(b"from a page"));
    let head = format!(
        "POST {ECHO} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/grpc-web+proto\r\n\
         grpc-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    // The service answers in two halves, each of which is a chunk.
    let plain = framed(0, b"from a page");
    for half in plain.chunks(plain.len() / 2) {
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.windows(half.len()).any(|part| part == half), "{text}");
    }
}

/// Other calls of a thread would wait while it makes the text of a whole answer.
#[tokio::test]
async fn a_long_answer_in_base64_comes_in_short_texts() {
    let (server, _) = server(1 << 30).await;
    let plain = framed(0, &compressible(1 << 20));
    let body = STANDARD.encode(&plain);
    let head = format!(
        "POST {ECHO} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         content-type: application/grpc-web-text\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let head_len = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
    let (mut chunks, mut bytes) = (&answer[head_len..], Vec::new());
    loop {
        let end = chunks.windows(2).position(|part| part == b"\r\n").unwrap();
        let len = std::str::from_utf8(&chunks[..end]).unwrap();
        let len = usize::from_str_radix(len, 16).unwrap();
        assert!(len <= 64 * 1024, "{len}");
        let (text, rest) = chunks[end + 2..].split_at(len);
        if text.is_empty() {
            break;
        }
        bytes.extend(STANDARD.decode(text).unwrap());
        chunks = &rest[2..];
    }
    assert!(bytes.starts_with(&plain));
}
