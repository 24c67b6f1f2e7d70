//! Settings of a listener, and the values that every service on it shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use hawser_proto::MESSAGE_LEN_BYTES_MAX;
use tokio::runtime::Handle;

use crate::address::TrustedProxies;
use crate::budget::{CALLERS_BYTES_MAX, MemoryBudget};
use crate::public_pages::PublicPages;
use crate::tls::Tls;

/// HTTP/2 window of a call: bytes that its peer may send before the service reads them. A guess: a usual publish in one
/// round trip.
pub const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;

/// The text of the UNAVAILABLE status that ends streams when the server stops.
pub const SHUTTING_DOWN: &str = "server is shutting down";

/// Longest time in which a peer reads nothing while answers wait. A guess: a phone that sleeps or changes its network,
/// or a program at a breakpoint, reads on later, and its streams are to go on. It bounds no memory: what waits is
/// charged, and the connections with most are closed when memory is short.
const WRITE_TIMEOUT: Duration = Duration::from_secs(600);

/// Settings of a listener.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// The address to bind; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Time for a connection to send the head of its first request, or the further frames of an HTTP/2 head; afterwards
    /// it is closed.
    pub head_timeout: Duration,
    /// Time for the one message of a unary or server-streaming request to arrive; DEADLINE_EXCEEDED after that.
    /// Client streams have no limit.
    pub body_timeout: Duration,
    /// Time without open calls after which a connection is closed.
    pub idle_timeout: Duration,
    /// The proxies that are trusted to name their clients' addresses: in a PROXY header, and for services in
    /// `X-Forwarded-For`. Default: none.
    pub trusted_proxies: TrustedProxies,
    /// Largest number of open connections. Further ones are refused, or replace a connection of the address with
    /// the most connections. Each takes a file descriptor. Default: no bound.
    pub connections_max: usize,
    /// Largest number of open connections of a client address; further ones are refused. Connections of trusted
    /// proxies that name no client, or another trusted proxy, do not count. Default: no bound.
    pub connections_per_address_max: usize,
    /// Largest number of open calls of a connection; further ones wait. Default: 1000.
    pub streams_per_connection_max: u32,
    /// Longest time without progress while answers wait for the peer to read them. Its connection is then closed.
    /// Default: 10 minutes.
    pub write_timeout: Duration,
    /// The memory budget of all callers.
    pub memory: MemoryBudget,
    /// The runtime for connections that publish, with its drivers of sockets and time. A connection moves there when
    /// one of its calls has stored an envelope ([`CallCharge::stored`](crate::CallCharge::stored)), and back when
    /// publishes no longer pay for its turns. Default: none, so all connections are served where the listener is bound.
    pub publishers: Option<Handle>,
    /// The certificate of the listener; `None` for no TLS. Its files are watched while the listener runs.
    pub tls: Option<Tls>,
    /// The pages for callers; each has another prefix. Default: none.
    pub pages: Vec<Arc<dyn PublicPages>>,
}

impl ServeSettings {
    /// The documented limits (`docs/protocol/api.md`): 10 s for a head, 30 s for a message, 10 minutes without
    /// reading an answer, 5 minutes of idleness, and the default memory.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            trusted_proxies: TrustedProxies::default(),
            connections_max: usize::MAX,
            connections_per_address_max: usize::MAX,
            streams_per_connection_max: 1000,
            write_timeout: WRITE_TIMEOUT,
            memory: MemoryBudget::new(CALLERS_BYTES_MAX),
            publishers: None,
            tls: None,
            pages: Vec::new(),
        }
    }
}
