//! What the engine does not judge itself: key packages by the clock of this machine, and identity
//! updates by what their inbox and contract wallets' chains say.

use std::sync::{Arc, Mutex, PoisonError};

use hawser_engine::ports::{Clock as _, IdentityJudge, IdentityVerdict, PayloadValidator};
use hawser_mls::identity::{AssociationState, IdentityError, Judgement, fold_trusted, judge};
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::sign::keccak256;
use hawser_proto::{Bytes, Digest};
use prost::Message as _;

use super::ports::SystemClock;
use super::recent::Recent;
use super::wallets::Wallets;

/// What the remembered states of inboxes may take.
const STATES_BYTES_MAX: usize = 64 << 20;

/// Unix time by the clock of this machine.
pub(super) fn now_unix_s() -> u64 {
    u64::try_from(SystemClock.now_ns() / 1_000_000_000).unwrap_or(0)
}

/// Judges key packages at the time it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyPackages;

impl PayloadValidator for KeyPackages {
    fn key_package(&self, tls_bytes: &Bytes) -> Result<(), String> {
        hawser_mls::key_package(tls_bytes, now_unix_s())
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// Judges identity updates, and remembers what inboxes came to.
pub(super) struct Inboxes {
    wallets: Arc<Wallets>,
    states: Mutex<Recent<[u8; 32], Known>>,
}

/// The state after the first `updates` updates of a log, the last of which has this hash.
#[derive(Clone)]
struct Known {
    updates: usize,
    last: Digest,
    state: Arc<AssociationState>,
}

impl Inboxes {
    pub(super) fn new(wallets: Arc<Wallets>) -> Self {
        Self { wallets, states: Mutex::new(Recent::new(STATES_BYTES_MAX)) }
    }

    /// The state after `earlier`, from the last one that is remembered.
    fn state(
        &self,
        inbox: [u8; 32],
        earlier: &[IdentityUpdate],
    ) -> Result<Option<Arc<AssociationState>>, IdentityError> {
        let known = self.states.lock().unwrap_or_else(PoisonError::into_inner).get(&inbox);
        // A log only grows. A state beyond it belongs to an update that was never committed.
        let known =
            known.filter(|known| earlier.get(known.updates - 1).map(hash) == Some(known.last));
        let (from, state) = match known {
            Some(known) if known.updates == earlier.len() => return Ok(Some(known.state)),
            Some(known) => (known.updates, Some(AssociationState::clone(&known.state))),
            None => (0, None),
        };
        Ok(fold_trusted(state, &earlier[from..])?.map(Arc::new))
    }

    fn remember(
        &self,
        inbox: [u8; 32],
        updates: usize,
        last: &IdentityUpdate,
        state: AssociationState,
    ) {
        let weight = state.weight() + 512;
        let known = Known { updates, last: hash(last), state: Arc::new(state) };
        self.states.lock().unwrap_or_else(PoisonError::into_inner).put(inbox, known, weight);
    }
}

/// Instead of the update, which may be long and may share its memory with a longer envelope.
fn hash(update: &IdentityUpdate) -> Digest {
    keccak256(&[&update.encode_to_vec()])
}

impl IdentityJudge for Inboxes {
    fn judge(
        &self,
        inbox: [u8; 32],
        earlier: &[IdentityUpdate],
        update: &IdentityUpdate,
    ) -> IdentityVerdict {
        let before = match self.state(inbox, earlier) {
            Ok(before) => before,
            Err(error) => {
                let reason = format!("the earlier updates of its inbox do not add up: {error}");
                return IdentityVerdict::Invalid(reason);
            }
        };
        match judge(before.as_deref(), update, |question| self.wallets.answer(question)) {
            Judgement::Valid(after) => {
                self.remember(inbox, earlier.len() + 1, update, after);
                IdentityVerdict::Valid
            }
            Judgement::Invalid(error) => IdentityVerdict::Invalid(error.to_string()),
            Judgement::Waiting(questions) => {
                let wallets: Vec<String> =
                    questions.iter().map(|question| self.wallets.describe(question)).collect();
                IdentityVerdict::Waiting(wallets.join("; "))
            }
        }
    }
}
