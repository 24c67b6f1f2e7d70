//! The answer of a peer to a want for a short range.

use std::time::Instant;

use hawser_proto::SequenceId;

use super::search::{IN_TURNS_FROM, SEARCH_AGAIN_AFTER};

/// Returns true if a want for the places after `after` and up to `up_to` has a short range.
pub(super) fn is_short(after: SequenceId, up_to: SequenceId) -> bool {
    up_to.0.saturating_sub(after.0) <= IN_TURNS_FROM
}

/// The answer of a peer to a want for a short range.
#[derive(Debug)]
pub(super) struct RangeAnswer {
    after: SequenceId,
    through: SequenceId,
    /// The places that the peer has sent, ascending; at most [`IN_TURNS_FROM`].
    shown: Vec<SequenceId>,
    at: Instant,
    /// The peer has given it; otherwise it has sent nothing in its time.
    is_given: bool,
}

impl RangeAnswer {
    pub(super) fn new(
        after: SequenceId,
        through: SequenceId,
        shown: Vec<SequenceId>,
        at: Instant,
    ) -> Self {
        Self { after, through, shown, at, is_given: true }
    }

    /// Returns what counts as the answer of a peer that has sent nothing in its time.
    pub(super) fn of_silent(after: SequenceId, through: SequenceId, at: Instant) -> Self {
        Self { after, through, shown: Vec::new(), at, is_given: false }
    }

    /// True if the peer itself has said a moment ago that it does not hold these places.
    pub(super) fn says_none(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        self.is_given && self.denies(now, from, through)
    }

    /// True if the peer was asked for all of these places, a moment ago, and has sent none of them. In a search an
    /// answer counts as long.
    pub(super) fn denies(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        let next = self.shown.partition_point(|place| *place < from);
        let is_asked = self.after < from && through <= self.through;
        let has_none = self.shown.get(next).is_none_or(|place| *place > through);
        is_asked && has_none && now < self.at + SEARCH_AGAIN_AFTER
    }
}
