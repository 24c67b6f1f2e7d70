//! Tests of payer reports with the real contract: submitted once, settled in batches from any
//! state, and read from its events.

use std::sync::Arc;
use std::time::Duration;

use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Bytes, U256};
use alloy::providers::Provider as _;
use hawser_chain::admin::nodes::{self, NewNode};
use hawser_chain::admin::{Contract, Contracts, Network, Wei, WeiPerGas, fees, payers};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{
    BlockRef, ChainReader, ContractEvent, EventBatch, EventSource, PushSettings, Sink, SinkError,
    WalkSettings,
};
use hawser_chain::reports::{ReportManager, ReportManagerError};
use hawser_chain::send::{Call, RequestError, SendError, Sender};
use hawser_chain::spending::{CeilingError, SpendingLimits};
use hawser_devchain::deploy;
use hawser_proto::{Address, OriginatorId, SecretKey, SequenceId};
use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::{
    Attestation, ContractReport, Leaves, NodeIds, PayerReport, RangeEnd, ReportId, SettledAmount,
    Submitted,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::carry_out;
use crate::pair::{self, ChainBackend, Pair, SETTLEMENT_ID};
use crate::proxy::{Faults, Proxy};

const NODE: OriginatorId = OriginatorId(100);

#[derive(Default)]
struct Events(Mutex<Vec<ContractEvent>>);

impl Sink for Events {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(None)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        self.0.lock().extend(batch.events.iter().map(|event| event.decoded.clone()));
        Ok(())
    }
}

/// The settlement chain with one canonical node. The first of its three endpoints lies about prices and outcomes.
struct Chain {
    _pair: Pair,
    network: Network,
    endpoints: Endpoints,
    manager: ReportManager,
    key: SecretKey,
    proxies: [Proxy; 2],
}

impl Chain {
    async fn start(kind: ChainBackend) -> Self {
        let (pair, deployment) = Pair::deployed(kind).await;
        let network = Network {
            settlement: pair.settlement.clone(),
            app: Some(pair.app.clone()),
            app_id: pair::APP_ID,
            contracts: Contracts::from(&deployment.addresses),
        };
        let admin = pair::sender(&pair.settlement, 0);
        let account = deploy::accounts().swap_remove(1);
        let key = SecretKey::from_bytes(&account.to_bytes().0).unwrap();
        let new = NewNode {
            owner: account.address(),
            signing_public_key: *key.public_key().as_bytes(),
            http_address: "http://node.example:5050".into(),
        };
        carry_out(&admin, &nodes::add(&network, &new).await.unwrap()).await;
        carry_out(&admin, &nodes::add_canonical(&network, NODE).await.unwrap()).await;
        let honest = pair.settlement.endpoint().to_owned();
        let proxies = [Proxy::start(&honest, 0).await, Proxy::start(&honest, 1).await];
        let urls = [proxies[0].url(), honest, proxies[1].url()];
        let endpoints = Endpoints::new("settlement", &urls, SETTLEMENT_ID).unwrap();
        let address = network.at(Contract::PayerReportManager).unwrap();
        // The first endpoint states a price above the ceiling, and calls every transaction failed.
        proxies[0].set(|faults| {
            *faults = Faults { prices_wei: Some(1 << 62), reverts: true, ..Faults::NONE };
        });
        let manager =
            ReportManager::new(endpoints.clone(), address, account, SpendingLimits::default());
        Self { _pair: pair, network, endpoints, manager, key, proxies }
    }

    fn attested(&self, report: &PayerReport) -> [Attestation; 1] {
        let id = report.id(self.manager.domain());
        [Attestation::sign(id, NODE, &self.key)]
    }

    /// Returns the report at an index as the endpoints show it, for a reader of the event of the one with these leaves.
    async fn kept(
        &self,
        index: u64,
        leaves: &Leaves,
    ) -> Result<ContractReport, ReportManagerError> {
        let (root, offset) = (leaves.root(), 0);
        let (start, end) = (SequenceId::NONE, SequenceId(9));
        let known = ContractReport { start, end, root, offset, is_settled: false };
        self.manager.kept(NODE, index, &known).await
    }

    /// Checks that nothing is sent above a ceiling: the cost counts before the contract sees the report.
    async fn refuses_expensive_gas(&self, report: &PayerReport, attested: &[Attestation]) {
        let address = self.network.at(Contract::PayerReportManager).unwrap();
        let limited = |limits| {
            let account = deploy::accounts().swap_remove(1);
            ReportManager::new(self.endpoints.clone(), address, account, limits)
        };
        let of_hour = SpendingLimits { per_hour_max: Wei(1), ..SpendingLimits::default() };
        let refused = limited(of_hour).submit(report, attested).await.unwrap_err();
        let is_hour = |it: &_| {
            let ceiling = CeilingError::Hour { spent: Wei(0), max: Wei(1) };
            matches!(it, ReportManagerError::Send(SendError::Ceiling(reached)) if *reached == ceiling)
        };
        assert!(is_hour(&refused), "{refused}");
        let of_gas = SpendingLimits { gas_price_max: WeiPerGas(1), ..SpendingLimits::default() };
        let refused = limited(of_gas).submit(report, attested).await.unwrap_err();
        let is_price = |it: &_| {
            matches!(
                it,
                ReportManagerError::Send(SendError::Ceiling(CeilingError::GasPrice { .. }))
            )
        };
        assert!(is_price(&refused), "{refused}");
    }

    /// Reads events until there are `count`.
    async fn events(&self, count: usize) -> Vec<ContractEvent> {
        let walk = WalkSettings {
            source: EventSource::PayerReports,
            address: self.network.at(Contract::PayerReportManager).unwrap(),
            first_block: 0,
            page_blocks: 50,
            confirmations: 0,
        };
        let events = Arc::new(Events::default());
        let sink: Arc<dyn Sink> = events.clone();
        let contracts = vec![(walk, sink)];
        let reader = ChainReader::start(self.endpoints.clone(), PushSettings::default(), contracts);
        let read = async {
            while events.0.lock().len() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("all events are read");
        reader.stop().await;
        events.0.lock().clone()
    }
}

fn report(start: u64, end: u64, leaves: &Leaves) -> PayerReport {
    let end = RangeEnd { minute: 29_000_000, sequence: SequenceId(end) };
    let nodes = NodeIds::new([NODE]).unwrap();
    PayerReport::new(NODE, SequenceId(start), end, leaves.root(), nodes).unwrap()
}

pub(crate) async fn reports_are_submitted_once_and_settled_in_batches(kind: ChainBackend) {
    let chain = Chain::start(kind).await;
    let manager = &chain.manager;
    let amounts = (1..=120_u8)
        .map(|payer| (Address([payer; 20]), PicoDollarPrice(u64::from(payer) * 500_001)));
    let leaves = Leaves::sum(amounts);
    let first = report(0, 9, &leaves);
    let id = first.id(manager.domain());

    let stranger = SecretKey::from_bytes(&[9; 32]).unwrap();
    let forged = [Attestation::sign(id, NODE, &stranger)];
    let refused = manager.submit(&first, &forged).await.unwrap_err();
    assert!(refused.to_string().contains("InsufficientSignatures"), "{refused}");
    let of_other = [Attestation::sign(ReportId([1; 32]), NODE, &chain.key)];
    assert!(manager.submit(&first, &of_other).await.is_err(), "it is over another digest");

    let attested = chain.attested(&first);
    chain.refuses_expensive_gas(&first, &attested).await;
    assert_eq!(manager.submit(&first, &attested).await.unwrap(), Submitted::Now);
    assert_eq!(manager.submit(&first, &attested).await.unwrap(), Submitted::Before);
    let other = report(0, 8, &leaves);
    let submitted = manager.submit(&other, &chain.attested(&other)).await.unwrap();
    assert_eq!(submitted, Submitted::Superseded);

    let (encoded, tree) = (leaves.encoded(), leaves.tree());
    let settle = |range: std::ops::Range<usize>| {
        let proof = tree.proof(range.clone());
        let encoded = &encoded;
        async move { manager.settle(NODE, 0, &encoded[range], &proof).await }
    };
    let late = settle(100..120).await.unwrap_err();
    assert!(matches!(&late, ReportManagerError::Send(error) if error.revert().is_some()), "{late}");
    settle(0..100).await.unwrap();
    let kept = chain.kept(0, &leaves).await.unwrap();
    assert_eq!((kept.start.0, kept.end.0, kept.root), (0, 9, leaves.root()));
    assert_eq!((kept.offset, kept.is_settled), (100, false));
    assert!(settle(0..100).await.is_err(), "no leaf is settled twice");
    settle(100..120).await.unwrap();
    assert!(chain.kept(0, &leaves).await.unwrap().is_settled);
    assert!(chain.kept(1, &leaves).await.is_err(), "there is one report");

    // The sum of the rounded-up leaves is what the contract deducted, and what nodes and protocol share.
    let settled: Vec<u64> = leaves.payers().iter().map(|leaf| leaf.fee.settled().0).collect();
    let sum: u64 = settled.iter().sum();
    for (leaf, settled) in leaves.payers().iter().zip(&settled).step_by(40) {
        let payer = leaf.payer.0.into();
        let balance = payers::balance(&chain.network, payer).await.unwrap();
        assert_eq!(balance.balance.0, -i128::from(*settled));
    }
    let on_chain = fees::reports(&chain.network, &[NODE]).await.unwrap();
    let [on_chain] = &on_chain[..] else { panic!("{on_chain:?}") };
    assert_eq!(on_chain.fees_settled.get(), u128::from(sum));
    let shared = on_chain.share_of_node().get() + on_chain.share_of_protocol().get();
    assert_eq!(shared, u128::from(sum));

    let events = chain.events(3).await;
    let ContractEvent::ReportSubmitted(submitted) = &events[0] else { panic!("{events:?}") };
    assert_eq!((submitted.originator, submitted.index), (NODE, 0));
    assert_eq!((submitted.start.0, submitted.end.0, submitted.end_minute), (0, 9, 29_000_000));
    assert_eq!((submitted.root.0, &submitted.nodes[..]), (leaves.root(), &[NODE][..]));
    let part = |leaves: u64, left, settled| ContractEvent::ReportSettled {
        originator: NODE,
        index: 0,
        leaves,
        left,
        settled: SettledAmount(settled),
    };
    let parts = [settled[..100].iter().sum(), settled[100..].iter().sum()];
    assert_eq!(events[1..], [part(100, 20, parts[0]), part(20, 0, parts[1])]);
}

/// The price of gas rises after a transaction was signed, so that no block takes it. Later transactions would wait
/// behind it, until no node submits the report any more. One endpoint of three calls the transaction mined.
#[tokio::test]
async fn a_transaction_that_has_become_too_cheap_is_replaced_by_the_next_one() {
    let chain = Chain::start(ChainBackend::Embedded).await;
    chain.proxies[0].set(|faults| *faults = Faults::NONE);
    chain.proxies[1].set(|faults| faults.miscounts = 1);
    let settlement = &chain.network.settlement;
    let provider = settlement.provider();
    let account = deploy::accounts().swap_remove(1).address();
    let count = async |at| settlement.transaction_count(account, at).await.unwrap();
    let set = async |method: &'static str, value: Value| {
        provider.raw_request::<_, Value>(method.into(), value).await.unwrap();
    };
    let first = report(0, 9, &Leaves::sum([(Address([1; 20]), PicoDollarPrice(500_001))]));
    let attested = chain.attested(&first);
    let before = count(BlockId::latest()).await;

    set("evm_setAutomine", json!([false])).await;
    let impatient = chain.manager.clone().with_receipt_timeout(Duration::from_secs(1));
    let late = impatient.submit(&first, &attested).await.unwrap_err();
    assert!(matches!(late, ReportManagerError::Send(SendError::NotMined { .. })), "{late}");
    assert_eq!(count(BlockId::pending()).await, before + 1, "it waits");
    let head = provider.get_block_by_number(BlockNumberOrTag::Latest).await.unwrap().unwrap();
    let expensive = 10 * head.header.base_fee_per_gas.unwrap();
    set("anvil_setNextBlockBaseFeePerGas", json!([format!("{expensive:#x}")])).await;
    set("evm_mine", json!([])).await;
    set("evm_setAutomine", json!([true])).await;
    assert_eq!(count(BlockId::latest()).await, before, "it is too cheap");

    assert_eq!(chain.manager.submit(&first, &attested).await.unwrap(), Submitted::Now);
    assert_eq!(count(BlockId::latest()).await, before + 1, "with the same nonce");
    assert_eq!(count(BlockId::pending()).await, before + 1, "nothing waits any more");
}

/// Endpoints whose pools take no tip as low as those of the last blocks. A single one is believed.
#[tokio::test]
async fn fees_that_every_endpoint_refuses_are_raised_up_to_a_bound() {
    let chain = Chain::start(ChainBackend::Embedded).await;
    let settlement = &chain.network.settlement;
    let account = deploy::accounts().swap_remove(1);
    let of_node = Sender::new(settlement.clone(), account.clone());
    let nothing = Call { to: Some(account.address()), data: Bytes::new(), value: U256::ZERO };
    let count =
        async || settlement.transaction_count(account.address(), BlockId::latest()).await.unwrap();
    let accept_from = |tip_min_wei: u128| {
        let faults = Faults { tip_min_wei: Some(tip_min_wei), ..Faults::NONE };
        chain.proxies.iter().for_each(|proxy| proxy.set(|it| *it = faults));
    };
    let address = chain.network.at(Contract::PayerReportManager).unwrap();
    let leaves = Leaves::sum([(Address([1; 20]), PicoDollarPrice(500_001))]);
    let urls = [chain.proxies[0].url(), chain.proxies[1].url()];
    for (urls, start) in [(&urls[..1], 0), (&urls[..], 9)] {
        let endpoints = Endpoints::new("settlement", urls, SETTLEMENT_ID).unwrap();
        let limits = SpendingLimits::default();
        let manager = ReportManager::new(endpoints, address, account.clone(), limits);
        let report = report(start, start + 9, &leaves);
        let attested = chain.attested(&report);
        let before = count().await;
        accept_from(u128::MAX);
        let refused = manager.submit(&report, &attested).await.unwrap_err();
        let ReportManagerError::Send(SendError::TooCheap { nonce, .. }) = refused else {
            panic!("{refused}")
        };
        assert_eq!(nonce, before);

        let tip = of_node.quote(&nothing).await.unwrap().max_priority_fee_per_gas;
        accept_from(tip.0 + 1);
        let submitted = manager.submit(&report, &attested).await.unwrap();
        assert_eq!(submitted, Submitted::Now, "{} endpoints", urls.len());
        assert_eq!(count().await, before + 1, "one of the attempts is mined");
    }
}

/// A service manager starts the node again and again, and each start could spend the ceiling of the hour.
#[tokio::test]
async fn a_restart_does_not_begin_the_ceiling_of_a_nodes_hour_anew() {
    let chain = Chain::start(ChainBackend::Embedded).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/costs");
    let leaves = Leaves::sum([(Address([1; 20]), PicoDollarPrice(500_001))]);
    let first = report(0, 9, &leaves);
    let manager = chain.manager.clone().with_spending_file(path.clone());
    let submitted = manager.submit(&first, &chain.attested(&first)).await.unwrap();
    assert_eq!(submitted, Submitted::Now);

    let address = chain.network.at(Contract::PayerReportManager).unwrap();
    let account = deploy::accounts().swap_remove(1);
    let limits = SpendingLimits { per_hour_max: Wei(1), ..SpendingLimits::default() };
    let manager = ReportManager::new(chain.endpoints.clone(), address, account, limits);
    let manager = manager.with_spending_file(path);
    let proof = leaves.tree().proof(0..1);
    let refused = manager.settle(NODE, 0, &leaves.encoded(), &proof).await.unwrap_err();
    let ReportManagerError::Send(SendError::Ceiling(CeilingError::Hour { spent, .. })) = refused
    else {
        panic!("{refused}")
    };
    assert!(spent > Wei(0), "the transaction of the earlier process counts");
}

fn gone() -> RequestError {
    RequestError::Unreachable { endpoint: String::new(), reason: "gone".into() }
}

/// The preferred endpoint shows another contract at the address, and other reports. The others have just failed.
#[tokio::test]
async fn an_endpoint_that_feigns_the_contract_stops_neither_submission_nor_settlement() {
    let chain = Chain::start(ChainBackend::Embedded).await;
    chain.proxies[0].set(|faults| *faults = Faults { feigns: true, ..Faults::NONE });
    for _ in 0..8 {
        chain.endpoints.ask(|_| async { Err::<(), _>(gone()) }).await.unwrap_err();
    }
    chain.endpoints.ask(|_| async { Ok::<_, RequestError>(()) }).await.unwrap();
    assert_eq!(chain.endpoints.status().iter().filter(|it| it.error.is_some()).count(), 2);
    let leaves = Leaves::sum([(Address([1; 20]), PicoDollarPrice(500_001))]);
    let first = report(0, 9, &leaves);
    let (manager, attested) = (&chain.manager, chain.attested(&first));
    assert_eq!(manager.submit(&first, &attested).await.unwrap(), Submitted::Now);
    let kept = chain.kept(0, &leaves).await.unwrap();
    assert_eq!((kept.end.0, kept.root, kept.is_settled), (9, leaves.root(), false));
    let proof = leaves.tree().proof(0..1);
    manager.settle(NODE, 0, &leaves.encoded(), &proof).await.unwrap();
    assert!(chain.kept(0, &leaves).await.unwrap().is_settled);

    // If none has it, the address is wrong.
    let account = deploy::accounts().swap_remove(1);
    let elsewhere = chain.network.at(Contract::NodeRegistry).unwrap();
    let limits = SpendingLimits::default();
    let wrong = ReportManager::new(chain.endpoints.clone(), elsewhere, account, limits);
    let refused = wrong.submit(&first, &attested).await.unwrap_err();
    let is_contract =
        matches!(refused, ReportManagerError::OtherContract { .. } | ReportManagerError::View(_));
    assert!(is_contract, "{refused}");
}

/// Returns the gas that the contract alone takes for each of 400 new payers, by the measured table of
/// `contracts/README.md`.
fn gas_of_the_contract() -> f64 {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../contracts/README.md");
    let page = std::fs::read_to_string(page).unwrap();
    let row = "| `PayerReportManager` | `settle`, 400 leaves, new payers | ";
    let gas = page.lines().find_map(|line| line.strip_prefix(row)?.strip_suffix(" |"));
    gas.expect("the row is there").parse::<f64>().unwrap() / 400.0
}

/// A report about 10,000 payers without deposit is settled in the fewest transactions that the gas of one permits, at
/// the gas that the contract takes by itself.
#[tokio::test]
#[ignore = "prints figures: docs/performance.md"]
async fn settling_ten_thousand_payers_takes_little_more_gas_than_the_contract_alone() {
    // As many as a node settles at once: `LEAVES_AT_ONCE` of the engine.
    const LEAVES_AT_ONCE: usize = 400;
    const PAYERS: u32 = 10_000;
    let chain = Chain::start(ChainBackend::Embedded).await;
    let settlement = &chain.network.settlement;
    let honest = [settlement.endpoint().to_owned()];
    let endpoints = Endpoints::new("settlement", &honest, SETTLEMENT_ID).unwrap();
    let limits = SpendingLimits { per_hour_max: Wei(u128::MAX), ..SpendingLimits::default() };
    let address = chain.network.at(Contract::PayerReportManager).unwrap();
    let account = deploy::accounts().swap_remove(1);
    let manager = ReportManager::new(endpoints, address, account, limits);
    let payer = |number: u32| {
        let mut address = [7; 20];
        address[..4].copy_from_slice(&number.to_be_bytes());
        (Address(address), PicoDollarPrice(500_001))
    };
    let leaves = Leaves::sum((0..PAYERS).map(payer));
    let report = report(0, 9, &leaves);
    let submitted = manager.submit(&report, &chain.attested(&report)).await.unwrap();
    assert_eq!(submitted, Submitted::Now);

    let (encoded, tree) = (leaves.encoded(), leaves.tree());
    let head = || async { settlement.provider().get_block_number().await.unwrap() };
    let before = head().await;
    for first in (0..encoded.len()).step_by(LEAVES_AT_ONCE) {
        let range = first..encoded.len().min(first + LEAVES_AT_ONCE);
        let proof = tree.proof(range.clone());
        manager.settle(NODE, 0, &encoded[range], &proof).await.unwrap();
    }
    let (mut transactions, mut gas) = (0_usize, 0_u64);
    for number in before + 1..=head().await {
        let block = settlement.provider().get_block_by_number(number.into()).await.unwrap();
        let block = block.expect("it is below the head");
        transactions += block.transactions.len();
        gas += block.header.gas_used;
    }
    let events = chain.events(1 + transactions).await;
    let last = events.last().expect("the report is settled");
    assert!(matches!(last, ContractEvent::ReportSettled { left: 0, .. }), "{last:?}");

    let (each, alone) = (gas as f64 / f64::from(PAYERS), gas_of_the_contract());
    println!(
        "{PAYERS} payers: {transactions} transactions, {gas} gas, {each:.0} gas for each payer; the contract alone, \
         400 payers in a transaction: {alone:.0}"
    );
    assert_eq!(transactions, (PAYERS as usize).div_ceil(LEAVES_AT_ONCE));
    assert!(each < 1.03 * alone, "the table of the contracts allows 3 % as well");
}
