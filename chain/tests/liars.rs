//! Reading a chain of whose endpoints one is honest and the others lag, forget, refuse or lie, while a
//! WebSocket of another endpoint announces the heads. Nothing is lost, nothing comes twice or out of
//! order, and no reader halts.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod broadcaster;
#[path = "../../devchain/tests/pair/mod.rs"]
mod pair;
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use alloy::providers::Provider as _;
use broadcaster::{Ledger, Memory, TestBroadcaster, until};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{ChainReader, PushSettings, ReaderState, Sink};
use pair::{APP_ID, ChainBackend};
use proxy::{Faults, Proxy};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

/// The seeds. HAWSER_SEED selects a single one.
const SEEDS: std::ops::Range<u64> = 0..12;

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("HAWSER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => SEEDS,
    }
}

/// A fault that an endpoint has for good.
fn fault(random: &mut StdRng) -> Faults {
    let none = Faults::default();
    match random.random_range(0..7) {
        0 => Faults { behind: random.random_range(1..6), ..none },
        1 => Faults { resyncing: Some(random.random_range(0..20)), ..none },
        2 => Faults { late_ms: random.random_range(50..1200), ..none },
        3 => Faults { omits: true, ..none },
        4 => Faults { limited: true, ..none },
        5 => Faults { dead: true, ..none },
        _ => Faults::ALL,
    }
}

async fn mine(chain: &TestBroadcaster, blocks: u64) {
    let provider = chain.pair.app.provider();
    let params = json!([format!("0x{blocks:x}")]);
    provider.raw_request::<_, serde_json::Value>("anvil_mine".into(), params).await.unwrap();
}

#[tokio::test]
async fn one_honest_endpoint_is_enough() {
    for seed in seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
        chain.send(10).await;
        let mut proxies = vec![Proxy::start(&chain.url(), seed).await];
        for number in 1..random.random_range(2..4) {
            let proxy = Proxy::start(&chain.url(), seed + number).await;
            let faults = fault(&mut random);
            proxy.set(|it| *it = faults);
            proxies.push(proxy);
        }
        proxies.shuffle(&mut random);
        let urls: Vec<_> = proxies.iter().map(Proxy::url).collect();
        let push =
            if random.random() { vec![chain.url().replace("http", "ws")] } else { Vec::new() };
        let memory = Arc::new(Memory::default());
        let reader = chain.read(&urls, push, &memory);
        for _ in 0..5 {
            chain.send(random.random_range(1..4)).await;
            mine(&chain, random.random_range(1..30)).await;
        }
        let view = reader.view();
        until(&format!("everything is there with seed {seed}"), || {
            let status = view.readers().remove(0);
            assert!(!matches!(status.state, ReaderState::Halted(_)), "seed {seed}: {status:?}");
            memory.payloads() == chain.sent
        })
        .await;
        reader.stop().await;
    }
}

/// One endpoint alone cannot make a strand halt by showing another payload than the one that is held.
#[tokio::test]
async fn an_endpoint_that_forges_is_contradicted_before_a_strand_halts() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(4).await;
    let forger = Proxy::start(&chain.url(), 1).await;
    let memory = Arc::new(Memory::default());
    memory.0.lock().payloads = chain.sent.clone(); // and no position: it is read again
    forger.set(|faults| faults.forges = true);
    let reader = chain.read(&[forger.url(), chain.url()], Vec::new(), &memory);
    let view = reader.view();
    chain.send(2).await;
    until("what came later is there", || {
        let status = view.readers().remove(0);
        assert!(!matches!(status.state, ReaderState::Halted(_)), "{status:?}");
        memory.payloads() == chain.sent
    })
    .await;
    assert!(forger.spoilt() > 0, "it was asked first");
    reader.stop().await;
}

/// The ledger cannot notice these: events without numbers whose logs come after their block.
#[tokio::test]
async fn events_without_numbers_survive_late_and_missing_logs() {
    for (late_ms, omits) in [(400, false), (0, true)] {
        let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
        let liar = Proxy::start(&chain.url(), 1).await;
        liar.set(|faults| *faults = Faults { late_ms, omits, ..Faults::default() });
        let ledger = Arc::new(Ledger::default());
        ledger.open();
        let endpoints = Endpoints::new("app", &[liar.url(), chain.url()], APP_ID).unwrap();
        let sink: Arc<dyn Sink> = ledger.clone();
        let walk = vec![(chain.walk(), sink)];
        let reader = ChainReader::start(endpoints, PushSettings::default(), walk);
        let view = reader.view();
        for _ in 0..3 {
            chain.send(1).await;
            let head = chain.pair.app.provider().get_block_number().await.unwrap();
            until("the block is read", || view.readers()[0].read >= Some(head)).await;
        }
        mine(&chain, 100).await;
        until("every event is there", || ledger.payloads() == chain.sent).await;
        assert!(liar.spoilt() > 0, "it was asked first");
        reader.stop().await;
    }
}

/// The WebSocket's endpoint is ahead of the one that is read from.
#[tokio::test]
async fn a_reader_keeps_up_with_an_endpoint_that_is_a_block_behind_the_announcements() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let behind = Proxy::start(&chain.url(), 1).await;
    behind.set(|faults| faults.behind = 1);
    let memory = Arc::new(Memory::default());
    let push = vec![chain.url().replace("http", "ws")];
    let reader = chain.read(&[behind.url()], push, &memory);
    let view = reader.view();
    until("heads are announced", || view.head().pushed).await;
    // The chain goes on while the reader is waited for, so that the endpoint never has the announced head.
    let provider = chain.pair.app.provider().clone();
    let going_on = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let params = json!(["0x1"]);
            let mined = provider.raw_request::<_, serde_json::Value>("anvil_mine".into(), params);
            mined.await.unwrap();
        }
    });
    for _ in 0..3 {
        chain.send(1).await;
        until("what the endpoint has is there", || memory.payloads() == chain.sent).await;
    }
    going_on.abort();
    reader.stop().await;
}
