//! Tests of calls and gas estimates.

use alloy::network::TransactionBuilder;
use alloy::primitives::{Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::{Panic, PanicKind, Revert, SolError};
use serde_json::{Value, json};

use super::support::*;

fn call(to: alloy::primitives::Address, input: &Bytes) -> Value {
    json!({ "to": to, "input": input })
}

#[tokio::test]
async fn a_call_returns_what_code_returns_and_changes_nothing() {
    let running = RunningChain::on_demand().await;
    let echo = running.deploy(&ECHO).await;
    let request = TransactionRequest::default().with_to(echo).with_input(word(77));
    assert_eq!(running.provider.call(request).await.unwrap(), word(77));
    let notebook = running.deploy(&NOTEBOOK).await;
    running.call("eth_call", json!([call(notebook, &word(5)), "latest"])).await;
    let slot = running.provider.get_storage_at(notebook, U256::ZERO).await.unwrap();
    assert_eq!(slot, U256::ZERO);
    assert_eq!(running.call("eth_call", json!([{ "to": STRANGER }])).await, json!("0x"));
    // "data" is the older name of "input".
    let data = json!([{ "to": echo, "data": "0x01" }]);
    assert_eq!(running.call("eth_call", data).await, json!("0x01"));
}

#[tokio::test]
async fn a_revert_is_told_with_its_reason_and_its_data() {
    let running = RunningChain::on_demand().await;
    let refuser = running.deploy(&REFUSER).await;
    let reason = Bytes::from(Revert::from("no such node").abi_encode());
    let panic = Bytes::from(Panic::from(PanicKind::UnderOverflow).abi_encode());
    let custom = Bytes::from(vec![1, 2, 3, 4]);
    let expected = [
        (&reason, "execution reverted: no such node"),
        (&panic, "execution reverted: panic: arithmetic underflow or overflow (0x11)"),
        (&custom, "execution reverted"),
        (&Bytes::new(), "execution reverted"),
    ];
    for (data, message) in expected {
        for method in ["eth_call", "eth_estimateGas"] {
            let body = json!({
                "jsonrpc": "2.0", "id": 1, "method": method, "params": [call(refuser, data)],
            });
            let answer = post_json(running.chain.local_addr(), &body.to_string()).await;
            let expected = json!({ "code": 3, "message": message, "data": data });
            assert_eq!(answer["error"], expected, "{method}");
        }
    }
    let request = TransactionRequest::default().with_to(refuser).with_input(reason);
    let error = running.provider.call(request).await.unwrap_err();
    let decoded = error.as_error_resp().unwrap().as_decoded_error::<Revert>().unwrap();
    assert_eq!(decoded.reason, "no such node");
}

#[tokio::test]
async fn a_call_sees_the_block_that_it_names() {
    let running = RunningChain::on_demand().await;
    let address = running.deploy(&ENVIRONMENT).await;
    running.call("anvil_mine", json!([3])).await;
    for number in [1u64, 2, 4] {
        let block = running.provider.get_block(number.into()).await.unwrap().unwrap();
        let seen =
            running.call("eth_call", json!([call(address, &Bytes::new()), block_tag(number)]));
        let seen: Bytes = serde_json::from_value(seen.await).unwrap();
        let word = |at: usize| U256::from_be_slice(&seen[32 * at..32 * (at + 1)]);
        assert_eq!(word(0), U256::from(number));
        assert_eq!(word(1), U256::from(block.header.timestamp));
        assert_eq!(word(2), U256::ZERO, "without a price, gas is free");
        assert_eq!(word(3), U256::from_be_bytes(block.header.mix_hash.0));
        assert_eq!(word(4), U256::from_be_bytes(block.header.parent_hash.0));
    }
    let by_hash = running.provider.get_block(2.into()).await.unwrap().unwrap().header.hash;
    let at_hash = json!([call(address, &Bytes::new()), { "blockHash": by_hash }]);
    let seen: Bytes = serde_json::from_value(running.call("eth_call", at_hash).await).unwrap();
    assert_eq!(U256::from_be_slice(&seen[..32]), U256::from(2));
    let unknown = json!([call(address, &Bytes::new()), "0x63"]);
    let (_, message) = running.try_call("eth_call", unknown).await.unwrap_err();
    assert_eq!(message, "header not found");
}

fn block_tag(number: u64) -> String {
    format!("{number:#x}")
}

#[tokio::test]
async fn state_and_block_can_be_overridden() {
    let running = RunningChain::on_demand().await;
    let sender = signer(7).address();
    let code = json!({ STRANGER.to_string(): { "code": SLOT, "stateDiff": {
        alloy::primitives::B256::ZERO.to_string(): alloy::primitives::B256::with_last_byte(9),
    } } });
    let params = json!([call(STRANGER, &Bytes::new()), "latest", code]);
    assert_eq!(running.call("eth_call", params).await, json!(word(9)));
    let rich = json!({ sender.to_string(): { "balance": "0x64" } });
    let transfer = json!({ "from": sender, "to": STRANGER, "value": "0x64" });
    running.call("eth_call", json!([transfer, "latest", rich])).await;
    let (code, message) = running.try_call("eth_call", json!([transfer])).await.unwrap_err();
    assert_eq!(code, -32000);
    assert!(message.starts_with("insufficient funds for gas * price + value"), "{message}");
    let environment = json!({ STRANGER.to_string(): { "code": ENVIRONMENT } });
    let block = json!({ "number": "0x100", "time": "0x200" });
    let params = json!([call(STRANGER, &Bytes::new()), "latest", environment, block]);
    let seen: Bytes = serde_json::from_value(running.call("eth_call", params).await).unwrap();
    assert_eq!(seen[..64], [&word(0x100)[..], &word(0x200)[..]].concat());
}

#[tokio::test]
async fn an_estimate_is_enough_and_close() {
    let running = RunningChain::on_demand().await;
    let notebook = running.deploy(&NOTEBOOK).await;
    let estimate = async |request| running.provider.estimate_gas(request).await.unwrap();
    let plain = TransactionRequest::default().from(signer(0).address()).to(STRANGER);
    assert_eq!(estimate(plain.clone().value(U256::from(1))).await, 21_000);
    for request in [note(notebook, 5), plain.clone().with_deploy_code(deploying(&ECHO))] {
        let gas = estimate(request.clone()).await;
        let receipt = running.send(request.gas_limit(gas)).await;
        assert!(receipt.status());
        let used = receipt.gas_used;
        assert!(gas <= used * 1016 / 1000, "estimated {gas}, used {used}");
    }
    let long = Bytes::from(vec![1; 5000]);
    assert_eq!(estimate(plain.with_input(long)).await, 21_000 + 40 * 5000, "the floor of EIP-7623");
}

#[tokio::test]
async fn a_call_that_reverts_has_no_gas_estimate() {
    let running = RunningChain::on_demand().await;
    let endless = running.deploy(&LOOP).await;
    let error_of = async |request: Value| {
        running.try_call("eth_estimateGas", json!([request])).await.unwrap_err().1
    };
    let exceeded = error_of(call(endless, &Bytes::new())).await;
    assert_eq!(exceeded, "gas required exceeds allowance (60000000)");
    let little = error_of(json!({ "to": endless, "gas": "0x7530" })).await;
    assert_eq!(little, "gas required exceeds allowance (30000)");
    let poor = error_of(json!({ "from": STRANGER, "to": endless, "value": "0x1" })).await;
    assert!(poor.starts_with("insufficient funds"), "{poor}");
    let poor =
        error_of(json!({ "from": STRANGER, "to": endless, "value": "0x1", "gasPrice": "0x9" }))
            .await;
    assert_eq!(poor, "insufficient funds for transfer");
    let both = error_of(json!({ "to": STRANGER, "gasPrice": "0x1", "maxFeePerGas": "0x1" })).await;
    assert_eq!(both, "both gasPrice and (maxFeePerGas or maxPriorityFeePerGas) specified");
}

#[tokio::test]
async fn estimates_and_nonces_count_what_waits() {
    let running = RunningChain::by_hand().await;
    let deploy = transfer(0, |tx| {
        (tx.to, tx.input) = (alloy::primitives::TxKind::Create, deploying(&REFUSER));
        (tx.gas_limit, tx.value) = (100_000, U256::ZERO);
    });
    running.call("eth_sendRawTransaction", raw(&deploy)).await;
    let address = signer(0).address().create(0);
    let request = call(address, &word(1));
    let error = running.try_call("eth_estimateGas", json!([request])).await.unwrap_err();
    assert_eq!(error.0, 3, "it reverts in the next block");
    running.call("eth_estimateGas", json!([request, "latest"])).await;
}

#[tokio::test]
async fn a_long_call_delays_no_other_call() {
    let running = RunningChain::on_demand().await;
    let endless = running.deploy(&LOOP).await;
    let address = running.chain.local_addr();
    let calls: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn(async move {
                let request = json!([call(endless, &Bytes::new())]);
                http(address).raw_request::<_, Value>("eth_call".into(), request).await
            })
        })
        .collect();
    for value in 0..20 {
        running.send(TransactionRequest::default().to(STRANGER).value(U256::from(value))).await;
    }
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        assert_eq!(error.as_error_resp().unwrap().message, "out of gas");
    }
    assert_eq!(running.provider.get_block_number().await.unwrap(), 21);
}

#[tokio::test]
async fn the_next_block_is_simulated_at_the_time_it_would_have_now() {
    let running = RunningChain::on_demand().await;
    let clock = running.deploy(&ENVIRONMENT).await;
    let ask = || running.call("eth_call", json!([{ "to": clock }, "pending"]));
    let time_of = |answer: Value| {
        let bytes: Bytes = serde_json::from_value(answer).unwrap();
        U256::from_be_slice(&bytes[32..64])
    };
    let first = time_of(ask().await);
    running.call("eth_estimateGas", json!([{ "to": clock }])).await;
    // The last block is a second ahead of the clock, and the next one two seconds.
    tokio::time::sleep(std::time::Duration::from_millis(3300)).await;
    assert!(time_of(ask().await) > first, "no block was made, and time went on");
}
