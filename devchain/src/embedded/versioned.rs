//! The state at one version of a chain that continues to change.

use std::convert::Infallible;

use alloy::primitives::{Address, B256, U256};
use revm::DatabaseRef;
use revm::bytecode::Bytecode;
use revm::state::AccountInfo;

use super::history::StateAt;
use super::node::EmbeddedNode;
use super::state::ReorganisedError;

/// The state at one version of a chain that continues to change. Takes the read lock for each value.
#[derive(Debug, Clone, Copy)]
pub(super) struct VersionedState<'a> {
    pub(super) node: &'a EmbeddedNode,
    /// The version of the state.
    pub(super) version: u64,
    /// The number of the block at that version.
    pub(super) number: u64,
    /// The number of rollbacks at the start. If it has changed, the version may no longer exist.
    pub(super) branch: u64,
}

impl VersionedState<'_> {
    fn with<T>(
        &self,
        read: impl FnOnce(StateAt<'_>) -> Result<T, Infallible>,
    ) -> Result<T, ReorganisedError> {
        let core = self.node.read();
        if core.branch() != self.branch {
            return Err(ReorganisedError);
        }
        let Ok(value) = read(core.state_at(self.version, self.number));
        Ok(value)
    }
}

impl DatabaseRef for VersionedState<'_> {
    type Error = ReorganisedError;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, ReorganisedError> {
        self.with(|state| state.basic_ref(address))
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, ReorganisedError> {
        self.with(|state| state.code_by_hash_ref(code_hash))
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, ReorganisedError> {
        self.with(|state| state.storage_ref(address, slot))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, ReorganisedError> {
        self.with(|state| state.block_hash_ref(number))
    }
}
