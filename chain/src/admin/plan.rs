//! The transactions that an operation needs, in order.

use crate::contracts::artifact;
use crate::contracts::describe::{self, Description};
use crate::send::Call;

use super::contract::Contract;

/// One transaction of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanStep {
    /// The contract to call.
    pub contract: Contract,
    /// The function and its arguments.
    pub call: Call,
    /// True if the step can succeed only after earlier steps are mined, so that a trial run before that proves nothing.
    pub waits: bool,
}

impl PlanStep {
    /// Returns the call's function name and arguments in readable form.
    #[must_use]
    pub fn described(&self) -> Description {
        let contract = artifact::named(self.contract.interface());
        let described = contract.and_then(|contract| describe::call(contract, &self.call.data));
        described.expect("every step was encoded from the same interface")
    }
}

/// The remaining steps of an operation, with notes for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The steps in order. Empty if nothing remains to be done.
    pub steps: Vec<PlanStep>,
    /// Notes for the operator, as full sentences.
    pub notes: Vec<String>,
}

impl Plan {
    /// Returns a plan of these steps, without notes.
    pub(super) fn of(steps: impl IntoIterator<Item = PlanStep>) -> Self {
        Self { steps: steps.into_iter().collect(), notes: Vec::new() }
    }

    /// Returns an empty plan with the reason as a note.
    pub(super) fn nothing(why: impl Into<String>) -> Self {
        Self { steps: Vec::new(), notes: vec![why.into()] }
    }

    /// Adds a note.
    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Marks all steps as waiting for transactions outside this plan.
    #[must_use]
    pub fn waiting(mut self) -> Self {
        self.steps.iter_mut().for_each(|step| step.waits = true);
        self
    }

    /// Appends the steps of another plan. If this plan has steps, the appended ones wait for them.
    pub(super) fn then(mut self, next: Self) -> Self {
        let waits = !self.steps.is_empty();
        let next_steps = next.steps.into_iter();
        self.steps.extend(next_steps.map(|step| PlanStep { waits: step.waits || waits, ..step }));
        self.notes.extend(next.notes);
        self
    }
}
