//! Readers of a node: many subscriptions that are open, many listeners of one topic, a stream of many topics that
//! opens, and a whole strand as one stream beside a plain stream of equal messages.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api as api;
use hawser_proto::{Cursor, OriginatorId};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;

use crate::child::IdleServer;
use crate::error::BenchError;
use crate::network::{self, Node};
use crate::rpc::{self, Connection};
use crate::scenario::publish::seed;
use crate::scenario::reconnect::{Opened, OpenedTogether};
use crate::stats::{self, Quantiles};
use crate::workload::{self, Workload};

/// Envelopes that are published one at a time to all listeners.
const TRIES: u64 = 20;
/// Listeners that have not heard of an envelope by then have failed.
const HEARD_MAX: Duration = Duration::from_secs(60);
/// Topics of the stream that opens. Specified: the most that a request may have.
const MANY_TOPICS: u64 = 10_000;
/// Promised share of a core that the idle node takes beside its streams.
const IDLE_SHARE_MAX: f64 = 0.03;
/// Promised resident memory beside them.
const RESIDENT_MIB_MAX: u64 = 1024;
/// Promised time until all listeners have an envelope, microseconds.
const HEARD_US_PROMISED: f64 = 150e3;
/// Promised time until the first page of a stream of many topics, microseconds.
const FIRST_PAGE_US_PROMISED: f64 = 50e3;
/// Topics of the largest stream. Specified: the most that one may have.
const MILLION: u64 = 1_000_000;
/// Topics that one request adds. Specified: the most that it may have.
const MUTATE_TOPICS: u64 = 100_000;
/// Promised memory of such a stream: the growth of what is resident.
const MILLION_MIB_MAX: u64 = 512;
/// Promised share of a plain stream.
const PLAIN_SHARE_MIN: f64 = 0.6;
/// Messages of a plain stream whose time is not taken.
const WARM_UP: u64 = 10;

/// The parameters of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) streams: u64,
    /// Topics of each of these streams.
    pub(crate) topics_each: u64,
    /// Duration of the look at the idle node.
    pub(crate) idle: Duration,
    /// Topics of the node.
    pub(crate) topics: u64,
    pub(crate) payload_len: usize,
}

/// Prints a line for each part.
pub(crate) async fn run(node: &Node, plan: Plan) -> Result<(), BenchError> {
    print_strand(&strand(node).await?);
    print_first_page(&first_page(node).await?);
    million_topics(node).await?;
    subscriptions(node, plan).await?;
    print_heard(&listeners(node, plan.streams, plan.payload_len).await?);
    Ok(())
}

/// Opens streams of topics of their own, and looks at the node while nothing happens.
async fn subscriptions(node: &Node, plan: Plan) -> Result<(), BenchError> {
    let mut connection = Connection::open(node.api()).await?;
    let last_seen = network::cursor_of(&mut connection, node.id()).await?;
    let of_stream = |stream: u64| {
        (0..plan.topics_each).map(|it| (stream * plan.topics_each + it) % plan.topics).collect()
    };
    let mut open = Opened::default();
    let text = format!("{} streams of {} topics open", plan.streams, plan.topics_each);
    open.measure(node, &last_seen, (0..plan.streams).map(of_stream).collect()).await?.print(&text);
    let (before, start) = (node.cpu_time()?, Instant::now());
    sleep(plan.idle).await;
    let share = (node.cpu_time()? - before).as_secs_f64() / start.elapsed().as_secs_f64();
    println!("idle beside them for {} s: {:.2} % of a core", plan.idle.as_secs(), share * 100.0);
    let kept = stats::verdict(share < IDLE_SHARE_MAX);
    println!("promised: below {:.0} % of a core: {kept}", IDLE_SHARE_MAX * 100.0);
    let mib = node.memory()?.resident_kib >> 10;
    println!("promised: below {RESIDENT_MIB_MAX} MiB: {}", stats::verdict(mib < RESIDENT_MIB_MAX));
    Ok(())
}

/// The figures of many streams of one topic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub(crate) opened: OpenedTogether,
    /// From sending the request of one envelope until the last stream has it.
    pub(crate) heard: Quantiles,
}

/// Opens streams of one topic, publishes to it, and takes the time until the last stream has the envelope.
pub(crate) async fn listeners(
    node: &Node,
    streams: u64,
    payload_len: usize,
) -> Result<Heard, BenchError> {
    let mut connection = Connection::open(node.api()).await?;
    let last_seen = network::cursor_of(&mut connection, node.id()).await?;
    let mut open = Opened::default();
    let opened = open.measure(node, &last_seen, (0..streams).map(|_| vec![0]).collect()).await?;
    let workload = Workload::new(node.id(), 1, 1, payload_len, seed())?;
    let mut times = stats::Latencies::new();
    for number in 0..TRIES {
        let wanted = open.delivered() + streams;
        let start = Instant::now();
        connection.call(rpc::PUBLISH, workload.request(number, 1)).await?;
        while open.delivered() < wanted {
            if start.elapsed() > HEARD_MAX {
                return Err("listeners do not hear of an envelope".into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        times.record(start.elapsed());
    }
    Ok(Heard { opened, heard: times.quantiles() })
}

fn print_heard(figures: &Heard) {
    let Heard { opened, heard } = figures;
    opened.print(&format!("{} streams of one topic open", opened.streams));
    println!(
        "an envelope reaches {} listeners, from the request on: p50 {:.1} ms, p99 {:.1} ms",
        opened.streams,
        heard.p50_us / 1e3,
        heard.p99_us / 1e3
    );
    let kept = stats::verdict(heard.p50_us < HEARD_US_PROMISED);
    println!("promised: below {:.0} ms (p50): {kept}", HEARD_US_PROMISED / 1e3);
}

/// Opens a stream of many topics from their beginning, and takes the time until its first page.
pub(crate) async fn first_page(node: &Node) -> Result<Quantiles, BenchError> {
    use api::subscribe_topics_response::Response;
    let filter = |number| api::subscribe_topics_request::TopicFilter {
        topic: workload::topic(number),
        last_seen: Some(Cursor::default().to_pb()),
    };
    let request = api::SubscribeTopicsRequest { filters: (0..MANY_TOPICS).map(filter).collect() };
    let mut times = stats::Latencies::new();
    for _ in 0..TRIES {
        let mut connection = Connection::open(node.api()).await?;
        let start = Instant::now();
        let mut stream = connection.stream(rpc::SUBSCRIBE_TOPICS, &request).await?;
        loop {
            let message = stream.message().await?.ok_or("a subscription ended")?;
            let message = api::SubscribeTopicsResponse::decode(message)?;
            if matches!(message.response, Some(Response::Envelopes(_))) {
                break;
            }
        }
        times.record(start.elapsed());
    }
    Ok(times.quantiles())
}

fn print_first_page(times: &Quantiles) {
    println!(
        "the first page of a stream of {MANY_TOPICS} topics: p50 {:.1} ms, p99 {:.1} ms",
        times.p50_us / 1e3,
        times.p99_us / 1e3
    );
    let kept = stats::verdict(times.p50_us < FIRST_PAGE_US_PROMISED);
    println!("promised: below {:.0} ms (p50): {kept}", FIRST_PAGE_US_PROMISED / 1e3);
}

/// Returns a request that adds topics, which nothing was published to after the cursor.
fn mutate(mutate_id: u64, last_seen: &Cursor) -> Bytes {
    use api::subscribe_request::v1::mutate::Subscription;
    use api::subscribe_request::v1::{Mutate, Request};
    use api::subscribe_request::{V1, Version};
    let add = |number| Subscription {
        topic: workload::topic(number),
        last_seen: Some(last_seen.to_pb()),
    };
    let topics = (mutate_id - 1) * MUTATE_TOPICS..mutate_id * MUTATE_TOPICS;
    let mutate = Mutate { adds: topics.map(add).collect(), mutate_id, ..Mutate::default() };
    let version = Version::V1(V1 { request: Some(Request::Mutate(mutate)) });
    api::SubscribeRequest { version: Some(version) }.encode_to_vec().into()
}

/// Adds a million topics to one stream, in requests of the most topics that one may have, each after the wave of the
/// one before it, and looks at the memory.
async fn million_topics(node: &Node) -> Result<(), BenchError> {
    use api::subscribe_response::Version;
    use api::subscribe_response::v1::Response;
    let mut connection = Connection::open(node.api()).await?;
    let last_seen = network::cursor_of(&mut connection, node.id()).await?;
    let before = node.memory()?.resident_kib;
    let start = Instant::now();
    let (requests, questions) = mpsc::channel(1);
    let questions = ReceiverStream::new(questions);
    requests.send(mutate(1, &last_seen)).await?;
    let mut stream = connection.duplex(rpc::SUBSCRIBE, questions).await?;
    let mut live = 0;
    while live < MILLION {
        let message = stream.message().await?.ok_or("the stream of a million topics ended")?;
        let Some(Version::V1(v1)) = api::SubscribeResponse::decode(message)?.version else {
            continue;
        };
        let Some(Response::CatchupComplete(wave)) = v1.response else { continue };
        live += MUTATE_TOPICS;
        if live < MILLION {
            requests.send(mutate(wave.mutate_id + 1, &last_seen)).await?;
        }
    }
    let (took, after) = (start.elapsed(), node.memory()?.resident_kib);
    println!(
        "a stream of {MILLION} topics: live after {:.2} s; {} MiB resident, {} MiB before",
        took.as_secs_f64(),
        after >> 10,
        before >> 10
    );
    let kept = stats::verdict(after.saturating_sub(before) >> 10 < MILLION_MIB_MAX);
    println!("promised: below {MILLION_MIB_MAX} MiB more: {kept}");
    drop((stream, requests));
    // The node leaves the topics of a stream that has ended on another thread.
    sleep(Duration::from_secs(1)).await;
    Ok(())
}

/// The figures of a strand that is read as one stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct StrandRead {
    pub(crate) envelopes: u64,
    pub(crate) envelopes_per_second: f64,
    /// Bytes of the stream's messages in a second.
    pub(crate) bytes_per_second: f64,
    /// The average length of these messages, in bytes.
    pub(crate) message_len: u64,
    pub(crate) messages: u64,
    /// Bytes in a second of a plain stream with as many messages of that length.
    pub(crate) plain_bytes_per_second: f64,
}

/// Reads the node's own strand as a stream, and as many bytes in messages of the same length from a server that does
/// nothing but send.
pub(crate) async fn strand(node: &Node) -> Result<StrandRead, BenchError> {
    let mut connection = Connection::open(node.api()).await?;
    let head = network::head(&mut connection, node.id()).await?;
    let start = Instant::now();
    let (envelopes, messages, bytes) = read_strand(&mut connection, node.id(), head).await?;
    let elapsed = start.elapsed();
    let message_len = bytes / messages.max(1);
    let server = IdleServer::start(usize::try_from(message_len)?)?;
    let mut connection = Connection::open(server.address()).await?;
    let mut stream =
        connection.stream(rpc::PLAIN_STREAM, &api::SubscribeAllEnvelopesRequest {}).await?;
    let mut start = Instant::now();
    for number in 0..messages + WARM_UP {
        if number == WARM_UP {
            start = Instant::now();
        }
        stream.message().await?.ok_or("the plain stream ended")?;
    }
    Ok(StrandRead {
        envelopes,
        envelopes_per_second: stats::per_second(envelopes, elapsed),
        bytes_per_second: stats::per_second(bytes, elapsed),
        message_len,
        messages,
        plain_bytes_per_second: stats::per_second(message_len * messages, start.elapsed()),
    })
}

fn print_strand(figures: &StrandRead) {
    let StrandRead { envelopes, messages, message_len, .. } = figures;
    let (of_node, plain) = (figures.bytes_per_second, figures.plain_bytes_per_second);
    println!(
        "{envelopes} envelopes by SubscribeOriginators: {:.0} /s, {:.0} MB/s",
        figures.envelopes_per_second,
        of_node / 1e6
    );
    println!(
        "a plain stream of {messages} messages of {message_len} bytes: {:.0} MB/s; the node has {:.0} % of that",
        plain / 1e6,
        of_node / plain * 100.0
    );
    let kept = stats::verdict(of_node >= plain * PLAIN_SHARE_MIN);
    println!("promised: {:.0} % of the plain stream: {kept}", PLAIN_SHARE_MIN * 100.0);
}

/// Reads a strand from its beginning to `head`. Returns the envelopes, the messages that they came in, and the
/// bytes of these.
async fn read_strand(
    connection: &mut Connection,
    originator: OriginatorId,
    head: u64,
) -> Result<(u64, u64, u64), BenchError> {
    let filter = api::subscribe_originators_request::OriginatorFilter {
        originator_node_ids: vec![originator.0],
        last_seen: Some(Cursor::default().to_pb()),
    };
    let request = api::SubscribeOriginatorsRequest { filter: Some(filter) };
    let mut stream = connection.stream(rpc::SUBSCRIBE_ORIGINATORS, &request).await?;
    let (mut envelopes, mut messages, mut bytes) = (0, 0, 0);
    while envelopes < head {
        let message = stream.message().await?.ok_or("the strand's stream ended")?;
        let len = message.len() as u64;
        // The list of envelopes is field 1 of the message, which is empty as a sign of life.
        let Some(list) = rpc::first_field(&message) else { continue };
        envelopes += rpc::count_entries(list).ok_or("a message that is no list of envelopes")?;
        messages += 1;
        bytes += len;
    }
    Ok((envelopes, messages, bytes))
}
