//! `eth_subscribe`: heads, logs and waiting transactions as they come.

use std::sync::Arc;

use alloy::primitives::B256;
use alloy::rpc::types::Filter;
use jsonrpsee::core::{JsonRawValue, SubscriptionError};
use jsonrpsee::types::ErrorObjectOwned;
use jsonrpsee::{PendingSubscriptionSink, SubscriptionSink};

use super::args::Args;
use super::error::{failed, invalid};
use super::{answer, filter, present};
use crate::embedded::feed::{Lagged, Notice};
use crate::embedded::filters::Kind;
use crate::embedded::node::Node;

/// How many notices are rendered in one go.
const BATCH: usize = 64;

fn kind(args: &Args<'_>) -> Result<Kind, ErrorObjectOwned> {
    Ok(match args.get::<String>(0)?.as_str() {
        "newHeads" => Kind::Blocks,
        "logs" => Kind::Logs(Box::new(args.optional::<Filter>(1)?.unwrap_or_default())),
        "newPendingTransactions" => {
            Kind::Waiting { full: args.optional::<bool>(1)?.unwrap_or(false) }
        }
        other => {
            let known = "newHeads, logs and newPendingTransactions";
            return Err(invalid(format!("no {other:?} subscription: there are {known}")));
        }
    })
}

/// Accepts the subscription if its parameters are right, and feeds it until it ends.
pub(in crate::embedded) async fn serve(
    node: Arc<Node>,
    params: Option<&str>,
    pending: PendingSubscriptionSink,
) -> Result<(), SubscriptionError> {
    let kind = match Args::parse(params).and_then(|args| kind(&args)) {
        Ok(kind) => kind,
        Err(error) => {
            pending.reject(error).await;
            return Ok(());
        }
    };
    // Before it is accepted: what happens after the client knows of it is never missed.
    let mut happened = node.happened.subscribe();
    let next = node.read().feed.end();
    let Ok(sink) = pending.accept().await else { return Ok(()) };
    let mut follower = Follower { node, kind, next };
    loop {
        follower.catch_up(&sink).await?;
        tokio::select! {
            () = sink.closed() => return Ok(()),
            changed = happened.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

struct Follower {
    node: Arc<Node>,
    kind: Kind,
    next: u64,
}

impl Follower {
    /// Sends everything that happened since. A slow client slows only this.
    async fn catch_up(&mut self, sink: &SubscriptionSink) -> Result<(), SubscriptionError> {
        loop {
            let (messages, read) = self.read().map_err(|lagged| lagged.to_string())?;
            if read == 0 {
                return Ok(());
            }
            self.next += read as u64;
            for message in messages {
                if sink.send(message).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    fn read(&self) -> Result<(Vec<Box<JsonRawValue>>, usize), Lagged> {
        let core = self.node.read();
        let notices = core.feed.read(self.next, BATCH)?;
        let render = |notice: &Notice| match (&self.kind, notice) {
            (Kind::Blocks, Notice::Added(block)) => vec![answer(&present::header(block))],
            (Kind::Logs(filter), notice) => {
                filter::logs_of(notice, filter).iter().map(answer).collect()
            }
            (Kind::Waiting { full: false }, Notice::Waiting(hash)) => vec![answer(hash)],
            (Kind::Waiting { full: true }, Notice::Waiting(hash)) => waiting(&core, *hash),
            _ => Vec::new(),
        };
        let messages = notices.iter().flat_map(render).filter_map(Result::ok).collect();
        Ok((messages, notices.len()))
    }
}

fn waiting(core: &crate::embedded::core::Core, hash: B256) -> Vec<super::Answer> {
    let found = present::transaction_by_hash(core, hash);
    vec![found.ok_or_else(|| failed("dropped")).and_then(|tx| answer(&tx))]
}
