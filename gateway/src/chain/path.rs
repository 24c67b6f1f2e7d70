//! Envelopes that the app chain orders: sent once, and answered when a node shows them.
//!
//! - `repeats`: what was sent lately;
//! - `seen`, `follow`: what nodes show of the chain;
//! - `late`: what they do not show.
//!
//! A payload that is on its way is never given up by whoever asked for it: it goes on without, and
//! a client that asks again is told of it.

mod follow;
mod late;
mod repeats;
mod seen;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::OriginatorEnvelope;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

pub(crate) use follow::Shown;
use repeats::{PayloadKey, Repeats, key_of};
use seen::Expected;

use crate::identity::IdentityCheck;
use crate::metrics::Numbers;
use crate::nodes::Nodes;
use crate::routing::ChainTopic;

/// What an answer holds beside the payload.
const ANSWER_OVERHEAD_BYTES: usize = 512;
/// A payload that was pending is asked about for so long while it cannot be said what became of it.
const FOLLOWED_FOR: Duration = Duration::from_secs(600);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Writes to the app chain.
pub trait ChainWriter: Send + Sync + 'static {
    /// Puts a payload on the chain, exactly as it is. Payloads of one topic get there in the order
    /// in which the futures are first polled.
    /// The same payload again, while it is on its way, waits for the same transaction; for some
    /// minutes after its end it is not sent again unless it is known not to be on the chain.
    fn publish(
        &self,
        topic: ChainTopic,
        payload: Bytes,
    ) -> BoxFuture<'_, Result<OnChain, ChainFault>>;

    /// Whether the chain answers now.
    fn reachable(&self) -> BoxFuture<'_, Result<(), String>>;
}

/// A payload on the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnChain {
    /// Its number among the payloads of its contract.
    pub sequence_id: u64,
    /// The transaction.
    pub transaction_hash: [u8; 32],
    /// The time of its block, unix seconds.
    pub block_time_s: u64,
}

/// Why a payload is not on the chain, or not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// The chain does not take such a payload; nothing was sent.
    #[error("the chain does not take it: {0}")]
    Invalid(String),
    /// It cannot be sent now; nothing was sent.
    #[error("it could not be sent to the chain: {0}")]
    NotSent(String),
    /// It was sent and may still get there.
    #[error("transaction 0x{} was sent: {reason}", hex::encode(hash))]
    Pending {
        /// The transaction.
        hash: [u8; 32],
        /// What is known of it.
        reason: String,
    },
    /// It was sent, and nobody can say what became of it: it may be on the chain.
    #[error("transaction 0x{} was sent: {reason}", hex::encode(hash))]
    Unknown {
        /// The transaction.
        hash: [u8; 32],
        /// What is known of it.
        reason: String,
    },
    /// It was sent and has failed.
    #[error("transaction 0x{} has failed: {reason}", hex::encode(hash))]
    Failed {
        /// The transaction.
        hash: [u8; 32],
        /// What is known of it.
        reason: String,
    },
    /// It is on the chain, and no node shows it.
    #[error(
        "transaction 0x{} was sent and is on the chain as number {sequence_id}, and no node shows \
         it yet",
        hex::encode(hash)
    )]
    NotShown {
        /// The transaction.
        hash: [u8; 32],
        /// Its place.
        sequence_id: u64,
    },
    /// It is on the chain, and nodes drop it: what came before it there makes it invalid.
    #[error(
        "transaction 0x{} was sent and is on the chain as number {sequence_id}, where it is an \
         invalid identity update: {reason}",
        hex::encode(hash)
    )]
    Dropped {
        /// The transaction.
        hash: [u8; 32],
        /// Its place.
        sequence_id: u64,
        /// Why it is invalid there.
        reason: String,
    },
    /// The gateway was started without a chain.
    #[error("this gateway has no app chain")]
    NoChain,
}

/// An envelope for the chain.
#[derive(Debug, Clone)]
pub(crate) struct ChainItem {
    /// Its place in the request.
    pub(crate) index: usize,
    pub(crate) topic: ChainTopic,
    pub(crate) payload: Bytes,
    /// What it says if it is an identity update.
    pub(crate) identity_update: Option<Box<IdentityUpdate>>,
}

/// How far a payload has come.
#[derive(Debug, Clone)]
enum Fate {
    UnderWay,
    /// Whatever is sent now comes after it.
    OnChain,
    Over(Result<OriginatorEnvelope, ChainFault>),
}

impl Fate {
    fn is_on_chain(&self) -> bool {
        matches!(self, Self::OnChain | Self::Over(Ok(_) | Err(ChainFault::NotShown { .. })))
    }

    fn over(&self) -> Option<Result<OriginatorEnvelope, ChainFault>> {
        match self {
            Self::UnderWay | Self::OnChain => None,
            Self::Over(result) => Some(result.clone()),
        }
    }
}

/// A payload that is to be sent, and who hears of it.
struct New {
    item: ChainItem,
    key: PayloadKey,
    fate: watch::Sender<Fate>,
    /// Of what comes before it in its topic and request.
    before: Option<watch::Receiver<Fate>>,
}

/// Publishes through the chain. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ChainPath {
    writer: Option<Arc<dyn ChainWriter>>,
    nodes: Nodes,
    shown: Shown,
    identity: Option<Arc<dyn IdentityCheck>>,
    under_way: Arc<Mutex<Repeats<watch::Receiver<Fate>>>>,
    on_chain: Arc<Mutex<Repeats<OnChain>>>,
    numbers: Arc<Numbers>,
    /// From the inclusion until a node shows it.
    shown_timeout: Duration,
}

impl ChainPath {
    pub(crate) fn new(
        writer: Option<Arc<dyn ChainWriter>>,
        nodes: Nodes,
        shown: Shown,
        identity: Option<Arc<dyn IdentityCheck>>,
        numbers: Arc<Numbers>,
        shown_timeout: Duration,
    ) -> Self {
        let (under_way, on_chain) = (Arc::default(), Arc::default());
        Self { writer, nodes, shown, identity, under_way, on_chain, numbers, shown_timeout }
    }

    /// Whether a payload is on its way or on the chain, as far as this gateway remembers, and has
    /// not failed there.
    pub(crate) fn knows(&self, payload: &Bytes) -> bool {
        let (key, now) = (key_of(payload), std::time::Instant::now());
        let fate = lock(&self.under_way).get(&key, now);
        match fate {
            Some(fate) => !matches!(*fate.borrow(), Fate::Over(Err(_))),
            None => lock(&self.on_chain).get(&key, now).is_some(),
        }
    }

    /// A payload was found on the chain, like this: whoever asks for it is told so.
    pub(crate) fn is_there(&self, payload: &Bytes, envelope: OriginatorEnvelope) {
        let (_, fate) = watch::channel(Fate::Over(Ok(envelope)));
        self.is_under_way(payload, key_of(payload), fate);
    }

    /// Publishes all of them; one result for each, in the same order. Those of one topic get on the
    /// chain in this order: after one that does not, none is sent.
    pub(crate) async fn publish(
        &self,
        items: Vec<ChainItem>,
    ) -> Vec<(usize, Result<OriginatorEnvelope, ChainFault>)> {
        let mut topics: BTreeMap<ChainTopic, Vec<ChainItem>> = BTreeMap::new();
        for item in items {
            topics.entry(item.topic).or_default().push(item);
        }
        // All are begun before the first is waited for, so they can share a block.
        let begun: Vec<_> = topics.into_values().flat_map(|items| self.begin(items)).collect();
        let waiting = begun.into_iter().map(async |(index, mut fate)| {
            let told = fate.wait_for(|fate| fate.over().is_some()).await;
            let told = told.ok().and_then(|fate| fate.over());
            let lost = || Err(ChainFault::NotSent("the gateway is shutting down".into()));
            (index, told.unwrap_or_else(lost))
        });
        futures_util::future::join_all(waiting).await
    }

    /// Begins to send the payloads of one topic, or finds them on their way.
    fn begin(&self, items: Vec<ChainItem>) -> Vec<(usize, watch::Receiver<Fate>)> {
        let mut fates = Vec::with_capacity(items.len());
        let mut steps = Vec::with_capacity(items.len());
        let mut before = None;
        for item in items {
            let (index, key) = (item.index, key_of(&item.payload));
            let (known, new) = self.known_or_new(item, key, before);
            before = Some(known.clone());
            fates.push((index, known.clone()));
            steps.push((known, new));
        }
        tokio::spawn(self.clone().send_in_order(steps));
        fates
    }

    fn known_or_new(
        &self,
        item: ChainItem,
        key: PayloadKey,
        before: Option<watch::Receiver<Fate>>,
    ) -> (watch::Receiver<Fate>, Option<New>) {
        let now = std::time::Instant::now();
        let mut under_way = lock(&self.under_way);
        if let Some(known) = under_way.get(&key, now) {
            self.numbers.chain_repeats.inc();
            return (known, None);
        }
        let (fate, told) = watch::channel(Fate::UnderWay);
        under_way.put(key, told.clone(), weight_of(&item.payload), now);
        (told, Some(New { item, key, fate, before }))
    }

    /// Sends what is new of one topic, each when the one before it is on the chain. When one is
    /// not, or that is not known, those after it are not sent: the same request again has to find
    /// an order that it can still keep.
    async fn send_in_order(self, steps: Vec<(watch::Receiver<Fate>, Option<New>)>) {
        let mut all_on_chain = true;
        for (mut fate, new) in steps {
            match new {
                Some(new) if all_on_chain => {
                    tokio::spawn(self.clone().carry(new));
                }
                Some(New { key, fate, .. }) => {
                    let reason = "what comes before it in the request is not on the chain";
                    lock(&self.under_way).forget(&key);
                    fate.send_replace(Fate::Over(Err(ChainFault::NotSent(reason.into()))));
                }
                None => {}
            }
            if all_on_chain {
                let told = fate.wait_for(|fate| !matches!(fate, Fate::UnderWay)).await;
                all_on_chain = told.is_ok_and(|fate| fate.is_on_chain());
            }
        }
    }

    /// Goes on until it is known what has become of a payload, whoever waits for it. Those who wait
    /// hear in between that it is pending; who asks then waits for what comes next.
    async fn carry(self, mut new: New) {
        let mut pending_since = None;
        loop {
            // However soon the writer answers.
            let again_at = Instant::now() + AGAIN_AFTER;
            let result = self.send(&new).await;
            match (&result, pending_since) {
                (Err(ChainFault::Pending { .. }), _) => {
                    let (next, next_fate) = watch::channel(Fate::UnderWay);
                    self.is_under_way(&new.item.payload, new.key, next_fate);
                    std::mem::replace(&mut new.fate, next).send_replace(Fate::Over(result));
                    pending_since.get_or_insert_with(Instant::now);
                }
                // That nothing more was sent says nothing of what was sent before.
                (Err(ChainFault::NotSent(_)), Some(since)) if since.elapsed() < FOLLOWED_FOR => {}
                // Begun anew the one might be doubled, and the other would come to the same end.
                (Err(ChainFault::Unknown { .. } | ChainFault::Dropped { .. }), _) => {
                    new.fate.send_replace(Fate::Over(result));
                    return;
                }
                _ => {
                    if result.is_err() {
                        // Whoever asks again begins anew; what is on the chain is not sent again
                        // even so.
                        lock(&self.under_way).forget(&new.key);
                    }
                    new.fate.send_replace(Fate::Over(result));
                    return;
                }
            }
            sleep_until(again_at).await;
        }
    }

    fn is_under_way(&self, payload: &Bytes, key: PayloadKey, fate: watch::Receiver<Fate>) {
        let now = std::time::Instant::now();
        lock(&self.under_way).put(key, fate, weight_of(payload), now);
    }

    async fn send(&self, new: &New) -> Result<OriginatorEnvelope, ChainFault> {
        let New { item, key, fate, .. } = new;
        let since = Instant::now();
        let originator = match item.topic {
            ChainTopic::Group(_) => OriginatorId::GROUP_MESSAGES,
            ChainTopic::Inbox(_) => OriginatorId::IDENTITY_UPDATES,
        };
        let on_chain = self.put(item.topic, &item.payload, *key).await?;
        fate.send_replace(Fate::OnChain);
        let OnChain { sequence_id, transaction_hash, block_time_s } = on_chain;
        let id = EnvelopeId::new(originator, SequenceId(sequence_id));
        let payload = item.payload.clone();
        let expected = Expected { id, payload, transaction_hash, block_time_s };
        let envelope = self.shown_or_judged(new, &expected).await?;
        self.numbers.of(originator).took(since.elapsed(), 1, 0);
        Ok(envelope)
    }

    /// Puts a payload on the chain unless it is there.
    async fn put(
        &self,
        topic: ChainTopic,
        payload: &Bytes,
        key: PayloadKey,
    ) -> Result<OnChain, ChainFault> {
        let known = lock(&self.on_chain).get(&key, std::time::Instant::now());
        if let Some(known) = known {
            return Ok(known);
        }
        let writer = self.writer.as_ref().ok_or(ChainFault::NoChain)?;
        let on_chain = writer.publish(topic, payload.clone()).await?;
        lock(&self.on_chain).put(key, on_chain, size_of::<OnChain>(), std::time::Instant::now());
        Ok(on_chain)
    }
}

fn weight_of(payload: &Bytes) -> usize {
    payload.len() + ANSWER_OVERHEAD_BYTES
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
