//! A proxy in front of a chain's RPC that corrupts responses.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The faults of the proxy. Those other than `dead`, `wrong_chain`, `weak` and `unindexed` occur at
/// random.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    /// Closes every connection.
    pub(crate) dead: bool,
    pub(crate) wrong_chain: bool,
    /// Status 500, or a body that is no JSON.
    pub(crate) garbage: bool,
    pub(crate) slow: bool,
    /// Logs out of order, twice, or said to be removed.
    pub(crate) shuffled: bool,
    /// Missing logs.
    pub(crate) truncated: bool,
    /// Missing blocks.
    pub(crate) forgetful: bool,
    /// Refusals of long block ranges.
    pub(crate) narrow: bool,
    /// No response to requests for the logs of more than two blocks.
    pub(crate) weak: bool,
    /// Missing transactions, although their logs are present.
    pub(crate) unindexed: bool,
}

impl Faults {
    pub(crate) const ALL: Self = Self {
        dead: false,
        wrong_chain: false,
        garbage: true,
        slow: true,
        shuffled: true,
        truncated: true,
        forgetful: true,
        narrow: true,
        weak: false,
        unindexed: false,
    };
}

/// A proxy. It ends with the test.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    address: std::net::SocketAddr,
}

struct Shared {
    to: String,
    client: reqwest::Client,
    state: Mutex<State>,
}

struct State {
    faults: Faults,
    random: StdRng,
    spoilt: u64,
    asked: BTreeMap<String, u64>,
}

impl Proxy {
    pub(crate) async fn start(to: &str, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let random = StdRng::seed_from_u64(seed);
        let faults = Faults::default();
        let state = State { faults, random, spoilt: 0, asked: BTreeMap::new() };
        let client = hawser_chain::send::http_client().unwrap();
        let shared = Shared { to: to.to_owned(), client, state: Mutex::new(state) };
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

    /// Returns the number of corrupt responses.
    pub(crate) fn spoilt(&self) -> u64 {
        self.shared.state.lock().spoilt
    }

    /// Returns the number of requests of a method.
    pub(crate) fn asked(&self, method: &str) -> u64 {
        self.shared.state.lock().asked.get(method).copied().unwrap_or_default()
    }
}

impl Shared {
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
        let sent = self.client.post(&self.to).header("content-type", "application/json");
        let answer = sent.body(body).send().await.unwrap().bytes().await.unwrap();
        let mut answer: Value = serde_json::from_slice(&answer).unwrap();
        match (&asked, &mut answer) {
            (Value::Array(asked), Value::Array(answers)) => {
                asked.iter().zip(answers).for_each(|(asked, answer)| self.spoil(asked, answer));
            }
            (asked, answer) => self.spoil(asked, answer),
        }
        Ok(Response::new(Full::from(answer.to_string())))
    }

    fn is_too_much(&self, asked: &Value) -> bool {
        let mut state = self.state.lock();
        let filter = &asked["params"][0];
        let block = |name: &str| {
            let text = filter[name].as_str().and_then(|text| text.strip_prefix("0x"));
            text.and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or_default()
        };
        let blocks = 1 + block("toBlock").saturating_sub(block("fromBlock"));
        let is_too_much = state.faults.weak && asked["method"] == "eth_getLogs" && blocks > 2;
        state.spoilt += u64::from(is_too_much);
        is_too_much
    }

    /// Returns the delay, and the status of a response that is none.
    fn mood(&self) -> (u64, Option<u16>) {
        let mut state = self.state.lock();
        let faults = state.faults;
        if faults.dead {
            return (0, Some(503));
        }
        let pause = if faults.slow && state.random.random_ratio(1, 8) { 60 } else { 0 };
        let broken = faults.garbage && state.random.random_ratio(1, 8);
        state.spoilt += u64::from(broken);
        let status = if state.random.random() { 500 } else { 200 };
        (pause, broken.then_some(status))
    }

    fn spoil(&self, asked: &Value, answer: &mut Value) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let method = asked["method"].as_str().unwrap_or_default();
        *state.asked.entry(method.to_owned()).or_default() += 1;
        let (faults, random) = (state.faults, &mut state.random);
        let mut now = |is: bool, one_in| is && random.random_ratio(1, one_in);
        match method {
            "eth_chainId" if faults.wrong_chain => answer["result"] = json!("0x1"),
            "eth_getTransactionByHash" if faults.unindexed => answer["result"] = Value::Null,
            "eth_getBlockByNumber" if now(faults.forgetful, 30) => answer["result"] = Value::Null,
            "eth_getLogs" if now(faults.narrow, 5) => {
                let error = json!({ "code": -32000, "message": "query timeout exceeded" });
                *answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "error": error });
            }
            "eth_getLogs" => {
                let (shuffled, truncated) = (now(faults.shuffled, 2), now(faults.truncated, 6));
                let Some(logs) = answer["result"].as_array_mut() else { return };
                if shuffled && !logs.is_empty() {
                    let mut removed = logs[0].clone();
                    removed["removed"] = json!(true);
                    logs.extend(logs.clone());
                    logs.push(removed);
                    logs.shuffle(random);
                } else if truncated {
                    logs.pop();
                } else {
                    return;
                }
            }
            _ => return,
        }
        state.spoilt += 1;
    }
}
