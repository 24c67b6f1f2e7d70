//! Sends each envelope of a request to a node, and to another one when that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join, join_all};
use hawser_proto::{Bytes, OriginatorId};
use parking_lot::Mutex;

use super::arrival::{self, ArrivalWait};
use super::item::PublishItem;
use super::published::PublishedEnvelopes;
use super::retry::{NextStep, RetryState};
use crate::fair::FairGate;
use crate::landed::{LandedEnvelope, client_key};
use crate::nodes::{ChainStrands, Health, Node, NodeError, Nodes, PlacedEnvelope};
use crate::policy::CallerId;

/// Times that a node is asked again when it refuses what depends on a chain envelope that is new, and the
/// pause before each. Nodes of the reference implementation compare with a cursor that they make anew
/// every 100 ms; the rest is a guess.
const CATCH_UP_TRIES: usize = 5;
const CATCH_UP_PAUSE: Duration = Duration::from_millis(100);

/// Why no node published an envelope.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NodePublishError {
    /// Too many requests of the caller wait already.
    #[error("too many requests of this caller wait already: try again later")]
    TooManyWait,
    /// The registry has no canonical node that was not tried.
    #[error("no node of the network can be used")]
    NoNode,
    /// Every attempt failed; this is the last one.
    #[error("node {node}: {error}")]
    Last {
        node: OriginatorId,
        error: NodeError,
        /// At least one of the nodes tried may have published it although it did not say so.
        may_be_published: bool,
    },
}

/// Requests that are with nodes at once; further ones wait, the callers in turns. A guess: as many as the calls
/// to one node carry if each has one envelope.
const REQUESTS_MAX: usize = 2048;

/// The result for the envelope with this index in the request.
pub(crate) type PublishResult = (usize, Result<PlacedEnvelope, NodePublishError>);

/// Publishes to nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NodePublisher {
    nodes: Nodes,
    strands: ChainStrands,
    attempt_timeout: Duration,
    attempts_max: usize,
    /// The places of envelopes that were published before.
    published: Arc<PublishedEnvelopes>,
    /// Requests that are with nodes at once.
    gate: FairGate,
}

impl NodePublisher {
    /// Publishes to `nodes`: a call takes at most `attempt_timeout`, and at most `attempts_max` nodes are
    /// tried for a request.
    pub(crate) fn new(
        nodes: Nodes,
        strands: ChainStrands,
        attempt_timeout: Duration,
        attempts_max: usize,
    ) -> Self {
        let (published, gate) = (Arc::default(), FairGate::new(REQUESTS_MAX));
        Self { nodes, strands, attempt_timeout, attempts_max, published, gate }
    }

    /// Publishes every envelope to one node, to different nodes at once. Returns one result for each,
    /// in any order. Dropping the future ends it: no further attempt starts.
    pub(crate) async fn publish(
        &self,
        caller: &CallerId,
        items: Vec<PublishItem>,
    ) -> Vec<PublishResult> {
        if items.is_empty() {
            return Vec::new();
        }
        let Ok(_pass) = self.gate.enter(caller).await else {
            let refused = |item: PublishItem| (item.index, Err(NodePublishError::TooManyWait));
            return items.into_iter().map(refused).collect();
        };
        let topics = items.iter().map(|item| &item.topic);
        join(self.nodes.learn_placements(topics), self.learn_places(&items)).await;
        let (mut results, new) = self.find_repeats(items).await;
        if !new.is_empty() {
            let state = RetryState::new(caller.clone(), self.attempts_max);
            results.extend(self.place(new, Arc::new(Mutex::new(state)), None).await);
        }
        results
    }

    /// Learns the places of envelopes that other gateways have published.
    async fn learn_places(&self, items: &[PublishItem]) {
        let Some(share) = self.nodes.share() else { return };
        let unknown = items.iter().filter(|item| self.published.get(&item.client).is_none());
        let unknown: Vec<_> = unknown.map(|item| client_key(&item.client)).collect();
        for (client, landed) in share.places_of(&unknown).await {
            self.published.learn(client, landed.id);
        }
    }

    /// Splits the items into those that were published before, with their envelopes, and the others. An item
    /// whose node does not show it any more, or cannot be asked, is published like a new one.
    async fn find_repeats(
        &self,
        items: Vec<PublishItem>,
    ) -> (Vec<PublishResult>, Vec<PublishItem>) {
        let (known, mut new): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| self.published.get(&item.client).is_some());
        let searched = known.into_iter().map(async |item| {
            let Some(id) = self.published.get(&item.client) else { return Err(item) };
            match arrival::at_place(&self.nodes, id, &item.client).await {
                Ok(Some(placed)) => return Ok((item.index, Ok(placed))),
                Ok(None) => self.published.remove(&item.client),
                Err(status) => {
                    tracing::debug!(envelope = %id, %status, "no node shows it for a repetition");
                }
            }
            Err(item)
        });
        let mut results = Vec::new();
        for searched in join_all(searched).await {
            match searched {
                Ok(result) => results.push(result),
                Err(item) => new.push(item),
            }
        }
        new.sort_by_key(|item| item.index); // the order of the request
        (results, new)
    }

    /// Sends each envelope to the node of its topic. `last` is the error of their attempt before.
    fn place(
        &self,
        items: Vec<PublishItem>,
        state: Arc<Mutex<RetryState>>,
        last: Option<NodePublishError>,
    ) -> BoxFuture<'_, Vec<PublishResult>> {
        async move {
            let mut groups: BTreeMap<OriginatorId, (Arc<Node>, Vec<PublishItem>)> = BTreeMap::new();
            let mut published = Vec::with_capacity(items.len());
            let banned = state.lock().banned().clone();
            for item in items {
                match self.nodes.choose(&item.topic, &banned, item.congestion_fee_max) {
                    Some(node) => {
                        groups.entry(node.id()).or_insert_with(|| (node, Vec::new())).1.push(item);
                    }
                    None => {
                        let error = last.clone().unwrap_or(NodePublishError::NoNode);
                        published.push((item.index, Err(error)));
                    }
                }
            }
            let may_be_published =
                matches!(last, Some(NodePublishError::Last { may_be_published: true, .. }));
            let groups = groups
                .into_values()
                .map(|(node, items)| self.attempt(node, items, &state, may_be_published));
            published.extend(join_all(groups).await.into_iter().flatten());
            published
        }
        .boxed()
    }

    /// Tries one node, and others when it fails. `may_be_published`: a node that was tried before may
    /// have published these envelopes.
    async fn attempt(
        &self,
        node: Arc<Node>,
        items: Vec<PublishItem>,
        state: &Arc<Mutex<RetryState>>,
        may_be_published: bool,
    ) -> Vec<PublishResult> {
        let attempt = state.lock().begin();
        let since = Instant::now();
        let caller = state.lock().caller().clone();
        let error = match self.call_until_caught_up(&node, &caller, &items).await {
            Ok(envelopes) => {
                debug_assert_eq!(envelopes.len(), items.len(), "one envelope for each item");
                node.metrics.count_published(since.elapsed(), items.len(), attempt.failed_before);
                let unable = state.lock().unable().clone();
                let topics = items.iter().map(|item| &item.topic);
                let recording = self.nodes.record_published(topics, node.id(), &unable);
                join(recording, self.remember(items.iter().zip(&envelopes))).await;
                let indexes = items.iter().map(|item| item.index);
                return indexes.zip(envelopes.into_iter().map(Ok)).collect();
            }
            Err(error) => error,
        };
        node.metrics.count_error(error.kind());
        tracing::warn!(
            node_id = node.id().0,
            envelopes = items.len(),
            %error,
            "a node did not publish what it was given"
        );
        // The node may have taken them all the same. After a wrong answer it would only show that again.
        let is_asked = error.may_be_published() && !matches!(error, NodeError::WrongAnswer(_));
        let (mut published, items) = if is_asked {
            let under_way = error.may_be_under_way();
            let wait = if under_way { ArrivalWait::WhileItMayCommit } else { ArrivalWait::Once };
            self.find_arrived(&node, items, wait).await
        } else {
            (Vec::new(), items)
        };
        if items.is_empty() {
            return published;
        }
        let next = state.lock().failed(&attempt, node.id(), error.kind());
        let may_be_published = may_be_published || error.may_be_published();
        let last = NodePublishError::Last { node: node.id(), error, may_be_published };
        published.extend(match next {
            NextStep::TryOthers => self.place(items, state.clone(), Some(last)).await,
            NextStep::GiveUp => items.iter().map(|item| (item.index, Err(last.clone()))).collect(),
        });
        published
    }

    /// Calls a node, and again while it refuses what depends on a chain envelope that is new: a node may
    /// show such an envelope, or another one may, before its own check knows it.
    async fn call_until_caught_up(
        &self,
        node: &Node,
        caller: &CallerId,
        items: &[PublishItem],
    ) -> Result<Vec<PlacedEnvelope>, NodeError> {
        let clients: Vec<Bytes> = items.iter().map(|item| item.client.clone()).collect();
        let is_new = || items.iter().any(|item| self.strands.any_new(&item.depends_on));
        for _ in 0..CATCH_UP_TRIES {
            match self.call(node, caller, clients.clone()).await {
                Err(NodeError::Refused(_)) if is_new() => {}
                answer => return answer,
            }
            tokio::time::sleep(CATCH_UP_PAUSE).await;
        }
        self.call(node, caller, clients).await
    }

    /// Calls a node, with the timeout of one attempt. Does not wait for a node that goes down
    /// meanwhile.
    async fn call(
        &self,
        node: &Node,
        caller: &CallerId,
        clients: Vec<Bytes>,
    ) -> Result<Vec<PlacedEnvelope>, NodeError> {
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
        tokio::select! {
            answer = node.batcher.publish(caller, clients) => answer,
            () = tokio::time::sleep(self.attempt_timeout) => {
                Err(NodeError::Timeout(self.attempt_timeout))
            }
            () = went_down => Err(NodeError::WentDown),
        }
    }

    /// Splits the items into those that have arrived at a node that did not say so, and the others.
    async fn find_arrived(
        &self,
        node: &Node,
        items: Vec<PublishItem>,
        wait: ArrivalWait,
    ) -> (Vec<PublishResult>, Vec<PublishItem>) {
        let found = arrival::find(&self.nodes, node, &items, wait).await;
        let (mut arrived, mut missing) = (Vec::new(), Vec::new());
        for (item, found) in items.into_iter().zip(found) {
            match found {
                Some(placed) => {
                    let topic = std::iter::once(&item.topic);
                    self.nodes.record_published(topic, node.id(), &BTreeSet::new()).await;
                    self.remember(std::iter::once((&item, &placed))).await;
                    arrived.push((item.index, Ok(placed)));
                }
                None => missing.push(item),
            }
        }
        (arrived, missing)
    }

    /// Remembers where envelopes are, and tells the other gateways. Callers are answered after that: their next request
    /// may go to any of them.
    async fn remember(&self, placed: impl Iterator<Item = (&PublishItem, &PlacedEnvelope)>) {
        let mut places = Vec::new();
        for (item, placed) in placed {
            let Some(id) = placed.id else { continue };
            self.published.set(&item.client, id);
            places.push((&item.client, LandedEnvelope { id, transaction: None }));
        }
        if let Some(share) = self.nodes.share() {
            let keyed = places.into_iter().map(|(client, place)| (client_key(client), place));
            share.set_places(&keyed.collect::<Vec<_>>()).await;
        }
    }
}
