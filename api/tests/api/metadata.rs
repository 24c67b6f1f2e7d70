//! What a node says about itself.

use hawser_proto::pb::xmtp::xmtpv4::metadata_api as pb;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api::metadata_api_client::MetadataApiClient;
use tonic::Code;

use crate::common::*;

#[tokio::test]
async fn the_cursor_is_that_of_the_log() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    let mut cursor = async || {
        let answer = client.get_sync_cursor(pb::GetSyncCursorRequest {}).await.unwrap();
        answer.into_inner().latest_sync.unwrap()
    };
    assert_eq!(cursor().await, wire_cursor([]));
    node.publish(vec![message(1, "a"), message(1, "b")]).await;
    node.commit_on_chain(1, 1);
    assert_eq!(cursor().await, wire_cursor([(0, 1), (100, 2)]));
}

#[tokio::test]
async fn a_follower_of_the_cursor_ends_with_the_newest() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    let stream = client.subscribe_sync_cursor(pb::GetSyncCursorRequest {}).await.unwrap();
    let mut stream = stream.into_inner();
    let mut cursor = async || stream.message().await.unwrap().unwrap().latest_sync.unwrap();
    assert_eq!(cursor().await, wire_cursor([]));
    for text in 0..20 {
        node.publish(vec![message(1, &text.to_string())]).await;
    }
    let mut last = 0;
    while last < 20 {
        let next = cursor().await.node_id_to_sequence_id[&100];
        assert!(next > last, "{next} after {last}");
        last = next;
    }
}

#[tokio::test]
async fn the_version_is_told_and_payers_are_not() {
    let node = node().await;
    let mut client = MetadataApiClient::new(node.channel().await);
    let version = client.get_version(pb::GetVersionRequest {}).await.unwrap().into_inner();
    assert_eq!(version.version, "1.2.3");
    let payers = client.get_payer_info(pb::GetPayerInfoRequest::default()).await;
    assert_eq!(payers.unwrap_err().code(), Code::Unimplemented);
}
