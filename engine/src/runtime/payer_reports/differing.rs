//! Reports for which this node computed other figures.

use std::collections::{BTreeMap, HashMap};

use hawser_proto::OriginatorId;
use hawser_rules::payer_report::{ReportDifference, ReportId};

/// Differing reports that are remembered, so that none is recomputed at every look. A guess: many times the number of
/// reports that nodes write while one of them can still be submitted.
const DIFFERING_MAX: usize = 4096;
/// Looks after which a refused report is judged again: this node's figures may have been wrong. A guess: a small part
/// of the cost of judging at each.
const LOOKS_OF_A_REFUSAL: u8 = 10;

/// The reports for which this node computed other figures, by id. Bounded: all are forgotten when there are too many.
#[derive(Debug, Default)]
pub(super) struct DifferingReports(HashMap<ReportId, DifferingReport>);

/// A report for which this node computed other figures.
#[derive(Debug, Default)]
struct DifferingReport {
    about: OriginatorId,
    /// The differences. Their size is bounded, because the worker searches for no cause.
    differences: Vec<ReportDifference>,
    /// Looks that have used it since it was computed.
    looks: u8,
    is_logged: bool,
    /// The writers whose envelopes were recorded as evidence, or are known to be none, each with true if that was also
    /// beside an envelope of its own that contradicts the report.
    weighed: BTreeMap<OriginatorId, bool>,
}

impl DifferingReports {
    /// Returns true if a report was refused when it was last judged.
    pub(super) fn contains(&self, id: ReportId) -> bool {
        self.0.contains_key(&id)
    }

    /// Returns the differences of a report that was refused a few looks ago, or at any time if it may not be judged
    /// again. Counts a look.
    pub(super) fn refused_before(
        &mut self,
        id: ReportId,
        may_judge: bool,
    ) -> Option<Vec<ReportDifference>> {
        let report = self.0.get_mut(&id)?;
        report.looks = report.looks.saturating_add(1);
        let is_old = report.looks >= LOOKS_OF_A_REFUSAL;
        (!is_old || !may_judge).then(|| report.differences.clone())
    }

    /// Has a refused report judged at the next look.
    pub(super) fn judge_again(&mut self, id: ReportId) {
        if let Some(report) = self.0.get_mut(&id) {
            report.looks = LOOKS_OF_A_REFUSAL;
        }
    }

    /// Has all refused reports about an originator judged at the next look.
    pub(super) fn judge_all_again(&mut self, about: OriginatorId) {
        for report in self.0.values_mut().filter(|it| it.about == about) {
            report.looks = LOOKS_OF_A_REFUSAL;
        }
    }

    /// Remembers the differences of a report about an originator.
    pub(super) fn remember(
        &mut self,
        id: ReportId,
        about: OriginatorId,
        differences: &[ReportDifference],
    ) {
        if self.0.len() >= DIFFERING_MAX && !self.0.contains_key(&id) {
            self.0.clear();
        }
        let report = self.0.entry(id).or_default();
        report.about = about;
        report.differences = differences.to_vec();
        report.looks = 0;
    }

    /// Forgets a report that this node now computes as its writer did.
    pub(super) fn forget(&mut self, id: ReportId) {
        self.0.remove(&id);
    }

    /// Notes that a refused report is logged now. Returns true if it was logged before.
    pub(super) fn note_logged(&mut self, id: ReportId) -> bool {
        let report = self.0.get_mut(&id);
        report.is_some_and(|report| std::mem::replace(&mut report.is_logged, true))
    }

    /// Returns true if a writer's envelope with a refused report is recorded as evidence, or is known to be no
    /// evidence. If another report of the writer contradicts this report, the pair has to be weighed as well. A
    /// contradicting report is weighed once, however often it leaves the newest envelopes and comes back.
    pub(super) fn is_weighed(
        &self,
        id: ReportId,
        writer: OriginatorId,
        is_contradicted: bool,
    ) -> bool {
        let beside = self.0.get(&id).and_then(|report| report.weighed.get(&writer));
        beside.is_some_and(|beside| *beside || !is_contradicted)
    }

    /// Notes that a writer's envelope with a refused report is recorded as evidence, or is no evidence. If another
    /// report of the writer contradicts this report, also notes the pair.
    pub(super) fn note_weighed(
        &mut self,
        id: ReportId,
        writer: OriginatorId,
        is_contradicted: bool,
    ) {
        if let Some(report) = self.0.get_mut(&id) {
            *report.weighed.entry(writer).or_default() |= is_contradicted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: OriginatorId = OriginatorId(100);

    fn id(number: u64) -> ReportId {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        ReportId(id)
    }

    fn found() -> Vec<ReportDifference> {
        vec![ReportDifference::EndMinute { reported: 6, held: 5 }]
    }

    #[test]
    fn a_refused_report_is_judged_again_after_some_looks_and_logged_once() {
        let mut differing = DifferingReports::default();
        assert!(!differing.note_logged(id(1)), "it is not known");
        differing.remember(id(1), ABOUT, &found());
        assert!(!differing.note_logged(id(1)) && differing.note_logged(id(1)));
        let looks = 0..2 * LOOKS_OF_A_REFUSAL;
        let by_memory = looks.filter(|_| differing.refused_before(id(1), true).is_some()).count();
        assert_eq!(by_memory, usize::from(LOOKS_OF_A_REFUSAL) - 1);
        assert_eq!(differing.refused_before(id(1), false), Some(found()), "it may not be judged");
        differing.remember(id(1), ABOUT, &found());
        assert!(differing.refused_before(id(1), true).is_some() && differing.note_logged(id(1)));
        differing.judge_all_again(OriginatorId(200));
        assert!(differing.refused_before(id(1), true).is_some(), "another originator");
        differing.judge_all_again(ABOUT);
        assert_eq!(differing.refused_before(id(1), true), None);
    }

    #[test]
    fn each_writer_of_a_report_is_weighed_once_alone_and_once_beside_a_contradiction() {
        let mut differing = DifferingReports::default();
        let (one, other) = (OriginatorId(300), OriginatorId(400));
        differing.remember(id(1), ABOUT, &found());
        assert!(!differing.is_weighed(id(1), one, false));
        differing.note_weighed(id(1), one, false);
        assert!(differing.is_weighed(id(1), one, false));
        assert!(!differing.is_weighed(id(1), one, true), "a contradiction has come");
        assert!(!differing.is_weighed(id(1), other, false), "another writer");
        differing.note_weighed(id(1), one, true);
        differing.remember(id(1), ABOUT, &found());
        assert!(differing.is_weighed(id(1), one, true));
        assert!(differing.is_weighed(id(1), one, false), "the contradiction is no longer read");
    }

    #[test]
    fn the_number_of_remembered_reports_is_bounded() {
        let mut differing = DifferingReports::default();
        for number in 0..DIFFERING_MAX as u64 + 2 {
            differing.remember(id(number), ABOUT, &[]);
            assert!(differing.contains(id(number)));
        }
        assert!(differing.0.len() <= DIFFERING_MAX);
    }
}
