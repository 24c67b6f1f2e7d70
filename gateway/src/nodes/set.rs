//! The nodes of the network as this gateway sees them: who they are, how they are reached, and
//! which of them can be used now.
//!
//! - `Nodes`: follows the registry; addresses that change are followed as well;
//! - `watch`: looks after one node all the time;
//! - `lag`: who is behind the others.

mod lag;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hawser_proto::pb::xmtp::xmtpv4::message_api::replication_api_client::ReplicationApiClient;
use hawser_proto::{OriginatorId, Topic};
use hawser_rules::{NodeRecord, Registry};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::metrics::NodeNumbers;
use crate::publish::Batcher;
use crate::select::{Candidate, Sticky, Strategy, random_of};
use hawser_serve::MESSAGE_LEN_BYTES_MAX;
use lag::Lags;

/// A node that is later than this is used only if there is no other.
const LAG_MAX: Duration = Duration::from_secs(60);
/// Congestion is counted by the minute.
const CONGESTION_REMEMBERED: Duration = Duration::from_secs(60);
/// Of what a node says its version is.
const VERSION_CHARS_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How a node was when somebody last looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Health {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// It says that it serves.
    Up,
    /// It does not answer, or says that it does not serve.
    Down,
}

/// One node of the canonical network.
pub(crate) struct Node {
    pub(crate) record: NodeRecord,
    /// For looking, so that large publishes do not stand in its way.
    pub(crate) aside: Channel,
    pub(crate) health: tokio::sync::watch::Sender<Health>,
    pub(crate) batcher: Batcher,
    pub(crate) numbers: Arc<NodeNumbers>,
    connect_time: Mutex<Option<Duration>>,
    /// As it says itself, if it does.
    version: Mutex<Option<String>>,
    /// What it has charged last for being busy, picodollars for an envelope, and when.
    congestion_fee: Mutex<Option<(u64, Instant)>>,
    _end: DropGuard,
}

impl Node {
    pub(crate) fn id(&self) -> OriginatorId {
        self.record.id
    }

    pub(crate) fn is_down(&self) -> bool {
        *self.health.borrow() == Health::Down
    }

    pub(crate) fn set_connect_time(&self, time: Option<Duration>) {
        *self.connect_time.lock().unwrap_or_else(PoisonError::into_inner) = time;
    }

    pub(crate) fn is_timed(&self) -> bool {
        self.candidate().connect_time.is_some()
    }

    pub(crate) fn version(&self) -> Option<String> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the node says its version is, for people to read: none if it does not say.
    fn tells_version(&self, told: Option<&str>) {
        let readable = |text: &str| {
            let shown = text.chars().filter(|character| !character.is_control());
            shown.take(VERSION_CHARS_MAX).collect::<String>()
        };
        let told = told.map(readable).filter(|version| !version.is_empty());
        let mut known = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(version) = told.as_deref().filter(|version| Some(*version) != known.as_deref())
        {
            tracing::info!(node_id = self.id().0, version, "what a node runs");
        }
        *known = told;
    }

    /// It has just charged so much for being busy, picodollars for an envelope.
    pub(crate) fn has_charged(&self, congestion_fee: u64) {
        *self.congestion_fee.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((congestion_fee, Instant::now()));
    }

    /// Whether it has lately charged more for being busy than somebody pays for that.
    pub(crate) fn is_dear(&self, congestion_fee_max: Option<u64>) -> bool {
        let Some(max) = congestion_fee_max else { return false };
        let last = *self.congestion_fee.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|(fee, at)| fee > max && at.elapsed() < CONGESTION_REMEMBERED)
    }

    fn candidate(&self) -> Candidate {
        let connect_time = *self.connect_time.lock().unwrap_or_else(PoisonError::into_inner);
        Candidate { id: self.id(), connect_time }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Returns whether two records describe a node that is called in the same way. A gateway never uses
/// the other fields, so their change closes no connection.
fn is_same_node(known: &NodeRecord, record: &NodeRecord) -> bool {
    known.public_key == record.public_key && known.http_address == record.http_address
}

type NodeMap = BTreeMap<OriginatorId, Arc<Node>>;

/// The nodes of the canonical network. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(crate) struct Nodes(Arc<Inner>);

struct Inner {
    strategy: Strategy,
    /// What this gateway's random choices come from.
    seed: u64,
    canonical: RwLock<Arc<NodeMap>>,
    sticky: Mutex<Sticky>,
    lags: Mutex<Lags>,
    end: CancellationToken,
    make: MakeNode,
}

type BeginBatcher = dyn Fn(&NodeRecord, Sending) -> Batcher + Send + Sync;
type Follow = dyn Fn(OriginatorId, Channel, CancellationToken) + Send + Sync;

/// What is started for each node beside looking after it.
pub(crate) struct MakeNode {
    pub(crate) batcher: Box<BeginBatcher>,
    pub(crate) numbers: Box<dyn Fn(OriginatorId) -> Arc<NodeNumbers> + Send + Sync>,
    /// Follows the chain strands at a node until it is told to end.
    pub(crate) follow: Box<Follow>,
    /// How often the time is measured that connecting takes, if it is needed.
    pub(crate) connect_time_every: Option<Duration>,
    pub(crate) connect_timeout: Duration,
}

/// What a batcher sends with.
#[derive(Clone)]
pub(crate) struct Sending {
    pub(crate) client: ReplicationApiClient<Channel>,
    pub(crate) numbers: Arc<NodeNumbers>,
    pub(crate) end: CancellationToken,
}

impl Nodes {
    /// Follows `registry` until `end`.
    pub(crate) fn follow(
        strategy: Strategy,
        mut registry: tokio::sync::watch::Receiver<Arc<Registry>>,
        make: MakeNode,
        end: CancellationToken,
    ) -> Self {
        let nodes = Self(Arc::new(Inner {
            strategy,
            seed: rand::random(),
            canonical: RwLock::default(),
            sticky: Mutex::default(),
            lags: Mutex::default(),
            end: end.clone(),
            make,
        }));
        nodes.take(&registry.borrow_and_update().clone());
        let following = nodes.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = end.cancelled() => return,
                    changed = registry.changed() => {
                        if changed.is_err() {
                            return; // whoever told of changes has ended: the last state stays
                        }
                    }
                }
                let current = registry.borrow_and_update().clone();
                following.take(&current);
            }
        });
        nodes
    }

    /// Takes the registry's records over. Whoever has not changed stays as it is.
    fn take(&self, registry: &Registry) {
        let before = self.all();
        let mut after = NodeMap::new();
        for record in registry.nodes().filter(|record| record.canonical) {
            let same = before.get(&record.id).filter(|node| is_same_node(&node.record, record));
            match same.cloned().map_or_else(|| self.begin(record), Ok) {
                Ok(node) => {
                    after.insert(record.id, node);
                }
                Err(error) => tracing::error!(
                    code = "node_address",
                    node_id = record.id.0,
                    address = record.http_address,
                    %error,
                    "a node of the registry cannot be reached like that"
                ),
            }
        }
        for id in before.keys().filter(|id| !after.contains_key(id)) {
            tracing::info!(node_id = id.0, "a node is no longer used");
            self.0.lags.lock().unwrap_or_else(PoisonError::into_inner).forget(*id);
        }
        *self.0.canonical.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(after);
    }

    fn begin(&self, record: &NodeRecord) -> Result<Arc<Node>, tonic::transport::Error> {
        let endpoint = endpoint(&record.http_address)?;
        let end = self.0.end.child_token();
        let numbers = (self.0.make.numbers)(record.id);
        let client = ReplicationApiClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MESSAGE_LEN_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_LEN_BYTES_MAX);
        let sending = Sending { client, numbers: numbers.clone(), end: end.clone() };
        let node = Arc::new(Node {
            record: record.clone(),
            aside: endpoint.connect_lazy(),
            health: tokio::sync::watch::Sender::default(),
            batcher: (self.0.make.batcher)(record, sending),
            numbers,
            connect_time: Mutex::default(),
            version: Mutex::default(),
            congestion_fee: Mutex::default(),
            _end: end.clone().drop_guard(),
        });
        tracing::info!(node_id = record.id.0, address = record.http_address, "a node is used");
        (self.0.make.follow)(record.id, node.aside.clone(), end.clone());
        watch::begin(self.clone(), &node, end);
        Ok(node)
    }

    /// All of the canonical network, usable or not.
    pub(crate) fn all(&self) -> Arc<NodeMap> {
        self.0.canonical.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of the canonical network.
    pub(crate) fn get(&self, id: OriginatorId) -> Option<Arc<Node>> {
        self.all().get(&id).cloned()
    }

    /// Those that serve and are not late; all, if that were none.
    pub(crate) fn usable(&self) -> Vec<Arc<Node>> {
        let all = self.all();
        let usable: Vec<_> = all.values().filter(|node| self.is_usable(node)).cloned().collect();
        if usable.is_empty() { all.values().cloned().collect() } else { usable }
    }

    /// How many serve and are not late.
    pub(crate) fn usable_count(&self) -> usize {
        self.all().values().filter(|node| self.is_usable(node)).count()
    }

    /// Whether every usable node has lately charged more for being busy than somebody pays for that.
    pub(crate) fn all_are_dear(&self, congestion_fee_max: Option<u64>) -> bool {
        let usable = self.usable();
        !usable.is_empty() && usable.iter().all(|node| node.is_dear(congestion_fee_max))
    }

    pub(crate) fn is_usable(&self, node: &Node) -> bool {
        !node.is_down() && self.lag(node.id()) <= LAG_MAX
    }

    pub(crate) fn lag(&self, node: OriginatorId) -> Duration {
        self.0.lags.lock().unwrap_or_else(PoisonError::into_inner).lag(node, Instant::now())
    }

    pub(crate) fn told_cursor(&self, node: OriginatorId, cursor: &hawser_proto::Cursor) {
        let all = self.all();
        let is_strand = |originator| {
            matches!(originator, OriginatorId::GROUP_MESSAGES | OriginatorId::IDENTITY_UPDATES)
                || all.contains_key(&originator)
        };
        if all.contains_key(&node) {
            let mut lags = self.0.lags.lock().unwrap_or_else(PoisonError::into_inner);
            lags.told(node, cursor, is_strand, Instant::now());
        }
    }

    /// The node for a topic, none of those that are banned: where it was published last if that one is
    /// usable, otherwise as the strategy says. Those that charge more than `congestion_fee_max` for
    /// being busy are avoided. When no usable one is left, the others are tried.
    pub(crate) fn choose(
        &self,
        topic: &Topic,
        banned: &BTreeSet<OriginatorId>,
        congestion_fee_max: Option<u64>,
    ) -> Option<Arc<Node>> {
        let all = self.all();
        let good = |node: &Node| self.is_usable(node) && !node.is_dear(congestion_fee_max);
        let last = self.sticky().get(topic).filter(|id| !banned.contains(id));
        if let Some(node) = last.and_then(|id| all.get(&id)).filter(|node| good(node)) {
            return Some(node.clone());
        }
        let candidates: Vec<_> = all.values().map(|node| node.candidate()).collect();
        let unusable = all.values().filter(|node| !good(node)).map(|node| node.id());
        let avoided: BTreeSet<_> = banned.iter().copied().chain(unusable).collect();
        let random = random_of(topic, self.0.seed);
        let choose = |banned| self.0.strategy.choose(topic, &candidates, banned, random);
        let chosen = choose(&avoided).or_else(|| choose(banned))?;
        all.get(&chosen).cloned()
    }

    /// A node has published something of a topic, which stays there. A topic leaves the node that it
    /// had only when that one has `failed` or cannot be used: whoever has refused something, or was
    /// too dear for somebody once, keeps it.
    pub(crate) fn published(
        &self,
        topic: &Topic,
        node: OriginatorId,
        failed: &BTreeSet<OriginatorId>,
    ) {
        let all = self.all();
        let keeps = |last: OriginatorId| {
            !failed.contains(&last) && all.get(&last).is_some_and(|last| self.is_usable(last))
        };
        let mut sticky = self.sticky();
        if !sticky.get(topic).is_some_and(keeps) {
            sticky.set(topic, node);
        }
    }

    fn sticky(&self) -> MutexGuard<'_, Sticky> {
        self.0.sticky.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a node is reached.
fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(address.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_connection_window_size(16 * 1024 * 1024)
        .initial_stream_window_size(4 * 1024 * 1024);
    if address.starts_with("https:") {
        return endpoint.tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    Ok(endpoint)
}
