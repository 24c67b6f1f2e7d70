//! Several broadcasters with one account: through a real Redis, which may go, be emptied or be old; and without one.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../../devchain/tests/pair/mod.rs"]
mod pair;
mod redis_server;

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::rpc::types::Filter;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolEvent as _;
use futures_util::future::join_all;
use hawser_chain::addresses::Addresses;
use hawser_chain::broadcast::{BroadcastError, BroadcastReceipt, BroadcastSettings, Broadcaster};
use hawser_chain::contracts::GroupMessageBroadcaster::MessageSent;
use hawser_chain::redis_link::RedisAccess;
use hawser_chain::send::{Call, Sender};
use hawser_devchain::deploy;
use hawser_proto::GroupId;
use pair::{ChainBackend, Pair};
use redis_server::RedisServer;
use serde_json::{Value, json};

/// Longest time that a test waits for an event.
const SOON: Duration = Duration::from_secs(60);

fn key() -> PrivateKeySigner {
    deploy::accounts().swap_remove(5)
}

fn payload(number: u32) -> Bytes {
    let mut bytes = vec![7; 100];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

fn group(number: u32) -> GroupId {
    let mut group = [0; 16];
    group[..4].copy_from_slice(&number.to_be_bytes());
    GroupId(group)
}

/// A pair of chains with a deployment, and a Redis.
struct Shared {
    pair: Pair,
    addresses: Addresses,
    redis: RedisServer,
}

impl Shared {
    async fn start() -> Option<Self> {
        let redis = RedisServer::start().await?;
        let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
        Some(Self { pair, addresses: at.addresses, redis })
    }

    fn settings(&self) -> BroadcastSettings {
        let url = self.pair.app.endpoint().to_owned();
        let redis = Some(self.redis.access());
        BroadcastSettings { redis, ..BroadcastSettings::new(vec![url], &self.addresses) }
    }

    async fn broadcaster(&self) -> Broadcaster {
        Broadcaster::start(self.settings(), key()).await.unwrap()
    }

    /// Returns the numbers of all payloads on the chain, ascending.
    async fn logged(&self) -> Vec<u32> {
        logged(&self.pair, &self.addresses).await
    }

    /// Returns the transactions of the account: mined ones, and with those that wait.
    async fn counts(&self) -> (u64, u64) {
        let account = key().address();
        let provider = self.pair.app.provider();
        let mined = provider.get_transaction_count(account).await.unwrap();
        (mined, provider.get_transaction_count(account).pending().await.unwrap())
    }

    async fn assert_logged_once(&self, numbers: impl IntoIterator<Item = u32>) {
        assert_eq!(self.logged().await, numbers.into_iter().collect::<Vec<_>>());
    }
}

async fn logged(pair: &Pair, addresses: &Addresses) -> Vec<u32> {
    let filter = Filter::new()
        .address(addresses.group_message_broadcaster)
        .event_signature(MessageSent::SIGNATURE_HASH)
        .from_block(0);
    let logs = pair.app.provider().get_logs(&filter).await.unwrap();
    let number = |log: alloy::rpc::types::Log| {
        let message = MessageSent::decode_log(&log.inner).unwrap().data.message;
        u32::from_be_bytes(message[..4].try_into().unwrap())
    };
    let mut numbers: Vec<u32> = logs.into_iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

async fn send_all(
    broadcaster: &Broadcaster,
    numbers: std::ops::Range<u32>,
) -> Vec<Result<BroadcastReceipt, BroadcastError>> {
    let sent = numbers.map(|number| broadcaster.group_message(group(number), payload(number)));
    join_all(sent).await
}

async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, waiting).await.is_ok(), "not so: {what}");
}

fn all_sent(sent: &[Result<BroadcastReceipt, BroadcastError>]) -> bool {
    sent.iter().all(Result::is_ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_senders_pay_once_for_each_payload_and_leave_no_hole() {
    let Some(shared) = Shared::start().await else { return };
    let [first, second] = [shared.broadcaster().await, shared.broadcaster().await];
    let (one, other) = tokio::join!(send_all(&first, 0..60), send_all(&second, 60..120));
    assert!(all_sent(&one) && all_sent(&other), "{one:?} {other:?}");
    shared.assert_logged_once(0..120).await;
    assert_eq!(shared.counts().await, (120, 120), "every transaction carried a payload");
    // The same payloads at the same time, and again at the other sender.
    let (one, other) = tokio::join!(send_all(&first, 120..140), send_all(&second, 120..140));
    assert_eq!(one, other, "one transaction each");
    let again = send_all(&second, 0..20).await;
    assert!(all_sent(&again), "{again:?}");
    shared.assert_logged_once(0..140).await;
    assert_eq!(shared.counts().await, (140, 140));
}

/// The environment variable with the arguments of the sending process.
const TOLD: &str = "HAWSER_TEST_SHARING_SENDER";

#[tokio::test]
#[ignore = "sends in a process of its own, for the test that kills it"]
async fn send_until_killed() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let told: Value = serde_json::from_str(&told).unwrap();
    let addresses = Addresses::parse(&told["addresses"].to_string()).unwrap();
    let redis = RedisAccess {
        url: told["redis"].as_str().unwrap().into(),
        key_prefix: "test:".into(),
        connect_timeout: Duration::from_secs(5),
    };
    let url = told["url"].as_str().unwrap().to_owned();
    let settings =
        BroadcastSettings { redis: Some(redis), ..BroadcastSettings::new(vec![url], &addresses) };
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    for first in (0..10_000).step_by(40) {
        send_all(&broadcaster, first..first + 40).await;
        println!("\nsent {}", first + 40);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_sender_leaves_is_sent_once_by_the_other() {
    let Some(shared) = Shared::start().await else { return };
    let told = json!({
        "redis": shared.redis.url(),
        "url": shared.pair.app.endpoint(),
        "addresses": shared.addresses.to_json(),
    });
    let mut process = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "send_until_killed", "--nocapture"])
        .env(TOLD, told.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let sent = tokio::task::spawn_blocking(move || {
        lines.find_map(|line| line.strip_prefix("sent ").map(str::to_owned))
    });
    let survivor = shared.broadcaster().await;
    let own = async {
        let mut all = Vec::new();
        for first in (20_000..20_200).step_by(20) {
            all.extend(send_all(&survivor, first..first + 20).await);
        }
        all
    };
    let killing = async {
        let sent: usize = sent.await.unwrap().expect("the process sends").parse().unwrap();
        until("the next batch is under way", async || {
            shared.logged().await.iter().filter(|number| **number < 20_000).count() > sent + 5
        })
        .await;
        process.kill().unwrap();
        process.wait().unwrap();
    };
    let (own, ()) = tokio::join!(own, killing);
    assert!(all_sent(&own), "the other sender goes on: {own:?}");
    // The callers of the killed one ask the other one at once, before it is given up.
    let logged: BTreeSet<u32> = shared.logged().await.into_iter().collect();
    let of_killed = logged.iter().filter(|number| **number < 20_000).count();
    let all = u32::try_from(of_killed).unwrap().div_ceil(40) * 40;
    let again = send_all(&survivor, 0..all).await;
    assert!(all_sent(&again), "{again:?}");
    until("nothing is under way", async || survivor.status().in_flight == 0).await;
    shared.assert_logged_once((0..all).chain(20_000..20_200)).await;
    let (mined, pending) = shared.counts().await;
    assert_eq!(mined, pending, "no nonce is a hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nonce_that_was_taken_and_never_used_is_used_by_another_sender() {
    let Some(shared) = Shared::start().await else { return };
    let survivor = shared.broadcaster().await;
    assert!(all_sent(&send_all(&survivor, 0..1).await));
    // A process that took three nonces and was killed before it signed.
    let account = key().address();
    let base = format!("test:nonces:{{{}:{account}}}", shared.addresses.app_chain_id);
    let mut redis = shared.redis.connect().await;
    let mut take = redis::pipe();
    for nonce in 1..4 {
        take.hset(format!("{base}:owner"), nonce, "gone|").ignore();
    }
    take.hset(format!("{base}:state"), "next", 4).ignore();
    take.query_async::<()>(&mut redis).await.unwrap();
    let sent = send_all(&survivor, 1..21).await;
    assert!(all_sent(&sent), "{sent:?}");
    shared.assert_logged_once(0..21).await;
    let (mined, pending) = shared.counts().await;
    assert_eq!(mined, pending);
    assert!((21..=24).contains(&mined), "{mined}: at most the three were filled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_nothing_new_is_sent_and_with_it_all_goes_on() {
    let Some(shared) = Shared::start().await else { return };
    let broadcaster = shared.broadcaster().await;
    assert!(all_sent(&send_all(&broadcaster, 0..3).await));
    let Shared { pair, addresses, redis } = shared;
    let port = redis.kill();
    let refused = broadcaster.group_message(group(3), payload(3)).await;
    assert!(matches!(refused, Err(BroadcastError::Sharing { .. })), "{refused:?}");
    assert!(broadcaster.halted().unwrap().contains("Redis"));
    assert_eq!(logged(&pair, &addresses).await.len(), 3);
    // It comes back empty.
    let redis = RedisServer::start_at(port).await.unwrap().unwrap();
    let shared = Shared { pair, addresses, redis };
    until("the sender goes on", async || broadcaster.halted().is_none()).await;
    let sent = send_all(&broadcaster, 3..10).await;
    assert!(all_sent(&sent), "{sent:?}");
    shared.assert_logged_once(0..10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_emptied_or_restored_under_load_doubles_nothing() {
    let Some(shared) = Shared::start().await else { return };
    let [first, second] = [shared.broadcaster().await, shared.broadcaster().await];
    let mut redis = shared.redis.connect().await;
    assert!(all_sent(&send_all(&first, 0..5).await));
    let base = format!("test:nonces:{{{}:{}}}", shared.addresses.app_chain_id, key().address());
    let names = ["state", "owner", "signed", "payload", "alive", "since", "free"];
    let mut old: Vec<(String, Option<Vec<u8>>)> = Vec::new();
    for name in names {
        let name = format!("{base}:{name}");
        let dump = redis::cmd("DUMP").arg(&name).query_async(&mut redis).await.unwrap();
        old.push((name, dump));
    }
    let disturb = async {
        until("a part was sent", async || shared.logged().await.len() > 20).await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
        until("another part was sent", async || shared.logged().await.len() > 60).await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
        for (name, dump) in &old {
            let Some(dump) = dump else { continue };
            let mut restore = redis::cmd("RESTORE");
            restore.arg(name).arg(0).arg(dump).arg("REPLACE");
            restore.query_async::<()>(&mut redis).await.unwrap();
        }
    };
    let send = async |broadcaster: &Broadcaster, numbers: std::ops::Range<u32>| {
        let mut left: Vec<u32> = numbers.collect();
        while !left.is_empty() {
            let batch: Vec<u32> = left.iter().copied().take(10).collect();
            let sent = batch
                .iter()
                .map(|number| broadcaster.group_message(group(*number), payload(*number)));
            let sent = join_all(sent).await;
            let done: Vec<u32> = batch
                .iter()
                .zip(&sent)
                .filter(|(_, sent)| sent.is_ok())
                .map(|(number, _)| *number)
                .collect();
            left.retain(|number| !done.contains(number));
        }
    };
    tokio::join!(send(&first, 5..80), send(&second, 80..155), disturb);
    shared.assert_logged_once(0..155).await;
    let (mined, pending) = shared.counts().await;
    assert_eq!(mined, pending, "no nonce is a hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_redis_one_of_two_senders_makes_way() {
    let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
    let settings = |quiet: Duration| BroadcastSettings {
        stand_back: Some(quiet),
        ..BroadcastSettings::new(vec![pair.app.endpoint().to_owned()], &at.addresses)
    };
    let quiet = Duration::from_secs(3);
    let first = Broadcaster::start(settings(quiet), key()).await.unwrap();
    let second = Broadcaster::start(settings(quiet), key()).await.unwrap();
    assert!(all_sent(&send_all(&first, 0..3).await));
    // It has seen none of the first one's transactions yet, and does so with its own first one.
    let refused = second.group_message(group(3), payload(3)).await;
    assert!(matches!(refused, Err(BroadcastError::Rival { .. })), "{refused:?}");
    assert!(second.halted().unwrap().contains("another sender"));
    let refused = second.group_message(group(4), payload(4)).await;
    assert!(matches!(refused, Err(BroadcastError::Rival { .. })), "{refused:?}");
    assert_eq!(logged(&pair, &at.addresses).await, [0, 1, 2]);
    // The first one is gone, and the second one takes over.
    first.stop().await;
    until("the second one takes over", async || {
        second.group_message(group(3), payload(3)).await.is_ok()
    })
    .await;
    assert_eq!(second.halted(), None);
    assert_eq!(logged(&pair, &at.addresses).await, [0, 1, 2, 3]);
    // A transaction by hand stops it for a while too, and is told.
    let gift = Call { to: Some(Address::repeat_byte(1)), data: Bytes::new(), value: U256::ONE };
    Sender::new(pair.app.clone(), key()).send(&gift).await.unwrap();
    let refused = second.group_message(group(5), payload(5)).await;
    assert!(matches!(refused, Err(BroadcastError::Rival { .. })), "{refused:?}");
    until("it goes on", async || second.group_message(group(5), payload(5)).await.is_ok()).await;
    assert_eq!(logged(&pair, &at.addresses).await, [0, 1, 2, 3, 5]);
}
