//! Tests of reading a chain with a restart, or the outage of an endpoint, at the recheck of blocks whose events are
//! missing.

use std::sync::Arc;

use alloy::primitives::Bytes;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{
    BlockRef, ChainReader, ContractEvent, EventBatch, IndexedEvent, PushSettings, Sink, SinkError,
    WalkSettings,
};
use hawser_proto::SequenceId;
use parking_lot::Mutex;

use crate::broadcaster::{TestBroadcaster, until};
use crate::pair::{APP_ID, ChainBackend};
use crate::proxy::{Faults, Proxy};

/// Longer than a test runs.
const HOUR_MS: u64 = 3_600_000;

/// A sink that cannot notice missing events, and that a restart finds as it was.
#[derive(Default)]
struct Books(Mutex<Booked>);

#[derive(Default)]
struct Booked {
    events: Vec<IndexedEvent>,
    position: Option<BlockRef>,
    /// The position at which the reader came to the head first.
    old_block: Option<BlockRef>,
    recheck_from: Option<u64>,
}

impl Sink for Books {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.0.lock().position)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let mut booked = self.0.lock();
        booked.events.retain(|event| event.block.number < batch.from_block);
        booked.events.extend(batch.events.iter().cloned());
        booked.position = Some(batch.position);
        if batch.is_at_head {
            booked.old_block.get_or_insert(batch.position);
        }
        Ok(())
    }

    fn old_block(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.0.lock().old_block)
    }

    fn recheck_from(&self) -> Result<Option<u64>, SinkError> {
        Ok(self.0.lock().recheck_from)
    }

    fn note_recheck_from(&self, block: u64) -> Result<(), SinkError> {
        self.0.lock().recheck_from = Some(block);
        Ok(())
    }

    fn known(&self, events: &[IndexedEvent]) -> Result<Option<Vec<bool>>, SinkError> {
        let booked = self.0.lock();
        let place = |event: &IndexedEvent| (event.block, event.log_index);
        let is_known =
            |event: &IndexedEvent| booked.events.iter().any(|it| place(it) == place(event));
        Ok(Some(events.iter().map(is_known).collect()))
    }
}

impl Books {
    fn block(&self) -> Option<u64> {
        self.0.lock().position.map(|block| block.number)
    }

    fn payloads(&self) -> Vec<Bytes> {
        let payload = |event: &IndexedEvent| match &event.decoded {
            ContractEvent::Payload { payload, .. } => payload.clone(),
            other => panic!("{other:?}"),
        };
        self.0.lock().events.iter().map(payload).collect()
    }
}

fn read(chain: &TestBroadcaster, urls: &[String], books: &Arc<Books>) -> ChainReader {
    read_in_pages(chain.walk(), urls, books)
}

fn read_in_pages(walk: WalkSettings, urls: &[String], books: &Arc<Books>) -> ChainReader {
    let endpoints = Endpoints::new("app", urls, APP_ID).unwrap();
    let walk = vec![(walk, books.clone() as Arc<dyn Sink>)];
    ChainReader::start(endpoints, PushSettings::default(), walk)
}

/// The new chain is longer than the old one, so that the reader finds other blocks in place of the last ones. It cannot
/// know at which block they begin.
#[tokio::test]
async fn of_a_chain_that_was_started_anew_nothing_of_the_former_one_is_left() {
    let walk = |chain: &TestBroadcaster| WalkSettings { page_blocks: 500, ..chain.walk() };
    let mut former = TestBroadcaster::new(ChainBackend::Embedded).await;
    former.send(1).await;
    let head = former.mine(1).await;
    let books = Arc::new(Books::default());
    let reader = read_in_pages(walk(&former), &[former.url()], &books);
    until("the head is reached", || books.0.lock().old_block.is_some()).await;
    assert!(books.block() >= Some(head));
    // More blocks than are read again after a reorganisation whose begin is not known.
    let head = former.mine(1300).await;
    until("the blocks are stored", || books.block() >= Some(head)).await;
    reader.stop().await;
    assert_eq!(books.payloads(), former.sent);

    let mut anew = TestBroadcaster::new(ChainBackend::Embedded).await;
    anew.send(2).await;
    assert!(anew.mine(1400).await > head);
    let reader = read_in_pages(walk(&anew), &[anew.url()], &books);
    until("the events are those of the new chain", || books.payloads() == anew.sent).await;
    reader.stop().await;
}

/// After a restart the reader does not remember the events of the last blocks. The endpoint that left one out shows it
/// now, so that only what is stored tells that it is missing.
#[tokio::test]
async fn an_event_whose_log_came_after_its_block_is_read_although_the_node_has_restarted() {
    for is_alone in [true, false] {
        let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
        chain.send(1).await;
        let head = chain.mine(1).await;
        let late = Proxy::start(&chain.url(), 1).await;
        late.set(|faults| faults.late_ms = HOUR_MS);
        let other = (!is_alone).then(|| chain.url());
        let urls: Vec<_> = std::iter::once(late.url()).chain(other).collect();
        let books = Arc::new(Books::default());
        let reader = read(&chain, &urls, &books);
        until("the blocks are stored", || books.block() >= Some(head)).await;
        assert!(books.payloads().is_empty(), "the log has not come, alone: {is_alone}");
        reader.stop().await;
        late.set(|faults| faults.late_ms = 0);
        chain.mine(70).await;
        let reader = read(&chain, &urls, &books);
        let what = format!("the event is there, alone: {is_alone}");
        until(&what, || books.payloads() == chain.sent).await;
        reader.stop().await;
    }
}

/// Returns a chain with an event 300 blocks below its head, the height of the head, and two endpoints of the chain. The
/// first one leaves the event out.
async fn with_an_event_that_an_endpoint_leaves_out() -> (TestBroadcaster, u64, [Proxy; 2]) {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send_in(true).await;
    let head = chain.mine(300).await;
    let (liar, other) = (Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await);
    liar.set(|faults| faults.omits = true);
    (chain, head, [liar, other])
}

/// Pages far from the head are rechecked one after the other beside reading, and an endpoint that hangs delays each
/// recheck.
#[tokio::test]
async fn an_event_that_an_endpoint_left_out_is_read_although_the_node_restarts_before_the_recheck()
{
    let (chain, head, [liar, other]) = with_an_event_that_an_endpoint_leaves_out().await;
    other.set(|faults| faults.hangs = true);
    let urls = [liar.url(), other.url()];
    let books = Arc::new(Books::default());
    let reader = read(&chain, &urls, &books);
    until("the blocks are stored", || books.block() >= Some(head)).await;
    assert!(books.payloads().is_empty() && liar.spoilt() > 0, "the event was left out");
    reader.stop().await;
    other.set(|faults| *faults = Faults::default());
    let reader = read(&chain, &urls, &books);
    chain.mine(1).await;
    until("the event is there", || books.payloads() == chain.sent).await;
    reader.stop().await;
}

/// The other endpoint is silent for longer than rechecks are repeated for it.
#[tokio::test]
async fn an_event_that_an_endpoint_left_out_is_read_when_the_other_one_is_back() {
    let (chain, head, [liar, other]) = with_an_event_that_an_endpoint_leaves_out().await;
    other.set(|faults| faults.dead = true);
    let books = Arc::new(Books::default());
    let reader = read(&chain, &[liar.url(), other.url()], &books);
    until("the blocks are stored", || books.block() >= Some(head)).await;
    let view = reader.view();
    let rechecks = || liar.asked("eth_getLogs").saturating_sub(view.readers()[0].counts.pages);
    // Those before the recheck of the event, and the recheck of the first page, which is repeated twice.
    let before = 3 + (head - 300) / chain.walk().page_blocks;
    until("the recheck of the event has ended", || rechecks() > before + 1).await;
    assert!(books.payloads().is_empty(), "the event was left out");
    other.set(|faults| *faults = Faults::default());
    chain.mine(100).await;
    until("the event is there", || books.payloads() == chain.sent).await;
    reader.stop().await;
}
