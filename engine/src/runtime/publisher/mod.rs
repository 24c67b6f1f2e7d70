//! The publish path: admit on all cores → sequence → sign on all cores → commit and sync → answer.
//!
//! One thread sequences and one commits. While one group is on its way to disk the next one is
//! being priced and signed, and whatever has been signed meanwhile goes into the next write, so
//! that one sync serves everything that waits.

mod admit;
mod commit;
mod sequence;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, OriginatorId, SecretKey};
use hawser_storage::{ReadError, Store};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::chain_clock::ChainClock;
use super::committer::Committer;
use super::own_strand::OwnStrand;
use super::workers::Workers;
use crate::ports::Ports;
use crate::runtime::Heads;
use crate::runtime::counters::{Counters, Stopwatch};
use crate::sequencer::Admitted;

use admit::Admission;
use sequence::Sequencing;

/// The largest answer that clients and peers accept.
pub const ANSWER_LEN_BYTES_MAX: usize = 25 * 1024 * 1024;
/// Payer bytes under way between arrival and answer, in KiB. Who comes later waits.
const IN_FLIGHT_KIB_MAX: u32 = 256 * 1024;
/// A group stops growing at this many envelopes.
const GROUP_ENVELOPES_MAX: usize = 4096;
/// Rates older than this are no base for a price.
const RATES_AGE_NS_MAX: i64 = 60 * 60 * 1_000_000_000;

/// Why a publish was not done. Nothing was stored, and no sequence id was used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// What was sent breaks a rule; the text says which envelope and why.
    #[error("{0}")]
    Refused(String),
    /// The envelopes would be accepted, but the answer would be larger than a message may be.
    #[error(
        "the answer would exceed {ANSWER_LEN_BYTES_MAX} bytes: publish fewer envelopes at once"
    )]
    AnswerTooLarge,
    /// The node cannot take it now, whatever it is.
    #[error("{reason}")]
    Unavailable {
        /// What is missing, for the publisher and the operator.
        reason: String,
        /// When it may be worth trying again.
        retry_after: Duration,
    },
}

/// How this node treats publishes.
#[derive(Debug, Clone)]
pub struct PublishSettings {
    /// Answer the same payer envelope again with the first result, instead of charging again.
    pub idempotent: bool,
}

/// A handle to the publish path.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

struct Shared {
    node: OriginatorId,
    key: SecretKey,
    ports: Ports,
    store: Store,
    heads: Heads,
    workers: Workers,
    chain_clock: ChainClock,
    counters: Arc<Counters>,
    in_flight: Arc<Semaphore>,
    own_strand: OwnStrand,
    draining: AtomicBool,
    /// A group could not be stored: what was sequenced since has no place to go.
    broken: Arc<AtomicBool>,
    to_sequencer: Mutex<Option<Sender<Request>>>,
}

/// A request whose envelopes have all been admitted.
struct Request {
    envelopes: Vec<Admitted>,
    reply: Reply,
}

struct Reply {
    sender: oneshot::Sender<Result<Vec<Bytes>, PublishError>>,
    _permit: OwnedSemaphorePermit,
    /// Runs since the last stage was over.
    stage: Stopwatch,
    /// Runs since its envelopes were admitted.
    admitted: Stopwatch,
}

impl Reply {
    fn send(self, answer: Result<Vec<Bytes>, PublishError>) {
        // Whoever has gone away has not been promised anything.
        let _ = self.sender.send(answer);
    }
}

/// What the path is made of.
pub(super) struct Parts {
    /// Signs this node's strand.
    pub(super) key: SecretKey,
    pub(super) ports: Ports,
    pub(super) store: Store,
    pub(super) heads: Heads,
    pub(super) workers: Workers,
    pub(super) committer: Committer,
    pub(super) chain_clock: ChainClock,
    pub(super) counters: Arc<Counters>,
}

/// The threads behind a [`Publisher`]; joined by [`PublisherThreads::join`].
pub struct PublisherThreads(Vec<std::thread::JoinHandle<()>>);

impl PublisherThreads {
    /// Waits until everything accepted has been answered. Call [`Publisher::drain`] first.
    pub fn join(self) {
        for thread in self.0 {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Publisher {
    /// Starts the two threads of the path.
    ///
    /// # Errors
    /// When the state of the strand cannot be read.
    pub(super) fn start(
        settings: PublishSettings,
        parts: Parts,
    ) -> Result<(Self, PublisherThreads), ReadError> {
        let Parts { key, ports, store, heads, workers, committer, chain_clock, counters } = parts;
        let node = store.identity().node;
        let sequencer = sequence::resume(&store, node, ports.clock.now_ns())?;
        let (to_sequencer, requests) = unbounded();
        let (to_committer, groups) = unbounded();
        let broken = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            node,
            key,
            ports,
            store,
            heads,
            workers,
            chain_clock,
            counters,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_KIB_MAX as usize)),
            own_strand: OwnStrand::default(),
            draining: AtomicBool::new(false),
            broken: broken.clone(),
            to_sequencer: Mutex::new(Some(to_sequencer)),
        });
        let done = Arc::new(AtomicU64::new(0));
        let sequencing =
            Sequencing::new(shared.clone(), settings, sequencer, done.clone(), to_committer);
        let threads = vec![
            thread("sequencer", move || sequencing.run(&requests)),
            thread("commit", move || commit::run(&groups, &committer, &done, &broken)),
        ];
        Ok((Self { shared }, PublisherThreads(threads)))
    }

    /// Publishes the envelopes of one request, all or none. The answer holds the stored originator
    /// envelopes in request order, and they are durable.
    ///
    /// # Errors
    /// See [`PublishError`]; nothing was stored then.
    pub async fn publish(
        &self,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<Vec<Bytes>, PublishError> {
        if envelopes.is_empty() {
            return Err(PublishError::Refused("missing payer envelope".into()));
        }
        self.ready()?;
        let mut watch = Stopwatch::start();
        let answer = self.submit(envelopes, watch).await;
        match &answer {
            Ok(_) => watch.lap(&self.shared.counters.publish_seconds),
            Err(PublishError::Unavailable { .. }) => self.shared.counters.unavailable.add(1),
            Err(_) => self.shared.counters.refused.add(1),
        }
        answer
    }

    /// Whether publishes can be taken now, by the node's own state.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] with what is missing.
    pub fn ready(&self) -> Result<(), PublishError> {
        let shared = &self.shared;
        let unavailable = |reason: &str, retry_after_s| {
            Err(PublishError::Unavailable {
                reason: reason.into(),
                retry_after: Duration::from_secs(retry_after_s),
            })
        };
        if shared.draining.load(Ordering::Acquire) {
            return unavailable("node is shutting down", 5);
        }
        if shared.broken.load(Ordering::Acquire) || shared.store.is_poisoned() {
            return unavailable("log is read-only after a failed write; the node must restart", 60);
        }
        shared.own_strand.may_grow()?;
        let registry = shared.ports.registry.borrow();
        match registry.node(shared.node) {
            None => return unavailable("node has no record in the registry", 60),
            Some(record) if !record.canonical => {
                return unavailable("node is not canonical in the registry", 60);
            }
            Some(record) if record.public_key != shared.store.identity().public_key => {
                return unavailable("registry holds another key for this node", 60);
            }
            Some(_) => {}
        }
        let now_ns = shared.ports.clock.now_ns();
        let stale = |refreshed: i64| now_ns.saturating_sub(refreshed) > RATES_AGE_NS_MAX;
        if shared.ports.rates.borrow().refreshed_ns().is_some_and(stale) {
            return unavailable("rates have not been refreshed for 60 minutes", 60);
        }
        if shared.ports.rates.borrow().at(now_ns).is_err() {
            return unavailable("no rate is in force yet", 60);
        }
        Ok(())
    }

    /// What is known of the end of the strand that is published to.
    pub(super) fn own_strand(&self) -> &OwnStrand {
        &self.shared.own_strand
    }

    /// Waits until everything that was taken by now has been answered.
    pub(super) async fn idle(&self) {
        let all = self.shared.in_flight.acquire_many(IN_FLIGHT_KIB_MAX).await;
        drop(all.expect("the semaphore is never closed"));
    }

    /// Takes no more publishes, and lets the threads end once all that was taken is answered.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.to_sequencer.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn submit(
        &self,
        envelopes: Vec<pb::PayerEnvelope>,
        watch: Stopwatch,
    ) -> Result<Vec<Bytes>, PublishError> {
        let sizes = envelopes.iter().map(|envelope| envelope.unsigned_client_envelope.len());
        let kib = u32::try_from(sizes.sum::<usize>() / 1024 + 1).unwrap_or(u32::MAX);
        let permit = self
            .shared
            .in_flight
            .clone()
            .acquire_many_owned(kib.min(IN_FLIGHT_KIB_MAX))
            .await
            .expect("the semaphore is never closed");
        let (sender, answer) = oneshot::channel();
        let reply = Reply { sender, _permit: permit, stage: watch, admitted: watch };
        Admission::start(&self.shared, envelopes, reply);
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn stopped() -> PublishError {
    PublishError::Unavailable {
        reason: "node is shutting down".into(),
        retry_after: Duration::from_secs(5),
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .expect("the system gives us a thread at start")
}
