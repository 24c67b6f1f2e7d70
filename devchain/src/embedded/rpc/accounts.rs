//! Methods about balances, nonces, code, storage and their proofs at any block, and about the accounts with keys.

use alloy::eips::BlockId;
use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::rpc::types::{EIP1186AccountProofResponse, EIP1186StorageProof};
use alloy::serde::JsonStorageKey;
use alloy::signers::SignerSync;
use revm::DatabaseRef;

use super::args::Args;
use super::blocks::known;
use super::error::{RpcError, failed, invalid};
use super::{Group, RpcResult, answer};
use crate::embedded::chain_core::ChainCore;
use crate::embedded::history::StateAt;
use crate::embedded::node::{EmbeddedNode, wall_clock};
use crate::embedded::state::{AccountState, StateDiff, StateOverlay};

pub(super) const METHODS: Group = &[
    (&["eth_accounts"], accounts),
    (&["eth_getBalance"], |node, args| {
        answer(&account(&node.read(), args.get(0)?, args.optional(1)?)?.balance)
    }),
    (&["eth_getTransactionCount"], nonce),
    (&["eth_getCode"], code),
    (&["eth_getStorageAt"], storage),
    (&["eth_getProof"], proof),
    (&["eth_sign"], |node, args| sign(node, args.get(0)?, args.get(1)?)),
    (&["personal_sign"], |node, args| sign(node, args.get(1)?, args.get(0)?)),
];

/// The largest number of slots in a proof request: go-ethereum's limit.
const PROVED_SLOTS_MAX: usize = 1024;

/// Returns the accounts that may send without a signature: those with a key, then the impersonated ones.
fn accounts(node: &EmbeddedNode, _: &Args<'_>) -> RpcResult {
    let mut accounts: Vec<_> = node.signers.iter().map(|signer| signer.address()).collect();
    let core = node.read();
    let others: Vec<_> =
        core.impersonated.iter().filter(|known| !accounts.contains(known)).collect();
    accounts.extend(others);
    answer(&accounts)
}

/// Signs a message (EIP-191) with one of the chain's keys.
fn sign(node: &EmbeddedNode, address: Address, message: Bytes) -> RpcResult {
    let signer = node.signer(address).ok_or_else(|| {
        invalid(format!("the chain has no key of {address}: eth_accounts lists those it has"))
    })?;
    let signature = signer.sign_message_sync(&message).map_err(failed)?;
    answer(&Bytes::from(signature.as_bytes().to_vec()))
}

/// Proves an account and some of its slots against the state root of a block (EIP-1186).
fn proof(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let address: Address = args.get(0)?;
    let keys: Vec<JsonStorageKey> = args.optional(1)?.unwrap_or_default();
    if keys.len() > PROVED_SLOTS_MAX {
        return Err(invalid(format!(
            "more than {PROVED_SLOTS_MAX} slots: ask again for the others"
        )));
    }
    let id: BlockId = args.optional(2)?.unwrap_or_default();
    let core = node.read();
    let trie = if id.is_pending() {
        let trie = core.history.trie_at(core.history.version());
        trie.after(&core.pending(wall_clock()).diff)
    } else {
        let block = known(&core, id)?;
        core.sealed_trie(&block).ok_or_else(|| {
            failed("this block was made by an older version, and its state root proves nothing")
        })?
    };
    drop(core);
    let slots: Vec<_> = keys.iter().map(|key| key.as_b256().into()).collect();
    let proved = trie.prove(address, &slots);
    let slots = keys.into_iter().zip(proved.slots);
    let slots = slots.map(|(key, (value, nodes))| EIP1186StorageProof::new(key, value, nodes));
    answer(&EIP1186AccountProofResponse {
        address,
        balance: proved.account.balance,
        code_hash: proved.account.code_hash,
        nonce: proved.account.nonce,
        storage_hash: proved.storage_root,
        account_proof: proved.nodes,
        storage_proof: slots.collect(),
    })
}

/// Returns the state after a block, by default after the latest.
fn state(core: &ChainCore, id: Option<BlockId>) -> Result<StateOverlay<StateAt<'_>>, RpcError> {
    let id = id.unwrap_or_default();
    if id.is_pending() {
        return Ok(StateOverlay::with(core.state(), core.pending(wall_clock()).diff.clone()));
    }
    let number = known(core, id)?.header.number;
    Ok(StateOverlay::with(core.state_at(core.version_at(number), number), StateDiff::default()))
}

fn account(
    core: &ChainCore,
    address: Address,
    id: Option<BlockId>,
) -> Result<AccountState, RpcError> {
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
