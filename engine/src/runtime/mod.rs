//! The tasks and threads that drive the decisions, and do all appends.

mod chain;
mod chain_clock;
mod committer;
pub mod counters;
mod heads;
mod ledger;
mod own_strand;
mod ports;
mod publisher;
pub(crate) mod read;
pub mod replication;
mod workers;

use std::sync::Arc;

use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, SecretKey};
use hawser_storage::{ReadError, Store};

use chain_clock::ChainClock;
use counters::Counters;

pub use chain::{ChainAppendError, ChainAppender, ChainConflict, JudgedUpdates};
pub use committer::Committer;
pub use heads::Heads;
pub use ledger::{Booked, LedgerAppender, LedgerError};
pub use ports::Ports;
pub use publisher::{
    ANSWER_LEN_BYTES_MAX, PublishError, PublishSettings, Publisher, PublisherThreads,
};
pub use read::{Hub, Reader, Subscription, UsedPeriod};
pub use workers::{Priority, Workers};

/// How an engine is to run.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// The publish path.
    pub publish: PublishSettings,
    /// Threads for signatures: as many as the machine has cores.
    pub workers: usize,
}

/// One running node, without its sockets. Cheap to clone; all clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    store: Store,
    ports: Ports,
    heads: Heads,
    workers: Workers,
    committer: Committer,
    chain: ChainAppender,
    ledger: LedgerAppender,
    publisher: Publisher,
    reader: Reader,
    counters: Arc<Counters>,
}

impl Engine {
    /// Starts on an open store. `key` is the key of the store's identity.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn start(
        key: SecretKey,
        settings: EngineSettings,
        ports: Ports,
        store: Store,
    ) -> Result<(Self, PublisherThreads), ReadError> {
        let heads = Heads::new(store.snapshot().heads()?);
        let counters = Arc::new(Counters::default());
        let workers = Workers::start(settings.workers);
        let hub = Hub::new();
        let committer = Committer::new(store.clone(), heads.clone(), hub.clone(), counters.clone());
        let judge = Arc::clone(&ports.identities);
        let clock = ChainClock::load(store.clone())?;
        let chain = ChainAppender::new(chain::ChainAppenderParts {
            store: store.clone(),
            committer: committer.clone(),
            workers: workers.clone(),
            clock: clock.clone(),
            judge,
            counters: counters.clone(),
        })?;
        let ledger = LedgerAppender::new(store.clone());
        let reader = Reader::new(store.clone(), heads.clone(), hub);
        let parts = publisher::PublisherParts {
            key,
            ports: ports.clone(),
            store: store.clone(),
            heads: heads.clone(),
            workers: workers.clone(),
            committer: committer.clone(),
            chain_clock: clock,
            counters: counters.clone(),
        };
        let (publisher, threads) = Publisher::start(settings.publish, parts)?;
        let engine = Self {
            store,
            ports,
            heads,
            workers,
            committer,
            chain,
            ledger,
            publisher,
            reader,
            counters,
        };
        Ok((engine, threads))
    }

    /// Publishes the envelopes of one request; see [`Publisher::publish`].
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(
        &self,
        envelopes: Vec<pb::PayerEnvelope>,
    ) -> Result<Vec<Bytes>, PublishError> {
        self.publisher.publish(envelopes).await
    }

    /// Whether publishes can be taken now; reads go on in any case.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn ready_to_publish(&self) -> Result<(), PublishError> {
        self.publisher.ready()
    }

    /// Takes no more publishes; [`PublisherThreads::join`] then waits for the last answer.
    pub fn drain(&self) {
        self.publisher.drain();
    }

    /// Queries and subscriptions.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// How far each strand is durable here.
    #[must_use]
    pub fn heads(&self) -> &Heads {
        &self.heads
    }

    /// The way into the log for chain events.
    #[must_use]
    pub fn chain_appender(&self) -> ChainAppender {
        self.chain.clone()
    }

    /// The way into the payers' ledger.
    #[must_use]
    pub fn ledger_appender(&self) -> LedgerAppender {
        self.ledger.clone()
    }

    /// The way into the log for what is verified already.
    #[must_use]
    pub fn committer(&self) -> &Committer {
        &self.committer
    }

    /// Threads for computing.
    #[must_use]
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// The store underneath.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What was injected.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}
