//! The outcome of a single transaction that a [`Sender`](crate::send::Sender) has sent, and the fees for it, by several
//! endpoints.
//!
//! The attacker is the endpoint that the sender uses, if there are others: it may invent a success or a failure,
//! withhold the transaction, or state wrong fees. The rules are those of a broadcaster: see `confirming` and
//! `crate::prices`.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::eips::eip1559::Eip1559Estimation;
use alloy::primitives::{Address, B256, Bytes};
use alloy::rpc::types::TransactionReceipt;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::agreement::{KnownCounts, believed};
use super::heads::EndpointHeads;
use super::poll::{ANSWER_MAX, PollRequest, PollResponse, poll};
use super::receipts::MinedPayload;
use super::slots::{
    AccountCounts, AccountState, NoncePurpose, NonceQuery, NonceUse, Recipients, SendOutcome,
    SlotId,
};
use super::submission;
use crate::admin::WeiPerGas;
use crate::endpoints::Endpoints;
use crate::prices;
use crate::send::{Call, Chain, Quote, RequestError, SendError};

/// The time by which an endpoint may be behind another endpoint. Guess: a few blocks.
const BEHIND_MAX: Duration = Duration::from_secs(2);
/// The time limit for an endpoint to state its fees. Guess.
const FEES_MAX: Duration = Duration::from_secs(2);

/// The endpoints that have to agree on the outcomes of an account's transactions. Cheap to clone; the clones share what
/// they know about stopped endpoints.
#[derive(Debug, Clone)]
pub struct Witnesses(Arc<WitnessesState>);

#[derive(Debug)]
struct WitnessesState {
    endpoints: Endpoints,
    heads: Mutex<EndpointHeads>,
    /// For each account, the count of transactions up to the highest one that was handed over.
    sent: Mutex<BTreeMap<Address, u64>>,
    started: Instant,
}

/// The outcome of handing a transaction to the endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TransmitOutcome {
    /// An endpoint has the transaction.
    Accepted,
    /// No endpoint is known to have the transaction, and not every one refuses it: an answer may be lost, and an
    /// endpoint that refuses may have passed it on.
    Unsure,
    /// An endpoint says that the nonce is used, perhaps by this transaction.
    NonceUsed,
    /// An endpoint says that another transaction of the account has the nonce, and that these fees do not suffice to
    /// replace it. No endpoint is known to have this one.
    Outbid,
    /// An endpoint lacks transactions with lower nonces.
    NonceAhead,
    /// Every endpoint refuses the transaction because of its fees. Holds the message of one.
    TooCheap(String),
    /// Every endpoint refuses the transaction. Holds the message of one.
    Refused(String),
}

/// The first nonce of an account that an endpoint calls pending and not mined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnsettledNonce {
    pub(crate) nonce: u64,
    /// True if two endpoints have mined all transactions that others call pending, so that the others are behind. One
    /// alone may lie.
    pub(crate) is_mined_for_two: bool,
}

fn unsettled(counts: &[AccountCounts]) -> Option<UnsettledNonce> {
    let highest = |it: &AccountCounts| it.pending.unwrap_or(0).max(it.mined);
    let nonce = counts.iter().filter(|it| highest(it) > it.mined).map(|it| it.mined).min()?;
    let end = counts.iter().map(highest).max()?;
    let is_mined_for_two = counts.iter().filter(|it| it.mined >= end).count() > 1;
    Some(UnsettledNonce { nonce, is_mined_for_two })
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
        let (sent, started) = (Mutex::default(), Instant::now());
        Self(Arc::new(WitnessesState { endpoints, heads, sent, started }))
    }

    /// Returns the endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.0.endpoints
    }

    /// Returns true if there are endpoints with different hosts or ports. A single one is believed.
    #[must_use]
    pub fn are_several(&self) -> bool {
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
            fillers: Vec::new(),
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

    /// Returns the nonce of the account's next transaction, by the counts of all endpoints: a count above the
    /// transactions that were handed over needs two of them, or a proof.
    ///
    /// # Errors
    /// The error of the last endpoint, if none has answered.
    pub(crate) async fn next_nonce(&self, account: Address) -> Result<u64, RequestError> {
        let sent = self.sent_count(account);
        let state = self.counts(account, sent).await?;
        let (mined, pending) = believed(&state.counts, KnownCounts { mined: sent, used: sent });
        Ok(pending.unwrap_or(mined))
    }

    /// Returns the first nonce of the account that is pending and not mined; `None` if there is none.
    ///
    /// Of two endpoints, one suffices to show that all transactions that were handed over are mined: the other may be
    /// behind. Of more endpoints, two have to show it. Otherwise a single endpoint that lies could hide the transaction
    /// that waits, and later ones would wait behind it.
    ///
    /// # Errors
    /// The error of the last endpoint, if none has answered.
    pub(crate) async fn first_agreed_pending(
        &self,
        account: Address,
    ) -> Result<Option<u64>, RequestError> {
        let sent = self.sent_count(account);
        let counts = self.counts(account, sent).await?.counts;
        let known_mined = if counts.len() > 2 { 0 } else { sent };
        let (mined, pending) = believed(&counts, KnownCounts { mined: known_mined, used: sent });
        Ok(pending.filter(|pending| *pending > mined).map(|_| mined))
    }

    /// Returns the count of the account's transactions up to the highest one that was handed over.
    fn sent_count(&self, account: Address) -> u64 {
        self.0.sent.lock().get(&account).copied().unwrap_or(0)
    }

    /// Returns the first nonce of the account that an endpoint calls pending and not mined; `None` if no endpoint that
    /// answers has a transaction of the account that is not mined.
    ///
    /// # Errors
    /// The error of the last endpoint, if none has answered.
    pub(crate) async fn first_pending(
        &self,
        account: Address,
    ) -> Result<Option<UnsettledNonce>, RequestError> {
        Ok(unsettled(&self.counts(account, u64::MAX).await?.counts))
    }

    /// Asks every endpoint for the account's counts. An endpoint whose count is above the counts of all others, and
    /// above `known_count`, has to show a transaction of the account as proof.
    async fn counts(
        &self,
        account: Address,
        known_count: u64,
    ) -> Result<AccountState, RequestError> {
        let request = PollRequest {
            wants_pending: true,
            wants_all: true,
            may_prove: true,
            known_count,
            ..PollRequest::default()
        };
        Ok(poll(&self.0.endpoints, account, &request).await?.state)
    }

    /// Hands the account's transaction with this nonce to the first endpoint. If that endpoint does not accept the
    /// transaction, hands it to every endpoint. A refusal by only some endpoints does not count: an endpoint that lies
    /// may have passed the transaction on.
    pub(crate) async fn hand_over(
        &self,
        account: Address,
        nonce: u64,
        raw: &Bytes,
    ) -> TransmitOutcome {
        let sent = submission::send_unless_all_refuse(&self.0.endpoints, raw).await;
        tracing::debug!(?sent, "a transaction was handed to the endpoints");
        match sent {
            SendOutcome::Accepted => {
                self.note_sent(account, nonce);
                TransmitOutcome::Accepted
            }
            SendOutcome::Contested(_)
            | SendOutcome::Lost
            | SendOutcome::Unclear(_)
            | SendOutcome::UnderpricedForSome(_)
            | SendOutcome::TooCheapForSome(_) => {
                self.note_sent(account, nonce);
                TransmitOutcome::Unsure
            }
            SendOutcome::Later => TransmitOutcome::Unsure,
            SendOutcome::NonceUsed => TransmitOutcome::NonceUsed,
            SendOutcome::Underpriced => TransmitOutcome::Outbid,
            SendOutcome::NonceAhead | SendOutcome::NonceAheadForSome(_) => {
                TransmitOutcome::NonceAhead
            }
            SendOutcome::TooCheap(reason) => TransmitOutcome::TooCheap(reason),
            SendOutcome::Refused(reason) => TransmitOutcome::Refused(reason),
        }
    }

    /// Takes note that an endpoint may have the account's transaction with this nonce.
    fn note_sent(&self, account: Address, nonce: u64) {
        let mut sent = self.0.sent.lock();
        let known = sent.entry(account).or_default();
        *known = (*known).max(nonce + 1);
    }

    /// Sends a transaction to every endpoint, because an endpoint that has the transaction may keep it to itself.
    pub(crate) async fn spread(&self, raw: &Bytes) {
        let sent = submission::send(&self.0.endpoints, raw, Recipients::AllAgain).await;
        tracing::debug!(?sent, "a transaction was sent to every endpoint");
    }

    /// Simulates a call at the endpoint `chain`, or at another endpoint if `chain` refuses it. Returns the call's
    /// result, and its cost at the fees on which all endpoints agree.
    ///
    /// # Errors
    /// The errors of [`Chain::quote`].
    pub async fn quote(
        &self,
        chain: &Chain,
        from: Address,
        call: &Call,
    ) -> Result<Quote, SendError> {
        self.quote_up_to(chain, from, call, WeiPerGas(u128::MAX)).await
    }

    /// Returns a quote like [`quote`](Self::quote). If endpoints state prices above and below `price_max`, the quote
    /// has one of the lower prices. If one endpoint refuses the call, the others are asked: an endpoint that lies must
    /// not prevent the call.
    pub(crate) async fn quote_up_to(
        &self,
        chain: &Chain,
        from: Address,
        call: &Call,
        price_max: WeiPerGas,
    ) -> Result<Quote, SendError> {
        let stated = &self.stated_fees().await;
        let quoted = chain.quote_at(from, call, stated, price_max).await;
        let Err(refusal) = quoted else { return quoted };
        if !self.are_several() {
            return Err(refusal);
        }
        if matches!(refusal, SendError::WouldRevert(_)) {
            // Another sender may just have done the same, and an endpoint that is behind would still accept it.
            sleep(BEHIND_MAX).await;
        }
        let ask = |other: Chain| async move {
            Ok::<_, RequestError>(other.quote_at(from, call, stated, price_max).await)
        };
        let mut others = pin!(self.0.endpoints.others_in_time(chain, ANSWER_MAX, &ask));
        while let Some(quoted) = others.next().await {
            if let Ok(Ok(quote)) = quoted {
                return Ok(quote);
            }
        }
        Err(refusal)
    }

    /// Returns the fees that the endpoints state; none with a single endpoint, whose own fees are used.
    async fn stated_fees(&self) -> Vec<Eip1559Estimation> {
        if !self.are_several() {
            return Vec::new();
        }
        let asked = |chain: Chain| async move { chain.fees().await };
        let stated = self.0.endpoints.each_until_majority(FEES_MAX, prices::GRACE, asked);
        stated.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a script could not make two payments one after the other.
    #[test]
    fn a_transaction_that_one_endpoint_alone_has_not_mined_yet_is_told_from_one_that_waits() {
        let counts = |all: &[(u64, Option<u64>)]| {
            let count = |&(mined, pending)| AccountCounts { mined, pending, is_proven: false };
            unsettled(&all.iter().map(count).collect::<Vec<_>>())
        };
        let found = |nonce, is_mined_for_two| Some(UnsettledNonce { nonce, is_mined_for_two });
        let (done, behind) = ((8, Some(8)), (7, Some(8)));
        assert_eq!(counts(&[done, done, done]), None);
        assert_eq!(counts(&[(7, None), done]), None, "its pending ones are not known");
        assert_eq!(counts(&[done, done, behind]), found(7, true));
        assert_eq!(counts(&[behind, behind, behind]), found(7, false));
        assert_eq!(counts(&[done, behind]), found(7, false), "one alone may lie");
        assert_eq!(counts(&[(99, Some(99)), behind, behind]), found(7, false));
        // A further one waits, which the one that is behind does not know.
        assert_eq!(counts(&[(8, Some(9)), done, behind]), found(7, false));
        assert_eq!(counts(&[]), None);
    }
}
