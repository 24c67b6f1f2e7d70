//! Envelopes that break a rule, in the strand of a node that does not apply it: what is booked for them, and that
//! readers never get them.

use hawser_engine::facts;
use hawser_engine::ports::{NodeRecord, Registry};
use hawser_proto::envelope::{ClientEnvelope, OriginatorEnvelope, PayerEnvelope, Payload, Proof};
use hawser_proto::pb::xmtp::mls::api::v1::UploadKeyPackageRequest;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{
    Bytes, Cursor, EnvelopeId, OriginatorId, SequenceId, Topic, TopicKind, minute_of,
};
use hawser_rules::fees::total_fee;
use hawser_rules::{Absence, Absences, PicoDollarPrice, Rate};
use hawser_storage::{InvalidRule, LogItem, Store, Validity};
use prost::Message as _;
use std::sync::Arc;

use crate::common::{
    self, NODE, START_NS, client, frame, group_payload, group_topic, payer, rate, record,
    record_rates,
};
use crate::follow::{Follower, OTHER, SOURCE, key};

const SECOND_NS: i64 = 1_000_000_000;
/// The time between two envelopes, such that all of them are in one minute.
const STEP_NS: i64 = SECOND_NS / 2;
const DAY_S: u64 = 86_400;

/// Congestion begins with the third envelope of a minute.
fn busy_rate() -> Rate {
    let target_rate_per_minute = 2;
    Rate { start_unix_s: 1, congestion_fee: PicoDollarPrice(7), target_rate_per_minute, ..rate() }
}

fn store() -> Store {
    let store = common::store();
    record_rates(&store, &[rate(), busy_rate()]);
    store
}

/// An envelope of the strand: its payer envelope with its retention and topic, what its time and retention do not
/// explain in its expiry, its stated base fee, and the rule that it breaks.
struct Planned {
    paid: Bytes,
    days: u32,
    topic: Topic,
    late_s: u64,
    base_fee: u64,
    rule: Option<u8>,
    /// True if only other software decodes it, and its payer has signed it for this strand, where it is not free.
    is_odd: bool,
}

fn planned(rule: Option<u8>, client: Bytes, target: OriginatorId, days: u32) -> Planned {
    let topic = ClientEnvelope::parse(client.clone()).unwrap().topic().clone();
    let paid = PayerEnvelope::sign(client, target, days, &payer(0)).encode_to_vec().into();
    let late_s = if rule == Some(9) { 2 * DAY_S } else { 0 };
    Planned { paid, days, topic, late_s, base_fee: 1, rule, is_odd: false }
}

/// Writes a message with fields before and behind those of the client envelope, and behind those of the payer envelope.
fn undecodable(target: OriginatorId, days: u32, [before, behind, outside]: [&[u8]; 3]) -> Planned {
    let whole = client(&group_topic(1), None, group_payload(frame(1, 1, b"odd")));
    undecodable_client(target, days, &[before, &whole[..], behind].concat(), outside)
}

/// Wraps a client envelope, with fields behind those of the payer envelope.
fn undecodable_client(target: OriginatorId, days: u32, client: &[u8], outside: &[u8]) -> Planned {
    let signed = Bytes::copy_from_slice(client);
    let paid = PayerEnvelope::sign(signed, target, days, &payer(0)).encode_to_vec();
    let paid: Bytes = [&paid[..], outside].concat().into();
    assert!(PayerEnvelope::parse(paid.clone()).is_err(), "this program does not decode it");
    let is_odd = target == SOURCE && days == 60;
    Planned { paid, days, topic: group_topic(1), late_s: 0, base_fee: 1, rule: Some(1), is_odd }
}

/// Envelopes that a newer version decodes: a payload with the number 8, a topic of the kind 6, or both. The first one
/// of a kind that is free there, one of a kind that is free here whatever its node states, and one that was signed for
/// another node are not booked. One of a kind that is not free here is, also if its node states no fee.
fn newer() -> Vec<Planned> {
    let of = |client: &[u8]| undecodable_client(SOURCE, 60, client, &[]);
    let both: &[u8] = &[0x0a, 4, 0x12, 2, 6, 1, 0x42, 1, b'?'];
    vec![
        Planned { base_fee: 0, is_odd: false, ..of(both) },
        undecodable_client(OTHER, 60, both, &[]),
        of(both),
        Planned { is_odd: false, ..of(&[0x0a, 4, 0x12, 2, 4, 1, 0x42, 1, b'?']) },
        Planned { base_fee: 0, ..of(&[0x0a, 4, 0x12, 2, 0, 1, 0x42, 1, b'?']) },
        of(&[0x0a, 4, 0x12, 2, 0, 1, 0x42, 1, b'?']),
        of(&[0x0a, 4, 0x12, 2, 6, 1, 0x12, 0]),
    ]
}

/// Envelopes that xmtpd decodes and this program does not, and two that xmtpd refuses to sign.
fn odd() -> Vec<Planned> {
    let number: &[u8] = &[0x10, 5]; // field 2
    let groups = [[0x7b_u8; 150], [0x7c; 150]].concat();
    // An identity update of a byte more than is decoded, which the message behind it replaces.
    let update: Vec<u8> = [&[0x2a, 0x81, 0x80, 0x10][..], &[0; 256 * 1024 + 1]].concat();
    vec![
        undecodable(SOURCE, 60, [&[], number, &[]]), // a payload that is a number
        undecodable(SOURCE, 60, [&[], &[0x0a, 2, 0x10, 5], &[]]), // a topic that is one
        undecodable(SOURCE, 60, [&[], &[], &[0x08, 5]]), // a client envelope that is one
        undecodable(SOURCE, 60, [&[], &[], b"\x1a\x03300"]), // a target that is a text
        undecodable(SOURCE, 60, [&[], number, &[0x12, 0]]), // a signature in two parts
        undecodable(SOURCE, 60, [&[], &groups, &[]]),
        undecodable(SOURCE, 60, [&update, &[], &[]]),
        // Neither of these is booked.
        undecodable(OTHER, 60, [&[], number, &[]]),
        undecodable(SOURCE, 1, [&[], number, &[]]),
    ]
}

/// One envelope of each kind that xmtpd takes over from such a strand, and two valid ones around them.
fn plan() -> Vec<Planned> {
    let message = |text: &str| group_payload(frame(1, 1, text.as_bytes()));
    let to = |topic: &Topic, payload| client(topic, None, payload);
    let group = |payload| to(&group_topic(1), payload);
    let mut trailing = frame(1, 1, b"trailing");
    trailing.push(0);
    let cursor = pb::Cursor { node_id_to_sequence_id: [(OTHER.0, 1)].into() };
    let dependent = client(&group_topic(1), Some(cursor), message("dependent"));
    let welcome = Topic::new(TopicKind::Welcomes, &[1; 16]).unwrap();
    let long = Topic::new(TopicKind::GroupMessages, &[1; 200]).unwrap();
    let package = Topic::new(TopicKind::KeyPackages, &[1; 16]).unwrap();
    let reserved = Topic::new(TopicKind::PayerReports, &[1; 16]).unwrap();
    let no_package = Payload::UploadKeyPackage(UploadKeyPackageRequest::default());
    let mut plan = vec![
        planned(None, group(message("first")), SOURCE, 60),
        planned(Some(6), group(group_payload(trailing)), SOURCE, 60),
        planned(Some(6), group(group_payload(frame(1, 3, b"commit"))), SOURCE, 60),
        planned(Some(4), to(&welcome, message("elsewhere")), SOURCE, 60),
        planned(Some(4), to(&long, message("long")), SOURCE, 60),
        planned(Some(7), dependent, SOURCE, 60),
        planned(Some(9), group(message("expiry")), SOURCE, 60),
        planned(Some(14), to(&package, no_package), SOURCE, 60),
        // None of these is booked: signed for another node, retention that no payer has signed, twice, and a free
        // topic.
        planned(Some(3), group(message("copy")), OTHER, 60),
        planned(Some(8), group(message("for ever and a day")), SOURCE, 1_000_000_000),
        planned(Some(4), to(&welcome, message("both")), SOURCE, 1_000_000_000),
        planned(Some(4), to(&reserved, message("free")), SOURCE, 60),
    ];
    plan.append(&mut odd());
    plan.append(&mut newer());
    plan.push(planned(None, group(message("last")), SOURCE, 60));
    plan
}

fn is_owed(it: &Planned) -> bool {
    let is_booked = it.rule.is_none_or(|rule| [4, 6, 7, 9, 14].contains(&rule)) || it.is_odd;
    is_booked && it.days < 1000 && it.topic.kind() != TopicKind::PayerReports
}

/// Place and time of an envelope of the plan: a step after the one before.
fn place(index: usize) -> (u64, i64) {
    let sequence = index as u64 + 1;
    (sequence, START_NS + i64::try_from(sequence).unwrap() * STEP_NS)
}

fn strand() -> Vec<Bytes> {
    let envelope = |(index, it): (usize, &Planned)| {
        let (sequence, ns) = place(index);
        let now_s = u64::try_from(ns / SECOND_NS).unwrap();
        let statement = pb::UnsignedOriginatorEnvelope {
            originator_node_id: SOURCE.0,
            originator_sequence_id: sequence,
            originator_ns: ns,
            base_fee_picodollars: it.base_fee,
            congestion_fee_picodollars: 0,
            expiry_unixtime: now_s + u64::from(it.days) * DAY_S + it.late_s,
            payer_envelope_bytes: it.paid.clone(),
        };
        let bytes: Bytes = statement.encode_to_vec().into();
        let signature = key(SOURCE).sign(originator_digest(&bytes));
        OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
    };
    plan().iter().enumerate().map(envelope).collect()
}

/// Messages and amount, by the arithmetic of the page about fees, of what is owed and in no absence.
fn expected(is_absent: impl Fn(i64) -> bool) -> (u64, u64) {
    let (mut messages, mut amount) = (0, 0);
    let plan = plan();
    let owed = plan.iter().enumerate().filter(|(_, it)| is_owed(it));
    for (_, it) in owed.filter(|(index, _)| !is_absent(place(*index).1)) {
        let len_bytes = it.paid.len() as u64;
        amount += total_fee(&busy_rate(), len_bytes, 60, [messages, 0, 0, 0, 0]).unwrap().0;
        messages += 1;
    }
    (messages, amount)
}

/// The marks of the strand.
fn validities(store: &Store) -> Vec<Validity> {
    let validity = |item| match item {
        LogItem::Envelope { validity, .. } => validity,
        LogItem::Skipped { .. } => panic!("nothing is missing"),
    };
    let snapshot = store.snapshot();
    let log = snapshot.log(EnvelopeId::new(SOURCE, SequenceId::NONE), SequenceId::MAX);
    log.map(|item| validity(item.unwrap())).collect()
}

/// Reprices all marked minutes, as a task of the node does. Returns the booked messages and their amount, the
/// marks, and the digests of all rows, which equal those of a rebuild.
fn books(store: &Store) -> ((u64, u64), Vec<Validity>, String) {
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    common::reprice(store, &derive);
    let many = |stored: &[hawser_storage::StoredEnvelope]| facts::of_stored_many(stored, NODE);
    let read = || {
        let snapshot = store.snapshot();
        let address = payer(0).public_key().address();
        let row = snapshot.usage(SOURCE, minute_of(START_NS), address).unwrap().unwrap();
        let counted = snapshot.congestion(SOURCE, minute_of(START_NS)).unwrap();
        assert_eq!(counted, row.messages, "what is booked counts for congestion");
        let digests = format!("{:?}", snapshot.projection_digests().unwrap());
        ((row.messages, row.picodollars.0), validities(store), digests)
    };
    let books = read();
    store.rebuild_many(&many, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(read(), books, "a rebuild books the same");
    books
}

fn assert_read(follower: &Follower, sequences: &[u64]) {
    let strand = strand();
    let expected: Vec<_> =
        sequences.iter().map(|it| strand[usize::try_from(*it).unwrap() - 1].clone()).collect();
    let reader = follower.engine().reader();
    for it in plan() {
        let topic = it.topic;
        let got = reader
            .query_topics(std::slice::from_ref(&topic), &Cursor::new(), 100)
            .unwrap_or_default();
        let is_group = topic == group_topic(1);
        assert_eq!(got, if is_group { expected.clone() } else { Vec::new() });
    }
    let all = reader.query_originators(&[SOURCE], &Cursor::new(), 100).unwrap();
    assert_eq!(all, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_payer_has_signed_is_booked_whatever_readers_get() {
    let count = plan().len() as u64;
    let marks: Vec<_> = plan().iter().map(|it| Validity::of(it.rule.map(InvalidRule))).collect();
    let at_once = Follower::start(store());
    let mut source = at_once.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.send(strand()).await;
    at_once.wait_for(SOURCE, count).await;
    let first = books(at_once.engine().store());
    assert_eq!(first.0, expected(|_| false));
    assert_eq!(first.0.0, 20, "two valid ones, and eighteen with marks");
    assert_eq!(first.1, marks);
    assert_read(&at_once, &[1, count]);
    at_once.stop().await;

    let in_parts = Follower::start(store());
    let mut source = in_parts.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    for (index, envelope) in strand().into_iter().enumerate() {
        source.send([envelope]).await;
        in_parts.wait_for(SOURCE, index as u64 + 1).await;
    }
    assert_eq!(books(in_parts.engine().store()), first);
    assert_read(&in_parts, &[1, count]);
    in_parts.stop().await;
}

/// The registry in which the source of the strand is absent after the second that is `from` after the start.
fn registry(from: Option<i64>) -> Arc<Registry> {
    let record = |id: OriginatorId| NodeRecord {
        id,
        public_key: key(id).public_key(),
        owner: key(id).public_key().address(),
        ..record()
    };
    let records = [NODE, OTHER, SOURCE].map(record).into_iter().collect::<Registry>();
    let absence = |from: i64| {
        let from_s = u64::try_from(START_NS / SECOND_NS + from).unwrap();
        Absence { from_s, until_s: Some(from_s + 1000) }
    };
    let absences = Absences::new(from.map(absence).into_iter().collect()).unwrap();
    Arc::new(records.with_absences([(SOURCE, absences)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_ends_bookings_and_gives_them_back_with_the_marks_whenever_it_is_learned() {
    let count = plan().len() as u64;
    // The second of the removal is not part of the absence.
    let is_absent = |ns: i64| ns >= START_NS + 2 * SECOND_NS;
    let absent_from_start = Follower::start_with(store(), registry(Some(1)));
    let mut source = absent_from_start.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.send(strand()).await;
    absent_from_start.wait_for(SOURCE, count).await;
    let away = books(absent_from_start.engine().store());
    assert_eq!(away.0, expected(is_absent));
    assert_eq!(away.0.0, 3, "those from before");
    assert_read(&absent_from_start, &[1]);

    let absent_later = Follower::start_with(store(), registry(None));
    let mut source = absent_later.connect(SOURCE, &[]);
    source.want(SOURCE).await;
    source.send(strand()).await;
    absent_later.wait_for(SOURCE, count).await;
    let present = books(absent_later.engine().store());
    assert_eq!(present.0, expected(|_| false));

    let marks = |follower: &Follower| validities(follower.engine().store());
    absent_later.node.registry.send_replace(registry(Some(1)));
    absent_later.until("the strand is judged anew", || marks(&absent_later) == away.1).await;
    assert_eq!(books(absent_later.engine().store()), away);
    assert_read(&absent_later, &[1]);

    // As after a reorganisation of the chain.
    for follower in [&absent_from_start, &absent_later] {
        follower.node.registry.send_replace(registry(None));
        follower.until("the strand is judged anew", || marks(follower) == present.1).await;
        assert_eq!(books(follower.engine().store()), present);
        assert_read(follower, &[1, count]);
    }
    absent_from_start.stop().await;
    absent_later.stop().await;
}
