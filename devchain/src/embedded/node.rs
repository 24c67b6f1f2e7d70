//! Shared access to the chain: many readers, one writer.
//!
//! The writer plans steps while readers continue, writes them to the journal, and only then changes the
//! chain, which takes microseconds. A simulation holds no lock while it runs: it reads single values at
//! the version at which it started.

#![expect(
    clippy::disallowed_types,
    reason = "the one lock that has to poison: a chain that a panic left half changed must not be served"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, B256};
use alloy::signers::local::PrivateKeySigner;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::chain_core::ChainCore;
use super::filters::Filters;
use super::genesis;
use super::journal::{Journal, JournalError};
use super::pooled::PooledTransaction;
use super::record::{JournalStep, StateRoots};
use super::rpc::error::{RpcError, failed};
use super::settings::{BlockProduction, EmbeddedSettings, EmbeddedStartError};

/// The current rule by which blocks are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MiningMode {
    /// Makes a block at once for each accepted transaction.
    pub(super) on_demand: bool,
    /// Makes a block at each interval.
    pub(super) every: Option<Duration>,
}

/// The exclusive right to change the chain, with the destination of its steps.
#[derive(Debug)]
pub(super) enum WriteAccess {
    /// The chain is in memory only.
    Memory,
    /// The chain has a journal.
    Folder(Journal),
    /// The chain has been stopped and accepts no more changes.
    Closed,
}

/// A chain that many tasks share.
#[derive(Debug)]
pub(super) struct EmbeddedNode {
    core: RwLock<ChainCore>,
    writer: Mutex<WriteAccess>,
    /// Keys with which the chain signs for clients.
    pub(super) signers: Vec<PrivateKeySigner>,
    /// The filters that clients poll.
    pub(super) filters: Mutex<Filters>,
    /// The rule by which blocks are made; the mining task follows it.
    pub(super) mining: watch::Sender<MiningMode>,
    /// The number of the next event of the feed. Connections with subscriptions wait for it to grow.
    pub(super) happened: watch::Sender<u64>,
    /// The largest block range of `eth_getLogs`.
    pub(super) log_blocks_max: AtomicU64,
}

const BROKEN: &str = "a panic while the chain was changed leaves nothing to serve";

impl EmbeddedNode {
    /// Opens the chain of the settings. Replays its journal if the folder holds one.
    pub(super) fn open(settings: &EmbeddedSettings) -> Result<Self, EmbeddedStartError> {
        let mut core = ChainCore::new(settings.chain_id);
        let mut journal = None;
        if let Some(folder) = &settings.data_dir {
            let apply = |roots: StateRoots, steps: Vec<JournalStep>| {
                core.roots = roots;
                steps.into_iter().try_for_each(|step| core.apply(step))
            };
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
            writer: Mutex::new(journal.map_or(WriteAccess::Memory, WriteAccess::Folder)),
            signers: settings.signers.clone(),
            filters: Mutex::default(),
            mining: watch::Sender::new(mining),
            happened: watch::Sender::new(0),
            log_blocks_max: AtomicU64::new(u64::MAX),
        })
    }

    /// Locks the chain for reading.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, ChainCore> {
        self.core.read().expect(BROKEN)
    }

    /// Returns the chain's private key of an account.
    pub(super) fn signer(&self, address: Address) -> Option<&PrivateKeySigner> {
        self.signers.iter().find(|signer| signer.address() == address)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ChainCore> {
        self.core.write().expect(BROKEN)
    }

    /// Waits for the right to change the chain.
    pub(super) fn writer(&self) -> MutexGuard<'_, WriteAccess> {
        self.writer.lock()
    }

    pub(super) fn log_blocks_max(&self) -> u64 {
        self.log_blocks_max.load(Ordering::Relaxed)
    }

    /// Makes a change that the journal does not contain, and notifies subscribers.
    pub(super) fn change<T>(
        &self,
        _: &mut WriteAccess,
        change: impl FnOnce(&mut ChainCore) -> T,
    ) -> T {
        let mut core = self.write();
        let value = change(&mut core);
        self.happened.send_replace(core.feed.end());
        value
    }

    /// Writes steps to the journal, then lets `carry_out` apply them. The order matters: no client may see
    /// a step that a kill could lose.
    fn record<T>(
        &self,
        writer: &mut WriteAccess,
        steps: Vec<JournalStep>,
        carry_out: impl FnOnce(&mut ChainCore, Vec<JournalStep>) -> T,
    ) -> Result<T, JournalError> {
        match writer {
            WriteAccess::Memory => {}
            WriteAccess::Folder(journal) => {
                journal.append(&steps).inspect_err(
                    |error| tracing::error!(code = "devchain_unwritable", %error, "the chain is not on disk"),
                )?;
            }
            WriteAccess::Closed => return Err(JournalError::Closed),
        }
        Ok(self.change(writer, |core| carry_out(core, steps)))
    }

    /// Writes steps to the journal and applies them.
    pub(super) fn commit(
        &self,
        writer: &mut WriteAccess,
        steps: Vec<JournalStep>,
    ) -> Result<(), JournalError> {
        self.record(writer, steps, |core, steps| {
            for step in steps {
                core.apply(step).expect("steps are planned on the chain as it is");
            }
        })
    }

    /// Makes one block and returns the number of its transactions.
    pub(super) fn mine(
        &self,
        writer: &mut WriteAccess,
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

    /// Adds a transaction to the pool, and makes a block for it if blocks are on demand.
    pub(super) fn send(
        &self,
        writer: &mut WriteAccess,
        pooled: Arc<PooledTransaction>,
    ) -> Result<B256, RpcError> {
        let hash = pooled.hash();
        self.read().check(&pooled)?;
        self.change(writer, |core| core.enqueue(pooled))?;
        if self.mining.borrow().on_demand {
            let mined = self.mine_ready(writer);
            // No client has its hash yet, so the transaction counts as not accepted.
            mined.inspect_err(|_| {
                self.change(writer, |core| core.drop_waiting([hash]));
            })?;
        }
        Ok(hash)
    }

    /// Makes blocks until no waiting transaction can be mined.
    fn mine_ready(&self, writer: &mut WriteAccess) -> Result<(), RpcError> {
        while self.read().ready_count() > 0 {
            if self.mine(writer, None)? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Returns to a snapshot. Returns false if there is none with this id.
    pub(super) fn revert(&self, writer: &mut WriteAccess, id: u64) -> Result<bool, JournalError> {
        let Some(steps) = self.read().plan_revert(id) else { return Ok(false) };
        self.record(writer, steps, |core, steps| core.revert(id, steps))?;
        Ok(true)
    }

    /// Closes the chain: syncs the journal and releases the lock of the folder.
    pub(super) fn close(&self) {
        let writer = std::mem::replace(&mut *self.writer(), WriteAccess::Closed);
        if let WriteAccess::Folder(journal) = writer
            && let Err(error) = journal.sync()
        {
            tracing::warn!(%error, "the chain was not synced to disk when it stopped");
        }
    }
}

/// Returns the machine's time in unix seconds, from which the chain's clock may differ.
pub(super) fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
