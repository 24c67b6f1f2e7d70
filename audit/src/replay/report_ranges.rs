//! The usage of a strand, divided among the reports on the chain.
//!
//! A report covers the minutes after that of the envelope at its start, up to that of the envelope at its end
//! (`docs/protocol/payer-reports.md`). The minute that the chain states decides nothing: the contract takes any. The
//! minute of the end is known when its envelope is read. Until then usage is kept by minute.

use std::collections::BTreeMap;

use hawser_proto::{Address, EnvelopeId, SequenceId};
use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::tree::Hash;

use super::report_sums::{FeesByPayer, ReportLeaves, ReportSums, add};
use super::tally::OPEN_MINUTES;

/// Minutes whose usage is kept apart until the end of the report is read. A guess: an honest strand needs a dozen,
/// because its times ascend. An originator that lies about times makes no more of them, each with all payers.
const KEPT_MINUTES_MAX: usize = 64;

/// A report on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BilledReport {
    /// Its place in the contract's list for the originator.
    pub index: u64,
    /// The sequence id before its range.
    pub start: SequenceId,
    /// The last sequence id of its range.
    pub end: SequenceId,
    /// The last minute of its range as the chain states it, since the unix epoch. The nodes that attested the report
    /// have signed it.
    pub end_minute: u32,
    /// The root of its tree.
    pub root: Hash,
    /// True if no leaf is left to settle.
    pub is_settled: bool,
}

/// The end of the range of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReadEnd {
    /// The last minute of the range.
    minute: u32,
    /// The minute of the envelope at the end; `None` if it was not shown, so that the range ends as the chain states.
    held: Option<u32>,
    /// True if usage of later minutes could not be kept apart.
    is_mixed: bool,
}

/// The part that the fee of an envelope belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeePart {
    /// A report that is not finished, or one whose end has not been read.
    Open,
    /// A report that is finished.
    Finished,
    /// No report: the fee is after the last one, or of the first minute of all, which no report covers.
    AfterLast,
}

/// A report whose usage has been read.
pub(super) struct FinishedRange {
    /// The report.
    pub(super) report: BilledReport,
    /// The minute of the envelope at its end; `None` if it was not shown.
    pub(super) held_minute: Option<u32>,
    /// The amounts.
    pub(super) amounts: ReportLeaves,
}

/// The reports about one strand, and its usage.
#[derive(Debug, Default)]
pub(super) struct ReportRanges {
    /// Reports with a range, in the contract's order.
    reports: Vec<BilledReport>,
    /// The ends of the reports whose end has been read. Their minutes do not descend.
    ends: Vec<ReadEnd>,
    /// Amounts of these, by their place in `reports`. Those of finished reports are removed.
    sums: BTreeMap<usize, ReportSums>,
    /// Reports before this place are finished.
    finished: usize,
    /// Fees behind the last end that has been read, by minute.
    open: BTreeMap<u32, FeesByPayer>,
    /// The sums of minutes that are no longer kept apart, with the newest of these minutes.
    joined: Option<(u32, FeesByPayer)>,
}

impl ReportRanges {
    /// Starts before the first place of a strand. `reports` are in the contract's order.
    pub(super) fn new(reports: &[BilledReport]) -> Self {
        let reports = reports.iter().filter(|report| report.start != report.end).copied();
        Self { reports: reports.collect(), ..Self::default() }
    }

    /// Adds the fee of an envelope to the report of its minute.
    pub(super) fn book(
        &mut self,
        id: EnvelopeId,
        minute: u32,
        payer: Address,
        fee: PicoDollarPrice,
    ) -> FeePart {
        let report = self.ends.partition_point(|end| end.minute < minute);
        if report < self.finished {
            return FeePart::Finished;
        }
        if minute == 0 {
            return FeePart::AfterLast;
        }
        if report < self.ends.len() {
            let end = self.reports[report].end.0;
            self.sums.entry(report).or_default().add(id, end, payer, fee);
            return FeePart::Open;
        }
        if self.ends.len() == self.reports.len() {
            return FeePart::AfterLast;
        }
        // No end of this minute or a later one has been read. Fees are kept by minute, because that end will decide to
        // which report they belong.
        match &mut self.joined {
            Some((newest, sums)) if minute <= *newest => add(sums, payer, fee),
            _ => add(self.open.entry(minute).or_default(), payer, fee),
        }
        let is_past = |first: u32| first < minute.saturating_sub(OPEN_MINUTES);
        while let Some((&first, _)) = self.open.first_key_value()
            && (is_past(first) || self.open.len() > KEPT_MINUTES_MAX)
        {
            self.join_first();
        }
        FeePart::Open
    }

    /// Joins the first minute of those that are kept apart with those before it.
    fn join_first(&mut self) {
        let Some((minute, sums)) = self.open.pop_first() else { return };
        let (newest, joined) = self.joined.get_or_insert_with(|| (minute, FeesByPayer::new()));
        *newest = minute.max(*newest);
        sums.into_iter().for_each(|(payer, fee)| add(joined, payer, fee));
    }

    /// Ends the reports whose end is before this place, and was not shown: with the stated minute, but one before that
    /// of the envelope that is shown next: an honest report ends with the last envelope of its minute.
    pub(super) fn reach(&mut self, place: u64, minute: u32) {
        while let Some(report) = self.next_unread()
            && report.end.0 < place
        {
            self.end_report(report.end_minute.min(minute.saturating_sub(1)), None);
        }
    }

    /// Notes that an envelope has been booked, and ends the report that ends with it.
    pub(super) fn pass(&mut self, place: u64, minute: u32) {
        if self.next_unread().is_some_and(|report| report.end.0 == place) {
            self.end_report(minute, Some(minute));
        }
    }

    fn next_unread(&self) -> Option<BilledReport> {
        self.reports.get(self.ends.len()).copied()
    }

    fn end_report(&mut self, minute: u32, held: Option<u32>) {
        let before = self.ends.last().map_or(0, |end| end.minute);
        let minute = minute.max(before);
        let joined = self.joined.take();
        let is_mixed = joined.as_ref().is_some_and(|(newest, _)| *newest > minute);
        let later = minute.checked_add(1).map(|later| self.open.split_off(&later));
        let covered = std::mem::replace(&mut self.open, later.unwrap_or_default());
        let sums = self.sums.entry(self.ends.len()).or_default();
        joined.into_iter().chain(covered).for_each(|(_, of_minute)| sums.add_sums(of_minute));
        self.ends.push(ReadEnd { minute, held, is_mixed });
    }

    /// Returns the next report whose minutes are over in minute `minute` of the strand, in the contract's order.
    pub(super) fn next_finished(&mut self, minute: u32) -> Option<FinishedRange> {
        let end = *self.ends.get(self.finished)?;
        (end.minute < minute).then(|| self.finish_next(end))
    }

    /// Ends the next report that has not been finished, at the end of the strand.
    pub(super) fn next_left(&mut self) -> Option<FinishedRange> {
        let report = *self.reports.get(self.finished)?;
        if self.ends.len() == self.finished {
            self.end_report(report.end_minute, None);
        }
        let end = self.ends[self.finished];
        Some(self.finish_next(end))
    }

    fn finish_next(&mut self, end: ReadEnd) -> FinishedRange {
        let report = self.reports[self.finished];
        let sums = self.sums.remove(&self.finished).unwrap_or_default();
        self.finished += 1;
        let mut amounts = sums.leaves(report.root);
        amounts.are_all_compared &= !end.is_mixed;
        FinishedRange { report, held_minute: end.held, amounts }
    }

    /// Returns the fees of a payer that are in no report although they were read before the end of the last one.
    pub(super) fn left_of(&self, payer: Address) -> PicoDollarPrice {
        let joined = self.joined.iter().map(|(_, sums)| sums);
        let sums = joined.chain(self.open.values());
        sums.filter_map(|sums| sums.get(&payer))
            .copied()
            .fold(PicoDollarPrice(0), PicoDollarPrice::plus)
    }
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;
    use hawser_rules::payer_report::Leaves;

    use super::*;

    const PAYER: Address = Address([8; 20]);
    const FEE: PicoDollarPrice = PicoDollarPrice(1);

    fn report(index: u64, start: u64, end: u64, end_minute: u32) -> BilledReport {
        let (start, end) = (SequenceId(start), SequenceId(end));
        BilledReport { index, start, end, end_minute, root: [9; 32], is_settled: false }
    }

    /// Reads envelopes of these minutes, of one picodollar each, and returns each report's sum, the minute at its end,
    /// and whether all was compared; and the sum in no report.
    fn read(reports: &[BilledReport], minutes: &[u32]) -> (Vec<(u64, Option<u32>, bool)>, u64) {
        let mut ranges = ReportRanges::new(reports);
        let (mut found, mut after) = (Vec::new(), 0);
        let result_of = |range: FinishedRange| {
            let sum = range.amounts.leaves.of(PAYER).map_or(0, |fee| fee.get());
            (sum, range.held_minute, range.amounts.are_all_compared)
        };
        for (place, minute) in (1..).zip(minutes) {
            let id = EnvelopeId::new(OriginatorId(100), SequenceId(place));
            ranges.reach(place, *minute);
            after += u64::from(ranges.book(id, *minute, PAYER, FEE) == FeePart::AfterLast);
            ranges.pass(place, *minute);
            while let Some(range) = ranges.next_finished(minute.saturating_sub(OPEN_MINUTES)) {
                found.push(result_of(range));
            }
        }
        while let Some(range) = ranges.next_left() {
            found.push(result_of(range));
        }
        (found, after + ranges.left_of(PAYER).0)
    }

    #[test]
    fn the_envelope_at_the_end_decides_which_minutes_a_report_covers() {
        for stated in [0, 5, 6, 7, 30, u32::MAX] {
            let reports = [report(0, 0, 4, stated), report(1, 4, 6, 30)];
            // Place 3 is dated ahead by a minute: it is in the second report.
            let (found, after) = read(&reports, &[5, 6, 7, 6, 7, 30, 31, 50]);
            assert_eq!(found, [(3, Some(6), true), (3, Some(30), true)], "{stated}");
            assert_eq!(after, 2);
        }
    }

    #[test]
    fn an_envelope_of_the_first_minute_of_all_is_in_no_report() {
        let (found, after) = read(&[report(0, 0, 3, 6)], &[0, 5, 6, 50]);
        assert_eq!((found, after), (vec![(2, Some(6), true)], 2));
    }

    #[test]
    fn an_end_that_is_not_shown_leaves_the_stated_minute_before_the_next_envelope() {
        for (stated, expected) in [(5, [1, 3]), (6, [2, 2]), (u32::MAX, [2, 2])] {
            let mut ranges = ReportRanges::new(&[report(0, 0, 3, stated), report(1, 3, 5, 8)]);
            for (place, minute) in [(1, 5), (2, 6), (4, 7), (5, 8)] {
                let id = EnvelopeId::new(OriginatorId(100), SequenceId(place));
                ranges.reach(place, minute);
                ranges.book(id, minute, PAYER, FEE);
                ranges.pass(place, minute);
            }
            let sum_of = |range: FinishedRange| {
                (range.held_minute, range.amounts.leaves.of(PAYER).map_or(0, |fee| fee.get()))
            };
            let [first, second] = [(); 2].map(|()| sum_of(ranges.next_left().unwrap()));
            assert_eq!((first.0, second.0), (None, Some(8)));
            assert_eq!([first.1, second.1], expected, "{stated}");
        }
    }

    /// An originator that dates its envelopes at will takes no more memory, and is not taken for a liar in its report.
    #[test]
    fn minutes_that_cannot_be_kept_apart_refute_nothing() {
        let (found, _) = read(&[report(0, 0, 3, 5)], &[5, 100, 5]);
        assert_eq!(found, [(2, Some(5), true)], "the minute ahead is still kept apart");
        let (found, _) = read(&[report(0, 0, 4, 5)], &[5, 100, 200, 5]);
        assert_eq!(found, [(3, Some(5), false)]);
        let minutes: Vec<u32> = (0..10_000).rev().collect();
        let mut ranges = ReportRanges::new(&[report(0, 0, 20_000, 5)]);
        for (place, minute) in (1..).zip(minutes) {
            let id = EnvelopeId::new(OriginatorId(100), SequenceId(place));
            ranges.book(id, minute, PAYER, FEE);
            assert!(ranges.open.len() <= KEPT_MINUTES_MAX);
        }
        let range = ranges.next_left().unwrap();
        assert_ne!(range.amounts.leaves.root(), Leaves::default().root());
    }
}
