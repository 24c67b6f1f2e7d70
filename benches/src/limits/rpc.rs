//! Measures the cost of one gRPC call that does no work.

use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use serde::{Deserialize, Serialize};

use crate::child::IdleServer;
use crate::error::BenchError;
use crate::load::{self, Load};
use crate::rpc::Connection;
use crate::workload::Workload;
use crate::{process, stats};

/// Bytes that an originator adds to a payer envelope, and that an answer adds to an envelope: number, time, fee,
/// expiry, signature and the lengths of layers.
const ORIGINATOR_LEN: usize = 112;
/// Number of different requests: enough that they do not stay in the cache of a core.
const REQUESTS: u64 = 256;

/// Sends requests in the same way to the idle server and to a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LoadShape {
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    pub(crate) payload_len: usize,
}

/// The cost of one call with the messages of a publish request of this many envelopes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RpcLimit {
    pub(crate) per_request: u64,
    /// User and system time of both sides, in microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) calls_per_second: f64,
}

/// Calls the idle server for `time`, after a warm-up of a second.
pub(crate) async fn measure(
    shape: &LoadShape,
    per_request: u64,
    time: Duration,
) -> Result<RpcLimit, BenchError> {
    let workload = Workload::new(OriginatorId(100), 64, 10_000, shape.payload_len, [0; 32])?;
    let requests = workload.requests(0, REQUESTS, per_request);
    let envelopes = usize::try_from(per_request)?;
    let server = IdleServer::start(requests[0].len() + ORIGINATOR_LEN * envelopes)?;
    let connections = Connection::open_many(server.address(), shape.connections).await?;

    let load = Load::endless(requests, Duration::from_secs(1));
    load::run(&load, &connections, shape.in_flight).await?;

    let cpu_time = || {
        Ok::<_, BenchError>(
            process::cpu_time(std::process::id())? + process::cpu_time(server.id())?,
        )
    };
    let load = load.again(time);
    let (cpu_before, start) = (cpu_time()?, Instant::now());
    let outcome = load::run(&load, &connections, shape.in_flight).await?;
    let (cpu, elapsed) = (cpu_time()? - cpu_before, start.elapsed());
    Ok(RpcLimit {
        per_request,
        cpu_us: cpu.as_secs_f64() * 1e6 / stats::float(outcome.requests),
        calls_per_second: stats::per_second(outcome.requests, elapsed),
    })
}
