//! Dials one node of the registry, again and again, whenever there is no session with it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use quinn::{Connection, Endpoint};
use tokio::time::timeout;

use crate::address::quic_address;
use crate::backoff::{Backoff, long_pause};
use crate::control::Broken;
use crate::counters::Refusal;
use crate::handshake::Proven;
use crate::session::Node;
use crate::tls::SERVER_NAME;

/// An address that does not answer for this long is given up for now.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// From the connection to the peer's proof.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A session that has lasted this long was a good one: the next failure is a first one.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Keeps up a session with `peer` until the registry no longer lists it.
pub(crate) async fn keep_up(node: Arc<Node>, endpoint: Endpoint, peer: OriginatorId) {
    let mut backoff = Backoff::new();
    loop {
        node.sessions.wait_for_none(peer).await;
        if let Some(until) = node.sessions.avoided_until(peer) {
            tokio::time::sleep_until(until.into()).await;
        }
        let Some(address) = address_of(&node, peer) else { return };
        let attempt = tokio::select! {
            biased;
            () = node.sessions.wait_for(peer) => continue, // it has dialled us meanwhile
            attempt = attempt(&node, &endpoint, peer, &address) => attempt,
        };
        let pause = match attempt {
            Ok(proven) => {
                let began = Instant::now();
                node.work(proven).await;
                if began.elapsed() >= GOOD_AFTER {
                    backoff.reset();
                }
                backoff.pause(rand::random())
            }
            Err(broken) => {
                tracing::debug!(%peer, address, %broken, "no session");
                node.notes.not_reached(peer, &broken);
                if broken.is_lasting() {
                    long_pause(rand::random())
                } else {
                    backoff.pause(rand::random())
                }
            }
        };
        tokio::select! {
            () = node.sessions.wait_for(peer) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Read anew for each attempt, so that a node that has moved is found. `None` once the registry
/// has forgotten the node; a record without an address is one that may still get one.
fn address_of(node: &Node, peer: OriginatorId) -> Option<String> {
    let registry = node.identity.registry.borrow();
    registry.node(peer).map(|record| quic_address(record).unwrap_or_default())
}

async fn attempt(
    node: &Node,
    endpoint: &Endpoint,
    peer: OriginatorId,
    address: &str,
) -> Result<Proven, Broken> {
    node.counters.dials.inc();
    let connection = connect(endpoint, address).await?;
    let clock = node.replication.heads().get();
    let handshake = node.identity.dial(connection.clone(), peer, &clock);
    let proven = timeout(HANDSHAKE_MAX, handshake)
        .await
        .unwrap_or_else(|_| Err(Refusal::HandshakeTimeout.into()));
    proven.inspect_err(|broken| node.close(&connection, broken))
}

/// The first of the host's addresses that answers.
async fn connect(endpoint: &Endpoint, address: &str) -> Result<Connection, Broken> {
    let lost = |why: String| Broken::Lost(why);
    let resolved = timeout(CONNECT_MAX, tokio::net::lookup_host(address))
        .await
        .map_err(|_| lost("the name is not resolved in time".to_owned()))?
        .map_err(|error| lost(error.to_string()))?;
    let mut last = lost("the name has no address".to_owned());
    for address in resolved {
        match connect_to(endpoint, address).await {
            Ok(connection) => return Ok(connection),
            Err(broken) => last = broken,
        }
    }
    Err(last)
}

async fn connect_to(endpoint: &Endpoint, address: SocketAddr) -> Result<Connection, Broken> {
    let connecting =
        endpoint.connect(address, SERVER_NAME).map_err(|error| Broken::Lost(error.to_string()))?;
    match timeout(CONNECT_MAX, connecting).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(Broken::Lost(format!("{address} does not answer"))),
    }
}
