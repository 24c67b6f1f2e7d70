//! Tests of evidence about payer reports that contradict another one: always a claim, and only of what a node wrote.

use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{Address, Bytes, OriginatorId, SecretKey, SequenceId};
use prost::Message as _;

use super::MisbehaviorVerdict::{Claim, Refuted};
use super::{MisbehaviorVerdict, TreeEvidence, TreeFault, other_report_pieces, verify_trees};
use crate::payer_report::{Attestation, DomainSeparator, NodeIds, PayerReport, RangeEnd};
use crate::registry::{NodeRecord, Registry};

const WRITER: OriginatorId = OriginatorId(200);
const NS: i64 = 1_750_000_000_000_000_000;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

fn registry() -> Registry {
    let record = |n: u8| NodeRecord {
        id: OriginatorId(100 * u32::from(n)),
        public_key: key(n).public_key(),
        owner: Address([n; 20]),
        http_address: Some("http://localhost".into()),
        quic_address: None,
        canonical: true,
    };
    [1, 2, 3].map(record).into_iter().collect()
}

/// Returns a report about node 100.
fn report(start: u64, end: u64, minute: u32, root: u8, nodes: &[u32]) -> PayerReport {
    let end = RangeEnd { minute, sequence: SequenceId(end) };
    let nodes = NodeIds::new(nodes.iter().copied().map(OriginatorId)).unwrap();
    PayerReport::new(OriginatorId(100), SequenceId(start), end, [root; 32], nodes).unwrap()
}

/// Returns the envelope at a place of a node's strand that carries these bytes, paid with the key of `payer`.
fn envelope(node: u8, sequence: u64, client: Bytes, payer: u8) -> Bytes {
    let originator = OriginatorId(100 * u32::from(node));
    let days = 60;
    let paid = PayerEnvelope::sign(client, originator, days, &key(payer));
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: originator.0,
        originator_sequence_id: sequence,
        originator_ns: NS,
        payer_envelope_bytes: paid.encode_to_vec().into(),
        base_fee_picodollars: 0,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(NS / 1_000_000_000).unwrap() + u64::from(days) * 86_400,
    };
    UnsealedEnvelope::new(&statement).seal(&key(node))
}

fn written(sequence: u64, of: &PayerReport) -> Bytes {
    envelope(2, sequence, of.client_envelope(), 2)
}

fn judged(fault: TreeFault, pieces: Vec<Bytes>) -> (MisbehaviorVerdict, &'static str, u64) {
    let judgement = verify_trees(&TreeEvidence { fault, pieces }, &registry());
    assert!(judgement.verdict == Refuted || judgement.accused == Some(WRITER), "{judgement:?}");
    (judgement.verdict, judgement.facts[0].name, judgement.place.0)
}

#[test]
fn a_report_to_which_the_reporter_does_not_come_is_a_claim_against_its_writer() {
    let lie = report(5, 20, 9, 7, &[100, 200]);
    let other = |own: Option<&PayerReport>| {
        judged(TreeFault::OtherReport, other_report_pieces(written(3, &lie), own))
    };
    let claim = (Claim, "other_report", 3);
    assert_eq!(other(Some(&report(5, 20, 9, 8, &[100, 200]))), claim, "other amounts");
    assert_eq!(other(Some(&report(5, 20, 8, 7, &[100, 200]))), claim, "another minute");
    assert_eq!(other(Some(&report(5, 21, 9, 7, &[100, 200]))), claim, "another end");
    assert_eq!(other(None), claim, "the reporter comes to none");
    assert_eq!(other(Some(&lie)), (Refuted, "same_report", 3));
    let of_others = report(5, 20, 9, 7, &[100]);
    assert_eq!(other(Some(&of_others)), (Refuted, "same_report", 3), "nodes are no figure");
    assert_eq!(other(Some(&report(6, 20, 9, 8, &[100]))), (Refuted, "other_range", 3));
    let pieces = vec![written(3, &lie), Bytes::from_static(b"noise")];
    assert_eq!(judged(TreeFault::OtherReport, pieces), (Refuted, "malformed", 0));
}

#[test]
fn two_reports_of_one_writer_for_one_range_are_a_claim_that_rests_on_no_reporter() {
    let first = report(5, 20, 9, 7, &[100, 200]);
    let two = |second: &PayerReport| {
        judged(TreeFault::TwoReports, vec![written(3, &first), written(8, second)])
    };
    assert_eq!(two(&report(5, 20, 9, 8, &[100, 200])), (Claim, "two_reports", 8), "other amounts");
    assert_eq!(two(&report(5, 20, 8, 7, &[100])), (Claim, "two_reports", 8), "another minute");
    // An honest node writes these: after the network has changed, and after it has given the first one up.
    assert_eq!(two(&report(5, 20, 9, 7, &[100])), (Refuted, "same_report", 8));
    assert_eq!(two(&report(5, 21, 9, 8, &[100, 200])), (Refuted, "other_range", 8));
    assert_eq!(two(&report(6, 20, 9, 8, &[100, 200])), (Refuted, "other_range", 8));
}

/// Otherwise a report in the name of any node could be made up.
#[test]
fn only_what_the_accused_has_written_itself_counts() {
    let (lie, own) = (report(5, 20, 9, 7, &[100]), report(5, 20, 9, 8, &[100]));
    let judged_as = |envelope| {
        let (verdict, fact, _) =
            judged(TreeFault::OtherReport, other_report_pieces(envelope, Some(&own)));
        (verdict, fact)
    };
    assert_eq!(judged_as(written(3, &lie)), (Claim, "other_report"));
    let by_a_stranger = envelope(2, 3, lie.client_envelope(), 9);
    assert_eq!(judged_as(by_a_stranger), (Refuted, "no_report"), "its payer is no node");
    let unregistered = envelope(9, 3, lie.client_envelope(), 9);
    assert_eq!(judged_as(unregistered), (Refuted, "unknown_originator"));
    let mut forged = written(3, &lie).to_vec();
    let last = forged.len() - 2;
    forged[last] ^= 1;
    assert_eq!(judged_as(forged.into()).0, Refuted);
    let other_writer = envelope(3, 8, own.client_envelope(), 3);
    let pieces = vec![written(3, &lie), other_writer];
    assert_eq!(judged(TreeFault::TwoReports, pieces), (Refuted, "not_of_accused", 8));
    let id = own.id(DomainSeparator::of_contract(1, [5; 20]));
    let attested = Attestation::sign(id, WRITER, &key(2));
    let attested = envelope(2, 3, attested.client_envelope(OriginatorId(100)), 2);
    assert_eq!(judged_as(attested), (Refuted, "no_report"));
}
