//! Fills a node with a long strand, and waits until it has come to rest.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::load::{self, Load};
use crate::network::{self, Node};
use crate::rpc::{self, Connection};
use crate::scenario::publish::seed;
use crate::workload::{self, Workload};
use crate::{process, stats};

/// Requests that are signed at once; of a hundred envelopes each.
const CHUNK_REQUESTS: u64 = 250;
const PER_REQUEST: u64 = 100;
const CONNECTIONS: usize = 2;
const IN_FLIGHT: usize = 32;

/// A node that has grown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Grown {
    /// Envelopes that were there before.
    pub(crate) before: u64,
    /// Envelopes that were added.
    pub(crate) added: u64,
    pub(crate) elapsed_s: f64,
    /// Bytes of all envelopes that were added, as stored.
    pub(crate) envelope_bytes: u64,
    /// Bytes that the node's process had the disk write meanwhile, and until it was at rest.
    pub(crate) written_bytes: u64,
    /// Bytes in the node's folder afterwards.
    pub(crate) disk_bytes: u64,
    /// User and system time of the node for each envelope, in microseconds, until it was at rest.
    pub(crate) node_cpu_us: f64,
}

impl Grown {
    /// Bytes written to disk for each byte of an envelope.
    pub(crate) fn write_amplification(&self) -> f64 {
        stats::float(self.written_bytes) / stats::float(self.envelope_bytes.max(1))
    }
}

/// Publishes until the node's own strand has `envelopes` (rounded up to a hundred), on `topics`
/// topics, and waits until the node is at rest. `folder` is where the node's data is.
pub(crate) async fn grow(
    node: &Node,
    folder: &Path,
    envelopes: u64,
    topics: u64,
    payload_len: usize,
) -> Result<Grown, BenchError> {
    let before = (node.written_bytes()?, node.cpu_time()?, Instant::now());
    let (held, added) = fill(node.api(), node.id(), envelopes, topics, payload_len).await?;
    let elapsed = before.2.elapsed();
    come_to_rest(node).await?;
    let cpu = node.cpu_time()? - before.1;
    let mut connection = Connection::open(node.api()).await?;
    let grown = Grown {
        before: held,
        added,
        elapsed_s: elapsed.as_secs_f64(),
        envelope_bytes: added * envelope_len(&mut connection, topics).await?,
        written_bytes: node.written_bytes()? - before.0,
        disk_bytes: process::folder_bytes(folder),
        node_cpu_us: cpu.as_secs_f64() * 1e6 / stats::float(added.max(1)),
    };
    if added > 0 {
        eprintln!(
            "  {added} envelopes in {:.0} s, {:.1} µs CPU each; {:.2} bytes written for each byte stored, \
             {:.2} on disk",
            grown.elapsed_s,
            grown.node_cpu_us,
            grown.write_amplification(),
            stats::float(grown.disk_bytes) * stats::float(added)
                / (stats::float(grown.envelope_bytes.max(1)) * stats::float(held + added)),
        );
    }
    Ok(grown)
}

/// Returns the length of one stored envelope; all of them differ by a few bytes at most.
async fn envelope_len(connection: &mut Connection, topics: u64) -> Result<u64, BenchError> {
    for number in 0..topics {
        let query =
            api::EnvelopesQuery { topics: vec![workload::topic(number)], ..Default::default() };
        let ask = api::QueryEnvelopesRequest { query: Some(query), limit: 1 };
        let answer: api::QueryEnvelopesResponse = connection.ask(rpc::QUERY, &ask).await?;
        if let Some(envelope) = answer.envelopes.first() {
            return Ok(envelope.len() as u64);
        }
    }
    Ok(0)
}

/// Waits until the node has compacted the stored envelopes: that work is no part of a query.
pub(crate) async fn come_to_rest(node: &Node) -> Result<(), BenchError> {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    const LOOKS_MAX: u32 = 600;
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

/// Publishes until the strand of the node at `api` has `envelopes` (rounded up to a hundred), on `topics`
/// topics. Returns how many it had before, and how many were added.
pub(crate) async fn fill(
    api: SocketAddr,
    originator: OriginatorId,
    envelopes: u64,
    topics: u64,
    payload_len: usize,
) -> Result<(u64, u64), BenchError> {
    let workload = Workload::new(originator, 64, topics, payload_len, seed())?;
    let mut connections = Connection::open_many(api, CONNECTIONS).await?;
    let before = network::head(&mut connections[0], originator).await?;
    let requests = envelopes.saturating_sub(before).div_ceil(PER_REQUEST);
    let mut acknowledged = 0;
    let mut first = 0;
    while first < requests {
        let count = CHUNK_REQUESTS.min(requests - first);
        let load =
            Load::once(workload.requests(first, count, PER_REQUEST), Duration::from_secs(600));
        acknowledged += load::run(&load, &connections, IN_FLIGHT).await?.envelopes;
        first += count;
        if first.is_multiple_of(10 * CHUNK_REQUESTS) {
            eprintln!("  {} envelopes stored", before + acknowledged);
        }
    }
    network::require_growth(&mut connections[0], originator, before, acknowledged).await?;
    Ok((before, acknowledged))
}
