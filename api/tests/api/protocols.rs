//! The port: gRPC-Web over HTTP/1.1 byte by byte, what browsers ask, and what is refused.

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as pb_meta;
use http_body_util::BodyExt as _;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::*;

const QUERY: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes";
const VERSION: &str = "/xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion";

/// A call that a page makes in a browser.
fn web_post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    post(path, content_type, "origin: https://app.example\r\nx-grpc-web: 1\r\n", body)
}

/// Flag and body of each frame.
fn frames(mut body: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [flag, a, b, c, d, rest @ ..] = body {
        let (frame, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        frames.push((*flag, frame));
        body = rest;
    }
    assert!(body.is_empty());
    frames
}

fn assert_marked_for_browsers(answer: &Http1Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(
        answer.header("access-control-expose-headers"),
        Some("grpc-status,grpc-message,grpc-status-details-bin")
    );
    assert_eq!(answer.header("access-control-max-age"), Some("86400"));
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

/// A client of gRPC-Web cannot answer pings: its requests end before it reads an answer.
#[tokio::test]
async fn streams_in_both_directions_are_no_calls_of_grpc_web() {
    let node = node().await;
    let path = "/xmtp.xmtpv4.message_api.QueryApi/Subscribe";
    for content_type in ["application/grpc-web+proto", "application/grpc-web-text"] {
        let answer = node.ask(&web_post(path, content_type, b"")).await;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("12")));
        assert_eq!(answer.header("content-type"), Some("application/grpc-web+proto"));
        assert!(answer.header("grpc-message").is_some_and(|text| text.contains("gRPC")));
        assert!(answer.body.is_empty());
        assert_marked_for_browsers(&answer);
    }
    let counted = r#"grpc_server_handled_total{grpc_type="bidi",grpc_service="xmtp.xmtpv4.message_api.QueryApi",grpc_method="Subscribe",grpc_code="unimplemented"}"#;
    assert_eq!(node.sample(counted).await, Some(2.0));
}

#[tokio::test]
async fn browsers_get_messages_and_then_trailers_in_the_body() {
    let node = node().await;
    node.publish(vec![message(1, "text")]).await;
    let request = pb::QueryEnvelopesRequest { query: Some(topics_query([1], None)), limit: 0 };
    let body = framed(&request.encode_to_vec());
    for content_type in ["application/grpc-web+proto", "application/grpc-web"] {
        let answer = node.ask(&web_post(QUERY, content_type, &body)).await;
        assert_eq!(answer.status, 200);
        assert_marked_for_browsers(&answer);
        assert!(answer.header("content-type").unwrap().starts_with("application/grpc-web"));
        let frames = frames(&answer.body);
        let [(0, message), (0x80, trailers)] = frames[..] else { panic!("{frames:?}") };
        let page = pb::QueryEnvelopesResponse::decode(message).unwrap();
        assert_eq!(ids(&page.envelopes), "100:1");
        let trailers = std::str::from_utf8(trailers).unwrap();
        assert!(trailers.lines().any(|line| line.replace(' ', "") == "grpc-status:0"));
    }
}

#[tokio::test]
async fn the_text_form_is_understood() {
    let node = node().await;
    // An empty message: five bytes of 0.
    let answer = node.ask(&web_post(VERSION, "application/grpc-web-text", b"AAAAAAA=")).await;
    assert_eq!(answer.status, 200);
    let version = pb_meta::GetVersionResponse { version: "1.2.3".into() };
    let framed = framed(&version.encode_to_vec());
    let text = std::str::from_utf8(&answer.body).unwrap();
    // 0, length 7, then the message, in base64.
    assert_eq!(framed, [0, 0, 0, 0, 7, 10, 5, b'1', b'.', b'2', b'.', b'3']);
    assert!(text.starts_with("AAAAAAcKBTEuMi4z"), "{text}");
    // A client may pad each piece on its own, wherever the network cuts them.
    let pieces =
        node.ask(&web_post(VERSION, "application/grpc-web-text", b"AA==AAA=AA==AA==")).await;
    assert_eq!(pieces.body, answer.body);
    for malformed in [&b"AAA"[..], b"@@@@", b"AAAA===="] {
        let answer = node.ask(&web_post(VERSION, "application/grpc-web-text", malformed)).await;
        assert_eq!(answer.status, 200);
        let sent = String::from_utf8_lossy(malformed).into_owned();
        assert_eq!(answer.header("grpc-status"), Some("3"), "{sent}");
    }
}

/// Media types have no case and may have parameters. A browser that accepts anything gets the form of its request.
#[tokio::test]
async fn the_form_of_grpc_web_is_found_however_it_is_written() {
    let node = node().await;
    let empty = framed(&[]);
    let with_accept = |content_type: &str, accept: &str, body: &[u8]| {
        web_post(VERSION, &format!("{content_type}\r\naccept: {accept}"), body)
    };
    for request in [
        web_post(VERSION, "application/grpc-web+proto; charset=utf-8", &empty),
        web_post(VERSION, "Application/gRPC-Web", &empty),
        with_accept("application/grpc-web", "*/*", &empty),
        with_accept("application/grpc-web-text", "text/html, application/grpc-web", b"AAAAAAA="),
    ] {
        let answer = node.ask(&request).await;
        let sent = String::from_utf8_lossy(&request).into_owned();
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(answer.header("content-type"), Some("application/grpc-web+proto"), "{sent}");
        let frames = frames(&answer.body);
        assert_eq!(frames.iter().map(|(flag, _)| *flag).collect::<Vec<_>>(), [0, 0x80], "{sent}");
    }
    for request in [
        with_accept("application/grpc-web-text", "*/*", b"AAAAAAA="),
        web_post(VERSION, "application/grpc-web-text; charset=utf-8", b"AAAAAAA="),
        with_accept("application/grpc-web-text+proto;a=b", "application/*, text/*", b"AAAAAAA="),
    ] {
        let answer = node.ask(&request).await;
        let sent = String::from_utf8_lossy(&request).into_owned();
        assert_eq!(answer.status, 200, "{sent}");
        assert_eq!(
            answer.header("content-type"),
            Some("application/grpc-web-text+proto"),
            "{sent}"
        );
        assert!(answer.body.starts_with(b"AAAAAAcKBTEuMi4z"), "{sent}");
    }
}

#[tokio::test]
async fn a_refusal_reaches_a_browser_in_headers_that_it_may_read() {
    let node = node().await;
    let path = "/xmtp.xmtpv4.payer_api.PayerApi/GetNodes";
    let answer = node.ask(&web_post(path, "application/grpc-web+proto", &framed(&[]))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("grpc-status"), Some("12"));
    assert_marked_for_browsers(&answer);
}

#[tokio::test]
async fn a_browsers_stream_begins_at_once() {
    let node = node().await;
    let request = pb::SubscribeEnvelopesRequest { query: Some(topics_query([1], None)) };
    let path = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeEnvelopes";
    let body = framed(&request.encode_to_vec());
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(&web_post(path, "application/grpc-web+proto", &body)).await.unwrap();
    let mut seen = Vec::new();
    // The head, and the empty message that comes before everything else, in a chunk of its own.
    while !seen.ends_with(b"\r\n5\r\n\0\0\0\0\0\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        seen.extend(byte);
    }
    node.until_sample("xmtp_subscribers", 1.0).await;
    node.publish(vec![message(1, "text")]).await;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.unwrap();
    drop(stream);
    node.until_sample("xmtp_subscribers", 0.0).await;
}

#[tokio::test]
async fn a_browser_that_asks_first_is_answered_for_every_path() {
    let node = node().await;
    for path in [QUERY, "/nonsense", "/"] {
        let request = format!(
            "OPTIONS {path} HTTP/1.1\r\nhost: x\r\norigin: https://app.example\r\n\
             access-control-request-method: POST\r\nconnection: close\r\n\r\n"
        );
        let answer = node.ask(request.as_bytes()).await;
        assert_eq!(answer.status, 204);
        assert_marked_for_browsers(&answer);
        assert_eq!(
            answer.header("access-control-allow-methods"),
            Some("GET,HEAD,POST,PUT,PATCH,DELETE")
        );
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some(
                "Content-Type,Accept,Authorization,X-Client-Version,X-App-Version,Baggage,DNT,\
                 Sec-CH-UA,Sec-CH-UA-Mobile,Sec-CH-UA-Platform,x-grpc-web,grpc-timeout,\
                 Sentry-Trace,User-Agent,x-libxmtp-version,x-app-version"
            )
        );
    }
}

#[tokio::test]
async fn bytes_that_are_no_call_get_a_plain_refusal() {
    let node = node().await;
    let get = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = node.ask(get).await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST,OPTIONS")));
    assert_marked_for_browsers(&answer);
    let put = b"PUT /strands/100/100/checkpoint HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = node.ask(put).await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET,HEAD,POST,OPTIONS")));
    assert_eq!(node.ask(&web_post(QUERY, "text/plain", b"hello")).await.status, 415);
    assert_eq!(node.ask(&web_post(QUERY, "application/grpc", &framed(&[]))).await.status, 505);
}

/// A developer tries a port with `curl`, or with a gRPC library over the wrong version of HTTP.
#[tokio::test]
async fn a_plain_refusal_says_what_to_send() {
    let node = node().await;
    let asked = |method: &str| {
        format!("{method} {QUERY} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
    };
    for (request, status, says) in [
        (asked("GET"), 405, "curl -d '{}' -H 'content-type: application/json'"),
        (web_post(QUERY, "application/x-www-form-urlencoded", b"{}"), 415, "application/json"),
        (web_post(QUERY, "application/grpc", &framed(&[])), 505, "HTTP/2"),
        (web_post(QUERY, "application/connect+json", &framed(b"{}")), 415, "unary"),
    ] {
        let answer = node.ask(&request).await;
        let text = String::from_utf8(answer.body.clone()).unwrap();
        assert_eq!(answer.status, status, "{text}");
        assert!(text.contains(says) && text.ends_with('\n'), "{status}: {text}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_marked_for_browsers(&answer);
    }
    let head = node.ask(&asked("HEAD")).await;
    assert_eq!((head.status, head.body), (405, Vec::new()));
}

#[tokio::test]
async fn answers_over_http2_carry_the_same_headers() {
    let node = node().await;
    let request = http::Request::post(VERSION)
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(http_body_util::Full::new(framed(&[]).into())))
        .unwrap();
    let response = tower::ServiceExt::oneshot(node.channel().await, request).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn a_deadline_of_the_caller_is_kept() {
    let node = node().await;
    let request = format!(
        "POST {QUERY} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+proto\r\n\
         grpc-timeout: 1n\r\ncontent-length: 100\r\nconnection: close\r\n\r\n"
    );
    let answer = node.ask(request.as_bytes()).await; // the message never comes
    assert_eq!(answer.header("grpc-status"), Some("4"));
}
