//! Validates identity updates against the state of their inbox, and caches states.

use std::sync::Arc;

use hawser_mls::identity::{
    ChangeDecision, CheckedChange, IdentityError, WalletQuestion, add_trusted, check,
    wallet_questions,
};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{InboxId, SequenceId};
use parking_lot::Mutex;

use crate::agreed::{AgreedMemory, AgreedWallets, WaitingName};
use crate::limits::{INBOX_STATES_BYTES_MAX, WALLETS_PER_UPDATE_MAX};
use crate::states::{KnownInbox, StateCache, WaitingChange};
use crate::wallets::{WalletDecision, WalletRefusal, Wallets};

/// The maximum number of contract wallets that the reason of a waiting update names. A guess: enough for an operator.
const WALLETS_NAMED_MAX: usize = 4;

/// The validity of an identity update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateValidity {
    /// The update is valid.
    Valid,
    /// The update is invalid at every node, for this reason.
    Invalid(String),
    /// The update counts as invalid because a contract wallet did not answer in time. Nodes with other endpoints may
    /// have its answer.
    Unanswered(String),
    /// The update is valid if the contract wallets agree. The text names them.
    Waiting(String),
}

/// Validates identity updates. A node shares one for its whole log.
pub struct IdentityValidator {
    shared: Arc<ValidatorState>,
}

struct ValidatorState {
    wallets: Arc<Wallets>,
    states: Mutex<StateCache>,
    agreed: AgreedMemory,
}

impl IdentityValidator {
    /// Creates a validator that asks `wallets` and caches states of inboxes up to [`INBOX_STATES_BYTES_MAX`].
    #[must_use]
    pub fn new(wallets: Arc<Wallets>) -> Self {
        Self::remembering(wallets, INBOX_STATES_BYTES_MAX)
    }

    /// Creates a validator as [`new`](Self::new) does, with this bound on the total weight of cached states in bytes.
    #[must_use]
    pub fn remembering(wallets: Arc<Wallets>, bytes_max: u64) -> Self {
        let states = Mutex::new(StateCache::new(bytes_max));
        let agreed = AgreedMemory::default();
        Self { shared: Arc::new(ValidatorState { wallets, states, agreed }) }
    }

    /// Returns the validator of one inbox, with its cached state or none. The state leaves the cache until
    /// [`InboxValidator::keep`].
    #[must_use]
    pub fn open(&self, inbox: InboxId) -> InboxValidator {
        let known = self.shared.states.lock().take(inbox);
        InboxValidator { shared: self.shared.clone(), inbox, known, broken: None }
    }

    /// Empties the cache of states, and forgets which wallets have agreed to waiting updates.
    pub fn forget_all(&self) {
        self.shared.states.lock().clear();
        self.shared.agreed.clear();
    }

    /// Schedules a validation of the waiting updates; see [`Wallets::judge_soon`].
    pub fn judge_soon(&self) {
        self.shared.wallets.judge_soon();
    }

    /// Looks for the answers of the first contract wallets that sign `update`, which waits behind another one of its
    /// inbox. So their answers, or the time in which there was none, are known when its turn comes. `event_s` is the
    /// time of its event, unix seconds.
    pub fn look_ahead(&self, update: &IdentityUpdate, event_s: u64) {
        let Ok(questions) = wallet_questions(update) else { return };
        let wallets = &self.shared.wallets;
        let mut open: Vec<WalletQuestion> = Vec::new();
        for question in questions {
            if open.len() == WALLETS_PER_UPDATE_MAX {
                break;
            }
            if !open.contains(&question) && wallets.is_open(&question, event_s) {
                open.push(question);
            }
        }
        wallets.look_for(&open, event_s);
    }
}

/// Validates the updates of one inbox in their order. Holds the state of the inbox and advances it, so the cost
/// of an update depends on its own actions only.
pub struct InboxValidator {
    shared: Arc<ValidatorState>,
    inbox: InboxId,
    known: KnownInbox,
    /// Set if the log contradicts itself: it holds an update as valid that cannot follow those before it.
    broken: Option<IdentityError>,
}

impl InboxValidator {
    /// Returns the place of the last valid update in the state; [`SequenceId::NONE`] without one.
    #[must_use]
    pub fn known(&self) -> SequenceId {
        self.known.last
    }

    /// Forgets the state.
    pub fn start_over(&mut self) {
        (self.known, self.broken) = (KnownInbox::default(), None);
    }

    /// Applies an update that the log holds as valid. Returns the number of accounts that it recovered from
    /// signatures: each costs about as much as the verification of a signature.
    pub fn add(&mut self, at: SequenceId, update: &IdentityUpdate) -> usize {
        (self.known.last, self.known.waiting) = (at, None);
        if self.broken.is_some() {
            return 0;
        }
        let added = add_trusted(&mut self.known.state, update);
        added.unwrap_or_else(|error| {
            self.broken = Some(error);
            0
        })
    }

    /// Validates the update at `at`, and adds it if it is valid. `event_s` is the time of its event, unix seconds.
    /// Does not wait for a chain: a question without a cached answer is queued, and the update waits.
    pub fn validate(
        &mut self,
        at: SequenceId,
        update: &IdentityUpdate,
        event_s: u64,
    ) -> UpdateValidity {
        if let Some(error) = &self.broken {
            let reason = format!("the earlier updates of its inbox contradict each other: {error}");
            return UpdateValidity::Invalid(reason);
        }
        let checked = match self.known.waiting.take().filter(|waiting| waiting.at == at) {
            Some(waiting) => Ok(waiting.change),
            None => check(self.known.state.as_ref(), update),
        };
        match checked {
            Ok(change) => self.decide(at, change, event_s),
            Err(error) => UpdateValidity::Invalid(error.to_string()),
        }
    }

    fn decide(&mut self, at: SequenceId, change: CheckedChange, event_s: u64) -> UpdateValidity {
        let (wallets, agreed_memory) = (&self.shared.wallets, &self.shared.agreed);
        let name = WaitingName::of(self.inbox, at, &change);
        let mut agreed = match name {
            Some(name) => agreed_memory.take(name, change.questions()),
            None => AgreedWallets::none(0),
        };
        let mut refusal = None;
        let decision = change.decide_by_index(|index, question| {
            if agreed.has(index) {
                return Some(true);
            }
            match wallets.decide(question, event_s) {
                WalletDecision::Agrees => {
                    agreed.add(index);
                    Some(true)
                }
                WalletDecision::Open => None,
                WalletDecision::Refused(reason) => {
                    refusal = Some((reason, wallets.describe(question)));
                    Some(false)
                }
            }
        });
        match decision {
            ChangeDecision::Agreed => {
                change.apply(&mut self.known.state);
                self.known.last = at;
                UpdateValidity::Valid
            }
            ChangeDecision::Refused(error) => match refusal {
                None => UpdateValidity::Invalid(error.to_string()),
                Some((reason @ WalletRefusal::Unanswered, wallet)) => {
                    UpdateValidity::Unanswered(format!("{reason}: {wallet}"))
                }
                Some((reason, _)) => UpdateValidity::Invalid(format!("{error}: {reason}")),
            },
            ChangeDecision::Open(questions) => {
                wallets.look_for(&questions, event_s);
                if let Some(name) = name {
                    agreed_memory.put(name, agreed);
                }
                let text = describe(wallets, &questions);
                self.known.waiting = Some(WaitingChange { at, change });
                UpdateValidity::Waiting(text)
            }
        }
    }

    /// Puts the state into the cache. Call it only after the log holds every update that the state contains.
    pub fn keep(self) {
        if self.broken.is_none() {
            self.shared.states.lock().put(self.inbox, self.known);
        }
    }
}

/// Describes the wallets that an update waits for, [`WALLETS_NAMED_MAX`] of them by name.
fn describe(wallets: &Wallets, questions: &[WalletQuestion]) -> String {
    let named: Vec<String> = questions
        .iter()
        .take(WALLETS_NAMED_MAX)
        .map(|question| wallets.describe(question))
        .collect();
    let more = questions.len().saturating_sub(named.len());
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    named.join("; ") + &more
}

#[cfg(test)]
mod tests {
    use hawser_mls::identity::MemberIdentifier;
    use hawser_proto::Bytes;
    use hawser_proto::pb::xmtp::identity::associations as pb;
    use pb::identity_action::Kind;
    use pb::signature::Signature as Signed;

    use super::*;
    use crate::wallets::{ChainReply, NewestBlock, WalletChainList, WalletChains, WalletError};

    /// Chain 1, whose wallets agree to everything.
    struct Agreeing;

    #[tonic::async_trait]
    impl WalletChains for Agreeing {
        fn ids(&self) -> Vec<u64> {
            vec![1]
        }

        async fn newest_block(&self, _: u64) -> Result<NewestBlock, WalletError> {
            Ok(NewestBlock { reached: 9, stated: 9 })
        }

        async fn ask(&self, _: &WalletQuestion) -> Result<ChainReply, WalletError> {
            Ok(ChainReply::Answer { agrees: true, block_time_s: 0 })
        }
    }

    fn wallets() -> Arc<Wallets> {
        Arc::new(Wallets::new(Arc::new(Agreeing), WalletChainList::default()))
    }

    fn account(number: usize) -> MemberIdentifier {
        MemberIdentifier::Ethereum(format!("0x{number:040x}"))
    }

    /// An update by which contract wallet 1 founds an inbox and adds five others. Of its eleven questions, that with
    /// the index 2 is the only one to wallet 2.
    fn founding() -> IdentityUpdate {
        let signature = |account: &MemberIdentifier| {
            let signed = pb::SmartContractWalletSignature {
                account_id: format!("eip155:1:{account}"),
                block_number: 7,
                signature: Bytes::from_static(&[1]),
            };
            Some(pb::Signature { signature: Some(Signed::Erc6492(signed)) })
        };
        let owner = account(1);
        let create = Kind::CreateInbox(pb::CreateInbox {
            initial_identifier: owner.to_string(),
            nonce: 1,
            initial_identifier_signature: signature(&owner),
            ..pb::CreateInbox::default()
        });
        let add = |number| {
            Kind::Add(pb::AddAssociation {
                new_member_identifier: Some(account(number).to_pb()),
                existing_member_signature: signature(&owner),
                new_member_signature: signature(&account(number)),
                ..pb::AddAssociation::default()
            })
        };
        let kinds = std::iter::once(create).chain((2..=6).map(add));
        IdentityUpdate {
            actions: kinds.map(|kind| pb::IdentityAction { kind: Some(kind) }).collect(),
            client_timestamp_ns: 1,
            inbox_id: owner.inbox_id(1),
        }
    }

    /// The cache of answers has no room for those of many updates with thousands of wallets.
    #[tokio::test]
    async fn a_wallet_that_agreed_need_not_be_asked_again_when_its_answer_is_forgotten() {
        let (update, inbox, at) = (founding(), InboxId([1; 32]), SequenceId(1));
        let questions = wallet_questions(&update).unwrap();
        let is_waiting = |validator: &IdentityValidator| {
            let validity = validator.open(inbox).validate(at, &update, 0);
            matches!(validity, UpdateValidity::Waiting(_))
        };
        let before = IdentityValidator::new(wallets());
        for question in &questions[..3] {
            assert_eq!(before.shared.wallets.ask(question).await, Ok(true));
        }
        assert!(is_waiting(&before));

        // The same validator, without its caches.
        let (states, agreed) = (Mutex::new(StateCache::new(1 << 20)), before.shared.agreed.clone());
        let shared = Arc::new(ValidatorState { wallets: wallets(), states, agreed });
        let after = IdentityValidator { shared };
        for question in &questions[3..] {
            assert_eq!(after.shared.wallets.ask(question).await, Ok(true));
        }
        assert!(!is_waiting(&after), "wallet 2 agreed before");
        assert!(is_waiting(&after), "what is decided is forgotten");
        after.forget_all();
        assert!(is_waiting(&after));
    }
}
