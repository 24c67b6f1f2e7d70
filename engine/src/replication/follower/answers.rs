//! Remembered answers of peers about the places behind the gap of a search.
//!
//! A strand can have many gaps side by side. If each of them were asked for by itself, the strand would be held up by
//! as many round trips, one a second. So a search asks for the gaps that are known to follow, too (`asked_ranges`), and
//! remembers what each peer holds of them. A peer that can is asked to name the gaps that follow (`further`). A gap is
//! passed over without a search of its own if every peer has just said that it does not hold the places, and if no
//! search would have to wait for the gap.

use std::time::Instant;

use hawser_proto::OriginatorId;
use hawser_storage::{LogEntry, SkipReason};

use super::allowance::ANSWER_WITHIN;
use super::asked_ranges::{AskedRanges, is_short};
use super::further::FurtherRanges;
use super::range_answer::RangeAnswer;
use super::{Follower, PendingWrites};
use crate::replication::link::StrandItem;
use crate::replication::verify::VerifyResult;

impl Follower {
    /// Makes the search that has just begun, if there is one, also ask for the gaps behind its own. `rest` are the
    /// items that the peer has sent behind the envelope that began the search.
    pub(super) fn widen_search(&mut self, rest: &[StrandItem<VerifyResult>]) {
        let (accepted, originator) = (self.accepted, self.originator);
        let is_own = self.own_beside.is_some();
        let Some(search) = self.search.as_mut().filter(|it| it.turns.is_none() && !is_own) else {
            return;
        };
        let mut asked = AskedRanges::begin((accepted.next(), search.through), search.behind_bytes);
        let mut shown = search.through.next();
        for item in rest {
            let entry = match item {
                StrandItem::Envelope(Ok(entry)) if entry.id.originator == originator => entry,
                StrandItem::Gap { .. } | StrandItem::Prefix(_) | StrandItem::Second(_) => continue,
                _ => break,
            };
            shown = shown.max(entry.id.sequence);
            if !asked.take(entry.id.sequence, entry.bytes.len()) {
                break;
            }
        }
        let (asked_through, further) = asked.into_parts();
        let near = further.iter().rev().find(|(_, last)| is_short(accepted, *last));
        search.wide_through = near.map_or(asked_through, |(_, last)| *last);
        let source = self.peers.get(&search.left_out_by);
        let claimed = source.map_or(shown, |source| source.claims.head().max(shown));
        search.asked_through = asked_through;
        search.further = FurtherRanges::new(further, claimed);
    }

    /// Passes over the places before `behind`, a signed envelope that `from` has sent, if a search for them would end
    /// at once by what peers have said a moment ago. Returns false otherwise.
    pub(super) fn passes_over(
        &mut self,
        now: Instant,
        from: OriginatorId,
        behind: &LogEntry,
        writes: &mut PendingWrites,
    ) -> bool {
        if self.search.is_some() || self.split.is_some() || self.own_beside.is_some() {
            return false;
        }
        let mut search = self.new_search(now, from, behind);
        let (first, through) = (self.accepted.next(), search.through);
        // A silent node of the strand has not said that it does not hold them: other peers have their two minutes.
        let own = self.peers.get(&self.originator);
        search.has_own_answer = own.is_some_and(|peer| peer.answers.says_none(now, first, through));
        let is_asked = |id: &OriginatorId| !(self.choice.is_relayed && *id == self.originator);
        let mut asked = self.peers.iter().filter(|(id, _)| is_asked(id));
        let are_denied = asked.all(|(_, peer)| peer.answers.denies(now, first, through));
        // The strand's own node can say in a search that places have expired.
        let is_over = search.turns.is_none() && search.due_at() <= now;
        if !are_denied || !is_over || search.can_have_expired {
            return false;
        }
        self.searches += 1;
        let skip = self.skip(first, through, SkipReason::Missing);
        self.accept(now, skip, writes);
        self.add_missing(now, (first, through), from);
        true
    }

    /// Notes the answer of a peer whose want has ended.
    pub(super) fn note_range_answer(&mut self, now: Instant, from: OriginatorId) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(open) = &mut peer.open else { return };
        let of_ranges = open.take_ranges();
        if let Some(named) = open.take_named() {
            peer.answers.add_named(named);
        } else if let Some(answer) = open.take_answer(now, true) {
            peer.answers.add(now, answer);
        }
        of_ranges.into_iter().for_each(|answer| peer.answers.add(now, answer));
    }

    /// Notes that the search, which ends, no longer waits for a peer. A peer that has sent nothing in its time, or has
    /// refused, counts as not holding the places that it was asked for. A peer that is still sending may hold the
    /// places that follow.
    pub(super) fn give_up(&mut self, now: Instant, peer: OriginatorId) {
        self.charge_wait(now, peer);
        let Some(search) = &self.search else { return };
        let has_had_time = search.asked_at.get(&peer).is_some_and(|at| *at + ANSWER_WITHIN <= now);
        let (after, through) = (self.accepted, search.asked_through_of(peer));
        let Some(peer) = self.peers.get_mut(&peer) else { return };
        let answer = match &mut peer.open {
            Some(open) if !open.is_untouched() => open.take_answer(now, false),
            _ if has_had_time => RangeAnswer::of_silent(after, through, now),
            _ => None,
        };
        answer.into_iter().for_each(|answer| peer.answers.add(now, answer));
    }
}
