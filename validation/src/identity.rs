//! Validates identity updates against the log of their inbox, with a cache of inbox states.

use std::cell::Cell;
use std::sync::Arc;

use hawser_mls::identity::{
    AssociationState, IdentityError, Judgement, WalletQuestion, fold_trusted, judge,
};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::sign::keccak256;
use hawser_proto::{Digest, InboxId};
use prost::Message as _;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::limits::INBOX_STATES_BYTES_MAX;
use crate::wallets::{WalletDecision, WalletRefusal, Wallets};

/// The validity of an identity update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateValidity {
    /// The update is valid.
    Valid,
    /// The update is invalid at every node, for this reason.
    Invalid(String),
    /// The update counts as invalid because a contract wallet could not be asked in time. Nodes with
    /// other endpoints may have its answer.
    Unanswered(String),
    /// The update is valid if the contract wallets agree that this text names.
    Waiting(String),
}

/// Validates identity updates. A node shares one for its whole log.
pub struct IdentityValidator {
    wallets: Arc<Wallets>,
    states: Cache<InboxId, KnownState, StateWeight>,
}

/// The state after the first `updates` updates of a log, the last of which has the digest `last`.
#[derive(Clone)]
struct KnownState {
    updates: usize,
    last: Digest,
    state: Arc<AssociationState>,
}

/// Weighs a state in bytes of memory.
#[derive(Clone)]
struct StateWeight;

impl Weighter<InboxId, KnownState> for StateWeight {
    fn weight(&self, _: &InboxId, known: &KnownState) -> u64 {
        known.state.weight() as u64 + 512
    }
}

impl IdentityValidator {
    /// Validates with the answers of these contract wallets. Caches states of inboxes up to
    /// [`INBOX_STATES_BYTES_MAX`].
    #[must_use]
    pub fn new(wallets: Arc<Wallets>) -> Self {
        // A shard holds only states that are smaller than itself. One shard keeps those of large
        // inboxes too, and they are the ones that are costly to compute again.
        let options = OptionsBuilder::new()
            .shards(1)
            .weight_capacity(INBOX_STATES_BYTES_MAX)
            .estimated_items_capacity(32_768) // see INBOX_STATES_BYTES_MAX
            .build()
            .expect("both capacities are given");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { wallets, states: Cache::with_options(options, StateWeight, hasher, lifecycle) }
    }

    /// Validates `update` after `earlier`, the valid updates of the inbox so far, ascending. `event_s` is
    /// the time of the update's event, unix seconds. Computes; waits for no chain: an answer that is not
    /// cached is queued, and the update waits.
    #[must_use]
    pub fn validate(
        &self,
        inbox: InboxId,
        earlier: &[IdentityUpdate],
        update: &IdentityUpdate,
        event_s: u64,
    ) -> UpdateValidity {
        let before = match self.state_after(inbox, earlier) {
            Ok(before) => before,
            Err(error) => {
                let reason = format!("the earlier updates of its inbox do not add up: {error}");
                return UpdateValidity::Invalid(reason);
            }
        };
        let refusal = Cell::new(None);
        let answer = |question: &WalletQuestion| match self.wallets.decide(question, event_s) {
            WalletDecision::Agrees => Some(true),
            WalletDecision::Open => None,
            WalletDecision::Refused(reason) => {
                refusal.set(Some((reason, self.wallets.describe(question))));
                Some(false)
            }
        };
        match judge(before.as_deref(), update, answer) {
            Judgement::Valid(after) => {
                let (updates, last) = (earlier.len() + 1, digest_of(update));
                let known = KnownState { updates, last, state: Arc::new(after) };
                self.states.insert(inbox, known);
                UpdateValidity::Valid
            }
            Judgement::Invalid(error) => match refusal.take() {
                None => UpdateValidity::Invalid(error.to_string()),
                Some((reason @ WalletRefusal::Unanswered, wallet)) => {
                    UpdateValidity::Unanswered(format!("{reason}: {wallet}"))
                }
                Some((reason, _)) => UpdateValidity::Invalid(format!("{error}: {reason}")),
            },
            Judgement::Waiting(questions) => {
                let wallets: Vec<String> =
                    questions.iter().map(|question| self.wallets.describe(question)).collect();
                UpdateValidity::Waiting(wallets.join("; "))
            }
        }
    }

    /// Returns the state after `earlier`, computed from the cached state before it.
    fn state_after(
        &self,
        inbox: InboxId,
        earlier: &[IdentityUpdate],
    ) -> Result<Option<Arc<AssociationState>>, IdentityError> {
        // A log only grows. A cached state that is not on the way to `earlier` belongs to an update
        // that was never committed.
        let known = self.states.get(&inbox).filter(|known| {
            debug_assert!(known.updates > 0, "a state comes from an update");
            earlier.get(known.updates - 1).map(digest_of) == Some(known.last)
        });
        let (from, state) = match known {
            Some(known) if known.updates == earlier.len() => return Ok(Some(known.state)),
            Some(known) => (known.updates, Some(AssociationState::clone(&known.state))),
            None => (0, None),
        };
        Ok(fold_trusted(state, &earlier[from..])?.map(Arc::new))
    }
}

/// Returns what the cache holds of an update: the update itself may be long, and may share its
/// memory with a longer envelope.
fn digest_of(update: &IdentityUpdate) -> Digest {
    keccak256(&[&update.encode_to_vec()])
}
