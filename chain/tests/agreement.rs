//! Tests of lists that are read from several endpoints, one of which serves another state than the others.
//!
//! Two chains with the same id and the same contracts play one chain behind two endpoints. The one that alone has a
//! record or a rate, or alone lacks one, is the liar.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, Bytes};
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use hawser_chain::admin::Contract;
use hawser_chain::admin::rates::{self, Prices};
use hawser_chain::contracts::NodeRegistry;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::send::Call;
use hawser_chain::watch::{self, ListWatcher, WatchError};
use hawser_rules::{PicoDollarPrice, Registry};
use serde_json::{Value, json};
use tokio::sync::watch::Sender;

use crate::administration::Administration;
use crate::broadcaster::until;
use crate::pair::{ChainBackend, Pair, sender};
use crate::proxy::{Faults, Proxy};

const HOUR: Duration = Duration::from_secs(3600);

/// Adds a node with one of the known keys to the registry of one chain.
async fn add_node(pair: &Pair, registry: Address, key: &PrivateKeySigner) {
    let point = key.credential().verifying_key().to_encoded_point(false);
    let call = NodeRegistry::addNodeCall {
        owner_: key.address(),
        signingPublicKey_: Bytes::copy_from_slice(point.as_bytes()),
        httpAddress_: "http://127.0.0.1:5050".into(),
    };
    sender(&pair.settlement, 0).send(&Call::new(registry, &call)).await.unwrap();
}

/// Returns the endpoints at these URLs, all of the settlement chain of a pair.
fn settlement(pair: &Pair, urls: &[String]) -> Endpoints {
    Endpoints::new("settlement", urls, pair.settlement.id()).unwrap()
}

/// Reads the registry once. The sender has it read again.
async fn watched(endpoints: Endpoints, registry: Address) -> (ListWatcher<Registry>, Sender<u64>) {
    let (heads, head_changes) = tokio::sync::watch::channel(0);
    let watcher = watch::registry(endpoints, registry, HOUR, head_changes).await.unwrap();
    (watcher, heads)
}

fn nodes(watcher: &ListWatcher<Registry>) -> usize {
    watcher.subscribe().borrow().value.nodes().count()
}

/// Returns the number of nodes, and the error of the last reading.
fn outcome(watcher: &ListWatcher<Registry>) -> (usize, Option<String>) {
    let snapshot = watcher.subscribe().borrow().clone();
    (snapshot.value.nodes().count(), snapshot.error)
}

/// Checks that the list has no node, because not all endpoints show it.
fn assert_doubted(watcher: &ListWatcher<Registry>) {
    let (count, error) = outcome(watcher);
    assert_eq!(count, 0, "{error:?}");
    assert!(error.is_some_and(|error| error.contains("say otherwise")));
}

/// Has the list read again until it has one node.
async fn until_one_node(watcher: &ListWatcher<Registry>, heads: &Sender<u64>) {
    until("the change is taken", || {
        heads.send_modify(|head| *head += 1);
        nodes(watcher) == 1
    })
    .await;
}

/// Has the list read again, and waits for the outcome.
async fn read_again<T>(watcher: &ListWatcher<T>, heads: &Sender<u64>) {
    let mut snapshots = watcher.subscribe();
    snapshots.mark_unchanged();
    heads.send_modify(|head| *head += 1);
    tokio::time::timeout(Duration::from_secs(60), snapshots.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_endpoint_of_two_adds_no_node_and_replaces_no_key() {
    let (liar, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let (honest, other) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    assert_eq!(registry, other.addresses.node_registry, "the chains look the same");
    let keys = hawser_devchain::deploy::accounts();
    let proxies =
        [&liar, &honest].map(|pair| async { Proxy::start(pair.settlement.endpoint(), 0).await });
    let [first, second] = proxies;
    let (first, second) = (first.await, second.await);
    let urls = [first.url(), second.url()];
    let endpoints = settlement(&liar, &urls);
    let (watcher, heads) = watched(endpoints.clone(), registry).await;
    assert_eq!(nodes(&watcher), 0);

    add_node(&liar, registry, &keys[3]).await;
    read_again(&watcher, &heads).await;
    assert_doubted(&watcher);
    read_again(&watcher, &heads).await;
    assert_eq!(outcome(&watcher), (0, None), "the other one is read");

    // A first reading has nothing to keep, and leaves the liar: what the other one says, both have said.
    let fresh = settlement(&liar, &urls);
    let fresh = watch::registry(fresh, registry, HOUR, heads.subscribe()).await.unwrap();
    assert_eq!(nodes(&fresh), 0, "one of two says so");

    // The honest one has another node at the same place: the key of the liar never gets in.
    add_node(&honest, registry, &keys[4]).await;
    first.set(|faults| faults.dead = true);
    until_one_node(&watcher, &heads).await;
    first.set(|faults| faults.dead = false);
    let known = Arc::clone(&watcher.subscribe().borrow().value);
    for _ in 0..3 {
        read_again(&watcher, &heads).await;
        assert_eq!(watcher.subscribe().borrow().value, known);
    }
}

/// The liar alone answers for a time, so that its list is in use. The other endpoint cannot outvote it afterwards.
#[tokio::test]
async fn a_list_that_one_endpoint_of_two_shows_is_not_of_most() {
    let (liar, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let (honest, _) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let second = Proxy::start(honest.settlement.endpoint(), 0).await;
    let urls = [liar.settlement.endpoint().to_owned(), second.url()];
    let (watcher, heads) = watched(settlement(&liar, &urls), registry).await;
    let is_of_most = || watcher.subscribe().borrow().is_of_most;
    assert!(is_of_most(), "both show no node");
    add_node(&liar, registry, &hawser_devchain::deploy::accounts()[3]).await;
    second.set(|faults| faults.dead = true);
    until("the only one that answers is believed", || {
        heads.send_modify(|head| *head += 1);
        nodes(&watcher) == 1
    })
    .await;
    assert!(!is_of_most());
    second.set(|faults| faults.dead = false);
    for _ in 0..2 {
        read_again(&watcher, &heads).await;
        let snapshot = watcher.subscribe().borrow().clone();
        assert_eq!((snapshot.value.nodes().count(), snapshot.error), (1, None));
        assert!(!snapshot.is_of_most, "the other one says otherwise");
    }
    // In truth the node is on the chain.
    add_node(&honest, registry, &hawser_devchain::deploy::accounts()[3]).await;
    until("both show the node", || {
        heads.send_modify(|head| *head += 1);
        nodes(&watcher) == 1 && is_of_most()
    })
    .await;
}

/// A liar has a node that the honest endpoint does not have. The honest one fails or hangs when it is first asked.
async fn a_moment_leaves_no_change_to_a_liar(fail: fn(&mut Faults, bool)) {
    let (liar, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let (honest, _) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let second = Proxy::start(honest.settlement.endpoint(), 0).await;
    let urls = [liar.settlement.endpoint().to_owned(), second.url()];
    let endpoints = settlement(&liar, &urls);
    let (watcher, heads) = watched(endpoints, registry).await;
    add_node(&liar, registry, &hawser_devchain::deploy::accounts()[3]).await;
    second.set(|faults| fail(faults, true));
    let coming_back = async {
        until("it was asked in vain", || second.spoilt() > 0).await;
        second.set(|faults| fail(faults, false));
    };
    tokio::join!(read_again(&watcher, &heads), coming_back);
    assert_doubted(&watcher);
}

#[tokio::test]
async fn an_endpoint_that_fails_for_a_moment_leaves_no_change_to_one_that_lies() {
    a_moment_leaves_no_change_to_a_liar(|faults, fails| faults.dead = fails).await;
}

/// A request that hangs takes the time in which others would be repeated.
#[tokio::test]
async fn an_endpoint_that_hangs_once_leaves_no_change_to_one_that_lies() {
    a_moment_leaves_no_change_to_a_liar(|faults, fails| faults.hangs = fails).await;
}

#[tokio::test]
async fn a_change_is_taken_when_most_endpoints_say_it() {
    let (liar, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let (honest, _) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let url = |pair: &Pair| pair.settlement.endpoint().to_owned();
    // The same host and port would count once.
    let third = url(&honest).replace("127.0.0.1", "localhost");
    let urls = [url(&liar), url(&honest), third];
    let endpoints = settlement(&liar, &urls);
    let (watcher, heads) = watched(endpoints, registry).await;
    add_node(&liar, registry, &hawser_devchain::deploy::accounts()[4]).await;
    read_again(&watcher, &heads).await;
    assert_eq!(nodes(&watcher), 0, "one of three is not believed");
    add_node(&honest, registry, &hawser_devchain::deploy::accounts()[3]).await;
    // The liar is paused, and may be asked again on a slow machine.
    until_one_node(&watcher, &heads).await;
    let snapshot = watcher.subscribe().borrow().clone();
    let key = snapshot.value.nodes().next().map(|record| record.owner.0);
    let honest_key = hawser_devchain::deploy::accounts()[3].address().into_array();
    assert_eq!(key, Some(honest_key));
}

/// The preferred endpoint answers as before the change: by a lie, or because it is stuck.
#[tokio::test]
async fn a_change_that_the_preferred_endpoint_hides_is_taken_when_most_endpoints_show_it() {
    let (hiding, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let (honest, _) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let url = |pair: &Pair| pair.settlement.endpoint().to_owned();
    let third = url(&honest).replace("127.0.0.1", "localhost");
    let urls = [url(&hiding), url(&honest), third];
    let endpoints = settlement(&hiding, &urls);
    let (watcher, heads) = watched(endpoints, registry).await;
    add_node(&honest, registry, &hawser_devchain::deploy::accounts()[3]).await;
    read_again(&watcher, &heads).await;
    assert_doubted(&watcher);
    until_one_node(&watcher, &heads).await;
}

/// The preferred endpoint calls an old block its newest one, and all endpoints have the same list there.
#[tokio::test]
async fn an_old_list_of_an_old_block_is_not_the_present_one_of_a_single_reading() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let old = Proxy::start(pair.settlement.endpoint(), 0).await;
    let honest = pair.settlement.endpoint().to_owned();
    let also_honest = honest.replace("127.0.0.1", "localhost");
    let urls = [old.url(), honest, also_honest];
    let of = |urls: &[String]| settlement(&pair, urls);
    add_node(&pair, registry, &hawser_devchain::deploy::accounts()[3]).await;
    old.set(|faults| faults.behind = 1);
    for urls in [&urls[..], &urls[..2]] {
        let read = watch::registry_now(&of(urls), registry).await;
        assert!(matches!(read, Err(WatchError::Contradicted { .. })), "{read:?}");
    }
    old.set(|faults| faults.behind = 0);
    let read = watch::registry_now(&of(&urls), registry).await.unwrap();
    assert_eq!(read.nodes().count(), 1);
    let rates = watch::rates_now(&of(&urls), deployment.addresses.rate_registry).await.unwrap();
    assert!(!rates.rates().is_empty());
}

/// Endpoints have a new block at different times, and the preferred one may be the last.
#[tokio::test]
async fn an_endpoint_that_is_a_block_behind_a_change_is_read_again_and_not_left() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let behind = Proxy::start(pair.settlement.endpoint(), 0).await;
    let other = pair.settlement.endpoint().to_owned();
    let third = other.replace("127.0.0.1", "localhost");
    let urls = [behind.url(), other, third];
    let endpoints = settlement(&pair, &urls);
    let (watcher, heads) = watched(endpoints.clone(), registry).await;
    behind.set(|faults| faults.behind = 1);
    add_node(&pair, registry, &hawser_devchain::deploy::accounts()[3]).await;
    let before = behind.asked("eth_call");
    let catching_up = async {
        // One call is of the reading, and one of the comparison.
        until("it is compared", || behind.asked("eth_call") >= before + 2).await;
        behind.set(|faults| faults.behind = 0);
    };
    tokio::join!(read_again(&watcher, &heads), catching_up);
    assert_eq!(outcome(&watcher), (1, None));
    assert_eq!(endpoints.status()[0].error, None, "it is not paused");
}

/// Endpoints have a new block at different times, and the preferred one may be the first.
#[tokio::test]
async fn an_endpoint_that_is_a_block_ahead_with_a_change_is_read_again_and_not_left() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let ahead = pair.settlement.endpoint().to_owned();
    let second = Proxy::start(pair.settlement.endpoint(), 0).await;
    let third = Proxy::start(pair.settlement.endpoint(), 0).await;
    let urls = [ahead, second.url(), third.url()];
    let endpoints = settlement(&pair, &urls);
    let (watcher, heads) = watched(endpoints.clone(), registry).await;
    let others = [&second, &third];
    for other in others {
        other.set(|faults| faults.behind = 1);
    }
    add_node(&pair, registry, &hawser_devchain::deploy::accounts()[3]).await;
    let before = others.map(|other| other.asked("eth_call"));
    let catching_up = async {
        until("both are compared", || {
            others.iter().zip(before).all(|(other, before)| other.asked("eth_call") > before)
        })
        .await;
        for other in others {
            other.set(|faults| faults.behind = 0);
        }
    };
    tokio::join!(read_again(&watcher, &heads), catching_up);
    assert_eq!(outcome(&watcher), (1, None));
    assert_eq!(endpoints.status()[0].error, None, "it is not paused");
}

/// The preferred endpoint syncs anew, or is behind after it was away.
#[tokio::test]
async fn an_endpoint_without_the_block_of_the_last_reading_keeps_no_list_from_being_read() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let behind = Proxy::start(pair.settlement.endpoint(), 0).await;
    let other = Proxy::start(pair.settlement.endpoint(), 0).await;
    let urls = [behind.url(), other.url()];
    let endpoints = settlement(&pair, &urls);
    let (watcher, heads) = watched(endpoints.clone(), registry).await;
    let known = watcher.subscribe().borrow().block;
    behind.set(|faults| faults.behind = 1);
    for _ in 0..2 {
        read_again(&watcher, &heads).await;
        let snapshot = watcher.subscribe().borrow().clone();
        assert_eq!((snapshot.block, snapshot.error), (known, None));
    }
    assert_eq!(endpoints.status()[0].error, None, "it is not paused");
    other.set(|faults| faults.behind = 1);
    read_again(&watcher, &heads).await;
    let snapshot = watcher.subscribe().borrow().clone();
    assert_eq!(snapshot.block, known);
    assert!(snapshot.error.is_some_and(|error| error.contains("is behind")), "all are");
}

/// The preferred endpoint is behind for a moment. Another one makes up blocks, and could so have itself read instead,
/// or its block taken for that of the last reading.
#[tokio::test]
async fn an_endpoint_that_makes_up_blocks_is_not_read_instead_of_one_that_is_behind() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let registry = deployment.addresses.node_registry;
    let behind = Proxy::start(pair.settlement.endpoint(), 0).await;
    let liar = Proxy::start(pair.settlement.endpoint(), 0).await;
    let urls = [behind.url(), liar.url(), pair.settlement.endpoint().to_owned()];
    let endpoints = settlement(&pair, &urls);
    let (watcher, heads) = watched(endpoints, registry).await;
    let known = watcher.subscribe().borrow().block;
    behind.set(|faults| faults.behind = 1);
    liar.set(|faults| (faults.invents, faults.is_barren) = (Some(known + 1000), true));
    read_again(&watcher, &heads).await;
    let snapshot = watcher.subscribe().borrow().clone();
    assert_eq!((snapshot.block, snapshot.error), (known, None));
}

/// The preferred endpoint answers each call with a word that no function of these contracts returns.
#[tokio::test]
async fn an_endpoint_whose_contracts_answer_with_errors_stops_no_reading() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let liar = Proxy::start(pair.settlement.endpoint(), 0).await;
    liar.set(|faults| faults.feigns = true);
    let honest = pair.settlement.endpoint().to_owned();
    let also_honest = honest.replace("127.0.0.1", "localhost");
    let urls = [liar.url(), honest, also_honest];
    let endpoints = || settlement(&pair, &urls);
    let (heads, head_changes) = tokio::sync::watch::channel(0);
    let prices = deployment.addresses.rate_registry;
    let prices = watch::rate_table(endpoints(), prices, HOUR, head_changes.clone()).await.unwrap();
    assert!(!prices.subscribe().borrow().value.rates().is_empty());
    let registry = deployment.addresses.node_registry;
    let watcher = watch::registry(endpoints(), registry, HOUR, head_changes).await.unwrap();
    assert_eq!(nodes(&watcher), 0);
    // A later reading asks the preferred endpoint again at some time, and leaves it again.
    add_node(&pair, registry, &hawser_devchain::deploy::accounts()[3]).await;
    until_one_node(&watcher, &heads).await;
}

/// A rate may come to the chain while a list is read: here for as long as the second endpoint does not answer.
#[tokio::test]
async fn a_price_list_is_confirmed_as_of_the_time_before_its_reading() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let second = Proxy::start(pair.settlement.endpoint(), 0).await;
    second.set(|faults| faults.dead = true);
    let urls = [pair.settlement.endpoint().to_owned(), second.url()];
    let endpoints = settlement(&pair, &urls);
    let (_heads, head_changes) = tokio::sync::watch::channel(0);
    let address = deployment.addresses.rate_registry;
    let reading = watch::rate_table(endpoints, address, HOUR, head_changes);
    let coming_back = async {
        until("it was asked in vain", || second.spoilt() > 0).await;
        let during = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        second.set(|faults| faults.dead = false);
        i64::try_from(during.as_nanos()).unwrap()
    };
    let (read, during_ns) = tokio::join!(reading, coming_back);
    let table = Arc::clone(&read.unwrap().subscribe().borrow().value);
    assert!(table.refreshed_ns().unwrap() < during_ns, "{table:?} at {during_ns}");
}

/// This machine's clock may be ahead, and the endpoint behind: here the chain has made no block since the deployment.
#[tokio::test]
async fn a_price_list_is_complete_as_of_five_minutes_before_the_block_that_was_read() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let ahead = (now + HOUR).as_secs();
    for pair in [Pair::deployed(ChainBackend::Embedded).await, Pair::deployed_at(ahead).await] {
        let chain = Administration::of(pair);
        let (_, block_unix_s) = rates::list_with_time(&chain.network).await.unwrap();
        let block_ns = i64::try_from(block_unix_s.unwrap()).unwrap() * 1_000_000_000;
        let settlement = &chain.pair.settlement;
        let urls = [settlement.endpoint().to_owned()];
        let endpoints = Endpoints::new("settlement", &urls, settlement.id()).unwrap();
        let (_heads, head_changes) = tokio::sync::watch::channel(0);
        let address = chain.network.contracts.get(Contract::RateRegistry).unwrap();
        let read = watch::rate_table(endpoints, address, HOUR, head_changes).await.unwrap();
        let table = Arc::clone(&read.subscribe().borrow().value);
        let until_ns = (block_ns - 300_000_000_000).min(table.refreshed_ns().unwrap());
        assert_eq!(table.complete_until_ns(), Some(until_ns), "{table:?}");
    }
}

/// One of the two lies, and it is unknown which one: the list stays in use, and no fee is wrong by it.
#[tokio::test]
async fn a_price_list_to_which_another_endpoint_adds_a_rate_proves_nothing() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = (now + HOUR).as_secs();
    let hiding = Administration::of(Pair::deployed_at(now).await);
    let honest = Administration::of(Pair::deployed_at(now).await);
    let address = hiding.network.contracts.get(Contract::RateRegistry).unwrap();
    let urls = [&hiding, &honest].map(|it| it.pair.settlement.endpoint().to_owned());
    let endpoints = settlement(&hiding.pair, &urls);
    let (heads, head_changes) = tokio::sync::watch::channel(0);
    let watcher = watch::rate_table(endpoints, address, HOUR, head_changes).await.unwrap();
    let before = Arc::clone(&watcher.subscribe().borrow().value);
    assert!(before.is_complete_at(0), "{before:?}");

    let prices = Prices::of(&rates::list(&honest.network).await.unwrap()[0]);
    let prices = Prices { message_fee: PicoDollarPrice(101), ..prices };
    honest.carry_out(&rates::add(&honest.network, &prices, None, now).await.unwrap()).await;
    read_again(&watcher, &heads).await;
    let snapshot = watcher.subscribe().borrow().clone();
    assert_eq!(snapshot.error, None);
    assert_eq!(snapshot.value.rates(), before.rates());
    assert!(snapshot.value.refreshed_ns() > before.refreshed_ns(), "it prices");
    assert!(!snapshot.value.is_complete_at(0), "{:?}", snapshot.value);
}

#[tokio::test]
async fn a_price_list_that_one_of_two_endpoints_serves_is_not_taken() {
    // The first prices start at the time of a block of the deployment. Both chains get the same times, an hour ahead of
    // the machine's clock, which they therefore do not follow.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = (now + HOUR).as_secs();
    let liar = Administration::of(Pair::deployed_at(now).await);
    let honest = Administration::of(Pair::deployed_at(now).await);
    let before = rates::list(&liar.network).await.unwrap();
    assert_eq!(rates::list(&honest.network).await.unwrap(), before, "the chains look the same");
    let prices = Prices { message_fee: PicoDollarPrice(101), ..Prices::of(&before[0]) };
    liar.carry_out(&rates::add(&liar.network, &prices, None, now).await.unwrap()).await;
    let address = liar.network.contracts.get(Contract::RateRegistry).unwrap();
    let urls = [&liar, &honest].map(|it| it.pair.settlement.endpoint().to_owned());
    let endpoints = settlement(&liar.pair, &urls);
    let (heads, head_changes) = tokio::sync::watch::channel(0);
    let read = watch::rate_table(endpoints, address, HOUR, head_changes).await.unwrap();
    assert_eq!(
        read.subscribe().borrow().value.rates().len(),
        1,
        "what the other one has, both have had"
    );
    drop(heads);

    let alone = settlement(&liar.pair, &urls[..1]);
    let (_heads, head_changes) = tokio::sync::watch::channel(0);
    let read = watch::rate_table(alone, address, HOUR, head_changes).await.unwrap();
    assert_eq!(read.subscribe().borrow().value.rates().len(), 2, "the only endpoint is believed");
}

/// The preferred endpoint goes on, and lacks the newest rate: by a lie, or because its branch of the chain is dead.
#[tokio::test]
async fn a_price_list_that_one_endpoint_shortens_stays_as_it_was() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = (now + HOUR).as_secs();
    let shortening = Administration::of(Pair::deployed_at(now).await);
    let honest = Administration::of(Pair::deployed_at(now).await);
    let first = Prices::of(&rates::list(&honest.network).await.unwrap()[0]);
    let prices = Prices { message_fee: PicoDollarPrice(101), ..first };
    honest.carry_out(&rates::add(&honest.network, &prices, None, now).await.unwrap()).await;
    for _ in 0..100 {
        control(&shortening.pair, "evm_mine", json!([])).await;
    }
    let address = honest.network.contracts.get(Contract::RateRegistry).unwrap();
    let url = |chain: &Administration| chain.pair.settlement.endpoint().to_owned();
    let third = url(&honest).replace("127.0.0.1", "localhost");
    let urls = [url(&shortening), url(&honest), third];
    let endpoints = settlement(&honest.pair, &urls);
    let (heads, head_changes) = tokio::sync::watch::channel(0);
    let watcher = watch::rate_table(endpoints, address, HOUR, head_changes).await.unwrap();
    let whole = watcher.subscribe().borrow().value.rates().to_vec();
    assert_eq!(whole.len(), 2);
    // It is asked again after a pause, and left again.
    for is_failing in [true, false] {
        until("it is asked, or left", || {
            heads.send_modify(|head| *head += 1);
            let snapshot = watcher.subscribe().borrow().clone();
            assert_eq!(snapshot.value.rates(), whole);
            snapshot.error.is_some() == is_failing
        })
        .await;
    }
}

/// Has the settlement chain of a pair do something that only development chains can.
async fn control(pair: &Pair, method: &'static str, params: Value) -> Value {
    pair.settlement.provider().raw_request(method.into(), params).await.unwrap()
}

/// The chain is reorganised, or the only endpoint had made up the newest rate. The list has as many entries as before.
#[tokio::test]
async fn a_rate_that_the_chain_replaces_is_replaced_in_the_list_that_is_read() {
    let chain = Administration::new(ChainBackend::Embedded).await;
    let pair = &chain.pair;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let address = chain.network.contracts.get(Contract::RateRegistry).unwrap();
    let urls = [pair.settlement.endpoint().to_owned()];
    let endpoints = settlement(pair, &urls);
    let (heads, head_changes) = tokio::sync::watch::channel(0);
    let watcher = watch::rate_table(endpoints, address, HOUR, head_changes).await.unwrap();
    let first = Prices::of(&rates::list(&chain.network).await.unwrap()[0]);
    let before = control(pair, "evm_snapshot", json!([])).await;
    for (message_fee, is_replaced) in [(101, false), (102, true)] {
        if is_replaced {
            assert_eq!(control(pair, "evm_revert", json!([before])).await, json!(true));
        }
        let prices = Prices { message_fee: PicoDollarPrice(message_fee), ..first };
        let plan = rates::add(&chain.network, &prices, None, now).await.unwrap();
        // A sender that lives on would count the transactions that the chain has taken back.
        chain.carry_out_as(&sender(&pair.settlement, 0), &plan).await.unwrap();
        control(pair, "evm_mine", json!([])).await;
        read_again(&watcher, &heads).await;
        let snapshot = watcher.subscribe().borrow().clone();
        let fees: Vec<_> = snapshot.value.rates().iter().map(|rate| rate.message_fee).collect();
        assert_eq!((fees, snapshot.error), (vec![first.message_fee, prices.message_fee], None));
    }
}

/// The chain is reorganised, or the only endpoint had made up the newest rate. The state without it counts only at the
/// block of the last reading or a later one: before, the endpoint may be behind.
#[tokio::test]
async fn a_rate_that_the_chain_takes_back_leaves_the_list_that_is_read() {
    let chain = Administration::new(ChainBackend::Embedded).await;
    let pair = &chain.pair;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let address = chain.network.contracts.get(Contract::RateRegistry).unwrap();
    let urls = [pair.settlement.endpoint().to_owned()];
    let endpoints = settlement(pair, &urls);
    let (heads, head_changes) = tokio::sync::watch::channel(0);
    let watcher = watch::rate_table(endpoints, address, HOUR, head_changes).await.unwrap();
    let snapshot = || watcher.subscribe().borrow().clone();
    let first = snapshot().value.rates().to_vec();
    let before = control(pair, "evm_snapshot", json!([])).await;
    let prices = Prices::of(&rates::list(&chain.network).await.unwrap()[0]);
    let prices = Prices { message_fee: PicoDollarPrice(101), ..prices };
    let plan = rates::add(&chain.network, &prices, None, now).await.unwrap();
    chain.carry_out_as(&sender(&pair.settlement, 0), &plan).await.unwrap();
    read_again(&watcher, &heads).await;
    let known = snapshot();
    assert_eq!((known.value.rates().len(), known.error), (2, None));

    assert_eq!(control(pair, "evm_revert", json!([before])).await, json!(true));
    read_again(&watcher, &heads).await;
    let older = snapshot();
    assert_eq!((older.value.rates().len(), older.block), (2, known.block), "an older state");
    assert!(older.error.is_some_and(|error| error.contains("behind")));
    for _ in 0..known.block {
        control(pair, "evm_mine", json!([])).await;
    }
    until("the chain's list is read", || {
        heads.send_modify(|head| *head += 1);
        snapshot().error.is_none()
    })
    .await;
    assert_eq!(snapshot().value.rates(), first);
}
