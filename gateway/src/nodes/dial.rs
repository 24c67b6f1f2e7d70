//! Connections to nodes. A node's operator chooses its address and could name one in a private network, such as the
//! gateway's own. Private addresses are therefore refused unless the gateway's operator allows them. The check
//! applies to the address of the connection, after the look-up of the name in the registry.

use std::io;
use std::net::SocketAddr;

use hawser_serve::address::is_public;
use http::Uri;
use tokio::net::TcpStream;

use super::look_up::look_up;

/// The most addresses of a name that are dialled. A guess: both versions of IP, and a few hosts.
const ADDRESSES_MAX: usize = 8;

/// Connects to the host of a URL. Skips private addresses unless `allow_private`. The caller limits the time.
///
/// # Errors
/// An error if the name has no allowed address, or if none of the first ones accepts a connection.
pub(super) async fn dial(uri: &Uri, allow_private: bool) -> io::Result<TcpStream> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().ok_or_else(missing)?.trim_matches(['[', ']']);
    let found = look_up(host, uri.port_u16().unwrap_or(default)).await?;
    connect_to_first(found, allow_private).await
}

async fn connect_to_first(
    found: impl Iterator<Item = SocketAddr>,
    allow_private: bool,
) -> io::Result<TcpStream> {
    let allowed = found.filter(|address| allow_private || is_public(address.ip()));
    let mut last = io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the address lies in a private network, which --allow-private-nodes would allow",
    );
    for address in allowed.take(ADDRESSES_MAX) {
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

    #[tokio::test]
    async fn of_thousands_of_addresses_of_a_name_few_are_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let refuses = SocketAddr::from(([127, 0, 0, 1], 1));
        let found = |before: usize| std::iter::repeat_n(refuses, before).chain([there]);
        assert!(connect_to_first(found(ADDRESSES_MAX - 1), true).await.is_ok());
        let error = connect_to_first(found(ADDRESSES_MAX), true).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
