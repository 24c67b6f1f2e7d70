//! Tests that a node is not accused of what it may have signed as an innocent one, or what a keeper has made up.

use hawser_proto::Bytes;
use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::merkle::TreeHash;
use hawser_proto::pb::xmtp::mls::api::v1::group_message_input::{V1, Version};
use hawser_proto::pb::xmtp::mls::api::v1::{GroupMessageInput, WelcomeMessageInput};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::pb::xmtp::xmtpv4::envelopes::client_envelope::Payload;
use hawser_rules::{Absence, Absences, PicoDollarPrice, Rate, RateTable};
use prost::Message as _;

use super::planted::sign_at;
use super::testing::{
    Draft, MemoryLog, NODE, RATE, WITNESS, checkpoint, draft, draft_of, key, ns_of, settings,
};
use super::tests::{named, replay};
use super::*;

/// A node acknowledges envelopes until it learns that it was removed.
#[test]
fn envelopes_from_an_absence_are_no_fault_of_their_node_unless_they_break_another_rule() {
    let away = Absence { from_s: ns_of(10).unsigned_abs() / 1_000_000_000, until_s: None };
    let mut settings = settings();
    let absences = Absences::new(vec![away]).unwrap();
    settings.registry = settings.registry.with_absences([(NODE, absences)]);
    let mut log = MemoryLog::honest(30);
    for at in 11..=30 {
        sign_at(&mut log, at, StoredMark::Invalid(17), &draft(at, ns_of(at)));
    }
    let report = replay(&log, &settings);
    assert_eq!((named(&report), report.verdict()), (Vec::new(), "clean"));
    let figures = &report.strands[0].figures;
    assert_eq!((figures.unproven, figures.invalid), (20, 20));
    assert!(report.unchecked.join("; ").contains("envelopes from their absence"), "{report:?}");

    let mut overpriced = draft(15, ns_of(15));
    overpriced.statement.base_fee_picodollars += 1;
    sign_at(&mut log, 15, StoredMark::Invalid(17), &overpriced);
    let welcome = Payload::WelcomeMessage(WelcomeMessageInput::default());
    let dependent = draft_of(16, &[1, 7], welcome, &[(300, 1)], 30);
    sign_at(&mut log, 16, StoredMark::Invalid(17), &dependent);
    let found = named(&replay(&log, &settings));
    assert_eq!(found, [(FaultKind::BrokenRule, 16, Some(17)), (FaultKind::Fee, 15, None)]);
}

/// A keeper that has not read the chain up to the removal gives readers what the node still signs.
#[test]
fn marks_that_a_keeper_set_before_it_knew_of_an_absence_are_no_fault() {
    let away = Absence { from_s: ns_of(10).unsigned_abs() / 1_000_000_000, until_s: None };
    let mut settings = settings();
    let absences = Absences::new(vec![away]).unwrap();
    settings.registry = settings.registry.with_absences([(NODE, absences.clone())]);
    let behind = MemoryLog { judged_by: Some(Vec::new()), ..MemoryLog::honest(30) };
    let report = replay(&behind, &settings);
    assert_eq!((named(&report), report.verdict()), (Vec::new(), "clean"));
    assert!(report.unchecked.join("; ").contains("marks of envelopes from absences"), "{report:?}");
    // It knows of the absence, and lets the envelopes pass all the same.
    let liar = MemoryLog { judged_by: Some(absences.to_bytes()), ..behind };
    let mut found = named(&replay(&liar, &settings));
    found.retain(|(kind, ..)| *kind == FaultKind::WrongMark);
    assert_eq!(found.iter().map(|it| it.1).collect::<Vec<_>>(), (11..=30).collect::<Vec<_>>());
}

/// A keeper that makes an absence up hides envelopes from its readers. Only the chain tells it from a keeper that has
/// read more of the chain than the given registry has.
#[test]
fn marks_of_an_absence_that_the_registry_lacks_are_named_and_a_newer_registry_decides() {
    let away = Absence { from_s: ns_of(10).unsigned_abs() / 1_000_000_000, until_s: None };
    let absences = Absences::new(vec![away]).unwrap();
    let mut log = MemoryLog::honest(30);
    for at in 11..=30 {
        sign_at(&mut log, at, StoredMark::Invalid(17), &draft(at, ns_of(at)));
    }
    log.judged_by = Some(absences.to_bytes());
    let mut settings = settings();
    let report = replay(&log, &settings);
    let mut found = named(&report);
    found.retain(|(kind, ..)| *kind == FaultKind::WrongMark);
    assert_eq!(found.iter().map(|it| it.1).collect::<Vec<_>>(), (11..=30).collect::<Vec<_>>());
    assert!(report.unchecked.join("; ").contains("read the registry again"), "{report:?}");
    settings.registry = settings.registry.with_absences([(NODE, absences)]);
    let report = replay(&log, &settings);
    assert_eq!((named(&report), report.verdict()), (Vec::new(), "clean"));
    assert!(!report.unchecked.join("; ").contains("read the registry again"), "{report:?}");
}

/// A node of other software computes the expiry when it signs, which may be long after it dated the envelope.
#[test]
fn an_envelope_that_expires_late_is_no_fault_of_its_node_unless_its_fees_are() {
    let of = |late_s: u64, fee: u64, mark| {
        let mut late = draft(5, ns_of(5));
        late.statement.expiry_unixtime += late_s;
        late.statement.base_fee_picodollars += fee;
        let mut log = MemoryLog::honest(20);
        sign_at(&mut log, 5, mark, &late);
        let report = replay(&log, &settings());
        // The tallies of this log do not know the mark, which is no fault of the signer.
        let mut found = named(&report);
        found.retain(|(kind, ..)| {
            matches!(kind, FaultKind::BrokenRule | FaultKind::Fee | FaultKind::WrongMark)
        });
        (found, report.strands[0].figures.unproven)
    };
    let marked = StoredMark::Invalid(9);
    assert_eq!(of(86_400, 0, StoredMark::Valid), (vec![], 0));
    assert_eq!(of(86_401, 0, marked), (vec![], 1));
    assert_eq!(of(86_401, 1, marked), (vec![(FaultKind::Fee, 5, None)], 1));
    assert_eq!(of(86_401, 0, StoredMark::Valid), (vec![(FaultKind::WrongMark, 5, None)], 1));
    // Earlier versions marked it.
    assert_eq!(of(601, 0, marked), (vec![], 0));
    assert_eq!(of(86_400, 0, marked), (vec![], 0));
    assert_eq!(of(600, 0, marked), (vec![(FaultKind::WrongMark, 5, None)], 0));
}

/// Any payer can have a node of other software sign such an envelope.
#[test]
fn an_envelope_that_other_software_may_decode_is_no_fault_of_its_node() {
    let mut odd = draft(5, ns_of(5));
    let payer = pb::PayerEnvelope::decode(odd.statement.payer_envelope_bytes.clone()).unwrap();
    let client = &payer.unsigned_client_envelope[..];
    // An identity update of a byte more than is decoded. In the first case the payload behind it replaces it.
    let update: Vec<u8> = [&[0x2a, 0x81, 0x80, 0x10][..], &[0; 256 * 1024 + 1]].concat();
    for (client, expected) in [
        ([&update[..], client].concat(), &[][..]),
        ([client, &update[..]].concat(), &[(FaultKind::BrokenRule, 5, Some(1))][..]),
    ] {
        let signed = PayerEnvelope::sign(client.into(), NODE, 30, &key(9));
        odd.statement.payer_envelope_bytes = Bytes::from(signed.encode_to_vec());
        let mut log = MemoryLog::honest(20);
        sign_at(&mut log, 5, StoredMark::Invalid(1), &odd);
        // The tallies of this log lack the envelope, which is no fault of its signer.
        let mut found = named(&replay(&log, &settings()));
        found.retain(|(kind, ..)| *kind == FaultKind::BrokenRule);
        assert_eq!(found, expected);
    }
}

/// The reference implementation reads such a message no further than its content type. Wrong fees of it stay a fault.
#[test]
fn a_message_that_other_software_takes_is_no_fault_of_its_node() {
    let message = |content: u8| {
        let data = [&[0, 1, 0, 2, 0][..], &[0; 8], &[content, 0, 0, 0, 0]].concat();
        let version = Some(Version::V1(V1 { data: data.into(), ..Default::default() }));
        draft_of(5, &[0, 7], Payload::GroupMessage(GroupMessageInput { version }), &[], 30)
    };
    let judged = |other: &Draft| {
        let mut log = MemoryLog::honest(20);
        sign_at(&mut log, 5, StoredMark::Invalid(6), other);
        let report = replay(&log, &settings());
        let mut found = named(&report);
        // The tallies of this log lack the envelope, which is no fault of its signer.
        found.retain(|(kind, ..)| matches!(kind, FaultKind::BrokenRule | FaultKind::Fee));
        (found, report.strands[0].figures.unproven)
    };
    let mut odd = message(1);
    assert_eq!(judged(&odd), (Vec::new(), 1));
    odd.statement.base_fee_picodollars += 1;
    assert_eq!(judged(&odd), (vec![(FaultKind::Fee, 5, None)], 1));
    assert_eq!(judged(&message(3)), (vec![(FaultKind::BrokenRule, 5, Some(6))], 0));
}

/// The strand's node may have shown it another history.
#[test]
fn an_observer_with_another_tree_is_not_said_to_be_at_fault() {
    let (size, root, time_ns) = (40, TreeHash([4; 32]), ns_of(40).unsigned_abs());
    let of = Checkpoint { node: WITNESS, originator: NODE, size, root, time_ns };
    let mut log = MemoryLog::honest(60);
    log.checkpoints[3] = of.sign(&key(2)).into();
    assert_eq!(named(&replay(&log, &settings())), [(FaultKind::OtherTree, 40, None)]);
    assert_eq!(FaultKind::OtherTree.party(), "signer or keeper");
}

/// The keeper gives another leaf for an envelope that it has pruned.
#[test]
fn a_leaf_that_a_keeper_makes_up_is_no_fault_of_the_node_whose_tree_has_another() {
    let mut log = MemoryLog::honest(60);
    log.prune(35);
    let StrandRow::Pruned { leaf, .. } = &mut log.rows[34] else { panic!("it is pruned") };
    *leaf = Some(TreeHash([4; 32]));
    let other = |at| (FaultKind::OtherTree, at, None);
    let root = (FaultKind::Root, 60, None);
    assert_eq!(named(&replay(&log, &settings())), [root, other(40), other(50), other(60)]);

    // The node has signed a tree with the keeper's leaf, and then one that does not begin with it.
    let mut log = MemoryLog::honest(60);
    log.prune(5);
    log.checkpoints[3] = checkpoint(40, TreeHash([4; 32]));
    assert_eq!(named(&replay(&log, &settings())), [(FaultKind::CheckpointRoot, 40, None)]);
}

/// A replay without rates from outside the log has only the keeper's.
#[test]
fn rates_that_a_keeper_makes_up_hold_no_signer_accountable() {
    let made_up = Rate { message_fee: PicoDollarPrice(RATE.message_fee.0 + 1), ..RATE };
    let mut log = MemoryLog::honest(20);
    (log.rates, log.rates_until_ns) = (vec![made_up], Some(ns_of(20)));
    let by_record = ReplaySettings { rates: None, ..settings() };
    let counts = |log: &MemoryLog, settings: &ReplaySettings| {
        let faults = replay(log, settings).all_faults();
        let count = |kind| faults.counts().get(&kind).copied().unwrap_or(0);
        [FaultKind::Fee, FaultKind::FeeByRecord, FaultKind::Rates].map(count)
    };
    assert_eq!(counts(&log, &by_record), [0, 20, 0]);
    assert_eq!(counts(&log, &settings()), [0, 0, 1], "the chain's list names the keeper");
    assert_eq!(FaultKind::FeeByRecord.party(), "signer or keeper");

    // The same of a fee for congestion that the envelopes before it do not give.
    let rate = Rate { congestion_fee: PicoDollarPrice(11), target_rate_per_minute: 100, ..RATE };
    let mut log = MemoryLog::honest(200);
    let mut expensive = draft(60, ns_of(60));
    expensive.statement.congestion_fee_picodollars = 11;
    sign_at(&mut log, 60, StoredMark::Valid, &expensive);
    (log.rates, log.rates_until_ns) = (vec![rate], Some(ns_of(200)));
    assert_eq!(counts(&log, &by_record), [0, 1, 0]);
    let given = RateTable::new(vec![rate], None).ok();
    assert_eq!(counts(&log, &ReplaySettings { rates: given, ..settings() }), [1, 0, 0]);
}
