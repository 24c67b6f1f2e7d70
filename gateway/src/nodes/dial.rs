//! Connections to nodes. A node's operator chooses its address and could name one in a private network, such as the
//! gateway's own. Private addresses are therefore refused unless the gateway's operator allows them. The check
//! applies to the address of the connection, after the look-up of the name in the registry. A node also chooses its
//! certificates and its HTTP/2 frames, so the connections of gateways and commands bound both.

use std::io;
use std::time::Duration;

use hawser_dial::{
    DialledNetworks, FrameFlood, HostTls, MeteredStream, RootCertStore, connect_first, look_up,
};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tower::{Service, service_fn};

/// Time without a connection to a node that has flooded one with frames that carry nothing. A guess: each flood takes a
/// core some ten milliseconds before it ends the connection.
const FLOOD_PAUSE: Duration = Duration::from_secs(5);

/// The chooser of a node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFrom {
    /// The operator of this program, whose arguments are called wherever they lead.
    Operator,
    /// The node's operator, who has registered it, and could name a service of this program's own network. Private
    /// addresses are called only if `allow_private`, and those at which no node can be never.
    Registry {
        /// True if private addresses may be called.
        allow_private: bool,
    },
}

/// Returns a connector for calls to the node at `url`, over TLS for `https:`: one of `roots` has to have issued the
/// node's certificate. A flood of frames ends the connection, and there is none for five seconds.
///
/// The connector dials `url`, whatever it is asked for: the endpoint has a URL of `http:` and `url` as its origin,
/// because the library's own TLS would be above the meter of frames.
pub fn node_connector(
    url: Uri,
    from: AddressFrom,
    roots: RootCertStore,
) -> impl Service<Uri, Response = TokioIo<MeteredStream>, Error = io::Error, Future: Send>
+ Clone
+ Send
+ 'static {
    let flood = FrameFlood::default();
    service_fn(move |_: Uri| {
        let (url, roots, flood) = (url.clone(), roots.clone(), flood.clone());
        async move {
            if flood.last().is_some_and(|at| at.elapsed() < FLOOD_PAUSE) {
                return Err(FrameFlood::error());
            }
            let tcp = dial(&url, from).await?;
            let is_tls = url.scheme_str() == Some("https");
            let host = url.host().unwrap_or_default();
            let tls = is_tls.then(|| HostTls::new(host, roots)).transpose()?;
            MeteredStream::over(tcp, tls, flood).await.map(TokioIo::new)
        }
    })
}

/// Connects to the host of a URL, at an address that may be called. The caller limits the time.
///
/// # Errors
/// Fails when the name has no such address, or none that accepts a connection.
pub(super) async fn dial(uri: &Uri, from: AddressFrom) -> io::Result<TcpStream> {
    let missing = || io::Error::new(io::ErrorKind::InvalidInput, "the URL names no host");
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host().ok_or_else(missing)?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(default);
    let addresses: Vec<_> = match from {
        AddressFrom::Operator => lookup_host((host, port)).await?.collect(),
        AddressFrom::Registry { allow_private } => {
            let networks =
                if allow_private { DialledNetworks::All } else { DialledNetworks::Public };
            look_up(host.to_owned(), port, networks).await?
        }
    };
    connect_first(addresses).await
}

#[cfg(test)]
mod tests {
    use hawser_dial::public_authorities;
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
        let mut connector =
            node_connector(url.clone(), AddressFrom::Operator, public_authorities());
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
            let of_registry = |allow_private| AddressFrom::Registry { allow_private };
            let refused = dial(&uri, of_registry(false)).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{host}");
            for from in [of_registry(true), AddressFrom::Operator] {
                assert!(dial(&uri, from).await.is_ok(), "{host} {from:?}");
            }
        }
    }
}
