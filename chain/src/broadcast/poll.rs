//! Polls the state of the account and of its transactions.
//!
//! Most polls ask one endpoint, and use only its receipts. Counts that move nonces are asked of every endpoint, since
//! one of them may lag behind or lie: see `agreement`.

use std::collections::HashMap;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256};
use futures_util::future::{join_all, try_join_all};
use tokio::time::timeout;

use super::agreement::confirmed;
use super::receipts::{MinedPayload, first_mined};
use super::seek::{NonceUser, SoughtPayload, seek, shown_user};
use super::slots::{AccountCounts, AccountState, NonceQuery, NonceUse, SlotId};
use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// The time limit for one of several endpoints to answer. A guess: many times the usual response time.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The time limit for an endpoint to show a transaction as proof of its count. A guess: some forty requests.
const PROOF_MAX: Duration = Duration::from_secs(5);

/// The parameters of one poll.
#[derive(Debug, Default)]
pub(super) struct PollRequest {
    /// The driver's time at the start of the poll.
    pub(super) asked_at: Duration,
    /// The nonces in use.
    pub(super) queries: Vec<NonceQuery>,
    /// The payloads of the queried nonces for which the using transaction is sought.
    pub(super) sought: HashMap<SlotId, SoughtPayload>,
    /// True if the count of pending transactions is needed too.
    pub(super) wants_pending: bool,
    /// True if every endpoint has to be asked.
    pub(super) wants_all: bool,
    /// The known count of transactions. If the polled endpoint reports more, all endpoints are polled.
    pub(super) known_count: u64,
    /// True if an endpoint whose count exceeds the confirmed one may be asked for proof.
    pub(super) may_prove: bool,
}

/// The result of one poll.
#[derive(Debug)]
pub(super) struct PollResponse {
    pub(super) state: AccountState,
    /// The mined transactions in `state`, by hash.
    pub(super) mined: HashMap<B256, MinedPayload>,
    /// A count above the confirmed one that an endpoint reported and failed to prove.
    pub(super) unproven: Option<u64>,
}

/// The answers of one endpoint to one poll.
struct EndpointAnswer {
    counts: AccountCounts,
    head: u64,
    uses: Vec<(NonceQuery, NonceUse)>,
    mined: HashMap<B256, MinedPayload>,
}

/// Polls the first endpoint that answers, and all of them if one is not enough. Then searches every endpoint for the
/// users of the nonces in question.
pub(super) async fn poll(
    endpoints: &Endpoints,
    account: Address,
    request: &PollRequest,
) -> Result<PollResponse, RequestError> {
    let PollResponse { mut state, mut mined, unproven } = if endpoints.count() == 1 {
        let ask = |chain| async move { poll_at(&chain, account, request).await };
        merged(vec![endpoints.ask(ask).await?], request, 1)
    } else if request.wants_all {
        poll_all(endpoints, account, request).await?
    } else {
        let ask = |chain| async move { poll_in_time(&chain, account, request).await };
        let answer = endpoints.ask(ask).await?;
        match answer.counts.mined > request.known_count {
            true => poll_all(endpoints, account, request).await?,
            false => merged(vec![answer], request, 0),
        }
    };
    let unanswered =
        state.uses.iter_mut().filter(|(query, used)| query.seeks && *used == NonceUse::Unknown);
    let users = join_all(unanswered.map(|(query, used)| async move {
        let (query, sought) = (&*query, request.sought.get(&query.slot));
        let user =
            endpoints.find(|chain| async move { seek(&chain, account, query, sought).await });
        (used, user.await)
    }));
    for (used, user) in users.await {
        match user {
            Some(NonceUser::Payload(payload)) => {
                *used = NonceUse::Mined(payload.hash());
                mined.insert(payload.hash(), payload);
            }
            Some(NonceUser::Other(hash)) => *used = NonceUse::Other(hash),
            None => {}
        }
    }
    Ok(PollResponse { state, mined, unproven })
}

/// Polls every endpoint. An endpoint whose count exceeds the confirmed one has to prove it.
async fn poll_all(
    endpoints: &Endpoints,
    account: Address,
    request: &PollRequest,
) -> Result<PollResponse, RequestError> {
    let polled = endpoints.each_in_time(ANSWER_MAX, |chain| async move {
        let answer = poll_at(&chain, account, request).await?;
        Ok((answer, chain))
    });
    let (mut answers, mut chains, mut last) = (Vec::new(), Vec::new(), None);
    for polled in polled.await {
        match polled {
            Ok((answer, chain)) => {
                answers.push(answer);
                chains.push(chain);
            }
            Err(error) => last = Some(error),
        }
    }
    if answers.is_empty() {
        return Err(last.expect("there is an endpoint, and each leaves an answer or an error"));
    }
    let told = answers.iter().map(|it| it.counts.mined);
    // A single answer has no second endpoint that confirms it.
    let agreed = if answers.len() > 1 { confirmed(told) } else { 0 }.max(request.known_count);
    let mut unproven = None;
    if request.may_prove {
        for (answer, chain) in answers.iter_mut().zip(&chains) {
            let count = answer.counts.mined;
            if count > agreed {
                let shown = timeout(PROOF_MAX, shown_user(chain, account, count - 1)).await;
                answer.counts.is_proven = matches!(shown, Ok(Ok(Some(_))));
                unproven = Some(count).filter(|_| !answer.counts.is_proven);
            }
        }
    }
    Ok(PollResponse { unproven, ..merged(answers, request, endpoints.count()) })
}

/// Merges the answers. `asked` is the number of all endpoints if every one was polled, else 0. A nonce is used as soon
/// as one endpoint shows by which transaction.
fn merged(answers: Vec<EndpointAnswer>, request: &PollRequest, asked: usize) -> PollResponse {
    let head = confirmed(answers.iter().map(|it| it.head));
    let counts = answers.iter().map(|it| it.counts).collect();
    let mut used: HashMap<SlotId, (NonceQuery, NonceUse)> = HashMap::new();
    let mut mined = HashMap::new();
    for answer in answers {
        mined.extend(answer.mined);
        for (query, found) in answer.uses {
            let known = used.entry(query.slot).or_insert((query, NonceUse::Unknown));
            if known.1 == NonceUse::Unknown {
                known.1 = found;
            }
        }
    }
    // Uses are in the order of the queries, so that nonces end in that order.
    let uses = request.queries.iter().filter_map(|query| used.remove(&query.slot)).collect();
    let state = AccountState { asked_at: request.asked_at, counts, asked, head, uses };
    PollResponse { state, mined, unproven: None }
}

async fn poll_in_time(
    chain: &Chain,
    account: Address,
    request: &PollRequest,
) -> Result<EndpointAnswer, RequestError> {
    let polled = timeout(ANSWER_MAX, poll_at(chain, account, request)).await;
    polled.unwrap_or_else(|_| Err(chain.too_slow(ANSWER_MAX)))
}

async fn poll_at(
    chain: &Chain,
    account: Address,
    request: &PollRequest,
) -> Result<EndpointAnswer, RequestError> {
    let latest = chain.transaction_count(account, BlockId::latest());
    let pending = async {
        match request.wants_pending {
            true => chain.transaction_count(account, BlockId::pending()).await.map(Some),
            false => Ok(None),
        }
    };
    let (mined_count, head, pending_count) =
        tokio::try_join!(latest, chain.newest_block(), pending)?;
    let used = request.queries.iter().filter(|query| query.nonce < mined_count);
    let receipts = used.map(|query| async {
        Ok::<_, RequestError>((query.clone(), first_mined(chain, &query.hashes).await?))
    });
    let mut mined = HashMap::new();
    let mut uses = Vec::new();
    for (query, receipt) in try_join_all(receipts).await? {
        let used = receipt.as_ref().map_or(NonceUse::Unknown, |it| NonceUse::Mined(it.hash()));
        uses.push((query, used));
        mined.extend(receipt.map(|receipt| (receipt.hash(), receipt)));
    }
    let counts = AccountCounts { mined: mined_count, pending: pending_count, is_proven: false };
    Ok(EndpointAnswer { counts, head, uses, mined })
}
