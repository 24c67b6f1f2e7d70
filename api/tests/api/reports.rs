//! Reports of misbehaviour: which ones any caller may submit, which are kept, and that any caller can check them.

use std::sync::Arc;

use hawser_api::{ApiSettings, NoPeers, RateLimitSettings};
use hawser_engine::misbehavior::{Evidence, Misbehavior};
use hawser_engine::ports::NodeRecord;
use hawser_proto::envelope::{PayerEnvelope, UnsealedEnvelope};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb_env;
use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::message_api::misbehavior_api_client::MisbehaviorApiClient;
use hawser_proto::pb::xmtp::xmtpv4::message_api::unsigned_misbehavior_report::Failure;
use hawser_proto::{Bytes, EnvelopeId, SecretKey, SequenceId, StatementDifference};
use hawser_rules::Registry;
use hawser_rules::misbehavior::{Host, Judgement, MisbehaviorVerdict, NoChain, ReportCase, verify};
use hawser_storage::{NewReport, ReportClass, ReportFact};
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::common::{
    NODE, Node, PEER, START_NS, client, frame, group_payload, group_topic, node, node_with, record,
};

const MINUTE_NS: i64 = 60 * 1_000_000_000;

fn peer_key() -> SecretKey {
    SecretKey::from_bytes(&[2; 32]).unwrap()
}

fn peer() -> NodeRecord {
    NodeRecord { id: PEER, public_key: peer_key().public_key(), ..record() }
}

fn registry() -> Registry {
    [record(), peer()].into_iter().collect()
}

/// Returns an envelope that the peer signs for a place; each `text` makes another statement.
fn by_peer(sequence: u64, text: &str, ns: i64) -> Bytes {
    let payload = group_payload(frame(1, 1, text.as_bytes()));
    let client = client(&group_topic(1), None, payload);
    let payer = SecretKey::from_bytes(&[10; 32]).unwrap();
    let paid: Bytes = PayerEnvelope::sign(client, PEER, 60, &payer).encode_to_vec().into();
    let statement = pb_env::UnsignedOriginatorEnvelope {
        originator_node_id: PEER.0,
        originator_sequence_id: sequence,
        originator_ns: ns,
        base_fee_picodollars: 1000 + 3 * 60 * paid.len() as u64,
        expiry_unixtime: u64::try_from(ns / 1_000_000_000).unwrap() + 60 * 86_400,
        payer_envelope_bytes: paid,
        ..Default::default()
    };
    UnsealedEnvelope::new(&statement).seal(&peer_key())
}

fn report(kind: pb::Misbehavior, envelopes: &[Bytes]) -> pb::UnsignedMisbehaviorReport {
    let decode = |it: &Bytes| pb_env::OriginatorEnvelope::decode(it.clone()).unwrap();
    let envelopes = envelopes.iter().map(decode).collect();
    pb::UnsignedMisbehaviorReport {
        reporter_time_ns: START_NS.unsigned_abs(),
        misbehaving_node_id: PEER.0,
        r#type: kind.into(),
        failure: Some(Failure::Safety(pb::SafetyFailure { envelopes })),
        submitted_by_node: false,
    }
}

fn two_statements(sequence: u64) -> pb::UnsignedMisbehaviorReport {
    let pair = ["one", "another"].map(|text| by_peer(sequence, text, START_NS));
    report(pb::Misbehavior::DuplicateSequenceId, &pair)
}

struct Stranger(MisbehaviorApiClient<Channel>);

impl Stranger {
    async fn of(node: &Node) -> Self {
        node.set_registry([record(), peer()]);
        Self(MisbehaviorApiClient::new(node.channel().await))
    }

    async fn submit(&mut self, report: pb::UnsignedMisbehaviorReport) -> Result<(), Status> {
        let request = pb::SubmitMisbehaviorReportRequest { report: Some(report) };
        self.0.submit_misbehavior_report(request).await.map(drop)
    }

    async fn refusal(&mut self, report: pb::UnsignedMisbehaviorReport) -> (Code, String) {
        let status = self.submit(report).await.unwrap_err();
        (status.code(), status.message().to_owned())
    }

    async fn query(&mut self, after_ns: u64) -> Vec<pb::MisbehaviorReport> {
        let request = pb::QueryMisbehaviorReportsRequest { after_ns };
        self.0.query_misbehavior_reports(request).await.unwrap().into_inner().reports
    }
}

/// Returns the number of reports of a kind that a node has stored: `out` for its own, `in` for those of others.
async fn counted(node: &Node, kind: &str, direction: &str) -> Option<f64> {
    let labels = format!("type=\"{kind}\",direction=\"{direction}\"");
    node.sample(&format!("xmtp_misbehavior_reports_total{{{labels}}}")).await
}

/// Returns the number of submissions for which the limit of their address has decided so.
async fn decided(node: &Node, outcome: &str) -> f64 {
    decided_on(node, "MisbehaviorApi", "SubmitMisbehaviorReport", outcome).await
}

/// Returns the number of calls of strangers for which limits have decided so.
async fn decided_on(node: &Node, service: &str, method: &str, outcome: &str) -> f64 {
    let call = format!(r#"service="{service}",method="{method}""#);
    let labels = format!(r#"{call},tier="tier2",outcome="{outcome}""#);
    node.sample(&format!("xmtpd_rate_limit_decisions_total{{{labels}}}")).await.unwrap()
}

/// Judges a report with the registry's keys only, as any reader can.
fn judge(report: &pb::MisbehaviorReport) -> Judgement {
    let registry = registry();
    verify(&ReportCase {
        report: &report.unsigned_misbehavior_report,
        host_signature: report.signature.as_ref().map(|it| it.bytes.as_ref()),
        host: Some(NODE),
        registry: &registry,
        rates: None,
        chain: &NoChain,
        held_at_ns: None,
    })
}

#[tokio::test]
async fn what_a_node_has_found_is_reported_and_any_stranger_can_judge_it() {
    let node = node().await;
    let mut stranger = Stranger::of(&node).await;
    let held = ["one", "another"].map(|text| by_peer(7, text, START_NS)).to_vec();
    let evidence = Evidence {
        misbehavior: Misbehavior::TwoStatements(StatementDifference::Content),
        at: EnvelopeId::new(PEER, SequenceId(7)),
        from: None,
        envelopes: held,
    };
    node.engine.store().record_evidence(START_NS.unsigned_abs(), &[evidence]).unwrap();
    node.engine.reports().report_evidence().unwrap();
    node.engine.reports().report_evidence().unwrap();
    let found = stranger.query(0).await;
    assert_eq!(found.len(), 1, "made once");
    let judgement = judge(&found[0]);
    assert_eq!((judgement.verdict, judgement.accused), (MisbehaviorVerdict::Proven, Some(PEER)));
    assert_eq!(judgement.host, Host::Node(NODE));
    assert!(judgement.is_seen_by_host);
    assert_eq!(stranger.query(found[0].server_time_ns).await, [], "the end");
    assert_eq!(counted(&node, "duplicate_sequence_id", "out").await, Some(1.0));
    assert_eq!(counted(&node, "duplicate_sequence_id", "in").await, Some(0.0));
}

#[tokio::test]
async fn proofs_of_strangers_are_kept_once_and_signed_by_their_host() {
    let node = node().await;
    let mut stranger = Stranger::of(&node).await;
    stranger.submit(two_statements(7)).await.unwrap();
    let later = pb::UnsignedMisbehaviorReport {
        reporter_time_ns: START_NS.unsigned_abs() + 1,
        ..two_statements(7)
    };
    stranger.submit(later).await.unwrap();
    stranger.submit(two_statements(8)).await.unwrap();
    let gap = [by_peer(9, "a", START_NS), by_peer(12, "b", START_NS)];
    stranger.submit(report(pb::Misbehavior::OutOfOrder, &gap)).await.unwrap();
    let found = stranger.query(0).await;
    let verdicts: Vec<MisbehaviorVerdict> = found.iter().map(|it| judge(it).verdict).collect();
    assert_eq!(
        verdicts,
        [MisbehaviorVerdict::Proven, MisbehaviorVerdict::Proven, MisbehaviorVerdict::Claim]
    );
    assert!(found.iter().all(|it| judge(it).host == Host::Node(NODE)));
    assert!(found.iter().all(|it| !judge(it).is_seen_by_host), "it only held them");
    let times: Vec<u64> = found.iter().map(|it| it.server_time_ns).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert_eq!(stranger.query(times[0]).await, found[1..]);
    assert_eq!(counted(&node, "duplicate_sequence_id", "in").await, Some(2.0), "a repeat is none");
    assert_eq!(counted(&node, "out_of_order", "in").await, Some(1.0));
    assert_eq!(counted(&node, "out_of_order", "out").await, Some(0.0));
}

#[tokio::test]
async fn a_report_that_proves_nothing_of_what_it_says_is_refused_with_the_fact() {
    let node = node().await;
    let mut stranger = Stranger::of(&node).await;
    let invalid = Code::InvalidArgument;
    let refused = |(code, text): (Code, String), part: &str| {
        assert_eq!(code, invalid, "{text}");
        assert!(text.contains(part), "{text}");
    };
    let same = [by_peer(7, "one", START_NS), by_peer(7, "one", START_NS)];
    let same = report(pb::Misbehavior::DuplicateSequenceId, &same);
    refused(stranger.refusal(same).await, "one_statement");
    let mut forged = two_statements(7);
    if let Some(Failure::Safety(safety)) = &mut forged.failure {
        let other = safety.envelopes[1].proof.clone();
        safety.envelopes[0].proof = other;
    }
    refused(stranger.refusal(forged).await, "forged");
    let honest = report(pb::Misbehavior::InvalidPayload, &[by_peer(7, "fine", START_NS)]);
    refused(stranger.refusal(honest).await, "no_rule_broken");
    // With a report time in the past, an honest envelope would look as if it were dated ahead.
    let past = pb::UnsignedMisbehaviorReport {
        reporter_time_ns: (START_NS - 60 * MINUTE_NS).unsigned_abs(),
        ..report(pb::Misbehavior::OutOfOrder, &[by_peer(7, "fine", START_NS)])
    };
    refused(stranger.refusal(past).await, "not_ahead");
    let unknown = pb::UnsignedMisbehaviorReport { misbehaving_node_id: 900, ..two_statements(7) };
    refused(stranger.refusal(unknown).await, "unknown_node");
    let as_node = pb::UnsignedMisbehaviorReport { submitted_by_node: true, ..two_statements(7) };
    refused(stranger.refusal(as_node).await, "submitted_by_node");
    assert_eq!(stranger.query(0).await, []);
}

/// Room for proofs is never freed. A stranger could use it up with megabytes of a public log beside each envelope that
/// breaks a rule.
#[tokio::test]
async fn a_long_proof_is_kept_without_the_envelopes_that_it_does_not_need() {
    let node = node().await;
    let mut stranger = Stranger::of(&node).await;
    let broken = |sequence| {
        let statement = pb_env::UnsignedOriginatorEnvelope {
            originator_node_id: PEER.0,
            originator_sequence_id: sequence,
            originator_ns: START_NS,
            ..Default::default()
        };
        UnsealedEnvelope::new(&statement).seal(&peer_key())
    };
    let invalid = |envelopes: &[Bytes]| report(pb::Misbehavior::InvalidPayload, envelopes);
    let short = invalid(&[by_peer(6, "public", START_NS), broken(7)]);
    stranger.submit(short.clone()).await.unwrap();
    let long = by_peer(6, &"public".repeat(20_000), START_NS);
    stranger.submit(invalid(&[long, broken(8)])).await.unwrap();
    let found = stranger.query(0).await;
    let kept: Vec<&Bytes> = found.iter().map(|it| &it.unsigned_misbehavior_report).collect();
    let [short, long] = [short, invalid(&[broken(8)])].map(|it| Bytes::from(it.encode_to_vec()));
    assert_eq!(kept, [&short, &long]);
    for report in &found {
        let judgement = judge(report);
        let outcome = (judgement.verdict, judgement.host);
        assert_eq!(outcome, (MisbehaviorVerdict::Proven, Host::Node(NODE)));
    }
}

#[tokio::test]
async fn the_form_of_a_report_is_checked_before_anything_else() {
    let node = node().await;
    let mut stranger = Stranger::of(&node).await;
    let nothing = pb::SubmitMisbehaviorReportRequest { report: None };
    let status = stranger.0.submit_misbehavior_report(nothing).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    for (wrong, part) in [
        (report(pb::Misbehavior::Unspecified, &[]), "kind"),
        (report(pb::Misbehavior::OutOfOrder, &[]), "no envelopes"),
        (report(pb::Misbehavior::SlowNode, &[by_peer(1, "a", START_NS)]), "belong"),
        (pb::UnsignedMisbehaviorReport { r#type: 77, ..two_statements(1) }, "77"),
        (pb::UnsignedMisbehaviorReport { reporter_time_ns: 0, ..two_statements(1) }, "30 days"),
        (
            pb::UnsignedMisbehaviorReport { reporter_time_ns: u64::MAX, ..two_statements(1) },
            "future",
        ),
    ] {
        let (code, text) = stranger.refusal(wrong).await;
        assert_eq!(code, Code::InvalidArgument);
        assert!(text.contains(part), "{text}");
    }
    let many = vec![by_peer(1, "a", START_NS); 65];
    let (code, text) = stranger.refusal(report(pb::Misbehavior::CausalOrdering, &many)).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("65 envelopes"), "{text}");
}

/// A client whose reports are wrong has to learn what is wrong with each, and can then submit the right one at once.
#[tokio::test]
async fn a_report_of_a_wrong_form_takes_nothing_from_the_limits_and_is_named_beyond_them() {
    let node = node().await;
    let mut stranger = Stranger::of(&node).await;
    let part = "x".repeat(3 << 20);
    let large = [1, 2, 3].map(|sequence| by_peer(sequence, &part, START_NS));
    let wrong = [
        report(pb::Misbehavior::Unspecified, &[]),
        report(pb::Misbehavior::OutOfOrder, &[]),
        pb::UnsignedMisbehaviorReport { reporter_time_ns: 0, ..two_statements(1) },
        pb::UnsignedMisbehaviorReport { submitted_by_node: true, ..two_statements(1) },
    ];
    let decisions = async || [decided(&node, "allowed").await, decided(&node, "denied").await];
    stranger.submit(two_statements(1)).await.unwrap();
    for report in wrong.iter().cycle().take(15) {
        let (code, text) = stranger.refusal(report.clone()).await;
        assert_eq!(code, Code::InvalidArgument, "{text}");
    }
    assert_eq!(decisions().await, [1.0, 0.0]);
    for sequence in 2..=10 {
        stranger.submit(two_statements(sequence)).await.unwrap();
    }
    assert_eq!(decisions().await, [10.0, 0.0]);
    for report in wrong.into_iter().chain([report(pb::Misbehavior::CausalOrdering, &large)]) {
        assert_eq!(stranger.refusal(report).await.0, Code::InvalidArgument);
    }
}

/// Played by a client that submits without end what is no report: each one is received and decoded.
#[tokio::test]
async fn a_flood_of_reports_of_a_wrong_form_is_bounded_and_leaves_the_right_ones_their_limits() {
    let one = |settings: &mut ApiSettings| settings.misbehavior_reports_per_minute = 1;
    let node = node_with(one, Arc::new(NoPeers)).await;
    let mut stranger = Stranger::of(&node).await;
    let (mut named, mut refused) = (0, None);
    while refused.is_none() && named < 200 {
        match stranger.submit(report(pb::Misbehavior::OutOfOrder, &[])).await.unwrap_err() {
            status if status.code() == Code::InvalidArgument => named += 1,
            status => refused = Some(status),
        }
    }
    let status = refused.expect("a wrong form is bounded");
    assert_eq!(status.code(), Code::ResourceExhausted, "after {named}");
    assert!(status.metadata().contains_key("retry-after"));
    assert!(named >= 10, "{named}: ten for each right one");
    assert_eq!([decided(&node, "allowed").await, decided(&node, "denied").await], [0.0, 1.0]);
    let mut other = Stranger::of(&node).await;
    other.submit(two_statements(1)).await.expect("another connection of the same address");
}

#[tokio::test]
async fn a_flood_of_reports_from_one_address_is_bounded() {
    let node = node().await;
    let mut stranger = Stranger::of(&node).await;
    let mut refused = None;
    for sequence in 1..=20 {
        if let Err(status) = stranger.submit(two_statements(sequence)).await {
            refused = Some(status);
            break;
        }
    }
    let status = refused.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.metadata().contains_key("retry-after"));
    assert_eq!(stranger.query(0).await.len(), 10, "ten of a minute are kept");
    assert_eq!([decided(&node, "allowed").await, decided(&node, "denied").await], [10.0, 1.0]);
}

#[tokio::test]
async fn an_address_submits_as_many_reports_as_the_operator_allows() {
    let few = |settings: &mut ApiSettings| settings.misbehavior_reports_per_minute = 2;
    let node = node_with(few, Arc::new(NoPeers)).await;
    let mut stranger = Stranger::of(&node).await;
    for sequence in 1..=2 {
        stranger.submit(two_statements(sequence)).await.unwrap();
    }
    let status = stranger.submit(two_statements(3)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!([decided(&node, "allowed").await, decided(&node, "denied").await], [2.0, 1.0]);
}

/// A caller goes on after it has sent as many reports as it may. A refusal holds for a second.
#[tokio::test]
async fn further_reports_of_an_address_above_its_limit_are_refused_before_they_are_read() {
    let node = node().await;
    let mut stranger = Stranger::of(&node).await;
    let mut other = Stranger::of(&node).await;
    let same = [by_peer(7, "one", START_NS), by_peer(7, "one", START_NS)];
    let refuted = || report(pb::Misbehavior::DuplicateSequenceId, &same);
    let nothing = || pb::SubmitMisbehaviorReportRequest { report: None };
    let mut of_nothing = None;
    // Ten are judged, and the others are refused.
    for _ in 0..40 {
        if stranger.refusal(refuted()).await.0 == Code::ResourceExhausted {
            let status = stranger.0.submit_misbehavior_report(nothing()).await.unwrap_err();
            of_nothing = Some(status.code());
        }
        if of_nothing == Some(Code::ResourceExhausted) {
            break;
        }
    }
    assert_eq!(of_nothing, Some(Code::ResourceExhausted), "no handler has seen it");
    let status = other.0.submit_misbehavior_report(nothing()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "another connection");
    assert_eq!(stranger.query(0).await, [], "another method");
}

/// Tokens come back within half an hour, so none does during the test.
#[tokio::test]
async fn a_query_for_reports_takes_a_token_and_counts_as_itself() {
    let few = |settings: &mut ApiSettings| {
        settings.rate_limits = Some(RateLimitSettings { per_hour: 2, ..Default::default() });
    };
    let node = node_with(few, Arc::new(NoPeers)).await;
    let mut stranger = Stranger::of(&node).await;
    for _ in 0..2 {
        assert_eq!(stranger.query(0).await, []);
    }
    let request = pb::QueryMisbehaviorReportsRequest { after_ns: 0 };
    let status = stranger.0.query_misbehavior_reports(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let of = async |outcome: &str| {
        decided_on(&node, "MisbehaviorApi", "QueryMisbehaviorReports", outcome).await
    };
    let of_queries = decided_on(&node, "QueryApi", "QueryEnvelopes", "allowed").await;
    assert_eq!([of("allowed").await, of("denied").await, of_queries], [2.0, 1.0, 0.0]);
}

#[tokio::test]
async fn the_service_can_be_switched_off() {
    let node = node_with(|settings| settings.misbehavior_api = false, Arc::new(NoPeers)).await;
    let mut stranger = Stranger::of(&node).await;
    assert_eq!(stranger.refusal(two_statements(1)).await.0, Code::Unimplemented);
    let request = pb::QueryMisbehaviorReportsRequest { after_ns: 0 };
    let status = stranger.0.query_misbehavior_reports(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

/// Played by callers who ask for a report of more than 4 MiB, which comes alone: they may hold 4 MiB twice, and not it.
#[tokio::test]
async fn a_report_that_comes_alone_is_charged_whole() {
    const MIB: usize = 1024 * 1024;
    let of_long = async |limit_bytes: usize| {
        let budget = |settings: &mut ApiSettings| settings.callers_bytes_max = limit_bytes;
        let node = node_with(budget, Arc::new(NoPeers)).await;
        let fact = ReportFact {
            accused: PEER,
            class: ReportClass::Proven,
            kind: 5,
            detail: 0,
            sequence: SequenceId(1),
            digest: [1; 16],
        };
        let long = NewReport { fact, signature: [1; 65], report: Bytes::from(vec![7; 7 * MIB]) };
        node.engine.store().record_reports(5, vec![long], None).unwrap();
        let client = MisbehaviorApiClient::new(node.channel().await);
        let request = pb::QueryMisbehaviorReportsRequest { after_ns: 0 };
        client.max_decoding_message_size(8 * MIB).query_misbehavior_reports(request).await
    };
    let reports = of_long(48 * MIB).await.unwrap().into_inner().reports;
    assert_eq!(reports[0].unsigned_misbehavior_report.len(), 7 * MIB);
    let refused = of_long(24 * MIB).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
}
