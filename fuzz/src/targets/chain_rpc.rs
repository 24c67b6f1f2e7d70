//! Fuzz target: JSON-RPC messages to the embedded development chain.

use hawser_devchain::embedded::{EmbeddedSettings, Genesis, OfflineChain};
use serde_json::{Value, json};

use super::Target;

/// Most memory per byte of input. A guess: a message of forty bytes may request ten thousand blocks, and a call may use
/// the memory that its gas pays for.
const MEMORY_PER_BYTE: usize = 2 << 20;

pub(super) const TARGET: Target =
    Target { name: "chain-rpc", run, seeds, memory_factor: MEMORY_PER_BYTE };

const RICH: &str = "0x00000000000000000000000000000000000000aa";
/// Stores the first word of its input in slot 0 and logs its input with topics 0x11 and that word.
const NOTEBOOK: &str = "0x00000000000000000000000000000000000000bb";
const NOTEBOOK_CODE: &str = "365f5f375f355f555f356011365fa200";

fn chain() -> OfflineChain {
    let address = |text: &str| text.parse().expect("an address");
    let balances = vec![(address(RICH), "1000000000000000000000".parse().expect("a number"))];
    let code = hex::decode(NOTEBOOK_CODE).expect("hex is hex");
    let code = vec![(address(NOTEBOOK), code.into())];
    let genesis = Genesis { balances, code, time: Some(1_700_000_000) };
    OfflineChain::open(&EmbeddedSettings { genesis, ..EmbeddedSettings::new(31337) })
        .expect("a chain in memory")
}

/// Asserts that the chain answers any message as JSON-RPC 2.0 specifies, and stays up.
fn run(input: &[u8]) {
    let mut chain = chain();
    let impersonate_all = request(0, "anvil_autoImpersonateAccount", json!([true])).to_string();
    chain.answer(impersonate_all.as_bytes());
    let answer = chain.answer(input);
    match (&answer, serde_json::from_slice::<Value>(input)) {
        (Some(answer), Ok(_)) => check(&serde_json::from_str(answer).expect("answers are JSON")),
        (Some(answer), Err(_)) => {
            let answer: Value = serde_json::from_str(answer).expect("answers are JSON");
            assert!(!answer["error"]["code"].is_null() || answer.is_array(), "{answer}");
        }
        (None, parsed) => assert!(parsed.is_ok(), "only valid messages have no response"),
    }
    for notification in chain.take_notifications() {
        let notification: Value =
            serde_json::from_str(&notification).expect("notifications are JSON");
        assert_eq!(notification["method"], "eth_subscription");
    }
    let alive = chain
        .answer(request(1, "eth_getBlockByNumber", json!(["latest", true])).to_string().as_bytes());
    let alive: Value = serde_json::from_str(&alive.expect("an answer")).expect("answers are JSON");
    assert!(alive["result"]["hash"].is_string(), "{alive}");
}

/// Asserts that a response has either a result or an error, and that no error is an internal one.
fn check(answer: &Value) {
    if let Some(answers) = answer.as_array() {
        assert!(!answers.is_empty());
        return answers.iter().for_each(check);
    }
    assert_eq!(answer["jsonrpc"], "2.0");
    let error = &answer["error"]["code"];
    assert_ne!(error.is_null(), answer.get("result").is_none(), "{answer}");
    assert_ne!(error, -32603, "{answer}");
}

fn request(id: u64, method: &str, params: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
}

/// Values that several calls share.
struct Samples {
    hash: String,
    note: Value,
    signed: &'static str,
}

/// Returns each method once at least, with parameters that work.
fn calls() -> Vec<(&'static str, Value)> {
    let hash = format!("0x{}", "11".repeat(32));
    let samples = Samples {
        note: json!({ "from": RICH, "to": NOTEBOOK, "input": hash }),
        hash,
        signed: "0xf86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a\
            76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f7\
            61aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83",
    };
    [reads_and_sends(&samples), filters_and_subscriptions(), controls(&samples)].concat()
}

fn reads_and_sends(samples: &Samples) -> Vec<(&'static str, Value)> {
    let Samples { hash, note, signed } = samples;
    vec![
        ("web3_clientVersion", json!([])),
        ("web3_sha3", json!(["0x68656c6c6f"])),
        ("net_version", json!([])),
        ("eth_chainId", json!([])),
        ("eth_blockNumber", json!([])),
        ("eth_getBlockByNumber", json!(["pending", true])),
        ("eth_getBlockByHash", json!([hash, false])),
        ("eth_getBlockReceipts", json!(["0x1"])),
        ("eth_getBlockReceipts", json!([{ "blockHash": hash, "requireCanonical": true }])),
        ("eth_getTransactionByBlockNumberAndIndex", json!(["latest", "0x0"])),
        ("eth_getTransactionReceipt", json!([hash])),
        ("eth_getRawTransactionByHash", json!([hash])),
        ("eth_getBalance", json!([RICH, "latest"])),
        ("eth_getTransactionCount", json!([RICH, "pending"])),
        ("eth_getCode", json!([NOTEBOOK, "0x0"])),
        ("eth_getStorageAt", json!([NOTEBOOK, "0x0", "latest"])),
        ("eth_sendTransaction", json!([note])),
        ("eth_sendTransaction", json!([{ "from": RICH, "data": "0x3660005f5f3935" }])),
        ("eth_sendRawTransaction", json!([signed])),
        ("eth_call", json!([note, "latest"])),
        (
            "eth_call",
            json!([
                { "to": RICH, "data": "0x01", "gas": "0x30d40", "maxFeePerGas": "0x9" },
                "latest",
                { RICH: { "code": "0x365f5f37365ffd", "balance": "0x1", "stateDiff": { hash: hash } } },
                { "number": "0x5", "time": "0x9", "baseFeePerGas": "0x7" },
            ]),
        ),
        ("eth_estimateGas", json!([note])),
        ("eth_gasPrice", json!([])),
        ("eth_feeHistory", json!(["0x4", "latest", [10, 50.5, 90]])),
        (
            "eth_getLogs",
            json!([{ "fromBlock": "0x0", "toBlock": "latest", "address": [NOTEBOOK], "topics": [null, [hash]] }]),
        ),
        ("eth_getLogs", json!([{ "blockHash": hash, "topics": [[], hash] }])),
    ]
}

fn filters_and_subscriptions() -> Vec<(&'static str, Value)> {
    vec![
        ("eth_newFilter", json!([{ "address": NOTEBOOK }])),
        ("eth_newBlockFilter", json!([])),
        ("eth_newPendingTransactionFilter", json!([true])),
        ("eth_getFilterChanges", json!(["0x1"])),
        ("eth_getFilterLogs", json!(["0x1"])),
        ("eth_uninstallFilter", json!(["0x1"])),
        ("eth_subscribe", json!(["logs", { "address": NOTEBOOK }])),
        ("eth_subscribe", json!(["newPendingTransactions", true])),
        ("eth_subscribe", json!(["newHeads"])),
        ("eth_unsubscribe", json!(["0x1"])),
    ]
}

fn controls(samples: &Samples) -> Vec<(&'static str, Value)> {
    let Samples { hash, note, signed } = samples;
    vec![
        ("evm_mine", json!([1_800_000_000])),
        ("anvil_mine", json!(["0x5", "0x3c"])),
        ("evm_increaseTime", json!([60])),
        ("evm_setNextBlockTimestamp", json!(["0x6b49d200"])),
        ("evm_setTime", json!([1_900_000_000])),
        ("evm_snapshot", json!([])),
        ("evm_revert", json!(["0x0"])),
        ("evm_setAutomine", json!([false])),
        ("evm_setIntervalMining", json!([5])),
        ("anvil_reorg", json!([2, [[note, 0], [signed, 1]]])),
        ("anvil_reorg", json!({ "depth": 1, "txBlockPairs": [] })),
        ("anvil_rollback", json!([1])),
        ("anvil_setBalance", json!([RICH, "0xffff"])),
        ("anvil_setCode", json!([RICH, "0xef010000000000000000000000000000000000000000bb"])),
        ("anvil_setNonce", json!([RICH, "0x9"])),
        ("anvil_setStorageAt", json!([NOTEBOOK, "0x0", hash])),
        ("anvil_impersonateAccount", json!([RICH])),
        ("anvil_dropTransaction", json!([hash])),
        ("anvil_setNextBlockBaseFeePerGas", json!(["0x1"])),
        ("txpool_status", json!([])),
        ("hawser_setLogBlocksMax", json!([5])),
    ]
}

/// Returns seeds: every method alone, and batches in which the later calls have state to work on.
fn seeds() -> Vec<Vec<u8>> {
    let calls = calls();
    let note =
        calls.iter().find(|(method, _)| *method == "eth_sendTransaction").expect("one of them");
    let alone = calls.iter().map(|(method, params)| request(1, method, params.clone()));
    let rows = calls.windows(2).map(|pair| {
        let row = [note, &pair[0], note, &pair[1], note];
        let requests =
            row.iter().zip(1..).map(|((method, params), id)| request(id, method, params.clone()));
        Value::from_iter(requests)
    });
    let odd = [json!([]), json!({}), json!([1]), json!({ "jsonrpc": "2.0", "method": "evm_mine" })];
    alone.chain(rows).chain(odd).map(|seed| seed.to_string().into_bytes()).collect()
}
