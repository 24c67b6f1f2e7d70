//! Calls as daily users make them of topics and inboxes of their own, beside streams of all envelopes.
//!
//! The numbers are those of the mode `dau` of the reference implementation's load program, with two differences: nodes
//! refuse key packages that are none, so an application message takes their place, and commits need a gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hawser_conformance::connection::NOTIFICATION_API;
use hawser_conformance::envelopes;
use hawser_conformance::wire::List;
use hawser_proto::Bytes;
use hawser_proto::pb::xmtp::xmtpv4::message_api::{EnvelopesQuery, SubscribeAllEnvelopesRequest};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Status;

use super::figures::BenchFigures;
use super::load::{BenchRequest, BenchTarget, commit, group_message, pause_after, welcome};
use super::mix;

/// The addresses whose inboxes are asked for, the topics that are read and written, and the messages that each topic
/// gets before. All numbers of this file are those of `docs/bench.md`, *Daily users*.
const ADDRESSES: usize = 10_000;
const TOPICS: usize = 500;
const SEEDED: u64 = 5;
/// Length of a seeded message in bytes.
const SEEDED_LEN: usize = 256;
/// Streams of all envelopes in the background: this part of a hundred of the users, within these bounds.
const STREAM_PERCENT: u64 = 15;
const STREAMS_MIN: u64 = 10;
const STREAMS_MAX: u64 = 200;
/// Lengths of written messages, in turns.
const LENGTHS: [usize; 3] = [256, 512, 1024];

/// A kind of call, with the name of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DailyCall {
    Inbox,
    Query,
    Newest,
    Message,
    Commit,
    Welcome,
}

impl DailyCall {
    const ALL: [(Self, &str); 6] = [
        (Self::Inbox, "GetInboxIds"),
        (Self::Query, "QueryEnvelopes"),
        (Self::Newest, "GetNewestEnvelope"),
        (Self::Message, "GroupMessage"),
        (Self::Commit, "Commit"),
        (Self::Welcome, "Welcome"),
    ];

    /// Returns the kind of the write with this number: of twenty writes, 11 messages, 6 commits and 3 welcomes. Without
    /// commits, messages take their places.
    fn of_write(number: u64, has_commits: bool) -> Self {
        // 7 has no common factor with 20: each of twenty writes has a number of its own.
        match number.wrapping_mul(7) % 20 {
            0..3 => Self::Welcome,
            3..9 if has_commits => Self::Commit,
            _ => Self::Message,
        }
    }
}

/// The inboxes and topics of the users.
struct Seeds {
    addresses: Vec<[u8; 20]>,
    topics: Vec<Bytes>,
    has_commits: bool,
    /// Writes so far.
    writes: AtomicU64,
}

/// Makes the calls of this many daily users. Returns rows: each kind of call, the seeding if there was any, and the
/// streams in the background, whose time is that of opening.
pub(super) async fn daily(
    target: &Arc<BenchTarget>,
    users: u64,
) -> Vec<(&'static str, BenchFigures)> {
    let mut rows = Vec::new();
    let publisher = target.publisher.as_ref();
    let seeds = Seeds {
        addresses: (0..ADDRESSES).map(|_| address()).collect(),
        topics: (0..TOPICS).map(|_| envelopes::new_group()).collect(),
        has_commits: publisher.is_some_and(|it| it.is_gateway()),
        writes: AtomicU64::new(0),
    };
    if let Some(publisher) = publisher {
        // Half of what may be published is for the run itself.
        publisher.begin_test(2);
        rows.push(("Seeding", seed(target, &seeds.topics).await));
        publisher.begin_test(1);
    }
    let streams = (users * STREAM_PERCENT / 100).clamp(STREAMS_MIN, STREAMS_MAX);
    let (opened, mut background) = (Arc::new(Mutex::new(BenchFigures::new())), JoinSet::new());
    for stream in 0..usize::try_from(streams).unwrap_or_default() {
        background.spawn(listen(target.clone(), stream, opened.clone()));
    }
    let request = |number| seeds.request(number);
    let figures = mix::paced(target, users, DailyCall::ALL.len(), request).await;
    background.shutdown().await;
    for ((call, name), figures) in DailyCall::ALL.into_iter().zip(figures) {
        let is_made = match call {
            DailyCall::Inbox | DailyCall::Query | DailyCall::Newest => true,
            DailyCall::Commit => seeds.has_commits,
            DailyCall::Message | DailyCall::Welcome => publisher.is_some(),
        };
        if is_made {
            rows.push((name, figures));
        }
    }
    let opened = opened.lock().clone();
    rows.push(("SubscribeAllEnvelopes", opened));
    rows
}

impl Seeds {
    /// Returns the request of a call by its number, with the place of its kind; none if it is a stream.
    fn request(&self, number: u64) -> Option<(usize, BenchRequest)> {
        let call = match mix::kind(number)? {
            0 => DailyCall::Inbox,
            1 => DailyCall::Query,
            2 => DailyCall::Newest,
            _ => {
                let write = self.writes.fetch_add(1, Ordering::Relaxed);
                DailyCall::of_write(write, self.has_commits)
            }
        };
        let chosen = |count: usize| usize::try_from(number).unwrap_or_default() % count;
        let topic = &self.topics[chosen(self.topics.len())];
        let len = LENGTHS[chosen(LENGTHS.len())];
        let request = match call {
            DailyCall::Inbox => {
                let address = self.addresses[chosen(self.addresses.len())];
                BenchRequest::inbox(format!("0x{}", hex::encode(address)))
            }
            DailyCall::Query => {
                let topics = vec![topic.clone()];
                BenchRequest::query(EnvelopesQuery { topics, ..EnvelopesQuery::default() })
            }
            DailyCall::Newest => BenchRequest::newest(topic.clone()),
            DailyCall::Message => BenchRequest::Publish(group_message(topic, len)),
            DailyCall::Commit => BenchRequest::Publish(commit(topic, len)),
            DailyCall::Welcome => BenchRequest::Publish(welcome()),
        };
        let row = DailyCall::ALL.iter().position(|(kind, _)| *kind == call)?;
        Some((row, request))
    }
}

/// Returns a random address.
fn address() -> [u8; 20] {
    let random = envelopes::new_welcomes();
    std::array::from_fn(|place| random.get(1 + place).copied().unwrap_or_default())
}

/// Publishes the messages that each topic has before, those of a topic in one request, as far as they may be published.
async fn seed(target: &Arc<BenchTarget>, topics: &[Bytes]) -> BenchFigures {
    let mut all = BenchFigures::new();
    let end = Instant::now() + target.duration;
    let (next, mut workers) = (Arc::new(AtomicU64::new(0)), JoinSet::new());
    let topics: Arc<[Bytes]> = topics.into();
    for worker in 0..target.concurrency {
        let (target, topics, next) = (target.clone(), topics.clone(), next.clone());
        workers.spawn(async move {
            let mut figures = BenchFigures::new();
            while Instant::now() < end {
                let place = usize::try_from(next.fetch_add(1, Ordering::Relaxed));
                let topic = place.ok().and_then(|place| topics.get(place));
                let (Some(topic), Some(publisher)) = (topic, &target.publisher) else { break };
                if !publisher.take(SEEDED) {
                    break;
                }
                let messages = (0..SEEDED).map(|_| group_message(topic, SEEDED_LEN)).collect();
                let request = publisher.request(messages, target.node);
                let begun = Instant::now();
                match target.publish(worker, request).await {
                    Ok(()) => figures.note(begun.elapsed()),
                    Err(status) => {
                        figures.note_error(&status);
                        sleep(pause_after(&status)).await;
                    }
                }
            }
            figures
        });
    }
    while let Some(part) = workers.join_next().await {
        all.add(&part.expect("workers are not ended and do not panic"));
    }
    all
}

/// Reads a stream of all envelopes, and opens it again when it ends, until this is dropped.
async fn listen(target: Arc<BenchTarget>, stream: usize, opened: Arc<Mutex<BenchFigures>>) {
    let reader = &target.readers[stream % target.readers.len()];
    let path = format!("{NOTIFICATION_API}/SubscribeAllEnvelopes");
    loop {
        let begun = Instant::now();
        let failed = match reader.stream(&path, SubscribeAllEnvelopesRequest {}).await {
            Err(status) => status,
            Ok(mut messages) => {
                opened.lock().note(begun.elapsed());
                // The envelopes are only taken, so that the node has to send them.
                loop {
                    match messages.message().await {
                        Ok(Some(List { .. })) => {}
                        Ok(None) => break Status::unavailable("the node ended the stream"),
                        Err(status) => break status,
                    }
                }
            }
        };
        opened.lock().note_error(&failed);
        sleep(pause_after(&failed).max(Duration::from_millis(100))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_writes_have_their_shares_and_commits_need_a_gateway() {
        let counts = |has_commits: bool, begin: u64| {
            let mut counts = [0; DailyCall::ALL.len()];
            for number in begin..begin + 20 {
                let call = DailyCall::of_write(number, has_commits);
                counts[DailyCall::ALL.iter().position(|(kind, _)| *kind == call).unwrap()] += 1;
            }
            counts
        };
        for begin in [0, 20, 1234] {
            assert_eq!(counts(true, begin), [0, 0, 0, 11, 6, 3]);
            assert_eq!(counts(false, begin), [0, 0, 0, 17, 0, 3]);
        }
    }

    #[test]
    fn calls_are_about_the_seeded_topics_and_inboxes() {
        let seeds = Seeds {
            addresses: vec![[7; 20]; 3],
            topics: vec![envelopes::new_group(); 2],
            has_commits: false,
            writes: AtomicU64::new(0),
        };
        let mut counts = [0; DailyCall::ALL.len()];
        for (row, request) in (0..100).filter_map(|number| seeds.request(number)) {
            counts[row] += 1;
            match request {
                BenchRequest::Query(request) => {
                    assert!(seeds.topics.contains(&request.query.unwrap().topics[0]));
                }
                BenchRequest::Newest(request) => assert!(seeds.topics.contains(&request.topics[0])),
                BenchRequest::Inbox(request) => {
                    assert_eq!(request.requests[0].identifier, format!("0x{}", "07".repeat(20)));
                }
                BenchRequest::Publish(_) => {}
            }
        }
        assert_eq!(counts[..3], [65, 14, 3]);
        assert_eq!(counts[3..].iter().sum::<usize>(), 3);
    }
}
