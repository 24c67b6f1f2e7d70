//! Tests of fees that one envelope and a rate do not decide: congestion fees, which depend on earlier envelopes, and
//! fees of free envelopes, which need no rate. No honest node is ever proven guilty.

use hawser_proto::envelope::{OriginatorEnvelope, PayerEnvelope, Payload, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as env;
use hawser_proto::sign::originator_digest;
use hawser_proto::{Bytes, OriginatorId, Signature, minute_of};
use proptest::prelude::*;
use prost::Message as _;

use super::MisbehaviorVerdict::{Claim, Inconclusive, Proven, Refuted};
use super::tests::{
    self, Draft, MINUTE, NOW, RATE, SECOND, bare, draft, judge, key, registry, sign,
};
use super::{
    Judgement, MisbehaviorKind, Missing, ReportCase, StrandLoad, proves_overcharge, verify,
};
use crate::absences::Absences;
use crate::congestion::congestion_units;
use crate::fees::{Charged, PicoDollarPrice, Rate, RateTable, WrongFeeError, congestion_fee};

fn number(judgement: &Judgement, name: &str) -> Option<i128> {
    let numbers = &judgement.facts[0].numbers;
    numbers.iter().find(|(it, _)| *it == name).map(|(_, number)| *number)
}

fn rates() -> RateTable {
    RateTable::new(vec![RATE], None).unwrap()
}

/// Returns an envelope with a payer report and these fees, for which node 100 has paid itself, as it must.
fn free_envelope(base: u64, congestion: u64) -> env::OriginatorEnvelope {
    let aad =
        env::AuthenticatedData { target_topic: Bytes::from_static(&[4, 9]), ..Default::default() };
    let payload = Some(Payload::PayerReport(env::PayerReport::default()));
    let client = env::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec().into();
    let paid = PayerEnvelope::sign(client, OriginatorId(100), draft(7, NOW).days, &key(1));
    let statement = env::UnsignedOriginatorEnvelope {
        payer_envelope_bytes: paid.encode_to_vec().into(),
        base_fee_picodollars: base,
        congestion_fee_picodollars: congestion,
        ..draft(7, NOW).statement()
    };
    sign(statement.encode_to_vec().into(), &key(1))
}

/// Returns a misbehaviour report about such an envelope.
fn free(base: u64, congestion: u64) -> Bytes {
    tests::report(MisbehaviorKind::InvalidPayload, vec![free_envelope(base, congestion)])
}

#[test]
fn a_fee_on_a_free_topic_is_proven_without_rates() {
    let registry = registry();
    for (report, rule) in [(free(1, 0), 10), (free(0, 1), 11), (free(1, 1), 10)] {
        let judgement = verify(&bare(&report, &registry));
        assert_eq!((judgement.verdict, &judgement.missing[..]), (Proven, &[][..]));
        assert_eq!(number(&judgement, "rule"), Some(rule));
    }
    let honest = free(0, 0);
    let judgement = verify(&bare(&honest, &registry));
    assert_eq!((judgement.verdict, judgement.facts[0].name), (Refuted, "no_rule_broken"));
}

/// The place between the envelopes is missing, and it decides nothing about a free one.
#[test]
fn a_free_envelope_has_no_congestion_fee_whatever_envelopes_are_missing() {
    let earlier = draft(5, NOW - MINUTE).signed();
    let both = vec![earlier, free_envelope(0, 0)];
    let judgement = judge(&tests::report(MisbehaviorKind::InvalidPayload, both));
    assert_eq!((judgement.verdict, judgement.facts[0].name), (Refuted, "no_rule_broken"));
    assert_eq!(judgement.missing, []);
}

/// An envelope of an absence is a claim. Its fees may be wrong as well, and that would be proven.
#[test]
fn a_claim_names_the_rates_that_might_turn_it_into_a_proof() {
    let away = Absences::of_changes([(u64::try_from(NOW / SECOND).unwrap(), false)]);
    let registry = registry().with_absences([(OriginatorId(100), away)]);
    let later = NOW + 60 * MINUTE + SECOND;
    let honest = draft(7, later);
    let base_fee = Some(honest.statement().base_fee_picodollars + 1);
    let wrong = Draft { base_fee, ..draft(7, later) };
    let judged = |drafts: &[&Draft], rates: Option<&RateTable>| {
        let all = drafts.iter().map(|it| it.signed()).collect();
        let report = tests::report(MisbehaviorKind::InvalidPayload, all);
        let judgement = verify(&ReportCase { rates, ..bare(&report, &registry) });
        (judgement.verdict, judgement.missing)
    };
    let rates = rates();
    assert_eq!(judged(&[&wrong], None), (Claim, vec![Missing::Rates]));
    assert_eq!(judged(&[&wrong], Some(&rates)), (Proven, vec![]));
    assert_eq!(judged(&[&honest], Some(&rates)), (Claim, vec![]));
    // The congestion fee of the last one may be wrong, too. The place between them is missing.
    let before = draft(5, NOW - MINUTE);
    assert_eq!(judged(&[&before, &honest], None).1, [Missing::Rates, Missing::Window]);
}

/// The rate that took the place of [`RATE`] a month ago, as the list says.
fn newer() -> Rate {
    let start_unix_s = u64::try_from((NOW - 30 * 24 * 60 * MINUTE) / SECOND).unwrap();
    let message_fee = PicoDollarPrice(RATE.message_fee.0 + 1);
    Rate { start_unix_s, message_fee, target_rate_per_minute: 100, ..RATE }
}

/// A rate that came to the chain with a notice of seconds. The accused applies it, and its clock is four minutes
/// behind. The judge's clock is two hours ahead, and its list is of a block before that rate.
#[test]
fn a_judge_without_the_newest_rate_proves_no_honest_node_guilty_whatever_its_clock_says() {
    let registry = registry();
    let came_unix_s = u64::try_from(NOW / SECOND).unwrap() + 4 * 60;
    let added = Rate {
        start_unix_s: came_unix_s - 4 * 60,
        message_fee: PicoDollarPrice(RATE.message_fee.0 + 1),
        ..RATE
    };
    let base_fee = Some(draft(7, NOW).statement().base_fee_picodollars + 1);
    let honest = Draft { base_fee, ..draft(7, NOW) }.signed();
    let wrong = Draft { base_fee: base_fee.map(|fee| fee + 1), ..draft(7, NOW) }.signed();
    let judged = |rates: &[Rate], block_unix_s: u64, envelope: &env::OriginatorEnvelope| {
        let read = RateTable::new(rates.to_vec(), Some(NOW + 120 * MINUTE)).unwrap();
        let rates = read.of_block(block_unix_s);
        let report = tests::report(MisbehaviorKind::InvalidPayload, vec![envelope.clone()]);
        let judgement = verify(&ReportCase { rates: Some(&rates), ..bare(&report, &registry) });
        (judgement.verdict, judgement.missing)
    };
    let lacking = (Inconclusive, vec![Missing::Rates]);
    assert_eq!(judged(&[RATE], came_unix_s - 1, &honest), lacking);
    assert_eq!(judged(&[RATE, added], came_unix_s, &honest), (Refuted, vec![]));
    assert_eq!(judged(&[RATE, added], came_unix_s, &wrong), lacking);
    assert_eq!(judged(&[RATE, added], came_unix_s + 60, &wrong), (Proven, vec![]));
}

/// The contract takes a rate that begins in the past, so honest nodes may have learned of it at any time since.
#[test]
fn a_fee_by_a_former_rate_proves_nothing_however_long_ago_another_one_took_its_place() {
    let registry = registry();
    let judged = |rates: &[Rate], envelopes: &[env::OriginatorEnvelope]| {
        let rates = RateTable::new(rates.to_vec(), None).unwrap();
        let report = tests::report(MisbehaviorKind::InvalidPayload, envelopes.to_vec());
        let judgement = verify(&ReportCase { rates: Some(&rates), ..bare(&report, &registry) });
        (judgement.verdict, judgement.facts[0].name, judgement.missing)
    };
    let undecided = (Inconclusive, "former_rate", vec![Missing::RateBlock]);
    let proven = (Proven, "rule_broken", vec![]);
    let former_base = draft(7, NOW).statement().base_fee_picodollars;
    let with = |sequence, ns, more, congestion_fee| {
        let base_fee = Some(former_base + more);
        Draft { base_fee, congestion_fee, ..draft(sequence, ns) }.signed()
    };
    let rates = [RATE, newer()];
    assert_eq!(judged(&rates, &[with(7, NOW, 0, 0)]), undecided);
    assert_eq!(judged(&rates, &[with(7, NOW, 1, 0)]), (Refuted, "no_rule_broken", vec![]));
    assert_eq!(judged(&rates, &[with(7, NOW, 2, 0)]), proven);
    assert_eq!(judged(&rates[1..], &[with(7, NOW, 0, 0)]), proven);

    // The former rate gives the congestion fee of place 8, which has six envelopes before it in its minute.
    let units = congestion_units([6, 0, 0, 0, 0], 4);
    let PicoDollarPrice(due) = congestion_fee(&RATE, units).unwrap();
    let strand: Vec<_> = (1..=8_u64)
        .map(|place| match place {
            1 => with(1, NOW - 5 * MINUTE, 1, 0),
            8 => with(8, NOW + 8, 1, due),
            place => with(place, NOW + i64::try_from(place).unwrap(), 1, 0),
        })
        .collect();
    assert_eq!(judged(&rates, &strand[..]), undecided);
    assert_eq!(judged(&rates[1..], &strand[..]), proven);
    // An earlier envelope by the former rate does not hide a congestion fee that no rate gives.
    let PicoDollarPrice(full) = congestion_fee(&RATE, 100).unwrap();
    let hiding = [with(1, NOW, 0, 0), with(2, NOW + 2, 1, full)];
    assert_eq!(judged(&rates, &hiding), proven);
    assert_eq!(judged(&rates, &[with(1, NOW, 0, 0), with(2, NOW + 2, 1, 0)]), undecided);
    let bytes: Vec<Bytes> = strand.iter().map(|it| it.encode_to_vec().into()).collect();
    let proves =
        |rates: &[Rate]| proves_overcharge(&bytes, &RateTable::new(rates.to_vec(), None).unwrap());
    assert!(proves(&rates[1..]) && !proves(&rates[..]));
}

#[test]
fn a_former_rate_explains_fees_from_its_start_on() {
    let table = RateTable::new(vec![RATE, newer()], None).unwrap();
    let starts_ns = i64::try_from(newer().start_unix_s).unwrap() * SECOND;
    let explained = |at_ns, message_fee, congestion| {
        let base = PicoDollarPrice(message_fee + RATE.storage_fee.0 * 2);
        let congestion = PicoDollarPrice(congestion);
        table.explain_by_former(&Charged { at_ns, size_bytes: 1, days: 2, base, congestion })
    };
    let (former, new) = (RATE.message_fee.0, newer().message_fee.0);
    assert_eq!(explained(NOW, former, 0), Ok(()));
    assert_eq!(explained(NOW, new, RATE.congestion_fee.0), Ok(()));
    assert_eq!(explained(NOW, new + 1, 0), Err(WrongFeeError::Base));
    assert_eq!(explained(NOW, new, RATE.congestion_fee.0 + 1), Err(WrongFeeError::Congestion));
    assert_eq!(explained(starts_ns - 5 * MINUTE, new, 0), Ok(()), "clocks differ");
    assert_eq!(explained(starts_ns - 5 * MINUTE - 1, new, 0), Err(WrongFeeError::Base));
}

/// Times of an honest node step back by up to a second, so an earlier place may be of the five minutes.
#[test]
fn a_window_that_begins_less_than_a_second_before_its_minutes_proves_nothing() {
    let judged = |first_ns| {
        let last = Draft { congestion_fee: RATE.congestion_fee.0, ..draft(6, NOW) };
        let both = vec![draft(5, first_ns).signed(), last.signed()];
        let judgement = judge(&tests::report(MisbehaviorKind::InvalidPayload, both));
        (judgement.verdict, judgement.facts[0].name)
    };
    let begins = NOW - 4 * MINUTE;
    assert_eq!(judged(begins - SECOND), (Inconclusive, "window_start"));
    assert_eq!(judged(begins - SECOND - 1), (Proven, "rule_broken"));
}

/// Returns an envelope of node 100 for a place, with a signature that is not checked.
fn envelope(
    sequence: u64,
    ns: i64,
    congestion: u64,
    like: &env::UnsignedOriginatorEnvelope,
) -> Bytes {
    let statement = env::UnsignedOriginatorEnvelope {
        originator_sequence_id: sequence,
        originator_ns: ns,
        congestion_fee_picodollars: congestion,
        ..like.clone()
    };
    OriginatorEnvelope::encode(statement.encode_to_vec().into(), Proof::Signature(any_signature()))
}

fn any_signature() -> Signature {
    key(1).sign(originator_digest(&Bytes::from_static(b"any")))
}

/// Returns the congestion fee of the next envelope. Implementations differ in whether they count the envelope itself.
fn due(earlier_ns: &[i64], ns: i64, counts_itself: bool) -> u64 {
    let mut counts = [u64::from(counts_itself), 0, 0, 0, 0];
    for (age, count) in (0..).zip(&mut counts) {
        let minute = minute_of(ns) - age;
        *count += earlier_ns.iter().filter(|it| minute_of(**it) == minute).count() as u64;
    }
    congestion_fee(&RATE, congestion_units(counts, RATE.target_rate_per_minute)).unwrap().0
}

#[test]
fn congestion_without_load_is_above_what_any_envelopes_give() {
    let (rates, like) = (rates(), draft(1, NOW).statement());
    let PicoDollarPrice(fee) = congestion_fee(&RATE, 100).unwrap();
    let mut load = StrandLoad::START;
    let mut strand = Vec::new();
    for sequence in 1..=3 {
        let ns = NOW + i64::try_from(sequence).unwrap() * SECOND;
        strand.push(envelope(sequence, ns, fee, &like));
        assert!(proves_overcharge(&strand, &rates), "{sequence}");
        let stated = PicoDollarPrice(fee);
        assert!(load.is_whole(ns) && rates.is_overcharged(ns, stated, load.most(ns)));
        load.add(ns, true);
    }
    let later = NOW + 6 * MINUTE;
    load.lose();
    load.add(NOW + MINUTE, true);
    assert!(!load.is_whole(NOW + 5 * MINUTE + SECOND), "places of these minutes are not known");
    assert!(load.is_whole(later));
    let covered = |ns| RateTable::new(vec![RATE], Some(ns)).unwrap();
    assert!(!proves_overcharge(&strand, &covered(NOW + 3 * SECOND - 1)), "a rate may be missing");
    assert!(proves_overcharge(&strand, &covered(NOW + 3 * SECOND)));
    assert!(!proves_overcharge(&[], &rates) && !proves_overcharge(&[Bytes::new()], &rates));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any times that honest nodes give, around the ends of minutes too, and wherever the known places begin.
    #[test]
    fn no_congestion_that_is_due_is_called_too_high(
        steps in prop::collection::vec((0..25_000_i64, 0..=1_000_i64), 1..24),
        counts_itself in any::<bool>(),
        known_from in any::<prop::sample::Index>(),
    ) {
        let (rates, like) = (rates(), draft(1, NOW).statement());
        let known_from = known_from.index(steps.len());
        let (mut whole, mut late) = (StrandLoad::START, StrandLoad::default());
        let (mut clock_ms, mut times, mut strand) = (0, Vec::new(), Vec::new());
        for (at, (step_ms, back_ms)) in steps.into_iter().enumerate() {
            clock_ms += step_ms;
            let ns = NOW + (clock_ms - back_ms) * 1_000_000;
            let fee = due(&times, ns, counts_itself);
            let is_above = |load: &StrandLoad| {
                let stated = PicoDollarPrice(fee);
                load.is_whole(ns) && rates.is_overcharged(ns, stated, load.most(ns))
            };
            prop_assert!(!is_above(&whole) && !is_above(&late), "place {}", at + 1);
            strand.push(envelope(at as u64 + 1, ns, fee, &like));
            for first in 0..=at {
                prop_assert!(!proves_overcharge(&strand[first..], &rates), "{first} to {at}");
            }
            times.push(ns);
            whole.add(ns, true);
            if at >= known_from {
                late.add(ns, true);
            }
        }
    }

    /// An adversary picks from an honest strand, adds envelopes of others, names any kind of fault, and changes a bit.
    #[test]
    fn no_report_of_honest_envelopes_is_a_proof(
        steps in prop::collection::vec((0..70_000_i64, any::<bool>()), 1..10),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        kind in 4..9_i32,
        changed in prop::option::of((any::<prop::sample::Index>(), 0..8_u8)),
    ) {
        let (mut ns, mut times, mut strand) = (NOW, Vec::new(), Vec::new());
        for (at, (step_ms, counts_itself)) in (1..).zip(steps) {
            ns += 1 + step_ms * 1_000_000;
            let congestion_fee = due(&times, ns, counts_itself);
            let depends_on = [(0, 1)].into();
            strand.push(Draft { congestion_fee, depends_on, ..draft(at, ns) }.signed());
            times.push(ns);
        }
        let others = [Draft { node: 200, target: 200, ..draft(3, NOW) }.signed(), tests::of_chain(1)];
        let all = [&strand[..], &others[..]].concat();
        let picked: Vec<_> = picks.iter().map(|pick| pick.get(&all).clone()).collect();
        // Without a pick it is the whole strand.
        let envelopes = if picked.is_empty() { strand } else { picked };
        let kind = MisbehaviorKind::try_from(kind).unwrap();
        let mut report = tests::report(kind, envelopes).to_vec();
        if let Some((at, bit)) = changed {
            let at = at.index(report.len());
            report[at] ^= 1_u8 << bit;
        }
        let judgement = judge(&report.into());
        prop_assert_ne!(judgement.verdict, Proven, "{:?}", judgement);
    }
}
