//! The leaves of reports that this node computed as their writers did, kept until the reports are settled.
//!
//! The log may change after a report is attested: an originator can show an envelope late, or date one back into a
//! minute that is reported. The report is settled by the amounts that a majority attested all the same, and its root
//! proves them. They are stored beside the log, so that this also holds for a node that was started again: the log does
//! not say which of its places came late.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::payer_report::{Leaves, PayerReport, ReportId};
use hawser_storage::{CommitError, ReportAmounts, Store};

/// The most leaves that are kept, of all reports together. A guess: 32 MB, a hundred reports of 10,000 payers each.
const LEAVES_MAX: usize = 1_000_000;
/// The most of these leaves that are stored for the time after a restart. A guess: 3 MB, which are written each time
/// that reports are attested.
const SAVED_LEAVES_MAX: usize = 100_000;

/// The leaves of reports, by report. If there are too many, the originator with the most of them loses its oldest ones:
/// no originator can push out those of others. A forgotten report is computed again from the log.
#[derive(Debug, Clone, Default)]
pub(super) struct KnownLeaves {
    by_report: HashMap<ReportId, KnownReport>,
    /// The reports in the order in which they were added.
    added: VecDeque<ReportId>,
    /// The number of leaves of each originator.
    len: BTreeMap<OriginatorId, usize>,
    /// True if leaves were added that are not stored.
    is_unsaved: bool,
}

#[derive(Debug, Clone)]
struct KnownReport {
    about: OriginatorId,
    start: SequenceId,
    leaves: Arc<Leaves>,
}

impl KnownLeaves {
    /// Begins with the leaves that were stored. Leaves that cannot be read are computed again from the log.
    pub(super) fn stored_in(store: &Store) -> Self {
        let stored = store.report_amounts().unwrap_or_else(|error| {
            tracing::error!(code = "report_amounts_unreadable", %error, "the amounts of attested payer reports cannot \
                be read: they are computed again from the log");
            Vec::new()
        });
        let mut known = Self::default();
        for ReportAmounts { report, about, start, amounts } in stored {
            let leaves = Arc::new(Leaves::sum(amounts));
            known.add(ReportId(report), KnownReport { about, start, leaves });
        }
        known.is_unsaved = false;
        known
    }

    /// Returns the leaves to store, by the same rule as those that are kept: the originator with the most of them loses
    /// its oldest ones.
    fn to_store(&self) -> Vec<ReportAmounts> {
        let mut stored = self.clone();
        stored.shrink_to(SAVED_LEAVES_MAX);
        let amounts = |leaves: &Leaves| {
            leaves.payers().iter().map(|leaf| (leaf.payer, leaf.fee.get())).collect()
        };
        let row = |id: &ReportId| {
            let known = stored.by_report.get(id)?;
            let (about, start) = (known.about, known.start);
            Some(ReportAmounts { report: id.0, about, start, amounts: amounts(&known.leaves) })
        };
        stored.added.iter().filter_map(row).collect()
    }

    /// Stores the leaves, if some were added since the last call. They are durable before an envelope that is published
    /// afterwards, such as an attestation of the report.
    ///
    /// # Errors
    /// When they cannot be stored. The next call tries again.
    pub(super) fn save(&mut self, store: &Store) -> Result<(), CommitError> {
        if self.is_unsaved {
            store.record_report_amounts(&self.to_store())?;
            self.is_unsaved = false;
        }
        Ok(())
    }

    /// Keeps the leaves of a report.
    pub(super) fn keep(&mut self, id: ReportId, report: &PayerReport, leaves: Arc<Leaves>) {
        let (about, start) = (report.originator(), report.start());
        self.add(id, KnownReport { about, start, leaves });
    }

    fn add(&mut self, id: ReportId, known: KnownReport) {
        if self.by_report.contains_key(&id) {
            return;
        }
        self.is_unsaved = true;
        *self.len.entry(known.about).or_default() += cost(&known.leaves);
        self.by_report.insert(id, known);
        self.added.push_back(id);
        self.shrink_to(LEAVES_MAX);
    }

    /// Forgets reports until this number of leaves is left at most.
    fn shrink_to(&mut self, leaves_max: usize) {
        while self.len.values().sum::<usize>() > leaves_max
            && let Some(oldest) = self.oldest_of_the_largest()
        {
            self.forget(oldest);
        }
    }

    /// Returns the leaves of a report, if they are kept.
    pub(super) fn of(&self, report: ReportId) -> Option<Arc<Leaves>> {
        self.by_report.get(&report).map(|known| known.leaves.clone())
    }

    /// Forgets the leaves of a report.
    pub(super) fn forget(&mut self, report: ReportId) {
        let Some(known) = self.by_report.remove(&report) else { return };
        self.added.retain(|it| *it != report);
        if let Some(len) = self.len.get_mut(&known.about) {
            *len -= cost(&known.leaves);
            if *len == 0 {
                self.len.remove(&known.about);
            }
        }
    }

    /// Forgets the leaves of reports about an originator, except those that may still be settled: the `unsettled`
    /// reports of the chain, and reports that start at `last_end`, the end of the chain's last report, or later. The
    /// chain may have newer reports than those that the caller has read.
    pub(super) fn forget_settled(
        &mut self,
        about: OriginatorId,
        last_end: SequenceId,
        unsettled: &HashSet<ReportId>,
    ) {
        let is_over = |(id, known): &(&ReportId, &KnownReport)| {
            known.about == about && known.start < last_end && !unsettled.contains(*id)
        };
        let over: Vec<_> = self.by_report.iter().filter(is_over).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.forget(id));
    }

    fn oldest_of_the_largest(&self) -> Option<ReportId> {
        let (largest, _) = self.len.iter().max_by_key(|(_, len)| **len)?;
        let is_of_it =
            |id: &&ReportId| self.by_report.get(id).is_some_and(|it| it.about == *largest);
        self.added.iter().find(is_of_it).copied()
    }
}

/// Returns the number of leaves, at least 1: a report without leaves takes room, too.
fn cost(leaves: &Leaves) -> usize {
    leaves.payers().len().max(1)
}

#[cfg(test)]
mod tests {
    use hawser_proto::Address;
    use hawser_rules::payer_report::{NodeIds, RangeEnd};

    use super::*;

    fn id(number: u8) -> ReportId {
        ReportId([number; 32])
    }

    fn report(about: u32, start: u64) -> PayerReport {
        let end = RangeEnd { minute: 1, sequence: SequenceId(start + 1) };
        let nodes = NodeIds::new([OriginatorId(100)]).unwrap();
        PayerReport::new(OriginatorId(about), SequenceId(start), end, [1; 32], nodes).unwrap()
    }

    fn leaves(count: usize) -> Arc<Leaves> {
        let payer = |index: u32| {
            let mut address = [0; 20];
            address[..4].copy_from_slice(&index.to_be_bytes());
            (Address(address), 1)
        };
        Arc::new(Leaves::sum((0..u32::try_from(count).unwrap()).map(payer)))
    }

    #[test]
    fn the_oldest_leaves_make_room_and_forgotten_ones_leave_theirs() {
        let mut known = KnownLeaves::default();
        known.keep(id(1), &report(100, 0), leaves(0));
        let half = LEAVES_MAX / 2;
        known.keep(id(2), &report(100, 1), leaves(half));
        known.keep(id(2), &report(100, 1), leaves(3));
        assert_eq!(known.of(id(2)).unwrap().payers().len(), half, "the first ones stay");
        known.keep(id(3), &report(100, 2), leaves(half));
        assert_eq!(known.of(id(1)), None, "it had the least recent ones");
        assert!(known.of(id(2)).is_some() && known.of(id(3)).is_some());
        known.forget(id(2));
        known.keep(id(4), &report(100, 3), leaves(half));
        assert!(known.of(id(3)).is_some() && known.of(id(4)).is_some());
        let about = OriginatorId(100);
        assert_eq!((known.len.get(&about), known.added.len()), (Some(&LEAVES_MAX), 2));
    }

    /// Reports about an originator with many payers take no room from those about others.
    #[test]
    fn stored_leaves_are_bounded_and_the_next_run_begins_with_them() {
        let store = crate::read::testing::store();
        let mut known = KnownLeaves::stored_in(&store);
        assert!(known.added.is_empty() && !known.is_unsaved);
        known.keep(id(1), &report(200, 4), leaves(3));
        let third = SAVED_LEAVES_MAX / 3;
        for number in 2..6 {
            known.keep(id(number), &report(100, number.into()), leaves(third));
        }
        known.save(&store).unwrap();
        assert!(!known.is_unsaved);
        let again = KnownLeaves::stored_in(&store);
        assert!(!again.is_unsaved, "all of them are stored");
        let stored: Vec<_> = again.added.iter().map(|id| id.0[0]).collect();
        assert_eq!(stored, [1, 4, 5], "the two newest ones about the originator with the most");
        assert_eq!(again.of(id(1)), known.of(id(1)));
        let first = &again.by_report[&id(1)];
        assert_eq!((first.about, first.start), (OriginatorId(200), SequenceId(4)));
        assert_eq!(known.added.len(), 5, "all are known until then");
    }

    #[test]
    fn an_originator_with_many_leaves_pushes_out_its_own() {
        let mut known = KnownLeaves::default();
        known.keep(id(1), &report(200, 0), leaves(3));
        known.keep(id(2), &report(300, 0), leaves(LEAVES_MAX / 4));
        for number in 3..9 {
            known.keep(id(number), &report(100, number.into()), leaves(LEAVES_MAX / 3));
        }
        assert!(known.of(id(1)).is_some() && known.of(id(2)).is_some());
        assert!(known.of(id(7)).is_some() && known.of(id(8)).is_some(), "its newest ones");
        assert_eq!(known.added.len(), 4);
        known.keep(id(9), &report(100, 9), leaves(LEAVES_MAX + 1));
        assert!(known.of(id(1)).is_some() && known.of(id(2)).is_some());
        assert_eq!(known.of(id(9)), None, "it is too large alone");
    }

    #[test]
    fn leaves_of_settled_reports_and_of_those_that_can_no_longer_be_submitted_are_forgotten() {
        let mut known = KnownLeaves::default();
        for start in 0..4 {
            known.keep(id(start), &report(100, start.into()), leaves(1));
        }
        known.keep(id(9), &report(200, 0), leaves(1));
        known.forget_settled(OriginatorId(100), SequenceId(3), &[id(1)].into());
        let kept = [0, 1, 2, 3, 9].map(|number| known.of(id(number)).is_some());
        assert_eq!(kept, [false, true, false, true, true]);
    }
}
