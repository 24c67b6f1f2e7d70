//! Connections to both chains and their contracts.

use alloy::eips::BlockId;
use alloy::primitives::Address;
use alloy::rpc::types::{Log, TransactionReceipt};
use alloy::sol_types::SolCall;

use super::contract::{ChainRole, Contract, Contracts};
use super::error::AdminError;
use super::plan::PlanStep;
use crate::contracts::artifact;
use crate::contracts::describe::{self, Description};
use crate::send::{Call, Chain, ViewError};

/// Connections to the chains, with the addresses of their contracts.
#[derive(Debug, Clone)]
pub struct Network {
    /// The settlement chain, which most operations use.
    pub settlement: Chain,
    /// The app chain; `None` for operations that do not need it.
    pub app: Option<Chain>,
    /// The chain id of the app chain; set even without a connection.
    pub app_id: u64,
    /// The addresses of the contracts.
    pub contracts: Contracts,
}

impl Network {
    /// Returns the connection to a chain.
    ///
    /// # Errors
    /// [`AdminError::NoChain`] if there is none to the app chain.
    pub fn chain(&self, role: ChainRole) -> Result<&Chain, AdminError> {
        match role {
            ChainRole::Settlement => Ok(&self.settlement),
            ChainRole::App => self.app.as_ref().ok_or(AdminError::NoChain(ChainRole::App)),
        }
    }

    /// Returns the address of a contract.
    ///
    /// # Errors
    /// [`AdminError::NoAddress`] if it is not known.
    pub fn at(&self, contract: Contract) -> Result<Address, AdminError> {
        self.contracts.get(contract).ok_or(AdminError::NoAddress(contract))
    }

    /// Refuses a contract of the network as the owner of money or of a node: it could never give them away again.
    pub(super) fn refuse_contract(&self, account: Address) -> Result<(), AdminError> {
        match self.contracts.having(account) {
            Some(contract) => Err(AdminError::OwnContract { contract, account }),
            None => Ok(()),
        }
    }

    /// Decodes and describes the events that known contracts emitted in a transaction.
    #[must_use]
    pub fn events(
        &self,
        role: ChainRole,
        receipt: &TransactionReceipt,
    ) -> Vec<(Contract, Description)> {
        let event = |log: &Log| {
            let is_here = |contract: &Contract| {
                contract.chain() == role && self.contracts.get(*contract) == Some(log.address())
            };
            let mut all = Contract::ALL.into_iter().chain(Contract::OPTIONAL);
            let contract = all.find(is_here)?;
            let artifact = artifact::named(contract.interface())?;
            Some((contract, describe::event(artifact, &log.inner.data)?))
        };
        receipt.logs().iter().filter_map(event).collect()
    }

    /// Calls a view function of a contract.
    pub(super) async fn view<C: SolCall>(
        &self,
        contract: Contract,
        call: &C,
    ) -> Result<C::Return, AdminError> {
        let chain = self.chain(contract.chain())?;
        let viewed = chain.view(self.at(contract)?, call).await;
        viewed.map_err(|source| AdminError::View { contract, source })
    }

    /// Calls a view function of a contract on the state of a block.
    pub(super) async fn view_at<C: SolCall>(
        &self,
        contract: Contract,
        call: &C,
        block: impl Into<BlockId>,
    ) -> Result<C::Return, AdminError> {
        let chain = self.chain(contract.chain())?;
        let viewed = chain.view_at(self.at(contract)?, call, block.into()).await;
        viewed.map_err(|source| AdminError::View { contract, source })
    }

    /// Calls a view function of a contract. Returns `None` if the contract reverts.
    pub(super) async fn try_view<C: SolCall>(
        &self,
        contract: Contract,
        call: &C,
    ) -> Result<Option<C::Return>, AdminError> {
        match self.view(contract, call).await {
            Ok(value) => Ok(Some(value)),
            Err(AdminError::View { source: ViewError::Reverted(_), .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns a step that calls a contract's function.
    pub(super) fn step(
        &self,
        contract: Contract,
        call: &impl SolCall,
    ) -> Result<PlanStep, AdminError> {
        Ok(PlanStep { contract, call: Call::new(self.at(contract)?, call), waits: false })
    }
}
