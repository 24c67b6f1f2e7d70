//! Applies a log of identity updates in turns of bounded work.

use std::collections::BTreeMap;
use std::vec;

use hawser_mls::identity::{
    AssociationState, ChangeDecision, CheckedChange, IdentityError, UpdateCheck, WalletQuestion,
};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;

use crate::limits::ACTIONS_PER_TURN;

/// The answers of contract wallets to questions.
pub(crate) type WalletAnswers = BTreeMap<WalletQuestion, bool>;

/// A log that is applied in turns. The state is advanced and not copied, and no signature is verified twice, so the
/// cost of a log is linear in its length.
pub(crate) struct LogFold {
    state: Option<AssociationState>,
    /// The updates whose check has not begun.
    rest: vec::IntoIter<IdentityUpdate>,
    /// The update after those that the state contains, once its check has begun.
    begun: Option<BegunUpdate>,
}

/// An update whose check has begun.
enum BegunUpdate {
    /// Signatures are being verified.
    Verifying(UpdateCheck<IdentityUpdate>),
    /// The update waits for contract wallets.
    Checked(CheckedChange),
}

/// The reason for the end of a turn.
#[derive(Debug)]
pub(crate) enum TurnEnd {
    /// All updates are applied.
    Done,
    /// [`ACTIONS_PER_TURN`] actions have been verified in this turn.
    Later,
    /// The next update is valid if contract wallets agree. These questions have no answer yet.
    Asks(Vec<WalletQuestion>),
}

impl LogFold {
    /// Creates a fold of these updates into the state before them.
    pub(crate) fn new(state: Option<AssociationState>, updates: Vec<IdentityUpdate>) -> Self {
        Self { state, rest: updates.into_iter(), begun: None }
    }

    /// Returns the state after the applied updates.
    pub(crate) fn into_state(self) -> Option<AssociationState> {
        self.state
    }

    /// Applies updates for one turn: verifies the signatures of at most [`ACTIONS_PER_TURN`] actions. A turn may end
    /// within an update. `answers` belong to the wallets about which the turn before has asked.
    ///
    /// # Errors
    /// Returns an error if an update is invalid. The fold must then be dropped.
    pub(crate) fn turn(&mut self, answers: &WalletAnswers) -> Result<TurnEnd, IdentityError> {
        let mut left = ACTIONS_PER_TURN;
        loop {
            let change = match self.begun.take() {
                Some(BegunUpdate::Checked(change)) => change,
                Some(BegunUpdate::Verifying(mut check)) => {
                    left -= check.verify_next(left)?;
                    if left == 0 {
                        self.begun = Some(BegunUpdate::Verifying(check));
                        return Ok(TurnEnd::Later);
                    }
                    check.finish(self.state.as_ref())?
                }
                None => {
                    let Some(update) = self.rest.next() else { return Ok(TurnEnd::Done) };
                    self.begun = Some(BegunUpdate::Verifying(UpdateCheck::begin(update)?));
                    continue;
                }
            };
            match change.decide(|question| answers.get(question).copied()) {
                ChangeDecision::Agreed => {
                    change.apply(&mut self.state);
                }
                ChangeDecision::Refused(error) => return Err(error),
                ChangeDecision::Open(questions) => {
                    self.begun = Some(BegunUpdate::Checked(change));
                    return Ok(TurnEnd::Asks(questions));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hawser_mls::identity::MemberIdentifier;
    use hawser_proto::pb::xmtp::identity::associations as pb;
    use pb::identity_action::Kind;
    use pb::signature::Signature as Signed;

    use super::*;

    fn account(number: usize) -> MemberIdentifier {
        MemberIdentifier::Ethereum(format!("0x{number:040x}"))
    }

    /// Returns the signature of a contract wallet, which is valid if the wallet agrees.
    fn signature(account: &MemberIdentifier) -> pb::Signature {
        pb::Signature {
            signature: Some(Signed::Erc6492(pb::SmartContractWalletSignature {
                account_id: format!("eip155:1:{account}"),
                block_number: 7,
                signature: Bytes::from_static(&[1]),
            })),
        }
    }

    fn create(account: &MemberIdentifier) -> pb::IdentityAction {
        let kind = Kind::CreateInbox(pb::CreateInbox {
            initial_identifier: account.to_string(),
            nonce: 1,
            initial_identifier_signature: Some(signature(account)),
            ..pb::CreateInbox::default()
        });
        pb::IdentityAction { kind: Some(kind) }
    }

    fn add(member: &MemberIdentifier, by: &MemberIdentifier) -> pb::IdentityAction {
        let kind = Kind::Add(pb::AddAssociation {
            new_member_identifier: Some(member.to_pb()),
            existing_member_signature: Some(signature(by)),
            new_member_signature: Some(signature(member)),
            ..pb::AddAssociation::default()
        });
        pb::IdentityAction { kind: Some(kind) }
    }

    /// An update that founds an inbox and adds accounts, `actions` actions in all.
    fn founding(actions: usize) -> IdentityUpdate {
        let owner = account(1);
        let added = (2..=actions).map(|number| add(&account(number), &owner));
        IdentityUpdate {
            actions: std::iter::once(create(&owner)).chain(added).collect(),
            client_timestamp_ns: 1,
            inbox_id: owner.inbox_id(1),
        }
    }

    /// Applies a log, whose wallets all agree. Returns the number of turns and the number of members.
    fn applied(updates: Vec<IdentityUpdate>) -> Result<(usize, usize), IdentityError> {
        let (mut fold, mut answers) = (LogFold::new(None, updates), WalletAnswers::new());
        let mut turns = 0;
        loop {
            turns += 1;
            match fold.turn(&answers)? {
                TurnEnd::Done => break,
                TurnEnd::Later => {}
                TurnEnd::Asks(questions) => {
                    answers = questions.into_iter().map(|question| (question, true)).collect();
                }
            }
        }
        Ok((turns, fold.into_state().unwrap().members().count()))
    }

    #[test]
    fn a_turn_verifies_a_bounded_part_of_a_log_also_within_one_update() {
        // The last turn begins when the wallets have answered.
        assert_eq!(applied(vec![founding(1)]).unwrap(), (2, 1));
        let most = ACTIONS_PER_TURN;
        assert_eq!(applied(vec![founding(most - 1)]).unwrap(), (2, most - 1));
        assert_eq!(applied(vec![founding(most)]).unwrap(), (3, most));
        assert_eq!(applied(vec![founding(10 * most + 1)]).unwrap(), (12, 10 * most + 1));
    }

    #[test]
    fn an_invalid_action_in_a_later_turn_is_named() {
        let mut update = founding(3 * ACTIONS_PER_TURN);
        let at = 2 * ACTIONS_PER_TURN + 5;
        update.actions[at] = add(&account(2), &account(9999));
        assert_eq!(applied(vec![update]).unwrap_err().action, Some(at));
    }
}
