//! The genesis block.

use std::sync::Arc;

use alloy::primitives::{B256, Bytes, bytes, keccak256};
use hawser_chain::deploy::CREATE2_DEPLOYER;
use revm::bytecode::Bytecode;

use super::block::{BASE_FEE_MIN, Block, HeaderFields};
use super::chain_core::{ChainCore, TIME_MAX};
use super::record::JournalStep;
use super::settings::{EmbeddedStartError, Genesis};
use super::state::{AccountState, StateDiff};
use super::trie::StateTrie;

/// Code of the deterministic deployer as on public chains. Every genesis contains it, as on other development chains.
const CREATE2_DEPLOYER_CODE: Bytes = bytes!(
    "0x7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf3"
);

/// Returns the genesis as a change from the empty state.
fn state(genesis: &Genesis) -> Result<StateDiff, EmbeddedStartError> {
    let mut diff = StateDiff::default();
    for (address, balance) in &genesis.balances {
        diff.accounts.entry(*address).or_default().account.balance = *balance;
    }
    let deployer = (CREATE2_DEPLOYER, CREATE2_DEPLOYER_CODE);
    for (address, code) in std::iter::once(&deployer).chain(&genesis.code) {
        let code = Bytecode::new_raw_checked(code.clone())
            .map_err(|_| EmbeddedStartError::GenesisCode { address: *address })?;
        let account: &mut AccountState = &mut diff.accounts.entry(*address).or_default().account;
        account.nonce = 1;
        account.code_hash = code.hash_slow();
        diff.code.insert(account.code_hash, code);
    }
    Ok(diff)
}

/// Returns the first step of a chain. `now`, in unix seconds, is its time if the genesis has none.
pub(super) fn step(genesis: &Genesis, now: u64) -> Result<JournalStep, EmbeddedStartError> {
    let diff = state(genesis)?;
    if let Some(time) = genesis.time.filter(|time| *time > TIME_MAX) {
        return Err(EmbeddedStartError::GenesisTime { time });
    }
    let frame = HeaderFields {
        parent_hash: B256::ZERO,
        number: 0,
        timestamp: genesis.time.unwrap_or(now),
        base_fee: BASE_FEE_MIN,
        prevrandao: keccak256(b"genesis"),
    };
    let state_root = StateTrie::default().after(&diff).root();
    let block = Block::seal(frame.header(), state_root, Vec::new());
    Ok(JournalStep::Block { block: Arc::new(block), diff })
}

/// Returns true if the chain began with this genesis.
pub(super) fn matches(genesis: &Genesis, core: &ChainCore) -> Result<bool, EmbeddedStartError> {
    let Some(first) = core.block(0) else { return Ok(false) };
    let state_root = StateTrie::default().after(&state(genesis)?).root();
    let time = genesis.time.is_none_or(|time| time == first.header.timestamp);
    // Version 1 is the state of block 0 in every chain. In a chain of an older journal, the header has another root.
    Ok(time && state_root == core.history.trie_at(1).root())
}
