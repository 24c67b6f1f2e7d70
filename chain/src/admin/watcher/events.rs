//! Counts the events of payer reports and settled usage, block by block.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use alloy::primitives::Address;
use alloy::providers::Provider as _;
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::SolEvent;
use hawser_proto::OriginatorId;

use super::look::NODES_MAX;
use crate::admin::contract::Contract;
use crate::admin::error::AdminError;
use crate::admin::network::Network;
use crate::contracts::payer_registry::PayerRegistry::UsageSettled;
use crate::contracts::payer_report_manager::PayerReportManager::{
    PayerReportSubmitted, PayerReportSubsetSettled,
};
use crate::endpoints::is_rate_limit;
use crate::send::RequestError;

/// Blocks that one request covers at first. Specified: the default of the network's reference watcher. Endpoints that
/// refuse them are asked for fewer.
const PAGE_BLOCKS: u64 = 500;
/// Requests for logs at one look. A guess: with it a look takes seconds, and 1,000,000 blocks of history take 50 looks.
const PAGES_MAX: usize = 40;
/// Blocks by which an endpoint may be behind those that were read. A guess: as many as a look reads. An honest endpoint
/// that is further behind may have some events counted twice.
const AHEAD_MAX: u64 = 20_000;
/// Largest number of remembered positions in the chain. A guess: the true one, and some that lying endpoints caused.
const PLACES_MAX: usize = 8;

/// A kind of event that the watcher counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchedEvent {
    /// A payer report came to the chain.
    ReportSubmitted,
    /// A part of a payer report was settled.
    ReportSettled,
    /// A payer was charged for settled usage.
    UsageSettled,
}

impl WatchedEvent {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::ReportSubmitted, Self::ReportSettled, Self::UsageSettled];

    /// Returns the name of the event, which is the value of the metrics' label `event_type` as at the reference
    /// implementation's watcher.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ReportSubmitted => "PayerReportSubmitted",
            Self::ReportSettled => "PayerReportSubsetSettled",
            Self::UsageSettled => "UsageSettled",
        }
    }
}

/// The events that were counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventCounts {
    /// Events by kind, in the order of [`WatchedEvent::ALL`].
    counts: [u64; WatchedEvent::ALL.len()],
    /// The nodes that have attested the last submitted report of each originator.
    pub attesting: BTreeMap<OriginatorId, usize>,
    /// The last block whose events are counted; `None` before the first one.
    pub last_block: Option<u64>,
}

impl EventCounts {
    /// Returns the number of events of a kind.
    #[must_use]
    pub fn of(&self, kind: WatchedEvent) -> u64 {
        self.counts[kind as usize]
    }

    /// Counts a log of one of these contracts in these blocks. Ignores any other one, which an endpoint may send all
    /// the same, and originators beyond the bound on nodes.
    fn add(&mut self, log: &Log, contracts: EventContracts, blocks: &RangeInclusive<u64>) {
        let in_page = log.block_number.is_some_and(|block| blocks.contains(&block));
        if log.removed || !in_page {
            return;
        }
        let (address, topic) = (log.address(), log.topic0().copied().unwrap_or_default());
        let kind = match topic {
            PayerReportSubmitted::SIGNATURE_HASH if address == contracts.reports => {
                let Ok(event) = PayerReportSubmitted::decode_log_validate(&log.inner) else {
                    return;
                };
                let originator = OriginatorId(event.originatorNodeId);
                if self.attesting.len() < NODES_MAX || self.attesting.contains_key(&originator) {
                    self.attesting.insert(originator, event.signingNodeIds.len());
                }
                WatchedEvent::ReportSubmitted
            }
            PayerReportSubsetSettled::SIGNATURE_HASH if address == contracts.reports => {
                WatchedEvent::ReportSettled
            }
            UsageSettled::SIGNATURE_HASH if address == contracts.payers => {
                WatchedEvent::UsageSettled
            }
            _ => return,
        };
        self.counts[kind as usize] += 1;
    }
}

/// The contracts whose events are counted.
#[derive(Debug, Clone, Copy)]
struct EventContracts {
    reports: Address,
    payers: Address,
}

/// Reads the events of a network from one look to the next, each block once.
#[derive(Debug)]
pub struct EventFollower {
    /// The first block that is counted, if it was given.
    first: Option<u64>,
    /// The next blocks to read; the first one is that of the last look. The others were reached at endpoints that were
    /// far ahead of the last look's endpoint, or far behind it.
    places: Vec<u64>,
    page_blocks: u64,
    counts: EventCounts,
}

impl EventFollower {
    /// Creates a follower that begins with block `first`, or with the first block after the first look.
    #[must_use]
    pub fn new(first: Option<u64>) -> Self {
        let (places, counts) = (first.into_iter().collect(), EventCounts::default());
        Self { first, places, page_blocks: PAGE_BLOCKS, counts }
    }

    /// Returns the events that were counted.
    #[must_use]
    pub fn counts(&self) -> &EventCounts {
        &self.counts
    }

    /// Returns the next block to read at an endpoint with this newest block.
    ///
    /// An endpoint may have made up blocks above the chain's head. If reading continued there, nothing would be counted
    /// until the chain had as many blocks. Another endpoint may hide all blocks but the first ones. If reading
    /// continued there, the whole chain would be read again before new blocks. So reading continues at the highest
    /// remembered position that is at most [`AHEAD_MAX`] blocks above the endpoint's newest block. Without such a
    /// position it begins after that newest block.
    fn next_at(&mut self, newest: u64) -> u64 {
        let in_reach = |place: &u64| place.saturating_sub(newest) <= AHEAD_MAX;
        let highest = self.places.iter().copied().filter(in_reach).max();
        let behind_newest = newest.saturating_add(1).max(self.first.unwrap_or_default());
        let next = highest.unwrap_or(behind_newest);
        self.places.retain(|place| *place != next);
        self.places.insert(0, next);
        // Drops the position that was used least recently. That is never the true one.
        self.places.truncate(PLACES_MAX);
        self.counts.last_block = Some(next.saturating_sub(1));
        next
    }

    /// Records the last block that was read.
    fn read_to(&mut self, last: u64) {
        (self.places[0], self.counts.last_block) = (last.saturating_add(1), Some(last));
    }

    /// Counts the events of new blocks, with at most 40 requests for logs. Dropping the future loses nothing that was
    /// counted. Events of blocks that a reorganisation replaces stay counted.
    ///
    /// # Errors
    /// [`AdminError`] if a contract is not known, or the chain does not answer. The next call goes on at the same
    /// block.
    pub async fn read(&mut self, network: &Network) -> Result<(), AdminError> {
        let known =
            |contract| network.contracts.get(contract).ok_or(AdminError::NoAddress(contract));
        let contracts = EventContracts {
            reports: known(Contract::PayerReportManager)?,
            payers: known(Contract::PayerRegistry)?,
        };
        // Earlier pages may have been refused for another reason than their size.
        self.page_blocks = self.page_blocks.saturating_mul(2).min(PAGE_BLOCKS);
        let newest = network.settlement.newest_block().await?;
        let mut next = self.next_at(newest);
        for _ in 0..PAGES_MAX {
            if next > newest {
                break;
            }
            let blocks = next..=newest.min(next.saturating_add(self.page_blocks - 1));
            let filter = Filter::new()
                .address(vec![contracts.reports, contracts.payers])
                .event_signature(vec![
                    PayerReportSubmitted::SIGNATURE_HASH,
                    PayerReportSubsetSettled::SIGNATURE_HASH,
                    UsageSettled::SIGNATURE_HASH,
                ])
                .from_block(*blocks.start())
                .to_block(*blocks.end());
            let logs = network.settlement.provider().get_logs(&filter).await;
            match logs.map_err(|error| network.settlement.request_error("eth_getLogs", error)) {
                Ok(logs) => logs.iter().for_each(|log| self.counts.add(log, contracts, &blocks)),
                // Endpoints word their limits differently, so every refusal may be about the size of the page.
                Err(error @ RequestError::Refused { .. })
                    if self.page_blocks > 1 && !is_rate_limit(&error) =>
                {
                    self.page_blocks /= 2;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            self.read_to(*blocks.end());
            next = blocks.end() + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, U256};

    use super::*;

    const CONTRACTS: EventContracts =
        EventContracts { reports: Address::repeat_byte(1), payers: Address::repeat_byte(2) };

    fn log(address: Address, event: &impl SolEvent, block: u64) -> Log {
        let inner = alloy::primitives::Log { address, data: event.encode_log_data() };
        Log { inner, block_number: Some(block), ..Log::default() }
    }

    fn submitted(originator: u32, signers: usize) -> PayerReportSubmitted {
        PayerReportSubmitted {
            originatorNodeId: originator,
            payerReportIndex: U256::ZERO,
            startSequenceId: 0,
            endSequenceId: 1,
            endMinuteSinceEpoch: 1,
            payersMerkleRoot: B256::ZERO,
            nodeIds: vec![100; 5],
            signingNodeIds: vec![100; signers],
        }
    }

    #[test]
    fn events_are_counted_by_kind_and_only_those_that_were_asked_for() {
        let EventContracts { reports, payers } = CONTRACTS;
        let usage = UsageSettled {
            payerReportId: B256::ZERO,
            payer: Address::ZERO,
            amount: Default::default(),
        };
        let mut counts = EventCounts::default();
        let removed = Log { removed: true, ..log(reports, &submitted(100, 1), 5) };
        for log in [
            log(reports, &submitted(100, 2), 5),
            log(reports, &submitted(200, 4), 5),
            log(reports, &submitted(100, 3), 9),
            log(payers, &usage, 9),
            // Of another contract, of other blocks, withdrawn, without a block.
            log(payers, &submitted(100, 1), 5),
            log(reports, &usage, 5),
            log(reports, &submitted(100, 1), 4),
            log(reports, &submitted(100, 1), 10),
            removed,
            Log { block_number: None, ..log(reports, &submitted(100, 1), 5) },
        ] {
            counts.add(&log, CONTRACTS, &(5..=9));
        }
        assert_eq!(WatchedEvent::ALL.map(|kind| counts.of(kind)), [3, 0, 1]);
        assert_eq!(
            counts.attesting,
            BTreeMap::from([(OriginatorId(100), 3), (OriginatorId(200), 4)]),
            "of the last one"
        );
    }

    /// The endpoint of the first look makes up a newest block, and those of later looks are honest.
    #[test]
    fn an_endpoint_that_invents_blocks_ends_no_counting() {
        let made_up = 1 << 60;
        let mut follower = EventFollower::new(None);
        assert_eq!(follower.next_at(made_up), made_up + 1);
        assert_eq!(follower.next_at(1_000_000), 1_000_001);
        assert_eq!(follower.counts().last_block, Some(1_000_000));
        assert_eq!(follower.next_at(1_000_000 - AHEAD_MAX + 1), 1_000_001, "it is a little behind");
        assert_eq!(follower.next_at(1_010_000), 1_000_001, "nothing is left out");
        follower.read_to(1_010_000);
        assert_eq!(follower.next_at(1_010_000), 1_010_001);
        let mut follower = EventFollower::new(Some(5_000_000));
        assert_eq!(follower.next_at(10), 5_000_000, "the endpoint still reads the chain");
        assert_eq!(follower.counts().last_block, Some(4_999_999));
    }

    /// One endpoint hides most of the chain. If the follower went back to it, it would count old events again, and no
    /// new ones until it had read the whole chain.
    #[test]
    fn an_endpoint_that_hides_blocks_has_no_old_ones_counted_and_no_new_ones_left_out() {
        let mut follower = EventFollower::new(None);
        assert_eq!(follower.next_at(1_000_000), 1_000_001);
        assert_eq!(follower.next_at(5), 6);
        assert_eq!(follower.next_at(7), 6);
        follower.read_to(7);
        assert_eq!(follower.next_at(1_000_010), 1_000_001);
        follower.read_to(1_000_010);
        assert_eq!(follower.next_at(1_000_020), 1_000_011);
        assert_eq!(follower.counts().last_block, Some(1_000_010));
        // Another endpoint has made up blocks before.
        let made_up = 1 << 60;
        let mut follower = EventFollower::new(None);
        for newest in [made_up, 1_000_000, 5] {
            assert_eq!(follower.next_at(newest), newest + 1);
        }
        assert_eq!(follower.next_at(1_000_010), 1_000_001);
    }

    /// One endpoint has made up blocks, and the honest one answers again after half a day.
    #[test]
    fn an_outage_after_a_lie_leaves_no_block_out() {
        let made_up = 1 << 60;
        let mut follower = EventFollower::new(None);
        for newest in [made_up, 1_000_000] {
            assert_eq!(follower.next_at(newest), newest + 1);
        }
        assert_eq!(follower.next_at(1_000_000 + 2 * AHEAD_MAX), 1_000_001);
        follower.read_to(1_000_000 + AHEAD_MAX);
        assert_eq!(follower.next_at(made_up), made_up + 1);
        // Another endpoint hides ever more blocks, between the looks of the honest one.
        for lies in 1..=20 {
            let hidden = 1_000_000 - 2 * lies * AHEAD_MAX;
            assert_eq!(follower.next_at(hidden), hidden + 1);
            let next = 1_000_001 + AHEAD_MAX;
            assert_eq!(follower.next_at(1_000_000 + 2 * AHEAD_MAX), next, "{lies}");
        }
        assert_eq!(follower.places.len(), PLACES_MAX);
    }

    #[test]
    fn an_endpoint_that_invents_originators_fills_no_memory() {
        let mut counts = EventCounts::default();
        for originator in 0..10 * u32::try_from(NODES_MAX).unwrap() {
            counts.add(&log(CONTRACTS.reports, &submitted(originator, 1), 5), CONTRACTS, &(5..=5));
        }
        assert_eq!(counts.attesting.len(), NODES_MAX);
    }
}
