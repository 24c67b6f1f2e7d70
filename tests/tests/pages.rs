//! Pages of large envelopes: cut where a message would become too large, never refused, and put
//! together they are everything.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Cursor, Topic};
use hawser_tests::harness::client::Client;
use hawser_tests::harness::envelopes::{group_message, group_topic, payer, sign};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{seed, strand};
use rand::rngs::StdRng;
use tonic::Code;

/// The largest message that clients and peers take.
const MESSAGE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;
const GROUP: [u8; 16] = [1; 16];

/// Bytes of an envelope in an answer: one byte of tag, the length, and the envelope.
fn message_len(envelopes: &[Bytes]) -> usize {
    envelopes.iter().map(|bytes| 1 + prost::length_delimiter_len(bytes.len()) + bytes.len()).sum()
}

fn signed(node: &Node, body_len: usize, rng: &mut StdRng) -> pb::PayerEnvelope {
    sign(&group_message(GROUP, body_len, rng), node.id, &payer(1))
}

/// Publishes `count` envelopes of about one length, about 10 MB at once.
async fn publish(node: &Node, count: usize, body_len: usize, rng: &mut StdRng) -> Vec<Bytes> {
    let at_once = (10_000_000 / body_len).clamp(1, 100);
    let mut answers = Vec::new();
    while answers.len() < count {
        let batch = at_once.min(count - answers.len());
        let batch = (0..batch).map(|_| signed(node, body_len, rng)).collect();
        answers.extend(node.client().publish(batch).await.unwrap());
    }
    answers
}

/// Everything, page by page.
async fn read(client: &Client, node: &Node, topics: Option<&[Topic]>) -> Vec<Bytes> {
    let mut all = Vec::new();
    let mut after = Cursor::new();
    loop {
        let page = match topics {
            Some(topics) => client.query_topics(topics, &after, 0).await.unwrap(),
            None => client.query_originators(&[node.id], &after, 0).await.unwrap(),
        };
        assert!(message_len(&page) <= MESSAGE_LEN_BYTES_MAX, "a page too large to be received");
        if page.is_empty() {
            return all;
        }
        page.iter().for_each(|bytes| after.advance(strand::id_of(bytes)));
        all.extend(page);
    }
}

/// Lengths that fill a page to its last bytes, with few and with many envelopes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_that_are_full_to_the_brim_are_answered() {
    for in_a_page in [3, 640] {
        let network = Network::start(1).await;
        let node = &network.nodes[0];
        let mut rng = seed::rng(seed::seed(), in_a_page as u64);
        let probe = publish(node, 1, MESSAGE_LEN_BYTES_MAX / in_a_page - 1_000, &mut rng).await;
        let missing = MESSAGE_LEN_BYTES_MAX / in_a_page - message_len(&probe);
        // A few bytes below an equal share: what is around the envelopes has to fit as well.
        for spare in [4 * 1024 / in_a_page + 2, 32] {
            let body_len = MESSAGE_LEN_BYTES_MAX / in_a_page - 1_000 + missing - spare;
            publish(node, in_a_page + 1, body_len, &mut rng).await;
        }
        let client = node.client();
        let by_strand = read(&client, node, None).await;
        assert_eq!(by_strand.len(), 2 * (in_a_page + 1) + 1);
        let topics = [group_topic(GROUP)];
        assert!(read(&client, node, Some(&topics)).await == by_strand);
    }
}

/// A node must be able to show everything that it accepts: the largest accepted envelope is read back
/// in every way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_envelope_that_is_accepted_can_be_read_back() {
    let network = Network::start(2).await;
    let [node, other] = [&network.nodes[0], &network.nodes[1]];
    let client = node.client();
    let mut rng = seed::rng(seed::seed(), 0);
    let mut answers = Vec::new();
    // Rule 16 keeps 2 KiB of an answer for what wraps an envelope.
    for body_len in (MESSAGE_LEN_BYTES_MAX - 2_900..MESSAGE_LEN_BYTES_MAX - 2_048).rev().step_by(16)
    {
        match client.publish(vec![signed(node, body_len, &mut rng)]).await {
            Ok(answer) => {
                answers = answer;
                break;
            }
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
    }
    assert!(!answers.is_empty(), "none of these was taken");
    let topics = [group_topic(GROUP)];
    network.converged().await;
    for client in [client, other.client()] {
        assert!(read(&client, node, None).await == answers);
        assert!(read(&client, node, Some(&topics)).await == answers);
        let newest = client.newest(vec![topics[0].as_bytes().clone()]).await.unwrap();
        assert!(newest == [answers.last().cloned()]);
        let mut stream = client.subscribe_originators(&[node.id], &Cursor::new()).await.unwrap();
        let mut streamed = Vec::new();
        while streamed.len() < answers.len() {
            streamed.extend(stream.next().await.unwrap().unwrap().envelopes);
        }
        assert!(streamed == answers);
    }
}
