//! A chain under test: sends, reads, expects reverts, and records coverage.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::rpc::types::TransactionReceipt;
use alloy::sol_types::{SolCall, SolEvent as _};
use alloy::transports::TransportResult;
use hawser_chain::contracts::revert::Revert;
use hawser_chain::contracts::{artifact, describe};
use hawser_chain::send::Chain;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::chain::{ChainBackend, RunningChain};
use super::coverage::{self, Entry};
use super::tx::{ExpectedRevert, Receipt, Tx};

const RECEIPT_MAX: Duration = Duration::from_secs(10);
/// A chain that mines by itself does so within milliseconds. On a busy machine anvil has left a transaction unmined for
/// 10 s.
const NUDGE_EVERY: Duration = Duration::from_secs(1);

/// The result type of a request.
trait Answer: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static {}

impl<T: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static> Answer for T {}

/// A chain under test.
pub(crate) struct TestChain {
    pub(crate) kind: ChainBackend,
    /// The same chain through the library under test.
    pub(crate) chain: Chain,
    /// Contract names by address, as in the interface.
    names: Mutex<HashMap<Address, &'static str>>,
    /// Accounts that are funded and impersonated.
    enabled: Mutex<HashSet<Address>>,
    _running: RunningChain,
}

impl TestChain {
    pub(crate) async fn start(kind: ChainBackend, chain_id: u64) -> Self {
        let running = kind.start(chain_id).await;
        let chain = Chain::connect(&running.url, chain_id).await.unwrap();
        Self { kind, chain, names: Mutex::default(), enabled: Mutex::default(), _running: running }
    }

    /// Records the contract at an address, for messages and for coverage.
    pub(crate) fn name(&self, address: Address, name: &'static str) {
        self.names.lock().insert(address, name);
    }

    /// Returns the contract that a transaction calls.
    pub(crate) fn contract_of(&self, tx: &Tx) -> Option<&'static str> {
        tx.to.and_then(|to| self.name_of(to))
    }

    fn name_of(&self, address: Address) -> Option<&'static str> {
        self.names.lock().get(&address).copied()
    }

    /// Sends a transaction that is expected to succeed.
    pub(crate) async fn send(&self, tx: Tx) -> Receipt {
        let receipt = self.mine(&tx).await;
        if !receipt.status() {
            let why = self.call(&tx).await;
            panic!("{} was reverted; now it returns {why:?}", self.describe(&tx));
        }
        self.note_success(&tx, &receipt);
        Receipt(receipt)
    }

    /// Sends a transaction that may revert.
    pub(crate) async fn try_send(&self, tx: Tx) -> Result<Receipt, Revert> {
        self.enable(tx.from).await;
        if let Err(revert) = self.call(&tx).await {
            self.note_revert(&tx, &revert);
            return Err(revert);
        }
        Ok(self.send(tx).await)
    }

    /// Creates a contract from an artifact. Arguments are encoded.
    pub(crate) async fn create(
        &self,
        from: Address,
        name: &'static str,
        arguments: impl AsRef<[u8]>,
    ) -> Address {
        let receipt = self.send(Tx::create(from, init_code(name, arguments))).await;
        let address = receipt.0.contract_address.expect("it creates a contract");
        self.name(address, name);
        self.note_logs(&receipt.0);
        address
    }

    /// Deploys machine code.
    pub(crate) async fn create_raw(&self, from: Address, code: &[u8]) -> Address {
        let size = u8::try_from(code.len()).expect("it is short");
        // Copies the code after these 10 bytes to memory, and returns it.
        let copier = [0x60, size, 0x60, 10, 0x5f, 0x39, 0x60, size, 0x5f, 0xf3];
        let receipt = self.send(Tx::create(from, [&copier, code].concat().into())).await;
        receipt.0.contract_address.expect("it creates a contract")
    }

    /// Calls a view function from the zero address.
    pub(crate) async fn read<C: SolCall>(&self, to: Address, call: C) -> C::Return {
        self.answer(Tx::call(Address::ZERO, to, &call), call).await
    }

    /// Returns the result of a call from this account, without sending it.
    pub(crate) async fn returned<C: SolCall>(
        &self,
        from: Address,
        to: Address,
        call: C,
    ) -> C::Return {
        self.enable(from).await;
        self.answer(Tx::call(from, to, &call), call).await
    }

    async fn answer<C: SolCall>(&self, tx: Tx, _: C) -> C::Return {
        let returned = self.answer_to(tx).await;
        C::abi_decode_returns(&returned).expect("the result has the type of its interface")
    }

    /// Returns the encoded result of a call.
    pub(crate) async fn answer_to(&self, tx: Tx) -> Bytes {
        let returned = self.call(&tx).await.unwrap_or_else(|revert| {
            panic!("{} was refused: {revert}", self.describe(&tx));
        });
        self.note_call(&tx);
        returned
    }

    /// Asserts that a transaction reverts with exactly this data.
    pub(crate) fn refuse(
        &self,
        tx: Tx,
        expected: impl Into<ExpectedRevert>,
    ) -> impl Future<Output = ()> {
        self.refuse_as(tx, expected.into())
    }

    async fn refuse_as(&self, tx: Tx, expected: ExpectedRevert) {
        self.enable(tx.from).await;
        match self.call(&tx).await {
            Ok(returned) => {
                panic!("{} was not refused but returned {returned}", self.describe(&tx))
            }
            Err(revert) => {
                let wanted = Revert::decode(&expected.0);
                assert_eq!(revert, wanted, "{}: {revert} instead of {wanted}", self.describe(&tx));
                self.note_revert(&tx, &revert);
            }
        }
    }

    /// Asserts that each of these transactions reverts with its data.
    pub(crate) async fn refuse_all(&self, table: impl Into<Vec<(Tx, ExpectedRevert)>>) {
        for (tx, expected) in table.into() {
            self.refuse_as(tx, expected).await;
        }
    }

    /// Asserts that the creation of a contract reverts.
    pub(crate) async fn refuse_creation(
        &self,
        name: &'static str,
        arguments: impl AsRef<[u8]>,
        expected: impl Into<ExpectedRevert>,
    ) {
        let expected: ExpectedRevert = expected.into();
        let tx = Tx::create(Address::ZERO, init_code(name, arguments));
        let revert = self.call(&tx).await.expect_err("the creation is refused");
        let wanted = Revert::decode(&expected.0);
        assert_eq!(revert, wanted, "creating {name}: {revert} instead of {wanted}");
        self.note_error(name, &revert);
    }

    /// Returns the base fee in the block of this transaction, in wei.
    pub(crate) async fn base_fee(&self, receipt: &Receipt) -> u128 {
        let number = U256::from(receipt.0.block_number.expect("it is mined"));
        let block: Value = self.rpc("eth_getBlockByNumber", json!([number, false])).await;
        let fee: U256 = serde_json::from_value(block["baseFeePerGas"].clone()).unwrap();
        fee.to()
    }

    /// Returns the time of the latest block, in unix seconds.
    pub(crate) async fn now(&self) -> u64 {
        let block: Value = self.rpc("eth_getBlockByNumber", json!(["latest", false])).await;
        let time: U256 = serde_json::from_value(block["timestamp"].clone()).unwrap();
        time.to()
    }

    /// Moves the time forward, and makes a block at its end.
    pub(crate) async fn wait(&self, seconds: u64) {
        // Blocks that come fast run ahead of the clock; this counts from the latest one.
        let time = self.now().await + seconds;
        let _: Value = self.rpc("evm_setNextBlockTimestamp", json!([time])).await;
        let _: Value = self.rpc("evm_mine", json!([])).await;
    }

    /// Returns the native balance of an account, in wei.
    pub(crate) async fn native_balance(&self, account: Address) -> U256 {
        self.rpc("eth_getBalance", json!([account, "latest"])).await
    }

    pub(crate) async fn set_code(&self, address: Address, code: &Bytes) {
        let _: Value = self.rpc("anvil_setCode", json!([address, code])).await;
    }

    pub(crate) async fn code(&self, address: Address) -> Bytes {
        self.rpc("eth_getCode", json!([address, "latest"])).await
    }

    pub(crate) async fn storage(&self, address: Address, slot: B256) -> B256 {
        self.rpc("eth_getStorageAt", json!([address, slot, "latest"])).await
    }

    pub(crate) async fn nonce(&self, account: Address) -> u64 {
        let nonce: U256 = self.rpc("eth_getTransactionCount", json!([account, "latest"])).await;
        nonce.to()
    }

    /// Makes a snapshot. It serves for one return.
    pub(crate) async fn snapshot(&self) -> U256 {
        self.rpc("evm_snapshot", json!([])).await
    }

    /// Returns to a snapshot.
    pub(crate) async fn revert_to(&self, snapshot: U256) {
        let done: bool = self.rpc("evm_revert", json!([snapshot])).await;
        assert!(done, "the snapshot is there");
        self.enabled.lock().clear();
    }

    /// Funds and impersonates an account, so that it can send without its key.
    pub(crate) async fn enable(&self, account: Address) {
        if !self.enabled.lock().insert(account) {
            return;
        }
        let plenty = U256::from(10).pow(U256::from(27));
        let _: Value = self.rpc("anvil_setBalance", json!([account, plenty])).await;
        let _: Value = self.rpc("anvil_impersonateAccount", json!([account])).await;
    }

    async fn mine(&self, tx: &Tx) -> TransactionReceipt {
        self.enable(tx.from).await;
        let mut hash: B256 = self.rpc("eth_sendTransaction", json!([tx.request()])).await;
        let begun = Instant::now();
        let mut nudged = begun;
        loop {
            let receipt: Option<TransactionReceipt> =
                self.rpc("eth_getTransactionReceipt", json!([hash])).await;
            if let Some(receipt) = receipt {
                return receipt;
            }
            if nudged.elapsed() >= NUDGE_EVERY {
                // After a revert, the pool may take the new transaction for the one with the same nonce before it.
                let pending: Option<Value> =
                    self.rpc("eth_getTransactionByHash", json!([hash])).await;
                if pending.is_none() {
                    hash = self.rpc("eth_sendTransaction", json!([tx.request()])).await;
                }
                let _: Value = self.rpc("evm_mine", json!([])).await;
                nudged = Instant::now();
            }
            assert!(begun.elapsed() < RECEIPT_MAX, "{} is not mined", self.describe(tx));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn call(&self, tx: &Tx) -> Result<Bytes, Revert> {
        let params = json!([tx.request(), "latest"]);
        self.ask("eth_call", params).await.map_err(|error| {
            let payload = error.as_error_resp().expect("the chain answers").clone();
            assert!(payload.message.contains("revert"), "{}: {payload}", self.describe(tx));
            Revert::decode(&payload.as_revert_data().unwrap_or_default())
        })
    }

    async fn rpc<R: Answer>(&self, method: &'static str, params: Value) -> R {
        let answer = self.ask(method, params).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn ask<R: Answer>(&self, method: &'static str, params: Value) -> TransportResult<R> {
        self.chain.provider().raw_request(method.into(), params).await
    }

    /// Describes a transaction: contract, function and arguments.
    fn describe(&self, tx: &Tx) -> String {
        let Some(to) = tx.to else { return "a creation".to_owned() };
        let name = self.name_of(to).unwrap_or("an unnamed contract");
        let call = artifact::named(name).and_then(|contract| describe::call(contract, &tx.data));
        match call {
            Some(call) => format!("{name}.{call} by {}", tx.from),
            None => format!("{name}: {} by {}", tx.data, tx.from),
        }
    }

    fn note_success(&self, tx: &Tx, receipt: &TransactionReceipt) {
        self.note_call(tx);
        self.note_logs(receipt);
    }

    fn note_call(&self, tx: &Tx) {
        if let (Some(name), Some(selector)) = (self.contract_of(tx), tx.data.first_chunk()) {
            coverage::note(self.kind, name, Entry::Function(*selector));
        }
    }

    /// Records an event. An event of a migrator appears at the contract that it migrates, so it counts for both.
    fn note_logs(&self, receipt: &TransactionReceipt) {
        let mut migrator = None;
        for log in receipt.logs() {
            let Some(kind) = log.topic0() else { continue };
            for name in [self.name_of(log.address()), migrator].into_iter().flatten() {
                coverage::note(self.kind, name, Entry::Event(*kind));
            }
            if *kind == hawser_chain::contracts::Factory::Migrated::SIGNATURE_HASH {
                let named = log.topics().get(1).map(|topic| Address::from_word(*topic));
                migrator = named.and_then(|address| self.name_of(address));
            }
        }
    }

    fn note_revert(&self, tx: &Tx, revert: &Revert) {
        if let Some(name) = self.contract_of(tx) {
            self.note_error(name, revert);
        }
    }

    fn note_error(&self, name: &'static str, revert: &Revert) {
        if let Some(selector) = revert.data.first_chunk() {
            coverage::note(self.kind, name, Entry::Error(*selector));
        }
    }

    /// Records a call that another contract made, such as the factory's call of a new proxy.
    pub(crate) fn note_done(&self, name: &'static str, data: &[u8]) {
        if let Some(selector) = data.first_chunk() {
            coverage::note(self.kind, name, Entry::Function(*selector));
        }
    }
}

/// Returns the init code of a contract: the artifact's code and the arguments.
pub(crate) fn init_code(name: &'static str, arguments: impl AsRef<[u8]>) -> Bytes {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../contracts/artifacts");
    let text = std::fs::read_to_string(format!("{folder}/{name}.json")).unwrap();
    let artifact: Value = serde_json::from_str(&text).unwrap();
    let code: Bytes = serde_json::from_value(artifact["bytecode"].clone()).unwrap();
    [&code, arguments.as_ref()].concat().into()
}
