//! State of a gap search.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, SeededFault};

use super::choice::STALL_TIMEOUT;
use super::further::FurtherRanges;
use super::parts::ReceivedTotal;

/// Duration of a gap search. Specified (`docs/protocol/replication.md`, Gaps).
pub(super) const SEARCH_FOR: Duration = Duration::from_secs(60);
/// Time that other peers have, from the signature of an envelope on, for the places before it that a relay has left
/// out, unless the strand's own node has answered. Specified (same page): each of them may first have to search for
/// places further down itself.
pub(super) const RELAYED_FOR: Duration = Duration::from_secs(120);
/// Pause before a peer that did not have the missing range is asked again, and the shortest search for a long range.
/// Also the shortest rest of a search after this node was too busy to check the answers of peers, or after a peer has
/// come or gone. A guess: several attempts fit into one search.
pub(super) const SEARCH_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Shortest time between two searches that ask all peers at once. A search that begins sooner asks the peers beside the
/// source later. Specified (same page).
pub(super) const SEARCH_EVERY: Duration = Duration::from_secs(1);
/// Places of a range from which on the peers beside the source and the strand's own node are asked in turns: at once,
/// each would send all of it. Specified (same page).
pub(super) const IN_TURNS_FROM: u64 = 1024;
/// Longest time between two turns, though envelopes come. Specified (same page).
const TURN_MAX: Duration = Duration::from_secs(2);
/// Time within which all peers are asked, half of the search: each of them can send in the other half. Specified (same
/// page).
const IN_TURNS_FOR: Duration = Duration::from_secs(30);
/// Envelopes, or their bytes, that let a search go on for [`SEARCH_FOR`] more. Specified (same page).
const FOUND_ENVELOPES_MIN: u64 = 1024;
const FOUND_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// A gap search: the places after `accepted` and up to `through` that the source did not send.
#[derive(Debug)]
pub(super) struct PlaceSearch {
    pub(super) through: SequenceId,
    /// The last place that peers are asked for with the first want: that of a gap which follows, or the same.
    pub(super) asked_through: SequenceId,
    /// Ranges that they are asked for after that: gaps that lie further apart.
    pub(super) further: FurtherRanges,
    /// The peers for whose answers this search hardly waits: they have used their allowances up. They may not come to
    /// what they are asked for later, so they are asked for all gaps with the first want.
    pub(super) hardly_awaited: BTreeSet<OriginatorId>,
    /// The last place of that want.
    pub(super) wide_through: SequenceId,
    /// The length of the envelope behind the places.
    pub(super) behind_bytes: usize,
    /// The peer that has left the places out.
    pub(super) left_out_by: OriginatorId,
    /// The time at which the search ends, unless it goes on, or the strand's own node has not answered.
    pub(super) until: Instant,
    /// The time from which on it ends as soon as no answer is waited for, with the same exceptions.
    pub(super) due: Instant,
    /// Time after a peer has come or gone before which it does not end so.
    pub(super) settles_for: Duration,
    /// The time before which it does not end at all unless the strand's own node answers.
    pub(super) alone_until: Instant,
    /// The strand's own node has answered.
    pub(super) has_own_answer: bool,
    /// The peers whose last want was answered: they have sent what they hold of the range.
    pub(super) answered_by: BTreeSet<OriginatorId>,
    /// The peers whose answer is due, and since when each of them is asked.
    pub(super) asked_at: BTreeMap<OriginatorId, Instant>,
    /// The peers of `asked_at` that have sent an envelope behind the places. Such a peer does not hold the places, but
    /// may hold more of what it is asked for.
    pub(super) passed_by: BTreeSet<OriginatorId>,
    /// At least one peer has answered that it does not hold them. Without an answer nothing is marked
    /// missing, because the node may simply be cut off from all peers that hold them.
    pub(super) answered: bool,
    /// The envelopes of the range that were accepted within the last [`SEARCH_FOR`].
    pub(super) found: ReceivedTotal,
    /// The turns of the peers; `None` if all are asked at once.
    pub(super) turns: Option<SearchTurns>,
    /// The envelope behind them is old enough.
    pub(super) can_have_expired: bool,
    /// The places that each peer says have expired.
    pub(super) expired: BTreeMap<OriginatorId, (SequenceId, SequenceId)>,
}

/// The times at which peers are asked, one after the other.
#[derive(Debug)]
pub(super) struct SearchTurns {
    /// The next turn, unless nothing comes from those that were asked.
    at: Instant,
    /// The latest time of the next turn.
    by: Instant,
    /// The time from which on all peers are asked.
    over_at: Instant,
}

impl SearchTurns {
    pub(super) fn new(now: Instant) -> Self {
        let over_at = now + IN_TURNS_FOR;
        Self { at: now + STALL_TIMEOUT, by: now + TURN_MAX, over_at }
    }

    /// Returns the time of the next turn.
    pub(super) fn next_at(&self) -> Instant {
        self.at.min(self.over_at)
    }

    /// Notes that a peer is asked in its turn.
    pub(super) fn pass(&mut self, now: Instant) {
        (self.at, self.by) = (now + STALL_TIMEOUT, now + TURN_MAX);
    }

    /// Notes that an envelope of the range has come.
    pub(super) fn note_found(&mut self, now: Instant) {
        self.at = (now + STALL_TIMEOUT).min(self.by);
    }
}

impl PlaceSearch {
    /// Returns the last place that a peer is asked for with the first want.
    pub(super) fn asked_through_of(&self, peer: OriginatorId) -> SequenceId {
        if self.hardly_awaited.contains(&peer) { self.wide_through } else { self.asked_through }
    }

    /// Returns the time at which the search ends, unless it goes on.
    pub(super) fn ends_at(&self) -> Instant {
        self.not_before(self.until)
    }

    /// Returns the time from which on it ends as soon as no answer is waited for, unless it goes on.
    pub(super) fn due_at(&self) -> Instant {
        self.not_before(self.due)
    }

    /// The strand's own node holds all that it has signed, so its answer decides. Until it has come, other peers have
    /// more time.
    fn not_before(&self, at: Instant) -> Instant {
        if self.has_own_answer { at } else { at.max(self.alone_until) }
    }

    /// True if no places may be marked missing yet: no peer has answered, or peers are sending the range.
    pub(super) fn goes_on(&self) -> bool {
        #[cfg(feature = "faults")]
        if faults::is_on(SeededFault::EndlessSearch) {
            return true;
        }
        !self.answered || self.is_sent()
    }

    /// True if peers are sending the range.
    pub(super) fn is_sent(&self) -> bool {
        let ReceivedTotal { envelopes, bytes } = self.found;
        envelopes >= FOUND_ENVELOPES_MIN || bytes >= FOUND_BYTES_MIN
    }
}
