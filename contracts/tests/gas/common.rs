//! Gas of functions that many contracts share: initialisation, migration, pause flags, deployment.

use alloy::primitives::B256;
use alloy::sol_types::SolValue as _;
use hawser_chain::contracts::Factory::{
    deployImplementationCall, deployProxyCall, implementationCall, initializableImplementationCall,
};
use hawser_chain::contracts::Initializable;
use hawser_chain::contracts::PayerRegistry::{pausedParameterKeyCall, updatePauseStatusCall};

use super::Meter;
use crate::governed::{PAUSABLE, governed_names, one};
use crate::harness::actors::{Caller as _, anyone, deployer};
use crate::harness::test_chain::init_code;
use crate::harness::tx::Tx;

pub(super) async fn measure(m: &mut Meter<'_>) {
    for name in governed_names().filter(|name| !super::STAND_INS.contains(name)) {
        initialisation(m, name).await;
        migration(m, name).await;
    }
    for name in PAUSABLE {
        let it = one(m.w, name);
        let key = m.w.read(it.address, pausedParameterKeyCall {}).await;
        m.w.set_in(it.registry, &key, 1).await;
        m.send(anyone().calls(it.address, updatePauseStatusCall {})).await;
        m.w.set_in(it.registry, &key, 0).await;
        m.w.update(it.address, updatePauseStatusCall {}).await;
    }
    factory(m).await;
}

async fn initialisation(m: &mut Meter<'_>, name: &'static str) {
    let proxy = m.w.uninitialised(name, m.w.at.arguments(name)).await;
    m.send(Tx::raw(anyone().address(), proxy, m.w.at.initialisation(name))).await;
}

async fn migration(m: &mut Meter<'_>, name: &'static str) {
    let it = one(m.w, name);
    // To the implementation that it already has.
    let implementation = m.w.read(it.address, implementationCall {}).await.abi_encode();
    let from = deployer().address();
    let migrator = m.w.create(from, "GenericEIP1967Migrator", implementation).await;
    it.name_migrator(m.w, migrator).await;
    m.send(it.migration()).await;
}

async fn factory(m: &mut Meter<'_>) {
    let at = m.w.at;
    let bytecode_ = init_code("RateRegistry", at.app_params.abi_encode());
    let call = deployImplementationCall { bytecode_ };
    m.send_with("of `RateRegistry`", anyone().calls(at.factory, call)).await;
    let call = deployProxyCall {
        implementation_: m.w.read(at.rates, implementationCall {}).await,
        salt_: B256::repeat_byte(1),
        initializeCallData_: at.initialisation("RateRegistry").into(),
    };
    m.send_with("of `RateRegistry`", anyone().calls(at.factory, call)).await;

    let first = m.w.read(at.factory, initializableImplementationCall {}).await;
    let from = deployer().address();
    let proxy = m.w.create(from, "Proxy", first.abi_encode()).await;
    m.w.name(proxy, "Initializable");
    let call = Initializable::initializeCall {
        implementation_: m.w.read(at.rates, implementationCall {}).await,
        initializeCallData_: at.initialisation("RateRegistry").into(),
    };
    m.send(anyone().calls(proxy, call)).await;
}
