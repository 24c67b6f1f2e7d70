//! The path of a payload from its request over the chain to the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::dropped::DropJudge;
use super::item::{ChainItem, ChainResult};
use super::recent::{PayloadKey, RecentPayloads, payload_key};
use super::writer::{ChainPublishError, ChainWriter, OnChain};
use crate::identity::IdentityCheck;
use crate::metrics::GatewayMetrics;
use crate::nodes::{ChainStrands, ExpectedEnvelope, Nodes};
use crate::routing::ChainTopic;

/// Bytes of an answer beside the payload: the layers around it, with room to spare.
const ANSWER_OVERHEAD_BYTES: usize = 512;
/// Time for which a transaction is followed whose outcome cannot be found out. A guess: longer than
/// any client waits, and than a chain's endpoint is usually away.
const FOLLOWED_FOR: Duration = Duration::from_secs(600);
/// Pause between two questions about one transaction. A guess: about the time of a block.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The progress of a payload.
#[derive(Debug, Clone)]
enum Progress {
    /// Not known to be on the chain.
    Sending,
    /// On the chain: a payload that is sent now comes after it.
    OnChain,
    /// Ended with this result.
    Done(ChainResult),
}

impl Progress {
    fn is_on_chain(&self) -> bool {
        matches!(self, Self::OnChain | Self::Done(Ok(_) | Err(ChainPublishError::NotShown { .. })))
    }

    fn result(&self) -> Option<ChainResult> {
        match self {
            Self::Sending | Self::OnChain => None,
            Self::Done(result) => Some(result.clone()),
        }
    }
}

/// A payload that has to be sent, and the channel that tells its progress.
struct NewPayload {
    item: ChainItem,
    key: PayloadKey,
    progress: watch::Sender<Progress>,
    /// The payload before it in its topic and request.
    previous: Option<watch::Receiver<Progress>>,
}

/// One payload of a topic in the order of its request. `new` is `None` for a payload that another
/// request has sent.
struct TopicStep {
    progress: watch::Receiver<Progress>,
    new: Option<NewPayload>,
}

/// Publishes through the chain. Clones share everything.
#[derive(Clone)]
pub(crate) struct ChainPath {
    writer: Option<Arc<dyn ChainWriter>>,
    nodes: Nodes,
    strands: ChainStrands,
    identity: Option<Arc<dyn IdentityCheck>>,
    /// By payload the progress of its latest attempt: an equal payload joins it.
    progress: Arc<Mutex<RecentPayloads<watch::Receiver<Progress>>>>,
    /// Payloads that are on the chain. Kept apart, because a failed attempt is forgotten and its
    /// payload still must not be sent twice.
    on_chain: Arc<Mutex<RecentPayloads<OnChain>>>,
    metrics: Arc<GatewayMetrics>,
    /// Time from inclusion until a node has to show the envelope.
    shown_timeout: Duration,
}

impl ChainPath {
    /// Publishes through `writer`; without one every payload fails with
    /// [`ChainPublishError::NoChain`].
    pub(crate) fn new(
        writer: Option<Arc<dyn ChainWriter>>,
        nodes: Nodes,
        strands: ChainStrands,
        identity: Option<Arc<dyn IdentityCheck>>,
        metrics: Arc<GatewayMetrics>,
        shown_timeout: Duration,
    ) -> Self {
        let (progress, on_chain) = (Arc::default(), Arc::default());
        Self { writer, nodes, strands, identity, progress, on_chain, metrics, shown_timeout }
    }

    /// Returns whether this gateway remembers the payload as on its way or on the chain, and not as
    /// failed there.
    pub(crate) fn knows(&self, payload: &Bytes) -> bool {
        let (key, now) = (payload_key(payload), std::time::Instant::now());
        let progress = self.progress.lock().get(&key, now);
        match progress {
            Some(progress) => !matches!(*progress.borrow(), Progress::Done(Err(_))),
            None => self.on_chain.lock().get(&key, now).is_some(),
        }
    }

    /// Records that a payload was found on the chain as this envelope: requests for it get that
    /// answer.
    pub(crate) fn record_found(&self, payload: &Bytes, envelope: OriginatorEnvelope) {
        let (_, progress) = watch::channel(Progress::Done(Ok(envelope)));
        self.remember(payload, payload_key(payload), progress);
    }

    /// Publishes all items and returns one result for each, with its index in the request. Payloads
    /// of one topic reach the chain in this order; after one that fails, none of its topic is sent.
    pub(crate) async fn publish(&self, items: Vec<ChainItem>) -> Vec<(usize, ChainResult)> {
        let mut topics: BTreeMap<ChainTopic, Vec<ChainItem>> = BTreeMap::new();
        for item in items {
            topics.entry(item.topic).or_default().push(item);
        }
        // All start before the first is waited for, so that they can share a block.
        let started: Vec<_> = topics.into_values().flat_map(|items| self.start(items)).collect();
        let waiting = started.into_iter().map(async |(index, mut progress)| {
            let done = progress.wait_for(|progress| progress.result().is_some()).await;
            let result = done.ok().and_then(|progress| progress.result());
            let lost = || Err(ChainPublishError::NotSent("the gateway is shutting down".into()));
            (index, result.unwrap_or_else(lost))
        });
        futures_util::future::join_all(waiting).await
    }

    /// Starts to send the payloads of one topic, or joins attempts that are under way.
    fn start(&self, items: Vec<ChainItem>) -> Vec<(usize, watch::Receiver<Progress>)> {
        let mut started = Vec::with_capacity(items.len());
        let mut steps = Vec::with_capacity(items.len());
        let mut previous = None;
        for item in items {
            let (index, key) = (item.index, payload_key(&item.payload));
            let step = self.join_or_create(item, key, previous);
            previous = Some(step.progress.clone());
            started.push((index, step.progress.clone()));
            steps.push(step);
        }
        tokio::spawn(self.clone().send_in_order(steps));
        started
    }

    fn join_or_create(
        &self,
        item: ChainItem,
        key: PayloadKey,
        previous: Option<watch::Receiver<Progress>>,
    ) -> TopicStep {
        let now = std::time::Instant::now();
        // One lock for question and entry: two equal payloads must not both be new.
        let mut recent = self.progress.lock();
        if let Some(progress) = recent.get(&key, now) {
            self.metrics.chain_repeats.inc();
            return TopicStep { progress, new: None };
        }
        let (sender, progress) = watch::channel(Progress::Sending);
        recent.put(key, progress.clone(), weight_of(&item.payload), now);
        let new = Some(NewPayload { item, key, progress: sender, previous });
        TopicStep { progress, new }
    }

    /// Sends the new payloads of one topic, each when the one before it is on the chain. When one is
    /// not, or that is not known, the later ones are not sent: an equal request later must still be
    /// able to keep the order.
    async fn send_in_order(self, steps: Vec<TopicStep>) {
        let mut all_on_chain = true;
        for TopicStep { mut progress, new } in steps {
            match new {
                Some(new) if all_on_chain => {
                    tokio::spawn(self.clone().carry(new));
                }
                Some(NewPayload { key, progress, .. }) => {
                    let reason = "what comes before it in the request is not on the chain";
                    self.progress.lock().remove(&key);
                    let error = ChainPublishError::NotSent(reason.into());
                    progress.send_replace(Progress::Done(Err(error)));
                }
                None => {}
            }
            if all_on_chain {
                let sent = progress.wait_for(|now| !matches!(now, Progress::Sending)).await;
                all_on_chain = sent.is_ok_and(|progress| progress.is_on_chain());
            }
        }
    }

    /// Follows a payload until its outcome is known, whether or not a request still waits for it.
    /// Requests that wait are answered with `Pending` in between; later requests wait for the next
    /// answer.
    async fn carry(self, mut new: NewPayload) {
        let mut pending_since = None;
        loop {
            // A pause from the start of an attempt, however soon the writer answers.
            let retry_at = Instant::now() + RETRY_AFTER;
            let result = self.send(&new).await;
            match (&result, pending_since) {
                (Err(ChainPublishError::Pending { .. }), _) => {
                    let (next, progress) = watch::channel(Progress::Sending);
                    self.remember(&new.item.payload, new.key, progress);
                    let answered = std::mem::replace(&mut new.progress, next);
                    answered.send_replace(Progress::Done(result));
                    pending_since.get_or_insert_with(Instant::now);
                }
                // Nothing more was sent now, and the transaction sent before is still open.
                (Err(ChainPublishError::NotSent(_)), Some(since))
                    if since.elapsed() < FOLLOWED_FOR => {}
                // Stays remembered: a new attempt could put an unknown one on the chain twice, and a
                // dropped one would be dropped again.
                (Err(ChainPublishError::Unknown { .. } | ChainPublishError::Dropped { .. }), _) => {
                    new.progress.send_replace(Progress::Done(result));
                    return;
                }
                _ => {
                    if result.is_err() {
                        // A new request starts a new attempt; what is on the chain is not sent again
                        // even so.
                        self.progress.lock().remove(&new.key);
                    }
                    new.progress.send_replace(Progress::Done(result));
                    return;
                }
            }
            sleep_until(retry_at).await;
        }
    }

    fn remember(&self, payload: &Bytes, key: PayloadKey, progress: watch::Receiver<Progress>) {
        let now = std::time::Instant::now();
        self.progress.lock().put(key, progress, weight_of(payload), now);
    }

    /// Makes one attempt, from sending until a node shows the envelope.
    async fn send(&self, new: &NewPayload) -> ChainResult {
        let NewPayload { item, key, progress, previous } = new;
        let since = Instant::now();
        let originator = match item.topic {
            ChainTopic::Group(_) => OriginatorId::GROUP_MESSAGES,
            ChainTopic::Inbox(_) => OriginatorId::IDENTITY_UPDATES,
        };
        let on_chain = self.put(item.topic, &item.payload, *key).await?;
        progress.send_replace(Progress::OnChain);
        let OnChain { sequence_id, transaction_hash, block_time_s } = on_chain;
        let id = EnvelopeId::new(originator, sequence_id);
        tracing::debug!(envelope = %id, transaction = %transaction_hash, "durable on the chain");
        let payload = item.payload.clone();
        let expected = ExpectedEnvelope { id, payload, transaction_hash, block_time_s };
        let judge = DropJudge {
            identity: self.identity.as_ref(),
            nodes: &self.nodes,
            strands: &self.strands,
            retry_after: RETRY_AFTER,
        };
        let is_settled = || previous.as_ref().is_none_or(|previous| is_settled(&previous.borrow()));
        let envelope =
            judge.shown_or_dropped(item, &is_settled, &expected, self.shown_timeout).await?;
        self.metrics.of(originator).count_published(since.elapsed(), 1, 0);
        Ok(envelope)
    }

    /// Puts a payload on the chain unless this gateway knows that it is there.
    async fn put(
        &self,
        topic: ChainTopic,
        payload: &Bytes,
        key: PayloadKey,
    ) -> Result<OnChain, ChainPublishError> {
        let known = self.on_chain.lock().get(&key, std::time::Instant::now());
        if let Some(known) = known {
            return Ok(known);
        }
        let writer = self.writer.as_ref().ok_or(ChainPublishError::NoChain)?;
        let on_chain = writer.publish(topic, payload.clone()).await?;
        let now = std::time::Instant::now();
        self.on_chain.lock().put(key, on_chain, size_of::<OnChain>(), now);
        Ok(on_chain)
    }
}

/// Returns whether nodes have shown a payload or dropped it for good, so that the next one of its
/// topic can be judged without it.
fn is_settled(progress: &Progress) -> bool {
    matches!(progress, Progress::Done(Ok(_) | Err(ChainPublishError::Dropped { .. })))
}

fn weight_of(payload: &Bytes) -> usize {
    payload.len() + ANSWER_OVERHEAD_BYTES
}
