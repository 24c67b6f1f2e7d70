//! Requests to the chain: what a payload needs, how a transaction is taken, and what became of
//! those that are watched.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256, Bytes};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;
use futures_util::future::{join_all, try_join_all};

use super::BroadcastReceipt;
use super::error::BroadcastError;
use super::nonces::{Found, Look, Polled, Sent, SlotId};
use super::seek::{Seen, Wanted, seek};
use crate::contracts::GroupMessageBroadcaster::InvalidPayloadSize;
use crate::contracts::revert::Revert;
use crate::endpoints::{EndpointError, Endpoints};
use crate::send::{Call, Chain, EthCallError, RequestError};

/// Every transaction.
const GAS_OF_TRANSACTION: u64 = 21_000;
/// Since EIP-7623 a transaction costs at least so much for a byte of its data.
const FLOOR_GAS_OF_ZERO: u64 = 10;
const FLOOR_GAS_OF_OTHERS: u64 = 40;

/// What was found out about a mined transaction.
#[derive(Debug, Clone)]
pub(super) enum Mined {
    Receipt {
        receipt: Box<TransactionReceipt>,
        block_time_s: u64,
    },
    /// Its event was seen, and no receipt.
    Event(BroadcastReceipt),
}

impl Mined {
    pub(super) fn hash(&self) -> B256 {
        match self {
            Self::Receipt { receipt, .. } => receipt.transaction_hash,
            Self::Event(broadcasted) => broadcasted.transaction_hash,
        }
    }
}

/// What is to be asked.
#[derive(Debug, Default)]
pub(super) struct Watched {
    pub(super) asked_at: Duration,
    /// Nonces under way.
    pub(super) looks: Vec<Look>,
    /// The payloads of those that are sought.
    pub(super) wanted: HashMap<SlotId, Wanted>,
    pub(super) wants_pending: bool,
}

/// Why a call could not be tried.
struct Untried(EthCallError);

impl From<RequestError> for Untried {
    fn from(fault: RequestError) -> Self {
        Self(EthCallError::Rpc(fault))
    }
}

impl fmt::Display for Untried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            EthCallError::Reverted(revert) => revert.fmt(f),
            EthCallError::Rpc(fault) => fault.fmt(f),
        }
    }
}

impl EndpointError for Untried {
    fn request_error(&self) -> Option<&RequestError> {
        match &self.0 {
            EthCallError::Reverted(_) => None,
            EthCallError::Rpc(fault) => Some(fault),
        }
    }
}

/// The least gas that a transaction with this data may have.
fn floor_gas(data: &[u8]) -> u64 {
    let zeros = data.iter().filter(|byte| **byte == 0).count() as u64;
    let others = data.len() as u64 - zeros;
    GAS_OF_TRANSACTION + zeros * FLOOR_GAS_OF_ZERO + others * FLOOR_GAS_OF_OTHERS
}

/// Tries the call and says how much gas it is to be given: a quarter more than it needs now, and a
/// tenth more than its data costs at least, whether the node knows of that or not.
pub(super) async fn gas_limit(
    endpoints: &Endpoints,
    account: Address,
    call: &Call,
) -> Result<u64, BroadcastError> {
    let estimated = endpoints
        .ask(|chain| async move { chain.gas_limit(call.request(account)).await.map_err(Untried) })
        .await
        .map_err(|Untried(fault)| fault);
    let floor = floor_gas(&call.data);
    match estimated {
        Ok(estimated) => Ok(estimated.max(floor + floor / 10)),
        Err(EthCallError::Reverted(revert)) => Err(would_revert(revert, &call.data)),
        Err(EthCallError::Rpc(RequestError::Refused { message, .. })) => {
            Err(refused(account, endpoints.id(), message))
        }
        Err(EthCallError::Rpc(fault)) => Err(fault.into()),
    }
}

/// What the contract's refusal means.
fn would_revert(revert: Revert, data: &[u8]) -> BroadcastError {
    if let Some(InvalidPayloadSize { actualSize_, minSize_, maxSize_ }) = revert.as_error() {
        let number = |value: alloy::primitives::U256| usize::try_from(value).unwrap_or(usize::MAX);
        let (bytes, min, max) = (number(actualSize_), number(minSize_), number(maxSize_));
        return match bytes < min {
            true => BroadcastError::TooShort { bytes: bytes.min(data.len()), min },
            false => BroadcastError::TooLong { bytes, max },
        };
    }
    if revert.name() == Some("Paused") {
        BroadcastError::Paused
    } else {
        BroadcastError::WouldRevert(revert)
    }
}

/// What it means that no node takes a transaction.
pub(super) fn refused(account: Address, chain_id: u64, said: String) -> BroadcastError {
    if said.to_ascii_lowercase().contains("insufficient funds") {
        BroadcastError::NoFunds { account, chain_id, said }
    } else {
        BroadcastError::Refused { said }
    }
}

/// Gives a transaction to the first endpoint that answers. When one of those before has not, it
/// may have it: whatever the next one says, nothing is certain.
pub(super) async fn send(endpoints: &Endpoints, raw: &Bytes) -> Sent {
    let (raw, is_lost) = (&raw, &AtomicBool::new(false));
    let sent = endpoints.ask(|chain| async move {
        let sent = chain.provider().send_raw_transaction(raw).await.map(drop);
        let sent = sent.map_err(|error| chain.fault("eth_sendRawTransaction", error));
        if matches!(sent, Err(RequestError::Unreachable { .. } | RequestError::Malformed { .. })) {
            is_lost.store(true, Ordering::Relaxed);
        }
        sent
    });
    match sent.await {
        Ok(()) => Sent::Taken,
        Err(_) if is_lost.load(Ordering::Relaxed) => Sent::Lost,
        Err(RequestError::Refused { message, .. }) => meaning(message),
        // No endpoint was reached at all.
        Err(_) => Sent::Later,
    }
}

/// What nodes say of a transaction that they will never take, whoever else is asked.
const FINAL: [&str; 14] = [
    "insufficient funds",
    "insufficient balance",
    "insufficient gas for floor data gas",
    "floor data gas",
    "intrinsic gas too low",
    "exceeds block gas limit",
    "exceeds the configured cap",
    "oversized data",
    "max initcode size",
    "invalid sender",
    "invalid chain id",
    "invalid signature",
    "transaction type not supported",
    "only replay-protected",
];

/// What nodes say differs in its details. The words are those of go-ethereum, which others keep
/// to. Whatever is not known to be final, such as a fault behind a proxy, may come from a node
/// that has the transaction.
fn meaning(said: String) -> Sent {
    let lower = said.to_ascii_lowercase();
    let has = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    if has(&["already known", "already imported", "already in the mempool", "known transaction"]) {
        Sent::Taken
    } else if has(&["nonce too low", "nonce has already been used"]) {
        Sent::NonceUsed
    } else if has(&["replacement transaction underpriced", "replacement fee too low"]) {
        Sent::Underpriced
    } else if has(&["nonce too high", "nonce gap"]) {
        Sent::NonceAhead
    } else if has(&["underpriced", "less than block base fee", "gas price too low"]) {
        Sent::TooCheap(said)
    } else if has(&FINAL) {
        Sent::Refused(said)
    } else if has(&["txpool is full", "limit exceeded", "too many requests", "rate limit"]) {
        Sent::Later
    } else {
        Sent::Lost
    }
}

/// Asks what became of the account's transactions.
pub(super) async fn poll(
    endpoints: &Endpoints,
    account: Address,
    watched: &Watched,
) -> Result<(Polled, HashMap<B256, Mined>), RequestError> {
    let polled = endpoints.ask(|chain| async move { poll_at(&chain, account, watched).await });
    let (mut polled, mut details) = polled.await?;
    let sought =
        polled.found.iter_mut().filter(|(look, found)| look.seeks && *found == Found::Nothing);
    let seen = join_all(sought.map(|(look, found)| async move {
        let (look, wanted) = (&*look, watched.wanted.get(&look.slot));
        let seen = endpoints.find(|chain| async move { seek(&chain, account, look, wanted).await });
        (found, seen.await)
    }));
    for (found, seen) in seen.await {
        match seen {
            Some(Seen::Mined(mined)) => {
                *found = Found::Mined(mined.hash());
                details.insert(mined.hash(), mined);
            }
            Some(Seen::Other(hash)) => *found = Found::Other(hash),
            None => {}
        }
    }
    Ok((polled, details))
}

async fn poll_at(
    chain: &Chain,
    account: Address,
    watched: &Watched,
) -> Result<(Polled, HashMap<B256, Mined>), RequestError> {
    let (mined, head, pending) =
        tokio::try_join!(count(chain, account, BlockNumberOrTag::Latest), head(chain), async {
            if !watched.wants_pending {
                return Ok(None);
            }
            count(chain, account, BlockNumberOrTag::Pending).await.map(Some)
        },)?;
    let used = watched.looks.iter().filter(|look| look.nonce < mined);
    let looked = used.map(|look| async {
        Ok::<_, RequestError>((look.clone(), first_mined(chain, &look.hashes).await?))
    });
    let mut details = HashMap::new();
    let mut found = Vec::new();
    for (look, mined) in try_join_all(looked).await? {
        found.push((look, mined.as_ref().map_or(Found::Nothing, |it| Found::Mined(it.hash()))));
        details.extend(mined.map(|mined| (mined.hash(), mined)));
    }
    Ok((Polled { asked_at: watched.asked_at, mined, pending, head, found }, details))
}

pub(super) async fn count(
    chain: &Chain,
    account: Address,
    at: BlockNumberOrTag,
) -> Result<u64, RequestError> {
    let count = chain.provider().get_transaction_count(account).block_id(at.into()).await;
    count.map_err(|error| chain.fault("eth_getTransactionCount", error))
}

pub(super) async fn head(chain: &Chain) -> Result<u64, RequestError> {
    let head = chain.provider().get_block_number().await;
    head.map_err(|error| chain.fault("eth_blockNumber", error))
}

/// The one of these transactions that is mined.
pub(super) async fn first_mined(
    chain: &Chain,
    hashes: &[B256],
) -> Result<Option<Mined>, RequestError> {
    for hash in hashes {
        let receipt = chain.provider().get_transaction_receipt(*hash).await;
        let receipt = receipt.map_err(|error| chain.fault("eth_getTransactionReceipt", error))?;
        if let Some(receipt) = receipt {
            let told = receipt.inner.logs().iter().find_map(|log| log.block_timestamp);
            let block_time_s = block_time(chain, told, receipt.block_number).await?;
            return Ok(Some(Mined::Receipt { receipt: Box::new(receipt), block_time_s }));
        }
    }
    Ok(None)
}

/// Newer nodes say it with each event.
pub(super) async fn block_time(
    chain: &Chain,
    told: Option<u64>,
    block: Option<u64>,
) -> Result<u64, RequestError> {
    if let Some(time) = told {
        return Ok(time);
    }
    let Some(number) = block else { return Ok(0) };
    let block = chain.provider().get_block(BlockId::number(number)).await;
    let block = block.map_err(|error| chain.fault("eth_getBlockByNumber", error))?;
    Ok(block.map_or(0, |block| block.header.timestamp))
}

/// Why a mined transaction has failed: its call again, where it stood.
pub(super) async fn reason(
    endpoints: &Endpoints,
    account: Address,
    call: &Call,
    receipt: &TransactionReceipt,
) -> String {
    let told = endpoints.ask(|chain| async move {
        Ok::<_, RequestError>(chain.reason_of_revert(account, call, receipt).await.0)
    });
    told.await.unwrap_or_else(|fault| format!("why is not known ({fault})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_costs_at_least_what_the_floor_says() {
        assert_eq!(floor_gas(&[]), 21_000);
        assert_eq!(floor_gas(&[0, 1, 0xff]), 21_000 + 10 + 80);
        assert_eq!(floor_gas(&vec![1; 200_000]), 8_021_000);
    }

    #[test]
    fn nodes_are_understood() {
        for (said, meant) in [
            ("already known", Sent::Taken),
            ("Nonce too low: next nonce 5, tx nonce 4", Sent::NonceUsed),
            ("nonce too low", Sent::NonceUsed),
            ("replacement transaction underpriced", Sent::Underpriced),
            ("nonce too high: address 0x0, tx: 5 state: 4", Sent::NonceAhead),
            ("txpool is full", Sent::Later),
        ] {
            assert_eq!(meaning(said.to_owned()), meant, "{said}");
        }
        for said in ["transaction underpriced", "max fee per gas less than block base fee: …"] {
            assert_eq!(meaning(said.to_owned()), Sent::TooCheap(said.to_owned()));
        }
        for said in [
            "intrinsic gas too low: gas 1, minimum needed 21000",
            "insufficient gas for floor data gas cost: gas 1, minimum needed 21000",
            "exceeds block gas limit",
            "oversized data: transaction size 200000, limit 131072",
            "invalid sender: invalid chain id for signer: have 1 want 2",
        ] {
            assert_eq!(meaning(said.to_owned()), Sent::Refused(said.to_owned()));
        }
        let said = "insufficient funds for gas * price + value".to_owned();
        assert_eq!(meaning(said.clone()), Sent::Refused(said.clone()));
        let error = refused(Address::ZERO, 1, said);
        assert!(matches!(error, BroadcastError::NoFunds { .. }));
    }

    #[test]
    fn an_error_that_says_nothing_of_the_transaction_is_no_refusal() {
        for said in ["internal error", "context deadline exceeded", "upstream: try again", ""] {
            assert_eq!(meaning(said.to_owned()), Sent::Lost, "{said}");
        }
    }
}
