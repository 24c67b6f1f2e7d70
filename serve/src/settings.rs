//! Settings of a listener, and the values that every service on it shares.

use std::net::SocketAddr;
use std::time::Duration;

/// The largest message in either direction, bytes.
///
/// Specified: `docs/protocol/api.md`, the limit of the network's reference node.
pub const MESSAGE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;

/// The text of the UNAVAILABLE status that ends streams when the server stops.
pub const SHUTTING_DOWN: &str = "server is shutting down";

/// Settings of a listener.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// The address to bind; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Time for a connection to send the head of its first request; it is closed after that.
    pub head_timeout: Duration,
    /// Time for the one message of a unary or server-streaming request to arrive; DEADLINE_EXCEEDED after that.
    /// Client streams have no limit.
    pub body_timeout: Duration,
    /// Time without open calls after which a connection is closed.
    pub idle_timeout: Duration,
}

impl ServeSettings {
    /// The documented limits (`docs/protocol/api.md`): 10 s for a head, 30 s for a message,
    /// 5 minutes of idleness.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
        }
    }
}
