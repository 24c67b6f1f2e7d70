//! Connections to nodes. A node's operator chooses its address and could name one in a private network, such as the
//! gateway's own. Private addresses are therefore refused unless the gateway's operator allows them. The check
//! applies to the address of the connection, after the look-up of the name in the registry.

use std::io;

use hawser_dial::{DialledNetworks, look_up};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{Service, service_fn};

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
    use super::*;

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
