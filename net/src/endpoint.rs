//! The node's QUIC endpoint: one UDP socket for what is dialled and for who dials.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use hawser_engine::ports::Registry;
use hawser_engine::runtime::replication::Replication;
use hawser_proto::frame::CloseCode;
use hawser_proto::{OriginatorId, SecretKey};
use quinn::{Connection, Incoming, TokioRuntime};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::control::Broken;
use crate::counters::{NetCounters, Refusal};
use crate::dial::{self, HANDSHAKE_MAX};
use crate::failures::{Notes, PeerNote};
use crate::handshake::{Identity, Proven};
use crate::session::Node;
use crate::sessions::{Sessions, close_code};
use crate::tls::TlsError;
use crate::transport;

/// Connections whose other end has proved nothing yet.
const UNPROVEN_MAX: usize = 64;
/// Above this many of them, an address has to show that it is its sender's.
const UNVALIDATED_MAX: usize = 16;
/// How long to wait for peers to hear that this node stops, at the most.
const GOODBYE_MAX: Duration = Duration::from_secs(2);
/// And at the least, so that a peer that answers late is told once more. Guessed.
const GOODBYE_MIN: Duration = Duration::from_millis(100);

/// How the endpoint is to run.
#[derive(Debug, Clone)]
pub struct NetSettings {
    /// The UDP address to listen on, and to dial from.
    pub listen: SocketAddr,
    /// This node's key, the one in its registry record.
    pub key: SecretKey,
}

/// Why the endpoint does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be used.
    #[error("cannot listen on UDP {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
}

/// A peer that is connected now.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// The id that it has proved.
    pub node: OriginatorId,
    /// Where it is.
    pub remote: SocketAddr,
    /// The round trip to it.
    pub rtt: Duration,
}

/// The running endpoint.
pub struct Endpoint {
    node: Arc<Node>,
    quic: quinn::Endpoint,
    local: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Endpoint {
    /// Listens, and keeps up a session with every other node of the registry. To be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be used, or TLS cannot be set up.
    pub fn start(
        settings: NetSettings,
        registry: watch::Receiver<Arc<Registry>>,
        replication: Replication,
    ) -> Result<Self, StartError> {
        let NetSettings { listen, key } = settings;
        let refused = |source| StartError::Listen { address: listen, source };
        let socket = UdpSocket::bind(listen).map_err(refused)?;
        let mut quic = quinn::Endpoint::new(
            transport::endpoint(&key),
            Some(transport::server()?),
            socket,
            Arc::new(TokioRuntime),
        )
        .map_err(refused)?;
        quic.set_default_client_config(transport::client()?);
        let local = quic.local_addr().map_err(refused)?;
        let identity = Identity { own: replication.own(), key, registry };
        let node = Arc::new(Node {
            identity,
            replication,
            sessions: Sessions::new(),
            counters: Arc::default(),
            notes: Notes::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(until(stopped.clone(), accept(node.clone(), quic.clone())));
        tasks.spawn(until(stopped, dial_all(node.clone(), quic.clone())));
        Ok(Self { node, quic, local, stop, tasks })
    }

    /// The address in use, with the port that the system chose if none was given.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<NetCounters> {
        &self.node.counters
    }

    /// The peers that are connected now.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |(node, connection): (OriginatorId, Connection)| PeerStatus {
            node,
            remote: connection.remote_address(),
            rtt: connection.rtt(),
        };
        self.node.sessions.connections().into_iter().map(status).collect()
    }

    /// What went wrong with each peer, by id. A peer with which nothing did may be missing.
    #[must_use]
    pub fn notes(&self) -> BTreeMap<OriginatorId, PeerNote> {
        self.node.notes.all()
    }

    /// Tells every peer that this node stops, and ends.
    pub async fn shutdown(mut self) {
        self.node.sessions.close();
        let sessions = self.node.sessions.connections();
        let goodbye = goodbye(sessions.iter().map(|(_, connection)| connection.rtt()));
        self.quic.close(close_code(CloseCode::Shutdown), b"");
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        // Peers that do not hear it find out by themselves. Those that have proved nothing yet are
        // not waited for: a connection to a node that is gone takes seconds to be given up.
        let _ = timeout(goodbye, self.quic.wait_idle()).await;
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("local", &self.local).finish_non_exhaustive()
    }
}

/// How long peers with these round trips may take to hear that a connection is closed, and to be
/// told again if they did not (RFC 9000 §10.2.1).
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

/// A task for every node that is in the registry or comes into it.
async fn dial_all(node: Arc<Node>, quic: quinn::Endpoint) {
    let mut registry = node.identity.registry.clone();
    let mut dialled = JoinSet::new();
    let mut running = std::collections::HashMap::new();
    loop {
        let nodes = registry.borrow_and_update().clone();
        running.retain(|_, task: &mut tokio::task::AbortHandle| !task.is_finished());
        for peer in nodes.nodes().map(|node| node.id).filter(|id| *id != node.identity.own) {
            running
                .entry(peer)
                .or_insert_with(|| dialled.spawn(dial::keep_up(node.clone(), quic.clone(), peer)));
        }
        if registry.changed().await.is_err() {
            // Nobody updates the registry any more: it stays as it is.
            while dialled.join_next().await.is_some() {}
            return;
        }
    }
}

async fn accept(node: Arc<Node>, quic: quinn::Endpoint) {
    let unproven = Arc::new(Semaphore::new(UNPROVEN_MAX));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            incoming = quic.accept() => {
                let Some(incoming) = incoming else { return };
                if let Some(incoming) = look_at(&node, &unproven, incoming) {
                    connections.spawn(receive(node.clone(), unproven.clone(), incoming));
                }
            }
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }
}

/// Turns away what there is no room for.
fn look_at(node: &Node, unproven: &Semaphore, incoming: Incoming) -> Option<Incoming> {
    let free = unproven.available_permits();
    if free == 0 {
        node.counters.refuse(Refusal::Busy);
        incoming.refuse();
        return None;
    }
    let waiting = UNPROVEN_MAX - free;
    if waiting >= UNVALIDATED_MAX && !incoming.remote_address_validated() {
        // Costs nothing to answer; whoever forges addresses never gets it.
        let _ = incoming.retry();
        return None;
    }
    Some(incoming)
}

/// One connection that was dialled by a peer.
async fn receive(node: Arc<Node>, unproven: Arc<Semaphore>, incoming: Incoming) {
    let Ok(permit) = unproven.try_acquire() else {
        node.counters.refuse(Refusal::Busy);
        incoming.refuse();
        return;
    };
    let remote = incoming.remote_address();
    match prove(&node, incoming, permit).await {
        Ok(proven) => node.work(proven).await,
        Err(broken) => tracing::debug!(%remote, %broken, "no session"),
    }
}

/// Holds the permit until the peer has proved its id.
async fn prove(
    node: &Node,
    incoming: Incoming,
    _permit: SemaphorePermit<'_>,
) -> Result<Proven, Broken> {
    let connection = timeout(HANDSHAKE_MAX, incoming)
        .await
        .map_err(|_| Broken::from(Refusal::HandshakeTimeout))
        .and_then(|connected| Ok(connected?))
        .inspect_err(|broken| {
            if let Broken::Refused(reason) = broken {
                node.counters.refuse(*reason);
            }
        })?;
    let clock = node.replication.heads().get();
    timeout(HANDSHAKE_MAX, node.identity.accept(connection.clone(), &clock))
        .await
        .unwrap_or_else(|_| Err(Refusal::HandshakeTimeout.into()))
        .inspect_err(|broken| node.close(&connection, broken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goodbye_waits_for_the_peer_that_is_furthest_away_and_for_nobody_if_there_is_none() {
        let ms = Duration::from_millis;
        assert_eq!(goodbye([].into_iter()), Duration::ZERO);
        assert_eq!(goodbye([ms(1), ms(50), ms(2)].into_iter()), ms(250));
        assert_eq!(goodbye([ms(1), Duration::from_secs(9)].into_iter()), GOODBYE_MAX);
    }
}
