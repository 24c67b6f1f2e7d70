//! A broadcaster contract on its own chain, and sinks that store the events read from it.

#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, FixedBytes};
use alloy::providers::Provider as _;
use hawser_chain::contracts::GroupMessageBroadcaster;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{
    BlockRef, ChainReader, ContractEvent, EventBatch, EventSource, PushSettings, ReaderState, Sink,
    SinkError, WalkSettings,
};
use hawser_chain::send::Call;
use hawser_proto::SequenceId;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use crate::pair::{APP_ID, ChainBackend, Pair, sender};

/// The time after which a test fails.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A sink with the invariants of a log: each sequence id is stored once, none is omitted, none changes.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Mutex<Kept>);

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) payloads: Vec<Bytes>,
    pub(crate) position: Option<BlockRef>,
    /// The transactions of all events that were stored.
    pub(crate) transactions: BTreeSet<B256>,
    /// The number of times that it still fails before it stores.
    pub(crate) failures: u32,
}

impl Sink for Memory {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(self.0.lock().position)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId(self.0.lock().payloads.len() as u64))
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        let mut kept = self.0.lock();
        if kept.failures > 0 {
            kept.failures -= 1;
            return Err(SinkError::Retry("the disk is full".into()));
        }
        let mut payloads = kept.payloads.clone();
        for event in &batch.events {
            let ContractEvent::Payload { sequence_id, payload, .. } = &event.decoded else {
                panic!()
            };
            let place = usize::try_from(sequence_id.0).unwrap() - 1;
            match payloads.get(place) {
                Some(held) if held == payload => {}
                Some(_) => return Err(SinkError::Stop("another one is there".into())),
                None if place == payloads.len() => payloads.push(payload.clone()),
                None => return Err(SinkError::Gap("one is missing".into())),
            }
        }
        kept.payloads = payloads;
        kept.transactions.extend(batch.events.iter().map(|event| event.transaction));
        kept.position = Some(batch.position);
        Ok(())
    }
}

/// A sink for balances, which cannot notice missing events. It blocks each batch until it is opened.
#[derive(Default)]
pub(crate) struct Ledger {
    standing: Mutex<Vec<(BlockRef, Bytes)>>,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Sink for Ledger {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(None)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        self.opened.wait_while(&mut self.is_open.lock(), |is_open| !*is_open);
        let mut standing = self.standing.lock();
        standing.retain(|(block, _)| block.number < batch.from_block);
        standing.extend(batch.events.iter().map(|event| match &event.decoded {
            ContractEvent::Payload { payload, .. } => (event.block, payload.clone()),
            other => panic!("nothing was paid, and no node moved: {other:?}"),
        }));
        Ok(())
    }
}

impl Ledger {
    pub(crate) fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }

    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.standing.lock().iter().map(|(_, payload)| payload.clone()).collect()
    }
}

impl Memory {
    pub(crate) fn payloads(&self) -> Vec<Bytes> {
        self.0.lock().payloads.clone()
    }
}

/// A sink that only keeps the blocks at which it came to the head of the chain.
#[derive(Default)]
pub(crate) struct Heads(Mutex<Vec<u64>>);

impl Sink for Heads {
    fn position(&self) -> Result<Option<BlockRef>, SinkError> {
        Ok(None)
    }

    fn last_sequence_id(&self) -> Result<SequenceId, SinkError> {
        Ok(SequenceId::NONE)
    }

    fn store(&self, batch: &EventBatch) -> Result<(), SinkError> {
        if batch.is_at_head {
            self.0.lock().push(batch.position.number);
        }
        Ok(())
    }
}

impl Heads {
    pub(crate) fn has(&self, block: u64) -> bool {
        self.0.lock().contains(&block)
    }
}

/// A broadcaster contract on its own chain.
pub(crate) struct TestBroadcaster {
    pub(crate) pair: Pair,
    pub(crate) address: Address,
    pub(crate) sent: Vec<Bytes>,
}

impl TestBroadcaster {
    pub(crate) async fn new(kind: ChainBackend) -> Self {
        let (pair, deployment) = Pair::deployed(kind).await;
        let address = deployment.addresses.group_message_broadcaster;
        Self { pair, address, sent: Vec::new() }
    }

    pub(crate) fn url(&self) -> String {
        self.pair.app.endpoint().to_owned()
    }

    /// Makes blocks without events, and returns the height of the chain.
    pub(crate) async fn mine(&self, blocks: u64) -> u64 {
        let provider = self.pair.app.provider();
        let params = json!([format!("0x{blocks:x}")]);
        provider.raw_request::<_, Value>("anvil_mine".into(), params).await.unwrap();
        provider.get_block_number().await.unwrap()
    }

    /// Mines until a proxy with the fault [`omits`](crate::proxy::Faults::omits) omits the logs of the next block, or,
    /// if `is_omitted` is false, until it does not.
    pub(crate) async fn next_in(&self, is_omitted: bool) {
        let provider = self.pair.app.provider();
        while (provider.get_block_number().await.unwrap() + 1).is_multiple_of(3) != is_omitted {
            self.mine(1).await;
        }
    }

    /// Sends a payload in a block whose logs such a proxy omits, or, if `is_omitted` is false, in one that it shows.
    pub(crate) async fn send_in(&mut self, is_omitted: bool) {
        self.next_in(is_omitted).await;
        self.send(1).await;
    }

    pub(crate) async fn send(&mut self, count: usize) {
        let sender = sender(&self.pair.app, 0);
        for _ in 0..count {
            let number = u8::try_from(self.sent.len() % 251).unwrap();
            let payload = Bytes::from(vec![number; 100 + self.sent.len()]);
            let call = GroupMessageBroadcaster::addMessageCall {
                groupId_: FixedBytes::repeat_byte(1),
                message_: payload.clone(),
            };
            sender.send(&Call::new(self.address, &call)).await.unwrap();
            self.sent.push(payload);
        }
    }

    /// Mines until a sink has all payloads that were sent. Its reader is never halted.
    pub(crate) async fn mine_until_read(&self, reader: &ChainReader, memory: &Memory) {
        let (view, began) = (reader.view(), Instant::now());
        while memory.payloads() != self.sent {
            self.mine(1).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let status = view.readers().remove(0);
            assert!(!matches!(status.state, ReaderState::Halted(_)), "{status:?}");
            assert!(began.elapsed() < TIMEOUT, "{status:?}, {:?}", view.endpoints());
        }
    }

    pub(crate) fn walk(&self) -> WalkSettings {
        WalkSettings {
            source: EventSource::GroupMessages,
            address: self.address,
            first_block: 0,
            page_blocks: 7,
            confirmations: 0,
        }
    }

    pub(crate) fn read(
        &self,
        urls: &[String],
        push_urls: Vec<String>,
        memory: &Arc<Memory>,
    ) -> ChainReader {
        let endpoints = Endpoints::new("app", urls, APP_ID).unwrap();
        let news = PushSettings { urls: push_urls, notify: Vec::new() };
        ChainReader::start(endpoints, news, vec![(self.walk(), memory.clone() as Arc<dyn Sink>)])
    }
}

pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(TIMEOUT, wait).await.is_ok(), "not so: {what}");
}
