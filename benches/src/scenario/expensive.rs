//! The requests that a reader can make most expensive.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::pb::xmtp::xmtpv4::metadata_api as metadata;
use hawser_proto::{Cursor, EnvelopeId, SequenceId};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tonic::codegen::http::uri::PathAndQuery;

use crate::error::BenchError;
use crate::network::{self, Node};
use crate::rpc::{self, Connection};
use crate::scenario::fill;
use crate::scenario::query::Server;
use crate::seeded_history::SeededHistory;
use crate::stats::{self, Latencies, Quantiles};
use crate::{http, workload};

/// Topics of one request. Specified: the most that a request may have.
pub(crate) const TOPICS_MAX: u64 = 10_000;
/// Originators of one cursor. Specified: the most that a request may have.
const CURSOR_MAX: usize = 100;
/// Times that each request is made.
const TIMES: u64 = 20;

/// The figures of all these requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExpensiveReads {
    /// The newest envelopes of 10,000 topics. Like the next ones, it is absent if the node has no such topics or
    /// refuses it, and in results of older programs.
    #[serde(default)]
    pub(crate) newest: Option<Expensive>,
    /// The newest envelopes of the crowded topics.
    #[serde(default)]
    pub(crate) newest_crowded: Option<Expensive>,
    /// The usage of the busy payer, by day.
    #[serde(default)]
    pub(crate) payer_info: Option<Expensive>,
    /// A page of 10,000 topics, from their beginnings.
    #[serde(default)]
    pub(crate) planned: Option<Expensive>,
    /// Such a page for a reader whose cursor is just below the heads of as many strands as it may name.
    #[serde(default)]
    pub(crate) planned_below_head: Option<Expensive>,
    /// A page of the crowded topics, from their beginnings.
    #[serde(default)]
    pub(crate) planned_crowded: Option<Expensive>,
}

/// One request that is made again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Expensive {
    pub(crate) client: Quantiles,
    /// User and system time of the node for each request, in microseconds, if this program has started it.
    pub(crate) server_cpu_us: Option<f64>,
    /// Turns of each request, which a limited caller pays for, if this program has started the node. Earlier results
    /// lack them.
    #[serde(default)]
    pub(crate) turns: Option<f64>,
    pub(crate) answer_bytes: u64,
}

/// Makes each of the requests. The node has at least one of the topics, and `crowded_topics` crowded ones.
pub(crate) async fn run(
    server: &Server<'_>,
    crowded_topics: u64,
    page: u32,
) -> Result<ExpensiveReads, BenchError> {
    let many: Vec<Bytes> = (0..TOPICS_MAX).map(workload::topic).collect();
    let crowded = (0..crowded_topics.min(TOPICS_MAX)).map(SeededHistory::topic);
    let crowded: Vec<Bytes> = crowded.map(workload::topic).collect();
    let heads = network::cursor(&mut Connection::open(server.api).await?).await?;
    let below = |id: EnvelopeId| {
        let sequence = SequenceId(id.sequence.0.saturating_sub(1));
        EnvelopeId { sequence, ..id }
    };
    let below_head: Cursor = heads.iter().take(CURSOR_MAX).map(below).collect();
    let page = |topics, last_seen| page_of(topics, last_seen, page);
    let mut reads = ExpensiveReads {
        newest: measure(server, rpc::NEWEST, &newest_of(many.clone())).await?,
        newest_crowded: None,
        payer_info: measure(server, rpc::PAYER_INFO, &usage_of_busy()?).await?,
        planned: measure(server, rpc::QUERY, &page(many.clone(), Cursor::default())).await?,
        planned_below_head: measure(server, rpc::QUERY, &page(many, below_head)).await?,
        planned_crowded: None,
    };
    if !crowded.is_empty() {
        let newest = newest_of(crowded.clone());
        reads.newest_crowded = measure(server, rpc::NEWEST, &newest).await?;
        let planned = page(crowded, Cursor::default());
        reads.planned_crowded = measure(server, rpc::QUERY, &planned).await?;
    }
    Ok(reads)
}

fn newest_of(topics: Vec<Bytes>) -> Bytes {
    api::GetNewestEnvelopeRequest { topics }.encode_to_vec().into()
}

fn page_of(topics: Vec<Bytes>, last_seen: Cursor, limit: u32) -> Bytes {
    let last_seen = Some(last_seen.to_pb());
    let query = Some(api::EnvelopesQuery { topics, last_seen, ..Default::default() });
    api::QueryEnvelopesRequest { query, limit }.encode_to_vec().into()
}

fn usage_of_busy() -> Result<Bytes, BenchError> {
    let granularity = metadata::PayerInfoGranularity::Day.into();
    let payer_addresses = vec![SeededHistory::payer()?];
    Ok(metadata::GetPayerInfoRequest { payer_addresses, granularity }.encode_to_vec().into())
}

/// Makes a request again and again. A node that ran already may lack the method, or limit its callers: there is no
/// figure then.
async fn measure(
    server: &Server<'_>,
    path: PathAndQuery,
    request: &Bytes,
) -> Result<Option<Expensive>, BenchError> {
    match timed(server, &path, request).await {
        Ok(figures) => Ok(Some(figures)),
        Err(error) if server.node.is_none() => {
            eprintln!("  {path}: left out: {error}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn timed(
    server: &Server<'_>,
    path: &PathAndQuery,
    request: &Bytes,
) -> Result<Expensive, BenchError> {
    let mut connection = Connection::open(server.api).await?;
    // Once without being counted: what is measured is a node that has read its indexes.
    let answer_bytes = connection.call(path.clone(), request.clone()).await?.len() as u64;
    if let Some(node) = server.node {
        fill::come_to_rest(node).await?;
    }
    let turns_before = turns(server, path).await?;
    let before = server.node.map(Node::cpu_time).transpose()?;
    let mut latencies = Latencies::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        connection.call(path.clone(), request.clone()).await?;
        latencies.record(start.elapsed());
    }
    let after = server.node.map(Node::cpu_time).transpose()?;
    let spent = after.zip(before).map(|(after, before)| after.saturating_sub(before));
    let (client, server_cpu_us) = (latencies.quantiles(), spent.map(|cpu| micros_each(cpu, TIMES)));
    let turns = turns(server, path).await?.zip(turns_before);
    let turns = turns.map(|(after, before)| (after - before) / stats::float(TIMES));
    let cpu_ms = server_cpu_us.unwrap_or(f64::NAN) / 1e3;
    eprintln!("  {path}: p50 {:.1} ms, {cpu_ms:.1} ms CPU", client.p50_us / 1e3);
    Ok(Expensive { client, server_cpu_us, turns, answer_bytes })
}

/// Returns the turns that a node of this program has done for all requests of this kind.
async fn turns(server: &Server<'_>, path: &PathAndQuery) -> Result<Option<f64>, BenchError> {
    let Some(node) = server.node else { return Ok(None) };
    let operation = match path.as_str().rsplit('/').next() {
        Some("GetNewestEnvelope") => "newest",
        Some("GetPayerInfo") => "usage",
        _ => "query_topics",
    };
    let label = format!("query=\"{operation}\"");
    Ok(Some(http::metric(&node.metrics().await?, "db_query_duration_seconds_count", &label)))
}

fn micros_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / stats::float(count.max(1))
}
