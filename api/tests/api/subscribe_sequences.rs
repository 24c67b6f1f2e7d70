//! Requests of `Subscribe` in any order and with any content: each stream ends with a status that its requests explain,
//! and the node goes on.
//!
//! The bytes of the requests are mutated as well. The target `subscribe-requests` of the package `fuzz` runs far more
//! sequences through the checks alone; here a server answers them.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use http_body_util::BodyExt as _;
use pb::subscribe_request::v1::mutate::Subscription as Add;
use pb::subscribe_request::v1::{Mutate, Request as Ask};
use pb::subscribe_request::{V1, Version};
use pb::subscribe_response::v1::Response as Frame;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tonic::Code;
use tonic::transport::Channel;

use crate::common::*;

const SUBSCRIBE: &str = "/xmtp.xmtpv4.message_api.QueryApi/Subscribe";
const SEQUENCES: u64 = 400;

/// The frames of a stream, and its end.
struct StreamResult {
    frames: Vec<Frame>,
    code: Code,
    text: String,
}

/// Sends requests, then half-closes, and reads to the end.
async fn talk(channel: &Channel, body: Vec<u8>) -> StreamResult {
    let body = tonic::body::Body::new(http_body_util::Full::new(Bytes::from(body)));
    let request = http::Request::post(SUBSCRIBE)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let response = tower::ServiceExt::oneshot(channel.clone(), request).await.unwrap();
    let in_head = tonic::Status::from_header_map(response.headers());
    let collected = response.into_body().collect().await.unwrap();
    let in_trailers = collected.trailers().and_then(tonic::Status::from_header_map);
    let status = in_head.or(in_trailers).expect("a status");
    let mut rest = collected.to_bytes();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let head = rest.split_to(5);
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let answer = pb::SubscribeResponse::decode(rest.split_to(len)).unwrap();
        let Some(pb::subscribe_response::Version::V1(v1)) = answer.version else { continue };
        frames.extend(v1.response);
    }
    StreamResult { frames, code: status.code(), text: status.message().to_owned() }
}

fn some_topic(rng: &mut StdRng) -> Bytes {
    match rng.random_range(0..30) {
        0 => Bytes::new(),
        1 => vec![200, 1, 2].into(),
        2 => vec![0; 300].into(),
        _ => topic_bytes(rng.random_range(1..6)),
    }
}

fn some_mutate(rng: &mut StdRng) -> Mutate {
    let topics = |rng: &mut StdRng| -> Vec<Bytes> {
        (0..rng.random_range(0..4)).map(|_| some_topic(rng)).collect()
    };
    let add = |rng: &mut StdRng, topic| {
        let entry = (rng.random_range(99..102), rng.random_range(0..9));
        let last_seen = rng.random_bool(0.5).then(|| wire_cursor([entry]));
        Add { topic, last_seen }
    };
    let adds = topics(rng).into_iter().map(|topic| add(rng, topic)).collect();
    Mutate {
        adds,
        removes: topics(rng),
        mutate_id: rng.random_range(0..5),
        history_only: rng.random_bool(0.2),
    }
}

fn some_request(rng: &mut StdRng) -> pb::SubscribeRequest {
    let nonce = rng.random_range(0..4);
    let request = match rng.random_range(0..12) {
        0 => Some(Ask::Ping(pb::Ping { nonce })),
        1 => Some(Ask::Pong(pb::Pong { nonce })),
        2 => None,
        3 if rng.random_bool(0.2) => return pb::SubscribeRequest { version: None },
        _ => Some(Ask::Mutate(some_mutate(rng))),
    };
    pb::SubscribeRequest { version: Some(Version::V1(V1 { request })) }
}

/// Flips a bit, cuts the end off or repeats a part.
fn mutated(rng: &mut StdRng, mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.is_empty() {
        return vec![rng.random()];
    }
    let at = rng.random_range(0..bytes.len());
    match rng.random_range(0..3) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes.truncate(at),
        _ => bytes.extend_from_within(at..),
    }
    bytes
}

/// One stream's requests, framed.
fn some_sequence(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let hostile = rng.random_bool(0.4);
    let request = |rng: &mut StdRng| {
        let bytes = some_request(rng).encode_to_vec();
        if hostile && rng.random_bool(0.3) { mutated(rng, bytes) } else { bytes }
    };
    (0..rng.random_range(0..12)).map(|_| request(rng)).collect()
}

/// Answers that the requests demand of a stream that ends well: nonces of pings in order, and ids of Mutates.
fn demanded(requests: &[Vec<u8>]) -> (Vec<u64>, Vec<u64>) {
    let (mut pongs, mut completed) = (Vec::new(), Vec::new());
    for request in requests {
        let request = pb::SubscribeRequest::decode(&request[..]).expect("the stream ended well");
        let Some(Version::V1(v1)) = request.version else { panic!("the stream ended well") };
        match v1.request {
            Some(Ask::Ping(ping)) => pongs.push(ping.nonce),
            Some(Ask::Mutate(mutate)) => completed.push(mutate.mutate_id),
            Some(Ask::Pong(_)) | None => {}
        }
    }
    completed.sort_unstable();
    (pongs, completed)
}

fn answered(frames: &[Frame]) -> (Vec<u64>, Vec<u64>) {
    let (mut pongs, mut completed) = (Vec::new(), Vec::new());
    for frame in frames {
        match frame {
            Frame::Pong(pong) => pongs.push(pong.nonce),
            Frame::CatchupComplete(complete) => completed.push(complete.mutate_id),
            _ => {}
        }
    }
    completed.sort_unstable();
    (pongs, completed)
}

#[tokio::test]
async fn requests_in_any_order_end_their_stream_alone_and_are_each_answered_once() {
    let node = node().await;
    for group in 1..5 {
        node.publish(vec![message(group, "a"), message(group, "b")]).await;
    }
    let channel = node.channel().await;
    let mut well = 0;
    for seed in 0..SEQUENCES {
        let rng = &mut StdRng::seed_from_u64(seed);
        let requests = some_sequence(rng);
        let mut body: Vec<u8> = requests.iter().flat_map(|it| framed(it)).collect();
        let is_cut = rng.random_bool(0.1) && !body.is_empty();
        if is_cut {
            body.truncate(rng.random_range(0..body.len()));
        }
        let result = talk(&channel, body).await;
        let (code, text) = (result.code, &result.text);
        assert!(matches!(result.frames.first(), Some(Frame::Started(_))), "seed {seed}");
        match code {
            Code::Ok if !is_cut => {
                well += 1;
                assert_eq!(answered(&result.frames), demanded(&requests), "seed {seed}");
            }
            Code::Ok | Code::InvalidArgument | Code::ResourceExhausted => {}
            // A request whose end is missing.
            Code::Unavailable if is_cut => {}
            _ => panic!("seed {seed}: {code} {text}"),
        }
    }
    assert!(well > SEQUENCES / 10, "{well} streams ended well");
    node.until_sample("xmtp_subscribers", 0.0).await;
    node.publish(vec![message(9, "after")]).await;
}

/// All requests come at once, and the last one ends the stream.
#[tokio::test]
async fn what_comes_before_a_request_of_an_unknown_version_is_answered() {
    let node = node().await;
    let channel = node.channel().await;
    let asks = |nonce| {
        let remove =
            Mutate { removes: vec![topic_bytes(1)], mutate_id: nonce, ..Mutate::default() };
        [Ask::Ping(pb::Ping { nonce }), Ask::Mutate(remove)]
    };
    let request =
        |ask| pb::SubscribeRequest { version: Some(Version::V1(V1 { request: Some(ask) })) };
    let requests = (1..=9).flat_map(asks).map(request);
    let requests = requests.chain([pb::SubscribeRequest { version: None }]);
    let body = requests.flat_map(|it| framed(&it.encode_to_vec())).collect();
    let result = talk(&channel, body).await;
    assert_eq!(result.code, Code::InvalidArgument, "{}", result.text);
    assert_eq!(result.text, "unrecognized SubscribeRequest version");
    let numbers: Vec<u64> = (1..=9).collect();
    assert_eq!(answered(&result.frames), (numbers.clone(), numbers));
}

/// Both requests come at once, so the wave of the first one is in flight at the second.
#[tokio::test]
async fn a_wave_in_flight_keeps_its_id_and_the_topics_whose_history_it_reads() {
    let node = node().await;
    node.publish(vec![message(1, "a")]).await;
    let channel = node.channel().await;
    let adding = |mutate_id, history_only| {
        let adds = vec![Add { topic: topic_bytes(1), last_seen: None }];
        Mutate { adds, mutate_id, history_only, ..Mutate::default() }
    };
    let empty = Mutate { mutate_id: 7, ..Mutate::default() };
    let again = Mutate { removes: vec![topic_bytes(1)], ..adding(8, false) };
    for (first, second, text) in [
        (adding(7, false), empty, "mutate_id 7 names a wave that is still in flight"),
        (adding(7, true), again, "has a history_only wave in flight"),
    ] {
        let body = [first, second].into_iter().flat_map(|mutate| {
            let version = Some(Version::V1(V1 { request: Some(Ask::Mutate(mutate)) }));
            framed(&pb::SubscribeRequest { version }.encode_to_vec())
        });
        let result = talk(&channel, body.collect()).await;
        assert_eq!(result.code, Code::InvalidArgument, "{}", result.text);
        assert!(result.text.contains(text), "{}", result.text);
    }
}
