//! Tests of reading a chain while an endpoint that is far behind states wrong times for its blocks.

use std::sync::Arc;

use crate::broadcaster::{Memory, TestBroadcaster};
use crate::pair::ChainBackend;
use crate::proxy::{Faults, Proxy};

/// The number of blocks by which the lying endpoint is behind. It does not catch up during the test.
const BEHIND: u64 = 500;

/// An endpoint far behind may not stop the reader of a node with two endpoints by stating that its blocks are new:
/// their hashes refute the times.
#[tokio::test]
async fn an_endpoint_far_behind_does_not_pass_for_one_that_goes_on() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.mine(BEHIND).await;
    let honest = Proxy::start(&chain.url(), 1).await;
    let behind = Proxy::start(&chain.url(), 2).await;
    behind.set(|it| *it = Faults { behind: BEHIND, misdates: true, ..Faults::default() });
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[honest.url(), behind.url()], Vec::new(), &memory);
    chain.send(2).await;
    // Both endpoints go on while the test waits for the reader.
    chain.mine_until_read(&reader, &memory).await;
    assert!(behind.spoilt() > 0, "it has stated wrong times");
    reader.stop().await;
}
