//! A proxy in front of a chain's RPC that corrupts responses.

#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of this")]

mod faults;
mod inventor;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::consensus::{Transaction as _, TxEnvelope};
use alloy::eips::eip2718::Decodable2718 as _;
pub(crate) use faults::Faults;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use inventor::{Inventor, unix_s_in_an_hour};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The time for which a request hangs, in milliseconds: longer than any time limit.
const HANG_MS: u64 = 60_000;

/// A running proxy, which ends when it is dropped.
pub(crate) struct Proxy {
    shared: Arc<ProxyState>,
    address: std::net::SocketAddr,
}

struct ProxyState {
    to: String,
    client: reqwest::Client,
    state: Mutex<ProxyFaults>,
}

struct ProxyFaults {
    faults: Faults,
    random: StdRng,
    spoilt: u64,
    asked: BTreeMap<String, u64>,
    /// The length of the longest call of a contract, in characters of JSON.
    longest_call: usize,
    /// The times at which the proxy first saw logs of each block.
    seen: BTreeMap<u64, Instant>,
}

impl Proxy {
    pub(crate) async fn start(to: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let random = StdRng::seed_from_u64(seed);
        let faults = Faults::default();
        let state = ProxyFaults {
            faults,
            random,
            spoilt: 0,
            asked: BTreeMap::new(),
            longest_call: 0,
            seen: BTreeMap::new(),
        };
        let client = hawser_chain::send::http_client().unwrap();
        let shared = ProxyState { to: to.to_owned(), client, state: Mutex::new(state) };
        let shared = Arc::new(shared);
        let serving = shared.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = serving.clone();
                let service = service_fn(move |request| shared.clone().answer(request));
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(served);
            }
        });
        Self { shared, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.state.lock().faults);
    }

    pub(crate) fn faults(&self) -> Faults {
        self.shared.state.lock().faults
    }

    /// Returns the number of corrupted responses.
    pub(crate) fn spoilt(&self) -> u64 {
        self.shared.state.lock().spoilt
    }

    /// Returns the number of requests of a method.
    pub(crate) fn asked(&self, method: &str) -> u64 {
        self.shared.state.lock().asked.get(method).copied().unwrap_or_default()
    }

    /// Returns the length of the longest call of a contract, in characters of JSON.
    pub(crate) fn longest_call(&self) -> usize {
        self.shared.state.lock().longest_call
    }
}

impl ProxyState {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let body = request.into_body().collect().await.map(|body| body.to_bytes());
        let body = body.unwrap_or_default();
        let (pause_ms, broken) = self.mood();
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        if let Some(status) = broken {
            let mut response = Response::new(Full::from("<html>sorry</html>"));
            *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
            return Ok(response);
        }
        let asked: Value = serde_json::from_slice(&body).unwrap();
        if self.is_too_much(&asked) {
            let mut response = Response::new(Full::from("<html>took too long</html>"));
            *response.status_mut() = hyper::StatusCode::GATEWAY_TIMEOUT;
            return Ok(response);
        }
        let top = self.top().await;
        let mut lowered = asked.clone();
        if let Some(top) = top {
            match &mut lowered {
                Value::Array(asked) => asked.iter_mut().for_each(|asked| lower(asked, top)),
                asked => lower(asked, top),
            }
        }
        if self.is_mute(&asked) {
            tokio::time::sleep(Duration::from_millis(HANG_MS)).await;
        }
        let mut answer = match self.kept_back(&asked) {
            Some(answer) => answer,
            None => self.forward(&lowered).await,
        };
        if let Some(top) = top {
            match (&asked, &mut answer) {
                (Value::Array(asked), Value::Array(answers)) => {
                    asked.iter().zip(answers).for_each(|(asked, answer)| hide(asked, answer, top));
                }
                (asked, answer) => hide(asked, answer, top),
            }
        }
        match (&asked, &mut answer) {
            (Value::Array(asked), Value::Array(answers)) => {
                asked.iter().zip(answers).for_each(|(asked, answer)| self.spoil(asked, answer));
            }
            (asked, answer) => self.spoil(asked, answer),
        }
        let inventor = self.inventor().await;
        match (&inventor, &asked, &mut answer) {
            (Some(inventor), Value::Array(asked), Value::Array(answers)) => {
                asked
                    .iter()
                    .zip(answers)
                    .for_each(|(asked, answer)| inventor.invent(asked, answer));
            }
            (Some(inventor), asked, answer) => inventor.invent(asked, answer),
            (None, ..) => {}
        }
        Ok(Response::new(Full::from(answer.to_string())))
    }

    /// Returns the maker of blocks above the chain's, if the proxy has this fault and the chain is not that high.
    async fn inventor(&self) -> Option<Inventor> {
        let Faults { invents, is_barren, .. } = self.state.lock().faults;
        let top = invents?;
        let ask = |method, params| json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let head = self.forward(&ask("eth_getBlockByNumber", json!(["latest", false]))).await;
        let logs = ask("eth_getLogs", json!([{ "fromBlock": "0x0" }]));
        let logs = self.forward(&logs).await["result"].take();
        let inventor = Inventor { top, is_barren, head: head["result"].clone(), logs };
        (inventor.height() < top).then_some(inventor)
    }

    async fn forward(&self, asked: &Value) -> Value {
        let sent = self.client.post(&self.to).header("content-type", "application/json");
        let answer = sent.body(asked.to_string()).send().await.unwrap().bytes().await.unwrap();
        serde_json::from_slice(&answer).unwrap()
    }

    /// Returns the highest block that it serves; `None` if it serves all.
    async fn top(&self) -> Option<u64> {
        let Faults { behind, resyncing, .. } = self.state.lock().faults;
        if resyncing.is_some() || behind == 0 {
            return resyncing;
        }
        let asked = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": [] });
        Some(number(&self.forward(&asked).await["result"])?.saturating_sub(behind))
    }

    fn is_too_much(&self, asked: &Value) -> bool {
        let mut state = self.state.lock();
        let is_too_much =
            state.faults.weak && asked["method"] == "eth_getLogs" && blocks_of(asked) > 2;
        state.spoilt += u64::from(is_too_much);
        is_too_much
    }

    /// Returns the delay of the response, and an HTTP status if it fails.
    fn mood(&self) -> (u64, Option<u16>) {
        let mut state = self.state.lock();
        let faults = state.faults;
        if faults.dead {
            state.spoilt += 1;
            return (0, Some(503));
        }
        if faults.hangs {
            state.spoilt += 1;
            return (HANG_MS, Some(503));
        }
        let pause = if faults.slow && state.random.random_ratio(1, 8) { 60 } else { 0 };
        let broken = faults.garbage && state.random.random_ratio(1, 8);
        state.spoilt += u64::from(broken);
        let status = if state.random.random() { 500 } else { 200 };
        (pause, broken.then_some(status))
    }

    fn is_mute(&self, asked: &Value) -> bool {
        let mut state = self.state.lock();
        let is_mute = state.faults.mutes && asked["method"] == "eth_sendRawTransaction";
        state.spoilt += u64::from(is_mute);
        is_mute
    }

    /// Returns the proxy's own answer to a transaction that it does not pass on.
    fn kept_back(&self, asked: &Value) -> Option<Value> {
        let mut state = self.state.lock();
        let Faults { swallows, refuses, tip_min_wei, .. } = state.faults;
        let method = asked["method"].as_str()?;
        let answer = match method {
            "eth_sendRawTransaction" if swallows => {
                let raw = asked["params"][0].as_str()?.parse::<alloy::primitives::Bytes>().ok()?;
                json!({ "result": alloy::primitives::keccak256(raw) })
            }
            "eth_sendRawTransaction"
                if tip_min_wei.is_some_and(|min| tip_of(asked) < Some(min)) =>
            {
                let message = "transaction underpriced: gas tip cap below the minimum";
                json!({ "error": { "code": -32000, "message": message } })
            }
            "eth_sendRawTransaction" | "eth_estimateGas" if refuses => {
                let message = "insufficient funds for gas * price + value";
                json!({ "error": { "code": -32000, "message": message } })
            }
            _ => return None,
        };
        state.spoilt += 1;
        let mut answer = answer;
        (answer["jsonrpc"], answer["id"]) = (json!("2.0"), asked["id"].clone());
        Some(answer)
    }

    fn spoil(&self, asked: &Value, answer: &mut Value) {
        let state = &mut *self.state.lock();
        let method = asked["method"].as_str().unwrap_or_default();
        *state.asked.entry(method.to_owned()).or_default() += 1;
        if method == "eth_call" {
            state.longest_call = state.longest_call.max(asked["params"][0].to_string().len());
        }
        let faults = state.faults;
        if let Some(block) = answer.get_mut("result").filter(|_| method == "eth_getBlockByNumber") {
            state.spoilt += misstate(faults, &asked["params"][0], block);
        }
        state.spoilt += misprice(faults, method, answer) + conceal(faults, method, asked, answer);
        if method == "eth_getLogs" {
            state.spoilt += tamper(faults, &mut state.seen, asked, answer, &mut state.random);
        }
        let random = &mut state.random;
        let mut now = |is: bool, one_in| is && random.random_ratio(1, one_in);
        match method {
            "eth_chainId" if faults.wrong_chain => answer["result"] = json!("0x1"),
            _ if faults.useless && method != "eth_chainId" => {
                *answer = refusal(asked, -32603, "no upstream is available");
            }
            "eth_getBlockByNumber" if faults.headless && asked["params"][0] == "latest" => {
                *answer = refusal(asked, -32603, "no upstream is available");
            }
            "eth_getTransactionByHash" if faults.unindexed => answer["result"] = Value::Null,
            "eth_sendRawTransaction" if faults.says_used => {
                *answer = refusal(asked, -32000, "nonce too low");
            }
            "eth_sendRawTransaction" if faults.says_refused => {
                *answer = refusal(asked, -32000, "insufficient funds for gas * price + value");
            }
            "eth_getTransactionReceipt" if faults.reverts || faults.confirms => {
                show(&asked["params"][0], &mut answer["result"], faults.confirms);
            }
            "eth_getTransactionReceipt" if faults.denies => answer["result"] = Value::Null,
            "eth_getBlockReceipts" if faults.singly => {
                *answer = refusal(asked, -32601, "method not found");
            }
            "eth_getBlockReceipts" if faults.denies => {
                let receipts = answer["result"].as_array_mut();
                receipts.into_iter().flatten().for_each(|receipt| receipt["logs"] = json!([]));
            }
            "eth_getTransactionCount" if faults.miscounts != 0 => miscount(faults, answer),
            "eth_call" if made_up(faults).is_some() => {
                *answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": made_up(faults) });
            }
            "eth_call" if faults.stateless => *answer = refusal(asked, -32000, "missing trie node"),
            "eth_getBlockByNumber" if now(faults.forgetful, 30) => answer["result"] = Value::Null,
            "eth_getLogs" if is_refused_range(faults, asked) => {
                *answer = refusal(asked, -32602, "the range is too wide");
            }
            "eth_getLogs" if now(faults.narrow, 5) => {
                *answer = refusal(asked, -32000, "query timeout exceeded");
            }
            "eth_getLogs" => {
                let (shuffled, truncated) = (now(faults.shuffled, 2), now(faults.truncated, 6));
                // Indexing would add a result to an error, and make it malformed.
                let logs = answer.get_mut("result").and_then(Value::as_array_mut);
                let Some(logs) = logs else { return };
                if !mix_up(logs, shuffled, truncated, random) {
                    return;
                }
            }
            _ => return,
        }
        state.spoilt += 1;
    }
}

/// Returns the tip of a transaction that is to be sent, in wei.
fn tip_of(asked: &Value) -> Option<u128> {
    let raw = asked["params"][0].as_str()?.parse::<alloy::primitives::Bytes>().ok()?;
    TxEnvelope::decode_2718_exact(&raw).ok()?.max_priority_fee_per_gas()
}

/// Returns the value that the endpoint returns from all functions of all contracts, if it makes one up.
fn made_up(faults: Faults) -> Option<String> {
    match faults {
        Faults { feigns: true, .. } => Some(format!("0x{:064x}", 9)),
        Faults { claims_pause: Some(is_paused), .. } => {
            Some(format!("0x{:064x}", u8::from(is_paused)))
        }
        Faults { empties: true, .. } => Some(format!("0x{:064x}{:064x}", 32, 0)),
        _ => None,
    }
}

/// Adds the fault's number to a count of transactions.
fn miscount(faults: Faults, answer: &mut Value) {
    if let Some(count) = number(&answer["result"]) {
        let count = count.saturating_add_signed(faults.miscounts);
        answer["result"] = json!(format!("0x{count:x}"));
    }
}

/// Shuffles logs, with each twice and one marked as removed, or drops the last one. Returns false if it does neither.
fn mix_up(logs: &mut Vec<Value>, shuffled: bool, truncated: bool, random: &mut StdRng) -> bool {
    if shuffled && !logs.is_empty() {
        let mut removed = logs[0].clone();
        removed["removed"] = json!(true);
        logs.extend(logs.clone());
        logs.push(removed);
        logs.shuffle(random);
    } else if truncated {
        logs.pop();
    } else {
        return false;
    }
    true
}

/// Applies the permanent faults of logs. Returns 1 if it changed the answer.
fn tamper(
    faults: Faults,
    seen: &mut BTreeMap<u64, Instant>,
    asked: &Value,
    answer: &mut Value,
    random: &mut StdRng,
) -> u64 {
    if faults.limited && random.random() {
        let error = json!({ "code": -32005, "message": "daily rate limit exceeded" });
        *answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "error": error });
        return 1;
    }
    // Indexing would add a result to an error.
    let Some(logs) = answer.get_mut("result").and_then(Value::as_array_mut) else { return 0 };
    let (before, now) = (logs.len(), Instant::now());
    logs.retain(|log| {
        let block = number(&log["blockNumber"]).unwrap_or_default();
        let first = *seen.entry(block).or_insert(now);
        let is_late = now.duration_since(first) < Duration::from_millis(faults.late_ms);
        let is_forked = faults.forked_at.is_some_and(|fork| block >= fork);
        let is_omitted = (faults.omits || faults.conceals) && block.is_multiple_of(3);
        !(is_late || is_forked || is_omitted)
    });
    for log in logs.iter_mut().filter(|_| faults.forges) {
        let data = log["data"].as_str().unwrap_or_default().replace("01010101", "02020202");
        log["data"] = json!(data);
    }
    for log in logs.iter_mut().filter(|_| faults.renames) {
        log["transactionHash"] = other_hash(&log["transactionHash"]);
    }
    u64::from(logs.len() < before || faults.forges || faults.renames)
}

/// Applies the faults of headers to the block that was asked for by this name. Returns 1 if it changed the block.
fn misstate(faults: Faults, name: &Value, block: &mut Value) -> u64 {
    let claimed = faults.claims_head.filter(|_| name == "latest" && block.is_object());
    if let Some(top) = claimed {
        block["number"] = json!(format!("0x{top:x}"));
        return 1;
    }
    let Some(number) = number(&block["number"]) else { return 0 };
    if let Some(promises) = faults.bloom {
        let digit = if promises { "f" } else { "0" };
        block["logsBloom"] = json!(format!("0x{}", digit.repeat(512)));
    }
    if faults.misdates {
        block["timestamp"] = json!(format!("0x{:x}", unix_s_in_an_hour()));
    }
    if faults.orphans {
        block["parentHash"] = other_hash(&block["parentHash"]);
    }
    let forked = faults.forked_at.filter(|fork| number >= *fork);
    if let Some(fork) = forked {
        block["hash"] = other_hash(&block["hash"]);
        if number > fork {
            block["parentHash"] = other_hash(&block["parentHash"]);
        }
    }
    let is_changed = faults.bloom.is_some() || faults.misdates || faults.orphans;
    u64::from(is_changed || forked.is_some())
}

/// Replaces an estimate, a price, or all prices of a fee history. Returns 1 if it changed the answer. Errors stay.
fn misprice(faults: Faults, method: &str, answer: &mut Value) -> u64 {
    let Some(result) = answer.get_mut("result") else { return 0 };
    if let Some(gas) = faults.estimates.filter(|_| method == "eth_estimateGas") {
        *result = json!(format!("0x{gas:x}"));
        return 1;
    }
    let Some(wei) = faults.prices_wei else { return 0 };
    let wei = json!(format!("0x{wei:x}"));
    match method {
        "eth_gasPrice" => *result = wei,
        "eth_feeHistory" => {
            for field in ["baseFeePerGas", "reward"] {
                result.get_mut(field).into_iter().for_each(|prices| replace(prices, &wei));
            }
        }
        _ => return 0,
    }
    1
}

fn replace(values: &mut Value, by: &Value) {
    match values {
        Value::Array(values) => values.iter_mut().for_each(|value| replace(value, by)),
        value => *value = by.clone(),
    }
}

/// Turns the receipt of a transaction into that of a success or of a failure without events, or makes one up.
fn show(hash: &Value, receipt: &mut Value, succeeded: bool) {
    if receipt.is_null() {
        let word = |byte: &str| format!("0x{}", byte.repeat(32));
        *receipt = json!({
            "type": "0x0",
            "transactionHash": hash,
            "transactionIndex": "0x0",
            "blockHash": word("ee"),
            "blockNumber": "0x1",
            "from": format!("0x{}", "11".repeat(20)),
            "to": format!("0x{}", "22".repeat(20)),
            "contractAddress": null,
            "cumulativeGasUsed": "0x5208",
            "gasUsed": "0x5208",
            "effectiveGasPrice": "0x1",
            "logsBloom": format!("0x{}", "00".repeat(256)),
        });
    }
    let status = if succeeded { "0x1" } else { "0x0" };
    (receipt["status"], receipt["logs"]) = (json!(status), json!([]));
}

/// Returns the answer of an endpoint that refuses a request.
fn refusal(asked: &Value, code: i64, message: &str) -> Value {
    let error = json!({ "code": code, "message": message });
    json!({ "jsonrpc": "2.0", "id": asked["id"], "error": error })
}

/// Keeps back all receipts, or the headers and receipts of every third block and those of its transactions. Returns 1
/// if it changed the answer.
fn conceal(faults: Faults, method: &str, asked: &Value, answer: &mut Value) -> u64 {
    let is_receipts = matches!(method, "eth_getTransactionReceipt" | "eth_getBlockReceipts");
    if faults.withholds && is_receipts {
        *answer = refusal(asked, 429, "too many requests");
        return 1;
    }
    let shown = answer.get("result").filter(|_| faults.conceals);
    let block = match method {
        "eth_getBlockByNumber" | "eth_getBlockReceipts" => number(&asked["params"][0]),
        "eth_getBlockByHash" => shown.and_then(|shown| number(&shown["number"])),
        "eth_getTransactionReceipt" => shown.and_then(|shown| number(&shown["blockNumber"])),
        _ => None,
    };
    if shown.is_none() || block.is_none_or(|block| !block.is_multiple_of(3)) {
        return 0;
    }
    answer["result"] = Value::Null;
    1
}

/// Returns the hash with another first byte.
fn other_hash(hash: &Value) -> Value {
    let text = hash.as_str().unwrap_or_default();
    let first = if text.starts_with("0xee") { "0xdd" } else { "0xee" };
    json!(format!("{first}{}", text.get(4..).unwrap_or_default()))
}

/// Returns the number of blocks whose logs are asked for.
fn blocks_of(asked: &Value) -> u64 {
    let [first, last] = range_of(asked);
    1 + last.saturating_sub(first)
}

/// Returns the first and the last block whose logs are asked for.
fn range_of(asked: &Value) -> [u64; 2] {
    ["fromBlock", "toBlock"].map(|name| number(&asked["params"][0][name]).unwrap_or_default())
}

/// Returns true if the endpoint has not the logs of all these blocks, or returns none of so many.
fn is_refused_range(faults: Faults, asked: &Value) -> bool {
    let is_pruned = faults.pruned_below.is_some_and(|first| range_of(asked)[0] < first);
    is_pruned || faults.range_max.is_some_and(|most| blocks_of(asked) > most)
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// Limits a request to the blocks of an endpoint with this head.
fn lower(asked: &mut Value, top: u64) {
    let top = json!(format!("0x{top:x}"));
    match asked["method"].as_str() {
        Some("eth_getBlockByNumber") if asked["params"][0] == "latest" => asked["params"][0] = top,
        _ => {}
    }
}

/// Removes from an answer all blocks above this head.
fn hide(asked: &Value, answer: &mut Value, top: u64) {
    match asked["method"].as_str() {
        Some("eth_blockNumber") => answer["result"] = json!(format!("0x{top:x}")),
        Some("eth_getBlockByNumber") if number(&asked["params"][0]).is_some_and(|it| it > top) => {
            answer["result"] = Value::Null;
        }
        Some("eth_getLogs")
            if number(&asked["params"][0]["toBlock"]).is_some_and(|it| it > top) =>
        {
            let error = json!({ "code": -32602, "message": "block range extends beyond head" });
            *answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "error": error });
        }
        _ => {}
    }
}
