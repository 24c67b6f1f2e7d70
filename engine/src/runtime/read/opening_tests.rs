//! Streams that wait for their first turn: their memory, and what they deliver after it.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::read::testing::placed;
use crate::read::{PackedTopics, ReadMemory};

const STREAMS: u16 = 200;
const TOPICS: u16 = 100;

/// Bytes that are left for pages: without them, streams that have opened would wait for those that hold no less.
const SPARE_LEAVES: usize = 16 * 1024;

/// Memory with a bound. Counts what is held.
#[derive(Debug)]
struct BoundedMemory {
    bound: usize,
    held: AtomicUsize,
    /// The bytes held when a thread last began to work for its reader.
    held_at_work: AtomicUsize,
}

impl BoundedMemory {
    fn of(bound: usize) -> Arc<Self> {
        Arc::new(Self { bound, held: AtomicUsize::new(0), held_at_work: AtomicUsize::new(0) })
    }
}

impl ReadMemory for BoundedMemory {
    fn take(&self, bytes: usize) -> bool {
        let add = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.bound);
        self.held.try_update(Ordering::SeqCst, Ordering::SeqCst, add).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::SeqCst);
    }

    fn take_spare(&self, bytes: usize) -> bool {
        let held = self.held.load(Ordering::SeqCst);
        held.saturating_add(bytes).saturating_add(SPARE_LEAVES) <= self.bound && self.take(bytes)
    }

    fn begin_work(&self) -> std::time::Duration {
        self.held_at_work.store(self.held.load(Ordering::SeqCst), Ordering::SeqCst);
        std::time::Duration::ZERO
    }
}

/// Memory that counts how often other threads have worked for its reader.
#[derive(Debug, Default)]
struct CountedWork(AtomicUsize);

impl ReadMemory for CountedWork {
    fn take(&self, _: usize) -> bool {
        true
    }

    fn give_back(&self, _: usize) {}

    fn end_work(&self, _: std::time::Duration) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Played by a client that opens streams of thousands of topics and ends them at once.
#[tokio::test]
async fn the_reader_is_told_of_the_work_to_leave_thousands_of_topics() {
    let (node, work) = (Node::new(), Arc::new(CountedWork::default()));
    let many = u16::try_from(TURN_TOPICS).unwrap() + 1;
    let topics = (0..many).map(|n| (name(0, n), Cursor::new()));
    let stream = node.reader.charged_to(work.clone()).subscribe_topics(topics);
    assert_eq!(node.hub.registrations(), usize::from(many));
    drop(stream);
    // The job ends with what it is charged to.
    while Arc::strong_count(&work) > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!((node.hub.registrations(), work.0.load(Ordering::SeqCst)), (0, 1));
}

fn name(stream: u16, n: u16) -> Topic {
    let number = u32::from(stream) * u32::from(TOPICS) + u32::from(n);
    Topic::parse([&[0][..], &number.to_be_bytes(), &[7; 28]].concat().into()).unwrap()
}

/// Topics of their own for each stream, each with a cursor of its own; the first one is read from its beginning.
fn packed(stream: u16) -> PackedTopics {
    (0..TOPICS).map(|n| (name(stream, n), cursor(&[(100, u64::from(n))]))).collect()
}

/// A caller opens many streams at once, and has memory for all of them when they are live, but only for a few that
/// catch up. None is refused, and each gets what is stored and what comes later.
#[tokio::test]
async fn streams_that_would_not_fit_while_they_catch_up_wait_and_are_all_served() {
    let node = Node::new();
    let at = |stream: u16| id(100, u64::from(stream) + 1);
    let stored = (0..STREAMS).map(|it| committed(at(it), name(it, 0), 0, vec![]));
    node.commit(stored.collect());

    let heads = node.heads.get();
    let opened_bytes = packed(0).opened_bytes(&heads);
    // One cursor for all topics, once they are live.
    let live_bytes = usize::from(TOPICS) * 90 + 256;
    assert!(packed(0).held_bytes() < live_bytes && live_bytes * 2 < opened_bytes);
    let bound = usize::from(STREAMS) * live_bytes + 4 * opened_bytes;
    let memory = BoundedMemory::of(bound);
    let reader = node.reader.charged_to(memory.clone());
    let mut tasks = Vec::new();
    for number in 0..STREAMS {
        let mut stream = reader.subscribe_topics_in_turn(packed(number)).unwrap();
        tasks.push(tokio::spawn(async move {
            assert_eq!(caught_up(&mut stream, WaveId::INITIAL).await, [at(number)]);
            // The reader has taken all of it.
            assert!(poll(&mut stream).await.is_none());
            stream
        }));
    }
    assert_eq!(node.hub.registrations(), 0, "the hub does not know streams that wait");
    let mut streams = Vec::new();
    for task in tasks {
        streams.push(task.await.unwrap());
    }
    assert_eq!(node.hub.registrations(), usize::from(STREAMS) * usize::from(TOPICS));
    assert!(usize::from(STREAMS) * opened_bytes > bound, "they would not fit at once");
    let held = memory.held.load(Ordering::SeqCst);
    assert!(held <= usize::from(STREAMS) * live_bytes, "{held} bytes are charged for live streams");
    let live = STREAMS - 1;
    node.commit(vec![committed(at(STREAMS), name(live, 99), 0, vec![])]);
    assert_eq!(take(&mut streams[usize::from(live)], 1).await, [at(STREAMS)]);
    drop(streams);
    assert_eq!((memory.held.load(Ordering::SeqCst), node.hub.registrations()), (0, 0));
}

/// A client that reads slowly on purpose makes its topics be read again. They take more memory then, and wait for it.
#[tokio::test]
async fn topics_that_are_read_again_after_an_overflow_wait_for_their_memory() {
    for waits_for_turn in [true, false] {
        read_again(waits_for_turn).await;
    }
}

async fn read_again(waits_for_turn: bool) {
    const MANY: u16 = 10_000;
    let node = Node::new();
    let memory = BoundedMemory::of(64 << 20);
    let held = || memory.held.load(Ordering::SeqCst);
    let reader = node.reader.charged_to(memory.clone());
    let topics = (0..MANY).map(|n| (name(0, n), Cursor::new()));
    let mut stream = match waits_for_turn {
        true => reader.subscribe_topics_in_turn(topics.collect()).unwrap(),
        false => reader.subscribe_topics(topics),
    };
    assert_eq!(caught_up(&mut stream, WaveId::INITIAL).await, []);
    // Of a stream that has not waited for its turn, its user charges the live topics.
    let live = held();
    // Others leave room for a page, but not for the topics.
    let reads = usize::from(MANY) * 192;
    let rest = memory.bound - live - reads * 2 / 3;
    assert!(memory.take(rest));
    let most = u64::try_from(BatchLimits::QUEUE.envelopes).unwrap() + 1;
    let item = |sequence| committed(id(100, sequence), name(0, 0), 0, vec![]);
    node.commit((1..=most).map(item).collect());
    assert!(is_silent(&mut stream).await);
    assert_eq!(held(), live + rest, "nothing is read");
    memory.give_back(rest);
    let got = take(&mut stream, 1).await;
    assert!(held() >= live + reads, "topics that are read count");
    let more = take(&mut stream, usize::try_from(most).unwrap() - got.len()).await;
    let all: Vec<EnvelopeId> = (1..=most).map(|sequence| id(100, sequence)).collect();
    assert_eq!([got, more].concat(), all);
    assert!(is_silent(&mut stream).await);
    // Besides, the stream keeps now up to where it has taken envelopes from its queue, and read them again.
    assert!(held() < live + 200, "and no more once they are live");
}

/// More topics than are looked at in one turn. Their originator ascends over all of them, and nothing comes twice: out
/// of the topic index, as of envelopes that do not decode, and in the order of the log.
#[tokio::test]
async fn a_stream_of_many_topics_ascends_over_all_of_them() {
    ascends_over_many_topics(|at, topic| committed(at, topic, 0, Vec::new())).await;
    ascends_over_many_topics(|at, topic| placed(at, topic, 0, Vec::new())).await;
}

async fn ascends_over_many_topics(envelope: impl Fn(EnvelopeId, Topic) -> Committed) {
    const MANY: u16 = 1_500;
    let node = Node::new();
    let topic_of = |sequence: u64| u16::try_from((sequence - 1) % u64::from(MANY)).unwrap();
    let item = |sequence: u64| envelope(id(100, sequence), name(0, topic_of(sequence)));
    let stored = 2 * u64::from(MANY);
    node.commit((1..=stored).map(item).collect());
    let topics = (0..MANY).map(|n| (name(0, n), Cursor::new())).collect();
    let mut stream = node.reader.subscribe_topics_in_turn(topics).unwrap();
    let mut got = take(&mut stream, 1).await;
    // Committed while the rest is read: to the first topic, and to all others.
    let all = stored + u64::from(MANY);
    node.commit(vec![item(stored + 1)]);
    node.commit((stored + 2..=all).map(item).collect());
    got.extend(caught_up(&mut stream, WaveId::INITIAL).await);
    let rest = usize::try_from(all).unwrap() - got.len();
    got.extend(take(&mut stream, rest).await);
    assert!(is_silent(&mut stream).await, "nothing comes twice");
    assert_eq!(got, (1..=all).map(|sequence| id(100, sequence)).collect::<Vec<_>>());
}

/// A stream of many topics is charged for the pages that it reads in the order of the log, as for others.
#[tokio::test]
async fn a_page_in_the_order_of_the_log_waits_for_its_memory() {
    const MANY: u16 = 1_500;
    let node = Node::new();
    let item = |n: u16| placed(id(100, u64::from(n) + 1), name(0, n), 0, Vec::new());
    node.commit((0..MANY).map(item).collect());
    let memory = BoundedMemory::of(64 << 20);
    let reader = node.reader.charged_to(memory.clone());
    let topics: PackedTopics = (0..MANY).map(|n| (name(0, n), Cursor::new())).collect();
    let opened_bytes = topics.held_bytes() + topics.opened_bytes(&node.heads.get());
    // Others leave room for the topics, and not for a page of them.
    let others = memory.bound - opened_bytes - SPARE_LEAVES - 4096;
    assert!(memory.take(others));
    let mut stream = reader.subscribe_topics_in_turn(topics).unwrap();
    while node.hub.registrations() < usize::from(MANY) {
        assert!(poll(&mut stream).await.is_none());
        tokio::task::yield_now().await;
    }
    assert!(is_silent(&mut stream).await, "it has begun, and waits for its page");
    memory.give_back(others);
    let got = caught_up(&mut stream, WaveId::INITIAL).await;
    let all: Vec<EnvelopeId> = (1..=u64::from(MANY)).map(|sequence| id(100, sequence)).collect();
    assert_eq!(got, all);
    assert!(is_silent(&mut stream).await, "nothing comes twice");
}

/// A client can stop its stream at any moment, by a window without room. Such a stream occupies no thread.
#[tokio::test]
async fn streams_that_are_not_polled_keep_no_turn_from_others() {
    let node = Node::new();
    node.commit_one(id(100, 1), 1, &[]);
    let topics = || [(topic(1), Cursor::new())];
    let mut still = Vec::new();
    for _ in 0..50 {
        still.push(node.reader.subscribe_topics(topics()));
        still.push(node.reader.subscribe_topics_in_turn(topics().into_iter().collect()).unwrap());
    }
    for stream in &mut still {
        // Polled once, so that the stream is in the queue. It may also be served at once.
        let _ = poll(stream).await;
    }
    let mut other = node.reader.subscribe_topics(topics());
    assert_eq!(caught_up(&mut other, WaveId::INITIAL).await, [id(100, 1)]);
}

/// A stream that ends in the queue, or while its first page is read, leaves nothing behind.
#[tokio::test]
async fn a_stream_that_ends_before_its_turn_leaves_nothing_behind() {
    let node = Node::new();
    node.commit_one(id(100, 1), 1, &[]);
    let memory = BoundedMemory::of(usize::MAX);
    let reader = node.reader.charged_to(memory.clone());
    for number in 0..STREAMS {
        let mut stream = reader.subscribe_topics_in_turn(packed(number)).unwrap();
        let _ = poll(&mut stream).await;
    }
    drop(reader);
    // The last turns may still be under way.
    while memory.held.load(Ordering::SeqCst) > 0 || node.hub.registrations() > 0 {
        tokio::task::yield_now().await;
    }
}

/// A stream whose memory does not come ends with the reason, and one for which there is not even room to wait does not
/// begin.
#[tokio::test(start_paused = true)]
async fn a_stream_without_memory_waits_for_a_minute_and_says_why_it_ends() {
    let node = Node::new();
    let few = BoundedMemory::of(packed(0).held_bytes() + 2048);
    let mut stream =
        node.reader.charged_to(few.clone()).subscribe_topics_in_turn(packed(0)).unwrap();
    let ended = stream.next().await;
    assert!(matches!(ended, Err(QueryError::NoMemory(_))), "{ended:?}");
    assert_eq!(stream.next().await, ended, "it stays so");
    drop(stream);
    let none = BoundedMemory::of(100);
    let refused = node.reader.charged_to(none).subscribe_topics_in_turn(packed(0));
    assert!(matches!(refused, Err(QueryError::NoMemory(_))));
    assert_eq!(few.held.load(Ordering::SeqCst), 0);
}

/// Played by clients that read slowly on purpose: each stream would hold a part of all envelopes since it was opened.
#[tokio::test]
async fn live_envelopes_are_charged_until_they_are_delivered() {
    const COUNT: u64 = 300;
    let node = Node::new();
    let memory = BoundedMemory::of(16 << 20);
    let held = || memory.held.load(Ordering::SeqCst);
    let reader = node.reader.charged_to(memory.clone());
    let mut stream = reader.subscribe_topics([(topic(1), Cursor::new())]);
    assert_eq!(caught_up(&mut stream, WaveId::INITIAL).await, []);
    assert!(is_silent(&mut stream).await);
    let before = held();
    let item = |sequence| committed(id(100, sequence), topic(1), 0, vec![]);
    let len_bytes = item(1).bytes.len();
    let all = |first: u64| (first..first + COUNT).map(|sequence| id(100, sequence));

    node.commit((1..=COUNT).map(item).collect());
    assert!(all(1).eq(take(&mut stream, 1).await));
    assert!(held() >= before + 300 * len_bytes, "its client has not read the next event");
    assert!(is_silent(&mut stream).await);
    assert_eq!(held(), before);

    // Others hold everything: the stream goes on with a few at a time.
    assert!(memory.take(memory.bound - before));
    node.commit((COUNT + 1..=2 * COUNT).map(item).collect());
    let got = take(&mut stream, 1).await;
    assert!(got.len() * len_bytes <= UNCHARGED_BYTES, "{} envelopes", got.len());
    let more = take(&mut stream, 300 - got.len()).await;
    assert!(all(COUNT + 1).eq([got, more].concat()));
    assert_eq!(held(), memory.bound);
}

/// Played by a node whose envelopes name a commit that never comes, and by a client with many streams of their topics.
#[tokio::test]
async fn lanes_that_wait_for_a_commit_are_charged_as_long_as_they_do() {
    let node = Node::new();
    let memory = BoundedMemory::of(16 << 20);
    let held = || memory.held.load(Ordering::SeqCst);
    let reader = node.reader.charged_to(memory.clone());
    let mut stream = reader.subscribe_topics((1..=100).map(|name| (topic(name), Cursor::new())));
    assert_eq!(caught_up(&mut stream, WaveId::INITIAL).await, []);
    assert!(is_silent(&mut stream).await);
    let before = held();
    for name in 1..=100 {
        node.commit_one(id(100, name.into()), name, &[id(0, 9)]);
        assert!(poll(&mut stream).await.is_none());
    }
    assert!(is_silent(&mut stream).await);
    assert!(held() >= before + 99 * 300, "{} bytes", held() - before);
}

/// The same node has signed them before, and nothing comes while the stream is open. Then its client ends it, and its
/// topics leave one after the other.
#[tokio::test]
async fn lanes_that_wait_since_their_topics_were_read_are_charged_until_the_last_topic_has_left() {
    let node = Node::new();
    for name in 1..=100_u8 {
        node.commit_one(id(100, name.into()), name, &[id(0, 9)]);
    }
    let memory = BoundedMemory::of(16 << 20);
    let held = || memory.held.load(Ordering::SeqCst);
    let reader = node.reader.charged_to(memory.clone());
    let others = (0..u16::try_from(TURN_TOPICS).unwrap()).map(|n| name(0, n));
    let topics = (1..=100).map(topic).chain(others);
    let mut stream = reader.subscribe_topics(topics.map(|topic| (topic, Cursor::new())));
    assert_eq!(caught_up(&mut stream, WaveId::INITIAL).await, []);
    assert!(is_silent(&mut stream).await);
    let charged = held();
    assert!((100 * 300..=100 * 400).contains(&charged), "{charged} bytes");
    drop(stream);
    while held() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(memory.held_at_work.load(Ordering::SeqCst), charged);
    assert_eq!(node.hub.registrations(), 0);
}

/// An envelope may be longer than a usual page, and its reader may have no memory for it at that moment.
#[tokio::test]
async fn a_large_envelope_of_a_strand_waits_for_its_memory() {
    const LEN_BYTES: usize = 8 << 20;
    let node = Node::new();
    let mut large = committed(id(100, 1), topic(1), 1, vec![]);
    large.bytes = [&large.bytes[..], &vec![0; LEN_BYTES]].concat().into();
    let len_bytes = large.bytes.len();
    node.commit(vec![large]);
    let memory = BoundedMemory::of(64 << 20);
    let reader = node.reader.charged_to(memory.clone());
    let strand = || reader.subscribe_originators([OriginatorId(100)], Some(Cursor::new()));
    for mut stream in [strand(), strand().in_entries()] {
        // Others leave room for a usual page, and not for this one.
        let others = memory.bound - LEN_BYTES;
        assert!(memory.take(others));
        assert!(is_silent(&mut stream).await, "it waits");
        memory.give_back(others);
        let got = match stream.next().await.unwrap() {
            SubscriptionEvent::Envelopes { envelopes, .. } => envelopes[0].len(),
            SubscriptionEvent::Entries { entries, .. } => entries.envelopes().next().unwrap().len(),
            other => panic!("{other:?} comes later"),
        };
        assert_eq!(got, len_bytes);
        assert_eq!(stream.next().await, Ok(SubscriptionEvent::CaughtUp(WaveId::INITIAL)));
        assert!(is_silent(&mut stream).await);
        assert_eq!(memory.held.load(Ordering::SeqCst), 0, "all that was tried is given back");
    }
}

/// A page of strands is charged before its length is known. Thousands of streams that lack an envelope each would
/// otherwise wait for the memory of whole pages.
#[tokio::test]
async fn a_short_page_of_a_strand_is_charged_for_what_it_has() {
    let node = Node::new();
    node.commit_one(id(100, 1), 1, &[]);
    let memory = BoundedMemory::of(64 << 20);
    let reader = node.reader.charged_to(memory.clone());
    let mut stream = reader.subscribe_originators([OriginatorId(100)], Some(Cursor::new()));
    assert_eq!(take(&mut stream, 1).await, [id(100, 1)]);
    let held = memory.held.load(Ordering::SeqCst);
    assert!((1..128 * 1024).contains(&held), "{held} bytes");
}
