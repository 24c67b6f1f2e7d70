//! The part of the requesting half that passes accepted pages to the storing half.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::PageReader;
use crate::index::confirming::{Asked, Contradiction};
use crate::index::context::NumberedBatch;
use crate::index::empty_pages::{DuePages, DueVerdict};
use crate::index::event::BlockRef;
use crate::index::walk::EventBatch;
use crate::send::Chain;

impl PageReader {
    /// Passes an accepted page on. Blocks up to its last event, and those that replace blocks which were handed over
    /// before, go to the storing half at once. Later blocks are held, unless there is one endpoint only. Returns false
    /// when the storing half has ended.
    pub(super) async fn pass_on(
        &mut self,
        mut batch: EventBatch,
        giver: &Chain,
        is_confirmed: bool,
    ) -> bool {
        let pass = self.pass;
        if let Some(last) = self.last_at_once(&batch) {
            let has_others = self.endpoints.has_other_than(giver);
            let rest = if has_others { batch.split_after(last) } else { None };
            let first_block = self.empty.skip(batch.from_block, pass);
            if !self.send(NumberedBatch { batch, first_block, pass, is_confirmed }).await {
                return false;
            }
            let Some(rest) = rest else { return true };
            batch = rest;
        }
        self.empty.hold(&batch, pass, giver.clone());
        true
    }

    /// Returns the last block of a page that must not wait: the one of the last event, or the highest one that was
    /// handed over before.
    fn last_at_once(&self, batch: &EventBatch) -> Option<BlockRef> {
        let of_event = batch.events.last().map(|event| event.block);
        let replaced = self.empty.handed().filter(|handed| batch.from_block <= *handed);
        // Of a page far from the head, only the last block is known.
        let replaced =
            replaced.map(|handed| self.walk.read_block(handed).unwrap_or(batch.position));
        of_event.max(replaced.map(|block| block.min(batch.position)))
    }

    async fn send(&mut self, numbered: NumberedBatch) -> bool {
        self.empty.note_handed(&numbered.batch, numbered.pass, Instant::now());
        self.batches.send(numbered).await.is_ok()
    }

    /// Hands over held pages that are due, if another endpoint has their last block. Returns false when the storing
    /// half has ended.
    pub(super) async fn hand_over_empty(&mut self) -> bool {
        let pass = self.pass;
        let is_stuck = self.context.is_storing_stuck.load(Ordering::Acquire);
        let due = self.empty.due(pass, is_stuck, Instant::now());
        let Some(DuePages { batch, giver, is_wanted }) = due else { return true };
        let (endpoints, settings) = (&self.endpoints, &self.settings);
        let asked =
            Asked { endpoints, settings, filter: &self.filter, giver: &giver, batch: &batch };
        let answer = self.confirmer.ask_about_position(&asked).await;
        match self.empty.judge(answer, is_wanted, Instant::now()) {
            DueVerdict::Hold => true,
            DueVerdict::Store => {
                self.empty.take_asked();
                let (first_block, is_confirmed) = (batch.from_block, true);
                self.send(NumberedBatch { batch, first_block, pass, is_confirmed }).await
            }
            DueVerdict::Refute => {
                let contradiction = Contradiction::Ahead(batch.position.number);
                self.contradicted(contradiction, &giver).await;
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use hawser_proto::OriginatorId;
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::index::event::{ContractEvent, IndexedEvent};
    use crate::index::reading::second_look::tests::reader;

    /// Returns the connection to an endpoint that has answered one request, for its chain id.
    async fn giver() -> Chain {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answering = async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = Vec::new();
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
}
