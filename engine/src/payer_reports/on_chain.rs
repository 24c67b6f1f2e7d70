//! Payer reports on the chain, as the recorded events of its contract say.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::payer_report::tree::{EMPTY_ROOT, Hash};
use hawser_rules::payer_report::{NodeIds, PayerReport, RangeEnd, SettledAmount};
use hawser_storage::{PayerReportChange, PayerReportEvent};

/// A report that the contract has taken. Its signatures were the contract's matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// The originator that the report is about.
    pub originator: OriginatorId,
    /// Its place in the contract's list for this originator, from 0.
    pub index: u64,
    /// The sequence id before its range.
    pub start: SequenceId,
    /// The last envelope of its range, and its minute as submitted. The contract takes any minute, and the reference
    /// implementation attests any.
    pub end: RangeEnd,
    /// The minute of that envelope in this node's log; `None` if the node did not hold the envelope when it was looked
    /// for.
    pub held_minute: Option<u32>,
    /// The root of its tree.
    pub root: Hash,
    /// The nodes that share its fees.
    pub nodes: Vec<OriginatorId>,
    /// Leaves that are settled.
    pub leaves_settled: u64,
    /// Their sum. Saturates.
    pub settled: SettledAmount,
    /// True if no leaf is left.
    pub is_settled: bool,
    /// The latest minute in which the range can end: the report was read then.
    latest: u32,
    /// The minute with which the range ends, as far as it is known.
    last_minute: u32,
    /// True if the envelope at the end had expired before this node received it, so its minute cannot become known.
    is_lost: bool,
}

impl ChainReport {
    /// Returns the minute with which its range ends: that of the envelope at its end, or the submitted one if this node
    /// does not hold the envelope. A submitted minute is at most the latest one in which the range can end, and at most
    /// the end minute of the next report that is kept.
    #[must_use]
    pub fn last_minute(&self) -> u32 {
        self.last_minute
    }

    /// Returns the report; `None` if this node would not have read it as one.
    #[must_use]
    pub fn report(&self) -> Option<PayerReport> {
        let nodes = NodeIds::new(self.nodes.iter().copied()).ok()?;
        PayerReport::new(self.originator, self.start, self.end, self.root, nodes).ok()
    }
}

/// Settled reports about an originator that are kept, the newest ones, to be shown. A guess: a week of them.
pub const SETTLED_KEPT: usize = 32;
/// The maximum number of reports about an originator that are kept. A guess: two months of unsettled reports. This node
/// no longer settles older ones, and their minutes count as unsettled until another node settles them.
const KEPT_MAX: usize = 256;
/// The maximum number of unsettled reports about an originator whose minutes are remembered after the reports are not.
/// Of older ones the minutes between them count as unsettled, too. A guess: 24 bytes each.
const OPEN_MAX: usize = 256;

/// The reports on the chain, as far as they matter for the next steps. Its size is bounded for each originator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainReports(BTreeMap<OriginatorId, ReportsAbout>);

/// The reports about one originator: the newest ones, and a summary of those before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct ReportsAbout {
    kept: BTreeMap<u64, ChainReport>,
    /// Reports below this index are not kept.
    forgotten: u64,
    /// The minute in which the last forgotten report ends. All minutes up to it are settled, except those of `open` and
    /// `merged`.
    forgotten_through: Option<u32>,
    /// The minutes of unsettled reports that are no longer kept, by index.
    open: BTreeMap<u64, RangeInclusive<u32>>,
    /// The minutes of the unsettled reports for which `open` had no room, from the first minute to the last.
    merged: Option<RangeInclusive<u32>>,
}

impl ReportsAbout {
    /// Takes over an event about the report at `index`. A second submission, and a settlement of a report that is not
    /// kept, change no report. A report about nothing is not kept: it covers no minute, and the next one begins where
    /// it does. The reference implementation attests any number of them at one place, also with roots that no leaves
    /// have, so that nothing settles them. They would take the places of reports with leaves.
    fn note(
        &mut self,
        originator: OriginatorId,
        index: u64,
        change: PayerReportChange,
        held_minute: Option<u32>,
        latest: u32,
    ) {
        match change {
            PayerReportChange::Submitted { start, end, .. } if end <= start => {}
            PayerReportChange::Submitted { start, end, end_minute, root, nodes } => {
                let report = ChainReport {
                    originator,
                    index,
                    start,
                    end: RangeEnd { minute: end_minute, sequence: end },
                    held_minute,
                    root,
                    nodes,
                    leaves_settled: 0,
                    settled: SettledAmount::default(),
                    is_settled: root == EMPTY_ROOT,
                    latest,
                    last_minute: end_minute,
                    is_lost: false,
                };
                if index >= self.forgotten {
                    self.kept.entry(index).or_insert(report);
                }
                self.bound_minutes();
            }
            // The contract tells so of a report with the root of no leaves, which is settled by its submission, and of
            // no other one.
            PayerReportChange::Settled { leaves: 0, .. } => {}
            PayerReportChange::Settled { leaves, left, microdollars } => {
                if left == 0 {
                    self.open.remove(&index);
                }
                // A settlement without its submission is of an endpoint that leaves events out.
                let Some(report) = self.kept.get_mut(&index) else { return };
                report.leaves_settled = report.leaves_settled.saturating_add(leaves);
                report.settled = report.settled.plus(microdollars);
                report.is_settled = left == 0;
            }
        }
        self.forget_old();
    }

    /// Bounds the minutes of envelopes that this node does not hold. The submitted minute may be any, and a payer
    /// no longer pays for usage that counts as part of a settled report.
    fn bound_minutes(&mut self) {
        let mut next = u32::MAX;
        for report in self.kept.values_mut().rev() {
            let submitted = report.end.minute.min(report.latest).min(next);
            report.last_minute = report.held_minute.unwrap_or(submitted);
            next = next.min(report.last_minute);
        }
    }

    fn forget_old(&mut self) {
        while let Some(oldest) = self.kept.first_entry() {
            let is_settled = oldest.get().is_settled;
            let len = self.kept.len();
            if len <= SETTLED_KEPT || (len <= KEPT_MAX && !is_settled) {
                return;
            }
            let Some((index, oldest)) = self.kept.pop_first() else { return };
            self.forgotten = index.saturating_add(1);
            let first = self.forgotten_through.map_or(0, |through| through.saturating_add(1));
            let minutes = first..=oldest.last_minute();
            // One that ends before an earlier report has no minutes of its own. So the ranges follow one another.
            if !oldest.is_settled && !minutes.is_empty() {
                self.open.insert(index, minutes);
                self.merge_open();
            }
            self.forgotten_through = self.forgotten_through.max(Some(oldest.last_minute()));
        }
    }

    /// Joins the oldest open ranges into one while there are too many. Settled minutes between them then count as
    /// unsettled: a payer has a deposit asked for twice before a node serves one without a deposit.
    fn merge_open(&mut self) {
        while self.open.len() > OPEN_MAX {
            let Some((_, oldest)) = self.open.pop_first() else { return };
            let first = self.merged.as_ref().map_or(*oldest.start(), |merged| *merged.start());
            self.merged = Some(first..=*oldest.end());
        }
    }

    fn is_settled(&self, minute: u32) -> bool {
        if self.forgotten_through.is_some_and(|through| minute <= through) {
            let mut open = self.merged.iter().chain(self.open.values());
            return !open.any(|minutes| minutes.contains(&minute));
        }
        self.covering(minute).is_some_and(|report| report.is_settled)
    }

    /// Returns the kept report that covers a minute.
    fn covering(&self, minute: u32) -> Option<&ChainReport> {
        self.kept.values().find(|report| minute <= report.last_minute())
    }

    /// Returns the last minute of a settled stretch from `minute` on; `None` if that minute is not settled. More
    /// minutes may be settled behind it.
    fn settled_through(&self, minute: u32) -> Option<u32> {
        if !self.is_settled(minute) {
            return None;
        }
        match self.forgotten_through.filter(|through| minute <= *through) {
            Some(through) => {
                let open = self.merged.iter().chain(self.open.values());
                let next = open.map(|minutes| *minutes.start()).filter(|start| *start > minute);
                Some(next.min().map_or(through, |start| start - 1))
            }
            None => self.covering(minute).map(ChainReport::last_minute),
        }
    }
}

impl ChainReports {
    /// Reads the events of the contract, in the order of the chain, without a log beside it.
    #[must_use]
    pub fn of_events(events: impl IntoIterator<Item = PayerReportEvent>) -> Self {
        let mut all = Self::default();
        events.into_iter().for_each(|event| all.note(event, None, u32::MAX));
        all
    }

    /// Goes on with the next event of the contract. `held_minute` is the minute of the envelope at the end of a report
    /// that is submitted, if this node holds it, and `latest` the last minute with which the report can end now.
    pub fn note(&mut self, event: PayerReportEvent, held_minute: Option<u32>, latest: u32) {
        let PayerReportEvent { originator, index, change, .. } = event;
        self.0.entry(originator).or_default().note(originator, index, change, held_minute, latest);
    }

    /// Iterates over the kept reports about one originator, in the contract's order: all that have a leaf left, unless
    /// they are too many, and the newest ones.
    pub fn about(&self, originator: OriginatorId) -> impl DoubleEndedIterator<Item = &ChainReport> {
        self.0.get(&originator).into_iter().flat_map(|about| about.kept.values())
    }

    /// Iterates over all kept reports, by originator and index.
    pub fn all(&self) -> impl Iterator<Item = &ChainReport> {
        self.0.values().flat_map(|about| about.kept.values())
    }

    /// Iterates over the kept reports whose [minutes](ChainReport::held_minute) may still become known, each with its
    /// index and the envelope at its end.
    pub(crate) fn without_minute(&self) -> impl Iterator<Item = (u64, EnvelopeId)> {
        let is_open = |report: &&ChainReport| report.held_minute.is_none() && !report.is_lost;
        self.all().filter(is_open).map(|report| {
            let last = EnvelopeId::new(report.originator, report.end.sequence);
            (report.index, last)
        })
    }

    /// Notes the minute of the envelope at the end of a report, as this node holds it.
    pub(crate) fn set_minute(&mut self, originator: OriginatorId, index: u64, minute: u32) {
        let Some(about) = self.0.get_mut(&originator) else { return };
        if let Some(report) = about.kept.get_mut(&index) {
            report.held_minute = Some(minute);
            about.bound_minutes();
        }
    }

    /// Notes that the envelope at the end of a report had expired before this node received it.
    pub(crate) fn set_lost(&mut self, originator: OriginatorId, index: u64) {
        let about = self.0.get_mut(&originator);
        if let Some(report) = about.and_then(|about| about.kept.get_mut(&index)) {
            report.is_lost = true;
        }
    }

    /// Returns the end of the last report about an originator, with the [minute](ChainReport::last_minute) of its
    /// envelope; `None` before the first one.
    #[must_use]
    pub fn last_end(&self, originator: OriginatorId) -> Option<RangeEnd> {
        let last = self.about(originator).next_back()?;
        Some(RangeEnd { minute: last.last_minute(), sequence: last.end.sequence })
    }

    /// Returns true if usage at an originator in this minute is settled: a report that has no leaf left covers it. The
    /// range of a report begins after the minute in which the one before it ends.
    #[must_use]
    pub fn is_settled(&self, originator: OriginatorId, minute: u32) -> bool {
        self.0.get(&originator).is_some_and(|about| about.is_settled(minute))
    }

    /// Returns the last minute of a settled stretch that begins with `minute` or before it; `None` if that minute is
    /// not [settled](Self::is_settled).
    #[must_use]
    pub fn settled_through(&self, originator: OriginatorId, minute: u32) -> Option<u32> {
        self.0.get(&originator)?.settled_through(minute)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: OriginatorId = OriginatorId(100);

    fn event(index: u64, change: PayerReportChange) -> PayerReportEvent {
        PayerReportEvent { block: index, log_index: 0, originator: NODE, index, change }
    }

    /// The report at an index covers the minutes up to ten times its number.
    fn submitted(index: u64) -> PayerReportEvent {
        let change = PayerReportChange::Submitted {
            start: SequenceId(index * 100),
            end: SequenceId(index * 100 + 100),
            end_minute: minute(index),
            root: [1; 32],
            nodes: vec![NODE],
        };
        event(index, change)
    }

    fn settled(index: u64) -> PayerReportEvent {
        event(
            index,
            PayerReportChange::Settled { leaves: 1, left: 0, microdollars: SettledAmount(1) },
        )
    }

    fn minute(index: u64) -> u32 {
        u32::try_from(index * 10 + 10).unwrap()
    }

    #[test]
    fn settled_reports_are_summed_up_and_open_ones_kept() {
        let mut chain = ChainReports::default();
        for index in 0..100 {
            chain.note(submitted(index), None, u32::MAX);
            // One is not settled before the end.
            if index != 3 {
                chain.note(settled(index), None, u32::MAX);
            }
        }
        let kept: Vec<_> = chain.about(NODE).map(|report| report.index).collect();
        assert_eq!(kept[..2], [3, 4], "nothing behind an open one is forgotten");
        assert!(chain.is_settled(NODE, 1) && chain.is_settled(NODE, minute(2)));
        assert!(!chain.is_settled(NODE, minute(2) + 1) && !chain.is_settled(NODE, minute(3)));
        assert!(chain.is_settled(NODE, minute(3) + 1));
        chain.note(settled(3), None, u32::MAX);
        assert_eq!(chain.about(NODE).count(), SETTLED_KEPT);
        assert!((1..=minute(99)).all(|minute| chain.is_settled(NODE, minute)));
        assert!(!chain.is_settled(NODE, minute(99) + 1));
        assert_eq!(chain.last_end(NODE).unwrap().minute, minute(99));
        chain.note(submitted(2), None, u32::MAX);
        assert_eq!(chain.about(NODE).count(), SETTLED_KEPT, "it was forgotten");
    }

    #[test]
    fn reports_that_no_node_settles_are_bounded_and_their_minutes_stay_unsettled() {
        let mut chain = ChainReports::default();
        for index in 0..1000 {
            chain.note(submitted(index), None, u32::MAX);
        }
        assert_eq!(chain.about(NODE).count(), KEPT_MAX);
        chain.note(settled(999), None, u32::MAX);
        assert!((1..=minute(998)).all(|minute| !chain.is_settled(NODE, minute)));
        assert!(chain.is_settled(NODE, minute(999)));
    }

    /// A node signs envelopes with a clock that was far ahead and is set back.
    #[test]
    fn reports_that_end_before_an_earlier_one_settle_none_of_its_minutes() {
        let (mut chain, ahead) = (ChainReports::default(), minute(5000));
        for index in 0..1000 {
            let held = if index == 0 { ahead } else { minute(index) };
            chain.note(submitted(index), Some(held), u32::MAX);
        }
        assert!((0..=ahead).all(|minute| !chain.is_settled(NODE, minute)));
    }

    /// A report that no node settles delays no other one: later minutes stay settled when both reports are forgotten.
    #[test]
    fn settled_reports_behind_an_open_one_stay_settled() {
        let mut chain = ChainReports::default();
        for index in 0..400 {
            chain.note(submitted(index), None, u32::MAX);
            if index != 3 {
                chain.note(settled(index), None, u32::MAX);
            }
        }
        assert_eq!(chain.about(NODE).count(), SETTLED_KEPT);
        let is_open = |at: u32| (minute(2) + 1..=minute(3)).contains(&at);
        let all = 0..=minute(399);
        assert!(all.clone().all(|at| chain.is_settled(NODE, at) != is_open(at)));
        assert!(!chain.is_settled(NODE, minute(399) + 1));
        stretches_are_those_of_single_minutes(&chain, minute(399));
        chain.note(settled(3), None, u32::MAX);
        assert!(all.into_iter().all(|at| chain.is_settled(NODE, at)), "settled late");
        stretches_are_those_of_single_minutes(&chain, minute(399));
    }

    fn stretches_are_those_of_single_minutes(chain: &ChainReports, last: u32) {
        for at in 0..=last + 1 {
            let through = chain.settled_through(NODE, at);
            assert_eq!(through.is_some(), chain.is_settled(NODE, at), "minute {at}");
            if let Some(through) = through {
                assert!(at <= through && through <= last);
                assert!((at..=through).all(|at| chain.is_settled(NODE, at)), "{at} to {through}");
            }
        }
    }

    #[test]
    fn a_report_about_nothing_covers_no_minute() {
        let mut chain = ChainReports::default();
        let nothing = PayerReportChange::Submitted {
            start: SequenceId(0),
            end: SequenceId(0),
            end_minute: 500,
            root: EMPTY_ROOT,
            nodes: vec![NODE],
        };
        chain.note(event(0, nothing), None, u32::MAX);
        let first = PayerReportEvent { index: 1, ..submitted(0) };
        chain.note(first, None, u32::MAX);
        assert!(!chain.is_settled(NODE, minute(0)));
        chain.note(settled(1), None, u32::MAX);
        assert!(chain.is_settled(NODE, minute(0)));
        assert!(!chain.is_settled(NODE, 500));
    }

    /// One node writes them, a majority of nodes of the reference implementation attests them, and the writer submits
    /// them before the report that ends at the same place is settled.
    #[test]
    fn reports_about_nothing_push_out_none_with_leaves_and_are_not_left_to_settle() {
        let mut chain = ChainReports::default();
        chain.note(submitted(0), Some(minute(0)), u32::MAX);
        let last_end = chain.last_end(NODE);
        for index in 1..1000_u64 {
            let nothing = PayerReportChange::Submitted {
                start: SequenceId(100),
                end: SequenceId(100),
                end_minute: u32::try_from(index).unwrap(),
                root: if index.is_multiple_of(2) { EMPTY_ROOT } else { [1; 32] },
                nodes: vec![NODE],
            };
            chain.note(event(index, nothing), None, u32::MAX);
        }
        let open = chain.about(NODE).filter(|report| !report.is_settled);
        assert_eq!(open.map(|report| report.index).collect::<Vec<_>>(), [0]);
        assert_eq!(chain.last_end(NODE), last_end, "none of them states when the next one is due");
        chain.note(PayerReportEvent { index: 1000, ..submitted(1) }, None, u32::MAX);
        chain.note(settled(0), None, u32::MAX);
        assert!(chain.is_settled(NODE, minute(0)) && !chain.is_settled(NODE, minute(1)));
    }

    /// A report with a minute that no envelope has, whose end this node does not hold.
    fn of_any_minute(index: u64) -> PayerReportEvent {
        let mut event = submitted(index);
        if let PayerReportChange::Submitted { end_minute, .. } = &mut event.change {
            *end_minute = u32::MAX >> 1;
        }
        event
    }

    #[test]
    fn a_minute_that_is_not_known_reaches_no_further_than_the_next_report_and_the_present() {
        let mut chain = ChainReports::default();
        chain.note(submitted(0), Some(minute(0)), minute(0));
        chain.note(of_any_minute(1), None, minute(1) + 3);
        chain.note(settled(0), None, u32::MAX);
        chain.note(settled(1), None, u32::MAX);
        assert!(chain.is_settled(NODE, minute(1) + 3) && !chain.is_settled(NODE, minute(1) + 4));
        assert_eq!(chain.last_end(NODE).unwrap().minute, minute(1) + 3);
        chain.note(submitted(2), Some(minute(1) + 2), u32::MAX);
        assert!(!chain.is_settled(NODE, minute(1) + 3), "the next report ends before");
        chain.set_minute(NODE, 2, minute(2));
        assert!(chain.is_settled(NODE, minute(1) + 3), "the next one ends later");
    }

    /// When a report is forgotten, its minute stays as it is for good.
    #[test]
    fn a_forgotten_report_without_a_known_minute_settles_nothing_of_later_ones() {
        let mut chain = ChainReports::default();
        for index in 0..100 {
            let event = if index == 1 { of_any_minute(index) } else { submitted(index) };
            let held = (index != 1).then(|| minute(index));
            chain.note(event, held, minute(200));
            if index != 99 {
                chain.note(settled(index), None, u32::MAX);
            }
        }
        assert_eq!(chain.about(NODE).count(), SETTLED_KEPT);
        assert!(chain.is_settled(NODE, minute(1)) && chain.is_settled(NODE, minute(98)));
        assert!(!chain.is_settled(NODE, minute(98) + 1), "the last report is not settled");
        assert!(!chain.is_settled(NODE, minute(150)));
    }

    /// The contract takes any minute, and a majority of nodes that do not check it attests any.
    #[test]
    fn a_minute_that_is_no_envelopes_settles_nothing_else_and_ends_no_reports() {
        let of = |index, end_minute, held| {
            let PayerReportChange::Submitted { start, end, root, nodes, .. } =
                submitted(index).change
            else {
                panic!("a submission")
            };
            let change = PayerReportChange::Submitted { start, end, end_minute, root, nodes };
            (event(index, change), held)
        };
        let mut chain = ChainReports::default();
        for (event, held) in [of(0, 0, Some(minute(0))), of(1, u32::MAX >> 1, None)] {
            chain.note(event, held, u32::MAX);
        }
        chain.note(settled(0), None, u32::MAX);
        chain.note(settled(1), None, u32::MAX);
        assert!(chain.is_settled(NODE, minute(0)) && chain.is_settled(NODE, minute(5)));
        let unknown: Vec<_> = chain.without_minute().collect();
        assert_eq!(unknown, [(1, EnvelopeId::new(NODE, SequenceId(200)))]);
        chain.set_minute(NODE, 1, minute(1));
        assert!(chain.is_settled(NODE, minute(1)) && !chain.is_settled(NODE, minute(1) + 1));
        let end = RangeEnd { minute: minute(1), sequence: SequenceId(200) };
        assert_eq!(chain.last_end(NODE), Some(end));
        assert_eq!(
            chain.about(NODE).next_back().unwrap().end.minute,
            u32::MAX >> 1,
            "as submitted"
        );
        // Also when the reports are no longer kept.
        for index in 2..100 {
            chain.note(submitted(index), None, u32::MAX);
            chain.note(settled(index), None, u32::MAX);
        }
        assert!(chain.is_settled(NODE, minute(99)) && !chain.is_settled(NODE, minute(99) + 1));
    }
}
