//! Balances, nonces, code and storage, at any block.

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, U64, U256};
use revm::DatabaseRef;

use super::args::Args;
use super::blocks::known;
use super::error::RpcError;
use super::{Group, RpcResult, answer};
use crate::embedded::core::Core;
use crate::embedded::history::StateAt;
use crate::embedded::node::{EmbeddedNode, wall_clock};
use crate::embedded::state::{AccountState, StateDiff, StateOverlay};

pub(super) const METHODS: Group = &[
    (&["eth_accounts"], |node, _| answer(&node.read().impersonated)),
    (&["eth_getBalance"], |node, args| {
        answer(&account(&node.read(), args.get(0)?, args.optional(1)?)?.balance)
    }),
    (&["eth_getTransactionCount"], nonce),
    (&["eth_getCode"], code),
    (&["eth_getStorageAt"], storage),
];

/// Returns the state after a block, by default after the latest.
fn state(core: &Core, id: Option<BlockId>) -> Result<StateOverlay<StateAt<'_>>, RpcError> {
    let id = id.unwrap_or_default();
    if id.is_pending() {
        return Ok(StateOverlay::with(core.state(), core.pending(wall_clock()).diff.clone()));
    }
    let number = known(core, id)?.header.number;
    Ok(StateOverlay::with(core.state_at(core.version_at(number), number), StateDiff::default()))
}

fn account(core: &Core, address: Address, id: Option<BlockId>) -> Result<AccountState, RpcError> {
    let Ok(account) = state(core, id)?.account(address);
    Ok(account)
}

fn nonce(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let (address, id) = (args.get(0)?, args.optional::<BlockId>(1)?);
    let core = node.read();
    if id.is_some_and(|id| id.is_pending()) {
        return answer(&U64::from(core.next_nonce(address)));
    }
    answer(&U64::from(account(&core, address, id)?.nonce))
}

fn code(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let (address, id) = (args.get(0)?, args.optional(1)?);
    let core = node.read();
    let state = state(&core, id)?;
    let Ok(account) = state.account(address);
    if account.code_hash == AccountState::EMPTY.code_hash {
        return answer(&Bytes::new());
    }
    let Ok(code) = state.code_by_hash_ref(account.code_hash);
    answer(&code.original_bytes())
}

fn storage(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let (address, slot, id) = (args.get(0)?, args.get::<U256>(1)?, args.optional(2)?);
    let core = node.read();
    let Ok(value) = state(&core, id)?.storage_ref(address, slot);
    answer(&B256::from(value))
}
