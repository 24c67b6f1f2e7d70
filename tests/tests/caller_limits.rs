//! Settings that protect a node, as its process honours them.

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_tests::harness::network::Network;
use hawser_tests::harness::{envelopes, seed};
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
