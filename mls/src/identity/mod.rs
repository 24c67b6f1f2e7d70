//! Inboxes: who belongs to one, as the log of its signed updates says.
//!
//! [`judge`] decides one update against the state before it; a log's state is what its valid updates
//! add up to. An update holds as a whole or not at all.

mod error;
mod legacy;
mod member;
mod recover;
mod signature;
mod state;
mod text;
mod update;
mod wallet;

use hawser_proto::pb::xmtp::identity::associations as pb;

pub use error::{IdentityError, Refusal};
pub use member::{Member, MemberIdentifier, MemberKind, Passkey};
pub use signature::SignatureKind;
pub use state::AssociationState;
pub use wallet::{AccountIdError, WalletQuestion, parse_account_id};

use signature::{Claim, Signed, Signer};
use state::Draft;
use update::{Action, Update};

/// What an update is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It holds; the inbox is now like this.
    Valid(AssociationState),
    /// It never holds, whatever anybody answers.
    Invalid(IdentityError),
    /// It holds if these wallets agree. Everything else about it is in order.
    Waiting(Vec<WalletQuestion>),
}

/// Judges `update` against the state of its inbox before it (`None` for an inbox without updates).
///
/// `answer` is asked for contract wallets alone, and only when their agreement decides: `None` says
/// that it is not known yet.
pub fn judge(
    before: Option<&AssociationState>,
    update: &pb::IdentityUpdate,
    answer: impl Fn(&WalletQuestion) -> Option<bool>,
) -> Judgement {
    let (after, questions) = match suppose(before, update) {
        Ok(supposed) => supposed,
        Err(error) => return Judgement::Invalid(error),
    };
    let mut open = Vec::new();
    for (action, question) in questions {
        match answer(&question) {
            Some(true) => {}
            Some(false) => {
                let refusal = Refusal::Signature("the contract wallet does not agree");
                return Judgement::Invalid(refusal.of_action(action));
            }
            None if open.contains(&question) => {}
            None => open.push(question),
        }
    }
    if open.is_empty() { Judgement::Valid(after) } else { Judgement::Waiting(open) }
}

/// The text that every signature of `update` covers: what wallets show and installations sign. It
/// does not depend on the signatures that the update has already; something must stand in their
/// place.
///
/// # Errors
/// When the update is malformed.
pub fn signed_text(update: &pb::IdentityUpdate) -> Result<String, IdentityError> {
    Ok(text::signed_text(&update::parse(update)?))
}

/// Every contract wallet that `update` names as a signer, and what it would be asked: also where
/// its agreement would not decide.
///
/// # Errors
/// When the update is malformed.
pub fn wallet_questions(update: &pb::IdentityUpdate) -> Result<Vec<WalletQuestion>, IdentityError> {
    let claimed = update::parse(update)?;
    let signed = Signed::new(text::signed_text(&claimed));
    let claims = claimed.actions.iter().flat_map(Action::signatures);
    Ok(claims.filter_map(|claim| claim.question(&signed)).collect())
}

/// The state after `update` if all contract wallets agree, and what each would have to agree to.
fn suppose(
    before: Option<&AssociationState>,
    update: &pb::IdentityUpdate,
) -> Result<(AssociationState, Vec<(usize, WalletQuestion)>), IdentityError> {
    let claimed = update::parse(update)?;
    let signed = Signed::new(text::signed_text(&claimed));
    let (mut actions, mut questions) = (Vec::with_capacity(claimed.actions.len()), Vec::new());
    for (place, action) in claimed.actions.iter().enumerate() {
        let verified = action.try_map(|claim| claim.verify(&signed));
        actions.push(verified.map_err(|refusal| refusal.of_action(place))?);
        let asked = action.signatures().filter_map(|claim| claim.question(&signed));
        questions.extend(asked.map(|question| (place, question)));
    }
    let (inbox_id, client_timestamp_ns) = (claimed.inbox_id, claimed.client_timestamp_ns);
    let after = state::apply(before, &Update { inbox_id, client_timestamp_ns, actions })?;
    Ok((after, questions))
}

/// Adds updates that were judged valid before to `state`. No signature is checked again, so a long
/// log is cheap; an account's address is recovered only where several could have signed.
///
/// # Errors
/// When the updates cannot all have been valid in this order.
pub fn fold_trusted<'a>(
    state: Option<AssociationState>,
    updates: impl IntoIterator<Item = &'a pb::IdentityUpdate>,
) -> Result<Option<AssociationState>, IdentityError> {
    updates.into_iter().try_fold(state, |state, update| add_trusted(state, update).map(Some))
}

fn add_trusted(
    state: Option<AssociationState>,
    update: &pb::IdentityUpdate,
) -> Result<AssociationState, IdentityError> {
    let claimed = update::parse(update)?;
    let signed = Signed::new(text::signed_text(&claimed));
    let mut draft = Draft::new(state, claimed.client_timestamp_ns);
    for (place, action) in claimed.actions.iter().enumerate() {
        trusted(action, draft.state(), &signed)
            .and_then(|action| draft.act(&action))
            .map_err(|refusal| refusal.of_action(place))?;
    }
    draft.finish(claimed.inbox_id).map_err(Refusal::of_update)
}

/// A valid action says who signed it, most of the time.
fn trusted(
    action: &Action<Claim<'_>>,
    state: Option<&AssociationState>,
    signed: &Signed,
) -> Result<Action<Signer>, Refusal> {
    let by = match action {
        Action::Create { account, .. } => Some(account),
        Action::Add { .. } => state.and_then(AssociationState::only_account),
        Action::Revoke { .. } | Action::ChangeRecovery { .. } => {
            state.map(|state| state.recovery())
        }
    };
    let new = match action {
        Action::Add { member, .. } => Some(member),
        _ => None,
    };
    let mut known = [by, new].into_iter();
    action.try_map(|claim| claim.signer(known.next().flatten(), signed))
}
