//! A test of reading a chain that stands still while the preferred endpoint lacks its newest blocks.

use std::sync::Arc;

use crate::broadcaster::{Memory, TestBroadcaster, until};
use crate::pair::ChainBackend;
use crate::proxy::Proxy;

/// Without further blocks the endpoint would never come to be far behind.
#[tokio::test]
async fn an_endpoint_that_stands_still_a_few_blocks_behind_hides_nothing_for_long() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let behind = Proxy::start(&chain.url(), 1).await;
    behind.set(|faults| faults.behind = 3);
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[behind.url(), chain.url()], Vec::new(), &memory);
    chain.send(2).await;
    until("the newest events are there", || memory.payloads() == chain.sent).await;
    assert!(behind.asked("eth_getLogs") > 0, "it was asked first");
    reader.stop().await;
}
