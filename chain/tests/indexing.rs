//! Tests of reading contracts on running chains, some of them through a proxy that corrupts responses.

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Bytes;
use alloy::providers::Provider as _;
use hawser_chain::contracts::NodeRegistry;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{ChainReader, PushSettings, ReaderState, Sink, WalkSettings};
use hawser_chain::send::Call;
use hawser_chain::watch;
use serde_json::json;

use crate::broadcaster::{Heads, Ledger, Memory, TestBroadcaster, until};
use crate::pair::{APP_ID, ChainBackend, Pair, sender};
use crate::proxy::{self, Proxy};

crate::on_both_kinds_of_chain! {
    events_come_in_order_and_go_on_after_a_restart
    a_web_socket_announces_heads_and_logs
    a_reorganisation_below_the_stored_position_halts_the_strand
}

async fn events_come_in_order_and_go_on_after_a_restart(kind: ChainBackend) {
    let mut chain = TestBroadcaster::new(kind).await;
    let memory = Arc::new(Memory::default());
    memory.0.lock().failures = 3;
    chain.send(5).await;
    let reader = chain.read(&[chain.url()], Vec::new(), &memory);
    until("everything is there", || memory.payloads() == chain.sent).await;
    chain.send(3).await;
    until("what comes later is there", || memory.payloads() == chain.sent).await;
    let status = reader.view().readers().remove(0);
    assert_eq!(status.counts.retries, 3);
    reader.stop().await;
    chain.send(4).await;
    assert_eq!(memory.payloads().len(), 8, "the reader has stopped");
    let reader = chain.read(&[chain.url()], Vec::new(), &memory);
    until("it goes on", || memory.payloads() == chain.sent).await;
    reader.stop().await;
}

async fn a_web_socket_announces_heads_and_logs(kind: ChainBackend) {
    let mut chain = TestBroadcaster::new(kind).await;
    let memory = Arc::new(Memory::default());
    let unreachable = "ws://127.0.0.1:1".to_owned();
    let push = vec![unreachable, chain.url().replace("http", "ws")];
    let reader = chain.read(&[chain.url()], push, &memory);
    let view = reader.view();
    until("the second one announces", || view.head().pushed).await;
    for _ in 0..5 {
        chain.send(1).await;
        until("it is there", || memory.payloads() == chain.sent).await;
    }
    assert!(view.head().notified_block > 0, "the WebSocket announced a log");
    reader.stop().await;
}

async fn a_reorganisation_below_the_stored_position_halts_the_strand(kind: ChainBackend) {
    let mut chain = TestBroadcaster::new(kind).await;
    let memory = Arc::new(Memory::default());
    chain.send(2).await;
    let reader = chain.read(&[chain.url()], Vec::new(), &memory);
    until("everything is there", || memory.payloads() == chain.sent).await;
    let held = memory.payloads();
    let reorganise = json!([2, []]);
    let provider = chain.pair.app.provider();
    provider.raw_request::<_, serde_json::Value>("anvil_reorg".into(), reorganise).await.unwrap();
    chain.sent.push(Bytes::new()); // so that the next ones differ
    chain.send(1).await;
    let view = reader.view();
    let halted = || matches!(view.readers()[0].state, ReaderState::Halted(_));
    until("the strand has stopped", halted).await;
    assert_eq!(memory.payloads(), held, "what was stored is never rewritten");
    assert!(view.readers()[0].counts.reorganisations.iter().sum::<u64>() > 0);
    reader.stop().await;
}

/// Pages without events that come soon after another one are not stored. Behind the last one no further page comes.
#[tokio::test]
async fn a_sink_learns_that_it_has_come_to_the_head_of_a_chain_that_stands_still() {
    let chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    // Several pages, so that the last one is not the first.
    let head = chain.mine(20).await;
    let heads = Arc::new(Heads::default());
    let endpoints = Endpoints::new("app", &[chain.url()], APP_ID).unwrap();
    let sink: Arc<dyn Sink> = heads.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(chain.walk(), sink)]);
    until("it has come to the head", || heads.has(head)).await;
    reader.stop().await;
}

#[tokio::test]
async fn blocks_that_are_not_stored_are_read_again_after_a_reorganisation() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let memory = Arc::new(Memory::default());
    chain.send(2).await;
    let reader = chain.read(&[chain.url()], Vec::new(), &memory);
    until("everything is there", || memory.payloads() == chain.sent).await;
    // Two more blocks without events are replaced.
    let provider = chain.pair.app.provider();
    let call = async |method: &'static str, params: serde_json::Value| {
        provider.raw_request::<_, serde_json::Value>(method.into(), params).await.unwrap();
    };
    call("anvil_mine", json!(["0x2"])).await;
    let view = reader.view();
    let head = provider.get_block_number().await.unwrap();
    until("these are read", || view.readers()[0].read == Some(head)).await;
    call("anvil_reorg", json!([2, []])).await;
    chain.send(1).await;
    until("what came after is there", || memory.payloads() == chain.sent).await;
    assert_eq!(view.readers()[0].counts.reorganisations.iter().sum::<u64>(), 1);
    reader.stop().await;
}

#[tokio::test]
async fn events_that_wait_to_be_stored_during_a_reorganisation_are_not_lost() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let provider = chain.pair.app.provider().clone();
    let first_block = provider.get_block_number().await.unwrap() + 1;
    // The first batch is being stored, and the others wait for it.
    chain.send(3).await;
    let ledger = Arc::new(Ledger::default());
    let endpoints = Endpoints::new("app", &[chain.url()], APP_ID).unwrap();
    let walk = WalkSettings { first_block, page_blocks: 1, ..chain.walk() };
    let sink: Arc<dyn Sink> = ledger.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    let view = reader.view();
    until("all of them are read", || view.readers()[0].read == Some(first_block + 2)).await;
    // Only the last batch is not on the new chain.
    let reorganise = json!([1, []]);
    provider.raw_request::<_, serde_json::Value>("anvil_reorg".into(), reorganise).await.unwrap();
    chain.sent.pop();
    let seen = || view.readers()[0].counts.reorganisations.iter().sum::<u64>() == 1;
    until("the reorganisation is seen", seen).await;
    ledger.open();
    until("both that are left are there", || ledger.payloads() == chain.sent).await;
    chain.send(1).await;
    until("what came after is there", || ledger.payloads() == chain.sent).await;
    reader.stop().await;
}

#[tokio::test]
async fn a_chain_with_corrupt_responses_is_read_completely() {
    for seed in 0..3 {
        let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
        let memory = Arc::new(Memory::default());
        chain.send(40).await;
        let proxy = Proxy::start(&chain.url(), seed).await;
        proxy.set(|faults| *faults = proxy::Faults::ALL);
        let reader = chain.read(&[proxy.url()], Vec::new(), &memory);
        until("a part is there", || !memory.payloads().is_empty()).await;
        chain.send(5).await;
        until("everything is there", || memory.payloads() == chain.sent).await;
        let status = reader.view().readers().remove(0);
        assert!(!matches!(status.state, ReaderState::Halted(_)), "seed {seed}: {status:?}");
        assert!(proxy.spoilt() > 0, "seed {seed}");
        reader.stop().await;
    }
}

#[tokio::test]
async fn a_provider_that_does_not_answer_large_pages_is_asked_for_smaller_ones() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let memory = Arc::new(Memory::default());
    chain.send(20).await;
    let proxy = Proxy::start(&chain.url(), 0).await;
    proxy.set(|faults| faults.weak = true);
    let reader = chain.read(&[proxy.url()], Vec::new(), &memory);
    until("everything is there", || memory.payloads() == chain.sent).await;
    assert!(proxy.spoilt() > 0, "large pages were asked for at first");
    reader.stop().await;
}

/// A proxy before an endpoint answers with an error of HTTP if the endpoint takes too long.
#[tokio::test]
async fn an_endpoint_that_answers_for_few_blocks_only_is_rechecked_again() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(3).await; // one of them is in a block that the liar leaves out
    let head = chain.mine(1).await;
    let ledger = Arc::new(Ledger::default());
    let (liar, weak) = (Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await);
    liar.set(|faults| *faults = proxy::Faults { omits: true, denies: true, ..*faults });
    weak.set(|faults| faults.weak = true);
    ledger.open();
    let endpoints = Endpoints::new("app", &[liar.url(), weak.url()], APP_ID).unwrap();
    // The weak endpoint answers for as many blocks, unlike for those of a recheck of blocks near the head.
    let walk = WalkSettings { page_blocks: 2, ..chain.walk() };
    let sink: Arc<dyn Sink> = ledger.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    let view = reader.view();
    until("the blocks are read near the head", || view.readers()[0].read == Some(head)).await;
    chain.mine(200).await;
    until("every event is there", || ledger.payloads() == chain.sent).await;
    assert!(liar.spoilt() > 0 && weak.spoilt() > 0, "one left events out, one took too long");
    reader.stop().await;
}

/// While the endpoint that has the events takes too long for a page, the liar would be asked for that page again.
#[tokio::test]
async fn a_liar_is_not_asked_again_and_again_because_the_other_one_answers_for_few_blocks() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(3).await; // one of them is in a block that the liar leaves out
    chain.mine(200).await;
    let ledger = Arc::new(Ledger::default());
    let (liar, weak) = (Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await);
    liar.set(|faults| faults.omits = true);
    weak.set(|faults| faults.weak = true);
    ledger.open();
    let endpoints = Endpoints::new("app", &[liar.url(), weak.url()], APP_ID).unwrap();
    let walk = WalkSettings { page_blocks: 20, ..chain.walk() };
    let sink: Arc<dyn Sink> = ledger.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    until("every event is there", || ledger.payloads() == chain.sent).await;
    assert!(liar.spoilt() > 0 && weak.spoilt() > 0, "one left events out, one took too long");
    reader.stop().await;
}

/// Endpoints of providers that keep no old logs refuse the recheck of the blocks before a start each time.
#[tokio::test]
async fn a_recheck_that_all_endpoints_refuse_is_not_repeated_without_a_pause() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(2).await;
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[chain.url()], Vec::new(), &memory);
    until("everything is there", || memory.payloads() == chain.sent).await;
    reader.stop().await;
    let stored = memory.0.lock().position.unwrap().number;
    let head = chain.mine(70).await;
    let pruned = [Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await];
    for proxy in &pruned {
        proxy.set(|faults| faults.pruned_below = Some(stored + 1));
    }
    let reader = chain.read(&pruned.each_ref().map(Proxy::url), Vec::new(), &memory);
    let view = reader.view();
    until("the recheck was refused", || {
        view.readers()[0].read == Some(head) && pruned[0].spoilt() > 0
    })
    .await;
    let before = pruned[0].asked("eth_getLogs");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = pruned[0].asked("eth_getLogs") - before;
    assert!(asked <= 20, "{asked} requests while nothing happens");
    reader.stop().await;
}

#[tokio::test]
async fn an_endpoint_without_old_logs_is_left_for_another() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send(4).await;
    let head = chain.mine(100).await;
    let pruned = Proxy::start(&chain.url(), 1).await;
    pruned.set(|faults| faults.pruned_below = Some(head));
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[pruned.url(), chain.url()], Vec::new(), &memory);
    until("everything is there", || memory.payloads() == chain.sent).await;
    assert!(pruned.spoilt() > 0, "it was asked first");
    reader.stop().await;
}

#[tokio::test]
async fn an_endpoint_without_old_transactions_is_left_for_another() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let first_block = chain.pair.app.provider().get_block_number().await.unwrap() + 1;
    chain.send(4).await;
    let proxy = Proxy::start(&chain.url(), 0).await;
    proxy.set(|faults| faults.unindexed = true);
    let ledger = Arc::new(Ledger::default());
    ledger.open();
    // Reading begins with the second payload, so its transaction has to show whether the
    // first id was skipped on purpose.
    let walk = WalkSettings { first_block: first_block + 1, ..chain.walk() };
    let endpoints = Endpoints::new("app", &[proxy.url(), chain.url()], APP_ID).unwrap();
    let sink: Arc<dyn Sink> = ledger.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    until("all of them are there", || ledger.payloads() == chain.sent[1..]).await;
    assert!(proxy.spoilt() > 0, "it was asked first");
    reader.stop().await;
}

#[tokio::test]
async fn requests_go_to_the_first_endpoint_of_the_right_chain_and_return_to_the_preferred_one() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let memory = Arc::new(Memory::default());
    let (liar, good) = (Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await);
    liar.set(|faults| faults.wrong_chain = true);
    let reader = chain.read(&[liar.url(), good.url()], Vec::new(), &memory);
    chain.send(3).await;
    until("everything is there", || memory.payloads() == chain.sent).await;
    let view = reader.view();
    let endpoints = view.endpoints();
    assert!(endpoints[0].error.as_ref().unwrap().contains("is chain"), "{endpoints:?}");
    assert_eq!([endpoints[0].active, endpoints[1].active], [false, true]);
    assert_eq!(liar.asked("eth_getLogs"), 0, "another chain is never asked anything");

    liar.set(|faults| faults.wrong_chain = false);
    until("the preferred one is asked again", || view.endpoints()[0].active).await;
    good.set(|faults| faults.dead = true);
    chain.send(1).await;
    until("everything is there", || memory.payloads() == chain.sent).await;
    liar.set(|faults| faults.dead = true);
    good.set(|faults| faults.dead = false);
    chain.send(1).await;
    until("the other one is asked", || memory.payloads() == chain.sent).await;
    reader.stop().await;
}

/// Proxies of providers answer with errors of JSON-RPC while what is behind them is down.
#[tokio::test]
async fn an_endpoint_that_answers_everything_with_errors_is_left() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let memory = Arc::new(Memory::default());
    let broken = Proxy::start(&chain.url(), 1).await;
    broken.set(|faults| faults.useless = true);
    let reader = chain.read(&[broken.url(), chain.url()], Vec::new(), &memory);
    for _ in 0..2 {
        chain.send(1).await;
        until("what was sent is there", || memory.payloads() == chain.sent).await;
    }
    assert!(broken.spoilt() > 0, "it was asked first");
    reader.stop().await;
}

/// Events without ids would be lost for good if the recheck ended while the only endpoint that shows them refuses.
#[tokio::test]
async fn an_event_that_one_endpoint_leaves_out_is_read_although_the_other_one_fails_for_a_moment() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    chain.send_in(true).await;
    let event_block = chain.mine(200).await - 200;
    assert!(event_block.is_multiple_of(3), "block {event_block}");
    let liar = Proxy::start(&chain.url(), 1).await;
    liar.set(|faults| (faults.omits, faults.bloom) = (true, Some(false)));
    let honest = Proxy::start(&chain.url(), 2).await;
    honest.set(|faults| faults.range_max = Some(0));
    let endpoints = Endpoints::new("app", &[liar.url(), honest.url()], APP_ID).unwrap();
    let ledger = Arc::new(Ledger::default());
    ledger.open();
    let walk = WalkSettings { first_block: event_block - 1, ..chain.walk() };
    let sink: Arc<dyn Sink> = ledger.clone();
    let reader = ChainReader::start(endpoints, PushSettings::default(), vec![(walk, sink)]);
    // It refuses the page's seven blocks, then three, and then a single one: that ends its part of the recheck.
    until("the first recheck has failed", || honest.asked("eth_getLogs") >= 3).await;
    honest.set(|faults| faults.range_max = None);
    until("the event is there", || ledger.payloads() == chain.sent).await;
    assert!(liar.spoilt() > 0, "it was asked first");
    reader.stop().await;
}

#[tokio::test]
async fn nodes_and_rates_stay_as_they_were_while_they_cannot_be_read() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let addresses = &deployment.addresses;
    let proxy = Proxy::start(pair.settlement.endpoint(), 0).await;
    let endpoints = Endpoints::new("settlement", &[proxy.url()], pair.settlement.id()).unwrap();
    let (heads, head_changes) = tokio::sync::watch::channel(0);
    let hour = Duration::from_secs(3600);
    let registry = addresses.node_registry;
    let nodes =
        watch::registry(endpoints.clone(), registry, hour, head_changes.clone()).await.unwrap();
    let rates = watch::rate_table(endpoints.clone(), addresses.rate_registry, hour, head_changes)
        .await
        .unwrap();
    assert!(!rates.subscribe().borrow().value.rates().is_empty());
    assert!(nodes.subscribe().borrow().value.nodes().next().is_none());

    let key = hawser_devchain::deploy::accounts()[3].clone();
    let point = key.credential().verifying_key().to_encoded_point(false);
    let call = NodeRegistry::addNodeCall {
        owner_: key.address(),
        signingPublicKey_: Bytes::copy_from_slice(point.as_bytes()),
        httpAddress_: "http://127.0.0.1:5050".into(),
    };
    proxy.set(|faults| faults.dead = true);
    sender(&pair.settlement, 0).send(&Call::new(registry, &call)).await.unwrap();
    heads.send_modify(|head| *head += 1);
    until("it is known that it cannot be read", || nodes.subscribe().borrow().error.is_some())
        .await;
    assert!(
        nodes.subscribe().borrow().failing_since.is_some()
            && nodes.subscribe().borrow().failures > 0
    );
    assert!(!rates.subscribe().borrow().value.rates().is_empty(), "what is known stays");
    let failed = watch::registry(endpoints, registry, hour, heads.subscribe()).await;
    assert!(failed.is_err(), "the first reading has to succeed");
    proxy.set(|faults| faults.dead = false);
    heads.send_modify(|head| *head += 1);
    until("the new node is known", || nodes.subscribe().borrow().value.nodes().count() == 1).await;
    assert_eq!(nodes.subscribe().borrow().value.nodes().next().unwrap().id.0, 100);
    assert_eq!(nodes.subscribe().borrow().error, None);
    assert_eq!(nodes.subscribe().borrow().failing_since, None);
}

/// A strand that stays at a gap has to show in the conditions of the node, which count the time since the reader was at
/// the head, and name its state. Each search for the gap reads up to the head.
#[tokio::test]
async fn a_reader_is_not_at_the_head_while_it_searches_for_an_event() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let proxy = Proxy::start(&chain.url(), 1).await;
    proxy.set(|faults| faults.omits = true);
    let memory = Arc::new(Memory::default());
    let reader = chain.read(&[proxy.url()], Vec::new(), &memory);
    chain.send_in(true).await;
    chain.send_in(false).await;
    let view = reader.view();
    let gaps = |count| view.readers()[0].counts.gaps >= count;
    until("an event is missing", || gaps(2)).await;
    let since = view.readers()[0].behind_since;
    until("it is searched for", || {
        let state = view.readers().remove(0).state;
        assert_eq!(state, ReaderState::Stuck("one is missing".into()));
        gaps(6)
    })
    .await;
    assert_eq!((view.readers()[0].behind_since, since.is_some()), (since, true));
    proxy.set(|faults| faults.omits = false);
    until("both events are there", || memory.payloads() == chain.sent).await;
    until("it is at the head", || view.readers()[0].state == ReaderState::AtHead).await;
    reader.stop().await;
}

/// The same holds while a stored event contradicts the chain, and one of two endpoints does not answer.
#[tokio::test]
async fn a_reader_is_not_at_the_head_while_an_event_contradicts_a_stored_one() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let (shown, dead) = (Proxy::start(&chain.url(), 1).await, Proxy::start(&chain.url(), 2).await);
    dead.set(|faults| faults.dead = true);
    let memory = Arc::new(Memory::default());
    memory.0.lock().payloads = vec![Bytes::from_static(b"another one")];
    chain.mine(20).await;
    chain.send(1).await;
    let reader = chain.read(&[shown.url(), dead.url()], Vec::new(), &memory);
    let view = reader.view();
    let is_told = || match view.readers().remove(0).state {
        ReaderState::Stuck(reason) => reason.contains("not all endpoints answer"),
        _ => false,
    };
    until("the contradiction is told", is_told).await;
    let more = shown.asked("eth_getLogs") + 10;
    until("it is read again", || shown.asked("eth_getLogs") > more).await;
    let since = view.readers()[0].behind_since;
    until("it is read again and again", || {
        assert_eq!(view.readers()[0].behind_since, since);
        shown.asked("eth_getLogs") > more + 20
    })
    .await;
    assert!(since.is_some());
    reader.stop().await;
}
