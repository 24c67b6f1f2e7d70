//! The amounts that settlements took from the payers of a report, by the events of the payer registry.
//!
//! A report carries only the root of its amounts. Once its leaves are settled, the chain names them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use alloy::primitives::{Address, B256};
use alloy::providers::Provider as _;
use alloy::rpc::types::{Filter, Log};
use alloy::sol_types::SolEvent as _;

use super::{AdminError, Contract, MicroDollars, Network};
use crate::contracts::payer_registry::PayerRegistry::UsageSettled;
use crate::endpoints::is_rate_limit;
use crate::send::RequestError;

/// Blocks that one request covers at first. A guess: many endpoints accept 10,000. Those that refuse them are asked for
/// fewer.
const PAGE_BLOCKS: u64 = 10_000;
/// Leaves that are kept. A guess: 40 MB. An endpoint could send any number.
const LEAVES_MAX: usize = 1_000_000;

/// Settled leaves of a report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SettledLeaves {
    /// Payers with the amounts that were taken from them, in the order of the chain.
    pub leaves: Vec<(Address, MicroDollars)>,
    /// The first block that was searched.
    pub first_block: u64,
    /// Scheme, host and port of an endpoint that shows them.
    pub endpoint: String,
    /// The number of endpoints that show them. One alone may lie about the payers of a sum.
    pub shown_by: usize,
}

/// The place of an event on the chain: its block, and its index there.
pub(super) type EventPlace = (u64, u64);

/// Returns the settled leaves of a report by its id. Searches the newest `blocks_max` blocks, the last ones first,
/// until `wanted` leaves are found. They are the events of one endpoint.
///
/// # Errors
/// [`AdminError`] if the payer registry is not known, or the chain does not answer.
pub(super) async fn leaves_of(
    network: &Network,
    report: [u8; 32],
    wanted: u64,
    blocks_max: u64,
) -> Result<SettledLeaves, AdminError> {
    let (registry, report) = (network.at(Contract::PayerRegistry)?, B256::from(report));
    let newest = network.settlement.newest_block().await?;
    let lowest = newest.saturating_sub(blocks_max.saturating_sub(1));
    let mut found: BTreeMap<EventPlace, (Address, MicroDollars)> = BTreeMap::new();
    let (mut last, mut page_blocks) = (newest, PAGE_BLOCKS);
    loop {
        let first = last.saturating_sub(page_blocks - 1).max(lowest);
        let filter = Filter::new()
            .address(registry)
            .event_signature(UsageSettled::SIGNATURE_HASH)
            .topic1(report)
            .from_block(first)
            .to_block(last);
        let logs = network.settlement.provider().get_logs(&filter).await;
        match logs.map_err(|error| network.settlement.request_error("eth_getLogs", error)) {
            Ok(logs) => {
                let leaves =
                    logs.iter().filter_map(|log| leaf(log, registry, report, &(first..=last)));
                let room = LEAVES_MAX.saturating_sub(found.len());
                found.extend(leaves.take(room));
            }
            // Endpoints word their limits differently, so every refusal may be about the size of the page.
            Err(error @ RequestError::Refused { .. })
                if page_blocks > 1 && !is_rate_limit(&error) =>
            {
                page_blocks /= 2;
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        if first == lowest || found.len() as u64 >= wanted {
            let endpoint = network.settlement.endpoint().to_owned();
            let leaves = found.into_values().collect();
            return Ok(SettledLeaves { leaves, first_block: first, endpoint, shown_by: 1 });
        }
        last = first - 1;
    }
}

/// Returns the leaf of an event that was asked for, with the event's place; `None` for any other event, which an
/// endpoint may send although it was not asked for.
fn leaf(
    log: &Log,
    registry: Address,
    report: B256,
    blocks: &RangeInclusive<u64>,
) -> Option<(EventPlace, (Address, MicroDollars))> {
    let block = log.block_number.filter(|block| blocks.contains(block))?;
    let place = (block, log.log_index?);
    if log.removed || log.address() != registry {
        return None;
    }
    let event = UsageSettled::decode_log_validate(&log.inner).ok()?;
    let of_payer = (event.payer, MicroDollars::from(event.amount));
    (event.payerReportId == report).then_some((place, of_payer))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::aliases::U96;

    use super::*;

    #[test]
    fn only_events_that_were_asked_for_are_leaves() {
        let registry = Address::repeat_byte(1);
        let (report, payer) = (B256::repeat_byte(7), Address::repeat_byte(9));
        let settled = |report| {
            let event = UsageSettled { payerReportId: report, payer, amount: U96::from(5) };
            let inner = alloy::primitives::Log { address: registry, data: event.encode_log_data() };
            Log { inner, block_number: Some(6), log_index: Some(2), ..Log::default() }
        };
        let leaf = |log: &Log| leaf(log, registry, report, &(5..=9));
        let mine = settled(report);
        let five = MicroDollars::new(5).unwrap();
        assert_eq!(leaf(&mine), Some(((6, 2), (payer, five))));
        let mut of_other = mine.clone();
        of_other.inner.address = Address::repeat_byte(2);
        for other in [
            of_other,
            settled(B256::repeat_byte(8)),
            Log { removed: true, ..mine.clone() },
            Log { block_number: Some(4), ..mine.clone() },
            Log { block_number: Some(10), ..mine.clone() },
            Log { block_number: None, ..mine.clone() },
            Log { log_index: None, ..mine.clone() },
        ] {
            assert_eq!(leaf(&other), None, "{other:?}");
        }
    }
}
