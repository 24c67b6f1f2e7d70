//! Tests of `eth_getLogs` and filters.

use alloy::primitives::{Address, B256, U256};
use alloy::providers::Provider;
use alloy::rpc::types::Filter;
use serde_json::{Value, json};

use super::support::*;

/// Writes to two notebook contracts in turn: blocks 3 to 8 contain the values 1 to 6.
async fn notebooks() -> (RunningChain, Address, Address) {
    let running = RunningChain::on_demand().await;
    let (first, second) = (running.deploy(&NOTEBOOK).await, running.deploy(&NOTEBOOK).await);
    for value in 1..=6 {
        running.note(if value % 2 == 1 { first } else { second }, value).await;
    }
    (running, first, second)
}

async fn values(running: &RunningChain, filter: Value) -> Vec<u64> {
    let logs = running.call("eth_getLogs", json!([filter])).await;
    values_of(&logs)
}

fn values_of(logs: &Value) -> Vec<u64> {
    let value = |log: &Value| -> u64 {
        let data: B256 = serde_json::from_value(log["data"].clone()).unwrap();
        U256::from_be_bytes(data.0).to()
    };
    logs.as_array().unwrap().iter().map(value).collect()
}

fn topic(value: u64) -> B256 {
    U256::from(value).into()
}

#[tokio::test]
async fn logs_are_found_by_every_form_of_filter() {
    let (running, first, second) = notebooks().await;
    let all = json!({ "fromBlock": "earliest", "toBlock": "latest" });
    let with = |more: Value| {
        let mut filter = all.clone();
        filter.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        filter
    };
    let cases: Vec<(Value, Vec<u64>)> = vec![
        (all.clone(), vec![1, 2, 3, 4, 5, 6]),
        (json!({}), vec![6]),
        (json!({ "fromBlock": "0x4" }), vec![2, 3, 4, 5, 6]),
        (json!({ "fromBlock": "0x4", "toBlock": "0x5" }), vec![2, 3]),
        (json!({ "fromBlock": "0x7", "toBlock": "0xff" }), vec![5, 6]),
        (json!({ "fromBlock": "0x8", "toBlock": "pending" }), vec![6]),
        (json!({ "fromBlock": "0xff", "toBlock": "0xfff" }), vec![]),
        (json!({ "fromBlock": "0x9", "toBlock": "latest" }), vec![]),
        (json!({ "fromBlock": "0x9" }), vec![]),
        (with(json!({ "address": first })), vec![1, 3, 5]),
        (with(json!({ "address": [first, second] })), vec![1, 2, 3, 4, 5, 6]),
        (with(json!({ "address": [] })), vec![1, 2, 3, 4, 5, 6]),
        (with(json!({ "address": STRANGER })), vec![]),
        (with(json!({ "topics": [] })), vec![1, 2, 3, 4, 5, 6]),
        (with(json!({ "topics": [TOPIC] })), vec![1, 2, 3, 4, 5, 6]),
        (with(json!({ "topics": [topic(0x12)] })), vec![]),
        (with(json!({ "topics": [null, topic(4)] })), vec![4]),
        (with(json!({ "topics": [TOPIC, [topic(2), topic(5), topic(9)]] })), vec![2, 5]),
        (with(json!({ "topics": [[], [topic(2)]] })), vec![2]),
        (with(json!({ "topics": [TOPIC, null] })), vec![1, 2, 3, 4, 5, 6]),
        (with(json!({ "topics": [TOPIC, null, topic(1)] })), vec![]),
        (with(json!({ "address": second, "topics": [null, [topic(2), topic(3)]] })), vec![2]),
    ];
    for (filter, expected) in cases {
        assert_eq!(values(&running, filter.clone()).await, expected, "{filter}");
    }
    let block = running.provider.get_block(5.into()).await.unwrap().unwrap().header.hash;
    assert_eq!(values(&running, json!({ "blockHash": block })).await, [3]);
}

#[tokio::test]
async fn wrong_filters_are_refused() {
    let (running, first, _) = notebooks().await;
    let block = running.provider.get_block(5.into()).await.unwrap().unwrap().header.hash;
    let cases = [
        (json!({ "fromBlock": "0x5", "toBlock": "0x4" }), -32602, "invalid block range params"),
        (json!({ "blockHash": B256::ZERO }), -32000, "unknown block"),
        (json!({ "blockHash": block, "fromBlock": "0x1" }), -32602, "cannot specify both"),
        (json!({ "topics": [TOPIC, TOPIC, TOPIC, TOPIC, TOPIC] }), -32602, "topics"),
        (json!({ "address": "0x12" }), -32602, "invalid argument 0"),
        (json!({ "fromBlock": first }), -32602, "invalid argument 0"),
        (json!("latest"), -32602, "invalid argument 0"),
    ];
    for (filter, code, words) in cases {
        let error = running.try_call("eth_getLogs", json!([filter])).await.unwrap_err();
        assert_eq!(error.0, code, "{filter}: {error:?}");
        assert!(error.1.contains(words), "{filter}: {error:?}");
    }
}

#[tokio::test]
async fn a_filter_has_a_bounded_number_of_alternatives() {
    let (running, ..) = notebooks().await;
    let topics = |count: u64| (0..count).map(topic).collect::<Vec<_>>();
    let addresses = |count| topics(count).into_iter().map(Address::from_word).collect::<Vec<_>>();
    let with = |address: Vec<Address>, second: Vec<B256>| {
        let topics = json!([null, second]);
        json!({ "fromBlock": "0x0", "address": address, "topics": topics })
    };
    assert_eq!(values(&running, with(vec![], topics(1000))).await, [1, 2, 3, 4, 5, 6]);
    assert!(values(&running, with(addresses(1000), vec![])).await.is_empty());
    for filter in [with(vec![], topics(1001)), with(addresses(1001), vec![])] {
        for method in ["eth_getLogs", "eth_newFilter"] {
            let error = running.try_call(method, json!([filter])).await.unwrap_err();
            assert_eq!(error.0, -32602, "{method}: {error:?}");
            assert!(error.1.contains("more than 1000"), "{method}: {error:?}");
        }
    }
}

#[tokio::test]
async fn ranges_can_be_limited_as_providers_do() {
    let (running, ..) = notebooks().await;
    running.call("hawser_setLogBlocksMax", json!([3])).await;
    let range = |from, to| json!({ "fromBlock": from, "toBlock": to });
    let error = running.try_call("eth_getLogs", json!([range("0x3", "0x6")])).await.unwrap_err();
    let words = "too much for one answer: make eth_getLogs requests with up to a 4 block range";
    assert_eq!(error, (-32005, words.to_owned()));
    assert_eq!(values(&running, range("0x3", "0x5")).await, [1, 2, 3]);
    running.call("hawser_setLogBlocksMax", json!([])).await;
    assert_eq!(values(&running, range("0x3", "0x6")).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn an_answer_has_a_bounded_number_of_logs() {
    let running = RunningChain::on_demand().await;
    // A contract that emits 512 empty logs.
    let code = alloy::primitives::bytes!("6102005b5f5fa0600190038060035700");
    let logger = running.deploy(&code).await;
    for _ in 0..19 {
        running.note(logger, 0).await;
    }
    assert_eq!(
        running
            .call("eth_getLogs", json!([{ "fromBlock": "0x0" }]))
            .await
            .as_array()
            .unwrap()
            .len(),
        19 * 512
    );
    running.note(logger, 0).await;
    let error = running.try_call("eth_getLogs", json!([{ "fromBlock": "0x0" }])).await.unwrap_err();
    // The genesis block, the block of the deployment, and 19 with logs.
    let words = "too much for one answer: make eth_getLogs requests with up to a 22 block range";
    assert_eq!(error, (-32005, words.to_owned()));
    let fits = json!([{ "fromBlock": "0x0", "toBlock": "0x14" }]);
    assert_eq!(running.call("eth_getLogs", fits).await.as_array().unwrap().len(), 19 * 512);
}

#[tokio::test]
async fn unknown_fields_of_a_filter_are_ignored() {
    let (running, ..) = notebooks().await;
    let filter = json!({ "fromBlock": "0x3", "toBlock": "0x5", "limit": 7 });
    assert_eq!(values(&running, filter.clone()).await, [1, 2, 3]);
    running.call("eth_newFilter", json!([filter])).await;
}

#[tokio::test]
async fn filters_tell_what_is_new_since_they_were_asked() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    running.note(notebook, 1).await;
    let logs = running.call("eth_newFilter", json!([{ "address": notebook }])).await;
    let later = running.call("eth_newFilter", json!([{ "fromBlock": "0x4" }])).await;
    let blocks = running.call("eth_newBlockFilter", json!([])).await;
    let waiting = running.call("eth_newPendingTransactionFilter", json!([])).await;
    let changes = async |id: &Value| running.call("eth_getFilterChanges", json!([id])).await;
    assert_eq!(changes(&logs).await, json!([]));
    let receipts = [running.note(notebook, 2).await, running.note(notebook, 3).await];
    assert_eq!(values_of(&changes(&logs).await), [2, 3]);
    assert_eq!(values_of(&changes(&later).await), [3]);
    assert_eq!(
        changes(&blocks).await,
        json!(receipts.each_ref().map(|receipt| receipt.block_hash))
    );
    let hashes = receipts.each_ref().map(|receipt| receipt.transaction_hash);
    assert_eq!(changes(&waiting).await, json!(hashes));
    for id in [&logs, &later, &blocks, &waiting] {
        assert_eq!(changes(id).await, json!([]), "delivered once");
    }
    let range = json!([{ "fromBlock": "0x2", "address": notebook }]);
    let ranged = running.call("eth_newFilter", range).await;
    let all = running.call("eth_getFilterLogs", json!([ranged])).await;
    assert_eq!(values_of(&all), [1, 2, 3]);
    let gone = running.call("eth_uninstallFilter", json!([logs])).await;
    assert_eq!(gone, json!(true));
    assert_eq!(running.call("eth_uninstallFilter", json!([logs])).await, json!(false));
    for (method, id) in [("eth_getFilterChanges", &logs), ("eth_getFilterLogs", &blocks)] {
        let error = running.try_call(method, json!([id])).await.unwrap_err();
        assert_eq!(error, (-32000, "filter not found".to_owned()));
    }
}

#[tokio::test]
async fn a_polling_client_follows_logs() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    let filter = Filter::new().address(notebook).event_signature(TOPIC);
    let poller = running.provider.watch_logs(&filter).await.unwrap();
    running.note(notebook, 8).await;
    let logs = {
        let mut stream = poller.with_poll_interval(std::time::Duration::from_millis(20));
        stream.set_channel_size(16);
        let mut receiver = stream.spawn();
        loop {
            let logs = receiver.recv().await.unwrap();
            if !logs.is_empty() {
                break logs;
            }
        }
    };
    assert_eq!(logs[0].topics()[1], topic(8));
}
