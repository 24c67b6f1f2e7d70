//! Nodes on the loopback interface with logs in memory, and a registry that they share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_engine::Engine;
use hawser_engine::ports::{Clock, NodeRecord, PayloadValidator, Registry, TrustingJudge};
use hawser_engine::runtime::replication::{
    CatchUp, MigratedStrands, Replication, ReplicationSettings, ReplicationTasks,
};
use hawser_engine::runtime::{EngineSettings, Ports, PublishSettings, PublisherThreads};
use hawser_net::{
    Endpoint, NetSettings, NetStartError, PeerTransport, PlainTextPeers, PrivatePeers,
};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::{Absence, Absences};
use hawser_storage::{LogItem, Store, StoreIdentity};
use tokio::sync::watch;

use super::envelopes::{NOW_NS, key, message, rates};

/// Longer than anything takes that works, also on a busy machine.
pub const WAIT_MAX: Duration = Duration::from_secs(120);

/// An address without a node.
pub const UNREACHABLE: &str = "127.0.0.1:1";

struct StoppedClock;

impl Clock for StoppedClock {
    fn now_ns(&self) -> i64 {
        NOW_NS
    }
}

struct AnyPackage;

impl PayloadValidator for AnyPackage {
    fn key_package(&self, _tls_bytes: &Bytes) -> Result<(), String> {
        Ok(())
    }
}

/// The registry that all nodes of a test read.
pub struct Network {
    records: BTreeMap<OriginatorId, NodeRecord>,
    absences: BTreeMap<OriginatorId, Absences>,
    registry: watch::Sender<Arc<Registry>>,
    /// Source and signer of the strands of the older network, for nodes that start from now on.
    pub migrated: Option<MigratedStrands>,
    /// The setting of nodes that start from now on.
    pub catch_up: CatchUp,
    /// The way to reach peers, of nodes that start from now on.
    pub transport: PeerTransport,
    /// The peers that are dialled in private networks, by nodes that start from now on. The URLs of nodes are private,
    /// so by default they dial each other.
    pub private: PrivatePeers,
    /// The URLs of nodes that are registered from now on with other ones than usual.
    pub urls: BTreeMap<OriginatorId, String>,
}

impl Network {
    pub fn new() -> Self {
        Self {
            records: BTreeMap::new(),
            absences: BTreeMap::new(),
            registry: watch::Sender::default(),
            migrated: None,
            catch_up: CatchUp::Verified,
            transport: PeerTransport::Quic,
            private: PrivatePeers::default(),
            urls: BTreeMap::new(),
        }
    }

    /// Registers a peer that no node reaches, and starts node 100.
    pub fn with_peer(peer: OriginatorId) -> (Self, Node) {
        let mut network = Self::new();
        network.register(peer, UNREACHABLE);
        let node = network.start(100);
        (network, node)
    }

    /// Registers a node; `address` is where others will dial it.
    pub fn register(&mut self, id: OriginatorId, address: impl ToString) {
        let url = self.urls.get(&id).cloned().unwrap_or_else(|| format!("http://{UNREACHABLE}"));
        let record = NodeRecord {
            id,
            public_key: key(id).public_key(),
            owner: key(id).public_key().address(),
            http_address: Some(url),
            quic_address: Some(address.to_string()),
            canonical: true,
        };
        self.records.insert(id, record);
        self.publish();
    }

    /// Registers the key of another node for this one, as a reorganisation of the chain may.
    pub fn change_key(&mut self, id: OriginatorId, signer: OriginatorId) {
        self.records.get_mut(&id).unwrap().public_key = key(signer).public_key();
        self.publish();
    }

    /// Removes a node from the network as of a time, unix seconds. Its record stays.
    pub fn remove(&mut self, id: u32, from_s: u64) {
        let id = OriginatorId(id);
        self.records.get_mut(&id).unwrap().canonical = false;
        self.set_absence(id, Absence { from_s, until_s: None });
    }

    /// Brings a node back into the network that was absent between these times, unix seconds.
    pub fn bring_back(&mut self, id: u32, from_s: u64, until_s: u64) {
        let id = OriginatorId(id);
        self.records.get_mut(&id).unwrap().canonical = true;
        self.set_absence(id, Absence { from_s, until_s: Some(until_s) });
    }

    fn set_absence(&mut self, id: OriginatorId, absence: Absence) {
        self.absences.insert(id, Absences::new(vec![absence]).unwrap());
        self.publish();
    }

    fn publish(&self) {
        let registry: Registry = self.records.values().cloned().collect();
        self.registry.send_replace(Arc::new(registry.with_absences(self.absences.clone())));
    }

    /// Starts a node with an empty log and registers it.
    pub fn start(&mut self, id: u32) -> Node {
        self.start_on(empty_store(OriginatorId(id)), "127.0.0.1:0")
    }

    /// Starts a node on its log and registers it.
    pub fn start_on(&mut self, store: Store, listen: &str) -> Node {
        let id = store.identity().node;
        let ports = Ports {
            clock: Arc::new(StoppedClock),
            validator: Arc::new(AnyPackage),
            identities: Arc::new(TrustingJudge),
            registry: self.registry.subscribe(),
            rates: watch::Sender::new(Arc::new(rates())).subscribe(),
        };
        let publish =
            PublishSettings { idempotent: true, require_balance: false, publishes_per_payer: None };
        let settings = EngineSettings { publish, workers: 2 };
        let (engine, threads) = Engine::start(key(id), settings, ports, store).unwrap();
        let settings = ReplicationSettings {
            migrated: self.migrated,
            catch_up: self.catch_up,
            ..ReplicationSettings::default()
        };
        let (replication, tasks) = Replication::start(&engine, settings);
        if !self.records.contains_key(&id) {
            self.register(id, UNREACHABLE); // before it dials
        }
        let endpoint = self.listen(id, listen, &replication);
        self.register(id, endpoint.local_addr());
        Node { id, engine, replication, tasks, endpoint, threads }
    }

    fn listen(&self, id: OriginatorId, listen: &str, replication: &Replication) -> Endpoint {
        let end = Instant::now() + WAIT_MAX;
        loop {
            let settings = NetSettings {
                listen: listen.parse().unwrap(),
                key: key(id),
                transport: self.transport,
                plain_text: PlainTextPeers::Private,
                private: self.private,
                observed: None,
            };
            match Endpoint::start(settings, self.registry.subscribe(), replication.clone()) {
                Ok(endpoint) => return endpoint,
                // An endpoint that has just been shut down gives its socket back soon.
                Err(NetStartError::Listen { .. }) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The empty log of a node.
pub fn empty_store(id: OriginatorId) -> Store {
    let public_key = key(id).public_key();
    let identity = StoreIdentity { network: "test".to_owned(), node: id, public_key };
    Store::in_memory(identity, hawser_engine::price::price).unwrap()
}

pub struct Node {
    pub id: OriginatorId,
    pub engine: Engine,
    pub replication: Replication,
    tasks: ReplicationTasks,
    pub endpoint: Endpoint,
    threads: PublisherThreads,
}

impl Node {
    /// Publishes what no other publish has said, and gives the envelope.
    pub async fn publish(&self, text: u64) -> Bytes {
        self.engine.own_strand_asked().await;
        self.engine.publish(vec![message(self.id, text)]).await.unwrap().remove(0)
    }

    /// Returns the envelopes that the node holds of a strand, by place.
    pub fn held(&self, originator: u32) -> BTreeMap<u64, Bytes> {
        let snapshot = self.engine.store().snapshot();
        let start = EnvelopeId::new(OriginatorId(originator), SequenceId::NONE);
        let items = snapshot.log(start, SequenceId::MAX).map(Result::unwrap);
        let envelope = |item| match item {
            LogItem::Envelope { id, bytes, .. } => Some((id.sequence.0, bytes)),
            LogItem::Skipped { .. } => None,
        };
        items.filter_map(envelope).collect()
    }

    /// Waits until a strand is durable here up to a place.
    pub async fn wait_for(&self, originator: u32, sequence: u64) {
        let what = format!("{} has {originator}:{sequence}", self.id);
        let heads = self.engine.heads().clone();
        eventually(&what, || heads.get().get(OriginatorId(originator)).0 >= sequence).await;
    }

    /// Stops in order, and gives the log back.
    pub async fn stop(self) -> Store {
        self.endpoint.shutdown().await;
        self.tasks.stop().await;
        self.engine.drain();
        self.threads.join();
        self.engine.store().clone()
    }
}

/// Waits for something that will be.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT_MAX;
    while !is_so() {
        assert!(Instant::now() < end, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
