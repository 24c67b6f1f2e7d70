//! Counters of the transport, and the errors of peers that they count by reason.

use std::collections::BTreeMap;

use hawser_engine::counters::Counter;
use hawser_engine::replication::PeerViolation;
use hawser_proto::OriginatorId;
use hawser_proto::frame::{CloseCode, FrameError};
use hawser_proto::message_reader::MessageFramingError;
use parking_lot::Mutex;

/// The reason a peer, or something that it sent, was refused. Each one is counted under its label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum PeerError {
    /// The registry has no node of this id in the network.
    #[error("the registry lists no such node in the network")]
    UnknownNode,
    /// The peer's id is not the one that was dialled, or is this node's own.
    #[error("the peer is not the node that was dialled")]
    WrongNode,
    /// The signature does not prove this id, in this role, on this connection.
    #[error("the proof of the peer's node id is invalid")]
    BadProof,
    /// Both ends have no version of the protocol in common.
    #[error("the peer speaks no common protocol version")]
    NoCommonVersion,
    /// The peer did not finish the handshake in time.
    #[error("the peer's handshake took too long")]
    HandshakeTimeout,
    /// Too many connections without a proven node id are open, or the peer came back too soon after it was refused.
    #[error(
        "too many connections without a proven node id are open, or the peer came back too soon"
    )]
    Busy,
    /// A frame was malformed or out of place.
    #[error("protocol violation")]
    Protocol,
    /// A frame was larger than its type allows, or a batch larger than was asked for.
    #[error("a frame is too large")]
    Oversized,
    /// The peer sent nothing but keep-alives, far more often than they are needed.
    #[error("too many keep-alives")]
    KeepAlives,
    /// The peer sent far more frames without envelopes than wants and envelopes explain, or over gRPC more HTTP/2
    /// frames without content than calls and messages explain.
    #[error("the peer sent too many frames without envelopes")]
    EmptyFrames,
    /// The peer's API lacks a method by which nodes get strands.
    #[error("the peer's API lacks a method by which nodes get strands")]
    NoMethod,
    /// The peer claims envelopes of its own strand, and sends none, however often it is asked. Over gRPC.
    #[error("the peer claims envelopes and sends none")]
    Silent,
    /// The peer sent a strand that was not asked for.
    #[error("the peer sent a strand that was not requested")]
    Unrequested,
    /// The engine found a violation in the peer's envelopes.
    #[error(transparent)]
    Envelope(#[from] PeerViolation),
}

impl PeerError {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 13 + PeerViolation::ALL.len()] = [
        Self::UnknownNode,
        Self::WrongNode,
        Self::BadProof,
        Self::NoCommonVersion,
        Self::HandshakeTimeout,
        Self::Busy,
        Self::Protocol,
        Self::Oversized,
        Self::KeepAlives,
        Self::EmptyFrames,
        Self::NoMethod,
        Self::Silent,
        Self::Unrequested,
        Self::Envelope(PeerViolation::ALL[0]),
        Self::Envelope(PeerViolation::ALL[1]),
        Self::Envelope(PeerViolation::ALL[2]),
        Self::Envelope(PeerViolation::ALL[3]),
        Self::Envelope(PeerViolation::ALL[4]),
    ];

    /// Returns the value of the metric's label `reason`.
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
            Self::KeepAlives => "keep_alives",
            Self::EmptyFrames => "empty_frames",
            Self::NoMethod => "no_method",
            Self::Silent => "silent",
            Self::Unrequested => "unrequested",
            Self::Envelope(violation) => violation.label(),
        }
    }

    /// Returns true if the peer owes answers, and false if it has sent what it must not send.
    pub(crate) fn is_silence(self) -> bool {
        matches!(self, Self::NoMethod | Self::Silent | Self::HandshakeTimeout)
    }

    /// Returns the code that the connection is closed with.
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
            | Self::KeepAlives
            | Self::EmptyFrames
            | Self::NoMethod
            | Self::Silent
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

impl From<FrameError> for PeerError {
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

impl From<MessageFramingError> for PeerError {
    fn from(error: MessageFramingError) -> Self {
        match error {
            MessageFramingError::TooLong => Self::Oversized,
            MessageFramingError::Compressed => Self::Protocol,
        }
    }
}

/// Counters of one endpoint. The operator's metrics read them.
#[derive(Debug, Default)]
pub struct NetCounters {
    /// Attempts to dial a peer.
    pub dials: Counter,
    /// Sessions started with peers that have proved their ids.
    pub sessions: Counter,
    /// `Want` frames received from peers.
    pub wants: Counter,
    /// Envelopes sent to peers.
    pub envelopes_sent: Counter,
    /// Bytes of batch frames handed to QUIC.
    pub bytes_sent: Counter,
    /// Bytes of strand streams taken from QUIC, and of envelopes taken from gRPC.
    pub bytes_received: Counter,
    /// Envelopes from gRPC that the peer had not written in canonical form.
    pub rewritten: Counter,
    /// Streams that this node opened at peers over gRPC, by strand and method. The registry bounds the strands.
    subscribed: Mutex<BTreeMap<(OriginatorId, SubscribeRpc), u64>>,
    refusals: [Counter; PeerError::ALL.len()],
}

/// A gRPC method with which a strand is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SubscribeRpc {
    /// `SubscribeOriginators`.
    Originators,
    /// `SubscribeEnvelopes`, of peers without the other one.
    Envelopes,
}

impl SubscribeRpc {
    /// Returns the value of the metric's label `rpc`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Originators => "originators",
            Self::Envelopes => "envelopes",
        }
    }
}

impl NetCounters {
    /// Counts a stream of a strand that this node has opened at a peer.
    pub(crate) fn subscribed(&self, originator: OriginatorId, rpc: SubscribeRpc) {
        *self.subscribed.lock().entry((originator, rpc)).or_default() += 1;
    }

    /// Returns the number of streams opened over gRPC, by strand and method.
    #[must_use]
    pub fn subscriptions(&self) -> BTreeMap<(OriginatorId, SubscribeRpc), u64> {
        self.subscribed.lock().clone()
    }

    /// Returns the number of refusals for this reason.
    #[must_use]
    pub fn refused(&self, reason: PeerError) -> u64 {
        self.refusals[Self::index(reason)].get()
    }

    /// Counts one refusal.
    pub(crate) fn refuse(&self, reason: PeerError) {
        self.refusals[Self::index(reason)].inc();
    }

    fn index(reason: PeerError) -> usize {
        PeerError::ALL.iter().position(|other| *other == reason).expect("all of them are listed")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_refusal_is_counted_by_itself_under_its_own_label() {
        let counters = NetCounters::default();
        for (count, reason) in (1..).zip(PeerError::ALL) {
            (0..count).for_each(|_| counters.refuse(reason));
        }
        for (count, reason) in (1..).zip(PeerError::ALL) {
            assert_eq!(counters.refused(reason), count);
        }
        let labels: BTreeSet<_> = PeerError::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), PeerError::ALL.len());
    }
}
