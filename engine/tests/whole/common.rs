//! An engine over an in-memory store, and envelopes to feed it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hawser_engine::ports::{
    Clock, IdentityJudge, NodeRecord, PayloadValidator, Registry, TrustingJudge,
};
use hawser_engine::price;
use hawser_engine::runtime::{Engine, EngineSettings, Ports, PublishSettings, PublisherThreads};
use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, Topic, TopicKind};
use hawser_rules::{PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable};
use hawser_storage::{Facts, Store, StoreIdentity, Validity};
use prost::Message as _;
use tokio::sync::watch;

pub const NODE: OriginatorId = OriginatorId(100);
pub const START_NS: i64 = 1_750_000_000_000_000_000;

/// The time does not change unless a test moves it.
pub struct TestClock(pub AtomicI64);

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

pub struct Node {
    pub clock: Arc<TestClock>,
    pub engine: Engine,
    pub threads: PublisherThreads,
    pub registry: watch::Sender<Arc<Registry>>,
    pub rates: watch::Sender<Arc<RateTable>>,
}

pub fn node_key() -> SecretKey {
    SecretKey::from_bytes(&[1; 32]).unwrap()
}

pub fn payer(index: u8) -> SecretKey {
    SecretKey::from_bytes(&[index + 10; 32]).unwrap()
}

/// A store of this node without any row.
pub fn empty_store() -> Store {
    let identity =
        StoreIdentity { network: "test".into(), node: NODE, public_key: node_key().public_key() };
    Store::in_memory(identity, price::price).unwrap()
}

/// A store with a rate.
pub fn store() -> Store {
    let store = empty_store();
    record_rates(&store, &[rate()]);
    store
}

pub fn record() -> NodeRecord {
    NodeRecord {
        id: NODE,
        public_key: node_key().public_key(),
        owner: node_key().public_key().address(),
        http_address: Some("http://127.0.0.1:5050".into()),
        quic_address: None,
        canonical: true,
    }
}

pub fn rate() -> Rate {
    Rate {
        start_unix_s: 0,
        message_fee: PicoDollarPrice(1000),
        storage_fee: PicoDollarsPerByteDay(3),
        congestion_fee: PicoDollarPrice(0),
        target_rate_per_minute: 0,
    }
}

/// Records rates, as their owner does before it hands them out.
pub fn record_rates(store: &Store, rates: &[Rate]) {
    store.record_rates(rates).unwrap();
}

pub fn start(store: Store) -> Node {
    start_with(store, true)
}

pub fn start_with(store: Store, idempotent: bool) -> Node {
    start_judging(store, idempotent, Arc::new(TrustingJudge))
}

pub fn start_judging(store: Store, idempotent: bool, judge: Arc<dyn IdentityJudge>) -> Node {
    start_publishing(
        store,
        PublishSettings { idempotent, require_balance: false, publishes_per_payer: None },
        judge,
    )
}

pub fn start_publishing(
    store: Store,
    publish: PublishSettings,
    judge: Arc<dyn IdentityJudge>,
) -> Node {
    let (registry, registry_receiver) =
        watch::channel(Arc::new([record()].into_iter().collect::<Registry>()));
    let (rates, rates_receiver) =
        watch::channel(Arc::new(RateTable::new(vec![rate()], None).unwrap()));
    let clock = Arc::new(TestClock(AtomicI64::new(START_NS)));
    let ports = Ports {
        clock: clock.clone(),
        validator: Arc::new(Forms),
        identities: judge,
        registry: registry_receiver,
        rates: rates_receiver,
    };
    let settings = EngineSettings { publish, workers: 2 };
    let (engine, threads) = Engine::start(node_key(), settings, ports, store).unwrap();
    Node { clock, engine, threads, registry, rates }
}

/// An MLS private message as application data: group id, epoch 1, and `text` as its ciphertext.
pub fn frame(group: u8, content_type: u8, text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 1, 0, 2, 16];
    frame.extend([group; 16]);
    frame.extend(1u64.to_be_bytes());
    frame.push(content_type);
    frame.extend([0, 0]);
    assert!(text.len() < 1 << 14);
    frame.extend((0x4000 | u16::try_from(text.len()).unwrap().max(64)).to_be_bytes());
    frame.extend(text);
    frame.resize(frame.len() + 64usize.saturating_sub(text.len()), 0);
    frame
}

pub fn client(topic: &Topic, depends_on: Option<pb::Cursor>, payload: Payload) -> Bytes {
    pb::ClientEnvelope {
        aad: Some(pb::AuthenticatedData { target_topic: topic.as_bytes().clone(), depends_on }),
        payload: Some(payload),
    }
    .encode_to_vec()
    .into()
}

pub fn group_topic(group: u8) -> Topic {
    Topic::new(TopicKind::GroupMessages, &[group; 16]).unwrap()
}

pub fn group_payload(frame: Vec<u8>) -> Payload {
    let v1 = V1 { data: frame.into(), sender_hmac: Bytes::new(), should_push: false };
    Payload::GroupMessage(GroupMessageInput { version: Some(Version::V1(v1)) })
}

/// A message that a payer wants this node to order.
pub fn message(group: u8, text: &str) -> pb::PayerEnvelope {
    let payload = group_payload(frame(group, 1, text.as_bytes()));
    sign(client(&group_topic(group), None, payload), 60)
}

pub fn sign(client: Bytes, retention_days: u32) -> pb::PayerEnvelope {
    PayerEnvelope::sign(client, NODE, retention_days, &payer(0))
}

/// Prices all marked minutes again, as a task of the node does. Those of a strand whose marks are changing wait.
pub fn reprice(
    store: &Store,
    derive: &(dyn Fn(EnvelopeId, &Bytes, Validity) -> Option<Facts> + Sync),
) {
    loop {
        store.reprice(derive, usize::MAX).unwrap();
        if !store.has_unpriced() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}
