//! A running listener: bind, serve, stop in order.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::call_metrics::CallMetrics;
use crate::connection::Connections;
use crate::dispatch::Dispatcher;
use crate::settings::ServeSettings;

/// A running listener. Dropping it closes every connection at once.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    accepting: JoinHandle<()>,
}

impl Server {
    /// Binds the address and serves `routes`.
    ///
    /// Cancelling `stop` begins the shutdown: new connections and calls are refused, unary calls finish. Streams
    /// belong to their services, which watch the same token and end their streams with UNAVAILABLE and
    /// [`SHUTTING_DOWN`](crate::SHUTTING_DOWN).
    ///
    /// # Errors
    /// The system's error if the address cannot be bound.
    pub async fn bind(
        settings: ServeSettings,
        routes: Routes,
        metrics: CallMetrics,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        Self::on(TcpListener::bind(settings.listen).await?, settings, routes, metrics, stop)
    }

    /// Serves `routes` on a listener that is bound already, as [`Server::bind`] does. Ignores the address in
    /// `settings`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The system's error if the listener has no address.
    pub fn on(
        listener: TcpListener,
        settings: ServeSettings,
        routes: Routes,
        metrics: CallMetrics,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        if let Some(tls) = settings.tls.clone() {
            tokio::spawn(tls.follow_files(stop.clone()));
        }
        let dispatcher =
            Dispatcher::new(routes, metrics, settings.pages.clone(), settings.body_timeout);
        let connections = Connections::new(dispatcher, settings, stop.clone());
        Ok(Self { address, stop, accepting: tokio::spawn(connections.accept(listener)) })
    }

    /// Returns the bound address. If the settings have port 0, it has the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Shuts down as [`Server::bind`] describes and returns when the last connection is closed.
    ///
    /// A client that reads slowly can delay this without bound; callers put a timeout around it.
    pub async fn close(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.accepting).await {
            tracing::error!(code = "listener_failed", %error, "the listener's task failed");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.accepting.abort();
    }
}
