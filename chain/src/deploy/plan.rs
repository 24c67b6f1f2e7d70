//! The plan of a deployment: contracts of each chain, their order and their addresses.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::abi::TokenSeq;
use alloy::sol_types::{SolCall as _, SolType, SolValue};

use super::layout::{Layout, contract, salt};
use crate::addresses::Addresses;
use crate::contracts::{AppChainParameterRegistry, NodeRegistry, SettlementChainParameterRegistry};

/// All contracts of a deployment, with their addresses.
///
/// Two pairs need each other's addresses before they exist: factory and parameter registry, and the two gateways.
#[derive(Debug)]
pub struct DeploymentPlan {
    pub(super) layout: Layout,
    pub(super) settlement: Vec<PlannedContract>,
    pub(super) app: Vec<PlannedContract>,
    /// Addresses of the contracts.
    pub addresses: Addresses,
    /// The inbox where the settlement chain's gateway leaves messages for the app chain.
    pub inbox: Address,
}

/// A contract that the factory deploys.
#[derive(Debug)]
pub(super) struct PlannedContract {
    pub(super) name: &'static str,
    pub(super) init_code: Bytes,
    /// Address of its code.
    pub(super) implementation: Address,
    /// Its proxy; few contracts have none.
    pub(super) proxy: Option<PlannedProxy>,
}

/// The proxy in front of a contract.
#[derive(Debug)]
pub(super) struct PlannedProxy {
    pub(super) salt: B256,
    pub(super) address: Address,
    /// Data of the first call through it.
    pub(super) initialize: Bytes,
}

impl PlannedContract {
    /// Returns the address that callers use.
    fn address(&self) -> Address {
        self.proxy.as_ref().map_or(self.implementation, |front| front.address)
    }
}

/// Collects the contracts of one chain in order.
struct PlanBuilder<'a> {
    layout: &'a Layout,
    pieces: Vec<PlannedContract>,
}

impl<'a> PlanBuilder<'a> {
    fn new(layout: &'a Layout) -> Self {
        Self { layout, pieces: Vec::new() }
    }

    /// Adds a contract without a proxy.
    fn plain<A: SolValue>(&mut self, name: &'static str, arguments: &A) -> Address
    where
        for<'t> <A::SolType as SolType>::Token<'t>: TokenSeq<'t>,
    {
        self.push(name, contract(name).init_code(arguments), None)
    }

    /// Adds a contract behind a proxy with the salt `<name>_0`.
    fn proxied<A: SolValue>(&mut self, name: &'static str, arguments: &A) -> Address
    where
        for<'t> <A::SolType as SolType>::Token<'t>: TokenSeq<'t>,
    {
        // All contracts share the signature of the call that initialises them.
        let initialize = NodeRegistry::initializeCall {}.abi_encode().into();
        let front = self.front(&format!("{name}_0"), initialize);
        self.push(name, contract(name).init_code(arguments), Some(front))
    }

    fn front(&self, salt_name: &str, initialize: Bytes) -> PlannedProxy {
        let salt = salt(salt_name);
        PlannedProxy { salt, address: self.layout.proxy(salt), initialize }
    }

    fn push(
        &mut self,
        name: &'static str,
        init_code: Bytes,
        proxy: Option<PlannedProxy>,
    ) -> Address {
        let implementation = self.layout.implementation(&init_code);
        let piece = PlannedContract { name, init_code, implementation, proxy };
        let address = piece.address();
        self.pieces.push(piece);
        address
    }
}

/// Salt of the parameter registries. Both chains share it, so that the registries have one address, as in the deployed
/// networks.
const REGISTRY: &str = "ParameterRegistry_0";
/// Salt of the gateways, shared for the same reason.
const GATEWAY: &str = "Gateway_0";

impl DeploymentPlan {
    /// Plans the contracts of a network. `relayer` may release withdrawals from the inbox.
    #[must_use]
    pub fn new(deployer: Address, settlement_id: u64, app_id: u64, relayer: Address) -> Self {
        let layout = Layout::new(deployer);
        let registry = layout.proxy(salt(REGISTRY));
        let gateway = layout.proxy(salt(GATEWAY));

        let mut on = PlanBuilder::new(&layout);
        let admins = SettlementChainParameterRegistry::initializeCall { admins_: vec![deployer] };
        let front = on.front(REGISTRY, admins.abi_encode().into());
        let name = "SettlementChainParameterRegistry";
        on.push(name, contract(name).init_code(&()), Some(front));
        let underlying = on.proxied("MockUnderlyingFeeToken", &(registry,));
        let token = on.proxied("FeeToken", &(registry, underlying));
        let payers = on.proxied("PayerRegistry", &(registry, token));
        let rates = on.proxied("RateRegistry", &(registry,));
        let nodes = on.proxied("NodeRegistry", &(registry,));
        let reports = on.proxied("PayerReportManager", &(registry, nodes, payers));
        let shares = on.proxied("DistributionManager", &(registry, nodes, reports, payers, token));
        let front = on.front(GATEWAY, NodeRegistry::initializeCall {}.abi_encode().into());
        let name = "SettlementChainGateway";
        on.push(name, contract(name).init_code(&(registry, gateway, token)), Some(front));
        let inbox = on.plain("ERC20Inbox", &(token, relayer));
        let splitter = on.plain("DepositSplitter", &(token, payers, gateway, U256::from(app_id)));
        let settlement = on.pieces;

        let mut on = PlanBuilder::new(&layout);
        let admins = AppChainParameterRegistry::initializeCall { admins_: vec![gateway] };
        let front = on.front(REGISTRY, admins.abi_encode().into());
        let name = "AppChainParameterRegistry";
        on.push(name, contract(name).init_code(&()), Some(front));
        let groups = on.proxied("GroupMessageBroadcaster", &(registry,));
        let identities = on.proxied("IdentityUpdateBroadcaster", &(registry,));
        let front = on.front(GATEWAY, NodeRegistry::initializeCall {}.abi_encode().into());
        let name = "AppChainGateway";
        on.push(name, contract(name).init_code(&(registry, gateway)), Some(front));
        let app = on.pieces;

        let addresses = Addresses {
            app_chain_id: app_id,
            app_chain_deployment_block: 0,
            group_message_broadcaster: groups,
            identity_update_broadcaster: identities,
            app_chain_gateway: gateway,
            app_chain_parameter_registry: registry,
            settlement_chain_id: settlement_id,
            settlement_chain_deployment_block: 0,
            node_registry: nodes,
            rate_registry: rates,
            payer_registry: payers,
            payer_report_manager: reports,
            distribution_manager: shares,
            settlement_chain_gateway: gateway,
            settlement_chain_parameter_registry: registry,
            fee_token: token,
            underlying_fee_token: underlying,
            deposit_splitter: Some(splitter),
            app_chain_factory: Some(layout.factory),
            settlement_chain_factory: Some(layout.factory),
            deployer: Some(deployer),
        };
        Self { layout, settlement, app, addresses, inbox }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> DeploymentPlan {
        let [deployer, relayer] = [1, 2].map(Address::repeat_byte);
        DeploymentPlan::new(deployer, 31337, 31338, relayer)
    }

    #[test]
    fn every_piece_has_its_own_place() {
        let plan = plan();
        for pieces in [&plan.settlement, &plan.app] {
            let mut places: Vec<_> = pieces.iter().map(PlannedContract::address).collect();
            places.extend(pieces.iter().filter(|p| p.proxy.is_some()).map(|p| p.implementation));
            let all = places.len();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), all);
        }
    }

    #[test]
    fn the_plan_reads_back_as_chain_json() {
        let plan = plan();
        let text = plan.addresses.to_json().to_string();
        assert_eq!(Addresses::parse(&text).unwrap(), plan.addresses);
    }
}
