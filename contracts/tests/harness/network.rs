//! The contracts of both chains on one chain, configured like a new network: the start of every test.
//!
//! One chain suffices for all tests but those of the bridge: the app chain's contracts have a parameter
//! registry of their own, and the gateways name each other.

use std::ops::Deref;

use alloy::primitives::{Address, B256, U160, U256, address, keccak256};
use alloy::sol_types::{SolCall, SolValue};
use hawser_chain::contracts::{
    Factory, GroupMessageBroadcaster, NodeRegistry, PayerRegistry, PayerReportManager,
    RateRegistry, SettlementChainGateway, SettlementChainParameterRegistry, artifact,
};

use super::actors::{Caller as _, actor, admin, anyone, deployer};
use super::chain::ChainBackend;
use super::money::endow_patron;
use super::test_chain::{TestChain, init_code};
use super::tx::Tx;

pub(crate) const CHAIN_ID: u64 = 31337;
/// Id of the app chain for which the gateway has an inbox.
pub(crate) const APP_CHAIN_ID: u64 = 31338;
pub(crate) const ARB_SYS: Address = address!("0x0000000000000000000000000000000000000064");
/// The smallest deposit of a payer, in microdollars.
pub(crate) const MINIMUM_DEPOSIT: u128 = 10_000_000;
/// Lock period of a withdrawal, in seconds.
pub(crate) const LOCK_PERIOD: u64 = 172_800;

/// A network's contracts, by address.
pub(crate) struct TestNetwork {
    net: TestChain,
    snapshot: U256,
    pub(crate) at: Contracts,
}

/// Addresses of the contracts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Contracts {
    pub(crate) factory: Address,
    pub(crate) params: Address,
    pub(crate) app_params: Address,
    pub(crate) underlying: Address,
    pub(crate) token: Address,
    pub(crate) payers: Address,
    pub(crate) rates: Address,
    pub(crate) nodes: Address,
    pub(crate) reports: Address,
    pub(crate) distribution: Address,
    pub(crate) gateway: Address,
    pub(crate) app_gateway: Address,
    pub(crate) groups: Address,
    pub(crate) identities: Address,
    pub(crate) inbox: Address,
    pub(crate) splitter: Address,
}

/// A test network is its chain, with the addresses of the contracts.
impl Deref for TestNetwork {
    type Target = TestChain;

    fn deref(&self) -> &TestChain {
        &self.net
    }
}

impl TestNetwork {
    pub(crate) async fn start(kind: ChainBackend) -> Self {
        let net = TestChain::start(kind, CHAIN_ID).await;
        let at = deploy(&net).await;
        configure(&net, &at).await;
        endow_patron(&net, &at).await;
        let snapshot = net.snapshot().await;
        Self { net, snapshot, at }
    }

    /// Restores the state at the start.
    pub(crate) async fn restore(self) -> Self {
        self.net.revert_to(self.snapshot).await;
        let snapshot = self.net.snapshot().await;
        Self { snapshot, ..self }
    }

    /// Sets a parameter of the settlement chain.
    pub(crate) async fn set(&self, key: &str, value: impl IntoWord) {
        self.set_in(self.at.params, key, value).await;
    }

    /// Sets a parameter of the app chain.
    pub(crate) async fn set_app(&self, key: &str, value: impl IntoWord) {
        self.set_in(self.at.app_params, key, value).await;
    }

    /// Sets a parameter of a registry.
    pub(crate) async fn set_in(&self, registry: Address, key: &str, value: impl IntoWord) {
        let key_ = key.to_owned();
        let call = SettlementChainParameterRegistry::set_0Call { key_, value_: value.into_word() };
        self.send(admin().calls(registry, call)).await;
    }

    /// Tells a contract to read a parameter, by a function that any account may call.
    pub(crate) async fn update<C: SolCall>(&self, contract: Address, call: C) {
        self.send(anyone().calls(contract, call)).await;
    }
}

/// A type that can be the value of a parameter.
pub(crate) trait IntoWord {
    fn into_word(self) -> B256;
}

impl IntoWord for u64 {
    fn into_word(self) -> B256 {
        U256::from(self).into()
    }
}

impl IntoWord for U256 {
    fn into_word(self) -> B256 {
        self.into()
    }
}

impl IntoWord for Address {
    fn into_word(self) -> B256 {
        Address::into_word(&self)
    }
}

/// Contracts behind proxies, in the order of their deployment.
pub(crate) const PROXIED: [&str; 13] = [
    "SettlementChainParameterRegistry",
    "MockUnderlyingFeeToken",
    "FeeToken",
    "PayerRegistry",
    "RateRegistry",
    "NodeRegistry",
    "PayerReportManager",
    "DistributionManager",
    "SettlementChainGateway",
    "AppChainParameterRegistry",
    "AppChainGateway",
    "GroupMessageBroadcaster",
    "IdentityUpdateBroadcaster",
];

impl Contracts {
    /// Computes the addresses of a deployment by this account from this nonce on.
    fn planned(deployer: Address, nonce: u64) -> Self {
        let factory = deployer.create(nonce + 1);
        let proxy_code = init_code("Proxy", factory.create(1).abi_encode());
        let proxy = |name: &str| {
            let salt = keccak256((deployer, salt_of(name)).abi_encode());
            factory.create2(salt, keccak256(&proxy_code))
        };
        Self {
            factory,
            params: proxy("SettlementChainParameterRegistry"),
            app_params: proxy("AppChainParameterRegistry"),
            underlying: proxy("MockUnderlyingFeeToken"),
            token: proxy("FeeToken"),
            payers: proxy("PayerRegistry"),
            rates: proxy("RateRegistry"),
            nodes: proxy("NodeRegistry"),
            reports: proxy("PayerReportManager"),
            distribution: proxy("DistributionManager"),
            gateway: proxy("SettlementChainGateway"),
            app_gateway: proxy("AppChainGateway"),
            groups: proxy("GroupMessageBroadcaster"),
            identities: proxy("IdentityUpdateBroadcaster"),
            inbox: Address::ZERO,
            splitter: Address::ZERO,
        }
    }

    /// Returns the address of a contract.
    pub(crate) fn named(&self, name: &str) -> Address {
        match name {
            "Factory" => self.factory,
            "SettlementChainParameterRegistry" => self.params,
            "AppChainParameterRegistry" => self.app_params,
            "MockUnderlyingFeeToken" => self.underlying,
            "FeeToken" => self.token,
            "PayerRegistry" => self.payers,
            "RateRegistry" => self.rates,
            "NodeRegistry" => self.nodes,
            "PayerReportManager" => self.reports,
            "DistributionManager" => self.distribution,
            "SettlementChainGateway" => self.gateway,
            "AppChainGateway" => self.app_gateway,
            "GroupMessageBroadcaster" => self.groups,
            "IdentityUpdateBroadcaster" => self.identities,
            "DepositSplitter" => self.splitter,
            _ => panic!("no {name} is deployed"),
        }
    }

    /// Returns the encoded constructor arguments of a contract.
    pub(crate) fn arguments(&self, name: &str) -> Vec<u8> {
        match name {
            "SettlementChainParameterRegistry" | "AppChainParameterRegistry" => vec![],
            "FeeToken" => (self.params, self.underlying).abi_encode(),
            "PayerRegistry" => (self.params, self.token).abi_encode(),
            "PayerReportManager" => (self.params, self.nodes, self.payers).abi_encode(),
            "DistributionManager" => {
                (self.params, self.nodes, self.reports, self.payers, self.token).abi_encode()
            }
            "SettlementChainGateway" => (self.params, self.app_gateway, self.token).abi_encode(),
            "AppChainGateway" => (self.app_params, self.gateway).abi_encode(),
            "GroupMessageBroadcaster" | "IdentityUpdateBroadcaster" => self.app_params.abi_encode(),
            "DepositSplitter" => {
                (self.token, self.payers, self.gateway, U256::from(APP_CHAIN_ID)).abi_encode()
            }
            _ => self.params.abi_encode(),
        }
    }

    /// Returns the data of the call that initialises a contract.
    pub(crate) fn initialisation(&self, name: &str) -> Vec<u8> {
        let admins_ = match name {
            "SettlementChainParameterRegistry" => vec![admin().address()],
            "AppChainParameterRegistry" => vec![self.app_gateway, admin().address()],
            _ => return NodeRegistry::initializeCall {}.abi_encode(),
        };
        SettlementChainParameterRegistry::initializeCall { admins_ }.abi_encode()
    }
}

/// The salt of a proxy: its name, as text.
fn salt_of(name: &str) -> B256 {
    B256::right_padding_from(name.as_bytes())
}

async fn deploy(net: &TestChain) -> Contracts {
    let deployer = deployer().address();
    let at = Contracts::planned(deployer, net.nonce(deployer).await);
    deploy_factory(net, &at).await;
    for name in PROXIED {
        deploy_proxied(net, &at, name).await;
    }
    let relayer = actor("relayer").address();
    let inbox = net.create(deployer, "ERC20Inbox", (at.token, relayer).abi_encode()).await;
    let splitter = net.create(deployer, "DepositSplitter", at.arguments("DepositSplitter")).await;
    net.set_code(ARB_SYS, &artifact::named("ArbSys").unwrap().deployed_code).await;
    net.name(ARB_SYS, "ArbSys");
    Contracts { inbox, splitter, ..at }
}

async fn deploy_factory(net: &TestChain, at: &Contracts) {
    let from = deployer();
    let implementation = net.create(from.address(), "Factory", at.arguments("Factory")).await;
    let proxy = net.create(from.address(), "Proxy", implementation.abi_encode()).await;
    assert_eq!(proxy, at.factory);
    net.name(proxy, "Factory");
    net.send(from.calls(proxy, Factory::initializeCall {})).await;
}

/// Deploys an implementation and a proxy of it, and initialises that.
async fn deploy_proxied(net: &TestChain, at: &Contracts, name: &'static str) {
    let bytecode_ = init_code(name, at.arguments(name));
    let implementation = at.factory.create2(keccak256(&bytecode_), keccak256(&bytecode_));
    net.name(implementation, name);
    net.name(at.named(name), name);
    let call = Factory::deployImplementationCall { bytecode_ };
    net.send(deployer().calls(at.factory, call)).await;
    let initialisation = at.initialisation(name);
    net.note_done(name, &initialisation);
    let call = Factory::deployProxyCall {
        implementation_: implementation,
        salt_: salt_of(name),
        initializeCallData_: initialisation.into(),
    };
    net.send(deployer().calls(at.factory, call)).await;
}

async fn configure(net: &TestChain, at: &Contracts) {
    let now = net.now().await;
    let inbox = format!("xmtp.settlementChainGateway.inbox.{APP_CHAIN_ID}");
    let minimum_deposit = U256::from(MINIMUM_DEPOSIT);
    let settlement = [
        ("xmtp.nodeRegistry.admin", admin().address().into_word()),
        ("xmtp.nodeRegistry.maxCanonicalNodes", 100.into_word()),
        ("xmtp.payerRegistry.settler", at.reports.into_word()),
        ("xmtp.payerRegistry.feeDistributor", at.distribution.into_word()),
        ("xmtp.payerRegistry.minimumDeposit", minimum_deposit.into_word()),
        ("xmtp.payerRegistry.withdrawLockPeriod", LOCK_PERIOD.into_word()),
        ("xmtp.payerReportManager.protocolFeeRate", 100.into_word()),
        ("xmtp.rateRegistry.messageFee", 100.into_word()),
        ("xmtp.rateRegistry.storageFee", 200.into_word()),
        ("xmtp.rateRegistry.congestionFee", 300.into_word()),
        ("xmtp.rateRegistry.targetRatePerMinute", 6000.into_word()),
        ("xmtp.rateRegistry.ratesInEffectAfter", now.into_word()),
        (&inbox, at.inbox.into_word()),
    ];
    set_all(net, at.params, &settlement).await;
    let app = [
        ("xmtp.groupMessageBroadcaster.minPayloadSize", 78.into_word()),
        ("xmtp.groupMessageBroadcaster.maxPayloadSize", 262_144.into_word()),
        ("xmtp.identityUpdateBroadcaster.minPayloadSize", 78.into_word()),
        ("xmtp.identityUpdateBroadcaster.maxPayloadSize", 262_144.into_word()),
    ];
    set_all(net, at.app_params, &app).await;
    update_all(net, at).await;
}

async fn set_all(net: &TestChain, registry: Address, parameters: &[(&str, B256)]) {
    let keys_ = parameters.iter().map(|(key, _)| (*key).to_owned()).collect();
    let values_ = parameters.iter().map(|(_, value)| *value).collect();
    let call = SettlementChainParameterRegistry::set_1Call { keys_, values_ };
    net.send(admin().calls(registry, call)).await;
}

async fn update_all(net: &TestChain, at: &Contracts) {
    let anyone = anyone();
    let chain = SettlementChainGateway::updateInboxCall { chainId_: U256::from(APP_CHAIN_ID) };
    let updates = [
        anyone.calls(at.nodes, NodeRegistry::updateAdminCall {}),
        anyone.calls(at.nodes, NodeRegistry::updateMaxCanonicalNodesCall {}),
        anyone.calls(at.payers, PayerRegistry::updateSettlerCall {}),
        anyone.calls(at.payers, PayerRegistry::updateFeeDistributorCall {}),
        anyone.calls(at.payers, PayerRegistry::updateMinimumDepositCall {}),
        anyone.calls(at.payers, PayerRegistry::updateWithdrawLockPeriodCall {}),
        anyone.calls(at.reports, PayerReportManager::updateProtocolFeeRateCall {}),
        anyone.calls(at.rates, RateRegistry::updateRatesCall {}),
        anyone.calls(at.gateway, chain),
        // The upper limit first: the lower one may not exceed it.
        anyone.calls(at.groups, GroupMessageBroadcaster::updateMaxPayloadSizeCall {}),
        anyone.calls(at.groups, GroupMessageBroadcaster::updateMinPayloadSizeCall {}),
        anyone.calls(at.identities, GroupMessageBroadcaster::updateMaxPayloadSizeCall {}),
        anyone.calls(at.identities, GroupMessageBroadcaster::updateMinPayloadSizeCall {}),
    ];
    for update in updates {
        net.send(update).await;
    }
}

/// Deployment of further contracts.
impl TestNetwork {
    /// Deploys a proxy of this contract without initialising it.
    pub(crate) async fn uninitialised(
        &self,
        name: &'static str,
        arguments: impl AsRef<[u8]>,
    ) -> Address {
        let from = deployer().address();
        let implementation = self.create(from, name, arguments).await;
        let proxy = self.create(from, "Proxy", implementation.abi_encode()).await;
        self.name(proxy, name);
        proxy
    }

    /// Deploys a second contract of this name, initialised and not configured.
    pub(crate) async fn fresh(&self, name: &'static str) -> Address {
        let proxy = self.uninitialised(name, self.at.arguments(name)).await;
        let initialisation = self.at.initialisation(name);
        self.send(Tx::raw(anyone().address(), proxy, initialisation)).await;
        proxy
    }
}

/// Returns the alias of an account of the settlement chain on the app chain.
pub(crate) fn alias(account: Address) -> Address {
    const OFFSET: Address = address!("0x1111000000000000000000000000000000001111");
    let (account, offset): (U160, U160) = (account.into(), OFFSET.into());
    account.wrapping_add(offset).into()
}
