//! `eth_getLogs`, with limits as public providers have them.

use std::sync::atomic::Ordering;

use alloy::eips::BlockNumberOrTag;
use alloy::rpc::types::{Filter, FilterBlockOption, Log};

use super::args::RpcNumber;
use super::error::{RpcError, failed, invalid, too_much};
use super::{Group, answer, present};
use crate::embedded::chain_core::ChainCore;

/// The largest number of logs in a response: the usual limit of providers.
const LOGS_MAX: usize = 10_000;
/// The largest total of log data in a response, in bytes. A guess: below the message limits of common clients.
const DATA_BYTES_MAX: usize = 24 << 20;

pub(super) const METHODS: Group = &[
    (&["eth_getLogs"], |node, args| {
        let filter = args.filter(0)?.ok_or_else(|| invalid("missing value for a filter"))?;
        answer(&find(&node.read(), &filter, node.log_blocks_max())?)
    }),
    // Sets the limit in blocks, or removes it. It is for tests of clients that halve their ranges.
    (&["hawser_setLogBlocksMax"], |node, args| {
        let limit = args.optional(0)?.map_or(u64::MAX, |RpcNumber(limit)| limit.max(1));
        node.log_blocks_max.store(limit, Ordering::Relaxed);
        answer(&())
    }),
];

/// Returns the matching logs in the order of the chain.
pub(super) fn find(
    core: &ChainCore,
    filter: &Filter,
    blocks_max: u64,
) -> Result<Vec<Log>, RpcError> {
    let (from, to) = match filter.block_option {
        FilterBlockOption::AtBlockHash(hash) => {
            let block = core.block_by_hash(hash).ok_or_else(|| failed("unknown block"))?;
            (block.header.number, block.header.number)
        }
        FilterBlockOption::Range { from_block, to_block } => {
            if let (Some(BlockNumberOrTag::Number(from)), Some(BlockNumberOrTag::Number(to))) =
                (from_block, to_block)
                && from > to
            {
                return Err(invalid(format!("invalid block range params: from {from} to {to}")));
            }
            // The pending block has no logs yet, so the range ends at the head.
            let number = |tag| core.number(tag).unwrap_or(core.height());
            let from = from_block.map_or(core.height(), number);
            (from, to_block.map_or(core.height(), number))
        }
    };
    let to = to.min(core.height());
    if to.saturating_sub(from) >= blocks_max {
        return Err(too_wide(blocks_max));
    }
    let mut found = Vec::new();
    let mut data_bytes = 0;
    for block in (from..=to).filter_map(|number| core.block(number)) {
        // A range of one block has no limit: a client could not halve it further.
        let fitted = block.header.number - from;
        if !filter.matches_bloom(block.header.logs_bloom) {
            continue;
        }
        for log in present::matching_logs(block, filter, false) {
            data_bytes += log.inner.data.data.len();
            if (found.len() == LOGS_MAX || data_bytes > DATA_BYTES_MAX) && from < to {
                return Err(too_wide(fitted.max(1)));
            }
            found.push(log);
        }
    }
    Ok(found)
}

/// Returns the error of a range that is too wide, with a width that works.
///
/// The wording is that of other providers. Clients that parse it request one block less than the stated number.
fn too_wide(blocks_max: u64) -> RpcError {
    let named = blocks_max.saturating_add(1);
    too_much(format!(
        "too much for one answer: make eth_getLogs requests with up to a {named} block range"
    ))
}
