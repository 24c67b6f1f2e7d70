//! Settings that protect a node, as its process honours them.

use std::fs;

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_tests::harness::network::{Network, forget_settings};
use hawser_tests::harness::xmtpd_database::Certificate;
use hawser_tests::harness::{binary, envelopes, seed};
use tokio::process::Command;
use tonic::{Code, Status};

const QUERY: &str = "/xmtp.xmtpv4.message_api.QueryApi/GetNewestEnvelope";
const REPLICATION: &str = "/xmtp.xmtpv4.message_api.ReplicationApi/GetNewestEnvelope";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_honours_the_settings_that_protect_it() {
    let mut network = Network::new(1);
    network.nodes[0].arguments = [
        "--rate-limit.enable",
        "--rate-limit.t2-per-minute-capacity=1",
        "--api.require-replication-node-auth",
    ]
    .map(str::to_owned)
    .to_vec();
    network.start_all().await;
    let client = network.nodes[0].client();
    let ask = async |path: &str| -> Result<pb::GetNewestEnvelopeResponse, Status> {
        client.unary(path, pb::GetNewestEnvelopeRequest::default()).await
    };
    ask(QUERY).await.unwrap();
    let limited = ask(QUERY).await.unwrap_err();
    assert_eq!(limited.code(), Code::ResourceExhausted);
    assert!(limited.metadata().contains_key("retry-after"));
    assert_eq!(ask(REPLICATION).await.unwrap_err().code(), Code::Unauthenticated);
}

/// Publishes are paid for, so an operator sets this only to share the node among its payers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_publishes_as_often_as_the_operator_lets_it() {
    let mut network = Network::new(1);
    network.nodes[0].arguments = vec!["--publishes-per-payer=1".to_owned()];
    network.start_all().await;
    let node = &network.nodes[0];
    let client = node.client();
    let mut rng = seed::rng(seed::seed(), 0);
    let mut publish = async |payer| {
        let message = envelopes::group_message([5; 16], 100, &mut rng);
        let signed = envelopes::sign(&message, node.id, &envelopes::payer(payer));
        client.publish(vec![signed]).await
    };
    // Ten requests of one payer take less than ten seconds, and others are not touched.
    let (mut taken, mut refused) = (0, Vec::new());
    for _ in 0..10 {
        match publish(1).await {
            Ok(_) => taken += 1,
            Err(status) => refused.push(status),
        }
    }
    publish(2).await.unwrap();
    assert!(taken >= 1 && !refused.is_empty(), "{taken} were taken");
    for status in refused {
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get("retry-after").unwrap(), "1");
        assert_eq!(status.metadata().get("limit-reason").unwrap(), "PAYER_RATE");
    }
    let page = node.metrics().await;
    assert!(page.sum("xmtp_publish_rejected_total", &["reason=\"payer_rate\""]) >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_talk_to_a_node_whose_certificate_they_trust() {
    let mut network = Network::new(1);
    let node = &mut network.nodes[0];
    let made = Certificate::new("127.0.0.1");
    let (certificate, key) = (node.folder().join("tls.pem"), node.folder().join("tls.key"));
    fs::write(&certificate, made.certificate).unwrap();
    fs::write(&key, made.key).unwrap();
    node.arguments = vec![
        format!("--tls-cert={}", certificate.display()),
        format!("--tls-key={}", key.display()),
    ];
    network.start_all().await;
    let node = &network.nodes[0];
    // A balancer takes a node out by this condition when its certificate ends, and an alert warns of it before.
    let page = node.metrics().await;
    assert_eq!(page.sum("xmtp_condition", &["name=\"tls_certificate\""]), 1.0);
    assert!(page.sum("xmtp_tls_cert_expiry_timestamp_seconds", &[]) > 0.0);
    let query = async |url: String, trusted: bool| {
        let mut command = Command::new(binary::hawser());
        forget_settings(command.as_std_mut());
        command.env_remove("SSL_CERT_FILE");
        if trusted {
            command.env("SSL_CERT_FILE", &certificate);
        }
        command.args(["query", "cursors", "--node", &url]).output().await.unwrap()
    };
    let address = format!("127.0.0.1:{}", node.port);
    let answered = query(format!("https://{address}"), true).await;
    assert!(answered.status.success(), "{}", String::from_utf8_lossy(&answered.stderr));
    let stranger = query(format!("https://{address}"), false).await;
    let text = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert!(!stranger.status.success() && text.contains("UnknownIssuer"), "{text}");
    assert!(!query(address, true).await.status.success(), "a port that speaks TLS only");
}
