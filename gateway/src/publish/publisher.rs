//! Envelopes that a node orders: which node, what becomes of it, and who is asked next.
//!
//! - [`campaign`]: the decisions, without I/O;
//! - `batch`: what is sent to one node, several requests in one call;
//! - [`verify`]: whether an answer is what was asked for;
//! - `landed`: whether an envelope has arrived although nobody said so.

mod batch;
pub mod campaign;
mod landed;
pub mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, OriginatorId, Topic};
use tonic::Status;

pub(crate) use batch::{Batcher, Payer};
use campaign::{Campaign, Next};
use verify::AnswerFault;

use crate::nodes::{Health, Node, Nodes};

/// An envelope for a node.
#[derive(Debug, Clone)]
pub(crate) struct NodeItem {
    /// Its place in the request.
    pub(crate) index: usize,
    pub(crate) topic: Topic,
    pub(crate) client: Bytes,
    /// The most that is paid for a node's being busy, picodollars; none if that does not matter.
    pub(crate) congestion_fee_max: Option<u64>,
}

/// What became of one attempt at one node.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NodeFault {
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It stopped to serve while it was asked.
    #[error("it has stopped to answer")]
    WentDown,
    /// It could not be reached, or could not do it.
    #[error("{}", told(.0))]
    Failed(Status),
    /// It refuses these envelopes.
    #[error("{}", told(.0))]
    Refused(Status),
    /// It has answered something else than it was asked for.
    #[error("its answer is wrong: {0}")]
    Wrong(AnswerFault),
}

/// A kind of fault, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Timeout,
    WentDown,
    Failed,
    Refused,
    Wrong,
    /// It shows something else in the place of what was put on the chain.
    WrongChainEnvelope,
}

impl FaultKind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Timeout,
        Self::WentDown,
        Self::Failed,
        Self::Refused,
        Self::Wrong,
        Self::WrongChainEnvelope,
    ];

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::WentDown => "went_down",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Wrong => "wrong_answer",
            Self::WrongChainEnvelope => "wrong_chain_envelope",
        }
    }
}

impl NodeFault {
    pub(crate) fn kind(&self) -> FaultKind {
        match self {
            Self::Timeout(_) => FaultKind::Timeout,
            Self::WentDown => FaultKind::WentDown,
            Self::Failed(_) => FaultKind::Failed,
            Self::Refused(_) => FaultKind::Refused,
            Self::Wrong(_) => FaultKind::Wrong,
        }
    }
}

impl NodeFault {
    /// Whether the node may have published the envelopes all the same: not if it was not reached or
    /// has refused them.
    fn may_be_there(&self) -> bool {
        match self {
            Self::Refused(_) => false,
            Self::Failed(status) => !never_connected(status),
            Self::Timeout(_) | Self::WentDown | Self::Wrong(_) => true,
        }
    }
}

fn never_connected(status: &Status) -> bool {
    let first = std::error::Error::source(status);
    std::iter::successors(first, |error| error.source()).any(|it| it.is::<tonic::ConnectError>())
}

fn told(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// An envelope that a node has put in order.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) envelope: OriginatorEnvelope,
    pub(crate) node: OriginatorId,
    /// All that it costs.
    pub(crate) fee_picodollars: u64,
    /// What of it is for the node's being busy.
    pub(crate) congestion_fee_picodollars: u64,
}

/// Why an envelope was not published by any node.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum PublishFault {
    /// The registry has no canonical node that was not tried.
    #[error("no node of the network can be used")]
    NoNode,
    /// The last node that was tried.
    #[error("node {node}: {fault}")]
    Last {
        node: OriginatorId,
        fault: NodeFault,
        /// Whether one of those that were tried may have published it all the same.
        may_be_there: bool,
    },
}

pub(crate) type Published = (usize, Result<Placed, PublishFault>);

/// Publishes to nodes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    pub(crate) nodes: Nodes,
    pub(crate) attempt_timeout: Duration,
    pub(crate) attempts_max: usize,
}

impl Publisher {
    /// Publishes every envelope to one node, different nodes at once. One result for each, in any
    /// order. Dropping the future ends it: nothing more is tried.
    pub(crate) async fn publish(&self, items: Vec<NodeItem>) -> Vec<Published> {
        let campaign = Arc::new(Mutex::new(Campaign::new(self.attempts_max)));
        self.place(items, campaign, None).await
    }

    /// Sends each envelope to the node of its topic. `last`: why they are not published yet.
    fn place(
        &self,
        items: Vec<NodeItem>,
        campaign: Arc<Mutex<Campaign>>,
        last: Option<PublishFault>,
    ) -> BoxFuture<'_, Vec<Published>> {
        async move {
            let mut groups: BTreeMap<OriginatorId, (Arc<Node>, Vec<NodeItem>)> = BTreeMap::new();
            let mut published = Vec::with_capacity(items.len());
            let banned = lock(&campaign).banned().clone();
            for item in items {
                match self.nodes.choose(&item.topic, &banned, item.congestion_fee_max) {
                    Some(node) => {
                        groups.entry(node.id()).or_insert_with(|| (node, Vec::new())).1.push(item);
                    }
                    None => {
                        let fault = last.clone().unwrap_or(PublishFault::NoNode);
                        published.push((item.index, Err(fault)));
                    }
                }
            }
            let may_be_there = matches!(last, Some(PublishFault::Last { may_be_there: true, .. }));
            let groups = groups
                .into_values()
                .map(|(node, items)| self.attempt(node, items, &campaign, may_be_there));
            published.extend(join_all(groups).await.into_iter().flatten());
            published
        }
        .boxed()
    }

    /// `may_be_there`: whether a node that was tried before may have published them.
    async fn attempt(
        &self,
        node: Arc<Node>,
        items: Vec<NodeItem>,
        campaign: &Arc<Mutex<Campaign>>,
        may_be_there: bool,
    ) -> Vec<Published> {
        let attempt = lock(campaign).begin();
        let since = Instant::now();
        let clients: Vec<Bytes> = items.iter().map(|item| item.client.clone()).collect();
        let fault = match self.ask(&node, clients).await {
            Ok(envelopes) => {
                node.numbers.took(since.elapsed(), items.len(), attempt.failed_before);
                let unable = lock(campaign).unable().clone();
                items.iter().for_each(|it| self.nodes.published(&it.topic, node.id(), &unable));
                return items
                    .iter()
                    .map(|item| item.index)
                    .zip(envelopes.into_iter().map(Ok))
                    .collect();
            }
            Err(fault) => fault,
        };
        node.numbers.fault(fault.kind());
        tracing::warn!(
            node_id = node.id().0,
            envelopes = items.len(),
            error = %fault,
            "a node did not publish what it was given"
        );
        let (mut published, items) = match fault {
            // It may have taken them all the same.
            NodeFault::Timeout(_) | NodeFault::WentDown => self.landed(&node, items).await,
            _ => (Vec::new(), items),
        };
        let next = lock(campaign).failed(&attempt, node.id(), fault.kind());
        let may_be_there = may_be_there || fault.may_be_there();
        let last = PublishFault::Last { node: node.id(), fault, may_be_there };
        published.extend(match next {
            Next::TryOthers => self.place(items, campaign.clone(), Some(last)).await,
            Next::GiveUp => items.iter().map(|item| (item.index, Err(last.clone()))).collect(),
        });
        published
    }

    /// One attempt, with its own time. A node that is seen to be gone is not waited for.
    async fn ask(&self, node: &Node, clients: Vec<Bytes>) -> Result<Vec<Placed>, NodeFault> {
        let mut health = node.health.subscribe();
        health.mark_unchanged();
        let went_down = async {
            // A node that was tried although it is down gets its chance.
            if health.wait_for(|now| *now == Health::Up).await.is_err()
                || health.wait_for(|now| *now == Health::Down).await.is_err()
            {
                std::future::pending().await
            }
        };
        tokio::select! {
            answer = node.batcher.publish(clients) => answer,
            () = tokio::time::sleep(self.attempt_timeout) => {
                Err(NodeFault::Timeout(self.attempt_timeout))
            }
            () = went_down => Err(NodeFault::WentDown),
        }
    }

    /// What has arrived at a node that did not answer, and what has not.
    async fn landed(&self, node: &Node, items: Vec<NodeItem>) -> (Vec<Published>, Vec<NodeItem>) {
        let found = landed::find(node, &items).await;
        let (arrived, missing): (Vec<_>, Vec<_>) =
            items.into_iter().zip(found).partition(|(_, found)| found.is_some());
        for (item, _) in &arrived {
            self.nodes.published(&item.topic, node.id(), &BTreeSet::new());
        }
        let arrived = arrived
            .into_iter()
            .filter_map(|(item, found)| found.map(|envelope| (item.index, Ok(envelope))));
        (arrived.collect(), missing.into_iter().map(|(item, _)| item).collect())
    }
}

fn lock(campaign: &Mutex<Campaign>) -> std::sync::MutexGuard<'_, Campaign> {
    campaign.lock().unwrap_or_else(PoisonError::into_inner)
}
