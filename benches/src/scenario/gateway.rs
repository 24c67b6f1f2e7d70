//! Single envelopes through a gateway to one node, next to the same to the node alone, in one run.

use std::path::Path;
use std::time::Duration;

use super::publish::{Plan, seed};
use crate::error::BenchError;
use crate::load::{self, Load, Outcome};
use crate::network::{self, Network, Node};
use crate::rpc::{self, Connection};
use crate::workload::Workload;
use crate::{process, stats};

/// The time in which connections are opened and the rate is found.
const WARM_UP: Duration = Duration::from_secs(2);

/// Measures both, and prints them.
pub(crate) async fn run(plan: &Plan, hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, 1)?;
    let node = network.start(0).await?;
    println!(
        "{} requests in flight over {} connections, one envelope of {} bytes each",
        plan.shape.in_flight, plan.shape.connections, plan.shape.payload_len
    );
    let alone = alone(plan, &node).await?;
    say("the node alone", &alone, &[]);
    let gateway = network.start_gateway().await?;
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
