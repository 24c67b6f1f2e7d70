//! Runs of pruning: whatever retention, reports, clocks and failed writes there are, nothing goes that is not over, not
//! reported or still needed, and what is left is as before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hawser_engine::chain_strand::ChainPosition;
use hawser_engine::facts;
use hawser_engine::payer_reports::{
    EXPLAINED_ROWS_MAX, Recomputed, draft, recompute, recompute_explained,
};
use hawser_engine::pruning::KeepReason;
use hawser_engine::runtime::{PruneReport, PruneRounds, PruneRun, PruneSettings, start_prune_task};
use hawser_engine::sequencer::{Admitted, Sequencer};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::price::SettledAmount;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId};
use hawser_rules::payer_report::{Leaves, NodeIds, PayerReport};
use hawser_rules::{PicoDollarPrice, RateTable};
use hawser_storage::{
    Change, Family, LogEntry, LogItem, PayerReportChange, PayerReportEvent, SkipReason, Store,
    Validity, WriteFault,
};
use proptest::prelude::*;
use prost::Message as _;

use crate::common::{
    self, START_NS, client, frame, group_payload, group_topic, payer, rate, start,
};

const NODES: [OriginatorId; 2] = [OriginatorId(100), OriginatorId(200)];
/// Places of each strand, half a day apart.
const COUNT: u64 = 40;
const STEP_NS: i64 = 12 * 3600 * 1_000_000_000;
const START_S: u64 = 1_750_000_000;
const STEP_S: u64 = 12 * 3600;

/// Returns the retention of a place in days: mostly short, sometimes for ever. An envelope with retention for ever
/// states an expiry in the past, as from software whose times wrap around.
fn days(place: u64) -> u32 {
    [2, 3, 365, 2, u32::MAX, 5, 2][usize::try_from(place % 7).unwrap()]
}

/// The strands of two honest nodes.
fn strands() -> &'static [Vec<Bytes>; 2] {
    static STRANDS: OnceLock<[Vec<Bytes>; 2]> = OnceLock::new();
    STRANDS.get_or_init(|| {
        NODES.map(|node| {
            let table = Arc::new(RateTable::new(vec![rate()], None).unwrap());
            let mut sequencer = Sequencer::new(node, SequenceId(0), 0, |_| 0);
            let key = SecretKey::from_bytes(&[103; 32]).unwrap();
            let envelope = |place: u64| -> Bytes {
                let text = frame(1, 1, &place.to_be_bytes());
                let client = client(&group_topic(1), None, group_payload(text));
                let by = payer(u8::try_from(place % 3).unwrap());
                let message = PayerEnvelope::sign(client, node, days(place), &by);
                let paid = Bytes::from(message.encode_to_vec());
                let admitted = Admitted {
                    envelope: PayerEnvelope::from_message(message).unwrap(),
                    payer: by.public_key().address(),
                    receipt: [0; 32],
                    depends_on_ns: None,
                };
                let now_ns = START_NS + i64::try_from(place).unwrap() * STEP_NS;
                let mut placed = sequencer.sequence(now_ns, &table, [&admitted]).unwrap();
                let at = EnvelopeId::new(node, SequenceId(place));
                match days(place) {
                    u32::MAX => wrapped(at, now_ns, paid, &key),
                    _ => placed.remove(0).unsealed.seal(&key),
                }
            };
            (1..=COUNT).map(envelope).collect()
        })
    })
}

/// An envelope that states an expiry in the past.
fn wrapped(at: EnvelopeId, originator_ns: i64, paid: Bytes, key: &SecretKey) -> Bytes {
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: at.originator.0,
        originator_sequence_id: at.sequence.0,
        originator_ns,
        payer_envelope_bytes: paid,
        base_fee_picodollars: 1,
        congestion_fee_picodollars: 2,
        expiry_unixtime: 1,
    };
    let statement = Bytes::from(statement.encode_to_vec());
    let signature = key.sign(originator_digest(&statement));
    OriginatorEnvelope::encode(statement, Proof::Signature(signature))
}

fn derive(_: EnvelopeId, bytes: &Bytes, validity: Validity) -> Option<hawser_storage::Facts> {
    facts::of_stored(bytes, validity, NODES[0])
}

/// A store of node 100 with both strands.
fn store() -> Store {
    let store = common::store();
    for (node, strand) in NODES.into_iter().zip(strands()) {
        let append = |(place, bytes): (u64, &Bytes)| {
            let id = EnvelopeId::new(node, SequenceId(place));
            let validity = Validity::Valid;
            let facts = derive(id, bytes, validity);
            Change::Append(LogEntry { id, bytes: bytes.clone(), validity, facts })
        };
        store.commit(&(1..).zip(strand).map(append).collect::<Vec<_>>()).unwrap();
    }
    store
}

/// A report of a test: its strand, its last place, and whether it is settled.
type Report = (usize, u64, bool);

/// The chain's events of reports that follow one another, and what they say: where each strand's reports end, and the
/// places at the ends of those that are not settled.
fn events(reports: &[Report]) -> (Vec<PayerReportEvent>, [u64; 2], [BTreeSet<u64>; 2]) {
    let (mut events, mut ends, mut needed) =
        (Vec::new(), [0; 2], [(); 2].map(|()| BTreeSet::new()));
    let mut indexes = [0; 2];
    for &(strand, len, is_settled) in reports {
        let (start, end) = (ends[strand], (ends[strand] + len).min(COUNT));
        if end == start {
            continue;
        }
        let (originator, index) = (NODES[strand], indexes[strand]);
        let end_minute = u32::try_from((START_S + end * STEP_S) / 60).unwrap();
        let submitted = PayerReportChange::Submitted {
            start: SequenceId(start),
            end: SequenceId(end),
            end_minute,
            root: [1; 32],
            nodes: NODES.to_vec(),
        };
        let settled =
            PayerReportChange::Settled { leaves: 1, left: 0, microdollars: SettledAmount(1) };
        let changes = [Some(submitted), is_settled.then_some(settled)];
        for change in changes.into_iter().flatten() {
            let block = events.len() as u64;
            events.push(PayerReportEvent { block, log_index: 0, originator, index, change });
        }
        if !is_settled {
            needed[strand].extend([start, end]);
        }
        indexes[strand] += 1;
        ends[strand] = end;
    }
    (events, ends, needed)
}

fn run(store: &Store, own_unix_s: u64, dry_run: bool) -> PruneReport {
    let run = PruneRun { own_unix_s, places_max: u64::MAX, dry_run };
    run.run(store, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// Returns the places that are pruned.
fn gone(store: &Store) -> BTreeSet<EnvelopeId> {
    let snapshot = store.snapshot();
    let mut gone = BTreeSet::new();
    for (node, strand) in NODES.into_iter().zip(strands()) {
        for item in snapshot.log(EnvelopeId::new(node, SequenceId(0)), SequenceId(COUNT)) {
            match item.unwrap() {
                LogItem::Envelope { id, bytes, .. } => {
                    assert_eq!(bytes, strand[usize::try_from(id.sequence.0 - 1).unwrap()]);
                }
                LogItem::Skipped { from, through, reason } => {
                    assert_eq!(reason, SkipReason::Pruned);
                    let places = (from.0..=through.0).map(SequenceId);
                    gone.extend(places.map(|place| EnvelopeId::new(node, place)));
                }
            }
        }
    }
    gone
}

fn kept(store: &Store) -> (BTreeMap<&'static str, [u8; 32]>, Vec<[u8; 32]>) {
    let snapshot = store.snapshot();
    let mut digests = snapshot.projection_digests().unwrap();
    digests.retain(|name, _| ["usage", "usage_by_payer", "congestion"].contains(name));
    let roots = NODES.map(|node| snapshot.root(node, COUNT).unwrap().0).to_vec();
    (digests, roots)
}

fn expiry_of(id: EnvelopeId) -> u64 {
    let strand = &strands()[usize::from(id.originator == NODES[1])];
    let bytes = strand[usize::try_from(id.sequence.0 - 1).unwrap()].clone();
    OriginatorEnvelope::parse(bytes).unwrap().unsigned().expiry_unix_s()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn nothing_unexpired_unreported_or_needed_goes(
        reports in proptest::collection::vec((0_usize..2, 1_u64..20, any::<bool>()), 0..6),
        clock_s in proptest::collection::vec(0_u64..60 * STEP_S, 1..4),
        crash in proptest::option::of((0_u32..6, any::<bool>())),
    ) {
        let store = store();
        let before = kept(&store);
        let (events, ends, needed) = events(&reports);
        let at = ChainPosition { block: 99, hash: [1; 32] };
        store.record_payer_reports(0, &events, at).unwrap();
        // The second furthest end of reports, or the only one, is a time that is over. One that is more than two days
        // behind, as far as the clock goes, is of a strand that has stopped.
        let reached = ends.into_iter().filter(|end| *end > 0);
        let mut reached: Vec<u64> = reached.map(|end| (START_S + end * STEP_S) / 60 * 60).collect();
        reached.sort_unstable();
        let reported = |own: u64| match reached[..] {
            [] => 0,
            [only] => only,
            [second, first] if second + 2 * 24 * 3600 >= first.min(own) => second,
            [_, first] => first,
            _ => unreachable!(),
        };
        if let Some((write, is_kept)) = crash {
            let left = std::sync::atomic::AtomicU32::new(write);
            let fault = if is_kept { WriteFault::Kept } else { WriteFault::Lost };
            store.set_write_faults(Some(Arc::new(move || {
                use std::sync::atomic::Ordering::Relaxed;
                let is_now = left.fetch_sub(1, Relaxed) == 0;
                is_now.then_some(fault)
            })));
            let run = PruneRun { own_unix_s: START_S + clock_s[0], places_max: u64::MAX, dry_run: false };
            let _ = run.run(&store, &mut |_| ControlFlow::Continue(()));
            store.set_write_faults(None);
            store.reopen().unwrap();
            store.accept_writes();
        }
        let mut latest = if crash.is_some() { clock_s[0] } else { 0 };
        for own_s in clock_s {
            let would = run(&store, START_S + own_s, true);
            let gone_before = gone(&store).len() as u64;
            let report = run(&store, START_S + own_s, false);
            prop_assert_eq!(gone(&store).len() as u64, gone_before + report.pruned());
            prop_assert_eq!(report.pruned(), would.pruned(), "a dry run says what goes");
            latest = latest.max(own_s);
        }
        let now = reported(START_S + latest).min(START_S + latest);
        let all = NODES.into_iter().zip([0, 1]).flat_map(|(node, strand)| {
            (1..=COUNT).map(move |place| (strand, EnvelopeId::new(node, SequenceId(place))))
        });
        let expected: BTreeSet<EnvelopeId> = all
            .filter(|(strand, id)| {
                let place = id.sequence.0;
                expiry_of(*id) < now
                    && place < ends[*strand]
                    && !needed[*strand].contains(&place)
                    && days(place) != u32::MAX
            })
            .map(|(_, id)| id)
            .collect();
        prop_assert_eq!(&gone(&store), &expected);
        prop_assert_eq!(kept(&store), before);
        let digests = store.snapshot().projection_digests().unwrap();
        store.rebuild(&derive, &mut |_| {}).unwrap();
        prop_assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
        prop_assert_eq!(gone(&store), expected);
    }
}

#[test]
fn a_report_says_why_what_stays_stays_and_a_run_keeps_to_its_bound() {
    let store = store();
    let (events, ..) = events(&[(0, 20, true), (0, 15, false)]);
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] }).unwrap();
    let dry = run(&store, u64::MAX, true);
    let own = &dry.strands[&NODES[0]];
    assert!(
        own.pruned > 10 && own.not_expired > 0 && own.stays[&KeepReason::ReportEnds] == 1,
        "{own:?}"
    );
    let other = &dry.strands[&NODES[1]];
    assert_eq!((other.pruned, other.places), (0, None));
    assert!(other.stays[&KeepReason::NoReport] > 10, "{other:?}");
    assert_eq!(dry.backlog(), own.pruned);
    assert!(gone(&store).is_empty());

    let bounded = PruneRun { own_unix_s: u64::MAX, places_max: 4, dry_run: false };
    let report = bounded.run(&store, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((report.pruned(), report.backlog()), (4, own.pruned - 4));
    assert!(report.strands[&NODES[0]].stays[&KeepReason::Refused] > 4, "they came first");
    let mut until_one_goes = |report: &PruneReport| match report.pruned() {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let stopped = bounded.run(&store, &mut until_one_goes).unwrap();
    assert!(stopped.is_partial && (1..4).contains(&stopped.pruned()), "{stopped:?}");
}

/// A node may sign any number of envelopes for ever that state an expiry in the past.
#[test]
fn what_has_to_stay_is_read_once_in_a_round_and_in_fewer_rounds_where_there_is_much_of_it() {
    let store = store();
    let (events, ..) = events(&[(0, 20, true), (0, 15, false)]);
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] }).unwrap();
    let wanted = run(&store, u64::MAX, true).pruned();
    let bounded = PruneRun { own_unix_s: u64::MAX, places_max: 4, dry_run: false };
    let mut rounds = PruneRounds::default();
    // The envelopes that a run has read in vain, and whether the round goes on.
    let mut read_in_vain = || {
        let done = rounds.run(bounded, &store, &mut |_| ControlFlow::Continue(()));
        let (report, goes_on) = done.unwrap();
        let stays = report.strands.get(&NODES[0]).and_then(|it| it.stays.get(&KeepReason::Refused));
        (stays.copied().unwrap_or(0), goes_on)
    };
    assert_eq!(read_in_vain(), (5, true), "they come first");
    let mut runs = 1;
    loop {
        runs += 1;
        let (read, goes_on) = read_in_vain();
        assert_eq!(read, 0, "run {runs}");
        if !goes_on {
            break;
        }
    }
    assert!(runs > 2, "{runs}");
    assert_eq!(gone(&store).len() as u64, wanted);
    assert_eq!(read_in_vain(), (0, false), "the first round has made up for four of the five");
    assert_eq!(read_in_vain(), (5, false));
}

/// The disk may fail in the middle of a round, and go on failing. What was judged before may be free to go meanwhile.
#[test]
fn a_run_that_fails_ends_its_round() {
    let store = store();
    let (events, ..) = events(&[(0, 20, true), (0, 15, false)]);
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] }).unwrap();
    let bounded = PruneRun { own_unix_s: u64::MAX, places_max: 5, dry_run: false };
    let mut rounds = PruneRounds::default();
    let mut run = || rounds.run(bounded, &store, &mut |_| ControlFlow::Continue(()));
    let read_in_vain = |report: &PruneReport| {
        let stays = &report.strands[&NODES[0]].stays;
        stays.get(&KeepReason::Refused).copied().unwrap_or(0)
    };
    let (report, goes_on) = run().unwrap();
    assert_eq!((read_in_vain(&report), goes_on), (5, true));
    store.set_write_faults(Some(Arc::new(|| Some(WriteFault::Lost))));
    run().unwrap_err();
    store.set_write_faults(None);
    store.reopen().unwrap();
    store.accept_writes();
    let (report, _) = run().unwrap();
    assert_eq!(read_in_vain(&report), 5, "everything is judged again");
}

/// An endpoint of the settlement chain can invent reports, and with them a time that has passed.
#[test]
fn reports_about_strands_that_a_node_does_not_have_show_no_time() {
    let store = store();
    let (real, ..) = events(&[(0, 20, true), (1, 20, true)]);
    let now_by = |events: &[PayerReportEvent]| {
        let at = ChainPosition { block: 99, hash: [1; 32] };
        store.record_payer_reports(0, events, at).unwrap();
        run(&store, u64::MAX, true).now_unix_s
    };
    let shown = now_by(&real);
    assert_eq!(shown, (START_S + 20 * STEP_S) / 60 * 60);
    let invented = (0..).zip([300, 400]).map(|(log_index, originator)| {
        let change = PayerReportChange::Submitted {
            start: SequenceId(0),
            end: SequenceId(9),
            end_minute: u32::MAX >> 1,
            root: [1; 32],
            nodes: NODES.to_vec(),
        };
        let originator = OriginatorId(originator);
        PayerReportEvent { block: 50, log_index, originator, index: 0, change }
    });
    let all: Vec<_> = real.iter().cloned().chain(invented).collect();
    assert_eq!(now_by(&all), shown);
}

/// One node may write reports about all originators that state minutes ahead, and nodes of the reference implementation
/// attest them.
#[test]
fn reports_that_state_other_minutes_than_the_log_has_show_no_later_time() {
    let store = store();
    let (mut events, ..) = events(&[(0, 20, true), (1, 20, true)]);
    for event in &mut events {
        if let PayerReportChange::Submitted { end_minute, .. } = &mut event.change {
            *end_minute = u32::MAX;
        }
    }
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] }).unwrap();
    assert_eq!(run(&store, u64::MAX, true).now_unix_s, (START_S + 20 * STEP_S) / 60 * 60);
}

/// A report that is false, or taken back, has its ends pruned. A later one may begin there.
#[test]
fn a_report_from_a_pruned_place_has_the_same_figures() {
    let store = store();
    let (events, ..) = events(&[(0, 35, true)]);
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] }).unwrap();
    let nodes = NodeIds::new(NODES).unwrap();
    let written =
        || draft(&store.snapshot(), NODES[0], SequenceId(10), nodes.clone(), u32::MAX).unwrap();
    let report = written().unwrap();
    run(&store, u64::MAX, false);
    assert!(gone(&store).contains(&EnvelopeId::new(NODES[0], SequenceId(10))));
    assert_eq!(written().as_ref(), Some(&report));
    let again = recompute(&store.snapshot(), &report).unwrap();
    assert!(matches!(again, Recomputed::Equal(_)), "{again:?}");
}

/// A false report has the same differences, minutes and envelopes at fault when these envelopes are gone.
#[test]
fn a_false_report_is_explained_after_pruning_as_before() {
    // Of the first payer, and kept for five days.
    const LEFT_OUT: u64 = 12;
    let store = store();
    let (events, ..) = events(&[(0, 35, true)]);
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] }).unwrap();
    let nodes = NodeIds::new(NODES).unwrap();
    let drafted = draft(&store.snapshot(), NODES[0], SequenceId(10), nodes.clone(), u32::MAX);
    let report = drafted.unwrap().unwrap();
    let Recomputed::Equal(leaves) = recompute(&store.snapshot(), &report).unwrap() else {
        panic!("it is this node's own")
    };
    let bytes = strands()[0][usize::try_from(LEFT_OUT - 1).unwrap()].clone();
    let fee = OriginatorEnvelope::parse(bytes).unwrap().unsigned().base_fee().0;
    let by = payer(0).public_key().address();
    let lower = leaves.payers().iter().map(|leaf| {
        let less = if leaf.payer == by { fee } else { 0 };
        (leaf.payer, PicoDollarPrice(leaf.fee.get() - less))
    });
    let root = Leaves::sum(lower).root();
    let lie = PayerReport::new(NODES[0], report.start(), report.end(), root, nodes).unwrap();
    let explained = || recompute_explained(&store.snapshot(), &lie, EXPLAINED_ROWS_MAX).unwrap();
    let before = explained();
    assert_eq!(before.envelopes, [SequenceId(LEFT_OUT)], "{before:?}");
    run(&store, u64::MAX, false);
    assert!(gone(&store).contains(&EnvelopeId::new(NODES[0], SequenceId(LEFT_OUT))));
    assert_eq!(explained(), before);
}

/// A run takes a few, and the next ones go on, until nothing is left that may go. A dry run takes none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_prunes_in_turns_and_counts_what_goes() {
    let store = store();
    let (events, ..) = events(&[(0, 30, true), (1, 30, true)]);
    store.record_payer_reports(0, &events, ChainPosition { block: 9, hash: [1; 32] }).unwrap();
    let wanted = run(&store, u64::MAX, true).pruned();
    assert!(wanted > 20, "{wanted}");
    let node = start(store.clone());
    node.clock.0.store(START_NS + 60 * STEP_NS, Ordering::Relaxed);
    let counters = node.engine.counters();
    let prune = async |dry_run, is_done: &dyn Fn() -> bool| {
        let every = Duration::from_millis(1);
        let task = start_prune_task(&node.engine, PruneSettings { every, places_max: 3, dry_run });
        while !is_done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        task.stop().await;
    };
    prune(true, &|| counters.prune_backlog.get() == wanted).await;
    assert_eq!((counters.pruned.get(), gone(&store).len()), (0, 0));
    prune(false, &|| counters.pruned.get() == wanted && counters.prune_backlog.get() == 0).await;
    assert_eq!(gone(&store).len() as u64, wanted);
    assert!(counters.pruned_bytes.get() > 100 * wanted);
}

/// The disk has damaged a row of the index by expiry. Each run ends there, and the next regular scrub may be a week
/// away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_the_index_by_expiry_has_the_node_scrub_at_once() {
    /// Longer than anything takes that works, also on a busy machine.
    const WAIT_MAX: Duration = Duration::from_secs(120);
    let store = store();
    store.put_raw_row(Family::Expiry, &[0; 20], b"damaged");
    let node = start(store.clone());
    let every = Duration::from_millis(1);
    let task =
        start_prune_task(&node.engine, PruneSettings { every, places_max: 3, dry_run: false });
    let is_noted = async {
        while node.engine.scrubs().status().left.is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, is_noted).await.expect("the damage is noted");
    task.stop().await;
    let status = node.engine.scrubs().status();
    assert_eq!((status.left_count, status.left[0].damage.family), (1, "expiry"), "it is told once");
    assert!(store.take_met_damage(), "the task of scrubs begins one");
}
