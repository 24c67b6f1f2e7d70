//! Requests for logs, headers and blocks.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use alloy::consensus::Header;
use alloy::primitives::{B256, Bloom, U64};
use alloy::providers::Provider as _;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{Filter, Log};
use alloy::transports::TransportError;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::event::BlockRef;
use super::event_time::time_in_log_s;
use super::walk::{BlockHeader, PageResponse, range_named};
use crate::endpoints::is_rate_limit;
use crate::send::{ANSWER_LEN_BYTES_MAX, BLOCK_NUMBER_MAX, Chain, RequestError};

/// The number of requests in one JSON-RPC batch. A guess: common providers accept at least 100.
pub(super) const REQUESTS_PER_BATCH: usize = 50;
/// The number of rounds of requests for the logs of one page; a round is one request, or one batch. A guess: enough for
/// an endpoint that accepts a thousandth of the blocks that other endpoints accept, and a bound on an endpoint that
/// refuses on purpose.
const ROUNDS_MAX: u32 = 40;
/// The largest weight of the logs of one page, or of the receipts of one block, that come in parts. Neither weighs more
/// than its text, so what fits into one answer ([`ANSWER_LEN_BYTES_MAX`]) fits in any number of parts.
pub(super) const LOGS_WEIGHT_MAX: usize = ANSWER_LEN_BYTES_MAX;
/// The weight of a log besides its data and topics. Its text has this length at least: two hashes and nine names.
const LOG_WEIGHT: usize = 350;
/// The weight of a topic. Its text has twice this length.
const TOPIC_WEIGHT: usize = 32;

/// The fields of a block that the reader needs. Other fields, which differ between chains, are ignored.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FetchedBlock {
    #[serde(deserialize_with = "block_number")]
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
    #[serde(default)]
    logs_bloom: Option<Bloom>,
}

/// Deserializes a block number. Refuses numbers that no chain reaches, because readers count up from it.
fn block_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<U64, D::Error> {
    let number = U64::deserialize(deserializer)?;
    if number.to::<u64>() > BLOCK_NUMBER_MAX {
        return Err(D::Error::custom(format_args!("block number {number} is out of range")));
    }
    Ok(number)
}

impl FetchedBlock {
    /// Converts to a header. With `filter`, the block's bloom filter decides whether matching logs are possible.
    pub(super) fn header(self, filter: Option<&Filter>) -> BlockHeader {
        let bloom = self.logs_bloom.zip(filter);
        BlockHeader {
            block: BlockRef { number: self.number.to(), hash: self.hash },
            parent: self.parent_hash,
            time_s: self.timestamp.to(),
            may_have_logs: bloom.is_some_and(|(bloom, filter)| filter.matches_bloom(bloom)),
        }
    }
}

/// Returns the header of the latest block.
pub(super) async fn head(chain: &Chain) -> Result<BlockHeader, RequestError> {
    named_header(chain, "latest").await
}

/// Returns the header of the newest block that the endpoint calls final.
pub(super) async fn final_head(chain: &Chain) -> Result<BlockHeader, RequestError> {
    named_header(chain, "finalized").await
}

async fn named_header(chain: &Chain, name: &'static str) -> Result<BlockHeader, RequestError> {
    const METHOD: &str = "eth_getBlockByNumber";
    let block = chain.provider().client().request::<_, FetchedBlock>(METHOD, (name, false)).await;
    block.map(|block| block.header(None)).map_err(|error| chain.request_error(METHOD, error))
}

/// Returns the headers of these blocks, leaving out blocks that do not exist.
pub(super) async fn headers(
    chain: &Chain,
    numbers: &[u64],
    filter: Option<&Filter>,
) -> Result<Vec<BlockHeader>, RequestError> {
    const METHOD: &str = "eth_getBlockByNumber";
    let failed = |error: TransportError| chain.request_error(METHOD, error);
    let mut headers = Vec::with_capacity(numbers.len());
    for numbers in numbers.chunks(REQUESTS_PER_BATCH) {
        let client = chain.provider().client();
        if let [number] = numbers {
            let block =
                client.request::<_, Option<FetchedBlock>>(METHOD, (U64::from(*number), false));
            headers.extend(block.await.map_err(failed)?.map(|block| block.header(filter)));
            continue;
        }
        let mut batch = BatchRequest::new(client);
        let mut waiters = Vec::with_capacity(numbers.len());
        for number in numbers {
            let params = (U64::from(*number), false);
            waiters
                .push(batch.add_call::<_, Option<FetchedBlock>>(METHOD, &params).map_err(failed)?);
        }
        batch.send().await.map_err(failed)?;
        for waiter in waiters {
            headers.extend(waiter.await.map_err(failed)?.map(|block| block.header(filter)));
        }
    }
    // Some load balancers return another block than the requested one.
    headers.retain(|header| numbers.contains(&header.block.number));
    Ok(headers)
}

/// Returns the logs of these blocks.
pub(super) async fn logs(
    chain: &Chain,
    filter: &Filter,
    blocks: &RangeInclusive<u64>,
) -> Result<Vec<Log>, RequestError> {
    let filter = filter.clone().from_block(*blocks.start()).to_block(*blocks.end());
    let logs = chain.provider().get_logs(&filter).await;
    logs.map_err(|error| chain.request_error("eth_getLogs", error))
}

/// Returns the logs of these ranges of blocks, ascending, and perhaps of blocks between them. If the endpoint refuses a
/// range, or its answer is unusable, it is asked for shorter ones, many at once. Logs that were not asked for are left
/// out.
///
/// # Errors
/// The first error that no shorter range avoids. Fails as well after [`ROUNDS_MAX`] rounds of requests, and if the
/// endpoint shows more logs than one answer may have.
pub(super) async fn logs_in_parts(
    chain: &Chain,
    filter: &Filter,
    wanted: &[RangeInclusive<u64>],
) -> Result<Vec<Log>, RequestError> {
    let (mut all, mut from, mut longest, mut is_accepted) =
        (LogsInParts::default(), 0, u64::MAX, false);
    let refused = |message: &str| {
        let (endpoint, message) = (chain.endpoint().to_owned(), message.to_owned());
        RequestError::Refused { endpoint, method: "eth_getLogs", code: 0, message }
    };
    for _ in 0..ROUNDS_MAX {
        // One request shows if the endpoint accepts this length.
        let parts = parts(wanted, from, longest, if is_accepted { REQUESTS_PER_BATCH } else { 1 });
        if parts.is_empty() {
            return Ok(all.logs);
        }
        for (part, answer) in parts.iter().zip(logs_of_parts(chain, filter, &parts).await?) {
            let (first, last) = (*part.start(), *part.end());
            let error = match answer {
                Ok(logs) => {
                    if !all.add(logs, part, filter) {
                        return Err(refused("it shows more logs than one answer may have"));
                    }
                    (from, is_accepted) = (last + 1, true);
                    continue;
                }
                Err(error) => error,
            };
            let blocks = last - first + 1;
            if blocks == 1 || !may_be_too_much(&error) {
                return Err(error);
            }
            let named = refusal_message(&error).and_then(range_named);
            let named = named.filter(|named| *named < blocks);
            (longest, is_accepted) = (named.unwrap_or(blocks / 2), false);
            break;
        }
    }
    Err(refused("the ranges of blocks that it accepts are too short"))
}

/// The logs of a page that come in parts.
#[derive(Debug, Default)]
struct LogsInParts {
    logs: Vec<Log>,
    weight: usize,
}

impl LogsInParts {
    /// Adds the logs of an answer that are of these blocks and of the contract. Returns false if they are too many.
    fn add(&mut self, logs: Vec<Log>, blocks: &RangeInclusive<u64>, filter: &Filter) -> bool {
        let is_asked_for = |log: &Log| {
            let is_of_blocks = log.block_number.is_some_and(|number| blocks.contains(&number));
            is_of_blocks && filter.matches_address(log.address())
        };
        for log in logs.into_iter().filter(is_asked_for) {
            self.weight = self.weight.saturating_add(weight_of(&log));
            if self.weight > LOGS_WEIGHT_MAX {
                return false;
            }
            self.logs.push(log);
        }
        true
    }
}

/// Returns the weight of a log.
pub(super) fn weight_of(log: &Log) -> usize {
    log.data().data.len() + TOPIC_WEIGHT * log.topics().len() + LOG_WEIGHT
}

/// Covers ranges of blocks, ascending, as far as they are not below `from`, by at most `count` ranges of at most
/// `longest` blocks. A range of the result may cover several of the wanted ones. Block numbers are at most
/// [`BLOCK_NUMBER_MAX`], so none of the sums overflows.
fn parts(
    wanted: &[RangeInclusive<u64>],
    from: u64,
    longest: u64,
    count: usize,
) -> Vec<RangeInclusive<u64>> {
    let mut parts: Vec<RangeInclusive<u64>> = Vec::new();
    for range in wanted {
        let (mut next, end) = (from.max(*range.start()), *range.end());
        if let Some(part) = parts.last_mut() {
            // The part then covers the blocks between both ranges, too: their logs cost less than a request more.
            let reaches = part.start().saturating_add(longest - 1);
            if next <= reaches && next <= end {
                *part = *part.start()..=end.min(reaches);
                next = end.min(reaches) + 1;
            }
        }
        while next <= end {
            if parts.len() == count {
                return parts;
            }
            let last = end.min(next.saturating_add(longest - 1));
            parts.push(next..=last);
            next = last + 1;
        }
    }
    parts
}

/// Requests the logs of ranges of blocks, several ones in one batch.
async fn logs_of_parts(
    chain: &Chain,
    filter: &Filter,
    parts: &[RangeInclusive<u64>],
) -> Result<Vec<Result<Vec<Log>, RequestError>>, RequestError> {
    const METHOD: &str = "eth_getLogs";
    if let [part] = parts {
        return Ok(vec![logs(chain, filter, part).await]);
    }
    let failed = |error: TransportError| chain.request_error(METHOD, error);
    let mut batch = BatchRequest::new(chain.provider().client());
    let mut waiters = Vec::with_capacity(parts.len());
    for part in parts {
        let filter = (filter.clone().from_block(*part.start()).to_block(*part.end()),);
        waiters.push(batch.add_call::<_, Vec<Log>>(METHOD, &filter).map_err(failed)?);
    }
    batch.send().await.map_err(failed)?;
    let mut answers = Vec::with_capacity(waiters.len());
    for waiter in waiters {
        answers.push(waiter.await.map_err(failed));
    }
    Ok(answers)
}

/// Returns a page of logs with the wanted headers, and the headers of blocks whose logs carry no timestamp.
pub(super) async fn page(
    chain: &Chain,
    filter: &Filter,
    blocks: &RangeInclusive<u64>,
    wanted: &[u64],
) -> Result<PageResponse, RequestError> {
    let (logs, known) =
        tokio::join!(logs(chain, filter, blocks), headers(chain, wanted, Some(filter)));
    timed_page(chain, blocks, logs, known?).await
}

/// Returns a page like [`page`], in several requests if the endpoint refuses so many blocks at once.
pub(super) async fn page_in_parts(
    chain: &Chain,
    filter: &Filter,
    blocks: &RangeInclusive<u64>,
    wanted: &[u64],
) -> Result<PageResponse, RequestError> {
    let (logs, known) = tokio::join!(
        logs_in_parts(chain, filter, std::slice::from_ref(blocks)),
        headers(chain, wanted, Some(filter))
    );
    timed_page(chain, blocks, logs, known?).await
}

/// Returns the page of these logs and headers, with the headers of blocks whose logs carry no timestamp.
async fn timed_page(
    chain: &Chain,
    blocks: &RangeInclusive<u64>,
    logs: Result<Vec<Log>, RequestError>,
    mut known: Vec<BlockHeader>,
) -> Result<PageResponse, RequestError> {
    // Some endpoints refuse a range that ends above their own head instead of truncating it.
    let lacks_end = known.iter().all(|header| header.block.number < *blocks.end());
    let logs = match logs {
        Err(RequestError::Refused { .. }) if lacks_end => Vec::new(),
        logs => logs?,
    };
    let timeless = without_time(&logs, &known, blocks);
    if !timeless.is_empty() {
        known.extend(headers(chain, &timeless, None).await?);
    }
    Ok(PageResponse { logs, headers: known })
}

/// Returns the logs of these blocks, ascending, in several requests if needed, and the headers of blocks whose logs
/// carry no timestamp. There may be logs of blocks between them, too.
pub(super) async fn timed_logs(
    chain: &Chain,
    filter: &Filter,
    blocks: &[u64],
) -> Result<PageResponse, RequestError> {
    let wanted: Vec<_> = blocks.iter().map(|block| *block..=*block).collect();
    let logs = logs_in_parts(chain, filter, &wanted).await?;
    let mut timeless = without_time(&logs, &[], &(0..=BLOCK_NUMBER_MAX));
    timeless.retain(|block| blocks.binary_search(block).is_ok());
    let headers = headers(chain, &timeless, None).await?;
    Ok(PageResponse { logs, headers })
}

fn without_time(logs: &[Log], known: &[BlockHeader], blocks: &RangeInclusive<u64>) -> Vec<u64> {
    let known: BTreeSet<_> = known.iter().map(|header| header.block.number).collect();
    let timeless = logs.iter().filter(|log| time_in_log_s(log).is_none());
    let numbers: BTreeSet<_> = timeless
        .filter_map(|log| log.block_number)
        .filter(|number| blocks.contains(number) && !known.contains(number))
        .collect();
    numbers.into_iter().collect()
}

/// Returns the block at a height, and true if its header has the hash that the endpoint states. Returns `None` if the
/// endpoint has no such block. A false value means that the endpoint lies, or that headers of the chain have another
/// form.
pub(super) async fn block_with_header(
    chain: &Chain,
    number: u64,
) -> Result<Option<(BlockRef, bool)>, RequestError> {
    let shown = shown_block(chain, &format!("0x{number:x}")).await?;
    let shown = shown.map(|(header, has_hash)| (header.block, has_hash));
    Ok(shown.filter(|(block, _)| block.number == number))
}

/// Returns the newest block, with true if its header has the hash that the endpoint states; its time is proven then.
pub(super) async fn head_with_header(
    chain: &Chain,
) -> Result<Option<(BlockHeader, bool)>, RequestError> {
    shown_block(chain, "latest").await
}

/// Returns the block that an endpoint shows under a number or name, with true if its header has the stated hash.
async fn shown_block(
    chain: &Chain,
    named: &str,
) -> Result<Option<(BlockHeader, bool)>, RequestError> {
    const METHOD: &str = "eth_getBlockByNumber";
    let client = chain.provider().client();
    let shown = client.request::<_, serde_json::Value>(METHOD, (named.to_owned(), false)).await;
    let shown = shown.map_err(|error| chain.request_error(METHOD, error))?;
    let Ok(block) = serde_json::from_value::<FetchedBlock>(shown.clone()) else { return Ok(None) };
    let shown_header = block.header(None);
    let has_hash = serde_json::from_value::<Header>(shown)
        .is_ok_and(|header| header.hash_slow() == shown_header.block.hash);
    Ok(Some((shown_header, has_hash)))
}

/// Returns the message of an error that a smaller page may avoid. Providers word their limits differently, so every
/// error response qualifies, except those about too many requests.
pub(super) fn refusal_message(error: &RequestError) -> Option<&str> {
    match error {
        error if is_rate_limit(error) => None,
        RequestError::Refused { message, .. } => Some(message),
        RequestError::Unreachable { .. } | RequestError::Malformed { .. } => None,
    }
}

/// Returns true if an endpoint may answer a request for the logs of fewer blocks. A proxy before it answers with an
/// HTTP error if the endpoint takes too long, and an answer that is too long is not read.
fn may_be_too_much(error: &RequestError) -> bool {
    matches!(error, RequestError::Malformed { .. }) || refusal_message(error).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_blocks_are_asked_for_unless_the_number_of_requests_or_the_connection_is_at_fault() {
        let (endpoint, method) = ("http://a:1".to_owned(), "eth_getLogs");
        let refused = |code, message: &str| RequestError::Refused {
            endpoint: endpoint.clone(),
            method,
            code,
            message: message.to_owned(),
        };
        assert!(may_be_too_much(&refused(-32_000, "query timeout exceeded")));
        let reason = "HTTP status 504".to_owned();
        assert!(may_be_too_much(&RequestError::Malformed {
            endpoint: endpoint.clone(),
            method,
            reason: reason.clone()
        }));
        assert!(!may_be_too_much(&refused(429, "HTTP status 429: too many requests")));
        assert!(!may_be_too_much(&RequestError::Unreachable { endpoint, reason }));
    }

    fn block(number: &str) -> Result<FetchedBlock, serde_json::Error> {
        let hash = B256::ZERO;
        serde_json::from_value(serde_json::json!({
            "number": number, "hash": hash, "parentHash": hash, "timestamp": "0x1",
        }))
    }

    #[test]
    fn ranges_are_covered_by_few_that_are_no_longer_than_an_endpoint_accepts() {
        let events = [3, 4, 9, 10, 30].map(|block| block..=block).to_vec();
        assert_eq!(parts(&events, 0, u64::MAX, 1), [3..=30]);
        assert_eq!(parts(&events, 0, 8, 50), [3..=10, 30..=30]);
        assert_eq!(parts(&events, 0, 2, 50), [3..=4, 9..=10, 30..=30]);
        assert_eq!(parts(&events, 0, 1, 3), [3..=3, 4..=4, 9..=9]);
        assert_eq!(parts(&events, 10, 2, 50), [10..=10, 30..=30], "the others are answered");
        assert_eq!(parts(&events, 31, 2, 50), []);
        let page = [0..=9];
        assert_eq!(parts(&page, 0, 4, 50), [0..=3, 4..=7, 8..=9]);
        assert_eq!(parts(&page, 4, 4, 1), [4..=7]);
        assert_eq!(parts(&[0..=4, 5..=9], 0, 4, 50), [0..=3, 4..=7, 8..=9]);
    }

    #[test]
    fn logs_that_were_not_asked_for_or_are_too_many_are_not_kept() {
        use alloy::primitives::{Address, Bytes, Log as ChainLog};
        let contract = Address::repeat_byte(7);
        let log = |address, block_number, len| Log {
            inner: ChainLog::new_unchecked(address, Vec::new(), Bytes::from(vec![0; len])),
            block_number,
            ..Log::default()
        };
        let filter = Filter::new().address(contract);
        let mut all = LogsInParts::default();
        let others = vec![
            log(Address::ZERO, Some(5), LOGS_WEIGHT_MAX),
            log(contract, Some(7), LOGS_WEIGHT_MAX),
            log(contract, None, LOGS_WEIGHT_MAX),
            log(contract, Some(5), 10),
        ];
        assert!(all.add(others, &(5..=6), &filter));
        assert_eq!((all.logs.len(), all.weight), (1, 10 + LOG_WEIGHT));
        let half = || vec![log(contract, Some(6), LOGS_WEIGHT_MAX / 2)];
        assert!(all.add(half(), &(5..=6), &filter));
        assert!(!all.add(half(), &(5..=6), &filter), "a liar gives logs in every round");
        assert!(all.weight < 2 * LOGS_WEIGHT_MAX && all.logs.len() == 2);
    }

    #[test]
    fn the_headers_of_blocks_whose_logs_carry_no_time_or_zero_are_asked_for() {
        let log = |number, block_timestamp| Log {
            block_number: Some(number),
            block_timestamp,
            ..Log::default()
        };
        let logs: [Log; 5] =
            [log(3, Some(9)), log(4, None), log(5, Some(0)), log(5, Some(0)), log(9, None)];
        assert_eq!(without_time(&logs, &[], &(3..=8)), [4, 5]);
        let known = block("0x5").unwrap().header(None);
        assert_eq!(without_time(&logs, &[known], &(3..=8)), [4]);
    }

    #[test]
    fn topics_without_end_weigh_as_data_does() {
        let topics = vec![B256::ZERO; LOGS_WEIGHT_MAX / TOPIC_WEIGHT];
        let inner = alloy::primitives::Log::new_unchecked(
            alloy::primitives::Address::ZERO,
            topics,
            alloy::primitives::Bytes::new(),
        );
        let log = Log { inner, block_number: Some(5), ..Log::default() };
        let filter = Filter::new().address(alloy::primitives::Address::ZERO);
        assert!(!LogsInParts::default().add(vec![log], &(5..=5), &filter));
    }

    #[test]
    fn a_block_number_that_no_chain_reaches_is_malformed() {
        assert_eq!(block("0x10").unwrap().header(None).block.number, 16);
        assert!(block("0x7fffffffffffffff").is_ok());
        for number in ["0x8000000000000000", "0xffffffffffffffff", "0x10000000000000000"] {
            assert!(block(number).is_err(), "{number}");
        }
    }
}
