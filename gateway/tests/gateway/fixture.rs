//! Test fixtures: a gateway over fake nodes and a fake chain, its clients, and envelopes to publish.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::thread::{self, ThreadId};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hawser_chain::admin::WeiPerGas;
use hawser_gateway::chain::{
    ChainPublishError, ChainWriter, OnChain, SenderFigures, UnawaitedPayload,
};
use hawser_gateway::routing::ChainTopic;
use hawser_gateway::{GatewayHandle, GatewayPorts, GatewaySettings};
use hawser_proto::pb::xmtp::identity::associations::{IdentityAction, IdentityUpdate};
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::mls::api::v1::{GroupMessageInput, WelcomeMessageInput};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::payer_api as api;
use hawser_proto::pb::xmtp::xmtpv4::payer_api::payer_api_client::PayerApiClient;
use hawser_proto::{Address, Bytes, SecretKey, SequenceId, TransactionHash};
use hawser_rules::{NodeRecord, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable, Registry};
use parking_lot::Mutex;
use prost::Message as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::fake_node::{FakeNode, key_of};

/// Longest time that a test waits for an event.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct Net {
    pub(crate) gateway: GatewayHandle,
    pub(crate) nodes: Vec<FakeNode>,
    pub(crate) chain: Arc<FakeChain>,
    records: watch::Sender<Arc<Registry>>,
    _rates: watch::Sender<Arc<RateTable>>,
}

pub(crate) fn rates() -> RateTable {
    let rate = Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(100),
        storage_fee: PicoDollarsPerByteDay(200),
        congestion_fee: PicoDollarPrice(300),
        target_rate_per_minute: 6000,
    };
    RateTable::new(vec![rate], None).unwrap()
}

impl Net {
    pub(crate) async fn start(count: u32) -> Self {
        Self::with(count, |_| {}, |_| {}).await
    }

    pub(crate) async fn with(
        count: u32,
        adjust: impl FnOnce(&mut GatewaySettings),
        adjust_ports: impl FnOnce(&mut GatewayPorts),
    ) -> Self {
        let mut nodes = Vec::new();
        for number in 1..=count {
            nodes.push(FakeNode::start(number * 100).await);
        }
        let registry = Arc::new(nodes.iter().map(record).collect());
        let chain = Arc::new(FakeChain::default());
        let (net, reaches_nodes) =
            Self::gateway(registry, nodes, chain, adjust, adjust_ports).await;
        if reaches_nodes {
            net.until_up(net.nodes.len()).await;
        }
        net
    }

    /// Starts another gateway for the same nodes and the same chain.
    pub(crate) async fn beside(
        &self,
        adjust: impl FnOnce(&mut GatewaySettings),
        adjust_ports: impl FnOnce(&mut GatewayPorts),
    ) -> Self {
        let (registry, chain) = (self.records.borrow().clone(), self.chain.clone());
        let (net, _) = Self::gateway(registry, Vec::new(), chain, adjust, adjust_ports).await;
        net.until_up(self.nodes.len()).await;
        net
    }

    /// Starts a gateway. Also returns true if it may call the nodes.
    async fn gateway(
        registry: Arc<Registry>,
        nodes: Vec<FakeNode>,
        chain: Arc<FakeChain>,
        adjust: impl FnOnce(&mut GatewaySettings),
        adjust_ports: impl FnOnce(&mut GatewayPorts),
    ) -> (Self, bool) {
        let (records, registry) = watch::channel(registry);
        let (rates, rates_receiver) = watch::channel(Arc::new(rates()));
        let mut ports = GatewayPorts {
            registry,
            rates: rates_receiver,
            lists: None,
            deposit: watch::channel(None).1,
            rates_wanted: Arc::default(),
            chain: Some(chain.clone()),
            tenant_chains: BTreeMap::new(),
            transaction_times: Default::default(),
            chain_record: None,
            identity: None,
            redis: None,
        };
        adjust_ports(&mut ports);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut settings = GatewaySettings {
            listen: any,
            metrics: Some(any),
            attempt_timeout: Duration::from_secs(5),
            allow_private_nodes: true,
            ..GatewaySettings::new(SecretKey::from_bytes(&[9; 32]).unwrap())
        };
        adjust(&mut settings);
        let reaches_nodes = settings.allow_private_nodes;
        let gateway = hawser_gateway::start(settings, ports).await.unwrap();
        (Self { gateway, nodes, chain, records, _rates: rates }, reaches_nodes)
    }

    async fn until_up(&self, count: usize) {
        let up = "\"serves\": true";
        until(async || self.page("/status").await.1.matches(up).count() == count).await;
    }

    /// Publishes the registry again with the current nodes.
    pub(crate) fn register(&self) {
        self.records.send_replace(Arc::new(self.nodes.iter().map(record).collect()));
    }

    /// Publishes the registry again, in which a node has no usable address now.
    pub(crate) fn register_without_address(&self, id: u32) {
        let registered = |node: &FakeNode| {
            let record = record(node);
            let http_address = record.http_address.filter(|_| node.id.0 != id);
            NodeRecord { http_address, ..record }
        };
        self.records.send_replace(Arc::new(self.nodes.iter().map(registered).collect()));
    }

    pub(crate) async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.gateway.address());
        Endpoint::from_shared(url).unwrap().connect().await.unwrap()
    }

    pub(crate) async fn client(&self) -> PayerApiClient<Channel> {
        PayerApiClient::new(self.channel().await)
    }

    pub(crate) async fn publish(
        &self,
        envelopes: Vec<pb::ClientEnvelope>,
    ) -> Result<Vec<pb::OriginatorEnvelope>, Status> {
        let request = api::PublishClientEnvelopesRequest { envelopes };
        let answer = self.client().await.publish_client_envelopes(request).await?;
        Ok(answer.into_inner().originator_envelopes)
    }

    /// Publishes envelopes, and shows the payload at this place of the chain at these nodes meanwhile.
    pub(crate) async fn publish_shown(
        &self,
        envelopes: Vec<pb::ClientEnvelope>,
        place: usize,
        nodes: &[FakeNode],
    ) -> Result<Vec<pb::OriginatorEnvelope>, Status> {
        tokio::join!(self.publish(envelopes), self.chain.shown_by(place, nodes)).0
    }

    /// Repeats a request until it is answered, like a client whose request ends before a node shows the envelopes.
    pub(crate) async fn publish_until_shown(
        &self,
        envelopes: &[pb::ClientEnvelope],
    ) -> Vec<pb::OriginatorEnvelope> {
        loop {
            if let Ok(answer) = self.publish(envelopes.to_vec()).await {
                return answer;
            }
        }
    }

    pub(crate) async fn get_nodes(&self) -> BTreeMap<u32, String> {
        self.client().await.get_nodes(api::GetNodesRequest {}).await.unwrap().into_inner().nodes
    }

    /// Gets a page of the operators' port: its status and its text.
    pub(crate) async fn page(&self, path: &str) -> (u16, String) {
        page_at(self.gateway.metrics_address().unwrap(), path).await
    }

    /// Gets a page as JSON.
    pub(crate) async fn json(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.page(path).await;
        (status, serde_json::from_str(&text).unwrap())
    }

    /// Returns the names of the conditions that are not met.
    pub(crate) async fn unmet(&self) -> Vec<String> {
        let (status, page) = self.json("/readyz").await;
        let unmet = page["conditions"].as_array().unwrap().iter().filter(|it| it["met"] == false);
        let unmet: Vec<_> = unmet.map(|it| it["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!((status == 200, &page["ready"]), (unmet.is_empty(), &unmet.is_empty().into()));
        unmet
    }

    /// Returns the value of a metrics sample; 0 if it is absent.
    pub(crate) async fn sample(&self, name: &str) -> u64 {
        let page = self.page("/metrics").await.1;
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }

    /// Returns the number of nodes that hold this client envelope.
    pub(crate) fn held_by(&self, envelope: &pb::ClientEnvelope) -> usize {
        let bytes = Bytes::from(envelope.encode_to_vec());
        let times = |node: &FakeNode| node.clients().iter().filter(|held| **held == bytes).count();
        self.nodes.iter().map(times).sum()
    }

    pub(crate) fn node_of(&self, id: u32) -> &FakeNode {
        self.nodes.iter().find(|node| node.id.0 == id).unwrap()
    }
}

fn record(node: &FakeNode) -> NodeRecord {
    NodeRecord {
        id: node.id,
        public_key: key_of(node.id.0).public_key(),
        owner: Address([1; 20]),
        http_address: Some(node.url()),
        quic_address: None,
        canonical: true,
    }
}

/// Gets a page of the operators' port at this address: its status and its text.
pub(crate) async fn page_at(address: SocketAddr, path: &str) -> (u16, String) {
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answer = String::from_utf8(raw(address, head.as_bytes()).await).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let is_in_chunks = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_in_chunks { dechunked(body) } else { body.to_owned() };
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

/// Joins chunks, each of which has its length in hexadecimal before it.
fn dechunked(mut chunks: &str) -> String {
    let mut whole = String::new();
    while let Some((len, rest)) = chunks.split_once("\r\n") {
        let (chunk, rest) = rest.split_at(usize::from_str_radix(len, 16).unwrap());
        whole.push_str(chunk);
        chunks = rest.strip_prefix("\r\n").unwrap();
    }
    whole
}

/// Sends bytes and reads until the other end closes.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

/// Waits until a condition holds.
pub(crate) async fn until(so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("it never came");
}

/// A fake app chain: numbers payloads, and makes nodes show them on request.
#[derive(Default)]
pub(crate) struct FakeChain {
    pub(crate) taken: Mutex<Vec<(ChainTopic, Bytes)>>,
    /// If set, equal payloads get one place, as from senders of several gateways that share a Redis.
    pub(crate) one_each: AtomicBool,
    /// All payloads that it was given, repeats with the same place included.
    pub(crate) given: AtomicUsize,
    /// Number of places by which a reorganisation has moved every payload. The transactions stay the same.
    pub(crate) moved_by: AtomicU64,
    /// If set, its endpoints show transactions that were sent before.
    pub(crate) finds: AtomicBool,
    /// Number of payloads that were looked for in their transactions.
    pub(crate) sought: AtomicUsize,
    /// If set, it panics with each payload that it is given.
    pub(crate) panics: AtomicBool,
    /// Errors to return instead of the next answers, once each.
    pub(crate) faults: Mutex<Vec<ChainPublishError>>,
    /// The price of gas.
    pub(crate) gas_price: Mutex<WeiPerGas>,
    /// The threads that have read this price.
    pub(crate) price_readers: Mutex<HashSet<ThreadId>>,
    /// The status values of its sender.
    pub(crate) figures: Mutex<SenderFigures>,
    /// While true, payloads are taken and not answered.
    pub(crate) held: watch::Sender<bool>,
    /// The spending ceiling that it has reached.
    pub(crate) ceiling: Mutex<Option<String>>,
    /// The reason it sends no transactions.
    pub(crate) halted: Mutex<Option<String>>,
    /// Payloads that no call waits for, for one of its gateways.
    pub(crate) resumed: Mutex<Vec<UnawaitedPayload>>,
}

impl FakeChain {
    pub(crate) fn count(&self) -> usize {
        self.taken.lock().len()
    }

    /// Returns the envelope that nodes make of a payload, with its id.
    pub(crate) fn envelope(&self, place: usize) -> (u32, u64, pb::OriginatorEnvelope) {
        let taken = self.taken.lock();
        let (topic, payload) = &taken[place];
        let originator = u32::from(matches!(topic, ChainTopic::Inbox(_)));
        let sequence = self.sequence_of(place);
        (originator, sequence, indexed(originator, sequence, payload.clone()))
    }

    fn sequence_of(&self, place: usize) -> u64 {
        place as u64 + 1 + self.moved_by.load(Relaxed)
    }

    /// Waits for a payload, and makes a node show it.
    pub(crate) async fn shown_by(&self, place: usize, nodes: &[FakeNode]) {
        until(async || self.count() > place).await;
        let (originator, sequence, envelope) = self.envelope(place);
        nodes.iter().for_each(|node| node.show(originator, sequence, &envelope));
    }
}

/// Returns the envelope that nodes make of a payload on the chain.
pub(crate) fn indexed(originator: u32, sequence: u64, payload: Bytes) -> pb::OriginatorEnvelope {
    let payer =
        pb::PayerEnvelope { unsigned_client_envelope: payload, ..pb::PayerEnvelope::default() };
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: originator,
        originator_sequence_id: sequence,
        originator_ns: 1_750_000_000_000_000_000,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        ..pb::UnsignedOriginatorEnvelope::default()
    };
    let proof = pb::BlockchainProof { transaction_hash: Bytes::from_static(&[7; 32]) };
    pb::OriginatorEnvelope {
        unsigned_originator_envelope: statement.encode_to_vec().into(),
        proof: Some(pb::originator_envelope::Proof::BlockchainProof(proof)),
    }
}

impl ChainWriter for FakeChain {
    fn publish(
        &self,
        topic: ChainTopic,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<OnChain, ChainPublishError>> {
        async move {
            // The first poll decides the order.
            if let Some(fault) = self.faults.lock().pop() {
                return Err(fault);
            }
            let place = {
                let mut taken = self.taken.lock();
                self.given.fetch_add(1, Relaxed);
                let is_equal = |(_, known): &(_, Bytes)| *known == payload;
                let known = taken.iter().position(is_equal).filter(|_| self.one_each.load(Relaxed));
                known.unwrap_or_else(|| {
                    taken.push((topic, payload));
                    taken.len() - 1
                })
            };
            assert!(!self.panics.load(Relaxed), "a bug, which a test wants");
            let mut held = self.held.subscribe();
            let _ = held.wait_for(|held| !held).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            let sequence_id = SequenceId(self.sequence_of(place));
            Ok(OnChain { sequence_id, transaction_hash: TRANSACTION, block_time_s: 1_750_000_000 })
        }
        .boxed()
    }

    fn find(
        &self,
        _: ChainTopic,
        payload: Bytes,
        transaction_hash: TransactionHash,
    ) -> BoxFuture<'_, Option<OnChain>> {
        self.sought.fetch_add(1, Relaxed);
        let shown = self.finds.load(Relaxed) && transaction_hash == TRANSACTION;
        let place = self.taken.lock().iter().position(|(_, known)| shown && *known == payload);
        let found = place.map(|place| {
            let sequence_id = SequenceId(self.sequence_of(place));
            OnChain { sequence_id, transaction_hash, block_time_s: 1_750_000_000 }
        });
        std::future::ready(found).boxed()
    }

    fn next_resumed(&self) -> BoxFuture<'_, Option<UnawaitedPayload>> {
        async {
            while self.resumed.lock().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.resumed.lock().pop()
        }
        .boxed()
    }

    fn reachable(&self) -> BoxFuture<'_, Result<(), String>> {
        async { Ok(()) }.boxed()
    }

    fn gas_price(&self) -> WeiPerGas {
        self.price_readers.lock().insert(thread::current().id());
        *self.gas_price.lock()
    }

    fn figures(&self) -> SenderFigures {
        *self.figures.lock()
    }

    fn ceiling_reached(&self) -> Option<String> {
        self.ceiling.lock().clone()
    }

    fn halted(&self) -> Option<String> {
        self.halted.lock().clone()
    }
}

/// Hash of the transaction of every payload on the chain.
pub(crate) const TRANSACTION: TransactionHash = TransactionHash([7; 32]);

fn client(topic: Vec<u8>, payload: pb::client_envelope::Payload) -> pb::ClientEnvelope {
    let aad = pb::AuthenticatedData { target_topic: topic.into(), depends_on: None };
    pb::ClientEnvelope { aad: Some(aad), payload: Some(payload) }
}

fn group_message(group: [u8; 16], content_type: u8, text: &[u8]) -> pb::ClientEnvelope {
    let mut data = vec![0, 1, 0, 2, 16];
    data.extend(group);
    data.extend([0, 0, 0, 0, 0, 0, 0, 1, content_type, 0, 0]);
    // A length of up to 63 takes one byte, a longer one two, whose highest bits say so (RFC 9420 §2.1.2).
    match text.len() {
        len @ 0..64 => data.push(u8::try_from(len).unwrap()),
        len => data.extend((0x4000 | u16::try_from(len).unwrap()).to_be_bytes()),
    }
    data.extend(text);
    let v1 = V1 { data: data.into(), ..V1::default() };
    let message = GroupMessageInput { version: Some(Version::V1(v1)) };
    client([&[0][..], &group].concat(), pb::client_envelope::Payload::GroupMessage(message))
}

/// Returns an application message of a group.
pub(crate) fn message(group: u8, text: &str) -> pb::ClientEnvelope {
    group_message([group; 16], 1, text.as_bytes())
}

/// Returns a commit of a group.
pub(crate) fn commit(group: u8, text: &str) -> pb::ClientEnvelope {
    group_message([group; 16], 3, text.as_bytes())
}

/// Returns a proposal of a group.
pub(crate) fn proposal(group: u8, text: &str) -> pb::ClientEnvelope {
    group_message([group; 16], 2, text.as_bytes())
}

/// Returns a welcome for an installation.
pub(crate) fn welcome(installation: u8) -> pb::ClientEnvelope {
    let welcome = pb::client_envelope::Payload::WelcomeMessage(WelcomeMessageInput::default());
    client([&[1][..], &[installation; 32]].concat(), welcome)
}

/// Returns a key package of a published client.
pub(crate) fn key_package() -> pb::ClientEnvelope {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/client/envelopes.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let mut lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let line = lines.find(|line| line["kind"] == "key_package").unwrap();
    pb::ClientEnvelope::decode(&hex::decode(line["hex"].as_str().unwrap()).unwrap()[..]).unwrap()
}

/// Returns an update of an inbox.
pub(crate) fn identity_update(inbox: [u8; 32]) -> pb::ClientEnvelope {
    numbered_update(inbox, 0)
}

/// Returns an update of an inbox, with a number.
pub(crate) fn numbered_update(inbox: [u8; 32], number: u64) -> pb::ClientEnvelope {
    let update = IdentityUpdate {
        inbox_id: hex::encode(inbox),
        client_timestamp_ns: number,
        actions: vec![IdentityAction::default()],
    };
    client([&[2][..], &inbox].concat(), pb::client_envelope::Payload::IdentityUpdate(update))
}
