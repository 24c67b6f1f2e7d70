//! Passes requests on to the node behind the stand-in.

use std::net::Ipv4Addr;

use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::content::Body;

/// Sends a request over a connection of its own, in the version of HTTP in which it came.
pub(super) async fn forward(request: Request<Body>, target: u16) -> Option<Response<Incoming>> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await.ok()?;
    let io = TokioIo::new(stream);
    if request.version() == Version::HTTP_2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.ok()?;
        tokio::spawn(connection);
        sender.send_request(request).await.ok()
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.ok()
    }
}
