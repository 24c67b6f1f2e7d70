//! Payer reports while an originator dates envelopes back into minutes that are reported, or shows places late.

use hawser_engine::facts;
use hawser_engine::payer_reports::{FiguresError, Recomputed, UndecidedError, draft, recompute};
use hawser_engine::runtime::{
    Attested, ReportContract as _, ReportStep, ReportStepError, Submitted, Written,
};
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::misbehavior::{MisbehaviorVerdict, TreeEvidence, TreeFault, verify_trees};
use hawser_rules::payer_report::{Attestation, Leaves, NodeIds, PayerReport, RangeEnd, ReportId};
use hawser_rules::{PicoDollarPrice, Rate};
use hawser_storage::{
    Change, EvidenceTime, Facts, InvalidRule, LogEntry, Misbehavior, SkipReason, Validity,
};

use crate::common::{START_NS, rate};
use crate::payer_report_attacks::{
    ABOUT, MINUTE_NS, append, copy_without, dated, dated_until, place, reprice,
};
use crate::report_contract::{NODES, domain, key};
use crate::report_network::{Network, smuggle, smuggle_unseen};

fn nodes() -> NodeIds {
    NodeIds::new(NODES.map(OriginatorId)).unwrap()
}

/// Makes three minutes of traffic, in which each envelope behind the first one of a minute makes the next ones more
/// expensive.
async fn congested() -> Network {
    let mut network = Network::start();
    let start_unix_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    let congested = Rate {
        start_unix_s,
        congestion_fee: PicoDollarPrice(7),
        target_rate_per_minute: 4,
        ..rate()
    };
    network.add_rate(congested);
    for minute in 0..3 {
        for by in 0..3 {
            let texts = [format!("{minute} of {by}"), format!("{minute} again of {by}")];
            network.publish(100, by, &texts.each_ref().map(String::as_str)).await;
        }
        network.pass(1);
    }
    network.replicate();
    network
}

/// Returns envelopes behind the head of a node's copy of the strand, each with its minute after the start and its
/// payer.
fn late(network: &Network, node: u32, of: &[(i64, u8)]) -> Vec<Change> {
    let head = network.stores[&node].snapshot().head(ABOUT).unwrap();
    let change = |(at, (minute, by)): (u64, &(i64, u8))| {
        let id = EnvelopeId::new(ABOUT, SequenceId(at));
        append(id, dated(id, START_NS + minute * MINUTE_NS + 5, *by, &format!("late {at}")))
    };
    (head.0 + 1..).zip(of).map(change).collect()
}

/// Times in the minutes of a report of [`congested`] minutes, one before them, and two of a payer that has no leaf.
const LATE: [(i64, u8); 5] = [(1, 0), (0, 1), (1, 7), (-1, 0), (0, 7)];

/// Returns the amounts that a node has booked up to a minute.
fn booked(network: &Network, node: u32, through_minute: u32) -> Leaves {
    let mut leaves = Vec::new();
    let each = |_, payer, row: hawser_storage::UsageRow| {
        leaves.push((payer, row.picodollars));
        true
    };
    let snapshot = network.stores[&node].snapshot();
    snapshot.usage_of_minutes(ABOUT, None, through_minute, each).unwrap();
    Leaves::sum(leaves)
}

/// Has a report written, attested by all nodes and submitted.
async fn submit_report(network: &Network) {
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    for node in NODES {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
    }
    assert_eq!(network.submit(100, 100).await, [Submitted::Now]);
}

/// An originator dates envelopes back into the minutes of an attested report. They are in no report, and do not change
/// the settled amounts at any node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envelopes_dated_back_into_a_report_keep_no_node_from_settling_it() {
    let network = congested().await;
    submit_report(&network).await;
    let report = network.on_chain().about(ABOUT).next().unwrap().clone();
    let stated = network.stated(report.end.sequence);
    network.stores[&200].commit(&late(&network, 200, &LATE)).unwrap();
    assert_ne!(booked(&network, 200, report.end.minute), stated);
    // The log is enough, without the amounts that were attested.
    network.stores[&200].forget_all_report_amounts().unwrap();
    assert_eq!(network.settle(200, 100).await.unwrap(), 3, "by a worker that has just started");
    for leaf in stated.payers() {
        assert_eq!(network.contract.0.lock().taken_from[&leaf.payer], leaf.fee.settled());
    }
    assert_eq!(network.contract.0.lock().taken_from.len(), 3);
}

/// An originator shows an envelope of a reported minute after it has attested the report. The evidence is judged by the
/// registry alone, and is recorded once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_between_the_reports_is_evidence_against_the_originator_that_attested_them() {
    let network = congested().await;
    submit_report(&network).await;
    let store = &network.stores[&200];
    let found = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
    assert!(found().is_empty(), "nothing is late");

    let late = late(&network, 200, &[(2, 0), (1, 0)]);
    let Change::Append(entry) = &late[1] else { panic!("an envelope") };
    let at = entry.id;
    store.commit(&late).unwrap();
    for _ in 0..2 {
        assert_eq!(network.settle(200, 100).await.unwrap(), 0);
        let found = found();
        let [it] = &found[..] else { panic!("{found:?}") };
        assert_eq!((it.evidence.misbehavior, it.evidence.at), (Misbehavior::LateRelease, at));
        let pieces = it.evidence.envelopes.clone();
        let evidence = TreeEvidence { fault: TreeFault::LateRelease, pieces };
        let registry = network.contract.0.lock().membership.registry();
        let judgement = verify_trees(&evidence, &registry);
        assert_eq!(judgement.verdict, MisbehaviorVerdict::Proven, "{judgement:?}");
        assert_eq!(judgement.accused, Some(ABOUT));
    }
}

/// Returns the places of late releases that a node has as evidence. There is no other evidence.
fn released_late(network: &Network, node: u32) -> Vec<u64> {
    let snapshot = network.stores[&node].snapshot();
    let found = snapshot.evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let place = |it: &hawser_storage::StoredEvidence| {
        assert_eq!(it.evidence.misbehavior, Misbehavior::LateRelease);
        assert_eq!(it.evidence.at.originator, ABOUT);
        it.evidence.at.sequence.0
    };
    found.iter().map(place).collect()
}

/// Has the originator attest reports that do not exist.
async fn write_others(network: &Network, of: std::ops::Range<u8>) {
    for other in of {
        let other = Attestation::sign(ReportId([other; 32]), ABOUT, &key(100));
        smuggle_unseen(network, 100, other.client_envelope(ABOUT)).await;
    }
    network.replicate();
}

/// The originator writes many attestations of other reports before and after its own, and one that counts for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attestation_binds_however_many_others_are_around_it() {
    let network = congested().await;
    let Written::New(id) = network.write(300, 100).await else { panic!("a report is due") };
    let by_other = Attestation::sign(id, ABOUT, &key(200));
    smuggle_unseen(&network, 100, by_other.client_envelope(ABOUT)).await;
    write_others(&network, 0..40).await;
    for node in NODES {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
    }
    assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
    write_others(&network, 100..140).await;
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
    assert!(released_late(&network, 200).is_empty(), "nothing is late");

    let at = network.stores[&200].snapshot().head(ABOUT).unwrap().next();
    network.stores[&200].commit(&late(&network, 200, &[(1, 0)])).unwrap();
    assert_eq!(network.settle(200, 100).await.unwrap(), 0);
    assert_eq!(released_late(&network, 200), [at.0]);
}

/// The originator shows the last envelope of a minute when three more reports about it are on the chain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_that_is_shown_many_reports_later_is_evidence() {
    const HIDDEN: u64 = 6;
    let network = Network::start();
    network.traffic("first").await;
    for node in [200, 300] {
        copy_without(&network, 100, node, HIDDEN);
    }
    for round in 0..4 {
        // Later reports are over the place, which may still come for half a day.
        network.pass(13 * 60);
        let Written::New(id) = network.write(200, 100).await else { panic!("a report is due") };
        let own = Attestation::sign(id, ABOUT, &key(100));
        smuggle(&network, 100, own.client_envelope(ABOUT)).await;
        for node in [200, 300] {
            assert_eq!(network.attest(node, 100).await, [Attested::Signed], "round {round}");
        }
        assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
        network.traffic(&format!("after {round}")).await;
        network.replicate();
    }
    let first = network.on_chain().about(ABOUT).next().unwrap().end.sequence;
    assert_eq!(first.0, HIDDEN - 1, "the hidden envelope follows the first report");
    assert_eq!(network.settle(200, 100).await.unwrap(), 4 * 3);
    assert!(released_late(&network, 200).is_empty(), "nothing is late");

    network.stores[&200].commit(&[place(&network, 100, HIDDEN)]).unwrap();
    reprice(&network.stores[&200]);
    assert_eq!(network.settle(200, 100).await.unwrap(), 0);
    assert_eq!(released_late(&network, 200), [HIDDEN]);
}

/// A late envelope that breaks a rule is no proof of a late release, although its payer owes for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_envelope_that_proves_nothing_hides_no_other_one() {
    let network = congested().await;
    submit_report(&network).await;
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
    let store = &network.stores[&200];
    let id = EnvelopeId::new(ABOUT, store.snapshot().head(ABOUT).unwrap().next());
    let bytes = dated_until(id, START_NS + 5, 0, "of another expiry", 1);
    let validity = Validity::Invalid(InvalidRule(9));
    let facts = facts::of_stored(&bytes, validity, OriginatorId(u32::MAX));
    assert!(facts.as_ref().is_some_and(|it| it.charge.is_some()), "its payer owes for it");
    store.commit(&[Change::Append(LogEntry { id, bytes, validity, facts })]).unwrap();
    assert_eq!(network.settle(200, 100).await.unwrap(), 0);
    assert!(released_late(&network, 200).is_empty());

    store.commit(&late(&network, 200, &[(1, 1)])).unwrap();
    let by_hand = async |is_dry| network.worker(200).step(ReportStep::Settle, ABOUT, is_dry).await;
    assert_eq!(by_hand(true).await, []);
    assert!(released_late(&network, 200).is_empty(), "a dry run records nothing");
    assert_eq!(by_hand(false).await, []);
    assert_eq!(released_late(&network, 200), [id.sequence.next().0], "also by hand");
}

/// A node that has lost the end of its strand does not attest that the last minute before it ends there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_attests_no_end_of_its_own_strand_before_places_that_it_lacks() {
    let mut network = Network::start();
    network.publish(100, 0, &["of the first minute"]).await;
    network.pass(1);
    network.publish(100, 0, &["of the second minute"]).await;
    // A free envelope is between the end of the report and the places that are lost.
    let free = Attestation::sign(ReportId([7; 32]), ABOUT, &key(100)).client_envelope(ABOUT);
    smuggle_unseen(&network, 100, free).await;
    network.pass(1);
    let lost = SequenceId(network.stores[&100].snapshot().head(ABOUT).unwrap().0 + 1);
    let reason = SkipReason::Missing;
    let gap = Change::Skip { originator: ABOUT, from: lost, through: lost, reason };
    network.stores[&100].commit(&[gap]).unwrap();
    network.restart(100);
    network.publish(100, 0, &["behind the gap"]).await;
    network.pass(13 * 60);
    let Written::New(id) = network.worker(100).write(ABOUT).await.unwrap() else {
        panic!("a report is due")
    };
    let judged = network.worker(100).attest(ABOUT).await.unwrap();
    assert!(matches!(judged[..], [(of, Attested::NotNow(_))] if of == id), "{judged:?}");
}

/// The writer of a report ends it in a minute in which the originator still publishes. The rest of the minute would be
/// in no report, and an attestation of the originator that is signed late would prove it guilty of that rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_attests_only_minutes_that_get_no_further_envelope() {
    let network = Network::start();
    network.traffic("some").await;
    network.publish(100, 0, &["of a minute that still fills"]).await;
    network.replicate();
    let snapshot = network.stores[&200].snapshot();
    let last = snapshot.last_used_minute(ABOUT, network.now_minute());
    let (minute, sequence) = last.unwrap().unwrap();
    assert_eq!(minute, network.now_minute());
    let root = booked(&network, 200, minute).root();
    let end = RangeEnd { minute, sequence };
    let report = PayerReport::new(ABOUT, SequenceId::NONE, end, root, nodes()).unwrap();
    smuggle(&network, 300, report.client_envelope()).await;
    // Their clocks are beyond the minute, and the strand is not.
    for _ in 0..2 {
        for node in [100, 200] {
            let judged = network.attest(node, 100).await;
            assert!(matches!(judged[..], [Attested::NotNow(_)]), "node {node}: {judged:?}");
        }
        network.pass(1);
    }
    network.publish(100, 0, &["of a later minute"]).await;
    network.replicate();
    for node in [100, 200] {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed], "node {node}");
    }
}

/// A report ends before the newest minute with usage, so the originator attests it also if it publishes no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_about_an_idle_originator_reaches_the_majority_of_two_nodes() {
    let mut network = Network::start();
    network.set_member(300, false);
    network.follow_chain();
    network.traffic("before it falls silent").await;
    network.replicate();
    network.pass(24 * 60);
    let Written::New(_) = network.write(200, 100).await else { panic!("a report is due") };
    for node in [200, 100] {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed], "node {node}");
    }
    assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
}

/// The times of a strand that was taken over from other software may go back at the border of a minute. The other nodes
/// leave out such envelopes, and an attestation of the originator itself would prove it guilty of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_attests_no_report_about_itself_that_leaves_out_late_envelopes() {
    let network = congested().await;
    let Written::New(id) = network.write(300, 100).await else { panic!("a report is due") };
    for node in [100, 200] {
        network.stores[&node].commit(&late(&network, node, &[(1, 0)])).unwrap();
    }
    let judged = network.worker(100).attest(ABOUT).await.unwrap();
    assert!(matches!(judged[..], [(of, Attested::Refused(_))] if of == id), "{judged:?}");
    assert!(released_late(&network, 100).is_empty(), "the writer is accused of nothing");
    let judged = network.worker(200).attest(ABOUT).await.unwrap();
    assert_eq!(judged, [(id, Attested::Signed)]);
}

/// The envelopes arrive before the other nodes have judged the report. Some are dated into its last minute, and some
/// are not verified yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envelopes_dated_back_into_a_report_keep_no_node_from_attesting_it() {
    let network = congested().await;
    let Written::New(id) = network.write(300, 100).await else { panic!("a report is due") };
    let report = network.worker(300).reports().unwrap().views[0].report.clone();
    for node in [200, 300] {
        network.stores[&node].commit(&late(&network, node, &LATE)).unwrap();
        let shown = late(&network, node, &[(0, 0), (1, 7)]).into_iter().map(|change| {
            let Change::Append(entry) = change else { panic!("an envelope") };
            Change::Append(LogEntry { facts: entry.facts.map(Facts::unbooked), ..entry })
        });
        network.stores[&node].commit_shown(&shown.collect::<Vec<_>>()).unwrap();
        let attested = network.worker(node).attest(ABOUT).await.unwrap();
        assert_eq!(attested, [(id, Attested::Signed)], "node {node}");
    }
    let written = network.worker(200).write(ABOUT).await;
    assert!(matches!(written, Ok(Written::UnderWay)), "{written:?}");
    for (from, to) in [(300, 200), (200, 300)] {
        network.copy(from, to);
    }
    assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
    let on_chain = network.on_chain().about(ABOUT).next().unwrap().report().unwrap();
    assert_eq!(on_chain, report);
    network.stores[&300].forget_all_report_amounts().unwrap();
    assert_eq!(network.settle(300, 100).await.unwrap(), 3, "by the log alone");
}

/// The reference implementation counts such envelopes, and refuses a report without them for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_counts_envelopes_that_are_dated_back_before_it_writes_a_report() {
    let network = congested().await;
    let now = network.now_minute();
    let drafted = |node| {
        let snapshot = network.stores[&node].snapshot();
        draft(&snapshot, ABOUT, SequenceId::NONE, nodes(), now).unwrap().unwrap()
    };
    let before = drafted(200);
    let late = late(&network, 200, &[(0, 1), (-1, 0), (0, 7)]);
    network.stores[&200].commit(&late).unwrap();
    let after = drafted(200);
    assert_eq!(after.root(), booked(&network, 200, before.end().minute).root());
    assert_ne!(after.root(), before.root());
    // A node that has them signs both reports, and one that does not have them yet signs the earlier one.
    let judged = |node: u32, report| recompute(&network.stores[&node].snapshot(), report).unwrap();
    for report in [&before, &after] {
        assert!(matches!(judged(200, report), Recomputed::Equal(_)), "{report:?}");
    }
    assert!(matches!(judged(300, &before), Recomputed::Equal(_)));
}

/// The reference implementation leaves these out, and would attest no report that counts them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_of_the_first_minute_of_all_is_in_no_report() {
    let network = congested().await;
    let drafted = || {
        let snapshot = network.stores[&200].snapshot();
        draft(&snapshot, ABOUT, SequenceId::NONE, nodes(), network.now_minute()).unwrap().unwrap()
    };
    let before = drafted();
    let first = late(&network, 200, &[(-(START_NS / MINUTE_NS), 7)]);
    network.stores[&200].commit(&first).unwrap();
    assert_eq!(booked(&network, 200, 0).payers().len(), 1, "it is in the minute 0");
    assert_eq!(drafted().root(), before.root());
    let judged = recompute(&network.stores[&200].snapshot(), &before).unwrap();
    assert!(matches!(judged, Recomputed::Equal(_)), "{judged:?}");
}

/// An envelope behind the end of a report in its last minute is late only if that minute was over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_that_cuts_its_last_minute_short_is_refused() {
    let network = congested().await;
    let last = network.stores[&200].snapshot().last_used_minute(ABOUT, network.now_minute() - 2);
    let (minute, last) = last.unwrap().unwrap();
    for cut in 1..=3 {
        let sequence = SequenceId(last.0 - cut);
        let end = RangeEnd { minute, sequence };
        let root = network.stated(sequence).root();
        let report = PayerReport::new(ABOUT, SequenceId::NONE, end, root, nodes()).unwrap();
        let judged = recompute(&network.stores[&200].snapshot(), &report).unwrap();
        assert!(matches!(judged, Recomputed::Different(_)), "{cut}: {judged:?}");
    }
    // The originator goes on in a minute that was over before the end of the report.
    let report = |sequence, root| {
        let end = RangeEnd { minute, sequence };
        PayerReport::new(ABOUT, SequenceId::NONE, end, root, nodes()).unwrap()
    };
    let changes = late(&network, 200, &[(1, 0), (1, 1), (1, 2)]);
    network.stores[&200].commit(&changes[..1]).unwrap();
    let first = network.stores[&200].snapshot().head(ABOUT).unwrap();
    let written = report(first, booked(&network, 200, minute).root());
    network.stores[&200].commit(&changes[1..]).unwrap();
    let judged = recompute(&network.stores[&200].snapshot(), &written).unwrap();
    assert!(matches!(judged, Recomputed::Equal(_)), "{judged:?}");
}

/// The majority has counted many late envelopes, and one more came after its attestations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_is_settled_however_many_late_envelopes_are_in_it() {
    let network = congested().await;
    let store = &network.stores[&200];
    let last = store.snapshot().last_used_minute(ABOUT, network.now_minute() - 2);
    let (minute, sequence) = last.unwrap().unwrap();
    store.commit(&late(&network, 200, &[(0, 1); 100])).unwrap();
    let root = booked(&network, 200, minute).root();
    let end = RangeEnd { minute, sequence };
    let report = PayerReport::new(ABOUT, SequenceId::NONE, end, root, nodes()).unwrap();
    let id = report.id(domain());
    let sign = |node: &u32| Attestation::sign(id, OriginatorId(*node), &key(*node));
    let attestations: Vec<_> = NODES.iter().map(sign).collect();
    assert_eq!(network.contract.submit(&report, &attestations).await, Ok(Submitted::Now));
    network.follow_chain();
    store.commit(&late(&network, 200, &[(0, 2)])).unwrap();
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
}

/// A place that a node lacks may still come shortly after the end of the range. If nodes attested at once, its payer
/// would not pay for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_over_places_that_may_still_come_waits_for_a_while() {
    let network = Network::start();
    network.traffic("some").await;
    for node in [200, 300] {
        copy_without(&network, 100, node, 2);
    }
    let last = network.stores[&200].snapshot().last_used_minute(ABOUT, network.now_minute() - 2);
    let (minute, sequence) = last.unwrap().unwrap();
    let root = booked(&network, 200, minute).root();
    let end = RangeEnd { minute, sequence };
    let without = PayerReport::new(ABOUT, SequenceId::NONE, end, root, nodes()).unwrap();
    smuggle(&network, 300, without.client_envelope()).await;
    let judged = network.attest(200, 100).await;
    assert!(matches!(judged[..], [Attested::NotNow(_)]), "{judged:?}");
    network.stores[&200].commit(&[place(&network, 100, 2)]).unwrap();
    reprice(&network.stores[&200]);
    let judged = network.attest(200, 100).await;
    assert!(matches!(judged[..], [Attested::Refused(_)]), "it has come: {judged:?}");
    let judged = network.attest(300, 100).await;
    assert!(matches!(judged[..], [Attested::NotNow(_)]), "{judged:?}");
    network.pass(15);
    assert_eq!(network.attest(300, 100).await, [Attested::Signed]);
}

/// The places may also be the last ones of the minute with which the report would end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_waits_for_places_behind_its_end_that_may_be_of_its_last_minute() {
    const HIDDEN: u64 = 6;
    let network = Network::start();
    network.traffic("some").await;
    for node in [200, 300] {
        copy_without(&network, 100, node, HIDDEN);
    }
    let drafted = network.worker(200).write(ABOUT).await;
    let Err(ReportStepError::Figures(FiguresError::NotYet(why))) = drafted else {
        panic!("{drafted:?}")
    };
    assert_eq!(why, UndecidedError::Missing(SequenceId(HIDDEN), SequenceId(HIDDEN)));

    let last = network.stores[&200].snapshot().last_used_minute(ABOUT, network.now_minute() - 2);
    let (minute, sequence) = last.unwrap().unwrap();
    assert_eq!(sequence.0, HIDDEN - 1);
    let root = booked(&network, 200, minute).root();
    let end = RangeEnd { minute, sequence };
    let without = PayerReport::new(ABOUT, SequenceId::NONE, end, root, nodes()).unwrap();
    smuggle(&network, 300, without.client_envelope()).await;
    for node in [200, 300] {
        let judged = network.attest(node, 100).await;
        assert!(matches!(judged[..], [Attested::NotNow(_)]), "node {node}: {judged:?}");
    }
    network.stores[&200].commit(&[place(&network, 100, HIDDEN)]).unwrap();
    reprice(&network.stores[&200]);
    let judged = network.attest(200, 100).await;
    assert!(matches!(judged[..], [Attested::Refused(_)]), "it has come: {judged:?}");
    network.pass(15);
    assert_eq!(network.attest(300, 100).await, [Attested::Signed]);
}

/// A writer could have any number of reports over no minute submitted, at the expense of the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_over_no_minute_differs() {
    let network = congested().await;
    submit_report(&network).await;
    let last = network.on_chain().last_end(ABOUT).unwrap();

    // One envelope more in the minute with which the last report ends.
    network.stores[&300].commit(&late(&network, 300, &[(1, 0)])).unwrap();
    let snapshot = network.stores[&300].snapshot();
    let sequence = snapshot.head(ABOUT).unwrap();
    let end = RangeEnd { sequence, ..last };
    let nothing = PayerReport::new(ABOUT, last.sequence, end, Leaves::default().root(), nodes());
    let judged = recompute(&snapshot, &nothing.unwrap()).unwrap();
    assert!(matches!(judged, Recomputed::Different(_)), "{judged:?}");
}
