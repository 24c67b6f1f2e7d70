//! Tests of evidence about late releases: proven by what the originator signed, and by nothing else.

use hawser_proto::envelope::{PayerEnvelope, Payload, UnsealedEnvelope};
use hawser_proto::pb::xmtp::mls::api::v1::WelcomeMessageInput;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Address, Bytes, OriginatorId, SecretKey, SequenceId};
use prost::Message as _;

use super::MisbehaviorVerdict::{Claim, Proven, Refuted};
use super::{MisbehaviorVerdict, TreeEvidence, TreeFault, late_release_pieces, verify_trees};
use crate::absences::{Absence, Absences};
use crate::payer_report::{Attestation, DomainSeparator, NodeIds, PayerReport, RangeEnd};
use crate::registry::{NodeRecord, Registry};

const NODE: OriginatorId = OriginatorId(100);
const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
/// The start of the last minute of the report.
const LAST_MINUTE: u32 = 29_166_667;
const START: i64 = LAST_MINUTE as i64 * MINUTE;
/// The place of the last envelope of the report.
const END: u64 = 20;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

fn registry() -> Registry {
    registry_of(true)
}

/// Returns a registry whose nodes are in the network now, or not.
fn registry_of(canonical: bool) -> Registry {
    let record = |n: u8| NodeRecord {
        id: OriginatorId(100 * u32::from(n)),
        public_key: key(n).public_key(),
        owner: Address([n; 20]),
        http_address: Some("http://localhost".into()),
        quic_address: None,
        canonical,
    };
    [1, 2].map(record).into_iter().collect()
}

fn domain() -> DomainSeparator {
    DomainSeparator::of_contract(31337, [5; 20])
}

fn report(start: u64, end: u64) -> PayerReport {
    let end = RangeEnd { minute: LAST_MINUTE, sequence: SequenceId(end) };
    let nodes = NodeIds::new([NODE, OriginatorId(200)]).unwrap();
    let root = if start == end.sequence.0 { [0; 32] } else { [7; 32] };
    PayerReport::new(NODE, SequenceId(start), end, root, nodes).unwrap()
}

/// Returns the envelope of a client at a place of a node's strand, paid with the key of `payer`.
fn envelope(node: u8, sequence: u64, ns: i64, client: Bytes, payer: u8) -> Bytes {
    let originator = OriginatorId(100 * u32::from(node));
    let days = 60;
    let paid = PayerEnvelope::sign(client, originator, days, &key(payer));
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: originator.0,
        originator_sequence_id: sequence,
        originator_ns: ns,
        payer_envelope_bytes: paid.encode_to_vec().into(),
        base_fee_picodollars: 1,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(ns / SECOND).unwrap() + u64::from(days) * 86_400,
    };
    UnsealedEnvelope::new(&statement).seal(&key(node))
}

/// Returns an envelope of a client that pays.
fn welcome(node: u8, sequence: u64, ns: i64) -> Bytes {
    let topic = Bytes::from_static(&[1, 9]);
    let aad = pb::AuthenticatedData { target_topic: topic, depends_on: None };
    let payload = Some(Payload::WelcomeMessage(WelcomeMessageInput::default()));
    let client = pb::ClientEnvelope { aad: Some(aad), payload };
    envelope(node, sequence, ns, client.encode_to_vec().into(), 9)
}

/// Returns the envelope in which a node attests a report.
fn attestation(node: u8, of: &PayerReport, ns: i64) -> Bytes {
    let signer = OriginatorId(100 * u32::from(node));
    let attestation = Attestation::sign(of.id(domain()), signer, &key(node));
    envelope(node, END + 2, ns, attestation.client_envelope(NODE), node)
}

fn judged(registry: &Registry, pieces: Vec<Bytes>) -> (MisbehaviorVerdict, &'static str) {
    let evidence = TreeEvidence { fault: TreeFault::LateRelease, pieces };
    let judgement = verify_trees(&evidence, registry);
    assert_eq!(verify_trees(&evidence, registry), judgement);
    assert!(judgement.verdict == Refuted || judgement.accused == Some(NODE));
    (judgement.verdict, judgement.facts[0].name)
}

/// Returns the outcome for a report about the places up to [`END`], attested by node 100 at a time.
fn outcome(attested_ns: i64, late: Bytes) -> (MisbehaviorVerdict, &'static str) {
    let report = report(5, END);
    let own = attestation(1, &report, attested_ns);
    let end = welcome(1, END, START + SECOND);
    judged(&registry(), late_release_pieces(domain(), &report, [own, end, late]))
}

#[test]
fn an_envelope_between_the_reports_is_proven_by_its_originators_own_statements() {
    let later = START + 2 * MINUTE;
    let proven = (Proven, "late_release");
    assert_eq!(outcome(later, welcome(1, END + 1, START + 2 * SECOND)), proven);
    assert_eq!(outcome(later, welcome(1, END + 9, START - 3 * MINUTE)), proven, "any minute of it");
    assert_eq!(outcome(START + MINUTE + 10 * SECOND, welcome(1, END + 1, START)), proven);
    // A node of other software attests a minute that still fills.
    let early = outcome(START + MINUTE + 10 * SECOND - 1, welcome(1, END + 1, START));
    assert_eq!(early, (Claim, "attested_early"));
}

#[test]
fn what_a_report_need_not_count_is_no_late_release() {
    let later = START + 2 * MINUTE;
    let late = |sequence, ns| outcome(later, welcome(1, sequence, ns));
    assert_eq!(late(END, START), (Refuted, "not_late"));
    assert_eq!(late(END - 1, START), (Refuted, "not_late"));
    assert_eq!(late(END + 1, START + MINUTE), (Refuted, "not_late"), "of the next report");
    // Reports and attestations of the minute are free.
    let free = attestation(1, &report(5, END), START + 3 * SECOND);
    assert_eq!(outcome(later, free), (Refuted, "not_charged"));
    let other = welcome(2, END + 1, START);
    assert_eq!(outcome(later, other), (Refuted, "not_of_accused"));

    let from_s = u64::try_from(START / SECOND).unwrap() - 60;
    let absent = Absences::new(vec![Absence { from_s, until_s: None }]).unwrap();
    let registry = registry().with_absences([(NODE, absent)]);
    let report = report(5, END);
    let envelopes = [
        attestation(1, &report, later),
        welcome(1, END, START - 2 * MINUTE),
        welcome(1, END + 1, START - 2 * MINUTE),
    ];
    let pieces = late_release_pieces(domain(), &report, envelopes.clone());
    assert_eq!(judged(&registry, pieces).0, Proven, "before it left");
    let absent = [envelopes[0].clone(), welcome(1, END, START), welcome(1, END + 1, START)];
    let pieces = late_release_pieces(domain(), &report, absent);
    assert_eq!(judged(&registry, pieces), (Refuted, "not_charged"), "after it had left");
}

/// A registry file need not state when a node left. An honest one acknowledges envelopes for some seconds after that.
#[test]
fn a_node_that_left_at_an_unknown_time_is_not_proven_guilty() {
    let report = report(5, END);
    let pieces = || {
        let attested = attestation(1, &report, START + 2 * MINUTE);
        let [end, late] = [END, END + 1].map(|at| welcome(1, at, START));
        late_release_pieces(domain(), &report, [attested, end, late])
    };
    let left = registry_of(false);
    assert_eq!(judged(&left, pieces()), (Claim, "unknown_absence"));
    let from_s = u64::try_from(START / SECOND).unwrap() + 60;
    let absent = Absences::new(vec![Absence { from_s, until_s: None }]).unwrap();
    assert_eq!(judged(&left.with_absences([(NODE, absent)]), pieces()), (Proven, "late_release"));
}

#[test]
fn only_the_originators_own_attestation_of_this_report_counts() {
    let (later, late) = (START + 2 * MINUTE, welcome(1, END + 1, START));
    let end = welcome(1, END, START + SECOND);
    let outcome = |report: &PayerReport, attested: Bytes, end: &Bytes| {
        let pieces = late_release_pieces(domain(), report, [attested, end.clone(), late.clone()]);
        judged(&registry(), pieces)
    };
    let report_of = report(5, END);
    let own = attestation(1, &report_of, later);
    assert_eq!(outcome(&report_of, own.clone(), &end).0, Proven);
    let by_other = attestation(2, &report_of, later);
    assert_eq!(outcome(&report_of, by_other, &end), (Refuted, "not_of_accused"));
    let of_other = attestation(1, &report(4, END), later);
    assert_eq!(outcome(&report_of, of_other, &end), (Refuted, "not_attested"));
    assert_eq!(outcome(&report_of, late.clone(), &end), (Refuted, "not_attested"));
    let not_the_end = welcome(1, END - 1, START + SECOND);
    assert_eq!(outcome(&report_of, own.clone(), &not_the_end), (Refuted, "other_place"));
    let nothing = report(END, END);
    let attested = attestation(1, &nothing, later);
    assert_eq!(outcome(&nothing, attested, &end), (Refuted, "empty_report"));

    // Another contract's report has another id.
    let elsewhere = DomainSeparator::of_contract(1, [5; 20]);
    let pieces = late_release_pieces(elsewhere, &report_of, [own, end, late.clone()]);
    assert_eq!(judged(&registry(), pieces), (Refuted, "not_attested"));
}
