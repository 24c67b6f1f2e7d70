//! Sends each envelope of a request to a node, and to another one if that fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use hawser_proto::{OriginatorId, Topic, TopicKind};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::arrival;
use super::attempt::{AttemptContext, NodeAttempt, RequestInProgress};
use super::item::PublishItem;
use super::refusal_audit::RefusalAudits;
use super::retry::{AttemptFailure, NextStep, RetryState};
use crate::fair::CallerGate;
use crate::landed::ClientKey;
use crate::nodes::{
    AskOrder, ChainStrands, Node, NodeError, NodeErrorKind, Nodes, PlacedEnvelope,
    REQUESTS_AT_NODE_MAX, RequestsPerCall, topic_key,
};
use crate::policy::CallerId;
use crate::running::RunningTasks;
use crate::sharing::{SharedKnowledge, SharedQuery};

/// The reason for which no node published an envelope.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NodePublishError {
    /// The caller has too many waiting requests.
    #[error("too many requests of this caller wait already: try again later")]
    TooManyWait,
    /// The registry has no canonical node, or the request has tried all of them.
    #[error("no node of the network can be used")]
    NoNode,
    /// Each node that can be used has just charged more for congestion than the caller pays.
    #[error("the congestion fee of every node that can be used exceeds the limit of this caller")]
    TooExpensive,
    /// Each attempt failed; this is the last one, or the last refusal if two nodes have refused the envelope.
    #[error("node {node}: {error}")]
    Last {
        node: OriginatorId,
        error: NodeError,
        /// At least one of the nodes may have published the envelope although its call failed.
        may_be_published: bool,
    },
}

/// Largest number of requests that nodes are asked to publish at once; further ones wait, and callers take turns. A
/// guess: as many as the calls to one node carry if each request has one envelope.
const REQUESTS_MAX: usize = 2048;
const _: () = assert!(REQUESTS_AT_NODE_MAX < REQUESTS_MAX, "a silent node leaves places to others");

/// Largest number of envelopes of one request that nodes are asked for at once because they are repeated. Any caller
/// can repeat what others have published, and pays nothing for it. A guess: as many as the topics of one query.
const REPEATS_AT_ONCE_MAX: usize = 64;
/// Time after which no further repeated envelopes of a request are looked for. A guess: nodes that answer show a
/// thousand envelopes in less.
const REPEATS_TIMEOUT: Duration = Duration::from_secs(3);

/// The result for the envelope with this index in the request.
pub(crate) type PublishResult = (usize, Result<PlacedEnvelope, NodePublishError>);

/// Publishes to nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NodePublisher {
    context: AttemptContext,
    attempts_max: usize,
    /// Bounds the requests that nodes are asked to publish at once.
    gate: CallerGate,
    audits: RefusalAudits,
}

impl NodePublisher {
    /// Publishes to `nodes`. A call takes at most `attempt_timeout`, and each envelope of a request is sent to at most
    /// `attempts_max` nodes. `running` counts the attempts.
    pub(crate) fn new(
        nodes: Nodes,
        strands: ChainStrands,
        attempt_timeout: Duration,
        attempts_max: usize,
        running: RunningTasks,
    ) -> Self {
        let (published, gate) = (Arc::default(), CallerGate::new(REQUESTS_MAX));
        let context =
            AttemptContext { nodes, strands, timeout: attempt_timeout, published, running };
        Self { context, attempts_max, gate, audits: RefusalAudits::default() }
    }

    /// Returns the query to the shared state about envelopes for nodes: the nodes of their topics, and the ids of
    /// envelopes that this gateway does not remember.
    pub(crate) fn query<'a>(
        &self,
        envelopes: impl Iterator<Item = (&'a Topic, ClientKey)>,
    ) -> SharedQuery {
        let (mut topics, mut clients) = (BTreeSet::new(), Vec::new());
        for (topic, client) in envelopes {
            topics.insert(topic_key(topic));
            if self.context.published.get(&client).is_none() {
                clients.push(client);
            }
        }
        SharedQuery { topics: topics.into_iter().collect(), clients, payloads: Vec::new() }
    }

    /// Publishes each envelope to one node, and calls different nodes concurrently. `known` is the answer of the
    /// shared state to the [`query`](Self::query) about them. Returns one result for each envelope, in any order.
    /// If the future is dropped, no further attempt starts, and envelopes that are with a node are recorded when
    /// the node answers.
    pub(crate) async fn publish(
        &self,
        caller: &CallerId,
        mut items: Vec<PublishItem>,
        known: SharedKnowledge,
    ) -> Vec<PublishResult> {
        if items.is_empty() {
            return Vec::new();
        }
        let since = std::time::Instant::now();
        let Ok(pass) = self.gate.enter(caller).await else {
            let refused = |item: PublishItem| (item.index, Err(NodePublishError::TooManyWait));
            return items.into_iter().map(refused).collect();
        };
        self.learn(&mut items, known).await;
        let (mut results, new) = self.find_repeats(items).await;
        if !new.is_empty() {
            let retry = RetryState::new(caller.clone(), self.attempts_max);
            let request = Arc::new(RequestInProgress::new(retry, since, pass));
            results.extend(self.place(new, request, BTreeMap::new(), 0).await);
        }
        results
    }

    /// Learns the nodes of topics, which topics have none in Redis, and the ids of envelopes that other gateways have
    /// published. Queries the shared state again if the request has waited at the gate meanwhile.
    async fn learn(&self, items: &mut [PublishItem], mut known: SharedKnowledge) {
        let Some(share) = self.context.nodes.share() else { return };
        if !known.is_fresh() {
            let query = self.query(items.iter().map(|item| (&item.topic, item.key)));
            known = share.known(&query).await;
        }
        self.context.nodes.learn_placements(&known.nodes);
        if !known.unplaced.is_empty() {
            let unplaced: BTreeSet<_> = known.unplaced.iter().copied().collect();
            for item in items.iter_mut() {
                item.is_topic_unplaced = unplaced.contains(&topic_key(&item.topic));
            }
        }
        if known.places.is_empty() {
            return;
        }
        // The other entries belong to the request's payloads for the chain.
        let own: BTreeSet<_> = items.iter().map(|item| item.key).collect();
        let places = known.places.into_iter().filter(|(client, _)| own.contains(client));
        places.for_each(|(client, landed)| self.context.published.learn(client, landed.id));
    }

    /// Splits the items into the items that were published before, with their envelopes, and all other items. An item
    /// whose originator does not show it any more, or that no node answers for in time, is published like a new one.
    async fn find_repeats(
        &self,
        items: Vec<PublishItem>,
    ) -> (Vec<PublishResult>, Vec<PublishItem>) {
        let (mut known, mut new): (Vec<_>, Vec<_>) =
            items.into_iter().partition(|item| self.context.published.get(&item.key).is_some());
        if known.is_empty() {
            return (Vec::new(), new); // of most requests, all are new
        }
        let (mut results, until) = (Vec::new(), Instant::now() + REPEATS_TIMEOUT);
        let order = self.context.nodes.ask_order();
        while !known.is_empty() && Instant::now() < until {
            let part: Vec<_> = known.drain(..known.len().min(REPEATS_AT_ONCE_MAX)).collect();
            let searched = join_all(part.iter().map(|item| self.find_repeat(item, &order))).await;
            for (item, found) in part.into_iter().zip(searched) {
                match found {
                    Some(result) => results.push(result),
                    None => new.push(item),
                }
            }
        }
        new.extend(known);
        new.sort_by_key(|item| item.index); // the order of the request
        (results, new)
    }

    /// Looks for the envelope of an item that was published before.
    async fn find_repeat(&self, item: &PublishItem, order: &AskOrder) -> Option<PublishResult> {
        let id = self.context.published.get(&item.key)?;
        match arrival::at_place(&self.context.nodes, order, id, item).await {
            Ok(Some(placed)) => return Some((item.index, Ok(placed))),
            Ok(None) => self.context.published.remove(&item.key),
            Err(status) => {
                tracing::debug!(envelope = %id, %status, "no node returns the earlier copy of a repeated envelope");
            }
        }
        None
    }

    /// Sends each envelope to the node of its topic. `last` has the errors of the previous attempt, by the indexes of
    /// the envelopes in the request. `failed_before` nodes have failed these envelopes.
    fn place(
        &self,
        items: Vec<PublishItem>,
        request: Arc<RequestInProgress>,
        last: BTreeMap<usize, NodePublishError>,
        failed_before: usize,
    ) -> BoxFuture<'_, Vec<PublishResult>> {
        async move {
            let mut groups: BTreeMap<OriginatorId, (Arc<Node>, Vec<PublishItem>)> = BTreeMap::new();
            let mut published = Vec::with_capacity(items.len());
            let banned = request.retry.lock().banned().clone();
            for item in items {
                match self.context.nodes.choose(&item.topic, &banned, item.congestion_fee_max) {
                    Some(node) => {
                        groups.entry(node.id()).or_insert_with(|| (node, Vec::new())).1.push(item);
                    }
                    None => {
                        let error = last.get(&item.index).cloned();
                        let error = error.unwrap_or_else(|| self.no_node(&item, &banned));
                        published.push((item.index, Err(error)));
                    }
                }
            }
            let may_be = |error: &NodePublishError| {
                matches!(error, NodePublishError::Last { may_be_published: true, .. })
            };
            let may_be_published = last.values().any(may_be);
            let groups = groups.into_values().map(|(node, items)| {
                self.attempt(node, items, &request, may_be_published, failed_before)
            });
            published.extend(join_all(groups).await.into_iter().flatten());
            published
        }
        .boxed()
    }

    /// Returns the reason for which there is no node for an envelope that was not tried at any.
    fn no_node(&self, item: &PublishItem, banned: &BTreeSet<OriginatorId>) -> NodePublishError {
        match self.context.nodes.choose(&item.topic, banned, None) {
            Some(_) => NodePublishError::TooExpensive,
            None => NodePublishError::NoNode,
        }
    }

    /// Tries one node, and other nodes if it fails. `may_be_published` is true if a node that was tried before may
    /// have published these envelopes, which have failed at `failed_before` nodes.
    async fn attempt(
        &self,
        node: Arc<Node>,
        items: Vec<PublishItem>,
        request: &Arc<RequestInProgress>,
        may_be_published: bool,
        failed_before: usize,
    ) -> Vec<PublishResult> {
        let (id, before) = (node.id(), node.batcher.newest());
        let indexes: Vec<usize> = items.iter().map(|item| item.index).collect();
        let (context, request, gone) =
            (self.context.clone(), request.clone(), CancellationToken::new());
        // Dropped with this future, that is when the caller hangs up; the attempt itself goes on as a task.
        let _waits = gone.clone().drop_guard();
        let asked = node.clone();
        let attempt = NodeAttempt {
            _running: context.running.begin(),
            _at_node: node.begin_request(),
            context,
            request: request.clone(),
            failed_before,
            node,
            items,
            per_call: RequestsPerCall::All,
            gone,
        };
        let Ok(end) = tokio::spawn(attempt.run()).await else {
            let error = NodeError::Failed(Status::unavailable("the gateway is shutting down"));
            let last = NodePublishError::Last { node: id, error, may_be_published: true };
            return indexes.into_iter().map(|index| (index, Err(last.clone()))).collect();
        };
        let mut published: Vec<_> =
            end.placed.into_iter().map(|(index, placed)| (index, Ok(placed))).collect();
        let Some((error, items)) = end.failed else { return published };
        let may_be_published = may_be_published || end.may_be_published;
        let (next, last) = {
            let mut retry = request.retry.lock();
            let left: Vec<usize> = items.iter().map(|item| item.index).collect();
            let next = retry.failed(&left, failed_before, id, failure_of(&error, &items));
            let mut last = BTreeMap::new();
            for (item, error) in items.iter().zip(error.of_envelopes(items.len())) {
                let (node, error) = retry.reported(item.index, id, error);
                last.insert(item.index, NodePublishError::Last { node, error, may_be_published });
            }
            (next, last)
        };
        published.extend(match next {
            NextStep::TryOthers => {
                let refused = error.claims_to_store_nothing().then(|| items.clone());
                let others = self.place(items, request, last, failed_before + 1).await;
                if let Some(refused) = refused {
                    let refused = published_of(refused, &others);
                    self.audits.begin(&self.context, asked, before, refused);
                }
                others
            }
            NextStep::GiveUp => {
                last.into_iter().map(|(index, error)| (index, Err(error))).collect()
            }
        });
        published
    }
}

/// Returns the items that are published, as these results say.
fn published_of(mut items: Vec<PublishItem>, results: &[PublishResult]) -> Vec<PublishItem> {
    let published = results.iter().filter(|(_, result)| result.is_ok());
    let published: BTreeSet<usize> = published.map(|(index, _)| *index).collect();
    items.retain(|item| published.contains(&item.index));
    items
}

/// Returns what the error of a node means for these envelopes.
fn failure_of(error: &NodeError, items: &[PublishItem]) -> AttemptFailure {
    let is_key_package = |item: &PublishItem| item.topic.kind() == TopicKind::KeyPackages;
    match error.kind() {
        NodeErrorKind::Refused if items.iter().any(is_key_package) => {
            AttemptFailure::RefusedKeyPackages
        }
        NodeErrorKind::Refused => AttemptFailure::Refused,
        _ => AttemptFailure::Failed,
    }
}
