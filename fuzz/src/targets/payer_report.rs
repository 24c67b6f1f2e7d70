//! Fuzz target: payer reports and attestations of other nodes, and proofs of leaves.

use bytes::Bytes;
use hawser_proto::envelope::{ClientEnvelope, Payload};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{OriginatorId, SecretKey};
use hawser_rules::payer_report::{
    Attestation, DomainSeparator, LeafProof, NodeIds, PayerReport, ReportId, majority,
};
use prost::Message as _;

use super::Target;
use super::wire::DECODED_PER_BYTE;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "payer_report", run, seeds, memory_factor: DECODED_PER_BYTE };

/// A report that is read has one form and one id, and no key of ours has signed an attestation.
fn run(input: &[u8]) {
    let domain = DomainSeparator::new([7; 32]).expect("not zero");
    if let Ok(message) = pb::PayerReport::decode(input)
        && let Ok(report) = PayerReport::from_message(&message)
    {
        let envelope = ClientEnvelope::parse(report.client_envelope()).expect("our own bytes");
        let Payload::PayerReport(message) = envelope.payload() else { panic!("another payload") };
        let again = PayerReport::from_message(message).expect("our own report");
        assert_eq!(again, report, "the one form reads back");
        assert_eq!(again.id(domain), report.id(domain));
    }
    if let Ok(message) = pb::PayerReportAttestation::decode(input)
        && let Ok(attestation) = Attestation::from_message(&message)
    {
        let envelope = attestation.client_envelope(OriginatorId(100));
        let envelope = ClientEnvelope::parse(envelope).expect("our own bytes");
        let Payload::PayerReportAttestation(message) = envelope.payload() else { panic!() };
        assert_eq!(Attestation::from_message(message), Ok(attestation));
        // No input is a report and an attestation of it, and of another report no signature is verified.
        let report = ReportId([7; 32]);
        let nodes = NodeIds::new([100, 200, 300].map(OriginatorId)).expect("three nodes");
        let key = SecretKey::from_bytes(&[7; 32]).expect("a key").public_key();
        let attestation = Attestation { report, ..attestation };
        let majority = majority(report, &nodes, [attestation], |_| Some(key));
        assert!(majority.counted.is_empty(), "no key of ours has signed it");
    }
    let words = input.chunks_exact(32).map(|word| word.try_into().expect("32 bytes"));
    let proof = LeafProof(words.collect());
    let leaf = &input[..input.len().min(64)];
    // It must not panic. No input is known to be right.
    let _ = proof.verify([9; 32], 0, &[leaf]);
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = corpus::messages_of("xmtp.xmtpv4.envelopes.PayerReport");
    seeds.extend(corpus::messages_of("xmtp.xmtpv4.envelopes.PayerReportAttestation"));
    let report = pb::PayerReport {
        originator_node_id: 200,
        start_sequence_id: 41,
        end_sequence_id: 990,
        end_minute_since_epoch: 29_000_000,
        payers_merkle_root: Bytes::from(vec![9; 32]),
        active_node_ids: vec![100, 200, 300],
    };
    seeds.push(report.encode_to_vec());
    seeds.push([[0; 31].as_slice(), &[1], &[9; 64]].concat());
    seeds
}
