//! Payer reports while a node knows too little, or the wrong things: rates that come late, places that are missing,
//! and reports of what does not exist.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hawser_engine::chain_strand::ChainPosition;
use hawser_engine::facts;
use hawser_engine::ledger::{LedgerAction, LedgerEvent, LedgerMicroDollars};
use hawser_engine::payer_reports::{FiguresError, UndecidedError};
use hawser_engine::runtime::{
    Attested, PayerReportTotals, PublishError, ReportState, ReportStep, ReportStepError, StepState,
    Submitted, Written,
};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::payer_report::tree::EMPTY_ROOT;
use hawser_rules::payer_report::{NodeIds, PayerReport, RangeEnd, ReportId};
use hawser_rules::{PicoDollarPrice, Rate};
use hawser_storage::{Change, LedgerEventId, LogEntry, LogItem, SkipReason, Store, Validity};

use crate::common::{START_NS, payer, rate, record_rates};
use crate::report_contract::{NODES, domain};
use crate::report_network::{Network, smuggle};

const ABOUT: OriginatorId = OriginatorId(100);

/// An operator who asks for a report that no node judges gets the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_another_period_or_of_none_is_not_attested_and_its_reason_is_told() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let (nodes, minute) =
        (NodeIds::new(NODES.map(OriginatorId)).unwrap(), network.now_minute() - 2);
    let report = |start, sequence, root| {
        let end = RangeEnd { minute, sequence: SequenceId(sequence) };
        PayerReport::new(ABOUT, SequenceId(start), end, root, nodes.clone()).unwrap()
    };
    let of_other_period = "it starts at 1, and the next report on the chain starts at 0";
    let reports = [
        (report(1, 6, [7; 32]), of_other_period),
        (report(0, 0, EMPTY_ROOT), "it covers no envelope"),
    ];
    for (report, why) in reports {
        smuggle(&network, 300, report.client_envelope()).await;
        let id = report.id(domain()).to_string();
        let explained = network.worker(200).explain(&id).unwrap().unwrap();
        assert_eq!(explained.view.state, ReportState::Waiting(why.to_owned()));
        assert_eq!(explained.view.writers, [OriginatorId(300)]);
        assert_eq!(network.attest(200, 100).await, []);
    }
    let unknown = ReportId([1; 32]).to_string();
    assert_eq!(network.worker(200).explain(&unknown).unwrap(), None);
    assert!(matches!(network.write(100, 100).await, Written::New(_)), "they hold up no other");
}

/// A report whose end is not there yet, or never will be, is no report under way: it could be renewed for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_of_what_does_not_exist_holds_up_no_node() {
    let network = Network::start();
    network.traffic("true").await;
    network.replicate();
    let nodes = NodeIds::new(NODES.map(OriginatorId)).unwrap();
    let now = network.now_minute();
    let ends = [(now, 1000), (now + 1_000_000, 1000), (now + 1_000_000, 3), (now, u64::MAX >> 1)];
    for (minute, sequence) in ends {
        let end = RangeEnd { minute, sequence: SequenceId(sequence) };
        let ahead = PayerReport::new(ABOUT, SequenceId::NONE, end, [7; 32], nodes.clone());
        smuggle(&network, 300, ahead.unwrap().client_envelope()).await;
    }
    let others = NODES.into_iter().filter(|node| *node != 100).map(OriginatorId);
    let other = PayerReport::new(
        ABOUT,
        SequenceId::NONE,
        RangeEnd { minute: now, sequence: SequenceId(1) },
        [7; 32],
        NodeIds::new(others).unwrap(),
    );
    smuggle(&network, 300, other.unwrap().client_envelope()).await;
    for node in [100, 200] {
        let written = network.worker(node).write(ABOUT).await.unwrap();
        assert!(matches!(written, Written::New(_)), "node {node}: {written:?}");
    }
    network.replicate();
    for node in [100, 200] {
        let attested = network.attest(node, 100).await;
        assert!(attested.contains(&Attested::Signed), "{attested:?}");
    }
    assert!(network.submit(100, 100).await.contains(&Submitted::Now));
}

fn reprice(store: &Store) {
    let own = store.identity().node;
    store
        .reprice(&|_, bytes, validity| facts::of_stored(bytes, validity, own), usize::MAX)
        .unwrap();
    assert!(!store.has_unpriced());
}

/// Returns a network with a report of node 100, a rate that node 200 does not know, and the report's id.
async fn with_a_rate_that_one_node_lacks() -> (Network, Rate, ReportId) {
    let network = Network::start();
    let start_unix_s = u64::try_from(START_NS / 1_000_000_000).unwrap() + 60;
    let newer = Rate { start_unix_s, message_fee: PicoDollarPrice(5000), ..rate() };
    for node in [100, 300] {
        record_rates(&network.stores[&node], &[rate(), newer]);
    }
    network.traffic("some").await;
    network.replicate();
    let Written::New(id) = network.write(100, 100).await else { panic!("a report is due") };
    (network, newer, id)
}

/// A node that learns of a rate late refuses an honest report first. Neither it nor a draft of its own is judged by
/// amounts that are being corrected, and the report is judged again as soon as they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_by_old_rates_is_judged_again_when_amounts_are_corrected() {
    let (network, newer, id) = with_a_rate_that_one_node_lacks().await;
    let worker = network.worker(200);
    let attest = async || -> Result<Vec<(ReportId, Attested)>, ReportStepError> {
        let attested = worker.attest(ABOUT).await;
        network.replicate();
        attested
    };
    let refused = attest().await.unwrap();
    assert!(matches!(&refused[..], [(of, Attested::Refused(_))] if *of == id), "{refused:?}");
    let by_hand = worker.step(ReportStep::Attest, ABOUT, true).await;
    assert_eq!(by_hand[0].state, StepState::Refused);
    let totals = PayerReportTotals {
        refused: 1,
        differences: [("amounts", 1)].into(),
        ..PayerReportTotals::default()
    };
    assert_eq!(worker.totals(), totals, "a report that was looked at twice counts once");

    record_rates(&network.stores[&200], &[rate(), newer]);
    assert!(network.stores[&200].has_unpriced());
    let waits = attest().await.unwrap();
    assert!(matches!(&waits[..], [(of, Attested::NotNow(_))] if *of == id), "{waits:?}");
    let drafted = worker.write(ABOUT).await;
    let why = ReportStepError::Figures(FiguresError::NotYet(UndecidedError::Unpriced)).to_string();
    assert_eq!(drafted.unwrap_err().to_string(), why);
    let waiting = worker.step(ReportStep::Generate, ABOUT, false).await;
    assert_eq!(waiting[0].state, StepState::Waiting);
    reprice(&network.stores[&200]);
    assert_eq!(attest().await.unwrap(), [(id, Attested::Signed)], "at the next look");
    assert_eq!(worker.totals(), PayerReportTotals { signed: 1, ..totals });
}

/// A refusal is remembered, so it may be older than this node's figures. The report is never shown as refused beside an
/// equal comparison, and is attested at the next look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_equal_comparison_ends_an_earlier_refusal() {
    let (network, newer, id) = with_a_rate_that_one_node_lacks().await;
    let worker = network.worker(200);
    let refused = worker.attest(ABOUT).await.unwrap();
    assert!(matches!(&refused[..], [(_, Attested::Refused(_))]), "{refused:?}");
    record_rates(&network.stores[&200], &[rate(), newer]);
    reprice(&network.stores[&200]);
    let explained = || worker.explain(&id.to_string()).unwrap().unwrap();
    let first = explained();
    assert_eq!((first.view.state.clone(), first.is_equal()), (ReportState::Equal, true));
    assert!(first.reasons().is_empty(), "{:?}", first.reasons());
    assert_eq!(explained(), first, "also when it is judged again");
    assert_eq!(worker.attest(ABOUT).await.unwrap(), [(id, Attested::Signed)]);
}

/// A node that lacks places of the range neither writes nor judges a report over them; with the places it comes to the
/// same report as the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_report_is_drafted_over_missing_places() {
    let network = Network::start();
    network.traffic("some").await;
    let (source, target) = (&network.stores[&100], &network.stores[&200]);
    let append = |at: u64| {
        let id = EnvelopeId::new(ABOUT, SequenceId(at));
        let bytes = source.snapshot().get(id).unwrap().unwrap();
        let facts = facts::of_stored(&bytes, Validity::Valid, OriginatorId(200));
        Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts })
    };
    let head = source.snapshot().head(ABOUT).unwrap();
    let gap = SequenceId(2);
    for at in 1..=head.0 {
        let change = match at == gap.0 {
            true => Change::Skip {
                originator: ABOUT,
                from: gap,
                through: gap,
                reason: SkipReason::Missing,
            },
            false => append(at),
        };
        target.commit(&[change]).unwrap();
    }
    let worker = network.worker(200);
    let drafted = worker.write(ABOUT).await;
    let Err(ReportStepError::Figures(FiguresError::NotYet(why))) = drafted else {
        panic!("{drafted:?}")
    };
    assert_eq!(why, UndecidedError::Missing(gap, gap));

    let Written::New(id) = network.write(100, 100).await else { panic!("a report is due") };
    let judged = network.attest(200, 100).await;
    assert!(matches!(&judged[..], [Attested::NotNow(_)]), "{judged:?}");
    target.commit(&[append(gap.0)]).unwrap();
    reprice(target);
    assert_eq!(network.attest(200, 100).await, [Attested::Signed]);
    let dry = network.worker(300).step(ReportStep::Attest, ABOUT, true).await;
    assert_eq!((dry[0].report, dry[0].state), (Some(id), StepState::Would));
}

/// The amount by which a publish is refused is the one that operators are shown: the balance without the usage
/// of reports that are not settled as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_available_is_one_figure() {
    let mut network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    for node in NODES {
        network.attest(node, 100).await;
    }
    assert_eq!(network.submit(100, 100).await, [Submitted::Now]);
    assert_eq!(network.settle(100, 100).await.unwrap(), 3);

    let address = payer(0).public_key().address();
    let taken = network.contract.0.lock().taken_from[&address].0;
    let event = |id: u8, action| LedgerEvent {
        id: LedgerEventId([id; 32]),
        block: id.into(),
        payer: address,
        action,
    };
    let events = [
        event(1, LedgerAction::Deposit(LedgerMicroDollars(taken.into()))),
        event(2, LedgerAction::UsageSettled(LedgerMicroDollars(taken.into()))),
    ];
    let position = ChainPosition { block: 2, hash: [2; 32] };
    let ledger = network.engines[&100].ledger_appender();
    ledger.append(0, &events, position).unwrap();
    ledger.note_at_head(position).unwrap();
    network.require_balance = true;
    network.restart(100);
    let usage = network.worker(100).usage_of(address).unwrap();
    assert!(usage.unsettled.0 > 0 && usage.settled.0 > 0);
    assert_ne!(taken * 1_000_000, usage.settled.0, "the settlement rounds up");
    assert_eq!(usage.available.0, -i128::from(usage.unsettled.0));
    let refused = network.try_publish(100, 0, &["one more"]).await;
    let Err(PublishError::Balance { left, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(left, usage.available);
}

/// An operator who takes the steps by hand gets a report of what was done, what would be done, and why not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_by_hand_tell_what_became_of_each_report() {
    let network = Network::start();
    let step = async |node: u32, step, is_dry| {
        let outcomes = network.worker(node).step(step, ABOUT, is_dry).await;
        network.replicate();
        network.follow_chain();
        outcomes.into_iter().map(|it| it.state).collect::<Vec<_>>()
    };
    use ReportStep::{Attest, Generate, Settle, Submit};
    use StepState::{Done, Nothing, Waiting, Would};
    assert_eq!(step(100, Generate, false).await, [Nothing], "there is no usage");
    assert_eq!(step(100, Attest, false).await, []);
    network.traffic("some").await;
    network.replicate();
    let head = || {
        network.stores[&100]
            .snapshot()
            .log(EnvelopeId::new(ABOUT, SequenceId::NONE), SequenceId::MAX)
            .filter(|item| matches!(item.as_ref().unwrap(), LogItem::Envelope { .. }))
            .count()
    };
    let before = head();
    assert_eq!(step(100, Generate, true).await, [Would]);
    assert_eq!(head(), before, "a dry run writes nothing");
    assert_eq!(step(100, Generate, false).await, [Done]);
    assert_eq!(step(100, Generate, false).await, [Nothing], "it is written");
    assert_eq!(step(100, Submit, false).await, [Waiting], "it is not attested");
    assert_eq!(step(100, Attest, true).await, [Would]);
    assert_eq!(step(100, Attest, false).await, [Done]);
    assert_eq!(step(100, Attest, false).await, [Nothing]);
    assert_eq!(step(100, Submit, false).await, [Waiting], "by one node");
    assert_eq!(step(300, Attest, false).await, [Done]);
    assert_eq!(step(100, Submit, true).await, [Would]);
    assert_eq!(step(100, Settle, false).await, [], "the chain has none");
    assert_eq!(step(100, Submit, false).await, [Done]);
    assert_eq!(step(300, Settle, true).await, [Would]);
    assert_eq!(step(300, Settle, false).await, [Done]);
    assert_eq!(step(100, Settle, false).await, []);
    assert!(network.on_chain().is_settled(ABOUT, network.now_minute() - 2));
}

/// The amounts of a report may take hundreds of megabytes, and few threads show pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_operator_is_answered_at_a_time_and_another_one_is_told_at_once() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let Written::New(id) = network.write(100, 100).await else { panic!("a report is due") };
    let worker = network.worker(200);
    let time_max = Duration::from_secs(60);
    let (tell, told) = mpsc::channel();
    // The first one waits in the middle of its answer.
    let second = network.without_registry(|| {
        for _ in 0..2 {
            let (worker, tell) = (worker.clone(), tell.clone());
            thread::spawn(move || {
                // The receiver may be gone if the test has failed.
                let _ = tell.send(worker.explain(&id.to_string()));
            });
        }
        told.recv_timeout(time_max)
    });
    assert!(matches!(second, Ok(Err(ReportStepError::Busy))), "{second:?}");
    let first = told.recv_timeout(time_max).unwrap().unwrap().expect("the report is known");
    assert!(first.is_equal());
    assert!(worker.reports().is_ok(), "the next one is answered");
}

/// An endpoint may show any number of settled leaves. The node takes none of them for a report that needs nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contract_that_names_more_settled_leaves_than_a_report_has_is_contradicted() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    for node in NODES {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
    }
    assert_eq!(network.submit(100, 100).await, [Submitted::Now]);
    // The report has three leaves, and with the last of them it would be settled.
    for says in [3, 4, u64::MAX] {
        network.contract.0.lock().says_offset = Some(says);
        let Err(error) = network.settle(200, 100).await else { panic!("{says} were settled") };
        let ReportStepError::BeyondLeaves { originator: ABOUT, index: 0, settled, leaves: 3 } =
            error
        else {
            panic!("{error}")
        };
        assert_eq!(settled, says);
    }
    assert_eq!(network.contract.0.lock().asked_to_settle, 0);
    network.contract.0.lock().says_offset = None;
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
}
