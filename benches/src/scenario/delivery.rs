//! Measures the time from a publish at one node to its delivery at another one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use parking_lot::Mutex;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Streaming;

use crate::error::BenchError;
use crate::network::{self, Node};
use crate::rpc::{self, Connection};
use crate::scenario::publish::seed;
use crate::stats;
use crate::stats::{Latencies, Quantiles};
use crate::workload::{self, Workload};

/// An envelope that is not delivered within this time after the last publish counts as lost.
const DELIVERY_MAX: Duration = Duration::from_secs(30);

/// Parameters of the delivery scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Requests of one envelope each, per second.
    pub(crate) rate: u64,
    pub(crate) seconds: u64,
    pub(crate) payload_len: usize,
    pub(crate) topics: u64,
    pub(crate) connections: usize,
}

/// Outcome of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delivered {
    #[serde(flatten)]
    pub(crate) plan: Plan,
    /// Published, acknowledged, and delivered once.
    pub(crate) envelopes: u64,
    /// The rate that was kept.
    pub(crate) envelopes_per_second: f64,
    /// From just before the request is sent until the envelope arrives on the subscription.
    pub(crate) delivery: Quantiles,
    /// From just before the request is sent until it is answered.
    pub(crate) acknowledgement: Quantiles,
}

/// Publishes to `from` at a steady rate; one subscription at `to` must bring everything.
pub(crate) async fn run(plan: &Plan, from: &Node, to: &Node) -> Result<Delivered, BenchError> {
    let count = plan.rate * plan.seconds;
    let workload = Workload::new(from.id(), 64, plan.topics, plan.payload_len, seed())?;
    let requests = workload.requests(0, count, 1);
    let mut connections = Connection::open_many(from.api(), plan.connections).await?;
    let before = network::head(&mut connections[0], from.id()).await?;
    let stream = subscribe(to, plan.topics).await?;
    let sent_at: Arc<Mutex<Vec<Option<Instant>>>> =
        Arc::new(Mutex::new(vec![None; requests.len()]));
    let receiver = tokio::spawn(receive(stream, Arc::clone(&sent_at), count));

    let start = Instant::now();
    let acknowledged = send(requests, &connections, plan.rate, &sent_at).await?;
    let elapsed = start.elapsed();
    let delivered = timeout(DELIVERY_MAX, receiver).await;
    let delivered = delivered.map_err(|_| "not everything was delivered")???;
    network::require_growth(&mut connections[0], from.id(), before, count).await?;
    Ok(Delivered {
        plan: plan.clone(),
        envelopes: count,
        envelopes_per_second: stats::per_second(count, elapsed),
        delivery: delivered.quantiles(),
        acknowledgement: acknowledged.quantiles(),
    })
}

/// Opens one subscription to all topics, and waits until it is live.
async fn subscribe(to: &Node, topics: u64) -> Result<Streaming<Bytes>, BenchError> {
    use api::subscribe_topics_response::{Response, SubscriptionStatus};
    let mut connection = Connection::open(to.api()).await?;
    let last_seen = network::cursor(&mut connection).await?;
    let filters = (0..topics)
        .map(|number| api::subscribe_topics_request::TopicFilter {
            topic: workload::topic(number),
            last_seen: Some(last_seen.to_pb()),
        })
        .collect();
    let request = api::SubscribeTopicsRequest { filters };
    let mut stream = connection.stream(rpc::SUBSCRIBE_TOPICS, &request).await?;
    loop {
        let message = timeout(DELIVERY_MAX, stream.message()).await??;
        let message = message.ok_or("the subscription ended")?;
        if let Some(Response::StatusUpdate(update)) =
            api::SubscribeTopicsResponse::decode(message)?.response
            && update.status() == SubscriptionStatus::CatchupComplete
        {
            return Ok(stream);
        }
    }
}

/// Sends one request each `1 / rate`, however long the answers take.
async fn send(
    requests: Vec<Bytes>,
    connections: &[Connection],
    rate: u64,
    sent_at: &Arc<Mutex<Vec<Option<Instant>>>>,
) -> Result<Latencies, BenchError> {
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate.max(1))?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut tasks = JoinSet::new();
    for (index, request) in requests.into_iter().enumerate() {
        ticks.tick().await;
        let mut connection = connections[index % connections.len()].clone();
        let sent_at = Arc::clone(sent_at);
        tasks.spawn(async move {
            let before = Instant::now();
            sent_at.lock()[index] = Some(before);
            let answer = connection.call(rpc::PUBLISH, request).await?;
            match rpc::count_entries(&answer) {
                Some(1) => Ok::<_, BenchError>(before.elapsed()),
                _ => Err("one envelope sent, but not one answered".into()),
            }
        });
    }
    let mut latencies = Latencies::new();
    while let Some(latency) = tasks.join_next().await {
        latencies.record(latency??);
    }
    Ok(latencies)
}

/// Takes envelopes until `count` different ones of this run have come.
async fn receive(
    mut stream: Streaming<Bytes>,
    sent_at: Arc<Mutex<Vec<Option<Instant>>>>,
    count: u64,
) -> Result<Latencies, BenchError> {
    use api::subscribe_topics_response::Response;
    let mut latencies = Latencies::new();
    let mut seen = HashSet::new();
    while (seen.len() as u64) < count {
        let message = stream.message().await?.ok_or("the subscription ended")?;
        let now = Instant::now();
        let Some(Response::Envelopes(envelopes)) =
            api::SubscribeTopicsResponse::decode(message)?.response
        else {
            continue;
        };
        for envelope in envelopes.envelopes {
            let envelope = OriginatorEnvelope::parse(envelope)?;
            let index = workload::index(envelope.unsigned().payer().client().payload())
                .ok_or("an envelope that was not sent")?;
            if !seen.insert(index) {
                return Err(format!("{} was delivered twice", envelope.id()).into());
            }
            let sent_at = sent_at.lock();
            let sent = sent_at.get(usize::try_from(index)?).copied().flatten();
            latencies.record(now - sent.ok_or("an envelope came before it was sent")?);
        }
    }
    Ok(latencies)
}
