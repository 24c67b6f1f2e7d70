//! Nodes that charge more for congestion than their own envelopes give, or anything for free ones: each is named, and
//! no honest one is.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hawser_engine::misbehavior::{FeeVerdict, judge_fees};
use hawser_engine::overcharge::overcharge;
use hawser_engine::reports::ReportClass;
use hawser_proto::envelope::{PayerEnvelope, Payload, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Bytes, EnvelopeId, SequenceId, Topic};
use hawser_rules::congestion::congestion_units;
use hawser_rules::fees::{base_fee, congestion_fee};
use hawser_rules::misbehavior::report::WINDOW_ENVELOPES_MAX;
use hawser_rules::{PicoDollarPrice, Rate, RateTable};
use hawser_storage::{
    Change, Evidence, EvidenceTime, LogEntry, Misbehavior, ReadError, SkipReason, Store, Validity,
};
use prost::Message as _;

use crate::common::{
    START_NS, client, empty_store, frame, group_payload, group_topic, payer, rate, record_rates,
};
use crate::follow::{Follower, SOURCE, key, priced};

const SECOND_NS: i64 = 1_000_000_000;
/// The fee for full congestion.
const FULL: u64 = 700;

/// Congestion begins above so many envelopes of a minute.
fn rate_of(target_rate_per_minute: u64) -> Rate {
    Rate { congestion_fee: PicoDollarPrice(FULL / 100), target_rate_per_minute, ..rate() }
}

fn signed(sequence: u64, ns: i64, (base, congestion): (u64, u64), paid: Bytes) -> Bytes {
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: SOURCE.0,
        originator_sequence_id: sequence,
        originator_ns: ns,
        base_fee_picodollars: base,
        congestion_fee_picodollars: congestion,
        expiry_unixtime: u64::try_from(ns / SECOND_NS).unwrap() + 60 * 86_400,
        payer_envelope_bytes: paid,
    };
    UnsealedEnvelope::new(&statement).seal(&key(SOURCE))
}

/// A message of a payer, that many milliseconds after the start.
fn message(sequence: u64, after_ms: i64, congestion: u64) -> Bytes {
    let text = frame(1, 1, sequence.to_string().as_bytes());
    let client = client(&group_topic(1), None, group_payload(text));
    let paid: Bytes = PayerEnvelope::sign(client, SOURCE, 60, &payer(0)).encode_to_vec().into();
    let base = base_fee(&rate(), paid.len() as u64, 60).unwrap().0;
    signed(sequence, START_NS + after_ms * 1_000_000, (base, congestion), paid)
}

/// A payer report, for which the node pays itself.
fn report(sequence: u64, fees: (u64, u64)) -> Bytes {
    let payload = Payload::PayerReport(pb::PayerReport::default());
    let client = client(&Topic::payer_reports(SOURCE), None, payload);
    let paid = PayerEnvelope::sign(client, SOURCE, 60, &key(SOURCE)).encode_to_vec();
    signed(sequence, START_NS + i64::try_from(sequence).unwrap(), fees, paid.into())
}

/// A follower that knows this rate, which is confirmed up to so many seconds after the start.
fn start(store: Store, rate: Rate, confirmed_s: i64) -> Follower {
    record_rates(&store, &[rate]);
    let follower = Follower::start(store);
    confirm(&follower, rate, confirmed_s);
    follower
}

/// Confirms the price list, and so has the doubted fees judged.
fn confirm(follower: &Follower, rate: Rate, confirmed_s: i64) {
    let table = RateTable::new(vec![rate], Some(START_NS + confirmed_s * SECOND_NS)).unwrap();
    follower.node.rates.send_replace(Arc::new(table));
}

fn evidence(store: &Store) -> Vec<Evidence> {
    let all = store.snapshot().evidence(EvidenceTime::default(), 99, usize::MAX).unwrap();
    all.into_iter().map(|it| it.evidence).collect()
}

fn faults(store: &Store) -> Vec<(Misbehavior, u64)> {
    evidence(store).iter().map(|it| (it.misbehavior, it.at.sequence.0)).collect()
}

/// Has all doubted fees judged, and returns the faults, but for the fee that is no multiple of the rate at place `but`.
/// That one has to be there, unless `but` is 0.
async fn judged(follower: &Follower, rate: Rate, but: u64) -> Vec<(Misbehavior, u64)> {
    let store = follower.engine().store();
    confirm(follower, rate, 3600);
    follower.until("all fees are judged", || store.doubted_fees().unwrap().is_empty()).await;
    let mut all = faults(store);
    assert!(but == 0 || all.contains(&(Misbehavior::Fee, but)), "{all:?}");
    all.retain(|fault| *fault != (Misbehavior::Fee, but));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn congestion_that_a_strand_does_not_have_is_proven_by_its_own_envelopes() {
    let follower = start(empty_store(), rate_of(100), 0);
    let store = follower.engine().store().clone();
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let sent = [message(1, 1, 0), message(2, 2, 0), message(3, 3, FULL), message(4, 4, FULL)];
    source.send(sent.clone()).await;
    follower.wait_for(SOURCE, 4).await;
    assert_eq!(follower.engine().counters().invalid.get(), 0, "readers get all of them");
    assert_eq!(store.differing_fees(), [(SOURCE, 2)].into());
    assert_eq!(faults(&store), [], "the list may lack the newest rate");

    confirm(&follower, rate_of(100), 3600);
    follower.until("the fee is judged", || !evidence(&store).is_empty()).await;
    let [found] = <[Evidence; 1]>::try_from(evidence(&store)).expect("one in a minute");
    assert_eq!(found.misbehavior, Misbehavior::Overcharge);
    assert_eq!(found.at, EnvelopeId::new(SOURCE, SequenceId(3)));
    assert_eq!(found.envelopes, sent[..3], "all envelopes of the five minutes");
    let proven = || store.report_counts().get(&(SOURCE, ReportClass::Proven)).copied();
    follower.engine().reports().report_evidence().unwrap();
    assert_eq!(proven(), Some(1), "any reader of the report comes to the same judgement");
    follower.stop().await;
}

/// More than two envelopes of a minute cost more, and the node counts right.
#[tokio::test(flavor = "multi_thread")]
async fn congestion_that_is_due_is_held_against_no_node_also_after_a_restart() {
    let rate = rate_of(2);
    let due = |sequence: u64| {
        let units = congestion_units([sequence - 1, 0, 0, 0, 0], 2);
        congestion_fee(&rate, units).unwrap().0
    };
    let honest = |sequence: u64| message(sequence, i64::try_from(sequence).unwrap(), due(sequence));
    let mut store = empty_store();
    for places in [1..=6, 7..=12] {
        let follower = start(store, rate, 0);
        let mut source = follower.connect(SOURCE, &[]);
        let (first, last) = (*places.start(), *places.end());
        assert_eq!(source.want(SOURCE).await, (first - 1, None));
        source.send(places.map(honest)).await;
        follower.wait_for(SOURCE, last).await;
        store = follower.stop().await;
        assert_eq!(store.doubted_fees().unwrap(), [], "up to {last}");
        assert!(store.differing_fees().is_empty() && evidence(&store).is_empty());
    }
    assert!(due(12) == FULL && due(3) == 0);
}

/// The first places of the strand have expired at its node.
#[tokio::test(flavor = "multi_thread")]
async fn without_all_envelopes_of_the_minutes_nothing_is_held_against_a_node() {
    let store = empty_store();
    let (from, through) = (SequenceId(1), SequenceId(3));
    let skip = Change::Skip { originator: SOURCE, from, through, reason: SkipReason::Expired };
    let (id, bytes) = (EnvelopeId::new(SOURCE, SequenceId(4)), message(4, 4, 0));
    let entry = LogEntry { id, bytes, validity: Validity::Valid, facts: None };
    store.commit(&[skip, Change::Append(entry)]).unwrap();
    let rate = rate_of(100);
    let follower = start(store, rate, 0);
    let mut source = follower.connect(SOURCE, &[]);
    while source.want(SOURCE).await != (4, None) {}
    // The last one shows that the fees are judged. Its congestion fee is no multiple of the rate.
    source.send([message(5, 5, FULL), message(6, 6, FULL + 1)]).await;
    follower.wait_for(SOURCE, 6).await;
    assert_eq!(judged(&follower, rate, 6).await, []);
    // Six minutes later all that may have counted is known.
    let later_ms = 6 * 60_000;
    follower.node.clock.0.store(START_NS + later_ms * 1_000_000, Ordering::Relaxed);
    source.send([message(7, later_ms, FULL)]).await;
    follower.wait_for(SOURCE, 7).await;
    assert_eq!(judged(&follower, rate, 6).await, [(Misbehavior::Overcharge, 7)]);
    let found = evidence(follower.engine().store()).pop().unwrap();
    assert_eq!(found.envelopes, [message(6, 6, FULL + 1), message(7, later_ms, FULL)]);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn congestion_that_takes_too_many_envelopes_to_prove_is_a_claim() {
    let rate = rate_of(100_000);
    let follower = start(empty_store(), rate, 0);
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let last = WINDOW_ENVELOPES_MAX as u64 + 1;
    let fee = |sequence: u64| if sequence == last { FULL } else { 0 };
    let ms = |sequence: u64| i64::try_from(sequence).unwrap();
    source.send((1..=last).map(|sequence| message(sequence, ms(sequence), fee(sequence)))).await;
    follower.wait_for(SOURCE, last).await;
    assert_eq!(judged(&follower, rate, 0).await, [(Misbehavior::OverchargeUnderLoad, last)]);
    assert_eq!(evidence(follower.engine().store())[0].envelopes, [message(last, ms(last), FULL)]);
    let counts = follower.engine().store().evidence_counts()[&SOURCE];
    assert_eq!((counts.proven(), counts.claims()), (0, 1));
    follower.engine().reports().report_evidence().unwrap();
    assert!(follower.engine().store().report_counts().is_empty(), "it proves nothing to others");
    follower.stop().await;
}

/// The contract takes a rate that begins in the past, and the list does not say when it came to the chain.
#[tokio::test(flavor = "multi_thread")]
async fn a_fee_by_a_former_rate_is_held_against_no_node() {
    let store = empty_store();
    let start_unix_s = u64::try_from(START_NS / SECOND_NS).unwrap() - 86_400;
    let rates =
        [rate_of(100), Rate { start_unix_s, message_fee: PicoDollarPrice(2000), ..rate_of(100) }];
    record_rates(&store, &rates);
    let follower = Follower::start(store);
    let confirm = |after_s: i64| {
        let confirmed_ns = START_NS + after_s * SECOND_NS;
        let table = RateTable::new(rates.to_vec(), Some(confirmed_ns)).unwrap();
        follower.node.rates.send_replace(Arc::new(table));
    };
    confirm(0);
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    let of_neither = Rate { message_fee: PicoDollarPrice(1500), ..rate() };
    // The former base fee of the last one does not hide a congestion fee that neither rate gives.
    let sent = [message(1, 0, 0), priced(SOURCE, 2, "true", of_neither), message(3, 3, FULL)];
    source.send(sent).await;
    follower.wait_for(SOURCE, 3).await;
    confirm(3600);
    let store = follower.engine().store().clone();
    follower.until("all fees are judged", || store.doubted_fees().unwrap().is_empty()).await;
    let mut found = faults(&store);
    found.sort_by_key(|(_, place)| *place);
    assert_eq!(found, [(Misbehavior::Fee, 2), (Misbehavior::Overcharge, 3)]);
    follower.stop().await;
}

/// The judge's clock is two hours ahead, or its endpoint behind: the list may lack a rate that honest nodes apply.
#[test]
fn a_list_of_a_block_before_the_envelope_judges_no_fee() {
    let rate = rate_of(100);
    let start_unix_s = (START_NS / SECOND_NS).unsigned_abs();
    let of_block = |after_s: u64| {
        let read = RateTable::new(vec![rate], Some(START_NS + 7_200 * SECOND_NS)).unwrap();
        read.of_block(start_unix_s + after_s)
    };
    let wrong = priced(SOURCE, 1, "true", Rate { message_fee: PicoDollarPrice(2000), ..rate });
    let strand = [message(1, 0, 0), message(2, 1, FULL)];
    let at = EnvelopeId::new(SOURCE, SequenceId(2));
    let held = |at: EnvelopeId| -> Result<Option<Bytes>, ReadError> {
        Ok((at.sequence == SequenceId(1)).then(|| strand[0].clone()))
    };
    for after_s in [0, 300] {
        let rates = of_block(after_s);
        assert_eq!(judge_fees(&wrong, &rates), FeeVerdict::Unknown);
        assert_eq!(overcharge(held, at, &strand[1], None, &rates).unwrap(), None);
    }
    let rates = of_block(301);
    assert_eq!(judge_fees(&wrong, &rates), FeeVerdict::Wrong);
    let found = overcharge(held, at, &strand[1], None, &rates).unwrap().unwrap();
    assert_eq!((found.misbehavior, found.at), (Misbehavior::Overcharge, at));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fee_on_a_free_topic_is_proven_before_the_price_list_is_confirmed() {
    let follower = start(empty_store(), rate_of(100), 0);
    let store = follower.engine().store().clone();
    let mut source = follower.connect(SOURCE, &[]);
    assert_eq!(source.want(SOURCE).await, (0, None));
    source.send([report(1, (0, 0)), report(2, (5, 0)), report(3, (0, 7))]).await;
    follower.wait_for(SOURCE, 3).await;
    assert_eq!(faults(&store), [(Misbehavior::Fee, 2), (Misbehavior::Fee, 3)]);
    assert_eq!(follower.engine().counters().invalid.get(), 0);
    follower.stop().await;
}
