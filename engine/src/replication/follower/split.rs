//! A long backlog that several peers send at once, each a part of it.
//!
//! The strand still grows in order: of the first part every envelope is accepted as it comes, those of later parts
//! wait until everything before them is accepted. The bytes of waiting envelopes are bounded. Only a claim of the
//! source starts a split, and only signed envelopes complete a part. So a claim alone ends no working transfer here
//! either.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::{Change, LogEntry};

use super::choice::STALL_TIMEOUT;
use super::parts::{BacklogPart, ReceivedTotal, Split, SplitLimits};
use super::{Effect, Follower, PeerProgress, PendingWrites, RETRY_AFTER};
use crate::replication::link::{GapWants, Want, WantedItems};

/// Largest number of parts that are under way or wait. Guessed: a few for each peer that is asked, so that a slow one
/// holds the others up late.
const PARTS_MAX: usize = 16;
/// Bytes of a part, by the mean length of the envelopes so far. Guessed: several round trips' worth for a fast link,
/// and asked again in a short time if a peer stalls.
const PART_BYTES: u64 = 2 * 1024 * 1024;
/// Places that the source sends alone after a part that no peer sends, at most, as a multiple of
/// [`SplitLimits::backlog_min`]. Specified in `docs/protocol/replication.md`, *Parts*: a million places.
const ALONE_MAX: u64 = 64;
/// Memory for an entry beside its bytes. A guess, by the size of the type and its facts.
const ENTRY_BYTES: usize = 512;

/// Time for which bytes count as something that a peer shows of its part, until it shows an envelope. A guess: a batch
/// and a page take less over a link of 64 KiB/s, also if the first page has run into the time limit of its call.
const ARRIVES_FOR: Duration = Duration::from_secs(30);

/// Work for an idle peer.
enum PartShare {
    /// Send the rest of the part with this index.
    Rest(usize),
    /// Send a new part.
    New(Want),
}

impl Follower {
    /// Sets other bounds than the default ones for splitting a backlog.
    #[must_use]
    pub fn with_split_limits(mut self, limits: SplitLimits) -> Self {
        self.split_limits = limits;
        self
    }

    /// Notes that a connected peer has proved its id. Such a peer checks envelopes before it passes them on.
    pub fn handle_proven(&mut self, peer: OriginatorId) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.is_proven = true;
        }
    }

    /// Notes which wants for gaps alone a connected peer answers.
    pub fn handle_gap_wants(&mut self, peer: OriginatorId, answered: GapWants) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.gap_wants = answered;
        }
    }

    /// True if the backlog is long, and two peers or more can send parts of it.
    #[must_use]
    pub fn can_split(&self) -> bool {
        let is_free = self.split.is_none() && self.search.is_none() && !self.choice.is_fixed;
        let backlog_min = self.split_limits.backlog_min;
        let is_long = |peer: &PeerProgress| {
            peer.claims.head().0 > self.accepted.0.saturating_add(backlog_min)
        };
        let sharers = self.peers.iter().filter(|(id, peer)| self.is_sharer(**id, peer));
        let holders = sharers.filter(|(_, peer)| is_long(peer));
        is_free
            && self.accepted >= self.split_after
            && self.peers.get(&self.choice.source).is_some_and(is_long)
            && self.is_sharer_now(self.choice.source)
            && holders.count() >= 2
    }

    /// True while a backlog is split, and envelopes may wait in memory.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.split.is_some()
    }

    /// Returns the bytes of envelopes that wait for their turn.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.split.as_ref().map_or(0, |split| split.held_bytes)
    }

    /// Splits the backlog if that [is possible](Self::can_split). The driver calls this when it has memory for it,
    /// [`SplitLimits::held_bytes_max`].
    pub fn start_split(&mut self, now: Instant) {
        if !self.can_split() {
            return;
        }
        let tried = self.choice.end_trials();
        tried.into_iter().chain([self.choice.source]).for_each(|peer| self.cancel_want(peer));
        self.split = Some(Split {
            parts: VecDeque::new(),
            began: self.accepted,
            assigned: self.accepted,
            held_bytes: 0,
            received: ReceivedTotal::default(),
        });
        self.look(now);
        self.send_wants(now);
    }

    /// Takes parts from peers that are silent or slow.
    pub(super) fn take_parts(&mut self, now: Instant) {
        if self.split.is_none() {
            return;
        }
        self.take_from_silent(now);
        if let Some(slow) = self.reassigned_at().filter(|(at, _)| *at <= now).map(|(_, peer)| peer)
        {
            self.take_from_slow(slow);
        }
        // A search for missing places has time, and the first part has none.
        let is_sought = |(id, peer): &(&OriginatorId, &PeerProgress)| {
            peer.open.is_some() && self.is_sharer(**id, peer) && !self.sends_part(**id)
        };
        let sought: Vec<_> = self.peers.iter().filter(is_sought).map(|(id, _)| *id).collect();
        sought.into_iter().for_each(|id| self.cancel_want(id));
    }

    /// Ends the split when no place is left to request.
    pub(super) fn judge_split(&mut self) {
        let Some(split) = &self.split else { return };
        let (lead, began) = (split.parts.front(), split.began);
        let is_stuck = lead.is_some_and(|lead| lead.asked.is_none() && !self.is_served(lead));
        let has_new = || self.peers.iter().any(|(id, peer)| self.new_part(*id, peer).is_some());
        let is_done = lead.is_none() && !has_new();
        if self.search.is_some() || is_stuck || is_done || !self.is_sharer_now(self.choice.source) {
            self.end_split();
        }
        if is_stuck {
            self.leave_alone(self.accepted.0.saturating_sub(began.0));
        }
    }

    /// Puts the next split off after one that has ended at a part that no peer sends, and has brought `came` places
    /// before. A strand that lacks one place may lack many. Each costs the parts that wait, and a stream of the source,
    /// which nodes of other software keep.
    fn leave_alone(&mut self, came: u64) {
        let least = self.split_limits.backlog_min;
        self.split_alone = match came >= self.split_alone {
            true => least,
            false => self.split_alone.saturating_mul(2).min(least.saturating_mul(ALONE_MAX)),
        };
        self.split_after = SequenceId(self.split_after.0.saturating_add(self.split_alone));
    }

    /// Returns the next time at which [`take_parts`](Self::take_parts) can change something without an event.
    pub(super) fn split_at(&self) -> Option<Instant> {
        let split = self.split.as_ref()?;
        let silent_at =
            |part: &BacklogPart| Some(part.moved_at + self.choice.trial_for(part.asked?));
        let silent = split.parts.iter().filter_map(silent_at);
        silent.chain(self.reassigned_at().map(|(at, _)| at)).min()
    }

    /// Notes that this node was too busy to process the responses of peers, so their silence does
    /// not count.
    pub(super) fn excuse_parts(&mut self, now: Instant) {
        for part in self.split.iter_mut().flat_map(|split| &mut split.parts) {
            (part.asked_at, part.moved_at, part.shown_at) = (now, now, now);
        }
    }

    /// True if an idle peer is to be asked for parts and for nothing else.
    pub(super) fn is_for_parts(&self, id: OriginatorId, peer: &PeerProgress) -> bool {
        self.split.is_some() && (self.choice.is_asked(id) || self.is_sharer(id, peer))
    }

    /// Returns the time from which an idle peer may be asked. A long search has turns, and walks over missing places
    /// have pauses.
    pub(super) fn asked_at(&self, id: OriginatorId, peer: &PeerProgress) -> Instant {
        let is_for_parts = self.search.is_none() && self.is_for_parts(id, peer);
        let at = if is_for_parts { peer.part_at } else { peer.ask_at };
        let is_for_fill = self.is_for_fill(id, peer);
        let range_at = self.next_beside(id, peer).map(|(at, _)| at).filter(|_| is_for_fill);
        range_at.into_iter().chain(self.turn_at(id)).fold(at, Instant::max)
    }

    /// Returns the want for an idle peer.
    pub(super) fn next_part(&self, id: OriginatorId, peer: &PeerProgress) -> Option<Want> {
        let split = self.split.as_ref()?;
        match self.share(id, peer)? {
            PartShare::New(want) => Some(want),
            PartShare::Rest(index) => {
                let part = &split.parts[index];
                Some(self.part_want(part.position, part.through))
            }
        }
    }

    /// Notes that the want of [`next_part`](Self::next_part) is sent.
    pub(super) fn note_part_asked(&mut self, now: Instant, id: OriginatorId) {
        let Some(peer) = self.peers.get(&id) else { return };
        if !self.is_for_parts(id, peer) {
            return;
        }
        let share = self.share(id, peer);
        let Some(split) = &mut self.split else { return };
        let index = match share {
            Some(PartShare::Rest(index)) => index,
            Some(PartShare::New(Want {
                after,
                items: WantedItems::Envelopes(Some(through)),
                ..
            })) => {
                split.assigned = through;
                split.parts.push_back(BacklogPart::new(now, after, through));
                split.parts.len() - 1
            }
            Some(PartShare::New(_)) | None => return,
        };
        let part = &mut split.parts[index];
        (part.asked, part.asked_at, part.moved_at) = (Some(id), now, now);
        part.shown_at = now;
    }

    /// True if the open want of a peer is a part.
    pub(super) fn sends_part(&self, peer: OriginatorId) -> bool {
        self.part_of(peer).is_some()
    }

    /// Handles an envelope of a part.
    pub(super) fn handle_part(
        &mut self,
        now: Instant,
        from: OriginatorId,
        entry: LogEntry,
        writes: &mut PendingWrites,
    ) {
        let (sequence, len) = (entry.id.sequence, entry.bytes.len());
        let (Some(index), Some(split)) = (self.part_of(from), &mut self.split) else { return };
        let part = &mut split.parts[index];
        if sequence != part.position.next() {
            return self.note_left_out(from);
        }
        let held = split.held_bytes + len + ENTRY_BYTES;
        // The first part needs no room, because each of its envelopes is accepted at once.
        if index > 0 && held > self.split_limits.held_bytes_max {
            part.is_heavy = true;
            return self.cancel_want(from);
        }
        (part.position, part.moved_at, part.shown_at) = (sequence, now, now);
        let is_complete = sequence == part.through;
        split.received.add(len);
        if index > 0 {
            split.held_bytes = held;
            part.held.push(entry);
        } else {
            self.choice.progress_at = now;
            self.accept(now, Change::Append(entry), writes);
        }
        if is_complete {
            self.complete_part(now, from, index, writes);
        }
    }

    /// Notes that bytes of an answer have arrived, of which nothing is whole yet. Over a slow link, a page of long
    /// envelopes takes longer than a peer may show nothing. It may still not hold others up, nor send bytes for ever.
    pub(super) fn note_arrival(&mut self, now: Instant, from: OriginatorId) {
        if let (Some(index), Some(split)) = (self.part_of(from), &mut self.split) {
            let part = &mut split.parts[index];
            part.moved_at = part.moved_at.max(now.min(part.shown_at + ARRIVES_FOR));
        }
        if let Some(open) = self.peers.get_mut(&from).and_then(|peer| peer.open.as_mut()) {
            open.arrived_at = Some(now);
        }
        if self.own_beside.is_some() {
            self.effects.push_back(Effect::Arriving { peer: from });
        }
    }

    /// Notes that a peer does not send all of its part.
    pub(super) fn note_left_out(&mut self, from: OriginatorId) {
        if let (Some(index), Some(split)) = (self.part_of(from), &mut self.split) {
            let part = &mut split.parts[index];
            part.avoided.push(from);
            part.left_out_by.push(from);
        }
        self.cancel_want(from);
    }

    /// Notes that a peer has refused a part, or that its stream broke. It is not asked for that part again: it may send
    /// the strand without an end, and nothing else.
    pub(super) fn note_part_closed(&mut self, now: Instant, from: OriginatorId) {
        if let (Some(index), Some(split)) = (self.part_of(from), &mut self.split) {
            split.parts[index].avoided.push(from);
        }
        self.release_part(from);
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.open = None;
            (peer.ask_at, peer.part_at) = (now + RETRY_AFTER, now + RETRY_AFTER);
        }
        if from != self.originator {
            self.choice.doubt(now, from);
        }
    }

    /// Lets others send the part that a peer was asked for, if it was asked for one.
    pub(super) fn release_part(&mut self, peer: OriginatorId) {
        if let (Some(index), Some(split)) = (self.part_of(peer), &mut self.split) {
            split.parts[index].asked = None;
        }
    }

    /// Returns the index of the part that a peer is asked for.
    fn part_of(&self, peer: OriginatorId) -> Option<usize> {
        let split = self.split.as_ref()?;
        split.parts.iter().position(|part| part.asked == Some(peer))
    }

    /// Notes that a part is complete, and accepts the envelopes that waited for it.
    fn complete_part(
        &mut self,
        now: Instant,
        from: OriginatorId,
        index: usize,
        writes: &mut PendingWrites,
    ) {
        // Other peers have waited for it with nothing to send.
        let was_late = index == 0 && self.reassigned_at().is_some();
        let places_max = self.split_limits.part_places_max;
        self.release_part(from);
        if let Some(peer) = self.peers.get_mut(&from) {
            // Only the end frame is still to come.
            peer.open = None;
            peer.part_places = match was_late {
                true => (peer.part_places / 2).max(1),
                false => peer.part_places.saturating_mul(2).min(places_max),
            };
        }
        if index > 0 {
            return;
        }
        while let Some(whole) = self.pop_whole_part() {
            for peer in whole.left_out_by {
                // The peer claimed places that only another peer has sent.
                self.choice.doubt(now, peer);
            }
            // Each part is written separately, so that no commit grows with the number of waiting envelopes.
            self.emit(from, std::mem::take(writes));
            let Some(next) = self.split.as_mut().and_then(|split| split.parts.front_mut()) else {
                break;
            };
            let held = std::mem::take(&mut next.held);
            let bytes: usize = held.iter().map(|entry| entry.bytes.len() + ENTRY_BYTES).sum();
            held.into_iter().for_each(|entry| self.accept(now, Change::Append(entry), writes));
            if let Some(split) = &mut self.split {
                split.held_bytes -= bytes;
            }
        }
        self.choice.progress_at = now;
    }

    /// Removes the first part if all of it was accepted.
    fn pop_whole_part(&mut self) -> Option<BacklogPart> {
        let parts = &mut self.split.as_mut()?.parts;
        parts.pop_front_if(|part| part.position == part.through)
    }

    /// Ends the split; the waiting places are requested again, without an end, from the source. The first part has to
    /// be passed before the next split.
    fn end_split(&mut self) {
        let Some(split) = self.split.take() else { return };
        if let Some(lead) = split.parts.front() {
            self.split_after = lead.through;
        }
        let asked: Vec<_> = split.parts.iter().filter_map(|part| part.asked).collect();
        asked.into_iter().for_each(|peer| self.cancel_want(peer));
    }

    /// Takes parts from peers that have shown nothing of them for the time of a trial.
    fn take_from_silent(&mut self, now: Instant) {
        let is_writing = self.durable != self.accepted;
        let Some(split) = &mut self.split else { return };
        let mut silent = Vec::new();
        for part in &mut split.parts {
            let Some(peer) = part.asked else { continue };
            if part.moved_at + self.choice.trial_for(peer) > now {
                continue;
            }
            if is_writing {
                // The peer may be waiting for this node to read on.
                part.moved_at = now;
            } else {
                silent.push(peer);
            }
        }
        for peer in silent {
            self.choice.doubt(now, peer);
            self.cancel_want(peer);
        }
    }

    /// Returns the peer that sends the first part while another peer could take it over, and the time of that takeover.
    fn reassigned_at(&self) -> Option<(Instant, OriginatorId)> {
        let lead = self.split.as_ref()?.parts.front()?;
        let slow = lead.asked?;
        let is_waiting = |(id, peer): (&OriginatorId, &PeerProgress)| {
            peer.open.is_none() && self.serves(*id, peer, lead) && self.share(*id, peer).is_none()
        };
        let has_other = self.peers.iter().any(is_waiting);
        has_other.then_some((lead.asked_at + STALL_TIMEOUT, slow))
    }

    /// Takes the first part from a peer that holds all others up.
    fn take_from_slow(&mut self, slow: OriginatorId) {
        if let Some(lead) = self.split.as_mut().and_then(|split| split.parts.front_mut()) {
            lead.avoided.push(slow);
        }
        if let Some(peer) = self.peers.get_mut(&slow) {
            peer.part_places = (peer.part_places / 4).max(1);
        }
        self.cancel_want(slow);
    }

    /// Returns the work for an idle peer: the first open part that it can send, or a new part behind all others. Of
    /// later parts it gets none while half of the room for waiting envelopes is in use, so that those under way fit.
    fn share(&self, id: OriginatorId, peer: &PeerProgress) -> Option<PartShare> {
        let split = self.split.as_ref()?;
        let has_room = split.held_bytes < self.split_limits.held_bytes_max / 2;
        let is_free = |(index, part): &(usize, &BacklogPart)| {
            let is_open = part.asked.is_none() && part.position < part.through;
            is_open && (*index == 0 || (has_room && !part.is_heavy)) && self.serves(id, peer, part)
        };
        let free = split.parts.iter().enumerate().find(is_free);
        if let Some((index, _)) = free {
            return Some(PartShare::Rest(index));
        }
        let is_roomy = split.parts.is_empty() || (has_room && split.parts.len() < PARTS_MAX);
        self.new_part(id, peer).filter(|_| is_roomy).map(PartShare::New)
    }

    /// Returns the part after all others that a peer can send. There is none for a single peer, nor near the end of the
    /// strand, which the source sends as it grows.
    fn new_part(&self, id: OriginatorId, peer: &PeerProgress) -> Option<Want> {
        let (split, limits) = (self.split.as_ref()?, self.split_limits);
        let source = self.peers.get(&self.choice.source)?;
        let end = source.claims.head().0.saturating_sub(limits.backlog_min / 4);
        let is_shared =
            self.peers.iter().filter(|(id, it)| self.is_sharer(**id, it)).nth(1).is_some();
        if !is_shared || !self.is_sharer(id, peer) {
            return None;
        }
        let by_bytes = split.received.envelopes_in(PART_BYTES);
        let by_bytes = by_bytes.unwrap_or(limits.first_part_places);
        let places = peer.part_places.min(limits.part_places_max).min(by_bytes);
        let through = split.assigned.0.saturating_add(places);
        let through = through.min(peer.claims.head().0).min(end);
        (through > split.assigned.0).then(|| self.part_want(split.assigned, SequenceId(through)))
    }

    /// Returns the want for the places after `after` and up to `through`.
    fn part_want(&self, after: SequenceId, through: SequenceId) -> Want {
        Want::envelopes(self.originator, after, Some(through))
    }

    /// True if some peer may be asked for a part.
    fn is_served(&self, part: &BacklogPart) -> bool {
        self.peers.iter().any(|(id, peer)| self.serves(*id, peer, part))
    }

    /// True if a peer may be asked for a part: it claims all of it, and has not failed to send it before.
    fn serves(&self, id: OriginatorId, peer: &PeerProgress, part: &BacklogPart) -> bool {
        let is_able = self.is_sharer(id, peer) && peer.claims.head() >= part.through;
        is_able && !part.avoided.contains(&id)
    }

    /// True if a peer may be asked for parts at all.
    fn is_sharer(&self, id: OriginatorId, peer: &PeerProgress) -> bool {
        let is_left = self.choice.is_relayed && id == self.originator;
        !is_left && !self.choice.is_paused(id) && peer.claims.head() > self.accepted
    }

    /// Returns [`is_sharer`](Self::is_sharer) for the peer with this id; false if it is not connected.
    fn is_sharer_now(&self, id: OriginatorId) -> bool {
        self.peers.get(&id).is_some_and(|peer| self.is_sharer(id, peer))
    }
}
