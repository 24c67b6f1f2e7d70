//! Peers over gRPC: strands of nodes that speak no QUIC, as streams of `SubscribeOriginators`.
//!
//! - [`maintain`]: dials a peer over gRPC while it has no session over QUIC; `own_membership`: pauses while registries
//!   may differ;
//! - `session`: a connection at work: wants become calls, answers go to the engine's follower;
//! - `want_silence`: decides if a want without an answer is the peer's fault;
//! - `calls`: one want as a stream or as pages; `page_limit`: the length of the pages; `feed`, `range_gaps`: the
//!   answers. The last three are state machines without I/O; `answered_places`: what repeated envelopes are compared
//!   with; `asked_peer`: what the answers of a peer can say about a strand;
//! - `checkpoints`: checkpoints and statements about void places, which a peer is asked for;
//! - `canonical_envelope`: the canonical form of what a peer sends; `strand`: all its decoders without a transport;
//! - `client`, `answer`, `messages`, `call_error`: the calls on the wire;
//! - `connector`, `counted_stream`: connections, and the bytes that arrive on them;
//! - `token`, `authorities`: the proof of this node's id, and the certificates that are trusted.
//!
//! A peer proves no id over gRPC: it is the server at the address in the registry, and every envelope proves
//! itself. `docs/protocol/replication.md`, section *Over gRPC*.

mod answer;
mod answered_places;
mod asked_peer;
mod authorities;
mod call_error;
mod calls;
pub(crate) mod canonical_envelope;
mod checkpoints;
mod client;
mod connector;
mod counted_stream;
mod feed;
mod messages;
mod own_membership;
mod page_limit;
pub(crate) mod plain_text;
mod range_gaps;
mod session;
pub(crate) mod strand;
pub(crate) mod token;
mod want_silence;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use tokio::time::sleep;

use crate::backoff::{Backoff, long_pause};
use crate::peer_transport::PeerTransport;
use crate::session::NetState;
use answered_places::AnsweredPlaces;
use own_membership::OwnMembership;
use token::RefusalWarning;

/// Time for which a peer is dialled over QUIC only. Guessed: the longest wait for one address to answer.
const QUIC_FIRST: Duration = Duration::from_secs(3);
/// A session that lasted this long resets the backoff. Guessed: the longest pause.
const GOOD_AFTER: Duration = Duration::from_secs(60);

/// Maintains a session over gRPC with `peer` while there is none over QUIC, until it is no longer
/// in the network or its record has no URL.
pub(crate) async fn maintain(net: Arc<NetState>, peer: OriginatorId) {
    let (mut backoff, warning) = (Backoff::grpc(), RefusalWarning::default());
    let taken = AnsweredPlaces::default();
    let mut membership = OwnMembership::new(net.identity.own, net.identity.registry.clone());
    // The peer was last reached over gRPC: QUIC need not be waited for again.
    let mut is_grpc = net.transport == PeerTransport::Grpc;
    // The end of the pause after a violation. It holds for calls alone: what answers them has proved no id, and must
    // not keep out the peer that proves its id over QUIC.
    let mut quiet_until = None;
    loop {
        net.sessions.wait_for_heal(peer).await;
        if net.sessions.has(peer) {
            net.sessions.wait_for_none(peer).await;
            (backoff, is_grpc) = (Backoff::grpc(), false);
        }
        if !is_grpc {
            tokio::select! {
                () = net.sessions.wait_for(peer) => continue,
                () = sleep(QUIC_FIRST) => {}
            }
        }
        if let Some(until) = net.sessions.avoided_until(peer).max(quiet_until) {
            tokio::time::sleep_until(until.into()).await;
        }
        let Some(address) = address_of(&net, peer) else { return };
        let began = Instant::now();
        let ended = session::run(&net, peer, &address, &warning, &taken).await;
        is_grpc |= ended.was_linked;
        if ended.was_linked && began.elapsed() >= GOOD_AFTER {
            backoff.reset();
        }
        let mut pause = membership.bounded(backoff.next_pause(rand::random()), Instant::now());
        if ended.is_lasting {
            pause = pause.max(long_pause(rand::random()));
            quiet_until = Some(Instant::now() + pause);
        }
        tokio::select! {
            () = net.sessions.wait_for(peer) => {}
            () = session::moved(&net, peer, &address) => {}
            () = membership.change() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Returns the URL of a peer's API; `None` once the node has left the network, or its record has no URL.
fn address_of(net: &NetState, peer: OriginatorId) -> Option<String> {
    if let Some(url) = net.observed.as_ref().and_then(|observed| observed.url(peer)) {
        return Some(url.to_owned());
    }
    let registry = net.identity.registry.borrow();
    registry.member(peer)?.http_address.clone()
}
