//! Places that the strand's own node no longer keeps. A follower cannot see the retention of what it does not get,
//! so it believes the strand's own node alone, and only of places that are old enough. The times of a strand ascend, so
//! places behind a young envelope are young, whatever time the envelope behind them states: a node could show a message
//! to one follower, and date the next one back for all others. Where times step back nevertheless, all that follows may
//! be younger than it states, by the sum of the steps: the node could wait until what it had dated before is old, too.
//! An honest node whose clock was put right by seconds is believed, all the same.
//!
//! Of this node's own strand, which it follows after a loss, it believes its peers if they all agree and are more than
//! half of the other nodes: the peers that connect first may all be hostile, and expired places are not searched for
//! again.

use std::time::Instant;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::misbehavior::TIME_TOLERANCE_NS;
use hawser_rules::retention::RETENTION_DAYS_MIN;
use hawser_storage::{Change, LogEntry, SkipReason};

use super::effect::Effect;
use super::{Follower, PendingWrites};
use crate::misbehavior::is_ahead;

/// The age below which nothing can have expired, in nanoseconds: the shortest retention that a payer can ask for.
const RETENTION_NS_MIN: i64 = RETENTION_DAYS_MIN as i64 * 24 * 3600 * 1_000_000_000;

/// Returns true if an envelope of this time is old enough that places before it can have expired. Both are unix
/// nanoseconds.
#[must_use]
pub fn can_have_expired(at_ns: i64, now_ns: i64) -> bool {
    at_ns <= now_ns.saturating_sub(RETENTION_NS_MIN)
}

impl Follower {
    /// Notes the time by this node's wall clock, unix nanoseconds. From the first note on, places count as expired only
    /// if the envelope behind them, and all before them that were accepted, are older than the shortest retention.
    pub fn note_wall(&mut self, now_ns: i64) {
        self.wall_ns = Some(now_ns);
    }

    /// Continues behind an envelope of this time, unix nanoseconds; `None` if that is not known.
    #[must_use]
    pub fn behind_time(mut self, at_ns: Option<i64>) -> Self {
        self.latest_ns = at_ns;
        self
    }

    /// Continues a strand whose times have gone back by this sum, in nanoseconds.
    #[must_use]
    pub fn stepped_back(mut self, sum_ns: i64) -> Self {
        self.stepped_back_ns = sum_ns;
        self
    }

    /// Returns the sum of the steps by which the strand's times have gone back, in nanoseconds. Envelopes may be
    /// younger than they state by so much.
    #[must_use]
    pub fn stepped_back_ns(&self) -> i64 {
        self.stepped_back_ns
    }

    /// Notes the time of what is accepted. A time in the future decides nothing before it has come.
    pub(super) fn note_time(&mut self, change: &Change) {
        let Change::Append(entry) = change else { return };
        let wall_ns = self.wall_ns;
        let has_come = |at_ns: &i64| wall_ns.is_none_or(|now_ns| !is_ahead(*at_ns, now_ns));
        let at_ns = entry.facts.as_ref().map(|facts| facts.originator_ns).filter(has_come);
        if let (Some(latest_ns), Some(at_ns)) = (self.latest_ns, at_ns) {
            let step_ns = latest_ns.saturating_sub(at_ns);
            if step_ns > TIME_TOLERANCE_NS {
                self.stepped_back_ns = self.stepped_back_ns.saturating_add(step_ns);
                self.latest_ns = None;
            }
        }
        self.latest_ns = self.latest_ns.max(at_ns);
    }

    /// Returns true if places before this envelope can have expired. An envelope without facts shows no time.
    pub(super) fn can_have_expired_before(&self, entry: &LogEntry) -> bool {
        let Some(now_ns) = self.wall_ns else { return true };
        let at_ns = entry.facts.as_ref().map(|facts| facts.originator_ns);
        at_ns.is_some_and(|at_ns| {
            let latest_ns = self.latest_ns.map_or(at_ns, |latest_ns| latest_ns.max(at_ns));
            can_have_expired(latest_ns.saturating_add(self.stepped_back_ns), now_ns)
        })
    }

    /// Notes a statement of the strand's own node, in answer to a want for missing places, that these have expired. The
    /// follower does not know how old they are, so the driver decides. Places beyond the want do not count: one
    /// statement must not cost more than the want.
    pub(super) fn note_missing_expired(&mut self, first: SequenceId, to: SequenceId) {
        let open = self.open_want(self.originator).filter(|open| open.is_fill);
        let Some(open) = open else { return };
        let end = open.up_to.map_or(to, |up_to| up_to.min(to));
        let mut after = open.after.max(first.previous());
        while let Some((from, last)) = self.missing.next_after(after)
            && from <= end
        {
            let through = last.min(end);
            self.effects.push_back(Effect::Expired { from, through });
            after = through;
        }
    }

    /// Notes that missing places are marked expired: no peer is asked for them any more.
    pub fn handle_expired(&mut self, from: SequenceId, through: SequenceId) {
        self.missing.remove_all(from, through);
    }

    /// Returns a change that skips places.
    pub(super) fn skip(&self, from: SequenceId, through: SequenceId, reason: SkipReason) -> Change {
        Change::Skip { originator: self.originator, from, through, reason }
    }

    /// Notes a peer's claim that places have expired.
    pub(super) fn note_expired(
        &mut self,
        now: Instant,
        from: OriginatorId,
        (first, to): (SequenceId, SequenceId),
        writes: &mut PendingWrites,
    ) {
        let Some(search) = &mut self.search else { return };
        let first = match search.expired.get(&from) {
            Some((before, last)) if last.next() == first => *before,
            _ => first,
        };
        search.expired.insert(from, (first, to));
        self.end_expired_search(now, writes);
    }

    /// Ends the search when all envelopes searched for have expired: a peer has supplied the envelope after them, and
    /// the strand's own node says that they have expired. For this node's own strand, every peer that claims to hold as
    /// much has to state that they have expired: an envelope that one of them still holds is recovered. They have to be
    /// more than half of the other nodes; without that many the search ends as any other, and the places are asked for
    /// again.
    pub(super) fn end_expired_search(&mut self, now: Instant, writes: &mut PendingWrites) {
        let next = self.accepted.next();
        let Some(search) = &self.search else { return };
        let through = search.through;
        let states_expiry = |peer: &OriginatorId| {
            let stated = search.expired.get(peer);
            stated.is_some_and(|(first, to)| *first <= next && *to >= through)
        };
        let knows = self.peers.iter().filter(|(_, peer)| peer.claims.head() >= through);
        let (say, others_know): (Vec<_>, Vec<_>) =
            knows.map(|(id, _)| id).partition(|id| states_expiry(id));
        let are_most = self.own_beside.as_ref().is_some_and(|others| {
            say.into_iter().filter(|id| others.contains(id)).count() > others.len() / 2
        });
        let all_say = are_most && others_know.is_empty();
        if search.can_have_expired && (all_say || states_expiry(&self.originator)) {
            let skip = self.skip(next, through, SkipReason::Expired);
            self.accept(now, skip, writes);
        }
    }
}
