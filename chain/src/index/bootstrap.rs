//! Tells the payloads that a contract numbered from those whose number its operator chose.
//!
//! A broadcaster takes a payload for the next number only while it runs, and the bootstrap call, which brings
//! numbers of its own, only while it is paused. A transaction that calls the contract itself shows which of the
//! two it is. For one that goes through another contract, such as a multisig, the contract says if it was paused.

use std::collections::{BTreeMap, BTreeSet};

use alloy::eips::BlockNumberOrTag;
use alloy::primitives::{Address, B256, Bytes};
use alloy::providers::Provider as _;
use alloy::rpc::client::BatchRequest;
use alloy::rpc::types::{Filter, Log, TransactionInput, TransactionRequest};
use alloy::sol_types::{SolCall as _, SolEvent as _};
use alloy::transports::TransportError;
use serde::Deserialize;

use super::event::IndexedEvent;
use super::fetch::REQUESTS_PER_BATCH;
// Both broadcasters have the call and the event.
use crate::contracts::group_message_broadcaster::GroupMessageBroadcaster::{
    PauseStatusUpdated, pausedCall,
};
use crate::endpoints::is_rate_limit;
use crate::send::{Chain, RequestError};

/// The transactions among some that assigned numbers by the bootstrap call.
#[derive(Debug, Default)]
pub(super) struct Bootstraps {
    /// Those that call the contract itself.
    direct: BTreeSet<B256>,
    /// Those that reach it through another contract, and whether their input carries the call.
    indirect: BTreeMap<B256, bool>,
    /// The blocks of those that reach it through another contract.
    blocks: BTreeMap<u64, BlockPauses>,
}

/// The pauses of a contract in one block, as it says itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct BlockPauses {
    /// Its changes: index of the log, and true for the begin of a pause. Ascending.
    changes: Vec<(u64, bool)>,
    /// True if it is paused at the end of the block; `None` if the endpoint has dropped that state.
    at_end: Option<bool>,
}

impl BlockPauses {
    /// Returns whether the contract was paused when it emitted the log with this index; `None` if nothing tells.
    fn at(&self, log_index: u64) -> Option<bool> {
        let before = self.changes.iter().rfind(|(index, _)| *index < log_index);
        let after = self.changes.iter().find(|(index, _)| *index > log_index);
        let before = before.map(|(_, is_paused)| *is_paused);
        before.or(after.map(|(_, is_paused)| !is_paused)).or(self.at_end)
    }
}

impl Bootstraps {
    /// Returns whether the operator chose the number of this event. Only for events of the transactions that were
    /// asked about; false for all others.
    pub(super) fn contain(&self, event: &IndexedEvent) -> bool {
        if self.direct.contains(&event.transaction) {
            return true;
        }
        let Some(carries_call) = self.indirect.get(&event.transaction) else { return false };
        let pauses = self.blocks.get(&event.block.number);
        // A guess, without the state: the call has to be somewhere in the input.
        pauses.and_then(|pauses| pauses.at(event.log_index)).unwrap_or(*carries_call)
    }
}

/// A transaction that emitted events of a contract.
#[derive(Debug, Deserialize)]
struct Transaction {
    to: Option<Address>,
    input: Bytes,
}

/// Asks an endpoint about transactions, each with the number of its block. Returns `None` if the endpoint does not
/// know one of them. `selector` is that of the bootstrap call.
pub(super) async fn find(
    chain: &Chain,
    transactions: &BTreeMap<B256, u64>,
    contract: Address,
    selector: [u8; 4],
) -> Result<Option<Bootstraps>, RequestError> {
    let mut found = Bootstraps::default();
    let mut blocks = BTreeSet::new();
    let all: Vec<_> = transactions.iter().map(|(hash, block)| (*hash, *block)).collect();
    for some in all.chunks(REQUESTS_PER_BATCH) {
        let Some(known) = by_hash(chain, some).await? else { return Ok(None) };
        for ((hash, block), Transaction { to, input }) in some.iter().zip(known) {
            if to != Some(contract) {
                let carries_call = input.windows(selector.len()).any(|bytes| bytes == selector);
                found.indirect.insert(*hash, carries_call);
                blocks.insert(*block);
            } else if input.starts_with(&selector) {
                found.direct.insert(*hash);
            }
        }
    }
    let blocks: Vec<_> = blocks.into_iter().collect();
    // Two requests a block.
    for some in blocks.chunks(REQUESTS_PER_BATCH / 2) {
        found.blocks.extend(pauses(chain, contract, some).await?);
    }
    Ok(Some(found))
}

/// Requests transactions in one batch; `None` if one is not known.
async fn by_hash(
    chain: &Chain,
    transactions: &[(B256, u64)],
) -> Result<Option<Vec<Transaction>>, RequestError> {
    const METHOD: &str = "eth_getTransactionByHash";
    let failed = |error: TransportError| chain.request_error(METHOD, error);
    let mut batch = BatchRequest::new(chain.provider().client());
    let mut waiters = Vec::with_capacity(transactions.len());
    for (hash, _) in transactions {
        waiters.push(batch.add_call::<_, Option<Transaction>>(METHOD, &(*hash,)).map_err(failed)?);
    }
    batch.send().await.map_err(failed)?;
    let mut known = Vec::with_capacity(waiters.len());
    for waiter in waiters {
        let Some(transaction) = waiter.await.map_err(failed)? else { return Ok(None) };
        known.push(transaction);
    }
    Ok(Some(known))
}

/// Requests what the contract says of its pauses in each of some blocks, in one batch.
async fn pauses(
    chain: &Chain,
    contract: Address,
    blocks: &[u64],
) -> Result<Vec<(u64, BlockPauses)>, RequestError> {
    const STATE: &str = "eth_call";
    const LOGS: &str = "eth_getLogs";
    let no_state = |error: TransportError| chain.request_error(STATE, error);
    let no_logs = |error: TransportError| chain.request_error(LOGS, error);
    let input = TransactionInput::new(pausedCall::SELECTOR.into());
    let request = TransactionRequest { to: Some(contract.into()), input, ..Default::default() };
    let changes =
        Filter::new().address(contract).event_signature(PauseStatusUpdated::SIGNATURE_HASH);
    let mut batch = BatchRequest::new(chain.provider().client());
    let mut waiters = Vec::with_capacity(blocks.len());
    for block in blocks {
        let at_end = (request.clone(), BlockNumberOrTag::Number(*block));
        let state = batch.add_call::<_, Bytes>(STATE, &at_end).map_err(no_state)?;
        let changes = (changes.clone().from_block(*block).to_block(*block),);
        let logs = batch.add_call::<_, Vec<Log>>(LOGS, &changes).map_err(no_logs)?;
        waiters.push((*block, state, logs));
    }
    batch.send().await.map_err(no_state)?;
    let mut pauses = Vec::with_capacity(waiters.len());
    for (block, state, logs) in waiters {
        let at_end = match state.await.map_err(no_state) {
            Ok(returned) => pausedCall::abi_decode_returns(&returned).ok(),
            Err(error) if is_rate_limit(&error) => return Err(error),
            Err(RequestError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        let changes = changes_in(&logs.await.map_err(no_logs)?, contract, block);
        pauses.push((block, BlockPauses { changes, at_end }));
    }
    Ok(pauses)
}

/// Picks the changes of a contract in a block from what an endpoint answered.
fn changes_in(logs: &[Log], contract: Address, block: u64) -> Vec<(u64, bool)> {
    let changes = logs.iter().filter_map(|log| {
        let is_asked_for = log.address() == contract && log.block_number == Some(block);
        let change = PauseStatusUpdated::decode_log(&log.inner).ok()?;
        (is_asked_for && !log.removed).then_some((log.log_index?, change.paused))
    });
    let mut changes: Vec<_> = changes.collect();
    changes.sort_unstable();
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_in_the_block_tell_more_than_its_end() {
        let pauses = |changes: &[_], at_end| BlockPauses { changes: changes.to_vec(), at_end };
        assert_eq!(pauses(&[], Some(true)).at(3), Some(true));
        assert_eq!(pauses(&[], None).at(3), None);
        let inside = pauses(&[(2, true), (5, false)], Some(false));
        assert_eq!(
            [1, 3, 4, 6].map(|index| inside.at(index)),
            [false, true, true, false].map(Some)
        );
        let end = pauses(&[(4, false)], None);
        assert_eq!([3, 5].map(|index| end.at(index)), [true, false].map(Some));
    }
}
