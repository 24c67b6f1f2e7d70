//! One want at one peer, from its effect until its response has ended.

use std::time::Instant;

use hawser_proto::SequenceId;

use super::range_answer::{NamedGaps, RangeAnswer, ShownPlaces};
use crate::replication::link::{PeerViolation, RequestId, Want};
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
    /// The want is for places marked missing.
    pub(super) is_fill: bool,
    /// The place before the first one asked for.
    pub(super) after: SequenceId,
    /// The last place asked for; `None` for a want without an end.
    pub(super) up_to: Option<SequenceId>,
    /// The last place that the response has covered, by an envelope or by a gap.
    pub(super) last: SequenceId,
    /// The last places that envelopes of the response have taken, without a gap between them.
    taken: Option<Places>,
    /// Places that end at `last` and that the peer named as expired.
    expired: Option<Places>,
    /// The places of its envelopes, if a short range was asked for.
    shown: Option<ShownPlaces>,
    /// The gaps that the peer has named, if only those were asked for.
    named: Option<NamedGaps>,
    /// The answers about the ranges whose gaps alone were asked for. A place counts as shown until it is named.
    ranges: Vec<RangeAnswer>,
    /// Only gaps were asked for.
    gaps_only: bool,
}

impl OpenWant {
    pub(super) fn new(request: RequestId, asked_at: Instant, want: Want, is_fill: bool) -> Self {
        let Want { after, up_to, gaps_only, ranges, .. } = want;
        let of_gaps = up_to.filter(|_| gaps_only && ranges.is_empty());
        let of_envelopes = up_to.filter(|_| !gaps_only);
        Self {
            request,
            asked_at,
            is_fill,
            after,
            up_to,
            last: after,
            taken: None,
            expired: None,
            shown: of_envelopes.and_then(|up_to| ShownPlaces::of_short(after, up_to)),
            named: of_gaps.map(|up_to| NamedGaps::new(after, up_to, asked_at)),
            ranges: ranges
                .iter()
                .filter_map(|it| RangeAnswer::without_gaps(it, asked_at))
                .collect(),
            gaps_only,
        }
    }

    /// Moves on to an envelope and returns the places just before it that the peer named as
    /// expired.
    pub(super) fn advance(&mut self, to: SequenceId) -> Result<Option<Places>, PeerViolation> {
        self.check_order(to)?;
        if self.gaps_only {
            // No envelope was asked for.
            return Err(PeerViolation::OutOfOrder);
        }
        self.last = to;
        self.taken = match self.taken {
            Some((first, last)) if last.next() == to => Some((first, to)),
            _ => Some((to, to)),
        };
        self.shown.iter_mut().for_each(|shown| shown.add(to));
        Ok(self.expired.take())
    }

    /// Returns true if one of the last envelopes of the response has taken this place, with no gap between them.
    pub(super) fn has_taken(&self, place: SequenceId) -> bool {
        self.taken.is_some_and(|(first, last)| (first..=last).contains(&place))
    }

    /// Returns the answer so far; `None` unless a short range was asked for. `is_whole` says that nothing more of it is
    /// to come.
    pub(super) fn take_answer(&mut self, now: Instant, is_whole: bool) -> Option<RangeAnswer> {
        let through = if is_whole { self.up_to? } else { self.last };
        Some(RangeAnswer::new(self.shown.take()?, through, now))
    }

    /// Returns the gaps that the peer has named; `None` unless only those were asked for.
    pub(super) fn take_named(&mut self) -> Option<NamedGaps> {
        self.named.take()
    }

    /// Returns the answers about ranges whose gaps alone were asked for.
    pub(super) fn take_ranges(&mut self) -> Vec<RangeAnswer> {
        std::mem::take(&mut self.ranges)
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
        self.named.iter_mut().for_each(|named| named.add((from, self.last)));
        self.ranges.iter_mut().for_each(|range| range.note_gap((from, self.last)));
        Ok(())
    }

    /// Checks that a place directly follows the covered part of the response, and was requested.
    fn check_order(&self, to: SequenceId) -> Result<(), PeerViolation> {
        let beyond = self.up_to.is_some_and(|up_to| to > up_to);
        if to <= self.last || beyond { Err(PeerViolation::OutOfOrder) } else { Ok(()) }
    }
}
