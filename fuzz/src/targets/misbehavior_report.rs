//! Fuzz target: reports of misbehaviour, which anonymous callers submit and auditors judge.

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::{Address, OriginatorId, SecretKey};
use hawser_rules::misbehavior::report::own_safety_report;
use hawser_rules::misbehavior::{
    MisbehaviorKind, MisbehaviorVerdict, NoChain, Report, ReportCase, verify,
};
use hawser_rules::{NodeRecord, Registry};
use prost::Message as _;

use super::Target;
use super::wire::DECODED_PER_BYTE;
use crate::corpus;

pub(super) const TARGET: Target =
    Target { name: "misbehavior", run, seeds, memory_factor: DECODED_PER_BYTE };

fn run(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    let registry = registry();
    let case = ReportCase {
        report: &input,
        host_signature: Some(&input[..input.len().min(65)]),
        host: None,
        registry: &registry,
        rates: None,
        chain: &NoChain,
        held_at_ns: None,
    };
    let judgement = verify(&case);
    assert_eq!(verify(&case), judgement, "a judgement is a function of its arguments");
    assert!(!judgement.facts.is_empty(), "each judgement names what it rests on");
    match Report::decode(&input) {
        Ok(report) => {
            let bytes = report.to_bytes();
            assert_eq!(Report::decode(&bytes), Ok(report), "the one form reads back");
        }
        Err(_) => assert_eq!(judgement.verdict, MisbehaviorVerdict::Refuted),
    }
}

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32]).expect("a key")
}

fn registry() -> Registry {
    let record = NodeRecord {
        id: OriginatorId(100),
        public_key: key().public_key(),
        owner: Address([0; 20]),
        http_address: None,
        quic_address: None,
        canonical: true,
    };
    std::iter::once(record).collect()
}

/// Reports of each kind about signed envelopes of what real clients sent, and a failed request.
fn seeds() -> Vec<Vec<u8>> {
    let clients = corpus::client_envelopes();
    let signed: Vec<Bytes> =
        clients.into_iter().step_by(11).map(|client| signed(client.into())).collect();
    let mut seeds = Vec::new();
    for kind in 4..9 {
        let kind = MisbehaviorKind::try_from(kind).expect("a kind of the schema");
        for pair in signed.chunks(2) {
            let report = own_safety_report(1, OriginatorId(100), kind, pair);
            seeds.extend(report.map(|report| report.to_bytes().to_vec()));
        }
    }
    let request = pb::liveness_failure::Request::Query(pb::QueryEnvelopesRequest::default());
    let failure = pb::LivenessFailure { response_time_ns: u32::MAX, request: Some(request) };
    let liveness = pb::UnsignedMisbehaviorReport {
        reporter_time_ns: 1,
        misbehaving_node_id: 100,
        r#type: MisbehaviorKind::SlowNode.into(),
        failure: Some(pb::unsigned_misbehavior_report::Failure::Liveness(failure)),
        submitted_by_node: true,
    };
    seeds.push(liveness.encode_to_vec());
    seeds
}

fn signed(client: Bytes) -> Bytes {
    use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
    use hawser_proto::pb::xmtp::xmtpv4::envelopes::UnsignedOriginatorEnvelope;

    let payer = PayerEnvelope::sign(client, OriginatorId(100), 60, &key()).encode_to_vec();
    let statement = UnsignedOriginatorEnvelope {
        originator_node_id: 100,
        originator_sequence_id: 7,
        originator_ns: 1_700_000_000_123_456_000,
        payer_envelope_bytes: payer.into(),
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(&key())
}
