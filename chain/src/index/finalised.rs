//! Single events of the final blocks of a chain, for auditors. Every endpoint has to answer, and all alike.
//!
//! Nothing here is proven by the hash of a block: an event rests on the word of the endpoints.

use std::sync::atomic::{AtomicU32, Ordering};

use alloy::primitives::{Address, B256, U256};
use alloy::rpc::types::Log;
use hawser_proto::{Bytes, SequenceId, TransactionHash};
use hawser_rules::misbehavior::EventAnswer;

use super::event::{ContractEvent, EventSource};
use super::fetch;
use super::lookup::{AgreementError, block_of, receipt_of};
use super::walk::BlockHeader;
use crate::endpoints::Endpoints;
use crate::send::{Chain, RequestError};

/// Largest number of searches of a [`FinalChain`], over all endpoints. A guess: each may take dozens of requests, and
/// any caller of a node may submit reports about transactions that no endpoint knows.
const SEARCHES_MAX: u32 = 100;

/// A chain up to a block that is final at each of its endpoints.
#[derive(Debug)]
pub struct FinalChain {
    endpoints: Endpoints,
    first_block: u64,
    last: BlockHeader,
    /// The searches that were made for events of unknown transactions.
    searches: AtomicU32,
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
        Ok(Self { endpoints, first_block, last, searches: AtomicU32::new(0) })
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

/// Decodes a log of the broadcaster at `address`; `None` if it is another one.
fn payload_of(source: EventSource, address: Address, log: &Log) -> Option<LoggedPayload> {
    if log.address() != address || log.removed {
        return None;
    }
    let event = source.decode(log)?;
    let ContractEvent::Payload { identifier, sequence_id, payload, .. } = event else {
        return None;
    };
    let sequence = SequenceId(sequence_id);
    Some(LoggedPayload { identifier: identifier.0, sequence, client: payload.0 })
}

/// Returns the header of a block that the endpoint has to have.
async fn header(chain: &Chain, number: u64) -> Result<BlockHeader, RequestError> {
    let header = block_of(chain, number).await?;
    let absent = || chain.malformed("eth_getBlockByNumber", format!("there is no block {number}"));
    header.ok_or_else(absent)
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
