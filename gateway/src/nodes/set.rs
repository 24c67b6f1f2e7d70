//! All nodes of the canonical network, and the choice of the node for a topic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_proto::{Cursor, EnvelopeId, OriginatorId, SequenceId, Topic};
use hawser_rules::PicoDollarPrice;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::ask_order::AskOrder;
use super::lag::{Lag, NodeLags};
use super::node::Node;
use super::placement::{TopicPlacements, topic_key};
use crate::select::{Strategy, random_of};
use crate::sharing::{GatewayShare, TopicKey};

/// Lateness above which a node is used only if no other is left. A guess: a healthy node searches for one minute
/// for a place that its originator has left empty, and cursors are seconds old.
const LAG_MAX: Duration = Duration::from_secs(90);

/// Nodes by id.
pub(super) type NodeMap = BTreeMap<OriginatorId, Arc<Node>>;

/// The nodes of the canonical network. Clones share state.
#[derive(Clone)]
pub(crate) struct Nodes(Arc<NodesState>);

struct NodesState {
    strategy: Strategy,
    /// Seed of this gateway's random choices.
    seed: u64,
    canonical: RwLock<Arc<NodeMap>>,
    placements: TopicPlacements,
    lags: Mutex<NodeLags>,
    /// The placements of topics that several gateways share; `None` for a single gateway.
    share: Option<Arc<GatewayShare>>,
}

impl Nodes {
    pub(super) fn new(strategy: Strategy, share: Option<Arc<GatewayShare>>) -> Self {
        Self(Arc::new(NodesState {
            strategy,
            seed: rand::random(),
            canonical: RwLock::default(),
            placements: TopicPlacements::default(),
            lags: Mutex::default(),
            share,
        }))
    }

    /// Replaces the nodes by those of the current registry.
    pub(super) fn replace(&self, after: NodeMap) {
        let before = self.all();
        for id in before.keys().filter(|id| !after.contains_key(id)) {
            tracing::info!(node_id = id.0, "a node is no longer used");
            self.lags().forget(*id);
        }
        *self.0.canonical.write() = Arc::new(after);
    }

    /// Returns all nodes of the canonical network, usable or not.
    pub(crate) fn all(&self) -> Arc<NodeMap> {
        self.0.canonical.read().clone()
    }

    /// Returns one node of the canonical network.
    pub(crate) fn get(&self, id: OriginatorId) -> Option<Arc<Node>> {
        self.all().get(&id).cloned()
    }

    /// Returns the nodes of a compatible version that serve and keep up; all that do so when none is compatible, and
    /// all nodes when none does.
    pub(crate) fn usable(&self) -> Vec<Arc<Node>> {
        let all = self.all();
        let usable: Vec<_> = all.values().filter(|node| self.is_usable(node)).cloned().collect();
        let compatible: Vec<_> =
            usable.iter().filter(|node| !node.is_incompatible()).cloned().collect();
        match (compatible.is_empty(), usable.is_empty()) {
            (false, _) => compatible,
            (true, false) => usable,
            (true, true) => all.values().cloned().collect(),
        }
    }

    /// Returns the usable nodes in random order, for questions that each of them can answer. In the order of their ids,
    /// the first ones would answer all questions, and two of them that hide an envelope would always hide it.
    pub(crate) fn usable_at_random(&self) -> Vec<Arc<Node>> {
        let mut usable = self.usable();
        usable.sort_by_cached_key(|_| rand::random::<u64>());
        usable
    }

    /// Returns the usable nodes in the order in which a request asks them for its envelopes: in random order, and those
    /// that have kept silent lately last. Otherwise two silent nodes would cost each request most of its time.
    pub(crate) fn ask_order(&self) -> AskOrder {
        let mut nodes = self.usable_at_random();
        nodes.sort_by_cached_key(|node| node.was_silent());
        AskOrder::new(nodes)
    }

    /// Returns the nodes from which clients should read. These are the usable nodes, without the nodes whose recent
    /// calls mostly failed. If the recent calls of all usable nodes mostly failed, returns all of them.
    pub(crate) fn readable(&self) -> Vec<Arc<Node>> {
        let now = Instant::now();
        let (failing, working): (Vec<_>, Vec<_>) =
            self.usable().into_iter().partition(|node| node.metrics.recent_calls_failed(now));
        if working.is_empty() { failing } else { working }
    }

    /// Returns the number of nodes that serve and keep up.
    pub(crate) fn usable_count(&self) -> usize {
        self.all().values().filter(|node| self.is_usable(node)).count()
    }

    /// Returns true if every usable node has recently charged more for congestion than the limit.
    pub(crate) fn all_are_expensive(&self, congestion_fee_max: Option<PicoDollarPrice>) -> bool {
        let usable = self.usable();
        !usable.is_empty() && usable.iter().all(|node| node.is_expensive(congestion_fee_max))
    }

    /// Returns true if a node serves and is at most [`LAG_MAX`] late.
    pub(crate) fn is_usable(&self, node: &Node) -> bool {
        !node.is_down() && self.lag(node.id()).late <= LAG_MAX
    }

    /// Returns the times for which readers of a node have missed an envelope that two others show.
    pub(crate) fn lag(&self, node: OriginatorId) -> Lag {
        let all = self.all();
        let serves = |originator| all.get(&originator).is_some_and(|it| !it.is_down());
        self.lags().lag(node, serves, Instant::now())
    }

    /// Records the cursor that a node reports.
    pub(super) fn record_cursor(&self, node: OriginatorId, cursor: &Cursor) {
        let all = self.all();
        let is_strand =
            |originator: OriginatorId| originator.is_of_chain() || all.contains_key(&originator);
        if all.contains_key(&node) {
            self.lags().record(node, cursor, is_strand, Instant::now());
        }
    }

    /// Returns the places after which a node is to be asked for its first envelope.
    pub(super) fn questions(&self, asked: OriginatorId) -> BTreeSet<EnvelopeId> {
        self.lags().questions(asked, Instant::now())
    }

    /// Records the first envelope that a node shows after a place.
    pub(super) fn record_answer(
        &self,
        asked: OriginatorId,
        after: EnvelopeId,
        first: Option<SequenceId>,
    ) {
        self.lags().answered(asked, after, first);
    }

    /// Chooses the node for a topic among those that are not banned: the last node of the topic if it is usable,
    /// otherwise the strategy's choice. Avoids nodes of an incompatible version, those at which too many requests are
    /// under way, and those that have stored what they claimed to refuse. When no other node is left, chooses among
    /// them. Never chooses one that has just charged more than `congestion_fee_max` for congestion.
    pub(crate) fn choose(
        &self,
        topic: &Topic,
        banned: &BTreeSet<OriginatorId>,
        congestion_fee_max: Option<PicoDollarPrice>,
    ) -> Option<Arc<Node>> {
        let all = self.all();
        let good = |node: &Node| {
            self.is_usable(node)
                && !node.is_incompatible()
                && !node.is_crowded()
                && !node.has_stored_refusals()
                && !node.is_expensive(congestion_fee_max)
        };
        let last = self.0.placements.get(topic).filter(|id| !banned.contains(id));
        if let Some(node) = last.and_then(|id| all.get(&id)).filter(|node| good(node)) {
            return Some(node.clone());
        }
        let candidates: Vec<_> = all.values().map(|node| node.candidate()).collect();
        let unusable = all.values().filter(|node| !good(node)).map(|node| node.id());
        let avoided: BTreeSet<_> = banned.iter().copied().chain(unusable).collect();
        let random = random_of(topic, self.0.seed);
        let choose = |avoided: &BTreeSet<OriginatorId>| {
            self.0.strategy.choose(topic, &candidates, avoided, random)
        };
        let chosen = choose(&avoided).or_else(|| {
            let expensive = all.values().filter(|node| node.is_expensive(congestion_fee_max));
            let refused: BTreeSet<_> =
                banned.iter().copied().chain(expensive.map(|node| node.id())).collect();
            choose(&refused)
        })?;
        all.get(&chosen).cloned()
    }

    /// Returns the state that gateways of this payer share, if there are several.
    pub(crate) fn share(&self) -> Option<&Arc<GatewayShare>> {
        self.0.share.as_ref()
    }

    /// Learns the nodes of topics from other gateways.
    pub(crate) fn learn_placements(&self, known: &[(TopicKey, OriginatorId)]) {
        known.iter().for_each(|(topic, node)| self.0.placements.learn(*topic, *node));
    }

    /// Records that a node has published envelopes of these topics, each with true if Redis has no node for it. Returns
    /// those that have to be shared with the other gateways: they have moved, or Redis has lost their nodes.
    pub(crate) fn record_published<'a>(
        &self,
        topics: impl Iterator<Item = (&'a Topic, bool)>,
        node: OriginatorId,
        failed: &BTreeSet<OriginatorId>,
    ) -> Vec<(TopicKey, OriginatorId)> {
        let moved = topics.filter(|(topic, is_unplaced)| {
            let has_moved = self.place(topic, node, failed);
            has_moved || (*is_unplaced && self.0.placements.get(topic) == Some(node))
        });
        let moved: BTreeSet<_> = moved.map(|(topic, _)| (topic_key(topic), node)).collect();
        moved.into_iter().collect()
    }

    /// Records that a node has published an envelope of a topic. The topic leaves its last node only
    /// if that node has `failed`, is unusable or incompatible: a node that refused one request, or was too
    /// expensive for one caller, keeps the topic. Returns true if it has a new node.
    fn place(&self, topic: &Topic, node: OriginatorId, failed: &BTreeSet<OriginatorId>) -> bool {
        let all = self.all();
        let keeps = |last: OriginatorId| {
            !failed.contains(&last)
                && all
                    .get(&last)
                    .is_some_and(|last| self.is_usable(last) && !last.is_incompatible())
        };
        let last = self.0.placements.get(topic);
        if last.is_some_and(keeps) {
            return false;
        }
        self.0.placements.set(topic, node);
        last != Some(node)
    }

    fn lags(&self) -> MutexGuard<'_, NodeLags> {
        self.0.lags.lock()
    }
}
