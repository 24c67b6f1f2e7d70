//! Checks that the ports of a node are free, before its start writes or reaches anything.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use crate::settings::NodeServiceSettings;

/// Error of a port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {protocol}{address}: {source}{}", hint(.source))]
pub struct PortError {
    /// `UDP ` or nothing.
    protocol: &'static str,
    address: SocketAddr,
    source: io::Error,
}

impl PortError {
    /// Returns the error of a TCP port.
    pub(super) fn tcp(address: SocketAddr, source: io::Error) -> Self {
        Self { protocol: "", address, source }
    }
}

/// Returns advice about an error of listening; may be empty.
pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": stop what uses it, or choose other ports (--api.port, --metrics.metrics-port)"
        }
        _ => "",
    }
}

/// Binds the ports of a node for a moment. Those of clients and peers are not kept: balancers and peers that reach them
/// take them for those of a running node, and a start may take hours while projections are rebuilt. That of operators
/// says how far it is meanwhile ([`RebuildPages`](hawser_api::RebuildPages)).
///
/// # Errors
/// [`PortError`] with the first port that cannot be bound.
pub(super) fn require_free(config: &NodeServiceSettings) -> Result<(), PortError> {
    let api = config.api.enable.then_some(config.api.address);
    api.into_iter().chain(config.metrics).try_for_each(require_free_tcp)?;
    config.quic_listen().map_or(Ok(()), require_free_udp)
}

fn require_free_tcp(address: SocketAddr) -> Result<(), PortError> {
    TcpListener::bind(address).map(drop).map_err(|source| PortError::tcp(address, source))
}

fn require_free_udp(address: SocketAddr) -> Result<(), PortError> {
    let refused = |source| PortError { protocol: "UDP ", address, source };
    UdpSocket::bind(address).map(drop).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named_with_its_protocol() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text = require_free_udp(address).unwrap_err().to_string();
        assert!(text.starts_with(&format!("cannot listen on UDP {address}: ")), "{text}");
        assert!(text.ends_with("(--api.port, --metrics.metrics-port)"), "{text}");
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text = require_free_tcp(address).unwrap_err().to_string();
        assert!(text.starts_with(&format!("cannot listen on {address}: ")), "{text}");
    }
}
