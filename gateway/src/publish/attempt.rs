//! One attempt of a request: a node is asked to publish envelopes, and the published ones are recorded.
//!
//! It runs as a task of its own. So it is entered in the bill of a caller who hangs up meanwhile, and a repetition is
//! answered with the stored envelopes. Envelopes that are not sent when the caller hangs up are not sent at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::{Bytes, EnvelopeId, OriginatorId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::arrival::{self, ArrivalWait};
use super::item::PublishItem;
use super::published::PublishedEnvelopes;
use super::retry::{Attempt, RetryState};
use crate::bill::BillEntry;
use crate::fair::Pass;
use crate::landed::{ClientKey, LandedEnvelope, client_key};
use crate::nodes::{ChainStrands, Health, Node, NodeError, Nodes, PlacedEnvelope};
use crate::running::{RunningTask, RunningTasks};
use crate::sharing::TopicKey;

/// Times that a node is asked again when it refuses what depends on a chain envelope that is new, and the
/// pause before each. Nodes of the reference implementation compare with a cursor that they make anew
/// every 100 ms; the rest is a guess.
const CATCH_UP_TRIES: usize = 5;
const CATCH_UP_PAUSE: Duration = Duration::from_millis(100);

/// A request while it is with nodes.
pub(super) struct UnderWay {
    pub(super) retry: Mutex<RetryState>,
    /// The place of the request, which its attempts keep after the caller has gone.
    _pass: Pass,
}

impl UnderWay {
    /// Begins with these attempts. `pass` is the place of the request among those that are with nodes.
    pub(super) fn new(retry: RetryState, pass: Pass) -> Self {
        Self { retry: Mutex::new(retry), _pass: pass }
    }
}

/// The state that all attempts share.
#[derive(Clone)]
pub(super) struct AttemptContext {
    pub(super) nodes: Nodes,
    pub(super) strands: ChainStrands,
    /// The time of one attempt.
    pub(super) timeout: Duration,
    /// The places of envelopes that were published before.
    pub(super) published: Arc<PublishedEnvelopes>,
    /// The attempts, which a shutdown waits for.
    pub(super) running: RunningTasks,
}

/// One attempt at one node.
pub(super) struct NodeAttempt {
    pub(super) context: AttemptContext,
    pub(super) request: Arc<UnderWay>,
    pub(super) begun: Attempt,
    pub(super) node: Arc<Node>,
    pub(super) items: Vec<PublishItem>,
    /// Cancelled when the caller has gone.
    pub(super) gone: CancellationToken,
    /// Held until the end.
    pub(super) _running: RunningTask,
}

/// The end of an attempt.
#[derive(Default)]
pub(super) struct AttemptEnd {
    /// The envelopes that the node has published, with their index in the request.
    pub(super) placed: Vec<(usize, PlacedEnvelope)>,
    /// The envelopes that it has not published, with the reason.
    pub(super) failed: Option<(NodeError, Vec<PublishItem>)>,
}

impl NodeAttempt {
    /// Asks the node. When it fails, asks for the envelopes that it has published all the same.
    pub(super) async fn run(mut self) -> AttemptEnd {
        let since = Instant::now();
        let items = std::mem::take(&mut self.items);
        let Some(answer) = self.call_until_caught_up(&items).await else {
            return AttemptEnd::default(); // nothing was sent, and no caller hears of it
        };
        let node = &self.node;
        let error = match answer {
            Ok(envelopes) => {
                debug_assert_eq!(envelopes.len(), items.len(), "one envelope for each item");
                let failed_before = self.begun.failed_before;
                node.metrics.count_published(since.elapsed(), items.len(), failed_before);
                let unable = self.request.retry.lock().unable().clone();
                let mut placed: Vec<_> = items.into_iter().zip(envelopes).collect();
                self.write_down(&mut placed, &unable).await;
                return AttemptEnd { placed: indexed(placed), failed: None };
            }
            Err(error) => error,
        };
        node.metrics.count_error(error.kind());
        tracing::warn!(
            node_id = node.id().0,
            envelopes = items.len(),
            %error,
            "a node did not publish the envelopes that it was sent"
        );
        // The node may have taken them all the same. After a wrong answer it would only show that again.
        let is_asked = error.may_be_published() && !matches!(error, NodeError::WrongAnswer(_));
        let (placed, missing) = if is_asked {
            let under_way = error.may_be_under_way();
            let wait = if under_way { ArrivalWait::WhileItMayCommit } else { ArrivalWait::Once };
            self.find_arrived(items, wait).await
        } else {
            (Vec::new(), items)
        };
        if error.may_be_published() {
            missing.iter().for_each(|item| item.bill.leave_open());
        }
        let failed = (!missing.is_empty()).then_some((error, missing));
        AttemptEnd { placed: indexed(placed), failed }
    }

    /// Calls a node, and again while it refuses what depends on a chain envelope that is new: a node may
    /// show such an envelope, or another one may, before its own check knows it. Returns `None` if the caller has gone and
    /// nothing is published.
    async fn call_until_caught_up(
        &self,
        items: &[PublishItem],
    ) -> Option<Result<Vec<PlacedEnvelope>, NodeError>> {
        let clients: Vec<Bytes> = items.iter().map(|item| item.client.clone()).collect();
        let strands = &self.context.strands;
        let is_new = || items.iter().any(|item| strands.any_new(&item.depends_on));
        for _ in 0..CATCH_UP_TRIES {
            match self.call(items, clients.clone()).await {
                Some(Err(NodeError::Refused(_))) if is_new() => {}
                answer => return answer,
            }
            tokio::time::sleep(CATCH_UP_PAUSE).await;
            if self.gone.is_cancelled() {
                return None;
            }
        }
        self.call(items, clients).await
    }

    /// Calls a node, with the timeout of one attempt. Does not wait for a node that goes down
    /// meanwhile.
    async fn call(
        &self,
        items: &[PublishItem],
        clients: Vec<Bytes>,
    ) -> Option<Result<Vec<PlacedEnvelope>, NodeError>> {
        let (node, timeout) = (&self.node, self.context.timeout);
        let caller = self.request.retry.lock().caller().clone();
        let mut health = node.health.subscribe();
        health.mark_unchanged();
        let went_down = async {
            // A node that is down already, and is tried for lack of others, gets the whole time.
            if health.wait_for(|now| *now == Health::Up).await.is_err()
                || health.wait_for(|now| *now == Health::Down).await.is_err()
            {
                std::future::pending().await
            }
        };
        let end = async {
            tokio::select! {
                () = tokio::time::sleep(timeout) => NodeError::Timeout(timeout),
                () = went_down => NodeError::WentDown,
            }
        };
        let held = items.first().map(|item| item.charge.hold()); // all are of one request
        node.batcher.publish(&caller, clients, held, &self.gone, end).await
    }

    /// Splits the items into those that have arrived at the node although it did not say so, and the others.
    async fn find_arrived(
        &self,
        items: Vec<PublishItem>,
        wait: ArrivalWait,
    ) -> (Vec<(PublishItem, PlacedEnvelope)>, Vec<PublishItem>) {
        let found = arrival::find(&self.context.nodes, &self.node, &items, wait).await;
        let (mut arrived, mut missing) = (Vec::new(), Vec::new());
        for (item, found) in items.into_iter().zip(found) {
            match found {
                Some(placed) => arrived.push((item, placed)),
                None => missing.push(item),
            }
        }
        if !arrived.is_empty() {
            self.write_down(&mut arrived, &BTreeSet::new()).await;
        }
        (arrived, missing)
    }

    /// Enters the published envelopes in the bill, and remembers the places of topics and envelopes. `unable` are nodes
    /// that have failed the request for a reason of their own. An envelope that another request has recorded before, at
    /// this
    /// gateway or another one, becomes a repetition, which costs nothing.
    async fn write_down(
        &self,
        placed: &mut [(PublishItem, PlacedEnvelope)],
        unable: &BTreeSet<OriginatorId>,
    ) {
        let mut unpaid = Vec::new();
        for (item, placed) in placed.iter_mut() {
            if placed.id.is_some_and(|id| !self.context.published.claim(&item.client, id)) {
                *placed = placed.clone().repeated();
                unpaid.push(item.bill.clone());
            }
        }
        let topics = placed.iter().map(|(item, _)| &item.topic);
        let moved = self.context.nodes.record_published(topics, self.node.id(), unable);
        let known = self.tell_others(placed, &moved).await;
        for (item, placed) in placed.iter_mut() {
            let is_known =
                placed.id.is_some_and(|id| known.contains(&(client_key(&item.client), id)));
            if !placed.is_repeat && is_known {
                *placed = placed.clone().repeated();
                unpaid.push(item.bill.clone());
            }
        }
        let placed = &*placed;
        let more = placed.iter().map(|(item, placed)| item.bill.enter_placed(placed));
        let more_picodollars = more.fold(0, u64::saturating_add);
        let fees = placed.iter().filter_map(|(_, placed)| placed.congestion_fee_picodollars);
        fees.for_each(|fee| self.node.record_congestion_fee(fee));
        if let Some((item, _)) = placed.first() {
            item.bill.charge(more_picodollars).await;
        }
        // Once, whichever of this task and the request is first: the request does it only if its caller waits to the end.
        BillEntry::give_back_all(&unpaid).await;
    }

    /// Shares the places of envelopes, and the topics that have `moved`, with the other gateways. Callers are answered
    /// after that, because their next
    /// request may go to any of them. Returns the places that another gateway has shared before. A repetition at this
    /// gateway is left to the request that came first,
    /// which would otherwise take it for another gateway's.
    async fn tell_others(
        &self,
        placed: &[(PublishItem, PlacedEnvelope)],
        moved: &[(TopicKey, OriginatorId)],
    ) -> BTreeSet<(ClientKey, EnvelopeId)> {
        let Some(share) = self.context.nodes.share() else { return BTreeSet::new() };
        let own = placed.iter().filter(|(_, placed)| !placed.is_repeat);
        let places: Vec<_> = own
            .filter_map(|(item, placed)| {
                let landed = LandedEnvelope { id: placed.id?, transaction: None };
                Some((client_key(&item.client), landed))
            })
            .collect();
        share.tell(&places, moved).await
    }
}

fn indexed(placed: Vec<(PublishItem, PlacedEnvelope)>) -> Vec<(usize, PlacedEnvelope)> {
    placed.into_iter().map(|(item, placed)| (item.index, placed)).collect()
}
