//! Tests of single calls that an endpoint answers wrongly, alone or beside others.

use std::time::Duration;

use alloy::eips::BlockId;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use futures_util::future::join_all;
use hawser_chain::broadcast::Witnesses;
use hawser_chain::contracts::{PayerRegistry, SettlementChainParameterRegistry, parameter};
use hawser_chain::deploy::{ChainDeployer, DeployError};
use hawser_chain::endpoints::Endpoints;
use hawser_chain::send::{Call, Chain, SendError, Sender};
use hawser_devchain::deploy;
use tokio::time::{sleep, timeout};

use serde_json::{Value, json};

use crate::broadcaster::until;
use crate::pair::{self, ChainBackend, Pair, native_balance};
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

/// An endpoint shows a low price to the operator who is asked, and a high one once the answer was yes.
#[tokio::test]
async fn no_step_of_a_deployment_costs_many_times_the_price_that_was_shown() {
    let pair = Pair::start(ChainBackend::Embedded).await;
    let proxy = Proxy::start(pair.settlement.endpoint(), 0).await;
    let chain = Chain::connect(&proxy.url(), pair.settlement.id()).await.unwrap();
    let shown = chain.present_price().await.unwrap();
    let deployer = ChainDeployer::new(&chain, &deploy::accounts().swap_remove(3)).await.unwrap();
    let mut deployer = deployer.agreed_to(shown);
    deployer.send("paying", &payment()).await.unwrap();
    proxy.set(|faults| faults.prices_wei = Some(u64::try_from(9 * shown.0).unwrap()));
    let refused = deployer.send("paying", &payment()).await;
    assert!(matches!(refused, Err(DeployError::TooDear { .. })), "{refused:?}");
    assert_eq!(native_balance(&pair.settlement, RECIPIENT).await, U256::from(100), "paid once");
    assert_eq!(deployer.mined().len(), 1);
}

fn payment() -> Call {
    Call { to: Some(RECIPIENT), data: Bytes::new(), value: U256::from(100) }
}

/// A sender whose chain has several endpoints, of which it uses the first one.
struct Witnessed {
    pair: Pair,
    proxies: Vec<Proxy>,
    first: Chain,
    witnesses: Witnesses,
    sender: Sender,
}

/// The time limit for a receipt: longer than an endpoint has to be silent before it counts as stopped.
const PATIENT: Duration = Duration::from_secs(25);
/// A time limit for a receipt that is shorter than that.
const IMPATIENT: Duration = Duration::from_secs(15);

impl Witnessed {
    async fn start(endpoints: u64) -> Self {
        let pair = Pair::start(ChainBackend::Embedded).await;
        let chain = &pair.settlement;
        let proxies = join_all((0..endpoints).map(|it| Proxy::start(chain.endpoint(), it))).await;
        let urls: Vec<_> = proxies.iter().map(|proxy| format!("{}/key", proxy.url())).collect();
        let all = Endpoints::new("settlement", &urls, chain.id()).unwrap();
        let first = Chain::connect(&urls[0], chain.id()).await.unwrap();
        let witnesses = Witnesses::new(all);
        let sender = sender(&first, &witnesses, PATIENT);
        Self { pair, proxies, first, witnesses, sender }
    }

    async fn paid(&self) -> U256 {
        native_balance(&self.pair.settlement, RECIPIENT).await
    }
}

fn key() -> PrivateKeySigner {
    deploy::accounts().swap_remove(3)
}

fn sender(first: &Chain, witnesses: &Witnesses, receipt_max: Duration) -> Sender {
    let sender = Sender::new(first.clone(), key()).with_receipt_timeout(receipt_max);
    sender.with_witnesses(witnesses.clone())
}

async fn rpc(chain: &Chain, method: &'static str, params: Value) {
    let _: Value = chain.provider().raw_request(method.into(), params).await.unwrap();
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

/// A command has shown what the payment costs. With two endpoints nothing shows which one states the true price.
#[tokio::test]
async fn one_of_two_endpoints_prevents_no_payment_whose_cost_was_shown() {
    const LIE_WEI: u64 = 10_000_000_000_000;
    for liar in 0..2 {
        let it = Witnessed::start(2).await;
        let shown = it.sender.quote(&payment()).await.unwrap();
        it.proxies[liar].set(|faults| faults.prices_wei = Some(LIE_WEI));
        let quote = it.sender.quote_within(&payment(), &shown).await.unwrap();
        let quote = quote.expect("the other endpoint states the price that was shown");
        assert!(quote.fee_max() <= shown.fee_max(), "the liar is endpoint {liar}");
        assert!(it.sender.send_quoted(&payment(), &quote).await.unwrap().status());
        assert_eq!(it.paid().await, U256::from(100));
        it.proxies[1 - liar].set(|faults| faults.prices_wei = Some(LIE_WEI));
        let dear = it.sender.quote_within(&payment(), &shown).await.unwrap();
        assert_eq!(dear, None, "all endpoints state it");
    }
}

/// The caller gets no failure, after which it would pay again.
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
    tokio::join!(assert_success_beside(gone), assert_success_beside(stopped));
}

async fn assert_success_beside(faults_of_other: Faults) {
    let it = Witnessed::start(2).await;
    it.proxies[1].set(|faults| *faults = faults_of_other);
    assert!(it.sender.send(&payment()).await.unwrap().status());
    // A sender that waits less than that is enough, because the other endpoint is known.
    let impatient = sender(&it.first, &it.witnesses, IMPATIENT);
    assert!(impatient.send(&payment()).await.unwrap().status());
    assert_eq!(it.paid().await, U256::from(200));
}

/// Another transaction of the account takes the nonce while the endpoint in use keeps this one to itself.
#[tokio::test]
async fn a_nonce_that_another_transaction_has_used_is_told_with_proof() {
    let it = Witnessed::start(2).await;
    it.proxies[0].set(|faults| faults.swallows = true);
    let gift = Call { to: Some(Address::repeat_byte(1)), ..payment() };
    let taken = async {
        let is_sent = || it.proxies[0].asked("eth_sendRawTransaction") > 0;
        until("the endpoint has the payment", is_sent).await;
        Sender::new(it.pair.settlement.clone(), key()).send(&gift).await.unwrap();
    };
    let call = payment();
    let (sent, ()) = tokio::join!(it.sender.send(&call), taken);
    assert!(matches!(sent, Err(SendError::NonceTaken { nonce: 0, .. })), "{sent:?}");
    assert_eq!(it.paid().await, U256::ZERO);
}

/// The signature of another transaction proves who signed it, and not that it is mined. In this test one endpoint is
/// on a chain of its own, where the transaction is mined.
#[tokio::test]
async fn a_nonce_that_one_of_two_endpoints_alone_calls_used_is_contested() {
    let (pair, branch) =
        tokio::join!(Pair::start(ChainBackend::Embedded), Pair::start(ChainBackend::Embedded));
    let (chain, id) = (&pair.settlement, pair.settlement.id());
    let urls = [chain, &branch.settlement].map(|chain| chain.endpoint().to_owned());
    let witnesses = Witnesses::new(Endpoints::new("settlement", &urls, id).unwrap());
    let sender = sender(chain, &witnesses, Duration::from_secs(8));
    rpc(chain, "evm_setAutomine", json!([false])).await;
    let gift = Call { to: Some(Address::repeat_byte(1)), ..payment() };
    let taken = async {
        while chain.transaction_count(sender.account(), BlockId::pending()).await.unwrap() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        Sender::new(branch.settlement.clone(), key()).send(&gift).await.unwrap();
    };
    let call = payment();
    let taken = timeout(Duration::from_secs(60), taken);
    let (sent, taken) = tokio::join!(sender.send(&call), taken);
    taken.expect("the payment is pending");
    assert!(matches!(sent, Err(SendError::Contested { .. })), "{sent:?}");
    rpc(chain, "evm_mine", json!([])).await;
    assert_eq!(native_balance(chain, RECIPIENT).await, U256::from(100), "it was mined later");
}

/// The endpoint in use passes the transaction on, and says that it refuses it.
#[tokio::test]
async fn a_payment_that_one_of_two_endpoints_refuses_is_made_once() {
    for liar in 0..2 {
        let it = Witnessed::start(2).await;
        it.proxies[liar].set(|faults| faults.says_refused = true);
        for paid in [100, 200] {
            assert!(it.sender.send(&payment()).await.unwrap().status());
            assert_eq!(it.paid().await, U256::from(paid), "the liar is endpoint {liar}");
        }
    }
}

/// The endpoint in use says that the call would fail, and refuses the transaction.
#[tokio::test]
async fn a_payment_that_the_endpoint_in_use_calls_impossible_is_made() {
    let it = Witnessed::start(2).await;
    it.proxies[0].set(|faults| faults.refuses = true);
    assert!(it.sender.send(&payment()).await.unwrap().status());
    assert_eq!(it.paid().await, U256::from(100));
    it.proxies[1].set(|faults| faults.refuses = true);
    let sent = it.sender.send(&payment()).await;
    assert!(matches!(sent, Err(SendError::Rpc(_))), "all say so: {sent:?}");
    assert_eq!(it.paid().await, U256::from(100));
}

#[tokio::test]
async fn a_payment_that_every_endpoint_refuses_is_told_at_once() {
    let it = Witnessed::start(2).await;
    it.proxies.iter().for_each(|proxy| {
        proxy.set(|faults| (faults.says_refused, faults.swallows) = (true, true));
    });
    let sent = it.sender.send(&payment()).await;
    assert!(matches!(sent, Err(SendError::RefusedByAll { .. })), "{sent:?}");
    assert_eq!(it.paid().await, U256::ZERO);
}

/// One endpoint refuses the transaction and the other one is away, so no endpoint has it. The next call uses its nonce.
#[tokio::test]
async fn a_payment_that_no_endpoint_has_leaves_no_gap() {
    let it = Witnessed::start(2).await;
    let sender = sender(&it.first, &it.witnesses, IMPATIENT);
    it.proxies[0].set(|faults| (faults.says_refused, faults.swallows) = (true, true));
    it.proxies[1].set(|faults| faults.dead = true);
    let sent = sender.send(&payment()).await;
    assert!(matches!(sent, Err(SendError::NotMined { nonce: 0, .. })), "{sent:?}");
    it.proxies.iter().for_each(|proxy| proxy.set(|faults| *faults = Faults::NONE));
    assert!(sender.send(&payment()).await.unwrap().status());
    assert_eq!(it.paid().await, U256::from(100));
}

/// The account's transactions are those of another process, so none of them is known here.
#[tokio::test]
async fn a_wrong_count_at_one_of_two_endpoints_stops_no_payment() {
    for (liar, miscounts) in [(0, 50), (0, -1), (0, -5000), (1, 50), (1, -5000)] {
        let it = Witnessed::start(2).await;
        for _ in 0..2 {
            Sender::new(it.pair.settlement.clone(), key()).send(&payment()).await.unwrap();
        }
        it.proxies[liar].set(|faults| faults.miscounts = miscounts);
        for paid in [300, 400] {
            let sent = it.sender.send(&payment()).await;
            assert!(sent.is_ok(), "endpoint {liar} counts {miscounts} more: {sent:?}");
            assert_eq!(it.paid().await, U256::from(paid));
        }
    }
}

/// Otherwise a user could end a command and repeat it while its first transaction may still be mined.
#[tokio::test]
async fn a_pending_transaction_that_the_endpoint_in_use_hides_is_waited_for() {
    let it = Witnessed::start(2).await;
    let chain = &it.pair.settlement;
    rpc(chain, "evm_setAutomine", json!([false])).await;
    let ended = Sender::new(chain.clone(), key()).with_receipt_timeout(Duration::ZERO);
    assert!(ended.send(&payment()).await.is_err());
    it.proxies[0].set(|faults| faults.miscounts = -1);
    let next = sender(&it.first, &it.witnesses, Duration::from_secs(1));
    let settled = next.settled().await;
    assert!(matches!(settled, Err(SendError::NotSettled { nonce: 0, .. })), "{settled:?}");
    rpc(chain, "evm_mine", json!([])).await;
    assert_eq!(next.settled().await, Ok(false), "nothing is under way");

    assert!(ended.send(&payment()).await.is_err());
    let next = sender(&it.first, &it.witnesses, Duration::from_secs(60));
    let mined = async {
        sleep(Duration::from_secs(1)).await;
        rpc(chain, "evm_mine", json!([])).await;
    };
    let (settled, ()) = tokio::join!(next.settled(), mined);
    assert_eq!(settled, Ok(true), "it may be the payment that is repeated");
}

#[tokio::test]
async fn a_price_that_the_account_cannot_pay_gives_way_to_the_other_one() {
    let it = Witnessed::start(2).await;
    let account = it.sender.account();
    let honest = it.pair.settlement.quote(account, &payment()).await.unwrap();
    for liar in 0..2 {
        it.proxies[liar].set(|faults| faults.prices_wei = Some(1 << 62));
        assert_eq!(it.sender.quote(&payment()).await.unwrap(), honest, "endpoint {liar} lies");
        // A command that shows a plan has no sender.
        let quoted = it.witnesses.quote(&it.first, account, &payment()).await.unwrap();
        assert_eq!(quoted, honest, "endpoint {liar} lies");
        it.proxies[liar].set(|faults| *faults = Faults::NONE);
    }
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

/// Two callers that race make the same call in one block. The second one fails only behind the first one, so that
/// neither the state before the block nor a simulation shows why.
#[tokio::test]
async fn a_call_that_fails_behind_another_one_of_its_block_is_told_with_the_contracts_error() {
    let (pair, deployment) = Pair::deployed(ChainBackend::Embedded).await;
    let (chain, addresses) = (&pair.settlement, &deployment.addresses);
    let sender = pair::sender(chain, 0);
    let set = SettlementChainParameterRegistry::set_0Call {
        key_: parameter::PAYER_REGISTRY_PAUSED.into(),
        value_: parameter::of_uint(1_u8),
    };
    let set = Call::new(addresses.settlement_chain_parameter_registry, &set);
    sender.send(&set).await.unwrap();

    let pause = Call::new(addresses.payer_registry, &PayerRegistry::updatePauseStatusCall {});
    let quote = sender.quote(&pause).await.unwrap();
    let count = async |at| chain.transaction_count(sender.account(), at).await.unwrap();
    let before = count(BlockId::latest()).await;
    rpc(chain, "evm_setAutomine", json!([false])).await;
    let mine_both = async {
        while count(BlockId::pending()).await < before + 2 {
            sleep(Duration::from_millis(10)).await;
        }
        rpc(chain, "evm_mine", json!([])).await;
    };
    let (first, second, mined) = tokio::join!(
        sender.send_quoted(&pause, &quote),
        sender.send_quoted(&pause, &quote),
        timeout(Duration::from_secs(60), mine_both),
    );
    mined.expect("both wait for a block");
    assert!(first.unwrap().status());
    let second = second.unwrap_err();
    assert!(matches!(second, SendError::Reverted { .. }), "{second}");
    let name = second.revert().and_then(|revert| revert.name());
    assert_eq!(name, Some("NoChange"), "{second}");
}
