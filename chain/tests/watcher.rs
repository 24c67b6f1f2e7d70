//! Tests of the watcher of the contracts, at an endpoint with faults.

use alloy::providers::Provider as _;
use hawser_chain::admin::watcher::EventFollower;
use hawser_chain::send::Chain;
use serde_json::{Value, json};

use crate::administration::Administration;
use crate::pair::ChainBackend;
use crate::proxy::Proxy;

/// An endpoint refuses all requests for a while. Pages of one block would never come to the head of a chain that makes
/// blocks each second.
#[tokio::test]
async fn pages_of_events_grow_again_after_an_endpoint_has_refused_all() {
    let setup = Administration::new(ChainBackend::Embedded).await;
    let settlement = &setup.pair.settlement;
    let proxy = Proxy::start(settlement.endpoint(), 0).await;
    let mut network = setup.network.clone();
    network.settlement = Chain::connect(&proxy.url(), settlement.id()).await.unwrap();
    let mut follower = EventFollower::new(None);
    follower.read(&network).await.unwrap();
    for _ in 0..150 {
        let provider = settlement.provider();
        provider.raw_request::<_, Value>("evm_mine".into(), json!([])).await.unwrap();
    }
    proxy.set(|faults| faults.range_max = Some(0));
    follower.read(&network).await.unwrap_err();
    proxy.set(|faults| faults.range_max = None);
    for _ in 0..2 {
        follower.read(&network).await.unwrap();
    }
    let newest = settlement.newest_block().await.unwrap();
    assert_eq!(follower.counts().last_block, Some(newest));
}
