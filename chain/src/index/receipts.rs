//! Requests for receipts: those of the transactions of a claim, and those that prove the logs of a block.
//!
//! **The endpoint is not trusted.** It chooses the block, the transactions and their number, so the receipts that are
//! kept at a time have a bound of their own, in however many answers they come.

use std::collections::BTreeMap;

use alloy::consensus::Header;
use alloy::primitives::{B256, U64};
use alloy::providers::Provider as _;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::Log;
use alloy::transports::TransportError;
use serde::Deserialize;

use super::claim::{Claim, ReceiptAnswer};
use super::event::{BlockRef, is_same};
use super::fetch::{LOGS_WEIGHT_MAX, REQUESTS_PER_BATCH, headers, weight_of};
use super::proof::{BlockReceipt, ProvenLogs};
use crate::endpoints::is_rate_limit;
use crate::send::{Chain, RequestError};

/// The weight of a receipt besides its logs. Its text has this length at least: a bloom filter and a hash.
const RECEIPT_WEIGHT: usize = 600;
/// The largest number of transactions of a block whose receipts are requested singly. A guess: the number that fits
/// into a block's gas on common rollups.
const BLOCK_TRANSACTIONS_MAX: usize = 5000;

/// Returns an endpoint's receipts of the transactions whose logs another one claims to have.
pub(super) async fn receipts_of_claim(
    chain: &Chain,
    claim: &Claim,
) -> Result<ReceiptAnswer, RequestError> {
    #[derive(Debug, Deserialize)]
    struct Receipt {
        logs: Vec<Log>,
    }
    const METHOD: &str = "eth_getTransactionReceipt";
    let failed = |error: TransportError| chain.request_error(METHOD, error);
    let mut lacking: BTreeMap<_, _> = claim.logs.iter().map(|log| (log.log_index, log)).collect();
    let mut logs = Vec::new();
    let all: Vec<_> = claim.transactions().into_iter().collect();
    for hashes in all.chunks(REQUESTS_PER_BATCH) {
        let mut batch = BatchRequest::new(chain.provider().client());
        let mut waiters = Vec::with_capacity(hashes.len());
        for hash in hashes {
            waiters.push(batch.add_call::<_, Option<Receipt>>(METHOD, &(*hash,)).map_err(failed)?);
        }
        batch.send().await.map_err(failed)?;
        for waiter in waiters {
            let receipt = waiter.await.map_err(failed)?;
            let shown = receipt.into_iter().flat_map(|receipt| receipt.logs);
            logs.extend(claimed(&mut lacking, shown));
        }
    }
    let found = headers(chain, &[claim.block.number], None).await?;
    Ok(ReceiptAnswer { logs, block: found.first().map(|header| header.block) })
}

/// Takes those of the shown logs that a claim has, each once, out of `lacking`, which has them by log index. Other logs
/// decide nothing, and an endpoint may show any number of them.
fn claimed(
    lacking: &mut BTreeMap<Option<u64>, &Log>,
    shown: impl Iterator<Item = Log>,
) -> Vec<Log> {
    let is_claimed = |log: &Log| {
        let is_lacking = lacking.get(&log.log_index).is_some_and(|wanted| is_same(wanted, log));
        is_lacking && lacking.remove(&log.log_index).is_some()
    };
    shown.filter(is_claimed).collect()
}

/// Returns the logs of a block as proved by the endpoint's header and receipts. Returns `None` if the endpoint has no
/// proof: it lacks the block, keeps no receipts, shows receipts that do not match, or serves a chain with another form
/// of headers or receipts.
///
/// # Errors
/// Fails when the endpoint does not answer, or refuses for now.
pub(super) async fn proof(
    chain: &Chain,
    block: BlockRef,
) -> Result<Option<ProvenLogs>, RequestError> {
    #[derive(Debug, Deserialize)]
    struct ShownBlock {
        #[serde(flatten)]
        header: Header,
        transactions: Vec<B256>,
    }
    const METHOD: &str = "eth_getBlockByHash";
    let shown =
        chain.provider().client().request::<_, serde_json::Value>(METHOD, (block.hash, false));
    let shown = shown.await.map_err(|error| chain.request_error(METHOD, error));
    let Some(shown) = unless_silent(shown)? else { return Ok(None) };
    let Ok(ShownBlock { header, transactions }) = serde_json::from_value(shown) else {
        return Ok(None);
    };
    if header.hash_slow() != block.hash {
        return Ok(None); // its receipts would prove nothing
    }
    let receipts = match unless_silent(receipts(chain, block).await)? {
        Some(receipts) => receipts,
        None if transactions.len() > BLOCK_TRANSACTIONS_MAX => None,
        None => unless_silent(receipts_singly(chain, &transactions).await)?.flatten(),
    };
    Ok(receipts.and_then(|receipts| ProvenLogs::prove(block, &header, receipts)))
}

/// Returns the receipts of a block by one request, which some endpoints do not support.
async fn receipts(
    chain: &Chain,
    block: BlockRef,
) -> Result<Option<Vec<BlockReceipt>>, RequestError> {
    const METHOD: &str = "eth_getBlockReceipts";
    let receipts = chain.provider().client().request(METHOD, (U64::from(block.number),));
    receipts.await.map_err(|error| chain.request_error(METHOD, error))
}

/// Returns the receipts of transactions; `None` if the endpoint lacks one, or shows more than one answer may have.
async fn receipts_singly(
    chain: &Chain,
    transactions: &[B256],
) -> Result<Option<Vec<BlockReceipt>>, RequestError> {
    const METHOD: &str = "eth_getTransactionReceipt";
    let failed = |error: TransportError| chain.request_error(METHOD, error);
    let mut all = ReceiptsInParts::default();
    for hashes in transactions.chunks(REQUESTS_PER_BATCH) {
        let mut batch = BatchRequest::new(chain.provider().client());
        let mut waiters = Vec::with_capacity(hashes.len());
        for hash in hashes {
            let waiter = batch.add_call::<_, Option<BlockReceipt>>(METHOD, &(*hash,));
            waiters.push(waiter.map_err(failed)?);
        }
        batch.send().await.map_err(failed)?;
        for waiter in waiters {
            let Some(receipt) = waiter.await.map_err(failed)? else { return Ok(None) };
            if !all.add(receipt) {
                return Ok(None);
            }
        }
    }
    Ok(Some(all.receipts))
}

/// The receipts of a block that come in parts.
#[derive(Debug, Default)]
struct ReceiptsInParts {
    receipts: Vec<BlockReceipt>,
    weight: usize,
}

impl ReceiptsInParts {
    /// Adds a receipt. Returns false if the block has too many logs.
    fn add(&mut self, receipt: BlockReceipt) -> bool {
        let logs = receipt.logs().iter().map(weight_of).sum::<usize>();
        self.weight = self.weight.saturating_add(RECEIPT_WEIGHT + logs);
        let fits = self.weight <= LOGS_WEIGHT_MAX;
        if fits {
            self.receipts.push(receipt);
        }
        fits
    }
}

/// Converts a permanent error into `None`; other errors may be temporary.
fn unless_silent<T>(answer: Result<T, RequestError>) -> Result<Option<T>, RequestError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_rate_limit(&error) => Err(error),
        Err(RequestError::Refused { .. } | RequestError::Malformed { .. }) => Ok(None),
        Err(error @ RequestError::Unreachable { .. }) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bloom, Bytes, Log as ChainLog};

    use super::*;

    /// Returns a log at this index of a block.
    fn log_at(index: u64, data_len: usize) -> Log {
        let data = Bytes::from(vec![0; data_len]);
        let address = Address::ZERO;
        let inner = ChainLog::new_unchecked(address, Vec::new(), data);
        Log { inner, log_index: Some(index), ..Log::default() }
    }

    #[test]
    fn receipts_of_a_block_are_as_many_as_fit_into_one_answer() {
        let receipt: BlockReceipt = serde_json::from_value(serde_json::json!({
            "cumulativeGasUsed": "0x1", "logsBloom": Bloom::ZERO, "logs": [],
            "transactionHash": B256::ZERO, "transactionIndex": "0x0",
        }))
        .unwrap();
        let mut all = ReceiptsInParts::default();
        assert!(all.add(receipt.clone()));
        assert_eq!(all.weight, RECEIPT_WEIGHT);
        let third = || receipt.clone().with_logs(vec![log_at(0, LOGS_WEIGHT_MAX / 3)]);
        assert!(all.add(third()) && all.add(third()));
        assert!(!all.add(third()), "a liar shows as many in each request");
        assert_eq!(all.receipts.len(), 3);
    }

    #[test]
    fn of_the_logs_of_receipts_those_of_the_claim_are_kept_once() {
        let wanted = [log_at(3, 1), log_at(4, 2)];
        let mut lacking: BTreeMap<_, _> = wanted.iter().map(|log| (log.log_index, log)).collect();
        let shown = vec![log_at(3, 1), log_at(3, 1), log_at(4, 9), log_at(5, 2)];
        assert_eq!(claimed(&mut lacking, shown.into_iter()), [log_at(3, 1)]);
        assert_eq!(claimed(&mut lacking, wanted.iter().cloned()), [log_at(4, 2)]);
    }
}
