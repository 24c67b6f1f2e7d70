//! The state of one chain: a plain value that takes the time as an argument and does no I/O.
//!
//! Every durable change is a [`JournalStep`]. The `plan_*` methods compute steps, the owner of the chain writes them to
//! the journal, and [`ChainCore::apply`] applies them. State that need not survive the process (the pool, snapshots,
//! impersonated accounts) is changed directly.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use alloy::consensus::Transaction;
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256};
use parking_lot::Mutex;

use super::admission::{self, SenderState, TransactionError};
use super::block::{BASE_FEE_MAX, BASE_FEE_MIN, Block, MinedTransaction};
use super::builder::{BlockBuilder, BuiltBlock};
use super::feed::{EventFeed, FeedEvent};
use super::history::{History, StateAt};
use super::pool::TransactionPool;
use super::pooled::PooledTransaction;
use super::record::{JournalStep, StateRoots};
use super::state::{AccountState, StateDiff};
use super::trie::StateTrie;

/// The depth of the `safe` block below the head; `finalized` is twice as deep. One and two epochs of Ethereum.
const SAFE_DEPTH: u64 = 32;
/// The largest number of snapshots. A guess: each holds a copy of the pool.
const SNAPSHOTS_MAX: usize = 1024;
/// The latest time of a block, in unix seconds. A guess: beyond any real date, and no sum of times overflows.
pub(super) const TIME_MAX: u64 = 1 << 40;

/// Error of a planned change that is impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PlanError {
    #[error("timestamp {asked} is not after the latest block's ({latest})")]
    TimeNotAfter { asked: u64, latest: u64 },
    #[error("the chain's time cannot go beyond {TIME_MAX}")]
    TimeTooFar,
    #[error("a base fee of {0} wei is more than the highest there can be ({BASE_FEE_MAX})")]
    BaseFeeTooHigh(u64),
    #[error("depth {depth} is more than the chain's height ({height})")]
    TooDeep { depth: u64, height: u64 },
    #[error("a transaction is meant for block {block} of {depth} new ones")]
    NoSuchBlock { block: u64, depth: u64 },
    #[error("transaction {hash} cannot be part of the new blocks: {reason}")]
    NotMined { hash: B256, reason: String },
}

/// A state to which the chain can return.
#[derive(Debug)]
struct Snapshot {
    number: u64,
    version: u64,
    clock_offset: i64,
    pool: TransactionPool,
}

/// The blocks of one chain, the state after each of them, the pool and the clock.
#[derive(Debug)]
pub(super) struct ChainCore {
    pub(super) chain_id: u64,
    blocks: Vec<Arc<Block>>,
    /// The version of the state after each block. As long as `blocks`.
    versions: Vec<u64>,
    by_hash: HashMap<B256, u64>,
    /// Block number and index of each mined transaction.
    places: HashMap<B256, (u64, usize)>,
    pub(super) history: History,
    /// The kind of state roots, which [`Self::apply`] checks.
    pub(super) roots: StateRoots,
    /// The number of rollbacks so far. It enters `prevrandao`, so that no replaced block is made again.
    branch: u64,
    /// The offset of the chain's clock from the machine's, in seconds.
    clock_offset: i64,
    next_timestamp: Option<u64>,
    next_base_fee: Option<u64>,
    pub(super) pool: TransactionPool,
    pub(super) feed: EventFeed,
    snapshots: BTreeMap<u64, Snapshot>,
    snapshots_made: u64,
    pub(super) impersonated: BTreeSet<Address>,
    pub(super) impersonates_all: bool,
    /// The pending block as last computed.
    pending: Mutex<Option<Arc<BuiltBlock>>>,
}

impl ChainCore {
    pub(super) fn new(chain_id: u64) -> Self {
        Self {
            chain_id,
            blocks: Vec::new(),
            versions: Vec::new(),
            by_hash: HashMap::new(),
            places: HashMap::new(),
            history: History::default(),
            roots: StateRoots::Tries,
            branch: 0,
            clock_offset: 0,
            next_timestamp: None,
            next_base_fee: None,
            pool: TransactionPool::default(),
            feed: EventFeed::default(),
            snapshots: BTreeMap::new(),
            snapshots_made: 0,
            impersonated: BTreeSet::new(),
            impersonates_all: false,
            pending: Mutex::default(),
        }
    }

    // Reading.

    /// Returns the latest block. Panics before the genesis block was applied.
    pub(super) fn head(&self) -> &Arc<Block> {
        self.blocks.last().expect("a chain is opened with its genesis block")
    }

    pub(super) fn height(&self) -> u64 {
        self.head().header.number
    }

    pub(super) fn blocks(&self) -> &[Arc<Block>] {
        &self.blocks
    }

    pub(super) fn block(&self, number: u64) -> Option<&Arc<Block>> {
        self.blocks.get(usize::try_from(number).ok()?)
    }

    pub(super) fn block_by_hash(&self, hash: B256) -> Option<&Arc<Block>> {
        self.block(*self.by_hash.get(&hash)?)
    }

    /// Returns the block number of a tag; `None` for `pending`.
    pub(super) fn number(&self, tag: BlockNumberOrTag) -> Option<u64> {
        match tag {
            BlockNumberOrTag::Latest => Some(self.height()),
            BlockNumberOrTag::Earliest => Some(0),
            BlockNumberOrTag::Safe => Some(self.height().saturating_sub(SAFE_DEPTH)),
            BlockNumberOrTag::Finalized => Some(self.height().saturating_sub(2 * SAFE_DEPTH)),
            BlockNumberOrTag::Number(number) => Some(number),
            BlockNumberOrTag::Pending => None,
        }
    }

    /// Returns the block of the chain with this id.
    pub(super) fn find(&self, id: BlockId) -> Option<&Arc<Block>> {
        match id {
            BlockId::Hash(hash) => self.block_by_hash(hash.block_hash),
            BlockId::Number(tag) => self.block(self.number(tag)?),
        }
    }

    /// Returns a transaction's block, its index in it, and its result.
    pub(super) fn mined(&self, hash: B256) -> Option<(&Arc<Block>, usize, &MinedTransaction)> {
        let (number, index) = *self.places.get(&hash)?;
        let block = self.block(number)?;
        Some((block, index, block.transactions.get(index)?))
    }

    /// Returns the version of the state after this block, and 0 for an unknown block.
    pub(super) fn version_at(&self, number: u64) -> u64 {
        let number = usize::try_from(number).ok();
        number.and_then(|number| self.versions.get(number)).copied().unwrap_or_default()
    }

    /// Returns the number of rollbacks so far.
    pub(super) fn branch(&self) -> u64 {
        self.branch
    }

    pub(super) fn state(&self) -> StateAt<'_> {
        self.state_at(self.history.version(), self.height())
    }

    pub(super) fn state_at(&self, version: u64, number: u64) -> StateAt<'_> {
        let count = usize::try_from(number).map_or(usize::MAX, |number| number.saturating_add(1));
        let blocks = self.blocks.get(..count).unwrap_or(&self.blocks);
        StateAt { history: &self.history, version, blocks }
    }

    /// Returns the state at the root in a block's header, without later changes by control methods. `None` if the
    /// header has no state root, as in older versions.
    pub(super) fn sealed_trie(&self, block: &Block) -> Option<StateTrie> {
        let number = block.header.number;
        let first = number.checked_sub(1).map_or(0, |before| self.version_at(before));
        let tries = (first..=self.version_at(number)).map(|version| self.history.trie_at(version));
        tries.into_iter().find(|trie| trie.root() == block.header.state_root)
    }

    pub(super) fn account(&self, address: Address) -> AccountState {
        self.history.account(address, self.history.version())
    }

    /// Returns the nonce for a sender's next transaction, after its waiting ones.
    pub(super) fn next_nonce(&self, address: Address) -> u64 {
        self.pool.next_nonce(address, self.account(address).nonce)
    }

    pub(super) fn next_base_fee(&self) -> u64 {
        self.next_base_fee.unwrap_or_else(|| self.head().next_base_fee())
    }

    pub(super) fn may_impersonate(&self, address: Address) -> bool {
        self.impersonates_all || self.impersonated.contains(&address)
    }

    pub(super) fn clock_offset(&self) -> i64 {
        self.clock_offset
    }

    fn next_timestamp(&self, now: u64) -> u64 {
        let latest = self.head().header.timestamp;
        let clock = now.saturating_add_signed(self.clock_offset);
        self.next_timestamp.unwrap_or_else(|| clock.min(TIME_MAX).max(latest + 1))
    }

    /// Returns the pending block: the next block if it were made now, with all waiting transactions that fit.
    pub(super) fn pending(&self, now: u64) -> Arc<BuiltBlock> {
        let timestamp = self.next_timestamp(now);
        let mut pending = self.pending.lock();
        // A contract may read the block time, so the pending block of another second may differ.
        if let Some(known) = pending.as_ref().filter(|known| known.timestamp() == timestamp) {
            return known.clone();
        }
        let mut draft = self.draft();
        let base_fee = self.next_base_fee();
        draft.add(timestamp, Some(base_fee), &self.ready(base_fee));
        let drafted = Arc::new(draft.into_last().expect("a block was added"));
        pending.insert(drafted).clone()
    }

    /// Discards the pending block after a change of its inputs.
    fn forget_pending(&mut self) {
        *self.pending.get_mut() = None;
    }

    /// Returns the number of waiting transactions that the next blocks can take.
    pub(super) fn ready_count(&self) -> usize {
        self.ready(self.next_base_fee()).len()
    }

    fn ready(&self, base_fee: u64) -> Vec<Arc<PooledTransaction>> {
        self.pool.ready(base_fee, |sender| self.account(sender).nonce)
    }

    fn draft(&self) -> BlockBuilder<'_> {
        let trie = self.history.trie_at(self.history.version());
        BlockBuilder::new(self.chain_id, self.branch, self.head().clone(), self.state(), trie)
    }

    // Planning.

    /// Plans the next block, at `timestamp` or at the chain's time. `now` is the machine's time in unix seconds.
    pub(super) fn plan_block(
        &self,
        now: u64,
        timestamp: Option<u64>,
    ) -> Result<BlockPlan, PlanError> {
        let mut steps = Vec::new();
        let asked = timestamp.or(self.next_timestamp);
        if let Some(asked) = asked {
            self.check_timestamp(asked)?;
            let offset = offset_between(now, asked);
            if offset != self.clock_offset {
                steps.push(JournalStep::ClockOffset(offset));
            }
        }
        let timestamp = asked.unwrap_or_else(|| self.next_timestamp(now));
        let base_fee = self.next_base_fee();
        let mut draft = self.draft();
        draft.add(timestamp, Some(base_fee), &self.ready(base_fee));
        let BuiltBlock { block, diff, dropped } = draft.into_last().expect("a block was added");
        let mined = block.transactions.len();
        steps.push(JournalStep::Block { block, diff });
        Ok(BlockPlan { steps, dropped, mined })
    }

    /// Plans other blocks in place of the last `depth` ones. Each transaction comes with the index of its new block.
    /// New blocks have the timestamps of the blocks that they replace.
    pub(super) fn plan_reorganisation(
        &self,
        depth: u64,
        transactions: &[(Arc<PooledTransaction>, u64)],
    ) -> Result<Vec<JournalStep>, PlanError> {
        let rollback = self.plan_rollback(depth)?;
        let number = self.height() - depth;
        let version = self.version_at(number);
        if let Some((_, block)) = transactions.iter().find(|(_, block)| *block >= depth) {
            return Err(PlanError::NoSuchBlock { block: *block, depth });
        }
        let parent = self.block(number).expect("a block below the head").clone();
        let (base, trie) = (self.state_at(version, number), self.history.trie_at(version));
        let mut draft = BlockBuilder::new(self.chain_id, self.branch + 1, parent, base, trie);
        for index in 0..depth {
            let replaced = self.block(number + 1 + index).expect("a block up to the head");
            let chosen = transactions.iter().filter(|(_, block)| *block == index);
            let chosen: Vec<_> = chosen.map(|(pooled, _)| pooled.clone()).collect();
            let drafted = draft.add(replaced.header.timestamp, None, &chosen);
            if let Some((hash, reason)) = drafted.dropped.first() {
                return Err(PlanError::NotMined { hash: *hash, reason: reason.clone() });
            }
            let mined = |pooled: &&Arc<PooledTransaction>| {
                drafted.block.transactions.iter().any(|mined| mined.hash() == pooled.hash())
            };
            if let Some(left_out) = chosen.iter().find(|pooled| !mined(pooled)) {
                let (hash, sender) = (left_out.hash(), left_out.tx.signer());
                let reason = format!("the sender's nonce would be {}", draft.nonce(sender));
                return Err(PlanError::NotMined { hash, reason });
            }
        }
        Ok([rollback, draft.into_steps()].concat())
    }

    /// Plans the removal of the last `depth` blocks.
    pub(super) fn plan_rollback(&self, depth: u64) -> Result<Vec<JournalStep>, PlanError> {
        let height = self.height();
        let too_deep = PlanError::TooDeep { depth, height };
        let number = height.checked_sub(depth).ok_or(too_deep)?;
        Ok(vec![JournalStep::Rollback { number, version: self.version_at(number) }])
    }

    /// Plans the return to a snapshot. [`Self::revert`] consumes it and all later ones.
    pub(super) fn plan_revert(&self, id: u64) -> Option<Vec<JournalStep>> {
        let Snapshot { number, version, clock_offset, .. } = *self.snapshots.get(&id)?;
        Some(vec![
            JournalStep::Rollback { number, version },
            JournalStep::ClockOffset(clock_offset),
        ])
    }

    /// Plans a move of the clock by `seconds` for `evm_increaseTime`. The next block is at least `seconds` later than
    /// the latest one, which may be ahead of the clock.
    pub(super) fn plan_time_increase(
        &self,
        now: u64,
        seconds: u64,
    ) -> Result<Vec<JournalStep>, PlanError> {
        let clock = now.saturating_add_signed(self.clock_offset);
        let later = clock.max(self.head().header.timestamp).saturating_add(seconds);
        if later > TIME_MAX {
            return Err(PlanError::TimeTooFar);
        }
        Ok(vec![JournalStep::ClockOffset(offset_between(now, later))])
    }

    /// Plans a move of the clock by `seconds`.
    pub(super) fn plan_time_shift(
        &self,
        now: u64,
        seconds: i64,
    ) -> Result<Vec<JournalStep>, PlanError> {
        let offset = self.clock_offset.checked_add(seconds).ok_or(PlanError::TimeTooFar)?;
        if now.saturating_add_signed(offset) > TIME_MAX {
            return Err(PlanError::TimeTooFar);
        }
        Ok(vec![JournalStep::ClockOffset(offset)])
    }

    fn check_timestamp(&self, asked: u64) -> Result<(), PlanError> {
        let latest = self.head().header.timestamp;
        if asked <= latest {
            return Err(PlanError::TimeNotAfter { asked, latest });
        }
        if asked > TIME_MAX {
            return Err(PlanError::TimeTooFar);
        }
        Ok(())
    }

    /// Checks whether a transaction may enter the pool.
    pub(super) fn check(&self, pooled: &PooledTransaction) -> Result<(), TransactionError> {
        let (sender, nonce) = (pooled.tx.signer(), pooled.tx.nonce());
        if self.places.contains_key(&pooled.hash()) {
            return Err(TransactionError::AlreadyKnown);
        }
        let account = self.account(sender);
        let code = self.history.code(account.code_hash);
        let standing = SenderState {
            nonce: account.nonce,
            balance: account.balance,
            code_hash: (!code.is_empty() && !code.is_eip7702()).then_some(account.code_hash),
            queued: self.pool.cost_of_others(sender, nonce),
            base_fee_min: self.next_base_fee.unwrap_or(BASE_FEE_MIN).min(BASE_FEE_MIN),
        };
        admission::check(pooled, &standing)
    }

    // Changing.

    /// Applies a step.
    ///
    /// # Errors
    /// The reason why a step is impossible on this chain. Only a damaged journal contains such a step.
    pub(super) fn apply(&mut self, step: JournalStep) -> Result<(), String> {
        self.forget_pending();
        match step {
            JournalStep::Block { block, diff } => self.apply_block(block, diff)?,
            JournalStep::Change(diff) => {
                self.history.commit(diff);
                let version = self.history.version();
                *self.versions.last_mut().ok_or("a change before the first block")? = version;
            }
            JournalStep::Rollback { number, version } => self.apply_rollback(number, version)?,
            JournalStep::ClockOffset(seconds) => self.clock_offset = seconds,
        }
        Ok(())
    }

    fn apply_block(&mut self, block: Arc<Block>, diff: StateDiff) -> Result<(), String> {
        let number = self.blocks.len() as u64;
        let parent = self.blocks.last().map_or(B256::ZERO, |parent| parent.hash);
        if block.header.number != number || block.header.parent_hash != parent {
            return Err(format!("block {} does not follow the one before", block.header.number));
        }
        self.history.commit(diff);
        let version = self.history.version();
        if self.roots == StateRoots::Tries
            && self.history.trie_at(version).root() != block.header.state_root
        {
            return Err(format!("the state after block {number} is not the one it names"));
        }
        self.versions.push(version);
        self.by_hash.insert(block.hash, number);
        for (index, mined) in block.transactions.iter().enumerate() {
            self.places.insert(mined.hash(), (number, index));
            let sender = mined.executed.tx.signer();
            self.pool.forget_below(sender, self.account(sender).nonce);
        }
        self.next_timestamp = None;
        self.next_base_fee = None;
        self.feed.push(FeedEvent::BlockAdded(block.clone()));
        self.blocks.push(block);
        assert_eq!(self.blocks.len(), self.versions.len(), "each block has a version of the state");
        Ok(())
    }

    fn apply_rollback(&mut self, number: u64, version: u64) -> Result<(), String> {
        let wrong =
            || format!("a rollback to block {number}, version {version}, which never existed");
        let kept = usize::try_from(number).map_err(|_| wrong())?;
        if self.versions.get(kept).is_none_or(|last| *last < version) {
            return Err(wrong());
        }
        while self.blocks.len() > kept + 1 {
            let block = self.blocks.pop().expect("more than one is left");
            self.versions.pop();
            self.by_hash.remove(&block.hash);
            for mined in &block.transactions {
                self.places.remove(&mined.hash());
            }
            self.feed.push(FeedEvent::BlockRemoved(block));
        }
        self.versions[kept] = version;
        self.history.rollback(version);
        self.branch += 1;
        assert_eq!(self.blocks.len(), self.versions.len(), "each block has a version of the state");
        self.next_timestamp = None;
        self.next_base_fee = None;
        self.snapshots.retain(|_, snapshot| snapshot.version <= version);
        Ok(())
    }

    /// Adds a checked transaction to the pool.
    pub(super) fn enqueue(
        &mut self,
        pooled: Arc<PooledTransaction>,
    ) -> Result<(), TransactionError> {
        let hash = pooled.hash();
        self.pool.insert(pooled)?;
        self.forget_pending();
        self.feed.push(FeedEvent::TransactionPending(hash));
        Ok(())
    }

    /// Removes transactions from the pool. Returns the number of those that were in it.
    pub(super) fn drop_waiting(&mut self, hashes: impl IntoIterator<Item = B256>) -> usize {
        self.forget_pending();
        hashes.into_iter().filter(|hash| self.pool.remove(*hash)).count()
    }

    pub(super) fn set_next_timestamp(&mut self, timestamp: u64) -> Result<(), PlanError> {
        self.check_timestamp(timestamp)?;
        self.forget_pending();
        self.next_timestamp = Some(timestamp);
        Ok(())
    }

    pub(super) fn set_next_base_fee(&mut self, base_fee: u64) -> Result<(), PlanError> {
        if base_fee > BASE_FEE_MAX {
            return Err(PlanError::BaseFeeTooHigh(base_fee));
        }
        self.forget_pending();
        self.next_base_fee = Some(base_fee);
        Ok(())
    }

    /// Makes a snapshot and returns its id. Above [`SNAPSHOTS_MAX`], the oldest one is removed.
    pub(super) fn snapshot(&mut self) -> u64 {
        if self.snapshots.len() == SNAPSHOTS_MAX {
            self.snapshots.pop_first();
        }
        let id = self.snapshots_made;
        self.snapshots_made += 1;
        let snapshot = Snapshot {
            number: self.height(),
            version: self.history.version(),
            clock_offset: self.clock_offset,
            pool: self.pool.clone(),
        };
        self.snapshots.insert(id, snapshot);
        id
    }

    /// Returns to a snapshot by the steps of [`Self::plan_revert`].
    pub(super) fn revert(&mut self, id: u64, steps: Vec<JournalStep>) {
        let mut later = self.snapshots.split_off(&id);
        for step in steps {
            self.apply(step).expect("a snapshot names what was there");
        }
        if let Some(snapshot) = later.remove(&id) {
            self.pool = snapshot.pool;
        }
    }

    /// Clears the feed after a replay, before the first client connects.
    pub(super) fn forget_feed(&mut self) {
        self.feed = EventFeed::default();
    }
}

/// The steps of the next block.
#[derive(Debug)]
pub(super) struct BlockPlan {
    pub(super) steps: Vec<JournalStep>,
    /// Transactions to remove from the pool, each with the reason.
    pub(super) dropped: Vec<(B256, String)>,
    /// The number of transactions in the block.
    pub(super) mined: usize,
}

fn offset_between(now: u64, then: u64) -> i64 {
    let (now, then) = (i128::from(now), i128::from(then));
    i64::try_from(then - now).expect("times are far below the limit")
}
