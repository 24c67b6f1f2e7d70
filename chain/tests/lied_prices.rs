//! Tests of broadcasting while one endpoint states a wrong price of gas, or wrong estimates: payloads are mined, at the
//! price of the chain.

use std::time::Duration;

use alloy::consensus::Transaction as _;
use alloy::providers::Provider as _;
use futures_util::future::join_all;
use hawser_chain::broadcast::{BroadcastSettings, Broadcaster};
use hawser_chain::spending::GAS_PRICE_MAX;

use crate::pair::{ChainBackend, Pair};
use crate::payloads::{group, key, payload};
use crate::proxy::Proxy;

const SENT: u32 = 4;
const CEILING: u64 = 100_000_000_000;
const ABOVE_THE_CEILING: u64 = 10 * CEILING;
const BELOW_THE_CEILING: u64 = CEILING / 2;

/// Sends payloads while the endpoint at `liar_at` of `count` states `wei` as the price of gas. Returns the highest
/// price that was paid, and the price that the chain states.
async fn paid(count: usize, liar_at: usize, wei: u64) -> (u128, u128) {
    assert_eq!(GAS_PRICE_MAX.0, u128::from(CEILING));
    let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
    let chain = &pair.app;
    let proxies = join_all((0..count).map(|_| Proxy::start(chain.endpoint(), 1))).await;
    proxies[liar_at].set(|faults| faults.prices_wei = Some(wei));
    let urls = proxies.iter().map(Proxy::url).collect();
    let settings = BroadcastSettings {
        wait_max: Duration::from_secs(60),
        ..BroadcastSettings::new(urls, &at.addresses)
    };
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    let honest_wei = chain.provider().get_gas_price().await.unwrap();
    let sent = (0..SENT).map(|number| broadcaster.group_message(group(number), payload(number)));
    let mut highest = 0;
    for sent in join_all(sent).await {
        let sent = sent.unwrap_or_else(|error| panic!("{liar_at} of {count}, {wei}: {error}"));
        let found = chain.provider().get_transaction_by_hash(sent.transaction_hash).await;
        highest = highest.max(found.unwrap().unwrap().max_fee_per_gas());
    }
    let mined = chain.provider().get_transaction_count(key().address()).await.unwrap();
    assert_eq!(mined, u64::from(SENT), "each payload is paid for once");
    (highest, honest_wei)
}

#[tokio::test]
async fn one_endpoint_of_three_neither_raises_the_price_nor_stops_a_payload() {
    for liar_at in 0..3 {
        for wei in [0, 1, BELOW_THE_CEILING, ABOVE_THE_CEILING] {
            let (paid, honest) = paid(3, liar_at, wei).await;
            assert!(paid <= 2 * honest, "{liar_at}, {wei}: {paid} instead of {honest}");
        }
    }
}

/// With two endpoints nothing shows which price is true: transactions are signed at the lower one, and signed again at
/// the higher one if that is too low.
#[tokio::test]
async fn one_endpoint_of_two_stops_no_payload() {
    for liar_at in 0..2 {
        for wei in [0, 1] {
            paid(2, liar_at, wei).await;
        }
        for wei in [BELOW_THE_CEILING, ABOVE_THE_CEILING] {
            let (paid, honest) = paid(2, liar_at, wei).await;
            assert!(paid <= 2 * honest, "{liar_at}, {wei}: {paid} instead of {honest}");
        }
    }
}

/// An estimate that is too low has a transaction fail that is paid for, and one that is too high exceeds the ceiling of
/// an hour or the balance. The liar is asked first.
#[tokio::test]
async fn one_endpoint_of_several_stops_no_payload_by_its_estimates() {
    for count in [2, 3] {
        for gas in [1, 1 << 50] {
            let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
            let chain = &pair.app;
            let proxies = join_all((0..count).map(|_| Proxy::start(chain.endpoint(), 1))).await;
            proxies[0].set(|faults| faults.estimates = Some(gas));
            let urls = proxies.iter().map(Proxy::url).collect();
            let settings = BroadcastSettings::new(urls, &at.addresses);
            let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
            let sent = (0..SENT).map(|it| broadcaster.group_message(group(it), payload(it)));
            for sent in join_all(sent).await {
                assert!(sent.is_ok(), "one of {count} estimates {gas}: {sent:?}");
            }
            let mined = chain.provider().get_transaction_count(key().address()).await.unwrap();
            assert_eq!(mined, u64::from(SENT), "each payload is paid for once");
            assert!(proxies[0].spoilt() > 0, "it was asked");
        }
    }
}
