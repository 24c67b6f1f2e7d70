//! Tests of every kind of fault with each of its verdicts, and of properties of all reports.

use std::collections::BTreeMap;

use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::identity::associations::{IdentityUpdate, RecoverableEcdsaSignature};
use hawser_proto::pb::xmtp::mls::api::v1::{
    GroupMessageInput, UploadKeyPackageRequest, WelcomeMessageInput,
};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{
    Address, Bytes, EnvelopeId, OriginatorId, SecretKey, SequenceId, TransactionHash,
};
use pb::unsigned_misbehavior_report::Failure;
use proptest::prelude::*;
use prost::Message as _;

use super::report::{ENVELOPES_MAX, REPORT_LEN_BYTES_MAX, digest};
use super::*;
use crate::absences::Absences;
use crate::congestion::congestion_units;
use crate::envelope::tests::{key_packages, upload, wrongly_signed};
use crate::fees::{
    PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable, base_fee, congestion_fee,
};
use crate::registry::{NodeRecord, Registry};

pub(super) const SECOND: i64 = 1_000_000_000;
pub(super) const MINUTE: i64 = 60 * SECOND;
/// The start of a minute.
pub(super) const NOW: i64 = 29_166_667 * MINUTE;
pub(super) const RATE: Rate = Rate {
    start_unix_s: 0,
    message_fee: PicoDollarPrice(7),
    storage_fee: PicoDollarsPerByteDay(3),
    congestion_fee: PicoDollarPrice(11),
    target_rate_per_minute: 4,
};

pub(super) fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

pub(super) fn registry() -> Registry {
    let record = |n: u8| NodeRecord {
        id: OriginatorId(100 * u32::from(n)),
        public_key: key(n).public_key(),
        owner: Address([n; 20]),
        http_address: Some("http://localhost".into()),
        quic_address: None,
        canonical: true,
    };
    [1, 2, 3, 4].map(record).into_iter().collect()
}

/// An envelope of node 100 without faults, of which tests change fields.
pub(super) struct Draft {
    pub(super) node: u32,
    pub(super) sequence: u64,
    pub(super) ns: i64,
    pub(super) days: u32,
    pub(super) target: u32,
    pub(super) depends_on: BTreeMap<u32, u64>,
    pub(super) topic: Vec<u8>,
    pub(super) base_fee: Option<u64>,
    pub(super) congestion_fee: u64,
}

pub(super) fn draft(sequence: u64, ns: i64) -> Draft {
    Draft {
        node: 100,
        sequence,
        ns,
        days: 30,
        target: 100,
        depends_on: BTreeMap::new(),
        topic: vec![1, 9],
        base_fee: None,
        congestion_fee: 0,
    }
}

impl Draft {
    fn client(&self) -> Bytes {
        let aad = env::AuthenticatedData {
            target_topic: Bytes::copy_from_slice(&self.topic),
            depends_on: Some(env::Cursor { node_id_to_sequence_id: self.depends_on.clone() }),
        };
        let payload = Some(Payload::WelcomeMessage(WelcomeMessageInput::default()));
        env::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec().into()
    }

    pub(super) fn statement(&self) -> env::UnsignedOriginatorEnvelope {
        let payer =
            PayerEnvelope::sign(self.client(), OriginatorId(self.target), self.days, &key(9));
        let payer = payer.encode_to_vec();
        let PicoDollarPrice(base) = base_fee(&RATE, payer.len() as u64, self.days).unwrap();
        env::UnsignedOriginatorEnvelope {
            originator_node_id: self.node,
            originator_sequence_id: self.sequence,
            originator_ns: self.ns,
            payer_envelope_bytes: payer.into(),
            base_fee_picodollars: self.base_fee.unwrap_or(base),
            congestion_fee_picodollars: self.congestion_fee,
            expiry_unixtime: u64::try_from(self.ns / SECOND).unwrap()
                + u64::from(self.days) * 86_400,
        }
    }

    pub(super) fn signed(&self) -> env::OriginatorEnvelope {
        let seed = u8::try_from(self.node / 100).unwrap();
        sign(self.statement().encode_to_vec().into(), &key(seed))
    }
}

pub(super) fn sign(statement: Bytes, key: &SecretKey) -> env::OriginatorEnvelope {
    let signature = key.sign(originator_digest(&statement));
    let bytes = Bytes::copy_from_slice(signature.as_bytes());
    env::OriginatorEnvelope {
        unsigned_originator_envelope: statement,
        proof: Some(env::originator_envelope::Proof::OriginatorSignature(
            RecoverableEcdsaSignature { bytes },
        )),
    }
}

pub(super) fn of_chain(sequence: u64) -> env::OriginatorEnvelope {
    let statement = Draft { node: 0, target: 0, ..draft(sequence, NOW) }.statement();
    let proof = env::BlockchainProof { transaction_hash: Bytes::from_static(&[5; 32]) };
    env::OriginatorEnvelope {
        unsigned_originator_envelope: statement.encode_to_vec().into(),
        proof: Some(env::originator_envelope::Proof::BlockchainProof(proof)),
    }
}

pub(super) fn report(kind: MisbehaviorKind, envelopes: Vec<env::OriginatorEnvelope>) -> Bytes {
    against(100, kind, Failure::Safety(pb::SafetyFailure { envelopes }))
}

pub(super) fn liveness(kind: MisbehaviorKind, response_time_ns: u32) -> Bytes {
    let request = pb::liveness_failure::Request::Query(pb::QueryEnvelopesRequest::default());
    let failure = pb::LivenessFailure { response_time_ns, request: Some(request) };
    against(100, kind, Failure::Liveness(failure))
}

fn against(node: u32, kind: MisbehaviorKind, failure: Failure) -> Bytes {
    pb::UnsignedMisbehaviorReport {
        reporter_time_ns: NOW.unsigned_abs(),
        misbehaving_node_id: node,
        r#type: kind.into(),
        failure: Some(failure),
        submitted_by_node: false,
    }
    .encode_to_vec()
    .into()
}

struct Chain;

/// Sequence id 1 is long past, sequence id 2 is an hour ahead, and nothing is known beyond 3. Events are those of a
/// draft, except that of sequence id 2.
impl ChainRecord for Chain {
    fn event(&self, id: EnvelopeId, _: TransactionHash) -> EventAnswer {
        let client = draft(id.sequence.0, NOW).client();
        match id.sequence.0 {
            1 => EventAnswer::Event { identifier: Bytes::from_static(&[9]), client },
            2 => EventAnswer::Event { identifier: Bytes::from_static(&[8]), client },
            3 => EventAnswer::Absent,
            _ => EventAnswer::Unknown,
        }
    }

    fn place(&self, id: EnvelopeId) -> PlaceAnswer {
        match id.sequence.0 {
            1 => PlaceAnswer::At { block_ns: NOW - MINUTE },
            2 => PlaceAnswer::At { block_ns: NOW + 60 * MINUTE },
            3 => PlaceAnswer::NotYet { final_ns: NOW + 60 * MINUTE },
            _ => PlaceAnswer::Unknown,
        }
    }

    fn anchor_ns(&self, id: EnvelopeId) -> Option<i64> {
        (id.sequence.0 == 77).then_some(NOW)
    }
}

/// Returns a case that is judged with the registry alone.
pub(super) fn bare<'a>(report: &'a Bytes, registry: &'a Registry) -> ReportCase<'a> {
    ReportCase {
        report,
        host_signature: None,
        host: None,
        registry,
        rates: None,
        chain: &NoChain,
        held_at_ns: None,
    }
}

pub(super) fn judge(report: &Bytes) -> Judgement {
    let rates = RateTable::new(vec![RATE], None).unwrap();
    verify(&ReportCase { rates: Some(&rates), chain: &Chain, ..bare(report, &registry()) })
}

/// Returns the verdict and the name of the decisive fact.
fn outcome(report: &Bytes) -> (MisbehaviorVerdict, &'static str) {
    let judgement = judge(report);
    (judgement.verdict, judgement.facts[0].name)
}

use MisbehaviorVerdict::{Claim, Inconclusive, Proven, Refuted};

#[test]
fn two_statements_are_proven_by_their_signatures_alone() {
    let of = |one: env::OriginatorEnvelope, other| {
        report(MisbehaviorKind::DuplicateSequenceId, vec![one, other])
    };
    let first = draft(7, NOW);
    let differing = |other: Draft| judge(&of(first.signed(), other.signed()));
    let content = differing(draft(7, NOW + 1));
    assert_eq!((content.verdict, content.difference), (Proven, Some(StatementDifference::Content)));
    assert_eq!(content.place, SequenceId(7));
    let fee = Draft { congestion_fee: 11, ..draft(7, NOW) };
    assert_eq!(differing(fee).difference, Some(StatementDifference::Metadata));
    let mut longer = first.statement().encode_to_vec();
    longer.extend([0x78, 1]); // an unknown field
    let longer = judge(&of(first.signed(), sign(longer.into(), &key(1))));
    assert_eq!((longer.verdict, longer.difference), (Proven, Some(StatementDifference::Encoding)));

    assert_eq!(outcome(&of(first.signed(), first.signed())), (Refuted, "one_statement"));
    let elsewhere = draft(8, NOW).signed();
    assert_eq!(outcome(&of(first.signed(), elsewhere)), (Refuted, "two_places"));
    let forged = sign(draft(7, NOW + 1).statement().encode_to_vec().into(), &key(2));
    assert_eq!(outcome(&of(first.signed(), forged)), (Refuted, "forged"));
    let other_node = Draft { node: 200, ..draft(7, NOW) }.signed();
    assert_eq!(outcome(&of(first.signed(), other_node)), (Refuted, "not_of_accused"));
    assert_eq!(outcome(&of(first.signed(), of_chain(7))), (Refuted, "not_of_accused"));
    let alone = report(MisbehaviorKind::DuplicateSequenceId, vec![first.signed()]);
    assert_eq!(outcome(&alone), (Refuted, "malformed"));
}

#[test]
fn a_signature_written_in_another_way_binds_its_signer_all_the_same() {
    let mut written = draft(7, NOW).signed();
    let Some(env::originator_envelope::Proof::OriginatorSignature(signature)) = &mut written.proof
    else {
        panic!("it is signed")
    };
    let mut bytes = signature.bytes.to_vec();
    bytes[64] += 27;
    signature.bytes = bytes.into();
    let pair = vec![written, draft(7, NOW + 1).signed()];
    assert_eq!(judge(&report(MisbehaviorKind::DuplicateSequenceId, pair)).verdict, Proven);
}

#[test]
fn order_is_proven_by_times_and_claimed_by_absence() {
    let of = |a: Draft, b: Draft| {
        outcome(&report(MisbehaviorKind::OutOfOrder, vec![a.signed(), b.signed()]))
    };
    let back = draft(8, NOW - SECOND - 1);
    assert_eq!(of(draft(7, NOW), back), (Proven, "time_back"));
    assert_eq!(of(draft(9, NOW - MINUTE), draft(7, NOW)), (Proven, "time_back"), "in any sequence");
    assert_eq!(of(draft(7, NOW), draft(8, NOW - SECOND)), (Refuted, "in_order"), "is tolerated");
    assert_eq!(of(draft(7, NOW), draft(9, NOW)), (Claim, "gap"));
    assert_eq!(of(draft(7, NOW), draft(7, NOW + 1)), (Refuted, "one_place"));
    let one = |it: Draft| outcome(&report(MisbehaviorKind::OutOfOrder, vec![it.signed()]));
    assert_eq!(one(draft(7, NOW + 5 * MINUTE + 1)), (Claim, "time_ahead"));
    assert_eq!(one(draft(7, NOW + 5 * MINUTE)), (Refuted, "not_ahead"));
    assert_eq!(one(draft(77, NOW + 5 * MINUTE + 1)), (Proven, "time_ahead_of_chain"));
    let size = |step_ns| {
        let pair = vec![draft(7, NOW).signed(), draft(9, NOW - step_ns).signed()];
        judge(&report(MisbehaviorKind::OutOfOrder, pair)).detail()
    };
    let steps = [SECOND, SECOND + 1, 2 * SECOND, 4 * SECOND - 1, MINUTE, 60 * MINUTE, NOW];
    assert_eq!(steps.map(size), [0, 1, 2, 2, 6, 12, 31], "the binary digits of its seconds");
}

/// If the reporter's time counted, a reporter who dates a report into the past could make every honest envelope appear
/// to be from the future. The clock of the host decides.
#[test]
fn a_report_from_the_past_makes_no_time_a_future_one() {
    let honest = draft(7, NOW + 10 * MINUTE).signed();
    let report = report(MisbehaviorKind::OutOfOrder, vec![honest]);
    let registry = registry();
    let case = bare(&report, &registry);
    assert_eq!(verify(&case).verdict, Claim);
    let held = ReportCase { held_at_ns: Some(NOW + 10 * MINUTE), ..case };
    assert_eq!(verify(&held).verdict, Refuted);
}

/// The chain may have taken back an event that it had when the node signed.
#[test]
fn dependencies_that_the_chain_contradicts_are_claims() {
    let on = |entries: &[(u32, u64)]| Draft {
        depends_on: entries.iter().copied().collect(),
        ..draft(7, NOW)
    };
    let of = |it: Draft| outcome(&report(MisbehaviorKind::CausalOrdering, vec![it.signed()]));
    assert_eq!(of(on(&[(200, 1)])), (Proven, "depends_on_node"));
    assert_eq!(of(on(&[(0, 2)])), (Claim, "dependency_later"));
    assert_eq!(of(on(&[(0, 3)])), (Claim, "dependency_absent"));
    assert_eq!(of(on(&[(0, 2), (1, 9)])), (Claim, "dependency_later"), "one is not known");
    assert_eq!(of(on(&[(0, 2), (200, 1)])), (Proven, "depends_on_node"), "stronger than a claim");
    assert_eq!(of(on(&[(0, 4)])), (Inconclusive, "dependency_unknown"));
    assert_eq!(
        judge(&report(MisbehaviorKind::CausalOrdering, vec![on(&[(0, 4)]).signed()])).missing,
        [Missing::Chain]
    );
    assert_eq!(of(on(&[(0, 1)])), (Refuted, "dependencies_hold"));
    assert_eq!(of(on(&[])), (Refuted, "dependencies_hold"));
    let other = Draft { node: 200, ..on(&[(200, 1)]) };
    assert_eq!(of(other), (Refuted, "not_of_accused"));
}

#[test]
fn a_rule_that_is_broken_is_proven_with_its_number() {
    let of = |it: &Draft| judge(&report(MisbehaviorKind::InvalidPayload, vec![it.signed()]));
    let number = |judgement: &Judgement, name| {
        let numbers = judgement.facts[0].numbers.iter();
        numbers.clone().find(|(it, _)| *it == name).map(|(_, number)| *number)
    };
    let base = || draft(7, NOW);
    for (rule, broken) in [
        (3, Draft { target: 200, ..base() }),
        (4, Draft { topic: vec![0, 9], ..base() }),
        (7, Draft { depends_on: [(100, 1)].into(), ..base() }),
        (8, Draft { days: 1, ..base() }),
        (10, Draft { base_fee: Some(1), ..base() }),
        (11, Draft { congestion_fee: 12, ..base() }),
    ] {
        let judgement = of(&broken);
        assert_eq!((judgement.verdict, judgement.facts[0].name), (Proven, "rule_broken"), "{rule}");
        assert_eq!(number(&judgement, "rule"), Some(rule));
    }
    let with = |change: fn(&mut env::UnsignedOriginatorEnvelope)| {
        let mut statement = base().statement();
        change(&mut statement);
        let envelope = sign(statement.encode_to_vec().into(), &key(1));
        number(&judge(&report(MisbehaviorKind::InvalidPayload, vec![envelope])), "rule")
    };
    assert_eq!(with(|it| it.payer_envelope_bytes = Bytes::from_static(b"noise")), Some(1));
    assert_eq!(with(|it| it.expiry_unixtime -= 601), Some(9));
    let unpaid = |it: &mut env::UnsignedOriginatorEnvelope| {
        let mut payer = env::PayerEnvelope::decode(it.payer_envelope_bytes.clone()).unwrap();
        payer.payer_signature = None;
        it.payer_envelope_bytes = payer.encode_to_vec().into();
    };
    assert_eq!(with(unpaid), Some(2));
    for (rule, topic, payload) in [
        (5, [4, 9], Payload::PayerReport(env::PayerReport::default())),
        (6, [0, 9], Payload::GroupMessage(GroupMessageInput::default())),
        (6, [2, 9], Payload::IdentityUpdate(IdentityUpdate::default())),
        (14, [3, 9], Payload::UploadKeyPackage(UploadKeyPackageRequest::default())),
        (14, [3, 9], upload(wrongly_signed(&key_packages()[0])[1].clone())),
    ] {
        let aad = env::AuthenticatedData {
            target_topic: Bytes::copy_from_slice(&topic),
            ..Default::default()
        };
        let client = env::ClientEnvelope { aad: Some(aad), payload: Some(payload) };
        let client = Bytes::from(client.encode_to_vec());
        let payer = PayerEnvelope::sign(client, OriginatorId(100), base().days, &key(9));
        let mut statement = base().statement();
        statement.payer_envelope_bytes = payer.encode_to_vec().into();
        let envelope = sign(statement.encode_to_vec().into(), &key(1));
        let judgement = judge(&report(MisbehaviorKind::InvalidPayload, vec![envelope]));
        assert_eq!(judgement.verdict, Proven, "{rule}");
        assert_eq!(number(&judgement, "rule"), Some(rule));
    }
    assert_eq!(of(&base()).facts[0].name, "no_rule_broken");
    assert_eq!(of(&base()).verdict, Refuted);
    let chain_proof = report(MisbehaviorKind::InvalidPayload, vec![of_chain(7)]);
    assert_eq!(outcome(&chain_proof), (Refuted, "chain_proof"));
}

/// A host that adds a worthless envelope to a report can neither exonerate nor incriminate the accused.
#[test]
fn an_envelope_that_is_no_evidence_refutes_its_own_part_only() {
    let broken = || Draft { target: 200, ..draft(7, NOW) }.signed();
    let forged = || sign(draft(8, NOW).statement().encode_to_vec().into(), &key(2));
    let of = |envelopes| outcome(&report(MisbehaviorKind::InvalidPayload, envelopes));
    assert_eq!(of(vec![broken()]), (Proven, "rule_broken"));
    for worthless in [forged(), of_chain(7)] {
        assert_eq!(of(vec![worthless.clone(), broken()]), (Proven, "rule_broken"));
        assert_eq!(of(vec![broken(), worthless.clone()]), (Proven, "rule_broken"));
        let refuted = of(vec![draft(7, NOW).signed(), worthless.clone()]);
        assert_eq!(refuted.0, Refuted, "{refuted:?}");
        assert_eq!(of(vec![worthless.clone()]).0, Refuted);
    }
}

#[test]
fn fees_are_judged_only_with_the_rates_of_their_time() {
    let wrong = report(
        MisbehaviorKind::InvalidPayload,
        vec![Draft { base_fee: Some(1), ..draft(7, NOW) }.signed()],
    );
    let with = |rates: Option<RateTable>| {
        let case = ReportCase {
            report: &wrong,
            host_signature: None,
            host: None,
            registry: &registry(),
            rates: rates.as_ref(),
            chain: &NoChain,
            held_at_ns: None,
        };
        let judgement = verify(&case);
        (judgement.verdict, judgement.missing)
    };
    let lacking = (Inconclusive, vec![Missing::Rates]);
    assert_eq!(with(None), lacking);
    let later = Rate { start_unix_s: u64::try_from(NOW / SECOND).unwrap() + 1000, ..RATE };
    assert_eq!(with(RateTable::new(vec![later], None).ok()), lacking, "begins later");
    assert_eq!(with(RateTable::new(vec![RATE], Some(NOW - 1)).ok()), lacking, "may be older");
    assert_eq!(with(RateTable::new(vec![RATE], Some(NOW)).ok()), (Proven, vec![]));
}

#[test]
fn a_congestion_fee_is_judged_by_all_envelopes_of_five_minutes() {
    // Sequence id 1 is before the five minutes, and sequence id n in the current one.
    let strand = |count: u64, fee| -> Vec<env::OriginatorEnvelope> {
        let place = |n: u64| match n {
            1 => draft(1, NOW - 5 * MINUTE),
            n if n == count => Draft { congestion_fee: fee, ..draft(n, NOW + 100) },
            n => draft(n, NOW + i64::try_from(n).unwrap()),
        };
        (1..=count).map(|n| place(n).signed()).collect()
    };
    let of = |envelopes| outcome(&report(MisbehaviorKind::InvalidPayload, envelopes));
    // Sequence id 8 has six envelopes before it in its minute; four per minute are free.
    let units = congestion_units([6, 0, 0, 0, 0], 4);
    let PicoDollarPrice(right) = congestion_fee(&RATE, units).unwrap();
    assert!(right > 0);
    assert_eq!(of(strand(8, right)), (Refuted, "no_rule_broken"));
    // An honest node that has lost envelopes counts fewer than it has signed.
    assert_eq!(of(strand(8, 0)), (Claim, "congestion_too_low"));
    let gap: Vec<_> =
        strand(8, 0).into_iter().enumerate().filter(|it| it.0 != 4).map(|it| it.1).collect();
    assert_eq!(of(gap), (Inconclusive, "window_gap"));
    assert_eq!(of(strand(8, 0).split_off(1)), (Inconclusive, "window_start"));
    assert_eq!(of(strand(4, 11)), (Proven, "rule_broken"), "without congestion none is due");
    let forged = sign(draft(9, NOW).statement().encode_to_vec().into(), &key(2));
    let beside = [strand(4, 11), vec![forged]].concat();
    assert_eq!(of(beside), (Proven, "rule_broken"), "whatever stands beside it");
}

#[test]
fn a_false_chain_envelope_is_certain_but_not_who_served_it() {
    let of = |sequence| {
        outcome(&report(MisbehaviorKind::BlockchainInconsistency, vec![of_chain(sequence)]))
    };
    assert_eq!(of(1), (Refuted, "as_on_chain"));
    assert_eq!(of(2), (Claim, "false_chain_envelope"));
    assert_eq!(of(3), (Claim, "false_chain_envelope"));
    assert_eq!(of(4), (Inconclusive, "chain_unknown"));
    let signed = report(MisbehaviorKind::BlockchainInconsistency, vec![draft(1, NOW).signed()]);
    assert_eq!(outcome(&signed), (Refuted, "not_of_chain"));
}

#[test]
fn an_envelope_of_a_removed_node_is_a_claim_because_its_removal_may_have_been_kept_from_it() {
    let removed_s = u64::try_from(NOW / SECOND).unwrap();
    let away = Absences::of_changes([(removed_s, false)]);
    let registry = registry().with_absences([(OriginatorId(100), away)]);
    let outcome = |drafts: &[Draft]| {
        let all = drafts.iter().map(Draft::signed).collect();
        verify(&bare(&report(MisbehaviorKind::InvalidPayload, all), &registry)).verdict
    };
    let (noticed, later) = (NOW + 60 * MINUTE, NOW + 60 * MINUTE + SECOND);
    assert_eq!(outcome(&[draft(1, NOW + MINUTE)]), Inconclusive, "its fees are not judged");
    assert_eq!(outcome(&[draft(1, noticed)]), Inconclusive);
    assert_eq!(outcome(&[draft(1, later)]), Claim);
    assert_eq!(outcome(&[draft(1, later), draft(2, later)]), Claim);
    assert_eq!(outcome(&[draft(1, later), Draft { node: 200, ..draft(2, later) }]), Claim);
    assert_eq!(outcome(&[Draft { target: 200, ..draft(1, later) }]), Proven, "of another rule");
}

#[test]
fn liveness_is_never_more_than_the_reporters_word() {
    assert_eq!(
        outcome(&liveness(MisbehaviorKind::UnresponsiveNode, u32::MAX)),
        (Claim, "reporters_word")
    );
    assert_eq!(outcome(&liveness(MisbehaviorKind::FailedRequest, 5)), (Claim, "reporters_word"));
    assert_eq!(
        outcome(&liveness(MisbehaviorKind::SlowNode, 2_000_000_000)),
        (Claim, "reporters_word")
    );
    assert_eq!(outcome(&liveness(MisbehaviorKind::SlowNode, 1_999_999_999)), (Refuted, "not_slow"));
}

/// The owner of a node may have registered bytes that are no key. The node is in the registry all the same.
#[test]
fn a_node_without_a_valid_key_may_be_out_of_reach_and_has_signed_nothing() {
    let keyless = registry().with_unusable([(OriginatorId(900), true)]);
    let request = pb::liveness_failure::Request::Query(pb::QueryEnvelopesRequest::default());
    let failure = pb::LivenessFailure { response_time_ns: 1, request: Some(request) };
    let silent = against(900, MisbehaviorKind::UnresponsiveNode, Failure::Liveness(failure));
    let statement = Draft { node: 900, target: 900, ..draft(7, NOW) }.statement();
    let envelopes = vec![sign(statement.encode_to_vec().into(), &key(9))];
    let safety = Failure::Safety(pb::SafetyFailure { envelopes });
    let signed = against(900, MisbehaviorKind::InvalidPayload, safety);
    let of = |report: &Bytes| {
        let judgement = verify(&bare(report, &keyless));
        (judgement.verdict, judgement.facts[0].name)
    };
    assert_eq!(of(&silent), (Claim, "reporters_word"));
    assert_eq!(of(&signed), (Refuted, "unknown_originator"));
    assert_eq!(outcome(&silent), (Refuted, "unknown_node"), "it was never registered");
}

#[test]
fn malformed_and_large_reports_are_refuted() {
    let empty = || Failure::Safety(pb::SafetyFailure::default());
    for malformed in [
        report(MisbehaviorKind::DuplicateSequenceId, vec![]),
        report(MisbehaviorKind::Unspecified, vec![draft(1, NOW).signed()]),
        report(MisbehaviorKind::UnresponsiveNode, vec![draft(1, NOW).signed()]),
        liveness(MisbehaviorKind::OutOfOrder, 1),
        against(100, MisbehaviorKind::SlowNode, Failure::Liveness(pb::LivenessFailure::default())),
        Bytes::from_static(b"\xff"),
        Bytes::new(),
    ] {
        assert_eq!(outcome(&malformed), (Refuted, "malformed"));
    }
    assert_eq!(
        outcome(&against(999, MisbehaviorKind::OutOfOrder, empty())),
        (Refuted, "malformed")
    );
    let safety = Failure::Safety(pb::SafetyFailure { envelopes: vec![draft(1, NOW).signed()] });
    assert_eq!(
        outcome(&against(900, MisbehaviorKind::OutOfOrder, safety)),
        (Refuted, "unknown_node")
    );
    let many = |kind, count| report(kind, vec![env::OriginatorEnvelope::default(); count]);
    let refused = (Refuted, "too_large");
    assert_eq!(outcome(&many(MisbehaviorKind::CausalOrdering, ENVELOPES_MAX + 1)), refused);
    assert_eq!(outcome(&many(MisbehaviorKind::InvalidPayload, 1_001)), refused);
    assert_ne!(outcome(&many(MisbehaviorKind::InvalidPayload, ENVELOPES_MAX + 1)), refused);
    assert_eq!(outcome(&Bytes::from(vec![0; REPORT_LEN_BYTES_MAX + 1])), refused);
}

#[test]
fn a_host_is_known_by_its_signature() {
    let report = liveness(MisbehaviorKind::SlowNode, u32::MAX);
    let of_second = registry().node(OriginatorId(200)).unwrap().clone();
    let same_key = NodeRecord { id: OriginatorId(500), ..of_second };
    let registry: Registry = registry().nodes().cloned().chain([same_key]).collect();
    let by = |seed, host: Option<u32>| {
        let signature = key(seed).sign(digest(&report));
        let case = ReportCase {
            report: &report,
            host_signature: Some(signature.as_bytes()),
            host: host.map(OriginatorId),
            registry: &registry,
            rates: None,
            chain: &NoChain,
            held_at_ns: None,
        };
        verify(&case).host
    };
    assert_eq!(by(2, None), Host::Node(OriginatorId(200)));
    assert_eq!(by(2, Some(200)), Host::Node(OriginatorId(200)));
    assert_eq!(by(2, Some(300)), Host::Other(OriginatorId(200)));
    assert_eq!(by(2, Some(500)), Host::Other(OriginatorId(200)), "one signature, one host");
    assert_eq!(by(9, None), Host::Unknown);
}

proptest! {
    /// Any bytes have a judgement, which is the same twice and never a proof.
    #[test]
    fn mutated_reports_prove_nothing_else(
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
        kind in 0..9i32,
    ) {
        let pair = vec![draft(7, NOW).signed(), draft(7, NOW + 1).signed()];
        let mut bytes = report(MisbehaviorKind::try_from(kind).unwrap(), pair).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = with;
        let bytes = Bytes::from(bytes);
        let judgement = judge(&bytes);
        prop_assert_eq!(&judge(&bytes), &judgement);
        if judgement.verdict == Proven {
            // The signed bytes are then intact, and the mutation is in parts of the report that are not signed.
            prop_assert_eq!(judgement.kind, Some(MisbehaviorKind::DuplicateSequenceId));
            prop_assert_eq!(judgement.place, SequenceId(7));
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_ne!(judge(&Bytes::from(bytes)).verdict, Proven);
    }
}
