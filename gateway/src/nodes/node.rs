//! A node of the canonical network, with this gateway's observations of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_dial::public_authorities;
use hawser_proto::OriginatorId;
use hawser_rules::{NodeRecord, PicoDollarPrice};
use hawser_serve::CheckedChannel;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Endpoint, Error as TransportError, Uri};

use super::batch::{Batcher, PayerSettings};
use super::dial::{AddressFrom, node_connector};
use super::reporter::Reporter;
use crate::metrics::OriginatorMetrics;
use crate::select::Candidate;

/// Time for which a congestion fee counts. Nodes compute congestion by the minute, so an older fee does not predict
/// that of the next envelope.
const CONGESTION_REMEMBERED: Duration = Duration::from_secs(60);
/// Largest number of characters of a node's version. A guess: SemVer with a commit is shorter.
const VERSION_CHARS_MAX: usize = 64;
/// Newest major version of nodes that this gateway works with; nodes of this software have 0. Specified: nodes of the
/// network take no tokens of a later one (`docs/protocol/api.md`).
const MAJOR_VERSION_MAX: u64 = 1;
/// Number of requests under way at a node from which other nodes are preferred. Chosen: three quarters of those that a
/// gateway has under way at all nodes, so that a node which answers its health checks and no publish leaves places to
/// requests for others.
pub(crate) const REQUESTS_AT_NODE_MAX: usize = 1536;
/// Most memory for long answers of a node at a time, MiB: answers to searches for envelopes whose call failed. A guess:
/// four of the longest answers, or a hundred pages of a busy topic.
const LONG_ANSWERS_MIB_MAX: usize = 100;
/// Time for which a node that has not answered a question in time is asked after the others. A guess: a node that hangs
/// does so for longer, and one that was only slow answers others' questions meanwhile.
const SILENCE_REMEMBERED: Duration = Duration::from_secs(30);
/// Time for which a node that has stored what it claimed to refuse is avoided. A guess: it is paid twice for some
/// envelopes in each such time, and a node that is only in disorder is soon used again.
const STORED_REFUSAL_REMEMBERED: Duration = Duration::from_secs(600);
/// Time to connect to a node. A guess: several round trips around the world.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of HTTP/2 pings on an idle connection, and the time for their answer. Guesses: they end a dead
/// connection within the time of one publish attempt (30 s).
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 windows of a connection and of a stream. Guesses: a page of 25 MiB needs few window updates.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The result of the last health check of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Health {
    /// No health check has finished yet.
    #[default]
    Unknown,
    /// The node reports that it serves.
    Up,
    /// The node does not answer, or reports that it does not serve.
    Down,
}

/// Counts one request that a node is being asked to publish, until it is dropped.
pub(crate) struct RequestAtNode {
    _counted: Arc<()>,
}

/// A node of the canonical network.
pub(crate) struct Node {
    pub(crate) record: NodeRecord,
    /// The URL of its API.
    pub(crate) address: String,
    /// A separate connection for queries and health checks, so that large publishes do not delay them.
    pub(crate) query_channel: CheckedChannel,
    pub(crate) health: tokio::sync::watch::Sender<Health>,
    pub(crate) batcher: Batcher,
    pub(crate) metrics: Arc<OriginatorMetrics>,
    /// Connections to private addresses are allowed.
    pub(super) allow_private: bool,
    connect_time: Mutex<Option<Duration>>,
    version: Mutex<Option<String>>,
    /// The last congestion fee that the node has charged, and its time.
    congestion_fee: Mutex<Option<(PicoDollarPrice, Instant)>>,
    /// The time at which a question to the node had no answer in time; `None` before the first one.
    silent_at: Mutex<Option<Instant>>,
    /// The time at which the node was last found to have stored what it claimed to refuse; `None` if it never was.
    stored_refusal_at: Mutex<Option<Instant>>,
    /// Referred to by each request that the node is being asked to publish.
    requests: Arc<()>,
    /// The memory for long answers of the node, MiB.
    long_answers: Arc<Semaphore>,
    /// When dropped, ends the tasks of this node.
    _end: DropGuard,
}

impl Node {
    /// Creates a node from its record, with the URL there. Connects on first use, to a private address only if
    /// `allow_private`. `end` ends its tasks, and is cancelled when the node is dropped.
    ///
    /// # Errors
    /// An error if the address is not the URL of a gRPC server.
    pub(super) fn new(
        record: &NodeRecord,
        address: &str,
        metrics: Arc<OriginatorMetrics>,
        payer: Arc<PayerSettings>,
        reporter: Reporter,
        allow_private: bool,
        end: CancellationToken,
    ) -> Result<Self, TransportError> {
        let own = node_channel(address, allow_private)?;
        Ok(Self {
            record: record.clone(),
            address: address.to_owned(),
            query_channel: node_channel(address, allow_private)?,
            allow_private,
            health: tokio::sync::watch::Sender::default(),
            batcher: Batcher::start(record, own, metrics.clone(), payer, reporter, end.clone()),
            metrics,
            connect_time: Mutex::default(),
            version: Mutex::default(),
            congestion_fee: Mutex::default(),
            silent_at: Mutex::default(),
            stored_refusal_at: Mutex::default(),
            requests: Arc::default(),
            long_answers: Arc::new(Semaphore::new(LONG_ANSWERS_MIB_MAX)),
            _end: end.drop_guard(),
        })
    }

    pub(crate) fn id(&self) -> OriginatorId {
        self.record.id
    }

    pub(crate) fn is_down(&self) -> bool {
        *self.health.borrow() == Health::Down
    }

    /// Records the time that a measured connection took; `None` if it failed.
    pub(super) fn record_connect_time(&self, time: Option<Duration>) {
        *self.connect_time.lock() = time;
    }

    pub(super) fn has_connect_time(&self) -> bool {
        self.connect_time.lock().is_some()
    }

    /// Returns the version that the node reports; `None` if it reports none.
    pub(crate) fn version(&self) -> Option<String> {
        self.version.lock().clone()
    }

    /// Returns true if the node reports a later major version than this gateway works with. A node that reports no
    /// version, or none that can be read, counts as compatible.
    pub(super) fn is_incompatible(&self) -> bool {
        let version = self.version.lock();
        let major = version.as_deref().and_then(|it| it.split('.').next()?.parse::<u64>().ok());
        major.is_some_and(|major| major > MAJOR_VERSION_MAX)
    }

    /// Records the version that the node reports, without control characters and cut to [`VERSION_CHARS_MAX`].
    pub(super) fn record_version(&self, reported: Option<&str>) {
        let readable = |text: &str| {
            let shown = text.chars().filter(|character| !character.is_control());
            shown.take(VERSION_CHARS_MAX).collect::<String>()
        };
        let reported = reported.map(readable).filter(|version| !version.is_empty());
        let mut known = self.version.lock();
        if let Some(version) = reported.as_deref().filter(|new| Some(*new) != known.as_deref()) {
            tracing::info!(node_id = self.id().0, version, "software version of a node");
        }
        *known = reported;
    }

    /// Records the congestion fee that the node has just charged for an envelope.
    pub(crate) fn record_congestion_fee(&self, fee: PicoDollarPrice) {
        *self.congestion_fee.lock() = Some((fee, Instant::now()));
    }

    /// Returns true if the node's last congestion fee is recent and above the caller's limit.
    pub(super) fn is_expensive(&self, congestion_fee_max: Option<PicoDollarPrice>) -> bool {
        let Some(max) = congestion_fee_max else { return false };
        let last = *self.congestion_fee.lock();
        last.is_some_and(|(fee, at)| fee > max && at.elapsed() < CONGESTION_REMEMBERED)
    }

    /// Records that the node has not answered a question in time.
    pub(super) fn record_silence(&self) {
        *self.silent_at.lock() = Some(Instant::now());
    }

    /// Returns true if the node has not answered a question in time within the last [`SILENCE_REMEMBERED`].
    pub(crate) fn was_silent(&self) -> bool {
        self.silent_at.lock().is_some_and(|at| at.elapsed() < SILENCE_REMEMBERED)
    }

    /// Records that the node has stored an envelope that it claimed to refuse.
    pub(crate) fn record_stored_refusal(&self) {
        *self.stored_refusal_at.lock() = Some(Instant::now());
    }

    /// Returns true if the node was found to store what it claims to refuse, within [`STORED_REFUSAL_REMEMBERED`].
    pub(super) fn has_stored_refusals(&self) -> bool {
        self.stored_refusal_at.lock().is_some_and(|at| at.elapsed() < STORED_REFUSAL_REMEMBERED)
    }

    /// Counts one more request that the node is being asked to publish.
    pub(crate) fn begin_request(&self) -> RequestAtNode {
        RequestAtNode { _counted: self.requests.clone() }
    }

    /// Returns true if [`REQUESTS_AT_NODE_MAX`] requests are under way at the node.
    pub(super) fn is_crowded(&self) -> bool {
        // The node has a reference of its own.
        Arc::strong_count(&self.requests) > REQUESTS_AT_NODE_MAX
    }

    /// Waits for a place for an answer of some MiB, of [`LONG_ANSWERS_MIB_MAX`].
    pub(super) async fn long_answer(&self, mib: u32) -> OwnedSemaphorePermit {
        let places = self.long_answers.clone();
        places.acquire_many_owned(mib).await.expect("it is never closed")
    }

    pub(super) fn candidate(&self) -> Candidate {
        Candidate { id: self.id(), connect_time: *self.connect_time.lock() }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Returns a channel to the node at a URL, as a gateway calls it. Connects on first use, to a private address only if
/// `allow_private`. Needs a tokio runtime.
///
/// # Errors
/// An error if the address is not the URL of a gRPC server.
pub fn node_channel(address: &str, allow_private: bool) -> Result<CheckedChannel, TransportError> {
    let url = Endpoint::from_shared(address.to_owned())?.uri().clone();
    let from = AddressFrom::Registry { allow_private };
    let connector = node_connector(url.clone(), from, public_authorities());
    Ok(endpoint(url).connect_with_connector_lazy(connector).into())
}

/// Returns the endpoint of a node's URL, which [`node_connector`] dials.
fn endpoint(url: Uri) -> Endpoint {
    Endpoint::from_static("http://node")
        .origin(url)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
}
