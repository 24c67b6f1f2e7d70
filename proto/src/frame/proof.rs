//! The bytes that a node signs to prove its id inside a connection.

use crate::ids::OriginatorId;

/// The signer's end of the connection. Part of the signed bytes, so that no proof can be reflected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// The end that opened the connection.
    Dialler = 0,
    /// The end that was dialled.
    Acceptor = 1,
}

impl Role {
    /// Returns the role of the other end.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }
}

const DOMAIN: &[u8; 12] = b"hawser-quic|";

/// Length of the bytes that [`proof_preimage`] returns.
pub const PROOF_PREIMAGE_LEN: usize = DOMAIN.len() + 1 + 4 + 4 + 32;

/// Returns the bytes that the node `own` in `role` hashes with Keccak-256 and signs for its peer.
/// `exporter` is the exported value of this connection's TLS session, so that the signature is useless
/// in any other connection.
///
/// The verifier passes the peer's role and id as `role` and `own`, and its own id as `peer`.
#[must_use]
pub fn proof_preimage(
    role: Role,
    own: OriginatorId,
    peer: OriginatorId,
    exporter: &[u8; 32],
) -> [u8; PROOF_PREIMAGE_LEN] {
    let mut preimage = [0; PROOF_PREIMAGE_LEN];
    preimage[..12].copy_from_slice(DOMAIN);
    preimage[12] = role as u8;
    preimage[13..17].copy_from_slice(&own.0.to_be_bytes());
    preimage[17..21].copy_from_slice(&peer.0.to_be_bytes());
    preimage[21..].copy_from_slice(exporter);
    preimage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preimage_is_pinned() {
        let made =
            proof_preimage(Role::Acceptor, OriginatorId(200), OriginatorId(100), &[0xee; 32]);
        let pinned = format!("6861777365722d717569637c01000000c800000064{}", "ee".repeat(32));
        assert_eq!(hex::encode(made), pinned);
    }

    #[test]
    fn the_two_ends_never_sign_the_same() {
        let (a, b) = (OriginatorId(100), OriginatorId(200));
        let dialler = proof_preimage(Role::Dialler, a, b, &[1; 32]);
        assert_ne!(dialler, proof_preimage(Role::Acceptor, b, a, &[1; 32]));
        assert_ne!(dialler, proof_preimage(Role::Acceptor, a, b, &[1; 32]));
        assert_ne!(dialler, proof_preimage(Role::Dialler, b, a, &[1; 32]));
        assert_eq!(Role::Dialler.peer(), Role::Acceptor);
        assert_eq!(Role::Acceptor.peer(), Role::Dialler);
    }
}
