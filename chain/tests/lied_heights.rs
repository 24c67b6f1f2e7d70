//! A test of reading a chain while an endpoint goes on with it and hides single blocks.

use std::sync::Arc;

use crate::broadcaster::{Memory, TestBroadcaster};
use crate::pair::ChainBackend;
use crate::proxy::Proxy;

/// An endpoint that states newer blocks and does not show one below them never comes to it, so the other one of two is
/// believed after a while. Otherwise the hidden block would stop the reader for good.
#[tokio::test]
async fn an_endpoint_that_hides_a_block_below_its_newest_stops_no_reader() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    // The liar hides each third block.
    while !(chain.mine(1).await + 1).is_multiple_of(3) {}
    let (honest, hides) =
        (Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await);
    hides.set(|faults| faults.conceals = true);
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[honest.url(), hides.url()], Vec::new(), &memory);
    chain.send(1).await;
    // Both endpoints go on while the test waits for the reader.
    chain.mine_until_read(&reader, &memory).await;
    assert!(hides.spoilt() > 0, "it was asked");
    reader.stop().await;
}
