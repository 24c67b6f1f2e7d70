//! The changes of the canonical network, by the events of the node registry.
//!
//! The registry has only the present state of a node. Judges need the times at which a node was absent.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use alloy::primitives::Address;
use alloy::providers::Provider as _;
use alloy::rpc::types::Log;
use hawser_proto::OriginatorId;

use super::settled::EventPlace;
use super::{AdminError, Contract, Network};
use crate::endpoints::is_rate_limit;
use crate::index::{ContractEvent, EventSource};
use crate::send::RequestError;

/// Blocks that one request covers at first. A guess: the events are few, so endpoints that limit only the number of
/// results answer for many blocks at once. Those that refuse them are asked for fewer.
const PAGE_BLOCKS: u64 = 1_000_000;
/// Requests for the pages of one reading. A guess: endpoints that answer for ten blocks at once take hours for so many
/// pages, and show ten million blocks. An endpoint that makes up its newest block would be asked without end.
const REQUESTS_MAX: u64 = 1_000_000;
/// Changes that are kept. A guess: more than a network makes. An endpoint could send any number.
const CHANGES_MAX: usize = 100_000;

/// An entry of a node into the canonical network, or its removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipTime {
    /// The node.
    pub node_id: OriginatorId,
    /// The time of the block, unix seconds.
    pub time_s: u64,
    /// True if the node belongs to the network from then on.
    pub is_member: bool,
}

/// Returns the changes of the canonical network in a range of blocks, in the order of the chain. One endpoint answers,
/// which may leave changes out: compare the last change of each node with its record in the registry.
///
/// # Errors
/// [`AdminError`] if the address of the node registry is not known, if the chain does not answer, or if the endpoint
/// sends more than 100,000 changes. [`AdminError::TooManyPages`] once it is certain that these blocks take more than a
/// million requests.
pub async fn changes(
    network: &Network,
    blocks: RangeInclusive<u64>,
) -> Result<Vec<MembershipTime>, AdminError> {
    const METHOD: &str = "eth_getLogs";
    let (registry, chain) = (network.at(Contract::NodeRegistry)?, &network.settlement);
    let (mut next, last) = blocks.into_inner();
    let (mut page_blocks, mut asked) = (PAGE_BLOCKS, 0_u64);
    let mut found: BTreeMap<EventPlace, (OriginatorId, bool)> = BTreeMap::new();
    while next <= last {
        if (last - next) / page_blocks >= REQUESTS_MAX.saturating_sub(asked) {
            let (endpoint, requests_max) = (chain.endpoint().to_owned(), REQUESTS_MAX);
            return Err(AdminError::TooManyPages { endpoint, last, page_blocks, requests_max });
        }
        asked += 1;
        let page = next..=last.min(next.saturating_add(page_blocks - 1));
        let filter = EventSource::NodeRegistry.filter(registry);
        let filter = filter.from_block(*page.start()).to_block(*page.end());
        let logs = chain.provider().get_logs(&filter).await;
        match logs.map_err(|error| chain.request_error(METHOD, error)) {
            Ok(logs) => {
                found.extend(logs.iter().filter_map(|log| change(log, registry, &page)));
                if found.len() > CHANGES_MAX {
                    let reason = format!("more than {CHANGES_MAX} changes of the network");
                    return Err(chain.malformed(METHOD, reason).into());
                }
                let Some(after) = page.end().checked_add(1) else { break };
                next = after;
            }
            // Endpoints word their limits differently, so every refusal may be about the size of the page.
            Err(error @ RequestError::Refused { .. })
                if page_blocks > 1 && !is_rate_limit(&error) =>
            {
                page_blocks /= 2;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let mut changes = Vec::with_capacity(found.len());
    let mut last_time: Option<(u64, u64)> = None;
    for ((block, _), (node_id, is_member)) in found {
        let time_s = match last_time.filter(|(at, _)| *at == block) {
            Some((_, time_s)) => time_s,
            None => chain.block_time(block).await?,
        };
        last_time = Some((block, time_s));
        changes.push(MembershipTime { node_id, time_s, is_member });
    }
    Ok(changes)
}

/// Returns the change of an event that was asked for, with the event's place; `None` for any other event, which an
/// endpoint may send although it was not asked for.
fn change(
    log: &Log,
    registry: Address,
    blocks: &RangeInclusive<u64>,
) -> Option<(EventPlace, (OriginatorId, bool))> {
    let block = log.block_number.filter(|block| blocks.contains(block))?;
    let place = (block, log.log_index?);
    if log.removed || log.address() != registry {
        return None;
    }
    match EventSource::NodeRegistry.decode(log)? {
        ContractEvent::MembershipChanged { node_id, is_member } => {
            Some((place, (node_id, is_member)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::aliases::U96;
    use alloy::primitives::{B256, LogData};
    use alloy::sol_types::SolEvent as _;

    use super::*;
    use crate::contracts::node_registry::NodeRegistry::NodeRemovedFromCanonicalNetwork;
    use crate::contracts::payer_registry::PayerRegistry::UsageSettled;

    #[test]
    fn only_events_that_were_asked_for_are_changes() {
        let registry = Address::repeat_byte(1);
        let log = |data: LogData| {
            let inner = alloy::primitives::Log { address: registry, data };
            Log { inner, block_number: Some(6), log_index: Some(2), ..Log::default() }
        };
        let change = |log: &Log| change(log, registry, &(5..=9));
        let removal = log(NodeRemovedFromCanonicalNetwork { nodeId: 100 }.encode_log_data());
        assert_eq!(change(&removal), Some(((6, 2), (OriginatorId(100), false))));
        let settled =
            UsageSettled { payerReportId: B256::ZERO, payer: registry, amount: U96::from(5) };
        let mut of_other = removal.clone();
        of_other.inner.address = Address::repeat_byte(2);
        for other in [
            of_other,
            log(settled.encode_log_data()),
            Log { removed: true, ..removal.clone() },
            Log { block_number: Some(4), ..removal.clone() },
            Log { block_number: Some(10), ..removal.clone() },
            Log { block_number: None, ..removal.clone() },
            Log { log_index: None, ..removal.clone() },
        ] {
            assert_eq!(change(&other), None, "{other:?}");
        }
    }
}
