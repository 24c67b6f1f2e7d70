//! Tests of several broadcasters with one account: with a real Redis, which may stop, be
//! emptied or be restored, and without one.

mod foreign;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::rpc::types::Filter;
use alloy::sol_types::SolEvent as _;
use futures_util::future::join_all;
use hawser_chain::addresses::Addresses;
use hawser_chain::admin::Wei;
use hawser_chain::broadcast::{BroadcastError, BroadcastReceipt, BroadcastSettings, Broadcaster};
use hawser_chain::contracts::GroupMessageBroadcaster::MessageSent;
use hawser_chain::redis_link::RedisAccess;
use hawser_chain::send::{Call, Sender};
use hawser_chain::spending::{CeilingError, SpendingLimits};
use serde_json::{Value, json};

use crate::pair::{ChainBackend, Pair};
use crate::payloads::{group, key, payload};
use crate::redis_server::RedisServer;

/// The longest time that a test waits for an event.
const SOON: Duration = Duration::from_secs(60);

/// The keys of Redis with their dumped values.
type SavedKeys = Vec<(String, Option<Vec<u8>>)>;

/// A pair of chains with a deployment, and a Redis.
struct SharedPayer {
    pair: Pair,
    addresses: Addresses,
    redis: RedisServer,
}

impl SharedPayer {
    async fn start() -> Self {
        let redis = RedisServer::start();
        let (pair, at) = Pair::deployed(ChainBackend::Embedded).await;
        Self { pair, addresses: at.addresses, redis }
    }

    fn settings(&self) -> BroadcastSettings {
        let url = self.pair.app.endpoint().to_owned();
        let redis = Some(self.redis.access());
        BroadcastSettings { redis, ..BroadcastSettings::new(vec![url], &self.addresses) }
    }

    async fn broadcaster(&self) -> Broadcaster {
        Broadcaster::start(self.settings(), key()).await.unwrap()
    }

    /// Returns the prefix of the keys in Redis.
    fn base(&self) -> String {
        format!("test:nonces:{{{}:{}}}", self.addresses.app_chain_id, key().address())
    }

    /// Returns the current content of Redis.
    async fn saved(&self) -> SavedKeys {
        let mut redis = self.redis.connect().await;
        let mut saved = Vec::new();
        for name in ["state", "owner", "signed", "payload", "alive", "since", "free"] {
            let name = format!("{}:{name}", self.base());
            let dump = redis::cmd("DUMP").arg(&name).query_async(&mut redis).await.unwrap();
            saved.push((name, dump));
        }
        saved
    }

    /// Atomically restores the content of Redis, with these fields of the state.
    async fn restore(&self, saved: &SavedKeys, fields: &[(&str, &str)]) {
        let mut restore = redis::pipe();
        restore.atomic().cmd("FLUSHALL").ignore();
        for (name, dump) in saved {
            if let Some(dump) = dump {
                restore.cmd("RESTORE").arg(name).arg(0).arg(dump).arg("REPLACE").ignore();
            }
        }
        for (field, value) in fields {
            restore.hset(format!("{}:state", self.base()), field, value).ignore();
        }
        restore.query_async::<()>(&mut self.redis.connect().await).await.unwrap();
    }

    /// Returns a field of the state in Redis.
    async fn state(&self, field: &str) -> Option<String> {
        let key = format!("{}:state", self.base());
        let mut redis = self.redis.connect().await;
        redis::cmd("HGET").arg(key).arg(field).query_async(&mut redis).await.unwrap()
    }

    /// Returns the values of the state's fields whose names begin with this prefix.
    async fn state_of(&self, beginning: &str) -> Vec<String> {
        let key = format!("{}:state", self.base());
        let mut redis = self.redis.connect().await;
        let all: BTreeMap<String, String> =
            redis::cmd("HGETALL").arg(key).query_async(&mut redis).await.unwrap();
        let ours = all.into_iter().filter(|(field, _)| field.starts_with(beginning));
        ours.map(|(_, value)| value).collect()
    }

    /// Returns the numbers of all payloads on the chain, ascending.
    async fn logged(&self) -> Vec<u32> {
        logged(&self.pair, &self.addresses).await
    }

    /// Returns the account's transaction counts: mined, and mined plus pending.
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

/// Sends a payload, repeatedly while Redis is too busy to answer.
async fn send_one(
    broadcaster: &Broadcaster,
    number: u32,
    payload: &Bytes,
) -> Result<BroadcastReceipt, BroadcastError> {
    for _ in 0..200 {
        match broadcaster.group_message(group(number), payload.clone()).await {
            Err(BroadcastError::Unasked { .. }) => {}
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("Redis never answers")
}

/// Sends a payload, repeatedly while Redis is too busy to answer. Returns `None` if a ceiling stops it. Other processes
/// may send it, so it must not be called unsent.
async fn send_below_ceiling(broadcaster: &Broadcaster, number: u32, payload: &Bytes) -> Option<()> {
    for _ in 0..200 {
        match broadcaster.group_message(group(number), payload.clone()).await {
            Ok(_) => return Some(()),
            Err(BroadcastError::Unasked { reason }) if reason.contains("the ceiling of") => {
                return None;
            }
            Err(BroadcastError::Unasked { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("Redis never answers")
}

/// Sends payloads in batches, and failed ones again, until all are mined.
async fn send_until_done(broadcaster: &Broadcaster, numbers: std::ops::Range<u32>) {
    let mut left: Vec<u32> = numbers.collect();
    while !left.is_empty() {
        let batch: Vec<u32> = left.iter().copied().take(10).collect();
        let sent =
            batch.iter().map(|number| broadcaster.group_message(group(*number), payload(*number)));
        let sent = join_all(sent).await;
        let done = batch.iter().zip(&sent).filter(|(_, sent)| sent.is_ok());
        let done: BTreeSet<u32> = done.map(|(number, _)| *number).collect();
        left.retain(|number| !done.contains(number));
    }
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
    let shared = SharedPayer::start().await;
    let [first, second] = [shared.broadcaster().await, shared.broadcaster().await];
    let (one, other) = tokio::join!(send_all(&first, 0..60), send_all(&second, 60..120));
    assert!(all_sent(&one) && all_sent(&other), "{one:?} {other:?}");
    shared.assert_logged_once(0..120).await;
    assert_eq!(shared.counts().await, (120, 120), "every transaction carried a payload");
    // Both senders send the same payloads at the same time, and again.
    let (one, other) = tokio::join!(send_all(&first, 120..140), send_all(&second, 120..140));
    assert_eq!(one, other, "one transaction each");
    let again = send_all(&second, 0..20).await;
    assert!(all_sent(&again), "{again:?}");
    shared.assert_logged_once(0..140).await;
    assert_eq!(shared.counts().await, (140, 140));
}

/// The environment variable with the arguments of the sending process.
const SENDER_ARGUMENTS: &str = "HAWSER_TEST_SHARING_SENDER";

#[tokio::test]
#[ignore = "sends in a process of its own, for the test that kills it"]
async fn send_until_killed() {
    let Ok(arguments) = std::env::var(SENDER_ARGUMENTS) else { return };
    let arguments: Value = serde_json::from_str(&arguments).unwrap();
    let addresses = Addresses::parse(&arguments["addresses"].to_string()).unwrap();
    let redis = RedisAccess {
        url: arguments["redis"].as_str().unwrap().into(),
        key_prefix: "test:".into(),
        connect_timeout: Duration::from_secs(5),
    };
    let url = arguments["url"].as_str().unwrap().to_owned();
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
    let shared = SharedPayer::start().await;
    let arguments = json!({
        "redis": shared.redis.url(),
        "url": shared.pair.app.endpoint(),
        "addresses": shared.addresses.to_json(),
    });
    let mut process = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "sharing::send_until_killed", "--nocapture"])
        .env(SENDER_ARGUMENTS, arguments.to_string())
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
    // The callers of the killed process turn to the other one at once, before the killed one is considered gone.
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
    let shared = SharedPayer::start().await;
    let survivor = shared.broadcaster().await;
    assert!(all_sent(&send_all(&survivor, 0..1).await));
    // This process took three nonces and was killed before it signed.
    let base = shared.base();
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
    let shared = SharedPayer::start().await;
    let broadcaster = shared.broadcaster().await;
    assert!(all_sent(&send_all(&broadcaster, 0..3).await));
    let SharedPayer { pair, addresses, redis } = shared;
    let port = redis.kill();
    let refused = broadcaster.group_message(group(3), payload(3)).await;
    // Its caller may have asked another process before.
    assert!(matches!(refused, Err(BroadcastError::Unasked { .. })), "{refused:?}");
    assert!(broadcaster.halted().unwrap().contains("Redis"));
    assert_eq!(logged(&pair, &addresses).await.len(), 3);
    // Redis starts again, empty.
    let redis = RedisServer::start_at(port).unwrap();
    let shared = SharedPayer { pair, addresses, redis };
    until("the sender goes on", async || broadcaster.halted().is_none()).await;
    let sent = send_all(&broadcaster, 3..10).await;
    assert!(all_sent(&sent), "{sent:?}");
    shared.assert_logged_once(0..10).await;
}

/// The callers of one process turn to the other one before the payload is mined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_another_process_is_sending_is_not_called_unsent() {
    let shared = SharedPayer::start().await;
    let first = shared.broadcaster().await;
    send_until_done(&first, 0..1).await;
    let wait_max = Duration::from_secs(3);
    let hasty = BroadcastSettings { wait_max, ..shared.settings() };
    let second = Broadcaster::start(hasty, key()).await.unwrap();
    let provider = shared.pair.app.provider();
    let ask = async |method: &'static str, parameters: Value| {
        let asked = provider.raw_request(method.into(), parameters);
        let _: Value = asked.await.unwrap();
    };
    ask("evm_setAutomine", json!([false])).await;
    let held = first.clone();
    let sending = tokio::spawn(async move { send_one(&held, 1, &payload(1)).await });
    until("a node has it", async || shared.counts().await == (1, 2)).await;
    // Redis may be too busy to answer the first calls.
    until("its outcome is open", async || {
        let told = second.group_message(group(1), payload(1)).await;
        matches!(told, Err(BroadcastError::Open { hash: None, .. }))
    })
    .await;
    let ended = shared.broadcaster().await;
    ended.clone().stop().await;
    for _ in 0..2 {
        // The task may take the first one as its last.
        let told = ended.group_message(group(1), payload(1)).await;
        let is_ended = matches!(told, Err(BroadcastError::Ended));
        assert!(told.is_err() && !is_ended, "{told:?}");
    }
    ask("evm_setAutomine", json!([true])).await;
    ask("evm_mine", json!([])).await;
    let _ = sending.await.unwrap(); // it may have waited too long
    send_until_done(&second, 1..2).await;
    shared.assert_logged_once(0..2).await;
    assert_eq!(shared.counts().await, (2, 2), "it is paid for once");
}

/// A gateway ends after it was told the place of its payload, and before it has told Redis. Ten minutes later, when the
/// result in Redis has expired, a repetition would be paid for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_that_was_just_mined_is_told_to_the_process_that_takes_over() {
    let shared = SharedPayer::start().await;
    let [first, second] = [shared.broadcaster().await, shared.broadcaster().await];
    let told = send_one(&first, 0, &payload(0)).await.unwrap();
    first.stop().await;
    let resumed = tokio::time::timeout(SOON, second.next_resumed()).await.expect("it is told");
    let resumed = resumed.unwrap();
    assert_eq!((resumed.payload, resumed.receipt), (payload(0), told));
    shared.assert_logged_once(0..1).await;
    // It leaves Redis in the end.
    until("no nonce is in use", async || {
        let mut count = redis::cmd("HLEN");
        count.arg(format!("{}:owner", shared.base()));
        count.query_async::<u64>(&mut shared.redis.connect().await).await.unwrap() == 0
    })
    .await;
    assert!(send_one(&second, 1, &payload(1)).await.is_ok());
    assert_eq!(shared.counts().await, (2, 2), "no nonce is a hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_emptied_or_restored_under_load_doubles_nothing() {
    let shared = SharedPayer::start().await;
    let [first, second] = [shared.broadcaster().await, shared.broadcaster().await];
    let mut redis = shared.redis.connect().await;
    assert!(all_sent(&send_all(&first, 0..5).await));
    let old = shared.saved().await;
    let disturb = async {
        until("a part was sent", async || shared.logged().await.len() > 20).await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
        until("another part was sent", async || shared.logged().await.len() > 60).await;
        shared.restore(&old, &[]).await;
    };
    tokio::join!(send_until_done(&first, 5..80), send_until_done(&second, 80..155), disturb);
    shared.assert_logged_once(0..155).await;
    let (mined, pending) = shared.counts().await;
    assert_eq!(mined, pending, "no nonce is a hole");
}

/// The callers of one process turn to the other one, after Redis has lost what the first one had told it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_that_an_emptied_redis_has_lost_are_told_again() {
    let shared = SharedPayer::start().await;
    let [first, second] = [shared.broadcaster().await, shared.broadcaster().await];
    send_until_done(&first, 0..5).await;
    shared.restore(&Vec::new(), &[]).await;
    let redis = shared.redis.connect().await;
    let results = format!("{}:result:*", shared.base());
    until("the first process has told its results again", async || {
        let mut redis = redis.clone();
        let keys = redis::cmd("KEYS").arg(&results).query_async::<Vec<String>>(&mut redis).await;
        keys.unwrap().len() == 5
    })
    .await;
    send_until_done(&second, 0..5).await;
    shared.assert_logged_once(0..5).await;
    assert_eq!(shared.counts().await, (5, 5), "nothing was paid for twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_is_noticed_though_another_process_has_raised_the_count_of_calls() {
    let shared = SharedPayer::start().await;
    let [first, second] = [shared.broadcaster().await, shared.broadcaster().await];
    send_until_done(&first, 0..3).await;
    let old = shared.saved().await;
    let epoch = shared.state("epoch").await;
    // The calls for these payloads are lost, and with them their results.
    send_until_done(&first, 3..6).await;
    assert_eq!(shared.state("epoch").await, epoch, "nothing was lost so far");
    shared.restore(&old, &[("seq", "1000000")]).await;
    until("a new epoch begins", async || shared.state("epoch").await != epoch).await;
    tokio::join!(send_until_done(&first, 6..12), send_until_done(&second, 12..18));
    shared.assert_logged_once(0..18).await;
    let (mined, pending) = shared.counts().await;
    assert_eq!(mined, pending, "no nonce is a hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_run_of_redis_is_noticed_by_a_process_that_remembers_nothing() {
    let shared = SharedPayer::start().await;
    let first = shared.broadcaster().await;
    send_until_done(&first, 0..3).await;
    first.stop().await;
    let saved = shared.saved().await;
    let (epoch, run) = (shared.state("epoch").await, shared.state("server").await);
    assert!(run.is_some(), "Redis tells its run");
    let second = shared.broadcaster().await;
    until("it has made a call", async || shared.state("seq").await.is_some()).await;
    send_until_done(&second, 3..5).await;
    assert_eq!(shared.state("epoch").await, epoch, "it is the same Redis");
    second.stop().await;
    // A replica has taken over, or Redis has been restarted from a file.
    shared.restore(&saved, &[("server", "0123456789abcdef")]).await;
    let third = shared.broadcaster().await;
    until("a new epoch begins", async || shared.state("epoch").await != epoch).await;
    assert_eq!(shared.state("server").await, run);
    send_until_done(&third, 5..8).await;
    shared.assert_logged_once(0..8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gas_of_an_hour_is_counted_once_for_all_senders() {
    let shared = SharedPayer::start().await;
    let with_ceiling = |per_hour_max: Wei| {
        let spending = SpendingLimits { per_hour_max, ..SpendingLimits::default() };
        BroadcastSettings { spending, ..shared.settings() }
    };
    let start = async |settings| Broadcaster::start(settings, key()).await.unwrap();
    // The ceiling is the cost of ten and a half payloads at the price of the first one.
    let measuring = shared.broadcaster().await;
    send_until_done(&measuring, 0..1).await;
    measuring.stop().await;
    let saved = shared.state_of("w:").await;
    let [cost] = saved.as_slice() else { panic!("one process has spent: {saved:?}") };
    let cost_wei: f64 = cost.split_once('|').unwrap().1.parse().unwrap();
    assert!(cost_wei > 0.0);
    let max_wei: u128 = format!("{:.0}", cost_wei * 10.5).parse().unwrap();
    shared.restore(&Vec::new(), &[]).await;

    let first = start(with_ceiling(Wei(max_wei))).await;
    let spent_at_ceiling = |sender: &Broadcaster| match sender.ceiling_reached() {
        Some(CeilingError::Hour { spent, .. }) => spent,
        other => panic!("{other:?}"),
    };
    let mut sent = 1;
    while send_below_ceiling(&first, sent, &payload(sent)).await.is_some() {
        sent += 1;
        assert!(sent < 1000, "no ceiling is reached");
    }
    assert!(sent > 1, "the hour has room for some");
    assert!(spent_at_ceiling(&first) <= Wei(max_wei));
    // The second process has spent nothing itself. Its payload costs several times as much, so that a lower
    // gas price makes no difference.
    let second = start(with_ceiling(Wei(max_wei))).await;
    let long = Bytes::from(vec![9; 4000]);
    for _ in 0..3 {
        assert_eq!(send_below_ceiling(&second, 2000, &long).await, None);
    }
    assert!(spent_at_ceiling(&second) > Wei(max_wei / 2), "it is the cost of the other one");
    assert_eq!(shared.logged().await.len(), sent as usize, "nothing more was paid");
    // The first process's cost still counts after it has ended, and after Redis was emptied.
    shared.restore(&Vec::new(), &[]).await;
    until("it has told its cost again", async || !shared.state_of("w:").await.is_empty()).await;
    first.stop().await;
    assert_eq!(send_below_ceiling(&second, 2000, &long).await, None);
    assert!(spent_at_ceiling(&second) > Wei(max_wei / 2));
    // No remaining state stops other processes.
    let rich = shared.broadcaster().await;
    assert!(send_one(&rich, 2000, &long).await.is_ok());
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
    // The second process has seen none of the first one's transactions yet, and sees them with its own first one.
    let refused = second.group_message(group(3), payload(3)).await;
    assert!(matches!(refused, Err(BroadcastError::Rival { .. })), "{refused:?}");
    assert!(second.halted().unwrap().contains("another sender"));
    let refused = second.group_message(group(4), payload(4)).await;
    assert!(matches!(refused, Err(BroadcastError::Rival { .. })), "{refused:?}");
    assert_eq!(logged(&pair, &at.addresses).await, [0, 1, 2]);
    // The first process ends, and the second one takes over.
    first.stop().await;
    until("the second one takes over", async || {
        second.group_message(group(3), payload(3)).await.is_ok()
    })
    .await;
    assert_eq!(second.halted(), None);
    assert_eq!(logged(&pair, &at.addresses).await, [0, 1, 2, 3]);
    // A manual transaction stops it for a while too, and is reported.
    let gift = Call { to: Some(Address::repeat_byte(1)), data: Bytes::new(), value: U256::ONE };
    Sender::new(pair.app.clone(), key()).send(&gift).await.unwrap();
    let refused = second.group_message(group(5), payload(5)).await;
    assert!(matches!(refused, Err(BroadcastError::Rival { .. })), "{refused:?}");
    until("it goes on", async || second.group_message(group(5), payload(5)).await.is_ok()).await;
    assert_eq!(logged(&pair, &at.addresses).await, [0, 1, 2, 3, 5]);
}
