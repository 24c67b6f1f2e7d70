//! Filters that clients poll.

use std::time::Instant;

use alloy::primitives::{B256, U64};
use alloy::rpc::types::{Filter, FilterChanges, Log};

use super::args::{Args, Number};
use super::error::{RpcError, failed};
use super::{Answer, Group, answer, logs, present};
use crate::embedded::core::Core;
use crate::embedded::feed::Notice;
use crate::embedded::filters::Kind;
use crate::embedded::node::Node;

pub(super) const METHODS: Group = &[
    (&["eth_newFilter"], |node, args| {
        add(node, Kind::Logs(Box::new(args.filter(0)?.unwrap_or_default())))
    }),
    (&["eth_newBlockFilter"], |node, _| add(node, Kind::Blocks)),
    (&["eth_newPendingTransactionFilter"], |node, args| {
        add(node, Kind::Waiting { full: args.optional(0)?.unwrap_or(false) })
    }),
    (&["eth_getFilterChanges"], changes),
    (&["eth_getFilterLogs"], all_logs),
    (&["eth_uninstallFilter"], |node, args| {
        let Number(id) = args.get(0)?;
        answer(&lock(node).remove(id))
    }),
];

fn lock(node: &Node) -> std::sync::MutexGuard<'_, crate::embedded::filters::Filters> {
    node.filters.lock().expect("filters are changed by code that does not panic")
}

fn not_found() -> RpcError {
    failed("filter not found")
}

fn add(node: &Node, kind: Kind) -> Answer {
    let next = node.read().feed.end();
    answer(&U64::from(lock(node).add(Instant::now(), kind, next).map_err(failed)?))
}

fn changes(node: &Node, args: &Args<'_>) -> Answer {
    let Number(id) = args.get(0)?;
    let mut filters = lock(node);
    let (kind, next) = filters.get(Instant::now(), id).ok_or_else(not_found)?;
    let core = node.read();
    let Ok(notices) = core.feed.read(next, usize::MAX) else {
        filters.remove(id);
        return Err(not_found());
    };
    filters.advance(id, core.feed.end());
    answer(&render(&core, &kind, &notices))
}

fn render(core: &Core, kind: &Kind, notices: &[Notice]) -> FilterChanges {
    let notices = notices.iter();
    match kind {
        Kind::Logs(filter) => {
            FilterChanges::Logs(notices.flat_map(|notice| logs_of(notice, filter)).collect())
        }
        Kind::Blocks => FilterChanges::Hashes(notices.filter_map(added).collect()),
        Kind::Waiting { full: false } => FilterChanges::Hashes(notices.filter_map(sent).collect()),
        Kind::Waiting { full: true } => {
            let sent = notices.filter_map(sent);
            let sent = sent.filter_map(|hash| present::transaction_by_hash(core, hash));
            FilterChanges::Transactions(sent.collect())
        }
    }
}

fn added(notice: &Notice) -> Option<B256> {
    match notice {
        Notice::Added(block) => Some(block.hash),
        Notice::Removed(_) | Notice::Waiting(_) => None,
    }
}

fn sent(notice: &Notice) -> Option<B256> {
    match notice {
        Notice::Waiting(hash) => Some(*hash),
        Notice::Added(_) | Notice::Removed(_) => None,
    }
}

/// The logs that come or go with a notice and match the filter, its blocks included.
pub(in crate::embedded) fn logs_of(notice: &Notice, filter: &Filter) -> Vec<Log> {
    let (block, removed) = match notice {
        Notice::Added(block) => (block, false),
        Notice::Removed(block) => (block, true),
        Notice::Waiting(_) => return Vec::new(),
    };
    if !filter.block_option.is_block_hash() && !filter.matches_block_range(block.header.number) {
        return Vec::new();
    }
    if filter.get_block_hash().is_some_and(|hash| hash != block.hash) {
        return Vec::new();
    }
    present::matching_logs(block, filter, removed).collect()
}

fn all_logs(node: &Node, args: &Args<'_>) -> Answer {
    let Number(id) = args.get(0)?;
    let found = lock(node).get(Instant::now(), id);
    let Some((Kind::Logs(filter), _)) = found else { return Err(not_found()) };
    answer(&logs::find(&node.read(), &filter, node.log_blocks_max())?)
}
