//! Recognises identity updates that are on the chain and that no node will show: an earlier update on the chain has
//! made them invalid, or is equal to them.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::confirm::wait_until_shown;
use super::item::{ChainItem, ChainResult};
use super::writer::ChainPublishError;
use crate::identity::{self, PlacedUpdate, TenantIdentity, UpdateItem};
use crate::log_nodes::INVALID_AT_MIN;
use crate::nodes::{ChainStrands, ExpectedEnvelope, Nodes};
use crate::policy::CallerId;
use crate::routing::ChainTopic;

/// Decides whether nodes will ever show a payload that is on the chain.
pub(super) struct DropCheck<'a> {
    pub(super) identity: Option<&'a TenantIdentity>,
    pub(super) nodes: &'a Nodes,
    /// The caller whose turn at the gate of identity checks a judgement takes.
    pub(super) caller: &'a CallerId,
    pub(super) strands: &'a ChainStrands,
    /// Pause between two judgements.
    pub(super) retry_after: Duration,
}

impl DropCheck<'_> {
    /// Waits until a node shows the expected envelope, until it is certain that no node will, or until `timeout` is
    /// over. `is_settled` returns true once the payload before this one in the request is shown or dropped.
    pub(super) async fn shown_or_dropped(
        &self,
        item: &ChainItem,
        is_settled: &(dyn Fn() -> bool + Sync),
        expected: &ExpectedEnvelope,
        timeout: Duration,
    ) -> ChainResult {
        let until = Instant::now() + timeout;
        let until_judged = async {
            loop {
                sleep(self.retry_after).await;
                if let Some(result) = self.judge(item, is_settled, expected, false).await {
                    return result;
                }
            }
        };
        let shown = tokio::select! {
            shown = wait_until_shown(self.strands, self.nodes, expected, until) => shown,
            result = until_judged => return result,
        };
        if let Some(envelope) = shown {
            return Ok(envelope);
        }
        let (hash, sequence_id) = (expected.transaction_hash, expected.id.sequence);
        let not_shown = || Err(ChainPublishError::NotShown { hash, sequence_id });
        self.judge(item, is_settled, expected, true).await.unwrap_or_else(not_shown)
    }

    /// Judges an update at its place on the chain, against the log of its inbox at each usable node. Returns `None`
    /// while nodes may still show it.
    ///
    /// An update counts as dropped only if it is valid at no node. A node that is behind may lack earlier updates
    /// that make it valid. So before the timeout (`is_late` is false) it has to be invalid at all nodes, and one of
    /// them must have shown a later envelope of the strand. Later, nodes without an answer do not count, unless a
    /// single node has given one: it may lie while the others are slow.
    async fn judge(
        &self,
        item: &ChainItem,
        is_settled: &(dyn Fn() -> bool + Sync),
        expected: &ExpectedEnvelope,
        is_late: bool,
    ) -> Option<ChainResult> {
        let ChainTopic::Inbox(inbox) = item.topic else { return None };
        let (identity, update) = (self.identity?, item.identity_update.as_ref()?);
        // The update may depend on the one before it in the request, which nodes may not show yet.
        if !is_settled() {
            return None;
        }
        let update = UpdateItem {
            index: item.index,
            client: item.payload.clone(),
            update: update.clone(),
            is_known: false,
        };
        let judged =
            identity::judge_at_place(identity, self.nodes, self.caller, inbox, update, expected.id)
                .await;
        let mut placed =
            judged.iter().filter_map(|(_, judged)| judged.as_ref()?.as_ref().ok()).flatten();
        if let Some(PlacedUpdate { envelope, .. }) = placed.next() {
            return Some(Ok(envelope.clone()));
        }
        let (mut reason, mut is_certain) = (None, is_late);
        let (asked, mut invalid_at) = (judged.len(), 0);
        for (node, judged) in judged {
            match judged {
                Some(Ok(_)) => return None,
                Some(Err(invalid)) => {
                    is_certain |= self.strands.is_past(node, expected.id);
                    reason = Some(invalid.reason);
                    invalid_at += 1;
                }
                None if is_late => {}
                None => return None,
            }
        }
        is_certain &= invalid_at >= INVALID_AT_MIN.min(asked);
        let (hash, sequence_id) = (expected.transaction_hash, expected.id.sequence);
        let dropped = |reason| Err(ChainPublishError::Dropped { hash, sequence_id, reason });
        reason.filter(|_| is_certain).map(dropped)
    }
}
