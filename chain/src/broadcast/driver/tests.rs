//! Tests that the record is handled correctly while nothing is signed.

use alloy::consensus::{Eip658Value, Receipt, ReceiptEnvelope, ReceiptWithBloom};
use alloy::primitives::keccak256;
use alloy::rpc::types::TransactionReceipt;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolEvent as _;
use hawser_proto::{GroupId, SequenceId};
use tokio::sync::watch;

use super::super::error::BroadcastStartError;
use super::super::outcome::PayloadBounds;
use super::super::price::GasPrice;
use super::super::require_near;
use super::super::sharing::{Share, SharedRecord};
use super::super::slots::{AccountCounts, AccountState, NonceUse};
use super::super::times::TransactionTimes;
use super::*;
use crate::contracts::GroupMessageBroadcaster::MessageSent;
use crate::contracts::RateRegistry;
use crate::endpoints::Endpoints;
use crate::prices::MedianPrices;
use crate::send::Call;

const CHAIN: u64 = 31338;

fn state(account: Address) -> BroadcasterState {
    BroadcasterState {
        account,
        endpoints: Endpoints::new("app", &["http://127.0.0.1:1".to_owned()], CHAIN).unwrap(),
        price: Arc::default(),
        in_flight_max: 4,
        payload_bytes_max: 0,
        bounds: watch::Sender::new(PayloadBounds { min: 0, max: 0 }),
        status: watch::Sender::default(),
        ceiling: Mutex::default(),
        stand_back: None,
        halt: Mutex::default(),
        times: TransactionTimes::default(),
    }
}

fn driver(record: NonceRecord, key: PrivateKeySigner, limits: SpendingLimits) -> Driver {
    let state = state(key.address());
    let contracts = BroadcasterContracts { groups: Address::ZERO, identities: Address::ZERO };
    let (resumed, _) = mpsc::unbounded_channel();
    Driver::new(Arc::new(state), contracts, key, Some(record), None, limits, resumed)
}

#[tokio::test]
async fn the_record_stays_open_and_in_use_when_nothing_can_be_signed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let open = || NonceRecord::open(&path, CHAIN, key.address());
    let mut driver = driver(open().unwrap(), key.clone(), SpendingLimits::default());

    driver.record_over(Vec::new(), true).await;
    assert!(matches!(open(), Err(BroadcastStartError::RecordInUse { .. })));

    let raw = Bytes::from_static(b"a transaction");
    let signed = RecordEntry::Signed { slot: SlotId(1), instead_of: None, nonce: 0, raw };
    driver.with_record(move |record| record.append(&[signed], true)).await.unwrap();
    drop(driver);
    assert_eq!(open().unwrap().live().0.len(), 1, "it was recorded");
}

/// The medians of the prices that endpoints state.
fn prices(lower: u128, upper: u128) -> MedianPrices {
    MedianPrices { lower: WeiPerGas(lower), upper: WeiPerGas(upper) }
}

/// Submits a payload of a new group as the only sender of an account without transactions.
fn submitted(driver: &mut Driver, group: u8) -> oneshot::Receiver<BroadcastResult> {
    let counts = vec![AccountCounts { mined: 0, pending: Some(0), is_proven: false }];
    let state = AccountState { counts, asked: 1, ..AccountState::default() };
    assert!(driver.nonces.polled(&state, driver.now()).is_empty());
    let (waiter, outcome) = oneshot::channel();
    let topic = PayloadTopic::Group(hawser_proto::GroupId([group; 16]));
    let call = || Call::new(Address::ZERO, &RateRegistry::getRatesCountCall {});
    let job = driver.jobs.add(topic, &Bytes::from_static(b"payload"), Some(waiter), call).unwrap();
    driver.jobs.tried(job, 100_000);
    driver.submit(job);
    outcome
}

#[tokio::test]
async fn a_nonce_is_the_lowest_one_until_it_is_mined_however_often_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let record = NonceRecord::open(&folder.path().join("nonces"), CHAIN, key.address()).unwrap();
    let mut driver = driver(record, key, SpendingLimits::default());
    driver.state.price.set(prices(100, 100));
    assert_eq!(driver.state.status.borrow().lowest_since, None);
    let _outcomes = [submitted(&mut driver, 1), submitted(&mut driver, 2)];
    driver.sign().await;
    driver.update_status();
    let first = driver.lowest;
    assert_eq!(first.map(|(nonce, _)| nonce), Some(0));
    for (nonce, sent) in [(0, SendOutcome::Lost), (1, SendOutcome::Accepted)] {
        assert!(driver.nonces.sent(nonce, sent, driver.now()).is_none());
        driver.update_status();
        assert_eq!(driver.lowest, first);
    }
    let query = driver.nonces.queries(driver.now()).remove(0);
    let used = NonceUse::Mined(query.hashes[0]);
    let state = AccountState { uses: vec![(query, used)], ..AccountState::default() };
    assert_eq!(driver.nonces.polled(&state, driver.now()).len(), 1);
    driver.update_status();
    assert_eq!(driver.lowest.map(|(nonce, _)| nonce), Some(1));
    let since = driver.lowest.map(|(_, since)| since);
    assert_eq!(driver.state.status.borrow().lowest_since, since);
}

/// One of two endpoints states a price that is far too high.
#[tokio::test]
async fn a_replacement_has_the_lower_price_if_the_upper_one_is_above_the_ceiling() {
    let folder = tempfile::tempdir().unwrap();
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    for (upper, lower_now, expected) in [(900, 100, 900), (1001, 100, 113), (1001, 500, 500)] {
        let path = folder.path().join(format!("{upper}-{lower_now}"));
        let record = NonceRecord::open(&path, CHAIN, key.address()).unwrap();
        let limits = SpendingLimits { gas_price_max: WeiPerGas(1000), ..SpendingLimits::default() };
        let mut driver = driver(record, key.clone(), limits);
        driver.state.price.set(prices(100, upper));
        let mut caller = submitted(&mut driver, 1);
        driver.sign().await;
        let price = |driver: &Driver| driver.nonces.due(driver.now()).map(|due| due.signed.price);
        assert_eq!(price(&driver), Some(WeiPerGas(100)));
        let outcome = SendOutcome::TooCheap(String::new());
        assert!(driver.nonces.sent(0, outcome, driver.now()).is_none());
        driver.state.price.set(prices(lower_now, upper));
        driver.sign().await;
        assert_eq!(price(&driver), Some(WeiPerGas(expected)), "{upper}, {lower_now}");
        assert!(caller.try_recv().is_err(), "its caller still waits");
    }
}

/// One transaction is replaced at the price of an endpoint that lies.
#[tokio::test]
async fn a_replacement_has_the_others_signed_again_only_if_the_agreed_price_has_risen() {
    let folder = tempfile::tempdir().unwrap();
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    for (lower_now, expected) in [(100, 100), (112, 100), (300, 300)] {
        let path = folder.path().join(lower_now.to_string());
        let record = NonceRecord::open(&path, CHAIN, key.address()).unwrap();
        let mut driver = driver(record, key.clone(), SpendingLimits::default());
        driver.state.price.set(prices(100, 900));
        let _outcomes = [submitted(&mut driver, 1), submitted(&mut driver, 2)];
        driver.sign().await;
        let sent = |driver: &mut Driver, nonce, outcome| {
            assert!(driver.nonces.sent(nonce, outcome, driver.now()).is_none());
        };
        sent(&mut driver, 0, SendOutcome::TooCheap(String::new()));
        sent(&mut driver, 1, SendOutcome::Accepted);
        driver.state.price.set(prices(lower_now, 900));
        driver.sign().await;
        driver.sign().await;
        let price = |nonce| driver.nonces.signed_of(nonce).last().map(|signed| signed.price);
        let expected = [900, expected].map(|price| Some(WeiPerGas(price)));
        assert_eq!([price(0), price(1)], expected, "{lower_now}");
    }
}

#[tokio::test]
async fn a_payload_that_got_too_expensive_is_not_sent_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let open = || NonceRecord::open(&path, CHAIN, key.address()).unwrap();
    let gas_price_max = GasPrice::default().last().upper;
    let limits = SpendingLimits { gas_price_max, ..SpendingLimits::default() };
    let mut driver = driver(open(), key.clone(), limits);
    let mut outcome = submitted(&mut driver, 1);
    driver.sign().await;
    assert!(outcome.try_recv().is_err(), "it is signed at the ceiling's price");
    let recorded = driver.record.as_ref().unwrap().lock().live().0.len();
    assert_eq!(recorded, 1, "it is on record before it is sent");

    // Every node says that the price is below that of the block, and a higher one is above the ceiling.
    assert!(driver.nonces.sent(0, SendOutcome::TooCheap(String::new()), driver.now()).is_none());
    driver.sign().await;
    assert!(matches!(outcome.try_recv(), Ok(Err(BroadcastError::Ceiling(_)))));
    drop(driver);
    assert!(open().live().0.is_empty(), "a restart sends nothing");
}

/// One endpoint says so and may have passed it on, and the other one limits the rate of requests.
#[tokio::test]
async fn a_payload_that_is_too_cheap_for_some_is_not_given_up_at_the_ceiling() {
    let folder = tempfile::tempdir().unwrap();
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let record = NonceRecord::open(&folder.path().join("nonces"), CHAIN, key.address()).unwrap();
    let gas_price_max = GasPrice::default().last().upper;
    let limits = SpendingLimits { gas_price_max, ..SpendingLimits::default() };
    let mut driver = driver(record, key, limits);
    let mut outcome = submitted(&mut driver, 1);
    driver.sign().await;
    let cheap = SendOutcome::TooCheapForSome(String::new());
    assert!(driver.nonces.sent(0, cheap, driver.now()).is_none());
    driver.sign().await;
    assert!(outcome.try_recv().is_err(), "its caller still waits");
    assert_eq!(driver.nonces.in_flight(), 1);
}

/// One endpoint says each time that it has it, and the other one refuses it.
#[tokio::test]
async fn a_payload_at_the_ceiling_gives_way_to_a_filler_at_the_current_price() {
    let folder = tempfile::tempdir().unwrap();
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let record = NonceRecord::open(&folder.path().join("nonces"), CHAIN, key.address()).unwrap();
    let limits = SpendingLimits { gas_price_max: WeiPerGas(100), ..SpendingLimits::default() };
    let mut driver = driver(record, key, limits);
    driver.state.price.set(prices(100, 100));
    let mut outcome = submitted(&mut driver, 1);
    for now in (0..=60).step_by(2).map(Duration::from_secs) {
        let counts = vec![AccountCounts { mined: 0, pending: Some(0), is_proven: false }];
        let state = AccountState { counts, asked: 1, ..AccountState::default() };
        assert!(driver.nonces.polled(&state, now).is_empty());
        driver.sign().await;
        while let Some(due) = driver.nonces.due(now.max(driver.now())) {
            let contested = SendOutcome::Contested("no".to_owned());
            assert!(driver.nonces.sent(due.nonce, contested, now).is_none());
        }
    }
    let signed = driver.nonces.signed_of(0);
    let signed: Vec<_> = signed.iter().map(|it| (it.price.0, it.is_filler)).collect();
    assert_eq!(signed, [(100, false), (100, true)]);
    assert!(outcome.try_recv().is_err(), "its caller waits until one of the two is mined");
}

/// While the disk is full, callers repeat what was refused.
#[tokio::test]
async fn what_cannot_be_recorded_uses_nothing_of_the_ceiling() {
    let folder = tempfile::tempdir().unwrap();
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let path = folder.path().join("nonces");
    let mut record = NonceRecord::open(&path, CHAIN, key.address()).unwrap();
    let blocked = record.block_writes();
    let mut driver = driver(record, key, SpendingLimits::default());
    driver.state.price.set(prices(100, 100));
    let mut outcome = submitted(&mut driver, 1);
    driver.sign().await;
    let failed = outcome.try_recv();
    assert!(matches!(failed, Ok(Err(BroadcastError::Record { .. }))), "{failed:?}");
    assert_eq!(driver.spending.spent(driver.now()), Wei(0));

    std::fs::remove_dir(&blocked).unwrap();
    let mut outcome = submitted(&mut driver, 2);
    driver.sign().await;
    assert!(outcome.try_recv().is_err(), "it is signed");
    assert!(driver.spending.spent(driver.now()) > Wei(0));
}

/// A service manager starts the gateway again and again, and an endpoint states too high a price each time.
#[tokio::test]
async fn a_restart_does_not_begin_the_ceiling_of_the_hour_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let mut limits = SpendingLimits::default();
    for group in 1..=2 {
        let record = NonceRecord::open(&path, CHAIN, key.address()).unwrap();
        let mut driver = driver(record, key.clone(), limits);
        driver.state.price.set(prices(100, 100));
        let mut outcome = submitted(&mut driver, group);
        driver.sign().await;
        let outcome = outcome.try_recv();
        let is_reached =
            matches!(outcome, Ok(Err(BroadcastError::Ceiling(CeilingError::Hour { .. }))));
        assert_eq!(is_reached, group == 2, "{outcome:?}");
        let Wei(spent) = driver.spending.spent(driver.now());
        assert!(spent > 0);
        // The hour has room for the payload, and not for a second one.
        limits.per_hour_max = Wei(spent + spent / 2);
    }
}

#[tokio::test]
async fn what_could_not_be_recorded_is_not_counted_after_a_restart_either() {
    let folder = tempfile::tempdir().unwrap();
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let path = folder.path().join("nonces");
    let mut record = NonceRecord::open(&path, CHAIN, key.address()).unwrap();
    let blocked = record.block_writes();
    let mut driver = driver(record, key.clone(), SpendingLimits::default());
    driver.state.price.set(prices(100, 100));
    let mut outcome = submitted(&mut driver, 1);
    driver.sign().await;
    assert!(matches!(outcome.try_recv(), Ok(Err(BroadcastError::Record { .. }))));
    drop(driver);
    std::fs::remove_dir(&blocked).unwrap();
    let record = NonceRecord::open(&path, CHAIN, key.address()).unwrap();
    let costs: Vec<_> = record.spent_before().iter().map(|spent| spent.cost).collect();
    assert_eq!(costs, [Wei(0)], "the minute was counted, and taken back");
}

#[tokio::test]
async fn a_transaction_that_another_account_or_chain_has_signed_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    let key = |byte| PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap();
    let mut record = NonceRecord::open(&path, CHAIN, key(7).address()).unwrap();
    let signers = [(key(7), CHAIN), (key(8), CHAIN), (key(7), CHAIN + 1)];
    for (nonce, (key, chain)) in (0..).zip(signers) {
        let signer = TransactionSigner::new(key, chain);
        let (to, input) = (signer.account(), Bytes::new());
        let gas_limit = FILLER_GAS;
        let unsigned = UnsignedTransaction { nonce, gas_price: WeiPerGas(1), gas_limit, to, input };
        let (slot, raw) = (SlotId(nonce + 1), signer.sign(unsigned).unwrap().raw);
        let entry = RecordEntry::Signed { slot, instead_of: None, nonce, raw };
        record.append(&[entry], true).unwrap();
    }
    let mut driver = driver(record, key(7), SpendingLimits::default());
    let resumed: Vec<u64> = driver.nonces.held().map(|(nonce, ..)| nonce).collect();
    assert_eq!(resumed, [0]);
    // The strangers' slots keep their ids: the record would refuse a second nonce for one of them.
    assert_eq!(driver.nonces.fill(9, Duration::ZERO), Some(SlotId(4)));
}

/// The endpoint of these tests does not answer, so a start that compares nonces with the chain fails.
#[tokio::test]
async fn what_a_stranger_has_signed_far_above_the_chains_count_does_not_prevent_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nonces");
    let key = |byte| PrivateKeySigner::from_bytes(&B256::repeat_byte(byte)).unwrap();
    let state = state(key(7).address());
    let mut record = NonceRecord::open(&path, CHAIN, key(7).address()).unwrap();
    for (slot, signer) in [(1, key(8)), (2, key(7))] {
        let signer = TransactionSigner::new(signer, CHAIN);
        let (nonce, to, input) = (5000, signer.account(), Bytes::new());
        let (gas_price, gas_limit) = (WeiPerGas(1), FILLER_GAS);
        let unsigned = UnsignedTransaction { nonce, gas_price, gas_limit, to, input };
        let (slot, raw) = (SlotId(slot), signer.sign(unsigned).unwrap().raw);
        let entry = RecordEntry::Signed { slot, instead_of: None, nonce, raw };
        record.append(&[entry], true).unwrap();
        let is_own = slot == SlotId(2);
        assert_eq!(require_near(&state, &record).await.is_err(), is_own);
    }
}

const WAITED: Duration = Duration::from_secs(25);

/// Returns topic, digest and id of the payload that `submitted` has submitted for this group.
fn payload_of(driver: &Driver, group: u8) -> (PayloadTopic, B256, JobId) {
    let topic = PayloadTopic::Group(hawser_proto::GroupId([group; 16]));
    let digest = keccak256(b"payload");
    (topic, digest, driver.jobs.find(topic, digest).unwrap())
}

/// Has the caller of a group's payload give up. Returns what the caller is told.
fn given_up(
    driver: &mut Driver,
    group: u8,
    outcome: oneshot::Receiver<BroadcastResult>,
) -> BroadcastResult {
    let (topic, digest, _) = payload_of(driver, group);
    let (reply, mut told) = oneshot::channel();
    driver.take(DriverCommand::GaveUp { topic, digest, waited: WAITED, outcome, reply });
    told.try_recv().unwrap()
}

/// Returns a driver whose record is in this folder.
fn priced(folder: &tempfile::TempDir) -> Driver {
    let key = PrivateKeySigner::from_bytes(&B256::repeat_byte(7)).unwrap();
    let record = NonceRecord::open(&folder.path().join("nonces"), CHAIN, key.address()).unwrap();
    let driver = driver(record, key, SpendingLimits::default());
    driver.state.price.set(prices(100, 100));
    driver
}

/// A caller who is told that nothing was sent may publish the payload elsewhere, and then it is there twice.
#[tokio::test]
async fn what_another_process_may_have_sent_is_not_called_unsent() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = priced(&folder);
    let outcome = submitted(&mut driver, 1);
    let (.., job) = payload_of(&driver, 1);
    driver.given(job, Share::Elsewhere);
    assert_eq!(given_up(&mut driver, 1, outcome), Err(BroadcastError::elsewhere()));
    assert_eq!(driver.jobs.len(), 0, "it is withdrawn here");

    // Redis stops answering before the caller gives up.
    let outcomes = [submitted(&mut driver, 1), submitted(&mut driver, 2)];
    let (.., job) = payload_of(&driver, 1);
    driver.given(job, Share::Elsewhere);
    let refusal = BroadcastError::Unasked { reason: "Redis is silent".into() };
    driver.refuse_waiting(&refusal).await;
    let told = outcomes.map(|mut outcome| outcome.try_recv().unwrap());
    assert_eq!(told, [Err(BroadcastError::elsewhere()), Err(refusal)]);

    let outcome = submitted(&mut driver, 1);
    let unsent = Err(BroadcastError::NotSent { waited: WAITED });
    assert_eq!(given_up(&mut driver, 1, outcome), unsent, "no other process is known to have it");

    // This process stood still before it had signed, and the payload's caller has asked another one.
    let taken = driver.recorded(SharedRecord::Taken, Wei(0), Duration::ZERO);
    assert!(matches!(taken, Recorded::No(BroadcastError::Unasked { .. })), "{taken:?}");
}

#[tokio::test]
async fn a_caller_that_gives_up_is_told_what_may_come() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = priced(&folder);
    let outcome = submitted(&mut driver, 1);
    let (topic, _, job) = payload_of(&driver, 1);
    let (waiter, mut waiting) = oneshot::channel();
    let call = || Call::new(Address::ZERO, &RateRegistry::getRatesCountCall {});
    let payload = Bytes::from_static(b"payload");
    assert_eq!(driver.jobs.add(topic, &payload, Some(waiter), call), None);
    let told = given_up(&mut driver, 1, outcome);
    assert!(matches!(told, Err(BroadcastError::Open { hash: None, .. })), "it stays: {told:?}");
    assert!(waiting.try_recv().is_err());

    // The result comes just before the task learns that its caller waits no longer.
    let late = submitted(&mut driver, 2);
    driver.finish(job, &Err(BroadcastError::Paused));
    assert_eq!(waiting.try_recv().unwrap(), Err(BroadcastError::Paused));
    let (topic, digest, job) = payload_of(&driver, 2);
    driver.finish(job, &Err(BroadcastError::Paused));
    let (reply, mut told) = oneshot::channel();
    let gives_up = DriverCommand::GaveUp { topic, digest, waited: WAITED, outcome: late, reply };
    driver.take(gives_up);
    assert_eq!(told.try_recv().unwrap(), Err(BroadcastError::Paused));
}

/// Without a caller, only this task knows that the payload is on the chain. After ten minutes a repetition of the
/// payload would be paid for, too.
#[tokio::test]
async fn a_mined_payload_is_told_if_its_callers_have_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = priced(&folder);
    let (tell, mut told) = mpsc::unbounded_channel();
    driver.resumed = tell;
    let (contracts, payload) = (driver.contracts, Bytes::from_static(b"payload"));
    for (number, gives_up) in [(1, false), (2, true)] {
        let group = GroupId([number; 16]);
        let topic = PayloadTopic::Group(group);
        let (waiter, mut outcome) = oneshot::channel();
        let call = || contracts.call(topic, payload.clone());
        let job = driver.jobs.add(topic, &payload, Some(waiter), call).unwrap();
        if gives_up {
            outcome.close();
        }
        driver.mined(job, &mined_with(group, b"payload"));
        assert_eq!(outcome.try_recv().is_ok(), !gives_up);
        let told = told.try_recv().ok().map(|it| (it.payload, it.receipt.sequence_id));
        assert_eq!(told, gives_up.then(|| (payload.clone(), SequenceId(5))));
    }
}

/// Has the payload of a group mined as the first one of the account. Returns what its caller is told.
async fn put_on_chain(driver: &mut Driver, group: u8) -> BroadcastReceipt {
    let mut outcome = submitted(driver, group);
    driver.sign().await;
    assert!(driver.nonces.sent(0, SendOutcome::Accepted, driver.now()).is_none());
    let query = driver.nonces.queries(driver.now()).remove(0);
    let used = NonceUse::Mined(query.hashes[0]);
    let state = AccountState { uses: vec![(query, used)], ..AccountState::default() };
    let done = driver.nonces.polled(&state, driver.now());
    let SlotOutcome::Mined { hash, .. } = done[0] else { panic!("{done:?}") };
    let receipt = BroadcastReceipt {
        sequence_id: SequenceId(5),
        transaction_hash: hash,
        block_number: 7,
        block_time_s: 100,
    };
    let log = alloy::primitives::Log::default();
    let mined = HashMap::from([(hash, MinedPayload::Event { receipt, log })]);
    driver.done(done, &mined).await;
    outcome.try_recv().unwrap().unwrap()
}

/// Returns the nonces of the slots on record.
fn on_record(driver: &Driver) -> Vec<u64> {
    let record = driver.record.as_ref().unwrap().lock();
    record.live().0.values().map(|slot| slot.nonce).collect()
}

/// The process is killed after a caller was told the place of its payload, and before the caller has noted it. A client
/// without an answer repeats the payload.
#[tokio::test]
async fn a_mined_payload_is_on_record_until_its_caller_has_noted_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = priced(&folder);
    let hash = put_on_chain(&mut driver, 1).await.transaction_hash;
    driver.record_mined_over().await;
    assert_eq!(on_record(&driver), [0]);
    assert!(driver.mined_over_at().is_some());
    driver.started = driver.started.checked_sub(ending::MINED_ON_RECORD).unwrap();
    driver.record_mined_over().await;
    assert!(on_record(&driver).is_empty() && driver.mined_over_at().is_none());

    // A restart would ask for all of them at once.
    let purpose = NoncePurpose::Payload(JobId(1));
    let mined = |slot| SlotOutcome::Mined { slot: SlotId(slot), purpose, hash };
    let many: Vec<_> = (10..16).map(mined).collect();
    assert_eq!(driver.over_now(&many), [SlotId(10), SlotId(11)]);
}

/// The caller ends with the process, and may not have noted the place of the payload either.
#[tokio::test]
async fn a_payload_that_was_just_mined_stays_on_record_when_the_process_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = priced(&folder);
    put_on_chain(&mut driver, 1).await;
    let (_, commands) = mpsc::channel(1);
    driver.run(commands).await;
    assert_eq!(on_record(&priced(&folder)), [0]);
}

/// The chain was reorganised, or its only endpoint is behind. After a restart, the earlier payload of the nonce would
/// get another one and be paid for twice.
#[tokio::test]
async fn a_mined_payload_whose_nonce_is_given_again_leaves_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = priced(&folder);
    put_on_chain(&mut driver, 1).await;
    let _outcome = submitted(&mut driver, 2);
    driver.sign().await;
    assert_eq!(driver.nonces.lowest(), Some(0));
    assert_eq!(on_record(&driver), [0]);
}

#[tokio::test]
async fn callers_are_told_at_the_end_what_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let mut driver = priced(&folder);
    let mut sent = submitted(&mut driver, 1);
    driver.sign().await;
    let mut unsent = submitted(&mut driver, 2);
    driver.end_all();
    let told = sent.try_recv().unwrap();
    assert!(matches!(told, Err(BroadcastError::Open { hash: Some(_), .. })), "{told:?}");
    assert_eq!(unsent.try_recv().unwrap(), Err(BroadcastError::Ended));
}

/// Returns the receipt of a transaction that has put this payload on the chain.
fn mined_with(group: GroupId, payload: &'static [u8]) -> MinedPayload {
    let sent = MessageSent {
        groupId: group.0.into(),
        message: Bytes::from_static(payload),
        sequenceId: 5,
    };
    let inner = alloy::primitives::Log { address: Address::ZERO, data: sent.encode_log_data() };
    let logs = vec![alloy::rpc::types::Log { inner, ..Default::default() }];
    let receipt = Receipt { status: Eip658Value::Eip658(true), cumulative_gas_used: 0, logs };
    let receipt = TransactionReceipt {
        inner: ReceiptEnvelope::Legacy(ReceiptWithBloom::from(receipt)),
        transaction_hash: B256::repeat_byte(1),
        transaction_index: None,
        block_hash: None,
        block_number: Some(7),
        gas_used: 0,
        effective_gas_price: 0,
        blob_gas_used: None,
        blob_gas_price: None,
        from: Address::ZERO,
        to: None,
        contract_address: None,
    };
    MinedPayload::Receipt { receipt: Box::new(receipt), block_time_s: 100 }
}

/// A Redis that lies names the transaction of an earlier payload of the group. Its caller would be told that the
/// payload is on the chain.
#[tokio::test]
async fn a_payload_is_not_answered_with_the_transaction_of_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let (hash, contract) = (B256::repeat_byte(1), Address::ZERO);
    for (number, shown) in (1..).zip([&b"payload"[..], b"another"]) {
        let mut driver = priced(&folder);
        let (group, payload) = (GroupId([number; 16]), Bytes::from_static(b"payload"));
        let (topic, contracts) = (PayloadTopic::Group(group), driver.contracts);
        let (waiter, mut outcome) = oneshot::channel();
        let call = || contracts.call(topic, payload.clone());
        let job = driver.jobs.add(topic, &payload, Some(waiter), call).unwrap();
        driver.found_elsewhere(job, Some(mined_with(group, shown)));
        let expected = match number {
            1 => Ok(SequenceId(5)),
            _ => Err(BroadcastError::NoEvent { hash, contract }),
        };
        assert_eq!(outcome.try_recv().unwrap().map(|told| told.sequence_id), expected);
    }
}
