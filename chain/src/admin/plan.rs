//! What is to be done: transactions in their order.

use crate::contracts::artifact;
use crate::contracts::describe::{self, Described};
use crate::send::Call;

use super::Contract;

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which contract it calls.
    pub contract: Contract,
    /// Function and arguments.
    pub call: Call,
    /// It can succeed only when the steps before it are mined: trying it earlier says nothing.
    pub waits: bool,
}

impl Step {
    /// The call by name and arguments.
    #[must_use]
    pub fn described(&self) -> Described {
        let contract = artifact::named(self.contract.interface());
        let described = contract.and_then(|contract| describe::call(contract, &self.call.data));
        described.expect("every step was encoded from the same interface")
    }
}

/// What is still to be done for something, and what people should know about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In their order. Empty when everything is as it should be.
    pub steps: Vec<Step>,
    /// Sentences.
    pub notes: Vec<String>,
}

impl Plan {
    pub(super) fn of(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), notes: Vec::new() }
    }

    /// Nothing is to be done, for this reason.
    pub(super) fn nothing(why: impl Into<String>) -> Self {
        Self { steps: Vec::new(), notes: vec![why.into()] }
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// The steps of another plan, after those of this one.
    pub(super) fn then(mut self, next: Self) -> Self {
        let waits = !self.steps.is_empty();
        let next_steps = next.steps.into_iter();
        self.steps.extend(next_steps.map(|step| Step { waits: step.waits || waits, ..step }));
        self.notes.extend(next.notes);
        self
    }
}
