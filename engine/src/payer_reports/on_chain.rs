//! Payer reports on the chain, as the recorded events of its contract say.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use hawser_proto::{OriginatorId, SequenceId};
use hawser_rules::payer_report::tree::{EMPTY_ROOT, Hash};
use hawser_rules::payer_report::{NodeIds, PayerReport, RangeEnd};
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
    /// The last envelope of its range, and its minute as submitted.
    pub end: RangeEnd,
    /// The root of its tree.
    pub root: Hash,
    /// The nodes that share its fees.
    pub nodes: Vec<u32>,
    /// Leaves that are settled.
    pub leaves_settled: u64,
    /// Their sum, microdollars.
    pub microdollars: u64,
    /// True if no leaf is left.
    pub is_settled: bool,
}

impl ChainReport {
    /// Returns true if its range holds nothing, and so no minute.
    fn is_empty(&self) -> bool {
        self.start == self.end.sequence
    }

    /// Returns the report; `None` if this node would not have read it as one.
    #[must_use]
    pub fn report(&self) -> Option<PayerReport> {
        let nodes = NodeIds::new(self.nodes.clone()).ok()?;
        PayerReport::new(self.originator, self.start, self.end, self.root, nodes).ok()
    }
}

/// Settled reports about an originator that are kept, the newest ones, to be shown. A guess: a week of them.
pub const SETTLED_KEPT: usize = 32;
/// The most reports about an originator that are kept. A guess: two months of unsettled reports. This node no longer
/// settles older ones, and their minutes count as unsettled until another node settles them.
const KEPT_MAX: usize = 256;
/// The most unsettled reports about an originator whose minutes are remembered after the reports are not. Of older ones the
/// minutes between them count as unsettled, too. A guess: 24 bytes each.
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
    /// The minute in which the last one of those ends. All minutes up to it are settled but those of `open` and `merged`.
    forgotten_through: Option<u32>,
    /// The minutes of unsettled reports that are no longer kept, by index.
    open: BTreeMap<u64, RangeInclusive<u32>>,
    /// From the first minute to the last of those that were too many for `open`.
    merged: Option<RangeInclusive<u32>>,
}

impl ReportsAbout {
    fn note(&mut self, originator: OriginatorId, index: u64, change: PayerReportChange) {
        match change {
            PayerReportChange::Submitted { start, end, end_minute, root, nodes } => {
                let report = ChainReport {
                    originator,
                    index,
                    start,
                    end: RangeEnd { minute: end_minute, sequence: end },
                    root,
                    nodes,
                    leaves_settled: 0,
                    microdollars: 0,
                    is_settled: root == EMPTY_ROOT,
                };
                if index >= self.forgotten {
                    self.kept.entry(index).or_insert(report);
                }
            }
            PayerReportChange::Settled { leaves, left, microdollars } => {
                if left == 0 {
                    self.open.remove(&index);
                }
                // A settlement without its submission is of an endpoint that leaves events out.
                let Some(report) = self.kept.get_mut(&index) else { return };
                report.leaves_settled = report.leaves_settled.saturating_add(leaves);
                report.microdollars = report.microdollars.saturating_add(microdollars);
                report.is_settled = left == 0;
            }
        }
        self.forget_old();
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
            if oldest.is_empty() {
                continue;
            }
            let first = self.forgotten_through.map_or(0, |through| through.saturating_add(1));
            if !oldest.is_settled {
                self.open.insert(index, first..=oldest.end.minute);
                self.merge_open();
            }
            self.forgotten_through = self.forgotten_through.max(Some(oldest.end.minute));
        }
    }

    /// Joins the oldest open ranges into one while there are too many. Settled minutes between them then count as unsettled:
    /// a payer has a deposit asked for twice before a node serves one without a deposit.
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
        let covers = |report: &&ChainReport| !report.is_empty() && minute <= report.end.minute;
        self.kept.values().find(covers).is_some_and(|report| report.is_settled)
    }
}

impl ChainReports {
    /// Reads the events of the contract, in the order of the chain.
    #[must_use]
    pub fn of_events(events: impl IntoIterator<Item = PayerReportEvent>) -> Self {
        let mut all = Self::default();
        events.into_iter().for_each(|event| all.note(event));
        all
    }

    /// Goes on with the next event of the contract.
    pub fn note(&mut self, event: PayerReportEvent) {
        let PayerReportEvent { originator, index, change, .. } = event;
        self.0.entry(originator).or_default().note(originator, index, change);
    }

    /// Iterates over the kept reports about one originator, in the contract's order: all that have a leaf left, unless they
    /// are too many, and the newest ones.
    pub fn about(&self, originator: OriginatorId) -> impl DoubleEndedIterator<Item = &ChainReport> {
        self.0.get(&originator).into_iter().flat_map(|about| about.kept.values())
    }

    /// Iterates over all kept reports, by originator and index.
    pub fn all(&self) -> impl Iterator<Item = &ChainReport> {
        self.0.values().flat_map(|about| about.kept.values())
    }

    /// Returns the end of the last report about an originator; `None` before the first one.
    #[must_use]
    pub fn last_end(&self, originator: OriginatorId) -> Option<RangeEnd> {
        self.about(originator).next_back().map(|report| report.end)
    }

    /// Returns true if usage at an originator in this minute is settled: a report that has no leaf left covers it. The
    /// range of a report begins after the minute in which the one before it ends.
    #[must_use]
    pub fn is_settled(&self, originator: OriginatorId, minute: u32) -> bool {
        self.0.get(&originator).is_some_and(|about| about.is_settled(minute))
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
            nodes: vec![100],
        };
        event(index, change)
    }

    fn settled(index: u64) -> PayerReportEvent {
        event(index, PayerReportChange::Settled { leaves: 1, left: 0, microdollars: 1 })
    }

    fn minute(index: u64) -> u32 {
        u32::try_from(index * 10 + 10).unwrap()
    }

    #[test]
    fn settled_reports_are_summed_up_and_open_ones_kept() {
        let mut chain = ChainReports::default();
        for index in 0..100 {
            chain.note(submitted(index));
            // One is not settled before the end.
            if index != 3 {
                chain.note(settled(index));
            }
        }
        let kept: Vec<_> = chain.about(NODE).map(|report| report.index).collect();
        assert_eq!(kept[..2], [3, 4], "nothing behind an open one is forgotten");
        assert!(chain.is_settled(NODE, 1) && chain.is_settled(NODE, minute(2)));
        assert!(!chain.is_settled(NODE, minute(2) + 1) && !chain.is_settled(NODE, minute(3)));
        assert!(chain.is_settled(NODE, minute(3) + 1));
        chain.note(settled(3));
        assert_eq!(chain.about(NODE).count(), SETTLED_KEPT);
        assert!((1..=minute(99)).all(|minute| chain.is_settled(NODE, minute)));
        assert!(!chain.is_settled(NODE, minute(99) + 1));
        assert_eq!(chain.last_end(NODE).unwrap().minute, minute(99));
        chain.note(submitted(2));
        assert_eq!(chain.about(NODE).count(), SETTLED_KEPT, "it was forgotten");
    }

    #[test]
    fn reports_that_no_node_settles_are_bounded_and_their_minutes_stay_unsettled() {
        let mut chain = ChainReports::default();
        for index in 0..1000 {
            chain.note(submitted(index));
        }
        assert_eq!(chain.about(NODE).count(), KEPT_MAX);
        chain.note(settled(999));
        assert!((1..=minute(998)).all(|minute| !chain.is_settled(NODE, minute)));
        assert!(chain.is_settled(NODE, minute(999)));
    }

    /// A report that no node settles holds nothing up: what is settled behind it stays so when both are forgotten.
    #[test]
    fn settled_reports_behind_an_open_one_stay_settled() {
        let mut chain = ChainReports::default();
        for index in 0..400 {
            chain.note(submitted(index));
            if index != 3 {
                chain.note(settled(index));
            }
        }
        assert_eq!(chain.about(NODE).count(), SETTLED_KEPT);
        let is_open = |at: u32| (minute(2) + 1..=minute(3)).contains(&at);
        let all = 0..=minute(399);
        assert!(all.clone().all(|at| chain.is_settled(NODE, at) != is_open(at)));
        assert!(!chain.is_settled(NODE, minute(399) + 1));
        chain.note(settled(3));
        assert!(all.into_iter().all(|at| chain.is_settled(NODE, at)), "settled late");
    }

    #[test]
    fn a_report_about_nothing_covers_no_minute() {
        let mut chain = ChainReports::default();
        let nothing = PayerReportChange::Submitted {
            start: SequenceId(0),
            end: SequenceId(0),
            end_minute: 500,
            root: EMPTY_ROOT,
            nodes: vec![100],
        };
        chain.note(event(0, nothing));
        let first = PayerReportEvent { index: 1, ..submitted(0) };
        chain.note(first);
        assert!(!chain.is_settled(NODE, minute(0)));
        chain.note(settled(1));
        assert!(chain.is_settled(NODE, minute(0)));
        assert!(!chain.is_settled(NODE, 500));
    }
}
