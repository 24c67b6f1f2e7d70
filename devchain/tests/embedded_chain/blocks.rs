//! Tests of blocks, receipts and methods about the chain.

use alloy::consensus::proofs::calculate_transaction_root;
use alloy::consensus::{TxEnvelope, TxReceipt};
use alloy::eips::BlockId;
use alloy::primitives::{B256, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{Block, TransactionRequest};
use serde_json::{Value, json};

use super::support::*;

#[tokio::test]
async fn a_fresh_chain_reports_its_ids_and_version() {
    let running = RunningChain::on_demand().await;
    assert_eq!(running.provider.get_chain_id().await.unwrap(), CHAIN_ID);
    assert_eq!(running.call("net_version", json!([])).await, json!("31337"));
    let version = running.provider.get_client_version().await.unwrap();
    assert!(version.starts_with("hawser-chain/v") && version.ends_with("development"), "{version}");
    assert_eq!(running.call("eth_syncing", json!([])).await, json!(false));
    assert_eq!(running.call("eth_accounts", json!([])).await, json!([]));
    assert_eq!(running.provider.get_block_number().await.unwrap(), 0);
    assert_eq!(running.call("eth_blobBaseFee", json!([])).await, json!("0x1"));
}

#[tokio::test]
async fn blocks_are_linked_by_hashes_that_follow_from_their_content() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    for value in 1..4 {
        running.note(notebook, value).await;
    }
    let mut parent: Option<Block> = None;
    for number in 0..=4u64 {
        let block = running.provider.get_block(number.into()).full().await.unwrap().unwrap();
        assert_eq!(block.header.hash, block.header.inner.hash_slow());
        let transactions: Vec<TxEnvelope> =
            block.transactions.txns().map(|tx| tx.inner.inner().clone()).collect();
        assert_eq!(block.header.transactions_root, calculate_transaction_root(&transactions));
        assert_eq!(block.header.size, Some(U256::from(consensus_len(&block))));
        if let Some(parent) = parent {
            assert_eq!(block.header.parent_hash, parent.header.hash);
            assert!(block.header.timestamp > parent.header.timestamp);
            assert_ne!(block.header.state_root, parent.header.state_root);
            assert_eq!(transactions.len(), 1);
        }
        let by_hash = running.provider.get_block(BlockId::hash(block.header.hash)).full().await;
        assert_eq!(by_hash.unwrap().as_ref(), Some(&block));
        parent = Some(block);
    }
    assert_eq!(running.provider.get_block(5.into()).await.unwrap(), None);
    assert_eq!(running.provider.get_block(BlockId::hash(B256::ZERO)).await.unwrap(), None);
}

fn consensus_len(block: &Block) -> usize {
    use alloy::rlp::Encodable;
    let block = block.clone().into_consensus().map_transactions(|tx| tx.into_inner());
    block.length()
}

#[tokio::test]
async fn tags_name_blocks() {
    let running = RunningChain::on_demand().await;
    running.call("anvil_mine", json!([70])).await;
    for (tag, number) in [("earliest", 0), ("finalized", 6), ("safe", 38), ("latest", 70)] {
        let block = running.call("eth_getBlockByNumber", json!([tag, false])).await;
        assert_eq!(block["number"], json!(format!("{number:#x}")), "{tag}");
    }
    for number in [json!(38), json!("38"), json!("0x26"), json!("0x0026")] {
        let block = running.call("eth_getBlockByNumber", json!([number, false])).await;
        assert_eq!(block["number"], json!("0x26"), "{number}");
    }
    let history = running.call("eth_feeHistory", json!([2, 38])).await;
    assert_eq!(history["oldestBlock"], json!("0x25"));
    let pending = running.call("eth_getBlockByNumber", json!(["pending", true])).await;
    assert_eq!(pending["number"], json!("0x47"));
    assert_eq!(running.provider.get_block_number().await.unwrap(), 70, "it was only looked at");
}

#[tokio::test]
async fn a_receipt_tells_what_a_transaction_did() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    let receipt = running.note(notebook, 7).await;
    let block = running.provider.get_block(2.into()).full().await.unwrap().unwrap();
    assert!(receipt.status());
    assert_eq!(receipt.block_hash, Some(block.header.hash));
    assert_eq!((receipt.block_number, receipt.transaction_index), (Some(2), Some(0)));
    assert_eq!((receipt.from, receipt.to), (signer(0).address(), Some(notebook)));
    assert_eq!(receipt.gas_used, block.header.gas_used);
    assert_eq!(receipt.inner.cumulative_gas_used(), receipt.gas_used);
    assert_eq!(receipt.effective_gas_price, 100_000_000 + tip(&block));
    let [log] = receipt.inner.logs() else { panic!("{receipt:?}") };
    assert_eq!((log.address(), log.topics()[0]), (notebook, TOPIC));
    assert_eq!((log.log_index, log.block_timestamp), (Some(0), Some(block.header.timestamp)));
    assert_eq!(block.header.logs_bloom, receipt.inner.bloom());

    let receipts = running.provider.get_block_receipts(2.into()).await.unwrap().unwrap();
    assert_eq!(receipts, std::slice::from_ref(&receipt));
    let by_hash = json!([{ "blockHash": block.header.hash }]);
    let receipts = running.call("eth_getBlockReceipts", by_hash).await;
    assert_eq!(receipts[0]["transactionHash"], json!(receipt.transaction_hash));
    assert_eq!(running.call("eth_getBlockReceipts", json!(["0x9"])).await, Value::Null);
}

fn tip(block: &Block) -> u128 {
    use alloy::consensus::Transaction;
    let tx = block.transactions.txns().next().unwrap();
    tx.inner.max_priority_fee_per_gas().unwrap()
}

#[tokio::test]
async fn transactions_are_found_by_hash_and_by_place() {
    let running = RunningChain::on_demand().await;
    let receipt = running.send(TransactionRequest::default().to(STRANGER).value(ether(1))).await;
    let hash = receipt.transaction_hash;
    let tx = running.call("eth_getTransactionByHash", json!([hash])).await;
    assert_eq!(tx["blockHash"], json!(receipt.block_hash));
    assert_eq!(tx["from"], json!(signer(0).address()));
    let by_number = json!(["0x1", "0x0"]);
    assert_eq!(running.call("eth_getTransactionByBlockNumberAndIndex", by_number).await, tx);
    let by_hash = json!([receipt.block_hash, "0x0"]);
    assert_eq!(running.call("eth_getTransactionByBlockHashAndIndex", by_hash).await, tx);
    let no_place = json!(["0x1", "0x1"]);
    assert!(running.call("eth_getTransactionByBlockNumberAndIndex", no_place).await.is_null());
    let count = running.call("eth_getBlockTransactionCountByNumber", json!(["latest"])).await;
    assert_eq!(count, json!("0x1"));
    let raw = running.call("eth_getRawTransactionByHash", json!([hash])).await;
    assert!(raw.as_str().unwrap().starts_with("0x02"), "{raw}");
    for method in ["eth_getTransactionByHash", "eth_getTransactionReceipt"] {
        assert_eq!(running.call(method, json!([B256::ZERO])).await, Value::Null);
    }
}

#[tokio::test]
async fn every_block_keeps_its_state() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    for value in 1..=3u64 {
        running.note(notebook, value).await;
    }
    let sender = signer(0).address();
    for number in 0..=4u64 {
        let provider = &running.provider;
        let nonce = provider.get_transaction_count(sender).number(number).await.unwrap();
        assert_eq!(nonce, number);
        let code = provider.get_code_at(notebook).number(number).await.unwrap();
        assert_eq!(code.is_empty(), number == 0);
        let slot = provider.get_storage_at(notebook, U256::ZERO).number(number).await.unwrap();
        assert_eq!(slot, U256::from(number.saturating_sub(1)));
    }
    let before = running.provider.get_balance(sender).number(3).await.unwrap();
    let after = running.provider.get_balance(sender).await.unwrap();
    assert!(after < before);
    let (code, message) =
        running.try_call("eth_getBalance", json!([sender, "0x63"])).await.unwrap_err();
    assert_eq!((code, message.as_str()), (-32000, "header not found"));
}

#[tokio::test]
async fn the_base_fee_rises_after_full_blocks_and_falls_to_its_floor() {
    let running = RunningChain::on_demand().await;
    let base_fee = |block: Value| {
        u64::from_str_radix(block["baseFeePerGas"].as_str().unwrap().trim_start_matches("0x"), 16)
    };
    let latest = async || {
        base_fee(running.call("eth_getBlockByNumber", json!(["latest", false])).await).unwrap()
    };
    let endless = running.deploy(&LOOP).await;
    assert_eq!(latest().await, 100_000_000);
    running.send(note(endless, 0).gas_limit(59_000_000)).await;
    running.mine().await;
    let risen = latest().await;
    assert!((112_000_000..112_500_000).contains(&risen), "{risen}");
    running.call("anvil_mine", json!([5])).await;
    assert_eq!(latest().await, 100_000_000);

    let history = running.provider.get_fee_history(8, 8.into(), &[50.0]).await.unwrap();
    assert_eq!((history.oldest_block, history.base_fee_per_gas.len()), (1, 9));
    assert_eq!(history.base_fee_per_gas[2], u128::from(risen));
    assert!(history.gas_used_ratio[1] > 0.98, "{history:?}");
    assert!(history.reward.unwrap()[1][0] > 0);
}
