//! Publishing as fast as the node takes it, or one envelope after the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::OriginatorId;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::error::BenchError;
use crate::limits::LoadShape;
use crate::load::{self, Load};
use crate::network::{self, Node};
use crate::process;
use crate::rpc::Connection;
use crate::stats::{self, Quantiles};
use crate::workload::Workload;

/// Encoded requests that are held in memory at most.
const PREPARED_BYTES_MAX: u64 = 3 << 30;
/// The time in which the rate is found that decides how much is signed beforehand.
const WARM_UP: Duration = Duration::from_secs(2);
/// Followers that are further behind than this when publishing ends are not waited for.
const FOLLOW_MAX: Duration = Duration::from_secs(120);

/// Parameters of the publish scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    #[serde(flatten)]
    pub(crate) shape: LoadShape,
    pub(crate) per_request: u64,
    pub(crate) payers: u32,
    pub(crate) topics: u64,
    /// Duration of publishing, in seconds.
    pub(crate) seconds: u64,
}

/// Outcome of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Published {
    #[serde(flatten)]
    pub(crate) plan: Plan,
    /// Nodes that followed meanwhile, on the same cores.
    pub(crate) followers: usize,
    /// Acknowledged, and found in the strand.
    pub(crate) envelopes: u64,
    pub(crate) elapsed_s: f64,
    pub(crate) envelopes_per_second: f64,
    /// From sending a request to its answer.
    pub(crate) latency: Quantiles,
    /// User and system time of each envelope, in microseconds.
    pub(crate) generator_cpu_us: f64,
    /// User and system time of the node for each envelope, in microseconds; `None` if it was not started here.
    pub(crate) node_cpu_us: Option<f64>,
    /// User and system time of all followers together for each envelope, in microseconds.
    pub(crate) followers_cpu_us: Option<f64>,
    /// Time from the last answer until all followers held everything.
    pub(crate) followers_behind_s: Option<f64>,
}

/// Publishes to a node of ours, which others may follow.
pub(crate) async fn run(
    plan: &Plan,
    node: &Node,
    followers: &[Node],
) -> Result<Published, BenchError> {
    let cpu_times = || -> Result<(Duration, Duration), BenchError> {
        let of_followers = followers.iter().map(Node::cpu_time).sum::<Result<_, _>>()?;
        Ok((node.cpu_time()?, of_followers))
    };
    let mut measured = Measured::start(plan, node.api(), node.id()).await?;
    let before = cpu_times()?;
    measured.publish().await?;
    let after = cpu_times()?;
    let mut published = measured.finish(plan).await?;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / stats::float(published.envelopes);
    published.node_cpu_us = Some(each(after.0 - before.0));
    if !followers.is_empty() {
        published.followers = followers.len();
        published.followers_cpu_us = Some(each(after.1 - before.1));
        published.followers_behind_s = Some(measured.wait_for(followers).await?.as_secs_f64());
    }
    Ok(published)
}

/// Publishes to a running node that this program did not start.
pub(crate) async fn run_against(
    plan: &Plan,
    address: SocketAddr,
    originator: OriginatorId,
) -> Result<Published, BenchError> {
    let mut measured = Measured::start(plan, address, originator).await?;
    measured.publish().await?;
    measured.finish(plan).await
}

struct Measured {
    connections: Vec<Connection>,
    originator: OriginatorId,
    in_flight: usize,
    load: Load,
    head_before: u64,
    outcome: Option<(load::Outcome, Duration, Instant)>,
}

impl Measured {
    /// Connects, warms up, and signs what will be needed.
    async fn start(
        plan: &Plan,
        address: SocketAddr,
        originator: OriginatorId,
    ) -> Result<Self, BenchError> {
        let Plan { shape, per_request, payers, topics, seconds } = plan;
        let mut connections = Connection::open_many(address, shape.connections).await?;
        let seed = seed();
        let workload = Workload::new(originator, *payers, *topics, shape.payload_len, seed)?;
        let sign = |first, requests| workload.requests(first, requests, *per_request);

        let first = sign(0, (40_000 / per_request).clamp(64, 40_000));
        let warmed_up = first.len() as u64;
        let load = Load::once(first, WARM_UP);
        let outcome = load::run(&load, &connections, shape.in_flight).await?;
        outcome.check_samples()?;
        let rate = stats::per_second(outcome.requests, outcome.elapsed);

        let wanted = ceil(rate * 1.5 * stats::float(*seconds)) + shape.in_flight as u64;
        let request_len = sign(0, 1).iter().map(Bytes::len).sum::<usize>() as u64;
        let prepared = sign(warmed_up, wanted.min(PREPARED_BYTES_MAX / request_len.max(1)));
        let head_before = network::head(&mut connections[0], originator).await?;
        eprintln!("  {} requests are signed; publishing for {seconds} s", prepared.len());
        Ok(Self {
            connections,
            originator,
            in_flight: shape.in_flight,
            load: Load::once(prepared, Duration::from_secs(*seconds)),
            head_before,
            outcome: None,
        })
    }

    async fn publish(&mut self) -> Result<(), BenchError> {
        let own_cpu = || process::cpu_time(std::process::id());
        let before = own_cpu()?;
        let outcome = load::run(&self.load, &self.connections, self.in_flight).await?;
        self.outcome = Some((outcome, own_cpu()? - before, Instant::now()));
        Ok(())
    }

    async fn finish(&mut self, plan: &Plan) -> Result<Published, BenchError> {
        let (outcome, own_cpu, _) = self.outcome.as_ref().ok_or("nothing was published")?;
        let connection = &mut self.connections[0];
        network::require_growth(connection, self.originator, self.head_before, outcome.envelopes)
            .await?;
        outcome.check_samples()?;
        Ok(Published {
            plan: plan.clone(),
            followers: 0,
            envelopes: outcome.envelopes,
            elapsed_s: outcome.elapsed.as_secs_f64(),
            envelopes_per_second: stats::per_second(outcome.envelopes, outcome.elapsed),
            latency: outcome.latencies.quantiles(),
            generator_cpu_us: own_cpu.as_secs_f64() * 1e6 / stats::float(outcome.envelopes),
            node_cpu_us: None,
            followers_cpu_us: None,
            followers_behind_s: None,
        })
    }

    /// Time from the last answer until the followers held everything.
    async fn wait_for(&self, followers: &[Node]) -> Result<Duration, BenchError> {
        let (outcome, _, end) = self.outcome.as_ref().ok_or("nothing was published")?;
        for follower in followers {
            let mut connection = Connection::open(follower.api()).await?;
            while network::head(&mut connection, self.originator).await?
                < self.head_before + outcome.envelopes
            {
                if end.elapsed() > FOLLOW_MAX {
                    return Err(format!("node {} does not follow", follower.id()).into());
                }
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(end.elapsed())
    }
}

/// Different for every run, so that nothing is ever published twice.
pub(crate) fn seed() -> [u8; 32] {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&now.unwrap_or_default().as_nanos().to_be_bytes());
    hasher.update(&std::process::id().to_be_bytes());
    *hasher.finalize().as_bytes()
}

/// A rate as a count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rates are finite, not negative and far below 2^53"
)]
fn ceil(rate: f64) -> u64 {
    rate.ceil() as u64
}
