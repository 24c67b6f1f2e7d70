//! Tests of reports with an envelope that is not evidence: it refutes its own part, and no other one.

use hawser_proto::envelope::{PayerEnvelope, Payload};
use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as env;
use hawser_proto::{Address, Bytes, OriginatorId};
use prost::Message as _;

use super::MisbehaviorVerdict::{Claim, Inconclusive, Proven, Refuted};
use super::tests::{Draft, NOW, RATE, bare, draft, judge, key, of_chain, registry, report, sign};
use super::{MisbehaviorKind, MisbehaviorVerdict, Report, proof_part, verify};
use crate::fees::{PicoDollarPrice, base_fee, congestion_fee};
use crate::registry::{NodeRecord, Registry};

fn outcome(
    kind: MisbehaviorKind,
    envelopes: &[env::OriginatorEnvelope],
) -> (MisbehaviorVerdict, &'static str) {
    let judgement = judge(&report(kind, envelopes.to_vec()));
    (judgement.verdict, judgement.facts[0].name)
}

/// An envelope in the name of node 100, which node 200 has signed.
fn forged() -> env::OriginatorEnvelope {
    sign(draft(8, NOW).statement().encode_to_vec().into(), &key(2))
}

#[test]
fn a_worthless_envelope_hides_no_dependency_on_a_node() {
    let of =
        |envelopes: &[env::OriginatorEnvelope]| outcome(MisbehaviorKind::CausalOrdering, envelopes);
    let faulty = Draft { depends_on: [(200, 1)].into(), ..draft(7, NOW) }.signed();
    let honest = draft(7, NOW).signed();
    for worthless in [forged(), of_chain(7)] {
        let proven = (Proven, "depends_on_node");
        assert_eq!(of(&[faulty.clone(), worthless.clone()]), proven);
        assert_eq!(of(&[worthless.clone(), faulty.clone()]), proven);
        assert_eq!(of(&[honest.clone(), worthless]).0, Refuted);
    }
    assert_eq!(of(&[honest, forged()]), (Refuted, "forged"));
}

/// A registry file may list a key of the older network. The holder of that key can sign an envelope that depends on an
/// honest node's, and is dated as the one on which the node's own depends: a circle around the node.
#[test]
fn an_envelope_that_others_depend_on_is_no_fault_of_its_node() {
    let older = NodeRecord {
        id: OriginatorId::MIGRATED[0],
        public_key: key(8).public_key(),
        owner: Address([8; 20]),
        http_address: None,
        quic_address: None,
        canonical: false,
    };
    let with_older: Registry = registry().nodes().cloned().chain([older]).collect();
    let honest = Draft { depends_on: [(10, 5)].into(), ..draft(7, NOW) }.signed();
    let liar = Draft { node: 10, target: 10, depends_on: [(100, 7)].into(), ..draft(5, NOW) };
    let liar = sign(liar.statement().encode_to_vec().into(), &key(8));
    let circle = report(MisbehaviorKind::CausalOrdering, vec![honest, liar]);
    let judgement = verify(&bare(&circle, &with_older));
    let outcome = (judgement.verdict, judgement.facts[0].name);
    assert_eq!(outcome, (Inconclusive, "dependency_unknown"));
}

#[test]
fn a_worthless_envelope_hides_no_false_envelope_of_a_chain() {
    let of = |envelopes: &[env::OriginatorEnvelope]| {
        outcome(MisbehaviorKind::BlockchainInconsistency, envelopes)
    };
    let (honest, other) = (of_chain(1), of_chain(2));
    for worthless in [forged(), draft(7, NOW).signed()] {
        let claim = (Claim, "false_chain_envelope");
        assert_eq!(of(&[other.clone(), worthless.clone()]), claim);
        assert_eq!(of(&[worthless.clone(), other.clone()]), claim);
        assert_eq!(of(&[honest.clone(), worthless]).0, Refuted);
    }
    assert_eq!(of(&[honest, forged()]), (Refuted, "forged"));
}

/// Data that is missing here may prove the others, so a forged envelope beside them must not have the report refused.
#[test]
fn a_worthless_envelope_decides_nothing_about_others_that_lack_data() {
    let registry = registry();
    let of = |kind, envelopes: &[env::OriginatorEnvelope]| {
        let report = report(kind, envelopes.to_vec());
        let judgement = verify(&bare(&report, &registry));
        (judgement.verdict, judgement.facts[0].name)
    };
    let unknown = Draft { depends_on: [(0, 4)].into(), ..draft(7, NOW) }.signed();
    for worthless in [forged(), of_chain(7)] {
        for both in [[unknown.clone(), worthless.clone()], [worthless.clone(), unknown.clone()]] {
            let dependency = of(MisbehaviorKind::CausalOrdering, &both);
            assert_eq!(dependency, (Inconclusive, "dependency_unknown"));
            let fees = of(MisbehaviorKind::InvalidPayload, &both);
            assert_eq!(fees, (Inconclusive, "rates_unknown"));
        }
    }
    for worthless in [forged(), draft(7, NOW).signed()] {
        for both in [[of_chain(4), worthless.clone()], [worthless.clone(), of_chain(4)]] {
            let event = of(MisbehaviorKind::BlockchainInconsistency, &both);
            assert_eq!(event, (Inconclusive, "chain_unknown"));
        }
    }
}

/// A stranger can put megabytes of public logs, of envelopes that nothing authenticates, and of copies of the envelope
/// that breaks the rule beside each proof.
#[test]
fn a_proof_rests_on_the_envelope_that_breaks_the_rule_or_on_those_of_its_minutes() {
    let check = |kind, needed: &[env::OriginatorEnvelope], others: &[env::OriginatorEnvelope]| {
        let mut envelopes = needed.to_vec();
        others.iter().for_each(|other| envelopes.insert(1, other.clone()));
        let (alone, whole) = (report(kind, needed.to_vec()), report(kind, envelopes));
        let judgement = judge(&whole);
        assert_eq!(judgement.verdict, Proven);
        assert_eq!(judge(&alone), judgement, "it is the same fault");
        let part = proof_part(&Report::decode(&whole).unwrap(), &judgement, &registry());
        assert_eq!(part.unwrap().to_bytes(), alone);
    };
    let of_other = Draft { node: 200, target: 200, ..draft(7, NOW) }.signed();
    let others = [forged(), of_chain(7), of_other];
    let more = [&others[..], &[draft(8, NOW).signed()]].concat();
    let dependent = Draft { depends_on: [(200, 1)].into(), ..draft(7, NOW) }.signed();
    let mistargeted = Draft { target: 200, ..draft(7, NOW) }.signed();
    for (kind, needed) in [
        (MisbehaviorKind::CausalOrdering, dependent),
        (MisbehaviorKind::InvalidPayload, mistargeted),
    ] {
        check(kind, std::slice::from_ref(&needed), &more);
        check(kind, std::slice::from_ref(&needed), &vec![needed.clone(); 60]);
    }
    let PicoDollarPrice(full) = congestion_fee(&RATE, 100).unwrap();
    let overcharged = Draft { congestion_fee: full, ..draft(2, NOW + 2) }.signed();
    check(MisbehaviorKind::InvalidPayload, &[draft(1, NOW).signed(), overcharged], &others);

    let pair = [draft(7, NOW).signed(), draft(7, NOW + 1).signed()];
    for (kind, envelopes) in [
        (MisbehaviorKind::DuplicateSequenceId, pair.to_vec()),
        (MisbehaviorKind::InvalidPayload, vec![draft(7, NOW).signed()]),
    ] {
        let whole = report(kind, envelopes);
        let part = proof_part(&Report::decode(&whole).unwrap(), &judge(&whole), &registry());
        assert_eq!(part, None);
    }
}

/// Two statements are shown by two envelopes together.
#[test]
fn a_forged_statement_beside_a_true_one_is_no_second_one() {
    let true_one = draft(8, NOW).signed();
    let of = |envelopes: &[env::OriginatorEnvelope]| {
        outcome(MisbehaviorKind::DuplicateSequenceId, envelopes)
    };
    assert_eq!(of(&[true_one, forged()]), (Refuted, "forged"));
}

/// Any payer can have a node of other software sign such an envelope.
#[test]
fn a_long_update_that_another_payload_replaces_is_a_claim_and_one_that_counts_is_proven() {
    // An identity update of a byte more than is decoded.
    let update: Vec<u8> = [&[0x2a, 0x81, 0x80, 0x10][..], &[0; 256 * 1024 + 1]].concat();
    let of = |before: &[u8], behind: &[u8]| {
        let statement = draft(7, NOW).statement();
        let payer = env::PayerEnvelope::decode(statement.payer_envelope_bytes.clone()).unwrap();
        let client = [before, &payer.unsigned_client_envelope[..], behind].concat();
        let payer = PayerEnvelope::sign(client.into(), OriginatorId(100), 30, &key(9));
        let payer_envelope_bytes = payer.encode_to_vec().into();
        let statement = env::UnsignedOriginatorEnvelope { payer_envelope_bytes, ..statement };
        let envelope = sign(statement.encode_to_vec().into(), &key(1));
        outcome(MisbehaviorKind::InvalidPayload, &[envelope])
    };
    assert_eq!(of(&update, &[]), (Claim, "odd_encoding"));
    assert_eq!(of(&[], &update), (Proven, "rule_broken"));
}

/// An envelope of node 100 with these bytes as a group message, before its node signs it.
fn with_message(data: &[u8]) -> env::UnsignedOriginatorEnvelope {
    let aad =
        env::AuthenticatedData { target_topic: Bytes::from_static(&[0; 17]), depends_on: None };
    let v1 = V1 { data: data.to_vec().into(), ..Default::default() };
    let payload = Some(Payload::GroupMessage(GroupMessageInput { version: Some(Version::V1(v1)) }));
    let client = env::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec();
    let payer = PayerEnvelope::sign(client.into(), OriginatorId(100), 30, &key(9)).encode_to_vec();
    let base_fee_picodollars = base_fee(&RATE, payer.len() as u64, 30).unwrap().0;
    let payer_envelope_bytes = payer.into();
    let statement = draft(7, NOW).statement();
    env::UnsignedOriginatorEnvelope { payer_envelope_bytes, base_fee_picodollars, ..statement }
}

/// The verdict on an envelope, its name, and the number of the broken rule.
fn of_payload(
    statement: &env::UnsignedOriginatorEnvelope,
) -> (MisbehaviorVerdict, &'static str, i128) {
    let envelope = sign(statement.encode_to_vec().into(), &key(1));
    let judgement = judge(&report(MisbehaviorKind::InvalidPayload, vec![envelope]));
    let fact = &judgement.facts[0];
    let rule = fact.numbers.iter().find(|(name, _)| *name == "rule").map_or(0, |(_, it)| *it);
    (judgement.verdict, fact.name, rule)
}

/// Any payer can have an honest node of the reference implementation sign such a message.
#[test]
fn a_message_that_other_software_reads_to_its_content_type_is_a_claim() {
    let of_group = |id: &[u8], content: u8, behind: &[u8]| {
        let len = u8::try_from(id.len()).unwrap();
        with_message(&[&[0, 1, 0, 2, len][..], id, &[0; 8], &[content], behind].concat())
    };
    let message = |content: u8, behind: &[u8]| of_group(&[9; 16], content, behind);
    assert_eq!(of_payload(&message(1, &[0; 3])), (Refuted, "no_rule_broken", 0));
    let other_group = of_group(&[9; 15], 1, &[0; 3]);
    for odd in [message(1, &[0; 4]), message(1, &[]), message(9, &[0; 3]), other_group] {
        assert_eq!(of_payload(&odd), (Claim, "odd_encoding", 6));
        // What no software takes is proven beside it, and so are wrong fees.
        let expires = |expiry_unixtime| {
            of_payload(&env::UnsignedOriginatorEnvelope { expiry_unixtime, ..odd.clone() })
        };
        assert_eq!(expires(odd.expiry_unixtime + 86_401), (Claim, "odd_encoding", 6));
        assert_eq!(expires(odd.expiry_unixtime - 601), (Proven, "rule_broken", 6));
        let base_fee_picodollars = 1;
        let cheap = env::UnsignedOriginatorEnvelope { base_fee_picodollars, ..odd };
        assert_eq!(of_payload(&cheap), (Proven, "rule_broken", 10));
    }
    // The reference implementation refuses these as well.
    for broken in [message(3, &[0; 4]), message(2, &[]), with_message(&[0, 1, 0, 2])] {
        assert_eq!(of_payload(&broken), (Proven, "rule_broken", 6));
    }
}

/// At the next extension of the schema an honest node of a newer version signs what this version does not know.
#[test]
fn what_only_a_newer_schema_has_is_a_claim_and_what_is_wrong_in_each_is_proven() {
    let of = |topic: &[u8], payload: &[u8], target: u32| {
        let len = u8::try_from(topic.len()).unwrap();
        let client = [&[0x0a, len + 2, 0x12, len][..], topic, payload].concat();
        let payer = PayerEnvelope::sign(client.into(), OriginatorId(target), 30, &key(9));
        let payer_envelope_bytes = payer.encode_to_vec().into();
        let statement = draft(7, NOW).statement();
        of_payload(&env::UnsignedOriginatorEnvelope { payer_envelope_bytes, ..statement })
    };
    // A welcome, and a payload with the number 8.
    let (known, newer): (&[u8], &[u8]) = (&[0x1a, 0], &[0x42, 1, b'?']);
    let claim = (Claim, "odd_encoding", 1);
    assert_eq!(of(&[1, 9], newer, 100), claim);
    assert_eq!(of(&[6, 9], newer, 100), claim);
    assert_eq!(of(&[6, 9], known, 100), claim);
    let proven = |rule: i128| (Proven, "rule_broken", rule);
    assert_eq!(of(&[6, 9], newer, 200), proven(1), "the payer has asked another node");
    assert_eq!(of(&[6, 9], &[], 100), proven(1), "no payload");
    assert_eq!(of(&[6], newer, 100), proven(1), "a topic of one byte");
    assert_eq!(of(&[6, 9], &[0x42, 2, b'?'], 100), proven(1), "cut off");
    assert_eq!(of(&[0, 9], known, 100), proven(4), "another kind");
    let both = [known, &[0x12, 0]].concat();
    assert_eq!(of(&[1, 9], &both, 100), proven(4), "the last of two counts");
}

/// Builds of the reference implementation without a C library ignore a bit of the recovery id.
#[test]
fn a_recovery_id_that_some_builds_take_is_a_claim() {
    let with_id = |more: u8| {
        let statement = draft(7, NOW).statement();
        let mut payer = env::PayerEnvelope::decode(statement.payer_envelope_bytes.clone()).unwrap();
        let signature = payer.payer_signature.as_mut().unwrap();
        let mut bytes = signature.bytes.to_vec();
        bytes[64] += more;
        signature.bytes = bytes.into();
        let payer_envelope_bytes = payer.encode_to_vec().into();
        of_payload(&env::UnsignedOriginatorEnvelope { payer_envelope_bytes, ..statement })
    };
    assert_eq!(with_id(0), (Refuted, "no_rule_broken", 0));
    assert_eq!(with_id(4), (Claim, "odd_encoding", 2));
    assert_eq!(with_id(8), (Proven, "rule_broken", 2));
    assert_eq!(with_id(27), (Proven, "rule_broken", 2));
}

/// A node of other software computes the expiry when it signs, which may be long after it dated the envelope.
#[test]
fn a_late_expiry_is_a_claim_and_excuses_no_other_fault() {
    let of = |off_s: i64, change: fn(&mut env::UnsignedOriginatorEnvelope)| {
        let mut statement = draft(7, NOW).statement();
        statement.expiry_unixtime = statement.expiry_unixtime.checked_add_signed(off_s).unwrap();
        change(&mut statement);
        let envelope = sign(statement.encode_to_vec().into(), &key(1));
        outcome(MisbehaviorKind::InvalidPayload, &[envelope])
    };
    assert_eq!(of(86_400, |_| {}), (Refuted, "no_rule_broken"));
    assert_eq!(of(86_401, |_| {}), (Claim, "late_expiry"));
    assert_eq!(of(1_000_000_000_000, |_| {}), (Claim, "late_expiry"));
    assert_eq!(of(-600, |_| {}), (Refuted, "no_rule_broken"));
    assert_eq!(of(-601, |_| {}), (Proven, "rule_broken"));
    let overpriced = |it: &mut env::UnsignedOriginatorEnvelope| it.base_fee_picodollars += 1;
    assert_eq!(of(86_401, overpriced), (Proven, "rule_broken"));
}
