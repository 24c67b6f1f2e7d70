//! Streams that come back after a restart, lack little, and are woken by single envelopes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hawser_proto::Cursor;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::error::BenchError;
use crate::load::{self, Load};
use crate::network::{self, Network, Node};
use crate::rpc::Connection;
use crate::scenario::memory::watch;
use crate::scenario::publish::seed;
use crate::stats::{self, Quantiles, verdict};
use crate::workload::{self, Workload};

const STREAMS_PER_CONNECTION: u64 = 100;
/// Pause before a stream that was refused, or whose connection has ended, is opened again. Nodes ask for as much.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Streams that have not caught up by then have failed.
const CATCH_UP_MAX: Duration = Duration::from_secs(600);
/// Topics of the stream that has most. Specified: the most that a request may have.
const MANY_TOPICS: u64 = 10_000;
/// Envelopes that are published one at a time beside all streams.
const SINGLE: u64 = 500;
const PER_REQUEST: u64 = 20;
/// Promised growth of the node's resident memory: the default of `--api-memory-limit`.
const GROWN_MIB_MAX: u64 = 512;

/// The parameters of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) streams: u64,
    /// Topics of each of these streams.
    pub(crate) topics_each: u64,
    /// Envelopes that are published between the streams' cursors and their return.
    pub(crate) missed: u64,
    /// Topics of the node.
    pub(crate) topics: u64,
    pub(crate) payload_len: usize,
}

/// The figures of streams that were opened together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct OpenedTogether {
    pub(crate) streams: u64,
    /// From the first request until all of them were live at the same time.
    pub(crate) elapsed_s: f64,
    /// User and system time of the node for each of them, in microseconds.
    pub(crate) node_cpu_us: f64,
    /// Times that one was refused, or lost its connection, and was opened again.
    pub(crate) again: u64,
    /// Resident memory of the node, with these streams and all others that are open.
    pub(crate) resident_kib: u64,
}

impl OpenedTogether {
    /// Prints the figures of `what`.
    pub(crate) fn print(&self, what: &str) {
        let Self { streams, elapsed_s, node_cpu_us, again, resident_kib } = *self;
        println!(
            "{what}: {elapsed_s:.2} s, {:.2} s CPU of the node, {node_cpu_us:.0} us each; {} MiB resident; \
             {again} came again",
            node_cpu_us * stats::float(streams) / 1e6,
            resident_kib >> 10,
        );
    }
}

/// The figures of streams that come back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct CameBack {
    /// A stream of many topics, which comes first.
    pub(crate) many_topics: OpenedTogether,
    pub(crate) all: OpenedTogether,
    /// Envelopes that were published while they were away.
    pub(crate) missed: u64,
    /// Single envelopes that are published beside all streams: from sending a request to its answer.
    pub(crate) single: Quantiles,
    /// User and system time of the node for each of these envelopes, in microseconds.
    pub(crate) single_cpu_us: f64,
    /// Deliveries of these envelopes until the last answer.
    pub(crate) delivered: u64,
    /// Resident memory of the node before the first stream. Zero in results of earlier versions.
    #[serde(default)]
    pub(crate) idle_kib: u64,
    /// The most that was ever resident. Zero in results of earlier versions.
    #[serde(default)]
    pub(crate) peak_kib: u64,
}

/// Prints a line for each part. `node` has grown, and is stopped; it comes back with `flags`.
pub(crate) async fn run(
    network: &Network,
    node: Node,
    flags: &[String],
    plan: Plan,
) -> Result<(), BenchError> {
    let (figures, node) = come_back(network, node, flags, plan).await?;
    node.stop();
    let CameBack { many_topics, all, missed, single, single_cpu_us, delivered, .. } = figures;
    let grown_mib = figures.peak_kib.saturating_sub(figures.idle_kib) >> 10;
    many_topics.print(&format!("a stream of {} topics opens", MANY_TOPICS.min(plan.topics)));
    all.print(&format!("{} streams of {} topics come back", plan.streams, plan.topics_each));
    println!("  {missed} envelopes were missed by those who have their topics");
    println!(
        "single envelopes beside them: p50 {:.2} ms, p99 {:.2} ms, {single_cpu_us:.0} us CPU each, {delivered} delivered",
        single.p50_us / 1e3,
        single.p99_us / 1e3,
    );
    println!(
        "at most {grown_mib} MiB resident above the {} MiB of the idle node: {}",
        figures.idle_kib >> 10,
        verdict(grown_mib <= GROWN_MIB_MAX),
    );
    Ok(())
}

/// Publishes what the streams miss, stops the node, and has it and the streams come back. Returns the node.
pub(crate) async fn come_back(
    network: &Network,
    node: Node,
    flags: &[String],
    plan: Plan,
) -> Result<(CameBack, Node), BenchError> {
    let Plan { topics, payload_len, .. } = plan;
    let workload = Workload::new(node.id(), 64, topics, payload_len, seed())?;
    let mut connection = Connection::open(node.api()).await?;
    let last_seen = network::cursor_of(&mut connection, node.id()).await?;
    let requests = workload.requests(0, plan.missed.div_ceil(PER_REQUEST), PER_REQUEST);
    let missed = load::run(&Load::once(requests, CATCH_UP_MAX), &[connection], 16).await?;
    node.stop();
    let node = network.start_flagged(0, flags).await?;

    let idle_kib = node.memory()?.resident_kib;
    let mut open = Opened::default();
    let many = (0..MANY_TOPICS.min(topics)).collect::<Vec<_>>();
    let many_topics = open.measure(&node, &last_seen, vec![many]).await?;
    let of_stream = |stream: u64| {
        (0..plan.topics_each).map(|it| (stream * plan.topics_each + it) % topics).collect()
    };
    let all: Vec<Vec<u64>> = (0..plan.streams).map(of_stream).collect();
    let all = open.measure(&node, &last_seen, all).await?;

    let connection = Connection::open(node.api()).await?;
    let (before, delivered) = (node.cpu_time()?, open.delivered());
    let requests = workload.requests(missed.requests, SINGLE, 1);
    let published = load::run(&Load::once(requests, CATCH_UP_MAX), &[connection], 1).await?;
    let cpu = node.cpu_time()? - before;
    let figures = CameBack {
        many_topics,
        all,
        missed: missed.envelopes,
        single: published.latencies.quantiles(),
        single_cpu_us: cpu.as_secs_f64() * 1e6 / stats::float(SINGLE),
        delivered: open.delivered() - delivered,
        idle_kib,
        peak_kib: node.memory()?.peak_kib,
    };
    Ok((figures, node))
}

/// Streams that stay open.
#[derive(Default)]
pub(crate) struct Opened {
    tasks: JoinSet<Result<(), BenchError>>,
    live: Arc<AtomicU64>,
    delivered: Arc<AtomicU64>,
    /// Times that a stream was opened again.
    again: Arc<AtomicU64>,
}

/// Keeps a stream open. It comes again after a refusal and after the end of its connection, as clients do.
async fn keep_open(
    connection: Connection,
    request: api::SubscribeTopicsRequest,
    (live, delivered): (Arc<AtomicU64>, Arc<AtomicU64>),
    again: Arc<AtomicU64>,
) -> Result<(), BenchError> {
    loop {
        let counters = (Arc::clone(&live), Arc::clone(&delivered));
        let ended = watch(connection.clone(), request.clone(), counters.0, counters.1).await;
        let Err(error) = ended else { return Ok(()) };
        let code = error.downcast_ref::<Status>().map(Status::code);
        let Some(
            Code::ResourceExhausted
            | Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal,
        ) = code
        else {
            return Err(error);
        };
        if again.fetch_add(1, Ordering::Relaxed) == 0 {
            eprintln!("  the first stream that comes again: {error}");
        }
        sleep(AGAIN_AFTER).await;
    }
}

impl Opened {
    /// Returns the number of envelopes that all streams have brought.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Opens streams of these topics, all from one cursor, and waits until all are live at the same time.
    pub(crate) async fn measure(
        &mut self,
        node: &Node,
        last_seen: &Cursor,
        streams: Vec<Vec<u64>>,
    ) -> Result<OpenedTogether, BenchError> {
        let (before, start) = (node.cpu_time()?, Instant::now());
        let wanted = self.live.load(Ordering::Relaxed) + streams.len() as u64;
        let count = streams.len() as u64;
        let mut connection = Connection::open(node.api()).await?;
        for (number, topics) in (0..).zip(streams) {
            if u64::is_multiple_of(number, STREAMS_PER_CONNECTION) {
                connection = Connection::open(node.api()).await?;
            }
            let filter = |number| api::subscribe_topics_request::TopicFilter {
                topic: workload::topic(number),
                last_seen: Some(last_seen.to_pb()),
            };
            let filters = topics.into_iter().map(filter).collect();
            let request = api::SubscribeTopicsRequest { filters };
            let counters = (Arc::clone(&self.live), Arc::clone(&self.delivered));
            let again = Arc::clone(&self.again);
            self.tasks.spawn(keep_open(connection.clone(), request, counters, again));
        }
        while self.live.load(Ordering::Relaxed) < wanted {
            if let Some(ended) = self.tasks.try_join_next() {
                ended??;
            }
            if start.elapsed() > CATCH_UP_MAX {
                return Err("streams do not catch up".into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        let elapsed_s = start.elapsed().as_secs_f64();
        let cpu = node.cpu_time()? - before;
        Ok(OpenedTogether {
            streams: count,
            elapsed_s,
            node_cpu_us: cpu.as_secs_f64() * 1e6 / stats::float(count.max(1)),
            again: self.again.swap(0, Ordering::Relaxed),
            resident_kib: node.memory()?.resident_kib,
        })
    }
}
