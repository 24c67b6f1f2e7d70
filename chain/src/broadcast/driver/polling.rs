//! Polling of the account, and the warnings about what endpoints contest.

use std::time::{Duration, Instant};

use alloy::primitives::B256;

use super::{Driver, RequestResult};
use crate::broadcast::poll::{self, Heads, PollRequest, PollResponse};
use crate::broadcast::seek::SoughtPayload;
use crate::broadcast::slots::NoncePurpose;
use crate::send::RequestError;

/// The shortest and the longest pause between two polls. Guesses: below the block time of the rollups in use, so
/// polling adds little latency. There is no jitter, because the provider sees a single account.
pub(super) const POLL_MIN: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(100);
/// The pause after a poll that no endpoint answered. Guess.
const POLL_AFTER_ERROR: Duration = Duration::from_millis(500);
/// The pause before an endpoint is asked again to prove its transaction count, and between two warnings about contested
/// receipts. Guess.
const WARN_EVERY: Duration = Duration::from_secs(30);
/// The time for which a receipt has to be contested before the operator is warned. A guess: endpoints lag behind each
/// other for a second or two.
const CONTESTED_FOR: Duration = Duration::from_secs(10);

impl Driver {
    /// Polls the account if a poll is due.
    pub(super) fn poll(&mut self) {
        if self.is_polling || !self.must_watch() || Instant::now() < self.poll_at {
            return;
        }
        self.is_polling = true;
        let (state, account) = (self.state.clone(), self.account());
        let (queries, contracts) = (self.nonces.queries(self.now()), self.contracts);
        let sought = queries.iter().filter(|query| query.seeks).filter_map(|query| {
            let NoncePurpose::Payload(id) = query.purpose else { return None };
            let job = self.jobs.get(id)?;
            let (topic, call) = (job.topic, job.call.clone());
            Some((query.slot, SoughtPayload { contracts, topic, call }))
        });
        let wants_all = self.state.endpoints.count() > 1 && self.nonces.wants_all(self.now());
        let request = PollRequest {
            asked_at: self.now(),
            sought: sought.collect(),
            queries,
            wants_pending: wants_all || self.nonces.wants_pending(),
            wants_all,
            known_count: self.nonces.known_count(),
            may_prove: Instant::now() >= self.prove_at,
            following: self.heads.following(),
        };
        self.requests.spawn(async move {
            RequestResult::Polled(poll::poll(&state.endpoints, account, &request).await)
        });
    }

    /// Applies the result of a poll.
    pub(super) async fn polled(&mut self, polled: Result<PollResponse, RequestError>) {
        self.is_polling = false;
        self.poll_at = Instant::now() + self.pause;
        match polled {
            Ok(PollResponse { state, mined, unproven, contested, heads }) => {
                let done = self.nonces.polled(&state, self.now());
                self.warn_of_counts(unproven);
                if state.is_whole() {
                    self.warn_of_receipt(contested);
                    self.note_heads(&heads);
                }
                self.pause = (self.pause * 3 / 2).min(POLL_MAX);
                self.done(done, &mined).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the account cannot be polled");
                self.pause = POLL_AFTER_ERROR;
            }
        }
    }

    /// Warns the operator about an unproven count, and about gaps that are no longer filled.
    fn warn_of_counts(&mut self, unproven: Option<u64>) {
        if let Some(count) = unproven {
            self.prove_at = Instant::now() + WARN_EVERY;
            tracing::warn!(
                code = "transaction_count_unproven",
                count,
                known = self.nonces.known_count(),
                "one endpoint alone counts more transactions of the account, and shows none: it is not believed"
            );
        }
        if self.nonces.take_exhausted() {
            tracing::warn!(
                code = "fillers_exhausted",
                "nonces before those in use are free, and this hour has had enough transactions that fill them"
            );
        }
    }

    /// Takes note of the endpoints' newest blocks, and warns the operator about an endpoint without new ones.
    pub(super) fn note_heads(&mut self, heads: &Heads) {
        let now = self.now();
        for (endpoint, block) in heads {
            if self.heads.note(endpoint, *block, now) {
                tracing::warn!(
                    code = "endpoint_stalled",
                    endpoint,
                    block,
                    "an endpoint of the app chain has had no new block, or has not answered, while transactions were \
                     under way: that it shows no receipt does not count"
                );
            }
        }
    }

    /// Warns the operator about a receipt on which the endpoints do not agree for longer than one of them lags behind.
    fn warn_of_receipt(&mut self, contested: Option<B256>) {
        // Another transaction each time means that an endpoint lags behind a little.
        let known = self.contested.filter(|(hash, _)| Some(*hash) == contested);
        self.contested = known.or(contested.map(|hash| (hash, Instant::now())));
        let Some((hash, since)) = self.contested else { return };
        if since.elapsed() < CONTESTED_FOR || Instant::now() < self.warn_at {
            return;
        }
        self.warn_at = Instant::now() + WARN_EVERY;
        tracing::warn!(
            code = "receipt_contested",
            %hash,
            "one endpoint alone shows the outcome of a transaction, and others show none or another one: it is not \
             believed"
        );
    }
}
