//! Tests of malformed requests and unusable settings.

use alloy::providers::Provider;
use hawser_devchain::embedded::{
    BlockProduction, EmbeddedChain, EmbeddedSettings, EmbeddedStartError, Genesis,
};
use serde_json::{Value, json};

use super::support::*;

fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn malformed_requests_are_answered_as_json_rpc_says() {
    let running = RunningChain::on_demand().await;
    let address = running.chain.local_addr();
    let cases = [
        ("", -32700),
        ("{", -32700),
        ("hello", -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId""#, -32700),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}"#, -32700),
        ("{}", -32600),
        ("1", -32600),
        (r#""eth_chainId""#, -32600),
        (r#"{"jsonrpc":"2.0","method":1,"params":"bar"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"eth_chainId"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"eth_chainId"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_chainId","params":"bar"}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_subscribe","params":["newHeads"]}"#, -32601),
        (r#"{"jsonrpc":"1.0","id":1,"method":"eth_chainId"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":5}"#, -32600),
        ("[]", -32600),
        ("\u{0}", -32700),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_nothing","params":[]}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_simulateV1","params":[]}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance"}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":[5,"latest"]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_getBalance","params":{"address":5}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"eth_sendRawTransaction","params":["zz"]}"#, -32602),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"eth_feeHistory","params":["0x4","latest",[50,10]]}"#,
            -32602,
        ),
    ];
    for (body, expected) in cases {
        let (status, answer) = post(address, body.as_bytes()).await;
        let answer: Value =
            serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{body}: {status} {answer}"));
        assert_eq!(code(&answer), expected, "{body}: {answer}");
        let id = if body.contains(r#""id":1,"method""#) { json!(1) } else { Value::Null };
        let id = if expected == -32700 { Value::Null } else { id };
        assert_eq!(answer["id"], id, "{body}: {answer}");
    }
    for bytes in [&[0xff, 0xfe][..], &[b'['; 100_000], &[b'{'; 100_000]] {
        let (_, answer) = post(address, bytes).await;
        assert_eq!(code(&serde_json::from_str(&answer).unwrap()), -32700);
    }
    assert_eq!(running.provider.get_chain_id().await.unwrap(), CHAIN_ID);
}

/// The page lists for users of a tool what the chain lacks.
#[tokio::test]
async fn methods_that_are_left_out_on_purpose_are_unknown() {
    let running = RunningChain::on_demand().await;
    let page = include_str!("../../../docs/development.md");
    let (_, left_out) = page.split_once("Left out on purpose:").unwrap();
    let rows = left_out.lines().filter_map(|line| line.strip_prefix("| "));
    let names = rows.filter_map(|row| row.split(" | ").next()).flat_map(|what| what.split('`'));
    let has_prefix = |name: &&str| name.split_once('_').is_some_and(|(_, rest)| !rest.is_empty());
    let is_whole = |name: &&str| name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    let names: Vec<_> = names.filter(has_prefix).filter(is_whole).collect();
    assert!(names.len() > 20, "{names:?}");
    for method in names {
        let asked = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": [] });
        let answer = post_json(running.chain.local_addr(), &asked.to_string()).await;
        assert_eq!(code(&answer), -32601, "{method}: {answer}");
    }
}

#[tokio::test]
async fn a_batch_is_answered_part_by_part() {
    let running = RunningChain::on_demand().await;
    let address = running.chain.local_addr();
    let call = |id: u64, method: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method });
    let batch = json!([
        call(1, "eth_chainId"),
        5,
        call(2, "eth_nothing"),
        { "jsonrpc": "2.0", "method": "eth_chainId" },
        call(3, "evm_mine"),
        call(4, "eth_blockNumber"),
    ]);
    let answers = post_json(address, &batch.to_string()).await;
    let [id, wrong, unknown, mined, number] = &answers.as_array().unwrap()[..] else {
        panic!("{answers}")
    };
    assert_eq!((&id["id"], &id["result"]), (&json!(1), &json!("0x7a69")));
    assert_eq!((&wrong["id"], code(wrong)), (&Value::Null, -32600));
    assert_eq!((&unknown["id"], code(unknown)), (&json!(2), -32601));
    assert_eq!((&mined["id"], &number["result"]), (&json!(3), &json!("0x1")), "one after another");
    let notification = json!({ "jsonrpc": "2.0", "method": "evm_mine" });
    for silent in [notification.clone(), json!([notification, notification])] {
        let answer = post(address, silent.to_string().as_bytes()).await;
        assert_eq!(answer, (204, String::new()), "a notification has no answer");
    }
    assert_eq!(running.provider.get_block_number().await.unwrap(), 4, "but it is carried out");
    let long: Vec<Value> = (0..1001).map(|id| call(id, "eth_chainId")).collect();
    let answer = post_json(address, &Value::from(long).to_string()).await;
    assert_eq!(code(&answer), -32600, "{answer}");
}

#[tokio::test]
async fn an_oversized_request_is_refused_and_the_chain_stays_up() {
    let running = RunningChain::on_demand().await;
    let address = running.chain.local_addr();
    let body = |len: usize| {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "web3_sha3",
            "params": [format!("0x{}", "0".repeat(len))] });
        body.to_string().into_bytes()
    };
    let (status, answer) = post(address, &body(6 << 20)).await;
    assert_eq!((status, code(&serde_json::from_str(&answer).unwrap())), (413, -32600), "{answer}");
    let (status, answer) = post(address, &body(5_000_000)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(running.provider.get_chain_id().await.unwrap(), CHAIN_ID);
}

#[tokio::test]
async fn a_web_socket_is_told_the_same() {
    let running = RunningChain::on_demand().await;
    let mut socket = RawSocket::connect(running.chain.local_addr()).await;
    for (message, expected) in [("{", -32700), ("[]", -32600), ("{}", -32600)] {
        assert_eq!(code(&socket.ask(message).await), expected, "{message}");
    }
    let call = json!({ "jsonrpc": "2.0", "id": "x", "method": "eth_chainId" }).to_string();
    assert_eq!(socket.ask(&call).await["id"], json!("x"));
    let batch = socket.ask(&format!("[{call},{call}]")).await;
    assert_eq!(batch.as_array().unwrap().len(), 2);
    let long = socket.ask(&format!("[{}]", "1,".repeat(3 << 20))).await;
    assert_eq!(code(&long), -32600, "{long}");
    assert_eq!(running.provider.get_chain_id().await.unwrap(), CHAIN_ID);
}

/// Calls every method with parameters of every wrong type. No call may end the chain.
#[tokio::test]
async fn no_method_breaks_on_what_it_does_not_expect() {
    let running = RunningChain::on_demand().await;
    let address = running.chain.local_addr();
    let wrong = [
        json!(null),
        json!(true),
        json!(-1),
        json!(u64::MAX),
        json!(1.5),
        json!(""),
        json!("0x"),
        json!("latest"),
        json!(format!("0x{}", "f".repeat(64))),
        json!(STRANGER),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({ "from": STRANGER, "to": null, "gas": "0xffffffffffffffff", "value": "0xff" }),
        json!({ "depth": u64::MAX, "fromBlock": "0x0", "toBlock": "0xffffffffffffffff" }),
    ];
    for method in METHODS {
        for first in &wrong {
            for second in &wrong {
                let params = json!([first, second, second, second]);
                let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
                let answer = post_json(address, &body.to_string()).await;
                assert_eq!(answer["id"], json!(1), "{method} {params}: {answer}");
                assert_ne!(answer["error"]["code"], json!(-32603), "{method} {params}: {answer}");
                assert_ne!(answer["error"]["code"], json!(-32601), "{method}");
            }
        }
    }
    assert_eq!(running.provider.get_chain_id().await.unwrap(), CHAIN_ID);
}

const METHODS: &[&str] = &[
    "anvil_addBalance",
    "anvil_autoImpersonateAccount",
    "anvil_dropAllTransactions",
    "anvil_dropTransaction",
    "anvil_getAutomine",
    "anvil_getIntervalMining",
    "anvil_impersonateAccount",
    "anvil_mine",
    "anvil_reorg",
    "anvil_rollback",
    "anvil_setBalance",
    "anvil_setCode",
    "anvil_setNextBlockBaseFeePerGas",
    "anvil_setNonce",
    "anvil_setStorageAt",
    "anvil_stopImpersonatingAccount",
    "eth_accounts",
    "eth_blobBaseFee",
    "eth_blockNumber",
    "eth_call",
    "eth_chainId",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_getBalance",
    "eth_getBlockByHash",
    "eth_getBlockByNumber",
    "debug_traceTransaction",
    "eth_getBlockReceipts",
    "eth_getBlockTransactionCountByHash",
    "eth_getBlockTransactionCountByNumber",
    "eth_getCode",
    "eth_getFilterChanges",
    "eth_getFilterLogs",
    "eth_getLogs",
    "eth_getRawTransactionByHash",
    "eth_getStorageAt",
    "eth_getTransactionByBlockHashAndIndex",
    "eth_getTransactionByBlockNumberAndIndex",
    "eth_getTransactionByHash",
    "eth_getTransactionCount",
    "eth_getTransactionReceipt",
    "eth_maxPriorityFeePerGas",
    "eth_newBlockFilter",
    "eth_newFilter",
    "eth_newPendingTransactionFilter",
    "eth_sendRawTransaction",
    "eth_sendTransaction",
    "eth_syncing",
    "eth_uninstallFilter",
    "evm_increaseTime",
    "evm_mine",
    "evm_revert",
    "evm_setAutomine",
    "evm_setIntervalMining",
    "evm_setNextBlockTimestamp",
    "evm_setTime",
    "evm_snapshot",
    "hawser_setLogBlocksMax",
    "net_listening",
    "net_peerCount",
    "net_version",
    "txpool_status",
    "web3_clientVersion",
    "web3_sha3",
];

#[tokio::test]
async fn pages_of_any_origin_may_ask() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = RunningChain::on_demand().await;
    let mut stream = tokio::net::TcpStream::connect(running.chain.local_addr()).await.unwrap();
    let request = "OPTIONS / HTTP/1.1\r\nhost: x\r\norigin: http://localhost:3000\r\n\
        access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\
        connection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert!(answer.to_lowercase().contains("access-control-allow-origin: *"), "{answer}");
}

#[tokio::test]
async fn the_default_listen_address_is_loopback() {
    let everywhere = EmbeddedSettings { listen: "0.0.0.0:0".parse().unwrap(), ..settings() };
    let error = EmbeddedChain::start(everywhere.clone()).await.unwrap_err();
    assert!(matches!(error, EmbeddedStartError::Remote { .. }), "{error}");
    let chain =
        EmbeddedChain::start(EmbeddedSettings { allow_remote: true, ..everywhere }).await.unwrap();
    let taken = EmbeddedSettings { listen: chain.local_addr(), allow_remote: true, ..settings() };
    let error = EmbeddedChain::start(taken).await.unwrap_err();
    assert!(matches!(error, EmbeddedStartError::Listen { .. }), "{error}");
    chain.stop().await;
}

#[tokio::test]
async fn settings_that_make_no_chain_are_refused() {
    let started = async |settings| EmbeddedChain::start(settings).await.unwrap_err();
    let blocks = BlockProduction::Every(std::time::Duration::ZERO);
    let error = started(EmbeddedSettings { blocks, ..settings() }).await;
    assert!(matches!(error, EmbeddedStartError::NoInterval), "{error}");
    let genesis = Genesis { time: Some(u64::MAX), ..Genesis::default() };
    let error = started(EmbeddedSettings { genesis, ..settings() }).await;
    assert!(matches!(error, EmbeddedStartError::GenesisTime { time: u64::MAX }), "{error}");
    let code = vec![(STRANGER, alloy::primitives::bytes!("ef0100"))];
    let genesis = Genesis { code, ..Genesis::default() };
    let error = started(EmbeddedSettings { genesis, ..settings() }).await;
    assert!(matches!(error, EmbeddedStartError::GenesisCode { address: STRANGER }), "{error}");
}
