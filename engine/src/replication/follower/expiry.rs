//! Places that the strand's own node no longer keeps. A follower cannot see the retention of what it does not get, so it
//! believes the strand's own node alone, and only of places that are old enough.

use std::time::Instant;

use hawser_proto::SequenceId;
use hawser_storage::{Change, LogEntry, SkipReason};

use super::{Follower, PendingWrites};

/// Age below which nothing can have expired, nanoseconds. Specified (`docs/protocol/rules.md`, rule 8).
const RETENTION_NS_MIN: i64 = 2 * 24 * 3600 * 1_000_000_000;

impl Follower {
    /// Notes the time by this node's wall clock, unix nanoseconds. From the first note on, places count as expired only
    /// if the envelope behind them is older than the shortest retention.
    pub fn note_wall(&mut self, now_ns: i64) {
        self.wall_ns = Some(now_ns);
    }

    /// Returns true if places before this envelope can have expired. An envelope that readers do not get shows no time.
    pub(super) fn can_have_expired_before(&self, entry: &LogEntry) -> bool {
        let Some(now_ns) = self.wall_ns else { return true };
        let at_ns = entry.facts.as_ref().map(|facts| facts.originator_ns);
        at_ns.is_some_and(|at_ns| at_ns <= now_ns.saturating_sub(RETENTION_NS_MIN))
    }

    /// Returns a change that passes over places.
    pub(super) fn skip(&self, from: SequenceId, through: SequenceId, reason: SkipReason) -> Change {
        Change::Skip { originator: self.originator, from, through, reason }
    }

    /// Ends a search when the strand's own node says that all of what is searched for has expired: the envelope behind it
    /// has come from another peer.
    pub(super) fn note_expired(
        &mut self,
        now: Instant,
        (first, to): (SequenceId, SequenceId),
        writes: &mut PendingWrites,
    ) {
        let next = self.accepted.next();
        let Some(search) = &self.search else { return };
        if search.can_have_expired && first <= next && to >= search.through {
            let skip = self.skip(next, search.through, SkipReason::Expired);
            self.accept(now, skip, writes);
        }
    }
}
