//! Accounts, state changes, and a state with changes applied on top.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, KECCAK256_EMPTY, U256};
use revm::bytecode::Bytecode;
use revm::context_interface::DBErrorMarker;
use revm::state::{AccountInfo, EvmState};
use revm::{Database, DatabaseRef};

/// One account without its storage. A missing account equals the empty account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AccountState {
    pub(super) nonce: u64,
    pub(super) balance: U256,
    pub(super) code_hash: B256,
}

impl AccountState {
    pub(super) const EMPTY: Self =
        Self { nonce: 0, balance: U256::ZERO, code_hash: KECCAK256_EMPTY };

    fn from_evm(info: &AccountInfo) -> Self {
        let code_hash = if info.code_hash.is_zero() { KECCAK256_EMPTY } else { info.code_hash };
        Self { nonce: info.nonce, balance: info.balance, code_hash }
    }

    /// Returns the account in revm's form: `None` if it does not exist (EIP-161).
    pub(super) fn into_evm(self) -> Option<AccountInfo> {
        let Self { nonce, balance, code_hash } = self;
        let info = AccountInfo { nonce, balance, code_hash, code: None, account_id: None };
        (self != Self::EMPTY).then_some(info)
    }
}

impl Default for AccountState {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// The change of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AccountDiff {
    /// The account after the change.
    pub(super) account: AccountState,
    /// True if all slots that are not in `slots` became zero.
    pub(super) wiped: bool,
    /// The new values of changed slots.
    pub(super) slots: BTreeMap<U256, U256>,
}

/// A change of the state. Its maps are ordered, so that equal changes have equal encodings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StateDiff {
    pub(super) accounts: BTreeMap<Address, AccountDiff>,
    /// New code by its hash.
    pub(super) code: BTreeMap<B256, Bytecode>,
}

impl StateDiff {
    /// Adds a later change.
    pub(super) fn merge(&mut self, later: Self) {
        for (address, theirs) in later.accounts {
            let ours = self.accounts.entry(address).or_default();
            if theirs.wiped {
                *ours = theirs;
            } else {
                ours.account = theirs.account;
                ours.slots.extend(theirs.slots);
            }
        }
        self.code.extend(later.code);
    }
}

/// A state with changes applied on top, and the hashes of blocks that it does not contain.
#[derive(Debug)]
pub(super) struct StateOverlay<B> {
    base: B,
    pub(super) diff: StateDiff,
    pub(super) hashes: BTreeMap<u64, B256>,
}

impl<B: DatabaseRef> StateOverlay<B> {
    /// Returns the state without changes.
    pub(super) fn new(base: B) -> Self {
        Self::with(base, StateDiff::default())
    }

    /// Returns the state with a change.
    pub(super) fn with(base: B, diff: StateDiff) -> Self {
        Self { base, diff, hashes: BTreeMap::new() }
    }

    /// Returns an account with the changes applied.
    pub(super) fn account(&self, address: Address) -> Result<AccountState, B::Error> {
        if let Some(ours) = self.diff.accounts.get(&address) {
            return Ok(ours.account);
        }
        let below = self.base.basic_ref(address)?;
        Ok(below.map_or(AccountState::EMPTY, |info| AccountState::from_evm(&info)))
    }

    /// Adds the changes of a transaction that was executed on this state.
    pub(super) fn absorb(&mut self, state: EvmState) -> Result<(), B::Error> {
        for (address, account) in state {
            if !account.is_touched() {
                continue;
            }
            let gone = account.is_selfdestructed();
            let fresh = gone || account.is_created();
            let before = self.account(address)?;
            let after =
                if gone { AccountState::EMPTY } else { AccountState::from_evm(&account.info) };
            let slots: Vec<_> = account
                .changed_storage_slots()
                .filter(|_| !gone)
                .map(|(slot, value)| (*slot, value.present_value()))
                .collect();
            if before == after && !fresh && slots.is_empty() {
                continue;
            }
            if before.code_hash != after.code_hash
                && let Some(code) = account.info.code.filter(|code| !code.is_empty() && !gone)
            {
                self.diff.code.insert(after.code_hash, code);
            }
            let ours = self.diff.accounts.entry(address).or_default();
            ours.account = after;
            if fresh {
                ours.wiped = true;
                ours.slots.clear();
            }
            ours.slots.extend(slots);
        }
        Ok(())
    }
}

impl<B: DatabaseRef> DatabaseRef for StateOverlay<B> {
    type Error = B::Error;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Self::Error> {
        match self.diff.accounts.get(&address) {
            Some(ours) => Ok(ours.account.into_evm()),
            None => self.base.basic_ref(address),
        }
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, Self::Error> {
        match self.diff.code.get(&code_hash) {
            Some(code) => Ok(code.clone()),
            None => self.base.code_by_hash_ref(code_hash),
        }
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, Self::Error> {
        if let Some(ours) = self.diff.accounts.get(&address) {
            if let Some(value) = ours.slots.get(&slot) {
                return Ok(*value);
            }
            if ours.wiped {
                return Ok(U256::ZERO);
            }
        }
        self.base.storage_ref(address, slot)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Self::Error> {
        match self.hashes.get(&number) {
            Some(hash) => Ok(*hash),
            None => self.base.block_hash_ref(number),
        }
    }
}

/// Read access for revm, which writes nothing back.
impl<B: DatabaseRef> Database for &StateOverlay<B> {
    type Error = B::Error;

    fn basic(&mut self, address: Address) -> Result<Option<AccountInfo>, Self::Error> {
        self.basic_ref(address)
    }

    fn code_by_hash(&mut self, code_hash: B256) -> Result<Bytecode, Self::Error> {
        self.code_by_hash_ref(code_hash)
    }

    fn storage(&mut self, address: Address, slot: U256) -> Result<U256, Self::Error> {
        self.storage_ref(address, slot)
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, Self::Error> {
        self.block_hash_ref(number)
    }
}

/// Error of a simulation: a rollback has removed blocks while it read them.
#[derive(Debug, thiserror::Error)]
#[error("the chain was reorganised during this call: ask again")]
pub(super) struct ReorganisedError;

impl DBErrorMarker for ReorganisedError {}
