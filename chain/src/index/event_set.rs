//! The events of a contract in some blocks, as one endpoint shows them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256};
use alloy::rpc::types::Log;

use super::event::{BlockRef, ContractEvent, EventSource, IndexedEvent};

/// The events at some places of the chain, by the content of their logs and their transaction. An event that one
/// transaction emitted twice has two places. A place is a block number and a log index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventSet {
    /// The digest of each event with its place.
    places: BTreeSet<(B256, (u64, u64))>,
    /// The number of places of each digest.
    counts: BTreeMap<B256, u32>,
}

/// Blocks that are due for a recheck, with the events that are known of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecheckPage {
    /// The blocks to recheck.
    pub blocks: RangeInclusive<u64>,
    /// The events that were read in these blocks and near them; `None` if they were not remembered, so that the sink
    /// has to be asked.
    pub known: Option<EventSet>,
}

impl EventSet {
    /// Adds an event at a place, once. Returns the number of its places.
    pub fn add(&mut self, place: (u64, u64), transaction: B256, event: &ContractEvent) -> u32 {
        self.insert(event.digest(transaction), place)
    }

    fn insert(&mut self, digest: B256, place: (u64, u64)) -> u32 {
        let count = self.counts.entry(digest).or_default();
        if self.places.insert((digest, place)) {
            *count = count.saturating_add(1);
        }
        *count
    }

    /// Returns the number of places of an event.
    #[must_use]
    pub fn count(&self, transaction: B256, event: &ContractEvent) -> u32 {
        self.counts.get(&event.digest(transaction)).copied().unwrap_or(0)
    }

    /// Returns true if an event is at this place.
    #[must_use]
    pub fn is_at(&self, place: (u64, u64), transaction: B256, event: &ContractEvent) -> bool {
        self.places.contains(&(event.digest(transaction), place))
    }

    /// Returns the number of events, each as often as it has places.
    pub(super) fn size(&self) -> usize {
        self.places.len()
    }

    /// Adds all events of another set.
    pub(super) fn merge(&mut self, other: &Self) {
        for (digest, place) in &other.places {
            self.insert(*digest, *place);
        }
    }

    /// Returns a contract's events in the logs that one endpoint shows for these blocks.
    #[must_use]
    pub fn shown(
        blocks: &RangeInclusive<u64>,
        logs: &[Log],
        source: EventSource,
        address: Address,
    ) -> Self {
        let mut set = Self::default();
        for ((number, _), logs) in by_block(blocks, logs, source, address) {
            for (index, (log, event)) in logs {
                set.add((number, index), log.transaction_hash.unwrap_or_default(), &event);
            }
        }
        set
    }
}

/// Returns a contract's events in the logs that endpoints show for these blocks, each once. An event that endpoints
/// show in different blocks is returned for each block.
pub(super) fn shown_by_all<'a>(
    blocks: &RangeInclusive<u64>,
    answers: impl Iterator<Item = &'a Vec<Log>>,
    source: EventSource,
    address: Address,
) -> Vec<IndexedEvent> {
    let mut all = BTreeMap::new();
    for logs in answers {
        for ((number, hash), logs) in by_block(blocks, logs, source, address) {
            let block = BlockRef { number, hash };
            for (log_index, (log, decoded)) in logs {
                let transaction = log.transaction_hash.unwrap_or_default();
                let digest = decoded.digest(transaction);
                let block_time_s = log.block_timestamp.unwrap_or_default();
                let event = IndexedEvent { block, block_time_s, log_index, transaction, decoded };
                all.insert((block, log_index, digest), event);
            }
        }
    }
    all.into_values().collect()
}

/// A contract's events by block number and hash, and by log index.
type Shown<'a> = BTreeMap<(u64, B256), BTreeMap<u64, (&'a Log, ContractEvent)>>;

/// Groups the events of a contract by block and log index. Other logs are left out.
pub(super) fn by_block<'a>(
    blocks: &RangeInclusive<u64>,
    logs: &'a [Log],
    source: EventSource,
    address: Address,
) -> Shown<'a> {
    let mut shown = Shown::new();
    for log in logs.iter().filter(|log| !log.removed && log.address() == address) {
        let (Some(number), Some(hash), Some(index), Some(_)) =
            (log.block_number, log.block_hash, log.log_index, log.transaction_hash)
        else {
            continue;
        };
        let Some(event) = source.decode(log).filter(|_| blocks.contains(&number)) else { continue };
        let block = shown.entry((number, hash)).or_default();
        if let Entry::Vacant(place) = block.entry(index) {
            place.insert((log, event));
        }
    }
    shown
}
