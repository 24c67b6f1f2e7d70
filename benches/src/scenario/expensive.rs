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
use crate::past::SeededHistory;
use crate::rpc::{self, Connection};
use crate::scenario::fill;
use crate::stats::{self, Latencies, Quantiles};
use crate::workload;

/// Topics of one request. Specified: the most that a request may have.
const TOPICS_MAX: u64 = 10_000;
/// Originators of one cursor. Specified: the most that a request may have.
const CURSOR_MAX: usize = 100;
/// Times that each request is made.
const TIMES: u64 = 20;

/// The figures of all these requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ExpensiveReads {
    /// The newest envelopes of 10,000 topics, or of all if there are fewer.
    pub(crate) newest: Expensive,
    /// The newest envelopes of the crowded topics.
    pub(crate) newest_crowded: Expensive,
    /// The usage of the busy payer, by day.
    pub(crate) payer_info: Expensive,
    /// A page of 10,000 topics, from their beginnings. Earlier results lack it, and the next two.
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
    /// User and system time of the node for each request, in microseconds.
    pub(crate) server_cpu_us: f64,
    pub(crate) answer_bytes: u64,
}

/// Makes each of the requests of a node with `topics` topics, and with crowded ones.
pub(crate) async fn run(
    node: &Node,
    topics: u64,
    crowded_topics: u64,
    page: u32,
) -> Result<ExpensiveReads, BenchError> {
    let many: Vec<Bytes> = (0..topics.min(TOPICS_MAX)).map(workload::topic).collect();
    let crowded = (0..crowded_topics.min(TOPICS_MAX)).map(SeededHistory::topic);
    let crowded: Vec<Bytes> = crowded.map(workload::topic).collect();
    let heads = network::cursor(&mut Connection::open(node.api()).await?).await?;
    let below = |id: EnvelopeId| {
        let sequence = SequenceId(id.sequence.0.saturating_sub(1));
        EnvelopeId { sequence, ..id }
    };
    let below_head: Cursor = heads.iter().take(CURSOR_MAX).map(below).collect();
    let page = |topics, last_seen| page_of(topics, last_seen, page);
    Ok(ExpensiveReads {
        newest: measure(node, rpc::NEWEST, &newest_of(many.clone())).await?,
        newest_crowded: measure(node, rpc::NEWEST, &newest_of(crowded.clone())).await?,
        payer_info: measure(node, rpc::PAYER_INFO, &usage_of_busy()?).await?,
        planned: Some(measure(node, rpc::QUERY, &page(many.clone(), Cursor::default())).await?),
        planned_below_head: Some(measure(node, rpc::QUERY, &page(many, below_head)).await?),
        planned_crowded: Some(measure(node, rpc::QUERY, &page(crowded, Cursor::default())).await?),
    })
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

async fn measure(
    node: &Node,
    path: PathAndQuery,
    request: &Bytes,
) -> Result<Expensive, BenchError> {
    let mut connection = Connection::open(node.api()).await?;
    // Once without being counted: what is measured is a node that has read its indexes.
    let answer_bytes = connection.call(path.clone(), request.clone()).await?.len() as u64;
    fill::come_to_rest(node).await?;
    let (before, mut latencies) = (node.cpu_time()?, Latencies::new());
    for _ in 0..TIMES {
        let start = Instant::now();
        connection.call(path.clone(), request.clone()).await?;
        latencies.record(start.elapsed());
    }
    let cpu = node.cpu_time()?.saturating_sub(before);
    let (client, server_cpu_us) = (latencies.quantiles(), micros_each(cpu, TIMES));
    eprintln!("  {path}: p50 {:.1} ms, {:.1} ms CPU", client.p50_us / 1e3, server_cpu_us / 1e3);
    Ok(Expensive { client, server_cpu_us, answer_bytes })
}

fn micros_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / stats::float(count.max(1))
}
