//! The contracts of both chains, where they are, and how they are read.

use std::collections::BTreeMap;
use std::fmt;

use alloy::primitives::Address;
use alloy::rpc::types::{Log, TransactionReceipt};
use alloy::sol_types::SolCall;

use super::{AdminError, Step};
use crate::addresses::Addresses;
use crate::contracts::artifact;
use crate::contracts::describe::{self, Described};
use crate::send::{Call, Chain, ViewError};

/// One of the two chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainRole {
    /// What must be paid: nodes, rates, payers, reports, all parameters.
    Settlement,
    /// What must have one order: group messages and identity updates.
    App,
}

impl fmt::Display for ChainRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settlement => "settlement chain",
            Self::App => "app chain",
        })
    }
}

/// A contract that people use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are the names of the contracts")]
pub enum Contract {
    NodeRegistry,
    RateRegistry,
    PayerRegistry,
    PayerReportManager,
    DistributionManager,
    SettlementChainGateway,
    SettlementChainParameterRegistry,
    FeeToken,
    UnderlyingFeeToken,
    AppChainGateway,
    AppChainParameterRegistry,
    GroupMessageBroadcaster,
    IdentityUpdateBroadcaster,
}

impl Contract {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::NodeRegistry,
        Self::RateRegistry,
        Self::PayerRegistry,
        Self::PayerReportManager,
        Self::DistributionManager,
        Self::SettlementChainGateway,
        Self::SettlementChainParameterRegistry,
        Self::FeeToken,
        Self::UnderlyingFeeToken,
        Self::AppChainGateway,
        Self::AppChainParameterRegistry,
        Self::GroupMessageBroadcaster,
        Self::IdentityUpdateBroadcaster,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeRegistry => "NodeRegistry",
            Self::RateRegistry => "RateRegistry",
            Self::PayerRegistry => "PayerRegistry",
            Self::PayerReportManager => "PayerReportManager",
            Self::DistributionManager => "DistributionManager",
            Self::SettlementChainGateway => "SettlementChainGateway",
            Self::SettlementChainParameterRegistry => "SettlementChainParameterRegistry",
            Self::FeeToken => "FeeToken",
            Self::UnderlyingFeeToken => "UnderlyingFeeToken",
            Self::AppChainGateway => "AppChainGateway",
            Self::AppChainParameterRegistry => "AppChainParameterRegistry",
            Self::GroupMessageBroadcaster => "GroupMessageBroadcaster",
            Self::IdentityUpdateBroadcaster => "IdentityUpdateBroadcaster",
        }
    }

    /// The artifact that says what can be called. The underlying token is somebody else's: what
    /// is used of it is what every token has.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::UnderlyingFeeToken => "FeeToken",
            other => other.name(),
        }
    }

    /// The chain it is on.
    #[must_use]
    pub fn side(self) -> ChainRole {
        match self {
            Self::AppChainGateway
            | Self::AppChainParameterRegistry
            | Self::GroupMessageBroadcaster
            | Self::IdentityUpdateBroadcaster => ChainRole::App,
            _ => ChainRole::Settlement,
        }
    }

    fn of(self, addresses: &Addresses) -> Address {
        match self {
            Self::NodeRegistry => addresses.node_registry,
            Self::RateRegistry => addresses.rate_registry,
            Self::PayerRegistry => addresses.payer_registry,
            Self::PayerReportManager => addresses.payer_report_manager,
            Self::DistributionManager => addresses.distribution_manager,
            Self::SettlementChainGateway => addresses.settlement_chain_gateway,
            Self::SettlementChainParameterRegistry => addresses.settlement_chain_parameter_registry,
            Self::FeeToken => addresses.fee_token,
            Self::UnderlyingFeeToken => addresses.underlying_fee_token,
            Self::AppChainGateway => addresses.app_chain_gateway,
            Self::AppChainParameterRegistry => addresses.app_chain_parameter_registry,
            Self::GroupMessageBroadcaster => addresses.group_message_broadcaster,
            Self::IdentityUpdateBroadcaster => addresses.identity_update_broadcaster,
        }
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where contracts are, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contracts(BTreeMap<Contract, Address>);

impl Contracts {
    /// Says where one is. What was said before does not count any more.
    pub fn set(&mut self, contract: Contract, address: Address) {
        self.0.insert(contract, address);
    }

    /// Says where several are. What was said before of the same does not count any more.
    pub fn set_all(&mut self, others: &Self) {
        self.0.extend(&others.0);
    }

    /// Where one is.
    #[must_use]
    pub fn get(&self, contract: Contract) -> Option<Address> {
        self.0.get(&contract).copied()
    }
}

impl From<&Addresses> for Contracts {
    fn from(addresses: &Addresses) -> Self {
        Self(Contract::ALL.into_iter().map(|contract| (contract, contract.of(addresses))).collect())
    }
}

/// The chains as far as they are reached, and their contracts.
#[derive(Debug, Clone)]
pub struct Network {
    /// Always there: nearly everything happens on it.
    pub settlement: Chain,
    /// Only for what cannot be done without it.
    pub app: Option<Chain>,
    /// The app chain's id, also when it is not reached.
    pub app_id: u64,
    /// Where the contracts are.
    pub contracts: Contracts,
}

impl Network {
    /// The chain.
    ///
    /// # Errors
    /// When it is the app chain and was not reached.
    pub fn chain(&self, side: ChainRole) -> Result<&Chain, AdminError> {
        match side {
            ChainRole::Settlement => Ok(&self.settlement),
            ChainRole::App => self.app.as_ref().ok_or(AdminError::NoChain(ChainRole::App)),
        }
    }

    /// Where a contract is.
    ///
    /// # Errors
    /// [`AdminError::NoAddress`].
    pub fn at(&self, contract: Contract) -> Result<Address, AdminError> {
        self.contracts.get(contract).ok_or(AdminError::NoAddress(contract))
    }

    /// What known contracts have logged in a transaction, in words.
    #[must_use]
    pub fn events(
        &self,
        side: ChainRole,
        receipt: &TransactionReceipt,
    ) -> Vec<(Contract, Described)> {
        let event = |log: &Log| {
            let is_here = |contract: &Contract| {
                contract.side() == side && self.contracts.get(*contract) == Some(log.address())
            };
            let contract = Contract::ALL.into_iter().find(is_here)?;
            let artifact = artifact::named(contract.interface())?;
            Some((contract, describe::event(artifact, &log.inner.data)?))
        };
        receipt.logs().iter().filter_map(event).collect()
    }

    /// Reads from a contract.
    pub(super) async fn view<C: SolCall>(
        &self,
        contract: Contract,
        call: &C,
    ) -> Result<C::Return, AdminError> {
        let chain = self.chain(contract.side())?;
        let viewed = chain.view(self.at(contract)?, call).await;
        viewed.map_err(|source| AdminError::View { contract, source })
    }

    /// Reads from a contract that may refuse.
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

    /// A step that calls a contract's function.
    pub(super) fn step(&self, contract: Contract, call: &impl SolCall) -> Result<Step, AdminError> {
        Ok(Step { contract, call: Call::new(self.at(contract)?, call), waits: false })
    }
}
