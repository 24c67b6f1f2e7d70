//! Payer reports under random schedules: nodes that publish, are silent, stop between any two steps, hold an old copy, lie,
//! or lose the connection to the contract, and prices that change within a range. In the end each fee of the log is in
//! one leaf, and each leaf is taken from its payer once, rounded up.

use std::collections::BTreeMap;

use hawser_engine::payer_reports::ChainReports;
use hawser_proto::{OriginatorId, PayerAddress, SequenceId};
use hawser_rules::Rate;
use hawser_rules::payer_report::{NodeIds, PayerReport, RangeEnd};
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::rate;
use crate::report_contract::NODES;
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
    /// Prices from the next minute on.
    Price {
        message_fee: u64,
    },
    /// A node writes a report that is not true.
    Lie {
        about: u32,
        by: u32,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let node = || select(NODES.to_vec());
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
        1 => (1..5_000_u64).prop_map(|message_fee| Event::Price { message_fee }),
        1 => two().prop_map(|(about, by)| Event::Lie { about, by }),
    ]
}

/// A network with a number for each envelope, so that no two are the same.
struct Schedule {
    network: Network,
    envelopes: u64,
}

impl Schedule {
    async fn publish(&mut self, node: u32, by: u8, count: u8) {
        for _ in 0..count {
            self.envelopes += 1;
            let text = format!("envelope {}", self.envelopes);
            self.network.publish(node, by, &[&text]).await;
        }
    }

    /// Lets one thing happen. A step that cannot be taken yet is taken again later, by this node or another one.
    async fn happen(&mut self, event: Event) {
        let network = &mut self.network;
        let now = network.now_minute();
        match event {
            Event::Publish { node, by, count } => self.publish(node, by, count).await,
            Event::Pass { minutes } => network.pass(minutes),
            Event::Copy { from, to } => network.copy(from, to),
            Event::Follow => network.follow_chain(),
            Event::Write { node, about } => {
                _ = network.worker(node).write(OriginatorId(about), now).await;
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
            Event::Price { message_fee } => {
                let start_unix_s = u64::from(now + 1) * 60;
                network.add_rate(Rate { start_unix_s, message_fee, ..rate() });
            }
            Event::Lie { about, by } => lie(network, about, by).await,
        }
    }

    /// Nothing fails any more: what was published until now is settled after some rounds of the worker.
    async fn calm_down(&mut self) {
        self.network.contract.0.lock().settles = None;
        let last = |network: &Network, node: u32| {
            let snapshot = network.stores[&node].snapshot();
            let last = snapshot.last_used_minute(OriginatorId(node), u32::MAX).unwrap();
            last.map_or(SequenceId::NONE, |(_, sequence)| sequence)
        };
        let wanted = NODES.map(|node| (node, last(&self.network, node)));
        for _ in 0..4 {
            for _ in 0..3 {
                self.network.pass(1);
                for node in NODES {
                    self.publish(node, 0, 1).await;
                }
            }
            // Whatever waits is given up by then.
            self.network.pass(19 * 60);
            self.network.replicate();
            self.network.follow_chain();
            for about in NODES {
                self.network.write(about, about).await;
                for node in NODES {
                    self.network.attest(node, about).await;
                }
                self.network.submit(NODES[0], about).await;
                self.network.settle(NODES[1], about).await.unwrap();
            }
            let chain = self.network.on_chain();
            let is_done = |(node, last): (u32, SequenceId)| {
                let end = chain.last_end(OriginatorId(node)).map(|end| end.sequence);
                end.is_some_and(|end| end >= last)
            };
            if wanted.into_iter().all(is_done) && chain.all().all(|report| report.is_settled) {
                return;
            }
        }
        panic!("not settled: {:?} of {wanted:?}", self.network.on_chain());
    }
}

/// Lets a node write a report with a root of its own over the whole strand.
async fn lie(network: &Network, about: u32, by: u32) {
    let about = OriginatorId(about);
    let start = network.on_chain().last_end(about).map_or(SequenceId::NONE, |end| end.sequence);
    let sequence = network.stores[&about.0].snapshot().head(about).unwrap();
    let end = RangeEnd { minute: network.now_minute(), sequence };
    let nodes = NodeIds::new(NODES.to_vec()).unwrap();
    if let Ok(lie) = PayerReport::new(about, start, end, [9; 32], nodes) {
        smuggle_unseen(network, by, lie.client_envelope()).await;
    }
}

/// Amounts by payer.
type Amounts = BTreeMap<PayerAddress, u64>;

/// Sum of fees in the log = sum of usage = sum of leaves = taken by the contract, to its rounding.
fn nothing_is_lost_or_charged_twice(network: &Network, chain: &ChainReports) {
    let (mut of_log, mut of_leaves, mut rounded) = (Amounts::new(), Amounts::new(), Amounts::new());
    for about in NODES {
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
            assert_eq!(report.microdollars, sum, "each leaf was settled once");
        }
        for leaf in network.stated_between(about, SequenceId::NONE, end).payers() {
            *of_log.entry(leaf.payer).or_default() += leaf.fee.get();
        }
    }
    assert_eq!(of_leaves, of_log);
    let taken = network.contract.0.lock().taken_from.clone();
    let taken: Amounts = taken.into_iter().map(|(payer, amount)| (payer, amount.0)).collect();
    assert_eq!(taken, rounded);
    for node in NODES {
        for (payer, amount) in &of_log {
            let usage = network.worker(node).usage_of(*payer).unwrap();
            assert_eq!(usage.settled, *amount, "node {node} tells {payer} what the log says");
        }
    }
}

proptest! {
    // Each case runs three nodes.
    #![proptest_config(ProptestConfig { max_shrink_iters: 60, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn every_schedule_ends_with_each_fee_settled_once(
        events in proptest::collection::vec(event(), 1..60),
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
