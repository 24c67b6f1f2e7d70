//! Peers that are called without TLS.
//!
//! An attacker on the way to such a peer reads the node's token, with which a call counts as that of this node, and
//! everything that the two nodes exchange.

use std::net::IpAddr;

use tonic::transport::Uri;

use super::client::{CONNECT_MAX, PeerCallError, is_tls, within};

/// The addresses at which peers are called without TLS (`docs/protocol/replication.md`, *Over gRPC*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlainTextPeers {
    /// Loopback, private (RFC 1918, RFC 4193) and link-local addresses.
    #[default]
    Private,
    /// All addresses.
    All,
}

impl PlainTextPeers {
    /// Checks that a peer at `url` may be called. A name is looked up: all its addresses have to be permitted.
    ///
    /// # Errors
    /// When the URL has no TLS, and has no address or one that is not permitted.
    pub(super) async fn check(self, url: &str) -> Result<(), PeerCallError> {
        if self == Self::All || is_tls(url) {
            return Ok(());
        }
        let failed = |text: String| PeerCallError::Failed(text);
        let uri: Uri = url.parse().map_err(|error| failed(format!("{url:?}: {error}")))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let looked_up = tokio::net::lookup_host((host, uri.port_u16().unwrap_or(80)));
        let found =
            within(CONNECT_MAX, async { looked_up.await.map_err(|it| failed(it.to_string())) });
        for address in found.await? {
            if !is_private(address.ip()) {
                return Err(failed(format!(
                    "{url} has no TLS, and {} is a public address: register an https URL, or give \
                     --allow-insecure-peers on this node",
                    address.ip()
                )));
            }
        }
        Ok(())
    }
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => it.is_loopback() || it.is_private() || it.is_link_local(),
        IpAddr::V6(it) => it.is_loopback() || it.is_unique_local() || it.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            PlainTextPeers::Private.check(url).await.unwrap();
        }
        for url in ["http://8.8.8.8:5050", "http://[2001:db8::1]:5050", "http://[::ffff:8.8.8.8]"] {
            let refused = PlainTextPeers::Private.check(url).await.unwrap_err();
            assert!(refused.to_string().contains("--allow-insecure-peers"), "{refused}");
            PlainTextPeers::All.check(url).await.unwrap();
        }
        PlainTextPeers::Private.check("http://").await.unwrap_err();
    }
}
