//! The time for which one peer may hold a strand up in searches for gaps.
//!
//! A search waits for the answer of each connected peer: the peer may be the only one that holds the places. A peer
//! that does not answer, or answers late, would hold the strand up at each gap. So it has an allowance. While that
//! lasts, a search waits for it; after that, only for [`ANSWER_WITHIN`], which an honest peer hardly ever needs. It is
//! asked as all others are, and an envelope that it sends counts at any time. Only the peer itself can use its
//! allowance up: by its own silence, and by coming and going.
//!
//! After a peer has come or gone, searches rest for a while, which its allowance pays for: a short while at once, and
//! the rest of a longer one as soon as a search rests that long for it.

use std::time::{Duration, Instant};

use super::search::{SEARCH_AGAIN_AFTER, SEARCH_FOR};

/// Time that each peer has for its answer, whatever it has left of its allowance. Specified
/// (`docs/protocol/replication.md`, Gaps).
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The largest allowance. Specified (same page): a search takes as long.
pub(super) const ALLOWANCE_MAX: Duration = SEARCH_FOR;
/// Time in which one unit of time is given back. Specified (same page): a minute in ten.
const GIVEN_BACK_PER: u32 = 10;

/// The allowance of one peer.
#[derive(Debug)]
pub(super) struct WaitAllowance {
    left: Duration,
    /// The time at which so much was left.
    at: Instant,
    /// The last time at which the peer has come or gone and could pay for it.
    changed_at: Instant,
    /// The time up to which searches may rest for that: it is paid for.
    settles_until: Instant,
}

impl WaitAllowance {
    /// Begins with the largest one, when the peer comes for the first time. That costs nothing: at the start of this
    /// node all peers come.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: ALLOWANCE_MAX, at: now, changed_at: now, settles_until: now + SEARCH_FOR }
    }

    /// Returns what is left at a time.
    pub(super) fn left_at(&self, at: Instant) -> Duration {
        let back = at.saturating_duration_since(self.at) / GIVEN_BACK_PER;
        ALLOWANCE_MAX.min(self.left + back)
    }

    /// Takes so much, or all that is left.
    pub(super) fn take(&mut self, now: Instant, amount: Duration) {
        (self.left, self.at) = (self.left_at(now).saturating_sub(amount), now);
    }

    /// Notes that the peer comes or goes. Returns false if it has too little left for searches to rest.
    pub(super) fn note_change(&mut self, now: Instant) -> bool {
        let is_left = self.left_at(now) >= SEARCH_AGAIN_AFTER;
        if is_left {
            self.take(now, SEARCH_AGAIN_AFTER);
            self.changed_at = now;
            self.settles_until = self.settles_until.max(now + SEARCH_AGAIN_AFTER);
        }
        is_left
    }

    /// Returns the time up to which a search rests that rests for so long after a peer has come or gone.
    pub(super) fn settles_until(&self, now: Instant, settles_for: Duration) -> Instant {
        let (until, _) = self.settling(now, settles_for);
        until
    }

    /// Takes what such a search costs that begins, or is under way when the peer comes or goes. Returns the time up to
    /// which it rests.
    pub(super) fn settle(&mut self, now: Instant, settles_for: Duration) -> Instant {
        let (until, amount) = self.settling(now, settles_for);
        self.take(now, amount);
        self.settles_until = self.settles_until.max(until);
        until
    }

    /// Returns the time up to which such a search rests, and what of it is not paid for yet.
    fn settling(&self, now: Instant, settles_for: Duration) -> (Instant, Duration) {
        let end = self.changed_at + settles_for;
        let from = self.settles_until.max(now);
        let amount = end.saturating_duration_since(from).min(self.left_at(now));
        let until = if amount.is_zero() { self.settles_until.min(end) } else { from + amount };
        (until, amount)
    }
}

#[cfg(test)]
mod tests;
