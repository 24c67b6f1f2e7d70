//! Tests of reading a chain while an endpoint makes up blocks without events, or does not confirm any.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::providers::Provider as _;
use hawser_chain::index::ReaderState;

use crate::broadcaster::{Memory, TIMEOUT, TestBroadcaster, until};
use crate::pair::ChainBackend;
use crate::proxy::{Faults, Proxy};

/// The number of blocks that the endpoint makes up: few enough that no recheck finds the events of the chain.
const INVENTED: u64 = 60;

/// An endpoint that makes up blocks without events above the chain's gets none of them stored as the position, and
/// events of the chain are read long before it is as high.
#[tokio::test]
async fn made_up_blocks_without_events_are_not_stored_and_delay_no_event_for_long() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(2).await;
    let inventor = Proxy::start(&chain.url(), 1).await;
    let honest = Proxy::start(&chain.url(), 2).await;
    let provider = chain.pair.app.provider().clone();
    let top = provider.get_block_number().await.unwrap() + INVENTED;
    inventor.set(|it| *it = Faults { invents: Some(top), is_barren: true, ..Faults::default() });
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[inventor.url(), honest.url()], Vec::new(), &memory);
    let (view, began) = (reader.view(), Instant::now());
    let mut is_left = false;
    while !is_left || memory.payloads() != chain.sent {
        chain.send(1).await;
        // A block every 0.7 s, so that the chain comes to the invented height in some 40 s.
        for _ in 0..70 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            // The error is gone with the next answer that holds.
            let endpoints = view.endpoints();
            is_left |= endpoints[0].error.is_some() || endpoints[1].active;
            if is_left && memory.payloads() == chain.sent {
                break;
            }
        }
        let position = memory.0.lock().position.map(|block| block.number);
        let height = provider.get_block_number().await.unwrap();
        assert!(position <= Some(height), "an invented block is stored: {position:?}");
        let status = view.readers().remove(0);
        assert!(!matches!(status.state, ReaderState::Halted(_)), "{status:?}");
        assert!(height < top, "the chain is as high: {status:?}, {:?}", view.endpoints());
        assert!(began.elapsed() < TIMEOUT, "{status:?}, {:?}", view.endpoints());
    }
    reader.stop().await;
}

/// While the other endpoint does not answer, events go on to be stored, and a sink learns of the head.
#[tokio::test]
async fn a_silent_second_endpoint_keeps_no_reader_from_the_head() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let head = chain.mine(5).await;
    let (alone, dead) = (Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await);
    dead.set(|faults| faults.dead = true);
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[alone.url(), dead.url()], Vec::new(), &memory);
    let stored = || memory.0.lock().position.map(|block| block.number);
    until("the head is stored", || stored() >= Some(head)).await;
    chain.send(1).await;
    until("the event is there", || memory.payloads() == chain.sent).await;
    reader.stop().await;
}
