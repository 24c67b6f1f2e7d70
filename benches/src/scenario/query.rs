//! Measures queries for pages of one topic of a large log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::error::BenchError;
use crate::network::{self, Node};
use crate::rpc::{self, Connection};
use crate::scenario::fill::come_to_rest;
use crate::stats::{self, Latencies, Quantiles};
use crate::{http, process, workload};

const SECONDS_SUM: &str = "grpc_server_handling_seconds_sum";
const SECONDS_COUNT: &str = "grpc_server_handling_seconds_count";
const METHOD: &str = "grpc_method=\"QueryEnvelopes\"";
/// Connections that all clients share.
const CONNECTIONS: usize = 8;

/// Latencies of the queries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Queried {
    /// Envelopes in the log.
    pub(crate) stored: u64,
    /// Envelopes that each query asks for.
    pub(crate) page: u32,
    /// Envelopes in an answer, on average. Earlier results lack it: their pages were full.
    #[serde(default)]
    pub(crate) envelopes_each: Option<f64>,
    pub(crate) queries: u64,
    /// From sending a query to its answer; the server's share cannot be larger.
    pub(crate) client: Quantiles,
    /// Average time that the server reports, in microseconds.
    pub(crate) server_mean_us: Option<f64>,
    /// User and system time of the server for each query, in microseconds. NaN for a server that was not
    /// started by this program.
    #[serde(with = "unknown_as_null")]
    pub(crate) server_cpu_us: f64,
    /// The same pages asked for by many clients at once.
    #[serde(default)]
    pub(crate) at_once: Option<AskedAtOnce>,
}

impl Queried {
    /// Returns true if each answer had as many envelopes as it may have.
    pub(crate) fn is_full(&self) -> bool {
        self.envelopes_each.is_none_or(|each| each >= f64::from(self.page))
    }
}

/// Pages that many clients ask for at once, each one after the other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct AskedAtOnce {
    pub(crate) clients: usize,
    pub(crate) pages: u64,
    pub(crate) pages_per_second: f64,
    pub(crate) client: Quantiles,
    /// User and system time of the server for each page, in microseconds, if it is known.
    pub(crate) server_cpu_us: Option<f64>,
    /// User and system time of this program for each page, in microseconds.
    pub(crate) generator_cpu_us: f64,
}

/// JSON has no number for what is not known.
mod unknown_as_null {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(us: &f64, to: S) -> Result<S::Ok, S::Error> {
        us.is_finite().then_some(*us).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
    }
}

/// The server that is asked.
pub(crate) struct Server<'a> {
    pub(crate) api: SocketAddr,
    pub(crate) originator: OriginatorId,
    /// `None` for a server that this program has not started.
    pub(crate) node: Option<&'a Node>,
}

/// The questions of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Topics to ask for.
    pub(crate) topics: u64,
    pub(crate) page: u32,
    /// Each topic has at least `page` envelopes, so that an answer with fewer is a fault.
    pub(crate) full: bool,
    pub(crate) queries: u64,
    /// Clients that ask at once.
    pub(crate) clients: usize,
}

impl Plan {
    /// The `number`-th question: for the first envelopes of a topic, in no order.
    fn question(&self, number: u64) -> bytes::Bytes {
        let topic = workload::topic(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.topics);
        let query = api::EnvelopesQuery { topics: vec![topic], ..Default::default() };
        let ask = api::QueryEnvelopesRequest { query: Some(query), limit: self.page };
        ask.encode_to_vec().into()
    }

    /// Returns the number of envelopes in an answer.
    fn check(&self, answer: &[u8]) -> Result<u64, BenchError> {
        let page = u64::from(self.page);
        match rpc::count_entries(answer) {
            Some(count) if count == page || (count < page && !self.full) => Ok(count),
            count => Err(format!("a page of {page} envelopes has {count:?}").into()),
        }
    }
}

/// Asks one query after the other, and then many clients at once.
pub(crate) async fn run(server: &Server<'_>, plan: Plan) -> Result<Queried, BenchError> {
    let mut connection = Connection::open(server.api).await?;
    let stored = network::head(&mut connection, server.originator).await?;
    if let Some(node) = server.node {
        come_to_rest(node).await?;
    }
    for number in 0..plan.queries / 10 {
        connection.call(rpc::QUERY, plan.question(number)).await?;
    }
    let before = Observed::of(server).await?;
    let (mut latencies, mut envelopes) = (Latencies::new(), 0);
    for number in 0..plan.queries {
        let question = plan.question(plan.queries + number);
        let start = Instant::now();
        let answer = connection.call(rpc::QUERY, question).await?;
        latencies.record(start.elapsed());
        envelopes += plan.check(&answer)?;
    }
    let spent = Observed::of(server).await?.since(&before);
    Ok(Queried {
        stored,
        page: plan.page,
        envelopes_each: Some(stats::float(envelopes) / stats::float(plan.queries.max(1))),
        queries: plan.queries,
        client: latencies.quantiles(),
        server_mean_us: spent.mean_us,
        server_cpu_us: spent.cpu.map_or(f64::NAN, |cpu| micros_each(cpu, plan.queries)),
        at_once: Some(ask_at_once(server, plan).await?),
    })
}

async fn ask_at_once(server: &Server<'_>, plan: Plan) -> Result<AskedAtOnce, BenchError> {
    let connections = Connection::open_many(server.api, CONNECTIONS).await?;
    let next = Arc::new(AtomicU64::new(0));
    let before = (Observed::of(server).await?, process::cpu_time(std::process::id())?);
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for client in 0..plan.clients.max(1) {
        let (mut connection, next) = (connections[client % CONNECTIONS].clone(), Arc::clone(&next));
        clients.spawn(async move {
            let mut latencies = Latencies::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= plan.queries {
                    return Ok::<_, BenchError>(latencies);
                }
                let start = Instant::now();
                let answer = connection.call(rpc::QUERY, plan.question(number)).await?;
                latencies.record(start.elapsed());
                plan.check(&answer)?;
            }
        });
    }
    let mut latencies = Latencies::new();
    while let Some(client) = clients.join_next().await {
        latencies.merge(&client??);
    }
    let elapsed = start.elapsed();
    let spent = Observed::of(server).await?.since(&before.0);
    let own = process::cpu_time(std::process::id())?.saturating_sub(before.1);
    Ok(AskedAtOnce {
        clients: plan.clients,
        pages: plan.queries,
        pages_per_second: stats::per_second(plan.queries, elapsed),
        client: latencies.quantiles(),
        server_cpu_us: spent.cpu.map(|cpu| micros_each(cpu, plan.queries)),
        generator_cpu_us: micros_each(own, plan.queries),
    })
}

fn micros_each(time: Duration, count: u64) -> f64 {
    time.as_secs_f64() * 1e6 / stats::float(count.max(1))
}

/// State of a server that this program has started.
struct Observed {
    metrics: String,
    cpu: Option<Duration>,
}

/// The difference between two looks.
struct Spent {
    mean_us: Option<f64>,
    cpu: Option<Duration>,
}

impl Observed {
    async fn of(server: &Server<'_>) -> Result<Self, BenchError> {
        Ok(match server.node {
            Some(node) => Self { metrics: node.metrics().await?, cpu: Some(node.cpu_time()?) },
            None => Self { metrics: String::new(), cpu: None },
        })
    }

    fn since(&self, before: &Self) -> Spent {
        let grown = |name| {
            http::metric(&self.metrics, name, METHOD) - http::metric(&before.metrics, name, METHOD)
        };
        let counted = grown(SECONDS_COUNT);
        Spent {
            mean_us: (counted > 0.0).then(|| grown(SECONDS_SUM) * 1e6 / counted),
            cpu: self.cpu.zip(before.cpu).map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_page_is_a_fault_only_where_topics_have_more() {
        let full = Plan { topics: 1, page: 3, queries: 1, clients: 1, full: true };
        let any = Plan { full: false, ..full };
        let answer = |count| [0x0a, 0].repeat(count);
        for count in 0..5 {
            assert_eq!(full.check(&answer(count)).is_ok(), count == 3, "{count}");
            assert_eq!(any.check(&answer(count)).ok(), (count <= 3).then_some(count as u64));
        }
        assert!(any.check(&[0x12, 0]).is_err(), "not a list of envelopes");
    }
}
