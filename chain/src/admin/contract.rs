//! The contracts of both chains, and their addresses.

use std::collections::BTreeMap;
use std::fmt;

use alloy::primitives::Address;

use crate::addresses::{Addresses, GivenAddresses};

/// One of the two chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainRole {
    /// The settlement chain: holds deposits, nodes, rates, payer reports and all parameters.
    Settlement,
    /// The app chain: orders group messages and identity updates.
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

/// A contract that operators administer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are the names of the contracts")]
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
    SettlementChainFactory,
    AppChainFactory,
    DepositSplitter,
}

impl Contract {
    /// All contracts that every network has and whose addresses have a setting of their own.
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

    /// Contracts that a network may lack. Their addresses can only be given in a deployment file.
    pub const OPTIONAL: [Self; 3] =
        [Self::SettlementChainFactory, Self::AppChainFactory, Self::DepositSplitter];

    /// Contracts that can be paused.
    pub const PAUSABLE: [Self; 6] = [
        Self::PayerRegistry,
        Self::DistributionManager,
        Self::SettlementChainGateway,
        Self::AppChainGateway,
        Self::GroupMessageBroadcaster,
        Self::IdentityUpdateBroadcaster,
    ];

    /// Returns the contract with this name. Case and dashes are ignored: `payer-registry` names `PayerRegistry`.
    #[must_use]
    pub fn named(text: &str) -> Option<Self> {
        let plain = text.replace('-', "");
        let mut all = Self::ALL.into_iter().chain(Self::OPTIONAL);
        all.find(|contract| contract.name().eq_ignore_ascii_case(&plain))
    }

    /// Returns the contract's name.
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
            Self::SettlementChainFactory => "SettlementChainFactory",
            Self::AppChainFactory => "AppChainFactory",
            Self::DepositSplitter => "DepositSplitter",
        }
    }

    /// Returns the key of the contract's address in a deployment file.
    #[must_use]
    pub fn key(self) -> String {
        let (first, rest) = self.name().split_at(1);
        first.to_lowercase() + rest
    }

    /// Returns the name of the artifact with the contract's ABI. The underlying token is a stand-in, or a third-party
    /// contract, of which only the standard token functions are used.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::UnderlyingFeeToken => "MockUnderlyingFeeToken",
            Self::SettlementChainFactory | Self::AppChainFactory => "Factory",
            other => other.name(),
        }
    }

    /// Returns the chain of the contract.
    #[must_use]
    pub fn chain(self) -> ChainRole {
        match self {
            Self::AppChainGateway
            | Self::AppChainParameterRegistry
            | Self::GroupMessageBroadcaster
            | Self::IdentityUpdateBroadcaster
            | Self::AppChainFactory => ChainRole::App,
            _ => ChainRole::Settlement,
        }
    }

    fn of(self, addresses: &Addresses) -> Option<Address> {
        Some(match self {
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
            Self::SettlementChainFactory => return addresses.settlement_chain_factory,
            Self::AppChainFactory => return addresses.app_chain_factory,
            Self::DepositSplitter => return addresses.deposit_splitter,
        })
    }
}

impl fmt::Display for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The known contract addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contracts(BTreeMap<Contract, Address>);

impl Contracts {
    /// Sets the address of a contract.
    pub fn set(&mut self, contract: Contract, address: Address) {
        self.0.insert(contract, address);
    }

    /// Copies all addresses from `others`. Addresses that `others` lacks are kept.
    pub fn set_all(&mut self, others: &Self) {
        self.0.extend(&others.0);
    }

    /// Returns the address of a contract, if it is known.
    #[must_use]
    pub fn get(&self, contract: Contract) -> Option<Address> {
        self.0.get(&contract).copied()
    }

    /// Returns the contract with an address, if it is known.
    pub(super) fn having(&self, address: Address) -> Option<Contract> {
        self.0.iter().find(|(_, known)| **known == address).map(|(contract, _)| *contract)
    }
}

impl From<&Addresses> for Contracts {
    fn from(addresses: &Addresses) -> Self {
        let all = Contract::ALL.into_iter().chain(Contract::OPTIONAL);
        Self(all.filter_map(|contract| Some((contract, contract.of(addresses)?))).collect())
    }
}

impl From<&GivenAddresses> for Contracts {
    fn from(given: &GivenAddresses) -> Self {
        let all = Contract::ALL.into_iter().chain(Contract::OPTIONAL);
        Self(all.filter_map(|contract| Some((contract, given.address(&contract.key())?))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_is_found_by_either_spelling_of_its_name() {
        for contract in Contract::ALL.into_iter().chain(Contract::OPTIONAL) {
            assert_eq!(Contract::named(contract.name()), Some(contract));
            assert_eq!(Contract::named(&contract.name().to_lowercase()), Some(contract));
        }
        assert_eq!(Contract::named("payer-registry"), Some(Contract::PayerRegistry));
        for other in ["", "-", "registry", "payer registry", "payer_registry"] {
            assert_eq!(Contract::named(other), None, "{other}");
        }
    }

    #[test]
    fn a_deployment_without_a_factory_has_the_other_contracts() {
        let mut addresses = Addresses::of_environment("testnet").unwrap();
        (addresses.app_chain_factory, addresses.deposit_splitter) = (None, None);
        let contracts = Contracts::from(&addresses);
        assert_eq!(contracts.get(Contract::AppChainFactory), None);
        assert!(Contract::ALL.into_iter().all(|contract| contracts.get(contract).is_some()));
    }

    #[test]
    fn the_contracts_of_a_file_are_the_same_with_and_without_its_completion() {
        for name in Addresses::ENVIRONMENTS {
            let addresses = Addresses::of_environment(name).unwrap();
            let given = GivenAddresses::parse(&addresses.to_json().to_string()).unwrap();
            assert_eq!(Contracts::from(&given), Contracts::from(&addresses), "{name}");
        }
        assert_eq!(Contracts::from(&GivenAddresses::default()), Contracts::default());
    }
}
