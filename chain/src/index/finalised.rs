//! Single events of the final blocks of a chain, and their times, for auditors. Every endpoint has to answer, and all
//! alike.
//!
//! Nothing here is proven by the hash of a block: an event rests on the word of the endpoints.

use std::sync::atomic::{AtomicU32, Ordering};

use alloy::primitives::{Address, B256, U256};
use alloy::rpc::types::Log;
use hawser_proto::{Bytes, SequenceId, TransactionHash};
use hawser_rules::misbehavior::{EventAnswer, PlaceAnswer};

use super::event::{ContractEvent, EventSource};
use super::fetch;
use super::lookup::{AgreementError, block_of, receipt_of};
use super::walk::BlockHeader;
use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// Largest number of searches of a [`FinalChain`], over all endpoints. A guess: each may take dozens of requests, and
/// any caller of a node may submit reports about transactions that no endpoint knows.
const SEARCHES_MAX: u32 = 100;
/// Number of the last blocks in which the newest event of a contract is looked for first. A guess: some of them have
/// an event if the contract is in use, and their events fit into one answer.
const NEWEST_BLOCKS_MIN: u64 = 64;
/// Number of blocks of the last of these looks. Each one is 16 times as long as the one before. A guess: days of a
/// chain with a block each second.
const NEWEST_BLOCKS_MAX: u64 = 64 * 16 * 16 * 16;

/// A chain up to a block that is final at each of its endpoints.
#[derive(Debug)]
pub struct FinalChain {
    endpoints: Endpoints,
    first_block: u64,
    last: BlockHeader,
    /// The searches that were made for events of unknown transactions.
    searches: AtomicU32,
    /// The searches that were made for the times of sequence ids. These searches have a bound of their own, so that
    /// many reports of one kind leave no report of the other kind undecided.
    place_searches: AtomicU32,
}

impl FinalChain {
    /// Finds the newest block that is final at each endpoint. Events are searched for from `first_block` on.
    ///
    /// # Errors
    /// Fails when an endpoint does not answer, or does not know final blocks, or when two show different blocks.
    pub async fn reach(endpoints: Endpoints, first_block: u64) -> Result<Self, AgreementError> {
        let newest = endpoints
            .each(|chain| async move { Ok(fetch::final_head(&chain).await?.block.number) })
            .await;
        let newest: Vec<u64> = newest.into_iter().collect::<Result<_, _>>()?;
        let number = newest.into_iter().min().expect("there is at least one endpoint");
        let last = agreed(&endpoints, |chain| async move { header(&chain, number).await }).await?;
        let (searches, place_searches) = (AtomicU32::new(0), AtomicU32::new(0));
        Ok(Self { endpoints, first_block, last, searches, place_searches })
    }

    /// Returns the number of the last block whose content counts.
    #[must_use]
    pub fn last_block(&self) -> u64 {
        self.last.block.number
    }

    /// Returns the event with this sequence id that a transaction caused at the broadcaster at `address`. If the
    /// endpoints do not know the transaction, the sequence id decides: another transaction may have it. After some 100
    /// such events the answer is [`EventAnswer::Unknown`].
    ///
    /// # Errors
    /// Fails when an endpoint does not answer, or when endpoints contradict one another.
    pub async fn event(
        &self,
        source: EventSource,
        address: Address,
        sequence: SequenceId,
        transaction: TransactionHash,
    ) -> Result<EventAnswer, AgreementError> {
        let transaction = B256::from(transaction.0);
        // Decided once, so that all endpoints are asked alike.
        let may_search = self.searches.load(Ordering::Relaxed) < SEARCHES_MAX;
        agreed(&self.endpoints, |chain| async move {
            let logs = match receipt_of(&chain, transaction).await? {
                Some(receipt) if receipt.block_number.to::<u64>() > self.last_block() => {
                    return Ok(EventAnswer::Unknown);
                }
                Some(receipt) => receipt.logs,
                None if !may_search => return Ok(EventAnswer::Unknown),
                None => {
                    self.searches.fetch_add(1, Ordering::Relaxed);
                    let mut logs = self.logs_of_place(&chain, source, address, sequence).await?;
                    if logs.is_empty() {
                        return Ok(EventAnswer::Unknown);
                    }
                    logs.retain(|log| log.transaction_hash == Some(transaction));
                    logs
                }
            };
            let mut payloads = logs.iter().filter_map(|log| payload_of(source, address, log));
            let found = payloads.find(|payload| payload.sequence == sequence);
            Ok(found.map_or(EventAnswer::Absent, |LoggedPayload { identifier, client, .. }| {
                EventAnswer::Event { identifier, client }
            }))
        })
        .await
    }

    /// Returns the time at which the broadcaster at `address` assigned this sequence id. If no final block has it, the
    /// newest lower one decides: contracts number their events, so it did not exist at the time of that event. After
    /// some 100 sequence ids the answer is [`PlaceAnswer::Unknown`].
    ///
    /// # Errors
    /// Fails when an endpoint does not answer, or when endpoints contradict one another.
    pub async fn place(
        &self,
        source: EventSource,
        address: Address,
        sequence: SequenceId,
    ) -> Result<PlaceAnswer, AgreementError> {
        // Decided once, so that all endpoints are asked alike.
        let may_search = self.place_searches.load(Ordering::Relaxed) < SEARCHES_MAX;
        agreed(&self.endpoints, |chain| async move {
            if !may_search {
                return Ok(PlaceAnswer::Unknown);
            }
            self.place_searches.fetch_add(1, Ordering::Relaxed);
            let logs = self.logs_of_place(&chain, source, address, sequence).await?;
            // If there are several events, the first one counts, in favour of a node that depends on it.
            if let Some(block) = logs.iter().filter_map(|log| log.block_number).min() {
                return Ok(PlaceAnswer::At { block_ns: time_ns(&chain, block).await? });
            }
            let newest = self.newest_place(&chain, source, address).await?;
            let Some((_, block)) = newest.filter(|(newest, _)| *newest < sequence) else {
                return Ok(PlaceAnswer::Unknown);
            };
            Ok(PlaceAnswer::NotYet { final_ns: time_ns(&chain, block).await? })
        })
        .await
    }

    /// Returns the highest sequence id of the newest events of a broadcaster, with its block; `None` if the last blocks
    /// have none.
    async fn newest_place(
        &self,
        chain: &Chain,
        source: EventSource,
        address: Address,
    ) -> Result<Option<(SequenceId, u64)>, RequestError> {
        let filter = source.filter(address);
        let (mut end, mut blocks) = (self.last_block(), NEWEST_BLOCKS_MIN);
        while blocks <= NEWEST_BLOCKS_MAX && end >= self.first_block {
            let start = end.saturating_sub(blocks - 1).max(self.first_block);
            let logs = fetch::logs_in_parts(chain, &filter, &[start..=end]).await?;
            let places = logs.iter().filter_map(|log| {
                Some((payload_of(source, address, log)?.sequence, log.block_number?))
            });
            if let Some(newest) = places.max() {
                return Ok(Some(newest));
            }
            let Some(before) = start.checked_sub(1) else { break };
            (end, blocks) = (before, blocks * 16);
        }
        Ok(None)
    }

    /// Returns the logs of a broadcaster about a sequence id. There may be several, because the contract's operator may
    /// choose ids.
    async fn logs_of_place(
        &self,
        chain: &Chain,
        source: EventSource,
        address: Address,
        sequence: SequenceId,
    ) -> Result<Vec<Log>, RequestError> {
        // Both broadcasters have the sequence id as the second indexed field of their event.
        let filter = source.filter(address).topic2(U256::from(sequence.0));
        let blocks = self.first_block..=self.last_block();
        let mut logs = fetch::logs_in_parts(chain, &filter, &[blocks]).await?;
        logs.retain(|log| {
            payload_of(source, address, log).is_some_and(|payload| payload.sequence == sequence)
        });
        Ok(logs)
    }
}

/// The content of a broadcaster's event.
struct LoggedPayload {
    identifier: Bytes,
    sequence: SequenceId,
    client: Bytes,
}

/// Decodes a log of the broadcaster at `address`; `None` for any other log.
fn payload_of(source: EventSource, address: Address, log: &Log) -> Option<LoggedPayload> {
    if log.address() != address || log.removed {
        return None;
    }
    let event = source.decode(log)?;
    let ContractEvent::Payload { identifier, sequence_id, payload, .. } = event else {
        return None;
    };
    Some(LoggedPayload { identifier: identifier.0, sequence: sequence_id, client: payload.0 })
}

/// Returns the header of a block that the endpoint has to have.
async fn header(chain: &Chain, number: u64) -> Result<BlockHeader, RequestError> {
    let header = block_of(chain, number).await?;
    let absent = || chain.malformed("eth_getBlockByNumber", format!("there is no block {number}"));
    header.ok_or_else(absent)
}

/// Returns the time of a block that the endpoint has to have, unix nanoseconds.
async fn time_ns(chain: &Chain, number: u64) -> Result<i64, RequestError> {
    let time_s = header(chain, number).await?.time_s;
    Ok(i64::try_from(time_s).unwrap_or(i64::MAX).saturating_mul(1_000_000_000))
}

/// Asks every endpoint. Each has to answer, and all alike.
async fn agreed<T: PartialEq, Fut>(
    endpoints: &Endpoints,
    ask: impl Fn(Chain) -> Fut,
) -> Result<T, AgreementError>
where
    Fut: Future<Output = Result<T, RequestError>>,
{
    let ask = &ask;
    let answers = endpoints.each(|chain| async move {
        let endpoint = chain.endpoint().to_owned();
        Ok((endpoint, ask(chain).await?))
    });
    let mut agreed = None;
    for answer in answers.await {
        let (endpoint, answer) = answer?;
        if agreed.as_ref().is_some_and(|before| *before != answer) {
            let how = "answers otherwise than another endpoint";
            return Err(AgreementError::Disputed { endpoint, how });
        }
        agreed = Some(answer);
    }
    Ok(agreed.expect("there is at least one endpoint"))
}
