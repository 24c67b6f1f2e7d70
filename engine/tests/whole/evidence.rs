//! Reports of evidence, while some of it cannot be judged yet; and reports about the node that takes them.

use std::sync::Arc;

use hawser_engine::own_strand::OwnStrandStatus;
use hawser_engine::ports::NodeRecord;
use hawser_engine::replication::StrandItem;
use hawser_engine::reports::ReportSubmission;
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::void::VoidStatement;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId, StatementDifference};
use hawser_rules::fees::base_fee;
use hawser_rules::misbehavior::report::client_safety_report;
use hawser_rules::misbehavior::{MisbehaviorKind, Report};
use hawser_rules::{PicoDollarPrice, Rate, RateTable};
use hawser_storage::{
    Change, Evidence, EvidenceTime, Family, InvalidRule, LogEntry, Misbehavior, SkipReason, Store,
    Validity,
};
use prost::Message as _;

use crate::common::{
    self, NODE, Node, START_NS, client, frame, group_payload, group_topic, payer, rate, record,
};
use crate::follow::{self, Follower, OTHER, SOURCE, dated, key};

const SECOND_NS: i64 = 1_000_000_000;

/// An envelope that a node dates so many seconds after the start, with a wrong price if it is to have one.
fn envelope(node: OriginatorId, sequence: u64, after_s: i64, is_overpriced: bool) -> Bytes {
    let text = sequence.to_string();
    let client = client(&group_topic(1), None, group_payload(frame(1, 1, text.as_bytes())));
    let paid: Bytes = PayerEnvelope::sign(client, node, 60, &payer(0)).encode_to_vec().into();
    let originator_ns = START_NS + after_s * SECOND_NS;
    let fee = base_fee(&rate(), paid.len() as u64, 60).unwrap().0;
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: node.0,
        originator_sequence_id: sequence,
        originator_ns,
        base_fee_picodollars: fee + u64::from(is_overpriced),
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(originator_ns / SECOND_NS).unwrap() + 60 * 86_400,
        payer_envelope_bytes: paid,
    };
    UnsealedEnvelope::new(&statement).seal(&key(node))
}

fn overpriced(node: OriginatorId, sequence: u64) -> Evidence {
    let envelopes = vec![envelope(node, sequence, 0, true)];
    let at = EnvelopeId::new(node, SequenceId(sequence));
    Evidence { misbehavior: Misbehavior::Fee, at, from: None, envelopes }
}

fn back_in_time(node: OriginatorId, sequence: u64) -> Evidence {
    let envelopes =
        vec![envelope(node, sequence - 1, 60, false), envelope(node, sequence, 0, false)];
    let at = EnvelopeId::new(node, SequenceId(sequence));
    Evidence { misbehavior: Misbehavior::TimeBack, at, from: None, envelopes }
}

/// A node that knows these others, and prices as of so many seconds after the start.
fn start(store: Store, others: &[OriginatorId], prices_s: i64) -> Node {
    let node = common::start(store);
    register(&node, others);
    let table = RateTable::new(vec![rate()], Some(START_NS + prices_s * SECOND_NS)).unwrap();
    node.rates.send_replace(Arc::new(table));
    node
}

fn register(node: &Node, others: &[OriginatorId]) {
    let other = |id: &OriginatorId| {
        let public_key = key(*id).public_key();
        NodeRecord { id: *id, public_key, owner: public_key.address(), ..record() }
    };
    let all = others.iter().map(other).chain([record()]);
    node.registry.send_replace(Arc::new(all.collect()));
}

/// Makes reports, and returns the kind and the accused of all that are kept.
fn reported(node: &Node) -> Vec<(MisbehaviorKind, OriginatorId)> {
    node.engine.reports().report_evidence().unwrap();
    let kept = node.engine.store().snapshot().reports(0, 99, usize::MAX).unwrap();
    let reports = kept.iter().map(|stored| Report::decode(&stored.kept.report).unwrap());
    reports.map(|report| (report.kind(), report.accused())).collect()
}

fn record_evidence(store: &Store, after_s: i64, evidence: &[Evidence]) {
    let now_ns = u64::try_from(START_NS + after_s * SECOND_NS).unwrap();
    assert_eq!(store.record_evidence(now_ns, evidence).unwrap().len(), evidence.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_price_waits_for_the_list_and_holds_up_no_other_report_also_after_a_restart() {
    let store = common::store();
    record_evidence(&store, 1, &[back_in_time(SOURCE, 2), overpriced(SOURCE, 3)]);
    record_evidence(&store, 2, &[overpriced(SOURCE, 4), back_in_time(SOURCE, 6)]);
    let first = start(store.clone(), &[SOURCE], 0);
    let back = (MisbehaviorKind::OutOfOrder, SOURCE);
    assert_eq!(reported(&first), [back, back], "the prices are older than the evidence");
    record_evidence(&store, 3, &[back_in_time(SOURCE, 8)]);
    assert_eq!(reported(&first), [back, back, back]);
    drop(first);

    let again = start(store.clone(), &[SOURCE], 0);
    assert_eq!(reported(&again), [back, back, back], "none twice");
    let read = RateTable::new(vec![rate()], Some(START_NS + 7_200 * SECOND_NS)).unwrap();
    let of_start = read.of_block((START_NS / SECOND_NS).unsigned_abs() + 300);
    again.rates.send_replace(Arc::new(of_start));
    assert_eq!(reported(&again), [back, back, back], "the block is older, whatever the clock says");
    let overpriced = (MisbehaviorKind::InvalidPayload, SOURCE);
    again
        .rates
        .send_replace(Arc::new(RateTable::new(vec![rate()], Some(START_NS + SECOND_NS)).unwrap()));
    assert_eq!(reported(&again), [back, back, back, overpriced], "the list covers the first one");
    again.rates.send_replace(Arc::new(
        RateTable::new(vec![rate()], Some(START_NS + 600 * SECOND_NS)).unwrap(),
    ));
    assert_eq!(reported(&again), [back, back, back, overpriced, overpriced]);
    let last = store.snapshot().evidence(EvidenceTime::default(), 99, usize::MAX).unwrap().pop();
    assert_eq!(store.reported_evidence().unwrap(), last.unwrap().at);
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_about_a_node_that_the_registry_lacks_holds_up_no_other_report() {
    let store = common::store();
    record_evidence(&store, 1, &[back_in_time(OTHER, 2), back_in_time(SOURCE, 2)]);
    let node = start(store, &[SOURCE], 600);
    assert_eq!(reported(&node), [(MisbehaviorKind::OutOfOrder, SOURCE)]);
    register(&node, &[SOURCE, OTHER]);
    assert_eq!(
        reported(&node),
        [(MisbehaviorKind::OutOfOrder, SOURCE), (MisbehaviorKind::OutOfOrder, OTHER)]
    );
}

/// A stranger submits each pair of an envelope before one step and one behind it.
#[tokio::test(flavor = "multi_thread")]
async fn all_pairs_around_one_step_back_in_time_are_one_fact() {
    let node = start(common::store(), &[SOURCE], 600);
    let timed = |place| envelope(SOURCE, place, if place <= 3 { 60 } else { 0 }, false);
    let report = |pair: [u64; 2]| {
        let (kind, envelopes) = (MisbehaviorKind::OutOfOrder, pair.map(timed));
        let now_ns = u64::try_from(START_NS).unwrap();
        client_safety_report(now_ns, SOURCE, kind, &envelopes).unwrap()
    };
    for (caller, earlier) in (2..=3).enumerate() {
        for later in 4..=5 {
            let submitted = node.engine.reports().submit(caller, report([earlier, later])).await;
            let expected = match (earlier, later) {
                (2, 4) => ReportSubmission::Stored,
                _ => ReportSubmission::Known,
            };
            assert_eq!(submitted.unwrap(), expected, "{earlier} and {later}");
        }
    }
    assert_eq!(reported(&node), [(MisbehaviorKind::OutOfOrder, SOURCE)]);
}

/// The accused shows a small step of its own between places that are as far apart as it wants, and then takes a large
/// one.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_step_back_in_time_keeps_out_no_report_of_a_larger_one() {
    let node = start(common::store(), &[SOURCE], 600);
    let submitted = async |pair: [(u64, i64); 2]| {
        let envelopes = pair.map(|(place, after_s)| envelope(SOURCE, place, after_s, false));
        let (kind, time_ns) = (MisbehaviorKind::OutOfOrder, START_NS.unsigned_abs());
        let report = client_safety_report(time_ns, SOURCE, kind, &envelopes).unwrap();
        node.engine.reports().submit(0, report).await.unwrap()
    };
    let far = SequenceId::MAX.0;
    assert_eq!(submitted([(1, 60), (far, 58)]).await, ReportSubmission::Stored);
    assert_eq!(submitted([(20, 61), (21, 59)]).await, ReportSubmission::Known, "as small");
    assert_eq!(submitted([(10, 61), (11, 1)]).await, ReportSubmission::Stored, "a larger one");
    assert_eq!(submitted([(9, 60), (12, 2)]).await, ReportSubmission::Known, "the same one");
}

/// A second process with this node's key is behind it, so peers have this node's envelopes for its places. It has
/// answered a client, which reports both.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_statement_for_a_place_that_is_held_stops_the_node_if_it_was_made_since_the_start()
{
    let first = Follower::start(common::store());
    let held = first.publish("one").await.unwrap();
    first.publish("two").await.unwrap();
    let follower = Follower::start(first.stop().await);
    follower.publish("three").await.unwrap();
    let report = async |other: Bytes| {
        let (kind, time_ns) = (MisbehaviorKind::DuplicateSequenceId, START_NS.unsigned_abs());
        let report = client_safety_report(time_ns, NODE, kind, &[held.clone(), other]).unwrap();
        follower.engine().reports().submit(0, report).await.unwrap()
    };
    // Of an earlier folder: the operator has decided about that.
    assert_eq!(report(dated(NODE, 1, START_NS)).await, ReportSubmission::Stored);
    follower.publish("four").await.unwrap();

    // The fact is known. The statement is another one.
    let later = dated(NODE, 1, START_NS + 60 * SECOND_NS);
    assert_eq!(report(later).await, ReportSubmission::Known);
    let status = || follower.engine().own_strand_status();
    follower.until("it does not sign", || status() == OwnStrandStatus::Stopped).await;
    follower.publish("five").await.unwrap_err();
    follower.stop().await;
}

/// The operator has decided about an earlier folder, also if this one has just come to its places. A registry that is
/// wrong about this node's key says nothing about that key.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_second_statement_for_a_new_place_or_one_of_another_key_stops_no_node() {
    let follower = Follower::start(common::store());
    let held = follower.publish("one").await.unwrap();
    let report = async |pair: [Bytes; 2]| {
        let (kind, time_ns) = (MisbehaviorKind::DuplicateSequenceId, START_NS.unsigned_abs());
        let report = client_safety_report(time_ns, NODE, kind, &pair).unwrap();
        follower.engine().reports().submit(0, report).await.unwrap()
    };
    assert_eq!(report([held, dated(NODE, 1, START_NS)]).await, ReportSubmission::Stored);
    for text in 2..20 {
        follower.publish(&text.to_string()).await.unwrap();
    }

    let right = follower.node.registry.borrow().clone();
    let wrong = NodeRecord { public_key: key(SOURCE).public_key(), ..record() };
    follower.node.registry.send_replace(Arc::new([wrong].into_iter().collect()));
    let of_another_key = |after_s: i64| {
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: NODE.0,
            originator_sequence_id: 1,
            originator_ns: START_NS + after_s * SECOND_NS,
            ..Default::default()
        };
        UnsealedEnvelope::new(&statement).seal(&key(SOURCE))
    };
    let pair = [of_another_key(60), of_another_key(61)];
    assert_eq!(report(pair).await, ReportSubmission::Known, "it proves the same fact");
    follower.node.registry.send_replace(right);
    for text in 20..40 {
        follower.publish(&text.to_string()).await.unwrap();
    }
    follower.stop().await;
}

/// The second one used to be dropped: over QUIC with its peer, over gRPC without a word.
#[tokio::test(flavor = "multi_thread")]
async fn two_statements_for_one_place_in_one_answer_are_evidence() {
    let forms: [fn(Bytes) -> StrandItem<Bytes>; 2] = [StrandItem::Envelope, StrandItem::Second];
    for second in forms {
        let follower = Follower::start(common::store());
        let mut source = follower.connect(SOURCE, &[]);
        assert_eq!(source.want(SOURCE).await, (0, None));
        let [one, another] = ["one", "another"].map(|text| follow::envelope(SOURCE, 1, text));
        let forged = OriginatorEnvelope::encode(
            OriginatorEnvelope::open(another.clone()).unwrap().0,
            Proof::Signature(key(OTHER).sign(originator_digest(b"something else"))),
        );
        source.answer(vec![StrandItem::Envelope(one.clone()), StrandItem::Second(forged)]).await;
        source.answer(vec![second(another.clone())]).await;
        let store = follower.engine().store().clone();
        let found = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
        follower.until("both are kept", || !found().is_empty()).await;
        assert_eq!(found().len(), 1, "the forged one is none");
        let Evidence { misbehavior, at, from, envelopes } = found().remove(0).evidence;
        assert_eq!(misbehavior, Misbehavior::TwoStatements(StatementDifference::Content));
        assert_eq!((at, from), (EnvelopeId::new(SOURCE, SequenceId(1)), Some(SOURCE)));
        assert_eq!(envelopes, [one.clone(), another]);
        assert_eq!(follower.held(SOURCE), [one]);
        follower.stop().await;
    }
}

/// Nodes of other software may sign twice and compute fees again. Only a difference in content wakes operators.
#[tokio::test(flavor = "multi_thread")]
async fn second_statements_are_counted_by_what_differs() {
    let follower = Follower::start(common::store());
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let counted = || {
        let all = follower.engine().counters().second_statements.all();
        all.filter(|(_, count)| *count > 0).collect::<Vec<_>>()
    };
    let expensive = Rate { message_fee: PicoDollarPrice(2000), ..rate() };
    let again = follow::priced(SOURCE, 1, "one", expensive);
    let first = StrandItem::Envelope(follow::envelope(SOURCE, 1, "one"));
    source.answer(vec![first, StrandItem::Second(again.clone())]).await;
    let expected = [("metadata", 1)];
    follower.until("other fees are counted", || counted() == expected).await;
    // The fact is known, so it counts once.
    let another = follow::envelope(SOURCE, 1, "another");
    source.answer(vec![StrandItem::Second(again), StrandItem::Second(another)]).await;
    let expected = [("metadata", 1), ("content", 1)];
    follower.until("other content is counted", || counted() == expected).await;
    follower.stop().await;
}

/// One write fills the place with the first one, and leaves the other one out.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_statements_for_a_missing_place_in_one_answer_the_first_fills_it() {
    let store = common::store();
    let [one, another, last] = [(1, "one"), (1, "another"), (2, "last")]
        .map(|(sequence, text)| follow::envelope(SOURCE, sequence, text));
    let (at, end) = (SequenceId(1), EnvelopeId::new(SOURCE, SequenceId(2)));
    let reason = SkipReason::Missing;
    let skip = Change::Skip { originator: SOURCE, from: at, through: at, reason };
    let entry = LogEntry { id: end, bytes: last.clone(), validity: Validity::Valid, facts: None };
    store.commit(&[skip, Change::Append(entry)]).unwrap();
    let follower = Follower::start(store.clone());
    let mut other = follower.connect(OTHER, &[]);
    assert_eq!(other.want(SOURCE).await, (0, Some(1)));
    let items = vec![StrandItem::Envelope(one.clone()), StrandItem::Second(another.clone())];
    other.answer(items).await;
    let whole = [one.clone(), last];
    follower.until("the first one is stored", || follower.held(SOURCE) == whole).await;
    let found = store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    let found: Vec<_> = found.into_iter().map(|it| it.evidence).collect();
    let expected = Evidence {
        misbehavior: Misbehavior::TwoStatements(StatementDifference::Content),
        at: EnvelopeId::new(SOURCE, at),
        from: Some(OTHER),
        envelopes: vec![one, another],
    };
    assert_eq!(found, [expected], "it is kept before the place is filled");
    follower.stop().await;
}

/// Two machines have one key. The first one signs a thousand places and more, the other one then declares them void,
/// and the first one goes on. A peer shows the statement to a node that holds all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_comes_late_is_compared_with_the_last_envelope_of_its_places() {
    late_statement_is_compared(1_100, |_| {}).await;
}

/// The disk has changed the mark of an earlier one of the places.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_comes_late_is_compared_with_the_last_envelope_behind_damage() {
    let mark = [&SOURCE.0.to_be_bytes()[..], &3_u64.to_be_bytes()].concat();
    late_statement_is_compared(5, |store| store.put_raw_row(Family::Mark, &mark, &[0xff])).await;
}

/// Has a peer show a statement about the places of a strand that ends with this one, which alone is later than it. The
/// rows in the store are damaged before. Asserts that the last envelope is kept beside the statement.
async fn late_statement_is_compared(last: u64, damage: impl FnOnce(&Store)) {
    let store = common::store();
    let append = |place, bytes| {
        let id = EnvelopeId::new(SOURCE, SequenceId(place));
        Change::Append(LogEntry::invalid(id, bytes, InvalidRule(1)))
    };
    // Their bytes state no time, as if each one were early enough.
    let early = (1..last).map(|place| append(place, Bytes::from_static(b"early")));
    let late = dated(SOURCE, last, START_NS);
    let changes: Vec<Change> = early.chain([append(last, late.clone())]).collect();
    store.commit(&changes).unwrap();
    damage(&store);

    let follower = Follower::start(store.clone());
    let other = follower.connect(OTHER, &[]);
    let time_ns = (START_NS - 301 * SECOND_NS).unsigned_abs();
    let (from, through) = (SequenceId(1), SequenceId(1_000_000));
    let of = VoidStatement { node: SOURCE, from, through, time_ns, incarnation: [3; 16] };
    let signed = of.sign(&key(SOURCE));
    other.link.note_void(signed);
    let found = || store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap();
    follower.until("it is a claim", || !found().is_empty()).await;
    let Evidence { misbehavior, at, envelopes, .. } = found().remove(0).evidence;
    assert_eq!((misbehavior, at.sequence), (Misbehavior::VoidSigned, SequenceId(last)));
    assert_eq!(envelopes, [Bytes::copy_from_slice(&signed.encode()), late]);
    follower.stop().await;
}
