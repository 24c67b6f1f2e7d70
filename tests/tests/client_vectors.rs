//! The envelopes of a real client go in through the public API of one node and are read back from the
//! others, byte for byte, and never before the commit that it comes after.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use bytes::Bytes;
use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SecretKey, SequenceId, Topic};
use hawser_tests::harness::binary::hawser;
use hawser_tests::harness::client::{Client, Subscription};
use hawser_tests::harness::envelopes::sign;
use hawser_tests::harness::network::{Network, forget_settings};
use hawser_tests::harness::process::Process;
use hawser_tests::harness::vectors::{self, Captured, Route};
use hawser_tests::harness::wait::{self, WAIT_MAX};
use hawser_tests::harness::{ports, strand};
use serde_json::Value;
use tempfile::TempDir;

const NODES: u16 = 3;
const FIRST: OriginatorId = OriginatorId(100);

/// A network as a developer starts it.
struct Dev {
    base_port: u16,
    folder: TempDir,
    process: Process,
}

impl Dev {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base_port = ports::dev_base(NODES);
        let mut command = Command::new(hawser());
        command
            .args(["dev", "--nodes", &NODES.to_string(), "--base-port", &base_port.to_string()])
            .arg("--data-dir")
            .arg(folder.path().join("dev"))
            .arg("--chain-file")
            .arg(vectors::path());
        forget_settings(&mut command);
        let process = Process::start("hawser dev", command, &folder.path().join("output"));
        let mut dev = Self { base_port, folder, process };
        dev.ready().await;
        dev
    }

    /// The description of the network is there when all of it is ready.
    async fn ready(&mut self) {
        let described = self.folder.path().join("dev").join("network.json");
        let process = &mut self.process;
        wait::until("the network is described", async || {
            if let Some(status) = process.ended() {
                panic!("hawser dev has ended: {status}");
            }
            described.is_file().then_some(())
        })
        .await;
    }

    /// Ends it in order, nodes and all.
    fn stop(mut self) {
        assert!(self.process.terminate().success());
    }

    fn port(&self, number: u16) -> u16 {
        self.base_port + 100 * number
    }

    fn client(&self, number: u16) -> Client {
        Client::new(self.port(number))
    }

    fn payer_key_file(&self) -> PathBuf {
        let network = self.folder.path().join("dev").join("network.json");
        let network: Value = serde_json::from_slice(&std::fs::read(network).unwrap()).unwrap();
        network["payer_key_file"].as_str().unwrap().into()
    }

    fn payer(&self) -> SecretKey {
        let text = std::fs::read_to_string(self.payer_key_file()).unwrap();
        SecretKey::from_hex(text.trim()).unwrap()
    }

    /// `hawser publish` of the whole capture at the first node: the ids, in the order of the file.
    async fn publish(&self) -> Vec<EnvelopeId> {
        let file = self.folder.path().join("session.jsonl");
        std::fs::write(&file, vectors::accepted_lines()).unwrap();
        let mut command = tokio::process::Command::new(hawser());
        command
            .args(["--json", "publish", "--node", &format!("127.0.0.1:{}", self.base_port)])
            .arg("--payer-key-file")
            .arg(self.payer_key_file())
            .arg("--file")
            .arg(file);
        let output = command.output().await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
        let printed: Value = serde_json::from_str(&printed).unwrap();
        let ids = printed["ids"].as_array().unwrap().iter().map(|id| {
            let (originator, sequence) = id.as_str().unwrap().split_once(':').unwrap();
            let originator = OriginatorId(originator.parse().unwrap());
            EnvelopeId::new(originator, SequenceId(sequence.parse().unwrap()))
        });
        ids.collect()
    }
}

/// The captured envelopes as nodes accept them at any time, by the originator that orders them.
struct Capture {
    lines: Vec<Captured>,
}

impl Capture {
    fn new() -> Self {
        Self { lines: vectors::accepted() }
    }

    fn of(&self, route: Route) -> impl Iterator<Item = &Captured> {
        self.lines.iter().filter(move |line| line.route == route)
    }

    fn topics(&self) -> Vec<Topic> {
        let topics: BTreeSet<_> = self.lines.iter().map(|line| line.topic.clone()).collect();
        topics.into_iter().collect()
    }

    /// The client's bytes on a topic, sorted.
    fn on(&self, topic: &Topic) -> Vec<Bytes> {
        let lines = self.lines.iter().filter(|line| line.topic == *topic);
        sorted(lines.map(|line| line.client_bytes.clone()))
    }
}

fn sorted(bytes: impl Iterator<Item = Bytes>) -> Vec<Bytes> {
    let mut bytes: Vec<_> = bytes.collect();
    bytes.sort();
    bytes
}

/// State of a reader of topics; every envelope that it is shown must come after those that it
/// depends on.
#[derive(Default)]
struct Causal {
    seen: BTreeMap<EnvelopeId, Bytes>,
}

impl Causal {
    #[track_caller]
    fn take(&mut self, bytes: &Bytes) {
        let envelope = strand::open(bytes);
        for needed in envelope.unsigned().payer().client().depends_on() {
            let shown = needed.sequence == SequenceId::NONE || self.seen.contains_key(needed);
            assert!(shown, "{} came before {needed}, on which it depends", envelope.id());
        }
        let before = self.seen.insert(envelope.id(), bytes.clone());
        assert_eq!(before, None, "{} came twice", envelope.id());
    }

    fn client_bytes(&self) -> Vec<Bytes> {
        sorted(self.seen.values().map(strand::client_bytes_of))
    }
}

/// All of a topic by queries, `limit` envelopes at a time.
async fn query_all(client: &Client, topic: &Topic, limit: u32) -> Causal {
    let mut causal = Causal::default();
    let mut after = Cursor::new();
    loop {
        let topics = std::slice::from_ref(topic);
        let page = client.query_topics(topics, &after, limit).await.unwrap();
        if page.is_empty() {
            return causal;
        }
        for bytes in page {
            causal.take(&bytes);
            after.advance(strand::id_of(&bytes));
        }
    }
}

/// Reads a stream until `count` envelopes have come.
async fn read(mut stream: Subscription, count: usize) -> Causal {
    let mut causal = Causal::default();
    while causal.seen.len() < count {
        let frame = tokio::time::timeout(WAIT_MAX, stream.next()).await.expect("goes on");
        for bytes in frame.unwrap().expect("does not end").envelopes {
            causal.take(&bytes);
        }
    }
    causal
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_envelopes_come_back_from_other_nodes_byte_for_byte() {
    let capture = Capture::new();
    let dev = Dev::start().await;
    let filters: Vec<_> =
        capture.topics().into_iter().map(|topic| (topic, Cursor::new())).collect();
    let mut live = Vec::new();
    for number in 1..NODES {
        let stream = dev.client(number).subscribe_topics(&filters).await.unwrap();
        live.push(tokio::spawn(read(stream, capture.lines.len())));
    }

    let ids = dev.publish().await;
    let sent: Vec<_> = capture.of(Route::Node).cloned().collect();
    assert_eq!(ids.len(), sent.len());
    let answers = answers(&dev, &sent).await;
    assert_eq!(answers.iter().map(strand::id_of).collect::<Vec<_>>(), ids);
    for (answer, sent) in answers.iter().zip(&sent) {
        assert_eq!(strand::client_bytes_of(answer), sent.client_bytes);
    }

    for stream in live {
        let causal = stream.await.unwrap();
        assert_eq!(
            causal.client_bytes(),
            sorted(capture.lines.iter().map(|line| line.client_bytes.clone()))
        );
        let of_first = causal.seen.into_iter().filter(|(id, _)| id.originator == FIRST);
        assert_eq!(of_first.map(|(_, bytes)| bytes).collect::<Vec<_>>(), answers);
    }
    for number in 1..NODES {
        let client = dev.client(number);
        let strand = strand::read(&client, FIRST).await;
        assert_eq!(strand.into_values().collect::<Vec<_>>(), answers);
        for topic in capture.topics() {
            for limit in [0, 1, 3] {
                let causal = query_all(&client, &topic, limit).await;
                assert_eq!(causal.client_bytes(), capture.on(&topic), "{topic} by {limit}");
            }
        }
    }
    assert_chains_are_equal(&dev, &capture).await;
    dev.stop();
}

/// Returns the answers to `hawser publish`: publishing the same again gets the same answers.
async fn answers(dev: &Dev, sent: &[Captured]) -> Vec<Bytes> {
    let payer = dev.payer();
    let mut answers = Vec::new();
    for line in sent {
        let envelope = sign(&line.client_bytes, FIRST, &payer);
        answers.extend(dev.client(0).publish(vec![envelope]).await.unwrap());
    }
    answers
}

/// The strands of the chain are the same bytes on every node, and hold what the file says.
async fn assert_chains_are_equal(dev: &Dev, capture: &Capture) {
    for (originator, route) in [
        (OriginatorId::GROUP_MESSAGES, Route::ChainGroup),
        (OriginatorId::IDENTITY_UPDATES, Route::ChainIdentity),
    ] {
        let first = strand::read(&dev.client(0), originator).await;
        let wanted: Vec<_> = capture.of(route).map(|line| line.client_bytes.clone()).collect();
        assert_eq!(first.values().map(strand::client_bytes_of).collect::<Vec<_>>(), wanted);
        for number in 1..NODES {
            assert_eq!(strand::read(&dev.client(number), originator).await, first);
        }
    }
}

/// One node has read the chain and takes messages; the other one gets these messages long before
/// it reads the commits that they come after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_shows_a_message_before_its_commit_even_when_the_chain_is_late() {
    let capture = Capture::new();
    let mut network = Network::new(2);
    let late_chain = network.nodes[1].folder().join("chain.jsonl");
    std::fs::write(&late_chain, "").unwrap();
    for (number, path) in [vectors::path(), late_chain.clone()].into_iter().enumerate() {
        let path = path.to_str().unwrap().to_owned();
        network.nodes[number].arguments = vec!["--chain-file".into(), path];
    }
    network.start_all().await;
    let [first, second] = [&network.nodes[0], &network.nodes[1]];
    let commits = capture.of(Route::ChainGroup).count() as u64;
    wait::until("the first node has read the chain", async || {
        let cursor = first.client().cursor().await.ok()?;
        (cursor.get(OriginatorId::GROUP_MESSAGES).0 == commits).then_some(())
    })
    .await;

    let client = second.client();
    let topics = capture.topics();
    let filters: Vec<_> = topics.iter().map(|topic| (topic.clone(), Cursor::new())).collect();
    let by_topics = client.subscribe_topics(&filters).await.unwrap();
    let query = hawser_proto::pb::xmtp::xmtpv4::message_api::EnvelopesQuery {
        topics: topics.iter().map(|topic| topic.as_bytes().clone()).collect(),
        last_seen: Some(Cursor::new().to_pb()),
        ..Default::default()
    };
    let by_query = client.subscribe_envelopes(Some(query)).await.unwrap();
    let streams =
        [by_topics, by_query].map(|stream| tokio::spawn(read(stream, capture.lines.len())));

    let payer = hawser_tests::harness::envelopes::payer(1);
    for line in capture.of(Route::Node) {
        let envelope = sign(&line.client_bytes, first.id, &payer);
        first.client().publish(vec![envelope]).await.unwrap();
    }
    let head = first.client().cursor().await.unwrap().get(first.id);
    wait::until("the second node has the messages", async || {
        (client.cursor().await.ok()?.get(first.id) == head).then_some(())
    })
    .await;
    // They are there for peers, and hidden from clients.
    assert_eq!(strand::read(&client, first.id).await.len() as u64, head.0);
    assert_shows_nothing_early(&client, &topics).await;

    let text = std::fs::read_to_string(vectors::path()).unwrap();
    for line in text.lines().filter(|line| line.contains("\"chain:")) {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().append(true).open(&late_chain).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        assert_shows_nothing_early(&client, &topics).await;
    }
    for stream in streams {
        let causal = stream.await.unwrap();
        assert_eq!(
            causal.client_bytes(),
            sorted(capture.lines.iter().map(|line| line.client_bytes.clone()))
        );
    }
    for topic in &topics {
        assert_eq!(query_all(&client, topic, 2).await.client_bytes(), capture.on(topic), "{topic}");
    }
}

/// Looks at every topic alone and at all of them with one cursor.
async fn assert_shows_nothing_early(client: &Client, topics: &[Topic]) {
    let mut causal = Causal::default();
    for bytes in client.query_topics(topics, &Cursor::new(), 0).await.unwrap() {
        causal.take(&bytes);
    }
    for topic in topics {
        query_all(client, topic, 1).await;
    }
}
