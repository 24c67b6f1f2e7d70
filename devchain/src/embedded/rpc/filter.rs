//! Filters that clients poll.

use std::time::Instant;

use alloy::primitives::{B256, U64};
use alloy::rpc::types::{Filter, FilterChanges, Log};

use super::args::{Args, RpcNumber};
use super::error::{RpcError, failed};
use super::{Group, RpcResult, answer, logs, present};
use crate::embedded::chain_core::ChainCore;
use crate::embedded::feed::FeedEvent;
use crate::embedded::filters::FilterKind;
use crate::embedded::node::EmbeddedNode;

pub(super) const METHODS: Group = &[
    (&["eth_newFilter"], |node, args| {
        add(node, FilterKind::Logs(Box::new(args.filter(0)?.unwrap_or_default())))
    }),
    (&["eth_newBlockFilter"], |node, _| add(node, FilterKind::NewBlocks)),
    (&["eth_newPendingTransactionFilter"], |node, args| {
        add(node, FilterKind::PendingTransactions { full: args.optional(0)?.unwrap_or(false) })
    }),
    (&["eth_getFilterChanges"], changes),
    (&["eth_getFilterLogs"], all_logs),
    (&["eth_uninstallFilter"], |node, args| {
        let RpcNumber(id) = args.get(0)?;
        answer(&node.filters.lock().remove(id))
    }),
];

fn not_found() -> RpcError {
    failed("filter not found")
}

fn add(node: &EmbeddedNode, kind: FilterKind) -> RpcResult {
    let next = node.read().feed.end();
    answer(&U64::from(node.filters.lock().add(Instant::now(), kind, next).map_err(failed)?))
}

fn changes(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let RpcNumber(id) = args.get(0)?;
    let mut filters = node.filters.lock();
    let (kind, next) = filters.get(Instant::now(), id).ok_or_else(not_found)?;
    let core = node.read();
    let Ok(notices) = core.feed.read(next, usize::MAX) else {
        filters.remove(id);
        return Err(not_found());
    };
    filters.advance(id, core.feed.end());
    answer(&render(&core, &kind, &notices))
}

fn render(core: &ChainCore, kind: &FilterKind, notices: &[FeedEvent]) -> FilterChanges {
    let notices = notices.iter();
    match kind {
        FilterKind::Logs(filter) => {
            FilterChanges::Logs(notices.flat_map(|notice| logs_of(notice, filter)).collect())
        }
        FilterKind::NewBlocks => FilterChanges::Hashes(notices.filter_map(added).collect()),
        FilterKind::PendingTransactions { full: false } => {
            FilterChanges::Hashes(notices.filter_map(sent).collect())
        }
        FilterKind::PendingTransactions { full: true } => {
            let sent = notices.filter_map(sent);
            let sent = sent.filter_map(|hash| present::transaction_by_hash(core, hash));
            FilterChanges::Transactions(sent.collect())
        }
    }
}

fn added(notice: &FeedEvent) -> Option<B256> {
    match notice {
        FeedEvent::BlockAdded(block) => Some(block.hash),
        FeedEvent::BlockRemoved(_) | FeedEvent::TransactionPending(_) => None,
    }
}

fn sent(notice: &FeedEvent) -> Option<B256> {
    match notice {
        FeedEvent::TransactionPending(hash) => Some(*hash),
        FeedEvent::BlockAdded(_) | FeedEvent::BlockRemoved(_) => None,
    }
}

/// Returns the logs that appear or disappear with an event and match the filter, including its block range.
pub(in crate::embedded) fn logs_of(notice: &FeedEvent, filter: &Filter) -> Vec<Log> {
    let (block, removed) = match notice {
        FeedEvent::BlockAdded(block) => (block, false),
        FeedEvent::BlockRemoved(block) => (block, true),
        FeedEvent::TransactionPending(_) => return Vec::new(),
    };
    if !filter.block_option.is_block_hash() && !filter.matches_block_range(block.header.number) {
        return Vec::new();
    }
    if filter.get_block_hash().is_some_and(|hash| hash != block.hash) {
        return Vec::new();
    }
    present::matching_logs(block, filter, removed).collect()
}

fn all_logs(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let RpcNumber(id) = args.get(0)?;
    let found = node.filters.lock().get(Instant::now(), id);
    let Some((FilterKind::Logs(filter), _)) = found else { return Err(not_found()) };
    answer(&logs::find(&node.read(), &filter, node.log_blocks_max())?)
}
