//! Tests of the watcher of the contracts that need a chain, or an endpoint with faults.

use std::collections::BTreeMap;

use alloy::providers::Provider as _;
use hawser_chain::admin::parameters::{self, Adoption};
use hawser_chain::admin::rates;
use hawser_chain::admin::watcher::{
    self, AlarmKind, EventFollower, OlderReports, WatchLimits, Watched,
};
use hawser_chain::contracts::parameter;
use hawser_chain::send::Chain;
use serde_json::{Value, json};

use crate::administration::Administration;
use crate::pair::ChainBackend;
use crate::proxy::Proxy;

/// An endpoint refuses all requests for a while. Pages of one block would never come to the head of a chain that makes
/// blocks each second.
#[tokio::test]
async fn pages_of_events_grow_again_after_an_endpoint_has_refused_all() {
    let setup = Administration::new(ChainBackend::Embedded).await;
    let settlement = &setup.pair.settlement;
    let proxy = Proxy::start(settlement.endpoint(), 0).await;
    let mut network = setup.network.clone();
    network.settlement = Chain::connect(&proxy.url(), settlement.id()).await.unwrap();
    let mut follower = EventFollower::new(None);
    follower.read(&network).await.unwrap();
    for _ in 0..150 {
        let provider = settlement.provider();
        provider.raw_request::<_, Value>("evm_mine".into(), json!([])).await.unwrap();
    }
    proxy.set(|faults| faults.range_max = Some(0));
    follower.read(&network).await.unwrap_err();
    proxy.set(|faults| faults.range_max = None);
    for _ in 0..2 {
        follower.read(&network).await.unwrap();
    }
    let newest = settlement.newest_block().await.unwrap();
    assert_eq!(follower.counts().last_block, Some(newest));
}

/// An administrator has set a wrong price. From now on any account can have the registry adopt it.
#[tokio::test]
async fn a_wrong_price_raises_the_alarm_before_it_is_adopted() {
    let setup = Administration::new(ChainBackend::Embedded).await;
    let network = &setup.network;
    let last = rates::list(network).await.unwrap()[0];
    let (watched, mut older) = (Watched::default(), OlderReports::default());
    let seen = watcher::look(network, &watched, &mut older).await.unwrap();
    assert_eq!((seen.rates, seen.rate_to_adopt), (vec![last], None));
    let wrong = [
        (parameter::RATE_REGISTRY_MESSAGE_FEE, 100 * last.message_fee.0),
        (parameter::RATE_REGISTRY_RATES_IN_EFFECT_AFTER, last.start_unix_s + 1),
    ];
    let wrong = wrong.map(|(key, value)| parameters::assignment(key, &value.to_string()).unwrap());
    setup.carry_out(&parameters::set(network, &wrong, Adoption::Noted).await.unwrap()).await;
    let seen = watcher::look(network, &watched, &mut older).await.unwrap();
    assert_eq!(seen.rates, [last], "it is not adopted yet");
    let (limits, now) = (WatchLimits::default(), seen.chain_time);
    let alarms = watcher::judge(&seen, &limits, &BTreeMap::new(), now);
    let is_of_rate = |text: &str| text.starts_with("the message fee set and not adopted yet from ");
    let mut of_rates = alarms.iter().filter(|alarm| alarm.kind == AlarmKind::Rate);
    assert!(of_rates.any(|alarm| is_of_rate(&alarm.text)), "{alarms:?}");
}
