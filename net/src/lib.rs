//! Peers over QUIC: `docs/protocol/replication.md` on the wire.
//!
//! This crate moves frames and proves node ids. It never decides about an envelope and never touches
//! storage. In reading order:
//!
//! - [`endpoint`]: the socket, dialling and accepting;
//! - `handshake`: both ends prove their node ids inside the connection; `unproven`: the places for
//!   connections before that;
//! - `sessions`: one connection for each peer, in whichever direction it was dialled;
//! - `session`: a connection at work; `receive` reads what was asked for, `send` sends what the
//!   peer asks for;
//! - [`counters`]: counters and refusals by reason; `failures`: failures by peer.
//!
//! Invariant: a session exists only with a peer that has proved an id of the registry in this very
//! connection. Invariant: nothing is read from a stream that its strand cannot take.

#![warn(missing_docs)]

mod address;
mod backoff;
mod control;
pub mod counters;
mod dial;
pub mod endpoint;
mod failures;
mod handshake;
mod receive;
mod send;
mod session;
mod sessions;
mod tls;
mod transport;
mod unproven;

pub use counters::{NetCounters, PeerError};
pub use endpoint::{Endpoint, NetSettings, NetStartError, PeerStatus};
pub use failures::PeerFailures;
