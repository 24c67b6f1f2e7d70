//! Reads the state of the account and of its transactions.

use std::collections::HashMap;
use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256};
use futures_util::future::{join_all, try_join_all};

use super::receipts::{MinedPayload, first_mined};
use super::seek::{NonceUser, SoughtPayload, seek};
use super::slots::{AccountState, NonceQuery, NonceUse, SlotId};
use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// The questions of one poll.
#[derive(Debug, Default)]
pub(super) struct PollRequest {
    /// The driver's time at the start of the poll.
    pub(super) asked_at: Duration,
    /// The nonces in use.
    pub(super) queries: Vec<NonceQuery>,
    /// The payloads of those nonces whose user is sought.
    pub(super) sought: HashMap<SlotId, SoughtPayload>,
    /// True if the count of pending transactions is needed too.
    pub(super) wants_pending: bool,
}

/// The answers of one poll.
#[derive(Debug)]
pub(super) struct PollResponse {
    pub(super) state: AccountState,
    /// The mined transactions that the state names, by hash.
    pub(super) mined: HashMap<B256, MinedPayload>,
}

/// Polls the first endpoint that answers, then asks every endpoint about the nonces whose user is
/// sought.
pub(super) async fn poll(
    endpoints: &Endpoints,
    account: Address,
    request: &PollRequest,
) -> Result<PollResponse, RequestError> {
    let polled = endpoints.ask(|chain| async move { poll_at(&chain, account, request).await });
    let PollResponse { mut state, mut mined } = polled.await?;
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
    Ok(PollResponse { state, mined })
}

async fn poll_at(
    chain: &Chain,
    account: Address,
    request: &PollRequest,
) -> Result<PollResponse, RequestError> {
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
    let asked_at = request.asked_at;
    let state = AccountState { asked_at, mined: mined_count, pending: pending_count, head, uses };
    Ok(PollResponse { state, mined })
}
