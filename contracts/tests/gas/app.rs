//! Gas of the app chain's contracts and of parameters.

use alloy::primitives::U256;
use hawser_chain::contracts::AppChainGateway::{
    receiveDepositCall, withdrawCall, withdrawIntoUnderlyingCall,
};
use hawser_chain::contracts::GroupMessageBroadcaster::{
    updateMaxPayloadSizeCall, updateMinPayloadSizeCall, updatePayloadBootstrapperCall,
};
use hawser_chain::contracts::SettlementChainParameterRegistry::{set_0Call, set_1Call};

use super::Meter;
use crate::bridged_parameters::arrival;
use crate::broadcasters::{Broadcaster, broadcasters};
use crate::harness::actors::{Caller as _, actor, admin, anyone};

const KIB: usize = 1024;

pub(super) async fn measure(m: &mut Meter<'_>) {
    for it in broadcasters(m.w) {
        broadcaster(m, it).await;
    }
    for registry in [m.w.at.params, m.w.at.app_params] {
        let word = U256::from(1).into();
        let call = set_0Call { key_: "xmtp.some.parameter".to_owned(), value_: word };
        m.send(admin().calls(registry, call)).await;
        let keys_ = (0..10).map(|number| format!("xmtp.parameter.{number}")).collect();
        let call = set_1Call { keys_, values_: vec![word; 10] };
        m.send_with("10", admin().calls(registry, call)).await;
    }
    gateway(m).await;
}

/// Returns bytes without zeros, which cost the most gas.
fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|index| u8::try_from(index % 255).expect("it is one") + 1).collect()
}

async fn broadcaster(m: &mut Meter<'_>, it: Broadcaster) {
    // The first one fills a word that was empty.
    m.w.send(it.add(&anyone(), 1, &payload(78))).await;
    for (with, size) in
        [("78 B", 78), ("1 KiB", KIB), ("100 KiB", 100 * KIB), ("256 KiB", 256 * KIB)]
    {
        m.send_with(with, it.add(&anyone(), 1, &payload(size))).await;
    }
    it.set(m.w, "maxPayloadSize", 1000).await;
    m.send(anyone().calls(it.address, updateMaxPayloadSizeCall {})).await;
    it.set(m.w, "minPayloadSize", 100).await;
    m.send(anyone().calls(it.address, updateMinPayloadSizeCall {})).await;
    let bootstrapper = actor("bootstrapper");
    it.set(m.w, "payloadBootstrapper", bootstrapper.address()).await;
    m.send(anyone().calls(it.address, updatePayloadBootstrapperCall {})).await;
    it.set_paused(m.w, true).await;
    let numbers: Vec<u64> = (1..=10).collect();
    m.send_with("10 of 1 B", it.bootstrap(&bootstrapper, &[1; 10], &numbers)).await;
}

async fn gateway(m: &mut Meter<'_>) {
    let (at, someone) = (m.w.at.app_gateway, actor("recipient").address());
    m.send_with("1", arrival(m.w, 1, &["xmtp.a"], &[1])).await;
    m.send_with("2", arrival(m.w, 2, &["xmtp.b", "xmtp.c"], &[1, 2])).await;
    let value = U256::from(1_000_000);
    let call = receiveDepositCall { recipient_: someone };
    m.send(anyone().calls(at, call).with_value(value)).await;
    // The first one fills words that were empty.
    let call = withdrawCall { recipient_: someone };
    m.w.send(anyone().calls(at, call.clone()).with_value(value)).await;
    m.send(anyone().calls(at, call).with_value(value)).await;
    let call = withdrawIntoUnderlyingCall { recipient_: someone };
    m.send(anyone().calls(at, call).with_value(value)).await;
}
