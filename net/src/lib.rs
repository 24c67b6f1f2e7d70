//! Peers over QUIC: `docs/protocol/replication.md` on the wire. Moves frames, proves who is at the
//! other end, and decides nothing about what an envelope is worth. In reading order:
//!
//! - [`endpoint`]: the socket, what is dialled and who is let in;
//! - `handshake`: both ends prove their node ids inside the connection;
//! - `sessions`: one connection for each peer, whoever dialled;
//! - `session`: a connection at work; `receive` reads what was asked for, `send` sends what the
//!   peer asks for;
//! - [`counters`]: what is counted, refusals by reason; `failures`: what went wrong with each peer.
//!
//! Invariant: a session exists only with a peer that has proved an id of the registry in this very
//! connection. Invariant: nothing is read from a stream that its strand cannot take.

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

pub use counters::{NetCounters, Refusal};
pub use endpoint::{Endpoint, NetSettings, PeerStatus, StartError};
pub use failures::PeerNote;
