//! A chain's RPC that answers with prepared events from memory, so that a measurement shows the cost of reading.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use alloy::primitives::{Address, B256, keccak256};
use alloy::rpc::types::Log;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

use crate::error::BenchError;

/// The chain's id.
pub(crate) const CHAIN_ID: u64 = 31338;
/// The time of block 0, Unix seconds. Blocks are a second apart.
const GENESIS_TIME: u64 = 1_735_689_600;

/// A server with a thread of its own. It ends with the process.
pub(crate) struct LogServer {
    shared: Arc<ServedChain>,
    address: SocketAddr,
}

/// The requests for events that the server received.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// Time of the first request.
    pub(crate) first: Option<Instant>,
    /// The block ranges of all requests.
    pub(crate) pages: Vec<RangeInclusive<u64>>,
}

struct ServedChain {
    contract: String,
    /// The events of each block as JSON, joined by commas.
    blocks: Vec<String>,
    asked: Mutex<Asked>,
}

impl LogServer {
    /// Serves a chain on which `contract` has emitted `per_block` of these events in each block.
    pub(crate) fn start(
        contract: Address,
        events: impl Iterator<Item = alloy::primitives::LogData>,
        per_block: usize,
    ) -> Result<Self, BenchError> {
        let mut blocks = vec![String::new()];
        let mut held = 0;
        for data in events {
            if held == per_block || blocks.len() == 1 {
                blocks.push(String::new());
                held = 0;
            }
            let number = blocks.len() as u64 - 1;
            let Some(block) = blocks.last_mut() else { break };
            if held > 0 {
                block.push(',');
            }
            let inner = alloy::primitives::Log { address: contract, data };
            block.push_str(&serde_json::to_string(&log(inner, number, held as u64))?);
            held += 1;
        }
        let contract = format!("{contract:#x}");
        let shared = Arc::new(ServedChain { contract, blocks, asked: Mutex::default() });
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let serving = shared.clone();
        std::thread::spawn(move || runtime.block_on(serve(listener, serving)));
        Ok(Self { shared, address })
    }

    /// Returns the URL of the server.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests received so far.
    pub(crate) fn asked(&self) -> Asked {
        self.shared.asked.lock().clone()
    }
}

fn log(inner: alloy::primitives::Log, number: u64, index: u64) -> Log {
    Log {
        inner,
        block_hash: Some(hash_of(number)),
        block_number: Some(number),
        block_timestamp: Some(GENESIS_TIME + number),
        transaction_hash: Some(keccak256([number.to_be_bytes(), index.to_be_bytes()].concat())),
        transaction_index: Some(index),
        log_index: Some(index),
        removed: false,
    }
}

fn hash_of(number: u64) -> B256 {
    keccak256(number.to_be_bytes())
}

async fn serve(listener: std::net::TcpListener, shared: Arc<ServedChain>) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let shared = shared.clone();
        let service = service_fn(move |request| shared.clone().answer(request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

impl ServedChain {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
        let answer = match serde_json::from_slice(&body.unwrap_or_default()) {
            Ok(Value::Array(asked)) => {
                let answers: Vec<_> = asked.iter().map(|asked| self.one(asked)).collect();
                format!("[{}]", answers.join(","))
            }
            Ok(asked) => self.one(&asked),
            Err(error) => error.to_string(),
        };
        Ok(Response::new(Full::from(answer)))
    }

    fn one(&self, asked: &Value) -> String {
        let result = match asked["method"].as_str() {
            Some("eth_chainId") => json!(format!("{CHAIN_ID:#x}")).to_string(),
            Some("eth_blockNumber") => json!(format!("{:#x}", self.head())).to_string(),
            Some("eth_getBlockByNumber") => self.block(&asked["params"][0]).to_string(),
            Some("eth_getLogs") => self.logs(&asked["params"][0]),
            _ => "null".to_owned(),
        };
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{result}}}", asked["id"])
    }

    fn head(&self) -> u64 {
        self.blocks.len() as u64 - 1
    }

    fn block(&self, named: &Value) -> Value {
        let number = number(named).unwrap_or(self.head());
        if number > self.head() {
            return Value::Null;
        }
        json!({
            "number": format!("{number:#x}"),
            "hash": hash_of(number),
            "parentHash": number.checked_sub(1).map_or(B256::ZERO, hash_of),
            "timestamp": format!("{:#x}", GENESIS_TIME + number),
        })
    }

    fn logs(&self, filter: &Value) -> String {
        let from = number(&filter["fromBlock"]).unwrap_or(0);
        let to = number(&filter["toBlock"]).unwrap_or(self.head()).min(self.head());
        if !filter["address"].to_string().to_lowercase().contains(&self.contract) {
            return "[]".to_owned();
        }
        {
            let mut asked = self.asked.lock();
            asked.first.get_or_insert_with(Instant::now);
            asked.pages.push(from..=to);
        }
        let blocks = self.blocks.iter().enumerate();
        let wanted = blocks.filter(|(number, _)| (from..=to).contains(&(*number as u64)));
        let wanted = wanted.map(|(_, block)| block.as_str()).filter(|block| !block.is_empty());
        format!("[{}]", wanted.collect::<Vec<_>>().join(","))
    }
}

/// A quantity as JSON-RPC writes it.
fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}
