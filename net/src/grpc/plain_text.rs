//! Peers that are called without TLS.
//!
//! An attacker on the way to such a peer reads the node's token, with which a call counts as that of this node, and
//! everything that the two nodes exchange.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hawser_dial::look_up;
use tonic::transport::Uri;

use super::call_error::{PeerCallError, within};
use super::client::{CONNECT_MAX, is_tls};

/// The addresses at which peers are called without TLS (`docs/protocol/replication.md`, *Over gRPC*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlainTextPeers {
    /// Loopback and private addresses (RFC 1918, RFC 4193).
    #[default]
    Private,
    /// All addresses.
    All,
}

impl PlainTextPeers {
    /// Returns the addresses at which a peer at `url` may be called. All that are looked up have to be permitted. The
    /// caller dials these and does not look the name up again: a hostile server of the name may give other addresses
    /// next. `None` when every address is permitted, or TLS proves the name.
    ///
    /// # Errors
    /// When the URL has no TLS, and has no address or one that is not permitted.
    pub(super) async fn addresses(
        self,
        url: &str,
    ) -> Result<Option<Vec<SocketAddr>>, PeerCallError> {
        self.addresses_by(url, look_up).await
    }

    /// Returns the addresses at which a node at `url` may be called with a token. The caller dials one of them. `None`
    /// when every address is permitted, or TLS proves the name.
    ///
    /// # Errors
    /// The reason for which it may not be called.
    pub async fn permitted(self, url: &str) -> Result<Option<Vec<SocketAddr>>, String> {
        self.addresses(url).await.map_err(|error| error.to_string())
    }

    /// As [`PlainTextPeers::addresses`], with a resolver that is asked once.
    async fn addresses_by<F>(
        self,
        url: &str,
        look_up: impl FnOnce(String, u16) -> F,
    ) -> Result<Option<Vec<SocketAddr>>, PeerCallError>
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        if self == Self::All || is_tls(url) {
            return Ok(None);
        }
        let failed = |text: String| PeerCallError::Failed(text);
        let uri: Uri = url.parse().map_err(|error| failed(format!("{url:?}: {error}")))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let looked_up = look_up(host.to_owned(), uri.port_u16().unwrap_or(80));
        let found =
            within(CONNECT_MAX, async { looked_up.await.map_err(|it| failed(it.to_string())) });
        let found = found.await?;
        if let Some(address) = found.iter().find(|address| !is_private(address.ip())) {
            return Err(failed(format!(
                "{url} has no TLS, and {} is a public address: register an https URL, or give \
                 --allow-insecure-peers on this node",
                address.ip()
            )));
        }
        if found.is_empty() {
            return Err(failed(format!("the name in {url} has no address")));
        }
        Ok(Some(found))
    }
}

fn is_private(address: IpAddr) -> bool {
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

    #[tokio::test]
    async fn a_peer_without_tls_is_called_at_private_addresses_only() {
        for url in [
            "http://127.0.0.1:5050",
            "http://localhost:5050",
            "http://10.1.2.3",
            "http://192.168.1.2:1",
            "http://[::1]:5050",
            "http://[fd00::1]:5050",
            "https://198.51.100.1",
            "HTTPS://node.example",
        ] {
            PlainTextPeers::Private.addresses(url).await.unwrap();
        }
        for url in ["http://8.8.8.8:5050", "http://[2001:db8::1]:5050", "http://[::ffff:8.8.8.8]"] {
            let refused = PlainTextPeers::Private.addresses(url).await.unwrap_err();
            assert!(refused.to_string().contains("--allow-insecure-peers"), "{refused}");
            PlainTextPeers::All.addresses(url).await.unwrap();
        }
        PlainTextPeers::Private.addresses("http://").await.unwrap_err();
    }

    /// Neither with TLS nor by an operator who permits plain text everywhere.
    #[tokio::test]
    async fn a_peer_is_not_called_where_no_node_can_be() {
        for url in ["http://169.254.169.254", "http://[fe80::1]:5050", "http://0.0.0.0:5050"] {
            let refused = PlainTextPeers::Private.addresses(url).await.unwrap_err();
            assert!(refused.to_string().contains("no node can be at"), "{url}: {refused}");
            for url in [url.to_owned(), url.replacen("http", "https", 1)] {
                let refused = PeerClient::connect(&url, None, None).await.unwrap_err();
                assert!(refused.to_string().contains("no node can be at"), "{url}: {refused}");
            }
        }
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
        let refuses = SocketAddr::from(([127, 0, 0, 1], 1));
        let once = |host: String, port| async move {
            assert_eq!((host.as_str(), port), ("peer.invalid", checked.port()));
            Ok(vec![refuses, checked])
        };
        let at = PlainTextPeers::Private.addresses_by(&url, once).await.unwrap();
        let client = PeerClient::connect(&url, at.as_deref(), None).await.unwrap();
        client.heads().await.unwrap();
        assert_eq!(called.recv().await.unwrap(), authority, "the peer sees its name");
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
