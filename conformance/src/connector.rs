//! Connections for gRPC, with bounds on the certificates of the node and on its frames that carry nothing.

use std::io;
use std::task::{Context, Poll};

use hawser_dial::{FrameFlood, MeteredStream};
use hyper_util::rt::TokioIo;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::Uri;

use crate::http::TargetAddress;

/// Connects to one node, whichever URL it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct NodeConnector(pub(crate) TargetAddress);

impl Service<Uri> for NodeConnector {
    type Response = TokioIo<MeteredStream>;
    type Error = io::Error;
    type Future = BoxFuture<TokioIo<MeteredStream>, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let address = self.0.clone();
        Box::pin(async move {
            let (tcp, tls) = (address.dial().await?, address.tls_of_grpc()?);
            MeteredStream::over(tcp, tls, FrameFlood::default()).await.map(TokioIo::new)
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// Played by a node whose frames carry nothing.
    #[tokio::test]
    async fn a_node_that_floods_a_connection_with_frames_loses_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = TargetAddress::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            // Room for more requests (RFC 9113 §6.9).
            let updates = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(1000);
            while connection.write_all(&updates).await.is_ok() {}
        });
        let url = Uri::from_static("http://node");
        let mut stream = NodeConnector(address).call(url).await.unwrap().into_inner();
        let ended = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        assert_eq!(ended.unwrap_err().to_string(), FrameFlood::error().to_string());
    }
}
