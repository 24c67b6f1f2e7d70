//! Connections to nodes. The operator of a node chooses its address, so those that lie in private networks, behind
//! which the gateway's own surroundings are, are refused unless the operator allows them. The address of the
//! connection counts, whatever name the registry has for it.

use std::io;
use std::net::SocketAddr;

use hawser_serve::address::is_public;
use http::Uri;
use tokio::net::{TcpStream, lookup_host};

/// Connects to the host of a URL. Private addresses are passed over unless `allow_private`.
///
/// # Errors
/// When the name has no address that may be used, or none of them answers.
pub(super) async fn dial(uri: &Uri, allow_private: bool) -> io::Result<TcpStream> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().ok_or_else(missing)?.trim_matches(['[', ']']);
    let found: Vec<SocketAddr> =
        lookup_host((host, uri.port_u16().unwrap_or(default))).await?.collect();
    let allowed = found.iter().filter(|address| allow_private || is_public(address.ip()));
    let mut last = io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the address lies in a private network, which --allow-private-nodes would allow",
    );
    for address in allowed {
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
