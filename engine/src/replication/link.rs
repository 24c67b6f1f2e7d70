//! Values that the engine and the transport exchange about one peer.

use hawser_proto::checkpoint::SignedPrefix;
use hawser_proto::{OriginatorId, SequenceId};

use super::ranges::Places;

/// Identifies a want on this node, so that a late response to an earlier want can be distinguished. Never sent to
/// peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Bits of an id that number the wants of one turn. A thousand wants a second use them up in 34 years.
const NUMBER_BITS: u32 = 40;

/// Gives out the ids of the wants of one *turn*: of one follower, or of one search for damaged places.
///
/// A peer may still be sending what an earlier turn asked for when the next one begins. Turns of a process have
/// different numbers, and so different ids: such an answer is never taken for one to a later want.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestIds {
    last: u64,
}

impl RequestIds {
    /// Begins a turn. Of its number 24 bits count: no answer is under way for sixteen million turns.
    #[must_use]
    pub fn of_turn(turn: u32) -> Self {
        Self { last: u64::from(turn) << NUMBER_BITS }
    }

    /// Returns an id that this turn has not had.
    pub(super) fn next(&mut self) -> RequestId {
        self.last += 1;
        RequestId(self.last)
    }
}

/// A part of a strand to ask a peer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The originator of the strand.
    pub originator: OriginatorId,
    /// Start, exclusive: the first place wanted follows this one.
    pub after: SequenceId,
    /// The items wanted behind it.
    pub items: WantedItems,
}

/// The items that a want asks for, behind its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedItems {
    /// The envelopes up to this place, included; without one everything the peer holds and everything that it will
    /// hold.
    Envelopes(Option<SequenceId>),
    /// The gaps up to this place, included: which places the peer does not hold, and no envelopes. Only for a peer that
    /// answers such wants over QUIC.
    Gaps(SequenceId),
    /// The gaps in these ranges, and no envelopes. Only for a peer over gRPC, where each range is a call of its own.
    GapsOf(GapRanges),
}

impl Want {
    /// Returns a want for the envelopes after `after` and up to `up_to`.
    #[must_use]
    pub fn envelopes(
        originator: OriginatorId,
        after: SequenceId,
        up_to: Option<SequenceId>,
    ) -> Self {
        Self { originator, after, items: WantedItems::Envelopes(up_to) }
    }

    /// Returns the last place that is asked for; `None` for everything the peer holds and everything that it will hold.
    #[must_use]
    pub fn up_to(&self) -> Option<SequenceId> {
        match self.items {
            WantedItems::Envelopes(up_to) => up_to,
            WantedItems::Gaps(up_to) => Some(up_to),
            WantedItems::GapsOf(ranges) => Some(ranges.span().1),
        }
    }

    /// Returns true if the want is for gaps alone, and for no envelopes.
    #[must_use]
    pub fn is_for_gaps(&self) -> bool {
        !matches!(self.items, WantedItems::Envelopes(_))
    }
}

/// Some ranges of a strand, one to [`GapRanges::MAX`]: ascending and disjoint, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapRanges {
    first: Places,
    more: [Option<Places>; GapRanges::MAX - 1],
}

impl GapRanges {
    /// The maximum number of ranges. Specified (`docs/protocol/replication.md`, Gaps): the calls for one strand that
    /// are under way at once.
    pub const MAX: usize = 4;

    /// Returns as many ranges as have room, from the first one on; `None` if there is none.
    #[must_use]
    pub fn first_of(ranges: &[(SequenceId, SequenceId)]) -> Option<Self> {
        let (&first, others) = ranges.split_first()?;
        let mut more = [None; GapRanges::MAX - 1];
        more.iter_mut().zip(others).for_each(|(slot, range)| *slot = Some(*range));
        Some(Self { first, more })
    }

    /// Returns the ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (SequenceId, SequenceId)> {
        self.slots().into_iter().flatten()
    }

    /// Returns the ranges in ascending order, each in its slot. Slots behind the last range have none.
    #[must_use]
    pub fn slots(self) -> [Option<(SequenceId, SequenceId)>; Self::MAX] {
        let [second, third, fourth] = self.more;
        [Some(self.first), second, third, fourth]
    }

    /// Returns the first place of the first range and the last place of the last one.
    pub(super) fn span(&self) -> Places {
        let last = self.iter().last().map_or(self.first.1, |(_, last)| last);
        (self.first.0, last)
    }
}

/// The wants for gaps alone that a peer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapWants {
    /// The peer answers none: its version is older than such wants.
    None,
    /// The peer answers wants about a few ranges, over gRPC, where each range is a call of its own.
    Ranges,
    /// The peer answers wants about all places between two, over QUIC.
    All,
}

/// A command from the engine to the connection with one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkCommand {
    /// Send a want. Replaces an earlier want for the same originator.
    Want {
        /// Comes back with every part of the response.
        request: RequestId,
        /// The places to ask for.
        want: Want,
    },
    /// Cancel the want for a strand.
    Stop {
        /// The originator of the strand.
        originator: OriginatorId,
    },
    /// Close the connection: the peer broke the protocol and cannot be trusted.
    Disconnect {
        /// The rule that it broke.
        violation: PeerViolation,
    },
}

/// Item of a strand's stream. `E` is the envelope, before or after verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StrandItem<E> {
    /// The next envelope.
    Envelope(E),
    /// Another statement for a place that an envelope of the same answer, or of an earlier one, has taken. Takes no
    /// place itself. Only answers over gRPC have it, where a peer may repeat itself: over QUIC an envelope out of order
    /// ends the connection.
    Second(E),
    /// The peer claims that it does not hold these places. Proves nothing.
    Gap {
        /// The first place.
        from: SequenceId,
        /// The last place, included.
        to: SequenceId,
        /// The peer claims that it held them until their retention ran out.
        expired: bool,
    },
    /// The peer claims that the envelopes which follow in the same part of the response end a signed beginning of the
    /// strand's tree. The claim is not verified.
    Prefix(Box<SignedPrefix>),
    /// The peer has sent all it holds of the want.
    End,
    /// The stream broke, or the peer refused the want. The connection remains open.
    Closed,
}

impl<E> StrandItem<E> {
    /// Applies `check` to the envelope, if the item has one; other items stay as they are.
    pub fn map<V>(self, check: impl FnOnce(E) -> V) -> StrandItem<V> {
        match self {
            Self::Envelope(envelope) => StrandItem::Envelope(check(envelope)),
            Self::Second(envelope) => StrandItem::Second(check(envelope)),
            Self::Gap { from, to, expired } => StrandItem::Gap { from, to, expired },
            Self::Prefix(prefix) => StrandItem::Prefix(prefix),
            Self::End => StrandItem::End,
            Self::Closed => StrandItem::Closed,
        }
    }
}

/// A part of the response to one want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantResponse<E> {
    /// The peer that sent it, which need not be the strand's originator.
    pub peer: OriginatorId,
    /// The want that it answers.
    pub request: RequestId,
    /// Items in the order of the stream. None says that bytes of the next one have arrived.
    pub items: Vec<StrandItem<E>>,
}

impl<E> WantResponse<E> {
    /// Joins parts that follow each other and answer the same want. A follower searches together for gaps that one part
    /// shows it, and a peer may send each of them by itself.
    pub(crate) fn joined(parts: Vec<Self>) -> Vec<Self> {
        let mut joined: Vec<Self> = Vec::new();
        for part in parts {
            match joined.last_mut() {
                Some(last) if (last.peer, last.request) == (part.peer, part.request) => {
                    last.items.extend(part.items);
                }
                _ => joined.push(part),
            }
        }
        joined
    }
}

/// A rule that a peer's frames broke. Ends its connection.
///
/// The peer itself is at fault, even for another originator's envelope: an honest node verifies
/// every envelope before it passes it on. Other software, which proves no id, does not, and the
/// follower tells the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum PeerViolation {
    /// The outer layer is malformed or not in its one canonical form.
    #[error("an envelope is malformed or not in canonical form")]
    NotCanonical,
    /// The envelope carries a chain transaction as its proof. Chain strands are read from the
    /// chain, never from peers.
    #[error("an envelope of a node has no signature")]
    ChainProof,
    /// The signature is not the originator's.
    #[error("an envelope is not signed by its originator")]
    ForgedSignature,
    /// The envelope belongs to another strand than the one asked for.
    #[error("an envelope belongs to another strand")]
    WrongOriginator,
    /// The envelope is at or before the one before it, or outside of the want.
    #[error("an envelope is out of order")]
    OutOfOrder,
}

impl PeerViolation {
    /// All violations.
    pub const ALL: [Self; 5] = [
        Self::NotCanonical,
        Self::ChainProof,
        Self::ForgedSignature,
        Self::WrongOriginator,
        Self::OutOfOrder,
    ];

    /// Returns the value of the metric label.
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

    /// Returns true if the fault is in the envelope itself, so that the node which has made it may be at fault, and not
    /// the peer that sent it.
    #[must_use]
    pub fn is_originator_fault(self) -> bool {
        match self {
            Self::NotCanonical | Self::ChainProof | Self::ForgedSignature => true,
            Self::WrongOriginator | Self::OutOfOrder => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(peer: u32, request: u64, places: &[u64]) -> WantResponse<u64> {
        let items = places.iter().map(|place| StrandItem::Envelope(*place)).collect();
        WantResponse { peer: OriginatorId(peer), request: RequestId(request), items }
    }

    #[test]
    fn parts_of_one_answer_are_joined_and_those_of_others_stay_in_their_order() {
        let parts = [
            part(200, 1, &[1]),
            part(200, 1, &[2, 3]),
            part(300, 1, &[1]),
            part(200, 1, &[4]),
            part(200, 2, &[1]),
            part(200, 2, &[]),
        ];
        let joined =
            [part(200, 1, &[1, 2, 3]), part(300, 1, &[1]), part(200, 1, &[4]), part(200, 2, &[1])];
        assert_eq!(WantResponse::joined(parts.into()), joined);
    }
}
