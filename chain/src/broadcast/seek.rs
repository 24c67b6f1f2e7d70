//! Who has used a nonce, when no receipt says so: the payload's own event, or another transaction
//! of the account with that nonce.

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, U64};
use alloy::providers::Provider as _;
use serde::Deserialize;

use super::BroadcastReceipt;
use super::nonces::Look;
use super::payload::{Contracts, Topic};
use super::submission::{Mined, block_time, count, first_mined, head};
use crate::send::{Call, Chain, RequestError};

/// How many blocks are searched for events at once, how often at most, and how far back when it is
/// not known when the transaction was sent.
const PAGE_BLOCKS: u64 = 1000;
const PAGES_MAX: u64 = 20;
const BACK_BLOCKS: u64 = 5000;

/// The payload whose event is looked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) contracts: Contracts,
    pub(super) topic: Topic,
    pub(super) call: Call,
}

/// What proves who has used a nonce.
#[derive(Debug)]
pub(super) enum Seen {
    Mined(Mined),
    /// Another transaction of the account.
    Other(B256),
}

/// Looks at one endpoint; nothing if it shows no proof.
pub(super) async fn seek(
    chain: &Chain,
    account: Address,
    look: &Look,
    wanted: Option<&Wanted>,
) -> Result<Option<Seen>, RequestError> {
    if let Some(mined) = first_mined(chain, &look.hashes).await? {
        return Ok(Some(Seen::Mined(mined)));
    }
    let head = head(chain).await?;
    if let Some(wanted) = wanted {
        match event(chain, look, wanted, head).await {
            Ok(Some(broadcasted)) => return Ok(Some(Seen::Mined(Mined::Event(broadcasted)))),
            Ok(None) => {}
            // What the nonce was used for may be found all the same.
            Err(fault) => tracing::debug!(%fault, "events cannot be searched"),
        }
    }
    let user = user(chain, account, look.nonce, head).await?;
    Ok(user.filter(|hash| !look.hashes.contains(hash)).map(Seen::Other))
}

/// The payload's event since it was sent. When that was is not known after a crash: then it has to
/// be of one of the nonce's own transactions, as others may have sent the same long before.
async fn event(
    chain: &Chain,
    look: &Look,
    wanted: &Wanted,
    head: u64,
) -> Result<Option<BroadcastReceipt>, RequestError> {
    let Wanted { contracts, topic, call } = wanted;
    let mut from = look.since_block.unwrap_or(head.saturating_sub(BACK_BLOCKS));
    for _ in 0..PAGES_MAX {
        if from > head {
            break;
        }
        let to = head.min(from + PAGE_BLOCKS - 1);
        let filter = contracts.events(*topic).from_block(from).to_block(to);
        let logs = chain.provider().get_logs(&filter).await;
        for log in logs.map_err(|error| chain.fault("eth_getLogs", error))? {
            let Some(hash) = log.transaction_hash.filter(|_| !log.removed) else { continue };
            let is_ours = look.since_block.is_some() || look.hashes.contains(&hash);
            let number = contracts.number_of(*topic, call, &log.inner).filter(|_| is_ours);
            if let Some(sequence_id) = number {
                let block_time_s = block_time(chain, log.block_timestamp, log.block_number).await?;
                let block_number = log.block_number.unwrap_or_default();
                return Ok(Some(BroadcastReceipt {
                    sequence_id,
                    transaction_hash: hash,
                    block_number,
                    block_time_s,
                }));
            }
        }
        from = to + 1;
    }
    Ok(None)
}

/// The account's transaction with this nonce. Blocks are searched back from the head in ever
/// longer steps: a node need not remember more of the past than that.
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
    Ok(count(chain, account, BlockNumberOrTag::Number(at)).await? > nonce)
}

async fn in_block(
    chain: &Chain,
    account: Address,
    nonce: u64,
    number: u64,
) -> Result<Option<B256>, RequestError> {
    #[derive(Debug, Deserialize)]
    struct Block {
        transactions: Vec<Transaction>,
    }
    #[derive(Debug, Deserialize)]
    struct Transaction {
        hash: B256,
        from: Address,
        nonce: Option<U64>,
    }
    const METHOD: &str = "eth_getBlockByNumber";
    let block = chain.provider().raw_request(METHOD.into(), (U64::from(number), true)).await;
    let block: Option<Block> = block.map_err(|error| chain.fault(METHOD, error))?;
    let mut transactions = block.into_iter().flat_map(|block| block.transactions);
    let is_it = |it: &Transaction| it.from == account && it.nonce == Some(U64::from(nonce));
    Ok(transactions.find(is_it).map(|it| it.hash))
}

#[cfg(test)]
mod tests;
