//! Tests of traces of mined transactions.

use alloy::network::TransactionBuilder;
use alloy::primitives::{Address, Bytes, U256, address, bytes};
use alloy::providers::Provider;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::sol_types::{Revert, SolError};
use serde_json::{Value, json};

use super::support::*;

/// Returns code that calls an account with the first 32 bytes of its input, and returns the result of that call.
fn forwarder(to: Address) -> Bytes {
    let call = bytes!("5f355f525f5f60205f3473");
    let answer = bytes!("5af1503d5f5f3e3d5ff3");
    [&call[..], to.as_slice(), &answer[..]].concat().into()
}

async fn sent(running: &RunningChain, to: Address, input: Bytes) -> TransactionReceipt {
    let request = TransactionRequest::default()
        .with_from(signer(0).address())
        .with_to(to)
        .with_value(U256::from(3))
        .with_gas_limit(200_000)
        .with_input(input);
    running.send(request).await
}

async fn traced(running: &RunningChain, receipt: &TransactionReceipt) -> Value {
    let tracer = json!({ "tracer": "callTracer" });
    running.call("debug_traceTransaction", json!([receipt.transaction_hash, tracer])).await
}

#[tokio::test]
async fn calls_into_accounts_whose_code_was_set_are_part_of_a_trace() {
    let running = RunningChain::on_demand().await;
    let outer = address!("0x00000000000000000000000000000000000000c1");
    let inner = address!("0x00000000000000000000000000000000000000c2");
    for (account, code) in [(outer, forwarder(inner)), (inner, forwarder(STRANGER))] {
        running.call("anvil_setCode", json!([account, code])).await;
    }
    let receipt = sent(&running, outer, word(7)).await;
    assert!(receipt.status());
    let frame = traced(&running, &receipt).await;
    assert_eq!((&frame["type"], &frame["to"]), (&json!("CALL"), &json!(outer)));
    assert_eq!(frame["gasUsed"], json!(format!("{:#x}", receipt.gas_used)));
    let call = &frame["calls"][0];
    assert_eq!((&call["from"], &call["to"]), (&json!(outer), &json!(inner)));
    assert_eq!((&call["input"], &call["value"]), (&json!(word(7)), &json!("0x3")));
    let last = &call["calls"][0];
    assert_eq!((&last["from"], &last["to"]), (&json!(inner), &json!(STRANGER)));
    assert_eq!((last.get("calls"), last.get("error")), (None, None));
    // Code changes in later blocks do not change a trace.
    running.call("anvil_setCode", json!([inner, ECHO])).await;
    running.mine().await;
    assert_eq!(traced(&running, &receipt).await, frame);
    let top = json!({ "tracer": "callTracer", "tracerConfig": { "onlyTopCall": true } });
    let top = running.call("debug_traceTransaction", json!([receipt.transaction_hash, top])).await;
    assert_eq!((top.get("calls"), &top["gasUsed"]), (None, &frame["gasUsed"]));
}

#[tokio::test]
async fn a_trace_shows_which_call_reverted() {
    let running = RunningChain::on_demand().await;
    let refuser = running.deploy(&REFUSER).await;
    let outer = address!("0x00000000000000000000000000000000000000c1");
    running.call("anvil_setCode", json!([outer, forwarder(refuser)])).await;
    let receipt = sent(&running, outer, word(9)).await;
    assert!(receipt.status(), "the outer call goes on");
    let frame = traced(&running, &receipt).await;
    assert_eq!(frame.get("error"), None);
    assert_eq!(frame["output"], json!(word(9)));
    let call = &frame["calls"][0];
    assert_eq!((&call["error"], &call["output"]), (&json!("execution reverted"), &json!(word(9))));
}

#[tokio::test]
async fn precompiles_and_creations_are_calls_of_a_trace() {
    let running = RunningChain::on_demand().await;
    let identity = address!("0x0000000000000000000000000000000000000004");
    let outer = address!("0x00000000000000000000000000000000000000c1");
    running.call("anvil_setCode", json!([outer, forwarder(identity)])).await;
    let frame = traced(&running, &sent(&running, outer, word(9)).await).await;
    assert_eq!(frame["calls"][0]["to"], json!(identity));
    assert_eq!(frame["calls"][0]["output"], json!(word(9)));

    // mstore8(0, 0); create2(0, 0, 1, 5): deploys an empty contract.
    let creator = bytes!("5f5f53600560015f5ff500");
    running.call("anvil_setCode", json!([outer, creator])).await;
    let frame = traced(&running, &sent(&running, outer, Bytes::new()).await).await;
    let call = &frame["calls"][0];
    let salt = alloy::primitives::B256::with_last_byte(5);
    let created = outer.create2(salt, alloy::primitives::keccak256([0]));
    assert_eq!((&call["type"], &call["to"]), (&json!("CREATE2"), &json!(created)));
    assert_eq!(call["input"], json!("0x00"));
}

#[tokio::test]
async fn calls_that_copy_more_than_is_kept_are_not_shown() {
    let running = RunningChain::on_demand().await;
    // This contract calls the account 0xaa with the same half megabyte of memory until little gas is left.
    let greedy = address!("0x00000000000000000000000000000000000000c1");
    let code = bytes!("5b5f5f620800005f5f60aa61fffff150620100005a115f5700");
    running.call("anvil_setCode", json!([greedy, code])).await;
    let request = TransactionRequest::default()
        .with_from(signer(0).address())
        .with_to(greedy)
        .with_gas_limit(10_000_000);
    let receipt = running.send(request).await;
    assert!(receipt.status());
    let asked = json!([receipt.transaction_hash, { "tracer": "callTracer" }]);
    let (code, reason) = running.try_call("debug_traceTransaction", asked).await.unwrap_err();
    assert_eq!(code, -32005, "{reason}");
    assert!(running.provider.get_block_number().await.unwrap() > 0, "the chain goes on");
}

#[tokio::test]
async fn a_failed_transaction_is_traced_to_what_it_reverted_with() {
    let running = RunningChain::on_demand().await;
    let refuser = running.deploy(&REFUSER).await;
    let reason = Bytes::from(Revert::from("no such node").abi_encode());
    let request = TransactionRequest::default()
        .with_from(signer(0).address())
        .with_to(refuser)
        .with_gas_limit(100_000)
        .with_input(reason.clone());
    let receipt = running.send(request).await;
    assert!(!receipt.status());
    let tracer = json!({ "tracer": "callTracer" });
    let asked = json!([receipt.transaction_hash, tracer]);
    let frame = running.call("debug_traceTransaction", asked).await;
    assert_eq!(frame["type"], "CALL");
    assert_eq!(frame["to"], json!(refuser));
    assert_eq!(frame["output"], json!(reason));
    assert_eq!(frame["error"], "execution reverted");
    assert_eq!(frame["revertReason"], "no such node");
    assert_eq!(frame["gasUsed"], json!(format!("{:#x}", receipt.gas_used)));
    let unknown = json!([alloy::primitives::B256::ZERO, tracer]);
    let error = running.try_call("debug_traceTransaction", unknown).await.unwrap_err();
    assert_eq!(error, (-32000, "transaction not found".to_owned()));
    let other = json!([receipt.transaction_hash, { "tracer": "prestateTracer" }]);
    assert_eq!(running.try_call("debug_traceTransaction", other).await.unwrap_err().0, -32602);
}
