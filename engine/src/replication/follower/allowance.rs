//! The time for which one peer may hold a strand up in searches for gaps.
//!
//! A search waits for the answer of each connected peer: the peer may be the only one that holds the places. A peer
//! that does not answer, or answers late, would hold the strand up at each gap. So it has an allowance. While that
//! lasts, a search waits for it; after that, only for [`ANSWER_WITHIN`], which an honest peer hardly ever needs. It is
//! asked as all others are, and an envelope that it sends counts at any time. Only the peer itself can use its
//! allowance up: by its own silence, and by coming and going.

use std::time::{Duration, Instant};

use super::search::SEARCH_FOR;

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
}

impl WaitAllowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: ALLOWANCE_MAX, at: now }
    }

    /// Returns what is left at a time.
    pub(super) fn left_at(&self, at: Instant) -> Duration {
        let back = at.saturating_duration_since(self.at) / GIVEN_BACK_PER;
        ALLOWANCE_MAX.min(self.left + back)
    }

    /// Takes so much, or all that is left.
    pub(super) fn take(&mut self, now: Instant, amount: Duration) {
        *self = Self { left: self.left_at(now).saturating_sub(amount), at: now };
    }

    /// Takes so much if it is left. Returns false otherwise.
    pub(super) fn pay(&mut self, now: Instant, amount: Duration) -> bool {
        let is_left = self.left_at(now) >= amount;
        if is_left {
            self.take(now, amount);
        }
        is_left
    }
}
