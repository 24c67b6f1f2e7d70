//! Tests of sending while one endpoint calls every transaction failed, has stopped or is gone: its receipts are
//! believed only if another endpoint shows the same, or if no other one follows the chain.

use std::time::Duration;

use alloy::providers::Provider as _;
use futures_util::future::join_all;
use hawser_chain::broadcast::{BroadcastError, BroadcastSettings, Broadcaster};
use serde_json::{Value, json};

use crate::pair::{ChainBackend, Pair};
use crate::payloads::{group, key, payload};
use crate::proxy::{Faults, Proxy};

const SENT: u32 = 6;
/// Calls every transaction failed and counts one more than there are.
const LIAR: Faults = Faults { reverts: true, miscounts: 1, ..NONE };
const NONE: Faults = Faults::NONE;

/// Returns URLs with a path, as those of providers have, which carries a key.
fn urls(proxies: &[Proxy]) -> Vec<String> {
    proxies.iter().map(|proxy| format!("{}/v2/key", proxy.url())).collect()
}

async fn count(pair: &Pair) -> u64 {
    pair.app.provider().get_transaction_count(key().address()).await.unwrap()
}

async fn rpc(pair: &Pair, method: &'static str, params: Value) {
    let _: Value = pair.app.provider().raw_request(method.into(), params).await.unwrap();
}

#[tokio::test]
async fn two_honest_endpoints_outweigh_the_receipts_of_a_liar() {
    for liar_at in 0..3 {
        let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
        let proxies = join_all((0..3).map(|seed| Proxy::start(pair.app.endpoint(), seed))).await;
        proxies[liar_at].set(|faults| *faults = LIAR);
        let urls = urls(&proxies);
        let broadcaster =
            Broadcaster::start(BroadcastSettings::new(urls, &at.addresses), key()).await.unwrap();
        let sent = (0..SENT).map(|it| broadcaster.group_message(group(it), payload(it)));
        for sent in join_all(sent).await {
            assert!(sent.is_ok(), "the liar is endpoint {liar_at}: {sent:?}");
        }
        assert_eq!(count(&pair).await, u64::from(SENT), "each payload is paid for once");
    }
}

/// Neither the failure that the liar shows nor a success is reported; the payload is not sent twice.
#[tokio::test]
async fn the_outcome_is_open_while_one_of_two_endpoints_lies() {
    for liar_at in 0..2 {
        let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
        let proxies = join_all((0..2).map(|seed| Proxy::start(pair.app.endpoint(), seed))).await;
        let settings = BroadcastSettings {
            wait_max: Duration::from_secs(5),
            ..BroadcastSettings::new(urls(&proxies), &at.addresses)
        };
        let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
        proxies[liar_at].set(|faults| *faults = LIAR);
        // First the liar makes a receipt up, and then it changes one.
        rpc(&pair, "evm_setAutomine", json!([false])).await;
        let mined = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            rpc(&pair, "evm_setAutomine", json!([true])).await;
            rpc(&pair, "evm_mine", json!([])).await;
        };
        let (sent, ()) = tokio::join!(broadcaster.group_message(group(1), payload(1)), mined);
        assert!(matches!(sent, Err(BroadcastError::NotMined { .. })), "{liar_at}: {sent:?}");

        proxies[liar_at].set(|faults| *faults = NONE);
        let sent = broadcaster.group_message(group(1), payload(1)).await;
        assert!(sent.is_ok(), "the liar was endpoint {liar_at}: {sent:?}");
        assert_eq!(count(&pair).await, 1, "the payload is paid for once");
    }
}

/// The only endpoint that answers for a while is believed, so that an outage of the others stops nothing for long.
#[tokio::test]
async fn one_endpoint_is_enough_while_the_other_is_gone() {
    let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
    let gone = Proxy::start(pair.app.endpoint(), 1).await;
    let urls = vec![gone.url(), pair.app.endpoint().to_owned()];
    let broadcaster =
        Broadcaster::start(BroadcastSettings::new(urls, &at.addresses), key()).await.unwrap();
    gone.set(|faults| faults.dead = true);
    let sent = broadcaster.group_message(group(1), payload(1)).await;
    assert!(sent.is_ok(), "{sent:?}");
}

/// The other endpoint may know of a success: a failure that is made up would have the payload paid for twice.
#[tokio::test]
async fn a_failure_that_the_only_endpoint_shows_is_not_told() {
    let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
    let proxies = join_all((0..2).map(|seed| Proxy::start(pair.app.endpoint(), seed))).await;
    let settings = BroadcastSettings {
        wait_max: Duration::from_secs(25),
        ..BroadcastSettings::new(urls(&proxies), &at.addresses)
    };
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    proxies[0].set(|faults| faults.dead = true);
    proxies[1].set(|faults| *faults = Faults { reverts: true, ..NONE });
    let sent = broadcaster.group_message(group(1), payload(1)).await;
    assert!(matches!(sent, Err(BroadcastError::NotMined { .. })), "{sent:?}");

    proxies[1].set(|faults| *faults = NONE);
    let sent = broadcaster.group_message(group(1), payload(1)).await;
    assert!(sent.is_ok(), "a success counts alone: {sent:?}");
    assert_eq!(count(&pair).await, 1, "the payload is paid for once");
}

/// An endpoint that stays at an old block is left out after a while, so that it does not hold up the other one.
#[tokio::test]
async fn an_endpoint_that_has_stopped_holds_up_nothing_for_long() {
    for stopped_at in 0..2 {
        let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
        let proxies = join_all((0..2).map(|seed| Proxy::start(pair.app.endpoint(), seed))).await;
        // Less than the time without blocks after which an endpoint counts as stopped.
        let settings = BroadcastSettings {
            wait_max: Duration::from_secs(15),
            ..BroadcastSettings::new(urls(&proxies), &at.addresses)
        };
        let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
        let newest = pair.app.newest_block().await.unwrap();
        proxies[stopped_at].set(|faults| {
            *faults = Faults { resyncing: Some(newest), miscounts: -5000, denies: true, ..NONE };
        });
        let send = |it| broadcaster.group_message(group(it), payload(it));
        for (it, sent) in (0..).zip(join_all((0..SENT).map(send)).await) {
            let sent = match sent {
                Err(BroadcastError::NotMined { .. }) => send(it).await,
                sent => sent,
            };
            assert!(sent.is_ok(), "endpoint {stopped_at} has stopped: {sent:?}");
        }
        let sent = send(SENT).await;
        assert!(sent.is_ok(), "it is still known as stopped: {sent:?}");
        assert_eq!(count(&pair).await, u64::from(SENT) + 1, "each payload is paid for once");
    }
}

/// A result of minutes ago is looked for once more: a reorganisation may have moved it, or the endpoint that showed it
/// may have made it up.
#[tokio::test]
async fn a_payload_is_found_in_its_transaction_if_two_endpoints_show_it_there() {
    let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
    let proxies = join_all((0..2).map(|seed| Proxy::start(pair.app.endpoint(), seed))).await;
    let settings = BroadcastSettings::new(urls(&proxies), &at.addresses);
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    let sent = broadcaster.group_message(group(1), payload(1)).await.unwrap();
    let hash = sent.transaction_hash;
    let find = async |of, it| broadcaster.find_group_message(group(of), payload(it), hash).await;
    let mut found = None;
    for _ in 0..60 {
        // On a busy machine an endpoint may answer late, which counts as no answer.
        found = find(1, 1).await;
        if found.is_some() {
            break;
        }
    }
    assert_eq!(found, Some(sent));
    assert_eq!(find(1, 2).await, None, "the transaction has another payload");
    assert_eq!(find(2, 1).await, None, "it is of another group");
    let unknown = alloy::primitives::B256::repeat_byte(9);
    assert_eq!(broadcaster.find_group_message(group(1), payload(1), unknown).await, None);
    proxies[0].set(|faults| *faults = LIAR);
    assert_eq!(find(1, 1).await, None, "one endpoint alone shows it");
}
