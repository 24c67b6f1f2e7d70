//! Nodes that hold the same, one clock and one contract of payer reports. Nodes may join and leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hawser_engine::chain_strand::ChainPosition;
use hawser_engine::ledger::PicoDollarBalance;
use hawser_engine::payer_reports::ChainReports;
use hawser_engine::ports::TrustingJudge;
use hawser_engine::runtime::{
    Attested, Engine, EngineSettings, PayerReporter, Ports, PublishError, PublishSettings,
    ReportStepError, Submitted, Written,
};
use hawser_engine::{facts, price};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId, minute_of};
use hawser_rules::payer_report::{Leaves, Periods};
use hawser_rules::{PicoDollarPrice, Rate, RateTable, Registry};
use hawser_storage::{Change, LogEntry, LogItem, Store, StoreIdentity, Validity};
use tokio::sync::watch;

use crate::common::{
    START_NS, TestClock, client, frame, group_payload, group_topic, payer, rate, record_rates,
};
use crate::payer_money::BEFORE_BLOCKS;
use crate::report_contract::{NODES, TestContract, domain, key};

const MINUTE_NS: i64 = 60_000_000_000;

struct AnyForm;

impl hawser_engine::ports::PayloadValidator for AnyForm {
    fn key_package(&self, _: &Bytes) -> Result<(), String> {
        Ok(())
    }
}

/// Nodes that hold the same, one clock and one contract.
pub struct Network {
    pub clock: Arc<TestClock>,
    pub contract: TestContract,
    pub stores: BTreeMap<u32, Store>,
    pub engines: BTreeMap<u32, Engine>,
    /// The registry as nodes have read it last.
    registry: watch::Sender<Arc<Registry>>,
    /// The price list, which every node has before it begins.
    rates: Vec<Rate>,
    /// The time up to which the price lists of nodes that are started from now on are complete; `None` if they always
    /// are.
    pub rates_read_ns: Option<i64>,
    /// The nodes that charge more congestion than the rules give.
    too_dear: BTreeSet<u32>,
    /// True if nodes that are started from now on publish only for payers who can pay.
    pub require_balance: bool,
}

impl Network {
    pub fn start() -> Self {
        let clock = Arc::new(TestClock(AtomicI64::new(START_NS)));
        let contract = TestContract::default();
        let registry = contract.0.lock().membership.registry();
        let mut network = Self {
            clock,
            contract,
            stores: BTreeMap::new(),
            engines: BTreeMap::new(),
            registry: watch::channel(Arc::new(registry)).0,
            rates: vec![rate()],
            rates_read_ns: None,
            too_dear: BTreeSet::new(),
            require_balance: false,
        };
        NODES.into_iter().for_each(|node| network.add_node(node));
        network.follow_chain();
        network
    }

    /// Starts a node that has nothing stored.
    fn add_node(&mut self, node: u32) {
        let identity = StoreIdentity {
            network: "test".into(),
            node: OriginatorId(node),
            public_key: key(node).public_key(),
        };
        self.start_on(node, Store::in_memory(identity, price::price).unwrap());
    }

    /// Starts a node on a store that has nothing.
    pub fn start_on(&mut self, node: u32, store: Store) {
        record_rates(&store, &self.rates);
        // No payer has a deposit.
        let position = ChainPosition { block: 0, hash: [0; 32] };
        store.note_payers_read(position).unwrap();
        store.note_payer_reports_read(position).unwrap();
        self.stores.insert(node, store);
        self.restart(node);
    }

    /// Takes a node into the canonical network, or out of it. Nodes know it after the next
    /// [`follow_chain`](Self::follow_chain).
    pub fn set_member(&mut self, node: u32, is_member: bool) {
        self.contract.0.lock().membership.set(node, is_member);
        if !self.stores.contains_key(&node) {
            self.add_node(node);
        }
    }

    /// The nodes that have ever been in the network.
    pub fn nodes(&self) -> Vec<u32> {
        self.stores.keys().copied().collect()
    }

    /// The members, as the contract has them.
    pub fn members(&self) -> Vec<u32> {
        self.contract.0.lock().membership.members()
    }

    /// True if nodes take a node for a member.
    pub fn is_known_member(&self, node: u32) -> bool {
        self.registry.borrow().member(OriginatorId(node)).is_some()
    }

    /// Starts a node again on what it has stored.
    pub fn restart(&mut self, node: u32) {
        let registry = self.registry.subscribe();
        let charged = |rate: &Rate| match self.too_dear.contains(&node) {
            true => {
                Rate { congestion_fee: PicoDollarPrice(50_000), target_rate_per_minute: 1, ..*rate }
            }
            false => *rate,
        };
        let rates = self.rates.iter().map(charged).collect();
        let (_, rates) =
            watch::channel(Arc::new(RateTable::new(rates, self.rates_read_ns).unwrap()));
        let ports = Ports {
            clock: self.clock.clone(),
            validator: Arc::new(AnyForm),
            identities: Arc::new(TrustingJudge),
            registry,
            rates,
        };
        let require_balance = self.require_balance;
        let publish =
            PublishSettings { idempotent: true, require_balance, publishes_per_payer: None };
        let settings = EngineSettings { publish, workers: 1 };
        let (engine, _) =
            Engine::start(key(node), settings, ports, self.stores[&node].clone()).unwrap();
        self.engines.insert(node, engine);
    }

    /// Starts a node again that charges more congestion than the rules give, or no more.
    pub fn charge(&mut self, node: u32, is_too_much: bool) {
        if is_too_much {
            self.too_dear.insert(node);
        } else {
            self.too_dear.remove(&node);
        }
        self.restart(node);
    }

    /// Announces prices to every node. Ignores a start that is not after the last one.
    pub fn add_rate(&mut self, rate: Rate) {
        if self.rates.iter().any(|known| known.start_unix_s >= rate.start_unix_s) {
            return;
        }
        self.rates.push(rate);
        self.stores.values().for_each(|store| record_rates(store, &self.rates));
        self.nodes().into_iter().for_each(|node| self.restart(node));
    }

    /// Runs something while no node can read the registry: work that needs it waits.
    pub fn without_registry<T>(&self, run: impl FnOnce() -> T) -> T {
        let mut done = None;
        self.registry.send_modify(|_| done = Some(run()));
        done.unwrap()
    }

    pub fn pass(&self, minutes: i64) {
        self.clock.0.fetch_add(minutes * MINUTE_NS, Ordering::Relaxed);
    }

    pub fn now_minute(&self) -> u32 {
        minute_of(self.clock.0.load(Ordering::Relaxed))
    }

    pub async fn publish(&self, node: u32, by: u8, texts: &[&str]) {
        self.try_publish(node, by, texts).await.unwrap();
    }

    pub async fn try_publish(
        &self,
        node: u32,
        by: u8,
        texts: &[&str],
    ) -> Result<Vec<Bytes>, PublishError> {
        let envelope = |text: &&str| {
            let payload = group_payload(frame(1, 1, text.as_bytes()));
            let client = client(&group_topic(1), None, payload);
            PayerEnvelope::sign(client, OriginatorId(node), 60, &payer(by))
        };
        self.engines[&node].publish(texts.iter().map(envelope).collect()).await
    }

    /// Two minutes of traffic of three payers at node 100, and a third one.
    pub async fn traffic(&self, name: &str) {
        for minute in 0..3 {
            for by in 0..3 {
                self.publish(100, by, &[&format!("{name} {minute} of {by}")]).await;
            }
            self.pass(1);
        }
    }

    /// Brings every strand to every node.
    pub fn replicate(&self) {
        for from in self.nodes() {
            self.nodes().into_iter().for_each(|to| self.copy(from, to));
        }
    }

    /// Brings the strand of a node to another one.
    pub fn copy(&self, from: u32, to: u32) {
        if from == to {
            return;
        }
        let (source, target) = (&self.stores[&from], &self.stores[&to]);
        let originator = OriginatorId(from);
        let snapshot = source.snapshot();
        let held = target.snapshot().head(originator).unwrap();
        for item in snapshot.log(EnvelopeId::new(originator, held), SequenceId::MAX) {
            let LogItem::Envelope { id, bytes, .. } = item.unwrap() else { panic!() };
            let facts = facts::of_stored(&bytes, Validity::Valid, OriginatorId(to));
            let entry = LogEntry { id, bytes, validity: Validity::Valid, facts };
            target.commit(&[Change::Append(entry)]).unwrap();
        }
    }

    /// Shows the chain's events and its registry to every node.
    pub fn follow_chain(&self) {
        let (events, registry) = {
            let chain = self.contract.0.lock();
            (chain.events.clone(), chain.membership.registry())
        };
        self.registry.send_replace(Arc::new(registry));
        let position = ChainPosition { block: events.len() as u64, hash: [1; 32] };
        for store in self.stores.values() {
            store.record_payer_reports(0, &events, position).unwrap();
        }
    }

    /// Shows the events of payers' money to every node: to the first one block by block, and to the others all new ones
    /// in one batch. A batch begins with the last block that the node has read. After each batch a node knows the
    /// balances that the contract had after its last block.
    pub fn follow_money(&self) {
        let chain = self.contract.0.lock();
        let head = chain.money.head();
        for (node, engine) in &self.engines {
            let ledger = engine.ledger_appender();
            let mut read =
                ledger.position().unwrap().map_or(BEFORE_BLOCKS, |position| position.block);
            while read < head {
                let through = if *node == NODES[0] { read + 1 } else { head };
                let position = ChainPosition { block: through, hash: [1; 32] };
                ledger.append(read, &chain.money.events(read, through), position).unwrap();
                for (payer, balance) in chain.money.balances_after(through) {
                    let held = ledger.balance(*payer).unwrap();
                    let expected = PicoDollarBalance(balance * 1_000_000);
                    assert_eq!(held, expected, "{payer} at node {node} after block {through}");
                }
                read = through;
            }
        }
    }

    /// A worker that knows nothing but what is stored.
    pub fn worker(&self, node: u32) -> PayerReporter {
        let contract = Arc::new(self.contract.clone());
        PayerReporter::new(&self.engines[&node], key(node), domain(), Periods::default(), contract)
    }

    pub async fn write(&self, node: u32, about: u32) -> Written {
        let written = self.worker(node).write(OriginatorId(about)).await.unwrap();
        self.replicate();
        written
    }

    pub async fn attest(&self, node: u32, about: u32) -> Vec<Attested> {
        let attested = self.worker(node).attest(OriginatorId(about)).await.unwrap();
        self.replicate();
        attested.into_iter().map(|(_, outcome)| outcome).collect()
    }

    pub async fn submit(&self, node: u32, about: u32) -> Vec<Submitted> {
        let submitted = self.worker(node).submit(OriginatorId(about)).await.unwrap();
        self.follow_chain();
        submitted.into_iter().map(|(_, outcome)| outcome).collect()
    }

    pub async fn settle(&self, node: u32, about: u32) -> Result<usize, ReportStepError> {
        let settled = self.worker(node).settle(OriginatorId(about)).await;
        self.follow_chain();
        settled
    }

    /// The fees in the log of node 100 up to a place, as their envelopes state them, by payer.
    pub fn stated(&self, through: SequenceId) -> Leaves {
        self.stated_between(OriginatorId(100), SequenceId::NONE, through)
    }

    /// The fees in a strand after one place up to another one, as its own node holds it, by payer. Where the prices
    /// have no congestion, what an envelope states of it is too much, and no part of them.
    pub fn stated_between(
        &self,
        originator: OriginatorId,
        after: SequenceId,
        through: SequenceId,
    ) -> Leaves {
        let has_congestion = self.rates.iter().any(|rate| rate.congestion_fee.0 > 0);
        let snapshot = self.stores[&originator.0].snapshot();
        let log = snapshot.log(EnvelopeId::new(originator, after), through);
        let fees = log.filter_map(|item| {
            let LogItem::Envelope { bytes, .. } = item.unwrap() else { panic!() };
            let envelope = OriginatorEnvelope::parse(bytes).unwrap();
            let statement = envelope.unsigned();
            if statement.payer().client().topic().kind().is_reserved() {
                return None;
            }
            let payer_envelope = statement.payer();
            let signature = payer_envelope.signature_bytes().unwrap();
            let signature = hawser_proto::Signature::from_bytes(signature).unwrap();
            let payer = signature.recover(payer_envelope.digest()).unwrap().address();
            let base = statement.base_fee();
            let fee = if has_congestion { base.plus(statement.congestion_fee()) } else { base };
            Some((payer, fee))
        });
        Leaves::sum(fees)
    }

    pub fn on_chain(&self) -> ChainReports {
        ChainReports::of_events(self.contract.0.lock().events.clone())
    }
}

/// Puts an envelope into the strand of a node that does not play by the rules.
pub async fn smuggle(network: &Network, node: u32, client: Bytes) {
    smuggle_unseen(network, node, client).await;
    network.replicate();
}

/// The same, before another node sees it.
pub async fn smuggle_unseen(network: &Network, node: u32, client: Bytes) {
    let envelope = PayerEnvelope::sign(client, OriginatorId(node), 60, &key(node));
    network.engines[&node].publish_own(vec![envelope]).await.unwrap();
}
