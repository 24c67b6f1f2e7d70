//! The tasks and threads that drive the decisions, and do all appends.
//!
//! - [`Engine`]: the parts put together; [`Ports`]: what is injected; [`SystemClock`]: the clock of a node that runs;
//! - [`Publisher`]: from a publish request to its answer;
//! - [`Committer`]: the one way into the log; [`Heads`]: how far each strand is durable;
//! - [`ChainAppender`], [`LedgerAppender`]: the ways in for events of the chains;
//! - [`PruneRun`]: removes expired envelopes; [`PruneRounds`]: runs that continue each other;
//! - [`Scrubs`]: reads everything back, and repairs rows that the disk has damaged;
//! - [`PayerReporter`]: writes, attests, submits and settles payer reports;
//! - [`Reports`]: reports of misbehaviour, made and taken;
//! - [`StoppableTask`]: a task of a node that runs, started by a function of its own: [`start_prune_task`],
//!   [`start_scrub_task`], [`start_payer_report_task`] and [`start_report_task`] for the four above,
//!   [`start_price_task`] corrects booked amounts, [`start_disk_task`] makes the log writable again after the disk has
//!   failed, [`start_older_rows_task`] and [`start_trees_task`] bring a folder of an older format up to date, and
//!   [`start_checkpoint_task`] signs the roots of trees;
//! - [`replication`]: the tasks that follow other nodes' strands, and readers for peers;
//! - [`Reader`], [`Subscription`]: out to readers;
//! - [`Workers`]: threads for computing; [`counters`]: what the engine counts; [`LastFailure`]: one log line of a
//!   failure that lasts.
//!
//! Invariant: only this module of the crate names tokio, channels, threads, locks and the clock.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "what runs lives here, so that what decides needs none of it"
)]

mod caller_queue;
mod chain;
mod chain_clock;
mod check_turns;
mod checkpoints;
mod committer;
pub mod counters;
mod disk;
mod fair_queue;
mod grouped_queue;
mod heads;
mod last_failure;
mod ledger;
mod older_rows;
mod own_clock;
mod own_strand;
mod pace;
mod payer_reports;
mod ports;
mod prices;
mod projection_rebuild;
mod prune;
mod publisher;
pub(crate) mod read;
pub mod replication;
mod report_history;
mod report_writes;
mod reports;
mod scrub;
mod settled_leaves;
mod start_damage;
mod stop;
mod stoppable;
mod system_clock;
mod trees;
mod workers;

use std::sync::Arc;
use std::time::Instant;

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, Cursor, EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_storage::{ReadError, Store};

use crate::own_clock::ClockLead;
use crate::own_strand::{OperatorConfirmation, OwnStrandStatus};
use crate::payer_reports::ChainReports;
use chain_clock::ChainClock;
use counters::Counters;
use read::fan_out::FanOut;
use read::hub::Hub;
use report_history::ReportHistory;

pub use caller_queue::PublishCaller;
pub use chain::{ChainAppendError, ChainAppender, ChainConflict, JudgedUpdates, ROUND_BYTES_MAX};
pub use checkpoints::{start_checkpoint_task, start_checkpoint_task_with_pace};
pub use committer::Committer;
pub use disk::start_disk_task;
pub use fair_queue::FairQueue;
pub use grouped_queue::GroupedQueue;
pub use heads::Heads;
pub use last_failure::LastFailure;
pub use ledger::{BookedEvents, LedgerAppendError, LedgerAppender};
pub use older_rows::start_older_rows_task;
pub use pace::ShortTurns;
pub use payer_reports::{
    Attested, ContractError, GasUsed, PayerReportSettings, PayerReportTotals, PayerReporter,
    ReportContract, ReportExplained, ReportList, ReportStage, ReportState, ReportStep,
    ReportStepError, ReportView, SettledPart, StageCount, StageCounts, StepOutcome, StepState,
    Submitted, Turns, Written, start_payer_report_task,
};
pub use ports::Ports;
pub use prices::start_price_task;
pub use prune::{
    PruneReport, PruneRounds, PruneRun, PruneSettings, StrandPruned, start_prune_task,
};
pub use publisher::{
    ANSWER_LEN_BYTES_MAX, BegunPublish, PublishError, PublishSettings, Published, Publisher,
    PublisherThreads,
};
pub use read::{
    HistoryMode, InboxesQuery, NewestQuery, NoProofError, OriginatorsQuery, ProofAnswer,
    ProofReader, ROWS_PER_TURN, Reader, ShownConsistency, ShownInclusion, Subscription,
    TopicsQuery, UsageScan, UsedAmount, UsedPeriod, WitnessId, WitnessState,
    at_begin_of_reader_threads, begin_reader_thread, end_of_topics_turn,
};
pub use reports::{Reports, SubmitError, start_report_task};
pub use scrub::{
    ScrubDone, ScrubMode, ScrubPace, ScrubSettings, ScrubStatus, Scrubs, UnrepairedDamage,
    start_scrub_task,
};
pub use stoppable::StoppableTask;
pub use system_clock::SystemClock;
pub use trees::start_trees_task;
pub use workers::{Priority, Workers, at_begin_of_publish_threads, at_begin_of_threads_behind};

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Settings of the publish path.
    pub publish: PublishSettings,
    /// Number of threads for signatures: as many as the machine has cores.
    pub workers: usize,
}

/// A running node without its sockets. Cheap to clone; all clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    store: Store,
    ports: Ports,
    heads: Heads,
    /// The heads as far as strands are verified.
    verified: Heads,
    workers: Workers,
    committer: Committer,
    chain: ChainAppender,
    ledger: LedgerAppender,
    publisher: Publisher,
    chain_clock: ChainClock,
    reader: Reader,
    reports: Reports,
    report_history: ReportHistory,
    scrubs: Scrubs,
    key: SecretKey,
    counters: Arc<Counters>,
}

impl Engine {
    /// Starts an engine on an open store. `key` is the key of the store's identity.
    ///
    /// Damage at the ends of strands does not prevent a start: the scrubs know of it, and nothing is signed before
    /// the end of the own strand can be read.
    ///
    /// # Errors
    /// If the heads of the strands cannot be read.
    pub fn start(
        key: SecretKey,
        settings: EngineSettings,
        ports: Ports,
        store: Store,
    ) -> Result<(Self, PublisherThreads), ReadError> {
        let heads = Heads::new(store.snapshot().heads()?);
        let verified = Heads::new(verified_heads(&store, &heads.get())?);
        let counters = Arc::new(Counters::default());
        let workers = Workers::start(settings.workers);
        let hub = Hub::new();
        hub.publish(&[], &heads.get());
        let streams = FanOut::start(hub.clone());
        let committer =
            Committer::new(store.clone(), [&heads, &verified], streams, counters.clone());
        let judge = Arc::clone(&ports.identities);
        let chain_clock = ChainClock::load(store.clone())?;
        let chain = ChainAppender::new(chain::ChainAppenderParts {
            store: store.clone(),
            committer: committer.clone(),
            workers: workers.clone(),
            clock: chain_clock.clone(),
            judge,
            counters: counters.clone(),
        });
        let ledger = LedgerAppender::new(store.clone());
        let reader = Reader::new(store.clone(), heads.clone(), hub, ports.clock.clone())
            .with_verified(verified.clone());
        let (clock, registry) = (ports.clock.clone(), ports.registry.clone());
        let report_history = ReportHistory::new(store.clone(), clock, registry, ledger.clone());
        let scrubs = Scrubs::new(store.clone(), ports.clock.clone(), counters.clone());
        let parts = publisher::PublisherParts {
            key: key.clone(),
            ports: ports.clone(),
            store: store.clone(),
            heads: heads.clone(),
            workers: workers.clone(),
            committer: committer.clone(),
            chain_clock: chain_clock.clone(),
            report_history: report_history.clone(),
            counters: counters.clone(),
        };
        let (publisher, threads) = Publisher::start(settings.publish, parts);
        let met = start_damage::at_start(&store, &heads.get(), &chain_clock, &publisher);
        scrubs.note_start(met, publisher.clone());
        let own_strand = publisher.own_strand().clone();
        let reports =
            Reports::new(key.clone(), store.clone(), ports.clone(), counters.clone(), own_strand);
        let engine = Self {
            store,
            ports,
            heads,
            verified,
            workers,
            committer,
            chain,
            ledger,
            publisher,
            chain_clock,
            reader,
            reports,
            report_history,
            scrubs,
            key,
            counters,
        };
        Ok((engine, threads))
    }

    /// Publishes the envelopes of one request, and returns what is stored for them, in its order.
    ///
    /// # Errors
    /// See [`Publisher::publish`].
    pub async fn publish(
        &self,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<Vec<Bytes>, PublishError> {
        Ok(self.publisher.publish(PublishCaller::default(), envelopes).await?.envelopes)
    }

    /// Returns the publish path alone, which publishes for callers that take turns. A clone of it counts one reference,
    /// and one of the engine counts dozens, each of which all cores share.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Publishes envelopes of this node itself, which may be on reserved topics. Payer reports and attestations
    /// alone are published so.
    ///
    /// # Errors
    /// See [`Publisher::publish`].
    pub async fn publish_own(
        &self,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<Vec<Bytes>, PublishError> {
        Ok(self.publisher.publish_own(envelopes).await?.envelopes)
    }

    /// Checks that publishes can be taken now. Reads are served in any case.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`] with the missing condition.
    pub fn ready_to_publish(&self) -> Result<(), PublishError> {
        self.publisher.ready()
    }

    /// Returns the status of this node's right to sign its own strand.
    #[must_use]
    pub fn own_strand_status(&self) -> OwnStrandStatus {
        self.publisher.own_strand().status()
    }

    /// Checks that this node may sign its own strand and can read its end. Checks no other condition of publishing.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`].
    pub fn may_sign(&self) -> Result<(), PublishError> {
        self.publisher.own_strand().check()?;
        self.publisher.check_own_end()
    }

    /// Checks that this node's clock is not too far ahead of those of others. Checks no other condition of
    /// publishing.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`].
    pub fn check_clock(&self) -> Result<(), PublishError> {
        Ok(self.publisher.own_clock().check(self.ports.clock.now_ns())?)
    }

    /// Returns the lead of this node's clock over each chain, and over the median of the peers. Sources that are not
    /// known are left out.
    #[must_use]
    pub fn clock_leads(&self) -> Vec<ClockLead> {
        self.publisher.own_clock().leads(self.ports.clock.now_ns())
    }

    /// Notes that a block with this time, unix seconds, appeared at the head of a chain at the moment `at`. A
    /// block that was there before this node looked shows no clock, and must not be noted.
    pub fn note_block(&self, chain: &'static str, time_s: u64, at: Instant) {
        let time_s = i64::try_from(time_s).unwrap_or(i64::MAX);
        self.publisher.own_clock().note_block(chain, time_s.saturating_mul(1_000_000_000), at);
    }

    /// Signs nothing until [`replication`] has started, which asks peers for the end of this node's own strand. To be
    /// called before the first task that signs: without peers to ask, a known folder may sign at once. Changes nothing
    /// at a replica, which has no strand.
    pub fn wait_for_replication(&self) {
        if self.store.identity().node != OriginatorId::REPLICA {
            self.publisher.own_strand().wait_for_guard();
        }
    }

    /// Returns once the peers that can be reached have been asked for the end of this node's own strand,
    /// or the node is in quarantine. Cancel safe.
    pub async fn own_strand_asked(&self) {
        self.publisher.own_strand().asked().await;
    }

    /// Takes the operator's confirmation that no other process signs with this node's key. Ends a quarantine, and has
    /// no effect without one.
    pub fn confirm_own_strand(&self, confirmation: OperatorConfirmation) {
        self.publisher.own_strand().note_confirmation(confirmation);
    }

    /// Takes no more publishes, and breaks off a rebuild of projections that commits wait for.
    /// [`PublisherThreads::join`] then waits for the last answer.
    pub fn drain(&self) {
        self.scrubs.end_remake();
        self.publisher.drain();
    }

    /// Returns the way out for queries and subscriptions.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Returns the payer reports on the chain, as of now: see [`UsageScan::new`]. Blocks on the disk, and on other
    /// readers of the reports, such as the publisher.
    ///
    /// # Errors
    /// When an event of the payer report contract cannot be read.
    pub fn payer_reports_on_chain(&self) -> Result<Arc<ChainReports>, ReadError> {
        Ok(self.report_history.now()?.reports)
    }

    /// Returns the reports of misbehaviour that this node keeps.
    #[must_use]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Returns the scrubs of this node.
    #[must_use]
    pub fn scrubs(&self) -> &Scrubs {
        &self.scrubs
    }

    /// Returns the durable heads of all strands.
    #[must_use]
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// Returns the durable and verified heads of all strands. Other nodes, and software that reads whole strands,
    /// get the strands up to them.
    #[must_use]
    pub fn verified_heads(&self) -> &Heads {
        &self.verified
    }

    /// Returns the way into the log for chain events.
    #[must_use]
    pub fn chain_appender(&self) -> ChainAppender {
        self.chain.clone()
    }

    /// Returns the way into the payers' ledger.
    #[must_use]
    pub fn ledger_appender(&self) -> LedgerAppender {
        self.ledger.clone()
    }

    /// Returns the way into the log for changes that are verified already.
    #[must_use]
    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// Returns the threads for computing.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// Returns the store underneath.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the ports that were passed at the start.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Returns the engine's counters.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

/// Returns the heads of a store as far as its strands are verified.
fn verified_heads(store: &Store, heads: &Cursor) -> Result<Cursor, ReadError> {
    let verified = heads.iter().map(|head| store.verified_up_to(head));
    let begun = |it: &Result<EnvelopeId, _>| {
        !matches!(it, Ok(EnvelopeId { sequence: SequenceId::NONE, .. }))
    };
    verified.filter(begun).collect()
}
