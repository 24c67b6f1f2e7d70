//! The listener: every protocol that callers speak, on one port, whatever is served behind it.
//!
//! gRPC over HTTP/2 without TLS, gRPC-Web over HTTP/1.1 and HTTP/2, and the headers that browsers
//! ask for. Connect is recognised and refused. The gateway listens through this module as well, so
//! nothing here knows a service. In reading order:
//!
//! - `connection`: sockets, limits, the end of a connection;
//! - `front`, `cors`, `connect`: what a request is, and what every answer carries;
//! - `calls`, `request`, `response`: one call, its messages, its numbers; `budget`: what is kept of
//!   requests while they arrive; `frames`: where messages begin and end;
//! - `stats`: what is counted; `reflection`: the schema of what is served, for who may ask;
//! - [`pages`]: the port beside it, for operators.

mod budget;
mod calls;
mod connect;
mod connection;
mod cors;
mod frames;
mod front;
pub mod pages;
mod reflection;
mod request;
mod response;
mod stats;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use reflection::{SchemaError, reflect};
pub use stats::{CallStats, Method, MethodKind};

/// The largest message in either direction.
pub const MESSAGE_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;

/// What a stream says when it ends because the server does.
pub const SHUTTING_DOWN: &str = "server is shutting down";

/// How to listen.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// Where; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A connection that has not sent the head of its request after this long is closed.
    pub head_timeout: Duration,
    /// The one message of a unary request must be here after this long. No limit for streams.
    pub body_timeout: Duration,
    /// A connection without calls is closed after this long.
    pub idle_timeout: Duration,
}

impl ServeSettings {
    /// The usual limits: 10 s for a head, 30 s for a message, 5 minutes of idleness.
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

/// A listener at work. Dropping it ends every connection at once.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens, and serves `routes` from now on.
    ///
    /// `stop` is the end of it: when it is cancelled, no more connections and calls are taken, and
    /// unary calls finish. Streams are the services' own: they watch the same token, and end with
    /// UNAVAILABLE and [`SHUTTING_DOWN`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(
        settings: ServeSettings,
        routes: Routes,
        stats: CallStats,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(settings.listen).await?;
        let address = listener.local_addr()?;
        let front = front::Front::new(routes, stats, settings.body_timeout);
        let connections = connection::Connections::new(front, settings, stop.clone());
        Ok(Self { address, stop, accepting: tokio::spawn(connections.accept(listener)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it as [`Server::bind`] describes, and returns when the last connection is closed.
    pub async fn close(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.accepting).await {
            tracing::error!(code = "listener_failed", %error, "the listener did not end in order");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.accepting.abort();
    }
}
