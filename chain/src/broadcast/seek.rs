//! Finds the transaction that used a nonce when no own receipt shows it: by the payload's event, or by another
//! transaction of the account with that nonce.

use alloy::consensus::Transaction as _;
use alloy::eips::BlockId;
use alloy::eips::eip2718::Encodable2718 as _;
use alloy::primitives::{Address, B256, U64, keccak256};
use alloy::providers::Provider as _;
use alloy::rpc::types::Transaction;
use serde::Deserialize;
use serde_json::Value;

use super::outcome::BroadcastReceipt;
use super::payload::{BroadcasterContracts, PayloadTopic};
use super::receipts::{MinedPayload, block_time, first_mined};
use super::signing::is_of_account;
use super::slots::NonceQuery;
use crate::send::{Call, Chain, RequestError};

/// The number of blocks per search for events. Guess: common providers allow at least 2,000.
const PAGE_BLOCKS: u64 = 1000;
/// The number of event searches per nonce and attempt. Guess: together they cover several hours of a rollup.
const PAGES_MAX: u64 = 20;
/// The number of blocks searched backwards when the block at which the payload was sent is unknown. Guess.
const BACK_BLOCKS: u64 = 5000;

/// The payload whose event is sought.
#[derive(Debug, Clone)]
pub(super) struct SoughtPayload {
    pub(super) contracts: BroadcasterContracts,
    pub(super) topic: PayloadTopic,
    pub(super) call: Call,
}

/// The proven use of a nonce.
#[derive(Debug)]
pub(super) enum NonceUser {
    /// The payload is on the chain.
    Payload(MinedPayload),
    /// Another transaction of the account used the nonce.
    Other(B256),
}

/// Searches one endpoint for the user of a nonce. Returns `None` if the endpoint shows no proof.
///
/// The order matters: a receipt proves most, and a payload's event proves more than another transaction with the nonce.
/// A payload that is on the chain must never be sent again.
pub(super) async fn seek(
    chain: &Chain,
    account: Address,
    query: &NonceQuery,
    sought: Option<&SoughtPayload>,
) -> Result<Option<NonceUser>, RequestError> {
    if let Some(mined) = first_mined(chain, &query.hashes).await? {
        return Ok(Some(NonceUser::Payload(mined)));
    }
    let head = chain.newest_block().await?;
    if let Some(sought) = sought {
        match event(chain, query, sought, head).await {
            Ok(Some(mined)) => return Ok(Some(NonceUser::Payload(mined))),
            Ok(None) => {}
            // The endpoint may still show another transaction with the nonce.
            Err(error) => tracing::debug!(%error, "the chain's events cannot be searched"),
        }
    }
    let user = user(chain, account, query.nonce, head).await.unwrap_or_else(|error| {
        // The endpoint has answered without a receipt, which counts against the receipt of another endpoint.
        tracing::debug!(%error, "the user of a nonce cannot be searched");
        None
    });
    Ok(user.filter(|hash| !query.hashes.contains(hash)).map(NonceUser::Other))
}

/// Returns the account's transaction with which an endpoint shows that a nonce is used.
pub(super) async fn shown_user(
    chain: &Chain,
    account: Address,
    nonce: u64,
) -> Result<Option<B256>, RequestError> {
    let head = chain.newest_block().await?;
    user(chain, account, nonce, head).await
}

/// Returns the payload's event since the payload was sent.
///
/// After a crash, the block at which it was sent is unknown. Then only an event of the nonce's own transactions counts,
/// because another sender may have broadcast the same bytes long before.
async fn event(
    chain: &Chain,
    query: &NonceQuery,
    sought: &SoughtPayload,
    head: u64,
) -> Result<Option<MinedPayload>, RequestError> {
    let SoughtPayload { contracts, topic, call } = sought;
    let mut from = query.since_block.unwrap_or(head.saturating_sub(BACK_BLOCKS));
    for _ in 0..PAGES_MAX {
        if from > head {
            break;
        }
        let to = head.min(from + PAGE_BLOCKS - 1);
        let filter = contracts.events(*topic).from_block(from).to_block(to);
        let logs = chain.provider().get_logs(&filter).await;
        for log in logs.map_err(|error| chain.request_error("eth_getLogs", error))? {
            let Some(hash) = log.transaction_hash.filter(|_| !log.removed) else { continue };
            let is_ours = query.since_block.is_some() || query.hashes.contains(&hash);
            let number = contracts.sequence_id_of(*topic, call, &log.inner).filter(|_| is_ours);
            if let Some(sequence_id) = number {
                let block_time_s = block_time(chain, log.block_timestamp, log.block_number).await?;
                let block_number = log.block_number.unwrap_or_default();
                let receipt = BroadcastReceipt {
                    sequence_id,
                    transaction_hash: hash,
                    block_number,
                    block_time_s,
                };
                return Ok(Some(MinedPayload::Event { receipt, log: log.inner }));
            }
        }
        from = to + 1;
    }
    Ok(None)
}

/// Returns the account's transaction with this nonce.
///
/// Gallops back from the head and then bisects, by the account's transaction count at past blocks.
/// The first steps are short, so a node that keeps the state of a few blocks only can answer for a
/// recent nonce.
async fn user(
    chain: &Chain,
    account: Address,
    nonce: u64,
    head: u64,
) -> Result<Option<B256>, RequestError> {
    if !is_used(chain, account, nonce, head).await? {
        return Ok(None);
    }
    let (mut used, mut step) = (head, 1);
    let mut free = loop {
        let below = used.saturating_sub(step);
        if !is_used(chain, account, nonce, below).await? {
            break below;
        }
        if below == 0 {
            return Ok(None);
        }
        (used, step) = (below, step * 2);
    };
    while free + 1 < used {
        let middle = free.midpoint(used);
        if is_used(chain, account, nonce, middle).await? { used = middle } else { free = middle }
    }
    in_block(chain, account, nonce, used).await
}

async fn is_used(
    chain: &Chain,
    account: Address,
    nonce: u64,
    at: u64,
) -> Result<bool, RequestError> {
    Ok(chain.transaction_count(account, BlockId::number(at)).await? > nonce)
}

/// Returns the account's transaction with this nonce in a block.
///
/// The endpoint's claim is not trusted, because a wrong claim leads to a second broadcast of the payload. Only a
/// transaction with the account's signature counts, and its hash is computed from the signed bytes.
async fn in_block(
    chain: &Chain,
    account: Address,
    nonce: u64,
    number: u64,
) -> Result<Option<B256>, RequestError> {
    #[derive(Debug, Deserialize)]
    struct Block {
        transactions: Vec<Value>,
    }
    const METHOD: &str = "eth_getBlockByNumber";
    let block = chain.provider().raw_request(METHOD.into(), (U64::from(number), true)).await;
    let block: Option<Block> = block.map_err(|error| chain.request_error(METHOD, error))?;
    let mut transactions = block.into_iter().flat_map(|block| block.transactions);
    Ok(transactions.find_map(|it| signed_hash(it, chain.id(), account, nonce)))
}

/// Returns the hash of a transaction that the account has signed for this nonce; `None` for any other. Nodes of rollups
/// return further transaction types.
fn signed_hash(transaction: Value, chain_id: u64, account: Address, nonce: u64) -> Option<B256> {
    #[derive(Debug, Deserialize)]
    struct Head {
        from: Address,
        nonce: Option<U64>,
    }
    let head = Head::deserialize(&transaction).ok()?;
    if head.from != account || head.nonce != Some(U64::from(nonce)) {
        return None;
    }
    let transaction: Transaction = serde_json::from_value(transaction).ok()?;
    let signed = transaction.inner.inner();
    let is_ours = signed.nonce() == nonce && is_of_account(signed, account, chain_id);
    is_ours.then(|| keccak256(signed.encoded_2718()))
}

#[cfg(test)]
mod tests;
