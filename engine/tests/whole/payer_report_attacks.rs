//! Payer reports while an originator works against them: it shows places late or never, dates envelopes back, lets
//! amounts overflow, and has a majority attest a minute that is none.

use hawser_engine::facts;
use hawser_engine::payer_reports::{FiguresError, Recomputed, UndecidedError, recompute};
use hawser_engine::runtime::{
    Attested, PayerReporter, ReportContract as _, ReportStepError, Submitted, Written,
};
use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::fees::base_fee;
use hawser_rules::payer_report::{
    Attestation, Leaves, NodeIds, PayerReport, PicoDollars, RangeEnd, ReportId,
};
use hawser_rules::{PicoDollarPrice, Rate};
use hawser_storage::{Change, LogEntry, SkipReason, Store, Validity};
use prost::Message as _;

use crate::common::{START_NS, client, frame, group_payload, group_topic, payer, rate};
use crate::report_contract::{NODES, domain, key};
use crate::report_network::{Network, smuggle};

pub const ABOUT: OriginatorId = OriginatorId(100);
pub const MINUTE_NS: i64 = 60_000_000_000;

/// The place of a strand as the store of its node has it.
pub fn place(network: &Network, originator: u32, at: u64) -> Change {
    let id = EnvelopeId::new(OriginatorId(originator), SequenceId(at));
    let bytes = network.stores[&originator].snapshot().get(id).unwrap().unwrap();
    append(id, bytes)
}

pub fn append(id: EnvelopeId, bytes: Bytes) -> Change {
    // The receipts of other nodes' strands are not looked at.
    let facts = facts::of_stored(&bytes, Validity::Valid, OriginatorId(u32::MAX));
    Change::Append(LogEntry { id, bytes, validity: Validity::Valid, facts })
}

/// Brings the rest of a strand to a node without one place, which no peer shows.
pub fn copy_without(network: &Network, from: u32, to: u32, gap: u64) {
    let head = |node: u32| network.stores[&node].snapshot().head(OriginatorId(from)).unwrap();
    for at in head(to).0 + 1..=head(from).0 {
        let change = if at == gap {
            Change::Skip {
                originator: OriginatorId(from),
                from: SequenceId(gap),
                through: SequenceId(gap),
                reason: SkipReason::Missing,
            }
        } else {
            place(network, from, at)
        };
        network.stores[&to].commit(&[change]).unwrap();
    }
}

pub fn reprice(store: &Store) {
    let own = store.identity().node;
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, own);
    store.reprice(&derive, usize::MAX).unwrap();
}

/// An originator that shows places late, again and again, has its own amounts corrected for as long as it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrections_at_one_originator_hold_up_no_report_about_another() {
    let network = Network::start();
    network.traffic("true").await;
    network.publish(300, 0, &["one", "two", "three"]).await;
    network.copy(100, 200);
    network.copy(100, 300);
    copy_without(&network, 300, 200, 1);
    network.stores[&200].commit(&[place(&network, 300, 1)]).unwrap();
    let liar = network.stores[&200].clone();
    assert!(liar.has_unpriced(), "the amounts of the originator are to be corrected");
    let Written::New(id) = network.write(200, 100).await else { panic!("a report is due") };
    assert_eq!(network.attest(200, 100).await, [Attested::Signed]);
    assert_eq!(network.attest(100, 100).await, [Attested::Signed]);
    assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
    assert_eq!(network.settle(200, 100).await.unwrap(), 3);
    assert!(liar.has_unpriced() && network.worker(200).explain(&id.to_string()).unwrap().is_some());
    let about_it = network.worker(200).write(OriginatorId(300)).await;
    assert!(matches!(about_it, Ok(Written::TooLittle)), "{about_it:?}");
}

/// Sequence ids are used up without an envelope at nodes of the reference implementation, and an originator may keep
/// one to itself. A report without it is attested by those that lack it, and settled also if it is shown in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_no_node_is_shown_holds_up_no_report() {
    let network = Network::start();
    network.traffic("some").await;
    for node in [200, 300] {
        copy_without(&network, 100, node, 2);
    }
    let worker = network.worker(200);
    let drafted = worker.write(ABOUT).await;
    let Err(ReportStepError::Figures(FiguresError::NotYet(UndecidedError::Missing(from, through)))) =
        drafted
    else {
        panic!("{drafted:?}")
    };
    assert_eq!((from.0, through.0), (2, 2), "it may still come");
    network.pass(13 * 60);
    let written = worker.write(ABOUT).await;
    assert!(matches!(written, Ok(Written::New(_))), "{written:?}");
    network.replicate();
    let attested = network.attest(100, 100).await;
    assert!(matches!(attested[..], [Attested::Refused(_)]), "the originator has it: {attested:?}");
    let signed = worker.attest(ABOUT).await.unwrap();
    assert!(matches!(signed[..], [(_, Attested::Signed)]), "{signed:?}");
    network.replicate();
    assert_eq!(network.attest(300, 100).await, [Attested::Signed]);
    assert_eq!(network.submit(200, 100).await, [Submitted::Now]);

    network.stores[&200].commit(&[place(&network, 100, 2)]).unwrap();
    reprice(&network.stores[&200]);
    let on_chain = network.on_chain().about(ABOUT).next().unwrap().report().unwrap();
    let now = recompute(&network.stores[&200].snapshot(), &on_chain).unwrap();
    assert!(matches!(now, Recomputed::Different(_)), "the amounts are others now");
    let id = on_chain.id(domain()).to_string();
    let is_equal = || network.worker(200).explain(&id).unwrap().unwrap().is_equal();
    assert!(is_equal(), "by the amounts that it attested");
    // The node is started again: the log alone does not say that the place came late.
    let store = &network.stores[&200];
    let mut attested = Vec::new();
    assert!(store.each_report_amounts(|report| attested.push(report)).unwrap());
    store.forget_all_report_amounts().unwrap();
    assert!(!is_equal(), "by the log");
    let by_the_log = network.settle(200, 100).await;
    assert!(by_the_log.is_err(), "{by_the_log:?}");
    attested.iter().for_each(|report| store.record_report_amounts(report).unwrap());
    // An endpoint that says falsely that the report is settled has no amounts forgotten.
    let misled = network.worker(200);
    network.contract.0.lock().says_settled = true;
    assert_eq!(misled.settle(ABOUT).await.unwrap(), 0);
    network.contract.0.lock().says_settled = false;
    misled.attest(ABOUT).await.unwrap();
    assert_eq!(network.settle(200, 100).await.unwrap(), 3, "by the amounts that were attested");
}

/// An originator keeps back a place in every hour while its usage goes on. So each range that ends in a new minute
/// lacks places that may still come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_that_are_kept_back_without_end_hold_up_no_report_about_a_busy_strand() {
    let network = Network::start();
    let first_minute = network.now_minute();
    for hour in 0..26_u32 {
        network.traffic(&format!("of hour {hour}")).await;
        let kept_back = network.stores[&100].snapshot().head(ABOUT).unwrap().0 - 7;
        for node in [200, 300] {
            copy_without(&network, 100, node, kept_back);
        }
        let written = network.worker(200).write(ABOUT).await;
        network.replicate();
        // The first range ends when it is half a day old, and later ones are as long as others.
        if [12, 18, 24].contains(&hour) {
            assert!(matches!(written, Ok(Written::New(_))), "hour {hour}: {written:?}");
            for node in [200, 300] {
                assert_eq!(network.attest(node, 100).await, [Attested::Signed], "hour {hour}");
            }
            assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
        } else {
            let Err(ReportStepError::Figures(FiguresError::NotYet(why))) = written else {
                panic!("hour {hour}: {written:?}")
            };
            assert!(matches!(why, UndecidedError::Missing(..)), "hour {hour}: {why}");
        }
        network.pass(57);
    }
    let ends: Vec<u32> = network.on_chain().about(ABOUT).map(|it| it.end.minute).collect();
    assert_eq!(ends, [0, 6, 12].map(|hour| first_minute + hour * 60 + 2));
}

/// Has node 300 write a true report about the strand of node 100 that ends with the last usage up to a minute.
async fn write_true(network: &Network, minute: u32) {
    let snapshot = network.stores[&200].snapshot();
    let last = snapshot.last_used_minute(ABOUT, minute).unwrap();
    let end = last.map(|(minute, sequence)| RangeEnd { minute, sequence }).unwrap();
    let root = network.stated(end.sequence).root();
    let nodes = NodeIds::new(NODES.map(OriginatorId)).unwrap();
    let report = PayerReport::new(ABOUT, SequenceId::NONE, end, root, nodes).unwrap();
    let equal = recompute(&snapshot, &report).unwrap();
    assert!(matches!(equal, Recomputed::Equal(_)), "it is true: {equal:?}");
    smuggle(network, 300, report.client_envelope()).await;
}

/// Node 300 writes true reports of a minute more each while a longer one waits for its submission. The attestations of
/// so many would push those of the longer one out of the newest ones that each node reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn true_reports_of_few_minutes_displace_no_attestation_of_a_longer_one() {
    const SHORT: u32 = 33;
    let network = Network::start();
    let first = network.now_minute();
    for minute in 0..SHORT + 3 {
        network.publish(100, 0, &[&format!("minute {minute}")]).await;
        network.pass(1);
    }
    network.replicate();
    let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
    for node in [100, 200] {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
    }
    for minute in first..first + SHORT {
        write_true(&network, minute).await;
    }
    // A look judges four reports of a writer.
    for _ in 0..SHORT.div_ceil(4) {
        for node in [100, 200] {
            let attested = network.attest(node, 100).await;
            assert!(attested.contains(&Attested::Before), "the longer one: {attested:?}");
        }
    }
    assert_eq!(network.submit(100, 100).await, [Submitted::Now], "and no shorter one");
    let end = network.on_chain().last_end(ABOUT).unwrap();
    assert!(end.minute > first + SHORT, "{end:?}");
}

/// Its writer has shown the places behind to one other node alone, which attests it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_still_longer_report_without_a_majority_frees_no_shorter_one() {
    let network = Network::start();
    let first = network.now_minute();
    for minute in 0..8 {
        network.publish(100, 0, &[&format!("minute {minute}")]).await;
        network.pass(1);
        if minute == 4 {
            network.replicate();
            let Written::New(_) = network.write(100, 100).await else { panic!("a report is due") };
            for node in [100, 200] {
                assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
            }
        }
    }
    network.replicate();
    write_true(&network, first + 6).await;
    let attested = network.attest(200, 100).await;
    assert!(attested.contains(&Attested::Signed), "the longest one: {attested:?}");
    write_true(&network, first).await;
    let attested = network.attest(200, 100).await;
    assert!(!attested.contains(&Attested::Signed), "the shortest one: {attested:?}");
}

/// The statement of an originator that dates an envelope arbitrarily.
pub fn dated(at: EnvelopeId, originator_ns: i64, by: u8, text: &str) -> Bytes {
    let expiry_unix_s = u64::try_from(originator_ns / 1_000_000_000).unwrap() + 60 * 86_400;
    dated_until(at, originator_ns, by, text, expiry_unix_s)
}

/// The same, with an arbitrary expiry.
pub fn dated_until(
    at: EnvelopeId,
    originator_ns: i64,
    by: u8,
    text: &str,
    expiry_unix_s: u64,
) -> Bytes {
    charging(at, originator_ns, by, text, (expiry_unix_s, 0))
}

/// The same, with an arbitrary expiry and congestion fee.
fn charging(
    at: EnvelopeId,
    originator_ns: i64,
    by: u8,
    text: &str,
    (expiry_unix_s, congestion_fee_picodollars): (u64, u64),
) -> Bytes {
    let message = group_payload(frame(1, 1, text.as_bytes()));
    let client = client(&group_topic(1), None, message);
    let paid = PayerEnvelope::sign(client, at.originator, 60, &payer(by)).encode_to_vec();
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: at.originator.0,
        originator_sequence_id: at.sequence.0,
        originator_ns,
        payer_envelope_bytes: paid.into(),
        base_fee_picodollars: 1,
        congestion_fee_picodollars,
        expiry_unixtime: expiry_unix_s,
    };
    let statement = Bytes::from(statement.encode_to_vec());
    let signature = key(at.originator.0).sign(originator_digest(&statement));
    OriginatorEnvelope::encode(statement, Proof::Signature(signature))
}

/// An originator charges congestion that the rules do not give. Its payers pay by the rules, whatever it states.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_payer_pays_congestion_that_the_rules_do_not_give() {
    const TOO_MUCH: u64 = 50_000_000;
    let network = Network::start();
    let mut by_the_rules = Vec::new();
    for at in 1..=9_u8 {
        let (minute, by) = ((at - 1) / 3, at % 3);
        let id = EnvelopeId::new(ABOUT, SequenceId(at.into()));
        let ns = START_NS + i64::from(minute) * MINUTE_NS + i64::from(at);
        let expiry_unix_s = u64::try_from(ns / 1_000_000_000).unwrap() + 60 * 86_400;
        let text = format!("charged too much {at}");
        let bytes = charging(id, ns, by, &text, (expiry_unix_s, TOO_MUCH));
        for node in [200, 300] {
            network.stores[&node].commit(&[append(id, bytes.clone())]).unwrap();
        }
        // The newest minute may still fill, and is in no report.
        if minute < 2 {
            let envelope = OriginatorEnvelope::parse(bytes).unwrap();
            let len = envelope.unsigned().payer().as_bytes().len();
            let fee = base_fee(&rate(), len as u64, 60).unwrap();
            by_the_rules.push((payer(by).public_key().address(), fee));
        }
    }
    network.pass(3);
    let Written::New(_) = network.write(200, 100).await else { panic!("a report is due") };
    for node in [200, 300] {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed], "node {node}");
    }
    assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
    assert_eq!(network.settle(300, 100).await.unwrap(), 3);
    let taken = network.contract.0.lock().taken_from.clone();
    for leaf in Leaves::sum(by_the_rules).payers() {
        assert!(leaf.fee.get() < TOO_MUCH, "the amounts tell which of the two was taken");
        assert_eq!(taken[&leaf.payer], leaf.fee.settled());
    }
}

/// A payer without money publishes more than any amount can say. Its leaf is the largest one, and reports go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_of_more_than_any_amount_ends_no_reports() {
    let mut network = Network::start();
    let start_unix_s = u64::try_from(START_NS / 1_000_000_000).unwrap();
    let message_fee = i64::MAX.unsigned_abs() / 2;
    network.add_rate(Rate { start_unix_s, message_fee: PicoDollarPrice(message_fee), ..rate() });
    for minute in 0..3 {
        for text in 0..2 {
            network.publish(100, 0, &[&format!("{minute} {text}")]).await;
        }
        network.pass(1);
    }
    network.replicate();
    let Written::New(_) = network.write(200, 100).await else { panic!("a report is due") };
    for node in NODES {
        assert_eq!(network.attest(node, 100).await, [Attested::Signed]);
    }
    assert_eq!(network.submit(100, 100).await, [Submitted::Now]);
    assert_eq!(network.settle(100, 100).await.unwrap(), 1);
    let address = payer(0).public_key().address();
    assert_eq!(network.contract.0.lock().taken_from[&address], PicoDollars::MAX.settled());
}

/// Nodes of the reference implementation attest any end minute. One far ahead must not end the reports about an
/// originator, nor make later usage look settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_that_has_not_come_ends_no_reports_and_settles_nothing_later() {
    let network = Network::start();
    network.traffic("first").await;
    network.copy(100, 200);
    let written = network.worker(100).write(ABOUT).await.unwrap();
    assert!(matches!(written, Written::New(_)), "{written:?}");
    let drafted = network.worker(100).reports().unwrap().views[0].report.clone();
    let end = RangeEnd { minute: u32::MAX >> 1, sequence: drafted.end().sequence };
    let nodes = NodeIds::new(NODES.map(OriginatorId)).unwrap();
    let lie = PayerReport::new(ABOUT, drafted.start(), end, drafted.root(), nodes).unwrap();
    let id = lie.id(domain());
    let sign = |node: &u32| Attestation::sign(id, OriginatorId(*node), &key(*node));
    let attestations: Vec<_> = NODES.iter().map(sign).collect();
    assert_eq!(network.contract.submit(&lie, &attestations).await, Ok(Submitted::Now));
    network.follow_chain();
    // Node 300 learns of the report before it has the strand.
    let address = payer(0).public_key().address();
    assert_eq!(network.worker(300).usage_of(address).unwrap().settled.0, 0);
    assert_eq!(network.settle(200, 100).await.unwrap(), 3, "its amounts are right");

    network.traffic("second").await;
    network.replicate();
    for node in [200, 300] {
        let usage = network.worker(node).usage_of(address).unwrap();
        assert!(usage.settled.0 > 0 && usage.unsettled.0 > 0, "node {node}: {usage:?}");
    }
    network.pass(6 * 60);
    assert!(matches!(network.write(100, 100).await, Written::New(_)), "after the period");
}

/// An envelope on the topic of reports that is longer than any report is not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_longer_than_any_report_is_passed_over() {
    let network = Network::start();
    network.traffic("some").await;
    network.replicate();
    let Written::New(id) = network.write(100, 100).await else { panic!("a report is due") };
    let ids = |worker: PayerReporter| -> Vec<ReportId> {
        worker.reports().unwrap().views.into_iter().map(|view| view.id).collect()
    };
    assert_eq!(ids(network.worker(200)), [id]);
    let mut report = network.worker(200).reports().unwrap().views[0].report.to_message();
    report.end_sequence_id -= 1;
    let envelope = PayerReport::from_message(&report).unwrap().client_envelope();
    // A field that no schema has.
    let padded = |len: u16| -> Bytes {
        let [low, high] = [len & 0x7f | 0x80, len >> 7].map(|part| u8::try_from(part).unwrap());
        let field = [&[0x7a, low, high][..], &vec![0; len.into()]].concat();
        [&envelope[..], &field].concat().into()
    };
    smuggle(&network, 300, padded(4096)).await;
    assert_eq!(ids(network.worker(200)), [id]);
    smuggle(&network, 300, padded(256)).await;
    assert_eq!(ids(network.worker(200)).len(), 2, "a field alone is no hindrance");
}

/// An originator dates envelopes far ahead. A report that ended with them would be the last one, and its payers would
/// pay for nothing that follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envelopes_dated_far_ahead_end_no_reports() {
    let network = Network::start();
    network.traffic("true").await;
    network.replicate();
    let head = network.stores[&200].snapshot().head(ABOUT).unwrap();
    let year_ns = 365 * 24 * 60 * MINUTE_NS;
    for (at, minute) in (head.0 + 1..).zip(0..2) {
        let id = EnvelopeId::new(ABOUT, SequenceId(at));
        let bytes = dated(id, START_NS + year_ns + minute * MINUTE_NS, 0, &format!("ahead {at}"));
        for node in [200, 300] {
            network.stores[&node].commit(&[append(id, bytes.clone())]).unwrap();
        }
    }
    let ahead = RangeEnd {
        minute: hawser_proto::minute_of(START_NS + year_ns),
        sequence: SequenceId(head.0 + 1),
    };
    let nodes = NodeIds::new(NODES.map(OriginatorId)).unwrap();
    let amounts = network.stores[&200].snapshot();
    let mut leaves = Vec::new();
    let each = |_, payer, row: hawser_storage::UsageRow| {
        leaves.push((payer, row.picodollars));
        true
    };
    amounts.usage_of_minutes(ABOUT, None, ahead.minute, each).unwrap();
    let root = hawser_rules::payer_report::Leaves::sum(leaves).root();
    let last = PayerReport::new(ABOUT, SequenceId::NONE, ahead, root, nodes).unwrap();
    let equal = recompute(&network.stores[&200].snapshot(), &last).unwrap();
    assert!(matches!(equal, Recomputed::Equal(_)), "by the log it is true: {equal:?}");
    smuggle(&network, 300, last.client_envelope()).await;
    let judged = network.attest(200, 100).await;
    assert!(matches!(judged[..], [Attested::NotNow(_)]), "{judged:?}");
    let Written::New(_) = network.write(200, 100).await else { panic!("a report is due") };
    let judged = network.attest(200, 100).await;
    assert!(judged.contains(&Attested::Signed), "{judged:?}");
    let judged = network.attest(300, 100).await;
    assert!(judged.contains(&Attested::Signed), "{judged:?}");
    assert_eq!(network.submit(200, 100).await, [Submitted::Now]);
    let end = network.on_chain().last_end(ABOUT).unwrap();
    assert!(end.minute < network.now_minute() && end.sequence < head, "{end:?}");
}
