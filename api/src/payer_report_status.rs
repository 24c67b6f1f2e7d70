//! Counts of payer reports by stage for `/status` and the metrics. They are updated at intervals, so that no
//! request waits for a count.

use hawser_engine::runtime::{PayerReportTotals, PayerReporter, ReportStage, StageCounts};
use parking_lot::Mutex;
use serde::Serialize;

/// The last counts of payer reports.
pub(crate) struct PayerReportCounts {
    reporter: PayerReporter,
    last: Mutex<LastCount>,
}

/// The last good counts, and the error of the last attempt.
#[derive(Debug, Clone, Default)]
struct LastCount {
    counted: Option<(i64, StageCounts)>,
    fault: Option<String>,
}

/// Payer reports in `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StageReport {
    /// Time of the last count; absent before the first one.
    counted_unix_s: Option<i64>,
    /// The error of the last attempt to count them.
    fault: Option<String>,
    /// All stages, in the order in which a report passes them; empty before the first count.
    pub(crate) stages: Vec<StageRow>,
}

/// The reports at one stage in `/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct StageRow {
    pub(crate) stage: &'static str,
    pub(crate) reports: u64,
    /// Age of the oldest one, counted from the end of its last minute; absent without reports.
    pub(crate) oldest_age_s: Option<i64>,
}

impl PayerReportCounts {
    pub(crate) fn new(reporter: PayerReporter) -> Self {
        Self { reporter, last: Mutex::default() }
    }

    /// Returns the worker's totals since its creation.
    pub(crate) fn totals(&self) -> PayerReportTotals {
        self.reporter.totals()
    }

    /// Counts the reports at `now_s`, unix seconds. Blocks on the disk.
    pub(crate) fn count(&self, now_s: i64) {
        let counted = self.reporter.stage_counts();
        self.last.lock().note(now_s, counted.map_err(|error| error.to_string()));
    }

    /// Returns the last counts, with ages at `now_s`, unix seconds.
    pub(crate) fn report(&self, now_s: i64) -> StageReport {
        self.last.lock().report(now_s)
    }
}

impl LastCount {
    fn note(&mut self, now_s: i64, counted: Result<StageCounts, String>) {
        match counted {
            Ok(counts) => *self = Self { counted: Some((now_s, counts)), fault: None },
            Err(fault) => self.fault = Some(fault),
        }
    }

    fn report(&self, now_s: i64) -> StageReport {
        let row = |counts: &StageCounts, stage: ReportStage| {
            let count = counts.at(stage);
            let age_s = |minute| now_s.saturating_sub(60 * (i64::from(minute) + 1)).max(0);
            StageRow {
                stage: stage.label(),
                reports: count.reports,
                oldest_age_s: count.oldest_end_minute.map(age_s),
            }
        };
        let rows = |counts: &StageCounts| ReportStage::ALL.map(|stage| row(counts, stage));
        let counted = self.counted.as_ref();
        StageReport {
            counted_unix_s: counted.map(|(at_s, _)| *at_s),
            fault: self.fault.clone(),
            stages: counted.into_iter().flat_map(|(_, counts)| rows(counts)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_fails_leaves_the_last_one_and_says_why() {
        let mut last = LastCount::default();
        last.note(100, Err("the chain was not read yet".into()));
        let report = last.report(100);
        assert_eq!((report.counted_unix_s, report.stages.len()), (None, 0));
        assert_eq!(report.fault.as_deref(), Some("the chain was not read yet"));
        last.note(200, Ok(StageCounts::default()));
        let report = last.report(300);
        assert_eq!((report.counted_unix_s, report.fault), (Some(200), None));
        let names: Vec<_> = report.stages.iter().map(|row| row.stage).collect();
        assert_eq!(names, ["waiting", "refused", "attested", "submitted", "settled"]);
        assert!(report.stages.iter().all(|row| row.reports == 0 && row.oldest_age_s.is_none()));
        last.note(400, Err("the disk".into()));
        let report = last.report(400);
        assert_eq!((report.counted_unix_s, report.stages.len()), (Some(200), 5));
        assert_eq!(report.fault.as_deref(), Some("the disk"));
    }

    #[test]
    fn an_age_counts_from_the_end_of_a_minute_and_is_never_below_zero() {
        let mut counts = StageCounts::default();
        counts.note(ReportStage::Submitted, 10);
        counts.note(ReportStage::Waiting, u32::MAX);
        let mut last = LastCount::default();
        last.note(5000, Ok(counts));
        let stages = last.report(5000).stages;
        assert_eq!(stages[3].oldest_age_s, Some(5000 - 660));
        assert_eq!(stages[0].oldest_age_s, Some(0), "a writer that dates its report ahead");
    }
}
