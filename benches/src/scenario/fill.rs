//! A node with a long strand.

use std::time::Duration;

use crate::error::BenchError;
use crate::load::{self, Load};
use crate::network::{self, Node};
use crate::rpc::Connection;
use crate::scenario::publish::seed;
use crate::workload::Workload;

/// Requests that are signed at once; of a hundred envelopes each.
const CHUNK_REQUESTS: u64 = 250;
const PER_REQUEST: u64 = 100;
const CONNECTIONS: usize = 2;
const IN_FLIGHT: usize = 32;

/// Publishes until the node's own strand has `envelopes` (rounded up to a hundred), on `topics`
/// topics.
pub(crate) async fn fill(
    node: &Node,
    envelopes: u64,
    topics: u64,
    payload_len: usize,
) -> Result<(), BenchError> {
    let workload = Workload::new(node.id(), 64, topics, payload_len, seed())?;
    let mut connections = Connection::open_many(node.api(), CONNECTIONS).await?;
    let before = network::head(&mut connections[0], node.id()).await?;
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
    network::require_growth(&mut connections[0], node.id(), before, acknowledged).await
}
