//! The outcome of a single transaction that a [`Sender`](crate::send::Sender) has sent, and the fees for it, by several
//! endpoints.
//!
//! The enemy is the endpoint that the sender uses, if there are others: it may make up a success or a failure, keep the
//! transaction to itself, or state wrong fees. The rules are those of a broadcaster: see `confirming` and
//! `crate::prices`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::eips::eip1559::Eip1559Estimation;
use alloy::primitives::{Address, B256, Bytes};
use alloy::rpc::types::TransactionReceipt;
use parking_lot::Mutex;

use super::heads::EndpointHeads;
use super::poll::{ANSWER_MAX, PollRequest, PollResponse, poll};
use super::receipts::MinedPayload;
use super::slots::{NoncePurpose, NonceQuery, NonceUse, SlotId};
use super::submission;
use crate::endpoints::Endpoints;
use crate::prices;
use crate::send::{Chain, RequestError};

/// The time limit for an endpoint to state its fees. Guess.
const FEES_MAX: Duration = Duration::from_secs(2);

/// The endpoints that have to agree on the outcomes of an account's transactions. Cheap to clone; the clones share what
/// they know about stopped endpoints.
#[derive(Debug, Clone)]
pub struct Witnesses(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoints: Endpoints,
    heads: Mutex<EndpointHeads>,
    started: Instant,
}

/// The outcome of a transaction as the endpoints show it now.
#[derive(Debug)]
pub(crate) enum WitnessedOutcome {
    /// The transaction is mined, with success or not.
    Mined(Box<TransactionReceipt>),
    /// Another transaction of the account has used its nonce.
    NonceTaken,
    /// An endpoint calls the transaction mined, and others do not or show something else.
    Contested,
    /// No endpoint calls it mined.
    Open,
}

impl Witnesses {
    /// Creates witnesses from the endpoints of one chain. Sends no request yet.
    #[must_use]
    pub fn new(endpoints: Endpoints) -> Self {
        let heads = Mutex::new(EndpointHeads::new(endpoints.display_urls()));
        Self(Arc::new(Inner { endpoints, heads, started: Instant::now() }))
    }

    /// Returns true if there are endpoints with different hosts or ports. A single one is believed.
    pub(crate) fn are_several(&self) -> bool {
        self.0.heads.lock().following().configured > 1
    }

    /// Takes note of the endpoints' newest blocks before a transaction is sent. An endpoint that has none later has
    /// stopped.
    pub(crate) async fn begin(&self) {
        let asked = self.0.endpoints.each_in_time(ANSWER_MAX, |chain: Chain| async move {
            Ok((chain.endpoint().to_owned(), chain.newest_block().await?))
        });
        let asked = asked.await;
        let now = self.0.started.elapsed();
        let mut heads = self.0.heads.lock();
        heads.resume(now);
        for (endpoint, block) in asked.into_iter().flatten() {
            heads.note(&endpoint, Some(block), now);
        }
    }

    /// Asks all endpoints for the outcome of the account's transaction with this nonce. With `seeks`, the transaction
    /// that used the nonce is searched for if it is not this one.
    ///
    /// # Errors
    /// The error of the last endpoint, if none has answered.
    pub(crate) async fn outcome(
        &self,
        account: Address,
        nonce: u64,
        hash: B256,
        seeks: bool,
    ) -> Result<WitnessedOutcome, RequestError> {
        let query = NonceQuery {
            slot: SlotId(1),
            nonce,
            purpose: NoncePurpose::Filler,
            hashes: vec![hash],
            seeks,
            since_block: None,
        };
        let following = self.0.heads.lock().following();
        let queries = vec![query];
        let request = PollRequest { queries, wants_all: true, following, ..PollRequest::default() };
        let response = poll(&self.0.endpoints, account, &request).await?;
        let PollResponse { state, mut mined, contested, heads, .. } = response;
        let now = self.0.started.elapsed();
        for (endpoint, block) in &heads {
            self.0.heads.lock().note(endpoint, *block, now);
        }
        Ok(match state.uses.first().map(|(_, used)| *used) {
            Some(NonceUse::Mined(hash)) => match mined.remove(&hash) {
                Some(MinedPayload::Receipt { receipt, .. }) => WitnessedOutcome::Mined(receipt),
                _ => WitnessedOutcome::Open,
            },
            Some(NonceUse::Other(_)) => WitnessedOutcome::NonceTaken,
            _ if contested.is_some() => WitnessedOutcome::Contested,
            _ => WitnessedOutcome::Open,
        })
    }

    /// Sends a transaction to every endpoint, because the one that has it may keep it to itself.
    pub(crate) async fn spread(&self, raw: &Bytes) {
        let sent = submission::send(&self.0.endpoints, raw, true).await;
        tracing::debug!(?sent, "a transaction was sent to every endpoint");
    }

    /// Returns the fees of a transaction on which the endpoints agree; `None` if none states any. See
    /// [`agreed_fees`](prices::agreed_fees).
    pub(crate) async fn fees(&self, price_max_wei: u128) -> Option<Eip1559Estimation> {
        let asked = |chain: Chain| async move { chain.fees().await };
        let stated = prices::stated(&self.0.endpoints, FEES_MAX, asked);
        prices::agreed_fees(&stated.await.ok()?, price_max_wei)
    }
}
