//! Transactions that take too long: they are sent again, then signed again at a higher price.

use std::time::Duration;

use super::Nonces;
use crate::broadcast::slots::{PAUSE_MIN, Phase, Timeouts};

impl Nonces {
    /// Sends lower nonces again, because a node misses them: it may have dropped them, or be
    /// another node.
    pub(super) fn send_again_below(&mut self, nonce: u64, now: Duration) {
        for slot in self.slots.range_mut(..nonce).map(|(_, slot)| slot) {
            if let Phase::Pending { since, .. } = slot.phase
                && now >= since + PAUSE_MIN
            {
                slot.phase = Phase::Send { at: now };
            }
        }
    }

    /// Restarts the timeouts of pending transactions when the count advances: one that waits behind
    /// others is not stuck. Sends a nonce again that a node called used and the count calls free.
    pub(super) fn restart_clocks(&mut self, advanced: bool, now: Duration) {
        let (mined, head) = (self.mined, self.head);
        for (nonce, slot) in &mut self.slots {
            match &mut slot.phase {
                Phase::Pending { since, head: since_head, .. } if advanced => {
                    (*since, *since_head) = (now, head);
                }
                Phase::Used { since, .. }
                    if *nonce >= mined && now >= *since + self.timeouts.stuck_after =>
                {
                    slot.phase = Phase::Send { at: now };
                }
                _ => {}
            }
        }
    }

    /// Sends everything again when the next transaction to be mined takes too long: a node may have
    /// dropped it. If that does not help, signs that one again at a higher price.
    pub(super) fn find_stuck(&mut self, now: Duration) {
        let Timeouts { stuck_after, stuck_without_blocks_after, .. } = self.timeouts;
        let Some(slot) = self.slots.get_mut(&self.mined) else { return };
        let Phase::Pending { since, head, sent_again } = slot.phase else { return };
        let waited = now.saturating_sub(since);
        let blocks = self.head.saturating_sub(head);
        if !sent_again && waited >= stuck_after {
            for slot in self.slots.values_mut() {
                if matches!(slot.phase, Phase::Pending { sent_again: false, .. }) {
                    slot.phase = Phase::Send { at: now };
                }
            }
        } else if waited >= stuck_without_blocks_after || (waited >= stuck_after && blocks >= 2) {
            slot.phase = Phase::Sign;
        }
    }
}
