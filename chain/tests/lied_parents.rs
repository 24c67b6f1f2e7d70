//! A test of reading a chain while one endpoint states other parents of its blocks than these have.

use std::sync::Arc;

use crate::broadcaster::{Memory, TestBroadcaster, until};
use crate::pair::ChainBackend;
use crate::proxy::Proxy;

/// Each page of such an endpoint looks like a reorganisation, and its blocks do not have one.
#[tokio::test]
async fn an_endpoint_whose_pages_never_follow_its_blocks_is_left() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let liar = Proxy::start(&chain.url(), 1).await;
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[liar.url(), chain.url()], Vec::new(), &memory);
    chain.send(2).await;
    until("what was sent is there", || memory.payloads() == chain.sent).await;
    liar.set(|faults| faults.orphans = true);
    chain.send(2).await;
    until("what came later is there", || memory.payloads() == chain.sent).await;
    assert!(liar.spoilt() > 0, "it was asked first");
    reader.stop().await;
}
