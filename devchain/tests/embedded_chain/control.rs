//! Tests of control methods.

use alloy::network::TransactionBuilder;
use alloy::primitives::{B256, U256, address};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use serde_json::{Value, json};

use super::support::*;

async fn latest_time(running: &RunningChain) -> u64 {
    running
        .provider
        .get_block(alloy::eips::BlockId::latest())
        .await
        .unwrap()
        .unwrap()
        .header
        .timestamp
}

#[tokio::test]
async fn accounts_can_be_set() {
    let running = RunningChain::on_demand().await;
    let set = async |method, params| running.call(method, params).await;
    set("anvil_setBalance", json!([STRANGER, "0x64"])).await;
    set("hardhat_setNonce", json!([STRANGER, "0x7"])).await;
    set("anvil_setCode", json!([STRANGER, SLOT])).await;
    let slot = json!([STRANGER, "0x0", B256::with_last_byte(9)]);
    assert_eq!(set("anvil_setStorageAt", slot).await, json!(true));
    let provider = &running.provider;
    assert_eq!(provider.get_balance(STRANGER).await.unwrap(), U256::from(100));
    assert_eq!(provider.get_transaction_count(STRANGER).await.unwrap(), 7);
    assert_eq!(provider.get_code_at(STRANGER).await.unwrap(), SLOT);
    let call = TransactionRequest::default().with_to(STRANGER);
    assert_eq!(provider.call(call).await.unwrap(), word(9));
    assert_eq!(provider.get_block_number().await.unwrap(), 0, "no block was needed");
    running.mine().await;
    assert_eq!(provider.get_balance(STRANGER).await.unwrap(), U256::from(100));
    set("anvil_setCode", json!([STRANGER, "0x"])).await;
    assert!(provider.get_code_at(STRANGER).await.unwrap().is_empty());
    assert!(provider.get_code_at(STRANGER).number(1).await.unwrap().is_empty(), "the head has it");
    assert_eq!(provider.get_code_at(STRANGER).number(0).await.unwrap(), SLOT);
}

#[tokio::test]
async fn impersonated_accounts_send_without_a_key() {
    let running = RunningChain::on_demand().await;
    let alias = address!("0x1111000000000000000000000000000000002222");
    let notebook = running.deploy(&NOTEBOOK).await;
    let request = json!([{ "from": alias, "to": notebook, "data": word(3) }]);
    let error = running.try_call("eth_sendTransaction", request.clone()).await.unwrap_err();
    assert!(error.1.contains("anvil_impersonateAccount"), "{error:?}");
    running.call("anvil_impersonateAccount", json!([alias])).await;
    assert_eq!(running.call("eth_accounts", json!([])).await, json!([alias]));
    let poor = running.try_call("eth_sendTransaction", request.clone()).await.unwrap_err();
    assert_eq!(poor.1, "gas required exceeds allowance (0)", "it can pay for no gas");
    running.call("anvil_setBalance", json!([alias, ether(1)])).await;
    for nonce in 0..2u64 {
        let hash = running.call("eth_sendTransaction", request.clone()).await;
        let receipt = running.call("eth_getTransactionReceipt", json!([hash])).await;
        assert_eq!((&receipt["status"], &receipt["from"]), (&json!("0x1"), &json!(alias)));
        let tx = running.call("eth_getTransactionByHash", json!([hash])).await;
        assert_eq!(tx["nonce"], json!(format!("{nonce:#x}")));
    }
    running.call("anvil_stopImpersonatingAccount", json!([alias])).await;
    running.try_call("eth_sendTransaction", request).await.unwrap_err();
}

#[tokio::test]
async fn an_impersonated_contract_sends_although_it_has_code() {
    let running = RunningChain::on_demand().await;
    let (notebook, echo) = (running.deploy(&NOTEBOOK).await, running.deploy(&ECHO).await);
    running.call("anvil_setBalance", json!([echo, ether(1)])).await;
    running.call("anvil_autoImpersonateAccount", json!([true])).await;
    let request =
        json!([{ "from": echo, "to": notebook, "input": word(3), "gasPrice": "0x3b9aca00" }]);
    let hash = running.call("eth_sendTransaction", request).await;
    let receipt = running.call("eth_getTransactionReceipt", json!([hash])).await;
    assert_eq!((&receipt["status"], &receipt["type"]), (&json!("0x1"), &json!("0x0")));
}

#[tokio::test]
async fn time_goes_where_it_is_sent() {
    let running = RunningChain::on_demand().await;
    let start = latest_time(&running).await;
    running.call("evm_increaseTime", json!([1000])).await;
    running.mine().await;
    let later = latest_time(&running).await;
    assert!(later >= start + 1000);
    running.call("evm_setNextBlockTimestamp", json!([format!("{:#x}", later + 500)])).await;
    running.send(TransactionRequest::default().to(STRANGER)).await;
    assert_eq!(latest_time(&running).await, later + 500);
    running.mine().await;
    assert!((later + 501..later + 510).contains(&latest_time(&running).await), "the clock goes on");
    let error = running.try_call("evm_setNextBlockTimestamp", json!([later])).await.unwrap_err();
    assert!(error.1.contains("is not after the latest block's"), "{error:?}");
    running.call("evm_mine", json!([later + 2000])).await;
    assert_eq!(latest_time(&running).await, later + 2000);
    running.call("anvil_mine", json!(["0x3", "0x3c"])).await;
    let head = latest_time(&running).await;
    assert!((later + 2121..later + 2130).contains(&head), "{head} {later}");
    for huge in [json!(["0xffffffffffffffff"]), json!([u64::MAX / 2]), json!([-1]), json!(["x"])] {
        running.try_call("evm_increaseTime", huge).await.unwrap_err();
    }
}

/// viem asks for an interval of zero if its caller asks for none.
#[tokio::test]
async fn blocks_without_seconds_between_them_do_not_move_the_clock() {
    let running = RunningChain::on_demand().await;
    let now = latest_time(&running).await;
    running.call("evm_setTime", json!([now])).await;
    running.call("anvil_mine", json!(["0x7d0", "0x0"])).await;
    assert_eq!(running.provider.get_block_number().await.unwrap(), 2000);
    let moved = running.call("evm_setTime", json!([now])).await;
    assert!(moved.as_i64().unwrap() > -1000, "back by {moved} s, far more than this test takes");
}

/// Blocks made at once are ahead of the clock, each by one more second.
#[tokio::test]
async fn more_time_counts_from_the_latest_block_when_that_leads_the_clock() {
    let running = RunningChain::on_demand().await;
    running.call("anvil_mine", json!([500])).await;
    let ahead = latest_time(&running).await;
    running.call("evm_increaseTime", json!([100])).await;
    running.mine().await;
    let next = latest_time(&running).await;
    assert!(next >= ahead + 100, "{next} is less than 100 s after {ahead}");
    running.call("evm_increaseTime", json!([0])).await;
    running.mine().await;
    assert!(latest_time(&running).await > next, "no time is a time, too");
}

#[tokio::test]
async fn blocks_are_made_when_asked_for() {
    let running = RunningChain::on_demand().await;
    assert_eq!(running.call("anvil_getAutomine", json!([])).await, json!(true));
    running.call("evm_setAutomine", json!([false])).await;
    for nonce in 0..3 {
        running.call("eth_sendRawTransaction", raw(&transfer(0, |tx| tx.nonce = nonce))).await;
    }
    assert_eq!(running.provider.get_block_number().await.unwrap(), 0);
    assert_eq!(running.call("evm_mine", json!([])).await, json!("0x0"));
    let block = running.provider.get_block(1.into()).await.unwrap().unwrap();
    assert_eq!(block.transactions.len(), 3);
    running.call("anvil_mine", json!([40])).await;
    assert_eq!(running.provider.get_block_number().await.unwrap(), 41);
    running.try_call("anvil_mine", json!(["0xffffffff"])).await.unwrap_err();
    let dropped = transfer(0, |tx| tx.nonce = 3);
    running.call("eth_sendRawTransaction", raw(&dropped)).await;
    let gone = running.call("anvil_dropTransaction", json!([dropped.tx_hash()])).await;
    assert_eq!(gone, json!(dropped.tx_hash()));
    let found = running.call("eth_getTransactionByHash", json!([dropped.tx_hash()])).await;
    assert_eq!(found, Value::Null);
    running.call("evm_setIntervalMining", json!([1])).await;
    assert_eq!(running.call("anvil_getIntervalMining", json!([])).await, json!(1));
    while running.provider.get_block_number().await.unwrap() < 42 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn blocks_at_an_interval_go_on_without_blocks_on_demand() {
    let running = RunningChain::on_demand().await;
    let interval = async || running.call("anvil_getIntervalMining", json!([])).await;
    running.call("evm_setIntervalMining", json!([86_400])).await;
    running.call("evm_setAutomine", json!([false])).await;
    assert_eq!(interval().await, json!(86_400));
    running.call("evm_setAutomine", json!([true])).await;
    assert_eq!(interval().await, Value::Null, "blocks on demand replace it");
    assert_eq!(running.call("anvil_getAutomine", json!([])).await, json!(true));
}

#[tokio::test]
async fn a_snapshot_is_gone_back_to_once() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    running.note(notebook, 1).await;
    running.call("anvil_setBalance", json!([STRANGER, "0x1"])).await;
    let head = running.provider.get_block(2.into()).await.unwrap().unwrap().header.hash;
    let snapshot = running.call("evm_snapshot", json!([])).await;
    let mined = running.note(notebook, 2).await;
    let later = running.call("evm_snapshot", json!([])).await;
    running.call("anvil_setBalance", json!([STRANGER, "0x2"])).await;
    running.call("evm_increaseTime", json!([1_000_000])).await;
    running.note(notebook, 3).await;
    assert_eq!(running.call("evm_revert", json!([snapshot])).await, json!(true));

    let provider = &running.provider;
    assert_eq!(provider.get_block_number().await.unwrap(), 2);
    let block = provider.get_block(alloy::eips::BlockId::latest()).await.unwrap().unwrap();
    assert_eq!(block.header.hash, head);
    assert_eq!(provider.get_storage_at(notebook, U256::ZERO).await.unwrap(), U256::from(1));
    assert_eq!(provider.get_balance(STRANGER).await.unwrap(), U256::from(1));
    assert!(provider.get_transaction_receipt(mined.transaction_hash).await.unwrap().is_none());
    let again = running.note(notebook, 2).await;
    assert_eq!(again.block_number, Some(3));
    assert_ne!(again.block_hash, mined.block_hash, "another block, although with the same content");
    assert!(latest_time(&running).await < 1_000_000 + block.header.timestamp, "time went back too");
    for used in [&snapshot, &later] {
        assert_eq!(running.call("evm_revert", json!([used])).await, json!(false));
    }
}

#[tokio::test]
async fn a_revert_forgets_what_was_chosen_for_the_next_block() {
    let running = RunningChain::on_demand().await;
    let snapshot = running.call("evm_snapshot", json!([])).await;
    let later = latest_time(&running).await + 1_000_000;
    running.call("evm_setNextBlockTimestamp", json!([later])).await;
    running.call("anvil_setNextBlockBaseFeePerGas", json!(["0x77359400"])).await;
    assert_eq!(running.call("evm_revert", json!([snapshot])).await, json!(true));
    running.mine().await;
    let block = running.provider.get_block(1.into()).await.unwrap().unwrap();
    assert_eq!(block.header.base_fee_per_gas, Some(100_000_000));
    assert!(block.header.timestamp < later);
}

#[tokio::test]
async fn the_next_base_fee_can_be_chosen() {
    let running = RunningChain::on_demand().await;
    running.call("anvil_setNextBlockBaseFeePerGas", json!(["0x77359400"])).await;
    let waits = transfer(0, |tx| tx.max_fee_per_gas = 1_999_999_999);
    running.call("eth_sendRawTransaction", raw(&waits)).await;
    assert_eq!(running.provider.get_block_number().await.unwrap(), 0);
    assert_eq!(running.provider.get_gas_price().await.unwrap(), 2_000_000_000 + 1_000_000);
    running.mine().await;
    let block = running.provider.get_block(1.into()).await.unwrap().unwrap();
    assert_eq!(block.header.base_fee_per_gas, Some(2_000_000_000));
    let huge = json!(["0xffffffffffffffff"]);
    let error = running.try_call("anvil_setNextBlockBaseFeePerGas", huge).await.unwrap_err();
    assert_eq!(error.0, -32602);
    running.call("anvil_setNextBlockBaseFeePerGas", json!(["0x38d7ea4c68000"])).await;
    let gas_price = running.provider.get_gas_price().await.unwrap();
    assert_eq!(gas_price, 1_000_000_000_000_000 + 1_000_000);
}
