//! Single envelopes through a gateway to one node, next to the same to the node alone, in one run.

use std::path::Path;
use std::time::{Duration, Instant};

use super::publish::{Plan, seed};
use crate::error::BenchError;
use crate::load::{self, Load, Outcome};
use crate::network::{self, Network, Node};
use crate::redis::{Redis, RedisCounts};
use crate::rpc::{self, Connection};
use crate::workload::Workload;
use crate::{process, stats};

/// The time in which connections are opened and the rate is found.
const WARM_UP: Duration = Duration::from_secs(2);
/// Upper bound on the time until nodes show what they have acknowledged.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// Measures one gateway and the node alone, or `count` gateways and one, and prints both.
pub(crate) async fn run(
    plan: &Plan,
    hawser: &Path,
    data_dir: &Path,
    count: u32,
    redis: Option<&str>,
) -> Result<(), BenchError> {
    if count == 1 {
        return run_one(plan, hawser, data_dir).await;
    }
    let redis = Redis::new(redis).await?;
    run_several(plan, hawser, data_dir, count, &redis).await
}

async fn run_one(plan: &Plan, hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, 1)?;
    let node = network.start(0).await?;
    println!(
        "{} requests in flight over {} connections, one envelope of {} bytes each",
        plan.shape.in_flight, plan.shape.connections, plan.shape.payload_len
    );
    let alone = alone(plan, &node).await?;
    say("the node alone", &alone, &[]);
    let gateway = network.start_gateway(None).await?;
    let workload = workload(plan, &node)?;
    let connections = Connection::open_many(gateway.api(), plan.shape.connections).await?;
    let first = Load::once(workload.client_requests(0, 20_000), WARM_UP).at(rpc::PUBLISH_CLIENT);
    let warm = load::run(&first, &connections, plan.shape.in_flight).await?;
    let prepared = workload.client_requests(20_000, wanted(plan, &warm));
    let load = Load::once(prepared, Duration::from_secs(plan.seconds)).at(rpc::PUBLISH_CLIENT);
    let mut direct = Connection::open(node.api()).await?;
    let head = network::head(&mut direct, node.id()).await?;
    let cpu = || -> Result<[Duration; 3], BenchError> {
        Ok([process::cpu_time(std::process::id())?, gateway.cpu_time()?, node.cpu_time()?])
    };
    let before = cpu()?;
    let outcome = load::run(&load, &connections, plan.shape.in_flight).await?;
    let after = cpu()?;
    network::require_growth(&mut direct, node.id(), head, outcome.envelopes).await?;
    let used: Vec<_> = ["generator", "gateway", "node"]
        .into_iter()
        .zip(before.into_iter().zip(after))
        .map(|(who, (before, after))| (who, after - before))
        .collect();
    say("through the gateway", &outcome, &used);
    node.stop();
    Ok(())
}

/// Measures one gateway, and then several with the same key and Redis, against as many nodes, and prints both.
async fn run_several(
    plan: &Plan,
    hawser: &Path,
    data_dir: &Path,
    count: u32,
    redis: &Redis,
) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, count)?;
    let nodes = network.start_all().await?;
    println!(
        "{} requests in flight over {} connections, one envelope of {} bytes each, {count} nodes",
        plan.shape.in_flight, plan.shape.connections, plan.shape.payload_len
    );
    let workload = workload(plan, &nodes[0])?;
    let mut gateways = vec![network.start_gateway(Some(redis.url())).await?];
    let shared = SharedParts { plan, workload: &workload, nodes: &nodes, redis };
    let (first, used, sent) = through(&gateways, &shared, 0).await?;
    say("one gateway", &first, &used.of_processes);
    say_of_redis(&first, used.of_redis);
    let busy_with_one = used.machine_share(&first);
    while gateways.len() < count as usize {
        gateways.push(network.start_gateway(Some(redis.url())).await?);
    }
    let (all, used, _) = through(&gateways, &shared, sent).await?;
    say(&format!("{count} gateways"), &all, &used.of_processes);
    say_of_redis(&all, used.of_redis);
    let rate = |outcome: &Outcome| stats::per_second(outcome.envelopes, outcome.elapsed);
    println!("{:.2} times the rate of one", rate(&all) / rate(&first));
    let busy_with_all = used.machine_share(&all);
    println!(
        "this machine's {} cores worked {:.0} % of the time with one gateway and {:.0} % with {count}",
        cores(),
        busy_with_one * 100.0,
        busy_with_all * 100.0
    );
    println!("limit: {}", limit(busy_with_one, busy_with_all));
    nodes.into_iter().for_each(Node::stop);
    Ok(())
}

/// Share of the cores' time from which the machine counts as the limit. A guess: the rest goes to waiting for disks.
const BUSY: f64 = 0.85;

/// Returns the reason for which more gateways are not as many times faster, in words.
fn limit(busy_with_one: f64, busy_with_all: f64) -> &'static str {
    if busy_with_one >= BUSY {
        "this machine, which one gateway with its nodes and the generator fills already: use more cores"
    } else if busy_with_all >= BUSY {
        "this machine, which several gateways with their nodes and the generator fill"
    } else {
        "not this machine's cores: the nodes' commits or the requests in flight"
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// CPU time that a run took.
struct Used {
    /// CPU time of the generator, of all gateways, and of all nodes.
    of_processes: [(&'static str, Duration); 3],
    /// CPU time of the whole machine, Redis included.
    machine: Duration,
    /// CPU time of Redis, and the number of its calls.
    of_redis: Option<RedisCounts>,
}

impl Used {
    /// Returns the times so far.
    async fn now(
        gateways: &[network::Gateway],
        nodes: &[Node],
        redis: &Redis,
    ) -> Result<Self, BenchError> {
        let (mut of_gateways, mut of_nodes) = (Duration::ZERO, Duration::ZERO);
        for gateway in gateways {
            of_gateways += gateway.cpu_time()?;
        }
        for node in nodes {
            of_nodes += node.cpu_time()?;
        }
        let generator = process::cpu_time(std::process::id())?;
        Ok(Self {
            of_processes: [
                ("generator", generator),
                ("gateways", of_gateways),
                ("nodes", of_nodes),
            ],
            machine: process::machine_time()?,
            of_redis: redis.counts().await,
        })
    }

    fn since(self, before: &Self) -> Self {
        let mut of_processes = self.of_processes;
        for ((_, used), (_, before)) in of_processes.iter_mut().zip(before.of_processes) {
            *used = used.saturating_sub(before);
        }
        let of_redis = self.of_redis.zip(before.of_redis).map(|(now, then)| now.since(then));
        Self { of_processes, machine: self.machine.saturating_sub(before.machine), of_redis }
    }

    /// Returns the share of the cores' time that was worked, 0 to 1.
    fn machine_share(&self, outcome: &Outcome) -> f64 {
        let cores = stats::float(u64::try_from(cores()).unwrap_or(1));
        self.machine.as_secs_f64() / (outcome.elapsed.as_secs_f64() * cores)
    }
}

/// The parts that the measurements of several gateways share.
struct SharedParts<'a> {
    plan: &'a Plan,
    workload: &'a Workload,
    nodes: &'a [Node],
    redis: &'a Redis,
}

/// Publishes through gateways in turns, from envelope `from` on. Returns the outcome, the CPU time that it took, and
/// the first envelope that was not prepared.
async fn through(
    gateways: &[network::Gateway],
    shared: &SharedParts<'_>,
    from: u64,
) -> Result<(Outcome, Used, u64), BenchError> {
    let SharedParts { plan, workload, nodes, redis } = *shared;
    let mut connections = Vec::new();
    for gateway in gateways {
        connections.extend(Connection::open_many(gateway.api(), plan.shape.connections).await?);
    }
    let first = Load::once(workload.client_requests(from, 20_000), WARM_UP).at(rpc::PUBLISH_CLIENT);
    let warm = load::run(&first, &connections, plan.shape.in_flight).await?;
    let prepared = workload.client_requests(from + 20_000, wanted(plan, &warm));
    let next = from + 20_000 + prepared.len() as u64;
    let load = Load::once(prepared, Duration::from_secs(plan.seconds)).at(rpc::PUBLISH_CLIENT);
    let before = heads(nodes).await?;
    let used = Used::now(gateways, nodes, redis).await?;
    let outcome = load::run(&load, &connections, plan.shape.in_flight).await?;
    let used = Used::now(gateways, nodes, redis).await?.since(&used);
    let until = Instant::now() + SETTLE_MAX;
    loop {
        let (held, acknowledged) = (heads(nodes).await?.saturating_sub(before), outcome.envelopes);
        if held >= acknowledged {
            return Ok((outcome, used, next));
        }
        if Instant::now() > until {
            let text = format!("{acknowledged} envelopes were acknowledged, and nodes hold {held}");
            return Err(text.into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the number of envelopes in the strands of these nodes.
async fn heads(nodes: &[Node]) -> Result<u64, BenchError> {
    let mut sum = 0;
    for node in nodes {
        let mut direct = Connection::open(node.api()).await?;
        sum += network::head(&mut direct, node.id()).await?;
    }
    Ok(sum)
}

async fn alone(plan: &Plan, node: &Node) -> Result<Outcome, BenchError> {
    let workload = workload(plan, node)?;
    let connections = Connection::open_many(node.api(), plan.shape.connections).await?;
    let first = Load::once(workload.requests(0, 20_000, 1), WARM_UP);
    let warm = load::run(&first, &connections, plan.shape.in_flight).await?;
    let prepared = workload.requests(20_000, wanted(plan, &warm), 1);
    let load = Load::once(prepared, Duration::from_secs(plan.seconds));
    load::run(&load, &connections, plan.shape.in_flight).await
}

fn workload(plan: &Plan, node: &Node) -> Result<Workload, BenchError> {
    Workload::new(node.id(), plan.payers, plan.topics, plan.shape.payload_len, seed())
}

/// Returns 1.5 times the number of envelopes that the warm-up rate predicts.
fn wanted(plan: &Plan, warm: &Outcome) -> u64 {
    let per_second =
        warm.requests * 1000 / u64::try_from(warm.elapsed.as_millis()).unwrap_or(1).max(1);
    per_second * plan.seconds * 3 / 2 + 1000
}

/// Prints the calls of Redis for each request, which has one envelope: several requests share some.
fn say_of_redis(outcome: &Outcome, counts: Option<RedisCounts>) {
    let Some(RedisCounts { calls, cpu }) = counts else { return };
    let requests = stats::float(outcome.requests);
    let (calls, cpu_us) = (stats::float(calls) / requests, cpu.as_secs_f64() * 1e6 / requests);
    println!("  Redis: {cpu_us:.0} us of CPU and {calls:.2} calls for each");
}

fn say(what: &str, outcome: &Outcome, used: &[(&str, Duration)]) {
    let rate = stats::per_second(outcome.envelopes, outcome.elapsed);
    let latency = outcome.latencies.quantiles();
    println!(
        "{what}: {rate:.0} envelopes/s, p50 {:.1} ms, p99 {:.1} ms",
        latency.p50_us / 1000.0,
        latency.p99_us / 1000.0
    );
    for (who, cpu) in used {
        let each = cpu.as_secs_f64() * 1e6 / stats::float(outcome.envelopes);
        println!("  {who}: {each:.0} us of CPU for each");
    }
}
