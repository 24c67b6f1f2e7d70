//! Connections to nodes. A node's operator chooses its address and could name one in a private network, such as the
//! gateway's own. Private addresses are therefore refused unless the gateway's operator allows them. The check
//! applies to the address of the connection, after the look-up of the name in the registry. A node also chooses its
//! certificates and its HTTP/2 frames, so the connections of a gateway bound both.

use std::io;
use std::time::Duration;

use hawser_dial::{
    DialledNetworks, FrameFlood, HostStream, HostTls, MeteredStream, look_up, public_authorities,
};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{Service, service_fn};

/// Time without a connection to a node that has flooded one with frames that carry nothing. A guess: each flood takes a
/// core some ten milliseconds before it ends the connection.
const FLOOD_PAUSE: Duration = Duration::from_secs(5);

/// Returns a connector for the calls of a gateway to the node at `url`, over TLS for `https:`. It connects as
/// [`node_connector`] does. A flood of frames ends the connection, and there is none for [`FLOOD_PAUSE`].
pub(super) fn gateway_connector(
    url: Uri,
    allow_private: bool,
) -> impl Service<Uri, Response = TokioIo<MeteredStream>, Error = io::Error, Future: Send>
+ Clone
+ Send
+ 'static {
    let flood = FrameFlood::default();
    service_fn(move |_: Uri| {
        let (url, flood) = (url.clone(), flood.clone());
        async move {
            if flood.last().is_some_and(|at| at.elapsed() < FLOOD_PAUSE) {
                return Err(FrameFlood::error());
            }
            let tcp = dial(&url, allow_private).await?;
            let stream: Box<dyn HostStream> = if url.scheme_str() == Some("https") {
                let host = url.host().unwrap_or_default();
                Box::new(HostTls::new(host, public_authorities())?.connect(tcp).await?)
            } else {
                Box::new(tcp)
            };
            Ok(TokioIo::new(MeteredStream::new(stream, flood)))
        }
    })
}

/// Returns a connector for calls to nodes of the registry. Each of its connections goes to an address that the look-up
/// of the name gave: to a private one only if `allow_private`, and to none at which no node can be.
pub fn node_connector(
    allow_private: bool,
) -> impl Service<Uri, Response = TokioIo<TcpStream>, Error = io::Error, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(move |uri: Uri| async move { dial(&uri, allow_private).await.map(TokioIo::new) })
}

/// Connects to the host of a URL. Skips private addresses unless `allow_private`. The caller limits the time.
///
/// # Errors
/// Fails when the first addresses of the name have no allowed one, or none that accepts a connection.
pub(super) async fn dial(uri: &Uri, allow_private: bool) -> io::Result<TcpStream> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().ok_or_else(missing)?.trim_matches(['[', ']']);
    let networks = if allow_private { DialledNetworks::All } else { DialledNetworks::Public };
    let port = uri.port_u16().unwrap_or(default);
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in look_up(host.to_owned(), port, networks).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// Played by a node whose frames carry nothing.
    #[tokio::test]
    async fn a_node_that_floods_its_connection_with_frames_is_left_for_a_while() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            // Room for more requests (RFC 9113 §6.9).
            let updates = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1].repeat(1000);
            while connection.write_all(&updates).await.is_ok() {}
        });
        let mut connector = gateway_connector(url.clone(), true);
        let flood = FrameFlood::error().to_string();
        let mut stream = connector.call(url.clone()).await.unwrap().into_inner();
        let ended = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        assert_eq!(ended.unwrap_err().to_string(), flood);
        let again = connector.call(url).await.map(|_| "it connects again").unwrap_err();
        assert_eq!(again.to_string(), flood);
    }

    #[tokio::test]
    async fn a_name_of_a_private_address_is_refused_too() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["localhost", "127.0.0.1"] {
            let uri: Uri = format!("http://{host}:{port}").parse().unwrap();
            let refused = dial(&uri, false).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{host}");
            assert!(dial(&uri, true).await.is_ok(), "{host}");
        }
    }
}
