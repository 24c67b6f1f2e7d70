//! Tests of single calls that an endpoint answers wrongly, alone or beside others.

use std::time::{Duration, Instant};

use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use futures_util::future::join_all;
use hawser_chain::broadcast::Witnesses;
use hawser_chain::endpoints::Endpoints;
use hawser_chain::send::{Call, Chain, SendError, Sender};
use hawser_devchain::deploy;

use crate::pair::{ChainBackend, Pair, native_balance};
use crate::proxy::{Faults, Proxy};

crate::on_both_kinds_of_chain! {
    a_payment_whose_nonce_is_said_to_be_used_is_made_once
}

const RECIPIENT: Address = Address::repeat_byte(0x77);

async fn a_payment_whose_nonce_is_said_to_be_used_is_made_once(kind: ChainBackend) {
    let pair = Pair::start(kind).await;
    let proxy = Proxy::start(pair.settlement.endpoint(), 0).await;
    proxy.set(|faults| faults.says_used = true);
    let chain = Chain::connect(&proxy.url(), pair.settlement.id()).await.unwrap();
    let sender = Sender::new(chain, deploy::accounts().swap_remove(3));
    for paid in [100, 200] {
        let receipt = sender.send(&payment()).await.unwrap();
        assert!(receipt.status());
        assert_eq!(native_balance(&pair.settlement, RECIPIENT).await, U256::from(paid));
    }
    let sent = pair.settlement.provider().get_transaction_count(sender.account()).await.unwrap();
    assert_eq!(sent, 2, "one transaction for each payment");
}

fn payment() -> Call {
    Call { to: Some(RECIPIENT), data: Bytes::new(), value: U256::from(100) }
}

/// A sender whose chain has several endpoints, of which it uses the first one.
struct Witnessed {
    pair: Pair,
    proxies: Vec<Proxy>,
    sender: Sender,
}

impl Witnessed {
    async fn start(endpoints: u64) -> Self {
        let pair = Pair::start(ChainBackend::Embedded).await;
        let chain = &pair.settlement;
        let proxies = join_all((0..endpoints).map(|it| Proxy::start(chain.endpoint(), it))).await;
        let urls: Vec<_> = proxies.iter().map(|proxy| format!("{}/key", proxy.url())).collect();
        let all = Endpoints::new("settlement", &urls, chain.id()).unwrap();
        let first = Chain::connect(&urls[0], chain.id()).await.unwrap();
        let sender = Sender::new(first, deploy::accounts().swap_remove(3));
        let sender = sender.waiting(Duration::from_secs(25)).with_witnesses(Witnesses::new(all));
        Self { pair, proxies, sender }
    }

    async fn paid(&self) -> U256 {
        native_balance(&self.pair.settlement, RECIPIENT).await
    }
}

const FAILS: Faults = Faults { reverts: true, ..Faults::NONE };

#[tokio::test]
async fn two_honest_endpoints_outweigh_one_that_calls_a_payment_failed() {
    for liar in 0..3 {
        let it = Witnessed::start(3).await;
        it.proxies[liar].set(|faults| *faults = FAILS);
        let receipt = it.sender.send(&payment()).await.unwrap();
        assert!(receipt.status());
        assert_eq!(it.paid().await, U256::from(100), "the liar is endpoint {liar}");
    }
}

/// The caller is not told of a failure, after which it would pay again.
#[tokio::test]
async fn a_failure_that_one_of_two_endpoints_shows_alone_is_not_told() {
    for others_are_gone in [false, true] {
        let it = Witnessed::start(2).await;
        it.proxies[0].set(|faults| *faults = FAILS);
        it.proxies[1].set(|faults| faults.dead = others_are_gone);
        let sent = it.sender.send(&payment()).await;
        assert!(matches!(sent, Err(SendError::Contested { .. })), "{others_are_gone}: {sent:?}");
        assert_eq!(it.paid().await, U256::from(100));
    }
}

/// The endpoint in use keeps transactions to itself and calls them mined.
#[tokio::test]
async fn a_payment_that_one_endpoint_calls_made_is_made() {
    let it = Witnessed::start(2).await;
    it.proxies[0].set(|faults| {
        *faults = Faults { swallows: true, confirms: true, ..Faults::NONE };
    });
    let receipt = it.sender.send(&payment()).await.unwrap();
    assert!(receipt.status());
    assert_eq!(it.paid().await, U256::from(100));
}

#[tokio::test]
async fn a_success_at_the_only_endpoint_that_follows_the_chain_is_told() {
    let gone = Faults { dead: true, ..Faults::NONE };
    let stopped = Faults { resyncing: Some(0), denies: true, ..Faults::NONE };
    tokio::join!(told_beside(gone), told_beside(stopped));
}

async fn told_beside(faults_of_other: Faults) {
    let it = Witnessed::start(2).await;
    it.proxies[1].set(|faults| *faults = faults_of_other);
    assert!(it.sender.send(&payment()).await.unwrap().status());
    let at = Instant::now();
    assert!(it.sender.send(&payment()).await.unwrap().status());
    assert!(at.elapsed() < Duration::from_secs(15), "the other one is known");
    assert_eq!(it.paid().await, U256::from(200));
}

/// Another transaction of the account takes the nonce while the endpoint in use keeps this one to itself.
#[tokio::test]
async fn a_nonce_that_another_transaction_has_used_is_told_with_proof() {
    let it = Witnessed::start(2).await;
    it.proxies[0].set(|faults| faults.swallows = true);
    let key = deploy::accounts().swap_remove(3);
    let gift = Call { to: Some(Address::repeat_byte(1)), ..payment() };
    let taken = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Sender::new(it.pair.settlement.clone(), key).send(&gift).await.unwrap();
    };
    let call = payment();
    let (sent, ()) = tokio::join!(it.sender.send(&call), taken);
    assert!(matches!(sent, Err(SendError::NonceTaken { nonce: 0, .. })), "{sent:?}");
    assert_eq!(it.paid().await, U256::ZERO);
}

#[tokio::test]
async fn one_endpoint_of_three_does_not_set_the_price_of_gas() {
    let it = Witnessed::start(3).await;
    let honest = it.pair.settlement.quote(it.sender.account(), &payment()).await.unwrap();
    for liar in 0..3 {
        for wei in [0, 1, 1 << 62] {
            it.proxies[liar].set(|faults| faults.prices_wei = Some(wei));
            let quote = it.sender.quote(&payment()).await.unwrap();
            assert_eq!(quote, honest, "endpoint {liar} says {wei}");
        }
        it.proxies[liar].set(|faults| *faults = Faults::NONE);
    }
}
