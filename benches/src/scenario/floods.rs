//! An honest publisher beside floods: the time of its publishes with each flood, and without.
//!
//! The program that floods uses the cores of the node. So a flood that needs no answers runs a second time, as fast as
//! the node let it, at a program that only drops what comes: what a publish is late then is not the node's work.

use std::net::SocketAddr;
use std::time::Duration;

use crate::child::IdleServer;
use crate::error::BenchError;
use crate::flood::{Flood, FloodCount, FloodKind};
use crate::load::{self, Load};
use crate::network::{self, Node};
use crate::rpc::Connection;
use crate::scenario::publish::seed;
use crate::stats::{self, Quantiles};
use crate::workload::Workload;

/// Promised multiple of the idle node's p99.
const TIMES_MAX: f64 = 2.0;
/// Requests that are signed for each second: more than one client gets answered.
const PER_SECOND: u64 = 2000;
/// Time in which the node comes to rest between two measurements, and in which a flood begins.
const PAUSE: Duration = Duration::from_secs(2);

/// Prints a line for the idle node, and one or two for each flood, with the idle node's figure before and after:
/// the machine may have become slower meanwhile.
pub(crate) async fn run(node: &Node, payload_len: usize, seconds: u64) -> Result<(), BenchError> {
    let mut publisher = Publisher::new(node, payload_len, seconds).await?;
    let idle = publisher.measure("idle").await?;
    let sink = IdleServer::sink()?;
    for kind in FloodKind::ALL {
        let (beside, count) = publisher.beside(kind, kind.name(), node.api(), None).await?;
        let times = beside.p99_us / idle.p99_us;
        println!(
            "  {} {} meanwhile; promised: a p99 of at most {TIMES_MAX:.0} times the idle node's: {}, {times:.1} times",
            count.sent,
            kind.unit(),
            stats::verdict(times <= TIMES_MAX)
        );
        if kind.needs_answers() {
            continue;
        }
        let name = format!("{} at a program that drops them", kind.name());
        let pace = Some(count.per_second);
        let (own, dropped) = publisher.beside(kind, &name, sink.address(), pace).await?;
        println!(
            "  {} {} meanwhile; the flood's own work: {:.1} times the idle node's p99",
            dropped.sent,
            kind.unit(),
            own.p99_us / idle.p99_us
        );
    }
    publisher.measure("idle again").await?;
    Ok(())
}

/// One client that publishes one envelope at a time.
struct Publisher<'a> {
    node: &'a Node,
    workload: Workload,
    connection: Connection,
    seconds: u64,
    sent: u64,
}

impl<'a> Publisher<'a> {
    async fn new(node: &'a Node, payload_len: usize, seconds: u64) -> Result<Self, BenchError> {
        let workload = Workload::new(node.id(), 64, 10_000, payload_len, seed())?;
        let connection = Connection::open(node.api()).await?;
        Ok(Self { node, workload, connection, seconds, sent: 0 })
    }

    /// Publishes beside a flood of `target`, and leaves the node some time to come to rest.
    async fn beside(
        &mut self,
        kind: FloodKind,
        name: &str,
        target: SocketAddr,
        per_second_max: Option<f64>,
    ) -> Result<(Quantiles, FloodCount), BenchError> {
        let flood = Flood::start(kind, target, per_second_max)?;
        tokio::time::sleep(PAUSE).await;
        let latency = self.measure(name).await?;
        let count = flood.stop();
        tokio::time::sleep(PAUSE).await;
        Ok((latency, count))
    }

    /// Publishes for some seconds, and checks that everything is stored.
    async fn measure(&mut self, beside: &str) -> Result<Quantiles, BenchError> {
        let count = PER_SECOND * self.seconds;
        let requests = self.workload.requests(self.sent, count, 1);
        self.sent += count;
        let before = network::head(&mut self.connection, self.node.id()).await?;
        let load = Load::once(requests, Duration::from_secs(self.seconds));
        let outcome = load::run(&load, std::slice::from_ref(&self.connection), 1).await?;
        outcome.check_samples()?;
        let acknowledged = outcome.envelopes;
        network::require_growth(&mut self.connection, self.node.id(), before, acknowledged).await?;
        let latency = outcome.latencies.quantiles();
        let mib = stats::float(self.node.memory()?.resident_kib) / 1024.0;
        println!(
            "{beside}: {acknowledged} publishes, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms; {mib:.0} MiB resident",
            latency.p50_us / 1e3,
            latency.p99_us / 1e3,
            latency.max_us / 1e3,
        );
        Ok(latency)
    }
}
