//! The Connect protocol on the wire, as curl and connect-web write it.

use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::*;

const QUERY: &str = "/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes";
const PUBLISH: &str = "/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes";
const TOPICS: &str = "/xmtp.xmtpv4.message_api.QueryApi/SubscribeTopics";
const SUBSCRIBE: &str = "/xmtp.xmtpv4.message_api.QueryApi/Subscribe";
const VERSION: &str = "/xmtp.xmtpv4.metadata_api.MetadataApi/GetVersion";

async fn ask_json(node: &Node, path: &str, body: &Value) -> (u16, Value) {
    let headers = "connect-protocol-version: 1\r\n";
    let text = body.to_string();
    let answer = node.ask(&post(path, "application/json", headers, text.as_bytes())).await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn text(bytes: impl AsRef<[u8]>) -> Value {
    STANDARD.encode(bytes).into()
}

/// Reads one message of a stream: its flag and its JSON.
async fn next_message(stream: &mut TcpStream, unread: &mut Vec<u8>) -> (u8, Value) {
    let (flag, message) = next_frame(stream, unread).await;
    (flag, serde_json::from_slice(&message).unwrap())
}

/// Reads one message of a stream: its flag and its bytes.
async fn next_frame(stream: &mut TcpStream, unread: &mut Vec<u8>) -> (u8, Vec<u8>) {
    loop {
        if let Some(&[flag, a, b, c, d]) = unread.first_chunk::<5>() {
            let end = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
            if unread.len() >= end {
                let message = unread[5..end].to_vec();
                unread.drain(..end);
                return (flag, message);
            }
        }
        // The body is chunked: a length in hexadecimal, the chunk, an end of line.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let text = std::str::from_utf8(&head).unwrap().trim();
        let mut chunk = vec![0; usize::from_str_radix(text, 16).unwrap() + 2];
        stream.read_exact(&mut chunk).await.unwrap();
        chunk.truncate(chunk.len() - 2);
        unread.extend(chunk);
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn curl_publishes_and_queries_with_json() {
    let node = node().await;
    assert_eq!(ask_json(&node, VERSION, &json!({})).await, (200, json!({ "version": "1.2.3" })));

    let envelope = message(1, "text");
    let published = json!({ "payerEnvelopes": [{
        "unsignedClientEnvelope": text(&envelope.unsigned_client_envelope),
        "payerSignature": { "bytes": text(&envelope.payer_signature.as_ref().unwrap().bytes) },
        "targetOriginator": envelope.target_originator,
        "message_retention_days": envelope.message_retention_days,
    }] });
    let (status, stored) = ask_json(&node, PUBLISH, &published).await;
    assert_eq!(status, 200, "{stored}");

    let query = json!({ "query": { "topics": [text(topic_bytes(1))] }, "limit": 10 });
    let (status, page) = ask_json(&node, QUERY, &query).await;
    assert_eq!(status, 200);
    assert_eq!(page["envelopes"], stored["originatorEnvelopes"], "the page has what was stored");
    let query = json!({ "query": { "topics": [text(topic_bytes(2))] } });
    assert_eq!(ask_json(&node, QUERY, &query).await, (200, json!({})));
}

/// Bytes in both alphabets of base64, with padding and without; numbers as numbers and as text; enums by name and by
/// number; a field without a value as null.
#[tokio::test]
async fn json_is_read_in_each_form_that_its_mapping_permits() {
    let node = node().await;
    node.publish(vec![message(255, "a"), message(255, "b")]).await;
    let standard = STANDARD.encode(topic_bytes(255));
    assert!(standard.contains('/') && standard.ends_with('='), "{standard}");
    let url_safe = standard.replace('/', "_");
    let seen = |sequence: Value| json!({ "nodeIdToSequenceId": { "100": sequence } });
    let forms = [
        (standard.as_str(), seen(json!("1")), json!(10)),
        (standard.trim_end_matches('='), seen(json!(1)), json!("10")),
        (url_safe.as_str(), seen(json!(1.0)), json!(10.0)),
        (url_safe.trim_end_matches('='), seen(json!("1")), Value::Null),
    ];
    for (topic, last_seen, limit) in forms {
        let query =
            json!({ "topics": [topic], "originator_node_ids": null, "last_seen": last_seen });
        let (status, page) =
            ask_json(&node, QUERY, &json!({ "query": query, "limit": limit })).await;
        let envelopes = page["envelopes"].as_array().map(Vec::len);
        assert_eq!((status, envelopes), (200, Some(1)), "{topic}: {page}");
    }
    let path = "/xmtp.xmtpv4.message_api.QueryApi/GetInboxIds";
    for kind in [json!(1), json!("IDENTIFIER_KIND_ETHEREUM"), json!(7), Value::Null] {
        let asked = json!({ "requests": [{ "identifier": "0xaa", "identifierKind": kind }] });
        let answer = json!({ "responses": [{ "identifier": "0xaa" }] });
        assert_eq!(ask_json(&node, path, &asked).await, (200, answer), "{kind}");
    }
}

#[tokio::test]
async fn messages_in_protobuf_are_those_of_grpc() {
    let node = node().await;
    node.publish(vec![message(1, "text")]).await;
    let request = pb::QueryEnvelopesRequest { query: Some(topics_query([1], None)), limit: 0 };
    let plain = request.encode_to_vec();
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&plain).unwrap();
    let packed = packed.finish().unwrap();
    for (headers, body) in [("", plain), ("content-encoding: gzip\r\n", packed)] {
        let answer = node.ask(&post(QUERY, "application/proto", headers, &body)).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/proto"))
        );
        assert_eq!(answer.header("grpc-status"), None);
        let page = pb::QueryEnvelopesResponse::decode(&answer.body[..]).unwrap();
        assert_eq!(ids(&page.envelopes), "100:1");
    }
}

#[tokio::test]
async fn compressed_json_is_read_and_bounded_after_it_is_unpacked() {
    let node = node().await;
    let packed = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let gzip = "content-encoding: gzip\r\n";
    let answer = node.ask(&post(VERSION, "application/json", gzip, &packed(b"{}"))).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &br#"{"version":"1.2.3"}"#[..]));
    for content_type in ["application/json", "application/proto"] {
        let answer = node.ask(&post(VERSION, content_type, gzip, b"")).await;
        assert_eq!(answer.status, 200, "an empty message of {content_type} is not compressed");
    }
    let spaces = packed(&[&b"{}"[..], &vec![b' '; 2 * 1024 * 1024]].concat());
    let answer = node.ask(&post(VERSION, "application/json", gzip, &spaces)).await;
    assert_eq!(answer.status, 200, "megabytes of text");
    let bomb = packed(&vec![b' '; 64 * 1024 * 1024]);
    let answer = node.ask(&post(VERSION, "application/json", gzip, &bomb)).await;
    assert_eq!(answer.status, 429);
    let answer = node.ask(&post(VERSION, "application/json", gzip, b"{}")).await;
    assert_eq!(answer.status, 400, "not gzip");
    let answer =
        node.ask(&post(VERSION, "application/json", "content-encoding: br\r\n", b"{}")).await;
    assert_eq!(answer.status, 501);
}

fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut plain).unwrap();
    plain
}

/// Browsers always ask for it.
#[tokio::test]
async fn answers_are_compressed_for_callers_that_ask_for_it() {
    let node = node().await;
    node.publish(vec![message(1, &"the same again ".repeat(1000))]).await;
    let gzip = "accept-encoding: deflate, gzip;q=0.9\r\n";
    let request = pb::QueryEnvelopesRequest { query: Some(topics_query([1], None)), limit: 0 };
    let json = json!({ "query": { "topics": [text(topic_bytes(1))] } }).to_string().into_bytes();
    let forms = [("application/proto", request.encode_to_vec()), ("application/json", json)];
    for (content_type, body) in forms {
        let plain = node.ask(&post(QUERY, content_type, "", &body)).await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None));
        let packed = node.ask(&post(QUERY, content_type, gzip, &body)).await;
        assert_eq!((packed.status, packed.header("content-encoding")), (200, Some("gzip")));
        assert!(packed.body.len() < plain.body.len() / 2, "{content_type}");
        assert!(unpacked(&packed.body) == plain.body, "{content_type}");
        let refused = "accept-encoding: gzip;q=0\r\n";
        let refused = node.ask(&post(QUERY, content_type, refused, &body)).await;
        assert_eq!(refused.header("content-encoding"), None);
        assert!(refused.body == plain.body, "{content_type}");
    }
    let short = node.ask(&post(VERSION, "application/json", gzip, b"{}")).await;
    assert_eq!((short.header("content-encoding"), &short.body[..2]), (None, &br#"{""#[..]));
    let error = node.ask(&post(PUBLISH, "application/json", gzip, b"{}")).await;
    assert_eq!((error.status, error.header("content-encoding")), (400, None));
}

/// Each message of a stream is compressed on its own, and only if it becomes shorter.
#[tokio::test]
async fn messages_of_a_stream_are_compressed_for_callers_that_ask_for_it() {
    let node = node().await;
    node.publish(vec![message(1, &"the same again ".repeat(1000))]).await;
    let json = json!({ "filters": [{ "topic": text(topic_bytes(1)) }] }).to_string().into_bytes();
    let topic = topic_bytes(1);
    let filter = pb::subscribe_topics_request::TopicFilter { topic, last_seen: None };
    let request = pb::SubscribeTopicsRequest { filters: vec![filter] }.encode_to_vec();
    for (content_type, body) in
        [("application/connect+json", json), ("application/connect+proto", request)]
    {
        let wants = "connect-accept-encoding: br, gzip\r\n";
        let request = post(TOPICS, content_type, wants, &framed(&body));
        let mut stream = TcpStream::connect(node.address()).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.contains("\r\nconnect-content-encoding: gzip\r\n"), "{head}");
        let exposed = "grpc-status-details-bin,connect-content-encoding\r\n";
        assert!(head.contains(exposed), "pages may read it: {head}");
        let mut unread = Vec::new();
        let (flag, _) = next_frame(&mut stream, &mut unread).await;
        assert_eq!(flag, 0, "the short status STARTED");
        let (flag, packed) = next_frame(&mut stream, &mut unread).await;
        let plain = unpacked(&packed);
        assert_eq!(flag, 1, "{content_type}");
        assert!(plain.len() > 15_000 && packed.len() < plain.len() / 2, "{content_type}");
        if content_type.ends_with("json") {
            let page: Value = serde_json::from_slice(&plain).unwrap();
            assert_eq!(page["envelopes"]["envelopes"].as_array().map(Vec::len), Some(1));
        } else {
            let page = pb::SubscribeTopicsResponse::decode(&plain[..]).unwrap();
            assert!(page.response.is_some());
        }
    }
}

#[tokio::test]
async fn errors_are_json_with_a_code_and_the_text_of_grpc() {
    let node = node().await;
    let (status, error) = ask_json(&node, PUBLISH, &json!({})).await;
    let mut client = node.publishing().await;
    let grpc = client.publish_payer_envelopes(pb::PublishPayerEnvelopesRequest::default());
    let grpc = grpc.await.unwrap_err();
    assert_eq!((status, &error["code"]), (400, &json!("invalid_argument")));
    assert_eq!(error["message"], grpc.message());

    let mut wrong = message(1, "text");
    wrong.target_originator = 200;
    let published = json!({ "payerEnvelopes": [{
        "unsignedClientEnvelope": text(&wrong.unsigned_client_envelope),
        "targetOriginator": 200,
    }] });
    let (status, error) = ask_json(&node, PUBLISH, &published).await;
    let details = error["details"].as_array().unwrap();
    let kinds: Vec<_> = details.iter().map(|detail| detail["type"].as_str().unwrap()).collect();
    assert_eq!((status, &kinds[..]), (400, &["google.rpc.ErrorInfo", "google.rpc.BadRequest"][..]));
    let request = STANDARD_NO_PAD.decode(details[1]["value"].as_str().unwrap()).unwrap();
    let request = String::from_utf8_lossy(&request).into_owned();
    assert!(request.contains("payer_envelopes[0]") && request.contains("TARGET_ORIGINATOR"));

    for (body, names) in [
        (&br#"{"querry": {}}"#[..], "querry"),
        (b"{\"limit\": \"many\"}", "invalid digit"),
        (b"{} {}", "trailing"),
        (br#"{"query": {"last_seen": {}, "lastSeen": {}}}"#, "'lastSeen' is there twice"),
        (b"\xff", "not valid JSON"),
    ] {
        let answer = node.ask(&post(QUERY, "application/json", "", body)).await;
        let error: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &error["code"]), (400, &json!("invalid_argument")));
        assert!(error["message"].as_str().unwrap().contains(names), "{error}");
    }
    let counted = r#"grpc_server_handled_total{grpc_type="unary",grpc_service="xmtp.xmtpv4.message_api.QueryApi",grpc_method="QueryEnvelopes",grpc_code="invalid_argument"}"#;
    assert_eq!(node.sample(counted).await, Some(5.0), "requests that are no message count, too");
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    assert_eq!(node.ask(&post(QUERY, "application/json", "", &deep)).await.status, 400);
    // A longer text is refused also if it does not come.
    let head = format!(
        "POST {QUERY} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        36 * 1024 * 1024 + 1
    );
    assert_eq!(node.ask(head.as_bytes()).await.status, 429);
}

/// The message of an envelope of 6 MiB is published, queried and streamed.
#[tokio::test]
async fn long_messages_are_read_and_written_in_json() {
    let node = node().await;
    let envelope = message(1, &"x".repeat(6 * 1024 * 1024));
    let published = json!({ "payerEnvelopes": [{
        "unsignedClientEnvelope": text(&envelope.unsigned_client_envelope),
        "payerSignature": { "bytes": text(&envelope.payer_signature.as_ref().unwrap().bytes) },
        "targetOriginator": envelope.target_originator,
        "messageRetentionDays": envelope.message_retention_days,
    }] });
    let (status, stored) = ask_json(&node, PUBLISH, &published).await;
    assert_eq!(status, 200);
    let query = json!({ "query": { "topics": [text(topic_bytes(1))] } });
    let (status, page) = ask_json(&node, QUERY, &query).await;
    assert_eq!(status, 200);
    assert!(page["envelopes"] == stored["originatorEnvelopes"], "the page has what was stored");

    let request = json!({ "filters": [{ "topic": text(topic_bytes(1)) }] }).to_string();
    let request = post(TOPICS, "application/connect+json", "", &framed(request.as_bytes()));
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(&request).await.unwrap();
    read_head(&mut stream).await;
    let mut unread = Vec::new();
    loop {
        let (flag, message) = next_message(&mut stream, &mut unread).await;
        assert_eq!(flag, 0, "{message}");
        if let Some(envelopes) = message["envelopes"]["envelopes"].as_array() {
            assert!(envelopes[..] == stored["originatorEnvelopes"].as_array().unwrap()[..]);
            break;
        }
    }
}

#[tokio::test]
async fn what_is_no_call_of_this_form_is_refused() {
    let node = node().await;
    let old = "connect-protocol-version: 2\r\n";
    assert_eq!(node.ask(&post(VERSION, "application/json", old, b"{}")).await.status, 400);
    let never = "connect-timeout-ms: soon\r\n";
    assert_eq!(node.ask(&post(VERSION, "application/json", never, b"{}")).await.status, 400);
    for path in ["/nothing.Here/Call", "/xmtp.xmtpv4.message_api.QueryApi/Nothing", "/"] {
        assert_eq!(
            node.ask(&post(path, "application/json", "", b"{}")).await.status,
            501,
            "{path}"
        );
        assert_eq!(node.ask(&post(path, "application/proto", "", b"")).await.status, 501, "{path}");
    }
    assert_eq!(node.ask(&post(TOPICS, "application/json", "", b"{}")).await.status, 415);
    assert_eq!(node.ask(&post(VERSION, "application/connect+json", "", b"")).await.status, 415);
    let get = format!(
        "GET {VERSION}?connect=v1&encoding=json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(node.ask(get.as_bytes()).await.status, 405);

    let answer = node.ask(&post(SUBSCRIBE, "application/connect+json", "", &framed(b"{}"))).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/connect+json"))
    );
    let end: Value = serde_json::from_slice(&answer.body[5..]).unwrap();
    assert_eq!((answer.body[0], &end["error"]["code"]), (2, &json!("unimplemented")));
    for body in [&b"\0\0\0\0\x09{}"[..], b"", b"\0\0\0\0\x02{}\0\0\0\0\x02{}"] {
        let answer = node.ask(&post(TOPICS, "application/connect+json", "", body)).await;
        let end: Value = serde_json::from_slice(&answer.body[5..]).unwrap();
        assert_eq!((answer.body[0], &end["error"]["code"]), (2, &json!("invalid_argument")));
    }
}

#[tokio::test]
async fn a_deadline_includes_the_time_in_which_the_message_arrives() {
    let node = node().await;
    for (path, content_type) in [
        (VERSION, "application/proto"),
        (VERSION, "application/json"),
        (TOPICS, "application/connect+json"),
        (TOPICS, "application/connect+proto"),
    ] {
        // The body never comes.
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n\
             connect-timeout-ms: 20\r\ncontent-length: 7\r\nconnection: close\r\n\r\n"
        );
        let answer = node.ask(head.as_bytes()).await;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let status = if path == VERSION { 504 } else { 200 };
        assert_eq!(answer.status, status, "{content_type}: {body}");
        assert!(body.contains("deadline_exceeded"), "{content_type}: {body}");
        assert!(body.contains("request timed out"), "{content_type}: {body}");
    }
}

#[tokio::test]
async fn a_stream_is_messages_and_then_its_end() {
    let node = node().await;
    let request = json!({ "filters": [{ "topic": text(topic_bytes(1)) }] }).to_string();
    let request = post(TOPICS, "application/connect+json", "", &framed(request.as_bytes()));
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    stream.write_all(&request).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(
        head.starts_with("http/1.1 200") && head.contains("application/connect+json"),
        "{head}"
    );
    let mut unread = Vec::new();
    let (flag, first) = next_message(&mut stream, &mut unread).await;
    assert_eq!(
        (flag, &first["statusUpdate"]["status"]),
        (0, &json!("SUBSCRIPTION_STATUS_STARTED"))
    );
    node.publish(vec![message(1, "text")]).await;
    loop {
        let (flag, message) = next_message(&mut stream, &mut unread).await;
        assert_eq!(flag, 0);
        if let Some(envelopes) = message["envelopes"]["envelopes"].as_array() {
            assert_eq!(envelopes.len(), 1);
            break;
        }
    }
    drop(stream);
    node.until_sample("xmtp_subscribers", 0.0).await;

    // In protobuf, with an error at the end, because an empty topic is invalid.
    let filter = pb::subscribe_topics_request::TopicFilter::default();
    let request = pb::SubscribeTopicsRequest { filters: vec![filter] }.encode_to_vec();
    let answer = node.ask(&post(TOPICS, "application/connect+proto", "", &framed(&request))).await;
    assert_eq!(answer.status, 200);
    let &[flag, a, b, c, d] = answer.body.first_chunk().unwrap();
    let (first, end) = answer.body[5..].split_at(u32::from_be_bytes([a, b, c, d]) as usize);
    assert_eq!(flag, 0, "status STARTED");
    assert!(pb::SubscribeTopicsResponse::decode(first).unwrap().response.is_some());
    let end_message: Value = serde_json::from_slice(&end[5..]).unwrap();
    assert_eq!(
        (end[0], &end_message["error"]["code"]),
        (2, &json!("invalid_argument")),
        "{end_message}"
    );
}

/// The refusal of a stream is its only message. The gRPC headers are no metadata.
#[tokio::test]
async fn a_stream_that_is_refused_at_once_ends_with_its_error_alone() {
    let node = node().await;
    let path = "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeEnvelopes";
    let answer = node.ask(&post(path, "application/connect+json", "", &framed(b"{}"))).await;
    assert_eq!((answer.status, answer.body[0]), (200, 2));
    let end: Value = serde_json::from_slice(&answer.body[5..]).unwrap();
    assert_eq!(end["error"]["code"], json!("invalid_argument"));
    assert_eq!(end.get("metadata"), None, "{end}");
}

/// Load balancers may ask without gRPC.
#[tokio::test]
async fn health_is_told_in_protobuf_and_in_json() {
    let node = node().await;
    let path = "/grpc.health.v1.Health/Check";
    let answer = node.ask(&post(path, "application/proto", "", b"")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &[8, 1][..]), "SERVING");
    let serving = json!({ "status": "SERVING" });
    assert_eq!(ask_json(&node, path, &json!({})).await, (200, serving.clone()));
    let named = json!({ "service": "xmtp.xmtpv4.message_api.QueryApi" });
    assert_eq!(ask_json(&node, path, &named).await, (200, serving.clone()));
    let (status, error) = ask_json(&node, path, &json!({ "service": "another" })).await;
    assert_eq!((status, &error["code"]), (404, &json!("not_found")));

    let watch = "/grpc.health.v1.Health/Watch";
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    let request = post(watch, "application/connect+json", "", &framed(b"{}"));
    stream.write_all(&request).await.unwrap();
    read_head(&mut stream).await;
    assert_eq!(next_message(&mut stream, &mut Vec::new()).await, (0, serving));
}

#[tokio::test]
async fn pages_may_send_the_headers_of_connect() {
    let node = node().await;
    let asks = |names: &str| {
        format!(
            "OPTIONS {QUERY} HTTP/1.1\r\nhost: x\r\norigin: https://app.example\r\n\
             access-control-request-headers: {names}\r\nconnection: close\r\n\r\n"
        )
        .into_bytes()
    };
    let allowed = |answer: &Http1Answer| {
        answer.header("access-control-allow-headers").unwrap().to_ascii_lowercase()
    };
    let plain = node.ask(&asks("content-type, x-grpc-web")).await;
    assert!(!allowed(&plain).contains("connect-"), "the answer of the network's reference node");
    let connect = node.ask(&asks("content-type,connect-protocol-version,connect-timeout-ms")).await;
    assert_eq!(connect.status, 204);
    for name in ["connect-protocol-version", "connect-timeout-ms", "content-type", "x-api-key"] {
        assert!(allowed(&connect).split(',').any(|it| it == name), "{name}");
    }
}
