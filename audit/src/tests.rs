//! Evidence files round trip, every judge reaches the same verdict, and malformed files are refused with the reason.

use hawser_proto::checkpoint::Checkpoint;
use hawser_proto::envelope::{PayerEnvelope, Payload, UnsealedEnvelope};
use hawser_proto::merkle::TreeHash;
use hawser_proto::pb::xmtp::mls::api::v1::WelcomeMessageInput;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::{
    Bytes, Cursor, EnvelopeId, OriginatorId, SecretKey, SequenceId, Topic, TopicKind,
};
use hawser_rules::misbehavior::report::{digest, own_safety_report};
use hawser_rules::misbehavior::{
    Host, MisbehaviorKind, MisbehaviorVerdict, Missing, StatementDifference, TreeEvidence,
    TreeFault,
};
use hawser_rules::{Absences, PicoDollarPrice, PicoDollarsPerByteDay, Rate, RateTable, Registry};
use proptest::prelude::*;
use prost::Message as _;

use crate::evidence_file::{FiledReport, SCHEMA};
use crate::replay::testing::record;
use crate::{
    ClaimCount, EvidenceFile, EvidenceFileError, Judged, JudgedTrees, KnownKeys, NetworkAudit,
};

const NOW_NS: i64 = 1_750_000_000_000_000_000;
const ACCUSED: OriginatorId = OriginatorId(300);

fn key(node: u32) -> SecretKey {
    SecretKey::from_bytes(&[u8::try_from(node / 100).unwrap(); 32]).unwrap()
}

fn keys() -> KnownKeys {
    let of = |node: u32| record(OriginatorId(node), key(node).public_key());
    let registry: Registry = [100, 200, 300].map(of).into_iter().collect();
    let rate = Rate {
        start_unix_s: 5,
        message_fee: PicoDollarPrice(1),
        storage_fee: PicoDollarsPerByteDay(2),
        congestion_fee: PicoDollarPrice(3),
        target_rate_per_minute: 4,
    };
    KnownKeys { registry, rates: RateTable::new(vec![rate], Some(NOW_NS)).ok() }
}

fn by_accused(sequence: u64, text: &[u8], ns: i64) -> Bytes {
    charging(sequence, text, ns, 0)
}

fn charging(sequence: u64, text: &[u8], ns: i64, base_fee_picodollars: u64) -> Bytes {
    let payer = PayerEnvelope::sign(Bytes::copy_from_slice(text), ACCUSED, 30, &key(900));
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: ACCUSED.0,
        originator_sequence_id: sequence,
        originator_ns: ns,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        base_fee_picodollars,
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(&key(ACCUSED.0))
}

/// An envelope of the accused that breaks no rule, except that its base fee is too low.
fn underpriced() -> Bytes {
    let topic = Bytes::from_static(&[1, 7]);
    let aad = pb::AuthenticatedData { target_topic: topic, depends_on: None };
    let payload = Some(Payload::WelcomeMessage(WelcomeMessageInput::default()));
    let client = pb::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec();
    let payer = PayerEnvelope::sign(client.into(), ACCUSED, 30, &key(900));
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: ACCUSED.0,
        originator_sequence_id: 1,
        originator_ns: NOW_NS,
        payer_envelope_bytes: payer.encode_to_vec().into(),
        base_fee_picodollars: 1,
        congestion_fee_picodollars: 0,
        expiry_unixtime: NOW_NS.unsigned_abs() / 1_000_000_000 + 30 * 86_400,
    };
    UnsealedEnvelope::new(&statement).seal(&key(ACCUSED.0))
}

fn held(host: u32, kind: MisbehaviorKind, envelopes: &[Bytes]) -> FiledReport {
    let report = own_safety_report(NOW_NS.unsigned_abs(), ACCUSED, kind, envelopes).unwrap();
    let report = report.to_bytes();
    let signature = key(host).sign(digest(&report));
    FiledReport {
        report,
        host_signature: Some(Bytes::copy_from_slice(signature.as_bytes())),
        host: Some(OriginatorId(host)),
        server_time_ns: Some(NOW_NS.unsigned_abs()),
    }
}

fn two_statements(host: u32, sequence: u64) -> FiledReport {
    let pair = [b"one", b"two"].map(|text| by_accused(sequence, text, NOW_NS));
    held(host, MisbehaviorKind::DuplicateSequenceId, &pair)
}

fn gap(host: u32) -> FiledReport {
    held(
        host,
        MisbehaviorKind::OutOfOrder,
        &[by_accused(1, b"a", NOW_NS), by_accused(5, b"b", NOW_NS)],
    )
}

#[test]
fn a_file_holds_all_that_a_stranger_needs() {
    let reports = vec![two_statements(100, 7), gap(200)];
    let file = Judged::file("test", &reports, &[], &keys());
    let text = serde_json::to_string(&file).unwrap();
    let read = EvidenceFile::parse(&text).unwrap();
    let written = file.verdicts.clone();
    assert_eq!(EvidenceFile { verdicts: written, ..read.clone() }, file);
    assert_eq!(read.held().unwrap(), reports);
    let of_file = read.keys().unwrap();
    assert_eq!(of_file.rates, keys().rates);
    let form: serde_json::Value = serde_json::from_str(&text).unwrap();
    let rate = serde_json::json!({
        "start_unix_s": 5,
        "message_fee": 1,
        "storage_fee": 2,
        "congestion_fee": 3,
        "target_rate_per_minute": 4,
    });
    assert_eq!(form["rates"], serde_json::json!([rate]), "plain numbers");
    let judged: Vec<Judged> = reports.iter().map(|it| Judged::new(it.clone(), &of_file)).collect();
    assert_eq!(judged[0].judgement.verdict, MisbehaviorVerdict::Proven);
    assert_eq!(judged[0].judgement.host, Host::Node(OriginatorId(100)));
    assert_eq!(judged[1].judgement.verdict, MisbehaviorVerdict::Claim);
    let written: Vec<_> = judged.iter().map(Judged::to_json).collect();
    assert_eq!(file.verdicts, written, "the writer and a reader judge alike");
    assert_eq!(written[0]["facts"][0]["fact"], "two_statements");
    assert_eq!(written[0]["facts"][0]["numbers"]["first_ns"], NOW_NS);
    let text = judged[0].to_string();
    assert!(
        text.starts_with("proven: MISBEHAVIOR_DUPLICATE_SEQUENCE_ID against node 300 (content)")
    );
    assert!(text.contains("kept by node 100, which says that it saw it"), "{text}");
}

/// The writer of a file leaves out the time up to which its rates are complete. Honest nodes may apply a newer rate.
#[test]
fn rates_without_the_time_up_to_which_they_are_complete_prove_no_fee_wrong() {
    let wrong = held(100, MisbehaviorKind::InvalidPayload, &[underpriced()]);
    let judged = |change: fn(&mut EvidenceFile)| {
        let mut file = Judged::file("test", std::slice::from_ref(&wrong), &[], &keys());
        change(&mut file);
        let of_file = file.keys().unwrap();
        let judged = Judged::new(wrong.clone(), &of_file);
        (judged.judgement.verdict, judged.judgement.missing)
    };
    let lacking = (MisbehaviorVerdict::Inconclusive, vec![Missing::Rates]);
    assert_eq!(judged(|_| {}), (MisbehaviorVerdict::Proven, vec![]));
    assert_eq!(judged(|file| file.rates_confirmed_ns = Some(NOW_NS - 1)), lacking);
    assert_eq!(judged(|file| file.rates_confirmed_ns = None), lacking);
    // No rate that begins earlier can be added to a list.
    let later = |file: &mut EvidenceFile| {
        let start_unix_s = NOW_NS.unsigned_abs() / 1_000_000_000 + 300;
        file.rates.push(Rate { start_unix_s, ..file.rates[0] });
        file.rates_confirmed_ns = None;
    };
    assert_eq!(judged(later), (MisbehaviorVerdict::Proven, vec![]));
}

/// Two roots for one size of the accused's own strand.
fn two_checkpoints() -> TreeEvidence {
    let signed = |root: u8| {
        let root = TreeHash([root; 32]);
        let of = Checkpoint { node: ACCUSED, originator: ACCUSED, size: 7, root, time_ns: 5 };
        Bytes::copy_from_slice(&of.sign(&key(ACCUSED.0)).encode())
    };
    TreeEvidence { fault: TreeFault::TwoCheckpoints, pieces: vec![signed(1), signed(2)] }
}

#[test]
fn a_file_holds_evidence_that_no_report_can_carry() {
    let held = two_checkpoints();
    let claim = TreeEvidence { fault: TreeFault::OtherTree, pieces: vec![held.pieces[0].clone()] };
    let file = Judged::file("test", &[gap(100)], &[held.clone(), claim.clone()], &keys());
    let read = EvidenceFile::parse(&serde_json::to_string(&file).unwrap()).unwrap();
    assert_eq!(read.held_trees().unwrap(), [held.clone(), claim]);
    assert_eq!(file.verdicts.len(), 3, "reports come first");
    let judged = JudgedTrees::new(held, &read.keys().unwrap());
    assert_eq!(judged.to_json(), file.verdicts[1]);
    assert_eq!(judged.to_json()["verdict"], "proven");
    assert_eq!(judged.to_json()["sequence_id"], 7);
    assert_eq!(file.verdicts[2]["verdict"], "claim");
    let text = judged.to_string();
    assert!(text.starts_with("proven: two_checkpoints against node 300\n"), "{text}");

    let refused = |change: fn(&mut EvidenceFile)| {
        let mut wrong = file.clone();
        change(&mut wrong);
        let read = EvidenceFile::parse(&serde_json::to_string(&wrong).unwrap());
        read.and_then(|it| it.held_trees()).unwrap_err().to_string()
    };
    assert!(refused(|it| it.trees[0].pieces[0] = "?".into()).contains("not a valid base64"));
    let five = |it: &mut EvidenceFile| it.trees[0].pieces = vec![String::new(); 5];
    assert!(refused(five).contains("at most 4"));
    let many = |it: &mut EvidenceFile| it.trees = vec![it.trees[0].clone(); 1001];
    assert!(refused(many).contains("at most 1000"));
}

/// A later version may know it; a liar may have chosen the name.
#[test]
fn a_fault_that_is_not_known_hides_no_other_and_its_name_makes_no_line() {
    let held = two_checkpoints();
    let mut file = Judged::file("test", &[], &[held.clone(), held.clone()], &keys());
    file.trees[0].fault = format!("x\nproven: {}", "y".repeat(100));
    file.trees[0].pieces = vec!["?".into()];
    let read = EvidenceFile::parse(&serde_json::to_string(&file).unwrap()).unwrap();
    assert_eq!(read.held_trees().unwrap(), [held]);
    let unknown: Vec<_> = read.unknown_faults().collect();
    let [fault] = &unknown[..] else { panic!("{unknown:?}") };
    let json = fault.to_json();
    assert_eq!(json["verdict"], "inconclusive");
    assert_eq!(json["facts"][0]["fact"], "unknown_fault");
    assert!(json["misbehaving_node_id"].is_null(), "{json}");
    assert_eq!(json["fault"].as_str().unwrap().len(), 60);
    let text = fault.to_string();
    assert!(text.starts_with("inconclusive: \"x\\nproven: y"), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn wrong_files_are_refused_with_the_reason() {
    let file = Judged::file("test", &[gap(100)], &[], &keys());
    let refused = |change: fn(&mut EvidenceFile)| {
        let mut wrong = file.clone();
        change(&mut wrong);
        let text = serde_json::to_string(&wrong).unwrap();
        let read = EvidenceFile::parse(&text);
        read.and_then(|it| it.held().and(it.keys())).unwrap_err().to_string()
    };
    assert!(refused(|it| it.schema = "other/1".into()).contains(SCHEMA));
    assert!(refused(|it| it.reports[0].report = "?".into()).contains("not a valid base64"));
    assert!(
        refused(|it| it.registry[0].public_key = "04".into()).contains("not a valid public key")
    );
    assert!(refused(|it| it.registry[0].absences = vec![(5, Some(5))]).contains("absences"));
    assert!(refused(|it| it.rates.push(it.rates[0])).starts_with("rates:"));
    assert!(refused(|it| it.registry.clear()).contains("no registry"));
    assert!(refused(|it| it.reports = vec![it.reports[0].clone(); 1001]).contains("at most 1000"));
    let absent = |it: &mut EvidenceFile| it.registry[0].absences = vec![(5, Some(9)); 10_001];
    assert!(refused(absent).contains("at most 10000"));
    assert!(matches!(EvidenceFile::parse("[]"), Err(EvidenceFileError::Json(_))));
}

#[test]
fn each_fact_of_a_network_counts_once_and_refuted_ones_count_against_no_node() {
    let keys = keys();
    let mut audit = NetworkAudit::default();
    let forged = FiledReport { report: Bytes::from_static(b"noise"), ..gap(100) };
    let all = [
        two_statements(100, 7),
        two_statements(100, 7),
        two_statements(200, 7),
        two_statements(200, 8),
        gap(100),
        gap(200),
        forged,
    ];
    for held in all {
        audit.add(Judged::new(held, &keys));
    }
    let (findings, refuted) = audit.finish(&keys.registry);
    assert_eq!(findings.keys().copied().collect::<Vec<_>>(), [ACCUSED]);
    let found = &findings[&ACCUSED];
    assert_eq!(found.proven.len(), 2, "places 7 and 8");
    let hosts = [OriginatorId(100), OriginatorId(200)].into_iter().collect();
    assert_eq!(found.claims[&4], ClaimCount { reports: 2, hosts });
    assert!(found.outages.is_empty());
    assert_eq!(refuted.values().sum::<usize>(), 1);
}

/// A node of other software may sign twice with other fees, and have signed another content for the same place.
#[test]
fn two_statements_for_a_place_are_one_fault_of_their_gravest_difference() {
    let fees = [by_accused(7, b"one", NOW_NS), charging(7, b"one", NOW_NS, 5)];
    let fees = held(100, MisbehaviorKind::DuplicateSequenceId, &fees);
    let content = two_statements(200, 7);
    let keys = keys();
    for order in [[fees.clone(), content.clone()], [content, fees]] {
        let mut audit = NetworkAudit::default();
        for held in order {
            let judged = Judged::new(held, &keys);
            assert_eq!(judged.judgement.verdict, MisbehaviorVerdict::Proven, "{judged}");
            audit.add(judged);
        }
        let (findings, _) = audit.finish(&keys.registry);
        let [fault] = &findings[&ACCUSED].proven[..] else { panic!("{findings:?}") };
        assert_eq!(fault.judgement.difference, Some(StatementDifference::Content));
    }
}

/// A host shows each pair of an envelope before one step and one behind it.
#[test]
fn a_step_back_in_time_is_one_fault_for_all_pairs_of_envelopes_around_it() {
    const SECOND_NS: i64 = 1_000_000_000;
    // Steps back at 4 and 7.
    let seconds = [0, 20, 21, 22, 10, 11, 12, 1, 2, 3];
    let at = |place: u64| {
        let ns = NOW_NS + seconds[usize::try_from(place).unwrap()] * SECOND_NS;
        by_accused(place, b"any", ns)
    };
    let pair = |host: u32, earlier: u64, later: u64| {
        held(host, MisbehaviorKind::OutOfOrder, &[at(earlier), at(later)])
    };
    let keys = keys();
    let all = |hosts: &[u32], pairs: &[(u64, u64)]| -> Vec<u64> {
        let mut audit = NetworkAudit::default();
        for host in hosts {
            for &(earlier, later) in pairs {
                let judged = Judged::new(pair(*host, earlier, later), &keys);
                assert_eq!(judged.judgement.verdict, MisbehaviorVerdict::Proven, "{judged}");
                assert_eq!(judged.judgement.step_behind(), Some(SequenceId(earlier)));
                audit.add(judged);
            }
        }
        let (findings, _) = audit.finish(&keys.registry);
        findings[&ACCUSED].proven.iter().map(|it| it.judgement.place.0).collect()
    };
    let around: Vec<(u64, u64)> =
        (1..=3).flat_map(|from| (4..=6).map(move |to| (from, to))).collect();
    assert_eq!(all(&[100, 200], &around), [4]);
    let back: Vec<(u64, u64)> = around.iter().rev().copied().collect();
    assert_eq!(all(&[100, 200], &back), [4], "the closest pair of all");
    // A pair around both steps hides neither of them for long.
    assert_eq!(all(&[100], &[(1, 9), (3, 4), (6, 7), (2, 8)]), [4, 7]);
}

/// The reader of a file counts those who could have seen an outage as its writer does.
#[test]
fn a_node_without_a_valid_key_stays_in_the_registry_of_a_file() {
    let (keyless, mut keys) = (OriginatorId(900), keys());
    let away = Absences::of_changes([(5, false), (9, true)]);
    keys.registry = keys.registry.with_unusable([(keyless, true)]);
    keys.registry = keys.registry.with_absences([(keyless, away.clone())]);
    let file = Judged::file("test", &[gap(100)], &[], &keys);
    let read = EvidenceFile::parse(&serde_json::to_string(&file).unwrap()).unwrap();
    let registry = read.keys().unwrap().registry;
    assert_eq!(registry.unusable().collect::<Vec<_>>(), [(keyless, true)]);
    assert_eq!(registry.absences(keyless), &away);
    assert_eq!(registry.nodes().count(), 3);
}

/// One fault that is reported with other envelopes of the accused beside it is no second one.
#[test]
fn a_fault_of_dependencies_counts_once_however_it_is_reported() {
    let topic = Topic::new(TopicKind::GroupMessages, &[7; 16]).unwrap();
    let needed = EnvelopeId::new(OriginatorId(100), SequenceId(3));
    let aad = pb::AuthenticatedData {
        target_topic: topic.as_bytes().clone(),
        depends_on: Some(Cursor::from_iter([needed]).to_pb()),
    };
    let payload = Some(pb::client_envelope::Payload::GroupMessage(Default::default()));
    let client = pb::ClientEnvelope { aad: Some(aad), payload }.encode_to_vec();
    let faulty = by_accused(4, &client, NOW_NS);
    let [first, second] = [5, 6].map(|place| by_accused(place, b"another", NOW_NS));
    let keys = keys();
    let mut audit = NetworkAudit::default();
    for envelopes in
        [vec![faulty.clone()], vec![faulty.clone(), first.clone()], vec![second, faulty, first]]
    {
        let judged = Judged::new(held(100, MisbehaviorKind::CausalOrdering, &envelopes), &keys);
        assert_eq!(judged.judgement.verdict, MisbehaviorVerdict::Proven, "{judged}");
        audit.add(judged);
    }
    let (findings, _) = audit.finish(&keys.registry);
    assert_eq!(findings[&ACCUSED].proven.len(), 1);
}

proptest! {
    #[test]
    fn mutated_files_are_read_or_refused(
        at in any::<prop::sample::Index>(),
        with in any::<char>(),
    ) {
        let file =
            Judged::file("test", &[two_statements(100, 7)], &[two_checkpoints()], &keys());
        let text = serde_json::to_string(&file).unwrap();
        let mut text: Vec<char> = text.chars().collect();
        let at = at.index(text.len());
        text[at] = with;
        let text: String = text.into_iter().collect();
        if let Ok(file) = EvidenceFile::parse(&text)
            && let (Ok(held), Ok(trees), Ok(keys)) = (file.held(), file.held_trees(), file.keys())
        {
            for held in trees {
                JudgedTrees::new(held, &keys).to_string();
            }
            for held in held {
                Judged::new(held, &keys).to_string();
            }
        }
    }
}
