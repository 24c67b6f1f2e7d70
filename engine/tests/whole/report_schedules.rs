//! Payer reports under random schedules: nodes that publish, are silent, join and leave, stop between any two steps,
//! hold an old copy, lie, charge too much congestion, lose the connection to the contract, or get no answer from it in
//! time, prices that change within a range, and payers that deposit money, ask for it back, give the request up, or
//! take the money out. In the end each fee of the log is in one leaf, each leaf is taken from its payer once, rounded
//! up, and every node knows each payer's balance.

use std::collections::BTreeMap;

use hawser_engine::ledger::PicoDollarBalance;
use hawser_engine::payer_reports::ChainReports;
use hawser_engine::runtime::{Attested, ReportState, ReportStepError, Submitted, Written};
use hawser_proto::{OriginatorId, PayerAddress, SequenceId};
use hawser_rules::payer_report::{NodeIds, PayerReport, RangeEnd};
use hawser_rules::{PicoDollarPrice, Rate};
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{payer, rate};
use crate::payer_money::{LOCK_MINUTES, MoneyStep};
use crate::report_contract::{JOINER, NODES};
use crate::report_network::{Network, smuggle_unseen};

#[derive(Debug, Clone)]
enum Event {
    Publish {
        node: u32,
        by: u8,
        count: u8,
    },
    Pass {
        minutes: i64,
    },
    /// One node gets what another one has ordered.
    Copy {
        from: u32,
        to: u32,
    },
    /// Every node sees the newest events of the contract.
    Follow,
    Write {
        node: u32,
        about: u32,
    },
    Attest {
        node: u32,
        about: u32,
    },
    Submit {
        node: u32,
        about: u32,
    },
    Settle {
        node: u32,
        about: u32,
    },
    /// A node ends without notice, and is started again.
    Restart {
        node: u32,
    },
    /// The contract answers so many settlements, and then no more.
    Break {
        settlements: usize,
    },
    /// The contract takes transactions, and its answers come too late, or in time again.
    LoseAnswers {
        is_late: bool,
    },
    /// Prices from the next minute on.
    Price {
        message_fee: u64,
    },
    /// A payer deposits money or withdraws it. The contract may refuse.
    Money {
        by: u8,
        step: MoneyStep,
    },
    /// A node writes a report that is not true.
    Lie {
        about: u32,
        by: u32,
    },
    /// A node charges more congestion than the rules give, or no more.
    Charge {
        node: u32,
        is_too_much: bool,
    },
    /// A node joins, for the first time or again, or leaves. Nodes may see it late.
    Member {
        node: u32,
        joins: bool,
        is_seen: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    // The one that may join does nothing for as long as it has not.
    let node = || select([&NODES[..], &NODES[..], &[JOINER]].concat());
    let two = || (node(), node());
    prop_oneof![
        8 => (node(), 0..3_u8, 1..4_u8)
            .prop_map(|(node, by, count)| Event::Publish { node, by, count }),
        5 => select(vec![1, 1, 2, 60, 400, 800]).prop_map(|minutes| Event::Pass { minutes }),
        5 => two().prop_map(|(from, to)| Event::Copy { from, to }),
        2 => Just(Event::Follow),
        4 => two().prop_map(|(node, about)| Event::Write { node, about }),
        5 => two().prop_map(|(node, about)| Event::Attest { node, about }),
        3 => two().prop_map(|(node, about)| Event::Submit { node, about }),
        3 => two().prop_map(|(node, about)| Event::Settle { node, about }),
        2 => node().prop_map(|node| Event::Restart { node }),
        1 => (0..3_usize).prop_map(|settlements| Event::Break { settlements }),
        1 => any::<bool>().prop_map(|is_late| Event::LoseAnswers { is_late }),
        1 => (1..5_000_u64).prop_map(|message_fee| Event::Price { message_fee }),
        8 => (0..3_u8, money_step()).prop_map(|(by, step)| Event::Money { by, step }),
        1 => two().prop_map(|(about, by)| Event::Lie { about, by }),
        1 => (node(), any::<bool>())
            .prop_map(|(node, is_too_much)| Event::Charge { node, is_too_much }),
        2 => (select(vec![NODES[1], NODES[2], JOINER, JOINER]), any::<bool>(), any::<bool>())
            .prop_map(|(node, joins, is_seen)| Event::Member { node, joins, is_seen }),
    ]
}

/// Amounts are those of some reports, so that a payer may owe something, or not.
fn money_step() -> impl Strategy<Value = MoneyStep> {
    prop_oneof![
        3 => (1..40_u64).prop_map(MoneyStep::Deposit),
        3 => (1..40_u64).prop_map(MoneyStep::Request),
        1 => Just(MoneyStep::Cancel),
        2 => Just(MoneyStep::Finalise),
    ]
}

/// A transaction of a payer at the present minute.
fn move_money(network: &Network, by: u8, step: MoneyStep) -> Result<(), &'static str> {
    let (address, now_minute) = (payer(by).public_key().address(), network.now_minute());
    network.contract.0.lock().money.act(address, step, now_minute)
}

/// A network with a number for each envelope, so that no two are the same.
struct Schedule {
    network: Network,
    envelopes: u64,
}

impl Schedule {
    /// Publishes at a node. One that is no member refuses.
    async fn publish(&mut self, node: u32, by: u8, count: u8) {
        for _ in 0..count {
            self.envelopes += 1;
            let text = format!("envelope {}", self.envelopes);
            let published = self.network.try_publish(node, by, &[&text]).await;
            assert_eq!(published.is_ok(), self.network.is_known_member(node), "{published:?}");
        }
    }

    /// Lets one thing happen. A step that cannot be taken yet is taken again later, by this node or another one.
    async fn happen(&mut self, event: Event) {
        let network = &mut self.network;
        let now = network.now_minute();
        let is_there = |node: u32| network.stores.contains_key(&node);
        match event {
            Event::Publish { node, .. }
            | Event::Restart { node }
            | Event::Charge { node, .. }
            | Event::Write { node, .. }
            | Event::Attest { node, .. }
            | Event::Submit { node, .. }
            | Event::Settle { node, .. }
                if !is_there(node) => {}
            Event::Copy { from, to } if !is_there(from) || !is_there(to) => {}
            Event::Publish { node, by, count } => self.publish(node, by, count).await,
            Event::Pass { minutes } => network.pass(minutes),
            Event::Copy { from, to } => network.copy(from, to),
            Event::Follow => {
                network.follow_chain();
                network.follow_money();
            }
            Event::Write { node, about } => {
                _ = network.worker(node).write(OriginatorId(about)).await;
            }
            Event::Attest { node, about } => {
                _ = network.worker(node).attest(OriginatorId(about)).await;
            }
            Event::Submit { node, about } => {
                _ = network.worker(node).submit(OriginatorId(about)).await;
            }
            Event::Settle { node, about } => {
                _ = network.worker(node).settle(OriginatorId(about)).await;
            }
            Event::Restart { node } => network.restart(node),
            Event::Break { settlements } => network.contract.0.lock().settles = Some(settlements),
            Event::LoseAnswers { is_late } => network.contract.0.lock().loses_answers = is_late,
            Event::Price { message_fee } => {
                let start_unix_s = u64::from(now + 1) * 60;
                network.add_rate(Rate {
                    start_unix_s,
                    message_fee: PicoDollarPrice(message_fee),
                    ..rate()
                });
            }
            Event::Money { by, step } => _ = move_money(network, by, step),
            Event::Lie { about, by } => lie(network, about, by).await,
            Event::Charge { node, is_too_much } => network.charge(node, is_too_much),
            Event::Member { node, joins, is_seen } => change_member(network, node, joins, is_seen),
        }
    }

    /// The place up to which usage of a node's strand has to be settled in the end. The newest minute of a node that
    /// has left stays open: no later one shows that it is complete.
    fn to_settle(&self, node: u32) -> SequenceId {
        let snapshot = self.network.stores[&node].snapshot();
        let last = |to| snapshot.last_used_minute(OriginatorId(node), to).unwrap();
        let newest = last(u32::MAX);
        let end = match newest {
            Some((minute, _)) if !self.network.members().contains(&node) => last(minute - 1),
            newest => newest,
        };
        end.map_or(SequenceId::NONE, |(_, sequence)| sequence)
    }

    /// Nothing fails and changes any more: what was published until now is settled after some rounds of the worker.
    async fn calm_down(&mut self) {
        {
            let mut chain = self.network.contract.0.lock();
            (chain.settles, chain.loses_answers) = (None, false);
        }
        self.network.follow_chain();
        let (nodes, members) = (self.network.nodes(), self.network.members());
        let wanted: Vec<_> = nodes.iter().map(|node| (*node, self.to_settle(*node))).collect();
        for _ in 0..4 {
            for _ in 0..3 {
                self.network.pass(1);
                for node in &members {
                    self.publish(*node, 0, 1).await;
                }
            }
            // Every waiting step is given up by then.
            self.network.pass(19 * 60);
            self.network.replicate();
            self.network.follow_chain();
            for about in &nodes {
                // Another node writes about one that has left.
                let writer = if members.contains(about) { *about } else { members[0] };
                self.network.write(writer, *about).await;
                for node in &members {
                    self.network.attest(*node, *about).await;
                }
                self.network.submit(members[0], *about).await;
                self.network.settle(members[1], *about).await.unwrap();
            }
            let chain = self.network.on_chain();
            let is_done = |(node, last): &(u32, SequenceId)| {
                let end = chain.last_end(OriginatorId(*node)).map(|end| end.sequence);
                end.unwrap_or(SequenceId::NONE) >= *last
            };
            if wanted.iter().all(is_done) && chain.all().all(|report| report.is_settled) {
                return;
            }
        }
        panic!("not settled: {:?} of {wanted:?}", self.network.on_chain());
    }
}

/// Takes a node into the network or out of it. Two members stay.
fn change_member(network: &mut Network, node: u32, joins: bool, is_seen: bool) {
    let members = network.members();
    if members.contains(&node) == joins || (!joins && members.len() == 2) {
        return;
    }
    network.set_member(node, joins);
    if is_seen {
        network.follow_chain();
    }
}

/// Lets a node write a report with a root of its own over the whole strand.
async fn lie(network: &Network, about: u32, by: u32) {
    if !network.is_known_member(by) || !network.stores.contains_key(&about) {
        return;
    }
    let about = OriginatorId(about);
    let start = network.on_chain().last_end(about).map_or(SequenceId::NONE, |end| end.sequence);
    let sequence = network.stores[&about.0].snapshot().head(about).unwrap();
    let end = RangeEnd { minute: network.now_minute(), sequence };
    let nodes = NodeIds::new(network.members().into_iter().map(OriginatorId)).unwrap();
    if let Ok(lie) = PayerReport::new(about, start, end, [9; 32], nodes) {
        smuggle_unseen(network, by, lie.client_envelope()).await;
    }
}

/// Amounts by payer.
type Amounts = BTreeMap<PayerAddress, u64>;

/// Sum of fees in the log = sum of usage = sum of leaves = taken by the contract, to its rounding.
fn nothing_is_lost_or_charged_twice(network: &Network, chain: &ChainReports) {
    let (mut of_log, mut of_leaves, mut rounded) = (Amounts::new(), Amounts::new(), Amounts::new());
    for about in network.nodes() {
        let about = OriginatorId(about);
        let mut end = SequenceId::NONE;
        for report in chain.about(about) {
            assert_eq!(report.start, end, "the ranges of {about} leave no gap and do not overlap");
            end = report.end.sequence;
            let leaves = network.stated_between(about, report.start, end);
            assert_eq!(report.root, leaves.root(), "report {} about {about}", report.index);
            let mut sum = 0;
            for leaf in leaves.payers() {
                *of_leaves.entry(leaf.payer).or_default() += leaf.fee.get();
                *rounded.entry(leaf.payer).or_default() += leaf.fee.settled().0;
                sum += leaf.fee.settled().0;
            }
            assert_eq!(report.settled.0, sum, "each leaf was settled once");
        }
        for leaf in network.stated_between(about, SequenceId::NONE, end).payers() {
            *of_log.entry(leaf.payer).or_default() += leaf.fee.get();
        }
    }
    assert_eq!(of_leaves, of_log);
    let taken = network.contract.0.lock().taken_from.clone();
    let taken: Amounts = taken.into_iter().map(|(payer, amount)| (payer, amount.0)).collect();
    assert_eq!(taken, rounded);
    money_adds_up(network, &taken);
    for node in network.members() {
        for (payer, amount) in &of_log {
            let usage = network.worker(node).usage_of(*payer).unwrap();
            assert_eq!(usage.settled.0, *amount, "node {node} tells {payer} what the log says");
        }
    }
}

/// Of each payer: deposits = balance + what it has asked for + what it has taken out + what settlements took. Every
/// node has followed the contract to its last block, and knows these balances.
fn money_adds_up(network: &Network, taken: &Amounts) {
    network.follow_money();
    let accounts = network.contract.0.lock().money.accounts.clone();
    for (payer, account) in accounts {
        let settled = i128::from(taken.get(&payer).copied().unwrap_or(0));
        let gone = i128::from(account.pending + account.paid_out) + settled;
        assert_eq!(account.balance, i128::from(account.deposited) - gone, "{payer}");
        for node in network.members() {
            let known = network.worker(node).usage_of(payer).unwrap().balance;
            let expected = PicoDollarBalance(account.balance * 1_000_000);
            assert_eq!(known, expected, "{payer} at node {node}");
        }
    }
}

proptest! {
    // Each case runs three nodes or four.
    #![proptest_config(ProptestConfig { max_shrink_iters: 60, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn every_schedule_ends_with_each_fee_settled_once(
        events in proptest::collection::vec(event(), 1..70),
    ) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(async {
            let mut schedule = Schedule { network: Network::start(), envelopes: 0 };
            for event in events {
                schedule.happen(event).await;
            }
            schedule.calm_down().await;
            let chain = schedule.network.on_chain();
            nothing_is_lost_or_charged_twice(&schedule.network, &chain);
        });
    }
}

/// Publishes in two minutes, and lets everything be known to all nodes.
async fn usage(schedule: &mut Schedule, nodes: &[u32]) {
    for _ in 0..2 {
        for node in nodes {
            schedule.publish(*node, 1, 2).await;
        }
        schedule.network.pass(1);
    }
    schedule.network.replicate();
}

/// A report that every member has signed is not submitted once the network is another one, whether nodes know that or
/// not. The next one, of the new members, takes its place at once: the fees do not wait until the first one is given
/// up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_the_members_of_before_is_given_up_and_its_fees_are_settled_by_the_next() {
    for joins in [true, false] {
        let mut schedule = Schedule { network: Network::start(), envelopes: 0 };
        usage(&mut schedule, &NODES).await;
        schedule.network.write(100, 100).await;
        for node in NODES {
            schedule.network.attest(node, 100).await;
        }
        let network = &mut schedule.network;
        network.set_member(if joins { JOINER } else { 300 }, joins);
        let late = network.worker(100).submit(OriginatorId(100)).await;
        assert!(matches!(late, Err(ReportStepError::Contract(_))), "{late:?}");
        network.follow_chain();
        assert_eq!(network.submit(100, 100).await, [], "it lists other nodes");
        assert_eq!(network.on_chain().all().count(), 0);
        let shown = network.worker(100).reports().unwrap().views;
        assert!(
            matches!(&shown[..], [it] if matches!(it.state, ReportState::Waiting(_))),
            "{shown:?}"
        );
        let written = network.write(100, 100).await;
        assert!(matches!(written, Written::New(_)), "{written:?}");
        assert_eq!(network.write(200, 100).await, Written::UnderWay, "the new one is");
        for node in network.members() {
            let attested = network.attest(node, 100).await;
            assert!(attested.contains(&Attested::Signed), "node {node}: {attested:?}");
        }
        assert_eq!(network.submit(100, 100).await, [Submitted::Now]);

        schedule.calm_down().await;
        let chain = schedule.network.on_chain();
        let first = chain.about(OriginatorId(100)).next().unwrap().report().unwrap();
        assert_eq!(first.nodes().numbers(), schedule.network.members());
        nothing_is_lost_or_charged_twice(&schedule.network, &chain);
    }
}

/// The chain takes a submission and a settlement, and the sender gets no answer in time. Another node tries each again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_chain_took_without_an_answer_is_taken_once() {
    let mut schedule = Schedule { network: Network::start(), envelopes: 0 };
    usage(&mut schedule, &NODES).await;
    let (network, about) = (&schedule.network, OriginatorId(100));
    network.write(100, 100).await;
    for node in NODES {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed], "node {node}");
    }
    let answer_late = |is_late| network.contract.0.lock().loses_answers = is_late;
    answer_late(true);
    let late = network.worker(100).submit(about).await;
    assert!(matches!(late, Err(ReportStepError::Contract(_))), "{late:?}");
    answer_late(false);
    assert_eq!(network.submit(200, 100).await, [Submitted::Before]);
    answer_late(true);
    let late = network.worker(100).settle(about).await;
    assert!(matches!(late, Err(ReportStepError::Contract(_))), "{late:?}");
    answer_late(false);
    assert_eq!(network.worker(200).settle(about).await.unwrap(), 0, "it is settled");
    assert_eq!(network.contract.0.lock().asked_to_settle, 1);
    schedule.calm_down().await;
    let chain = schedule.network.on_chain();
    nothing_is_lost_or_charged_twice(&schedule.network, &chain);
}

/// A payer asks for all its money before its usage is settled: it owes the usage then, and takes nothing out until it
/// has paid. The request that it gives up pays, and it can take out the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_who_asks_for_its_money_before_a_settlement_takes_out_what_is_left() {
    let mut schedule = Schedule { network: Network::start(), envelopes: 0 };
    usage(&mut schedule, &NODES).await;
    let by = 1;
    let network = &schedule.network;
    assert_eq!(move_money(network, by, MoneyStep::Deposit(50)), Ok(()));
    assert_eq!(move_money(network, by, MoneyStep::Request(51)), Err("InsufficientBalance"));
    assert_eq!(move_money(network, by, MoneyStep::Request(50)), Ok(()));
    assert_eq!(move_money(network, by, MoneyStep::Request(1)), Err("PendingWithdrawalExists"));
    assert_eq!(move_money(network, by, MoneyStep::Finalise), Err("WithdrawalNotReady"));
    network.follow_money();
    schedule.calm_down().await;
    let network = &schedule.network;
    let chain = network.on_chain();
    nothing_is_lost_or_charged_twice(network, &chain);
    assert_eq!(move_money(network, by, MoneyStep::Finalise), Err("PayerInDebt"));
    assert_eq!(move_money(network, by, MoneyStep::Cancel), Ok(()));
    assert_eq!(move_money(network, by, MoneyStep::Cancel), Err("NoPendingWithdrawal"));
    assert_eq!(
        move_money(network, by, MoneyStep::Request(1)),
        Ok(()),
        "it has paid, and has money left"
    );
    network.pass(i64::from(LOCK_MINUTES));
    assert_eq!(move_money(network, by, MoneyStep::Finalise), Ok(()));
    nothing_is_lost_or_charged_twice(network, &chain);
}

/// Usage of a node that has left is reported and settled by those that stay, and the node takes no part in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_usage_of_a_node_that_has_left_is_settled_by_the_others() {
    let mut schedule = Schedule { network: Network::start(), envelopes: 0 };
    usage(&mut schedule, &NODES).await;
    schedule.network.set_member(300, false);
    schedule.network.follow_chain();
    let own = schedule.network.worker(300).write(OriginatorId(300)).await;
    assert!(matches!(own, Err(ReportStepError::Publish(_))), "{own:?}");
    let left = schedule.to_settle(300);
    assert_ne!(left, SequenceId::NONE);
    schedule.calm_down().await;
    let chain = schedule.network.on_chain();
    assert_eq!(chain.last_end(OriginatorId(300)).unwrap().sequence, left);
    let report = chain.about(OriginatorId(300)).next().unwrap().report().unwrap();
    assert_eq!(report.nodes().numbers(), [100, 200]);
    nothing_is_lost_or_charged_twice(&schedule.network, &chain);
}

/// Every member has signed a report that no node submits in time. The next one begins at the same place and has more
/// usage; the contract takes one of the two, and each fee is settled once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fees_of_a_report_that_has_expired_are_settled_once() {
    let mut schedule = Schedule { network: Network::start(), envelopes: 0 };
    usage(&mut schedule, &NODES).await;
    let Written::New(first) = schedule.network.write(100, 100).await else {
        panic!("a report is due")
    };
    for node in NODES {
        assert_eq!(schedule.network.attest(node, 100).await, [Attested::Signed], "node {node}");
    }
    assert_eq!(schedule.network.write(100, 100).await, Written::UnderWay);
    // A node gives its report about itself up after nine hours.
    schedule.network.pass(10 * 60);
    usage(&mut schedule, &NODES).await;
    let written = schedule.network.write(100, 100).await;
    assert!(matches!(written, Written::New(next) if next != first), "{written:?}");
    for node in NODES {
        let attested = schedule.network.attest(node, 100).await;
        assert!(attested.contains(&Attested::Signed), "node {node}: {attested:?}");
    }
    let submitted = schedule.network.submit(200, 100).await;
    let taken = submitted.iter().filter(|it| **it == Submitted::Now).count();
    assert_eq!((submitted.len(), taken), (2, 1), "{submitted:?}");
    schedule.calm_down().await;
    let chain = schedule.network.on_chain();
    nothing_is_lost_or_charged_twice(&schedule.network, &chain);
}
