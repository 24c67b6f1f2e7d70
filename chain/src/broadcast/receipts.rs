//! Single requests about the account and its transactions at one endpoint.

use alloy::eips::BlockId;
use alloy::primitives::{B256, Log};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;

use super::outcome::BroadcastReceipt;
use crate::send::{Chain, RequestError};

/// Proof that a payload's transaction is mined.
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
    Event {
        /// The outcome that the event proves.
        receipt: BroadcastReceipt,
        /// The event as it was emitted.
        log: Log,
    },
}

impl MinedPayload {
    /// Returns the hash of the mined transaction.
    pub(super) fn hash(&self) -> B256 {
        match self {
            Self::Receipt { receipt, .. } => receipt.transaction_hash,
            Self::Event { receipt, .. } => receipt.transaction_hash,
        }
    }
}

/// Returns the first of these transactions that has a receipt; at most one has, because they share a nonce.
pub(super) async fn first_mined(
    chain: &Chain,
    hashes: &[B256],
) -> Result<Option<MinedPayload>, RequestError> {
    for hash in hashes {
        let receipt = chain.provider().get_transaction_receipt(*hash).await;
        let receipt =
            receipt.map_err(|error| chain.request_error("eth_getTransactionReceipt", error))?;
        if let Some(receipt) = receipt {
            if receipt.transaction_hash != *hash {
                let reason = format!("the receipt of {} for {hash}", receipt.transaction_hash);
                return Err(chain.malformed("eth_getTransactionReceipt", reason));
            }
            let in_log = receipt.inner.logs().iter().find_map(|log| log.block_timestamp);
            let block_time_s = block_time(chain, in_log, receipt.block_number).await?;
            return Ok(Some(MinedPayload::Receipt { receipt: Box::new(receipt), block_time_s }));
        }
    }
    Ok(None)
}

/// Returns the timestamp of a block. Newer nodes send it with each log, which saves the request. Some send zero, with
/// which the answer would be another envelope than that of nodes, and another endpoint's receipt would not agree.
pub(super) async fn block_time(
    chain: &Chain,
    in_log: Option<u64>,
    block: Option<u64>,
) -> Result<u64, RequestError> {
    if let Some(time) = in_log.filter(|time| *time > 0) {
        return Ok(time);
    }
    let Some(number) = block else { return Ok(0) };
    let block = chain.provider().get_block(BlockId::number(number)).await;
    let block = block.map_err(|error| chain.request_error("eth_getBlockByNumber", error))?;
    Ok(block.map_or(0, |block| block.header.timestamp))
}
