//! Validates identity updates against the state of their inbox, and caches states.

use std::cell::Cell;
use std::sync::Arc;

use hawser_mls::identity::{
    ChangeDecision, CheckedChange, IdentityError, WalletQuestion, add_trusted, check,
    wallet_questions,
};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{InboxId, SequenceId};
use parking_lot::Mutex;

use crate::limits::{INBOX_STATES_BYTES_MAX, WALLETS_PER_UPDATE_MAX};
use crate::states::{KnownInbox, StateCache, WaitingChange};
use crate::wallets::{WalletDecision, WalletRefusal, Wallets};

/// The most contract wallets that the reason of a waiting update names. A guess: enough for an operator.
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
        Self { shared: Arc::new(ValidatorState { wallets, states }) }
    }

    /// Returns the validator of one inbox, with its cached state or none. The state leaves the cache until
    /// [`InboxValidator::keep`].
    #[must_use]
    pub fn open(&self, inbox: InboxId) -> InboxValidator {
        let known = self.shared.states.lock().take(inbox);
        InboxValidator { shared: self.shared.clone(), inbox, known, broken: None }
    }

    /// Empties the cache of states.
    pub fn forget_all(&self) {
        self.shared.states.lock().clear();
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
            if !open.contains(&question)
                && wallets.decide(&question, event_s) == WalletDecision::Open
            {
                open.push(question);
            }
        }
        wallets.look_for(&open);
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
        let wallets = &self.shared.wallets;
        let refusal = Cell::new(None);
        let answer = |question: &WalletQuestion| match wallets.decide(question, event_s) {
            WalletDecision::Agrees => Some(true),
            WalletDecision::Open => None,
            WalletDecision::Refused(reason) => {
                refusal.set(Some((reason, wallets.describe(question))));
                Some(false)
            }
        };
        match change.decide(answer) {
            ChangeDecision::Agreed => {
                change.apply(&mut self.known.state);
                self.known.last = at;
                UpdateValidity::Valid
            }
            ChangeDecision::Refused(error) => match refusal.take() {
                None => UpdateValidity::Invalid(error.to_string()),
                Some((reason @ WalletRefusal::Unanswered, wallet)) => {
                    UpdateValidity::Unanswered(format!("{reason}: {wallet}"))
                }
                Some((reason, _)) => UpdateValidity::Invalid(format!("{error}: {reason}")),
            },
            ChangeDecision::Open(questions) => {
                wallets.look_for(&questions);
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
