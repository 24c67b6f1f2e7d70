//! The state after every block: each account and slot with the versions at which it changed.
//!
//! Only a rollback removes a version, so the state of every block is available. A changed account takes about 60 bytes
//! of memory and a changed slot about 50, computed from the sizes of the types. Their trie nodes take about as much
//! again for each level above them: one kilobyte in a state of thousands of slots.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use alloy::primitives::{Address, B256, KECCAK256_EMPTY, U256};
use revm::DatabaseRef;
use revm::bytecode::Bytecode;
use revm::state::AccountInfo;

use super::block::Block;
use super::state::{AccountState, StateDiff};
use super::trie::StateTrie;

/// The values of one account or slot, each with the first version at which it applies, oldest first.
#[derive(Debug)]
struct Timeline<T>(Vec<(u64, T)>);

impl<T> Default for Timeline<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> Timeline<T> {
    /// Returns the value at a version.
    fn at(&self, version: u64) -> Option<T> {
        match self.0.last() {
            Some((since, value)) if *since <= version => Some(*value),
            _ => {
                let older = self.0.partition_point(|(since, _)| *since <= version);
                older.checked_sub(1).map(|last| self.0[last].1)
            }
        }
    }

    fn latest(&self) -> Option<T> {
        self.0.last().map(|(_, value)| *value)
    }

    fn push(&mut self, version: u64, value: T) {
        debug_assert!(self.0.last().is_none_or(|(since, _)| *since < version), "versions ascend");
        self.0.push((version, value));
    }

    /// Removes the values after a version. Returns true if any value is left.
    fn forget_after(&mut self, version: u64) -> bool {
        while self.0.pop_if(|(since, _)| *since > version).is_some() {}
        !self.0.is_empty()
    }
}

/// All versions of one account and its slots.
#[derive(Debug, Default)]
struct AccountHistory {
    account: Timeline<AccountState>,
    slots: HashMap<U256, Timeline<U256>>,
}

/// The state at one version as a trie, and the entries that it changed, for its rollback.
#[derive(Debug)]
struct VersionChange {
    trie: StateTrie,
    touched: Vec<(Address, Vec<U256>)>,
}

/// Every state of the chain, by version. Version 0 is the empty state.
#[derive(Debug, Default)]
pub(super) struct History {
    entries: HashMap<Address, AccountHistory>,
    code: HashMap<B256, Bytecode>,
    steps: Vec<VersionChange>,
}

impl History {
    /// Returns the latest version: the number of changes so far.
    pub(super) fn version(&self) -> u64 {
        self.steps.len() as u64
    }

    /// Returns the state at a version as a trie.
    pub(super) fn trie_at(&self, version: u64) -> StateTrie {
        let step = usize::try_from(version).ok().and_then(|version| version.checked_sub(1));
        step.and_then(|step| self.steps.get(step)).map(|step| step.trie.clone()).unwrap_or_default()
    }

    /// Adds a change as the next version.
    pub(super) fn commit(&mut self, diff: StateDiff) {
        let trie = self.trie_at(self.version()).after(&diff);
        let version = self.version() + 1;
        self.code.extend(diff.code);
        let mut touched = Vec::with_capacity(diff.accounts.len());
        for (address, change) in diff.accounts {
            let entry = self.entries.entry(address).or_default();
            entry.account.push(version, change.account);
            let mut slots = Vec::with_capacity(change.slots.len());
            if change.wiped {
                for (slot, value) in &mut entry.slots {
                    let set = value.latest().is_some_and(|value| !value.is_zero());
                    if set && !change.slots.contains_key(slot) {
                        value.push(version, U256::ZERO);
                        slots.push(*slot);
                    }
                }
            }
            for (slot, value) in change.slots {
                entry.slots.entry(slot).or_default().push(version, value);
                slots.push(slot);
            }
            touched.push((address, slots));
        }
        self.steps.push(VersionChange { trie, touched });
    }

    /// Removes all versions after `version`.
    pub(super) fn rollback(&mut self, version: u64) {
        while self.version() > version {
            let step = self.steps.pop().expect("a later version is left");
            for (address, slots) in step.touched {
                let Some(entry) = self.entries.get_mut(&address) else { continue };
                for slot in slots {
                    let left =
                        entry.slots.get_mut(&slot).is_some_and(|at| at.forget_after(version));
                    if !left {
                        entry.slots.remove(&slot);
                    }
                }
                if !entry.account.forget_after(version) {
                    self.entries.remove(&address);
                }
            }
        }
    }

    /// Returns an account at a version; an account that does not exist is empty.
    pub(super) fn account(&self, address: Address, version: u64) -> AccountState {
        let entry = self.entries.get(&address);
        entry.and_then(|entry| entry.account.at(version)).unwrap_or(AccountState::EMPTY)
    }

    fn slot(&self, address: Address, slot: U256, version: u64) -> U256 {
        let value = self.entries.get(&address).and_then(|entry| entry.slots.get(&slot));
        value.and_then(|value| value.at(version)).unwrap_or_default()
    }

    /// Returns the code with this hash, empty if no account ever had it.
    pub(super) fn code(&self, code_hash: B256) -> Bytecode {
        if code_hash == KECCAK256_EMPTY {
            return Bytecode::default();
        }
        self.code.get(&code_hash).cloned().unwrap_or_default()
    }
}

/// The state at one version, with the blocks up to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct StateAt<'a> {
    pub(super) history: &'a History,
    pub(super) version: u64,
    pub(super) blocks: &'a [Arc<Block>],
}

impl DatabaseRef for StateAt<'_> {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.history.account(address, self.version).into_evm())
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, Infallible> {
        Ok(self.history.code(code_hash))
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, Infallible> {
        Ok(self.history.slot(address, slot, self.version))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        let block = usize::try_from(number).ok().and_then(|number| self.blocks.get(number));
        Ok(block.map_or(B256::ZERO, |block| block.hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::state::AccountDiff;

    const A: Address = Address::repeat_byte(1);
    const B: Address = Address::repeat_byte(2);

    fn diff(address: Address, nonce: u64, wiped: bool, slots: &[(u64, u64)]) -> StateDiff {
        let slots = slots.iter().map(|(slot, value)| (U256::from(*slot), U256::from(*value)));
        let account = AccountState { nonce, ..AccountState::EMPTY };
        let change = AccountDiff { account, wiped, slots: slots.collect() };
        StateDiff { accounts: [(address, change)].into(), ..StateDiff::default() }
    }

    fn slot(history: &History, version: u64) -> u64 {
        history.slot(A, U256::from(7), version).to()
    }

    #[test]
    fn every_version_keeps_its_state() {
        let mut history = History::default();
        history.commit(diff(A, 1, false, &[(7, 70)]));
        history.commit(diff(B, 1, false, &[]));
        history.commit(diff(A, 2, false, &[(7, 71)]));
        let nonces: Vec<_> = (0..=3).map(|version| history.account(A, version).nonce).collect();
        assert_eq!(nonces, [0, 1, 1, 2]);
        let values: Vec<_> = (0..=3).map(|version| slot(&history, version)).collect();
        assert_eq!(values, [0, 70, 70, 71]);
    }

    #[test]
    fn a_wiped_account_has_no_old_slots() {
        let mut history = History::default();
        history.commit(diff(A, 1, false, &[(7, 70), (8, 80)]));
        history.commit(diff(A, 1, true, &[(8, 81)]));
        assert_eq!(slot(&history, 2), 0);
        assert_eq!(history.slot(A, U256::from(8), 2), U256::from(81));
        assert_eq!(slot(&history, 1), 70, "but it had them before");
    }

    #[test]
    fn a_rollback_leaves_no_trace() {
        let mut history = History::default();
        history.commit(diff(A, 1, false, &[(7, 70)]));
        let root = history.trie_at(1).root();
        history.commit(diff(A, 2, true, &[]));
        history.commit(diff(B, 1, false, &[(1, 1)]));
        assert_ne!(history.trie_at(3).root(), root);
        history.rollback(1);
        assert_eq!((history.version(), history.trie_at(1).root()), (1, root));
        assert_eq!((history.account(A, 1).nonce, slot(&history, 1)), (1, 70));
        assert_eq!(history.entries.len(), 1);
        history.commit(diff(A, 5, false, &[]));
        assert_eq!((history.account(A, 2).nonce, slot(&history, 2)), (5, 70));
    }
}
