//! The effect of a node's own upkeep, a backup and pruning, on a publisher while the node is busy with publishes.

use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::child::{self, CommandTime};
use crate::error::BenchError;
use crate::expired;
use crate::network::{self, Network, Node, node_key};
use crate::process;
use crate::rpc::{self, Connection};
use crate::scenario::publish::seed;
use crate::stats::{self, Latencies, Quantiles, verdict};
use crate::workload::Workload;

/// Promised share of the p99 without upkeep.
const SHARE_MAX: f64 = 1.2;
/// Promised envelopes that pruning frees in a second.
const PRUNED_MIN: f64 = 100_000.0;
const CONNECTIONS: usize = 2;
const TOPICS: u64 = 10_000;
/// The longest time for which publishes are signed beforehand. Upkeep that takes longer is waited for without them.
const LONGEST: Duration = Duration::from_secs(30);
/// Time in which the node comes to rest between two measurements.
const PAUSE: Duration = Duration::from_secs(1);

/// The parameters of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Publishes of one envelope each, per second.
    pub(crate) rate: u32,
    /// Duration of each measurement without upkeep.
    pub(crate) alone: Duration,
    /// Envelopes that may be pruned, and are backed up before.
    pub(crate) expired: u64,
    pub(crate) payload_len: usize,
}

/// Prints a line for each measurement, and for each promise.
pub(crate) async fn run(plan: Plan, hawser: &Path, data_dir: &Path) -> Result<(), BenchError> {
    let network = Network::new(hawser, data_dir, 1)?;
    // A first run makes the folder. None of them prunes by itself.
    let flags = ["--prune-interval=0".to_owned()];
    network.start_flagged(0, &flags).await?.stop();
    let past = Workload::new(network.id(0), 1, TOPICS, plan.payload_len, seed())?;
    let folder = network.data_dir(0);
    expired::write(&folder, &node_key(network.id(0))?, plan.expired, &past)?;
    let node = network.start_flagged(0, &flags).await?;
    println!(
        "{} envelopes that have expired, {} MiB in the folder; {} publishes per second",
        plan.expired,
        process::folder_bytes(&folder) >> 20,
        plan.rate
    );
    let mut publisher = Publisher::new(&node, plan).await?;
    let first = publisher.alone().await?;

    let mut backup = network.command();
    backup.args(["backup", "create", "--data-dir"]).arg(&folder);
    backup.arg("--to").arg(network.folder().join("backups"));
    let (beside_backup, _) = publisher.beside("a backup", backup).await?;
    let second = publisher.alone().await?;

    let mut prune = network.command();
    prune.args(["--json", "prune", "--data-dir"]).arg(&folder);
    let (beside_pruning, (took, printed)) = publisher.beside("pruning", prune).await?;
    let third = publisher.alone().await?;
    node.stop();

    print_verdict("a backup", beside_backup, [first, second]);
    print_verdict("pruning", beside_pruning, [second, third]);
    let printed: Value = serde_json::from_slice(&printed)?;
    let pruned =
        printed["pruned"].as_u64().ok_or("hawser prune does not say how many have gone")?;
    // The end of the last report stays.
    if pruned + 1 != plan.expired {
        return Err(format!("{pruned} of {} envelopes have gone", plan.expired).into());
    }
    let rate = stats::per_second(pruned, took.elapsed);
    println!(
        "promised: {PRUNED_MIN:.0} envelopes pruned in a second: {}, {rate:.0}/s",
        verdict(rate >= PRUNED_MIN)
    );
    Ok(())
}

/// Prints the verdict on publishes beside some upkeep, next to those before and after it.
fn print_verdict(upkeep: &str, beside: Quantiles, alone: [Quantiles; 2]) {
    let share = beside.p99_us / f64::midpoint(alone[0].p99_us, alone[1].p99_us);
    println!(
        "promised beside {upkeep}: at most {:.0} % of the p99 before and after: {}, {:.0} %",
        100.0 * SHARE_MAX,
        verdict(share <= SHARE_MAX),
        100.0 * share
    );
}

/// A client that publishes at a steady rate, however long the answers take.
struct Publisher<'a> {
    node: &'a Node,
    plan: Plan,
    workload: Workload,
    connections: Vec<Connection>,
    sent: u64,
}

impl<'a> Publisher<'a> {
    async fn new(node: &'a Node, plan: Plan) -> Result<Self, BenchError> {
        let workload = Workload::new(node.id(), 64, TOPICS, plan.payload_len, seed())?;
        let connections = Connection::open_many(node.api(), CONNECTIONS).await?;
        Ok(Self { node, plan, workload, connections, sent: 0 })
    }

    async fn alone(&mut self) -> Result<Quantiles, BenchError> {
        let time = self.plan.alone;
        let work = async move {
            sleep(time).await;
            Ok(())
        };
        Ok(self.publish("alone", work).await?.0)
    }

    /// Publishes while a command runs. Returns its output, too.
    async fn beside(
        &mut self,
        upkeep: &str,
        mut command: Command,
    ) -> Result<(Quantiles, (CommandTime, Vec<u8>)), BenchError> {
        let work = async { spawn_blocking(move || child::answer(&mut command)).await? };
        self.publish(&format!("beside {upkeep}"), work).await
    }

    /// Publishes until the work is done, and checks that everything is stored.
    async fn publish<T>(
        &mut self,
        name: &str,
        work: impl Future<Output = Result<T, BenchError>>,
    ) -> Result<(Quantiles, T), BenchError> {
        let count = u64::from(self.plan.rate) * LONGEST.as_secs();
        let mut requests = self.workload.requests(self.sent, count, 1).into_iter();
        self.sent += count;
        sleep(PAUSE).await;
        let before = network::head(&mut self.connections[0], self.node.id()).await?;
        let mut ticks = interval(Duration::from_secs(1) / self.plan.rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut calls, mut latencies, mut acknowledged) =
            (JoinSet::new(), Latencies::new(), 0_u64);
        let start = Instant::now();
        let mut work = pin!(work);
        let done = loop {
            tokio::select! {
                done = &mut work => break done?,
                _ = ticks.tick(), if requests.len() > 0 => {
                    let at = requests.len() % self.connections.len();
                    let mut connection = self.connections[at].clone();
                    let Some(request) = requests.next() else { continue };
                    calls.spawn(async move {
                        let sent = Instant::now();
                        match rpc::count_entries(&connection.call(rpc::PUBLISH, request).await?) {
                            Some(1) => Ok::<_, BenchError>(sent.elapsed()),
                            _ => Err("one envelope sent, but not one answered".into()),
                        }
                    });
                }
                Some(latency) = calls.join_next(), if !calls.is_empty() => {
                    latencies.record(latency??);
                    acknowledged += 1;
                }
            }
        };
        let elapsed = start.elapsed();
        while let Some(latency) = calls.join_next().await {
            latencies.record(latency??);
            acknowledged += 1;
        }
        let connection = &mut self.connections[0];
        network::require_growth(connection, self.node.id(), before, acknowledged).await?;
        let quantiles = latencies.quantiles();
        println!(
            "{name}: {acknowledged} publishes in {:.1} s, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms",
            elapsed.as_secs_f64(),
            quantiles.p50_us / 1e3,
            quantiles.p99_us / 1e3,
            quantiles.max_us / 1e3
        );
        Ok((quantiles, done))
    }
}
