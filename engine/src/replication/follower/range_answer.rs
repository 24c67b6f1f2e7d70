//! The answers of a peer to wants for short ranges.

use std::time::Instant;

use hawser_proto::SequenceId;
use hawser_proto::frame::MAX_ANSWERED_GAPS;

use super::asked_ranges::{ASKED_RANGES_MAX, is_short};
use super::search::SEARCH_AGAIN_AFTER;
use crate::replication::ranges::Places;

/// The places of a short range that a peer has sent, one bit each: 128 bytes at most.
#[derive(Debug)]
pub(super) struct ShownPlaces {
    /// The place before that of the first bit.
    after: SequenceId,
    words: Vec<u64>,
}

impl ShownPlaces {
    /// Returns none of the places after `after` and up to `up_to`; `None` if these are too many.
    pub(super) fn of_short(after: SequenceId, up_to: SequenceId) -> Option<Self> {
        let places = up_to.0.saturating_sub(after.0);
        let words = usize::try_from(places.div_ceil(u64::from(u64::BITS))).ok()?;
        is_short(after, up_to).then(|| Self { after, words: vec![0; words] })
    }

    /// Adds a place of the range. Others change nothing.
    pub(super) fn add(&mut self, place: SequenceId) {
        let Some((word, bit)) = self.bit(place) else { return };
        if let Some(word) = self.words.get_mut(word) {
            *word |= bit;
        }
    }

    /// Returns all of the places after `after` and up to `up_to`; `None` if these are too many.
    fn all_of_short(after: SequenceId, up_to: SequenceId) -> Option<Self> {
        let mut all = Self::of_short(after, up_to)?;
        all.words.fill(u64::MAX);
        Some(all)
    }

    /// Takes a place of the range out. Others change nothing.
    fn remove(&mut self, place: SequenceId) {
        let Some((word, bit)) = self.bit(place) else { return };
        if let Some(word) = self.words.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Returns true if none of these places was added.
    fn has_none(&self, from: SequenceId, through: SequenceId) -> bool {
        !(from.0..=through.0).any(|place| self.has(SequenceId(place)))
    }

    fn has(&self, place: SequenceId) -> bool {
        let bit = self.bit(place);
        bit.is_some_and(|(word, bit)| self.words.get(word).is_some_and(|word| word & bit != 0))
    }

    /// Returns the word of a place, and its bit there; `None` before the range.
    fn bit(&self, place: SequenceId) -> Option<(usize, u64)> {
        let index = place.0.checked_sub(self.after.0)?.checked_sub(1)?;
        let bits = u64::from(u64::BITS);
        Some((usize::try_from(index / bits).ok()?, 1 << (index % bits)))
    }
}

/// The answer of a peer to a want for a short range.
#[derive(Debug)]
pub(super) struct RangeAnswer {
    /// The last place of the range that it covers.
    through: SequenceId,
    shown: ShownPlaces,
    at: Instant,
    /// The peer has given it; otherwise it has sent nothing in its time.
    is_given: bool,
}

impl RangeAnswer {
    /// Returns an answer that covers the range of `shown` up to `through`.
    pub(super) fn new(shown: ShownPlaces, through: SequenceId, at: Instant) -> Self {
        Self { through, shown, at, is_given: true }
    }

    /// Returns the answer to assume for a peer that has sent nothing in its time; `None` if the range is not short.
    pub(super) fn of_silent(after: SequenceId, through: SequenceId, at: Instant) -> Option<Self> {
        let shown = ShownPlaces::of_short(after, through)?;
        Some(Self { through, shown, at, is_given: false })
    }

    /// Returns the answer of a peer that was asked at this time for the gaps of a range, and has named none; `None` if
    /// the range is not short.
    pub(super) fn without_gaps((first, last): Places, asked_at: Instant) -> Option<Self> {
        let shown = ShownPlaces::all_of_short(first.previous(), last)?;
        Some(Self::new(shown, last, asked_at))
    }

    /// Notes that the peer has named these places as a gap. Those outside of the range change nothing.
    pub(super) fn note_gap(&mut self, (from, to): Places) {
        let (first, last) = (from.max(self.shown.after.next()), to.min(self.through));
        (first.0..=last.0).for_each(|place| self.shown.remove(SequenceId(place)));
    }

    /// True if the peer was asked for all of these places, a moment ago, and has sent none of them. In a search an
    /// answer counts as long.
    fn denies(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        let is_asked = self.shown.after < from && through <= self.through;
        is_asked && self.is_fresh(now) && self.shown.has_none(from, through)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now < self.at + SEARCH_AGAIN_AFTER
    }

    /// True if both cover some place.
    fn meets(&self, other: &Self) -> bool {
        self.shown.after < other.through && other.shown.after < self.through
    }
}

/// The gaps that a peer has named in answer to a want for gaps alone. It has said nothing of other places.
#[derive(Debug)]
pub(super) struct NamedGaps {
    /// The place before the first one that was asked about.
    after: SequenceId,
    /// The last one.
    through: SequenceId,
    /// Ascending and disjoint, both ends included; at most [`MAX_ANSWERED_GAPS`].
    gaps: Vec<Places>,
    /// The time at which the peer was asked. It may have received a place since then, and an answer can be late.
    at: Instant,
}

impl NamedGaps {
    /// Begins an answer about the places after `after` and up to `through`, for which the peer is asked at `at`.
    pub(super) fn new(after: SequenceId, through: SequenceId, at: Instant) -> Self {
        Self { after, through, gaps: Vec::new(), at }
    }

    /// Adds a gap behind those before. One too many is forgotten: it is searched for.
    pub(super) fn add(&mut self, (from, to): Places) {
        let has_room = self.gaps.len() < MAX_ANSWERED_GAPS;
        match self.gaps.last_mut() {
            Some((_, last)) if last.next() == from => *last = to,
            _ if has_room => self.gaps.push((from, to)),
            _ => {}
        }
    }

    /// True if one of the gaps has all of these places, and the answer still counts.
    fn denies(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        let is_fresh = now < self.at + SEARCH_AGAIN_AFTER;
        let index = self.gaps.partition_point(|(_, last)| *last < through);
        is_fresh && self.gaps.get(index).is_some_and(|(first, _)| *first <= from)
    }

    /// True if an answer about a range came later, or at the same time, and covers some of these places.
    fn is_outdated_by(&self, answer: &RangeAnswer, from: SequenceId, through: SequenceId) -> bool {
        let covers = answer.shown.after < through && from <= answer.through;
        covers && self.at <= answer.at
    }
}

/// The answers of a peer that still count: those to the wants of one search, at most, and the last one to a want for
/// gaps alone.
///
/// Invariant: each place is covered by one of the ranges at most, by the newest, and by none that is older than the
/// named gaps if these are about it.
#[derive(Debug, Default)]
pub(super) struct RangeAnswers {
    ranges: Vec<RangeAnswer>,
    named: Option<NamedGaps>,
}

impl RangeAnswers {
    /// Adds the newest answer. Drops the answers that it replaces, and those that no longer count.
    pub(super) fn add(&mut self, now: Instant, answer: RangeAnswer) {
        self.ranges.retain(|it| it.is_fresh(now) && !it.meets(&answer));
        if self.ranges.len() >= ASKED_RANGES_MAX {
            self.ranges.remove(0);
        }
        self.ranges.push(answer);
    }

    /// Replaces the earlier named gaps, and the peer's earlier answers about their places, by the newest named gaps.
    pub(super) fn add_named(&mut self, named: NamedGaps) {
        let is_other =
            |it: &RangeAnswer| it.through <= named.after || named.through <= it.shown.after;
        self.ranges.retain(is_other);
        self.named = Some(named);
    }

    /// True if the peer was asked for gaps a moment ago, has named one with all of these places, and has answered for
    /// none of them since.
    fn has_named(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        self.named.as_ref().is_some_and(|named| {
            let is_outdated = |it: &RangeAnswer| named.is_outdated_by(it, from, through);
            named.denies(now, from, through) && !self.ranges.iter().any(is_outdated)
        })
    }

    /// True if the peer itself has said a moment ago that it does not hold these places.
    pub(super) fn says_none(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        let says = |it: &RangeAnswer| it.is_given && it.denies(now, from, through);
        self.ranges.iter().any(says) || self.has_named(now, from, through)
    }

    /// True if the peer was asked for all of these places with one want, a moment ago, and has sent none of them, or
    /// has named them as a gap.
    pub(super) fn denies(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        let denies = |it: &RangeAnswer| it.denies(now, from, through);
        self.ranges.iter().any(denies) || self.has_named(now, from, through)
    }
}

#[cfg(test)]
mod tests;
