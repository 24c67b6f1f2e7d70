//! The tests of streams: delivery to a live one, and the history of a topic on a new one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_conformance::connection::{Connection, QUERY_API};
use hawser_conformance::envelopes;
use hawser_conformance::listener::CAUGHT_UP;
use hawser_conformance::wire::Framed;
use hawser_proto::Bytes;
use hawser_proto::envelope::OriginatorEnvelope;
use hawser_proto::pb::xmtp::xmtpv4::message_api::SubscribeTopicsRequest;
use hawser_proto::pb::xmtp::xmtpv4::message_api::subscribe_topics_request::TopicFilter;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::{Status, Streaming};

use super::figures::BenchFigures;
use super::load::{BenchTarget, group_message, pause_after};

/// Length of the messages of these tests in bytes, as in the smallest publish test.
const MESSAGE_LEN: usize = 256;
/// Envelopes on their way at once. A guess: many seconds of the fastest pace.
const UNDERWAY_MAX: usize = 10_000;
/// Time for the last envelopes after the last publish, and for a message of a stream: the time limit of reads.
const LAST_MAX: Duration = Duration::from_secs(5);
/// Time limit within which a new stream has to send its history, beside its other messages: that of publishes.
const HISTORY_MAX: Duration = Duration::from_secs(30);
/// Envelopes of the topic whose history is read. A guess.
const HISTORY: u64 = 100;
/// Envelopes that are published at once before that test. A guess: far below the bound of a request.
const HISTORY_PER_REQUEST: u64 = 20;

/// Envelopes that were published and have not been delivered, with the time at which each was sent.
type UndeliveredEnvelopes = Arc<Mutex<HashMap<Bytes, Instant>>>;
/// The calls that a publisher's node refused. It outlives the publisher, which is ended while it pauses.
type RefusedCalls = Arc<Mutex<BenchFigures>>;

/// Publishes at a pace, and measures the time until each envelope is on a live stream.
pub(super) async fn live(target: &Arc<BenchTarget>, per_second: u32) -> BenchFigures {
    let mut figures = BenchFigures::new();
    let topic = envelopes::new_group();
    let mut stream = match in_time(caught_up(&target.readers[0], &topic)).await {
        Ok(stream) => stream,
        Err(status) => {
            figures.note_error(&status);
            return figures;
        }
    };
    let underway = UndeliveredEnvelopes::default();
    let refused = RefusedCalls::new(Mutex::new(BenchFigures::new()));
    let publisher = publish(target.clone(), topic, per_second, underway.clone(), refused.clone());
    let publisher = tokio::spawn(publisher);
    let mut end = Instant::now() + target.duration + LAST_MAX;
    loop {
        if publisher.is_finished() {
            end = end.min(Instant::now() + LAST_MAX);
            if underway.lock().is_empty() {
                break;
            }
        }
        // The publisher may end while the stream is silent.
        let left = end.saturating_duration_since(Instant::now());
        let limit = left.min(Duration::from_millis(100));
        if left.is_zero() {
            break;
        }
        match timeout(limit, stream.message()).await {
            Err(_) => {}
            Ok(Ok(Some(message))) => deliver(message, &underway, &mut figures),
            Ok(Ok(None)) => {
                figures.note_error(&Status::unavailable("the node ended the stream"));
                break;
            }
            Ok(Err(status)) => {
                figures.note_error(&status);
                break;
            }
        }
    }
    // The publisher may still pause, or wait for an answer: its open calls are those that were not delivered.
    publisher.abort();
    figures.add(&refused.lock());
    for _ in 0..underway.lock().len() {
        figures.note_error(&Status::deadline_exceeded("it was not delivered"));
    }
    figures
}

/// Counts the envelopes of a message that are underway. Other envelopes do not belong to this run.
fn deliver(message: Framed, underway: &UndeliveredEnvelopes, figures: &mut BenchFigures) {
    let now = Instant::now();
    for envelope in message.envelopes.unwrap_or_default().items {
        let Ok(envelope) = OriginatorEnvelope::parse(envelope) else { continue };
        let sent = underway.lock().remove(envelope.unsigned().payer().client().as_bytes());
        if let Some(sent) = sent {
            figures.note(now.saturating_duration_since(sent));
        }
    }
}

/// Publishes to a topic at a pace until the time is over, and counts the refusals.
async fn publish(
    target: Arc<BenchTarget>,
    topic: Bytes,
    per_second: u32,
    underway: UndeliveredEnvelopes,
    refused: RefusedCalls,
) {
    let Some(publisher) = &target.publisher else { return };
    let end = Instant::now() + target.duration;
    let places = Arc::new(Semaphore::new(target.concurrency));
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = JoinSet::new();
    let mut worker = 0;
    loop {
        ticks.tick().await;
        while calls.try_join_next().is_some() {}
        let is_full = underway.lock().len() >= UNDERWAY_MAX;
        if Instant::now() >= end || (!is_full && !publisher.take(1)) {
            break;
        }
        if is_full {
            continue;
        }
        let client = group_message(&topic, MESSAGE_LEN);
        let request = publisher.request(vec![client.clone()], target.node);
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        worker += 1;
        let (target, underway, refused) = (target.clone(), underway.clone(), refused.clone());
        calls.spawn(async move {
            underway.lock().insert(client.clone(), Instant::now());
            let done = target.publish(worker, request).await;
            if let Err(status) = done {
                // Before the pause: the run may be over before it ends.
                underway.lock().remove(&client);
                refused.lock().note_error(&status);
                tokio::time::sleep(pause_after(&status)).await;
            }
            drop(place);
        });
    }
    while calls.join_next().await.is_some() {}
}

/// Publishes a history, and measures the time of reading it on new streams.
pub(super) async fn catch_up(target: &Arc<BenchTarget>) -> BenchFigures {
    let mut figures = BenchFigures::new();
    let topic = envelopes::new_group();
    if let Err(status) = publish_history(target, &topic).await {
        figures.note_error(&status);
        return figures;
    }
    let end = Instant::now() + target.duration;
    let mut workers = JoinSet::new();
    for worker in 0..target.concurrency {
        let (target, topic) = (target.clone(), topic.clone());
        workers.spawn(async move {
            let mut figures = BenchFigures::new();
            let reader = &target.readers[worker % target.readers.len()];
            while Instant::now() < end {
                let begun = Instant::now();
                match in_time(history(reader, &topic)).await {
                    Ok(()) => figures.note(begun.elapsed()),
                    Err(status) => {
                        figures.note_error(&status);
                        tokio::time::sleep(pause_after(&status)).await;
                    }
                }
            }
            figures
        });
    }
    while let Some(part) = workers.join_next().await {
        figures.add(&part.expect("workers are not ended and do not panic"));
    }
    figures
}

async fn publish_history(target: &BenchTarget, topic: &Bytes) -> Result<(), Status> {
    let spent = || Status::cancelled("no more may be published");
    let publisher = target.publisher.as_ref().ok_or_else(spent)?;
    if !publisher.take(HISTORY) {
        return Err(spent());
    }
    for _ in 0..HISTORY / HISTORY_PER_REQUEST {
        let messages = (0..HISTORY_PER_REQUEST).map(|_| group_message(topic, MESSAGE_LEN));
        target.publish(0, publisher.request(messages.collect(), target.node)).await?;
    }
    Ok(())
}

async fn subscribe(reader: &Connection, topic: &Bytes) -> Result<Streaming<Framed>, Status> {
    let filter = TopicFilter { topic: topic.clone(), last_seen: None };
    let request = SubscribeTopicsRequest { filters: vec![filter] };
    reader.stream(&format!("{QUERY_API}/SubscribeTopics"), request).await
}

async fn next(stream: &mut Streaming<Framed>) -> Result<Framed, Status> {
    let message = timeout(LAST_MAX, stream.message()).await;
    let message = message.unwrap_or_else(|_| Err(Status::deadline_exceeded("silence")))?;
    message.ok_or_else(|| Status::unavailable("the node ended the stream"))
}

/// Ends a measurement that a node delays beyond the limit.
async fn in_time<T>(reading: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = || Status::deadline_exceeded("the history has no end");
    timeout(HISTORY_MAX, reading).await.unwrap_or_else(|_| Err(late()))
}

/// Opens a stream that is live.
async fn caught_up(reader: &Connection, topic: &Bytes) -> Result<Streaming<Framed>, Status> {
    let mut stream = subscribe(reader, topic).await?;
    loop {
        let message = next(&mut stream).await?;
        if message.status.is_some_and(|status| status.value == CAUGHT_UP) {
            return Ok(stream);
        }
    }
}

/// Reads the history of the topic on a new stream.
async fn history(reader: &Connection, topic: &Bytes) -> Result<(), Status> {
    let mut stream = subscribe(reader, topic).await?;
    let mut seen = 0;
    while seen < HISTORY {
        let message = next(&mut stream).await?;
        seen += message.envelopes.unwrap_or_default().items.len() as u64;
        if seen < HISTORY && message.status.is_some_and(|status| status.value == CAUGHT_UP) {
            return Err(Status::data_loss("the node sent only a part of the topic's history"));
        }
    }
    Ok(())
}
