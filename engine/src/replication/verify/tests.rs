//! Tests of the verifier with every kind of envelope that a peer may send.

use std::collections::BTreeMap;

use hawser_proto::envelope::Payload;
use hawser_proto::pb::xmtp::identity::associations::IdentityUpdate;
use hawser_proto::pb::xmtp::mls::api::v1::GroupMessageInput;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use hawser_proto::{SecretKey, Topic, TopicKind};
use hawser_storage::{Charge, Facts, InvalidRule, StoredEnvelope};
use prost::Message as _;

use super::*;
use hawser_rules::{Absence, ENVELOPE_LEN_BYTES_MAX};

const SOURCE: OriginatorId = OriginatorId(200);
const OWN: OriginatorId = OriginatorId(100);
const NS: i64 = 1_750_000_000_000_000_000;
const DAY_S: u64 = 86_400;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32]).unwrap()
}

fn verifier() -> EnvelopeVerifier {
    EnvelopeVerifier {
        originator: SOURCE,
        key: key(2).public_key(),
        own: OWN,
        absences: Absences::NONE,
    }
}

/// A client envelope with an MLS private message of this content type.
fn client(kind: TopicKind, content_type: u8, depends_on: &[(u32, u64)]) -> Bytes {
    let mut data = vec![0, 1, 0, 2, 16];
    data.extend([9; 16]);
    data.extend(1u64.to_be_bytes());
    data.extend([content_type, 0, 0, 4, 1, 2, 3, 4]);
    let v1 = V1 { data: data.into(), sender_hmac: Bytes::new(), should_push: false };
    let cursor = pb::Cursor { node_id_to_sequence_id: depends_on.iter().copied().collect() };
    pb::ClientEnvelope {
        aad: Some(pb::AuthenticatedData {
            target_topic: Topic::new(kind, &[9; 4]).unwrap().as_bytes().clone(),
            depends_on: (!depends_on.is_empty()).then_some(cursor),
        }),
        payload: Some(Payload::GroupMessage(GroupMessageInput { version: Some(Version::V1(v1)) })),
    }
    .encode_to_vec()
    .into()
}

fn application() -> Bytes {
    client(TopicKind::GroupMessages, 1, &[])
}

/// A client envelope with an identity update of empty actions, of two bytes each.
fn update(actions: usize) -> Bytes {
    let actions = vec![Default::default(); actions];
    let update = IdentityUpdate { actions, ..Default::default() };
    let target_topic = Topic::new(TopicKind::IdentityUpdates, &[9; 32]).unwrap().as_bytes().clone();
    let aad = Some(pb::AuthenticatedData { target_topic, depends_on: None });
    let payload = Some(Payload::IdentityUpdate(update));
    pb::ClientEnvelope { aad, payload }.encode_to_vec().into()
}

fn paid(client: Bytes, target: OriginatorId, days: u32) -> pb::PayerEnvelope {
    PayerEnvelope::sign(client, target, days, &key(3))
}

/// Returns the statement that an honest node makes.
fn statement(sequence: u64, payer: &pb::PayerEnvelope) -> pb::UnsignedOriginatorEnvelope {
    let payer_envelope_bytes: Bytes = payer.encode_to_vec().into();
    let days = u64::from(payer.message_retention_days);
    pb::UnsignedOriginatorEnvelope {
        originator_node_id: SOURCE.0,
        originator_sequence_id: sequence,
        originator_ns: NS,
        base_fee_picodollars: 1000 + 3 * payer_envelope_bytes.len() as u64 * days,
        congestion_fee_picodollars: 0,
        expiry_unixtime: u64::try_from(NS / 1_000_000_000).unwrap() + days * DAY_S,
        payer_envelope_bytes,
    }
}

fn signed(statement: &pb::UnsignedOriginatorEnvelope, seed: u8) -> Bytes {
    let bytes: Bytes = statement.encode_to_vec().into();
    let signature = key(seed).sign(originator_digest(&bytes));
    OriginatorEnvelope::encode(bytes, Proof::Signature(signature))
}

fn good(sequence: u64) -> Bytes {
    signed(&statement(sequence, &paid(application(), SOURCE, 60)), 2)
}

fn check_one(bytes: Bytes) -> VerifyResult {
    let results = verifier().check(vec![bytes]);
    assert_eq!(results.len(), 1);
    results.into_iter().next().unwrap()
}

#[test]
fn an_honest_envelope_is_taken_over_with_its_facts() {
    let entry = check_one(good(5)).unwrap();
    assert_eq!(entry.id, EnvelopeId::new(SOURCE, SequenceId(5)));
    assert_eq!(entry.bytes, good(5));
    assert_eq!(entry.validity, Validity::Valid);
    let facts = entry.facts.unwrap();
    assert_eq!(facts.originator_ns, NS);
    assert_eq!(facts.charge.unwrap().payer, key(3).public_key().address());
    assert_eq!(facts.receipt, None, "receipts are kept for the own strand only");
}

/// Payers take turns, as those of several gateways do. A database may name them wrongly, and may list forged envelopes.
/// Long updates, whose payers' digests are made one by one, are among the others.
#[test]
fn the_names_of_payers_change_no_result() {
    let payer = |index: u64| key(u8::try_from(3 + index % 3).unwrap());
    let envelope = |index: u64| {
        let client = if index % 10 == 7 { update(5000) } else { application() };
        let paid = PayerEnvelope::sign(client, SOURCE, 60, &payer(index));
        signed(&statement(1 + index, &paid), if index == 40 { 9 } else { 2 })
    };
    let batch: Vec<Bytes> = (0..90).map(envelope).collect();
    let singly: Vec<_> = batch.iter().map(|bytes| check_one(bytes.clone())).collect();
    assert_eq!(singly.iter().filter(|it| it.is_err()).count(), 1, "the forged one");
    for (index, entry) in (0_u64..).zip(&singly).filter(|(index, _)| *index != 40) {
        let charge = entry.clone().unwrap().facts.unwrap().charge.unwrap();
        assert_eq!(charge.payer, payer(index).public_key().address());
    }
    assert_eq!(verifier().check(batch.clone()), singly);
    let named: Vec<_> = (0..90).map(|index| Some(payer(index).public_key().address())).collect();
    assert_eq!(verifier().check_named(batch.clone(), &named), singly);
    let altered: Vec<_> = (0..90).map(|index| named[index].filter(|_| index % 7 < 5)).collect();
    assert_eq!(verifier().check_named(batch.clone(), &altered), singly);
    let one = vec![named[1]; 90];
    assert_eq!(verifier().check_named(batch, &one), singly);
}

#[test]
fn a_forged_envelope_is_a_fault_of_the_peer() {
    let honest = statement(5, &paid(application(), SOURCE, 60));
    let (bytes, _) = OriginatorEnvelope::open(good(5)).unwrap();
    let with = |change: fn(&mut pb::UnsignedOriginatorEnvelope)| {
        let mut changed = honest.clone();
        change(&mut changed);
        signed(&changed, 2)
    };
    let mut trailing = good(5).to_vec();
    trailing.extend([0x78, 1]); // an unknown field
    let mut tampered = good(5).to_vec();
    tampered[40] ^= 1;
    let no_statement = Bytes::from_static(&[0xff; 8]);
    let signature = key(2).sign(originator_digest(&no_statement));
    for (bytes, violation) in [
        (Bytes::from_static(b"nothing"), PeerViolation::NotCanonical),
        (trailing.into(), PeerViolation::NotCanonical),
        (OriginatorEnvelope::encode(bytes, Proof::Transaction([1; 32])), PeerViolation::ChainProof),
        (signed(&honest, 4), PeerViolation::ForgedSignature),
        (with(|s| s.originator_node_id = 300), PeerViolation::WrongOriginator),
        (with(|s| s.originator_node_id = 1), PeerViolation::WrongOriginator),
        (with(|s| s.originator_sequence_id = 0), PeerViolation::OutOfOrder),
        (with(|s| s.originator_sequence_id = 1 << 63), PeerViolation::OutOfOrder),
        (
            OriginatorEnvelope::encode(no_statement, Proof::Signature(signature)),
            PeerViolation::NotCanonical,
        ),
    ] {
        assert_eq!(check_one(bytes.clone()), Err(violation), "{}", hex::encode(bytes));
    }
    assert!(check_one(tampered.into()).is_err());
}

#[test]
fn a_signed_violation_is_kept_under_the_number_of_its_rule() {
    let honest = statement(5, &paid(application(), SOURCE, 60));
    let of = |payer: &pb::PayerEnvelope| statement(5, payer);
    let with = |change: fn(&mut pb::UnsignedOriginatorEnvelope)| {
        let mut changed = honest.clone();
        change(&mut changed);
        changed
    };
    let mut unpaid = paid(application(), SOURCE, 60);
    unpaid.payer_signature = None;
    let commit = client(TopicKind::GroupMessages, 3, &[]);
    let dependent = client(TopicKind::GroupMessages, 1, &[(100, 1)]);
    let cases = BTreeMap::from([
        (1, with(|s| s.payer_envelope_bytes = Bytes::from_static(&[0xff; 8]))),
        (2, of(&unpaid)),
        (3, of(&paid(application(), OWN, 60))),
        (4, of(&paid(client(TopicKind::Welcomes, 1, &[]), SOURCE, 60))),
        (6, of(&paid(commit, SOURCE, 60))),
        (7, of(&paid(dependent, SOURCE, 60))),
        (8, of(&paid(application(), SOURCE, 1))),
        (9, with(|s| s.expiry_unixtime += 86_401)),
    ]);
    // Other software may have signed it a day after it had dated it.
    let late = signed(&with(|s| s.expiry_unixtime += 86_400), 2);
    assert_eq!(check_one(late.clone()).unwrap().validity, Validity::Valid);
    let (mut stored, mut validities) = (vec![good(5), late], vec![Validity::Valid; 2]);
    for (rule, statement) in cases {
        let bytes = signed(&statement, 2);
        let entry = check_one(bytes.clone()).unwrap();
        assert_eq!(entry.validity, Validity::Invalid(InvalidRule(rule)));
        stored.push(bytes.clone());
        validities.push(entry.validity);
        let booked = |facts: &Facts| {
            let charge = facts.charge.unwrap();
            assert_eq!(charge.payer, key(3).public_key().address());
            assert_eq!((charge.retention_days, facts.counts_for_congestion), (60, true));
            assert_eq!(facts.clone().hidden(), *facts, "tallies alone are made of it");
        };
        assert_eq!(entry.facts.is_some(), [4, 6, 7, 9].contains(&rule), "rule {rule}");
        entry.facts.iter().for_each(booked);
        assert_eq!(entry.bytes, bytes);
        assert_eq!(verifier().validity_of_stored(&bytes), entry.validity);
    }
    assert_eq!(verifier().validities_of_stored(stored), validities, "each in its place");
}

/// An empty action takes two hundred times its bytes once it is decoded, and a batch may have a hundred such updates.
#[test]
fn a_long_update_is_not_held_while_its_batch_is_verified_and_is_kept_under_its_rule() {
    let envelope = |actions| signed(&statement(5, &paid(update(actions), SOURCE, 60)), 2);
    let is_held = |bytes| {
        let (opened, _) = verifier().open(bytes).unwrap();
        matches!(opened.parse().inner, InnerLayers::Held(_))
    };
    assert!(is_held(good(5)) && is_held(envelope(1)) && !is_held(envelope(5000)));
    let short = check_one(envelope(1)).unwrap().validity;
    assert!(matches!(short, Validity::Invalid(_)), "{short:?}");
    assert_eq!(check_one(envelope(5000)).unwrap().validity, short);
    assert_eq!(verifier().validity_of_stored(&envelope(5000)), short);
}

/// Returns the envelope of a captured client with its key package, and the same with a wrong signature of the package.
fn key_packages() -> [Bytes; 2] {
    let text = include_str!("../../../../tests/vectors/client/envelopes.jsonl");
    let captured = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let line = text.lines().map(captured).find(|line| line["kind"] == "key_package").unwrap();
    let client = Bytes::from(hex::decode(line["hex"].as_str().unwrap()).unwrap());
    let mut changed = pb::ClientEnvelope::decode(client.clone()).unwrap();
    let Some(Payload::UploadKeyPackage(upload)) = &mut changed.payload else { unreachable!() };
    let package = upload.key_package.as_mut().unwrap();
    let mut bytes = package.key_package_tls_serialized.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    package.key_package_tls_serialized = bytes.into();
    [client, changed.encode_to_vec().into()]
}

#[test]
fn a_key_package_with_a_wrong_signature_is_kept_under_a_rule() {
    let validities = key_packages().map(|client| {
        let bytes = signed(&statement(5, &paid(client, SOURCE, 60)), 2);
        let entry = check_one(bytes.clone()).unwrap();
        assert!(entry.facts.unwrap().charge.is_some(), "its payer has signed it");
        assert_eq!(verifier().validity_of_stored(&bytes), entry.validity);
        let is_read = verifier().read(vec![bytes]).is_some();
        assert_eq!(is_read, entry.validity == Validity::Valid, "shown before it is verified");
        entry.validity
    });
    assert_eq!(validities, [Validity::Valid, Validity::Invalid(InvalidRule(14))]);
}

/// A hostile node states the retention itself, and the first rule that is broken is the one in the mark.
#[test]
fn a_retention_that_no_node_accepts_is_never_booked_and_a_reserved_topic_is_free() {
    let misplaced = |kind, days| {
        let of = paid(client(kind, 1, &[]), SOURCE, days);
        check_one(signed(&statement(5, &of), 2)).unwrap()
    };
    for (kind, days, is_booked) in [
        (TopicKind::Welcomes, 60, true),
        (TopicKind::Welcomes, 1_000_000_000, false),
        (TopicKind::Welcomes, 1, false),
        (TopicKind::PayerReports, 60, false),
    ] {
        let entry = misplaced(kind, days);
        assert_eq!(entry.validity, Validity::Invalid(InvalidRule(4)));
        assert_eq!(entry.facts.is_some(), is_booked, "{kind:?}, {days} days");
        let rebuilt = facts::of_stored(&entry.bytes, entry.validity, OWN);
        assert_eq!(rebuilt, entry.facts, "a rebuild says the same");
    }
}

/// Its target stands there twice: as a text, which xmtpd passes over and this program refuses.
#[test]
fn an_envelope_that_only_other_software_decodes_is_charged_to_its_payer() {
    let odd = |target, days| {
        let mut made = statement(5, &paid(application(), target, days));
        let paid = [&made.payer_envelope_bytes[..], b"\x1a\x03200"].concat();
        made.payer_envelope_bytes = paid.into();
        made
    };
    let made = odd(SOURCE, 60);
    let entry = check_one(signed(&made, 2)).unwrap();
    assert_eq!(entry.validity, Validity::Invalid(InvalidRule(1)));
    let found = entry.facts.clone().unwrap();
    assert_eq!(found, found.clone().hidden(), "readers do not get it, and it is not pruned");
    assert!(found.counts_for_congestion);
    let Charge { payer, size_bytes, retention_days, stated_picodollars } = found.charge.unwrap();
    assert_eq!((payer, retention_days), (key(3).public_key().address(), 60));
    assert_eq!(size_bytes, made.payer_envelope_bytes.len() as u64);
    assert_eq!(stated_picodollars.0, made.base_fee_picodollars);
    // A rebuild says the same. A node outside of the network charges nothing.
    let LogEntry { id, bytes, validity, facts } = entry;
    assert_eq!(facts::of_stored(&bytes, validity, OWN), facts);
    let stored = StoredEnvelope { id, bytes: bytes.clone(), validity };
    assert_eq!(facts::of_stored_many(&[stored], OWN), [facts]);
    let absences = Absences::new(vec![Absence { from_s: 1, until_s: None }]).unwrap();
    let verifier = EnvelopeVerifier { absences, ..verifier() };
    let of_absent = verifier.check(vec![bytes.clone()]).remove(0).unwrap();
    let absent = Validity::Invalid(InvalidRule(17));
    assert_eq!((of_absent.validity, of_absent.facts), (absent, None));
    for rule in [2, 3, 6, 16, 17] {
        let other = Validity::Invalid(InvalidRule(rule));
        assert_eq!(facts::of_stored(&bytes, other, OWN), None, "rule {rule}");
    }
    for (target, days) in [(OWN, 60), (SOURCE, 1), (SOURCE, 1_000_000_000)] {
        let entry = check_one(signed(&odd(target, days), 2)).unwrap();
        assert_eq!((entry.validity, entry.facts), (validity, None), "{target}, {days} days");
    }
    // A chain's envelope has no payer, whatever stands in it.
    let statement = Bytes::from(odd(SOURCE, 60).encode_to_vec());
    let of_chain = OriginatorEnvelope::encode(statement, Proof::Transaction([7; 32]));
    assert_eq!(facts::of_stored(&of_chain, validity, OWN), None);
}

#[test]
fn a_price_is_no_rule() {
    let with = |change: fn(&mut pb::UnsignedOriginatorEnvelope)| {
        let mut changed = statement(5, &paid(application(), SOURCE, 60));
        change(&mut changed);
        signed(&changed, 2)
    };
    let stated = [
        with(|s| s.base_fee_picodollars += 1),
        with(|s| s.base_fee_picodollars = u64::MAX),
        with(|s| s.congestion_fee_picodollars = 8),
    ];
    for bytes in stated {
        let entry = check_one(bytes.clone()).unwrap();
        assert_eq!((entry.validity, entry.bytes), (Validity::Valid, bytes));
        let charge = entry.facts.unwrap().charge.unwrap();
        assert_eq!(charge.retention_days, 60, "what it costs follows from this, not from the fee");
    }
}

#[test]
fn what_a_node_signs_while_it_is_away_is_kept_under_a_rule_and_rules_that_are_not_booked_come_first()
 {
    let second = u64::try_from(NS / 1_000_000_000).unwrap();
    let away = |from_s, until_s| Absences::new(vec![Absence { from_s, until_s }]).unwrap();
    let judged = |absences, bytes: Bytes| {
        let verifier = EnvelopeVerifier { absences, ..verifier() };
        verifier.check(vec![bytes]).remove(0).unwrap().validity
    };
    let good = || signed(&statement(5, &paid(application(), SOURCE, 60)), 2);
    assert_eq!(judged(away(second, None), good()), Validity::Valid, "just when it left");
    let absent = Validity::Invalid(InvalidRule(17));
    assert_eq!(judged(away(second - 1, None), good()), absent);
    assert_eq!(judged(away(second - 1, Some(second + 1)), good()), absent);
    assert_eq!(judged(away(second - 1, Some(second)), good()), Validity::Valid, "it is back");
    let short = signed(&statement(5, &paid(application(), SOURCE, 1)), 2);
    let first = judged(Absences::NONE, short.clone());
    assert_eq!(first, Validity::Invalid(InvalidRule(8)));
    assert_eq!(judged(away(second - 1, None), short), first);
    // A mark with which it would be booked gives way.
    let commit = client(TopicKind::GroupMessages, 3, &[]);
    let commit = signed(&statement(5, &paid(commit, SOURCE, 60)), 2);
    assert_eq!(judged(Absences::NONE, commit.clone()), Validity::Invalid(InvalidRule(6)));
    assert_eq!(judged(away(second - 1, None), commit), absent);
}

#[test]
fn an_envelope_that_no_answer_can_carry_is_kept_under_a_rule() {
    let of_len = |extra: usize| {
        let mut client = pb::ClientEnvelope::decode(application()).unwrap();
        let Some(Payload::GroupMessage(message)) = &mut client.payload else { unreachable!() };
        let Some(Version::V1(v1)) = &mut message.version else { unreachable!() };
        v1.sender_hmac = vec![7; extra].into();
        let client: Bytes = client.encode_to_vec().into();
        signed(&statement(5, &paid(client, SOURCE, 60)), 2)
    };
    let around = of_len(ENVELOPE_LEN_BYTES_MAX - 1000);
    let room = ENVELOPE_LEN_BYTES_MAX - around.len();
    let longest = of_len(ENVELOPE_LEN_BYTES_MAX - 1000 + room);
    assert_eq!(longest.len(), ENVELOPE_LEN_BYTES_MAX);
    assert_eq!(check_one(longest).unwrap().validity, Validity::Valid);
    let longer = of_len(ENVELOPE_LEN_BYTES_MAX - 1000 + room + 1);
    assert_eq!(check_one(longer).unwrap().validity, Validity::Invalid(InvalidRule(16)));
}

#[test]
fn a_batch_is_judged_one_by_one_in_its_order() {
    let forged = signed(&statement(2, &paid(application(), SOURCE, 60)), 4);
    let mut unpaid = paid(application(), SOURCE, 60);
    unpaid.payer_signature = None;
    let invalid = signed(&statement(3, &unpaid), 2);
    let batch = vec![good(1), forged, invalid, Bytes::from_static(b"nothing"), good(4)];
    let results = verifier().check(batch);
    let outcomes: Vec<_> = results
        .into_iter()
        .map(|result| result.map(|entry| (entry.id.sequence.0, entry.validity)))
        .collect();
    let expected = [
        Ok((1, Validity::Valid)),
        Err(PeerViolation::ForgedSignature),
        Ok((3, Validity::Invalid(InvalidRule(2)))),
        Err(PeerViolation::NotCanonical),
        Ok((4, Validity::Valid)),
    ];
    assert_eq!(outcomes, expected);
}

/// Reading without signatures looks only at fields that need none.
#[test]
fn an_envelope_is_read_without_its_signatures_and_charged_to_no_payer() {
    let verified = check_one(good(5)).unwrap();
    // Neither signature is looked at.
    let other = signed(&statement(5, &paid(application(), SOURCE, 60)), 9);
    for bytes in [good(5), other] {
        let read = verifier().read(vec![bytes.clone()]).unwrap();
        let [(entry, hashed)] = &read[..] else { panic!("one entry") };
        assert_eq!(
            (entry.id, &entry.bytes, entry.validity),
            (verified.id, &bytes, Validity::Valid)
        );
        assert_eq!(entry.facts, verified.facts.clone().map(hawser_storage::Facts::unbooked));
        assert_eq!(Some(hashed.leaf()), hawser_proto::merkle::envelope_leaf(&good(5)));
    }
}

#[test]
fn an_envelope_that_has_to_be_verified_first_is_not_read() {
    let is_read = |bytes| verifier().read(vec![good(1), bytes]).is_some();
    assert!(is_read(good(2)));
    let honest = || statement(2, &paid(application(), SOURCE, 60));
    // Malformed, of another strand, without a place, for another node, with another expiry.
    assert!(!is_read(Bytes::from_static(b"no envelope")));
    let strand = pb::UnsignedOriginatorEnvelope { originator_node_id: 300, ..honest() };
    let place = pb::UnsignedOriginatorEnvelope { originator_sequence_id: 0, ..honest() };
    let expiry = pb::UnsignedOriginatorEnvelope { expiry_unixtime: 1, ..honest() };
    let target = statement(2, &paid(application(), OWN, 60));
    for statement in [strand, place, expiry, target] {
        assert!(!is_read(signed(&statement, 2)));
    }
    // Without a payer's signature, or with one of another form.
    let unsigned = |change: fn(&mut pb::PayerEnvelope)| {
        let mut payer = paid(application(), SOURCE, 60);
        change(&mut payer);
        signed(&statement(2, &payer), 2)
    };
    assert!(!is_read(unsigned(|payer| payer.payer_signature = None)));
    assert!(!is_read(unsigned(|payer| {
        payer.payer_signature.as_mut().unwrap().bytes = Bytes::from_static(&[1; 9]);
    })));
    // Of a reserved topic, and of a time at which the node was absent.
    let report = client(TopicKind::PayerReports, 1, &[]);
    assert!(!is_read(signed(&statement(2, &paid(report, SOURCE, 60)), 2)));
    let absence = Absence { from_s: 0, until_s: None };
    let absent = EnvelopeVerifier { absences: Absences::new(vec![absence]).unwrap(), ..verifier() };
    assert!(absent.read(vec![good(2)]).is_none());
}
