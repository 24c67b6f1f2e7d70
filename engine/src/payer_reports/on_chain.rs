//! Payer reports on the chain, as the recorded events of its contract say.

use std::collections::BTreeMap;

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
    /// Returns the report; `None` if this node would not have read it as one.
    #[must_use]
    pub fn report(&self) -> Option<PayerReport> {
        let nodes = NodeIds::new(self.nodes.clone()).ok()?;
        PayerReport::new(self.originator, self.start, self.end, self.root, nodes).ok()
    }
}

/// All reports on the chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainReports(BTreeMap<OriginatorId, BTreeMap<u64, ChainReport>>);

impl ChainReports {
    /// Reads the events of the contract, in the order of the chain.
    #[must_use]
    pub fn of_events(events: impl IntoIterator<Item = PayerReportEvent>) -> Self {
        let mut all: BTreeMap<OriginatorId, BTreeMap<u64, ChainReport>> = BTreeMap::new();
        for PayerReportEvent { originator, index, change, .. } in events {
            let reports = all.entry(originator).or_default();
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
                    reports.entry(index).or_insert(report);
                }
                PayerReportChange::Settled { leaves, left, microdollars } => {
                    // A settlement without its submission is of an endpoint that leaves events out.
                    let Some(report) = reports.get_mut(&index) else { continue };
                    report.leaves_settled = report.leaves_settled.saturating_add(leaves);
                    report.microdollars = report.microdollars.saturating_add(microdollars);
                    report.is_settled = left == 0;
                }
            }
        }
        Self(all)
    }

    /// Iterates over the reports about one originator, in the contract's order.
    pub fn about(&self, originator: OriginatorId) -> impl DoubleEndedIterator<Item = &ChainReport> {
        self.0.get(&originator).into_iter().flat_map(BTreeMap::values)
    }

    /// Iterates over all reports, by originator and index.
    pub fn all(&self) -> impl Iterator<Item = &ChainReport> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// Returns the end of the last report about an originator; `None` before the first one.
    #[must_use]
    pub fn last_end(&self, originator: OriginatorId) -> Option<RangeEnd> {
        self.about(originator).next_back().map(|report| report.end)
    }

    /// Returns true if the contract has taken this report.
    #[must_use]
    pub fn has(&self, report: &PayerReport) -> bool {
        let same = |it: &&ChainReport| {
            (it.start, it.end, it.root) == (report.start(), report.end(), report.root())
        };
        self.about(report.originator()).any(|it| same(&it))
    }

    /// Returns true if usage at an originator in this minute is settled: a report that has no leaf left covers it. The
    /// range of a report begins after the minute in which the one before it ends.
    #[must_use]
    pub fn is_settled(&self, originator: OriginatorId, minute: u32) -> bool {
        let mut after = None;
        for report in self.about(originator) {
            let is_in = after.is_none_or(|after| minute > after) && minute <= report.end.minute;
            if is_in && report.start != report.end.sequence {
                return report.is_settled;
            }
            after = Some(report.end.minute);
        }
        false
    }
}
