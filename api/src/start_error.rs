//! The error of a start of the API.

use std::io;
use std::net::SocketAddr;

use hawser_serve::SchemaError;

/// Error of [`start`](crate::start): nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ApiStartError {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address as configured.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The interval of keep-alives is 0, with which streams would send them without a pause.
    #[error("the keepalive interval must be above 0")]
    KeepaliveInterval,
    /// The Redis of the limits does not answer.
    #[error(
        "cannot share rate limits through Redis: {0}; without redis.redis-url they stay in this process"
    )]
    Redis(#[from] redis::RedisError),
    /// The schema that reflection would serve is broken.
    #[error("reflection cannot be served: {0}")]
    Reflection(#[from] SchemaError),
}
