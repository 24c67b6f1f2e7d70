//! Checks one update in steps.

use std::borrow::Borrow;

use hawser_proto::pb::xmtp::identity::associations as pb;

use super::change::CheckedChange;
use super::error::{IdentityError, IdentityViolation};
use super::pending_state;
use super::signature::{SignedText, Signer};
use super::state::AssociationState;
use super::text;
use super::update::{self, Action, Update};
use super::wallet::WalletQuestion;

/// A check of one update in steps of a bounded number of actions, for callers that have other work between the steps.
/// [`check`](super::check) does it in one step.
///
/// An update may have as many actions as a message has room for, and nearly all of the cost of its check is that of
/// their signatures.
pub struct UpdateCheck<U> {
    update: U,
    signed: SignedText,
    /// The first actions of the update, as far as their signatures are verified.
    verified: Vec<Action<Signer>>,
    /// The question for each contract wallet among the signers, with the index of its action.
    questions: Vec<(usize, WalletQuestion)>,
}

impl<U: Borrow<pb::IdentityUpdate>> UpdateCheck<U> {
    /// Reads an update and computes the text that its signatures cover. Verifies nothing yet.
    ///
    /// # Errors
    /// Returns an error if the update is malformed.
    pub fn begin(update: U) -> Result<Self, IdentityError> {
        let text = text::signed_text(&update::parse(update.borrow())?);
        let (signed, verified, questions) = (SignedText::new(text), Vec::new(), Vec::new());
        Ok(Self { update, signed, verified, questions })
    }

    /// Verifies the signatures of the next `actions_max` actions, except those of contract wallets. Returns the number
    /// of actions; fewer than `actions_max` means that there are no further ones.
    ///
    /// # Errors
    /// Returns an error if a signature is invalid. The check must then be dropped.
    pub fn verify_next(&mut self, actions_max: usize) -> Result<usize, IdentityError> {
        let update: &pb::IdentityUpdate = self.update.borrow();
        let (signed, first) = (&self.signed, self.verified.len());
        for (place, given) in update.actions.iter().enumerate().skip(first).take(actions_max) {
            let in_action = |violation: IdentityViolation| violation.in_action(place);
            let action = update::action(given).map_err(in_action)?;
            let verified = action.try_map(|claim| claim.verify(signed)).map_err(in_action)?;
            let asked = action.signatures().filter_map(|claim| claim.question(signed));
            self.questions.extend(asked.map(|question| (place, question)));
            self.verified.push(verified);
        }
        Ok(self.verified.len() - first)
    }

    /// Verifies the remaining signatures, and checks the update against the state of its inbox before the update.
    /// Leaves out the answers of contract wallets.
    ///
    /// # Errors
    /// Returns an error if the update is invalid, independently of contract wallets' answers.
    pub fn finish(
        mut self,
        before: Option<&AssociationState>,
    ) -> Result<CheckedChange, IdentityError> {
        self.verify_next(usize::MAX)?;
        let Self { update, verified: actions, questions, .. } = self;
        let update: &pb::IdentityUpdate = update.borrow();
        let (inbox_id, client_timestamp_ns) =
            (update.inbox_id.as_str(), update.client_timestamp_ns);
        let supposed = Update { inbox_id, client_timestamp_ns, actions };
        Ok(CheckedChange { delta: pending_state::changes(before, &supposed)?, questions })
    }
}
