//! Dialling one node of the registry whenever there is no session with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_dial::{DialledNetworks, look_up};
use hawser_proto::OriginatorId;
use quinn::{Connection, Endpoint};
use tokio::time::timeout;

use crate::address::quic_address;
use crate::announced_addresses::AnnouncedPause;
use crate::backoff::{Backoff, long_pause};
use crate::control::SessionError;
use crate::counters::PeerError;
use crate::handshake::ProvenConnection;
use crate::session::NetState;
use crate::tls::SERVER_NAME;

/// Longest wait for an address to answer. Guessed: three retransmissions at the initial round trip
/// of QUIC, with room.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Addresses that are tried of a name that a peer has announced. A guess: one for each version of IP. A name that is
/// not the peer's own has few hosts dialled.
const ANNOUNCED_ADDRESSES_MAX: usize = 2;
/// Longest wait for a single one of two addresses, so that both have their turn within [`CONNECT_MAX`].
const ANNOUNCED_CONNECT_MAX: Duration = Duration::from_millis(1500);
/// Longest life of a connection without the peer's proof. Specified in `docs/protocol/replication.md`:
/// a few round trips and two signatures take far less, also on a loaded node.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Pause before a peer with a session over gRPC is dialled again. Guessed: short enough for a peer that has
/// got QUIC, and long enough for one that never will.
const AGAIN_BESIDE_GRPC: Duration = Duration::from_secs(30);
/// A session that lasted this long resets the backoff. Guessed: the longest pause.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Maintains a session with `peer` until it is no longer in the network, or its record has no address.
pub(crate) async fn maintain_session(net: Arc<NetState>, endpoint: Endpoint, peer: OriginatorId) {
    let (mut backoff, mut announced_pause) = (Backoff::new(), AnnouncedPause::default());
    loop {
        net.sessions.wait_for_none(peer).await;
        net.sessions.wait_for_heal(peer).await;
        if let Some(until) = net.sessions.avoided_until(peer) {
            tokio::time::sleep_until(until.into()).await;
        }
        let Some(addresses) = addresses_of(&net, peer) else { return };
        let attempt = tokio::select! {
            biased;
            () = net.sessions.wait_for(peer) => continue, // the peer has dialled this node meanwhile
            attempt = attempt(&net, &endpoint, peer, &addresses, &mut announced_pause) => attempt,
        };
        let pause = match attempt {
            Ok(proven) => {
                let began = Instant::now();
                net.run_session(proven).await;
                if began.elapsed() >= GOOD_AFTER {
                    backoff.reset();
                }
                backoff.next_pause(rand::random())
            }
            Err(error) => {
                tracing::debug!(node_id = %peer, ?addresses, %error, "no session with the peer");
                // A peer need not answer over QUIC at the address of its URL.
                net.note_not_reached(peer, &error, addresses.url.is_none());
                if error.is_lasting() {
                    long_pause(rand::random())
                } else {
                    backoff.next_pause(rand::random())
                }
            }
        };
        tokio::select! {
            () = net.sessions.wait_for(peer) => {}
            () = wait(&net, peer, pause, &addresses) => {}
        }
    }
}

/// Addresses to dial a peer at.
#[derive(Debug)]
struct PeerAddresses {
    /// The address that the peer has announced over gRPC. It is tried first, because a peer that announces one may not
    /// answer at the other.
    announced: Option<String>,
    /// The address in its registry record.
    registered: String,
    /// URL of the peer's API, if the peer may still announce a QUIC address there.
    url: Option<String>,
}

/// Waits for the pause; while the peer has a session over gRPC, longer, unless it announces a first address.
async fn wait(net: &NetState, peer: OriginatorId, pause: Duration, addresses: &PeerAddresses) {
    tokio::time::sleep(pause).await;
    if net.sessions.has_grpc(peer) {
        let url = addresses.url.as_deref().filter(|_| addresses.announced.is_none());
        let announcement = async {
            match url {
                Some(url) => net.sessions.wait_for_announced_address(peer, url).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = net.sessions.wait_for_no_grpc(peer) => {}
            () = announcement => {}
            () = tokio::time::sleep(AGAIN_BESIDE_GRPC) => {}
        }
    }
}

/// Returns the addresses of a peer, read for each attempt, so that a node that has moved is found.
/// `None` once the node has left the network, or its record has no address.
fn addresses_of(net: &NetState, peer: OriginatorId) -> Option<PeerAddresses> {
    let registry = net.identity.registry.borrow();
    let record = registry.member(peer)?;
    let registered = quic_address(record)?;
    // An address for QUIC in the record is the choice of the operator, so no other one is looked for.
    let url = record.http_address.clone().filter(|_| record.quic_address.is_none());
    let announced = url.as_deref().and_then(|url| net.sessions.announced_address(peer, url));
    Some(PeerAddresses { announced: announced.map(|it| it.to_string()), registered, url })
}

/// Tries one address after the other. The node that answers has to prove the peer's id.
async fn attempt(
    net: &NetState,
    endpoint: &Endpoint,
    peer: OriginatorId,
    addresses: &PeerAddresses,
    announced_pause: &mut AnnouncedPause,
) -> Result<ProvenConnection, SessionError> {
    if let Some(announced) = &addresses.announced
        && announced_pause.begin(Instant::now())
    {
        let connecting = connect_to_announced(endpoint, announced, net.dialled_networks());
        match attempt_with(net, peer, connecting).await {
            Ok(proven) => {
                announced_pause.end();
                return Ok(proven);
            }
            Err(error) => {
                tracing::debug!(node_id = %peer, announced, %error, "no session at the address that the peer announced");
                net.failures.warn_not_dialled(peer, &error);
            }
        }
    }
    attempt_with(net, peer, connect(net, endpoint, peer, &addresses.registered)).await
}

async fn attempt_with(
    net: &NetState,
    peer: OriginatorId,
    connecting: impl Future<Output = Result<Connection, SessionError>>,
) -> Result<ProvenConnection, SessionError> {
    net.counters.dials.inc();
    let connection = connecting.await?;
    let clock = net.replication.heads().get();
    let handshake = net.identity.dial(connection.clone(), peer, &clock);
    let proven = timeout(HANDSHAKE_MAX, handshake)
        .await
        .unwrap_or_else(|_| Err(PeerError::HandshakeTimeout.into()));
    proven.inspect_err(|error| net.close(&connection, error))
}

/// Connects to the first of the addresses of a peer's registered name that answers. From now on, connections from these
/// addresses are not those of strangers.
async fn connect(
    net: &NetState,
    endpoint: &Endpoint,
    peer: OriginatorId,
    name: &str,
) -> Result<Connection, SessionError> {
    let addresses = resolve(name, net.dialled_networks()).await?;
    net.node_addresses.set_registered(peer, addresses.iter().map(SocketAddr::ip));
    connect_to_first(endpoint, addresses.into_iter(), CONNECT_MAX).await
}

/// Connects to an address that a peer has announced: tries few addresses, in the time limit of one.
async fn connect_to_announced(
    endpoint: &Endpoint,
    address: &str,
    networks: DialledNetworks,
) -> Result<Connection, SessionError> {
    let connecting = async {
        let resolved = resolve(address, networks).await?.into_iter().take(ANNOUNCED_ADDRESSES_MAX);
        connect_to_first(endpoint, resolved, ANNOUNCED_CONNECT_MAX).await
    };
    timeout(CONNECT_MAX, connecting)
        .await
        .unwrap_or_else(|_| Err(SessionError::Lost(format!("{address} does not answer"))))
}

/// Looks up the host of an address of the form `host:port`. Returns only the addresses in `networks`.
async fn resolve(
    address: &str,
    networks: DialledNetworks,
) -> Result<Vec<SocketAddr>, SessionError> {
    let parts =
        address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let Some((host, port)) = parts else {
        return Err(SessionError::Lost(format!("{address:?} has no port")));
    };
    // An IPv6 address has brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    look_up(host, port, networks).await.map_err(|error| SessionError::of_look_up(&error))
}

async fn connect_to_first(
    endpoint: &Endpoint,
    addresses: impl Iterator<Item = SocketAddr>,
    each_max: Duration,
) -> Result<Connection, SessionError> {
    let mut last = SessionError::Lost("the name has no address".to_owned());
    for address in addresses {
        match connect_to(endpoint, address, each_max).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn connect_to(
    endpoint: &Endpoint,
    address: SocketAddr,
    max: Duration,
) -> Result<Connection, SessionError> {
    let connecting = endpoint
        .connect(address, SERVER_NAME)
        .map_err(|error| SessionError::Lost(error.to_string()))?;
    match timeout(max, connecting).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(SessionError::Lost(format!("{address} does not answer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_is_not_dialled_over_quic_where_no_node_can_be() {
        for place in ["169.254.169.254:5050", "[fe80::1]:5050", "0.0.0.0:5050"] {
            let refused = resolve(place, DialledNetworks::All).await.unwrap_err();
            assert!(matches!(refused, SessionError::NotDialled(_)), "{refused:?}");
            assert!(refused.to_string().contains("no node can be at"), "{place}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_peer_is_dialled_over_quic_at_a_private_address_only_if_that_is_allowed() {
        let places = ["127.0.0.1:5050", "[::1]:5050", "[::ffff:10.0.0.1]:5050", "localhost:5050"];
        for place in places {
            let refused = resolve(place, DialledNetworks::Public).await.unwrap_err();
            assert!(matches!(refused, SessionError::NotDialled(_)), "{refused:?}");
            assert!(refused.to_string().contains("--allow-private-nodes"), "{place}: {refused}");
            assert!(!resolve(place, DialledNetworks::All).await.unwrap().is_empty(), "{place}");
        }
        assert_eq!(resolve("8.8.8.8:5050", DialledNetworks::Public).await.unwrap().len(), 1);
    }
}
