//! Blocks that are made but not part of the chain yet.

use std::collections::HashSet;
use std::sync::Arc;

use alloy::consensus::Transaction;
use alloy::primitives::{Address, B256, keccak256};
use revm::DatabaseRef;
use revm::context::result::{EVMError, InvalidTransaction};

use super::block::{Block, Executed, Frame, GAS_LIMIT};
use super::evm::{self, Sender};
use super::history::{StateAt, commitment_after};
use super::pool::Pooled;
use super::record::Step;
use super::state::{Diff, Overlay};

/// One block of a draft.
#[derive(Debug)]
pub(super) struct Drafted {
    pub(super) block: Arc<Block>,
    pub(super) diff: Diff,
    /// Transactions that can never be mined any more, and why.
    pub(super) dropped: Vec<(B256, String)>,
}

impl Drafted {
    pub(super) fn timestamp(&self) -> u64 {
        self.block.header.timestamp
    }
}

/// A row of new blocks on one that is part of the chain.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    chain_id: u64,
    branch: u64,
    parent: Arc<Block>,
    commitment: B256,
    below: Overlay<StateAt<'a>>,
    drafted: Option<Drafted>,
    steps: Vec<Step>,
}

impl<'a> Draft<'a> {
    /// Begins on `parent`, whose state is `base` and stands for `commitment`.
    pub(super) fn new(
        chain_id: u64,
        branch: u64,
        parent: Arc<Block>,
        base: StateAt<'a>,
        commitment: B256,
    ) -> Self {
        let (below, steps) = (Overlay::new(base), Vec::new());
        Self { chain_id, branch, parent, commitment, below, drafted: None, steps }
    }

    /// The nonce of an account after the blocks so far.
    pub(super) fn nonce(&self, address: Address) -> u64 {
        let drafted = self.drafted.as_ref().and_then(|last| last.diff.accounts.get(&address));
        let Ok(below) = self.below.account(address);
        drafted.map_or(below, |changed| changed.account).nonce
    }

    /// Makes the next block of those of the candidates that fit, in their order.
    pub(super) fn add(
        &mut self,
        timestamp: u64,
        base_fee: Option<u64>,
        candidates: &[Arc<Pooled>],
    ) -> &Drafted {
        self.settle();
        let frame = Frame {
            parent_hash: self.parent.hash,
            number: self.parent.header.number + 1,
            timestamp,
            base_fee: base_fee.unwrap_or_else(|| self.parent.next_base_fee()),
            prevrandao: keccak256(
                [self.parent.hash.as_slice(), &self.branch.to_be_bytes()].concat(),
            ),
        };
        let header = frame.header();
        let mut running = Running::new(self.chain_id, Overlay::new(&self.below));
        for pooled in candidates {
            running.run(&header, pooled);
        }
        let Running { state, executed, dropped, .. } = running;
        let diff = state.diff;
        let commitment = commitment_after(self.commitment, &diff);
        let block = Arc::new(Block::seal(header, commitment, executed));
        self.commitment = commitment;
        self.parent = block.clone();
        self.drafted.insert(Drafted { block, diff, dropped })
    }

    /// Makes the last block a part of the state that the next one builds on.
    fn settle(&mut self) {
        if let Some(Drafted { block, diff, .. }) = self.drafted.take() {
            self.below.diff.merge(diff.clone());
            self.below.hashes.insert(block.header.number, block.hash);
            self.steps.push(Step::Block { block, diff });
        }
    }

    /// The last block.
    pub(super) fn into_last(self) -> Option<Drafted> {
        self.drafted
    }

    /// All blocks, as steps of the chain.
    pub(super) fn into_steps(mut self) -> Vec<Step> {
        if let Some(Drafted { block, diff, .. }) = self.drafted.take() {
            self.steps.push(Step::Block { block, diff });
        }
        self.steps
    }
}

/// A block while its transactions run.
struct Running<B> {
    chain_id: u64,
    state: Overlay<B>,
    gas_left: u64,
    executed: Vec<Executed>,
    dropped: Vec<(B256, String)>,
    /// Senders one of whose transactions was left out: their later ones have to wait as well.
    held_back: HashSet<Address>,
}

impl<B: DatabaseRef<Error = std::convert::Infallible>> Running<B> {
    fn new(chain_id: u64, state: Overlay<B>) -> Self {
        let (executed, dropped, held_back) = (Vec::new(), Vec::new(), HashSet::new());
        Self { chain_id, state, gas_left: GAS_LIMIT, executed, dropped, held_back }
    }

    fn run(&mut self, header: &alloy::consensus::Header, pooled: &Pooled) {
        let tx = &pooled.tx;
        if self.held_back.contains(&tx.signer()) {
            return;
        }
        if tx.gas_limit() > self.gas_left {
            self.held_back.insert(tx.signer());
            return;
        }
        let sender = if pooled.impersonated { Sender::Impersonated } else { Sender::Signed };
        let block = evm::block_env(header);
        match evm::execute(&self.state, self.chain_id, block, evm::tx_env(tx), sender) {
            Ok(done) => {
                let (success, gas_used) = (done.result.is_success(), done.result.tx_gas_used());
                let logs = if success { done.result.into_logs() } else { Vec::new() };
                self.gas_left -= gas_used;
                let Ok(()) = self.state.absorb(done.state);
                self.executed.push(Executed { tx: tx.clone(), success, gas_used, logs });
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

/// Whether a later block may still take the transaction.
fn waits<E>(error: &EVMError<E>) -> bool {
    matches!(
        error,
        EVMError::Transaction(
            InvalidTransaction::NonceTooHigh { .. } | InvalidTransaction::GasPriceLessThanBasefee
        )
    )
}
