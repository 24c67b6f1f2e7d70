//! Hostile requests are refused and counted, and other callers are served as before.

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::common::*;

const PUBLISH: &str = "/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes";
const METHODS: [&str; 9] = [
    PUBLISH,
    "/xmtp.xmtpv4.message_api.ReplicationApi/QueryEnvelopes",
    "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeTopics",
    "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeEnvelopes",
    "/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeOriginators",
    "/xmtp.xmtpv4.message_api.ReplicationApi/GetNewestEnvelope",
    "/xmtp.xmtpv4.message_api.QueryApi/GetInboxIds",
    "/xmtp.xmtpv4.metadata_api.MetadataApi/GetPayerInfo",
    "/grpc.health.v1.Health/Check",
];

/// Asserts that the node still serves callers.
async fn assert_serves(node: &Node) {
    let before = node.engine.heads().get().get(NODE).0;
    let text = format!("after {before}");
    let request = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(9, &text)] };
    let answer = node.publishing().await.publish_payer_envelopes(request).await.unwrap();
    assert_eq!(ids(&answer.into_inner().originator_envelopes), format!("100:{}", before + 1));
}

/// Sends a whole request to publish over HTTP/1.1, and then reads its answer.
async fn post_long(node: &Node, content_type: &str, body: &[u8]) -> Http1Answer {
    node.ask(&post(PUBLISH, content_type, "", body)).await
}

#[tokio::test]
async fn a_message_of_26_mib_is_too_large_in_every_protocol() {
    let node = node().await;
    let large = framed(&vec![0; 26 * 1024 * 1024]);
    let (code, text) = call_raw(&node.channel().await, PUBLISH, large.clone()).await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(text.contains("27262976 bytes"), "{text}");

    let answer = post_long(&node, "application/grpc-web+proto", &large).await;
    assert_eq!(answer.header("grpc-status"), Some("8"));

    // Clients of Connect over HTTP/1.1 send all of a long request, too, before they read the refusal.
    let text = vec![b' '; 37 * 1024 * 1024];
    for (content_type, long) in [("application/proto", &large), ("application/json", &text)] {
        let answer = post_long(&node, content_type, long).await;
        let error: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, error["code"].as_str()), (429, Some("resource_exhausted")));
    }

    let counted = r#"xmtp_api_failed_grpc_requests_counter{code="resource_exhausted"}"#;
    assert_eq!(node.sample(counted).await, Some(4.0));
    assert_serves(&node).await;
}

#[tokio::test]
async fn a_message_just_within_the_limit_is_read() {
    let node = node().await;
    // The unknown field 15, bytes, is skipped, so the message has no payer envelope.
    let len = MESSAGE_LEN_BYTES_MAX - 5;
    let mut message = vec![0x7a];
    prost::encoding::encode_varint(len as u64, &mut message);
    message.resize(MESSAGE_LEN_BYTES_MAX, 0xff);
    let (code, text) = call_raw(&node.channel().await, PUBLISH, framed(&message)).await;
    assert_eq!((code, text.as_str()), (Code::InvalidArgument, "missing payer envelope"));
}

/// Requests of far more elements than their call takes are refused before they are decoded.
#[tokio::test]
async fn far_over_a_limit_is_refused_as_just_over_it() {
    let node = node().await;
    let channel = node.channel().await;
    for (path, most, is_inner) in [
        ("/xmtp.xmtpv4.message_api.QueryApi/QueryEnvelopes", 10_000, true),
        ("/xmtp.xmtpv4.message_api.ReplicationApi/SubscribeEnvelopes", 10_000, true),
        ("/xmtp.xmtpv4.message_api.QueryApi/SubscribeTopics", 10_000, false),
        ("/xmtp.xmtpv4.message_api.QueryApi/GetNewestEnvelope", 10_000, false),
        ("/xmtp.xmtpv4.message_api.QueryApi/GetInboxIds", 1000, false),
        ("/xmtp.xmtpv4.metadata_api.MetadataApi/GetPayerInfo", 1000, false),
        (PUBLISH, 10_000, false),
    ] {
        let mut refusals = Vec::new();
        for count in [most + 1, 2 * most + 500] {
            // Each element is an empty field 1.
            let elements = [0x0a, 0].repeat(count);
            let mut message = Vec::new();
            if is_inner {
                message.push(0x0a);
                prost::encoding::encode_varint(elements.len() as u64, &mut message);
            }
            message.extend(elements);
            let (code, text) = call_raw(&channel, path, framed(&message)).await;
            assert!(text.contains(&count.to_string()), "{path}: {text}");
            refusals.push((code, text.replace(&count.to_string(), "COUNT")));
        }
        assert_eq!(refusals[0], refusals[1], "{path}");
    }
}

#[tokio::test]
async fn broken_framing_is_the_callers_fault() {
    let node = node().await;
    let channel = node.channel().await;
    let whole = framed(&pb::PublishPayerEnvelopesRequest::default().encode_to_vec());
    let fine = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, "text")] };
    let truncated = &framed(&fine.encode_to_vec())[..100];
    let broken: [(&[u8], &str); 5] = [
        (&[], "missing request message"),
        (&[0, 0], "incomplete request message"),
        (truncated, "incomplete request message"),
        (&[7, 0, 0, 0, 0], "invalid message flag 7"),
        (&[&whole[..], &whole[..]].concat(), "more than one request message"),
    ];
    for (body, expected) in broken {
        let (code, text) = call_raw(&channel, PUBLISH, body.to_vec()).await;
        assert_eq!((code, text.as_str()), (Code::InvalidArgument, expected));
    }
    let (code, text) = call_raw(&channel, PUBLISH, framed(&[0xff; 20])).await;
    assert_eq!(code, Code::InvalidArgument, "{text}");
    assert_serves(&node).await;
}

#[tokio::test]
async fn random_and_flipped_requests_are_refused_or_understood_and_nothing_breaks() {
    let node = node().await;
    let channel = node.channel().await;
    let mut rng = StdRng::seed_from_u64(0x4841_5753_4552);
    let fine = pb::PublishPayerEnvelopesRequest { payer_envelopes: vec![message(1, "text")] };
    let fine = fine.encode_to_vec();
    for round in 0..300 {
        let path = METHODS[rng.random_range(0..METHODS.len())];
        let body = match round % 3 {
            0 => (0..rng.random_range(0..200)).map(|_| rng.random()).collect(),
            1 => {
                let noise: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
                framed(&noise)
            }
            _ => {
                let mut flipped = fine.clone();
                let bit = rng.random_range(0..flipped.len() * 8);
                flipped[bit / 8] ^= 1 << (bit % 8);
                framed(&flipped)
            }
        };
        let (code, text) = call_raw(&channel, path, body).await;
        assert!(
            !matches!(code, Code::Internal | Code::Unknown),
            "{path}, round {round}: {code} {text}"
        );
    }
    assert_serves(&node).await;
}

#[tokio::test]
async fn connections_that_speak_nothing_are_closed_and_counted() {
    let node = node().await;
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..20 {
        let noise: Vec<u8> = (0..500).map(|_| rng.random()).collect();
        let mut stream = TcpStream::connect(node.address()).await.unwrap();
        let _ = stream.write_all(&noise).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    node.until_sample("xmtp_api_connections_failed_total", 20.0).await;
    assert_serves(&node).await;
}

#[tokio::test]
async fn oversized_headers_are_refused() {
    let node = node().await;
    let request =
        format!("POST {PUBLISH} HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "a".repeat(70_000));
    let mut stream = TcpStream::connect(node.address()).await.unwrap();
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 431") || answer.is_empty(), "{answer:?}");
    assert_serves(&node).await;
}

#[tokio::test]
async fn claims_of_large_messages_that_never_come_delay_no_other_caller() {
    let node = node().await;
    let channel = node.channel().await;
    let mut waiting = Vec::new();
    for _ in 0..500 {
        let mut head = vec![0];
        head.extend(u32::try_from(MESSAGE_LEN_BYTES_MAX).unwrap().to_be_bytes());
        let frame = hyper::body::Frame::data(bytes::Bytes::from(head));
        let rest = futures_util::stream::pending::<Result<_, tonic::Status>>();
        let body = futures_util::StreamExt::chain(tokio_stream::iter([Ok(frame)]), rest);
        let body = tonic::body::Body::new(http_body_util::StreamBody::new(body));
        let channel = channel.clone();
        waiting.push(tokio::spawn(async move { call_body(&channel, PUBLISH, body).await }));
    }
    let open = r#"xmtp_api_open_connections_gauge{style="unary",method="/xmtp.xmtpv4.message_api.PublishApi/PublishPayerEnvelopes"}"#;
    node.until_sample(open, 500.0).await;
    assert_serves(&node).await;
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}
