//! Peers over QUIC and gRPC: `docs/protocol/replication.md` on the wire.
//!
//! This crate moves frames and proves node ids. It never decides about an envelope and never touches
//! storage. In reading order:
//!
//! - [`endpoint`]: the socket, dialling and accepting; `peer_transport`: QUIC or gRPC; `private_peers`: the networks in
//!   which peers are dialled;
//! - `handshake`: both ends prove their node ids inside the connection; `unproven_connections`: the slots for
//!   connections before that; `node_addresses`: addresses at which nodes are known;
//! - `sessions`: one connection for each peer, in whichever direction it was dialled; `announced_addresses`: addresses
//!   that peers announce; `registry_change`: the end of a session whose peer has left or moved;
//! - `session`: a connection at work; `receive` reads what was asked for, `send` sends what the
//!   peer asks for; `streams` frees the buffers of both;
//! - `empty_frames`: the bound of frames without envelopes; `arrived_bytes`: answers that are not whole yet;
//! - `grpc`: the same for peers that speak gRPC only; `replica_sources`: the sources of a replica;
//! - [`counters`]: counters and refusals by reason; `failures`: failures by peer.
//!
//! Invariant: a session over QUIC exists only with a peer that has proved an id of the registry in this very
//! connection; one over gRPC only at the address that the registry has for the peer. A peer has one at a time.
//! Invariant: nothing is read from a stream that its strand cannot take.

#![warn(missing_docs)]

mod address;
mod announced_addresses;
mod arrived_bytes;
mod backoff;
mod control;
pub mod counters;
mod dial;
mod empty_frames;
pub mod endpoint;
mod failures;
mod grpc;
mod handshake;
mod node_addresses;
mod open_wants;
mod peer_transport;
mod private_peers;
mod receive;
mod registry_change;
mod replica_sources;
mod send;
mod session;
mod sessions;
mod streams;
#[cfg(test)]
mod threaded_ends;
mod tls;
mod transport;
mod unproven_connections;

pub use counters::{NetCounters, PeerError, SubscribeRpc};
pub use endpoint::{Endpoint, NetSettings, NetStartError, PeerStatus};
pub use failures::PeerFailures;
pub use grpc::canonical_envelope::{CanonicalEnvelope, open as open_canonical};
pub use grpc::plain_text::{PlainTextPeers, token_addresses};
pub use grpc::strand::{cut_messages, read_strand};
pub use grpc::token::node_token;
pub use hawser_dial::{is_public, is_this_machine};
pub use peer_transport::{PeerTransport, SessionTransport};
pub use private_peers::PrivatePeers;
