//! Tests of a page reader, and a reader for those of its parts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use hawser_proto::{OriginatorId, SequenceId};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::{PageReader, USELESS_MAX};
use crate::endpoints::Endpoints;
use crate::index::context::{FoundGap, ReaderContext};
use crate::index::event::{BlockRef, ContractEvent, EventSource, IndexedEvent};
use crate::index::head::HeadStatus;
use crate::index::lag::NewestBlock;
use crate::index::sink::{Sink, SinkError};
use crate::index::status::StatusCell;
use crate::index::walk::{EventBatch, Walk, WalkSettings};
use crate::send::Chain;

/// A sink that no test reaches.
struct NoSink;

impl Sink for NoSink {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(None)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, _batch: &EventBatch) -> Result<(), SinkError> {
        Ok(())
    }
}

pub(super) const fn block(number: u64) -> BlockRef {
    BlockRef { number, hash: B256::ZERO }
}

/// Returns a gap after a block, which the first endpoint of [`reader`] has shown.
pub(super) fn gap_after(block: u64) -> FoundGap {
    FoundGap { after: Some(block), giver: "http://127.0.0.1:1".to_owned() }
}

/// Returns a reader of two endpoints that has read and stored the blocks up to 99.
pub(super) fn reader() -> PageReader {
    let (source, address) = (EventSource::NodeRegistry, Address::ZERO);
    let settings =
        WalkSettings { source, address, first_block: 0, page_blocks: 10, confirmations: 0 };
    let context = ReaderContext {
        name: source.label(),
        status: StatusCell::new(source, address),
        pass: Arc::default(),
        is_storing_stuck: Arc::default(),
        is_refused: Arc::default(),
        sink: Arc::new(NoSink),
        recheck_from: Arc::default(),
        stop: watch::channel(()).1,
    };
    context.status.lock().stored = Some(block(99));
    let urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(str::to_owned);
    let endpoints = Endpoints::new("app", &urls, 1).unwrap();
    let heads = watch::channel(HeadStatus::default()).1;
    let walk = Walk::new(settings.clone(), Some(block(99)));
    let (last, batches) = (SequenceId::NONE, mpsc::channel(1).0);
    PageReader::new(context, endpoints, heads, settings, walk, last, batches)
}

/// Starts an endpoint of chain 1 that answers other requests with these results, in order, and then with the last one.
/// Returns its URL.
pub(super) async fn endpoint(results: Vec<Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let results = Arc::new(Mutex::new(results));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let results = results.clone();
            tokio::spawn(async move {
                let mut read = Vec::<u8>::new();
                while let Ok(1..) = stream.read_buf(&mut read).await {
                    let head_end = read.windows(4).position(|bytes| bytes == b"\r\n\r\n");
                    let body = head_end.map(|at| &read[at + 4..]);
                    let asked = body.and_then(|it| serde_json::from_slice::<Value>(it).ok());
                    let Some(asked) = asked else { continue };
                    read.clear();
                    let is_id = asked["method"] == "eth_chainId";
                    let result = if is_id { json!("0x1") } else { take_next(&results) };
                    let body = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
                    let body = body.to_string();
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    if stream.write_all((head + &body).as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

/// Takes the first of several results, or copies the only one.
fn take_next(results: &Mutex<Vec<Value>>) -> Value {
    let mut results = results.lock();
    if results.len() > 1 { results.remove(0) } else { results[0].clone() }
}

/// Returns a reader of two endpoints, of which the second one has answered last, and the connection to the first one.
async fn reader_beside_the_giver() -> (PageReader, Chain) {
    let (mut reader, number) = (reader(), json!("0x1"));
    let urls = [endpoint(vec![number.clone()]).await, endpoint(vec![number]).await];
    reader.endpoints = Endpoints::new("app", &urls, 1).unwrap();
    let newest = |chain: Chain| async move { chain.newest_block().await };
    reader.endpoints.ask_in(vec![1], newest).await.unwrap();
    assert_eq!(reader.endpoints.active(), 1);
    (reader, Chain::connect(&urls[0], 1).await.unwrap())
}

/// Returns the errors of the endpoints of a reader, in order.
fn errors(reader: &PageReader) -> Vec<Option<String>> {
    reader.endpoints.status().into_iter().map(|endpoint| endpoint.error).collect()
}

/// An endpoint gives useless pages and fails at requests for the head, so that another one answers those. If the one
/// that answered last were left, that would be the honest one, again and again.
#[tokio::test]
async fn the_endpoint_that_gave_a_useless_page_is_left_whichever_has_answered_last() {
    let (mut reader, giver) = reader_beside_the_giver().await;
    for _ in 0..USELESS_MAX {
        reader.pauses.next();
    }
    tokio::time::pause(); // nothing is asked any more
    reader.useless("no logs arrive", &giver).await;
    assert_eq!(errors(&reader), [Some("no logs arrive".to_owned()), None]);
    assert_eq!(reader.pauses.taken(), 0, "the other one is not left at its first such page");
}

/// An endpoint leaves an event out, shows the next one, and fails at other requests until the gap is noticed.
#[tokio::test]
async fn the_endpoint_that_gave_the_event_behind_a_gap_is_left_whichever_has_answered_last() {
    let (mut reader, giver) = reader_beside_the_giver().await;
    let giver = giver.endpoint().to_owned();
    reader.search_gap(FoundGap { after: Some(99), giver });
    let errors = errors(&reader);
    let [Some(of_giver), None] = &errors[..] else { panic!("{errors:?}") };
    assert!(of_giver.contains("events are missing"), "{of_giver}");
}

/// A page of an endpoint lacks a block below the announced head. Another endpoint that is asked for the head would
/// count as one that does not serve the head that it states.
#[tokio::test]
async fn the_endpoint_whose_page_lacks_a_block_is_the_one_that_may_lag() {
    let (mut reader, giver) = reader_beside_the_giver().await;
    let noted = reader.note_lag(giver.endpoint(), 50, 60).await;
    assert!(!noted, "it lacks blocks since a moment only");
    let of_other = reader.endpoints.active();
    let newest = NewestBlock { endpoint: of_other, number: 50 };
    let later = Instant::now() + Duration::from_secs(6);
    assert_eq!(reader.lag.reason(newest, 60, later), None, "the other one's time begins now");
}

/// An endpoint lacks a block that its pages should have, and hangs when it is asked for its head. Its next pages would
/// cost as much time each.
#[tokio::test]
async fn the_endpoint_whose_page_lacks_a_block_is_paused_if_it_does_not_state_its_head() {
    let (mut reader, giver) = reader_beside_the_giver().await; // a number is no block
    reader.missing(block(120), &giver).await;
    let errors = errors(&reader);
    assert!(matches!(&errors[..], [Some(_), None]), "{errors:?}");
    assert_eq!(reader.pauses.taken(), 1);
}

/// The pages of an endpoint do not follow its own blocks, and it fails when it is asked for these.
#[tokio::test]
async fn the_endpoint_whose_page_raised_a_doubt_is_left_although_another_one_shows_the_blocks() {
    let (mut reader, zero) = (reader(), B256::ZERO);
    let read = json!({ "number": "0x63", "hash": zero, "parentHash": zero, "timestamp": "0x1" });
    let urls = ["http://127.0.0.1:1".to_owned(), endpoint(vec![read]).await];
    reader.endpoints = Endpoints::new("app", &urls, 1).unwrap();
    reader.giver = Some(urls[0].clone());
    for _ in 0..7 {
        assert!(!reader.turns.note_turn(100), "once more");
    }
    reader.compare(vec![99]).await;
    let errors = errors(&reader);
    let [Some(of_giver), None] = &errors[..] else { panic!("{errors:?}") };
    assert!(of_giver.contains("takes back the blocks"), "{of_giver}");
}

/// A WebSocket may announce ever higher heads. A reader that is never at the head never knows balances.
#[tokio::test]
async fn heads_that_no_endpoint_serves_keep_no_reader_from_the_head_for_long() {
    let (mut reader, now) = (reader(), Instant::now());
    let later = |seconds| now + Duration::from_secs(seconds);
    assert!(reader.note_read_head(now));
    reader.served = Some((block(100), now));
    assert!(!reader.note_read_head(now), "the endpoint may be behind");
    assert!(!reader.note_read_head(later(29)));
    assert!(reader.note_read_head(later(30)), "it would have been left");
    reader.served = None;
    assert!(reader.note_read_head(later(31)));
    reader.served = Some((block(101), now));
    assert!(!reader.note_read_head(later(32)), "this is another time");
}

/// The storing half refuses an event that not all endpoints show. The next event, which is read meanwhile and has
/// the next id, would be stored without it, and after a crash the refused one would not be read again.
#[tokio::test]
async fn a_page_that_is_read_before_the_reader_turns_back_is_not_stored() {
    let (mut reader, giver) = reader_beside_the_giver().await;
    let (batches, mut to_store) = mpsc::channel(1);
    reader.batches = batches;
    let position = BlockRef { number: 100, hash: B256::repeat_byte(1) };
    let node_id = OriginatorId(100);
    let event = IndexedEvent {
        block: position,
        block_time_s: 1,
        log_index: 0,
        transaction: B256::ZERO,
        decoded: ContractEvent::MembershipChanged { node_id, is_member: true },
    };
    let batch = EventBatch { from_block: 100, events: vec![event], position, is_at_head: true };
    reader.context.begin_pass(); // as the storing half does
    assert!(reader.pass_on(batch.clone(), &giver, true).await);
    let numbered = to_store.recv().await.unwrap();
    assert_ne!(numbered.pass, reader.context.pass());
    reader.search_gap(gap_after(99));
    assert!(reader.pass_on(batch, &giver, true).await);
    let numbered = to_store.recv().await.unwrap();
    assert_eq!(numbered.pass, reader.context.pass(), "it has turned back");
}
