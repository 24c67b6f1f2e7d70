//! What the engine and the transport say to each other about one peer.

use hawser_proto::{OriginatorId, SequenceId};

/// Names a want on this node, so that what comes late for an earlier one is told apart. Never
/// travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A part of a strand that is asked of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Whose strand.
    pub originator: OriginatorId,
    /// The first envelope comes after it.
    pub after: SequenceId,
    /// The last one that is wanted, included; `None` for all there is and all that will come.
    pub up_to: Option<SequenceId>,
}

/// What the engine asks of the connection to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkCommand {
    /// Ask for a strand. Takes the place of an earlier want for the same originator.
    Want {
        /// Comes back with everything that answers it.
        request: RequestId,
        /// What to ask for.
        want: Want,
    },
    /// Take a want back.
    Stop {
        /// Whose strand.
        originator: OriginatorId,
    },
    /// End the connection: the peer cannot be trusted with anything.
    Disconnect {
        /// What it did.
        violation: PeerViolation,
    },
}

/// Something that a stream of one strand brings; `E` is an envelope, before or after it is
/// checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrandItem<E> {
    /// The next envelope.
    Envelope(E),
    /// The peer says that it does not hold these. No proof of anything.
    Gap {
        /// The first.
        from: SequenceId,
        /// The last, included.
        to: SequenceId,
        /// It says that it held them until their retention ran out.
        expired: bool,
    },
    /// The peer says that this is all it has of what was wanted.
    End,
    /// The stream broke, or the peer refused the want. The connection stands.
    Closed,
}

impl<E> StrandItem<E> {
    /// The same with what `check` makes of the envelope.
    pub fn map<V>(self, check: impl FnOnce(E) -> V) -> StrandItem<V> {
        match self {
            Self::Envelope(envelope) => StrandItem::Envelope(check(envelope)),
            Self::Gap { from, to, expired } => StrandItem::Gap { from, to, expired },
            Self::End => StrandItem::End,
            Self::Closed => StrandItem::Closed,
        }
    }
}

/// What arrived in answer to one want, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantResponse<E> {
    /// Who sent it: not necessarily whose strand it is.
    pub peer: OriginatorId,
    /// The want that it answers.
    pub request: RequestId,
    /// In the order of the stream.
    pub items: Vec<StrandItem<E>>,
}

/// What a peer did that ends its connection. Nobody but the peer itself can have done it, since
/// an honest one checks what it passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum PeerViolation {
    /// The outer layer is malformed or not in its one canonical form.
    #[error("an envelope is malformed or not in canonical form")]
    NotCanonical,
    /// A chain transaction stands behind the envelope. Chain strands are read from the chain.
    #[error("an envelope of a node has no signature")]
    ChainProof,
    /// The originator did not sign it.
    #[error("an envelope is not signed by its originator")]
    ForgedSignature,
    /// An envelope of another strand than the one asked for.
    #[error("an envelope belongs to another strand")]
    WrongOriginator,
    /// An envelope at or before the one before it, or outside of what was asked for.
    #[error("an envelope is out of order")]
    OutOfOrder,
}

impl PeerViolation {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::NotCanonical,
        Self::ChainProof,
        Self::ForgedSignature,
        Self::WrongOriginator,
        Self::OutOfOrder,
    ];

    /// The value of a metric's label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotCanonical => "not_canonical",
            Self::ChainProof => "chain_proof",
            Self::ForgedSignature => "forged_signature",
            Self::WrongOriginator => "wrong_originator",
            Self::OutOfOrder => "out_of_order",
        }
    }
}
