//! The node's end of all connections to peers: one UDP socket for dialling and accepting QUIC, and calls over
//! gRPC.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hawser_engine::ports::{NodeRecord, Registry};
use hawser_engine::runtime::replication::Replication;
use hawser_proto::frame::CloseCode;
use hawser_proto::{OriginatorId, SecretKey};
use quinn::{Connection, Incoming, TokioRuntime};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use crate::address::quic_address;
use crate::control::SessionError;
use crate::counters::{NetCounters, PeerError};
use crate::dial::{self, HANDSHAKE_MAX};
use crate::empty_frames::EmptyFrames;
use crate::failures::{FailureLog, PeerFailures};
use crate::grpc;
use crate::grpc::plain_text::PlainTextPeers;
use crate::handshake::{LocalIdentity, ProvenConnection};
use crate::node_addresses::{NodeAddresses, unmapped};
use crate::peer_transport::{PeerTransport, SessionTransport};
use crate::private_peers::PrivatePeers;
use crate::replica_sources::ReplicaSources;
use crate::session::NetState;
use crate::sessions::{GrpcSession, Sessions};
use crate::streams::close_code;
use crate::tls::PeerTlsError;
use crate::transport;
use crate::unproven_connections::{DiallerKind, UnprovenConnections, UnprovenSlot, is_crowded};

/// Longest wait at shutdown for peers to receive the close. Guessed: less than a supervisor waits.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// Shortest wait at shutdown, so that the closing frame can be sent again to a peer that answers late. Guessed.
const GOODBYE_MIN: Duration = Duration::from_millis(100);

/// Settings of the endpoint. They stay as they are until the endpoint stops.
#[derive(Debug, Clone)]
pub struct NetSettings {
    /// The UDP address to listen on, and to dial from.
    pub listen: SocketAddr,
    /// This node's key; the registry holds its public half.
    pub key: SecretKey,
    /// The ways to reach peers.
    pub transport: PeerTransport,
    /// The peers that may be called without TLS over gRPC. A replica calls any, because it shows no token.
    pub plain_text: PlainTextPeers,
    /// The peers that are dialled in private networks. A replica calls the URLs that it follows wherever they lead.
    pub private: PrivatePeers,
    /// `Some` for a replica, which asks over gRPC without a node's token: the URLs to follow, or none for all
    /// nodes of the network. Its transport is [`PeerTransport::Grpc`].
    pub observed: Option<Vec<String>>,
}

/// The reason the endpoint does not start.
#[derive(Debug, thiserror::Error)]
pub enum NetStartError {
    /// The socket cannot be bound.
    #[error("cannot listen on UDP {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] PeerTlsError),
}

/// A peer with a session, as operators see it.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// The peer's id, which it has proved if the transport is QUIC.
    pub node: OriginatorId,
    /// The transport of the session.
    pub transport: SessionTransport,
    /// The peer's UDP address, or the URL of its API.
    pub remote: String,
    /// Current estimate of the round trip, or the time that the last call took.
    pub rtt: Duration,
    /// The words with which the peer refuses this node's token, while it is called without one.
    pub refused_token: Option<String>,
}

/// The running endpoint: its UDP socket, and a session with every node of the registry that can be reached.
pub struct Endpoint {
    net: Arc<NetState>,
    /// `None` if this node speaks gRPC only.
    quic: Option<quinn::Endpoint>,
    local: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Endpoint {
    /// Listens, and maintains a session with every other node of the registry. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be bound, or TLS cannot be set up.
    pub fn start(
        settings: NetSettings,
        registry: watch::Receiver<Arc<Registry>>,
        replication: Replication,
    ) -> Result<Self, NetStartError> {
        let NetSettings { listen, key, transport, plain_text, private, observed } = settings;
        let quic = match transport {
            PeerTransport::Auto | PeerTransport::Quic => Some(open_quic(listen, &key)?),
            PeerTransport::Grpc => None,
        };
        let refused = |source| NetStartError::Listen { address: listen, source };
        let local = quic.as_ref().map_or(Ok(listen), |quic| quic.local_addr()).map_err(refused)?;
        let takes_prefixes = replication.takes_prefixes();
        let identity = LocalIdentity { own: replication.own(), key, registry, takes_prefixes };
        let net = Arc::new(NetState {
            identity,
            transport,
            plain_text,
            private,
            observed: observed.map(ReplicaSources::new),
            replication,
            sessions: Sessions::new(),
            node_addresses: NodeAddresses::default(),
            counters: Arc::default(),
            failures: FailureLog::default(),
            empty_frames: EmptyFrames::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        if let Some(quic) = quic.clone() {
            tasks.spawn(until(stopped.clone(), accept(net.clone(), quic.clone())));
            let dial = move |net, peer| dial::maintain_session(net, quic.clone(), peer);
            let dialled = for_each_peer(net.clone(), |it| quic_address(it).is_some(), dial);
            tasks.spawn(until(stopped.clone(), dialled));
        }
        if transport != PeerTransport::Quic {
            let called = for_each_peer(net.clone(), |it| it.http_address.is_some(), grpc::maintain);
            tasks.spawn(until(stopped, called));
        }
        Ok(Self { net, quic, local, stop, tasks })
    }

    /// Returns the bound address, with the port that the system chose for port 0; without QUIC, the address of
    /// the settings.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns the endpoint's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<NetCounters> {
        &self.net.counters
    }

    /// Returns the peers with a session over QUIC or gRPC.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |(node, connection): (OriginatorId, Connection)| PeerStatus {
            node,
            transport: SessionTransport::Quic,
            remote: unmapped(connection.remote_address()).to_string(),
            rtt: connection.rtt(),
            refused_token: None,
        };
        let grpc = |(node, session): (OriginatorId, GrpcSession)| PeerStatus {
            node,
            transport: SessionTransport::Grpc,
            remote: session.address,
            rtt: session.round_trip,
            refused_token: session.refused_token,
        };
        let mut peers: Vec<_> = self.net.sessions.connections().into_iter().map(status).collect();
        peers.extend(self.net.sessions.grpc_sessions().into_iter().map(grpc));
        // For a moment a peer may have both: the one over gRPC is about to end.
        peers.sort_by_key(|peer| (peer.node, peer.transport == SessionTransport::Grpc));
        peers.dedup_by_key(|peer| peer.node);
        peers
    }

    /// Returns the failures of each peer. A peer without any may be absent.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<OriginatorId, PeerFailures> {
        self.net.failures.all()
    }

    /// Returns ids and URLs of the nodes that a replica follows; `None` for a node, and for a replica that follows all
    /// nodes of the registry.
    #[must_use]
    pub fn observed(&self, registry: &Registry) -> Option<Vec<(OriginatorId, String)>> {
        self.net.observed.as_ref()?.all(registry)
    }

    /// Keeps this node apart from a peer for a while, whatever was ordered before: ends its sessions with it, and
    /// neither dials nor admits it. The peer may still call the API, as any client may.
    pub fn partition_from(&self, peer: OriginatorId, time: Duration) {
        let until = std::time::Instant::now() + time;
        self.net.replication.note_partition(peer, Some(until)); // first, so that no silence of the peer counts
        self.net.sessions.partition_from(peer, until);
    }

    /// Ends the order to stay apart from a peer.
    pub fn heal_partition(&self, peer: OriginatorId) {
        self.net.replication.note_partition(peer, None);
        self.net.sessions.heal_partition(peer);
    }

    /// Returns the peers that this node is kept apart from, each with the time that is left, ascending by id.
    #[must_use]
    pub fn partitioned_peers(&self) -> Vec<(OriginatorId, Duration)> {
        let now = std::time::Instant::now();
        let kept = self.net.sessions.partitioned_peers(now).into_iter();
        let mut kept: Vec<_> = kept.map(|(peer, until)| (peer, until - now)).collect();
        kept.sort_unstable();
        kept
    }

    /// Closes every connection with [`CloseCode::Shutdown`] and stops. Waits up to two seconds for
    /// peers to receive the close.
    pub async fn shutdown(mut self) {
        self.net.sessions.close();
        let sessions = self.net.sessions.connections();
        let goodbye = goodbye(sessions.iter().map(|(_, connection)| connection.rtt()));
        if let Some(quic) = &self.quic {
            quic.close(close_code(CloseCode::Shutdown), b"");
        }
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        // A peer that misses the close notices by its idle timeout. Unproven connections are not waited
        // for: giving up a connection to a dead node takes seconds.
        if let Some(quic) = &self.quic {
            let _ = timeout(goodbye, quic.wait_idle()).await;
        }
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Returns the time in which peers with these round trips receive a close, and a second one if the
/// first was lost (RFC 9000 §10.2.1).
fn goodbye(round_trips: impl Iterator<Item = Duration>) -> Duration {
    let longest = round_trips.max();
    longest.map_or(Duration::ZERO, |rtt| (GOODBYE_MIN + 3 * rtt).min(GOODBYE_MAX))
}

async fn until(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = work => {}
    }
}

/// Opens the UDP socket.
fn open_quic(listen: SocketAddr, key: &SecretKey) -> Result<quinn::Endpoint, NetStartError> {
    let refused = |source| NetStartError::Listen { address: listen, source };
    let socket = UdpSocket::bind(listen).map_err(refused)?;
    let mut quic = quinn::Endpoint::new(
        transport::endpoint(key),
        Some(transport::server()?),
        socket,
        Arc::new(TokioRuntime),
    )
    .map_err(refused)?;
    quic.set_default_client_config(transport::client()?);
    Ok(quic)
}

/// Runs a task for every node with an address that is in the network or enters it, and for every source that a replica
/// follows. The task of a node without an address would end at once.
async fn for_each_peer<F>(
    net: Arc<NetState>,
    has_address: fn(&NodeRecord) -> bool,
    task: impl Fn(Arc<NetState>, OriginatorId) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let peers = |nodes: &Registry| {
        let listed = net.observed.as_ref().and_then(|observed| observed.all(nodes));
        let is_called = |it: &&NodeRecord| it.canonical && has_address(it);
        let members = || nodes.nodes().filter(is_called).map(|it| it.id).collect();
        let ids = |all: Vec<(OriginatorId, String)>| all.into_iter().map(|(id, _)| id).collect();
        let all: Vec<OriginatorId> = listed.map_or_else(members, ids);
        all.into_iter().filter(|id| *id != net.identity.own).collect()
    };
    let registry = net.identity.registry.clone();
    run_for_each(registry, peers, |peer| task(net.clone(), peer)).await;
}

/// Runs a task for each of the peers of a registry. A task ends when its peer has left; it is started again if the peer
/// is back by then.
async fn run_for_each<F>(
    mut registry: watch::Receiver<Arc<Registry>>,
    peers: impl Fn(&Registry) -> Vec<OriginatorId>,
    task: impl Fn(OriginatorId) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut tasks, mut is_final) = (JoinSet::new(), false);
    let mut running = BTreeMap::new();
    loop {
        running.retain(|_, task: &mut AbortHandle| !task.is_finished());
        let nodes = registry.borrow_and_update().clone();
        for peer in peers(&nodes) {
            running.entry(peer).or_insert_with(|| tasks.spawn(task(peer)));
        }
        loop {
            tokio::select! {
                changed = registry.changed(), if !is_final => {
                    is_final = changed.is_err(); // without its sender the registry stays as it is
                    break;
                }
                Some(ended) = tasks.join_next() => match ended {
                    Ok(()) => break,
                    // It might fail again at once, and the tasks of the other peers continue.
                    Err(error) => tracing::error!(code = "peer_task_failed", %error, "the task of a peer has failed"),
                },
                else => return,
            }
        }
    }
}

async fn accept(net: Arc<NetState>, quic: quinn::Endpoint) {
    let unproven = Arc::new(UnprovenConnections::default());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            incoming = quic.accept() => {
                let Some(incoming) = incoming else { return };
                let (address, now) = (incoming.remote_address().ip(), Instant::now());
                let (open, is_proved) =
                    (quic.open_connections(), incoming.remote_address_validated());
                let has_to = || is_crowded(open) || unproven.needs_validation(address, now);
                if !is_proved && has_to() {
                    // Stateless and cheap; a dialler with a forged address never receives the answer.
                    let _ = incoming.retry();
                    continue;
                }
                let is_known = net.node_addresses.has(address, &net.identity.registry.borrow());
                let kind = if is_known { DiallerKind::Node } else { DiallerKind::Stranger };
                let has_room = unproven.has_room(address, kind, open, now);
                let slot = has_room.then(|| unproven.admit(address, kind, now)).flatten();
                let Some(slot) = slot else {
                    net.counters.refuse(PeerError::Busy);
                    incoming.refuse(); // before its handshake, so no frame says why
                    continue;
                };
                if is_proved {
                    unproven.note_begun(address, now);
                }
                connections.spawn(receive(net.clone(), slot, incoming));
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }
}

/// Handles one connection that a peer dialled: handshake, then session.
async fn receive(net: Arc<NetState>, slot: UnprovenSlot, incoming: Incoming) {
    let remote = unmapped(incoming.remote_address());
    match prove(&net, incoming, slot).await {
        Ok(proven) => net.run_session(proven).await,
        Err(error) => tracing::debug!(%remote, %error, "no session with the peer"),
    }
}

/// Runs the handshake, with one deadline for all of it, and holds the slot meanwhile.
async fn prove(
    net: &NetState,
    incoming: Incoming,
    mut slot: UnprovenSlot,
) -> Result<ProvenConnection, SessionError> {
    let deadline = Instant::now() + HANDSHAKE_MAX;
    let connected = slot.run(deadline, async { Ok(incoming.await?) }).await;
    let connection = connected.inspect_err(|error| {
        if let SessionError::Peer(reason) = error {
            net.counters.refuse(*reason);
        }
    })?;
    let clock = net.replication.heads().get();
    let proven = slot.run(deadline, net.identity.accept(connection.clone(), &clock)).await;
    if let Ok(proven) = &proven {
        net.node_addresses.set_proven(proven.peer, connection.remote_address().ip());
    }
    proven.inspect_err(|error| net.close_stranger(&connection, error))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const PEER: OriginatorId = OriginatorId(200);

    fn registry(canonical: bool) -> Arc<Registry> {
        let public_key = SecretKey::from_bytes(&[7; 32]).unwrap().public_key();
        let record = NodeRecord {
            id: PEER,
            public_key,
            owner: public_key.address(),
            http_address: None,
            quic_address: None,
            canonical,
        };
        Arc::new([record].into_iter().collect())
    }

    /// The task has seen the removal and is about to end when the peer is back.
    #[tokio::test]
    async fn a_node_that_is_added_again_while_its_task_ends_is_dialled_at_once() {
        let (nodes, registry_receiver) = watch::channel(registry(true));
        let (started, mut starts) = mpsc::unbounded_channel();
        let peers =
            |nodes: &Registry| nodes.nodes().filter(|it| it.canonical).map(|it| it.id).collect();
        let task = move |peer| {
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            started.send((peer, end)).unwrap();
            async move { drop(ended.await) }
        };
        let dialling = tokio::spawn(run_for_each(registry_receiver, peers, task));
        let (_, end) = starts.recv().await.unwrap();
        for canonical in [false, true] {
            nodes.send_replace(registry(canonical));
            tokio::task::yield_now().await; // the loop sees each change
        }
        assert!(starts.try_recv().is_err(), "the first task runs still");
        drop(end);
        let redial_timeout = Duration::from_secs(120);
        let again = timeout(redial_timeout, starts.recv()).await.expect("it is dialled again");
        assert_eq!(again.map(|(peer, _)| peer), Some(PEER));

        // Without the sender of the registry the tasks continue.
        drop(nodes);
        tokio::task::yield_now().await;
        assert!(!dialling.is_finished());
        dialling.abort();
    }

    #[test]
    fn a_goodbye_waits_for_the_furthest_peer_and_not_without_peers() {
        let ms = Duration::from_millis;
        assert_eq!(goodbye([].into_iter()), Duration::ZERO);
        assert_eq!(goodbye([ms(1), ms(50), ms(2)].into_iter()), ms(250));
        assert_eq!(goodbye([ms(1), Duration::from_secs(9)].into_iter()), GOODBYE_MAX);
    }
}
