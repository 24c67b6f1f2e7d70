//! Tests of what a broadcaster finds in Redis that it has not written: payloads of other processes beside an endpoint
//! that has stopped, and transactions of strangers.

use std::time::Duration;

use alloy::consensus::{SignableTransaction as _, TxEnvelope, TxLegacy};
use alloy::eips::Encodable2718 as _;
use alloy::network::TxSignerSync as _;
use alloy::primitives::{Address, Bytes, TxKind, U256};
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use hawser_chain::broadcast::{BroadcastSettings, Broadcaster};
use hawser_devchain::deploy;

use super::{SharedPayer, all_sent, send_all, send_one, until};
use crate::pair::native_balance;
use crate::payloads::{group, key, payload};
use crate::proxy::{Faults, Proxy};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_of_another_process_is_found_beside_an_endpoint_that_has_stopped() {
    let shared = SharedPayer::start().await;
    let first = shared.broadcaster().await;
    let sent = send_one(&first, 0, &payload(0)).await.unwrap();
    let chain = &shared.pair.app;
    let stopped = Proxy::start(chain.endpoint(), 0).await;
    let before = chain.newest_block().await.unwrap() - 1;
    stopped.set(|faults| {
        *faults = Faults { resyncing: Some(before), denies: true, ..Faults::NONE };
    });
    let urls = vec![stopped.url(), chain.endpoint().to_owned()];
    let settings = BroadcastSettings { urls, ..shared.settings() };
    let second = Broadcaster::start(settings, key()).await.unwrap();
    // Others use the chain, so that an endpoint that follows it has new blocks.
    let others = async {
        loop {
            let mined = chain.provider().raw_request("evm_mine".into(), serde_json::json!([]));
            let _: serde_json::Value = mined.await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let payload = payload(0);
    tokio::select! {
        found = send_one(&second, 0, &payload) => assert_eq!(found.unwrap(), sent),
        () = others => {}
    }
    shared.assert_logged_once([0]).await;
    assert_eq!(shared.counts().await, (1, 1), "it is paid for once");
}

const RECIPIENT: Address = Address::repeat_byte(0x55);

/// Returns a payment that another account has signed, framed as in Redis.
fn foreign(nonce: u64) -> Vec<u8> {
    payment_of(&deploy::accounts().swap_remove(6), nonce)
}

fn payment_of(signer: &PrivateKeySigner, nonce: u64) -> Vec<u8> {
    let mut payment = TxLegacy {
        chain_id: Some(crate::pair::APP_ID),
        nonce,
        gas_price: 100_000_000_000,
        gas_limit: 100_000,
        to: TxKind::Call(RECIPIENT),
        value: U256::ONE,
        input: Bytes::new(),
    };
    let signature = signer.sign_transaction_sync(&mut payment).unwrap();
    framed(&TxEnvelope::from(payment.into_signed(signature)).encoded_2718())
}

fn framed(raw: &[u8]) -> Vec<u8> {
    let length = u32::try_from(raw.len()).unwrap();
    [&length.to_be_bytes()[..], raw].concat()
}

/// A stranger can write to Redis: near the chain's count, and far above it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_a_stranger_has_signed_are_not_sent_and_stop_nothing() {
    let shared = SharedPayer::start().await;
    let first = shared.broadcaster().await;
    assert!(all_sent(&send_all(&first, 0..1).await));
    first.stop().await;
    let entries: [(u64, Vec<u8>); 6] = [
        (0, foreign(0)),
        (1, foreign(1)),
        (2, foreign(7)),
        (3, framed(b"no transaction")),
        (5000, foreign(5000)),
        (1 << 50, b"not framed".to_vec()),
    ];
    let mut write = redis::pipe();
    for (nonce, signed) in &entries {
        let digest = format!("{nonce:064x}");
        write.hset(format!("{}:owner", shared.base()), nonce, format!("gone|{digest}")).ignore();
        write.hset(format!("{}:payload", shared.base()), digest, nonce).ignore();
        write.hset(format!("{}:signed", shared.base()), nonce, signed.as_slice()).ignore();
    }
    let mut redis = shared.redis.connect().await;
    write.query_async::<()>(&mut redis).await.unwrap();

    let second = shared.broadcaster().await;
    until("the entries are cleared", async || {
        let mut count = redis::cmd("HLEN");
        count.arg(format!("{}:signed", shared.base()));
        count.query_async::<u64>(&mut shared.redis.connect().await).await.unwrap() == 0
    })
    .await;
    for number in 1..10 {
        assert!(send_one(&second, number, &payload(number)).await.is_ok(), "{number}");
    }
    assert!(second.group_message(group(0), payload(0)).await.is_ok(), "it is found");
    shared.assert_logged_once(0..10).await;
    assert_eq!(native_balance(&shared.pair.app, RECIPIENT).await, U256::ZERO);
    let (mined, pending) = shared.counts().await;
    assert_eq!(mined, pending, "no nonce is a hole");
}

/// Redis holds nonces far ahead of the chain's count, and texts that are no nonces. A stranger may write them, or the
/// account was used on a chain that began anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_process_has_written_neither_raises_nonces_nor_stops_them() {
    let shared = SharedPayer::start().await;
    let first = shared.broadcaster().await;
    assert!(all_sent(&send_all(&first, 0..1).await));
    let alive: Vec<String> = redis::cmd("HKEYS")
        .arg(format!("{}:alive", shared.base()))
        .query_async(&mut shared.redis.connect().await)
        .await
        .unwrap();
    let far = 1u64 << 49;
    let names = ["", "x", "-3", "1e3", "007", " 9", "99999999999999999999"].map(str::to_owned);
    let owned = [7000, far, 6998].map(|nonce| nonce.to_string()).into_iter().chain(names);
    let mut write = redis::pipe();
    let key = |name: &str| format!("{}:{name}", shared.base());
    for (number, nonce) in owned.enumerate() {
        // The owners: a process that has ended, one that is alive, and strangers with signs of life in the future.
        let owner = ["gone", &alive[0], "a", "b"][number.min(3)];
        write.hset(key("owner"), &nonce, format!("{owner}|")).ignore();
        write.hset(key("signed"), &nonce, payment_of(&crate::payloads::key(), 7000)).ignore();
    }
    write.hset(key("owner"), "8", "no owner").ignore();
    for (field, name) in [("alive", "a"), ("alive", "b"), ("alive", "c")] {
        write.hset(key(field), name, if name == "c" { "soon" } else { "99999999999999" }).ignore();
    }
    for (member, score) in [("x", 900), ("y", 3), ("-1", 2), ("7001", 7001)] {
        write.zadd(key("free"), member, score).ignore();
    }
    for field in ["next", "used"] {
        write.hset(key("state"), field, far).ignore();
    }
    write.query_async::<()>(&mut shared.redis.connect().await).await.unwrap();

    for number in 1..6 {
        assert!(send_one(&first, number, &payload(number)).await.is_ok(), "{number}");
    }
    until("the entries are cleared", async || {
        let mut count = redis::cmd("HLEN");
        count.arg(key("owner"));
        count.query_async::<u64>(&mut shared.redis.connect().await).await.unwrap() == 0
    })
    .await;
    shared.assert_logged_once(0..6).await;
    assert_eq!(native_balance(&shared.pair.app, RECIPIENT).await, U256::ZERO);
    assert_eq!(shared.counts().await, (6, 6), "no nonce is a hole");
}
