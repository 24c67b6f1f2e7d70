//! Tests of broadcasting to the app chain: many payloads at once, with refusals, other
//! senders, rising prices and crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::Duration;

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::rpc::types::Filter;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolEvent as _};
use futures_util::future::join_all;
use hawser_chain::addresses::Addresses;
use hawser_chain::broadcast::{
    BroadcastError, BroadcastReceipt, BroadcastSettings, BroadcastStartError, Broadcaster,
    GasPriceReadings, TransactionTimes,
};
use hawser_chain::contracts::GroupMessageBroadcaster::{MessageSent, updatePauseStatusCall};
use hawser_chain::contracts::{AppChainParameterRegistry, parameter};
use hawser_chain::index::ReaderTimes;
use hawser_chain::send::{Call, Chain, Sender};
use hawser_devchain::control::DevChain;
use hawser_devchain::deploy;
use hawser_proto::{GroupId, InboxId, OriginatorId, SequenceId};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::pair::{self, ChainBackend, Pair};
use crate::payloads::{group, key, payload};

crate::on_both_kinds_of_chain! {
    many_payloads_are_in_flight_at_once
    payloads_of_one_group_keep_their_order
    a_payload_in_flight_is_not_sent_again
    payloads_of_every_accepted_size_are_mined
    payloads_that_the_contract_refuses_fail_by_name
    an_account_without_funds_fails_and_succeeds_once_funded
    a_rival_with_the_same_account_doubles_and_loses_nothing
    a_transaction_that_became_too_cheap_is_replaced
    a_restart_resumes_transactions_in_flight
    a_node_that_dropped_transactions_gets_them_again
    a_killed_process_neither_loses_nor_doubles_payloads
    a_payload_that_was_not_sent_in_time_is_taken_back
    an_unreachable_endpoint_is_passed_over
    nonce_and_gas_prices_are_told_as_the_chain_has_them
    times_of_transactions_are_counted_by_kind_and_result
}

/// A pair of chains with a deployment.
struct Chains {
    pair: Pair,
    addresses: Addresses,
    url: String,
}

impl Chains {
    async fn start(kind: ChainBackend) -> Self {
        let (pair, at) = Pair::deployed(kind).await;
        let url = pair.app.endpoint().to_owned();
        Self { pair, addresses: at.addresses, url }
    }

    fn settings(&self) -> BroadcastSettings {
        BroadcastSettings::new(vec![self.url.clone()], &self.addresses)
    }

    async fn broadcaster(&self) -> Broadcaster {
        Broadcaster::start(self.settings(), key()).await.unwrap()
    }

    async fn recording(&self, record: &Path) -> Broadcaster {
        let settings = BroadcastSettings { nonce_record: Some(record.into()), ..self.settings() };
        Broadcaster::start(settings, key()).await.unwrap()
    }

    async fn rpc(&self, method: &'static str, params: Value) -> Value {
        self.pair.app.provider().raw_request(method.into(), params).await.unwrap()
    }

    /// Stops automatic block production.
    async fn hold_blocks(&self) {
        self.rpc("evm_setAutomine", json!([false])).await;
    }

    async fn mine(&self) {
        self.rpc("evm_mine", json!([])).await;
    }

    async fn release_blocks(&self) {
        self.rpc("evm_setAutomine", json!([true])).await;
        self.mine().await;
    }

    /// Returns all events of the group contract: sequence id to group and payload.
    async fn logged(&self) -> BTreeMap<u64, (GroupId, Bytes)> {
        let filter = Filter::new()
            .address(self.addresses.group_message_broadcaster)
            .event_signature(MessageSent::SIGNATURE_HASH)
            .from_block(0);
        let logs = self.pair.app.provider().get_logs(&filter).await.unwrap();
        let event = |log: alloy::rpc::types::Log| MessageSent::decode_log(&log.inner).unwrap().data;
        let entry =
            |event: MessageSent| (event.sequenceId, (GroupId(event.groupId.0), event.message));
        logs.into_iter().map(event).map(entry).collect()
    }

    async fn assert_logged_once(&self, numbers: impl IntoIterator<Item = u32>) {
        let logged = self.logged().await;
        let mut found: Vec<_> = logged.into_values().collect();
        found.sort();
        let mut expected: Vec<_> =
            numbers.into_iter().map(|number| (group(number), payload(number))).collect();
        expected.sort();
        assert_eq!(found, expected);
    }

    async fn set_app_parameter(&self, key: &str, value: u64) {
        let gateway = self.addresses.app_chain_gateway;
        let registry = self.addresses.app_chain_parameter_registry;
        let set = AppChainParameterRegistry::set_0Call {
            key_: key.to_owned(),
            value_: parameter::of_uint(value),
        };
        DevChain(&self.pair.app).send_as(gateway, &Call::new(registry, &set)).await.unwrap();
    }

    async fn poke(&self, call: &impl SolCall) {
        let call = Call::new(self.addresses.group_message_broadcaster, call);
        pair::sender(&self.pair.app, 3).send(&call).await.unwrap();
    }
}

async fn send_all(
    broadcaster: &Broadcaster,
    numbers: std::ops::Range<u32>,
) -> Vec<BroadcastReceipt> {
    let sent = numbers.map(|number| broadcaster.group_message(group(number), payload(number)));
    join_all(sent).await.into_iter().map(Result::unwrap).collect()
}

async fn until_in_flight(broadcaster: &Broadcaster, count: usize) {
    while broadcaster.status().in_flight != count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn until_pending(chain: &Chain, nonce: u64) {
    let account = key().address();
    while chain.provider().get_transaction_count(account).pending().await.unwrap() < nonce {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn many_payloads_are_in_flight_at_once(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let broadcaster = chains.broadcaster().await;
    assert_eq!(broadcaster.payload_bounds().min, 78);
    assert_eq!(broadcaster.payload_bounds().max, 200_000);
    let sent = send_all(&broadcaster, 0..60).await;
    chains.assert_logged_once(0..60).await;
    let logged = chains.logged().await;
    for (number, sent) in (0..).zip(&sent) {
        assert_eq!(logged[&sent.sequence_id.0], (group(number), payload(number)));
        let block = chains.pair.app.provider().get_block(sent.block_number.into()).await.unwrap();
        assert_eq!(block.unwrap().header.timestamp, sent.block_time_s);
    }

    // All payloads wait for the same block.
    chains.hold_blocks().await;
    let waiting = send_all(&broadcaster, 60..100);
    tokio::pin!(waiting);
    tokio::select! {
        _ = &mut waiting => unreachable!("there are no blocks"),
        () = until_pending(&chains.pair.app, 60 + 32) => {}
    }
    assert_eq!(broadcaster.status().in_flight, 32);
    chains.release_blocks().await;
    waiting.await;
    chains.assert_logged_once(0..100).await;

    let update = broadcaster.identity_update(InboxId([9; 32]), payload(1)).await.unwrap();
    assert_eq!(update.sequence_id, SequenceId(1), "the other contract counts for itself");
}

async fn payloads_of_one_group_keep_their_order(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let broadcaster = chains.broadcaster().await;
    let sizes = [5000, 100, 90_000, 100, 20_000, 100];
    let payloads = (0_u8..).zip(sizes).map(|(at, size)| Bytes::from(vec![at + 1; size]));
    let payloads: Vec<Bytes> = payloads.collect();
    let sent = payloads.iter().map(|payload| broadcaster.group_message(group(1), payload.clone()));
    let sent = join_all(sent).await;
    let numbers: Vec<u64> = sent.into_iter().map(|sent| sent.unwrap().sequence_id.0).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    let logged: Vec<Bytes> =
        chains.logged().await.into_values().map(|(_, payload)| payload).collect();
    assert_eq!(logged, payloads);
}

async fn a_payload_in_flight_is_not_sent_again(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let broadcaster = chains.broadcaster().await;
    let sent = (0..5).map(|_| broadcaster.group_message(group(1), payload(1)));
    let sent: Vec<_> = join_all(sent).await.into_iter().map(Result::unwrap).collect();
    assert!(sent.iter().all(|one| *one == sent[0]), "{sent:?}");
    chains.assert_logged_once([1]).await;
    // A mined payload is not sent again: a caller that lost the answer gets the same one.
    let again = broadcaster.group_message(group(1), payload(1)).await.unwrap();
    assert_eq!(again, sent[0]);
    chains.assert_logged_once([1]).await;
    // The same bytes in another group are another payload.
    broadcaster.group_message(group(2), payload(1)).await.unwrap();
    assert_eq!(chains.logged().await.len(), 2);
}

async fn payloads_of_every_accepted_size_are_mined(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let settings = BroadcastSettings { payload_bytes_max: 0, ..chains.settings() };
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    let sizes = [78, 1000, 150_000, 200_000, 262_144];
    for (size, byte) in sizes.into_iter().zip(1..) {
        // A payload without zero bytes, which makes its data as expensive as possible.
        let payload = Bytes::from(vec![byte; size]);
        broadcaster.group_message(group(1), payload.clone()).await.unwrap();
        let logged = chains.logged().await;
        assert_eq!(logged.last_key_value().unwrap().1.1, payload);
    }
}

async fn payloads_that_the_contract_refuses_fail_by_name(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let broadcaster = chains.broadcaster().await;
    let sent = |size: usize| broadcaster.group_message(group(1), vec![1; size].into());
    assert_eq!(sent(77).await, Err(BroadcastError::TooShort { bytes: 77, min: 78 }));
    assert_eq!(sent(200_001).await, Err(BroadcastError::TooLong { bytes: 200_001, max: 200_000 }));
    let settings = BroadcastSettings { payload_bytes_max: 0, ..chains.settings() };
    let unbounded = Broadcaster::start(settings, deploy::accounts().swap_remove(6)).await.unwrap();
    let long = unbounded.group_message(group(1), vec![1; 262_145].into()).await;
    assert_eq!(long, Err(BroadcastError::TooLong { bytes: 262_145, max: 262_144 }));

    chains.set_app_parameter(parameter::GROUP_MESSAGE_PAUSED, 1).await;
    chains.poke(&updatePauseStatusCall {}).await;
    assert_eq!(sent(100).await, Err(BroadcastError::Paused));
    broadcaster.identity_update(InboxId([1; 32]), payload(1)).await.unwrap();
    chains.set_app_parameter(parameter::GROUP_MESSAGE_PAUSED, 0).await;
    chains.poke(&updatePauseStatusCall {}).await;
    sent(100).await.unwrap();
    assert_eq!(chains.logged().await.len(), 1);
}

async fn an_account_without_funds_fails_and_succeeds_once_funded(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let poor = PrivateKeySigner::random();
    let broadcaster = Broadcaster::start(chains.settings(), poor.clone()).await.unwrap();
    let sent = broadcaster.group_message(group(1), payload(1)).await;
    assert!(matches!(sent, Err(BroadcastError::NoFunds { .. })), "{sent:?}");
    assert_eq!(broadcaster.status().in_flight, 0);
    let wei = U256::from(10_u64.pow(18));
    DevChain(&chains.pair.app).set_balance(poor.address(), wei).await.unwrap();
    broadcaster.group_message(group(1), payload(1)).await.unwrap();
    chains.assert_logged_once([1]).await;
}

async fn a_rival_with_the_same_account_doubles_and_loses_nothing(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let [first, second] = [chains.broadcaster().await, chains.broadcaster().await];
    let rival = Sender::new(chains.pair.app.clone(), key());
    let gift = Call { to: Some(Address::repeat_byte(1)), data: Bytes::new(), value: U256::ONE };
    let gifts = async {
        for _ in 0..10 {
            // A transaction of the other sender may lose its nonce, which this test does not check.
            let _ = rival.send(&gift).await;
        }
    };
    tokio::join!(send_all(&first, 0..20), send_all(&second, 20..40), gifts);
    chains.assert_logged_once(0..40).await;
}

async fn a_transaction_that_became_too_cheap_is_replaced(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let broadcaster = chains.broadcaster().await;
    chains.hold_blocks().await;
    let waiting = send_all(&broadcaster, 0..3);
    tokio::pin!(waiting);
    tokio::select! {
        _ = &mut waiting => unreachable!("there are no blocks"),
        () = until_pending(&chains.pair.app, 3) => {}
    }
    // Blocks are produced again, at a price above that of the pending transactions.
    let expensive = async {
        loop {
            chains.rpc("anvil_setNextBlockBaseFeePerGas", json!(["0x4a817c800"])).await;
            chains.mine().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        _ = waiting => {}
        () = expensive => {}
    }
    chains.assert_logged_once(0..3).await;
}

async fn a_restart_resumes_transactions_in_flight(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("nonces");
    let broadcaster = chains.recording(&record).await;
    send_all(&broadcaster, 0..5).await;
    chains.hold_blocks().await;
    let held = broadcaster.clone();
    let waiting = tokio::spawn(async move {
        let sent = (5..25).map(|number| held.group_message(group(number), payload(number)));
        join_all(sent).await
    });
    until_pending(&chains.pair.app, 25).await;
    let second = BroadcastSettings { nonce_record: Some(record.clone()), ..chains.settings() };
    let second = Broadcaster::start(second, key()).await;
    assert!(matches!(second, Err(BroadcastStartError::RecordInUse { .. })), "{second:?}");
    broadcaster.stop().await;
    let outcomes = waiting.await.unwrap();
    let is_open = |it: &Result<_, BroadcastError>| {
        matches!(it, Err(BroadcastError::Open { hash: Some(_), .. }))
    };
    assert!(outcomes.iter().all(is_open), "{outcomes:?}");

    let broadcaster = chains.recording(&record).await;
    until_in_flight(&broadcaster, 20).await;
    // A second caller with a payload in flight gets the same answer.
    let asking = broadcaster.clone();
    let again = send_all(&asking, 20..30);
    tokio::pin!(again);
    tokio::select! {
        _ = &mut again => unreachable!("there are no blocks"),
        () = until_pending(&chains.pair.app, 30) => {}
    }
    chains.release_blocks().await;
    again.await;
    until_in_flight(&broadcaster, 0).await;
    chains.assert_logged_once(0..30).await;
    // What no caller has asked for here is told, for the memory of those that pay for repetitions.
    let without_caller: BTreeSet<Bytes> = (5..20).map(payload).collect();
    let mut told = BTreeSet::new();
    while told.len() < without_caller.len() {
        let next = tokio::time::timeout(Duration::from_secs(20), broadcaster.next_resumed());
        let resumed = next.await.expect("it is mined").unwrap();
        assert_eq!(resumed.originator, OriginatorId::GROUP_MESSAGES);
        // Those that were mined just before the stop are told, too.
        if without_caller.contains(&resumed.payload) {
            told.insert((resumed.receipt.sequence_id.0, resumed.payload));
        }
    }
    let logged = chains.logged().await.into_iter();
    let logged = logged.map(|(sequence, (_, payload))| (sequence, payload));
    let expected = logged.filter(|(_, payload)| without_caller.contains(payload));
    assert_eq!(told, expected.collect::<BTreeSet<_>>());
    broadcaster.stop().await;
    let broadcaster = chains.recording(&record).await;
    send_all(&broadcaster, 30..31).await;
    chains.assert_logged_once(0..31).await;
}

async fn a_node_that_dropped_transactions_gets_them_again(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("nonces");
    let broadcaster = chains.recording(&record).await;
    chains.hold_blocks().await;
    let held = broadcaster.clone();
    let waiting = tokio::spawn(async move { send_all(&held, 0..8).await });
    until_pending(&chains.pair.app, 8).await;
    chains.rpc("anvil_dropAllTransactions", json!([])).await;
    chains.rpc("evm_setAutomine", json!([true])).await;
    waiting.await.unwrap();
    chains.assert_logged_once(0..8).await;

    // The same scenario with a crash in between.
    chains.hold_blocks().await;
    let held = broadcaster.clone();
    let waiting = tokio::spawn(async move {
        let sent = (8..16).map(|number| held.group_message(group(number), payload(number)));
        join_all(sent).await
    });
    until_pending(&chains.pair.app, 16).await;
    broadcaster.stop().await;
    waiting.await.unwrap();
    chains.rpc("anvil_dropAllTransactions", json!([])).await;
    chains.rpc("evm_setAutomine", json!([true])).await;
    let broadcaster = chains.recording(&record).await;
    until_pending(&chains.pair.app, 16).await;
    until_in_flight(&broadcaster, 0).await;
    chains.assert_logged_once(0..16).await;
}

/// The environment variable with the arguments of the sending process.
const SENDER_ARGUMENTS: &str = "HAWSER_TEST_SENDER";

#[tokio::test]
#[ignore = "sends in a process of its own, for the test that kills it"]
async fn send_until_killed() {
    let Ok(arguments) = std::env::var(SENDER_ARGUMENTS) else { return };
    let arguments: Value = serde_json::from_str(&arguments).unwrap();
    let text = |field: &str| arguments[field].as_str().unwrap().to_owned();
    let addresses = Addresses::parse(&arguments["addresses"].to_string()).unwrap();
    let settings = BroadcastSettings {
        nonce_record: Some(text("record").into()),
        ..BroadcastSettings::new(vec![text("url")], &addresses)
    };
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    for first in (0..10_000).step_by(40) {
        send_all(&broadcaster, first..first + 40).await;
        println!("\nsent {}", first + 40);
    }
}

async fn a_killed_process_neither_loses_nor_doubles_payloads(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("nonces");
    let arguments = json!({
        "record": record, "url": chains.url, "addresses": chains.addresses.to_json(),
    });
    let mut process = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "broadcasting::send_until_killed", "--nocapture"])
        .env(SENDER_ARGUMENTS, arguments.to_string())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    // This runs on another thread, because the current one may serve the chain.
    let sent = tokio::task::spawn_blocking(move || {
        lines.find_map(|line| line.strip_prefix("sent ").map(str::to_owned))
    });
    let sent = sent.await.unwrap().expect("the process sends");
    let sent: u32 = sent.parse().unwrap();
    // Kill the process in the middle of the next batch.
    while chains.logged().await.len() < sent as usize + 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    process.kill().unwrap();
    process.wait().unwrap();

    let broadcaster = chains.recording(&record).await;
    until_in_flight(&broadcaster, 0).await;
    let logged: BTreeSet<_> = chains.logged().await.into_values().map(|(group, _)| group).collect();
    let all = u32::try_from(logged.len()).unwrap().div_ceil(40) * 40;
    for number in (0..all).filter(|number| !logged.contains(&group(*number))) {
        broadcaster.group_message(group(number), payload(number)).await.unwrap();
    }
    chains.assert_logged_once(0..all).await;
}

async fn a_payload_that_was_not_sent_in_time_is_taken_back(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let settings = BroadcastSettings {
        in_flight_max: 1,
        wait_max: Duration::from_secs(3),
        ..chains.settings()
    };
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    chains.hold_blocks().await;
    let (first, second) = tokio::join!(
        broadcaster.group_message(group(1), payload(1)),
        broadcaster.group_message(group(2), payload(2)),
    );
    // The order of payloads of different groups is not defined.
    let sent = match (&first, &second) {
        (Err(BroadcastError::NotMined { .. }), Err(BroadcastError::NotSent { .. })) => 1,
        (Err(BroadcastError::NotSent { .. }), Err(BroadcastError::NotMined { .. })) => 2,
        other => panic!("{other:?}"),
    };
    chains.release_blocks().await;
    until_in_flight(&broadcaster, 0).await;
    chains.assert_logged_once([sent]).await;
}

async fn an_unreachable_endpoint_is_passed_over(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let unused = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let unreachable = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let urls = vec![unreachable, chains.url.clone()];
    let broadcaster =
        Broadcaster::start(BroadcastSettings { urls, ..chains.settings() }, key()).await.unwrap();
    send_all(&broadcaster, 0..3).await;
    chains.assert_logged_once(0..3).await;
    let wrong = BroadcastSettings { chain_id: 5, ..chains.settings() };
    let error = Broadcaster::start(wrong, key()).await.unwrap_err();
    assert!(error.to_string().contains("is chain 31338"), "{error}");
    let mut elsewhere = chains.settings();
    elsewhere.group_message_broadcaster = Address::repeat_byte(3);
    let error = Broadcaster::start(elsewhere, key()).await.unwrap_err();
    assert!(error.to_string().contains("no contract at"), "{error}");
}

/// Returns a histogram as a page of metrics shows it.
fn page(histogram: &Histogram) -> String {
    let (mut registry, mut text) = (Registry::default(), String::new());
    registry.register("times", "Seconds", histogram.clone());
    encode(&mut text, &registry).unwrap();
    text
}

/// Returns the number of values in a histogram.
fn count(histogram: &Histogram) -> u64 {
    let text = page(histogram);
    text.lines().find_map(|line| line.strip_prefix("times_count ")).unwrap().parse().unwrap()
}

/// Returns true if a histogram has a bucket for each bound.
fn has_bounds(histogram: &Histogram, bounds: &[f64]) -> bool {
    let text = page(histogram);
    bounds.iter().all(|bound| text.contains(&format!("times_bucket{{le=\"{bound:?}\"}} 0\n")))
}

/// Dashboards that were made for the reference implementation name its buckets.
#[test]
fn durations_have_the_buckets_of_the_reference_implementation() {
    let steps: Vec<f64> = (1..=18).map(|step| f64::from(step * 5) / 100.0).collect();
    let steps = [&*steps, &[1.0, 2.5, 5.0, 10.0]].concat();
    let times = TransactionTimes::default();
    assert!(times.sent().all(|(_, times)| has_bounds(times, &steps)));
    assert!(times.waited().all(|(_, times)| has_bounds(times, &steps)));
    let ReaderTimes { queries_ms, batches_s } = ReaderTimes::default();
    let usual = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    assert!(has_bounds(&batches_s, &usual));
    assert!(has_bounds(&queries_ms, &[1.0, 10.0, 100.0, 500.0, 1e3, 5e3, 1e4, 5e4, 1e5]));
    assert!(!has_bounds(&queries_ms, &[2.0]));
}

async fn times_of_transactions_are_counted_by_kind_and_result(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let times = TransactionTimes::default();
    let settings = BroadcastSettings { times: times.clone(), ..chains.settings() };
    let broadcaster = Broadcaster::start(settings, key()).await.unwrap();
    assert!(times.sent().all(|(_, times)| count(times) == 0));
    send_all(&broadcaster, 0..3).await;
    let sent: Vec<_> = times.sent().map(|(labels, times)| (labels, count(times))).collect();
    assert_eq!(sent.len(), 4);
    for (labels, count) in sent {
        let expected =
            u64::from(labels == [("payload_type", "group_message"), ("status", "success")]) * 3;
        assert_eq!(count, expected, "{labels:?}");
    }
    let waited: Vec<_> = times.waited().map(|(labels, times)| (labels, count(times))).collect();
    assert_eq!(waited, [([("status", "success")], 3), ([("status", "failure")], 0)]);
}

async fn nonce_and_gas_prices_are_told_as_the_chain_has_them(kind: ChainBackend) {
    let chains = Chains::start(kind).await;
    let broadcaster = chains.broadcaster().await;
    assert_eq!(broadcaster.status().last_nonce, None);
    assert_eq!(broadcaster.gas_price_readings(), GasPriceReadings::default());
    send_all(&broadcaster, 0..3).await;
    let provider = chains.pair.app.provider();
    let mined = provider.get_transaction_count(key().address()).await.unwrap();
    assert_eq!(broadcaster.status().last_nonce, Some(mined - 1));
    let GasPriceReadings { last, read, defaults } = broadcaster.gas_price_readings();
    assert!(read > 0 && defaults == 0, "{read} {defaults}");
    let last = last.unwrap();
    let stated = last.price.0;
    assert_eq!(broadcaster.gas_price().0, stated + stated / 10);
    assert!(last.unix_s > 1_700_000_000, "{last:?}");
}
