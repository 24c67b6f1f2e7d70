//! State of a gap search, and its beginning and end.
//!
//! A peer can begin a search at will: it leaves out places that others hold, and sends an envelope behind them. So a
//! search ends by its time only when peers have stopped sending the range, and when this node has looked at everything
//! that they sent. A peer that alone holds the range cannot hold up the strand by sending it place by place: each
//! minute has to bring a least amount.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::SkipReason;

use super::parts::ReceivedTotal;
use super::{FILL_EVERY, Follower, PendingWrites};

/// Duration of a gap search. Specified (`docs/protocol/replication.md`, Gaps).
pub(super) const SEARCH_FOR: Duration = Duration::from_secs(60);
/// Pause before a peer that did not have the missing range is asked again, and the least time that peers have after
/// this node was too busy to look at what they sent. A guess: several attempts fit into one search.
pub(super) const SEARCH_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Envelopes, or their bytes, that let a search go on for [`SEARCH_FOR`] more. Specified (same page).
const FOUND_ENVELOPES_MIN: u64 = 1024;
const FOUND_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// A gap search: the places after `accepted` and up to `through` that the source did not send.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) through: SequenceId,
    until: Instant,
    /// At least one peer has said that it does not hold them. Without an answer nothing is marked
    /// missing, because the node may simply be cut off from all peers that do.
    pub(super) answered: bool,
    /// The envelopes of the range that were accepted within the last [`SEARCH_FOR`].
    found: ReceivedTotal,
    /// The envelope behind them is old enough.
    pub(super) can_have_expired: bool,
    /// The places that each peer says have expired.
    pub(super) expired: BTreeMap<OriginatorId, (SequenceId, SequenceId)>,
}

impl Search {
    /// Returns the time at which the search ends, unless it goes on.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// True if no places may be marked missing yet: no peer has answered, or peers are sending the range.
    fn goes_on(&self) -> bool {
        let ReceivedTotal { envelopes, bytes } = self.found;
        !self.answered || envelopes >= FOUND_ENVELOPES_MIN || bytes >= FOUND_BYTES_MIN
    }
}

impl Follower {
    /// Searches for the places up to `through`, which were not sent although a signed envelope
    /// stands behind them.
    pub(super) fn start_or_narrow_search(
        &mut self,
        now: Instant,
        through: SequenceId,
        can_have_expired: bool,
    ) {
        match &mut self.search {
            // A peer has sent a part of the gap from further up; only the places below are sought.
            Some(search) if through < search.through => {
                (search.through, search.can_have_expired) = (through, can_have_expired);
            }
            Some(_) => {}
            None => {
                self.search = Some(Search {
                    through,
                    until: now + SEARCH_FOR,
                    answered: false,
                    found: ReceivedTotal::default(),
                    can_have_expired,
                    expired: BTreeMap::new(),
                });
                self.searches += 1;
                // Also the source's: it is asked once more for just the missing range.
                self.cancel_all_wants();
                self.peers.values_mut().for_each(|peer| peer.ask_at = now);
            }
        }
    }

    /// Notes that everything up to `through` was accepted, the last of it an envelope of this length. Ends the search
    /// if its places are among it.
    pub(super) fn note_passed(&mut self, now: Instant, through: SequenceId, len_bytes: usize) {
        let Some(search) = &mut self.search else { return };
        search.found.add(len_bytes);
        if search.through > through {
            return;
        }
        // The gap is closed: no other peer needs to answer, and the source is asked again.
        self.search = None;
        self.cancel_all_wants();
        self.choice.progress_at = now;
        if let Some(source) = self.peers.get_mut(&self.choice.source) {
            source.ask_at = now;
        }
    }

    /// Notes that this node was too busy to look at what peers sent: the places may be among it.
    pub(super) fn excuse_search(&mut self, now: Instant) {
        if let Some(search) = &mut self.search {
            search.until = search.until.max(now + SEARCH_AGAIN_AFTER);
        }
    }

    /// Marks the places of the search missing at the end of its time, or extends the search if
    /// that would be wrong.
    pub(super) fn conclude_search(&mut self, now: Instant) {
        let Some(search) = &mut self.search else { return };
        if search.goes_on() {
            (search.until, search.found) = (now + SEARCH_FOR, ReceivedTotal::default());
            return;
        }
        let (from, through) = (self.accepted.next(), search.through);
        for (_, peer) in self.peers.iter_mut().filter(|(id, _)| **id != self.choice.source) {
            peer.ask_at = now + FILL_EVERY; // it has just been asked
        }
        let mut writes = PendingWrites::default();
        let skip = self.skip(from, through, SkipReason::Missing);
        self.accept(now, skip, &mut writes);
        self.missing.push(from, through);
        self.emit(self.choice.source, writes);
    }
}
