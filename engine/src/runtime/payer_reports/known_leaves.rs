//! The leaves of reports that this node computed as their writers did, kept until the reports are settled.
//!
//! The log may change after a report is attested: an originator can show an envelope late, or date one back into a minute that
//! is reported. The report is settled by the amounts that a majority attested all the same, and its root proves them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use hawser_rules::payer_report::{Leaves, ReportId};

/// The most leaves that are kept, of all reports together. A guess: 32 MB, a hundred reports of 10,000 payers each.
const LEAVES_MAX: usize = 1_000_000;

/// The leaves of reports, by report. The oldest ones are forgotten first; such a report is computed again from the log.
#[derive(Debug, Default)]
pub(super) struct KnownLeaves {
    by_report: HashMap<ReportId, Arc<Leaves>>,
    /// The reports in the order in which they were added.
    added: VecDeque<ReportId>,
    /// The number of all leaves.
    len: usize,
}

impl KnownLeaves {
    /// Keeps the leaves of a report.
    pub(super) fn keep(&mut self, report: ReportId, leaves: Arc<Leaves>) {
        if self.by_report.contains_key(&report) {
            return;
        }
        self.len += cost(&leaves);
        self.by_report.insert(report, leaves);
        self.added.push_back(report);
        while self.len > LEAVES_MAX
            && let Some(oldest) = self.added.front().copied()
        {
            self.forget(oldest);
        }
    }

    /// Returns the leaves of a report, if they are kept.
    pub(super) fn of(&self, report: ReportId) -> Option<Arc<Leaves>> {
        self.by_report.get(&report).cloned()
    }

    /// Forgets the leaves of a report.
    pub(super) fn forget(&mut self, report: ReportId) {
        if let Some(leaves) = self.by_report.remove(&report) {
            self.len -= cost(&leaves);
            self.added.retain(|it| *it != report);
        }
    }
}

/// Returns the number of leaves, at least 1: a report without leaves takes room, too.
fn cost(leaves: &Leaves) -> usize {
    leaves.payers().len().max(1)
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;

    use super::*;

    fn id(number: u8) -> ReportId {
        ReportId([number; 32])
    }

    fn leaves(count: u32) -> Arc<Leaves> {
        let payer = |index: u32| {
            let mut address = [0; 20];
            address[..4].copy_from_slice(&index.to_be_bytes());
            (Address(address), 1)
        };
        Arc::new(Leaves::sum((0..count).map(payer)))
    }

    #[test]
    fn the_oldest_leaves_make_room_and_forgotten_ones_leave_theirs() {
        let mut known = KnownLeaves::default();
        known.keep(id(1), leaves(0));
        let half = u32::try_from(LEAVES_MAX / 2).unwrap();
        known.keep(id(2), leaves(half));
        known.keep(id(2), leaves(3));
        assert_eq!(known.of(id(2)).unwrap().payers().len(), LEAVES_MAX / 2, "the first ones stay");
        known.keep(id(3), leaves(half));
        assert_eq!(known.of(id(1)), None, "it had the least recent ones");
        assert!(known.of(id(2)).is_some() && known.of(id(3)).is_some());
        known.forget(id(2));
        known.keep(id(4), leaves(half));
        assert!(known.of(id(3)).is_some() && known.of(id(4)).is_some());
        assert_eq!((known.len, known.added.len()), (LEAVES_MAX, 2));
    }
}
