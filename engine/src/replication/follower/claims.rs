//! The times at which a peer has claimed the places of a strand.
//!
//! A peer sends places in their order, so it has left a place out by the time that it claims the place behind. The time
//! that other peers have to send the missing place therefore counts from that claim. It does not count from the moment
//! at which this node reaches the gap, which may be later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hawser_proto::SequenceId;

use super::search::SEARCH_FOR;

/// The most by which the time of a claim may be noted too late. A guess: a twelfth of a search.
const NOTED_EVERY: Duration = Duration::from_secs(5);

/// The claims of the last minute, and the highest one before it: at least one.
///
/// Invariant: times and places ascend, and of three neighbours the last is [`NOTED_EVERY`] behind the first. So some
/// two dozen claims are kept.
#[derive(Debug)]
pub(super) struct ClaimTimes(VecDeque<(Instant, SequenceId)>);

impl ClaimTimes {
    /// Begins with the first claim, of the strand up to `head`.
    pub(super) fn begin(now: Instant, head: SequenceId) -> Self {
        Self(VecDeque::from([(now, head)]))
    }

    /// Returns the highest place that the peer has claimed.
    pub(super) fn head(&self) -> SequenceId {
        self.0.back().map_or(SequenceId::NONE, |(_, head)| *head)
    }

    /// Notes that the peer claims to hold the strand up to `head`. Returns false if it has claimed as much before.
    pub(super) fn note(&mut self, now: Instant, head: SequenceId) -> bool {
        if self.head() >= head {
            return false;
        }
        let Self(claims) = self;
        while claims.get(1).is_some_and(|(at, _)| *at + SEARCH_FOR <= now) {
            claims.pop_front();
        }
        let before_last = claims.len().checked_sub(2).and_then(|at| claims.get(at));
        if before_last.is_some_and(|(at, _)| now < *at + NOTED_EVERY) {
            claims.pop_back();
        }
        claims.push_back((now, head));
        true
    }

    /// Returns a time from which on the peer has claimed this place; `None` if it has not claimed it.
    pub(super) fn since(&self, place: SequenceId) -> Option<Instant> {
        self.0.iter().find(|(_, head)| *head >= place).map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests;
