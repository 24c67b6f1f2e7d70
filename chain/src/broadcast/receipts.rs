//! Single requests about the account and its transactions at one endpoint.

use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;

use super::outcome::BroadcastReceipt;
use crate::send::{Chain, RequestError};

/// The lowest count of transactions that is not believed. A guess: no account ever has so many, later nonces are far
/// from overflowing, and the numbers of Redis's scripts are exact below it.
const COUNT_END: u64 = 1 << 53;

/// The proof that a payload's transaction is mined.
#[derive(Debug, Clone)]
pub(super) enum MinedPayload {
    /// The transaction's receipt.
    Receipt {
        /// The receipt, of a success or of a failure.
        receipt: Box<TransactionReceipt>,
        /// The timestamp of its block, unix seconds.
        block_time_s: u64,
    },
    /// The payload's event, found without a receipt.
    Event(BroadcastReceipt),
}

impl MinedPayload {
    /// Returns the hash of the mined transaction.
    pub(super) fn hash(&self) -> B256 {
        match self {
            Self::Receipt { receipt, .. } => receipt.transaction_hash,
            Self::Event(receipt) => receipt.transaction_hash,
        }
    }
}

/// Returns the number of the account's transactions up to a block: the nonce that is next there. Refuses a number that no
/// account can have.
pub(super) async fn transaction_count(
    chain: &Chain,
    account: Address,
    at: BlockNumberOrTag,
) -> Result<u64, RequestError> {
    const METHOD: &str = "eth_getTransactionCount";
    let count = chain.provider().get_transaction_count(account).block_id(at.into()).await;
    let count = count.map_err(|error| chain.request_error(METHOD, error))?;
    believed(count).map_err(|reason| RequestError::Malformed {
        endpoint: chain.endpoint().to_owned(),
        method: METHOD,
        reason,
    })
}

fn believed(count: u64) -> Result<u64, String> {
    if count < COUNT_END { Ok(count) } else { Err(format!("{count} transactions of one account")) }
}

/// Returns the number of the latest block.
pub(super) async fn head(chain: &Chain) -> Result<u64, RequestError> {
    let head = chain.provider().get_block_number().await;
    head.map_err(|error| chain.request_error("eth_blockNumber", error))
}

/// Returns the first of these transactions that has a receipt. They share a nonce, so at most one
/// has.
pub(super) async fn first_mined(
    chain: &Chain,
    hashes: &[B256],
) -> Result<Option<MinedPayload>, RequestError> {
    for hash in hashes {
        let receipt = chain.provider().get_transaction_receipt(*hash).await;
        let receipt =
            receipt.map_err(|error| chain.request_error("eth_getTransactionReceipt", error))?;
        if let Some(receipt) = receipt {
            let in_log = receipt.inner.logs().iter().find_map(|log| log.block_timestamp);
            let block_time_s = block_time(chain, in_log, receipt.block_number).await?;
            return Ok(Some(MinedPayload::Receipt { receipt: Box::new(receipt), block_time_s }));
        }
    }
    Ok(None)
}

/// Returns the timestamp of a block. Newer nodes send it with each log, which saves the request.
pub(super) async fn block_time(
    chain: &Chain,
    in_log: Option<u64>,
    block: Option<u64>,
) -> Result<u64, RequestError> {
    if let Some(time) = in_log {
        return Ok(time);
    }
    let Some(number) = block else { return Ok(0) };
    let block = chain.provider().get_block(BlockId::number(number)).await;
    let block = block.map_err(|error| chain.request_error("eth_getBlockByNumber", error))?;
    Ok(block.map_or(0, |block| block.header.timestamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_no_account_can_have_is_malformed() {
        for count in [0, 1, COUNT_END - 1] {
            assert_eq!(believed(count), Ok(count));
        }
        for count in [COUNT_END, u64::MAX - 1, u64::MAX] {
            assert!(believed(count).is_err(), "{count}");
        }
    }
}
