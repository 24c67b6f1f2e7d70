//! Tests of a page reader, and a reader for those of its parts.

use std::sync::Arc;

use alloy::primitives::{Address, B256};
use hawser_proto::{OriginatorId, SequenceId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::PageReader;
use crate::endpoints::Endpoints;
use crate::index::context::ReaderContext;
use crate::index::event::{BlockRef, ContractEvent, EventSource, IndexedEvent};
use crate::index::head::HeadStatus;
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

/// Returns the connection to an endpoint that has answered one request, for its chain id.
async fn giver() -> Chain {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answering = async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut read = Vec::<u8>::new();
        let asked = loop {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0, "the request ends early");
            let head_end = read.windows(4).position(|bytes| bytes == b"\r\n\r\n");
            let body = head_end.map(|at| &read[at + 4..]);
            if let Some(asked) = body.and_then(|it| serde_json::from_slice::<Value>(it).ok()) {
                break asked;
            }
        };
        let body = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": "0x1" }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    };
    let (chain, ()) = tokio::join!(Chain::connect(&url, 1), answering);
    chain.unwrap()
}

/// The storing half refuses an event that not all endpoints show. The next event, which is read meanwhile and has
/// the next id, would be stored without it, and after a crash the refused one would not be read again.
#[tokio::test]
async fn a_page_that_is_read_before_the_reader_turns_back_is_not_stored() {
    let (mut reader, giver) = (reader(), giver().await);
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
    reader.search_gap(Some(99));
    assert!(reader.pass_on(batch, &giver, true).await);
    let numbered = to_store.recv().await.unwrap();
    assert_eq!(numbered.pass, reader.context.pass(), "it has turned back");
}
