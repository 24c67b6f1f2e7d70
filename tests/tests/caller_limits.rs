//! Settings that protect a node, as its process honours them.

use hawser_proto::pb::xmtp::xmtpv4::message_api as pb;
use hawser_tests::harness::network::Network;
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
