//! Validates identity updates and computes the state of an inbox from its log.
//!
//! [`judge`] validates one update against the state before it. An update is valid as a whole or not at all. The
//! state of an inbox is the result of its valid updates in their order. [`check`] does the same for callers that
//! keep the state and advance it, and [`UpdateCheck`] for those that do other work in between. [`add_trusted`] and
//! [`TrustedUpdate`] apply updates that were judged before.

mod change;
mod error;
mod kind;
mod legacy;
mod member;
mod pending_state;
mod recover;
mod signature;
mod state;
mod steps;
mod text;
mod trusted;
mod update;
mod wallet;

use hawser_proto::pb::xmtp::identity::associations as pb;

pub use change::{ChangeDecision, CheckedChange};
pub use error::{IdentityError, IdentityViolation};
pub use kind::{MemberKind, SignatureKind};
pub use member::{Member, MemberIdentifier, Passkey};
pub use state::AssociationState;
pub use steps::UpdateCheck;
pub use trusted::{TrustedUpdate, add_trusted, fold_trusted};
pub use wallet::{AccountIdError, WalletQuestion, parse_account_id};

use signature::SignedText;
use update::Action;

/// The judgement of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateJudgement {
    /// The update is valid; this is the state after it.
    Valid(AssociationState),
    /// The update is invalid, independently of contract wallets' answers.
    Invalid(IdentityError),
    /// The update is valid if all these wallets agree.
    Waiting(Vec<WalletQuestion>),
}

/// Judges `update` against the state of its inbox before it (`None` for an inbox without updates).
/// Copies that state; a caller that judges a whole log uses [`check`], which does not.
///
/// `answer` returns the answer of a contract wallet, `None` while it is unknown. It is called only if
/// the update is valid otherwise.
pub fn judge(
    before: Option<&AssociationState>,
    update: &pb::IdentityUpdate,
    answer: impl Fn(&WalletQuestion) -> Option<bool>,
) -> UpdateJudgement {
    let change = match check(before, update) {
        Ok(change) => change,
        Err(error) => return UpdateJudgement::Invalid(error),
    };
    match change.decide(answer) {
        ChangeDecision::Agreed => {
            let mut after = before.cloned();
            UpdateJudgement::Valid(change.apply(&mut after).clone())
        }
        ChangeDecision::Refused(error) => UpdateJudgement::Invalid(error),
        ChangeDecision::Open(questions) => UpdateJudgement::Waiting(questions),
    }
}

/// Checks `update` against the state of its inbox before it, except for the answers of contract wallets. The cost
/// depends on the update's signatures and actions, not on the size of the inbox, and the state is not copied.
///
/// # Errors
/// Returns an error if the update is invalid, independently of contract wallets' answers.
pub fn check(
    before: Option<&AssociationState>,
    update: &pb::IdentityUpdate,
) -> Result<CheckedChange, IdentityError> {
    UpdateCheck::begin(update)?.finish(before)
}

/// Returns the text that every signature of `update` covers: wallets show it and installations sign
/// it. The text does not depend on the signatures, but each has to be present.
///
/// # Errors
/// Returns an error if the update is malformed.
pub fn signed_text(update: &pb::IdentityUpdate) -> Result<String, IdentityError> {
    Ok(text::signed_text(&update::parse(update)?))
}

/// Returns the question for every contract wallet that signs in `update`, even if its answer would not decide.
///
/// # Errors
/// Returns an error if the update is malformed.
pub fn wallet_questions(update: &pb::IdentityUpdate) -> Result<Vec<WalletQuestion>, IdentityError> {
    let claimed = update::parse(update)?;
    let signed = SignedText::new(text::signed_text(&claimed));
    let claims = claimed.actions.iter().flat_map(Action::signatures);
    Ok(claims.filter_map(|claim| claim.question(&signed)).collect())
}
