//! Streams that start, stop and resume while nodes publish without pause: nothing is missing,
//! nothing comes twice, each originator ascends.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, Topic};
use hawser_tests::harness::envelopes::{group_topic, payer, sign};
use hawser_tests::harness::load::{Ledger, Plan};
use hawser_tests::harness::network::Network;
use hawser_tests::harness::reader::{Method, Reader};
use hawser_tests::harness::{envelopes, seed, strand};
use rand::RngExt as _;
use rand::rngs::StdRng;

/// Streams that each reader opens, one after the other.
const STREAMS: usize = 60;
const GROUPS: [[u8; 16]; 6] = [[1; 16], [2; 16], [3; 16], [4; 16], [5; 16], [6; 16]];

fn plan(network: &Network, node: usize, seed: u64) -> Plan {
    let node = &network.nodes[node];
    Plan {
        connections: 2,
        batch_max: 4,
        body_len: 16..200,
        groups: GROUPS.to_vec(),
        ..Plan::new(node.port, node.id, seed ^ u64::from(node.id.0))
    }
}

/// Envelopes that a reader must hold in the end.
fn expected(
    ledger: &Ledger,
    wanted: impl Fn(EnvelopeId, &Topic) -> bool,
) -> BTreeMap<EnvelopeId, Bytes> {
    let all = ledger.acknowledged().map(|bytes| (strand::open(bytes), bytes.clone()));
    all.filter(|(envelope, _)| wanted(envelope.id(), envelope.unsigned().payer().client().topic()))
        .map(|(envelope, bytes)| (envelope.id(), bytes))
        .collect()
}

/// Four methods on two nodes, each by two readers who see different parts: eight who leave and
/// come back all the time, some of them to the other node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_start_stop_and_resume_miss_nothing_and_repeat_nothing() {
    let seed = seed::seed();
    let network = Network::start(2).await;
    let originators = network.ids();
    let loads = [0, 1].map(|node| plan(&network, node, seed).start(Vec::new()));

    let mut readers = Vec::new();
    for (number, method) in Method::ALL.into_iter().cycle().take(8).enumerate() {
        let half = number >= 4;
        let topics: Vec<Topic> =
            GROUPS.iter().take(if half { 2 } else { 6 }).map(|group| group_topic(*group)).collect();
        let strands = if half { vec![originators[0]] } else { originators.clone() };
        let ports = [network.nodes[number % 2].port, network.nodes[(number + 1) % 2].port];
        let reader = Reader::new(ports[0], method, topics.clone(), strands.clone());
        let rng = seed::rng(seed, 100 + number as u64);
        readers.push((method, topics, strands, tokio::spawn(come_and_go(reader, rng, ports))));
    }
    let mut come_back = Vec::new();
    for (method, topics, strands, task) in readers {
        come_back.push((method, topics, strands, task.await.unwrap()));
    }

    let mut ledger = Ledger::default();
    for load in loads {
        assert!(!load.is_over(), "publishing has to go on while streams come and go");
        ledger.extend(load.stop().await);
    }
    for (method, topics, strands, mut reader) in come_back {
        let wanted = |id: EnvelopeId, topic: &Topic| match method {
            Method::Topics | Method::EnvelopesByTopics => topics.contains(topic),
            Method::EnvelopesByOriginators | Method::Originators => {
                strands.contains(&id.originator)
            }
        };
        let expected = expected(&ledger, wanted);
        reader.read_until(expected.len()).await;
        assert!(reader.held == expected, "{method:?}: holds something else");
    }
}

/// Opens one stream after the other, each from where the last one ended.
async fn come_and_go(mut reader: Reader, mut rng: StdRng, ports: [u16; 2]) -> Reader {
    for _ in 0..STREAMS {
        reader.connect().await.unwrap();
        // Sometimes it leaves before anything has come.
        for _ in 0..rng.random_range(0..20) {
            reader.read().await;
        }
        if rng.random_ratio(1, 4) {
            reader.move_to(ports[rng.random_range(0..ports.len())]);
        } else {
            reader.disconnect();
        }
    }
    reader
}

/// A reader that pauses delays no other reader, is not cut off, and gets everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_served_from_disk_and_not_cut_off() {
    /// Far more than sockets and queues hold.
    const BODY_LEN: usize = 24 * 1024;
    const COUNT: usize = 1_600;
    let seed = seed::seed();
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let topic = group_topic(GROUPS[0]);
    let mut slow: Vec<Reader> = Method::ALL
        .into_iter()
        .map(|method| Reader::new(node.port, method, vec![topic.clone()], vec![node.id]))
        .collect();
    let mut quick = Reader::new(node.port, Method::Topics, vec![topic.clone()], vec![node.id]);
    let load = Plan {
        connections: 4,
        batch_max: 16,
        groups: vec![GROUPS[0]],
        body_len: BODY_LEN..BODY_LEN + 1,
        envelopes_max: COUNT as u64,
        ..Plan::new(node.port, node.id, seed)
    };
    for reader in &mut slow {
        reader.connect().await.unwrap();
        // The stream has begun, and from here on nothing is taken from it.
        reader.read().await;
    }
    let load = load.start(Vec::new());
    quick.read_until(COUNT).await;
    let ledger = load.join().await;
    let expected = expected(&ledger, |_, _| true);
    quick.read_until(expected.len()).await;
    assert!(quick.held == expected);
    for reader in &mut slow {
        reader.read_until(expected.len()).await;
        assert!(reader.held == expected, "the slow reader holds something else");
    }
}

/// The three orders in which a stream by topics says how far it is: started, history, caught up,
/// then what is new, with nothing of the history after "caught up".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_by_topics_says_when_history_ends() {
    let network = Network::start(1).await;
    let node = &network.nodes[0];
    let client = node.client();
    let mut rng = seed::rng(seed::seed(), 0);
    let mut send = async || {
        let message = envelopes::group_message(GROUPS[0], 50, &mut rng);
        let answer = client.publish(vec![sign(&message, node.id, &payer(1))]).await.unwrap();
        answer[0].clone()
    };
    let history = [send().await, send().await, send().await];
    let filters = [(group_topic(GROUPS[0]), Cursor::new())];
    let mut stream = client.subscribe_topics(&filters).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().status, Some(1), "started");
    let mut caught_up = Vec::new();
    loop {
        let frame = stream.next().await.unwrap().unwrap();
        caught_up.extend(frame.envelopes);
        if frame.status == Some(2) {
            break;
        }
    }
    assert_eq!(caught_up, history);
    let new = send().await;
    let frame = stream.next().await.unwrap().unwrap();
    assert_eq!((frame.envelopes, frame.status), (vec![new], None));
}

/// A cursor is a promise: resuming from every place of a strand, on the other node, gives exactly
/// what follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cursor_resumes_exactly_on_any_node() {
    let seed = seed::seed();
    let network = Network::start(2).await;
    let node = &network.nodes[0];
    let load = Plan { envelopes_max: 60, ..Plan::new(node.port, node.id, seed) };
    let ledger = load.start(Vec::new()).join().await;
    network.converged().await;
    let held = expected(&ledger, |_, _| true);
    let last = *held.keys().next_back().unwrap();
    for after in 0..last.sequence.0 {
        let place = EnvelopeId::new(node.id, hawser_proto::SequenceId(after));
        let cursor: Cursor = [place].into_iter().collect();
        let client = network.nodes[usize::from(after % 2 == 0)].client();
        let mut stream = client.subscribe_originators(&[node.id], &cursor).await.unwrap();
        let mut got = BTreeMap::new();
        while got.keys().next_back() != Some(&last) {
            for bytes in stream.next().await.unwrap().expect("goes on").envelopes {
                got.insert(strand::id_of(&bytes), bytes);
            }
        }
        let rest: BTreeMap<_, _> =
            held.range(place..).filter(|(id, _)| **id != place).map(clone).collect();
        assert!(got == rest, "after {after}");
    }
}

fn clone((id, bytes): (&EnvelopeId, &Bytes)) -> (EnvelopeId, Bytes) {
    (*id, bytes.clone())
}

/// A subscriber may name a strand of which the node holds nothing yet. It gets the strand from its first envelope.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strand_that_begins_later_is_delivered() {
    let network = Network::start(2).await;
    let [first, second] = [&network.nodes[0], &network.nodes[1]];
    let mut reader =
        Reader::new(first.port, Method::Originators, Vec::new(), vec![OriginatorId(200)]);
    reader.connect().await.unwrap();
    let message = envelopes::group_message(GROUPS[0], 50, &mut seed::rng(seed::seed(), 0));
    let answer = second.client().publish(vec![sign(&message, second.id, &payer(1))]).await.unwrap();
    reader.read_until(1).await;
    assert_eq!(reader.held.into_values().collect::<Vec<_>>(), answer);
}

/// A subscription to everything delivers everything from the moment at which the stream has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_everything_misses_nothing_once_it_has_begun() {
    let seed = seed::seed();
    let network = Network::start(2).await;
    let mut streams = Vec::new();
    for node in &network.nodes {
        let mut stream = node.client().subscribe_all().await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().envelopes, Vec::<Bytes>::new());
        streams.push(stream);
    }
    let mut ledger = Ledger::default();
    for node in 0..2 {
        let load = Plan { envelopes_max: 300, ..plan(&network, node, seed) };
        ledger.extend(load.start(Vec::new()).join().await);
    }
    let expected = expected(&ledger, |_, _| true);
    for mut stream in streams {
        let (mut got, mut seen) = (BTreeMap::new(), Cursor::new());
        while got.len() < expected.len() {
            for bytes in stream.next().await.unwrap().expect("goes on").envelopes {
                let id = strand::id_of(&bytes);
                assert!(id.sequence > seen.get(id.originator), "{id} does not ascend");
                seen.advance(id);
                got.insert(id, bytes);
            }
        }
        assert!(got == expected);
    }
}
