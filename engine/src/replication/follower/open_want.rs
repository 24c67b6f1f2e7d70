//! One want at one peer, from its effect until its response has ended.

use std::time::Instant;

use hawser_proto::SequenceId;

use super::range_answer::{NamedGaps, RangeAnswer, ShownPlaces};
use crate::replication::link::{PeerViolation, RequestId, Want, WantedItems};
use crate::replication::ranges::Places;

/// A want that a peer is answering, and how far the response has come.
///
/// Invariant: `last` only grows, and never exceeds `up_to`.
#[derive(Debug)]
pub(super) struct OpenWant {
    /// Identifies the response.
    pub(super) request: RequestId,
    /// The time at which the peer was asked.
    pub(super) asked_at: Instant,
    /// The want is for places marked missing, or of a dispute.
    pub(super) is_fill: bool,
    /// The place before the first one asked for.
    pub(super) after: SequenceId,
    /// The last place asked for; `None` for a want without an end.
    pub(super) up_to: Option<SequenceId>,
    /// The last place that the response has covered, by an envelope or by a gap.
    pub(super) last: SequenceId,
    /// The last time that bytes of the response have arrived of which nothing was whole.
    pub(super) arrived_at: Option<Instant>,
    /// The last places that envelopes of the response have taken, without a gap between them.
    taken: Option<Places>,
    /// Places that end at `last` and that the peer named as expired.
    expired: Option<Places>,
    /// The answer that is kept, as far as it has come.
    answer: OpenAnswer,
}

/// The answer to a want that a peer is still giving, by the items that were asked for.
#[derive(Debug)]
enum OpenAnswer {
    /// The places of its envelopes; `None` unless a short range was asked for.
    Envelopes(Option<ShownPlaces>),
    /// The gaps that the peer has named; `None` once they were taken.
    Gaps(Option<NamedGaps>),
    /// The answers about the ranges whose gaps were asked for. A place counts as shown until it is named.
    GapsOf(Vec<RangeAnswer>),
}

impl OpenAnswer {
    /// Begins the answer to a want that is sent at `asked_at`.
    fn new(want: Want, asked_at: Instant) -> Self {
        match want.items {
            WantedItems::Envelopes(up_to) => {
                Self::Envelopes(up_to.and_then(|up_to| ShownPlaces::of_short(want.after, up_to)))
            }
            WantedItems::Gaps(up_to) => {
                Self::Gaps(Some(NamedGaps::new(want.after, up_to, asked_at)))
            }
            WantedItems::GapsOf(ranges) => {
                let without_gaps = |range| RangeAnswer::without_gaps(range, asked_at);
                Self::GapsOf(ranges.iter().filter_map(without_gaps).collect())
            }
        }
    }
}

impl OpenWant {
    pub(super) fn new(request: RequestId, asked_at: Instant, want: Want, is_fill: bool) -> Self {
        Self {
            request,
            asked_at,
            is_fill,
            after: want.after,
            up_to: want.up_to(),
            last: want.after,
            arrived_at: None,
            taken: None,
            expired: None,
            answer: OpenAnswer::new(want, asked_at),
        }
    }

    /// Moves on to an envelope and returns the places just before it that the peer named as
    /// expired.
    pub(super) fn advance(&mut self, to: SequenceId) -> Result<Option<Places>, PeerViolation> {
        self.check_order(to)?;
        let OpenAnswer::Envelopes(shown) = &mut self.answer else {
            // No envelope was asked for.
            return Err(PeerViolation::OutOfOrder);
        };
        shown.iter_mut().for_each(|shown| shown.add(to));
        self.last = to;
        self.taken = match self.taken {
            Some((first, last)) if last.next() == to => Some((first, to)),
            _ => Some((to, to)),
        };
        Ok(self.expired.take())
    }

    /// Returns true if one of the last envelopes of the response has taken this place, with no gap between them.
    pub(super) fn has_taken(&self, place: SequenceId) -> bool {
        self.taken.is_some_and(|(first, last)| (first..=last).contains(&place))
    }

    /// Returns the answer so far; `None` unless a short range was asked for. `is_whole` says that nothing more of it is
    /// to come.
    pub(super) fn take_answer(&mut self, now: Instant, is_whole: bool) -> Option<RangeAnswer> {
        let OpenAnswer::Envelopes(shown) = &mut self.answer else { return None };
        let through = if is_whole { self.up_to? } else { self.last };
        Some(RangeAnswer::new(shown.take()?, through, now))
    }

    /// Returns the gaps that the peer has named; `None` unless only those were asked for.
    pub(super) fn take_named(&mut self) -> Option<NamedGaps> {
        let OpenAnswer::Gaps(named) = &mut self.answer else { return None };
        named.take()
    }

    /// Returns the answers about ranges whose gaps alone were asked for.
    pub(super) fn take_ranges(&mut self) -> Vec<RangeAnswer> {
        let OpenAnswer::GapsOf(ranges) = &mut self.answer else { return Vec::new() };
        std::mem::take(ranges)
    }

    /// True if nothing has come.
    pub(super) fn is_untouched(&self) -> bool {
        self.last == self.after
    }

    /// Moves on over a gap. Adjacent expired gaps join into one range, because the follower passes
    /// over expired places only if all places before the next envelope are expired.
    pub(super) fn note_gap(
        &mut self,
        from: SequenceId,
        to: SequenceId,
        expired: bool,
    ) -> Result<(), PeerViolation> {
        if to < from {
            return Err(PeerViolation::OutOfOrder);
        }
        self.check_order(from)?;
        self.expired = match self.expired {
            _ if !expired => None,
            Some((first, last)) if last.next() == from => Some((first, to)),
            _ => Some((from, to)),
        };
        // A gap may reach beyond the end of the want: the sender names what its log has.
        self.last = self.up_to.map_or(to, |up_to| to.min(up_to));
        let gap = (from, self.last);
        match &mut self.answer {
            OpenAnswer::Envelopes(_) => {}
            OpenAnswer::Gaps(named) => named.iter_mut().for_each(|named| named.add(gap)),
            OpenAnswer::GapsOf(ranges) => ranges.iter_mut().for_each(|it| it.note_gap(gap)),
        }
        Ok(())
    }

    /// Checks that a place directly follows the covered part of the response, and was requested.
    fn check_order(&self, to: SequenceId) -> Result<(), PeerViolation> {
        let beyond = self.up_to.is_some_and(|up_to| to > up_to);
        if to <= self.last || beyond { Err(PeerViolation::OutOfOrder) } else { Ok(()) }
    }
}
