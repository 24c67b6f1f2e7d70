//! Control of accounts, with the method names of other development chains.

use alloy::primitives::{Address, B256, Bytes, U256};
use revm::bytecode::Bytecode;

use super::args::{Args, RpcNumber};
use super::error::{RpcError, invalid};
use super::{Group, RpcResult, answer};
use crate::embedded::node::EmbeddedNode;
use crate::embedded::record::JournalStep;
use crate::embedded::state::{AccountDiff, StateDiff};

pub(super) const METHODS: Group = &[
    (&["anvil_setBalance", "hardhat_setBalance", "evm_setAccountBalance"], set_balance),
    (&["anvil_addBalance", "hardhat_addBalance", "evm_addAccountBalance"], add_balance),
    (&["anvil_setNonce", "hardhat_setNonce", "evm_setAccountNonce"], set_nonce),
    (&["anvil_setCode", "hardhat_setCode", "evm_setAccountCode"], set_code),
    (&["anvil_setStorageAt", "hardhat_setStorageAt", "evm_setAccountStorageAt"], set_storage),
    (&["anvil_impersonateAccount", "hardhat_impersonateAccount"], |node, args| {
        impersonate(node, args, true)
    }),
    (&["anvil_stopImpersonatingAccount", "hardhat_stopImpersonatingAccount"], |node, args| {
        impersonate(node, args, false)
    }),
    (&["anvil_autoImpersonateAccount", "hardhat_autoImpersonateAccount"], |node, args| {
        let all = args.get(0)?;
        node.change(&mut node.writer(), |core| core.impersonates_all = all);
        answer(&())
    }),
];

/// The largest number of accounts that are impersonated individually. A guess.
const IMPERSONATED_MAX: usize = 10_000;

/// Changes one account at the head of the chain.
fn change(
    node: &EmbeddedNode,
    address: Address,
    change: impl FnOnce(&mut AccountDiff, &mut StateDiff),
) -> Result<(), RpcError> {
    let mut writer = node.writer();
    let account = node.read().account(address);
    let mut ours = AccountDiff { account, ..AccountDiff::default() };
    let mut diff = StateDiff::default();
    change(&mut ours, &mut diff);
    diff.accounts.insert(address, ours);
    Ok(node.commit(&mut writer, vec![JournalStep::Change(diff)])?)
}

fn set_balance(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let balance: U256 = args.get(1)?;
    change(node, args.get(0)?, |ours, _| ours.account.balance = balance)?;
    answer(&())
}

fn add_balance(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let more: U256 = args.get(1)?;
    change(node, args.get(0)?, |ours, _| {
        ours.account.balance = ours.account.balance.saturating_add(more);
    })?;
    answer(&())
}

fn set_nonce(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let RpcNumber(nonce) = args.get(1)?;
    change(node, args.get(0)?, |ours, _| ours.account.nonce = nonce)?;
    answer(&())
}

fn set_code(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let code: Bytes = args.get(1)?;
    let code = Bytecode::new_raw_checked(code)
        .map_err(|_| invalid("the code begins like a delegation (EIP-7702) and is none"))?;
    change(node, args.get(0)?, |ours, diff| {
        ours.account.code_hash = code.hash_slow();
        diff.code.insert(ours.account.code_hash, code);
    })?;
    answer(&())
}

fn set_storage(node: &EmbeddedNode, args: &Args<'_>) -> RpcResult {
    let (slot, value): (U256, B256) = (args.get(1)?, args.get(2)?);
    change(node, args.get(0)?, |ours, _| {
        ours.slots.insert(slot, value.into());
    })?;
    answer(&true)
}

fn impersonate(node: &EmbeddedNode, args: &Args<'_>, begin: bool) -> RpcResult {
    let address = args.get(0)?;
    node.change(&mut node.writer(), |core| {
        if !begin {
            core.impersonated.remove(&address);
        } else if core.impersonated.len() < IMPERSONATED_MAX {
            core.impersonated.insert(address);
        } else {
            return Err(invalid(format!("{IMPERSONATED_MAX} accounts are impersonated already")));
        }
        Ok(())
    })?;
    answer(&())
}
