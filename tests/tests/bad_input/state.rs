//! Publishes that are refused for the node's own state: the publisher may come again, and reading
//! goes on.

use std::time::{SystemTime, UNIX_EPOCH};

use hawser_tests::harness::envelopes::{group_message, payer, sign};
use hawser_tests::harness::network::{Network, Node};
use hawser_tests::harness::{raw, seed, wait};
use tonic::{Code, Status};

use super::{assert_goes_on, assert_refused, head};

async fn publish_one(node: &Node, number: u64) -> Result<(), Status> {
    let message = group_message([1; 16], 40, &mut seed::rng(7, number));
    node.client().publish(vec![sign(&message, node.id, &payer(1))]).await.map(|_| ())
}

async fn readiness(node: &Node, what: &str) -> u16 {
    raw::get(node.metrics_port, &format!("/readyz{what}")).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_left_the_registry_takes_no_publishes_and_still_serves_readers() {
    let mut network = Network::start(1).await;
    publish_one(&network.nodes[0], 0).await.unwrap();
    network.set_canonical(0, false);
    let node = &network.nodes[0];
    wait::until("the node has read its registry", async || {
        (readiness(node, "?for=publish").await == 503).then_some(())
    })
    .await;
    let answer = publish_one(node, 1).await;
    let status = assert_refused("not canonical", answer, Code::Unavailable, "");
    let retry_after = status.metadata().get("retry-after").expect("says when to come again");
    assert!(retry_after.to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(readiness(node, "").await, 200);
    assert_eq!(head(node).await, 1);

    network.set_canonical(0, true);
    let node = &network.nodes[0];
    wait::until("the node takes publishes again", async || {
        (readiness(node, "?for=publish").await == 200).then_some(())
    })
    .await;
    assert_goes_on(node, &mut seed::rng(seed::seed(), 0)).await;
}

/// An unknown price is no reason to give the envelope a place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_without_a_price_is_refused_and_burns_no_id() {
    let mut network = Network::new(1);
    network.nodes[0].write_rates(&[(0, u64::MAX)]);
    network.start_all().await;
    let node = &network.nodes[0];
    let answer = publish_one(node, 0).await;
    let text = "could not calculate base fee";
    let status = assert_refused("no price", answer, Code::InvalidArgument, text);
    let details = String::from_utf8_lossy(status.details()).into_owned();
    for part in ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "payer_envelopes[0]", "NO_PRICE"]
    {
        assert!(details.contains(part), "{part} in {details:?}");
    }
    assert_eq!(head(node).await, 0);
    // A price list only grows.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    node.write_rates(&[(0, u64::MAX), (now, 200)]);
    wait::until("the new price is in force", async || publish_one(node, 0).await.ok()).await;
    assert_eq!(head(node).await, 1);
}
