//! Behaviour that all contracts under parameters share: construction, initialisation,
//! migration, pause flags, keys and names.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::{SolEvent as _, SolValue as _};
use hawser_chain::contracts::PayerRegistry::{
    EmptyCode, Initialized, InvalidInitialization, Migrated, MigrationFailed, NoChange,
    ParameterOutOfTypeBounds, PauseStatusUpdated, Upgraded, ZeroMigrator, implementationCall,
    migrateCall, migratorParameterKeyCall, pausedCall, pausedParameterKeyCall,
    updatePauseStatusCall,
};
use hawser_chain::contracts::{
    AppChainGateway, DepositSplitter, DistributionManager, Factory, FeeToken, PayerRegistry,
    PayerReportManager, SettlementChainGateway, artifact,
};

use crate::harness::actors::{Caller as _, actor, anyone, deployer};
use crate::harness::bytecode;
use crate::harness::cases::on_both_chains;
use crate::harness::network::{APP_CHAIN_ID, IntoWord, PROXIED, TestNetwork};
use crate::harness::test_chain::init_code;
use crate::harness::tx::{ExpectedRevert, Tx};
use crate::harness::vectors::{list, vectors};

on_both_chains! {
    constructors_refuse_zeros_in_their_order
    constructor_arguments_can_be_read
    a_proxy_is_initialised_once_and_an_implementation_never
    a_migrator_replaces_the_implementation_and_can_run_again
    migration_fails_without_a_migrator_that_works
    a_pause_flag_takes_effect_when_it_is_taken_over
    names_and_versions_are_those_of_the_deployed_contracts
    keys_are_those_of_the_deployed_contracts
    state_is_kept_in_the_namespaces_of_the_deployed_contracts
}

/// A contract under parameters, which also name its migrator.
pub(crate) struct Governed {
    name: &'static str,
    pub(crate) address: Address,
    /// The parameter registry of the contract.
    pub(crate) registry: Address,
}

/// Returns the names of all contracts under parameters, in the order of their deployment.
pub(crate) fn governed_names() -> impl Iterator<Item = &'static str> {
    ["Factory"].into_iter().chain(PROXIED)
}

/// Contracts with a pause flag.
pub(crate) const PAUSABLE: [&str; 6] = [
    "PayerRegistry",
    "DistributionManager",
    "SettlementChainGateway",
    "AppChainGateway",
    "GroupMessageBroadcaster",
    "IdentityUpdateBroadcaster",
];

fn governed(w: &TestNetwork) -> impl Iterator<Item = Governed> {
    governed_names().map(|name| one(w, name))
}

pub(crate) fn one(w: &TestNetwork, name: &'static str) -> Governed {
    let is_of_app_chain = name.starts_with("AppChain") || name.ends_with("Broadcaster");
    let registry = if is_of_app_chain { w.at.app_params } else { w.at.params };
    Governed { name, address: w.at.named(name), registry }
}

impl Governed {
    pub(crate) async fn name_migrator(&self, w: &TestNetwork, migrator: impl IntoWord) {
        let key = w.read(self.address, migratorParameterKeyCall {}).await;
        w.set_in(self.registry, &key, migrator).await;
    }

    pub(crate) fn migration(&self) -> Tx {
        anyone().calls(self.address, migrateCall {})
    }
}

/// Contracts, and the error of each constructor for each argument that is zero.
const CONSTRUCTORS: &[(&str, &[&str])] = &[
    ("Factory", &["ZeroParameterRegistry()"]),
    ("FeeToken", &["ZeroParameterRegistry()", "ZeroUnderlying()"]),
    ("PayerRegistry", &["ZeroParameterRegistry()", "ZeroFeeToken()"]),
    ("RateRegistry", &["ZeroParameterRegistry()"]),
    ("NodeRegistry", &["ZeroParameterRegistry()"]),
    (
        "PayerReportManager",
        &["ZeroParameterRegistry()", "ZeroNodeRegistry()", "ZeroPayerRegistry()"],
    ),
    (
        "DistributionManager",
        &[
            "ZeroParameterRegistry()",
            "ZeroNodeRegistry()",
            "ZeroPayerReportManager()",
            "ZeroPayerRegistry()",
            "ZeroFeeToken()",
        ],
    ),
    (
        "SettlementChainGateway",
        &["ZeroParameterRegistry()", "ZeroAppChainGateway()", "ZeroFeeToken()"],
    ),
    ("AppChainGateway", &["ZeroParameterRegistry()", "ZeroSettlementChainGateway()"]),
    ("GroupMessageBroadcaster", &["ZeroParameterRegistry()"]),
    ("IdentityUpdateBroadcaster", &["ZeroParameterRegistry()"]),
    (
        "DepositSplitter",
        &[
            "ZeroFeeToken()",
            "ZeroPayerRegistry()",
            "ZeroSettlementChainGateway()",
            "ZeroAppChainId()",
        ],
    ),
];

async fn constructors_refuse_zeros_in_their_order(w: &TestNetwork) {
    for (name, errors) in CONSTRUCTORS {
        for (index, error) in errors.iter().enumerate() {
            let mut arguments = w.at.arguments(name);
            arguments[index * 32..].fill(0);
            w.refuse_creation(name, arguments, ExpectedRevert::named(error)).await;
        }
    }
}

async fn constructor_arguments_can_be_read(w: &TestNetwork) {
    let at = w.at;
    for it in governed(w).filter(|it| !it.name.ends_with("ParameterRegistry")) {
        let registry = w.read(it.address, Factory::parameterRegistryCall {}).await;
        assert_eq!(registry, it.registry, "{}", it.name);
    }
    assert_eq!(w.read(at.token, FeeToken::underlyingCall {}).await, at.underlying);
    assert_eq!(w.read(at.payers, PayerRegistry::feeTokenCall {}).await, at.token);
    assert_eq!(w.read(at.reports, PayerReportManager::nodeRegistryCall {}).await, at.nodes);
    assert_eq!(w.read(at.reports, PayerReportManager::payerRegistryCall {}).await, at.payers);
    let it = at.distribution;
    assert_eq!(w.read(it, DistributionManager::nodeRegistryCall {}).await, at.nodes);
    assert_eq!(w.read(it, DistributionManager::payerReportManagerCall {}).await, at.reports);
    assert_eq!(w.read(it, DistributionManager::payerRegistryCall {}).await, at.payers);
    assert_eq!(w.read(it, DistributionManager::feeTokenCall {}).await, at.token);
    let it = at.gateway;
    assert_eq!(w.read(it, SettlementChainGateway::appChainGatewayCall {}).await, at.app_gateway);
    assert_eq!(w.read(it, SettlementChainGateway::feeTokenCall {}).await, at.token);
    let it = at.app_gateway;
    assert_eq!(w.read(it, AppChainGateway::settlementChainGatewayCall {}).await, at.gateway);
    let it = at.splitter;
    assert_eq!(w.read(it, DepositSplitter::feeTokenCall {}).await, at.token);
    assert_eq!(w.read(it, DepositSplitter::payerRegistryCall {}).await, at.payers);
    assert_eq!(w.read(it, DepositSplitter::settlementChainGatewayCall {}).await, at.gateway);
    assert_eq!(w.read(it, DepositSplitter::appChainIdCall {}).await, U256::from(APP_CHAIN_ID));
}

async fn a_proxy_is_initialised_once_and_an_implementation_never(w: &TestNetwork) {
    let creator = deployer().address();
    let locked = u64::MAX;
    for it in governed(w) {
        let code = init_code(it.name, w.at.arguments(it.name));
        let receipt = w.send(Tx::create(creator, code)).await;
        let implementation = receipt.0.contract_address.unwrap();
        assert_eq!(receipt.event::<Initialized>(implementation).version, locked, "{}", it.name);

        let proxy = w.create(creator, "Proxy", implementation.abi_encode()).await;
        w.name(proxy, it.name);
        let initialise = |to| Tx::raw(creator, to, w.at.initialisation(it.name));
        let receipt = w.send(initialise(proxy)).await;
        assert_eq!(receipt.event::<Initialized>(proxy).version, 1, "{}", it.name);

        w.refuse(initialise(proxy), InvalidInitialization {}).await;
        w.refuse(initialise(implementation), InvalidInitialization {}).await;
        w.refuse(initialise(it.address), InvalidInitialization {}).await;
    }
}

async fn a_migrator_replaces_the_implementation_and_can_run_again(w: &TestNetwork) {
    let creator = deployer().address();
    for it in governed(w) {
        let before = w.read(it.address, implementationCall {}).await;
        let implementation = w.create(creator, it.name, w.at.arguments(it.name)).await;
        let arguments = implementation.abi_encode();
        let migrator = w.create(creator, "GenericEIP1967Migrator", arguments).await;
        it.name_migrator(w, migrator).await;
        for _ in 0..2 {
            let receipt = w.send(it.migration()).await;
            let kinds = [Migrated::SIGNATURE_HASH, Upgraded::SIGNATURE_HASH];
            assert_eq!(receipt.log_kinds(), kinds, "{}", it.name);
            assert_eq!(receipt.event::<Migrated>(it.address).migrator, migrator);
            let upgraded = receipt.event::<Upgraded>(it.address);
            assert_eq!(upgraded.implementation, implementation);
            assert_eq!(w.read(it.address, implementationCall {}).await, implementation);
        }
        assert_ne!(before, implementation);
        assert_eq!(w.read(implementation, implementationCall {}).await, Address::ZERO);
    }
}

async fn migration_fails_without_a_migrator_that_works(w: &TestNetwork) {
    let broken = w.create_raw(deployer().address(), &bytecode::reverting(*b"oops")).await;
    let no_contract = actor("no contract").address();
    for it in governed(w) {
        w.refuse(it.migration(), ZeroMigrator {}).await;
        it.name_migrator(w, U256::from(1) << 160).await;
        w.refuse(it.migration(), ParameterOutOfTypeBounds {}).await;
        it.name_migrator(w, no_contract).await;
        w.refuse(it.migration(), EmptyCode { migrator_: no_contract }).await;
        it.name_migrator(w, broken).await;
        let revertData_ = Bytes::from_static(b"oops");
        w.refuse(it.migration(), MigrationFailed { migrator_: broken, revertData_ }).await;
    }
}

async fn a_pause_flag_takes_effect_when_it_is_taken_over(w: &TestNetwork) {
    for it in PAUSABLE.map(|name| one(w, name)) {
        let key = w.read(it.address, pausedParameterKeyCall {}).await;
        let update = anyone().calls(it.address, updatePauseStatusCall {});
        w.refuse(update.clone(), NoChange {}).await;
        for is_paused in [true, false] {
            w.set_in(it.registry, &key, u64::from(is_paused)).await;
            assert_eq!(w.read(it.address, pausedCall {}).await, !is_paused, "{}", it.name);
            let receipt = w.send(update.clone()).await;
            assert_eq!(receipt.event::<PauseStatusUpdated>(it.address).paused, is_paused);
            assert_eq!(w.read(it.address, pausedCall {}).await, is_paused, "{}", it.name);
            w.refuse(update.clone(), NoChange {}).await;
        }
        w.set_in(it.registry, &key, 2).await;
        w.refuse(update, ParameterOutOfTypeBounds {}).await;
    }
}

async fn names_and_versions_are_those_of_the_deployed_contracts(w: &TestNetwork) {
    let constants = vectors("constants");
    for (name, version) in constants["contract_versions"].as_object().unwrap() {
        let address = w.at.named(name);
        assert_eq!(&w.read(address, Factory::contractNameCall {}).await, name);
        let ours = w.read(address, Factory::versionCall {}).await;
        assert_eq!(Some(ours.as_str()), version.as_str(), "{name}");
    }
}

async fn keys_are_those_of_the_deployed_contracts(w: &TestNetwork) {
    let vectors = vectors("parameter_keys");
    for it in governed(w) {
        let of_it = list(&vectors, "keys").iter().filter(|key| key["contract"] == it.name);
        // Some vectors end with a placeholder component, which the contract's key lacks.
        let expected: BTreeSet<String> = of_it
            .map(|key| key["key"].as_str().unwrap().split(".{").next().unwrap().to_owned())
            .collect();
        let artifact = artifact::named(it.name).unwrap();
        let mut returned = BTreeSet::new();
        for function in artifact.abi.functions().filter(|it| it.name.ends_with("ParameterKey")) {
            let tx = Tx::raw(Address::ZERO, it.address, function.selector().to_vec());
            returned.insert(String::abi_decode(&w.answer_to(tx).await).unwrap());
        }
        assert_eq!(returned, expected, "{}", it.name);
    }
}

/// A storage namespace, and a contract with a value in its first word.
const NAMESPACES: [(&str, &str); 9] = [
    ("ERC712", "PayerReportManager"),
    ("Factory", "Factory"),
    ("NodeRegistry", "NodeRegistry"),
    ("PayerRegistry", "PayerRegistry"),
    ("PayloadBroadcaster", "GroupMessageBroadcaster"),
    ("RateRegistry", "RateRegistry"),
    ("AppChainGateway", "AppChainGateway"),
    ("DistributionManager", "DistributionManager"),
    ("SettlementChainGateway", "SettlementChainGateway"),
];

async fn state_is_kept_in_the_namespaces_of_the_deployed_contracts(w: &TestNetwork) {
    for name in PAUSABLE {
        let it = one(w, name);
        let key = w.read(it.address, pausedParameterKeyCall {}).await;
        w.set_in(it.registry, &key, 1).await;
        w.update(it.address, updatePauseStatusCall {}).await;
    }
    let constants = vectors("constants");
    for (namespace, name) in NAMESPACES {
        let slot = &constants["erc7201_slots"][format!("xmtp.storage.{namespace}")];
        let slot: B256 = slot.as_str().unwrap().parse().unwrap();
        let word = w.storage(w.at.named(name), slot).await;
        assert_ne!(word, B256::ZERO, "{name} has nothing at {slot}");
    }
    let slot: B256 = constants["eip1967_implementation_slot"].as_str().unwrap().parse().unwrap();
    for it in governed(w) {
        let implementation = w.read(it.address, implementationCall {}).await;
        assert_eq!(w.storage(it.address, slot).await, implementation.into_word(), "{}", it.name);
    }
}
