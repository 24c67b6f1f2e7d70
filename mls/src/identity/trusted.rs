//! Applies updates that were judged valid earlier. Verifies no signature again, so a long log is cheap.

use std::borrow::Borrow;

use hawser_proto::pb::xmtp::identity::associations as pb;

use super::change::CheckedChange;
use super::error::{IdentityError, IdentityViolation};
use super::member::MemberIdentifier;
use super::pending_state::{PendingChanges, PendingState};
use super::signature::{SignedText, Signer, UnverifiedSignature};
use super::state::AssociationState;
use super::text;
use super::update::{self, Action};

/// An update that was judged valid earlier, while it is applied in steps of a bounded number of actions, for callers
/// that have other work between the steps. [`add_trusted`] applies it in one step.
///
/// Recovers an account from its signature only if several accounts could have signed, and the wallets of delegated
/// keys. These are the largest part of the cost of such an update.
pub struct TrustedUpdate<U> {
    update: U,
    signed: SignedText,
    /// The number of the first actions whose effect is in `changes`.
    applied: usize,
    changes: PendingChanges,
    /// The number of accounts that were recovered.
    recovered: usize,
}

impl<U: Borrow<pb::IdentityUpdate>> TrustedUpdate<U> {
    /// Reads an update and computes the text that its signatures cover. Applies nothing yet.
    ///
    /// # Errors
    /// Returns an error if the update is malformed.
    pub fn begin(update: U) -> Result<Self, IdentityError> {
        let text = text::signed_text(&update::parse(update.borrow())?);
        let (signed, changes) = (SignedText::new(text), PendingChanges::default());
        Ok(Self { update, signed, applied: 0, changes, recovered: 0 })
    }

    /// Applies the next `actions_max` actions, without a change of `before`, the state before the update, which is the
    /// same in each step. Returns the number of actions; fewer than `actions_max` means that there are no further ones.
    ///
    /// # Errors
    /// Returns an error if the update cannot have been valid after that state. It must then be dropped.
    pub fn apply_next(
        &mut self,
        before: Option<&AssociationState>,
        actions_max: usize,
    ) -> Result<usize, IdentityError> {
        let update: &pb::IdentityUpdate = self.update.borrow();
        let (first, changes) = (self.applied, std::mem::take(&mut self.changes));
        let mut pending = PendingState::resume(before, update.client_timestamp_ns, changes);
        for (place, given) in update.actions.iter().enumerate().skip(first).take(actions_max) {
            update::action(given)
                .and_then(|action| trusted(&action, &pending, &self.signed, &mut self.recovered))
                .and_then(|action| pending.apply(&action))
                .map_err(|violation| violation.in_action(place))?;
            self.applied = place + 1;
        }
        self.changes = pending.suspend();
        Ok(self.applied - first)
    }

    /// Applies the remaining actions, and advances `state`, which is the state before the update. Returns the number of
    /// accounts that were recovered from signatures in all steps.
    ///
    /// # Errors
    /// Returns an error if the update cannot have been valid in this place. `state` is then unchanged.
    pub fn finish(mut self, state: &mut Option<AssociationState>) -> Result<usize, IdentityError> {
        self.apply_next(state.as_ref(), usize::MAX)?;
        let Self { update, changes, recovered, .. } = self;
        let update: &pb::IdentityUpdate = update.borrow();
        let pending = PendingState::resume(state.as_ref(), update.client_timestamp_ns, changes);
        let delta = pending.finish(&update.inbox_id).map_err(IdentityViolation::in_update)?;
        CheckedChange { delta, questions: Vec::new() }.apply(state);
        Ok(recovered)
    }
}

/// Applies an update that was judged valid earlier to `state`. Returns the number of accounts that were recovered from
/// signatures, which are the largest part of the cost.
///
/// # Errors
/// Returns an error if the update cannot have been valid in this place. `state` is then unchanged.
pub fn add_trusted(
    state: &mut Option<AssociationState>,
    update: &pb::IdentityUpdate,
) -> Result<usize, IdentityError> {
    TrustedUpdate::begin(update)?.finish(state)
}

/// Applies updates as [`add_trusted`] does, and returns the state after them.
///
/// # Errors
/// Returns an error if the updates cannot all have been valid in this order.
pub fn fold_trusted<'a>(
    mut state: Option<AssociationState>,
    updates: impl IntoIterator<Item = &'a pb::IdentityUpdate>,
) -> Result<Option<AssociationState>, IdentityError> {
    for update in updates {
        add_trusted(&mut state, update)?;
    }
    Ok(state)
}

/// Returns a valid action with its signers. Most signers follow from the action and the state, without a signature
/// check; adds those that do not to `recovered`.
fn trusted(
    action: &Action<UnverifiedSignature<'_>>,
    pending: &PendingState<'_>,
    signed: &SignedText,
    recovered: &mut usize,
) -> Result<Action<Signer>, IdentityViolation> {
    let by = match action {
        Action::Create { account, .. } => Some(account),
        Action::Add { .. } => pending.only_account(),
        Action::Revoke { .. } | Action::ChangeRecovery { .. } => pending.recovery(),
    };
    let new = match action {
        Action::Add { member, .. } => Some(member),
        _ => None,
    };
    let known: [Option<&MemberIdentifier>; 2] = [by, new];
    let mut known = known.into_iter();
    action.try_map(|claim| {
        let known = known.next().flatten();
        *recovered += usize::from(claim.recovers(known));
        claim.signer(known, signed)
    })
}
