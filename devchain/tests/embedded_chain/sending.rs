//! Tests of sending transactions that are accepted, wait or are refused.

use alloy::consensus::{SignableTransaction, TxEip2930, TxEip7702, TxEnvelope, TxLegacy};
use alloy::eips::eip7702::Authorization;
use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, Bytes, Signature, TxKind, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use alloy::signers::SignerSync;
use hawser_chain::deploy::CREATE2_DEPLOYER;
use serde_json::{Value, json};

use super::support::*;

async fn refused(running: &RunningChain, tx: &TxEnvelope) -> String {
    let (code, message) =
        running.try_call("eth_sendRawTransaction", raw(tx)).await.expect_err("it is refused");
    assert_eq!(code, -32000, "{message}");
    message
}

#[tokio::test]
async fn a_transfer_is_mined_before_it_is_answered() {
    let running = RunningChain::on_demand().await;
    let tx = transfer(0, |tx| tx.value = ether(3));
    let hash = running.call("eth_sendRawTransaction", raw(&tx)).await;
    assert_eq!(hash, json!(tx.tx_hash()));
    let receipt = running.call("eth_getTransactionReceipt", json!([hash])).await;
    assert_eq!((&receipt["status"], &receipt["gasUsed"]), (&json!("0x1"), &json!("0x5208")));
    assert_eq!(running.provider.get_balance(STRANGER).await.unwrap(), ether(3));
}

#[tokio::test]
async fn every_type_of_transaction_is_taken_but_blobs() {
    let running = RunningChain::on_demand().await;
    let signed = |hash| signer(0).sign_hash_sync(&hash).unwrap();
    let to = TxKind::Call(STRANGER);
    let (gas_price, gas_limit) = (1_000_000_000, 100_000);
    let chain_id = Some(CHAIN_ID);
    let legacy = TxLegacy { chain_id, nonce: 0, gas_price, gas_limit, to, ..TxLegacy::default() };
    let old = TxLegacy { chain_id: None, nonce: 1, ..legacy.clone() };
    let listed = TxEip2930 {
        chain_id: CHAIN_ID,
        nonce: 2,
        gas_price,
        gas_limit,
        to,
        ..TxEip2930::default()
    };
    let delegate = Authorization { chain_id: U256::from(CHAIN_ID), address: STRANGER, nonce: 0 };
    let signature = signer(1).sign_hash_sync(&delegate.signature_hash()).unwrap();
    let delegating = TxEip7702 {
        chain_id: CHAIN_ID,
        nonce: 3,
        max_fee_per_gas: gas_price,
        gas_limit,
        to: STRANGER,
        authorization_list: vec![delegate.into_signed(signature)],
        ..TxEip7702::default()
    };
    let hash = legacy.signature_hash();
    let mut all: Vec<TxEnvelope> = vec![legacy.into_signed(signed(hash)).into()];
    let hash = old.signature_hash();
    all.push(old.into_signed(signed(hash)).into());
    let hash = listed.signature_hash();
    all.push(listed.into_signed(signed(hash)).into());
    let hash = delegating.signature_hash();
    all.push(delegating.into_signed(signed(hash)).into());
    for tx in &all {
        running.call("eth_sendRawTransaction", raw(tx)).await;
        let receipt = running.provider.get_transaction_receipt(*tx.tx_hash()).await.unwrap();
        let receipt = receipt.unwrap_or_else(|| panic!("{tx:?} was not mined"));
        assert!(receipt.status());
        assert_eq!(receipt.inner.tx_type(), tx.tx_type());
    }
    let code = running.provider.get_code_at(signer(1).address()).await.unwrap();
    assert_eq!(code, [&[0xef, 0x01, 0x00], STRANGER.as_slice()].concat());
    // The delegated account can still send. Its nonce was incremented by the authorization.
    running.call("eth_sendRawTransaction", raw(&transfer(1, |tx| tx.nonce = 1))).await;
    let garbage = running.try_call("eth_sendRawTransaction", json!(["0x03c0"])).await.unwrap_err();
    assert_eq!(garbage.0, -32602);
}

#[tokio::test]
async fn refusals_have_the_words_that_clients_know() {
    let running = RunningChain::on_demand().await;
    running.call("eth_sendRawTransaction", raw(&transfer(0, |_| ()))).await;
    let balance = running.provider.get_balance(signer(0).address()).await.unwrap();

    let known = refused(&running, &transfer(0, |_| ())).await;
    assert_eq!(known, "already known");
    let low = refused(&running, &transfer(0, |tx| tx.value = U256::from(2))).await;
    assert_eq!(low, "nonce too low: next nonce 1, tx nonce 0");
    let poor = refused(&running, &transfer(9, |_| ())).await;
    assert_eq!(
        poor,
        "insufficient funds for gas * price + value: balance 0, tx cost 21000000000001, \
         overshot 21000000000001"
    );
    let greedy = refused(&running, &transfer(0, |tx| (tx.nonce, tx.value) = (1, balance))).await;
    assert!(greedy.starts_with("insufficient funds for gas * price + value"), "{greedy}");
    let gas = refused(&running, &transfer(0, |tx| (tx.nonce, tx.gas_limit) = (1, 20_999))).await;
    assert_eq!(gas, "intrinsic gas too low: gas 20999, minimum needed 21000");
    let input = Bytes::from(vec![1; 1000]);
    let floor = transfer(0, |tx| (tx.nonce, tx.input, tx.gas_limit) = (1, input, 40_000));
    let floor = refused(&running, &floor).await;
    assert_eq!(floor, "insufficient gas for floor data gas cost: gas 40000, minimum needed 61000");
    let chain = refused(&running, &transfer(0, |tx| (tx.nonce, tx.chain_id) = (1, 1))).await;
    assert_eq!(chain, "invalid sender: invalid chain id for signer: have 1 want 31337");
    let over = transfer(0, |tx| (tx.nonce, tx.gas_limit) = (1, 60_000_001));
    assert_eq!(refused(&running, &over).await, "exceeds block gas limit");
    let tip = transfer(0, |tx| (tx.nonce, tx.max_priority_fee_per_gas) = (1, 2_000_000_000));
    let tip = refused(&running, &tip).await;
    assert!(tip.starts_with("max priority fee per gas higher than max fee per gas"), "{tip}");
    let cheap = transfer(0, |tx| (tx.nonce, tx.max_fee_per_gas) = (1, 99_999_999));
    let cheap = refused(&running, &cheap).await;
    assert!(cheap.starts_with("max fee per gas less than block base fee"), "{cheap}");
    let long = Bytes::from(vec![0; 49_153]);
    let long = transfer(0, |tx| {
        (tx.nonce, tx.input, tx.to, tx.gas_limit) = (1, long, TxKind::Create, 5_000_000);
    });
    let long = refused(&running, &long).await;
    assert_eq!(long, "max initcode size exceeded: code size 49153, limit 49152");

    let TxEnvelope::Eip1559(tx) = transfer(0, |tx| tx.nonce = 1) else { panic!() };
    let (tx, signature, _) = tx.into_parts();
    let order = U256::from_be_slice(&hex(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
    ));
    let high = Signature::new(signature.r(), order - signature.s(), !signature.v());
    let high = refused(&running, &tx.into_signed(high).into()).await;
    assert_eq!(high, "invalid sender: invalid transaction v, r, s values");
    assert_eq!(running.provider.get_block_number().await.unwrap(), 1, "nothing else was mined");
}

fn hex(digits: &str) -> Vec<u8> {
    alloy::hex::decode(digits).unwrap()
}

#[tokio::test]
async fn later_nonces_wait_for_the_missing_one() {
    let running = RunningChain::on_demand().await;
    let sender = signer(0).address();
    for nonce in [2, 1] {
        running.call("eth_sendRawTransaction", raw(&transfer(0, |tx| tx.nonce = nonce))).await;
    }
    let pending = async || running.provider.get_transaction_count(sender).pending().await.unwrap();
    assert_eq!(running.provider.get_block_number().await.unwrap(), 0);
    assert_eq!(pending().await, 0);
    let status = running.call("txpool_status", json!([])).await;
    assert_eq!(status, json!({ "pending": "0x0", "queued": "0x2" }));
    let waiting = transfer(0, |tx| tx.nonce = 2);
    let found = running.call("eth_getTransactionByHash", json!([waiting.tx_hash()])).await;
    assert!(found["blockHash"].is_null() && !found["hash"].is_null(), "{found}");

    running.call("eth_sendRawTransaction", raw(&transfer(0, |_| ()))).await;
    assert_eq!(running.provider.get_transaction_count(sender).await.unwrap(), 3);
    assert_eq!(pending().await, 3);
    assert_eq!(running.provider.get_block_number().await.unwrap(), 1);
}

#[tokio::test]
async fn a_waiting_transaction_is_replaced_by_one_that_pays_more() {
    let running = RunningChain::by_hand().await;
    let slow = transfer(0, |_| ());
    running.call("eth_sendRawTransaction", raw(&slow)).await;
    assert_eq!(refused(&running, &slow).await, "already known");
    let cheap = refused(&running, &transfer(0, |tx| tx.max_fee_per_gas += 1)).await;
    assert_eq!(cheap, "replacement transaction underpriced");
    let fast = transfer(0, |tx| {
        (tx.max_fee_per_gas, tx.max_priority_fee_per_gas) = (1_100_000_000, 1_100_000);
    });
    running.call("eth_sendRawTransaction", raw(&fast)).await;
    running.mine().await;
    let receipt = async |tx: &TxEnvelope| {
        running.provider.get_transaction_receipt(*tx.tx_hash()).await.unwrap()
    };
    assert!(receipt(&fast).await.is_some() && receipt(&slow).await.is_none());
}

#[tokio::test]
async fn one_block_takes_what_waits_best_payers_first() {
    let running = RunningChain::by_hand().await;
    for (sender, nonce, tip) in [(0, 0, 1), (0, 1, 1), (1, 0, 9), (2, 0, 5)] {
        let tx = transfer(sender, |tx| (tx.nonce, tx.max_priority_fee_per_gas) = (nonce, tip));
        running.call("eth_sendRawTransaction", raw(&tx)).await;
    }
    let pending = running.call("eth_getBlockByNumber", json!(["pending", false])).await;
    assert_eq!(pending["transactions"].as_array().unwrap().len(), 4);
    let balance = json!([STRANGER, "pending"]);
    assert_eq!(running.call("eth_getBalance", balance).await, json!("0x4"));
    running.mine().await;
    let block = running.provider.get_block(1.into()).full().await.unwrap().unwrap();
    let senders: Vec<Address> = block.transactions.txns().map(|tx| tx.inner.signer()).collect();
    let expected = [1, 2, 0, 0].map(|index| signer(index).address());
    assert_eq!(senders, expected);
}

#[tokio::test]
async fn a_full_block_leaves_transactions_to_the_next() {
    let running = RunningChain::by_hand().await;
    let mut balance = 0;
    for nonce in 0..5 {
        let tx = transfer(0, |tx| (tx.nonce, tx.gas_limit) = (nonce, 29_990_000));
        running.call("eth_sendRawTransaction", raw(&tx)).await;
        balance += 1;
    }
    running.mine().await;
    let block = running.provider.get_block(1.into()).await.unwrap().unwrap();
    assert_eq!(block.transactions.len(), 5, "what is not used of a limit is there for others");
    let endless = {
        let tx = transfer(0, |tx| {
            (tx.nonce, tx.to, tx.input) = (5, TxKind::Create, deploying(&LOOP));
            tx.gas_limit = 100_000;
            tx.value = U256::ZERO;
        });
        running.call("eth_sendRawTransaction", raw(&tx)).await;
        running.mine().await;
        signer(0).address().create(5)
    };
    for sender in 0..3 {
        let tx = transfer(sender, |tx| {
            (tx.to, tx.gas_limit) = (TxKind::Call(endless), 25_000_000);
            tx.nonce = if sender == 0 { 6 } else { 0 };
        });
        running.call("eth_sendRawTransaction", raw(&tx)).await;
    }
    running.mine().await;
    running.mine().await;
    for (number, count) in [(3u64, 2), (4, 1)] {
        let block = running.provider.get_block(number.into()).await.unwrap().unwrap();
        assert_eq!(block.transactions.len(), count, "block {number}");
    }
    assert_eq!(running.provider.get_balance(STRANGER).await.unwrap(), U256::from(balance));
}

#[tokio::test]
async fn a_price_below_the_base_fee_waits_until_it_falls() {
    let running = RunningChain::on_demand().await;
    let endless = running.deploy(&LOOP).await;
    running.send(note(endless, 0).gas_limit(59_000_000)).await;
    let tx = transfer(1, |tx| tx.max_fee_per_gas = 101_000_000);
    running.call("eth_sendRawTransaction", raw(&tx)).await;
    let mined =
        async || running.provider.get_transaction_receipt(*tx.tx_hash()).await.unwrap().is_some();
    assert!(!mined().await, "it is accepted, and waits");
    running.call("anvil_mine", json!([4])).await;
    assert!(mined().await);
}

#[tokio::test]
async fn the_largest_payload_of_a_broadcaster_fits_a_block() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    let payload = Bytes::from(vec![0xa5; 256 * 1024]);
    let receipt = running.send(note(notebook, 0).with_input(payload.clone())).await;
    assert!(receipt.status());
    assert_eq!(receipt.gas_used, 21_000 + 40 * 256 * 1024, "the floor of EIP-7623");
    assert_eq!(receipt.inner.logs()[0].data().data, payload);
}

#[tokio::test]
async fn code_over_the_limit_is_not_deployed() {
    let running = RunningChain::on_demand().await;
    // A contract that returns as many zero bytes as its call value.
    let returning = |len: u16| {
        let [high, low] = len.to_be_bytes();
        let code = Bytes::from(vec![0x61, high, low, 0x5f, 0xf3]);
        TransactionRequest::default().with_deploy_code(code).gas_limit(10_000_000)
    };
    assert!(running.send(returning(24_576)).await.status());
    assert!(!running.send(returning(24_577)).await.status());
}

#[tokio::test]
async fn the_deployer_of_deterministic_addresses_is_there() {
    let running = RunningChain::on_demand().await;
    let input = [&[0; 32], &deploying(&ECHO)[..]].concat();
    let request = TransactionRequest::default().with_to(CREATE2_DEPLOYER).with_input(input);
    assert!(running.send(request).await.status());
    let address =
        CREATE2_DEPLOYER.create2_from_code(alloy::primitives::B256::ZERO, deploying(&ECHO));
    assert_eq!(running.provider.get_code_at(address).await.unwrap(), ECHO);
}

#[tokio::test]
async fn requests_at_the_same_time_get_one_nonce_each() {
    const COUNT: u64 = 32;
    let running = RunningChain::on_demand().await;
    running.call("anvil_autoImpersonateAccount", json!([true])).await;
    let (address, sender) = (running.chain.local_addr(), signer(0).address());
    let sent: Vec<_> = (0..COUNT)
        .map(|_| {
            tokio::spawn(async move {
                let request = json!([{ "from": sender, "to": STRANGER, "value": "0x1" }]);
                http(address).raw_request::<_, Value>("eth_sendTransaction".into(), request).await
            })
        })
        .collect();
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
    assert_eq!(running.provider.get_transaction_count(sender).await.unwrap(), COUNT);
    assert_eq!(running.provider.get_balance(STRANGER).await.unwrap(), U256::from(COUNT));
}

#[tokio::test]
async fn a_request_without_prices_has_the_type_that_it_names() {
    let running = RunningChain::on_demand().await;
    running.call("anvil_autoImpersonateAccount", json!([true])).await;
    for tx_type in ["0x0", "0x1", "0x2"] {
        let request = json!([{ "from": signer(0).address(), "to": STRANGER, "type": tx_type }]);
        let hash = running.call("eth_sendTransaction", request).await;
        let receipt = running.call("eth_getTransactionReceipt", json!([hash])).await;
        assert_eq!((&receipt["type"], &receipt["status"]), (&json!(tx_type), &json!("0x1")));
    }
}

#[tokio::test]
async fn blocks_come_at_their_interval() {
    use hawser_devchain::embedded::{BlockProduction, EmbeddedSettings};
    let blocks = BlockProduction::Every(std::time::Duration::from_millis(50));
    let running = RunningChain::with(EmbeddedSettings { blocks, ..settings() }).await;
    let receipt = running.send(TransactionRequest::default().to(STRANGER).value(ether(1))).await;
    assert!(receipt.status());
    let reached = receipt.block_number.unwrap() + 3;
    while running.provider.get_block_number().await.unwrap() < reached {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
