//! Tests of wrong answers: which of them the gateway reports to other nodes.

use hawser_proto::pb::xmtp::xmtpv4::message_api::UnsignedMisbehaviorReport;
use hawser_rules::misbehavior::{
    MisbehaviorKind, MisbehaviorVerdict, NoChain, Report, ReportCase, verify,
};
use hawser_rules::{NodeRecord, Registry};

use super::fake_node::{Hosting, Manner, id_of, key_of};
use super::fixture::{Net, message, rates, until};

/// Returns the number of wrong answers with this outcome.
async fn count(net: &Net, outcome: &str) -> u64 {
    net.sample(&format!("xmtp_gateway_misbehavior_reports_total{{outcome=\"{outcome}\"}}")).await
}

/// Returns the reports that were submitted to all nodes, each with the node's id.
fn submitted(net: &Net) -> Vec<(u32, UnsignedMisbehaviorReport)> {
    let of = |node: &super::fake_node::FakeNode| {
        let id = node.id.0;
        node.submitted().into_iter().map(move |report| (id, report)).collect::<Vec<_>>()
    };
    net.nodes.iter().flat_map(of).collect()
}

/// Returns the verdict on a report of a judge with the registry and the rates.
fn verdict(net: &Net, report: &UnsignedMisbehaviorReport) -> MisbehaviorVerdict {
    let record = |node: &super::fake_node::FakeNode| NodeRecord {
        id: node.id,
        public_key: key_of(node.id.0).public_key(),
        owner: hawser_proto::Address([1; 20]),
        http_address: Some(node.url()),
        quic_address: None,
        canonical: true,
    };
    let registry: Registry = net.nodes.iter().map(record).collect();
    let case = ReportCase {
        report: &Report::of_message(report.clone()).unwrap().to_bytes(),
        host_signature: None,
        host: None,
        registry: &registry,
        rates: Some(&rates()),
        chain: &NoChain,
        held_at_ns: None,
    };
    verify(&case).verdict
}

/// Makes the node of a topic lie in this manner, publishes to the topic, and returns the node.
async fn lied_to(net: &Net, manner: Manner) -> u32 {
    let liar = id_of(&net.publish(vec![message(1, "where?")]).await.unwrap()[0]).0;
    net.node_of(liar).becomes(manner.clone());
    let answer = net.publish(vec![message(1, "told rightly")]).await.unwrap();
    assert_ne!(id_of(&answer[0]).0, liar, "{manner:?}");
    liar
}

#[tokio::test]
async fn a_node_that_signs_what_breaks_a_rule_is_reported_to_two_others() {
    for (manner, kind, expected) in [
        (Manner::ExpiresEarly, MisbehaviorKind::InvalidPayload, MisbehaviorVerdict::Proven),
        (Manner::KeepsForLonger, MisbehaviorKind::InvalidPayload, MisbehaviorVerdict::Claim),
        // The payer may have written the field.
        (Manner::AddsOddField, MisbehaviorKind::InvalidPayload, MisbehaviorVerdict::Claim),
        (Manner::Overcharges, MisbehaviorKind::InvalidPayload, MisbehaviorVerdict::Proven),
        (Manner::ChangesBytes, MisbehaviorKind::InvalidPayload, MisbehaviorVerdict::Proven),
        (Manner::IsAhead(3600), MisbehaviorKind::OutOfOrder, MisbehaviorVerdict::Claim),
    ] {
        let net = Net::start(4).await;
        let liar = lied_to(&net, manner.clone()).await;
        until(async || count(&net, "sent").await == 1).await;
        let reports = submitted(&net);
        assert_eq!(reports.len(), 2, "{manner:?}");
        assert_ne!(reports[0].0, reports[1].0, "no host can hide it alone");
        for (host, report) in &reports {
            assert_ne!(*host, liar, "the accused is not its host");
            assert_eq!((report.misbehaving_node_id, report.r#type()), (liar, kind), "{manner:?}");
            assert!(!report.submitted_by_node);
            assert_eq!(verdict(&net, report), expected, "{manner:?}");
        }
    }
}

#[tokio::test]
async fn what_no_signature_proves_is_not_reported() {
    for manner in [
        Manner::Forges,
        Manner::OtherOriginator,
        Manner::AnswersMore,
        // The payer's signature does not cover the retention, so the signed bytes prove no fault.
        Manner::SellsLonger,
    ] {
        let net = Net::start(3).await;
        lied_to(&net, manner.clone()).await;
        until(async || count(&net, "unproven").await == 1).await;
        assert!(submitted(&net).is_empty(), "{manner:?}");
    }
}

#[tokio::test]
async fn a_node_that_lies_in_each_answer_is_reported_once_for_each_kind() {
    let net = Net::start(3).await;
    net.nodes[0].becomes(Manner::KeepsForLonger);
    let lies = async |from: u8| {
        for group in from..from + 100 {
            net.publish(vec![message(group, "a")]).await.unwrap();
        }
    };
    lies(0).await;
    until(async || count(&net, "sent").await == 1).await;
    lies(100).await;
    let liar = net.nodes[0].id.0;
    let name =
        format!("xmtp_gateway_node_faults_total{{originator_id=\"{liar}\",kind=\"wrong_answer\"}}");
    let lies = net.sample(&name).await;
    assert!(lies > 20, "{lies} lies");
    let mut outcomes = 0;
    for outcome in ["sent", "repeated", "unproven", "dropped", "failed"] {
        outcomes += count(&net, outcome).await;
    }
    assert_eq!(outcomes, lies, "each lie is counted once");
    let reports = submitted(&net);
    assert_eq!(reports.len(), 2, "one report at two hosts");
    assert!(reports.iter().all(|(_, report)| report.misbehaving_node_id == liar));
}

#[tokio::test]
async fn a_host_that_does_not_answer_or_refuses_is_passed_over_and_delays_no_caller() {
    for hosting in [Hosting::Refuses, Hosting::Hangs] {
        let net = Net::start(3).await;
        let liar = id_of(&net.publish(vec![message(1, "where?")]).await.unwrap()[0]).0;
        let hosts: Vec<_> = net.nodes.iter().filter(|node| node.id.0 != liar).collect();
        hosts[0].hosts(hosting);
        net.node_of(liar).becomes(Manner::KeepsForLonger);
        net.publish(vec![message(1, "a")]).await.unwrap();
        // The caller gets its answer although the node with the report does not answer.
        net.publish(vec![message(1, "b")]).await.unwrap();
        until(async || count(&net, "sent").await == 1).await;
        assert_eq!(hosts[1].submitted().len(), 1, "{hosting:?}");
    }
}

#[tokio::test]
async fn a_report_that_no_node_takes_is_given_up() {
    let net = Net::start(3).await;
    net.nodes.iter().for_each(|node| node.hosts(Hosting::Refuses));
    let liar = lied_to(&net, Manner::KeepsForLonger).await;
    until(async || count(&net, "failed").await == 1).await;
    let mut asked: Vec<_> = submitted(&net).iter().map(|(host, _)| *host).collect();
    asked.sort_unstable();
    let others: Vec<_> = net.nodes.iter().map(|node| node.id.0).filter(|id| *id != liar).collect();
    assert_eq!(asked, others, "each other node once");
    net.publish(vec![message(1, "the network goes on")]).await.unwrap();
}
