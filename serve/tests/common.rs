//! A listener on a free port, and its clients.

use std::net::SocketAddr;

use hawser_serve::{CallMetrics, ServeSettings, Server};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

/// Starts a listener with settings that are adjusted first.
pub(crate) async fn listen(
    routes: Routes,
    metrics: CallMetrics,
    adjust: impl FnOnce(&mut ServeSettings),
) -> Server {
    let mut settings = ServeSettings::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    adjust(&mut settings);
    Server::bind(settings, routes, metrics, CancellationToken::new()).await.unwrap()
}

/// Connects a client without TLS.
pub(crate) async fn channel(server: &Server) -> Channel {
    endpoint(server).connect().await.unwrap()
}

/// Returns where such clients connect to.
pub(crate) fn endpoint(server: &Server) -> Endpoint {
    Endpoint::from_shared(format!("http://{}", server.address())).unwrap()
}
