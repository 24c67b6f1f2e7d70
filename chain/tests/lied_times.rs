//! Tests of reading a chain while an endpoint that is far behind states wrong times for its blocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_chain::index::ReaderState;

use crate::broadcaster::{Memory, TIMEOUT, TestBroadcaster};
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
    let view = reader.view();
    chain.send(2).await;
    let began = Instant::now();
    while memory.payloads() != chain.sent {
        // Both endpoints go on while the test waits for the reader.
        chain.mine(1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let status = view.readers().remove(0);
        assert!(!matches!(status.state, ReaderState::Halted(_)), "{status:?}");
        assert!(began.elapsed() < TIMEOUT, "{status:?}, {:?}", view.endpoints());
    }
    assert!(behind.spoilt() > 0, "it has stated wrong times");
    reader.stop().await;
}
