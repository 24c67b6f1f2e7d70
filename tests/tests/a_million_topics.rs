//! A stream with as many topics as the protocol allows, at a node with default settings.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::time::Duration;

use bytes::Bytes;
use hawser_conformance::connection::Connection;
use hawser_conformance::duplex::{DuplexStream, Frame, Mutate, add};
use hawser_conformance::http::TargetAddress;
use hawser_proto::Topic;
use hawser_tests::harness::envelopes::{group_message, group_topic, payer, sign};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{seed, wait};
use rand::rngs::StdRng;
use tonic::Code;

/// The maximum numbers of topics of a stream and of adds of a Mutate (`docs/protocol/api.md`, *Subscribe*).
const TOPICS: u64 = 1_000_000;
const ADDS: u64 = 100_000;
/// The least charge of a topic that is live (the same page, *Memory*).
const TOPIC_BYTES: f64 = 82.0;

fn topic(number: u64) -> Topic {
    let mut group = [7; 16];
    group[8..].copy_from_slice(&number.to_be_bytes());
    group_topic(group)
}

async fn publish(node: &Node, number: u64, rng: &mut StdRng) -> Bytes {
    let group: [u8; 16] = topic(number).identifier().try_into().unwrap();
    let signed = sign(&group_message(group, 40, rng), node.id, &payer(1));
    node.client().publish(vec![signed]).await.unwrap().remove(0)
}

fn mutate(mutate_id: u64, numbers: std::ops::Range<u64>) -> Mutate {
    let adds = numbers.map(|number| add(topic(number).as_bytes(), None)).collect();
    Mutate { adds, mutate_id, ..Mutate::default() }
}

/// Reads a wave to its end. Returns its envelopes and the number of its topics.
async fn wave(duplex: &mut DuplexStream, id: u64) -> (Vec<Bytes>, usize) {
    let (mut envelopes, mut topics) = (Vec::new(), 0);
    loop {
        match duplex.receive().await.unwrap() {
            Frame::Envelopes(lane, more) if lane == id => envelopes.extend(more),
            Frame::Live(more) => topics += more.len(),
            Frame::Complete(complete) if complete == id => return (envelopes, topics),
            other => panic!("{other:?}"),
        }
    }
}

async fn charged_bytes(node: &Node) -> f64 {
    node.metrics().await.sum("xmtp_api_memory_bytes", &[])
}

/// The share of a connection alone would end at some 700,000 topics: the rest is lent, and counted in the same budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_a_million_topics_delivers_and_stays_within_the_budget() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let mut rng = seed::rng(seed::seed(), 0);
    let last = TOPICS - 1;
    let history = [publish(node, 0, &mut rng).await, publish(node, last, &mut rng).await];
    let address = TargetAddress::parse(&format!("127.0.0.1:{}", node.port)).unwrap();
    let target = Connection::new(address, Duration::from_secs(120)).unwrap();
    let mut duplex = DuplexStream::open(&target).await.unwrap();
    let limit = node.metrics().await.sum("xmtp_api_memory_limit_bytes", &[]);

    let mut received = Vec::new();
    for (id, first) in (1..=TOPICS / ADDS).map(|id| (id, (id - 1) * ADDS)) {
        duplex.mutate(mutate(id, first..first + ADDS)).await;
        let (envelopes, topics) = wave(&mut duplex, id).await;
        assert_eq!(topics as u64, ADDS, "wave {id}");
        received.extend(envelopes);
        assert!(charged_bytes(node).await <= limit, "wave {id}");
    }
    assert_eq!(received, history);
    let charged = charged_bytes(node).await;
    assert!(charged >= TOPIC_BYTES * TOPICS as f64, "every topic is charged: {charged}");

    // Live, first and last of all; a query beside it is answered.
    let live = [publish(node, last, &mut rng).await, publish(node, 0, &mut rng).await];
    assert_eq!(duplex.live(2).await.unwrap(), live);
    let found = node.client().query_topics(&[topic(last)], &hawser_proto::Cursor::new(), 0).await;
    assert_eq!(found.unwrap(), [history[1].clone(), live[0].clone()]);

    // One more is refused, and what the stream held is given back.
    duplex.mutate(mutate(99, TOPICS..TOPICS + 1)).await;
    duplex.ends_with(Code::ResourceExhausted, "too many topics").await.unwrap();
    drop((duplex, target));
    wait::until("the memory is given back", async || {
        (charged_bytes(node).await < TOPIC_BYTES * ADDS as f64).then_some(())
    })
    .await;
}
