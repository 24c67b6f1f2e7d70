//! Peers that are called without TLS.
//!
//! An attacker on the path to such a peer reads all traffic between the two nodes. Calls with this node's token count
//! as calls of this node, so no peer at a public address gets the token without TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hawser_dial::{DialledNetworks, look_up};
use tonic::transport::Uri;

use crate::control::SessionError;

/// The addresses at which peers are called without TLS (`docs/protocol/replication.md`, *Over gRPC*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlainTextPeers {
    /// Loopback and private addresses (RFC 1918, RFC 4193).
    #[default]
    Private,
    /// All addresses. Calls to a public one have no token.
    All,
}

impl PlainTextPeers {
    /// Returns the addresses of a peer at `url` that are in `networks`. Without TLS, all of them have to be permitted.
    /// The caller dials these and does not look the name up again: a hostile server of the name may give other
    /// addresses next.
    ///
    /// # Errors
    /// When the URL has no address in these networks, or has no TLS and an address that is not permitted.
    pub(super) async fn addresses(
        self,
        url: &str,
        networks: DialledNetworks,
    ) -> Result<Vec<SocketAddr>, SessionError> {
        self.addresses_by(url, |host, port| look_up(host, port, networks)).await
    }

    /// As [`PlainTextPeers::addresses`], with a resolver that is asked once.
    async fn addresses_by<F>(
        self,
        url: &str,
        look_up: impl FnOnce(String, u16) -> F,
    ) -> Result<Vec<SocketAddr>, SessionError>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        // A replica may follow a URL with keys in it, so errors have no more of one than its host.
        let uri: Uri = url.parse().map_err(|error| SessionError::Lost(format!("{error}")))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(if is_tls(url) { 443 } else { 80 });
        let found = look_up(host.to_owned(), port).await;
        let found = found.map_err(|error| SessionError::of_look_up(&error))?;
        if found.is_empty() {
            return Err(SessionError::Lost(format!("the name {host:?} has no address")));
        }
        if self == Self::All || is_tls(url) {
            return Ok(found);
        }
        if let Some(address) = public_of(&found) {
            return Err(SessionError::NotDialled(format!(
                "{url} has no TLS, and {address} is a public address: register an https URL, or give \
                 --allow-insecure-peers on this node"
            )));
        }
        Ok(found)
    }
}

/// Returns the addresses at which a node of this operator, at `url`, may be called with a token. The caller dials one
/// of them. `None` when TLS proves the name.
///
/// # Errors
/// The reason for which no token is sent there.
pub async fn token_addresses(url: &str) -> Result<Option<Vec<SocketAddr>>, String> {
    if is_tls(url) {
        return Ok(None);
    }
    let found = PlainTextPeers::All.addresses(url, DialledNetworks::All).await;
    let found = found.map_err(|error| error.to_string())?;
    match public_of(&found) {
        Some(address) => Err(format!("{url} has no TLS, and {address} is a public address")),
        None => Ok(Some(found)),
    }
}

/// Returns true if a peer at these addresses may be shown a token: TLS protects it, or all of them are private.
pub(super) fn may_get_token(url: &str, addresses: &[SocketAddr]) -> bool {
    is_tls(url) || public_of(addresses).is_none()
}

/// Returns true if calls to this URL are protected by TLS.
pub(super) fn is_tls(url: &str) -> bool {
    url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

/// Returns the first address that is neither loopback nor private.
fn public_of(addresses: &[SocketAddr]) -> Option<IpAddr> {
    addresses.iter().map(SocketAddr::ip).find(|address| !may_be_unencrypted(*address))
}

/// Returns true if a peer at this address is called without TLS. Narrower than [`hawser_dial::is_private`]: networks
/// with shared addresses (RFC 6598) have several customers.
fn may_be_unencrypted(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => it.is_loopback() || it.is_private(),
        IpAddr::V6(it) => it.is_loopback() || it.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tonic::Status;
    use tonic::body::Body;
    use tonic::codegen::Service;
    use tonic::codegen::http::{Request, Response};
    use tonic::server::NamedService;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;

    use super::super::client::PeerClient;
    use super::*;

    /// A peer without any method, which records the authority of each call.
    #[derive(Clone)]
    struct Peer(mpsc::UnboundedSender<String>);

    impl NamedService for Peer {
        const NAME: &'static str = "xmtp.xmtpv4.metadata_api.MetadataApi";
    }

    impl Service<Request<Body>> for Peer {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, call: Request<Body>) -> Self::Future {
            let authority = call.uri().authority().map(ToString::to_string);
            self.0.send(authority.unwrap_or_default()).unwrap();
            std::future::ready(Ok(Status::unimplemented("").into_http()))
        }
    }

    /// The addresses of a peer for a node that dials all networks.
    async fn of_all(peers: PlainTextPeers, url: &str) -> Result<Vec<SocketAddr>, SessionError> {
        peers.addresses(url, DialledNetworks::All).await
    }

    #[tokio::test]
    async fn a_peer_without_tls_is_called_at_private_addresses_only() {
        for (url, port) in [
            ("http://127.0.0.1:5050", 5050),
            ("http://localhost:5050", 5050),
            ("http://10.1.2.3", 80),
            ("http://192.168.1.2:1", 1),
            ("http://[::1]:5050", 5050),
            ("http://[fd00::1]:5050", 5050),
            ("https://198.51.100.1", 443),
            ("HTTPS://8.8.8.8", 443),
        ] {
            let found = of_all(PlainTextPeers::Private, url).await.unwrap();
            assert!(!found.is_empty(), "{url}");
            assert!(found.iter().all(|address| address.port() == port), "{url}: {found:?}");
        }
        for url in ["http://8.8.8.8:5050", "http://[2001:db8::1]:5050", "http://[::ffff:8.8.8.8]"] {
            let refused = of_all(PlainTextPeers::Private, url).await.unwrap_err();
            // Such a peer is not reported as silent.
            assert!(matches!(refused, SessionError::NotDialled(_)), "{refused:?}");
            assert!(refused.to_string().contains("--allow-insecure-peers"), "{refused}");
            of_all(PlainTextPeers::All, url).await.unwrap();
        }
        of_all(PlainTextPeers::Private, "http://").await.unwrap_err();
    }

    /// Not even a node whose operator permits calls of such peers.
    #[tokio::test]
    async fn no_token_goes_to_a_public_address_without_tls() {
        let public = token_addresses("http://8.8.8.8:5050").await.unwrap_err();
        assert!(public.contains("8.8.8.8 is a public address"), "{public}");
        let private = token_addresses("http://10.1.2.3:5050").await.unwrap();
        assert_eq!(private, Some(vec!["10.1.2.3:5050".parse().unwrap()]));
        assert_eq!(token_addresses("https://8.8.8.8:5050").await, Ok(None));
    }

    /// TLS permits it no more than an operator does who permits plain text everywhere.
    #[tokio::test]
    async fn a_peer_is_not_called_where_no_node_can_be() {
        for url in ["http://169.254.169.254", "http://[fe80::1]:5050", "http://0.0.0.0:5050"] {
            for url in [url.to_owned(), url.replacen("http", "https", 1)] {
                for peers in [PlainTextPeers::Private, PlainTextPeers::All] {
                    let refused = of_all(peers, &url).await.unwrap_err();
                    assert!(matches!(refused, SessionError::NotDialled(_)), "{refused:?}");
                    assert!(refused.to_string().contains("no node can be at"), "{url}: {refused}");
                }
            }
        }
    }

    /// TLS permits it no more than an operator does who permits plain text everywhere.
    #[tokio::test]
    async fn a_peer_is_called_at_a_private_address_only_if_that_is_allowed() {
        for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]"] {
            for url in [format!("http://{host}:5050"), format!("https://{host}:5050")] {
                for peers in [PlainTextPeers::Private, PlainTextPeers::All] {
                    let refused = peers.addresses(&url, DialledNetworks::Public).await.unwrap_err();
                    assert!(matches!(refused, SessionError::NotDialled(_)), "{refused:?}");
                    let text = refused.to_string();
                    assert!(text.contains("--allow-private-nodes"), "{url}: {text}");
                }
            }
        }
        let public = PlainTextPeers::Private.addresses("https://8.8.8.8", DialledNetworks::Public);
        public.await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_without_tls_is_dialled_where_its_name_was_checked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let checked = listener.local_addr().unwrap();
        let (calls, mut called) = mpsc::unbounded_channel();
        let server = Server::builder().add_service(Peer(calls));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        // The resolver has an address for the name once. A second lookup with the system's resolver finds no
        // address.
        let authority = format!("peer.invalid:{}", checked.port());
        let url = format!("http://{authority}");
        // The first address refuses connections: the next one is tried.
        let refuses = SocketAddr::from(([127, 0, 0, 2], checked.port()));
        let once = |host: String, port| async move {
            assert_eq!((host.as_str(), port), ("peer.invalid", checked.port()));
            Ok(vec![refuses, checked])
        };
        let at = PlainTextPeers::Private.addresses_by(&url, once).await.unwrap();
        let client = PeerClient::connect(&url, &at, None).await.unwrap();
        client.heads().await.unwrap();
        assert_eq!(called.recv().await.unwrap(), authority, "the peer sees its name");
    }

    /// The server of the name cannot give another address for the connection.
    #[tokio::test]
    async fn a_peer_with_tls_is_dialled_where_its_name_was_checked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let checked = listener.local_addr().unwrap();
        let dialled = tokio::spawn(async move { listener.accept().await.map(drop) });
        let url = format!("https://peer.invalid:{}", checked.port());
        PeerClient::connect(&url, &[checked], None).await.unwrap_err();
        assert!(dialled.is_finished(), "its name was looked up again");
    }

    #[tokio::test]
    async fn a_name_with_one_public_address_or_none_is_not_called() {
        let found = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
            let look_up = |_, _| std::future::ready(Ok(addresses));
            PlainTextPeers::Private.addresses_by("http://peer.invalid:80", look_up)
        };
        let mixed = found(&["127.0.0.1:80", "8.8.8.8:80"]).await.unwrap_err();
        assert!(mixed.to_string().contains("--allow-insecure-peers"), "{mixed}");
        let none = found(&[]).await.unwrap_err();
        assert!(none.to_string().contains("no address"), "{none}");
    }
}
