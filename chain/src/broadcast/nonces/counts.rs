//! The account's transaction counts, as several endpoints report them.

use std::time::Duration;

use super::Nonces;
use crate::broadcast::agreement::{KnownCounts, believed};
use crate::broadcast::slots::AccountState;

impl Nonces {
    /// Returns true if only one of several endpoints has answered and it reports a higher count than the known one. The
    /// others may answer again soon; if they do not within the time limit, its count is used. Notes since when that is
    /// so.
    pub(super) fn wait_for_others(&mut self, state: &AccountState, now: Duration) -> bool {
        let known = self.known_count();
        let exceeds = match state.counts.as_slice() {
            [alone] if state.asked > 1 && !alone.is_proven => {
                alone.pending.unwrap_or(0).max(alone.mined) > known
            }
            _ => false,
        };
        if !exceeds {
            self.alone_since = None;
            return false;
        }
        now < *self.alone_since.get_or_insert(now) + self.timeouts.stuck_without_blocks_after
    }

    /// Applies the counts that the endpoints report.
    pub(super) fn count(&mut self, state: &AccountState, now: Duration) {
        self.whole_at = Some(now);
        self.head = self.head.max(state.head);
        let proven = state.counts.iter().filter(|it| it.is_proven).map(|it| it.mined).max();
        self.proven = self.proven.max(proven.unwrap_or(0));
        let used = self.known_count();
        let first = self.slots.first_key_value().map_or(used, |(first, _)| *first);
        let known = KnownCounts { mined: first.max(self.seen_mined), used };
        let (mined, pending) = believed(&state.counts, known);
        self.mined = mined;
        self.next = self.next.max(mined);
        if let Some(pending) = pending {
            self.find_rival(pending);
            self.next = self.next.max(pending);
            self.pending = pending;
        }
        self.find_rival(mined);
    }
}
