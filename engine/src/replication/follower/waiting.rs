//! The time for which a search waits for the answer of a peer, by the peer's allowance.

use std::time::Instant;

use hawser_proto::OriginatorId;

use super::Follower;
use super::allowance::ANSWER_WITHIN;

impl Follower {
    /// Returns the time up to which the search waits for the answer of a peer; `None` if there is no search, or the
    /// peer is not being asked.
    pub(super) fn waited_until(&self, peer: OriginatorId) -> Option<Instant> {
        let since = self.waits_since(peer)?;
        if self.has_passed_by(peer) {
            return Some(since);
        }
        Some(since + self.allowances.left_at(peer, since))
    }

    /// Takes the time for which the search has waited for the answer of a peer from its allowance.
    pub(super) fn charge_wait(&mut self, now: Instant, peer: OriginatorId) {
        let Some(since) = self.waits_since(peer).filter(|_| !self.has_passed_by(peer)) else {
            return;
        };
        self.allowances.take(now, peer, now.saturating_duration_since(since));
    }

    /// True if a peer has shown that it does not hold the places of the search. What else it sends is not waited for,
    /// and a relay that leaves much out can make that long.
    fn has_passed_by(&self, peer: OriginatorId) -> bool {
        self.search.as_ref().is_some_and(|search| search.passed_by.contains(&peer))
    }

    /// Returns the earliest time at which the search could end without the answer of a peer.
    fn waits_since(&self, peer: OriginatorId) -> Option<Instant> {
        let search = self.search.as_ref()?;
        let asked_at = search.asked_at.get(&peer)?;
        Some((*asked_at + ANSWER_WITHIN).max(search.due_at()))
    }
}
