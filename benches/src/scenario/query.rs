//! Pages of one topic out of a large log.

use std::time::{Duration, Instant};

use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::network::{self, Node};
use crate::rpc::{self, Connection};
use crate::stats::{self, Latencies, Quantiles};
use crate::{http, workload};

const SECONDS_SUM: &str = "grpc_server_handling_seconds_sum";
const SECONDS_COUNT: &str = "grpc_server_handling_seconds_count";
const METHOD: &str = "grpc_method=\"QueryEnvelopes\"";

/// Latencies of the queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Queried {
    /// Envelopes in the log.
    pub(crate) stored: u64,
    /// Envelopes in each answer.
    pub(crate) page: u32,
    pub(crate) queries: u64,
    /// From sending a query to its answer; the server's share cannot be larger.
    pub(crate) client: Quantiles,
    /// Average time that the server reports, in microseconds.
    pub(crate) server_mean_us: Option<f64>,
    /// User and system time of the server for each query, in microseconds.
    pub(crate) server_cpu_us: f64,
}

/// Asks one query after the other, each for the first `page` envelopes of one of `topics`
/// topics, which must be that long.
pub(crate) async fn run(
    node: &Node,
    topics: u64,
    page: u32,
    queries: u64,
) -> Result<Queried, BenchError> {
    let mut connection = Connection::open(node.api()).await?;
    let stored = network::head(&mut connection, node.id()).await?;
    let ask = |number: u64| {
        let topic = workload::topic(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % topics);
        let query = api::EnvelopesQuery { topics: vec![topic], ..Default::default() };
        api::QueryEnvelopesRequest { query: Some(query), limit: page }.encode_to_vec()
    };
    come_to_rest(node).await?;
    for number in 0..queries / 10 {
        connection.call(rpc::QUERY, ask(number).into()).await?;
    }
    let before = (node.metrics().await?, node.cpu_time()?);
    let mut latencies = Latencies::new();
    for number in 0..queries {
        let question = ask(queries + number);
        let start = Instant::now();
        let answer = connection.call(rpc::QUERY, question.into()).await?;
        latencies.record(start.elapsed());
        if rpc::count_entries(&answer) != Some(page.into()) {
            return Err(format!("a page has not {page} envelopes").into());
        }
    }
    let after = (node.metrics().await?, node.cpu_time()?);
    let grown = |name| http::metric(&after.0, name, METHOD) - http::metric(&before.0, name, METHOD);
    let counted = grown(SECONDS_COUNT);
    Ok(Queried {
        stored,
        page,
        queries,
        client: latencies.quantiles(),
        server_mean_us: (counted > 0.0).then(|| grown(SECONDS_SUM) * 1e6 / counted),
        server_cpu_us: (after.1 - before.1).as_secs_f64() * 1e6 / stats::float(queries),
    })
}

/// Waits until the node has put what was stored into place: that work is no part of a query.
async fn come_to_rest(node: &Node) -> Result<(), BenchError> {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    const LOOKS_MAX: u32 = 120;
    const BUSY: Duration = Duration::from_millis(25);
    for _ in 0..LOOKS_MAX {
        let before = node.cpu_time()?;
        tokio::time::sleep(LOOK_EVERY).await;
        if node.cpu_time()? - before < BUSY {
            return Ok(());
        }
    }
    Err("the node does not come to rest".into())
}
