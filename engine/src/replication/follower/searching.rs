//! The beginning and the end of a gap search.
//!
//! A peer can begin a search at will: it leaves out places that others hold, and sends an envelope behind them. So a
//! search ends by its time only when peers have stopped sending the range, and when this node has looked at everything
//! that they sent. A peer that alone holds the range cannot hold up the strand by sending it place by place: each
//! minute has to bring a least amount.
//!
//! A peer can also begin one search after the other. A relay that leaves out what others hold gets a pause, so the
//! strand comes from another peer. The strand's own node harms only its own strand, but each search asks all peers, so
//! those beside the source are asked at a pace. For a long range they are asked in turns, each for what is still
//! missing: one envelope behind a backlog must not have all of them send it.
//!
//! Other software leaves ids unused, and its callers can make it leave many. If each of these gaps held the strand up
//! for a minute of its own, the strand would fall behind without a bound. So the minute of a gap counts from the first
//! claim of what follows, by the peer that has passed the places over. A peer that holds the places shows them, because
//! each connected one has time to answer first. One that has just lost its connection has ten seconds to come back if
//! the strand's own node has passed them over, which harms only its own strand, and a minute if a relay has. A long gap
//! has ten seconds of its own, and a minute if a relay has passed it over.
//!
//! A relay can claim places before they exist, and pass them over before they reach a peer that answers for them. So if
//! a relay has passed them over, the search goes on until the envelope behind them is a minute old: the strand's node
//! has signed that time, and the relay cannot change it. If the strand's node does not answer, it is two minutes: each
//! other peer searches for an unused id of the strand for a minute, and holds what follows only then.
//!
//! The gaps that follow are asked for in the same search (`answers`).
//!
//! A peer that does not answer, or whose connection comes and goes, has searches wait for it as long as its allowance
//! lasts (`allowance`): otherwise one peer, or several that take turns, would make each gap cost a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::{OriginatorId, SequenceId};
#[cfg(feature = "faults")]
use hawser_storage::faults::{self, SeededFault};
use hawser_storage::{LogEntry, SkipReason};

use super::further::FurtherRanges;
use super::parts::ReceivedTotal;
use super::search::{
    IN_TURNS_FROM, PlaceSearch, RELAYED_FOR, SEARCH_AGAIN_AFTER, SEARCH_EVERY, SEARCH_FOR,
    SearchTurns,
};
use super::{Follower, PendingWrites};

impl Follower {
    /// Searches for the places before `behind`, a signed envelope. `from` has sent it, and not these places.
    pub(super) fn start_or_narrow_search(
        &mut self,
        now: Instant,
        from: OriginatorId,
        behind: &LogEntry,
    ) {
        let through = behind.id.sequence.previous();
        let can_have_expired = self.can_have_expired_before(behind);
        match &mut self.search {
            // A peer has sent a part of the gap from further up; only the places below are sought.
            Some(search) if through < search.through => {
                (search.through, search.asked_through) = (through, through);
                (search.wide_through, search.further) = (through, FurtherRanges::default());
                search.can_have_expired = can_have_expired;
            }
            Some(_) => self.note_passed_by(now, from),
            None => {
                let mut search = self.new_search(now, from, behind);
                search.hardly_awaited = self.allowances.settle_all(now, search.settles_for);
                self.search = Some(search);
                self.searches += 1;
                // Also the source's: it is asked once more for just the missing range.
                self.cancel_all_wants(now);
                self.ask_for_search(now);
            }
        }
    }

    /// Returns a search for the places before `behind`, which `from` has sent.
    pub(super) fn new_search(
        &self,
        now: Instant,
        from: OriginatorId,
        behind: &LogEntry,
    ) -> PlaceSearch {
        let through = behind.id.sequence.previous();
        let is_own = from == self.originator;
        let is_long = through.0.saturating_sub(self.accepted.0) > IN_TURNS_FROM;
        // A relay may leave out a backlog that others hold.
        let claims = self.peers.get(&from).filter(|_| is_own || !is_long).map(|peer| &peer.claims);
        let claimed_at = claims.and_then(|claims| claims.since(behind.id.sequence));
        let claimed_until = claimed_at.unwrap_or(now) + SEARCH_FOR;
        // A search for a long range costs a peer a whole page, so there are few in a minute.
        let pace = if is_long { SEARCH_AGAIN_AFTER } else { Duration::ZERO };
        let settles_for = if is_own { SEARCH_AGAIN_AFTER } else { SEARCH_FOR };
        // A node that asks for its own strand signs nothing meanwhile, and waits for one search (`own_strand`).
        let limit = if self.own_beside.is_some() { SEARCH_FOR } else { RELAYED_FOR };
        let rest = self.rest_for_peers(from, behind, SEARCH_FOR);
        let settled_at = self.allowances.settles_until(now, settles_for);
        PlaceSearch {
            through,
            asked_through: through,
            further: FurtherRanges::default(),
            hardly_awaited: BTreeSet::new(),
            wide_through: through,
            behind_bytes: behind.bytes.len(),
            left_out_by: from,
            until: now + rest.max(SEARCH_FOR),
            due: settled_at.into_iter().fold(claimed_until.max(now + rest.max(pace)), Instant::max),
            settles_for,
            alone_until: now + self.rest_for_peers(from, behind, limit),
            has_own_answer: false,
            answered_by: BTreeSet::new(),
            asked_at: BTreeMap::new(),
            passed_by: BTreeSet::new(),
            answered: false,
            found: ReceivedTotal::default(),
            turns: is_long.then(|| SearchTurns::new(now)),
            can_have_expired: self.can_have_expired_before(behind),
            expired: BTreeMap::new(),
        }
    }

    /// Returns the rest of `limit`, the time that other peers have for the places before `behind` since it was signed,
    /// if a relay has sent it; a minute if its time is not known. The strand's own node chooses the times that it
    /// signs.
    fn rest_for_peers(&self, from: OriginatorId, behind: &LogEntry, limit: Duration) -> Duration {
        if from == self.originator {
            return Duration::ZERO;
        }
        let of_facts = behind.facts.as_ref().map(|facts| facts.originator_ns);
        // Most envelopes that break a rule have no facts.
        let signed_ns = of_facts.or_else(|| OriginatorEnvelope::stated_ns(&behind.bytes));
        let Some((now_ns, signed_ns)) = self.wall_ns.zip(signed_ns) else { return SEARCH_FOR };
        let age_ns = now_ns.saturating_sub(signed_ns);
        limit.saturating_sub(Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0)))
    }

    /// Sets the time at which each peer is asked for the places of a search that begins.
    fn ask_for_search(&mut self, now: Instant) {
        let paced = self.all_asked_at.map(|at| at + SEARCH_EVERY).filter(|at| *at > now);
        if paced.is_none() {
            self.all_asked_at = Some(now);
        }
        for (id, peer) in &mut self.peers {
            let is_first = *id == self.choice.source || *id == self.originator;
            peer.ask_at = if is_first { now } else { paced.unwrap_or(now) };
        }
    }

    /// Returns the time of a peer's turn in a search for a long range; `None` if it need not wait for one. It does not
    /// if no peer is sending any more.
    pub(super) fn turn_at(&self, id: OriginatorId) -> Option<Instant> {
        let turns = self.search.as_ref()?.turns.as_ref()?;
        let is_first = id == self.choice.source || id == self.originator;
        let is_sent = || self.peers.values().any(|peer| peer.open.is_some());
        (!is_first && is_sent()).then(|| turns.next_at())
    }

    /// Notes that a peer is asked, if there is a search, for its places.
    pub(super) fn note_turn(&mut self, now: Instant, id: OriginatorId) {
        let is_first = id == self.choice.source || id == self.originator;
        let turns = self.search.as_mut().and_then(|search| search.turns.as_mut());
        turns.filter(|_| !is_first).into_iter().for_each(|turns| turns.pass(now));
    }

    /// Notes that everything up to `through` was accepted, the last of it an envelope of this length. Ends the search
    /// if its places are among it.
    pub(super) fn note_passed(&mut self, now: Instant, through: SequenceId, len_bytes: usize) {
        let Some(search) = &mut self.search else { return };
        search.found.add(len_bytes);
        search.turns.iter_mut().for_each(|turns| turns.note_found(now));
        if search.through > through {
            return;
        }
        // The gap is closed: no other peer needs to answer, and the source is asked again.
        self.search = None;
        self.cancel_all_wants(now);
        self.choice.progress_at = now;
        if let Some(source) = self.peers.get_mut(&self.choice.source) {
            source.ask_at = now;
        }
    }

    /// Notes that `from` has sent an envelope that was accepted, during the search for what `left_out_by` had left out.
    /// If that has ended the search, a peer held the places that a relay had left out: the relay gets a pause.
    pub(super) fn note_filled(
        &mut self,
        now: Instant,
        from: OriginatorId,
        left_out_by: Option<OriginatorId>,
    ) {
        let of_sender = self.search.as_mut().and_then(|search| search.asked_at.get_mut(&from));
        of_sender.into_iter().for_each(|at| *at = now);
        let Some(relay) = left_out_by.filter(|_| self.search.is_none()) else { return };
        if relay != from && relay != self.originator && !self.choice.is_fixed {
            self.choice.doubt(now, relay);
        }
    }

    /// Returns the peer that has left out the places of the search, if there is one.
    pub(super) fn left_out_by(&self) -> Option<OriginatorId> {
        self.search.as_ref().map(|search| search.left_out_by)
    }

    /// Notes that a peer has come or gone: a peer that holds the searched places may be about to come.
    pub(super) fn note_peer_changed(&mut self, now: Instant, peer: OriginatorId) {
        self.charge_wait(now, peer);
        let is_waited_for = self.allowances.note_change(now, peer);
        let Some(search) = &mut self.search else { return };
        search.asked_at.remove(&peer);
        search.passed_by.remove(&peer);
        search.further.note_changed(peer);
        if is_waited_for {
            let settled_at = self.allowances.settle(now, peer, search.settles_for);
            search.due = settled_at.into_iter().fold(search.due, Instant::max);
        }
    }

    /// Notes that a peer is asked for the places of the search, if there is one.
    pub(super) fn note_search_asked(&mut self, now: Instant, peer: OriginatorId) {
        if let Some(search) = &mut self.search
            && search.further.asked_of(peer).is_none()
        {
            search.answered_by.remove(&peer);
            search.passed_by.remove(&peer);
            // One that has refused a want is asked again, and has no more time for that.
            search.asked_at.entry(peer).or_insert(now);
        }
    }

    /// Notes that a peer has sent an envelope behind the places of the search, so that it does not hold these.
    fn note_passed_by(&mut self, now: Instant, from: OriginatorId) {
        self.charge_wait(now, from);
        let Some(search) = &mut self.search else { return };
        search.answered = true;
        search.has_own_answer |= from == self.originator;
        search.passed_by.insert(from);
    }

    /// Notes that a peer has sent everything that it holds of the range of the search. The want of a dispute can end in
    /// a search, too, and its end is no answer to that.
    pub(super) fn note_answered(&mut self, now: Instant, from: OriginatorId) {
        if self.open_want(from).is_none_or(|open| open.is_fill) {
            return;
        }
        self.charge_wait(now, from);
        let Some(search) = &mut self.search else { return };
        if search.further.asked_of(from).is_some() {
            return self.note_range_answer(now, from);
        }
        search.answered = true;
        search.has_own_answer |= from == self.originator;
        search.answered_by.insert(from);
        search.asked_at.remove(&from);
        self.note_range_answer(now, from);
    }

    /// Returns the time at which the search ends because no answer is waited for any more; `None` while it goes on, or
    /// a peer has not been asked. A node that has left the network is asked for nothing.
    pub(super) fn answered_until(&self) -> Option<Instant> {
        let search = self.search.as_ref().filter(|search| !search.goes_on())?;
        if self.peers.is_empty() {
            return None;
        }
        let is_due = |peer: &&OriginatorId| {
            let is_left = self.choice.is_relayed && **peer == self.originator;
            !is_left && !search.answered_by.contains(*peer)
        };
        let mut due = self.peers.keys().filter(is_due).map(|peer| self.waited_until(*peer));
        let due = due.try_fold(search.due_at(), |latest, until| Some(latest.max(until?)))?;
        Some(search.further.awaited_until().map_or(due, |until| until.max(due)))
    }

    /// Ends the search if its time is over for peers whose answers it does not wait for.
    pub(super) fn conclude_answered(&mut self, now: Instant) {
        #[cfg(feature = "faults")]
        if faults::is_on(SeededFault::FirstAnswerEnds)
            && self.search.as_ref().is_some_and(|search| search.answered)
        {
            return self.conclude_search(now);
        }
        if self.answered_until().is_some_and(|due| due <= now) {
            self.conclude_search(now);
        }
    }

    /// Notes that this node was too busy to examine the answers of peers, which may contain the searched places.
    pub(super) fn excuse_search(&mut self, now: Instant) {
        if let Some(search) = &mut self.search {
            search.until = search.until.max(now + SEARCH_AGAIN_AFTER);
            search.asked_at.values_mut().for_each(|at| *at = now);
        }
    }

    /// Marks the places of the search missing at the end of its time, or extends the search if
    /// that would be wrong.
    pub(super) fn conclude_search(&mut self, now: Instant) {
        let Some(search) = &mut self.search else { return };
        let (through, left_out_by) = (search.through, search.left_out_by);
        if search.goes_on() {
            search.until = now + SEARCH_FOR;
            if search.is_sent() {
                // A peer that has sent all that it holds may be getting the rest itself.
                search.due = search.due.max(search.until);
            }
            search.found = ReceivedTotal::default();
            return;
        }
        let silent: Vec<_> = search.asked_at.keys().copied().collect();
        silent.into_iter().for_each(|peer| self.give_up(now, peer));
        let from = self.accepted.next();
        let mut writes = PendingWrites::default();
        let skip = self.skip(from, through, SkipReason::Missing);
        self.accept(now, skip, &mut writes);
        self.add_missing(now, (from, through), left_out_by);
        self.emit(self.choice.source, writes);
    }
}
