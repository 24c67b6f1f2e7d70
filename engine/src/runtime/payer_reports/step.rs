//! One step of the worker at an operator's request. The operator gets the outcome for each report, in a dry
//! run the outcome that the step would have.

use hawser_proto::OriginatorId;
use hawser_rules::payer_report::{ReportDifference, ReportId};

use super::verdict::{PayerReportVerdict, UNJUDGED};
use super::{Attested, Draft, PayerReporter, ReportStepError, Submitted, Written, blocking};

/// A step of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportStep {
    /// Writes reports that are due.
    Generate,
    /// Signs the reports for which this node computes the same figures.
    Attest,
    /// Submits the reports that a majority has attested.
    Submit,
    /// Settles the unsettled leaves of reports on the chain.
    Settle,
}

/// The state of a report, or of an originator without one, after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// The step was taken now.
    Done,
    /// A dry run found that the step would be taken.
    Would,
    /// There is nothing to do: it was done before, or is not due.
    Nothing,
    /// The step has to wait for another node, or for more knowledge.
    Waiting,
    /// This node computes another report.
    Refused,
    /// The step could not be taken.
    Failed,
}

/// The outcome of a step for one report, or for an originator without a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepOutcome {
    /// The originator that the report is about.
    pub about: OriginatorId,
    /// The report; `None` if there is none, or it is known from the chain by its place only.
    pub report: Option<ReportId>,
    /// The outcome.
    pub state: StepState,
    /// The reason, or the extent, for the operator.
    pub detail: String,
}

type Outcomes = Result<Vec<StepOutcome>, ReportStepError>;

impl PayerReporter {
    /// Takes a step for one originator now, at any minute of the hour; a dry run changes nothing. A step that was
    /// taken before changes nothing either.
    pub async fn step(
        &self,
        step: ReportStep,
        about: OriginatorId,
        is_dry: bool,
    ) -> Vec<StepOutcome> {
        let outcome = |state, detail| vec![StepOutcome { about, report: None, state, detail }];
        // A folder that may lack the end of the own strand may lack what this node has signed.
        if let Err(error) = self.0.engine.may_sign() {
            return outcome(StepState::Failed, error.to_string());
        }
        let outcomes = match step {
            ReportStep::Generate => self.generate(about, is_dry).await,
            ReportStep::Attest => self.attest_by_hand(about, is_dry).await,
            ReportStep::Submit => self.submit_by_hand(about, is_dry).await,
            ReportStep::Settle => self.settle_by_hand(about, is_dry).await,
        };
        outcomes.unwrap_or_else(|error| match error.passes_by_itself() {
            true => outcome(StepState::Waiting, error.to_string()),
            false => outcome(StepState::Failed, error.to_string()),
        })
    }

    /// Writes the report that is due; a dry run only names it.
    async fn generate(&self, about: OriginatorId, is_dry: bool) -> Outcomes {
        let (written, wrote) = match is_dry {
            false => (self.write(about).await?, StepState::Done),
            true => {
                let state = self.0.clone();
                let written = match blocking(move || state.draft(about)).await? {
                    Draft::Report(report) => Written::New(report.id(self.0.domain)),
                    Draft::Nothing(why) => why,
                };
                (written, StepState::Would)
            }
        };
        let (report, state, detail) = match written {
            Written::New(id) => (Some(id), wrote, "a report is due"),
            Written::Known(id) => (Some(id), StepState::Nothing, "this node wrote it before"),
            Written::NotDue => (None, StepState::Nothing, "the last report is too new"),
            Written::UnderWay => {
                (None, StepState::Nothing, "a report of the same range waits for its submission")
            }
            Written::TooLittle => (None, StepState::Nothing, "fewer than two minutes have usage"),
        };
        Ok(vec![StepOutcome { about, report, state, detail: detail.to_owned() }])
    }

    /// Attests the reports that equal this node's; a dry run only names them.
    async fn attest_by_hand(&self, about: OriginatorId, is_dry: bool) -> Outcomes {
        let attested = match is_dry {
            false => self.attest(about).await?,
            true => {
                let state = self.0.clone();
                let looked = blocking(move || state.look(about)).await?;
                let of = |verdict| match verdict {
                    PayerReportVerdict::Attested => Attested::Before,
                    PayerReportVerdict::Equal => Attested::Signed,
                    PayerReportVerdict::Different(differences) => Attested::Refused(differences),
                    PayerReportVerdict::NotNow(why) => Attested::NotNow(why),
                    PayerReportVerdict::Unjudged => Attested::NotNow(UNJUDGED.to_owned()),
                };
                looked.into_iter().map(|(held, verdict)| (held.id, of(verdict))).collect()
            }
        };
        let outcome = |(id, attested)| {
            let (state, detail) = match attested {
                Attested::Signed if is_dry => (StepState::Would, SAME.to_owned()),
                Attested::Signed => (StepState::Done, SAME.to_owned()),
                Attested::Before => (StepState::Nothing, "attested before".to_owned()),
                Attested::Refused(differences) => (StepState::Refused, joined(&differences)),
                Attested::NotNow(why) => (StepState::Waiting, why),
            };
            StepOutcome { about, report: Some(id), state, detail }
        };
        Ok(attested.into_iter().map(outcome).collect())
    }

    /// Submits the reports that a majority has attested; a dry run only names them.
    async fn submit_by_hand(&self, about: OriginatorId, is_dry: bool) -> Outcomes {
        let _turn = self.0.turn().await;
        let state = self.0.clone();
        let mut outcomes = Vec::new();
        for (held, ready) in blocking(move || state.to_submit(about)).await? {
            let (state, detail) = match ready {
                Err(why) => (StepState::Waiting, why),
                Ok(majority) if is_dry => {
                    (StepState::Would, format!("{} attestations count", majority.counted.len()))
                }
                Ok(majority) => match self.0.submit_one(&held, &majority).await {
                    Ok(Submitted::Now) => (StepState::Done, "the chain has taken it".to_owned()),
                    Ok(Submitted::Before) => {
                        (StepState::Nothing, "another node was faster".to_owned())
                    }
                    Ok(Submitted::Superseded) => {
                        (StepState::Nothing, "the chain has another report from there".to_owned())
                    }
                    Err(error) => (StepState::Failed, error.to_string()),
                },
            };
            outcomes.push(StepOutcome { about, report: Some(held.id), state, detail });
        }
        Ok(outcomes)
    }

    /// Settles the leaves that are left, and looks for late releases as the worker does; a dry run only counts the
    /// leaves.
    async fn settle_by_hand(&self, about: OriginatorId, is_dry: bool) -> Outcomes {
        let _turn = self.0.turn().await;
        if !is_dry {
            let state = self.0.clone();
            blocking(move || state.note_late_releases(about)).await?;
        }
        let state = self.0.clone();
        let unsettled = blocking(move || state.unsettled(about)).await?;
        let mut outcomes = Vec::new();
        for on_chain in &unsettled {
            let settled = match is_dry {
                false => {
                    let settled = self.0.settle_one(on_chain, usize::MAX).await;
                    settled.map(|part| part.leaves)
                }
                true => {
                    let left = self.0.left_to_settle(on_chain).await;
                    left.map(|(leaves, settled)| leaves.payers().len() - settled)
                }
            };
            let (state, detail) = match settled {
                Ok(0) => (StepState::Nothing, "no leaf is left".to_owned()),
                Ok(1) if is_dry => (StepState::Would, "1 leaf is left".to_owned()),
                Ok(leaves) if is_dry => (StepState::Would, format!("{leaves} leaves are left")),
                Ok(1) => (StepState::Done, "1 leaf settled".to_owned()),
                Ok(leaves) => (StepState::Done, format!("{leaves} leaves settled")),
                Err(error @ ReportStepError::OtherAmounts { .. }) => {
                    (StepState::Refused, error.to_string())
                }
                Err(error) if error.passes_by_itself() => (StepState::Waiting, error.to_string()),
                Err(error) => (StepState::Failed, error.to_string()),
            };
            let detail = format!("report {}: {detail}", on_chain.index);
            let report = on_chain.report().map(|report| report.id(self.0.domain));
            outcomes.push(StepOutcome { about, report, state, detail });
        }
        Ok(outcomes)
    }
}

const SAME: &str = "this node comes to the same report";

fn joined(differences: &[ReportDifference]) -> String {
    let differences: Vec<_> = differences.iter().map(ReportDifference::to_string).collect();
    differences.join("; ")
}
