//! Builds blocks that are not yet part of the chain.

use std::collections::HashSet;
use std::sync::Arc;

use alloy::consensus::Transaction;
use alloy::primitives::{Address, B256, keccak256};
use revm::DatabaseRef;
use revm::context::result::{EVMError, InvalidTransaction};

use super::block::{Block, ExecutedTransaction, GAS_LIMIT, HeaderFields};
use super::evm::{self, SenderKind};
use super::history::StateAt;
use super::pooled::PooledTransaction;
use super::record::JournalStep;
use super::state::{StateDiff, StateOverlay};
use super::trie::StateTrie;

/// A new block with its effects.
#[derive(Debug)]
pub(super) struct BuiltBlock {
    pub(super) block: Arc<Block>,
    pub(super) diff: StateDiff,
    /// Transactions that can no longer be mined, each with the reason.
    pub(super) dropped: Vec<(B256, String)>,
}

impl BuiltBlock {
    pub(super) fn timestamp(&self) -> u64 {
        self.block.header.timestamp
    }
}

/// A builder of consecutive new blocks on top of a block of the chain.
#[derive(Debug)]
pub(super) struct BlockBuilder<'a> {
    chain_id: u64,
    branch: u64,
    parent: Arc<Block>,
    /// The state after `parent`.
    trie: StateTrie,
    /// The state after all new blocks except the last.
    below: StateOverlay<StateAt<'a>>,
    drafted: Option<BuiltBlock>,
    steps: Vec<JournalStep>,
}

impl<'a> BlockBuilder<'a> {
    /// Starts on `parent`. `base` is the state after it, and `trie` the same state as a trie.
    pub(super) fn new(
        chain_id: u64,
        branch: u64,
        parent: Arc<Block>,
        base: StateAt<'a>,
        trie: StateTrie,
    ) -> Self {
        let (below, steps) = (StateOverlay::new(base), Vec::new());
        Self { chain_id, branch, parent, trie, below, drafted: None, steps }
    }

    /// Returns the nonce of an account after the blocks built so far.
    pub(super) fn nonce(&self, address: Address) -> u64 {
        let drafted = self.drafted.as_ref().and_then(|last| last.diff.accounts.get(&address));
        let Ok(below) = self.below.account(address);
        drafted.map_or(below, |changed| changed.account).nonce
    }

    /// Builds the next block from the candidates that fit, in their order. If
    /// `base_fee` is `None`, it follows EIP-1559.
    pub(super) fn add(
        &mut self,
        timestamp: u64,
        base_fee: Option<u64>,
        candidates: &[Arc<PooledTransaction>],
    ) -> &BuiltBlock {
        self.settle();
        let frame = HeaderFields {
            parent_hash: self.parent.hash,
            number: self.parent.header.number + 1,
            timestamp,
            base_fee: base_fee.unwrap_or_else(|| self.parent.next_base_fee()),
            prevrandao: keccak256(
                [self.parent.hash.as_slice(), &self.branch.to_be_bytes()].concat(),
            ),
        };
        let header = frame.header();
        let mut running = BlockExecution::new(self.chain_id, StateOverlay::new(&self.below));
        for pooled in candidates {
            running.run(&header, pooled);
        }
        let BlockExecution { state, executed, dropped, .. } = running;
        let diff = state.diff;
        self.trie = self.trie.after(&diff);
        let block = Arc::new(Block::seal(header, self.trie.root(), executed));
        self.parent = block.clone();
        self.drafted.insert(BuiltBlock { block, diff, dropped })
    }

    /// Merges the last block into the state on which the next one builds.
    fn settle(&mut self) {
        if let Some(BuiltBlock { block, diff, .. }) = self.drafted.take() {
            self.below.diff.merge(diff.clone());
            self.below.hashes.insert(block.header.number, block.hash);
            self.steps.push(JournalStep::Block { block, diff });
        }
    }

    /// Returns the last block.
    pub(super) fn into_last(self) -> Option<BuiltBlock> {
        self.drafted
    }

    /// Returns all new blocks as steps of the chain.
    pub(super) fn into_steps(mut self) -> Vec<JournalStep> {
        if let Some(BuiltBlock { block, diff, .. }) = self.drafted.take() {
            self.steps.push(JournalStep::Block { block, diff });
        }
        self.steps
    }
}

/// The execution of one block.
struct BlockExecution<B> {
    chain_id: u64,
    state: StateOverlay<B>,
    gas_left: u64,
    executed: Vec<ExecutedTransaction>,
    dropped: Vec<(B256, String)>,
    /// Senders with a transaction that was left out. Their later transactions have to wait too, to avoid a nonce gap.
    held_back: HashSet<Address>,
}

impl<B: DatabaseRef<Error = std::convert::Infallible>> BlockExecution<B> {
    fn new(chain_id: u64, state: StateOverlay<B>) -> Self {
        let (executed, dropped, held_back) = (Vec::new(), Vec::new(), HashSet::new());
        Self { chain_id, state, gas_left: GAS_LIMIT, executed, dropped, held_back }
    }

    fn run(&mut self, header: &alloy::consensus::Header, pooled: &PooledTransaction) {
        let tx = &pooled.tx;
        if self.held_back.contains(&tx.signer()) {
            return;
        }
        if tx.gas_limit() > self.gas_left {
            self.held_back.insert(tx.signer());
            return;
        }
        let sender =
            if pooled.impersonated { SenderKind::Impersonated } else { SenderKind::Signed };
        let block = evm::block_env(header);
        match evm::execute(&self.state, self.chain_id, block, evm::tx_env(tx), sender) {
            Ok(done) => {
                let (success, gas_used) = (done.result.is_success(), done.result.tx_gas_used());
                let logs = if success { done.result.into_logs() } else { Vec::new() };
                self.gas_left -= gas_used;
                let Ok(()) = self.state.absorb(done.state);
                self.executed.push(ExecutedTransaction { tx: tx.clone(), success, gas_used, logs });
            }
            Err(error) => {
                self.held_back.insert(tx.signer());
                if !waits(&error) {
                    tracing::debug!(tx = %pooled.hash(), %error, "dropped a transaction");
                    self.dropped.push((pooled.hash(), error.to_string()));
                }
            }
        }
    }
}

/// Returns true if a later block may still take the transaction.
fn waits<E>(error: &EVMError<E>) -> bool {
    matches!(
        error,
        EVMError::Transaction(
            InvalidTransaction::NonceTooHigh { .. } | InvalidTransaction::GasPriceLessThanBasefee
        )
    )
}
