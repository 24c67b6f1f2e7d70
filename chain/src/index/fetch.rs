//! Asking a chain for logs and headers.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256, Bloom, Bytes, U64};
use alloy::providers::Provider as _;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{Filter, Log};
use alloy::transports::TransportError;
use serde::Deserialize;

use super::event::Mark;
use super::walk::{Answer, Header};
use crate::send::{Chain, RpcFault};

/// How many requests go in one message.
const BATCH: usize = 50;

/// What of a block is needed; whatever else a chain adds does not matter.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Block {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
    #[serde(default)]
    logs_bloom: Option<Bloom>,
}

impl Block {
    /// With a filter it is told whether the block may have logs that match.
    pub(super) fn header(self, filter: Option<&Filter>) -> Header {
        let bloom = self.logs_bloom.zip(filter);
        Header {
            mark: Mark { number: self.number.to(), hash: self.hash },
            parent: self.parent_hash,
            time_s: self.timestamp.to(),
            speaks: bloom.is_some_and(|(bloom, filter)| filter.matches_bloom(bloom)),
        }
    }
}

/// The chain's last block.
pub(super) async fn head(chain: &Chain) -> Result<Header, RpcFault> {
    let client = chain.provider().client();
    let block = client.request::<_, Block>("eth_getBlockByNumber", ("latest", false));
    block
        .await
        .map(|block| block.header(None))
        .map_err(|error| chain.fault("eth_getBlockByNumber", error))
}

/// The headers of these blocks, as far as there are such blocks.
pub(super) async fn headers(
    chain: &Chain,
    numbers: &[u64],
    filter: Option<&Filter>,
) -> Result<Vec<Header>, RpcFault> {
    const METHOD: &str = "eth_getBlockByNumber";
    let fault = |error: TransportError| chain.fault(METHOD, error);
    let mut headers = Vec::with_capacity(numbers.len());
    for numbers in numbers.chunks(BATCH) {
        let client = chain.provider().client();
        if let [number] = numbers {
            let block = client.request::<_, Option<Block>>(METHOD, (U64::from(*number), false));
            headers.extend(block.await.map_err(fault)?.map(|block| block.header(filter)));
            continue;
        }
        let mut batch = BatchRequest::new(client);
        let mut waiters = Vec::with_capacity(numbers.len());
        for number in numbers {
            let params = (U64::from(*number), false);
            waiters.push(batch.add_call::<_, Option<Block>>(METHOD, &params).map_err(fault)?);
        }
        batch.send().await.map_err(fault)?;
        for waiter in waiters {
            headers.extend(waiter.await.map_err(fault)?.map(|block| block.header(filter)));
        }
    }
    // A chain that answers for another block than it was asked for is told apart here.
    headers.retain(|header| numbers.contains(&header.mark.number));
    Ok(headers)
}

/// A page of logs with the headers that are wanted with it, and those of blocks with logs that do
/// not tell the block's time.
pub(super) async fn page(
    chain: &Chain,
    filter: &Filter,
    blocks: &RangeInclusive<u64>,
    wanted: &[u64],
) -> Result<Answer, RpcFault> {
    let filter = filter.clone().from_block(*blocks.start()).to_block(*blocks.end());
    let logs = async {
        let logs = chain.provider().get_logs(&filter).await;
        logs.map_err(|error| chain.fault("eth_getLogs", error))
    };
    let (logs, mut known) = tokio::try_join!(logs, headers(chain, wanted, Some(&filter)))?;
    let timeless = without_time(&logs, &known, blocks);
    if !timeless.is_empty() {
        known.extend(headers(chain, &timeless, None).await?);
    }
    Ok(Answer { logs, headers: known })
}

fn without_time(logs: &[Log], known: &[Header], blocks: &RangeInclusive<u64>) -> Vec<u64> {
    let known: BTreeSet<_> = known.iter().map(|header| header.mark.number).collect();
    let timeless = logs.iter().filter(|log| log.block_timestamp.is_none());
    let numbers: BTreeSet<_> = timeless
        .filter_map(|log| log.block_number)
        .filter(|number| blocks.contains(number) && !known.contains(number))
        .collect();
    numbers.into_iter().collect()
}

/// Which of these transactions call the contract themselves, with a call that begins so. `None` if
/// one of them is not known.
pub(super) async fn calling(
    chain: &Chain,
    transactions: &BTreeSet<B256>,
    contract: Address,
    selector: [u8; 4],
) -> Result<Option<BTreeSet<B256>>, RpcFault> {
    #[derive(Debug, Deserialize)]
    struct Transaction {
        to: Option<Address>,
        input: Bytes,
    }
    const METHOD: &str = "eth_getTransactionByHash";
    let fault = |error: TransportError| chain.fault(METHOD, error);
    let mut calling = BTreeSet::new();
    let all: Vec<_> = transactions.iter().copied().collect();
    for hashes in all.chunks(BATCH) {
        let mut batch = BatchRequest::new(chain.provider().client());
        let mut waiters = Vec::with_capacity(hashes.len());
        for hash in hashes {
            waiters
                .push(batch.add_call::<_, Option<Transaction>>(METHOD, &(*hash,)).map_err(fault)?);
        }
        batch.send().await.map_err(fault)?;
        for (hash, waiter) in hashes.iter().zip(waiters) {
            let Some(transaction) = waiter.await.map_err(fault)? else { return Ok(None) };
            if transaction.to == Some(contract) && transaction.input.starts_with(&selector) {
                calling.insert(*hash);
            }
        }
    }
    Ok(Some(calling))
}

/// Whether a provider's error says that a smaller page may be answered. Any error about what was
/// asked may.
pub(super) fn is_refusal(fault: &RpcFault) -> Option<&str> {
    match fault {
        RpcFault::Refused { message, .. } => Some(message),
        RpcFault::Unreachable { .. } | RpcFault::Malformed { .. } => None,
    }
}
