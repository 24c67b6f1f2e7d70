//! Runs steps of the payer report worker at an operator's request.

use std::time::Duration;

use hawser_engine::runtime::{PayerReporter, ReportStep, StepOutcome, StepState};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::error::RunError;

/// The largest number of reported outcomes, so that they fit into a line. A guess: many times the waiting reports.
const OUTCOMES_MAX: usize = 1000;
/// The longest reason of one outcome in bytes. A guess: enough for the differences of an honest mistake.
const DETAIL_LEN_BYTES_MAX: usize = 500;
/// The interval at which the end of the command or the node is checked. A guess.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The requested step.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepOrder {
    pub(super) step: ReportStep,
    /// The originator; `None` for all.
    pub(super) about: Option<u32>,
    pub(super) is_dry: bool,
}

/// Runs a step for the requested originators and returns the outcome for each report. Ends between two originators, or
/// while waiting for the chain, when `is_unwanted`; a transaction in flight is found by the next step. Blocks, and must
/// be called on a blocking thread of a tokio runtime.
///
/// # Errors
/// Fails when the node has no payer report worker, does not handle this originator, or is stopped.
pub(super) fn take(
    reporter: Option<&PayerReporter>,
    order: StepOrder,
    is_unwanted: &mut dyn FnMut() -> bool,
) -> Result<Value, RunError> {
    let Some(reporter) = reporter else {
        return Err(RunError::refused(
            "this node does not work on payer reports: see --payer-report.enable, and the address of PayerReportManager",
        ));
    };
    let mut originators = reporter.originators();
    if let Some(about) = order.about {
        originators.retain(|it| it.0 == about);
        if originators.is_empty() {
            return Err(RunError::refused(format!(
                "originator {about} is not a node of the registry"
            )));
        }
    }
    let outcomes = Handle::current().block_on(async {
        let mut outcomes = Vec::new();
        for about in originators {
            tokio::select! {
                more = reporter.step(order.step, about, order.is_dry) => outcomes.extend(more),
                () = until(is_unwanted) => return Err(RunError::failed("the command was stopped before it was done")),
            }
        }
        Ok(outcomes)
    })?;
    let (rows, left_off) = rows(outcomes);
    Ok(json!({ "dry_run": order.is_dry, "outcomes": rows, "left_off": left_off }))
}

async fn until(is_so: &mut dyn FnMut() -> bool) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if is_so() {
            return;
        }
    }
}

/// Returns the outcomes for which the reply has room, and the number of the others. Failed and refused ones come first
/// then: they decide the exit code, and a node that floods the topics of reports must not hide them.
fn rows(mut outcomes: Vec<StepOutcome>) -> (Vec<Value>, usize) {
    let left_off = outcomes.len().saturating_sub(OUTCOMES_MAX);
    if left_off > 0 {
        outcomes.sort_by_key(|outcome| match outcome.state {
            StepState::Failed => 0,
            StepState::Refused => 1,
            StepState::Done | StepState::Would | StepState::Nothing | StepState::Waiting => 2,
        });
    }
    (outcomes.iter().take(OUTCOMES_MAX).map(row).collect(), left_off)
}

fn row(outcome: &StepOutcome) -> Value {
    let state = match outcome.state {
        StepState::Done => "done",
        StepState::Would => "would",
        StepState::Nothing => "nothing",
        StepState::Waiting => "waiting",
        StepState::Refused => "refused",
        StepState::Failed => "failed",
    };
    let end = outcome.detail.floor_char_boundary(DETAIL_LEN_BYTES_MAX);
    json!({
        "originator_id": outcome.about.0,
        "report": outcome.report.map(|id| id.to_string()),
        "state": state,
        "detail": &outcome.detail[..end],
    })
}

#[cfg(test)]
mod tests {
    use hawser_proto::OriginatorId;

    use super::*;

    /// A node has written reports of many ranges about each originator, and a later step has failed.
    #[test]
    fn many_outcomes_hide_no_step_that_failed_or_was_refused() {
        let outcome = |about, state| {
            let (about, detail) = (OriginatorId(about), "a reason".to_owned());
            StepOutcome { about, report: None, state, detail }
        };
        let many = u32::try_from(OUTCOMES_MAX).unwrap();
        let mut outcomes: Vec<_> = (0..many).map(|at| outcome(at, StepState::Waiting)).collect();
        let (shown, left_off) = rows(outcomes.clone());
        assert_eq!((shown.len(), left_off), (OUTCOMES_MAX, 0));
        assert_eq!(shown[0]["originator_id"], 0);
        outcomes.push(outcome(many, StepState::Refused));
        outcomes.push(outcome(many + 1, StepState::Failed));
        let (shown, left_off) = rows(outcomes);
        assert_eq!((shown.len(), left_off), (OUTCOMES_MAX, 2));
        let first = shown.iter().take(3).map(|row| (&row["state"], &row["originator_id"]));
        let expected =
            [json!(["failed", many + 1]), json!(["refused", many]), json!(["waiting", 0])];
        assert_eq!(first.map(|it| json!([it.0, it.1])).collect::<Vec<_>>(), expected);
    }
}
