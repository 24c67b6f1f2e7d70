//! Tests of sending while one of two endpoints lies about the account or about accepting transactions: no payload is
//! paid for twice, no filler is sent needlessly, and nothing stops.

use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use futures_util::future::join_all;
use hawser_chain::broadcast::{BroadcastError, BroadcastSettings, Broadcaster};
use hawser_chain::send::{Call, Sender};
use serde_json::{Value, json};

use crate::pair::{ChainBackend, Pair};
use crate::payloads::{group, key, payload};
use crate::proxy::{Faults, Proxy};

/// The number of transactions of the account before the broadcaster starts.
const BEFORE: u64 = 3;
/// The number of payloads sent with each lie.
const SENT: u32 = 6;

async fn count(pair: &Pair) -> u64 {
    pair.app.provider().get_transaction_count(key().address()).await.unwrap()
}

#[tokio::test]
async fn one_endpoint_that_lies_costs_nothing_and_stops_nothing() {
    let none = Faults::default();
    for (at_start, later) in [
        (none, Faults { miscounts: 50, ..none }),
        (none, Faults { miscounts: 5000, ..none }),
        (none, Faults { miscounts: -5000, ..none }),
        (none, Faults { miscounts: -2, ..none }),
        (none, Faults { swallows: true, ..none }),
        (none, Faults { refuses: true, ..none }),
        (Faults { miscounts: 50, ..none }, Faults { miscounts: 5, swallows: true, ..none }),
        (Faults { miscounts: -5000, ..none }, Faults { miscounts: -1, swallows: true, ..none }),
        (Faults { refuses: true, miscounts: 1, ..none }, none),
    ] {
        let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
        let gift = Call { to: Some(Address::repeat_byte(1)), data: Bytes::new(), value: U256::ONE };
        for _ in 0..BEFORE {
            Sender::new(pair.app.clone(), key()).send(&gift).await.unwrap();
        }
        let liar = Proxy::start(pair.app.endpoint(), 1).await;
        liar.set(|faults| *faults = at_start);
        // Two URLs of one host are one endpoint.
        let of_liar = ["a", "b"].map(|path| format!("{}/{path}", liar.url()));
        let urls = [&of_liar[..], &[pair.app.endpoint().to_owned()]].concat();
        let settings = BroadcastSettings {
            stand_back: Some(Duration::from_secs(60)),
            ..BroadcastSettings::new(urls, &at.addresses)
        };
        let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
        for (numbers, faults) in [(0..SENT, at_start), (SENT..2 * SENT, later)] {
            liar.set(|it| *it = faults);
            let sent =
                numbers.map(|number| broadcaster.group_message(group(number), payload(number)));
            for sent in join_all(sent).await {
                assert!(sent.is_ok(), "{at_start:?}, then {later:?}: {sent:?}");
            }
        }
        assert_eq!(broadcaster.halted(), None, "{at_start:?}, then {later:?}");
        let spent = count(&pair).await - BEFORE;
        assert_eq!(spent, u64::from(2 * SENT), "{at_start:?}, then {later:?}");
        assert!(liar.spoilt() > 0, "it was asked");
    }
}

/// A record is not taken for that of another chain because one endpoint is far behind.
#[tokio::test]
async fn a_record_is_resumed_although_one_endpoint_is_far_behind() {
    let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
    let rpc = async |method: &'static str, params: Value| {
        let _: Value = pair.app.provider().raw_request(method.into(), params).await.unwrap();
    };
    rpc("anvil_setNonce", json!([key().address(), "0x1000"])).await;
    let folder = tempfile::tempdir().unwrap();
    let liar = Proxy::start(pair.app.endpoint(), 1).await;
    let settings = BroadcastSettings {
        nonce_record: Some(folder.path().join("nonces")),
        // Long enough to send, also on busy cores: the transaction has to be under way when the wait ends.
        wait_max: Duration::from_secs(3),
        ..BroadcastSettings::new(vec![liar.url(), pair.app.endpoint().to_owned()], &at.addresses)
    };
    let broadcaster = Broadcaster::start(settings.clone(), key()).await.unwrap();
    rpc("evm_setAutomine", json!([false])).await;
    let sent = broadcaster.group_message(group(1), payload(1)).await;
    assert!(sent.is_err(), "there are no blocks: {sent:?}");
    assert_eq!(broadcaster.status().in_flight, 1);
    broadcaster.stop().await;

    liar.set(|faults| faults.miscounts = -0x1000);
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    rpc("evm_setAutomine", json!([true])).await;
    rpc("evm_mine", json!([])).await;
    while broadcaster.status().in_flight > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(count(&pair).await, 0x1001);
}

/// The gateway sends one transaction at a time, so an endpoint that never answers would hold up all later ones.
#[tokio::test]
async fn an_endpoint_that_does_not_answer_transactions_holds_none_up() {
    let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
    let liar = Proxy::start(pair.app.endpoint(), 1).await;
    liar.set(|faults| faults.mutes = true);
    let settings = BroadcastSettings {
        // Less than the time that a request has.
        wait_max: Duration::from_secs(8),
        ..BroadcastSettings::new(vec![liar.url(), pair.app.endpoint().to_owned()], &at.addresses)
    };
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    for number in 0..2 {
        let sent = broadcaster.group_message(group(number), payload(number)).await;
        assert!(sent.is_ok(), "{sent:?}");
    }
    assert!(liar.spoilt() > 0, "it was asked");
}

/// A refusal by all reachable endpoints is final: the silent endpoint has received nothing.
#[tokio::test]
async fn an_account_without_funds_is_told_while_another_endpoint_is_gone() {
    let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
    let gone = Proxy::start(pair.app.endpoint(), 1).await;
    gone.set(|faults| faults.dead = true);
    for urls in [[gone.url(), pair.app.endpoint().into()], [pair.app.endpoint().into(), gone.url()]]
    {
        let settings = BroadcastSettings::new(urls.to_vec(), &at.addresses);
        let poor = PrivateKeySigner::random();
        let broadcaster = Broadcaster::start(settings, poor).await.unwrap();
        let sent = broadcaster.group_message(group(1), payload(1)).await;
        assert!(matches!(sent, Err(BroadcastError::NoFunds { .. })), "{sent:?}");
    }
}
