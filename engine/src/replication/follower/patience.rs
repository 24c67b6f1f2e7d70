//! The time for which one peer may hold a strand up in searches for gaps.
//!
//! A search waits for the answer of each connected peer: the peer may be the only one that holds the places. A peer
//! that does not answer, or answers late, would hold the strand up at each gap. So it has an allowance. While that
//! lasts, a search waits for it; after that, only for [`ANSWER_WITHIN`], which an honest peer hardly ever needs. It is
//! asked as all others are, and an envelope that it sends counts at any time. Only the peer itself can use its
//! allowance up: by its own silence, and by coming and going.

use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;

use super::Follower;
use super::search::SEARCH_FOR;

/// Time that each peer has for its answer, whatever it has left of its allowance. Specified
/// (`docs/protocol/replication.md`, Gaps).
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The largest allowance. Specified (same page): a search takes as long.
const ALLOWANCE_MAX: Duration = SEARCH_FOR;
/// Time in which one unit of time is given back. Specified (same page): a minute in ten.
const GIVEN_BACK_PER: u32 = 10;

/// The allowance of one peer.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    /// The time at which so much was left.
    at: Instant,
}

impl Patience {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: ALLOWANCE_MAX, at: now }
    }

    /// Returns what is left at a time.
    fn left_at(&self, at: Instant) -> Duration {
        let back = at.saturating_duration_since(self.at) / GIVEN_BACK_PER;
        ALLOWANCE_MAX.min(self.left + back)
    }

    /// Takes so much, or all that is left.
    fn take(&mut self, now: Instant, amount: Duration) {
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

impl Follower {
    /// Returns the time up to which the search waits for the answer of a peer; `None` if there is no search, or the
    /// peer is not being asked.
    pub(super) fn waited_until(&self, peer: OriginatorId) -> Option<Instant> {
        let since = self.waits_since(peer)?;
        if self.has_passed_by(peer) {
            return Some(since);
        }
        let patience = self.patience.get(&peer);
        Some(since + patience.map_or(ALLOWANCE_MAX, |patience| patience.left_at(since)))
    }

    /// Takes the time for which the search has waited for the answer of a peer from its allowance.
    pub(super) fn charge_wait(&mut self, now: Instant, peer: OriginatorId) {
        let Some(since) = self.waits_since(peer).filter(|_| !self.has_passed_by(peer)) else {
            return;
        };
        if let Some(patience) = self.patience.get_mut(&peer) {
            patience.take(now, now.saturating_duration_since(since));
        }
    }

    /// True if a peer has shown that it does not hold the places of the search. What else it sends is not waited for,
    /// and a relay that leaves much out can make that long.
    fn has_passed_by(&self, peer: OriginatorId) -> bool {
        self.search.as_ref().is_some_and(|search| search.passed_by.contains(&peer))
    }

    /// Returns the time from which on the search could end without the answer of a peer.
    fn waits_since(&self, peer: OriginatorId) -> Option<Instant> {
        let search = self.search.as_ref()?;
        let asked_at = search.asked_at.get(&peer)?;
        Some((*asked_at + ANSWER_WITHIN).max(search.due_at()))
    }
}
