//! The choice between the ways to reach a peer.

/// The ways in which this node reaches its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerTransport {
    /// QUIC, and gRPC for each peer that does not answer over QUIC.
    #[default]
    Auto,
    /// QUIC only: a peer without it is not followed.
    Quic,
    /// gRPC only: this node opens no UDP port.
    Grpc,
}

/// The transport of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionTransport {
    /// QUIC, over which the peer has proved its id.
    Quic,
    /// gRPC, at the address in the registry.
    Grpc,
}

impl SessionTransport {
    /// Returns the name in status and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Grpc => "grpc",
        }
    }
}
