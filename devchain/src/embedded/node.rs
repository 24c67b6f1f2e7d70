//! Who owns the chain: many readers, one writer, and what they share.
//!
//! A writer works out what is to happen while readers go on, writes it to the journal, and only then
//! changes the chain, which takes microseconds. A simulation holds no lock while it runs: it reads
//! value by value, at the version that it began with.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::B256;
use tokio::sync::watch;

use super::core::Core;
use super::filters::Filters;
use super::genesis;
use super::journal::{Journal, JournalError};
use super::pooled::PooledTransaction;
use super::record::JournalStep;
use super::rpc::error::{RpcError, failed};
use super::settings::{BlockProduction, EmbeddedSettings, EmbeddedStartError};

/// When blocks are made, as it was set last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MiningMode {
    /// At once for each accepted transaction.
    pub(super) on_demand: bool,
    /// At an interval.
    pub(super) every: Option<Duration>,
}

/// The right to change the chain, and what changes are written to first.
#[derive(Debug)]
pub(super) enum ChainWriter {
    /// Nothing: the chain lives in memory.
    Memory,
    /// A file.
    Folder(Journal),
    /// The chain has ended: nothing changes it any more.
    Closed,
}

/// A chain that is shared.
#[derive(Debug)]
pub(super) struct EmbeddedNode {
    core: RwLock<Core>,
    writer: Mutex<ChainWriter>,
    pub(super) filters: Mutex<Filters>,
    pub(super) mining: watch::Sender<MiningMode>,
    /// The number of the next notice: whoever follows waits for it to grow.
    pub(super) happened: watch::Sender<u64>,
    /// How many blocks `eth_getLogs` goes through at most.
    pub(super) log_blocks_max: AtomicU64,
}

const BROKEN: &str = "a panic while the chain was changed leaves nothing to serve";

impl EmbeddedNode {
    /// Opens the chain that the settings describe, from its folder if it is there.
    pub(super) fn open(settings: &EmbeddedSettings) -> Result<Self, EmbeddedStartError> {
        let mut core = Core::new(settings.chain_id);
        let mut journal = None;
        if let Some(folder) = &settings.data_dir {
            let apply =
                |steps: Vec<JournalStep>| steps.into_iter().try_for_each(|step| core.apply(step));
            journal = Some(Journal::open(folder, settings.chain_id, apply)?);
        }
        let fresh = core.blocks().is_empty();
        if fresh {
            let step = genesis::step(&settings.genesis, wall_clock())?;
            if let Some(journal) = &mut journal {
                journal.append(std::slice::from_ref(&step))?;
            }
            core.apply(step).expect("a genesis block fits an empty chain");
        } else if let Some(journal) = &journal
            && !genesis::matches(&settings.genesis, &core)?
        {
            return Err(JournalError::OtherGenesis { path: journal.path().to_owned() }.into());
        }
        core.forget_feed();
        let mining = match settings.blocks {
            BlockProduction::OnDemand => MiningMode { on_demand: true, every: None },
            BlockProduction::Every(Duration::ZERO) => return Err(EmbeddedStartError::NoInterval),
            BlockProduction::Every(interval) => {
                MiningMode { on_demand: false, every: Some(interval) }
            }
        };
        Ok(Self {
            core: RwLock::new(core),
            writer: Mutex::new(journal.map_or(ChainWriter::Memory, ChainWriter::Folder)),
            filters: Mutex::default(),
            mining: watch::Sender::new(mining),
            happened: watch::Sender::new(0),
            log_blocks_max: AtomicU64::new(u64::MAX),
        })
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().expect(BROKEN)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Core> {
        self.core.write().expect(BROKEN)
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, ChainWriter> {
        self.writer.lock().expect(BROKEN)
    }

    pub(super) fn log_blocks_max(&self) -> u64 {
        self.log_blocks_max.load(Ordering::Relaxed)
    }

    /// Changes what is not written down.
    pub(super) fn change<T>(&self, _: &mut ChainWriter, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.write();
        let value = change(&mut core);
        self.happened.send_replace(core.feed.end());
        value
    }

    /// Writes steps down and then lets `carry_out` apply them.
    fn record<T>(
        &self,
        writer: &mut ChainWriter,
        steps: Vec<JournalStep>,
        carry_out: impl FnOnce(&mut Core, Vec<JournalStep>) -> T,
    ) -> Result<T, JournalError> {
        match writer {
            ChainWriter::Memory => {}
            ChainWriter::Folder(journal) => {
                journal
                    .append(&steps)
                    .inspect_err(|error| tracing::error!(%error, "not written"))?;
            }
            ChainWriter::Closed => return Err(JournalError::Closed),
        }
        Ok(self.change(writer, |core| carry_out(core, steps)))
    }

    pub(super) fn commit(
        &self,
        writer: &mut ChainWriter,
        steps: Vec<JournalStep>,
    ) -> Result<(), JournalError> {
        self.record(writer, steps, |core, steps| {
            for step in steps {
                core.apply(step).expect("steps are planned on the chain as it is");
            }
        })
    }

    /// Makes one block, and says how many transactions it took.
    pub(super) fn mine(
        &self,
        writer: &mut ChainWriter,
        timestamp: Option<u64>,
    ) -> Result<usize, RpcError> {
        let plan = self.read().plan_block(wall_clock(), timestamp).map_err(failed)?;
        self.commit(writer, plan.steps)?;
        if !plan.dropped.is_empty() {
            let dropped = plan.dropped.into_iter().map(|(hash, _)| hash);
            self.change(writer, |core| core.drop_waiting(dropped));
        }
        Ok(plan.mined)
    }

    /// Lets a transaction wait, or makes a block for it if blocks are on demand.
    pub(super) fn send(
        &self,
        writer: &mut ChainWriter,
        pooled: Arc<PooledTransaction>,
    ) -> Result<B256, RpcError> {
        let hash = pooled.hash();
        self.read().check(&pooled)?;
        self.change(writer, |core| core.enqueue(pooled))?;
        if self.mining.borrow().on_demand {
            let mined = self.mine_ready(writer);
            // Nobody was told of it yet: it was not accepted.
            mined.inspect_err(|_| {
                self.change(writer, |core| core.drop_waiting([hash]));
            })?;
        }
        Ok(hash)
    }

    fn mine_ready(&self, writer: &mut ChainWriter) -> Result<(), RpcError> {
        while self.read().ready_count() > 0 {
            if self.mine(writer, None)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Goes back to a snapshot, or says that there is none with this number.
    pub(super) fn revert(&self, writer: &mut ChainWriter, id: u64) -> Result<bool, JournalError> {
        let Some(steps) = self.read().plan_revert(id) else { return Ok(false) };
        self.record(writer, steps, |core, steps| core.revert(id, steps))?;
        Ok(true)
    }

    /// Syncs the folder and lets another process have it.
    pub(super) fn close(&self) {
        let writer = std::mem::replace(&mut *self.writer(), ChainWriter::Closed);
        if let ChainWriter::Folder(journal) = writer
            && let Err(error) = journal.sync()
        {
            tracing::warn!(%error, "the chain was not synced at its end");
        }
    }
}

/// The machine's time in seconds. The chain's clock is ahead of it by what was asked for.
pub(super) fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
