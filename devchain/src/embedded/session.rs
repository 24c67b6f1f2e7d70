//! One connection and its subscriptions.

use std::collections::BTreeMap;

use alloy::primitives::B256;
use serde_json::value::RawValue;

use super::chain_core::ChainCore;
use super::feed::{FeedEvent, LaggedError};
use super::filters::FilterKind;
use super::node::EmbeddedNode;
use super::rpc::args::Args;
use super::rpc::error::{RpcError, code, failed, invalid, too_much};
use super::rpc::{RpcResult, answer, filter, present};

/// The largest number of subscriptions of a connection. A guess.
const SUBSCRIPTIONS_MAX: usize = 128;
/// The largest number of events that one poll renders for a subscription. A guess that bounds
/// the time under the chain's lock.
const BATCH: usize = 64;

#[derive(Debug)]
struct Subscription {
    kind: FilterKind,
    /// The number of the first event that the client has not received.
    next: u64,
}

/// The subscriptions of one connection, and its position in the feed for each.
#[derive(Debug)]
pub(super) struct Session {
    pushes: bool,
    subscriptions: BTreeMap<u64, Subscription>,
    made: u64,
}

/// Messages for the client from one poll.
#[derive(Debug)]
pub(super) struct Notifications {
    /// The notifications of each subscription in the order of their events, one subscription after another.
    pub(super) messages: Vec<String>,
    /// True if further events are due for the next poll.
    pub(super) more: bool,
}

impl Session {
    /// Returns the session of a connection that carries only responses.
    pub(super) fn answering() -> Self {
        Self { pushes: false, subscriptions: BTreeMap::new(), made: 0 }
    }

    /// Returns the session of a connection that also carries notifications.
    pub(super) fn pushing() -> Self {
        Self { pushes: true, ..Self::answering() }
    }

    /// Answers `eth_subscribe` with an id. Notifications follow that response.
    pub(super) fn subscribe(&mut self, node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
        if !self.pushes {
            let reason = "eth_subscribe needs a WebSocket connection";
            return Err(RpcError::new(code::METHOD_NOT_FOUND, reason));
        }
        let kind = match args.get::<String>(0)?.as_str() {
            "newHeads" => FilterKind::NewBlocks,
            "logs" => FilterKind::Logs(Box::new(args.filter(1)?.unwrap_or_default())),
            "newPendingTransactions" => {
                FilterKind::PendingTransactions { full: args.optional::<bool>(1)?.unwrap_or(false) }
            }
            other => {
                let known = "newHeads, logs and newPendingTransactions";
                return Err(invalid(format!("no {other:?} subscription: there are {known}")));
            }
        };
        if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
            return Err(too_much(format!("more than {SUBSCRIPTIONS_MAX} subscriptions")));
        }
        self.made += 1;
        let next = node.read().feed.end();
        self.subscriptions.insert(self.made, Subscription { kind, next });
        answer(&hex(self.made))
    }

    /// Answers `eth_unsubscribe`: true if the subscription existed.
    pub(super) fn unsubscribe(&mut self, args: &Args<'_>) -> RpcResult {
        let id: String = args.get(0)?;
        let digits = id.strip_prefix("0x").unwrap_or_default();
        let id = u64::from_str_radix(digits, 16).ok();
        answer(&id.is_some_and(|id| self.subscriptions.remove(&id).is_some()))
    }

    /// Polls for notifications since the last poll.
    ///
    /// # Errors
    /// Fails if the client reads too slowly, so that the feed no longer has its next event.
    pub(super) fn poll_notifications(
        &mut self,
        node: &EmbeddedNode,
    ) -> Result<Notifications, LaggedError> {
        let core = node.read();
        let mut messages = Vec::new();
        for (id, subscription) in &mut self.subscriptions {
            let notices = core.feed.read(subscription.next, BATCH)?;
            subscription.next += notices.len() as u64;
            let news = notices.iter().flat_map(|notice| render(&core, &subscription.kind, notice));
            messages.extend(news.flatten().map(|news| message(*id, &news)));
        }
        let end = core.feed.end();
        let more = self.subscriptions.values().any(|subscription| subscription.next < end);
        Ok(Notifications { messages, more })
    }
}

fn hex(id: u64) -> String {
    format!("{id:#x}")
}

fn message(id: u64, news: &RawValue) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","method":"eth_subscription","params":{{"subscription":"{id:#x}","result":{news}}}}}"#
    )
}

fn render(core: &ChainCore, kind: &FilterKind, notice: &FeedEvent) -> Vec<RpcResult> {
    match (kind, notice) {
        (FilterKind::NewBlocks, FeedEvent::BlockAdded(block)) => {
            vec![answer(&present::header(block))]
        }
        (FilterKind::Logs(filter), notice) => {
            filter::logs_of(notice, filter).iter().map(answer).collect()
        }
        (FilterKind::PendingTransactions { full: false }, FeedEvent::TransactionPending(hash)) => {
            vec![answer(hash)]
        }
        (FilterKind::PendingTransactions { full: true }, FeedEvent::TransactionPending(hash)) => {
            vec![waiting(core, *hash)]
        }
        _ => Vec::new(),
    }
}

fn waiting(core: &ChainCore, hash: B256) -> RpcResult {
    let found = present::transaction_by_hash(core, hash);
    found.ok_or_else(|| failed("it was dropped since")).and_then(|tx| answer(&tx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::EmbeddedSettings;

    #[test]
    fn a_reader_that_is_too_far_behind_learns_that_it_missed_something() {
        let node = EmbeddedNode::open(&EmbeddedSettings::new(5)).unwrap();
        let mut session = Session::pushing();
        session.subscribe(&node, &Args::parse(Some(r#"["newHeads"]"#)).unwrap()).unwrap();
        let mine = |blocks| (0..blocks).for_each(|_| drop(node.mine(&mut node.writer(), None)));
        mine(100);
        let Notifications { messages, more } = session.poll_notifications(&node).unwrap();
        assert_eq!((messages.len(), more), (BATCH, true));
        let Notifications { messages, more } = session.poll_notifications(&node).unwrap();
        assert_eq!((messages.len(), more), (100 - BATCH, false));
        mine(17_000);
        session.poll_notifications(&node).unwrap_err();
    }
}
