//! Payer reports over several engines: written, attested, submitted and settled, while nodes lie, and stop between
//! two steps.

use std::time::Duration;

use hawser_engine::payer_reports::{ChainReports, Recomputed, recompute, recompute_explained};
use hawser_engine::price;
use hawser_engine::runtime::{
    Attested, PayerReportSettings, PayerReporter, PublishError, ReportStage, ReportState,
    ReportStepError, StoppableTask, Submitted, Turns, Written, start_payer_report_task,
};
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::PicoDollarPrice;
use hawser_rules::payer_report::tree::{EMPTY_ROOT, Hash};
use hawser_rules::payer_report::{
    AmountCause, Attestation, Leaves, NodeIds, PayerReport, RangeEnd, ReportDifference, ReportId,
};
use hawser_storage::{Family, PayerReportChange, Store};

use crate::common::rate;
use crate::common::record_rates;
use crate::report_contract::{JOINER, NODES, domain, key};
use crate::report_network::{Network, smuggle};

/// Each fee of the log is in a leaf once, and is taken from its payer once, rounded up; the worker of a node is made
/// anew for each step, and a node is started anew between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fees_in_the_log_are_what_is_settled_while_nodes_stop_between_steps() {
    let mut network = Network::start();
    network.traffic("first").await;
    network.replicate();
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    network.restart(100);
    assert!(matches!(network.write(100, 100).await, Written::UnderWay), "not twice");
    assert!(matches!(network.write(200, 100).await, Written::UnderWay), "nor by another node");
    assert_eq!(network.submit(100, 100).await, [], "the writer has to attest it, too");
    assert_eq!(network.attest(100, 100).await, [Attested::Signed]);
    assert_eq!(network.submit(100, 100).await, [], "one of three is no majority");
    network.restart(200);
    assert_eq!(network.attest(200, 100).await, [Attested::Signed]);
    assert_eq!(network.attest(200, 100).await, [Attested::Before]);
    assert_eq!(network.submit(100, 100).await, [Submitted::Now]);
    assert_eq!(network.submit(200, 100).await, [], "it is on the chain");
    assert_eq!(network.attest(300, 100).await, [], "nothing to attest any more");

    let report = network.on_chain().about(OriginatorId(100)).next().unwrap().clone();
    let stated = network.stated(report.end.sequence);
    assert_eq!(report.root, stated.root(), "the leaves are the fees of the log");
    assert_eq!(stated.payers().len(), 3);
    assert!(!network.on_chain().is_settled(OriginatorId(100), report.end.minute));

    network.contract.0.lock().settles = Some(0);
    assert!(matches!(network.settle(300, 100).await, Err(ReportStepError::Contract(_))));
    assert_eq!(network.contract.0.lock().asked_to_settle, 1, "no part of what may still be mined");
    network.contract.0.lock().settles = None;
    network.restart(300);
    network.contract.0.lock().leaves_max = Some(1);
    let settler = network.worker(300);
    assert_eq!(settler.settle(OriginatorId(100)).await.unwrap(), 3, "in parts that have room");
    network.follow_chain();
    let sum: u64 = stated.payers().iter().map(|leaf| leaf.fee.get()).sum();
    assert_eq!(settler.totals().settled_picodollars.0, sum);
    network.contract.0.lock().leaves_max = None;
    assert_eq!(network.settle(100, 100).await.unwrap(), 0, "nothing is left");
    assert!(network.on_chain().is_settled(OriginatorId(100), report.end.minute));
    assert!(!network.on_chain().is_settled(OriginatorId(100), report.end.minute + 1));
    for leaf in stated.payers() {
        let taken = network.contract.0.lock().taken_from[&leaf.payer];
        assert_eq!(taken, leaf.fee.settled(), "{}", leaf.payer);
        let usage = network.worker(200).usage_of(leaf.payer).unwrap();
        assert_eq!(usage.settled.0, leaf.fee.get());
        assert!(usage.unsettled.0 > 0, "the last minute is in no report");
        assert_eq!(usage.available.0, -i128::from(usage.unsettled.0));
    }
    let shown = network.worker(200).reports().unwrap().views;
    let [shown] = &shown[..] else { panic!("{shown:?}") };
    assert!(matches!(shown.state, ReportState::OnChain { index: 0, is_settled: true, .. }));
    assert_eq!(shown.attested_by, [OriginatorId(100), OriginatorId(200)]);
    let explained = network.worker(200).explain(&shown.id.to_string()).unwrap().unwrap();
    assert_eq!(explained.compared.leaves, Some(stated.clone()));
    assert!(explained.is_equal());

    the_next_report_begins_there(&network, report.end.sequence).await;
}

/// Has some reports about node 100 written, attested by all nodes, and submitted.
async fn submit_reports(network: &Network, name: &str, count: u64) {
    for index in 0..count {
        network.traffic(&format!("{name} {index}")).await;
        network.replicate();
        let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
        for node in NODES {
            assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
        }
        assert_eq!(network.submit(100, 100).await, [Submitted::Now]);
        network.pass(6 * 60);
    }
}

/// A report that this node cannot settle, whatever the reason, holds up no later one: the contract takes them in any
/// order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_cannot_be_settled_holds_up_no_other() {
    let network = Network::start();
    submit_reports(&network, "first", 3).await;
    network.contract.0.lock().spoilt = Some(0);
    let failed = network.settle(300, 100).await;
    assert!(matches!(failed, Err(ReportStepError::OtherReport { index: 0, .. })), "{failed:?}");
    let settled: Vec<bool> =
        network.on_chain().about(OriginatorId(100)).map(|report| report.is_settled).collect();
    assert_eq!(settled, [false, true, true]);
    network.contract.0.lock().spoilt = None;
    assert_eq!(network.settle(200, 100).await.unwrap(), 3, "the others are settled");

    // An endpoint that is away is not waited for with each report.
    network.contract.0.lock().settles = Some(0);
    submit_reports(&network, "later", 6).await;
    let before = network.contract.0.lock().asked_to_settle;
    assert!(matches!(network.settle(300, 100).await, Err(ReportStepError::Contract(_))));
    assert_eq!(network.contract.0.lock().asked_to_settle - before, 3);
}

/// A data folder may be damaged or changed: the contract would refuse the amounts at each step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_amounts_that_are_not_those_of_the_report_are_computed_again() {
    let network = Network::start();
    submit_reports(&network, "some", 1).await;
    let store = &network.stores[&300];
    let stored = || {
        let mut stored = Vec::new();
        assert!(store.each_report_amounts(|report| stored.push(report)).unwrap());
        assert_eq!(stored.len(), 1);
        stored.remove(0)
    };
    let (true_ones, mut changed) = (stored().amounts, stored());
    let amount = &mut changed.amounts[0].1;
    *amount = amount.plus(PicoDollarPrice(1));
    store.record_report_amounts(&changed).unwrap();
    assert_eq!(network.settle(300, 100).await.unwrap(), 3, "by the log");
    assert_eq!(network.contract.0.lock().asked_to_settle, 1, "never by the others");
    assert_eq!(stored().amounts, true_ones, "for the time after a restart");
}

/// The disk has damaged a row of the minutes in which late envelopes are looked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_for_late_releases_that_fails_keeps_no_report_from_being_settled() {
    let network = Network::start();
    submit_reports(&network, "some", 1).await;
    let minute = network.on_chain().about(OriginatorId(100)).next().unwrap().end.minute;
    let row = [&100_u32.to_be_bytes()[..], &minute.to_be_bytes(), &[1; 20]].concat();
    network.stores[&300].put_raw_row(Family::Usage, &row, b"damaged");
    assert_eq!(network.settle(300, 100).await.unwrap(), 3, "by the amounts that it attested");
}

/// Payers need no deposit, so a report may have any number of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_has_a_bounded_number_of_transactions_and_the_next_one_goes_on() {
    let network = Network::start();
    submit_reports(&network, "some", 2).await;
    network.contract.0.lock().leaves_max = Some(1);
    let (worker, about) = (network.worker(300), OriginatorId(100));
    // Both reports have three leaves.
    for (transactions_max, leaves, is_left) in [(2, 2, true), (2, 2, true), (9, 2, false)] {
        let part = worker.settle_part(about, transactions_max).await.unwrap();
        assert_eq!((part.leaves, part.transactions, part.is_left), (leaves, leaves, is_left));
        network.follow_chain();
    }
    assert!(network.on_chain().about(about).all(|report| report.is_settled));
}

/// A report that cannot be settled takes no round of a turn from the others about its originator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_cannot_be_settled_leaves_all_rounds_to_the_others() {
    let network = Network::start();
    submit_reports(&network, "some", 12).await;
    {
        let mut chain = network.contract.0.lock();
        chain.spoilt = Some(0);
        chain.leaves_max = Some(1);
    }
    // It looks at once, and not again for a minute.
    let look_every = Duration::from_secs(60);
    let settings =
        PayerReportSettings { look_every, turns: Turns::EveryLook, ..Default::default() };
    let task = start_payer_report_task(&network.engines[&300], network.worker(300), settings);
    let settled = || {
        let chain = network.contract.0.lock();
        let is_settled =
            |change: &PayerReportChange| matches!(change, PayerReportChange::Settled { .. });
        chain.events.iter().filter(|event| is_settled(&event.change)).count()
    };
    // Three leaves of each other one: more transactions than a round has.
    let all = async {
        while settled() < 11 * 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(50), all).await.expect("all are of one turn");
    task.stop().await;
}

/// The contract takes only the list of all canonical nodes. It takes keys that are no points, so a list without such a
/// node would end all reports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_record_cannot_be_used_is_listed_and_stops_no_report() {
    let network = Network::start();
    network.contract.0.lock().membership.set_unusable(JOINER);
    network.follow_chain();
    submit_reports(&network, "first", 1).await;
    let chain = network.on_chain();
    let report = chain.about(OriginatorId(100)).next().expect("the contract has taken it");
    assert_eq!(report.nodes, [100, 200, 300, JOINER].map(OriginatorId));
}

/// The next report begins where the last one ends, and only after the period.
async fn the_next_report_begins_there(network: &Network, last_end: SequenceId) {
    network.traffic("second").await;
    network.replicate();
    assert_eq!(network.write(100, 100).await, Written::NotDue);
    network.pass(6 * 60);
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    for node in NODES {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
    }
    assert_eq!(network.submit(300, 100).await, [Submitted::Now]);
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
    let last = network.on_chain().about(OriginatorId(100)).next_back().unwrap().clone();
    assert_eq!((last.index, last.start), (1, last_end));
    let all: u64 = network.stated(last.end.sequence).payers().iter().map(|it| it.fee.get()).sum();
    let taken: u64 = network.contract.0.lock().taken_from.values().map(|it| it.0).sum();
    let most = all.div_ceil(1_000_000) + 6;
    assert!(taken * 1_000_000 >= all && taken <= most, "{taken} of {all}: rounded up by leaf");
}

/// Lets node 300 write reports that are not true, with attestations in its own name and in that of another node, and
/// one about nothing. Returns the ids of the lies.
async fn lie(network: &Network, lies: [(RangeEnd, Hash); 4]) -> Vec<ReportId> {
    let (about, nodes) = (OriginatorId(100), NodeIds::new(NODES.map(OriginatorId)).unwrap());
    let minute = lies[0].0.minute;
    let mut ids = Vec::new();
    for (end, root) in lies {
        let lie = PayerReport::new(about, SequenceId::NONE, end, root, nodes.clone()).unwrap();
        smuggle(network, 300, lie.client_envelope()).await;
        let id = lie.id(domain());
        smuggle(
            network,
            300,
            Attestation::sign(id, OriginatorId(300), &key(300)).client_envelope(about),
        )
        .await;
        // In the name of another node.
        smuggle(
            network,
            300,
            Attestation::sign(id, OriginatorId(200), &key(300)).client_envelope(about),
        )
        .await;
        ids.push(id);
    }
    let empty = RangeEnd { minute, sequence: SequenceId::NONE };
    let empty =
        PayerReport::new(about, SequenceId::NONE, empty, EMPTY_ROOT, nodes.clone()).unwrap();
    smuggle(network, 300, empty.client_envelope()).await;
    ids
}

/// A lying report is attested by no honest node, and the difference is named; neither it nor attestations of strangers
/// stand in the way of the true one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_report_gets_no_attestation_and_is_no_hindrance() {
    let network = Network::start();
    network.traffic("true").await;
    network.replicate();
    let about = OriginatorId(100);
    let end = network.stores[&100].snapshot().last_used_minute(about, network.now_minute() - 2);
    let (minute, sequence) = end.unwrap().unwrap();
    let true_leaves = network.stated(sequence);
    let without = true_leaves.payers()[0].payer;
    let fewer = true_leaves.payers()[1..].iter();
    let fewer = fewer.map(|leaf| (leaf.payer, PicoDollarPrice::from(leaf.fee)));
    let lies = [
        (RangeEnd { minute, sequence }, Leaves::sum(fewer).root()),
        (RangeEnd { minute: minute + 1, sequence }, true_leaves.root()),
        (RangeEnd { minute, sequence: sequence.previous() }, true_leaves.root()),
        (RangeEnd { minute, sequence }, [7; 32]),
    ];
    let ids = lie(&network, lies).await;
    let looked = network.worker(200).attest(about).await.unwrap();
    assert_eq!(looked.len(), 4, "a report about nothing is passed over");
    let is_refused = |(_, it): &(ReportId, Attested)| matches!(it, Attested::Refused(_));
    assert!(looked.iter().all(is_refused), "{looked:?}");
    let explained = |id: ReportId| network.worker(200).explain(&id.to_string()).unwrap().unwrap();
    let difference = |id| explained(id).compared.differences;
    let cause = |id| match &difference(id)[..] {
        [ReportDifference::Amounts { cause, .. }] => cause.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(cause(ids[0]), AmountCause::WithoutPayer(without));
    assert_eq!(
        difference(ids[1]),
        [ReportDifference::EndMinute { reported: minute + 1, held: minute }]
    );
    let reported = sequence.previous();
    assert_eq!(difference(ids[2]), [ReportDifference::EndSequence { reported, held: sequence }]);
    assert_eq!(cause(ids[3]), AmountCause::Unknown);
    assert_eq!(network.submit(200, 100).await, [], "a forged majority is none");
    let shown = network.worker(200).reports().unwrap().views;
    assert!(shown.len() >= ids.len(), "{shown:?}");
    assert!(shown.iter().all(|it| matches!(it.state, ReportState::Refused(_))), "{shown:?}");
    assert!(shown.iter().all(|it| it.writers == [OriginatorId(300)]), "the writer is named");
    let of_payer = explained(ids[0]);
    assert_eq!(of_payer.compared.leaves, Some(true_leaves.clone()), "own amounts are shown");
    assert!(!of_payer.is_equal() && of_payer.waits_for.is_none());
    assert!(of_payer.compared.minutes.iter().all(|row| row.payer == without));
    assert!(!of_payer.compared.envelopes.is_empty(), "{of_payer:?}");
    let of_minute = explained(ids[1]);
    assert_eq!(of_minute.compared.leaves, Some(true_leaves.clone()), "only the minute differs");
    assert!(!of_minute.is_equal());
    assert_eq!(network.worker(200).explain("0x12").unwrap(), None);

    let Written::New(id) = network.write(100, 100).await else { panic!("the lies do not count") };
    // Of a stranger, and over another digest.
    smuggle(
        &network,
        300,
        Attestation::sign(id, OriginatorId(300), &key(200)).client_envelope(about),
    )
    .await;
    assert!(network.attest(100, 100).await.contains(&Attested::Signed));
    assert_eq!(network.submit(100, 100).await, [], "a forged attestation does not count");
    let shown = network.worker(100).reports().unwrap().views;
    let shown = shown.iter().find(|it| it.id == id).unwrap();
    assert_eq!(shown.attested_by, [OriginatorId(100)], "and is not shown as one that does");
    assert!(network.attest(200, 100).await.contains(&Attested::Signed));
    assert_eq!(network.submit(100, 100).await, [Submitted::Now]);
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
}

/// A report over places that have not come is shown as its writer states it, with the reason why it is not compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_cannot_be_compared_yet_is_shown_with_the_reason() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let about = OriginatorId(100);
    let of_minute = |minute| {
        let end = RangeEnd { minute, sequence: SequenceId(1_000) };
        let nodes = NodeIds::new([100, 200].map(OriginatorId)).unwrap();
        PayerReport::new(about, SequenceId::NONE, end, [7; 32], nodes).unwrap()
    };
    let now = network.now_minute();
    for report in [of_minute(now - 2), of_minute(now + 60)] {
        smuggle(&network, 300, report.client_envelope()).await;
        let id = report.id(domain()).to_string();
        let explained = network.worker(200).explain(&id).unwrap().unwrap();
        assert_eq!(explained.view.report, report);
        assert!(matches!(explained.view.state, ReportState::Waiting(_)), "{explained:?}");
        assert_eq!(explained.compared.leaves, None, "nothing was computed");
        assert!(!explained.is_equal() && explained.waits_for.is_some(), "{explained:?}");
        let nodes =
            ReportDifference::Nodes { added: Vec::new(), left_out: vec![OriginatorId(300)] };
        assert_eq!(
            explained.compared.differences,
            std::slice::from_ref(&nodes),
            "that is known already"
        );
        assert!(explained.reasons().contains(&nodes.to_string()));
    }
}

/// A node signs a report once, however many attestations of others it has signed since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_attestation_is_not_forgotten() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    assert_eq!(network.attest(200, 100).await, [Attested::Signed]);
    for id in 0..33 {
        let other = Attestation::sign(ReportId([id; 32]), OriginatorId(200), &key(200));
        smuggle(&network, 200, other.client_envelope(OriginatorId(100))).await;
    }
    assert_eq!(network.attest(200, 100).await, [Attested::Before]);
}

/// One look judges a few reports of a writer that floods the topic, and no other writer waits for the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_reports_is_judged_a_few_at_a_time() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let about = OriginatorId(100);
    let end = network.stores[&100].snapshot().last_used_minute(about, network.now_minute() - 2);
    let (minute, sequence) = end.unwrap().unwrap();
    let nodes = NodeIds::new(NODES.map(OriginatorId)).unwrap();
    for root in 1..=6 {
        let end = RangeEnd { minute, sequence };
        let lie = PayerReport::new(about, SequenceId::NONE, end, [root; 32], nodes.clone());
        smuggle(&network, 300, lie.unwrap().client_envelope()).await;
    }
    let worker = network.worker(200);
    assert_eq!(counted(&worker), [(ReportStage::Waiting, 6)], "counting judges none");
    for refused in [4, 6, 6] {
        let looked = worker.attest(about).await.unwrap();
        let is_refused = |it: &&(ReportId, Attested)| matches!(it.1, Attested::Refused(_));
        assert_eq!(looked.iter().filter(is_refused).count(), refused, "{looked:?}");
        assert_eq!(looked.len(), 6);
        if refused == 4 {
            let both = [(ReportStage::Waiting, 2), (ReportStage::Refused, 4)];
            assert_eq!(counted(&worker), both);
        }
    }
    assert_eq!(counted(&worker), [(ReportStage::Refused, 6)]);
    assert!(matches!(network.write(100, 100).await, Written::New(_)));
}

/// The stages with reports, as a worker counts them.
fn counted(worker: &PayerReporter) -> Vec<(ReportStage, u64)> {
    let counts = worker.stage_counts().unwrap();
    let stages = ReportStage::ALL.map(|stage| (stage, counts.at(stage).reports));
    stages.into_iter().filter(|(_, reports)| *reports > 0).collect()
}

/// A report is counted where it is on its way, at each node as that node sees it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_is_counted_at_each_stage_of_its_way() {
    let network = Network::start();
    let at = |node| counted(&network.worker(node));
    assert_eq!(at(200), []);
    network.traffic("some").await;
    network.replicate();
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    assert_eq!(at(200), [(ReportStage::Waiting, 1)]);
    for node in [100, 200] {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
        assert_eq!(at(node), [(ReportStage::Attested, 1)]);
    }
    assert_eq!(at(300), [(ReportStage::Waiting, 1)], "it has not attested it itself");
    assert_eq!(network.submit(100, 100).await, [Submitted::Now]);
    assert_eq!(at(300), [(ReportStage::Submitted, 1)]);
    network.settle(300, 100).await.unwrap();
    assert_eq!(at(200), [(ReportStage::Settled, 1)]);
    let end = network.on_chain().last_end(OriginatorId(100)).unwrap().minute;
    let counts = network.worker(200).stage_counts().unwrap();
    assert_eq!(counts.at(ReportStage::Settled).oldest_end_minute, Some(end));
    assert_eq!(counts.at(ReportStage::Waiting).oldest_end_minute, None);
}

/// A report of the part of the usage that is held at once to explain it is not equal, and has no cause that is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_the_first_rows_is_not_equal() {
    let network = Network::start();
    network.traffic("some").await;
    let about = OriginatorId(100);
    let snapshot = network.stores[&100].snapshot();
    let end = snapshot.last_used_minute(about, network.now_minute() - 2).unwrap().unwrap();
    let end = RangeEnd { minute: end.0, sequence: end.1 };
    let mut rows = Vec::new();
    snapshot
        .usage_of_minutes(about, None, end.minute, |_, payer, row| {
            rows.push((payer, row.picodollars));
            true
        })
        .unwrap();
    assert!(rows.len() > 2, "{rows:?}");
    let nodes = NodeIds::new(NODES.map(OriginatorId)).unwrap();
    let root = Leaves::sum(rows[..2].iter().copied()).root();
    let lie = PayerReport::new(about, SequenceId::NONE, end, root, nodes.clone()).unwrap();
    let judged = recompute(&snapshot, &lie).unwrap();
    assert!(matches!(judged, Recomputed::Different(_)), "{judged:?}");
    for cap in [0, 1, 2, rows.len() - 1] {
        let explained = recompute_explained(&snapshot, &lie, cap).unwrap();
        let [ReportDifference::Amounts { cause, .. }] = &explained.differences[..] else {
            panic!("{explained:?}")
        };
        assert_eq!(*cause, AmountCause::Unknown, "with {cap} rows");
    }
    let root = Leaves::sum(rows.iter().copied()).root();
    let truth = PayerReport::new(about, SequenceId::NONE, end, root, nodes).unwrap();
    let equal = recompute_explained(&snapshot, &truth, 2).unwrap();
    assert!(equal.differences.is_empty() && equal.leaves.is_some(), "{equal:?}");
}

/// A payer's own client cannot write to the reserved topics, not even by repeating what a node has signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_cannot_be_published_by_callers() {
    let network = Network::start();
    network.traffic("some").await;
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    let head = network.stores[&100].snapshot().head(OriginatorId(100)).unwrap();
    let written = network.stores[&100].snapshot().get(EnvelopeId::new(OriginatorId(100), head));
    let written = OriginatorEnvelope::parse(written.unwrap().unwrap()).unwrap();
    let payer = written.unsigned().payer();
    assert_eq!(payer.retention_days(), 60);
    assert_eq!(written.unsigned().base_fee(), PicoDollarPrice(0));
    let again: pb::PayerEnvelope = prost::Message::decode(payer.as_bytes().clone()).unwrap();
    let refused = network.engines[&100].publish(vec![again]).await;
    assert!(matches!(refused, Err(PublishError::Refused(_))), "{refused:?}");
    let usage = network.stores[&100].snapshot();
    let node = key(100).public_key().address();
    let mut rows = 0;
    usage.usage_of_payer(node, |_, _, _| rows += 1).unwrap();
    assert_eq!(rows, 0, "a node pays nothing for it");
}

/// Reports wait while nothing is known of the chain, and while this node is behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_does_not_know_enough_waits() {
    let network = Network::start();
    network.traffic("some").await;
    let about = OriginatorId(100);
    let report = network.worker(100).write(about).await.unwrap();
    assert!(matches!(report, Written::New(_)));
    assert_eq!(network.worker(200).attest(about).await.unwrap(), [], "it has not come yet");
    assert_eq!(network.worker(200).write(about).await.unwrap(), Written::TooLittle);
    let identity = network.stores[&200].identity().clone();
    let fresh = Store::in_memory(identity, price::price).unwrap();
    record_rates(&fresh, &[rate()]);
    let mut network = network;
    network.stores.insert(200, fresh);
    network.restart(200);
    let unknown = network.worker(200).attest(about).await;
    assert!(matches!(unknown, Err(ReportStepError::NoChain)), "{unknown:?}");
}

/// Waits until a report about node 100 is settled, and shows each node what others write meanwhile.
async fn until_settled(network: &Network) -> ChainReports {
    let settled = async {
        loop {
            network.replicate();
            network.follow_chain();
            let chain = network.on_chain();
            if chain.about(OriginatorId(100)).next().is_some_and(|report| report.is_settled) {
                return chain;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settled).await.expect("it is settled")
}

/// Starts the task of a node that looks all the time.
fn start_task(network: &Network, node: u32, turns: Turns) -> StoppableTask {
    let settings = PayerReportSettings {
        look_every: Duration::from_millis(20),
        turns,
        ..PayerReportSettings::default()
    };
    start_payer_report_task(&network.engines[&node], network.worker(node), settings)
}

/// The tasks of three nodes bring reports about all of them to their end, without any other hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_take_all_steps_by_themselves() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let tasks = NODES.map(|node| start_task(&network, node, Turns::EveryLook));
    let chain = until_settled(&network).await;
    for task in tasks {
        task.stop().await;
    }
    assert_eq!(chain.all().count(), 1, "each range is reported once");
    let report = chain.about(OriginatorId(100)).next().unwrap();
    assert_eq!(report.root, network.stated(report.end.sequence).root());
}

/// A task by hand writes and attests nothing while those of two other nodes bring a report to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_by_hand_takes_no_step_by_itself() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let head = || network.stores[&100].snapshot().head(OriginatorId(100)).unwrap();
    let before = head();
    let by_hand = start_task(&network, 100, Turns::ByHand);
    let tasks = [200, 300].map(|node| start_task(&network, node, Turns::EveryLook));
    until_settled(&network).await;
    for task in tasks {
        task.stop().await;
    }
    by_hand.stop().await;
    assert_eq!(head(), before, "it has signed nothing");
}
