//! Second statements: signed envelopes for places that this answer of the peer, or an earlier one, has taken with
//! another one.

use hawser_storage::LogEntry;

use super::{Follower, PendingWrites};

impl Follower {
    /// Has a signed envelope compared with the one that the log has at its place. Two statements of a registered node
    /// for one place are evidence against it. The strands of the older network have no such node, and nothing of this
    /// node's own strand may be found without its guard.
    pub(super) fn compare_second(&self, entry: LogEntry, writes: &mut PendingWrites) {
        let is_judged = self.originator.is_node() && self.own_beside.is_none();
        // Its signature was checked: places of a run that is shown before it is verified only ascend. What is accepted
        // is written before this is compared.
        let is_held = entry.id.sequence <= self.accepted;
        if is_judged && is_held && entry.id.originator == self.originator {
            writes.compare.push(entry);
        }
    }
}
