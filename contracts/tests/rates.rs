//! The rate registry: prices, one after the other.

use alloy::primitives::U256;
use alloy::sol_types::Panic;
use hawser_chain::contracts::RateRegistry::{
    EndIndexOutOfRange, FromIndexOutOfRange, InvalidStartTime, NoChange, ParameterOutOfTypeBounds,
    RatesUpdated, ZeroCount, getRatesCall, getRatesCountCall, updateRatesCall,
};

use crate::harness::actors::{Caller as _, anyone};
use crate::harness::cases::on_both_chains;
use crate::harness::network::TestNetwork;
use crate::harness::tx::{Receipt, Tx};

on_both_chains! {
    rates_are_appended_and_logged
    a_new_time_alone_is_no_change
    rates_start_later_than_the_ones_before
    the_first_rates_may_start_at_any_time
    each_rate_is_bounded_by_its_type
    pages_must_be_within_the_list
}

/// Parameters in the order in which they are logged.
const PARAMETERS: [&str; 5] =
    ["messageFee", "storageFee", "congestionFee", "targetRatePerMinute", "ratesInEffectAfter"];

async fn set(w: &TestNetwork, name: &str, value: u64) {
    w.set(&format!("xmtp.rateRegistry.{name}"), value).await;
}

fn update(w: &TestNetwork) -> Tx {
    anyone().calls(w.at.rates, updateRatesCall {})
}

fn page(w: &TestNetwork, from: U256, count: U256) -> Tx {
    anyone().calls(w.at.rates, getRatesCall { fromIndex_: from, count_: count })
}

fn logged(receipt: &Receipt, w: &TestNetwork) -> [u64; 5] {
    let it = receipt.event::<RatesUpdated>(w.at.rates);
    [it.messageFee, it.storageFee, it.congestionFee, it.targetRatePerMinute, it.startTime]
}

async fn listed(w: &TestNetwork, from: u64, count: u64) -> Vec<[u64; 5]> {
    let call = getRatesCall { fromIndex_: U256::from(from), count_: U256::from(count) };
    let rates = w.read(w.at.rates, call).await;
    let words = rates.into_iter().map(|it| {
        [it.messageFee, it.storageFee, it.congestionFee, it.targetRatePerMinute, it.startTime]
    });
    words.collect()
}

/// The time from which the first rates apply.
async fn first_start(w: &TestNetwork) -> u64 {
    listed(w, 0, 1).await[0][4]
}

async fn rates_are_appended_and_logged(w: &TestNetwork) {
    let start = first_start(w).await;
    let mut expected = vec![[100, 200, 300, 6000, start]];
    assert_eq!(listed(w, 0, 1).await, expected);
    for number in 1..=3 {
        let rates = [100 + number, 200, 300, 6000 - number, start + number];
        for (name, value) in PARAMETERS.into_iter().zip(rates) {
            set(w, name, value).await;
        }
        let receipt = w.send(update(w)).await;
        assert_eq!(logged(&receipt, w), rates);
        expected.push(rates);
    }
    assert_eq!(w.read(w.at.rates, getRatesCountCall {}).await, U256::from(4));
    assert_eq!(listed(w, 0, 4).await, expected);
    assert_eq!(listed(w, 2, 1).await, expected[2..3]);
}

async fn a_new_time_alone_is_no_change(w: &TestNetwork) {
    w.refuse(update(w), NoChange {}).await;
    let start = first_start(w).await;
    set(w, "ratesInEffectAfter", start + 100).await;
    w.refuse(update(w), NoChange {}).await;
    // Each of the other changes alone is accepted.
    for (step, name) in (1..).zip(&PARAMETERS[..4]) {
        set(w, name, 7).await;
        set(w, "ratesInEffectAfter", start + step).await;
        w.send(update(w)).await;
    }
}

async fn rates_start_later_than_the_ones_before(w: &TestNetwork) {
    let lastStartTime = first_start(w).await;
    set(w, "messageFee", 101).await;
    for startTime in [lastStartTime, lastStartTime - 1, 0] {
        set(w, "ratesInEffectAfter", startTime).await;
        w.refuse(update(w), InvalidStartTime { startTime, lastStartTime }).await;
    }
    // A time in a thousand years: the contract checks only the order.
    set(w, "ratesInEffectAfter", lastStartTime + 31_557_600_000).await;
    w.send(update(w)).await;
}

async fn the_first_rates_may_start_at_any_time(w: &TestNetwork) {
    for start in [0, 1, u64::MAX] {
        set(w, "ratesInEffectAfter", start).await;
        let rates = w.fresh("RateRegistry").await;
        let receipt = w.send(anyone().calls(rates, updateRatesCall {})).await;
        assert_eq!(receipt.event::<RatesUpdated>(rates).startTime, start);
    }
}

async fn each_rate_is_bounded_by_its_type(w: &TestNetwork) {
    for name in PARAMETERS {
        let key = format!("xmtp.rateRegistry.{name}");
        let snapshot = w.snapshot().await;
        w.set(&key, U256::from(1) << 64).await;
        w.refuse(update(w), ParameterOutOfTypeBounds {}).await;
        w.revert_to(snapshot).await;
    }
}

async fn pages_must_be_within_the_list(w: &TestNetwork) {
    let [zero, one, two] = [0, 1, 2].map(U256::from);
    w.refuse_all([
        (page(w, zero, zero), ZeroCount {}.into()),
        (page(w, one, zero), ZeroCount {}.into()),
        (page(w, one, one), FromIndexOutOfRange {}.into()),
        (page(w, U256::MAX, one), FromIndexOutOfRange {}.into()),
        (page(w, zero, two), EndIndexOutOfRange {}.into()),
    ])
    .await;
    set(w, "messageFee", 101).await;
    set(w, "ratesInEffectAfter", u64::MAX).await;
    w.send(update(w)).await;
    // The sum overflows.
    w.refuse(page(w, one, U256::MAX), Panic::from(0x11)).await;
}
