//! Tests of rollbacks and reorganisations.

use alloy::eips::BlockId;
use alloy::primitives::{B256, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{Filter, Log};
use serde_json::{Value, json};

use super::support::*;

async fn hashes(running: &RunningChain) -> Vec<B256> {
    let mut hashes = Vec::new();
    for number in 0..=running.provider.get_block_number().await.unwrap() {
        let block = running.provider.get_block(number.into()).await.unwrap().unwrap();
        hashes.push(block.header.hash);
    }
    hashes
}

#[tokio::test]
async fn the_last_blocks_are_replaced_and_their_transactions_dropped() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    let receipts = [running.note(notebook, 1).await, running.note(notebook, 2).await];
    let before = hashes(&running).await;
    let old = running.provider.get_block(3.into()).await.unwrap().unwrap();
    running.call("anvil_reorg", json!([2, []])).await;
    let after = hashes(&running).await;
    assert_eq!(before[..2], after[..2]);
    assert_eq!(after.len(), 4);
    assert!(before[2..].iter().all(|hash| !after.contains(hash)));
    let provider = &running.provider;
    let new = provider.get_block(3.into()).await.unwrap().unwrap();
    assert_eq!(new.header.timestamp, old.header.timestamp);
    assert_eq!(new.transactions.len(), 0);
    for receipt in &receipts {
        let gone = provider.get_transaction_receipt(receipt.transaction_hash).await.unwrap();
        assert!(gone.is_none());
    }
    assert!(provider.get_block(BlockId::hash(before[3])).await.unwrap().is_none());
    assert_eq!(provider.get_storage_at(notebook, U256::ZERO).await.unwrap(), U256::ZERO);
    assert_eq!(provider.get_transaction_count(signer(0).address()).await.unwrap(), 1);
    assert!(provider.get_logs(&Filter::new().from_block(0)).await.unwrap().is_empty());
    running.note(notebook, 3).await;
    let error = running.try_call("anvil_reorg", json!([9, []])).await.unwrap_err();
    assert!(error.1.contains("more than the chain's height"), "{error:?}");
}

#[tokio::test]
async fn new_blocks_hold_the_transactions_that_are_asked_for() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    let receipt = running.note(notebook, 1).await;
    running.note(notebook, 2).await;
    let kept = running.call("eth_getRawTransactionByHash", json!([receipt.transaction_hash])).await;
    running.call("anvil_impersonateAccount", json!([signer(3).address()])).await;
    let other = json!({ "from": signer(3).address(), "to": notebook, "input": word(5) });
    running
        .call("anvil_reorg", json!([{ "depth": 2, "txBlockPairs": [[kept, 1], [other, 0]] }]))
        .await;
    let moved = running.provider.get_transaction_receipt(receipt.transaction_hash).await.unwrap();
    let moved = moved.unwrap();
    assert_eq!(moved.block_number, Some(3));
    assert_ne!(moved.block_hash, receipt.block_hash);
    let logs = running.provider.get_logs(&Filter::new().from_block(0)).await.unwrap();
    let values: Vec<U256> = logs.iter().map(|log| log.topics()[1].into()).collect();
    assert_eq!(values, [U256::from(5), U256::from(1)]);
    let head = hashes(&running).await;
    let wrong: [Value; 3] =
        [json!([1, [[kept, 1]]]), json!([1, [[kept, 0], [kept, 0]]]), json!([1, [["0x02", 0]]])];
    for params in wrong {
        running.try_call("anvil_reorg", params).await.unwrap_err();
    }
    assert_eq!(hashes(&running).await, head, "nothing was half done");
}

#[tokio::test]
async fn followers_hear_of_removed_logs_and_new_heads() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    let socket = running.web_socket().await;
    let mut heads = socket.subscribe_blocks().await.unwrap();
    let mut logs = socket.subscribe_logs(&Filter::new().address(notebook)).await.unwrap();
    let filter = running.call("eth_newFilter", json!([{ "address": notebook }])).await;
    for value in 1..=3 {
        running.note(notebook, value).await;
    }
    running.call("anvil_reorg", json!([2, []])).await;
    running.note(notebook, 4).await;
    let mut delivered = Vec::new();
    for _ in 0..6 {
        let log: Log = logs.recv().await.unwrap();
        delivered.push((U256::from_be_bytes(log.topics()[1].0).to::<u64>(), log.removed));
    }
    let expected = [(1, false), (2, false), (3, false), (3, true), (2, true), (4, false)];
    assert_eq!(delivered, expected);
    let mut numbers = Vec::new();
    for _ in 0..6 {
        numbers.push(heads.recv().await.unwrap().number);
    }
    assert_eq!(numbers, [2, 3, 4, 3, 4, 5]);
    let changes = running.call("eth_getFilterChanges", json!([filter])).await;
    let changes: Vec<Log> = serde_json::from_value(changes).unwrap();
    let removed: Vec<bool> = changes.iter().map(|log| log.removed).collect();
    assert_eq!(removed, expected.map(|(_, removed)| removed));
}

#[tokio::test]
async fn a_rollback_leaves_a_shorter_chain() {
    let running = RunningChain::on_demand().await;
    running.call("anvil_mine", json!([5])).await;
    let before = hashes(&running).await;
    running.call("anvil_rollback", json!([2])).await;
    assert_eq!(hashes(&running).await, before[..4]);
    running.call("anvil_rollback", json!([])).await;
    assert_eq!(running.provider.get_block_number().await.unwrap(), 2);
    running.mine().await;
    assert_ne!(hashes(&running).await[3], before[3]);
}
