//! Tests of `eth_subscribe`.

use alloy::consensus::Transaction;
use alloy::network::TransactionResponse;
use alloy::primitives::U256;
use alloy::providers::Provider;
use alloy::rpc::types::{Filter, TransactionRequest};
use serde_json::json;

use super::support::*;

#[tokio::test]
async fn heads_logs_and_waiting_transactions_are_pushed_as_they_come() {
    let running = RunningChain::on_demand().await;
    let socket = running.web_socket().await;
    let (first, second) = (running.deploy(&NOTEBOOK).await, running.deploy(&NOTEBOOK).await);
    let mut heads = socket.subscribe_blocks().await.unwrap();
    let filter = Filter::new().address(first).topic1(U256::from(5));
    let mut logs = socket.subscribe_logs(&filter).await.unwrap();
    let mut waiting = socket.subscribe_pending_transactions().await.unwrap();
    let mut full = socket.subscribe_full_pending_transactions().await.unwrap();
    running.note(first, 4).await;
    running.note(second, 5).await;
    let receipt = running.note(first, 5).await;
    for number in 3..=5u64 {
        let head = heads.recv().await.unwrap();
        assert_eq!(head.number, number);
        let block = running.provider.get_block(number.into()).await.unwrap().unwrap();
        assert_eq!(head, block.header);
        let hash = waiting.recv().await.unwrap();
        assert_eq!(block.transactions.hashes().collect::<Vec<_>>(), [hash]);
        let tx = full.recv().await.unwrap();
        assert_eq!((tx.tx_hash(), tx.input().len()), (hash, 32));
    }
    assert_eq!(logs.recv().await.unwrap(), receipt.inner.logs()[0]);
}

#[tokio::test]
async fn an_ended_subscription_pushes_nothing_more() {
    let running = RunningChain::on_demand().await;
    let mut socket = RawSocket::connect(running.chain.local_addr()).await;
    let first = socket.call("eth_subscribe", json!(["newHeads"])).await;
    let second = socket.call("eth_subscribe", json!(["newHeads"])).await;
    assert_ne!(first, second);
    running.mine().await;
    for id in [&first, &second] {
        let news = socket.next().await;
        assert_eq!(
            (&news["method"], &news["params"]["subscription"]),
            (&json!("eth_subscription"), id)
        );
    }
    assert_eq!(socket.call("eth_unsubscribe", json!([first])).await, json!(true));
    assert_eq!(socket.call("eth_unsubscribe", json!([first])).await, json!(false));
    running.mine().await;
    assert_eq!(socket.next().await["params"]["subscription"], second);
    assert_eq!(
        socket.call("eth_blockNumber", json!([])).await,
        json!("0x2"),
        "nothing came between"
    );
}

#[tokio::test]
async fn messages_of_a_connection_are_answered_in_their_order() {
    let running = RunningChain::on_demand().await;
    let mut socket = RawSocket::connect(running.chain.local_addr()).await;
    for nonce in 0..50u64 {
        let params = raw(&transfer(0, |tx| tx.nonce = nonce));
        let request = json!({ "jsonrpc": "2.0", "id": nonce, "method": "eth_sendRawTransaction", "params": params });
        socket.send(&request.to_string()).await;
    }
    for nonce in 0..50u64 {
        assert_eq!(socket.next().await["id"], json!(nonce));
    }
    assert_eq!(running.provider.get_block_number().await.unwrap(), 50, "a block for each");
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_subscriptions() {
    let running = RunningChain::on_demand().await;
    let mut socket = RawSocket::connect(running.chain.local_addr()).await;
    for _ in 0..128 {
        socket.call("eth_subscribe", json!(["logs", {}])).await;
    }
    let request =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_subscribe", "params": ["logs"] });
    let answer = socket.ask(&request.to_string()).await;
    assert_eq!(answer["error"]["code"], json!(-32005), "{answer}");
}

#[tokio::test]
async fn unknown_subscriptions_are_refused() {
    let running = RunningChain::on_demand().await;
    let socket = running.web_socket().await;
    for params in [json!(["oldHeads"]), json!([]), json!(["logs", 5]), json!([7])] {
        let asked = socket.raw_request::<_, String>("eth_subscribe".into(), params.clone()).await;
        let error = asked.unwrap_err();
        assert_eq!(error.as_error_resp().unwrap().code, -32602, "{params}");
    }
    assert_eq!(socket.get_chain_id().await.unwrap(), CHAIN_ID, "the connection goes on");
}

#[tokio::test]
async fn a_sender_over_a_web_socket_waits_for_its_receipt() {
    let running = RunningChain::by_hand().await;
    let socket = running.web_socket().await;
    let request = TransactionRequest::default().to(STRANGER).value(U256::from(1));
    let pending = socket.send_transaction(request).await.unwrap();
    running.mine().await;
    let receipt = pending.with_required_confirmations(1).get_receipt().await.unwrap();
    assert!(receipt.status());
}
