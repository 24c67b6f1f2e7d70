//! The factory, its proxies, and the migrators.

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::sol_types::{SolCall as _, SolValue as _};
use hawser_chain::contracts::Factory::{
    DeployFailed, EmptyBytecode, ImplementationDeployed, InitializableImplementationDeployed,
    InvalidImplementation, ProxyDeployed, computeImplementationAddressCall,
    computeProxyAddressCall, deployImplementationCall, deployProxyCall,
    initializableImplementationCall, initializeCall,
};
use hawser_chain::contracts::RateRegistry::{
    MigrationFailed, implementationCall, migrateCall, updateRatesCall,
};
use hawser_chain::contracts::{
    Factory, GenericEIP1967Migrator, Initializable, Migrator, Proxy, RateRegistry,
    SettlementChainParameterRegistry,
};

use crate::harness::actors::{Actor, Caller as _, actor, anyone, deployer};
use crate::harness::bytecode;
use crate::harness::cases::on_both_chains;
use crate::harness::network::TestNetwork;
use crate::harness::test_chain::init_code;
use crate::harness::tx::{ExpectedRevert, Tx};

on_both_chains! {
    implementations_stand_where_their_code_says
    proxies_stand_where_caller_and_salt_say
    a_proxy_is_deployed_initialised_or_not_at_all
    the_factory_cannot_be_paused
    a_factory_brings_the_first_implementation
    the_first_implementation_makes_way_for_the_real_one
    a_proxy_needs_an_implementation
    migrators_know_what_they_replace
    a_strict_migrator_runs_once
}

fn deployment(from: &Actor, w: &TestNetwork, code: Bytes) -> Tx {
    from.calls(w.at.factory, deployImplementationCall { bytecode_: code })
}

fn proxy(
    from: &Actor,
    w: &TestNetwork,
    implementation_: Address,
    salt_: B256,
    data: Vec<u8>,
) -> Tx {
    let initializeCallData_ = data.into();
    from.calls(w.at.factory, deployProxyCall { implementation_, salt_, initializeCallData_ })
}

fn rate_registry_code(w: &TestNetwork) -> Bytes {
    // Another registry than that of the world, for another address.
    init_code("RateRegistry", w.at.app_params.abi_encode())
}

async fn implementations_stand_where_their_code_says(w: &TestNetwork) {
    let code = rate_registry_code(w);
    let hash = keccak256(&code);
    let call = computeImplementationAddressCall { bytecode_: code.clone() };
    let implementation = w.read(w.at.factory, call).await;
    assert_eq!(implementation, w.at.factory.create2(hash, hash));

    let receipt = w.send(deployment(&anyone(), w, code.clone())).await;
    let event = ImplementationDeployed { implementation, bytecodeHash: hash };
    assert_eq!(receipt.event::<ImplementationDeployed>(w.at.factory), event);
    let name = w.read(implementation, RateRegistry::contractNameCall {}).await;
    assert_eq!(name, "RateRegistry");

    w.refuse_all([
        // The address is taken, also for another sender.
        (deployment(&deployer(), w, code), DeployFailed {}.into()),
        (deployment(&anyone(), w, Bytes::new()), EmptyBytecode {}.into()),
        (deployment(&anyone(), w, bytecode::reverting([1; 4]).into()), DeployFailed {}.into()),
    ])
    .await;
}

async fn proxies_stand_where_caller_and_salt_say(w: &TestNetwork) {
    let implementation = w.read(w.at.rates, implementationCall {}).await;
    let (alice, bob) = (actor("alice"), actor("bob"));
    let salt = B256::repeat_byte(5);
    let mut places = Vec::new();
    for (caller, salt) in [(&alice, salt), (&bob, salt), (&alice, B256::ZERO)] {
        let call = computeProxyAddressCall { caller_: caller.address(), salt_: salt };
        let place = w.read(w.at.factory, call).await;
        let receipt = w.send(proxy(caller, w, implementation, salt, vec![])).await;
        let event = receipt.event::<ProxyDeployed>(w.at.factory);
        let expected = ProxyDeployed {
            proxy: place,
            implementation,
            sender: caller.address(),
            salt,
            initializeCallData: Bytes::new(),
        };
        assert_eq!(event, expected);
        assert_eq!(w.read(place, implementationCall {}).await, implementation);
        assert!(!places.contains(&place));
        places.push(place);
    }
    w.refuse(proxy(&alice, w, implementation, salt, vec![]), DeployFailed {}).await;
}

async fn a_proxy_is_deployed_initialised_or_not_at_all(w: &TestNetwork) {
    let initialise = initializeCall {}.abi_encode();
    let implementation = w.read(w.at.rates, implementationCall {}).await;
    let [first, second] = [B256::repeat_byte(1), B256::repeat_byte(2)];
    let receipt = w.send(proxy(&anyone(), w, implementation, first, initialise.clone())).await;
    let event = receipt.event::<ProxyDeployed>(w.at.factory);
    assert_eq!(event.initializeCallData, initialise);
    let again = anyone().calls(event.proxy, initializeCall {});
    w.refuse(again, Factory::InvalidInitialization {}).await;

    let unready = RateRegistry::NoChange {};
    let failed = Initializable::InitializationFailed { errorData: Bytes::new() };
    w.refuse_all([
        (proxy(&anyone(), w, Address::ZERO, second, vec![]), InvalidImplementation {}.into()),
        // There is no such function.
        (proxy(&anyone(), w, implementation, second, b"none".to_vec()), failed.into()),
    ])
    .await;
    // It works before it is initialised, too: it has nothing to initialise.
    let update = updateRatesCall {}.abi_encode();
    w.send(proxy(&anyone(), w, implementation, second, update.clone())).await;
    let place = computeProxyAddressCall { caller_: anyone().address(), salt_: second };
    let place = w.read(w.at.factory, place).await;
    w.refuse(Tx::raw(anyone().address(), place, update), unready).await;
}

async fn the_factory_cannot_be_paused(w: &TestNetwork) {
    let key = w.read(w.at.factory, Factory::pausedParameterKeyCall {}).await;
    w.set(&key, 1).await;
    w.send(deployment(&anyone(), w, rate_registry_code(w))).await;
    assert!(!w.read(w.at.factory, Factory::pausedCall {}).await);
}

async fn a_factory_brings_the_first_implementation(w: &TestNetwork) {
    let factory = w.uninitialised("Factory", w.at.arguments("Factory")).await;
    let first = w.read(factory, initializableImplementationCall {}).await;
    assert_eq!(first, Address::ZERO);
    let receipt = w.send(anyone().calls(factory, initializeCall {})).await;
    let event = receipt.event::<InitializableImplementationDeployed>(factory);
    assert_eq!(event.implementation, factory.create(1));
    let first = w.read(factory, initializableImplementationCall {}).await;
    assert_eq!(first, event.implementation);
}

/// Returns the call that initialises a proxy, which its first implementation answers.
fn initialise(w: &TestNetwork, proxy: Address, implementation_: Address, data: &[u8]) -> Tx {
    w.name(proxy, "Initializable");
    let initializeCallData_ = Bytes::copy_from_slice(data);
    let call = Initializable::initializeCall { implementation_, initializeCallData_ };
    anyone().calls(proxy, call)
}

async fn the_first_implementation_makes_way_for_the_real_one(w: &TestNetwork) {
    let first = w.read(w.at.factory, initializableImplementationCall {}).await;
    let proxy = w.create(deployer().address(), "Proxy", first.abi_encode()).await;
    let real = w.read(w.at.params, implementationCall {}).await;
    let no_contract = actor("no contract").address();
    let no_admins = SettlementChainParameterRegistry::initializeCall { admins_: vec![] };
    let inner = SettlementChainParameterRegistry::EmptyAdmins {};
    let failed = Initializable::InitializationFailed { errorData: ExpectedRevert::from(inner).0 };
    w.refuse_all([
        (initialise(w, proxy, Address::ZERO, &[]), Initializable::ZeroImplementation {}.into()),
        (
            initialise(w, proxy, no_contract, b"call"),
            Initializable::EmptyCode { implementation: no_contract }.into(),
        ),
        (initialise(w, proxy, real, &no_admins.abi_encode()), failed.into()),
    ])
    .await;

    w.send(initialise(w, proxy, real, &[])).await;
    assert_eq!(w.read(proxy, implementationCall {}).await, real);
    // The function belonged to the first implementation.
    w.refuse(initialise(w, proxy, real, &[]), ExpectedRevert::silent()).await;
}

async fn a_proxy_needs_an_implementation(w: &TestNetwork) {
    let zero = Address::ZERO.abi_encode();
    w.refuse_creation("Proxy", zero, Proxy::ZeroImplementation {}).await;
}

async fn migrators_know_what_they_replace(w: &TestNetwork) {
    let (old, new) = (actor("old").address(), actor("new").address());
    let creator = deployer().address();
    let migrator = w.create(creator, "Migrator", (old, new).abi_encode()).await;
    assert_eq!(w.read(migrator, Migrator::fromImplementationCall {}).await, old);
    assert_eq!(w.read(migrator, Migrator::toImplementationCall {}).await, new);
    for name in ["GenericEIP1967Migrator", "NodeRegistryBackfillMigrator"] {
        let migrator = w.create(creator, name, new.abi_encode()).await;
        assert_eq!(w.read(migrator, GenericEIP1967Migrator::newImplCall {}).await, new);
        let refusal = GenericEIP1967Migrator::InvalidImplementation {};
        w.refuse_creation(name, Address::ZERO.abi_encode(), refusal).await;
    }
    for (arguments, refusal) in [
        ((Address::ZERO, Address::ZERO), Migrator::ZeroFromImplementation {}.into()),
        ((old, Address::ZERO), ExpectedRevert::from(Migrator::ZeroToImplementation {})),
    ] {
        w.refuse_creation("Migrator", arguments.abi_encode(), refusal).await;
    }
}

async fn a_strict_migrator_runs_once(w: &TestNetwork) {
    let creator = deployer().address();
    let old = w.read(w.at.rates, implementationCall {}).await;
    let new = w.create(creator, "RateRegistry", w.at.arguments("RateRegistry")).await;
    let migrator = w.create(creator, "Migrator", (old, new).abi_encode()).await;
    let unexpected = Migrator::UnexpectedImplementation {};
    // Its own implementation is not the one that it replaces.
    w.refuse(Tx::raw(creator, migrator, vec![]), unexpected).await;

    w.set("xmtp.rateRegistry.migrator", migrator).await;
    w.send(anyone().calls(w.at.rates, migrateCall {})).await;
    assert_eq!(w.read(w.at.rates, implementationCall {}).await, new);
    let revertData_ = ExpectedRevert::from(Migrator::UnexpectedImplementation {}).0;
    let refusal = MigrationFailed { migrator_: migrator, revertData_ };
    w.refuse(anyone().calls(w.at.rates, migrateCall {}), refusal).await;
}
