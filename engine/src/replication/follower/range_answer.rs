//! The answers of a peer to wants for short ranges.

use std::time::Instant;

use hawser_proto::SequenceId;

use super::asked_ranges::{ASKED_RANGES_MAX, is_short};
use super::search::SEARCH_AGAIN_AFTER;

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

    /// True if none of these places was added.
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

    /// Returns what counts as the answer of a peer that has sent nothing in its time; `None` if the range is not short.
    pub(super) fn of_silent(after: SequenceId, through: SequenceId, at: Instant) -> Option<Self> {
        let shown = ShownPlaces::of_short(after, through)?;
        Some(Self { through, shown, at, is_given: false })
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

/// The answers of a peer that still count: those to the wants of one search, at most.
///
/// Invariant: each place is covered by one of them at most, by the newest.
#[derive(Debug, Default)]
pub(super) struct RangeAnswers(Vec<RangeAnswer>);

impl RangeAnswers {
    /// Adds the newest answer. Those that it replaces go, and so do those that do not count any more.
    pub(super) fn add(&mut self, now: Instant, answer: RangeAnswer) {
        let Self(answers) = self;
        answers.retain(|it| it.is_fresh(now) && !it.meets(&answer));
        if answers.len() >= ASKED_RANGES_MAX {
            answers.remove(0);
        }
        answers.push(answer);
    }

    /// True if the peer itself has said a moment ago that it does not hold these places.
    pub(super) fn says_none(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        let Self(answers) = self;
        answers.iter().any(|it| it.is_given && it.denies(now, from, through))
    }

    /// True if the peer was asked for all of these places with one want, a moment ago, and has sent none of them.
    pub(super) fn denies(&self, now: Instant, from: SequenceId, through: SequenceId) -> bool {
        let Self(answers) = self;
        answers.iter().any(|it| it.denies(now, from, through))
    }
}

#[cfg(test)]
mod tests;
