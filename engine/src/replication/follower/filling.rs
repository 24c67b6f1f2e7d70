//! The walks over places that are marked missing.
//!
//! Each connected peer is asked for one range after the other. The source is asked, too: it may be the only peer that
//! holds the places. A peer answers one want for a strand at a time, so the source is asked for one range and then for
//! everything that comes next again, and only while it claims nothing new. The want for the range has an end in time.
//! Nothing that the source sends meanwhile is lost, because the next want begins at the place on disk.
//!
//! A peer that is behind is asked for places that it cannot hold yet: a relay has left them out before any other peer
//! got them, or the peer has just come back. It is asked again as soon as it claims to have passed them. So is a peer
//! whose answer in a search was not waited for: a relay could choose the places for which that is.
//!
//! Memory has a window of the ranges. If there are more, the window moves down the strand, and then begins at the top
//! again: places that no peer can fill must not keep others from their turn.

use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};

use super::choice::STALL_TIMEOUT;
use super::effect::Effect;
use super::open_want::OpenWant;
use super::search::SEARCH_AGAIN_AFTER;
use super::{Follower, PeerProgress, STALL_AFTER};
use crate::replication::link::Want;
use crate::replication::ranges::{Places, RANGES_MAX, Ranges};

/// Time between two wants for the same range at a connected peer, at least. Specified (`docs/protocol/replication.md`,
/// Gaps).
pub(super) const FILL_EVERY: Duration = Duration::from_secs(600);
/// Time that the source gets for what comes next before it is asked for a missing range. Specified (same page).
pub(super) const FILL_PAUSE: Duration = Duration::from_secs(2);
/// Time for which a window of the missing ranges stays in memory. Specified (same page): the source can be asked for
/// each of its 1,024 ranges, one every two seconds.
pub(super) const WINDOW_FOR: Duration = Duration::from_secs(3600);

impl PeerProgress {
    /// Notes that the peer is asked now. `is_fill` says that the want is for a range of its walk.
    pub(super) fn note_asked(&mut self, now: Instant, want: Want, is_fill: bool) {
        match want.up_to() {
            Some(to) if is_fill => (self.fill_position, self.walk_at) = (to, now + FILL_EVERY),
            Some(_) => {}
            None => self.fill_at = now + FILL_PAUSE,
        }
    }

    /// Notes that a want for missing places is taken back: the rest of the range is asked for later. Nothing else is: a
    /// strand's own node can have such wants taken back at will.
    pub(super) fn note_fill_stopped(&mut self, open: &OpenWant) {
        for position in [&mut self.fill_position, &mut self.asked_until] {
            if open.up_to == Some(*position) {
                *position = open.last;
            }
        }
    }

    /// True if the peer has said in a search that ends now that it does not hold these places, and had passed them.
    fn has_answered_for(&self, now: Instant, (from, through): Places) -> bool {
        // It was last asked a moment before that time, or later.
        let is_long_ago = |at: Instant| at + 2 * SEARCH_AGAIN_AFTER <= now;
        let claimed_at = self.claims.since(through);
        let had_passed =
            self.claims.head() == SequenceId::NONE || claimed_at.is_some_and(is_long_ago);
        had_passed && self.answers.says_none(now, from, through)
    }
}

impl Follower {
    /// Takes the ranges that were read for [`Effect::ReadMissing`]. `below` is that of the effect. The ranges ascend,
    /// and both ends are included.
    pub fn handle_missing(
        &mut self,
        now: Instant,
        below: Option<SequenceId>,
        read: Vec<(SequenceId, SequenceId)>,
    ) {
        if read.is_empty() && below.is_some() {
            // The lowest ranges have had their turn.
            self.effects.push_back(Effect::ReadMissing { below: None });
            return;
        }
        let is_whole = below.is_none() && read.len() < RANGES_MAX;
        let is_passed = |(_, to): &Places| *to <= self.accepted;
        let mut ranges: Ranges = read.into_iter().filter(is_passed).collect();
        if below.is_none() {
            // Places that were marked a moment ago may not be on disk yet.
            let mut last = ranges.last();
            while let Some((from, to)) = self.missing.next_after(last) {
                ranges.push(from, to);
                last = to;
            }
        }
        (self.missing, self.window_at) = (ranges, (!is_whole).then(|| now + WINDOW_FOR));
        for peer in self.peers.values_mut() {
            peer.fill_position = SequenceId::NONE;
        }
        self.look(now);
        self.send_wants(now);
    }

    /// Takes over the missing places of an earlier follower of the strand, as far as this one has passed them.
    #[must_use]
    pub fn with_missing_of(mut self, before: &Self) -> Self {
        self.missing = before.missing.up_to(self.accepted);
        self.window_at = before.window_at;
        self
    }

    /// Adds places for which a search has just ended. Peers were asked for them in that search, so a peer that waits
    /// for its next walk is asked in that walk. If a relay had left the places out, a peer that was behind is asked
    /// once it claims them, and a peer whose answer the search did not await is asked at once.
    pub(super) fn add_missing(
        &mut self,
        now: Instant,
        (from, through): Places,
        left_out_by: OriginatorId,
    ) {
        let is_first = self.missing.is_empty();
        for peer in self.peers.values_mut() {
            let was_asked =
                left_out_by == self.originator || peer.has_answered_for(now, (from, through));
            if was_asked && self.missing.next_after(peer.asked_until).is_none() {
                peer.asked_until = through;
            }
            if self.missing.next_after(peer.fill_position).is_some() {
                continue;
            }
            peer.fill_position = through;
            // Further searches must not put the next walk off.
            if is_first {
                peer.walk_at = now + FILL_EVERY;
            }
        }
        self.missing.push(from, through);
    }

    /// Notes that there may be more missing ranges than those in memory.
    pub(super) fn note_window(&mut self, now: Instant) {
        if self.missing.may_lack_some() && self.window_at.is_none() {
            self.window_at = Some(now + WINDOW_FOR);
        }
    }

    /// Moves the window if it is time to. Asks the source for a missing range, or takes such a want back.
    pub(super) fn fill(&mut self, now: Instant) {
        self.note_window(now);
        self.end_disputes_in_search(now);
        if self.window_at.is_some_and(|at| at <= now) {
            self.window_at = Some(now + WINDOW_FOR);
            let lowest = self.missing.next_after(SequenceId::NONE);
            self.effects.push_back(Effect::ReadMissing { below: lowest.map(|(from, _)| from) });
        }
        if self.fill_ends_at().is_some_and(|at| at <= now) {
            self.end_fill(now);
        }
        if let Some((at, (from, to))) = self.next_fill()
            && at <= now
        {
            let source = self.choice.source;
            self.cancel_want(source);
            let (after, up_to) = (from.previous(), Some(to));
            let want = Want::envelopes(self.originator, after, up_to);
            self.send_want(now, source, want, true);
        }
    }

    /// Returns the next time at which [`fill`](Self::fill) can change something without an event.
    pub(super) fn fill_timeout(&self) -> Option<Instant> {
        let next = self.next_fill().map(|(at, _)| at);
        let ends_at = self.fill_ends_at().into_iter().chain(self.disputes_end_at());
        next.into_iter().chain(ends_at).chain(self.window_at).min()
    }

    /// True if an idle peer is to be asked for missing places and for nothing else.
    pub(super) fn is_for_fill(&self, id: OriginatorId, peer: &PeerProgress) -> bool {
        self.search.is_none() && !self.is_for_parts(id, peer) && !self.choice.is_asked(id)
    }

    /// Returns the next range of a peer's walk, and the time from which on the peer may be asked for it. After the last
    /// range the walk begins again.
    pub(super) fn next_range(&self, peer: &PeerProgress) -> Option<(Instant, Places)> {
        if let Some(range) = self.missing.next_after(peer.fill_position) {
            return Some((peer.fill_at, range));
        }
        let first = self.missing.next_after(SequenceId::NONE)?;
        Some((peer.walk_at.max(peer.fill_at), first))
    }

    /// Returns the next range to ask a peer beside the source for, and the earliest time at which it may be asked.
    pub(super) fn next_beside(
        &self,
        id: OriginatorId,
        peer: &PeerProgress,
    ) -> Option<(Instant, Places)> {
        let owed = self.owed_range(peer).map(|range| (peer.fill_at, range));
        self.disputed_or(id, peer, owed.or_else(|| self.next_range(peer)))
    }

    /// Returns the first range that a peer claims to have passed after it was asked for it. `None` before the end of
    /// its walk, which comes to all ranges.
    fn owed_range(&self, peer: &PeerProgress) -> Option<Places> {
        let is_walked = self.missing.next_after(peer.fill_position).is_none();
        let first = self.missing.next_after(peer.asked_until).filter(|_| is_walked);
        first.filter(|(_, to)| *to <= peer.claims.head())
    }

    /// Notes that a peer is asked for missing places, or those of a dispute. Returns true if this is no step of its
    /// walk.
    pub(super) fn note_fill_want(&mut self, id: OriginatorId, want: Want) -> bool {
        if self.disputes.note_asked(id, want) {
            return true;
        }
        let Some(peer) = self.peers.get(&id) else { return false };
        let asked =
            self.missing.next_after(peer.asked_until).filter(|(_, to)| want.up_to() == Some(*to));
        let Some((_, to)) = asked else { return false };
        let is_owed = self.owed_range(peer).is_some() && id != self.choice.source;
        // A peer that claims nothing may hold everything.
        if (to <= peer.claims.head() || peer.claims.head() == SequenceId::NONE)
            && let Some(peer) = self.peers.get_mut(&id)
        {
            peer.asked_until = to;
        }
        is_owed
    }

    /// Returns the next range to ask the source for, and the time. `None` while the source is not waiting for new
    /// envelopes, or this node has not stored what it was sent: the want without an end would have it sent twice.
    fn next_fill(&self) -> Option<(Instant, Places)> {
        let source = self.choice.source;
        let is_free =
            self.search.is_none() && self.split.is_none() && self.choice.trials.is_empty();
        let is_caught_up = self.durable == self.accepted && !self.is_ahead(source);
        let peer = self.peers.get(&source).filter(|_| is_free && is_caught_up)?;
        peer.open.as_ref().filter(|open| open.up_to.is_none())?;
        self.disputed_or(source, peer, self.next_range(peer))
    }

    /// Returns the time at which a want for a missing range at the source is taken back: soon if a peer claims new
    /// envelopes, which must not wait. `None` if there is no such want.
    fn fill_ends_at(&self) -> Option<Instant> {
        let source = self.choice.source;
        let open = self.open_want(source).filter(|open| open.is_fill)?;
        let has_news = self.is_ahead(source) || self.rival().is_some();
        Some(open.asked_at + if has_news { STALL_TIMEOUT } else { STALL_AFTER })
    }

    /// Takes a want for a missing range at the source back. The source is asked for the rest later if it has sent a
    /// part, and for another range if it has sent nothing.
    fn end_fill(&mut self, now: Instant) {
        let source = self.choice.source;
        let Some(open) = self.open_want(source) else { return };
        let is_step = !self.disputes.is_for_dispute(source, open);
        let unanswered = open.up_to.filter(|_| is_step && open.last == open.after);
        self.cancel_want(source);
        // It was not asked for what comes next, so it has not been silent about that.
        self.choice.progress_at = now;
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.ask_at = now;
            peer.fill_position = unanswered.unwrap_or(peer.fill_position);
        }
    }
}
