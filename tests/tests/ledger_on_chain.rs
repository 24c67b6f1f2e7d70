//! The ledger that a node makes of the payer registry's events equals the contract's balances at every block: after
//! random deposits, withdrawals, cancellations and settlements, and after the chain has taken some of them back.
//!
//! Two things are compared. After each change the ledger comes to what the contract says at the head. At the end the
//! contract is asked for its balances after each block of the chain: they have to be those of the ledger when that
//! block was booked.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy::primitives::aliases::U96;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::sol_types::SolCall as _;
use hawser_chain::addresses::Addresses;
use hawser_chain::contracts::payer_registry::IPayerRegistry::PayerFee;
use hawser_chain::contracts::{FeeToken, PayerRegistry};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{
    BalanceChange, BlockRef, ChainReader, ContractEvent, EventBatch, EventSource, IndexedEvent,
    PushSettings, Sink, SinkError, WalkSettings,
};
use hawser_chain::send::{Call, Chain, SendError};
use hawser_devchain::control::DevChain;
use hawser_devchain::deploy;
use hawser_devchain::embedded::{EmbeddedChain, EmbeddedSettings, Genesis};
use hawser_engine::chain_strand::ChainPosition;
use hawser_engine::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars, event_id};
use hawser_engine::price;
use hawser_engine::runtime::LedgerAppender;
use hawser_proto::{OriginatorId, SecretKey, SequenceId};
use hawser_storage::{CACHE_BYTES_MIN, Durability, Store, StoreIdentity, StoreSettings};
use hawser_tests::harness::{seed, wait};
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

const IDS: [u64; 2] = [31_337, 31_338];
const PAYERS: usize = 3;
/// Kinds of changes.
const KINDS: usize = 7;
/// The chain counts in microdollars, a ledger in picodollars.
const PICODOLLARS_PER_MICRODOLLAR: i128 = 1_000_000;
/// Changes that the contract takes in one run. A guess: each kind happens several times.
const STEPS: usize = 60;
/// Attempts at changes in one run, of which the contract refuses some. A guess.
const ATTEMPTS_MAX: usize = 10 * STEPS;
/// Blocks that a reorganisation takes back. A guess.
const DEPTH_MAX: u64 = 6;
/// A dollar in microdollars.
const DOLLAR: u64 = 1_000_000;
/// The time for which a withdrawal waits, seconds.
const LOCK_PERIOD_S: u64 = 172_800;

/// Balances of the payers in picodollars.
type Balances = [i128; PAYERS];

/// Books events as a node does, and notes the balances after each block that it is given.
struct LedgerSink {
    ledger: LedgerAppender,
    booked: Mutex<Booked>,
}

#[derive(Default)]
struct Booked {
    /// Balances in the ledger after a block, at the last time that the block was booked.
    after: BTreeMap<BlockRef, Balances>,
    /// Entries that were reversed, because the chain had taken their events back.
    reversed: usize,
}

impl LedgerSink {
    fn balances(&self) -> Balances {
        let balance = |number| {
            self.ledger.balance(hawser_proto::Address(payer(number).into_array())).unwrap().0
        };
        std::array::from_fn(balance)
    }
}

impl Sink for LedgerSink {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        let position = self.ledger.position().unwrap();
        Ok(position.map(|it| BlockRef { number: it.block, hash: it.hash.into() }))
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let events: Vec<_> = batch.events.iter().map(booking).collect();
        let BlockRef { number, hash } = batch.position;
        let position = ChainPosition { block: number, hash: hash.0 };
        let appended = self.ledger.append(batch.from_block, &events, position).unwrap();
        assert_eq!(appended.refused, 0, "block {number}: {events:?}");
        let mut booked = self.booked.lock();
        booked.reversed += appended.reversed;
        booked.after.insert(batch.position, self.balances());
        Ok(())
    }
}

fn booking(event: &IndexedEvent) -> LedgerEvent {
    let ContractEvent::BalanceChanged { kind, payer, amount } = event.decoded else {
        panic!("the registry has no other events: {:?}", event.decoded)
    };
    let index = u32::try_from(event.log_index).unwrap();
    let amount = LedgerMicroDollars(amount.get());
    LedgerEvent {
        id: event_id(event.transaction.0, event.block.hash.0, index),
        block: event.block.number,
        payer: hawser_proto::Address(payer.into_array()),
        action: match kind {
            BalanceChange::Deposit => LedgerAction::Deposit(amount),
            BalanceChange::WithdrawalRequested => LedgerAction::WithdrawalRequested(amount),
            BalanceChange::UsageSettled => LedgerAction::UsageSettled(amount),
            BalanceChange::WithdrawalCancelled => LedgerAction::WithdrawalCancelled,
        },
    }
}

fn payer(number: usize) -> Address {
    Address::repeat_byte(u8::try_from(0x40 + number).unwrap())
}

/// A settlement chain whose payer registry is read into a ledger.
struct Books {
    chain: Chain,
    url: String,
    at: Addresses,
    store: Store,
    sink: Arc<LedgerSink>,
    /// The first block that may be taken back.
    first_block: u64,
    reader: Option<ChainReader>,
    _running: [EmbeddedChain; 2],
    _folder: tempfile::TempDir,
}

impl Books {
    async fn open() -> Self {
        let rich =
            deploy::accounts().into_iter().map(|key| (key.address(), deploy::NATIVE_BALANCE));
        let genesis = Genesis { balances: rich.collect(), ..Genesis::default() };
        let start = async |id| {
            let settings =
                EmbeddedSettings { genesis: genesis.clone(), ..EmbeddedSettings::new(id) };
            EmbeddedChain::start(settings).await.unwrap()
        };
        let running = [start(IDS[0]).await, start(IDS[1]).await];
        let [url, app_url] = running.each_ref().map(|it| format!("http://{}", it.local_addr()));
        let chain = Chain::connect(&url, IDS[0]).await.unwrap();
        let app = Chain::connect(&app_url, IDS[1]).await.unwrap();
        let at = deploy::deploy(&chain, &app, &deploy::deployer()).await.unwrap().addresses;
        let approve = FeeToken::approveCall { spender: at.payer_registry, value: U256::MAX };
        let patron = deploy::deployer().address();
        DevChain(&chain).send_as(patron, &Call::new(at.fee_token, &approve)).await.unwrap();

        let folder = tempfile::tempdir().unwrap();
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let node = OriginatorId(100);
        let settings = StoreSettings {
            path: folder.path().join("data"),
            identity: StoreIdentity { network: "test".into(), node, public_key },
            durability: Durability::Fsync,
            price: price::price,
            host: None,
            open_files_max: 64,
            cache_bytes: CACHE_BYTES_MIN,
        };
        let store = Store::open(&settings).unwrap();
        let ledger = LedgerAppender::new(store.clone());
        let sink = Arc::new(LedgerSink { ledger, booked: Mutex::default() });
        let first_block = chain.newest_block().await.unwrap() + 1;
        let mut books = Self {
            chain,
            url,
            at,
            store,
            sink,
            first_block,
            reader: None,
            _running: running,
            _folder: folder,
        };
        books.start_reading();
        books
    }

    /// Reads from where the ledger is. A page is one block, so each block with events is booked alone.
    fn start_reading(&mut self) {
        let endpoints =
            Endpoints::new("settlement", std::slice::from_ref(&self.url), IDS[0]).unwrap();
        let push = PushSettings { urls: vec![self.url.replace("http", "ws")], notify: Vec::new() };
        let walk = WalkSettings {
            source: EventSource::PayerRegistry,
            address: self.at.payer_registry,
            first_block: self.first_block,
            page_blocks: 1,
            confirmations: 0,
        };
        self.reader = Some(ChainReader::start(endpoints, push, vec![(walk, self.sink.clone())]));
    }

    async fn stop_reading(&mut self) {
        self.reader.take().expect("it reads").stop().await;
    }

    async fn control(&self, method: &'static str, params: Value) {
        self.chain.provider().raw_request::<_, Value>(method.into(), params).await.unwrap();
    }

    /// Sends a call. Returns false if the contract refuses it.
    async fn send(&self, from: Address, call: Call) -> bool {
        match DevChain(&self.chain).send_as(from, &call).await {
            Ok(_) => true,
            Err(SendError::WouldRevert(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Makes one change. Returns its kind, if it happened.
    async fn step(&mut self, rng: &mut StdRng) -> Option<&'static str> {
        let (at, who) = (self.at.payer_registry, payer(rng.random_range(0..PAYERS)));
        let amount = rng.random_range(1..30 * DOLLAR);
        let (kind, is_taken) = match rng.random_range(0..10) {
            0..3 => {
                let patron = deploy::deployer().address();
                ("deposit", self.send(patron, Call::new(at, &deposit(who, amount))).await)
            }
            3..5 => {
                let request =
                    PayerRegistry::requestWithdrawalCall { amount_: U96::from(amount / 4 + 1) };
                ("request", self.send(who, Call::new(at, &request)).await)
            }
            5 => {
                let cancel = PayerRegistry::cancelWithdrawalCall {};
                ("cancel", self.send(who, Call::new(at, &cancel)).await)
            }
            6 => {
                self.control("evm_increaseTime", json!([LOCK_PERIOD_S])).await;
                let finalize = PayerRegistry::finalizeWithdrawalCall { recipient_: who };
                ("finalize", self.send(who, Call::new(at, &finalize)).await)
            }
            7..9 => {
                // The manager of reports settles. A payer may owe more than it has.
                let fee = |payer| PayerFee { payer, fee: U96::from(amount / 3 + 1) };
                let payer_fees = vec![fee(who), fee(payer(0)), fee(payer(PAYERS - 1))];
                let settle = PayerRegistry::settleUsageCall {
                    payerReportId_: B256::repeat_byte(7),
                    payerFees_: payer_fees,
                };
                ("settle", self.send(self.at.payer_report_manager, Call::new(at, &settle)).await)
            }
            _ => {
                let is_reading = rng.random_bool(0.5);
                if !is_reading {
                    self.stop_reading().await;
                }
                let is_taken = self.reorganise(&deposit(who, amount), rng).await;
                if !is_reading {
                    self.start_reading();
                }
                (if is_reading { "reorganise" } else { "reorganise unseen" }, is_taken)
            }
        };
        is_taken.then_some(kind)
    }

    /// Replaces the last blocks by one more than they were. Of their events none comes again; one of the new blocks has
    /// a deposit. Returns false as long as there are too few blocks.
    async fn reorganise(&self, deposit: &PayerRegistry::depositCall, rng: &mut StdRng) -> bool {
        let newest = self.chain.newest_block().await.unwrap();
        let (depth, patron) = (rng.random_range(1..=DEPTH_MAX), deploy::deployer().address());
        if newest < self.first_block + depth {
            return false;
        }
        let nonce = self.chain.provider().get_transaction_count(patron).number(newest - depth);
        let request = json!({
            "from": patron,
            "to": self.at.payer_registry,
            "data": Bytes::from(deposit.abi_encode()),
            "nonce": U256::from(nonce.await.unwrap()),
        });
        self.control("anvil_impersonateAccount", json!([patron])).await;
        let block = rng.random_range(0..depth);
        self.control("anvil_reorg", json!([depth, [[request, block]]])).await;
        self.control("anvil_mine", json!(["0x1"])).await;
        true
    }

    /// Returns the balances that the contract has after a block.
    async fn of_contract(&self, block: u64) -> Balances {
        let mut balances = [0; PAYERS];
        for (number, balance) in balances.iter_mut().enumerate() {
            let get = PayerRegistry::getBalanceCall { payer_: payer(number) };
            let answer = self.chain.view_at(self.at.payer_registry, &get, block.into()).await;
            let microdollars = i128::try_from(answer.unwrap()).unwrap();
            *balance = microdollars * PICODOLLARS_PER_MICRODOLLAR;
        }
        balances
    }

    /// Waits until the head is read, and the ledger has the balances of the contract there.
    async fn come_to_the_head(&self, when: &str) {
        let newest = self.chain.newest_block().await.unwrap();
        let wanted = (Some(newest), self.of_contract(newest).await);
        let view = self.reader.as_ref().expect("it reads").view();
        wait::until_equal(&format!("the ledger, {when}"), &wanted, async || {
            Some((view.readers()[0].read, self.sink.balances()))
        })
        .await;
    }

    /// Compares what the ledger held after each block of the chain with what the contract says after that block. A
    /// block that was not booked has changed nothing.
    async fn assert_equal_at_every_block(&self) {
        let after = self.sink.booked.lock().after.clone();
        let (mut held, mut booked) = ([0; PAYERS], 0);
        for number in self.first_block..=self.chain.newest_block().await.unwrap() {
            let block = self.chain.provider().get_block_by_number(number.into()).await.unwrap();
            let block = BlockRef { number, hash: block.unwrap().header.hash };
            if let Some(balances) = after.get(&block) {
                (held, booked) = (*balances, booked + 1);
            }
            assert_eq!(held, self.of_contract(number).await, "after {block:?}");
        }
        assert!(booked > PAYERS, "{booked} blocks that are left were booked");
    }
}

fn deposit(payer_: Address, amount: u64) -> PayerRegistry::depositCall {
    // The contract takes no smaller ones than ten dollars.
    PayerRegistry::depositCall { payer_, amount_: U96::from(10 * DOLLAR + amount) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_equals_the_contract_at_every_block_also_when_blocks_are_taken_back() {
    let seed = seed::seed();
    for run in 0..2 {
        let (mut books, mut rng) = (Books::open().await, seed::rng(seed, run));
        let mut kinds = BTreeMap::<&str, usize>::new();
        for attempt in 0..ATTEMPTS_MAX {
            if let Some(kind) = books.step(&mut rng).await {
                *kinds.entry(kind).or_default() += 1;
                books.come_to_the_head(&format!("run {run}, attempt {attempt}: {kind}")).await;
            }
            if kinds.len() == KINDS && kinds.values().sum::<usize>() >= STEPS {
                break;
            }
        }
        println!("run {run}: {kinds:?}");
        assert_eq!(kinds.len(), KINDS, "run {run}: not every kind has happened: {kinds:?}");
        assert!(books.sink.booked.lock().reversed > 0, "run {run}: nothing was taken back");
        books.assert_equal_at_every_block().await;
        books.stop_reading().await;
        // As `hawser rebuild --ledger` does. The node reads all of it again.
        books.store.drop_ledger().unwrap();
        assert_eq!((books.sink.balances(), books.sink.position().unwrap()), ([0; PAYERS], None));
        books.start_reading();
        books.come_to_the_head(&format!("run {run}, once more")).await;
        books.stop_reading().await;
    }
}
