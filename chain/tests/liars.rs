//! Tests of reading a chain when one endpoint is honest and the others lag, lose data, refuse or lie, while
//! the WebSocket of another endpoint announces the heads. No event is lost, repeated or out of order, and
//! no reader halts.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod broadcaster;
mod lied_views;
#[path = "../../devchain/tests/pair/mod.rs"]
mod pair;
mod proxy;

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::providers::Provider as _;
use broadcaster::{Ledger, Memory, TIMEOUT, TestBroadcaster, until};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{ChainReader, PushSettings, ReaderState, Sink, WalkSettings};
use pair::{APP_ID, ChainBackend};
use proxy::{Faults, Proxy};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

/// The seeds of the runs. HAWSER_SEED selects a single one.
const SEEDS: std::ops::Range<u64> = 0..KINDS;
/// The number of kinds of [`fault`].
const KINDS: u64 = 18;

fn seeds() -> std::ops::Range<u64> {
    match std::env::var("HAWSER_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => SEEDS,
    }
}

/// Returns a permanent fault of this kind. `top` is a height that the chain has yet to reach.
fn fault(kind: u64, top: u64, random: &mut StdRng) -> Faults {
    let none = Faults::default();
    match kind {
        0 => Faults { behind: random.random_range(1..6), ..none },
        1 => Faults { resyncing: Some(random.random_range(0..20)), ..none },
        2 => Faults { late_ms: random.random_range(50..1200), ..none },
        3 => Faults { omits: true, ..none },
        4 => Faults { limited: true, ..none },
        5 => Faults { dead: true, ..none },
        6 => Faults { bloom: Some(random.random()), late_ms: 300, ..none },
        7 => Faults { bloom: Some(random.random()), omits: true, ..none },
        8 => Faults { omits: true, denies: true, ..none },
        9 => Faults { forked_at: Some(random.random_range(0..60)), ..none },
        10 => Faults { forges: true, ..none },
        11 => Faults { range_max: Some(random.random_range(1..6)), ..none },
        12 => Faults { renames: true, ..none },
        13 => Faults { invents: Some(top), is_barren: random.random(), ..none },
        14 => Faults { omits: true, claims_pause: Some(random.random()), ..none },
        15 => Faults { omits: true, withholds: true, ..none },
        16 => Faults { pruned_below: Some(random.random_range(1..60)), ..none },
        _ => Faults::ALL,
    }
}

/// Returns all kinds of faults, of which each seed has another one first. No two endpoints have the same kind, because
/// two that state the same lie confirm each other.
fn kinds(seed: u64, random: &mut StdRng) -> Vec<u64> {
    let first = seed % KINDS;
    let mut kinds: Vec<_> = (0..KINDS).filter(|kind| *kind != first).collect();
    kinds.shuffle(random);
    kinds.insert(0, first);
    kinds
}

#[tokio::test]
async fn one_honest_endpoint_is_enough() {
    for seed in seeds() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
        chain.send(10).await;
        let height = chain.pair.app.provider().get_block_number().await.unwrap();
        let mut proxies = vec![Proxy::start(&chain.url(), seed).await];
        let faulty = random.random_range(1..3);
        for (number, kind) in (1..).zip(kinds(seed, &mut random)).take(faulty) {
            let proxy = Proxy::start(&chain.url(), seed + number).await;
            let faults = fault(kind, height + random.random_range(1..60), &mut random);
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
            chain.mine(random.random_range(1..30)).await;
        }
        // Events that endpoints on other branches hide are found once they are deep.
        chain.mine(100).await;
        let view = reader.view();
        let began = Instant::now();
        until(&format!("everything is there with seed {seed}"), || {
            let status = view.readers().remove(0);
            assert!(!matches!(status.state, ReaderState::Halted(_)), "seed {seed}: {status:?}");
            let held = memory.payloads();
            if began.elapsed() > TIMEOUT * 5 / 6 {
                let faults: Vec<_> = proxies.iter().map(Proxy::faults).collect();
                let endpoints = view.endpoints();
                panic!(
                    "seed {seed}: {} of {}, {status:?}, {endpoints:?}, {faults:?}",
                    held.len(),
                    chain.sent.len()
                );
            }
            held == chain.sent
        })
        .await;
        reader.stop().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_accepts_only_short_ranges_confirms_events_without_proofs() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    for _ in 0..20 {
        chain.send(1).await;
        chain.mine(4).await;
    }
    let (giver, other) = (Proxy::start(&chain.url(), 0).await, Proxy::start(&chain.url(), 1).await);
    other.set(|faults| faults.range_max = Some(3));
    let memory = Arc::new(Memory::default());
    let endpoints = Endpoints::new("app", &[giver.url(), other.url()], APP_ID).unwrap();
    let walk = WalkSettings { page_blocks: 1000, ..chain.walk() };
    let sink: Arc<dyn Sink> = memory.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    until("everything is there", || memory.payloads() == chain.sent).await;
    assert!(other.spoilt() > 0, "it has refused ranges");
    assert_eq!(other.asked("eth_getBlockReceipts"), 0);
    reader.stop().await;
}

/// The chain contradicts the stored strand. An endpoint that refuses the batch's range has an answer all the same.
#[tokio::test]
async fn an_endpoint_that_accepts_only_short_ranges_is_not_silent_about_a_contradiction() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(1).await;
    chain.mine(30).await;
    let (giver, other) = (Proxy::start(&chain.url(), 0).await, Proxy::start(&chain.url(), 1).await);
    other.set(|faults| faults.range_max = Some(3));
    let memory = Arc::new(Memory::default());
    memory.0.lock().payloads = vec![vec![99_u8; 9].into()];
    let endpoints = Endpoints::new("app", &[giver.url(), other.url()], APP_ID).unwrap();
    let walk = WalkSettings { page_blocks: 1000, ..chain.walk() };
    let sink: Arc<dyn Sink> = memory.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    let view = reader.view();
    until("the strand is halted", || matches!(view.readers()[0].state, ReaderState::Halted(_)))
        .await;
    assert!(other.spoilt() > 0, "it has refused ranges");
    reader.stop().await;
}

/// A single endpoint that shows other payloads than the chain's adds none to a strand, whether the strand is empty or
/// already holds what the forged ones would replace.
#[tokio::test]
async fn what_an_endpoint_forges_is_neither_stored_nor_halts_a_strand() {
    for is_stored in [false, true] {
        let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
        chain.send(4).await;
        let forger = Proxy::start(&chain.url(), 1).await;
        let memory = Arc::new(Memory::default());
        if is_stored {
            memory.0.lock().payloads = chain.sent.clone(); // and no position: it is read again
        }
        forger.set(|faults| faults.forges = true);
        let reader = chain.read(&[forger.url(), chain.url()], Vec::new(), &memory);
        let view = reader.view();
        chain.send(2).await;
        until("what came later is there", || {
            let status = view.readers().remove(0);
            assert!(!matches!(status.state, ReaderState::Halted(_)), "{status:?}");
            let held = memory.payloads();
            assert!(
                held.iter().all(|payload| chain.sent.contains(payload)),
                "a forged payload is stored"
            );
            held == chain.sent
        })
        .await;
        assert!(forger.spoilt() > 0, "it was asked first");
        reader.stop().await;
    }
}

/// An endpoint that forges and is asked second delays nothing, because the block's proof decides.
#[tokio::test]
async fn an_endpoint_that_contradicts_a_proven_block_is_not_waited_for() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let forger = Proxy::start(&chain.url(), 1).await;
    forger.set(|faults| faults.forges = true);
    let honest = Proxy::start(&chain.url(), 2).await;
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[honest.url(), forger.url()], Vec::new(), &memory);
    for _ in 0..3 {
        chain.send(2).await;
        until("what was sent is there", || memory.payloads() == chain.sent).await;
    }
    assert!(forger.spoilt() > 0 && honest.asked("eth_getBlockReceipts") > 0, "both were asked");
    let healthy = reader.view().endpoints().into_iter().all(|endpoint| endpoint.error.is_none());
    assert!(healthy, "the endpoint in use is not blamed");
    reader.stop().await;
}

/// A single endpoint cannot get a forged event stored while the other one is a few blocks behind.
#[tokio::test]
async fn a_forged_event_waits_for_an_endpoint_that_is_behind() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let forger = Proxy::start(&chain.url(), 1).await;
    forger.set(|faults| faults.forges = true);
    let behind = Proxy::start(&chain.url(), 2).await;
    behind.set(|faults| faults.behind = 3);
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[forger.url(), behind.url()], Vec::new(), &memory);
    chain.send(2).await;
    until("it is asked first", || forger.asked("eth_getLogs") > 0).await;
    // Time to store what it shows.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(chain.sent.starts_with(&memory.payloads()), "a forged payload is stored");
    chain.mine(5).await;
    let view = reader.view();
    let began = Instant::now();
    until("what was sent is there", || {
        let held = memory.payloads();
        assert!(chain.sent.starts_with(&held), "a forged payload is stored");
        if began.elapsed() > TIMEOUT / 2 {
            let (status, endpoints) = (view.readers(), view.endpoints());
            panic!("{} of {}: {status:?}, {endpoints:?}", held.len(), chain.sent.len());
        }
        held == chain.sent
    })
    .await;
    reader.stop().await;
}

/// The leaf of an event in its originator's tree contains the transaction hash. A single endpoint that states another
/// one gets none stored.
#[tokio::test]
async fn another_name_of_a_transaction_is_not_stored() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let liar = Proxy::start(&chain.url(), 1).await;
    liar.set(|faults| faults.renames = true);
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[liar.url(), chain.url()], Vec::new(), &memory);
    for _ in 0..3 {
        chain.send(2).await;
        until("what was sent is there", || memory.payloads() == chain.sent).await;
    }
    assert!(liar.spoilt() > 0, "it was asked first");
    let provider = chain.pair.app.provider();
    let stored = memory.0.lock().transactions.clone();
    assert_eq!(stored.len(), chain.sent.len());
    for transaction in stored {
        let receipt = provider.get_transaction_receipt(transaction).await.unwrap();
        assert!(receipt.is_some(), "{transaction} is not on the chain");
    }
    reader.stop().await;
}

/// An endpoint that makes up blocks above the chain's gets no event of them stored while another one goes on with the
/// chain. Events of that chain are stored long before it reaches the height of the invented blocks.
#[tokio::test]
async fn an_event_in_an_invented_block_is_not_stored_while_another_endpoint_goes_on() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(2).await;
    let inventor = Proxy::start(&chain.url(), 1).await;
    let honest = Proxy::start(&chain.url(), 2).await;
    let height = chain.pair.app.provider().get_block_number().await.unwrap();
    inventor.set(|faults| faults.invents = Some(height + 400));
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[inventor.url(), honest.url()], Vec::new(), &memory);
    let view = reader.view();
    until("the invented blocks are asked about", || {
        memory.payloads() == chain.sent && honest.asked("eth_getLogs") > 0
    })
    .await;
    let began = Instant::now();
    let mut is_left = false;
    while !is_left || memory.payloads() != chain.sent {
        chain.send(1).await;
        // The inventor may be asked again soon after it is left.
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            is_left |= view.endpoints()[0].error.is_some();
        }
        let held = memory.payloads();
        assert!(chain.sent.starts_with(&held), "a payload of an invented block is stored");
        let status = view.readers().remove(0);
        assert!(!matches!(status.state, ReaderState::Halted(_)), "{status:?}");
        assert!(began.elapsed() < TIMEOUT, "{status:?}, {:?}", view.endpoints());
    }
    reader.stop().await;
}

/// Starts a reader that prefers a lying endpoint to an honest one, with a ledger, which cannot notice missing events.
async fn ledger_with_liar(faults: Faults) -> (TestBroadcaster, Proxy, Arc<Ledger>, ChainReader) {
    let chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let liar = Proxy::start(&chain.url(), 1).await;
    liar.set(|it| *it = faults);
    let ledger = Arc::new(Ledger::default());
    ledger.open();
    let endpoints = Endpoints::new("app", &[liar.url(), chain.url()], APP_ID).unwrap();
    let sink: Arc<dyn Sink> = ledger.clone();
    let walk = vec![(chain.walk(), sink)];
    let reader = ChainReader::start(endpoints, PushSettings::default(), walk);
    (chain, liar, ledger, reader)
}

async fn send_and_read(chain: &mut TestBroadcaster, reader: &ChainReader) {
    let view = reader.view();
    chain.send(1).await;
    let head = chain.pair.app.provider().get_block_number().await.unwrap();
    until("the block is read", || view.readers()[0].read >= Some(head)).await;
}

/// The ledger cannot notice missing events without sequence ids, when logs come after their block or never.
#[tokio::test]
async fn events_without_numbers_survive_late_and_missing_logs() {
    let none = Faults::default();
    for faults in [
        Faults { late_ms: 400, ..none },
        Faults { omits: true, ..none },
        Faults { omits: true, bloom: Some(false), ..none },
        Faults { omits: true, bloom: Some(true), ..none },
        Faults { omits: true, denies: true, ..none },
        Faults { omits: true, denies: true, bloom: Some(false), ..none },
        Faults { omits: true, withholds: true, ..none },
        Faults { omits: true, headless: true, ..none },
        Faults { forked_at: Some(0), ..none },
    ] {
        let (mut chain, liar, ledger, reader) = ledger_with_liar(faults).await;
        for _ in 0..3 {
            send_and_read(&mut chain, &reader).await;
        }
        chain.mine(100).await;
        let what = format!("every event is there with {faults:?}");
        until(&what, || ledger.payloads() == chain.sent).await;
        assert!(liar.spoilt() > 0, "it was asked first");
        reader.stop().await;
    }
}

/// Without a WebSocket, only another endpoint shows that there are newer blocks.
#[tokio::test]
async fn an_endpoint_that_stands_still_is_left() {
    let faults = Faults { resyncing: Some(2), ..Faults::default() };
    let (mut chain, _resyncing, ledger, reader) = ledger_with_liar(faults).await;
    chain.send(2).await;
    chain.mine(30).await;
    until("every event is there", || ledger.payloads() == chain.sent).await;
    reader.stop().await;
}

/// Far from the head, one honest endpoint is enough to read all events.
#[tokio::test]
async fn events_without_numbers_survive_when_an_endpoint_leaves_them_out_far_from_the_head() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    for _ in 0..6 {
        chain.send(1).await;
    }
    chain.mine(200).await;
    for denies in [false, true] {
        let liar = Proxy::start(&chain.url(), 1).await;
        liar.set(|faults| *faults = Faults { omits: true, denies, ..*faults });
        let ledger = Arc::new(Ledger::default());
        ledger.open();
        let endpoints = Endpoints::new("app", &[liar.url(), chain.url()], APP_ID).unwrap();
        let sink: Arc<dyn Sink> = ledger.clone();
        let walk = vec![(chain.walk(), sink)];
        let reader = ChainReader::start(endpoints, PushSettings::default(), walk);
        let what = format!("every event is there, denied: {denies}");
        until(&what, || ledger.payloads() == chain.sent).await;
        assert!(liar.spoilt() > 0, "it was asked first");
        reader.stop().await;
    }
}

/// A proof by the block's hash outweighs any number of endpoints that deny the events of that block.
#[tokio::test]
async fn one_endpoint_that_proves_a_block_outweighs_all_that_deny_its_events() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let mut urls = Vec::new();
    let mut liars = Vec::new();
    for seed in 0..2 {
        let liar = Proxy::start(&chain.url(), seed).await;
        liar.set(|it| *it = Faults { omits: true, denies: true, bloom: Some(false), ..*it });
        urls.push(liar.url());
        liars.push(liar);
    }
    let honest = Proxy::start(&chain.url(), 3).await;
    honest.set(|faults| faults.singly = true);
    urls.push(honest.url());
    let ledger = Arc::new(Ledger::default());
    ledger.open();
    let endpoints = Endpoints::new("app", &urls, APP_ID).unwrap();
    let sink: Arc<dyn Sink> = ledger.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(chain.walk(), sink)]);
    for _ in 0..3 {
        send_and_read(&mut chain, &reader).await;
    }
    chain.mine(100).await;
    until("every event is there", || ledger.payloads() == chain.sent).await;
    assert!(liars[0].spoilt() > 0, "it was asked first");
    assert!(honest.asked("eth_getBlockReceipts") > 0, "it was asked for the proof");
    reader.stop().await;
}

/// A reader cannot know which of two branches is the chain if each endpoint shows only one of them.
#[tokio::test]
async fn a_branch_without_the_events_of_another_one_holds_the_reader_until_endpoints_agree() {
    let faults = Faults { forked_at: Some(0), denies: true, ..Faults::default() };
    let (mut chain, liar, ledger, reader) = ledger_with_liar(faults).await;
    let view = reader.view();
    send_and_read(&mut chain, &reader).await;
    chain.mine(100).await;
    let stuck = || match view.readers().remove(0).state {
        ReaderState::Stuck(reason) => Some(reason),
        _ => None,
    };
    until("the reader is held", || {
        stuck().is_some_and(|reason| reason.contains("others have another branch"))
    })
    .await;
    let reason = stuck().unwrap();
    assert!(
        reason.contains(chain.url().trim_end_matches('/')),
        "{reason} names the one with events"
    );
    let read = view.readers()[0].read;
    chain.send(1).await;
    chain.mine(5).await;
    until("the head is known", || view.head().head.map(|head| head.number) > read).await;
    assert_eq!(view.readers()[0].read, read, "nothing more is read");
    liar.set(|faults| faults.dead = true);
    assert!(stuck().is_some(), "the silence of one is no agreement");
    liar.set(|faults| *faults = Faults::default());
    until("every event is there", || ledger.payloads() == chain.sent).await;
    reader.stop().await;
}

/// Neither of two endpoints in use may revert events that were read from the other.
#[tokio::test]
async fn an_endpoint_that_turns_to_another_branch_far_below_the_head_is_not_followed() {
    let (mut chain, turncoat, ledger, reader) = ledger_with_liar(Faults::default()).await;
    send_and_read(&mut chain, &reader).await;
    chain.mine(100).await;
    let view = reader.view();
    let head = chain.pair.app.provider().get_block_number().await.unwrap();
    until("the chain is read", || view.readers()[0].read == Some(head)).await;
    turncoat.set(|faults| *faults = Faults { forked_at: Some(0), denies: true, ..*faults });
    for _ in 0..5 {
        send_and_read(&mut chain, &reader).await;
        assert_eq!(ledger.payloads()[0], chain.sent[0], "it is not reversed");
    }
    until("every event is there", || ledger.payloads() == chain.sent).await;
    assert_eq!(view.readers()[0].counts.reorganisations, [0; 4]);
    reader.stop().await;
}

/// Each unsuccessful repetition costs a request and a pause.
#[tokio::test]
async fn bloom_filters_that_promise_everything_are_soon_believed_no_more() {
    let faults = Faults { bloom: Some(true), ..Faults::default() };
    let (chain, liar, _, reader) = ledger_with_liar(faults).await;
    let view = reader.view();
    for _ in 0..12 {
        chain.mine(1).await;
        let head = chain.pair.app.provider().get_block_number().await.unwrap();
        until("the block is read", || view.readers()[0].read == Some(head)).await;
    }
    let asked = liar.asked("eth_getLogs");
    assert!(asked <= 12 + 15 + 5, "{asked} requests for 12 blocks, with 15 repetitions");
    reader.stop().await;
}

/// The endpoint of the WebSocket is ahead of the endpoint in use.
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
    // The chain continues while the test waits for the reader, so the endpoint never has the announced head.
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
