//! Tests of reading a chain while an endpoint lacks its newest blocks, or states a head that it does not have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{BlockRef, ChainReader, PushSettings, ReaderState, Sink, WalkSettings};

use crate::broadcaster::{Memory, TIMEOUT, TestBroadcaster, until};
use crate::pair::{APP_ID, ChainBackend};
use crate::proxy::Proxy;

/// A head that no endpoint has.
const INVENTED: u64 = 1_000_000_000;

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

/// A second endpoint that states any head must not have the honest one left, because it is then read from itself.
#[tokio::test]
async fn an_invented_head_has_no_honest_endpoint_left() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let (honest, liar) = (Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await);
    liar.set(|faults| faults.claims_head = Some(INVENTED));
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[honest.url(), liar.url()], Vec::new(), &memory);
    let view = reader.view();
    let began = Instant::now();
    // All endpoints are asked for their heads every five seconds: an endpoint that is behind for so long is left.
    while liar.asked("eth_getBlockByNumber") < 12 {
        chain.send(1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let error = view.endpoints().remove(0).error;
        let is_left = error.as_ref().is_some_and(|error| error.contains("behind the head"));
        assert!(!is_left, "{error:?}");
        assert!(began.elapsed() < TIMEOUT, "{:?}, {:?}", view.readers(), view.endpoints());
    }
    assert!(liar.spoilt() > 0, "it has lied");
    until("what was sent is there", || memory.payloads() == chain.sent).await;
    reader.stop().await;
}

/// Pages up to an invented head are never complete, so nothing can be read from an endpoint that states one.
#[tokio::test]
async fn an_endpoint_that_does_not_serve_the_head_that_it_states_is_left_as_one_that_stands_still()
{
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let liar = Proxy::start(&chain.url(), 1).await;
    liar.set(|faults| faults.claims_head = Some(INVENTED));
    let memory = Arc::new(Memory::default());
    let endpoints = Endpoints::new("app", &[liar.url(), chain.url()], APP_ID).unwrap();
    let walk = WalkSettings { page_blocks: 1000, ..chain.walk() };
    let sink: Arc<dyn Sink> = memory.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    let view = reader.view();
    let began = Instant::now();
    let reason = loop {
        chain.send(1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        if let Some(error) = view.endpoints().remove(0).error {
            break error;
        }
        assert!(began.elapsed() < TIMEOUT, "{:?}", view.readers());
    };
    assert!(reason.contains("stands still"), "{reason}");
    until("what was sent is there", || memory.payloads() == chain.sent).await;
    reader.stop().await;
}

/// A chain that was started anew has none of the events that are stored. A reader that waits for it to be as long again
/// is not at its head, and neither is one that waits for a first block that was set too high.
#[tokio::test]
async fn a_reader_far_above_the_head_of_the_chain_is_not_at_the_head() {
    let chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let later = BlockRef { number: 1_000_000, hash: B256::repeat_byte(1) };
    for (position, first_block, reason) in [
        (Some(later), 0, "block 1000000, which was read before"),
        (None, 2_000_000, "block 2000000, from which on its events are read"),
    ] {
        let memory = Arc::new(Memory::default());
        memory.0.lock().position = position;
        let endpoints = Endpoints::new("app", &[chain.url()], APP_ID).unwrap();
        let walk = WalkSettings { first_block, ..chain.walk() };
        let walks = vec![(walk, memory.clone() as Arc<dyn Sink>)];
        let reader = ChainReader::start(endpoints, PushSettings::default(), walks);
        let view = reader.view();
        let state = || view.readers().remove(0).state;
        until("the state is known", || state() != ReaderState::Starting).await;
        assert!(
            matches!(state(), ReaderState::Stuck(told) if told.contains(reason)),
            "{:?}",
            state()
        );
        reader.stop().await;
    }
}
