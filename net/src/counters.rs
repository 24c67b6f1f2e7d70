//! What the transport counts.

use hawser_engine::counters::Counter;
use hawser_engine::replication::PeerViolation;
use hawser_proto::frame::{CloseCode, FrameError};

/// Why something that came from outside was refused. Each one is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Refusal {
    /// The registry has no such node.
    #[error("the registry has no such node")]
    UnknownNode,
    /// The peer has another id than the one dialled, or ours.
    #[error("another node than the one that was dialled")]
    WrongNode,
    /// The proof is not of this node, this role or this connection.
    #[error("the proof does not hold")]
    BadProof,
    /// We share no version of the protocol.
    #[error("no common version")]
    NoCommonVersion,
    /// The proof did not come in time.
    #[error("the handshake took too long")]
    HandshakeTimeout,
    /// More connections than we can look at while their peers have proved nothing, or the peer is
    /// back too soon after it was refused.
    #[error("too many connections")]
    Busy,
    /// A frame that is malformed or out of place.
    #[error("protocol violation")]
    Protocol,
    /// A frame larger than its type allows, or a batch larger than was asked for.
    #[error("a frame is too large")]
    Oversized,
    /// A strand that was not asked for.
    #[error("a strand that was not asked for")]
    Unrequested,
    /// What the engine found in the envelopes.
    #[error(transparent)]
    Envelope(#[from] PeerViolation),
}

impl Refusal {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 9 + PeerViolation::ALL.len()] = [
        Self::UnknownNode,
        Self::WrongNode,
        Self::BadProof,
        Self::NoCommonVersion,
        Self::HandshakeTimeout,
        Self::Busy,
        Self::Protocol,
        Self::Oversized,
        Self::Unrequested,
        Self::Envelope(PeerViolation::ALL[0]),
        Self::Envelope(PeerViolation::ALL[1]),
        Self::Envelope(PeerViolation::ALL[2]),
        Self::Envelope(PeerViolation::ALL[3]),
        Self::Envelope(PeerViolation::ALL[4]),
    ];

    /// The value of a metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownNode => "unknown_node",
            Self::WrongNode => "wrong_node",
            Self::BadProof => "bad_proof",
            Self::NoCommonVersion => "no_common_version",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Busy => "busy",
            Self::Protocol => "protocol",
            Self::Oversized => "oversized",
            Self::Unrequested => "unrequested",
            Self::Envelope(violation) => violation.label(),
        }
    }

    /// What the peer is told.
    pub(crate) fn close_code(self) -> CloseCode {
        match self {
            Self::UnknownNode => CloseCode::UnknownNode,
            Self::WrongNode => CloseCode::WrongNode,
            Self::BadProof => CloseCode::BadProof,
            Self::NoCommonVersion => CloseCode::NoCommonVersion,
            Self::HandshakeTimeout => CloseCode::HandshakeTimeout,
            Self::Busy => CloseCode::Busy,
            Self::Protocol
            | Self::Oversized
            | Self::Unrequested
            | Self::Envelope(PeerViolation::WrongOriginator | PeerViolation::OutOfOrder) => {
                CloseCode::ProtocolViolation
            }
            Self::Envelope(
                PeerViolation::NotCanonical
                | PeerViolation::ChainProof
                | PeerViolation::ForgedSignature,
            ) => CloseCode::BadEnvelope,
        }
    }
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLong { .. } => Self::Oversized,
            FrameError::Truncated { .. }
            | FrameError::Trailing { .. }
            | FrameError::Value { .. }
            | FrameError::Unknown { .. }
            | FrameError::Order { .. }
            | FrameError::Unfinished => Self::Protocol,
        }
    }
}

/// Everything the transport counts, for whoever exports it.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Attempts to reach a peer.
    pub dials: Counter,
    /// Sessions begun, with peers that have proved their ids.
    pub sessions: Counter,
    /// Strands that peers asked for.
    pub wants: Counter,
    /// Envelopes sent to peers.
    pub envelopes_sent: Counter,
    /// Bytes of strands handed to QUIC.
    pub bytes_sent: Counter,
    /// Bytes of strands taken from QUIC.
    pub bytes_received: Counter,
    refusals: [Counter; Refusal::ALL.len()],
}

impl NetCounters {
    /// How often something was refused for this reason.
    #[must_use]
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refusals[Self::index(reason)].get()
    }

    pub(crate) fn refuse(&self, reason: Refusal) {
        self.refusals[Self::index(reason)].inc();
    }

    fn index(reason: Refusal) -> usize {
        Refusal::ALL.iter().position(|other| *other == reason).expect("all of them are listed")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_refusal_is_counted_by_itself_under_its_own_label() {
        let counters = NetCounters::default();
        for (count, reason) in (1..).zip(Refusal::ALL) {
            (0..count).for_each(|_| counters.refuse(reason));
        }
        for (count, reason) in (1..).zip(Refusal::ALL) {
            assert_eq!(counters.refused(reason), count);
        }
        let labels: BTreeSet<_> = Refusal::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
    }
}
