//! Measures the resident memory of a node with a large log and many readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::error::BenchError;
use crate::load::{self, Load};
use crate::network::{self, Node};
use crate::process::Memory;
use crate::rpc::{self, Connection};
use crate::scenario::publish::seed;
use crate::workload::{self, Workload};

const STREAMS_PER_CONNECTION: u64 = 100;
/// Subscriptions that are not live by then have failed.
const SUBSCRIBE_MAX: Duration = Duration::from_secs(60);
/// Published while the subscriptions are open: requests, and envelopes in each.
const REQUESTS: u64 = 500;
const PER_REQUEST: u64 = 20;

/// Resident memory of the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Resident {
    /// Envelopes in the log.
    pub(crate) stored: u64,
    pub(crate) payload_len: usize,
    pub(crate) subscriptions: u64,
    /// Envelopes that these brought while they were watched.
    pub(crate) delivered: u64,
    /// With no subscription open.
    pub(crate) before: Memory,
    /// With all of them open, after envelopes were delivered on them.
    pub(crate) after: Memory,
}

/// Opens subscriptions to one topic each, publishes on these topics, and looks.
pub(crate) async fn run(
    node: &Node,
    subscriptions: u64,
    topics: u64,
    payload_len: usize,
) -> Result<Resident, BenchError> {
    let mut connection = Connection::open(node.api()).await?;
    let stored = network::head(&mut connection, node.id()).await?;
    let before = node.memory()?;
    let (live, delivered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut streams = JoinSet::new();
    let mut shared = connection.clone();
    for number in 0..subscriptions {
        if number.is_multiple_of(STREAMS_PER_CONNECTION) {
            shared = Connection::open(node.api()).await?;
        }
        let last_seen = network::cursor_of(&mut connection, node.id()).await?;
        let filter = api::subscribe_topics_request::TopicFilter {
            topic: workload::topic(number % topics),
            last_seen: Some(last_seen.to_pb()),
        };
        let request = api::SubscribeTopicsRequest { filters: vec![filter] };
        streams.spawn(watch(shared.clone(), request, Arc::clone(&live), Arc::clone(&delivered)));
    }
    let start = Instant::now();
    while live.load(Ordering::Relaxed) < subscriptions {
        if start.elapsed() > SUBSCRIBE_MAX {
            let live = live.load(Ordering::Relaxed);
            return Err(format!("{live} of {subscriptions} subscriptions are live").into());
        }
        if let Some(ended) = streams.try_join_next() {
            ended??;
        }
        sleep(Duration::from_millis(20)).await;
    }

    let workload = Workload::new(node.id(), 64, subscriptions.min(topics), payload_len, seed())?;
    let load = Load::once(workload.requests(0, REQUESTS, PER_REQUEST), Duration::from_secs(60));
    let published = load::run(&load, &[connection], 16).await?.envelopes;
    let start = Instant::now();
    let most = published * subscriptions.div_ceil(topics.max(1));
    while delivered.load(Ordering::Relaxed) < published && start.elapsed() < SUBSCRIBE_MAX {
        sleep(Duration::from_millis(20)).await;
    }
    let delivered = delivered.load(Ordering::Relaxed);
    if delivered < published || delivered > most {
        return Err(format!("{published} envelopes published, but {delivered} delivered").into());
    }
    let after = node.memory()?;
    Ok(Resident { stored, payload_len, subscriptions, delivered, before, after })
}

/// A stream that may be counted as live. Counted until it is dropped.
struct LiveStream(Option<Arc<AtomicU64>>);

impl Drop for LiveStream {
    fn drop(&mut self) {
        if let Some(live) = &self.0 {
            live.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Counts what a subscription brings, and the subscription as live once it has caught up, until it is dropped.
pub(crate) async fn watch(
    mut connection: Connection,
    request: api::SubscribeTopicsRequest,
    live: Arc<AtomicU64>,
    delivered: Arc<AtomicU64>,
) -> Result<(), BenchError> {
    use api::subscribe_topics_response::{Response, SubscriptionStatus};
    let mut stream = connection.stream(rpc::SUBSCRIBE_TOPICS, &request).await?;
    let mut counted = LiveStream(None);
    while let Some(message) = stream.message().await? {
        match api::SubscribeTopicsResponse::decode(message)?.response {
            Some(Response::StatusUpdate(update))
                if update.status() == SubscriptionStatus::CatchupComplete =>
            {
                live.fetch_add(1, Ordering::Relaxed);
                counted.0 = Some(Arc::clone(&live));
            }
            Some(Response::Envelopes(envelopes)) => {
                delivered.fetch_add(envelopes.envelopes.len() as u64, Ordering::Relaxed);
            }
            _ => {}
        }
    }
    Err("a subscription ended".into())
}
