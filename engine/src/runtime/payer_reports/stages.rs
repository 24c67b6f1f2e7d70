//! The number of payer reports at each stage of their way, for the status of a node.

use super::{PayerReporter, ReportStepError};

/// Stage of a report, as this node sees it. Taken from the worker's last result, without judging the report again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReportStage {
    /// A node has written it. This node has neither attested nor refused it.
    Waiting,
    /// This node computed another report when the worker last judged it.
    Refused,
    /// This node has attested it. It waits for others, or for its submission.
    Attested,
    /// The chain has it, and some of it is not settled.
    Submitted,
    /// The chain has settled it.
    Settled,
}

impl ReportStage {
    /// All stages.
    pub const ALL: [Self; 5] =
        [Self::Waiting, Self::Refused, Self::Attested, Self::Submitted, Self::Settled];

    /// Returns the name that operators see.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Refused => "refused",
            Self::Attested => "attested",
            Self::Submitted => "submitted",
            Self::Settled => "settled",
        }
    }
}

/// The reports at one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageCount {
    /// Their number.
    pub reports: u64,
    /// The earliest end of these reports, in minutes since 1970; `None` without reports. If no node has attested the
    /// report, the minute is an unproven statement of its writer.
    pub oldest_end_minute: Option<u32>,
}

/// The reports of all originators by stage. Of bounded size, however many reports there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageCounts([StageCount; ReportStage::ALL.len()]);

impl StageCounts {
    /// Returns the reports at a stage.
    #[must_use]
    pub fn at(&self, stage: ReportStage) -> StageCount {
        self.0[stage as usize]
    }

    /// Counts a report that ends in this minute, since 1970.
    pub fn note(&mut self, stage: ReportStage, end_minute: u32) {
        let count = &mut self.0[stage as usize];
        count.reports += 1;
        let oldest = count.oldest_end_minute.get_or_insert(end_minute);
        *oldest = end_minute.min(*oldest);
    }
}

impl PayerReporter {
    /// Counts the reports by stage: the newest reports on the chain, reports on the chain with unsettled leaves, and
    /// reports that would continue them. Judges no report, so the number of reads is bounded for each pair of nodes.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`ReportStepError::Unread`] if the reports about an originator cannot be read, or another [`ReportStepError`].
    pub fn stage_counts(&self) -> Result<StageCounts, ReportStepError> {
        let state = &self.0;
        let chain = state.chain()?;
        let mut counts = StageCounts::default();
        for about in self.originators() {
            for kept in chain.about(about) {
                let is_settled = kept.is_settled;
                let stage = if is_settled { ReportStage::Settled } else { ReportStage::Submitted };
                counts.note(stage, kept.last_minute());
            }
            let continuing = state.continuing(about);
            for held in continuing.map_err(|cause| ReportStepError::unread(about, cause))? {
                let stage = if held.is_attested_by(state.own()) {
                    ReportStage::Attested
                } else if state.differing.lock().contains(held.id) {
                    ReportStage::Refused
                } else {
                    ReportStage::Waiting
                };
                counts.note(stage, held.report.end().minute);
            }
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_report_of_a_stage_is_the_one_that_ends_first() {
        let mut counts = StageCounts::default();
        for minute in [70, 50, 60] {
            counts.note(ReportStage::Submitted, minute);
        }
        counts.note(ReportStage::Waiting, 10);
        let submitted = StageCount { reports: 3, oldest_end_minute: Some(50) };
        assert_eq!(counts.at(ReportStage::Submitted), submitted);
        assert_eq!(counts.at(ReportStage::Settled), StageCount::default());
        for (place, stage) in ReportStage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, place, "{}", stage.label());
        }
    }
}
