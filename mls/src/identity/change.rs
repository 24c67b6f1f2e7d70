//! A checked update, and how contract wallets' answers decide on it.

use std::collections::BTreeSet;

use hawser_proto::Digest;

use super::error::{IdentityError, IdentityViolation};
use super::state::{AssociationState, StateDelta};
use super::wallet::WalletQuestion;

/// The effect of an update that is valid if its contract wallets agree.
#[derive(Debug)]
pub struct CheckedChange {
    pub(super) delta: StateDelta,
    /// The question for each contract wallet, with the index of its action.
    pub(super) questions: Vec<(usize, WalletQuestion)>,
}

/// The meaning of contract wallets' answers for an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeDecision {
    /// All wallets agree, or none signs: the update is valid.
    Agreed,
    /// A wallet does not agree: the update is invalid.
    Refused(IdentityError),
    /// These questions have no answer yet, each named once.
    Open(Vec<WalletQuestion>),
}

impl CheckedChange {
    /// Returns the number of questions to contract wallets, repeated ones included.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.questions.len()
    }

    /// Returns the digest that all contract wallets of the update sign; `None` if none signs.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.questions.first().map(|(_, question)| question.digest)
    }

    /// Decides by the answers of contract wallets; `answer` returns `None` while one is unknown.
    pub fn decide(&self, answer: impl Fn(&WalletQuestion) -> Option<bool>) -> ChangeDecision {
        self.decide_by_index(|_, question| answer(question))
    }

    /// Decides as [`decide`](Self::decide) does. `answer` also gets the index of the question, which is the same
    /// whenever the same update is checked.
    pub fn decide_by_index(
        &self,
        mut answer: impl FnMut(usize, &WalletQuestion) -> Option<bool>,
    ) -> ChangeDecision {
        let mut open: BTreeSet<&WalletQuestion> = BTreeSet::new();
        let mut in_order = Vec::new();
        for (index, (action, question)) in self.questions.iter().enumerate() {
            match answer(index, question) {
                Some(true) => {}
                Some(false) => {
                    let violation =
                        IdentityViolation::Signature("the contract wallet does not agree");
                    return ChangeDecision::Refused(violation.in_action(*action));
                }
                None => {
                    if open.insert(question) {
                        in_order.push(question.clone());
                    }
                }
            }
        }
        if in_order.is_empty() { ChangeDecision::Agreed } else { ChangeDecision::Open(in_order) }
    }

    /// Applies the update to the state that it was checked against, and returns the state after it.
    ///
    /// # Panics
    /// Panics if `state` is `None` although the update was checked against a state.
    pub fn apply(self, state: &mut Option<AssociationState>) -> &AssociationState {
        let Self { mut delta, .. } = self;
        if let Some(founded) = delta.founded.take() {
            *state = Some(founded);
        }
        let state = state.as_mut().expect("an update that founds no inbox was checked against one");
        state.apply(delta);
        state
    }

    /// Returns an estimate of the memory that this takes, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        let questions = self.questions.iter().map(|(_, question)| 256 + question.signature.len());
        self.delta.weight() + questions.sum::<usize>()
    }
}
