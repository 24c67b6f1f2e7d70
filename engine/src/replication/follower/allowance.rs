//! The time for which each peer may hold a strand up in searches for gaps.
//!
//! A search waits for the answer of each connected peer: the peer may be the only one that holds the places. A peer
//! that does not answer, or answers late, would hold the strand up at each gap. So it has an allowance. While that
//! lasts, a search waits for it; after that, only for [`ANSWER_WITHIN`], which an honest peer hardly ever needs. It is
//! asked as all others are, and an envelope that it sends counts at any time. Only the peer itself can use its
//! allowance up: by its own silence, and by coming and going.
//!
//! Time comes back slowly, and the peers that lack some share it. Several peers that take turns with their silence
//! would otherwise have their allowances back when their turn comes again, and together hold the strand up all the
//! time. They can make the time of another peer come back later, but take none of what that has.
//!
//! After a peer has come or gone, searches rest for a while, which its allowance pays for: a short while at once, and
//! the rest of a longer one as soon as a search rests that long for it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;

use super::search::{SEARCH_AGAIN_AFTER, SEARCH_FOR};

/// Time that each peer has for its answer, whatever it has left of its allowance. Specified
/// (`docs/protocol/replication.md`, Gaps).
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The largest allowance. Specified (same page): a search takes as long.
const ALLOWANCE_MAX: Duration = SEARCH_FOR;
/// The divisor of the rate at which allowances are refilled, for all peers together. Specified (same page): ten minutes
/// give back one minute.
const GIVEN_BACK_PER: u32 = 10;

/// The allowances of the peers that have been connected.
#[derive(Debug)]
pub(super) struct WaitAllowances {
    /// Bounded by the nodes of the registry, as peers are.
    of_peers: BTreeMap<OriginatorId, WaitAllowance>,
    /// The time up to which time has been given back.
    at: Instant,
}

/// The allowance of one peer.
#[derive(Debug)]
struct WaitAllowance {
    /// Time that is left of it at the time of [`WaitAllowances::at`].
    left: Duration,
    /// The last time at which the peer has come or gone and could pay for it.
    changed_at: Instant,
    /// The time up to which searches may rest for that: it is paid for.
    settles_until: Instant,
}

impl WaitAllowances {
    pub(super) fn new(now: Instant) -> Self {
        Self { of_peers: BTreeMap::new(), at: now }
    }

    /// Returns the number of allowances.
    pub(super) fn len(&self) -> usize {
        self.of_peers.len()
    }

    /// Returns what a peer has left at a time: all of it if the peer has never been connected.
    pub(super) fn left_at(&self, peer: OriginatorId, at: Instant) -> Duration {
        self.of_peers.get(&peer).map_or(ALLOWANCE_MAX, |allowance| self.left_of(allowance, at))
    }

    /// Takes so much from a peer, or all that it has left.
    pub(super) fn take(&mut self, now: Instant, peer: OriginatorId, amount: Duration) {
        self.give_back(now);
        if let Some(allowance) = self.of_peers.get_mut(&peer) {
            allowance.take(amount);
        }
    }

    /// Notes that a peer comes or goes. Returns false if it has too little left for searches to rest.
    pub(super) fn note_change(&mut self, now: Instant, peer: OriginatorId) -> bool {
        self.give_back(now);
        match self.of_peers.entry(peer) {
            Entry::Occupied(allowance) => allowance.into_mut().note_change(now),
            Entry::Vacant(first) => {
                first.insert(WaitAllowance::new(now));
                true
            }
        }
    }

    /// Returns the time up to which a search rests that rests for so long after a peer has come or gone; `None` if no
    /// peer has been connected.
    pub(super) fn settles_until(&self, now: Instant, settles_for: Duration) -> Option<Instant> {
        let until = |allowance: &WaitAllowance| {
            let (until, _) = allowance.settling(now, settles_for, self.left_of(allowance, now));
            until
        };
        self.of_peers.values().map(until).max()
    }

    /// Takes from a peer what such a search costs that is under way when the peer comes or goes. Returns the time up to
    /// which it rests; `None` if the peer has never been connected.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        peer: OriginatorId,
        settles_for: Duration,
    ) -> Option<Instant> {
        self.give_back(now);
        Some(self.of_peers.get_mut(&peer)?.settle(now, settles_for))
    }

    /// Takes from each peer what such a search costs that begins. Returns the peers that have hardly anything left.
    pub(super) fn settle_all(
        &mut self,
        now: Instant,
        settles_for: Duration,
    ) -> BTreeSet<OriginatorId> {
        self.give_back(now);
        let mut hardly_awaited = BTreeSet::new();
        for (peer, allowance) in &mut self.of_peers {
            allowance.settle(now, settles_for);
            if allowance.left < ANSWER_WITHIN {
                hardly_awaited.insert(*peer);
            }
        }
        hardly_awaited
    }

    /// Returns what is left of an allowance at a time, if until then the same peers lack some.
    fn left_of(&self, allowance: &WaitAllowance, at: Instant) -> Duration {
        let (_, lacking) = self.lacks();
        let back = at.saturating_duration_since(self.at) / GIVEN_BACK_PER / lacking.max(1);
        ALLOWANCE_MAX.min(allowance.left + back)
    }

    /// Refills the allowances for the time since the last call, equally for all peers whose allowance is not full.
    fn give_back(&mut self, now: Instant) {
        let mut rest = now.saturating_duration_since(self.at) / GIVEN_BACK_PER;
        self.at = self.at.max(now);
        loop {
            // Each round fills an allowance, or gives the rest away.
            let (least, lacking) = self.lacks();
            let share = least.min(rest / lacking.max(1));
            if share.is_zero() {
                return;
            }
            let lacks = |allowance: &&mut WaitAllowance| allowance.left < ALLOWANCE_MAX;
            self.of_peers.values_mut().filter(lacks).for_each(|allowance| allowance.left += share);
            rest = rest.saturating_sub(share * lacking);
        }
    }

    /// Returns the least that a peer lacks, and the number of peers that lack some; 0 and 0 if none does.
    fn lacks(&self) -> (Duration, u32) {
        let lacks = self.of_peers.values().map(|it| ALLOWANCE_MAX.saturating_sub(it.left));
        lacks.filter(|lack| !lack.is_zero()).fold((Duration::ZERO, 0), |(least, count), lack| {
            (if count == 0 { lack } else { lack.min(least) }, count + 1)
        })
    }
}

impl WaitAllowance {
    /// Begins with the largest one, when the peer comes for the first time. That costs nothing: at the start of this
    /// node all peers come.
    fn new(now: Instant) -> Self {
        Self { left: ALLOWANCE_MAX, changed_at: now, settles_until: now + SEARCH_FOR }
    }

    fn take(&mut self, amount: Duration) {
        self.left = self.left.saturating_sub(amount);
    }

    fn note_change(&mut self, now: Instant) -> bool {
        let is_left = self.left >= SEARCH_AGAIN_AFTER;
        if is_left {
            self.take(SEARCH_AGAIN_AFTER);
            self.changed_at = now;
            self.settles_until = self.settles_until.max(now + SEARCH_AGAIN_AFTER);
        }
        is_left
    }

    fn settle(&mut self, now: Instant, settles_for: Duration) -> Instant {
        let (until, amount) = self.settling(now, settles_for, self.left);
        self.take(amount);
        self.settles_until = self.settles_until.max(until);
        until
    }

    /// Returns the time up to which a search rests for the peer, and the part of that rest that is not paid for yet.
    /// `left` is what the peer has left of its allowance.
    fn settling(&self, now: Instant, settles_for: Duration, left: Duration) -> (Instant, Duration) {
        let end = self.changed_at + settles_for;
        let from = self.settles_until.max(now);
        let amount = end.saturating_duration_since(from).min(left);
        let until = if amount.is_zero() { self.settles_until.min(end) } else { from + amount };
        (until, amount)
    }
}

#[cfg(test)]
mod tests;
