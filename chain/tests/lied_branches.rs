//! Tests of reading a chain while one of three endpoints follows a branch of its own. More than half of them decide,
//! so that endpoint neither hides events, nor takes them back, nor holds the reader.

use std::sync::Arc;

use alloy::providers::Provider as _;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::index::{ChainReader, PushSettings, Sink};

use crate::broadcaster::{Ledger, TestBroadcaster, until};
use crate::pair::{APP_ID, ChainBackend};
use crate::proxy::{Faults, Proxy};

/// A branch without the events of the chain, whose endpoint has no receipts of them either.
const BRANCH: Faults = Faults { forked_at: Some(0), denies: true, ..Faults::NONE };

/// Starts a reader with a ledger, which cannot notice missing events.
fn read(chain: &TestBroadcaster, urls: &[String]) -> (ChainReader, Arc<Ledger>) {
    let ledger = Arc::new(Ledger::default());
    ledger.open();
    let endpoints = Endpoints::new("app", urls, APP_ID).unwrap();
    let sink: Arc<dyn Sink> = ledger.clone();
    let walk = vec![(chain.walk(), sink)];
    (ChainReader::start(endpoints, PushSettings::default(), walk), ledger)
}

#[tokio::test]
async fn events_that_a_branch_hides_are_read_when_two_of_three_endpoints_have_them() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let liar = Proxy::start(&chain.url(), 1).await;
    liar.set(|faults| *faults = BRANCH);
    let honest = Proxy::start(&chain.url(), 2).await;
    let (reader, ledger) = read(&chain, &[liar.url(), honest.url(), chain.url()]);
    let view = reader.view();
    chain.send(2).await;
    let sent_in = chain.pair.app.provider().get_block_number().await.unwrap();
    until("the liar has hidden them", || view.readers()[0].read >= Some(sent_in)).await;
    chain.mine(100).await;
    until("every event is there", || ledger.payloads() == chain.sent).await;
    assert!(liar.spoilt() > 0, "it was asked first");
    reader.stop().await;
}

/// The two that agree stand for honest endpoints, and the third one for a liar that makes up events on a branch.
#[tokio::test]
async fn events_on_a_branch_of_one_of_three_endpoints_hold_no_reader() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let mut urls = Vec::new();
    let mut alike = Vec::new();
    for seed in 0..2 {
        let proxy = Proxy::start(&chain.url(), seed).await;
        proxy.set(|faults| *faults = BRANCH);
        urls.push(proxy.url());
        alike.push(proxy);
    }
    urls.push(chain.url());
    let (reader, ledger) = read(&chain, &urls);
    let view = reader.view();
    chain.send(2).await;
    for _ in 0..5 {
        let head = chain.mine(100).await;
        until("the chain is read", || view.readers()[0].read >= Some(head)).await;
    }
    assert!(ledger.payloads().is_empty(), "an event of one branch only is stored");
    assert!(alike[0].spoilt() > 0, "it was asked first");
    reader.stop().await;
}

/// The replaced blocks are near the head, so an honest endpoint may show a reorganisation of them at any time. The
/// recheck would book the event again, but only when the blocks are deep.
#[tokio::test]
async fn one_of_three_endpoints_that_turns_to_a_branch_near_the_head_takes_no_event_back() {
    let mut chain = TestBroadcaster::new(ChainBackend::Embedded).await;
    let liar = Proxy::start(&chain.url(), 1).await;
    liar.set(|faults| *faults = Faults::NONE);
    let honest = Proxy::start(&chain.url(), 2).await;
    let (reader, ledger) = read(&chain, &[liar.url(), honest.url(), chain.url()]);
    let view = reader.view();
    chain.send(1).await;
    let sent_in = chain.pair.app.provider().get_block_number().await.unwrap();
    let head = chain.mine(3).await;
    until("it is read", || view.readers()[0].read == Some(head)).await;
    until("the event is there", || ledger.payloads() == chain.sent).await;
    let first = chain.sent.clone();
    liar.set(|faults| *faults = Faults { forked_at: Some(sent_in), ..BRANCH });
    chain.send(1).await;
    until("the next event is there", || {
        let stored = ledger.payloads();
        assert!(stored.starts_with(&first), "the first one is taken back");
        stored == chain.sent
    })
    .await;
    assert!(liar.spoilt() > 0, "it was asked first");
    assert_eq!(view.readers()[0].counts.reorganisations, [0; 4]);
    reader.stop().await;
}
