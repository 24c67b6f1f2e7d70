//! A server over an engine in memory, callers for it, and envelopes to send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hawser_api::{
    ApiHandle, ApiSettings, ChainState, ContractReading, NoPeers, PeerView, ReadingState,
};
use hawser_engine::chain_strand::ChainEvent;
use hawser_engine::facts;
use hawser_engine::ports::{Clock, NodeRecord, PayloadValidator, Registry, TrustingJudge};
use hawser_engine::runtime::{Engine, EngineSettings, Ports, PublishSettings};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Payload, UnsealedEnvelope};
use hawser_proto::pb::xmtp::identity::associations::identity_action::Kind as Action;
use hawser_proto::pb::xmtp::identity::associations::{IdentityAction, IdentityUpdate};
use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::notification_api_client::NotificationApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::publish_api_client::PublishApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::query_api_client::QueryApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::{EnvelopeId, OriginatorId, SecretKey, SequenceId, Topic, TopicKind};
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
use hawser_serve::metrics::Histogram;
use hawser_storage::{Change, LogEntry, Store, StoreIdentity};
use http_body_util::BodyExt as _;
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

pub(crate) const NODE: OriginatorId = OriginatorId(100);
pub(crate) const PEER: OriginatorId = OriginatorId(200);
pub(crate) const START_NS: i64 = 1_750_000_000_000_000_000;
pub(crate) const MESSAGE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;

/// The time does not change unless a test moves it.
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now_ns(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Forms;

impl PayloadValidator for Forms {
    fn key_package(&self, tls_bytes: &Bytes) -> Result<(), String> {
        hawser_rules::key_package_form(tls_bytes)
    }
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) api: ApiHandle,
    pub(crate) engine: Engine,
    pub(crate) registry: watch::Sender<Arc<Registry>>,
    pub(crate) rates: watch::Sender<Arc<RateTable>>,
    pub(crate) clock: Arc<TestClock>,
}

pub(crate) async fn node() -> Node {
    node_with(|_| {}, Arc::new(NoPeers)).await
}

pub(crate) async fn node_with(
    adjust: impl FnOnce(&mut ApiSettings),
    peers: Arc<dyn PeerView>,
) -> Node {
    let identity =
        StoreIdentity { network: "test".into(), node: NODE, public_key: node_key().public_key() };
    let store = Store::in_memory(identity, hawser_engine::price::price).unwrap();
    store.record_rates(&[rate()]).unwrap();
    let (registry, registry_receiver) =
        watch::channel(Arc::new([record()].into_iter().collect::<Registry>()));
    let table = RateTable::new(vec![rate()], None).unwrap();
    let (rates, rates_receiver) = watch::channel(Arc::new(table));
    let clock = Arc::new(TestClock(AtomicI64::new(START_NS)));
    let ports = Ports {
        clock: clock.clone(),
        validator: Arc::new(Forms),
        identities: Arc::new(TrustingJudge),
        registry: registry_receiver,
        rates: rates_receiver,
    };
    let settings = EngineSettings {
        publish: PublishSettings {
            idempotent: true,
            require_balance: false,
            publishes_per_payer: None,
        },
        workers: 2,
    };
    let (engine, _threads) = Engine::start(node_key(), settings, ports, store).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = ApiSettings {
        listen: Some(any),
        metrics: Some(any),
        version: "1.2.3".into(),
        ..ApiSettings::default()
    };
    adjust(&mut settings);
    let api = hawser_api::start(settings, engine.clone(), peers).await.unwrap();
    Node { api, engine, registry, rates, clock }
}

impl Node {
    /// The address for clients.
    pub(crate) fn address(&self) -> SocketAddr {
        self.api.address().unwrap()
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address()))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub(crate) async fn replication(&self) -> ReplicationApiClient<Channel> {
        ReplicationApiClient::new(self.channel().await)
            .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
            .max_encoding_message_size(usize::MAX)
    }

    pub(crate) async fn query(&self) -> QueryApiClient<Channel> {
        QueryApiClient::new(self.channel().await)
    }

    pub(crate) async fn publishing(&self) -> PublishApiClient<Channel> {
        PublishApiClient::new(self.channel().await)
    }

    pub(crate) async fn notification(&self) -> NotificationApiClient<Channel> {
        NotificationApiClient::new(self.channel().await)
    }

    /// Publishes past the API.
    pub(crate) async fn publish(&self, envelopes: Vec<pb_env::PayerEnvelope>) -> Vec<Bytes> {
        self.engine.publish(envelopes).await.unwrap()
    }

    /// Appends a commit of a group to the chain's strand.
    pub(crate) fn commit_on_chain(&self, sequence: u64, group: u8) {
        let payload = group_payload(frame(group, 3, b"commit"));
        let event = ChainEvent {
            sequence: SequenceId(sequence),
            block_time_s: 1_750_000_000 + sequence,
            transaction_hash: [7; 32],
            client_bytes: client(&group_topic(group), None, payload),
            topic_identifier: None,
            bootstrapped: false,
        };
        let appender = self.engine.chain_appender();
        appender.append(OriginatorId::GROUP_MESSAGES, &[event], None).unwrap();
    }

    /// Takes over what another node has ordered, whatever it depends on.
    pub(crate) fn ordered_by_peer(
        &self,
        sequence: u64,
        group: u8,
        depends_on: Option<pb_env::Cursor>,
    ) {
        let at_ns = START_NS + i64::try_from(sequence).unwrap();
        self.dated_by_peer(sequence, group, at_ns, depends_on);
    }

    /// Commits an envelope that another node has ordered and dated arbitrarily.
    pub(crate) fn dated_by_peer(
        &self,
        sequence: u64,
        group: u8,
        originator_ns: i64,
        depends_on: Option<pb_env::Cursor>,
    ) {
        let entry = entry_of_peer(sequence, group, originator_ns, depends_on);
        self.engine.committer().commit(vec![Change::Append(entry)]).unwrap();
    }

    /// Has these bytes in the log in place of an envelope of another node, as an error of the disk that no checksum
    /// shows would leave them.
    pub(crate) fn damaged_in_log(&self, sequence: u64, group: u8, bytes: Bytes) {
        let at_ns = START_NS + i64::try_from(sequence).unwrap();
        let entry = LogEntry { bytes, ..entry_of_peer(sequence, group, at_ns, None) };
        self.engine.committer().commit(vec![Change::Append(entry)]).unwrap();
    }

    /// Appends an update of an inbox to the chain's strand.
    pub(crate) fn update_on_chain(&self, sequence: u64, inbox: u8, actions: Vec<Action>) {
        let update = IdentityUpdate {
            actions: actions.into_iter().map(|kind| IdentityAction { kind: Some(kind) }).collect(),
            inbox_id: hex::encode([inbox; 32]),
            ..IdentityUpdate::default()
        };
        let topic = Topic::new(TopicKind::IdentityUpdates, &[inbox; 32]).unwrap();
        let event = ChainEvent {
            sequence: SequenceId(sequence),
            block_time_s: 1_750_000_000 + sequence,
            transaction_hash: [7; 32],
            client_bytes: client(&topic, None, Payload::IdentityUpdate(update)),
            topic_identifier: Some(Bytes::copy_from_slice(&[inbox; 32])),
            bootstrapped: false,
        };
        let appender = self.engine.chain_appender();
        appender.append(OriginatorId::IDENTITY_UPDATES, &[event], None).unwrap();
    }

    pub(crate) fn set_registry(&self, records: impl IntoIterator<Item = NodeRecord>) {
        self.registry.send_replace(Arc::new(records.into_iter().collect()));
    }

    /// Sends a request over HTTP/1.1 to the port for clients, and returns the answer.
    pub(crate) async fn ask(&self, request: &[u8]) -> Http1Answer {
        Http1Answer::read(exchange(self.address(), request).await)
    }

    /// A page of the operators' port: status and body.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        let answer = read_page(self.api.metrics_address().unwrap(), path, "").await;
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    /// The status for operators.
    pub(crate) async fn status(&self) -> Value {
        serde_json::from_str(&self.page("/status").await.1).unwrap()
    }

    /// The metrics for a scraper that sends this `Accept`: the content type and the body.
    pub(crate) async fn scrape(&self, accept: &str) -> (String, String) {
        let accept = format!("accept: {accept}\r\n");
        let answer = read_page(self.api.metrics_address().unwrap(), "/metrics", &accept).await;
        assert_eq!(answer.status, 200);
        (answer.header("content-type").unwrap().to_owned(), String::from_utf8(answer.body).unwrap())
    }

    /// The value of one sample of the scrape, named with its labels as they are written.
    pub(crate) async fn sample(&self, name: &str) -> Option<f64> {
        let (_, page) = self.page("/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    /// Returns the value of a sample once it stays the same.
    pub(crate) async fn steady_sample(&self, name: &str) -> f64 {
        let (mut last, mut same) = (None, 0);
        while same < 20 {
            let value = self.sample(name).await;
            (same, last) = (if value == last { same + 1 } else { 0 }, value);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        last.unwrap()
    }

    /// Waits until a sample has a value; gives up when it has not for very long.
    pub(crate) async fn until_sample(&self, name: &str, value: f64) {
        for _ in 0..4000 {
            if self.sample(name).await == Some(value) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{name} is {:?}, not {value}", self.sample(name).await);
    }
}

pub(crate) fn node_key() -> SecretKey {
    SecretKey::from_bytes(&[1; 32]).unwrap()
}

pub(crate) fn record() -> NodeRecord {
    NodeRecord {
        id: NODE,
        public_key: node_key().public_key(),
        owner: node_key().public_key().address(),
        http_address: Some("http://127.0.0.1:5050".into()),
        quic_address: None,
        canonical: true,
    }
}

pub(crate) fn rate() -> Rate {
    Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(1000),
        storage_fee: PicoDollarsPerByteDay(3),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    }
}

/// An MLS private message: group id, epoch 1, and `text` as its ciphertext. Content type 1 is an
/// application message, 3 a commit.
pub(crate) fn frame(group: u8, content_type: u8, text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 1, 0, 2, 16];
    frame.extend([group; 16]);
    frame.extend(1u64.to_be_bytes());
    frame.push(content_type);
    frame.extend([0, 0]);
    let len = u32::try_from(text.len()).unwrap();
    match len {
        0..64 => frame.push(u8::try_from(len).unwrap()),
        64..16_384 => frame.extend(u16::try_from(0x4000 | len).unwrap().to_be_bytes()),
        _ => frame.extend((0x8000_0000 | len).to_be_bytes()),
    }
    frame.extend(text);
    frame
}

pub(crate) fn client(topic: &Topic, depends_on: Option<pb_env::Cursor>, payload: Payload) -> Bytes {
    pb_env::ClientEnvelope {
        aad: Some(pb_env::AuthenticatedData { target_topic: topic.as_bytes().clone(), depends_on }),
        payload: Some(payload),
    }
    .encode_to_vec()
    .into()
}

pub(crate) fn group_topic(group: u8) -> Topic {
    Topic::new(TopicKind::GroupMessages, &[group; 16]).unwrap()
}

pub(crate) fn topic_bytes(group: u8) -> Bytes {
    group_topic(group).as_bytes().clone()
}

pub(crate) fn group_payload(frame: Vec<u8>) -> Payload {
    let v1 = V1 { data: frame.into(), sender_hmac: Bytes::new(), should_push: false };
    Payload::GroupMessage(GroupMessageInput { version: Some(Version::V1(v1)) })
}

/// A message to a group that a payer wants this node to order.
pub(crate) fn message(group: u8, text: &str) -> pb_env::PayerEnvelope {
    dependent_message(group, text, None)
}

pub(crate) fn dependent_message(
    group: u8,
    text: &str,
    depends_on: Option<pb_env::Cursor>,
) -> pb_env::PayerEnvelope {
    let payload = group_payload(frame(group, 1, text.as_bytes()));
    sign(client(&group_topic(group), depends_on, payload))
}

/// Returns an envelope that another node has ordered and dated arbitrarily.
fn entry_of_peer(
    sequence: u64,
    group: u8,
    originator_ns: i64,
    depends_on: Option<pb_env::Cursor>,
) -> LogEntry {
    let payload = group_payload(frame(group, 1, &sequence.to_be_bytes()));
    let payer = SecretKey::from_bytes(&[10; 32]).unwrap();
    let client = client(&group_topic(group), depends_on, payload);
    let statement = pb_env::UnsignedOriginatorEnvelope {
        originator_node_id: PEER.0,
        originator_sequence_id: sequence,
        originator_ns,
        payer_envelope_bytes: PayerEnvelope::sign(client, PEER, 60, &payer).encode_to_vec().into(),
        ..Default::default()
    };
    let bytes = UnsealedEnvelope::new(&statement).seal(&node_key());
    let envelope = OriginatorEnvelope::parse(bytes.clone()).unwrap();
    let facts = facts::of_statement(envelope.unsigned(), None, NODE);
    LogEntry::valid(envelope.id(), bytes, facts)
}

pub(crate) fn sign(client: Bytes) -> pb_env::PayerEnvelope {
    sign_as(client, 0, 60)
}

pub(crate) fn sign_as(client: Bytes, payer: u8, days: u32) -> pb_env::PayerEnvelope {
    let key = SecretKey::from_bytes(&[payer + 10; 32]).unwrap();
    PayerEnvelope::sign(client, NODE, days, &key)
}

pub(crate) fn wire_cursor<const N: usize>(entries: [(u32, u64); N]) -> pb_env::Cursor {
    pb_env::Cursor { node_id_to_sequence_id: entries.into() }
}

/// The envelopes of a message of `SubscribeOriginators`, each as it is stored.
pub(crate) fn originators_list(
    response: Option<pb::subscribe_originators_response::Response>,
) -> Vec<Bytes> {
    use pb::subscribe_originators_response::{Envelopes, Response};
    response.map_or_else(Vec::new, |Response::Envelopes(list)| {
        Envelopes::decode(list).unwrap().envelopes
    })
}

/// "100:1 100:2", in the order of delivery.
pub(crate) fn ids<E: Shown>(envelopes: &[E]) -> String {
    let ids: Vec<String> = envelopes.iter().map(|envelope| id(envelope).to_string()).collect();
    ids.join(" ")
}

pub(crate) fn id(envelope: &impl Shown) -> EnvelopeId {
    OriginatorEnvelope::parse(envelope.shown()).unwrap().id()
}

/// An envelope in an answer: bytes in pages and streams, a message in others.
pub(crate) trait Shown {
    /// Returns the envelope's bytes.
    fn shown(&self) -> Bytes;
}

impl Shown for pb_env::OriginatorEnvelope {
    fn shown(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

impl Shown for Bytes {
    fn shown(&self) -> Bytes {
        self.clone()
    }
}

pub(crate) fn topics_query(
    groups: impl IntoIterator<Item = u8>,
    last_seen: Option<pb_env::Cursor>,
) -> pb::EnvelopesQuery {
    let topics = groups.into_iter().map(topic_bytes).collect();
    pb::EnvelopesQuery { topics, originator_node_ids: Vec::new(), last_seen }
}

/// A gRPC message with its head.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed
}

/// Sends bytes as the body of a gRPC request, and returns status and text.
pub(crate) async fn call_raw(
    channel: &Channel,
    path: &str,
    body: impl Into<Bytes>,
) -> (tonic::Code, String) {
    let body = http_body_util::Full::new(body.into());
    call_body(channel, path, tonic::body::Body::new(body)).await
}

pub(crate) async fn call_body(
    channel: &Channel,
    path: &str,
    body: tonic::body::Body,
) -> (tonic::Code, String) {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let response = tower::ServiceExt::oneshot(channel.clone(), request).await.unwrap();
    assert_eq!(response.status(), 200);
    let status = match tonic::Status::from_header_map(response.headers()) {
        Some(status) => status,
        None => {
            let collected = response.into_body().collect().await.unwrap();
            tonic::Status::from_header_map(collected.trailers().unwrap()).unwrap()
        }
    };
    (status.code(), status.message().to_owned())
}

/// Sends `request` and reads until the other end closes.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// Returns a call over HTTP/1.1, with further lines of its head.
pub(crate) fn post(path: &str, content_type: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n{headers}\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

/// Reads a page, with further lines of the request's head.
pub(crate) async fn read_page(address: SocketAddr, path: &str, headers: &str) -> Http1Answer {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n");
    Http1Answer::read(exchange(address, request.as_bytes()).await)
}

/// Returns the condition of this name that a page of readiness or of the status shows.
pub(crate) fn condition_of<'a>(page: &'a Value, name: &str) -> Option<&'a Value> {
    page["conditions"].as_array().unwrap().iter().find(|it| it["name"] == name)
}

/// A chain in reach that nothing is read from yet.
pub(crate) fn chain_in_reach(name: &'static str) -> ChainState {
    ChainState {
        name,
        head: Some(5),
        head_time_s: Some(1_750_000_000),
        unseen_for: Some(Duration::ZERO),
        disconnect_max: Duration::from_secs(60),
        pushed: true,
        foreign_push: None,
        endpoints: Vec::new(),
        faults: Vec::new(),
        reorganisations: Vec::new(),
        contracts: Vec::new(),
        lists: Vec::new(),
        account: None,
    }
}

/// A contract that is read up to the head of its chain.
pub(crate) fn contract_at_head() -> ContractReading {
    ContractReading {
        contract: "0x01".into(),
        originator: None,
        state: ReadingState::AtHead,
        read_block: Some(5),
        head_block: Some(5),
        behind_for: None,
        pause: None,
        events: 0,
        bytes: 0,
        pages: 1,
        failed_pages: 0,
        asking: Duration::ZERO,
        storing: Duration::ZERO,
        queries_ms: Histogram::new([1.0]),
        batches_s: Histogram::new([1.0]),
        retries: 0,
        odd: Vec::new(),
        gaps: 0,
    }
}

/// A whole answer over HTTP/1.1.
#[derive(Debug)]
pub(crate) struct Http1Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// Chunks joined.
    pub(crate) body: Vec<u8>,
}

impl Http1Answer {
    pub(crate) fn read(bytes: Vec<u8>) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Self { status, headers, body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = dechunked(&answer.body);
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn dechunked(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = chunked.windows(2).position(|window| window == b"\r\n").unwrap();
        let len = usize::from_str_radix(std::str::from_utf8(&chunked[..end]).unwrap(), 16).unwrap();
        if len == 0 {
            return body;
        }
        body.extend(&chunked[end + 2..end + 2 + len]);
        chunked = &chunked[end + 2 + len + 2..];
    }
}
