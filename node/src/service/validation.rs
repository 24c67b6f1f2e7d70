//! Connects `hawser_validation` to the engine's ports.

use std::sync::Arc;

use hawser_api::ChainsView;
use hawser_engine::ports::{IdentityJudge, IdentityVerdict, InboxJudge, PayloadValidator};
use hawser_engine::runtime::ChainAppender;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::{Bytes, InboxId, SequenceId};
use hawser_validation::identity::{IdentityValidator, InboxValidator, UpdateValidity};
use hawser_validation::wallets::{WaitingInboxes, Wallets};

use super::settlement::APP;
use crate::clock::now_unix_s;

/// A validator of key packages at the time of this machine's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyPackages;

impl PayloadValidator for KeyPackages {
    fn key_package(&self, tls_bytes: &Bytes) -> Result<(), String> {
        hawser_mls::key_package(tls_bytes, now_unix_s())
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// A validator of identity updates for the engine.
pub(super) struct Identities(IdentityValidator);

impl Identities {
    pub(super) fn new(wallets: Arc<Wallets>) -> Self {
        Self(IdentityValidator::new(wallets))
    }
}

impl IdentityJudge for Identities {
    fn open(&self, inbox: InboxId) -> Box<dyn InboxJudge> {
        Box::new(Inbox(self.0.open(inbox)))
    }

    fn forget_all(&self) {
        self.0.forget_all();
    }

    fn judge_soon(&self) {
        self.0.judge_soon();
    }

    fn look_ahead(&self, update: &IdentityUpdate, event_ns: i64) {
        self.0.look_ahead(update, event_s(event_ns));
    }
}

/// Returns the time of an event in whole unix seconds.
fn event_s(event_ns: i64) -> u64 {
    u64::try_from(event_ns / 1_000_000_000).unwrap_or(0)
}

/// Returns the time of a chain's newest block, or that of this machine's clock if that is earlier. One endpoint states
/// the newest block, and its time counts until the process ends: a false one would have every contract wallet that has
/// not answered yet refused too early, by this node alone.
fn no_later(head_s: u64, now_s: u64) -> u64 {
    head_s.min(now_s)
}

/// A validator of the updates of one inbox.
struct Inbox(InboxValidator);

impl InboxJudge for Inbox {
    fn known(&self) -> SequenceId {
        self.0.known()
    }

    fn start_over(&mut self) {
        self.0.start_over();
    }

    fn add(&mut self, at: SequenceId, update: &IdentityUpdate) -> usize {
        self.0.add(at, update)
    }

    fn judge(&mut self, at: SequenceId, update: &IdentityUpdate, event_ns: i64) -> IdentityVerdict {
        match self.0.validate(at, update, event_s(event_ns)) {
            UpdateValidity::Valid => IdentityVerdict::Valid,
            UpdateValidity::Invalid(reason) => IdentityVerdict::Invalid(reason),
            UpdateValidity::Unanswered(reason) => IdentityVerdict::Unanswered(reason),
            UpdateValidity::Waiting(reason) => IdentityVerdict::Waiting(reason),
        }
    }

    fn keep(self: Box<Self>) {
        self.0.keep();
    }
}

/// The updates in this node's log that wait for answers of contract wallets.
pub(super) struct HeldUpdates {
    pub(super) appender: ChainAppender,
    pub(super) chains: Arc<dyn ChainsView>,
}

impl WaitingInboxes for HeldUpdates {
    fn inboxes_waiting(&self) -> u64 {
        // Until the number is known, some updates may be waiting; the first validation determines it.
        self.appender.inboxes_waiting().max(u64::from(!self.appender.knows_waiting()))
    }

    fn chain_time_s(&self) -> u64 {
        let chains = self.chains.chains();
        let app = chains.iter().find(|chain| chain.name == APP);
        app.and_then(|chain| chain.head_time_s).map_or(0, |head_s| no_later(head_s, now_unix_s()))
    }

    fn judge_again(&self) {
        match self.appender.judge_waiting() {
            Ok(judged) if judged.valid + judged.invalid > 0 => tracing::info!(
                valid = judged.valid,
                invalid = judged.invalid,
                waiting = judged.waiting,
                "identity updates that waited were judged"
            ),
            Ok(_) => {}
            Err(error) => tracing::error!(
                code = "identity_judging_failed",
                "waiting identity updates could not be judged, and are tried again: {error}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::no_later;

    /// An endpoint may state any time for its newest block.
    #[test]
    fn a_block_of_the_future_moves_no_deadline() {
        assert_eq!(no_later(900, 1000), 900);
        assert_eq!(no_later(9_000_000, 1000), 1000);
    }
}
