//! The relation between a peer and the strand that it is asked for, which decides what its answers can say.

use hawser_proto::OriginatorId;

/// The peer that answers a want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedPeer {
    /// The strand's own node, over TLS: no other host can change its answers. Only such a peer can show that places
    /// have expired.
    OwnNode,
    /// The strand's own node, over a connection on which another host can change its answers.
    OwnNodeUnprotected,
    /// A node that passes on the strand of another one, and may not have checked it.
    Relay,
}

impl AskedPeer {
    /// Returns the relation of `peer` to a strand.
    pub(super) fn of(peer: OriginatorId, strand: OriginatorId, is_tls: bool) -> Self {
        match (peer == strand, is_tls) {
            (true, true) => Self::OwnNode,
            (true, false) => Self::OwnNodeUnprotected,
            (false, _) => Self::Relay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_node_of_a_strand_over_tls_speaks_for_it() {
        let (node, other) = (OriginatorId(300), OriginatorId(400));
        for (peer, is_tls, expected) in [
            (node, true, AskedPeer::OwnNode),
            (node, false, AskedPeer::OwnNodeUnprotected),
            (other, true, AskedPeer::Relay),
            (other, false, AskedPeer::Relay),
        ] {
            assert_eq!(AskedPeer::of(peer, node, is_tls), expected, "{peer} {is_tls}");
        }
    }
}
