//! The publish path: admit on all cores → sequence → sign on all cores → commit and sync → answer.
//!
//! One thread sequences and one commits. While one group is on its way to disk the next one is being priced and
//! signed, and everything that has been signed meanwhile goes into the next write: one sync serves all requests that
//! wait (group commit). Large requests get their places in pieces, between which others pass.

mod admit;
mod balance;
mod commit;
mod earlier;
mod error;
mod in_flight;
mod large;
mod own_end;
mod payer_rate;
mod request;
mod sequence;
mod settings;
#[cfg(test)]
mod simulation;
mod size;
mod state;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crossbeam_channel::{bounded, unbounded};
use hawser_proto::SecretKey;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_storage::{ReadError, Store};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::chain_clock::ChainClock;
use super::committer::Committer;
use super::counters::{Counters, Stopwatch};
use super::own_clock::OwnClock;
use super::own_strand::OwnStrand;
use super::report_history::ReportHistory;
use super::workers::begin_publish_thread;
use super::{Heads, Ports, PublishCaller, Workers};
use crate::admission::{AdmissionError, Writer};
use admit::AdmissionJob;
use balance::Balances;
use commit::CommitThread;
use own_end::OwnEnd;
use payer_rate::PayerRates;
use request::{InFlightShare, PendingReply};
use sequence::SequencerThread;
use size::PIECE_MAX;
use state::PublisherState;
use waiting::WaitingLine;

pub use error::{ANSWER_LEN_BYTES_MAX, PublishError};
pub use request::{BegunPublish, Published};
pub use settings::PublishSettings;

/// Payer bytes between arrival and answer, over all requests, in KiB; later requests wait in a [`WaitingLine`]. This
/// bounds every queue of the path. Guessed: seconds of work for a fast disk.
const IN_FLIGHT_KIB_MAX: u32 = 256 * 1024;

/// This node itself among callers. No address has its number.
const THIS_NODE: PublishCaller = PublishCaller { site: 0, address: 0 };

/// A handle to the publish path. Cheap to clone; all clones are the same path.
#[derive(Clone)]
pub struct Publisher {
    state: Arc<PublisherState>,
}

/// The parts of the engine that the publish path uses.
pub(super) struct PublisherParts {
    /// Signs this node's strand.
    pub(super) key: SecretKey,
    pub(super) ports: Ports,
    pub(super) store: Store,
    pub(super) heads: Heads,
    pub(super) workers: Workers,
    pub(super) committer: Committer,
    pub(super) chain_clock: ChainClock,
    pub(super) report_history: ReportHistory,
    pub(super) counters: Arc<Counters>,
}

/// The threads behind a [`Publisher`]; joined by [`PublisherThreads::join`].
pub struct PublisherThreads(Vec<std::thread::JoinHandle<()>>);

impl PublisherThreads {
    /// Waits until everything accepted has been answered. Call [`Publisher::drain`] first.
    ///
    /// # Panics
    /// If one of the threads has panicked.
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
    pub(super) fn start(
        settings: PublishSettings,
        parts: PublisherParts,
    ) -> (Self, PublisherThreads) {
        let PublisherParts { key, ports, store, heads, workers, committer, .. } = parts;
        let node = store.identity().node;
        let own_strand = OwnStrand::new(store.standing());
        let own_end = OwnEnd::default();
        // A node whose disk has damaged the end of its strand serves readers, and repairs it with peers.
        let sequencer = own_end.note(own_end::resume(&store, node));
        let is_unread = sequencer.is_err();
        let sequencer = sequencer.unwrap_or_else(|_| own_end::without_places(node));
        // Unbounded channels, because the bytes in flight bound their content.
        let (to_sequencer, requests) = unbounded();
        let (to_committer, groups) = unbounded();
        let (written, writes) = bounded(1);
        // The sequencing thread reads the end again before it gives out anything.
        let broken = Arc::new(AtomicBool::new(is_unread));
        let stored = Arc::new(AtomicU64::new(0));
        let state = Arc::new(PublisherState {
            node,
            key,
            ports,
            store,
            heads,
            workers,
            chain_clock: parts.chain_clock,
            counters: parts.counters,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_KIB_MAX as usize)),
            line: Arc::<WaitingLine>::default(),
            own_strand,
            own_clock: OwnClock::default(),
            own_end,
            balances: settings.require_balance.then(|| Balances::new(parts.report_history)),
            payer_rates: settings.publishes_per_payer.map(PayerRates::new),
            draining: AtomicBool::new(false),
            broken: broken.clone(),
            stored: stored.clone(),
            rounds: AtomicU64::new(0),
            envelopes: Arc::default(),
            idempotent: settings.idempotent,
            to_sequencer: Mutex::new(Some(to_sequencer)),
        });
        let sequencer =
            SequencerThread::new(state.clone(), settings, sequencer, to_committer, PIECE_MAX);
        let threads = vec![
            spawn("sequencer", move || sequencer.run(&requests, &writes)),
            spawn("commit", move || {
                CommitThread::new(committer, stored, broken, written).run(&groups);
            }),
        ];
        (Self { state }, PublisherThreads(threads))
    }

    /// Publishes the envelopes of one request. Requests wait in turns of their callers, which `caller` distinguishes.
    /// A request of at most 256 envelopes and less than a MiB is stored all or none. A larger one is checked as a
    /// whole and then stored in pieces, in its order; envelopes of other requests may get places between the pieces.
    ///
    /// # Errors
    /// [`PublishError`], which says what may be stored of it.
    pub async fn publish(
        &self,
        caller: PublishCaller,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<Published, PublishError> {
        let begun = self.begin(caller, envelopes).await?;
        self.finish(begun).await
    }

    /// Takes room for the envelopes of one request among the bytes in flight. Waits for it in turns of the callers,
    /// which `caller` distinguishes. Dropping the future ends the wait, and nothing was taken.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was stored then.
    pub async fn begin(
        &self,
        caller: PublishCaller,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<BegunPublish, PublishError> {
        self.begin_of(Writer::Payer, caller, envelopes).await
    }

    /// Publishes envelopes that this node has signed as their payer, on reserved topics.
    ///
    /// # Errors
    /// [`PublishError`]; nothing was stored then.
    pub(super) async fn publish_own(
        &self,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<Published, PublishError> {
        let begun = self.begin_of(Writer::ThisNode, THIS_NODE, envelopes).await?;
        self.finish(begun).await
    }

    async fn begin_of(
        &self,
        writer: Writer,
        caller: PublishCaller,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<BegunPublish, PublishError> {
        if envelopes.is_empty() {
            return Err(PublishError::Refused(AdmissionError::of_request(
                "missing payer envelope",
            )));
        }
        self.ready()?;
        self.take_room(writer, caller, envelopes).await
    }

    async fn take_room(
        &self,
        writer: Writer,
        caller: PublishCaller,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<BegunPublish, PublishError> {
        let watch = Stopwatch::start();
        let sizes = envelopes.iter().map(|envelope| envelope.unsigned_client_envelope.len());
        let kib = u32::try_from(sizes.sum::<usize>() / 1024 + 1).unwrap_or(u32::MAX);
        // A request larger than the bound takes all of it: it is refused later, by its rules.
        let (kib, in_flight) = (kib.min(IN_FLIGHT_KIB_MAX), &self.state.in_flight);
        if let Ok(permit) = in_flight.clone().try_acquire_many_owned(kib) {
            return Ok(BegunPublish { writer, caller, envelopes, permit, watch, queued: watch });
        }
        // Boxed, so that a publish that need not wait keeps no memory for the wait.
        let waited = Box::pin(self.state.line.wait(in_flight, caller, kib)).await;
        if waited.is_err() {
            self.state.counters.unavailable.inc();
        }
        let (permit, queued) = (waited?, Stopwatch::start());
        Ok(BegunPublish { writer, caller, envelopes, permit, watch, queued })
    }

    /// Publishes the envelopes of a request that has room. Once this was polled, they are stored also if it is dropped.
    ///
    /// # Errors
    /// [`PublishError`], which says what may be stored of it.
    pub async fn finish(&self, begun: BegunPublish) -> Result<Published, PublishError> {
        let BegunPublish { writer, caller, envelopes, permit, mut watch, queued } = begun;
        let (sender, answer) = oneshot::channel();
        let in_flight = Arc::new(InFlightShare::of(permit));
        let reply = PendingReply { queued, ..PendingReply::new(sender, in_flight, watch) };
        AdmissionJob::start(&self.state, writer, caller, envelopes, reply);
        let answer = answer.await.unwrap_or_else(|_| Err(PublishError::stopping()));
        match &answer {
            Ok(_) => watch.lap(&self.state.counters.publish_seconds),
            Err(PublishError::Unavailable { .. } | PublishError::Busy) => {
                self.state.counters.unavailable.inc();
            }
            Err(_) => {
                self.state.counters.refused.inc();
            }
        }
        answer
    }

    /// Checks that publishes can be taken now, by this node's own state.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] with the missing condition.
    pub fn ready(&self) -> Result<(), PublishError> {
        self.state.check_ready()
    }

    /// Returns what this node knows of the end of its own strand.
    pub(super) fn own_strand(&self) -> &OwnStrand {
        &self.state.own_strand
    }

    /// Returns what this node knows of other clocks.
    pub(super) fn own_clock(&self) -> &OwnClock {
        &self.state.own_clock
    }

    /// Checks that the end of the own strand could be read at the last look.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`].
    pub(super) fn check_own_end(&self) -> Result<(), PublishError> {
        self.state.own_end.check()
    }

    /// Returns the failure of the last look at the end of the own strand.
    pub(super) fn unread_own_end(&self) -> Option<ReadError> {
        self.state.own_end.unread()
    }

    /// Looks at the end of the own strand again if it could not be read. Returns true if it can be since now. Blocks on
    /// the disk.
    pub(super) fn look_at_own_end(&self) -> bool {
        let PublisherState { own_end, store, node, .. } = &*self.state;
        own_end.look_again(store, *node)
    }

    /// Waits until every request that was taken by now has been answered. One that waits for room is not taken.
    pub(super) async fn idle(&self) {
        let all = self.state.in_flight.acquire_many(IN_FLIGHT_KIB_MAX).await;
        drop(all.expect("the semaphore is never closed"));
    }

    /// Takes no more publishes, and lets the threads end once everything taken is answered.
    pub fn drain(&self) {
        self.state.drain();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            begin_publish_thread();
            run();
        })
        .expect("the system gives us a thread at start")
}
