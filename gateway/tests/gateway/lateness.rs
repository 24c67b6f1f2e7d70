//! Lateness of nodes is judged by the envelopes that their readers miss, not by the places that they count.

use std::time::Duration;

use hawser_proto::Bytes;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_proto::sign::originator_digest;
use prost::Message as _;
use serde_json::Value;

use crate::fake_node::key_of;
use crate::fixture::*;

/// Returns the lateness of a node in the gateway's view, seconds.
async fn lag_s(net: &Net, node: u64) -> u64 {
    seconds(net, node, "lag_s").await
}

/// Returns the time for which the node has lacked an envelope that it cannot get in the gateway's view, seconds.
async fn gap_s(net: &Net, node: u64) -> u64 {
    seconds(net, node, "gap_s").await
}

async fn seconds(net: &Net, node: u64, field: &str) -> u64 {
    let (_, page) = net.json("/status").await;
    let is_it = |it: &&Value| it["id"] == node;
    page["nodes"].as_array().unwrap().iter().find(is_it).unwrap()[field].as_u64().unwrap()
}

/// Waits for a condition, for up to two minutes: the gateway asks for cursors every few seconds.
async fn until_asked(so: impl AsyncFn() -> bool) {
    let waiting = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.expect("it never came");
}

#[tokio::test]
async fn others_are_asked_what_readers_of_a_node_miss() {
    let net = Net::start(4).await;
    let payload: Bytes = commit(1, "a").encode_to_vec().into();
    let envelope = indexed(0, 3, payload);
    let [first, second, storing, lacking] = &net.nodes[..] else { panic!("four nodes") };
    for node in [first, second] {
        // The updates 6 to 8 are invalid: these nodes count them, and show nothing there.
        node.reports([(0, 3), (1, 8)]);
        node.index_quietly(0, 3, &envelope);
    }
    storing.reports([(0, 3), (1, 5)]);
    lacking.reports([(0, 2), (1, 8)]);
    let was_asked = |originator: u32, after: u64| {
        [first, second].iter().all(|node| node.asked().contains(&[(originator, after)].into()))
    };
    until_asked(async || was_asked(0, 2) && was_asked(1, 5) && lag_s(&net, 400).await > 0).await;
    assert_eq!(lag_s(&net, 300).await, 0, "its readers miss nothing");
    assert_eq!(lag_s(&net, 100).await, 0);
    assert_eq!(net.get_nodes().await.len(), 4, "its readers have not missed it for long");
    lacking.reports([(0, 3), (1, 8)]);
    until_asked(async || lag_s(&net, 400).await == 0).await;
}

/// A node of the reference implementation takes a strand only from the strand's own node.
#[tokio::test]
async fn a_node_that_joined_after_another_had_gone_is_not_late() {
    let mut net = Net::start(4).await;
    let payload: Bytes = commit(1, "a").encode_to_vec().into();
    let statement = indexed(100, 3, payload).unsigned_originator_envelope;
    let signature = key_of(100).sign(originator_digest(&statement));
    let bytes = OriginatorEnvelope::encode(statement, Proof::Signature(signature));
    let envelope = pb::OriginatorEnvelope::decode(bytes).unwrap();
    for number in 0..3 {
        net.nodes[number].reports([(100, 3)]);
        net.nodes[number].index_quietly(100, 3, &envelope);
    }
    net.nodes[3].reports([(100, 0)]);
    until_asked(async || lag_s(&net, 400).await > 0).await;
    assert_eq!(gap_s(&net, 400).await, 0, "it can get the envelope");
    assert!(net.sample("xmtp_gateway_node_lag_seconds{node_id=\"400\"}").await > 0);
    assert_eq!(net.sample("xmtp_gateway_node_gap_seconds{node_id=\"400\"}").await, 0);
    net.nodes[0].die();
    until_asked(async || gap_s(&net, 400).await > 0).await;
    assert_eq!(lag_s(&net, 400).await, 0, "its originator is gone");
    let (_, page) = net.page("/metrics").await;
    assert!(page.contains("xmtp_gateway_node_gap_seconds{node_id=\"400\"}"), "{page}");
    net.nodes[0].rise().await;
    until_asked(async || lag_s(&net, 400).await > 0 && gap_s(&net, 400).await == 0).await;
}
