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
use hawser_storage::{CommitError, ReadError, ReportAmounts, Store};

/// The maximum number of leaves that are kept, of all reports together, in memory and on disk. A guess: 32 MB, a
/// hundred reports of 10,000 payers each.
const LEAVES_MAX: usize = 1_000_000;
/// The maximum number of leaves of reports about one originator that are written in an hour. Chosen: as many as are
/// kept. An honest originator has a report in some hours; a hostile node can write a true one for each minute of a
/// range.
const WRITTEN_AN_HOUR: usize = LEAVES_MAX;

/// The leaves of reports, by report. If there are too many leaves, the originator with the most leaves loses its oldest
/// reports. So no originator can push out the reports of another originator. A forgotten report is computed again from
/// the log.
#[derive(Debug, Default)]
pub(super) struct KnownLeaves {
    by_report: HashMap<ReportId, KnownReport>,
    /// The reports in the order in which they were added.
    added: VecDeque<ReportId>,
    /// The number of leaves of each originator.
    len: BTreeMap<OriginatorId, usize>,
    /// The place of the next report in that order.
    next_place: u64,
    /// The reports whose leaves are not stored yet, or not these.
    unsaved: HashSet<ReportId>,
    /// The reports that have leaves on disk, also those that were forgotten since.
    stored: HashSet<ReportId>,
    /// The hour in which leaves were written last, and how many in it, by originator.
    written: HashMap<OriginatorId, (u32, usize)>,
    /// The last read of the stored rows, if it failed without damage: some of them may not be in memory.
    unread: Option<FailedRead>,
    /// True if rows are on disk that cannot be used.
    has_damage: bool,
    /// True if there is a row of an older version.
    has_older: bool,
}

/// The time of a read that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FailedRead {
    /// The read at the start, when no hour is known.
    AtStart,
    /// A read in this hour.
    InHour(u32),
}

#[derive(Debug)]
struct KnownReport {
    about: OriginatorId,
    start: SequenceId,
    place: u64,
    leaves: Arc<Leaves>,
}

impl KnownLeaves {
    /// Begins with the leaves that were stored. Leaves that are damaged are computed again from the log. If the read
    /// fails for another reason, the first [`save`](Self::save) reads again, and after that one `save` in each hour
    /// does.
    pub(super) fn stored_in(store: &Store) -> Self {
        let mut known = Self::default();
        if let Err(error) = known.read(store) {
            known.unread = Some(FailedRead::AtStart);
            tracing::error!(
                code = "report_amounts_unreadable", %error,
                "the amounts of attested payer reports cannot be read yet: the read is repeated"
            );
        }
        known
    }

    /// Adds the stored leaves. Notes damage, which [`save`](Self::save) removes.
    ///
    /// # Errors
    /// When a read failed without damage, so that another attempt may succeed. What was read is added.
    fn read(&mut self, store: &Store) -> Result<(), ReadError> {
        let older = self.read_older(store);
        self.read_pages(store).and(older)
    }

    fn read_pages(&mut self, store: &Store) -> Result<(), ReadError> {
        let mut stored = Vec::new();
        let read = store.each_report_amounts(|amounts| {
            let ReportAmounts { report, about, start, place, amounts } = amounts;
            stored.push((place, ReportId(report), about, start, Arc::new(Leaves::sum(amounts))));
        });
        stored.sort_unstable_by_key(|(place, id, ..)| (*place, *id));
        for (place, id, about, start, leaves) in stored {
            self.next_place = self.next_place.max(place);
            self.stored.insert(id);
            if self.add(id, about, start, leaves) {
                self.unsaved.remove(&id);
            }
        }
        match read {
            Ok(true) => return Ok(()),
            Ok(false) => tracing::info!(
                "some stored amounts of payer reports are incomplete: they are computed again"
            ),
            Err(error) => log_damage(error)?,
        }
        self.has_damage = true;
        Ok(())
    }

    /// Reads the leaves that an older version stored. They are stored again in the present form.
    fn read_older(&mut self, store: &Store) -> Result<(), ReadError> {
        match store.older_report_amounts() {
            Ok(older) => {
                self.has_older = !older.is_empty();
                for ReportAmounts { report, about, start, amounts, .. } in older {
                    let leaves = Arc::new(Leaves::sum(amounts));
                    self.add(ReportId(report), about, start, leaves);
                }
            }
            Err(error) => {
                log_damage(error)?;
                self.has_older = true;
            }
        }
        Ok(())
    }

    /// Brings the stored leaves to those that are kept: writes reports that were added since the last call, and removes
    /// those that were forgotten. Rows that could not be read at the start are read again first, once an hour: all of
    /// them are tens of megabytes, and the error may last. Until then they stay as they are. What is written is durable
    /// before an envelope that is published afterwards, such as an attestation of the report. Reports that are too many
    /// for this hour are written in the next one.
    ///
    /// # Errors
    /// When they cannot be stored. The next call goes on.
    pub(super) fn save(&mut self, store: &Store, hour: u32) -> Result<(), CommitError> {
        if self.unread.is_some_and(|last| last != FailedRead::InHour(hour)) {
            let read = self.read(store);
            if let Err(error) = &read {
                tracing::debug!(%error, "stored amounts of payer reports cannot be read yet");
            }
            self.unread = read.is_err().then_some(FailedRead::InHour(hour));
        }
        if self.has_damage {
            store.forget_all_report_amounts()?;
            self.stored.clear();
            self.unsaved.extend(self.by_report.keys());
            self.has_damage = false;
        }
        let gone = |id: &&ReportId| !self.by_report.contains_key(*id);
        let gone: Vec<_> = self.stored.iter().filter(gone).copied().collect();
        if !gone.is_empty() {
            store.forget_report_amounts(gone.iter().map(|id| id.0))?;
            gone.iter().for_each(|id| {
                self.stored.remove(id);
            });
        }
        let of_order = self.added.iter().filter(|id| self.unsaved.contains(*id));
        for id in of_order.copied().collect::<Vec<_>>() {
            let Some(known) = self.by_report.get(&id) else { continue };
            let written = self.written.entry(known.about).or_default();
            let of_hour = if written.0 == hour { written.1 } else { 0 };
            let with_it = of_hour + cost(&known.leaves);
            if with_it > WRITTEN_AN_HOUR {
                continue;
            }
            store.record_report_amounts(&known.amounts(id))?;
            *written = (hour, with_it);
            self.stored.insert(id);
            self.unsaved.remove(&id);
        }
        if self.has_older {
            store.forget_older_report_amounts()?;
            self.has_older = false;
        }
        Ok(())
    }

    /// Keeps the leaves of a report.
    pub(super) fn keep(&mut self, id: ReportId, report: &PayerReport, leaves: Arc<Leaves>) {
        self.add(id, report.originator(), report.start(), leaves);
    }

    /// Keeps leaves as the newest ones. Returns false if the report had some before, which stay.
    fn add(
        &mut self,
        id: ReportId,
        about: OriginatorId,
        start: SequenceId,
        leaves: Arc<Leaves>,
    ) -> bool {
        if self.by_report.contains_key(&id) {
            return false;
        }
        *self.len.entry(about).or_default() += cost(&leaves);
        let place = self.next_place;
        self.next_place = place.saturating_add(1);
        self.by_report.insert(id, KnownReport { about, start, place, leaves });
        self.added.push_back(id);
        self.unsaved.insert(id);
        self.shrink_to(LEAVES_MAX);
        true
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
        self.unsaved.remove(&report);
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

impl KnownReport {
    /// Returns the row of the report with this id.
    fn amounts(&self, id: ReportId) -> ReportAmounts {
        let leaves = self.leaves.payers().iter();
        ReportAmounts {
            report: id.0,
            about: self.about,
            start: self.start,
            place: self.place,
            amounts: leaves.map(|leaf| (leaf.payer, leaf.fee.into())).collect(),
        }
    }
}

/// Logs damage, after which the rows are written again.
///
/// # Errors
/// The error, if it is no damage: the rows may be whole, and must stay.
fn log_damage(error: ReadError) -> Result<(), ReadError> {
    if !error.is_damage() {
        return Err(error);
    }
    tracing::error!(
        code = "report_amounts_unreadable", %error,
        "the amounts of attested payer reports cannot be read: they are computed again from the log"
    );
    Ok(())
}

/// Returns the number of leaves, at least 1: a report without leaves takes room, too.
fn cost(leaves: &Leaves) -> usize {
    leaves.payers().len().max(1)
}

#[cfg(test)]
mod tests {
    use hawser_proto::{Address, EnvelopeId};
    use hawser_rules::PicoDollarPrice;
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
            (Address(address), PicoDollarPrice(1))
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

    /// Each report is written once, in pages, and removed when it is forgotten.
    #[test]
    fn all_leaves_that_are_kept_are_stored_and_the_next_run_begins_with_them() {
        let store = crate::read::testing::store();
        let mut known = KnownLeaves::stored_in(&store);
        known.keep(id(1), &report(200, 4), leaves(3));
        let many = LEAVES_MAX / 8;
        for number in [9, 2, 3] {
            known.keep(id(number), &report(100, number.into()), leaves(many));
        }
        known.save(&store, 1).unwrap();
        let kept = |known: &KnownLeaves| known.added.iter().map(|id| id.0[0]).collect::<Vec<_>>();
        let mut again = KnownLeaves::stored_in(&store);
        assert_eq!(kept(&again), [1, 9, 2, 3], "in their order");
        assert!(again.unsaved.is_empty() && !again.has_damage, "nothing is written again");
        assert!((1..4).all(|number| again.of(id(number)) == known.of(id(number))));
        let first = &again.by_report[&id(1)];
        assert_eq!((first.about, first.start), (OriginatorId(200), SequenceId(4)));
        assert_eq!(again.len, known.len);

        again.forget(id(9));
        again.keep(id(4), &report(100, 4), leaves(1));
        again.save(&store, 1).unwrap();
        let third = KnownLeaves::stored_in(&store);
        assert_eq!(kept(&third), [1, 2, 3, 4]);
        assert_eq!(third.of(id(4)), again.of(id(4)));
    }

    /// A hostile node writes a true report for each minute of a range with very many payers.
    #[test]
    fn the_leaves_that_are_written_in_an_hour_are_bounded_for_each_originator() {
        let store = crate::read::testing::store();
        let mut known = KnownLeaves::stored_in(&store);
        let half = WRITTEN_AN_HOUR / 2;
        for number in 1..4 {
            known.keep(id(number), &report(100, number.into()), leaves(half));
            known.save(&store, 7).unwrap();
        }
        known.keep(id(4), &report(200, 4), leaves(1));
        known.save(&store, 7).unwrap();
        let stored = || {
            let stored = KnownLeaves::stored_in(&store);
            [2, 3, 4].map(|number| stored.of(id(number)).is_some())
        };
        assert_eq!(stored(), [false, false, true], "the third one waits, the second one has gone");
        known.save(&store, 8).unwrap();
        assert_eq!(stored(), [false, true, true], "in the next hour");
    }

    /// A report is stored with other amounts, such as those of a folder that was changed, or a part of it is lost.
    #[test]
    fn what_is_stored_otherwise_is_written_again() {
        let store = crate::read::testing::store();
        let mut known = KnownLeaves::stored_in(&store);
        known.keep(id(1), &report(200, 4), leaves(3));
        known.keep(id(2), &report(200, 5), leaves(3));
        known.save(&store, 1).unwrap();
        known.forget(id(1));
        known.keep(id(1), &report(200, 4), leaves(2));
        known.save(&store, 1).unwrap();
        let mut again = KnownLeaves::stored_in(&store);
        assert_eq!(again.of(id(1)).unwrap().payers().len(), 2);
        again.has_damage = true;
        again.save(&store, 1).unwrap();
        let third = KnownLeaves::stored_in(&store);
        assert!(third.of(id(1)) == again.of(id(1)) && third.of(id(2)) == again.of(id(2)));
    }

    /// A disk that answers a read of the start with an error, and the next one with the rows.
    #[test]
    fn amounts_whose_read_failed_without_damage_are_read_again_and_none_is_removed() {
        let passing = ReadError::Rebuilding { family: "meta" };
        assert_eq!(log_damage(passing.clone()), Err(passing));
        let at = EnvelopeId::new(OriginatorId(200), SequenceId(1));
        assert_eq!(log_damage(ReadError::unreadable_envelope(at)), Ok(()));

        let store = crate::read::testing::store();
        let mut known = KnownLeaves::stored_in(&store);
        known.keep(id(1), &report(200, 4), leaves(3));
        known.keep(id(2), &report(200, 5), leaves(2));
        known.save(&store, 1).unwrap();
        let failed = Some(FailedRead::AtStart);
        let mut unread = KnownLeaves { unread: failed, ..KnownLeaves::default() };
        unread.keep(id(3), &report(200, 6), leaves(1));
        unread.save(&store, 1).unwrap();
        assert!(unread.unread.is_none() && unread.unsaved.is_empty());
        let again = KnownLeaves::stored_in(&store);
        for number in [1, 2] {
            assert!(known.of(id(number)).is_some());
            assert_eq!(unread.of(id(number)), known.of(id(number)), "read at the second attempt");
            assert_eq!(again.of(id(number)), known.of(id(number)), "still stored");
        }
        assert_eq!(again.of(id(3)), unread.of(id(3)));
    }

    /// A disk whose error lasts would have all rows read at each look at a report.
    #[test]
    fn a_read_that_has_failed_is_repeated_once_an_hour() {
        let store = crate::read::testing::store();
        let mut known = KnownLeaves::stored_in(&store);
        known.keep(id(1), &report(200, 4), leaves(3));
        known.save(&store, 1).unwrap();
        let failed = Some(FailedRead::InHour(7));
        let mut unread = KnownLeaves { unread: failed, ..KnownLeaves::default() };
        unread.keep(id(2), &report(200, 5), leaves(1));
        unread.save(&store, 7).unwrap();
        assert_eq!((unread.of(id(1)), unread.unread), (None, failed), "it was tried in this hour");
        assert!(unread.unsaved.is_empty(), "new amounts are written meanwhile");
        unread.save(&store, 8).unwrap();
        assert_eq!((unread.of(id(1)), unread.unread), (known.of(id(1)), None));
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
