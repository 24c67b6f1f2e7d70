//! The peer that a strand is taken from.
//!
//! It is the strand's own node while that is connected and current, otherwise the connected peer that claims most.
//! Claims prove nothing, so a claim alone never ends a working source: when another peer claims more than the
//! source shows, it is asked *beside* the source, and takes over when it shows an envelope first. A peer that
//! claims more and shows nothing is passed over for a pause that grows. A source that was silent is taken again only
//! after something has come from it, unless no other peer is current. A source that sends a little from time to time
//! must not keep the rest from this node: beside it, too, another peer is asked.
//!
//! Several peers can claim more and show nothing. So further peers are asked while the last ones are still being tried,
//! and no honest holder waits for the whole time of each liar. Those that were never doubted are asked in rounds that
//! double. Places for trials are no hold for liars either: a peer that was doubted less often takes the place of one
//! that was doubted more often. A peer whose connection ends while it is tried is doubted, too.
//!
//! A trial that ends because another peer sends first brings no doubt: an honest peer may be slower. But liars would be
//! tried first again the next time, so the times of such trials count: peers with less of it come first.

use std::cmp::Reverse;
use std::time::Instant;

use hawser_proto::{OriginatorId, SequenceId};

use super::choice::{
    ENVELOPE_WITHIN, FAR_PLACES_MIN, NEXT_TRIAL_AFTER, STALL_TIMEOUT, STORED_WITHIN, SourceRank,
    SourceTrial, TRIAL, TRIALS_MAX,
};
use super::parts::ReceivedTotal;
use super::{Follower, PeerProgress, STALL_AFTER};

impl Follower {
    /// Returns the peer that is asked for everything that comes next, alone or with others; `None` while there is none.
    #[must_use]
    pub fn source(&self) -> Option<OriginatorId> {
        if self.split.is_some() {
            return Some(self.choice.source);
        }
        let open = self.open_want(self.choice.source)?;
        (open.up_to.is_none() || open.is_fill).then_some(self.choice.source)
    }

    /// Notes if the strand's node is in the network. While it is not, the follower asks it for nothing.
    pub fn handle_membership(&mut self, now: Instant, is_member: bool) {
        if self.choice.is_relayed != is_member {
            return;
        }
        self.choice.is_relayed = !is_member;
        self.cancel_want(self.originator);
        self.look(now);
        self.send_wants(now);
    }

    /// Records that responses of peers wait to be examined by this node. Until all are examined, no peer counts as
    /// silent and no place as missing.
    pub fn handle_backlog(&mut self, now: Instant) {
        self.choice.progress_at = now;
        self.choice.excuse_pace(now, TRIAL);
        self.excuse_parts(now);
        self.excuse_search(now);
    }

    /// Chooses the peer from which the strand is taken, and those that are tried beside it.
    pub(super) fn look(&mut self, now: Instant) {
        let is_owing = self.is_ahead(self.choice.source);
        self.choice.owing_since = is_owing.then(|| self.choice.owing_since.unwrap_or(now));
        self.fill(now);
        if self.choice.is_fixed {
            return;
        }
        self.choice.pass_time(now, self.accepted);
        while let Some(failed) = self.choice.fail_trial(now) {
            self.cancel_want(failed);
        }
        self.take_parts(now);
        self.choose_source(now);
        self.judge_split();
        let rival = self.rival();
        self.choice.ahead_since = rival.map(|_| self.choice.ahead_since.unwrap_or(now));
        // A peer that is tried is no rival, and claims as much as before. The time of a slow source goes on.
        let tried = self.choice.trials.iter().map(|trial| trial.peer);
        let is_far = tried.chain(rival).any(|peer| self.is_far_ahead(peer));
        self.choice.look_at_pace(now, is_far);
        if self.trial_at().is_some_and(|at| at <= now) {
            self.start_trial(now);
        }
    }

    /// Returns the next time at which [`look`](Self::look) can change something without an event.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let choice = &self.choice;
        let is_connected = |id: &OriginatorId| self.peers.contains_key(id);
        let paused = choice.doubts.iter().filter(|(id, doubt)| doubt.is_paused && is_connected(id));
        paused
            .map(|(_, doubt)| doubt.until)
            .chain(choice.trials.iter().map(|trial| trial.until))
            .chain(self.trial_at())
            .min()
    }

    /// Notes that a peer has sent the next place of the strand, an envelope of this length.
    pub(super) fn note_progress(&mut self, now: Instant, from: OriginatorId, len_bytes: usize) {
        self.choice.progress_at = now;
        self.choice.stalls = 0;
        self.choice.note_sent(from, len_bytes);
        if self.choice.is_undecided_by(from) {
            return;
        }
        // A slow source has sent something.
        let is_beside_slow = self.choice.trials.iter().any(|trial| trial.received.is_some());
        // If the source sends again, or another peer has closed a gap, the trials are over, too.
        let trials = std::mem::take(&mut self.choice.trials);
        for trial in trials.iter().filter(|trial| trial.peer != from) {
            if self.is_owing(trial.peer) {
                self.choice.note_outrun(now, trial);
            }
            self.cancel_want(trial.peer);
        }
        if trials.iter().all(|trial| trial.peer != from) {
            return;
        }
        let left = self.choice.source;
        if self.is_owing(left) {
            self.choice.doubt(now, left);
            // A peer without clocks that is not asked can show no life.
            let has_claimed = self.peers.get(&left).is_some_and(|peer| peer.has_claimed);
            if has_claimed && !is_beside_slow {
                self.choice.note_silence(left);
            }
        }
        self.cancel_want(left);
        (self.choice.source, self.choice.pace) = (from, None);
    }

    /// Records that a peer ended an open want and sent none of the envelopes that it claims.
    pub(super) fn note_refusal(&mut self, now: Instant, peer: OriginatorId) {
        if self.end_unmet(peer) {
            self.choice.doubt(now, peer);
        }
    }

    /// Notes that the connection of a peer has ended. A peer could end it shortly before the end of each trial, and
    /// several such peers would keep all others out.
    pub(super) fn note_lost(&mut self, now: Instant, peer: OriginatorId) {
        if self.end_unmet(peer) {
            self.choice.doubt_shortly(now, peer);
        }
    }

    /// Ends the trial of a peer. Returns true if the peer was tried, or is a relay that is the source and claims more
    /// than was accepted.
    fn end_unmet(&mut self, peer: OriginatorId) -> bool {
        if self.choice.is_fixed {
            return false;
        }
        let was_tried = self.choice.end_trial_of(peer);
        let is_source = peer == self.choice.source && peer != self.originator;
        was_tried || (is_source && self.is_ahead(peer))
    }

    /// Notes that a peer broke a rule.
    pub(super) fn note_violation(&mut self, now: Instant, peer: OriginatorId) {
        self.choice.end_trial_of(peer);
        self.choice.doubt(now, peer);
    }

    /// Returns true once for each time that the strand's own node, over a connection on which it has proved its id,
    /// was asked twice for the places that it claims and sent nothing for ten seconds each. The end of a connection
    /// or a stream in between restarts the count, because the link may be its cause.
    pub fn take_stalled(&mut self) -> bool {
        std::mem::take(&mut self.choice.is_stalled)
    }

    /// Drops a source that claims more and has sent nothing for long, although no better one was found.
    pub(super) fn turn_from_stalled(&mut self, now: Instant) {
        let source = self.choice.source;
        // Places that it says it does not hold are an answer.
        let owes = |peer: &PeerProgress| {
            let covered = peer.open.as_ref().map(|open| open.last);
            peer.is_proven && covered.is_some_and(|covered| covered < peer.claims.head())
        };
        let is_owing = source == self.originator && self.peers.get(&source).is_some_and(owes);
        // A single time may be a silently broken stream, so the node is asked again before it counts.
        self.choice.stalls = if is_owing { self.choice.stalls.saturating_add(1) } else { 0 };
        self.choice.is_stalled |= self.choice.stalls >= 2;
        if !self.choice.is_fixed && source != self.originator {
            self.choice.doubt(now, source);
            if let Some((_, best)) = self.best() {
                self.set_source(now, best);
            }
        }
        self.cancel_want(source);
    }

    /// Forgets how often a peer was silent: its connection or its stream has ended.
    pub(super) fn forget_stalls(&mut self, peer: OriginatorId) {
        if peer == self.choice.source {
            self.choice.stalls = 0;
        }
    }

    /// Returns the time at which a silent source counts as stalled. Its silence begins with its claim: while it claims
    /// no more than was accepted, there is nothing to send, and a clock may overtake the envelope that it announces.
    pub(super) fn stalls_at(&self) -> Option<Instant> {
        let owing_since = self.choice.owing_since.filter(|_| self.split.is_none())?;
        let source = self.source()?;
        let shown_at = owing_since.max(self.choice.progress_at);
        // Asking again would begin the same envelope anew. Other peers that claim as much are tried meanwhile.
        let arrived_at = self.open_want(source).and_then(|open| open.arrived_at);
        let last = arrived_at.map_or(shown_at, |at| at.min(shown_at + ENVELOPE_WITHIN));
        Some(last.max(shown_at) + STALL_AFTER)
    }

    pub(super) fn is_stalled(&self) -> bool {
        let is_ahead = |peer: &PeerProgress| peer.claims.head() > self.accepted;
        // While a commit is under way, the source may be waiting for this node to read on.
        self.durable == self.accepted && self.peers.get(&self.choice.source).is_some_and(is_ahead)
    }

    /// Stays with the source while it is connected and no better kind of peer is there.
    fn choose_source(&mut self, now: Instant) {
        let best = self.best();
        let present = self.peers.get(&self.choice.source);
        let present = present.and_then(|peer| self.rank(self.choice.source, peer));
        match (best, present) {
            (Some((rank, _)), Some(present)) if rank >= present => {}
            (Some((_, peer)), _) => self.set_source(now, peer),
            (None, _) => self.set_source(now, self.originator),
        }
    }

    fn set_source(&mut self, now: Instant, source: OriginatorId) {
        if source == self.choice.source {
            return;
        }
        self.cancel_endless(self.choice.source);
        let tried = self.choice.end_trials();
        tried.iter().filter(|it| **it != source).for_each(|it| self.cancel_endless(*it));
        (self.choice.source, self.choice.pace) = (source, None);
        self.choice.progress_at = now;
        if !tried.contains(&source) && self.search.is_none() && !self.sends_part(source) {
            // Missing places are asked for later.
            self.cancel_want(source);
        }
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.ask_at = now;
        }
    }

    /// Takes over the doubts of the earlier follower.
    #[must_use]
    pub fn with_doubts_of(mut self, before: &Self) -> Self {
        self.choice.doubts.clone_from(&before.choice.doubts);
        self
    }

    /// Takes over the doubts of the earlier follower. Its source did not send the wanted places and is doubted as
    /// well, so that others have their turn.
    #[must_use]
    pub fn after_failed(self, before: &Self, now: Instant) -> Self {
        let mut follower = self.with_doubts_of(before);
        follower.choice.doubt(now, before.choice.source);
        follower
    }

    fn cancel_endless(&mut self, peer: OriginatorId) {
        if self.open_want(peer).is_some_and(|open| open.up_to.is_none()) {
            self.cancel_want(peer);
        }
    }

    /// Returns the connected peer with the best rank. Among doubted peers the one whose pause ends first comes
    /// first. Further ties go to the peer with the best [record](super::choice::Choice::record), and then to the one
    /// that claims most.
    fn best(&self) -> Option<(SourceRank, OriginatorId)> {
        let ranked = self.peers.iter().filter_map(|(id, peer)| {
            let rank = self.rank(*id, peer)?;
            let doubt = self.choice.doubts.get(id).filter(|_| rank == SourceRank::Doubted);
            let record = self.choice.record(*id);
            Some((rank, doubt.map(|it| it.until), record, Reverse(peer.claims.head()), *id))
        });
        ranked.min().map(|(rank, _, _, _, id)| (rank, id))
    }

    /// Returns the rank of a connected peer; `None` if it must not be asked at all.
    fn rank(&self, id: OriginatorId, peer: &PeerProgress) -> Option<SourceRank> {
        let (claimed, choice) = (peer.claims.head(), &self.choice);
        let is_current = claimed >= choice.passed.older && !choice.is_silent(id);
        let is_paused = choice.is_paused(id);
        if id == self.originator {
            // A node of other software may claim nothing and hold everything.
            let is_current = is_current || claimed == SequenceId::NONE;
            let rank =
                if is_current && !is_paused { SourceRank::Own } else { SourceRank::OwnBehind };
            return (!choice.is_relayed).then_some(rank);
        }
        let rank = match (is_paused || claimed == SequenceId::NONE, is_current) {
            (true, _) => SourceRank::Doubted,
            (false, true) => SourceRank::Current,
            (false, false) => SourceRank::Behind,
        };
        // Without the strand's own node there is no other peer to ask.
        (claimed != SequenceId::NONE || choice.is_relayed).then_some(rank)
    }

    /// Returns a peer beside the source that claims more than was accepted. Of several, it is the peer with the best
    /// [record](super::choice::Choice::record), and of equal ones the peer that claims most.
    pub(super) fn rival(&self) -> Option<OriginatorId> {
        let is_rival = |(id, peer): &(&OriginatorId, &PeerProgress)| {
            let is_good = self.rank(**id, peer).is_some() && !self.choice.is_paused(**id);
            is_good && !self.choice.is_asked(**id) && peer.claims.head() > self.accepted
        };
        let rivals = self.peers.iter().filter(is_rival);
        let order = |(id, peer): &(&OriginatorId, &PeerProgress)| {
            (self.choice.record(**id), Reverse(peer.claims.head()), **id)
        };
        rivals.min_by_key(order).map(|(id, _)| *id)
    }

    /// Returns the time from which a rival may be tried; `None` while there is none, or no place for it.
    fn trial_at(&self) -> Option<Instant> {
        let choice = &self.choice;
        let is_free = self.search.is_none() && self.split.is_none();
        let stalled_at = self.stalled_at().filter(|_| is_free && !choice.is_fixed)?;
        let Some(last) = choice.trials.last() else {
            return Some(choice.slow_at().map_or(stalled_at, |slow_at| slow_at.min(stalled_at)));
        };
        let after = match self.rival() {
            Some(rival) => choice.next_trial_after(rival),
            // The look at that time notes that there is none.
            None => (choice.trials.len() < TRIALS_MAX).then_some(NEXT_TRIAL_AFTER),
        };
        after.map(|after| stalled_at.max(last.since + after))
    }

    /// Returns the time at which the source has shown nothing for so long that a rival is tried beside it; `None` while
    /// there is no rival.
    fn stalled_at(&self) -> Option<Instant> {
        let since = self.choice.ahead_since?;
        Some(since.max(self.choice.progress_at) + STALL_TIMEOUT)
    }

    fn start_trial(&mut self, now: Instant) {
        if self.durable != self.accepted {
            // The disk is busy, and the source may be waiting for it.
            self.choice.progress_at = now;
            self.choice.excuse_pace(now, STORED_WITHIN);
            return;
        }
        let Some(peer) = self.rival() else { return };
        let until = now + self.choice.trial_for(peer);
        if self.choice.trials.len() >= TRIALS_MAX
            && let Some(outranked) = self.choice.outranked_by(peer)
        {
            self.choice.end_trial_of(outranked);
            self.cancel_want(outranked);
        }
        // A source that shows nothing at all is not slow: the first peer that shows something takes its place.
        let is_sending = self.choice.progress_at + STALL_TIMEOUT > now;
        let is_slow = is_sending && self.choice.slow_at().is_some_and(|at| at <= now);
        let trials = &mut self.choice.trials;
        trials.iter_mut().for_each(|trial| trial.received = None);
        // If it sends again, that ends no trial: it could do so just before each answer, and keep its place for ever.
        let beside_slow = is_slow || trials.iter().any(|trial| trial.beside_slow);
        let received = is_slow.then(ReceivedTotal::default);
        trials.push(SourceTrial { peer, since: now, until, beside_slow, received });
        self.cancel_want(peer);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.ask_at = now;
        }
    }

    /// True if a peer claims so much more than was accepted that the source should send more than a little.
    fn is_far_ahead(&self, peer: OriginatorId) -> bool {
        let far = self.accepted.0.saturating_add(FAR_PLACES_MIN);
        let claims = |peer: &PeerProgress| peer.claims.head().0 >= far;
        let is_free = self.search.is_none() && self.split.is_none();
        is_free && self.peers.get(&peer).is_some_and(claims)
    }

    pub(super) fn is_ahead(&self, peer: OriginatorId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.claims.head() > self.accepted)
    }

    /// True if a peer that was asked should have shown the place that another one has shown now: it originates the
    /// strand, or claims that place.
    fn is_owing(&self, asked: OriginatorId) -> bool {
        let claims = |peer: &PeerProgress| peer.claims.head() >= self.accepted;
        asked == self.originator || self.peers.get(&asked).is_some_and(claims)
    }
}
