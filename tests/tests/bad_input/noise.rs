//! Bytes that are no requests, and requests that are not what they were.

use std::net::Ipv4Addr;

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_tests::harness::client::{PUBLISH_API, QUERY_API};
use hawser_tests::harness::envelopes::{group_message, payer, sign};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{raw, seed, strand, wait};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _};
use tonic::Code;

use super::{assert_goes_on, assert_refused, head};

/// Rounds of everything that is random.
const ROUNDS: usize = 60;
const MEBIBYTE: usize = 1024 * 1024;

/// Everything that the node has counted as failed: calls, requests, connections.
async fn failures(node: &Node) -> f64 {
    let metrics = node.metrics().await;
    [
        "xmtp_api_failed_grpc_requests_counter",
        "xmtp_api_not_grpc_total",
        "xmtp_api_connections_failed_total",
    ]
    .iter()
    .map(|name| metrics.sum(name, &[]))
    .sum()
}

/// The node counts what it has answered, or closed, just after that.
async fn assert_counted(node: &Node, before: f64, what: &str) {
    let counted = async || (failures(node).await > before).then_some(());
    wait::until(&format!("{what} is counted as a failure"), counted).await;
}

fn publish_path() -> String {
    format!("{PUBLISH_API}/PublishPayerEnvelopes")
}

/// A good publish of one envelope, as it is in the body of a call.
fn publish_body(node: &Node, rng: &mut StdRng) -> Vec<u8> {
    let message = group_message([3; 16], 60, rng);
    let request = api::PublishPayerEnvelopesRequest {
        payer_envelopes: vec![sign(&message, node.id, &payer(3))],
    };
    raw::grpc_message(&request.encode_to_vec())
}

/// The raw calls are what clients send; otherwise breaking them would show nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_calls_that_are_whole_are_served() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let call = raw::grpc_web_call(&publish_path(), &publish_body(node, &mut rng));
    let answer = raw::exchange(node.port, &call).await;
    assert!(raw::grpc_web_message(&answer).is_some(), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(head(node).await, 1);
    let call = raw::http2_call(&publish_path(), &publish_body(node, &mut rng));
    assert!(!raw::exchange(node.port, &call).await.is_empty());
    assert_eq!(head(node).await, 2);
    assert_eq!(failures(node).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_requests_are_refused_counted_and_harm_no_other_caller() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let preface = raw::http2_call("/", &[])[..24].to_vec();
    for round in 0..ROUNDS {
        let mut noise = vec![0; rng.random_range(1..3_000)];
        rng.fill_bytes(&mut noise);
        let noise = match round % 4 {
            0 => noise,
            1 => [&preface, &noise[..]].concat(),
            2 => [b"POST / HTTP/1.1\r\n", &noise[..]].concat(),
            // The beginning of a TLS connection.
            _ => [&[0x16, 3, 1], &noise[..]].concat(),
        };
        let before = failures(node).await;
        raw::exchange_and_end(node.port, &noise).await;
        assert_counted(node, before, &format!("round {round}")).await;
    }
    assert_eq!(head(node).await, 0);
    assert_goes_on(node, &mut rng).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_cut_off_are_refused_and_burn_nothing() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let body = publish_body(node, &mut rng);
    // The end of the call is there, but not the end of the message.
    for len in [0, 1, 4, 5, 6, body.len() / 2, body.len() - 1] {
        let before = failures(node).await;
        let call = raw::grpc_web_call(&publish_path(), &body[..len]);
        let answer = raw::exchange_and_end(node.port, &call).await;
        assert_ne!(raw::grpc_status(&answer), Some(0), "{len} bytes");
        assert_counted(node, before, &format!("{len} bytes")).await;
        let call = raw::http2_call(&publish_path(), &body[..len]);
        raw::exchange_and_end(node.port, &call).await;
    }
    // The connection ends in the middle.
    for call in
        [raw::http2_call(&publish_path(), &body), raw::grpc_web_call(&publish_path(), &body)]
    {
        for _ in 0..ROUNDS / 4 {
            let len = rng.random_range(1..call.len() - 1);
            raw::exchange_and_end(node.port, &call[..len]).await;
        }
    }
    assert_eq!(head(node).await, 0);
    assert_goes_on(node, &mut rng).await;
}

/// A flipped bit may leave a request that is good, from another payer for example. So what is
/// stored must be what was answered, place by place, and what was refused must not be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_flipped_bits_are_refused_or_stored_as_answered() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let mut answered: Vec<Bytes> = Vec::new();
    let mut refused = 0;
    for _ in 0..ROUNDS * 4 {
        let mut body = publish_body(node, &mut rng);
        for _ in 0..rng.random_range(1..4) {
            let bit = rng.random_range(0..body.len() * 8);
            body[bit / 8] ^= 1 << (bit % 8);
        }
        let before = head(node).await;
        let call = raw::grpc_web_call(&publish_path(), &body);
        let answer = raw::exchange(node.port, &call).await;
        match raw::grpc_web_message(&answer) {
            Some(message) => {
                let answer = api::PublishPayerEnvelopesResponse::decode(&message[..]).unwrap();
                answered.extend(
                    answer.originator_envelopes.iter().map(|answer| answer.encode_to_vec().into()),
                );
            }
            None => {
                refused += 1;
                assert!(raw::grpc_status(&answer).is_some_and(|status| status != 0));
                assert_eq!(head(node).await, before, "refused and stored");
            }
        }
    }
    let stored = strand::read(&node.client(), node.id).await;
    assert_eq!(stored.into_values().collect::<Vec<_>>(), answered);
    assert!(refused > ROUNDS, "most flips break something");
    assert_goes_on(node, &mut rng).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_over_http2_with_flipped_bits_harm_no_other_caller() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let query = api::QueryEnvelopesRequest::default().encode_to_vec();
    let path = format!("{QUERY_API}/QueryEnvelopes");
    for _ in 0..ROUNDS {
        let mut call = raw::http2_call(&path, &raw::grpc_message(&query));
        for _ in 0..rng.random_range(1..5) {
            let bit = rng.random_range(24 * 8..call.len() * 8);
            call[bit / 8] ^= 1 << (bit % 8);
        }
        raw::exchange_and_end(node.port, &call).await;
    }
    assert_goes_on(node, &mut rng).await;
}

/// A length is a claim of the sender. The cost of reading it must not depend on the claimed value.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_that_are_lies_cost_nothing() {
    let mut network = Network::start(1).await;
    let node = &network.nodes[0];
    // Varints: 2^62, 2^64 − 1, 2 GiB.
    let mut lies: Vec<Vec<u8>> = Vec::new();
    for claim in [1u64 << 62, u64::MAX, 1 << 31] {
        let mut varint = Vec::new();
        prost::encoding::encode_varint(claim, &mut varint);
        lies.push([&[0x0a], &varint[..], b"abc"].concat());
        // The same one layer further in.
        let len = u8::try_from(varint.len() + 4).unwrap();
        lies.push([&[0x0a, len, 0x0a], &varint[..], b"abc"].concat());
    }
    for lie in &lies {
        let before = failures(node).await;
        let call = raw::grpc_web_call(&publish_path(), &raw::grpc_message(lie));
        let answer = raw::exchange(node.port, &call).await;
        assert!(raw::grpc_status(&answer).is_some_and(|status| status != 0), "{lie:x?}");
        assert_counted(node, before, &format!("{lie:x?}")).await;
    }
    // The length of the message itself: 4 GiB, 26 MiB, and nothing behind it.
    for claim in [u32::MAX, 26 * 1024 * 1024] {
        let body = [&[0][..], &claim.to_be_bytes(), b"abc"].concat();
        let answer = raw::exchange(node.port, &raw::grpc_web_call(&publish_path(), &body)).await;
        assert!(raw::grpc_status(&answer).is_some_and(|status| status != 0), "{claim}");
        raw::exchange_and_end(node.port, &raw::http2_call(&publish_path(), &body)).await;
    }
    // The length of an HTTP/1.1 body.
    let call = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web+proto\r\n\
         content-length: 18446744073709551615\r\n\r\n\0\0\0\0\0",
        publish_path()
    );
    raw::exchange_and_end(node.port, call.as_bytes()).await;
    assert_goes_on(node, &mut seed::rng(seed::seed(), 0)).await;
    let held = network.nodes[0].process().memory_bytes_max();
    assert!(held < 1024 * MEBIBYTE as u64, "{held} bytes of memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_26_mebibytes_are_refused_while_others_are_served() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let large = group_message([3; 16], 26 * MEBIBYTE, &mut rng);
    let large = sign(&large, node.id, &payer(1));
    for _ in 0..3 {
        let before = failures(node).await;
        let client = node.client();
        let (answer, ()) =
            tokio::join!(client.publish(vec![large.clone()]), assert_goes_on(node, &mut rng),);
        assert_refused("26 MiB", answer, Code::ResourceExhausted, "");
        assert_counted(node, before, "26 MiB").await;
    }
    let body = raw::grpc_message(
        &api::PublishPayerEnvelopesRequest { payer_envelopes: vec![large] }.encode_to_vec(),
    );
    let answer = raw::exchange(node.port, &raw::grpc_web_call(&publish_path(), &body)).await;
    assert_eq!(raw::grpc_status(&answer), Some(8), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(head(node).await, 3);
}

/// A caller that opens connections and sends nothing does not keep others from being served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_in_nobodys_way() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let mut silent = Vec::new();
    for _ in 0..200 {
        let address = (Ipv4Addr::LOCALHOST, node.port);
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    assert_goes_on(node, &mut seed::rng(seed::seed(), 0)).await;
    drop(silent);
}

/// The QUIC port hears noise too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_on_the_port_for_peers_harms_no_peer() {
    let network = Network::start(2).await;
    let mut rng = seed::rng(seed::seed(), 0);
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    for node in &network.nodes {
        for round in 0..ROUNDS * 5 {
            let mut noise = vec![0; rng.random_range(1..1_400)];
            rng.fill_bytes(&mut noise);
            if round % 2 == 0 {
                // A long header of QUIC version 1.
                noise[0] |= 0xc0;
                for (to, from) in noise.iter_mut().skip(1).zip([0, 0, 0, 1]) {
                    *to = from;
                }
            }
            socket.send_to(&noise, (Ipv4Addr::LOCALHOST, node.port)).await.unwrap();
        }
    }
    assert_goes_on(&network.nodes[0], &mut rng).await;
    network.converged().await;
}
