//! The plan of a deployment: the contracts of each chain, their order and their addresses.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::abi::TokenSeq;
use alloy::sol_types::{SolCall as _, SolType, SolValue};

use super::layout::{DeployerAccount, Layout, contract, salt};
use crate::addresses::Addresses;
use crate::admin::ChainRole;
use crate::contracts::{
    AppChainParameterRegistry, Factory, NodeRegistry, SettlementChainParameterRegistry,
};
use crate::send::Call;

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
    /// The inbox in which the settlement chain's gateway leaves messages for the app chain.
    pub inbox: Address,
    /// True if a foundation is a stand-in: the network is for development.
    pub(super) is_for_development: bool,
}

/// The components of a network that its settlement chain may already have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foundations {
    /// The token that the fee token wraps; `None` deploys a mock token without value.
    pub underlying: Option<Address>,
    /// The bridge's inbox for the app chain.
    pub inbox: FoundationInbox,
}

impl Foundations {
    /// Returns true if the token or the inbox is a stand-in, which only networks for development have.
    fn has_stand_in(&self) -> bool {
        self.underlying.is_none() || matches!(self.inbox, FoundationInbox::StandIn { .. })
    }

    /// Returns the addresses at which contracts must exist before the deployment.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        let inbox = match self.inbox {
            FoundationInbox::At(inbox) => Some(inbox),
            FoundationInbox::StandIn { .. } => None,
        };
        self.underlying.into_iter().chain(inbox).collect()
    }
}

/// The inbox in which the settlement chain's gateway leaves messages for the app chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FoundationInbox {
    /// The inbox of a rollup's bridge.
    At(Address),
    /// A mock inbox, from which one account may release withdrawals of the app chain.
    StandIn {
        /// The account.
        relayer: Address,
    },
}

/// A contract of a plan with its address and its creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedPlace {
    /// The chain.
    pub chain: ChainRole,
    /// The contract's name and its part: `NodeRegistry`, `NodeRegistry, proxy`.
    pub name: String,
    /// The address.
    pub address: Address,
    /// The transaction that creates it. For the factory of an account with a key, it has no recipient.
    pub call: Call,
    /// A lower bound of the gas of its creation, whatever its constructor does.
    pub gas_least: u64,
    /// The length of its code in bytes, which does not depend on values that the constructor sets.
    pub code_len: usize,
}

/// A contract that the factory deploys.
#[derive(Debug)]
pub(super) struct PlannedContract {
    pub(super) name: &'static str,
    pub(super) init_code: Bytes,
    /// Address of its code.
    pub(super) implementation: Address,
    /// Its proxy; a few contracts have none.
    pub(super) proxy: Option<PlannedProxy>,
}

/// The proxy in front of a contract.
#[derive(Debug)]
pub(super) struct PlannedProxy {
    pub(super) salt: B256,
    pub(super) address: Address,
    /// The data of the first call through the proxy.
    pub(super) initialize: Bytes,
}

impl PlannedContract {
    /// Returns the call that creates the code.
    pub(super) fn deploys_implementation(&self, layout: &Layout) -> Call {
        let deploy = Factory::deployImplementationCall { bytecode_: self.init_code.clone() };
        Call::new(layout.factory, &deploy)
    }

    /// Returns the call that creates the proxy.
    pub(super) fn deploys_proxy(&self, layout: &Layout, front: &PlannedProxy) -> Call {
        let deploy = Factory::deployProxyCall {
            implementation_: self.implementation,
            salt_: front.salt,
            initializeCallData_: front.initialize.clone(),
        };
        Call::new(layout.factory, &deploy)
    }

    /// Returns the address that callers use: the proxy's, if there is one.
    fn address(&self) -> Address {
        self.proxy.as_ref().map_or(self.implementation, |front| front.address)
    }
}

/// A builder that collects the contracts of one chain in order.
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
        // All contracts have the same `initialize()` function.
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

/// The salt of the parameter registries. It is the same on both chains, so that the registries have the same
/// address, as in the deployed networks.
const REGISTRY: &str = "ParameterRegistry_0";
/// Salt of the gateways, shared for the same reason.
const GATEWAY: &str = "Gateway_0";

impl DeploymentPlan {
    /// Plans the contracts of a network with a mock inbox and a mock token. `relayer` may
    /// release withdrawals from the inbox.
    #[must_use]
    pub fn new(deployer: Address, settlement_id: u64, app_id: u64, relayer: Address) -> Self {
        let inbox = FoundationInbox::StandIn { relayer };
        let foundations = Foundations { underlying: None, inbox };
        Self::on(foundations, DeployerAccount::Key(deployer), settlement_id, app_id)
    }

    /// Plans the contracts of a network with the given foundations.
    #[must_use]
    pub fn on(
        foundations: Foundations,
        account: DeployerAccount,
        settlement_id: u64,
        app_id: u64,
    ) -> Self {
        let layout = Layout::new(account);
        let deployer = layout.deployer;
        let registry = layout.proxy(salt(REGISTRY));
        let gateway = layout.proxy(salt(GATEWAY));
        let is_for_development = foundations.has_stand_in();

        let mut on = PlanBuilder::new(&layout);
        let admins = SettlementChainParameterRegistry::initializeCall { admins_: vec![deployer] };
        let front = on.front(REGISTRY, admins.abi_encode().into());
        let name = "SettlementChainParameterRegistry";
        on.push(name, contract(name).init_code(&()), Some(front));
        let underlying = match foundations.underlying {
            Some(token) => token,
            None => on.proxied("MockUnderlyingFeeToken", &(registry,)),
        };
        let token = on.proxied("FeeToken", &(registry, underlying));
        let payers = on.proxied("PayerRegistry", &(registry, token));
        let rates = on.proxied("RateRegistry", &(registry,));
        let nodes = on.proxied("NodeRegistry", &(registry,));
        let reports = on.proxied("PayerReportManager", &(registry, nodes, payers));
        let shares = on.proxied("DistributionManager", &(registry, nodes, reports, payers, token));
        let front = on.front(GATEWAY, NodeRegistry::initializeCall {}.abi_encode().into());
        let name = "SettlementChainGateway";
        on.push(name, contract(name).init_code(&(registry, gateway, token)), Some(front));
        let inbox = match foundations.inbox {
            FoundationInbox::At(inbox) => inbox,
            FoundationInbox::StandIn { relayer } => on.plain("ERC20Inbox", &(token, relayer)),
        };
        let splitter = on.plain("DepositSplitter", &(token, payers, gateway, U256::from(app_id)));
        let settlement = on.pieces;

        let AppPlan { pieces: app, groups, identities } = app_plan(&layout, registry, gateway);

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
        Self { layout, settlement, app, addresses, inbox, is_for_development }
    }

    /// Returns the address of the factory, on both chains.
    #[must_use]
    pub fn factory(&self) -> Address {
        self.layout.factory
    }

    /// Returns the address of the factory's first creation, on both chains. The addresses of all proxies depend on it.
    #[must_use]
    pub fn initializable(&self) -> Address {
        self.layout.initializable
    }

    /// Returns all contracts in the order of their creation: the settlement chain's, then the app chain's.
    #[must_use]
    pub fn places(&self) -> Vec<PlannedPlace> {
        let chains = [(ChainRole::Settlement, &self.settlement), (ChainRole::App, &self.app)];
        let layout = &self.layout;
        let mut places = Vec::new();
        for (chain, pieces) in chains {
            let mut add = |name: String, address, call: Call, deployed_len| {
                let gas_least = gas_least(&call, deployed_len);
                let code_len = deployed_len;
                places.push(PlannedPlace { chain, name, address, call, gas_least, code_len });
            };
            for first in layout.first_contracts(self.addresses.app_chain_parameter_registry) {
                add(first.name.into(), first.address, first.call, first.deployed_len);
            }
            let len = |name: &str| contract(name).deployed_code.len();
            for piece in pieces {
                let call = piece.deploys_implementation(layout);
                add(piece.name.into(), piece.implementation, call, len(piece.name));
                if let Some(front) = &piece.proxy {
                    let (name, call) =
                        (format!("{}, proxy", piece.name), piece.deploys_proxy(layout, front));
                    add(name, front.address, call, len("Proxy"));
                }
            }
        }
        places
    }
}

/// The contracts of the app chain.
struct AppPlan {
    pieces: Vec<PlannedContract>,
    /// The broadcaster of group messages.
    groups: Address,
    /// The broadcaster of identity updates.
    identities: Address,
}

/// Plans the contracts of the app chain.
fn app_plan(layout: &Layout, registry: Address, gateway: Address) -> AppPlan {
    let mut on = PlanBuilder::new(layout);
    let admins = AppChainParameterRegistry::initializeCall { admins_: vec![gateway] };
    let front = on.front(REGISTRY, admins.abi_encode().into());
    let name = "AppChainParameterRegistry";
    on.push(name, contract(name).init_code(&()), Some(front));
    let groups = on.proxied("GroupMessageBroadcaster", &(registry,));
    let identities = on.proxied("IdentityUpdateBroadcaster", &(registry,));
    let front = on.front(GATEWAY, NodeRegistry::initializeCall {}.abi_encode().into());
    let name = "AppChainGateway";
    on.push(name, contract(name).init_code(&(registry, gateway)), Some(front));
    AppPlan { pieces: on.pieces, groups, identities }
}

/// Returns a lower bound of the gas of a creation: the transaction (EIP-2028), the creation, and the deployed code
/// (G_create and G_codedeposit of the yellow paper).
fn gas_least(call: &Call, deployed_len: usize) -> u64 {
    const TRANSACTION: u64 = 21_000;
    const CREATE: u64 = 32_000;
    const CODE_BYTE: u64 = 200;
    const ZERO_BYTE: u64 = 4;
    const OTHER_BYTE: u64 = 16;
    let byte = |byte: &u8| if *byte == 0 { ZERO_BYTE } else { OTHER_BYTE };
    let data: u64 = call.data.iter().map(byte).sum();
    TRANSACTION + CREATE + data + CODE_BYTE * deployed_len as u64
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
    fn a_network_with_a_token_and_a_bridge_gets_no_stand_ins() {
        let [deployer, underlying, inbox] = [1, 3, 4].map(Address::repeat_byte);
        let foundations =
            Foundations { underlying: Some(underlying), inbox: FoundationInbox::At(inbox) };
        let (with, without) =
            (DeploymentPlan::on(foundations, DeployerAccount::Key(deployer), 1, 2), plan());
        assert_eq!((with.addresses.underlying_fee_token, with.inbox), (underlying, inbox));
        let names = |plan: &DeploymentPlan| -> Vec<String> {
            plan.places().into_iter().map(|place| place.name).collect()
        };
        let stand_ins = ["MockUnderlyingFeeToken", "MockUnderlyingFeeToken, proxy", "ERC20Inbox"];
        let expected: Vec<_> =
            names(&without).into_iter().filter(|it| !stand_ins.contains(&&**it)).collect();
        assert_eq!(names(&with), expected);
        assert_eq!(names(&without).len(), expected.len() + stand_ins.len());
        assert!(with.places().iter().all(|place| place.gas_least > 53_000));
    }

    #[test]
    fn the_plan_reads_back_as_chain_json() {
        let plan = plan();
        let text = plan.addresses.to_json().to_string();
        assert_eq!(Addresses::parse(&text).unwrap(), plan.addresses);
    }
}
