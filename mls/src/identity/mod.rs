//! Validates identity updates and computes the state of an inbox from its log.
//!
//! [`judge`] decides about one update by the state before it. An update is valid as a whole or not at
//! all. The state of an inbox is the result of its valid updates in their order.

mod error;
mod kind;
mod legacy;
mod member;
mod recover;
mod signature;
mod state;
mod text;
mod update;
mod wallet;

use hawser_proto::pb::xmtp::identity::associations as pb;

pub use error::{IdentityError, IdentityViolation};
pub use kind::{MemberKind, SignatureKind};
pub use member::{Member, MemberIdentifier, Passkey};
pub use state::AssociationState;
pub use wallet::{AccountIdError, WalletQuestion, parse_account_id};

use signature::{Claim, SignedText, Signer};
use state::Draft;
use update::{Action, Update};

/// The judgement of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// The update is valid; this is the state after it.
    Valid(AssociationState),
    /// The update is invalid, whatever contract wallets answer.
    Invalid(IdentityError),
    /// The update is valid if all these wallets agree.
    Waiting(Vec<WalletQuestion>),
}

/// Judges `update` against the state of its inbox before it (`None` for an inbox without updates).
///
/// `answer` returns the answer of a contract wallet, `None` while it is unknown. It is called only if
/// the update is valid otherwise.
pub fn judge(
    before: Option<&AssociationState>,
    update: &pb::IdentityUpdate,
    answer: impl Fn(&WalletQuestion) -> Option<bool>,
) -> Judgement {
    match judge_next(before.cloned(), update, answer) {
        NextJudgement::Valid(after) => Judgement::Valid(after),
        NextJudgement::Invalid(error) => Judgement::Invalid(error),
        NextJudgement::Waiting { questions, .. } => Judgement::Waiting(questions),
    }
}

/// The judgement of an update together with the state of its inbox.
#[derive(Debug)]
pub enum NextJudgement {
    /// The update is valid; this is the state after it.
    Valid(AssociationState),
    /// The update is invalid, whatever contract wallets answer. The state is lost.
    Invalid(IdentityError),
    /// The update is valid if all these wallets agree.
    Waiting {
        /// The state before the update.
        before: Option<AssociationState>,
        /// The questions without an answer.
        questions: Vec<WalletQuestion>,
    },
}

/// Judges like [`judge`] and takes the state along, so that a log of many updates is judged without a
/// copy of the state for each. Only an update with a contract wallet costs a copy.
pub fn judge_next(
    before: Option<AssociationState>,
    update: &pb::IdentityUpdate,
    answer: impl Fn(&WalletQuestion) -> Option<bool>,
) -> NextJudgement {
    let (supposed, questions) = match verified(update) {
        Ok(supposed) => supposed,
        Err(error) => return NextJudgement::Invalid(error),
    };
    let kept = if questions.is_empty() { None } else { before.clone() };
    let after = match state::apply(before, &supposed) {
        Ok(after) => after,
        Err(error) => return NextJudgement::Invalid(error),
    };
    let mut open = Vec::new();
    for (action, question) in questions {
        match answer(&question) {
            Some(true) => {}
            Some(false) => {
                let violation = IdentityViolation::Signature("the contract wallet does not agree");
                return NextJudgement::Invalid(violation.in_action(action));
            }
            None if open.contains(&question) => {}
            None => open.push(question),
        }
    }
    if open.is_empty() {
        NextJudgement::Valid(after)
    } else {
        NextJudgement::Waiting { before: kept, questions: open }
    }
}

/// Returns the text that every signature of `update` covers: wallets show it and installations sign
/// it. The text does not depend on the signatures, but each has to be present in some form.
///
/// # Errors
/// When the update is malformed.
pub fn signed_text(update: &pb::IdentityUpdate) -> Result<String, IdentityError> {
    Ok(text::signed_text(&update::parse(update)?))
}

/// Returns the question for every contract wallet that signs in `update`, also where its answer would
/// not decide.
///
/// # Errors
/// When the update is malformed.
pub fn wallet_questions(update: &pb::IdentityUpdate) -> Result<Vec<WalletQuestion>, IdentityError> {
    let claimed = update::parse(update)?;
    let signed = SignedText::new(text::signed_text(&claimed));
    let claims = claimed.actions.iter().flat_map(Action::signatures);
    Ok(claims.filter_map(|claim| claim.question(&signed)).collect())
}

/// An update with its signers, if all contract wallets agree, and the question for each of them with the
/// index of its action.
type Supposed<'a> = (Update<'a, Signer>, Vec<(usize, WalletQuestion)>);

/// Verifies every signature that needs no chain.
fn verified(update: &pb::IdentityUpdate) -> Result<Supposed<'_>, IdentityError> {
    let claimed = update::parse(update)?;
    let signed = SignedText::new(text::signed_text(&claimed));
    let (mut actions, mut questions) = (Vec::with_capacity(claimed.actions.len()), Vec::new());
    for (place, action) in claimed.actions.iter().enumerate() {
        let verified = action.try_map(|claim| claim.verify(&signed));
        actions.push(verified.map_err(|violation| violation.in_action(place))?);
        let asked = action.signatures().filter_map(|claim| claim.question(&signed));
        questions.extend(asked.map(|question| (place, question)));
    }
    let (inbox_id, client_timestamp_ns) = (claimed.inbox_id, claimed.client_timestamp_ns);
    Ok((Update { inbox_id, client_timestamp_ns, actions }, questions))
}

/// Applies updates that were judged valid before to `state`. Verifies no signature again, so a long
/// log is cheap; recovers an account only where several accounts could have signed.
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
    let signed = SignedText::new(text::signed_text(&claimed));
    let mut draft = Draft::new(state, claimed.client_timestamp_ns);
    for (place, action) in claimed.actions.iter().enumerate() {
        trusted(action, draft.state(), &signed)
            .and_then(|action| draft.apply(&action))
            .map_err(|violation| violation.in_action(place))?;
    }
    draft.finish(claimed.inbox_id).map_err(IdentityViolation::in_update)
}

/// Returns a valid action with its signers, which mostly follow from the action and the state.
fn trusted(
    action: &Action<Claim<'_>>,
    state: Option<&AssociationState>,
    signed: &SignedText,
) -> Result<Action<Signer>, IdentityViolation> {
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
