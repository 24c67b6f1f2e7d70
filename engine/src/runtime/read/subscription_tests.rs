//! Whole streams over a store, a hub and real tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Barrier;

use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId, Topic};
use hawser_storage::Store;
use tokio::sync::watch;

use super::super::hub::Hub;
use super::super::page_threads::STREAM_PAGES_AT_ONCE;
use super::super::reader::Reader;
use super::*;
use crate::committed::Committed;
use crate::read::ReaderId;
use crate::read::limits::{PAGE_ENVELOPES_MAX, PAGE_LEN_BYTES_MAX};
use crate::read::testing::{
    Dice, StoppedClock, append, append_invalid, committed, cursor, id, ids_of, missing, store,
    topic,
};
use crate::runtime::Heads;

#[path = "changing_tests.rs"]
mod changing;
#[path = "opening_tests.rs"]
mod first_turns;
#[path = "strays_tests.rs"]
mod strays;

/// A node that can commit.
#[derive(Clone)]
struct Node {
    store: Store,
    heads: Heads,
    hub: Hub,
    reader: Reader,
}

impl Node {
    fn new() -> Self {
        let (store, heads, hub) = (store(), Heads::new(Cursor::new()), Hub::new());
        let clock = Arc::new(StoppedClock(1_000_000_000));
        let reader = Reader::new(store.clone(), heads.clone(), hub.clone(), clock);
        Self { store, heads, hub, reader }
    }

    /// Commits as the committing thread does: makes durable, announces, publishes.
    fn commit(&self, group: Vec<Committed>) {
        self.store.commit(&group.iter().map(append).collect::<Vec<_>>()).unwrap();
        group.iter().for_each(|committed| self.heads.announce(committed.id));
        let ends = group.iter().map(|committed| committed.id).collect();
        self.hub.publish(&group.into_iter().map(Arc::new).collect::<Vec<_>>(), &ends);
    }

    fn commit_one(&self, id: EnvelopeId, name: u8, depends_on: &[EnvelopeId]) {
        let at = i64::try_from(id.sequence.0).unwrap();
        self.commit(vec![committed(id, topic(name), at, depends_on.to_vec())]);
    }
}

/// The next envelopes, until there are `count`.
async fn take(stream: &mut Subscription, count: usize) -> Vec<EnvelopeId> {
    let mut got = Vec::new();
    while got.len() < count {
        match stream.next().await.unwrap() {
            SubscriptionEvent::Envelopes { envelopes, .. } => got.extend(ids_of(&envelopes)),
            SubscriptionEvent::Entries { entries, .. } => {
                got.extend(ids_of(&entries.envelopes().collect::<Vec<_>>()));
            }
            SubscriptionEvent::CaughtUp(_) | SubscriptionEvent::TopicsLive { .. } => {}
        }
    }
    got
}

/// Everything up to the end of a wave.
async fn caught_up(stream: &mut Subscription, wave: WaveId) -> Vec<EnvelopeId> {
    let mut got = Vec::new();
    loop {
        match stream.next().await.unwrap() {
            SubscriptionEvent::Envelopes { envelopes, .. } => got.extend(ids_of(&envelopes)),
            SubscriptionEvent::CaughtUp(done) if done == wave => return got,
            SubscriptionEvent::CaughtUp(_) | SubscriptionEvent::TopicsLive { .. } => {}
            SubscriptionEvent::Entries { .. } => unreachable!("asked for by no stream here"),
        }
    }
}

/// Removes topics, and adds others as a wave.
async fn change(
    stream: &mut Subscription,
    wave: WaveId,
    adds: &[(Topic, Cursor)],
    removes: &[Topic],
) {
    stream.remove(removes.to_vec()).await;
    let adds: Vec<_> =
        adds.iter().map(|(topic, from)| (topic.clone(), Arc::new(from.clone()))).collect();
    stream.add(wave, HistoryMode::ThenLive, adds).await;
}

/// Returns the envelopes that are there without waiting.
async fn poll(stream: &mut Subscription) -> Option<SubscriptionEvent> {
    tokio::select! {
        biased;
        event = stream.next() => Some(event.unwrap()),
        () = std::future::ready(()) => None,
    }
}

/// True if nothing comes although everything had its chance.
async fn is_silent(stream: &mut Subscription) -> bool {
    for _ in 0..50 {
        if poll(stream).await.is_some() {
            return false;
        }
        tokio::task::spawn_blocking(|| ()).await.unwrap();
        // Threads that read pages for streams are others.
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    true
}

#[tokio::test]
async fn a_stream_reads_disk_and_then_goes_on_live() {
    let node = Node::new();
    (1..=1200).for_each(|sequence| node.commit_one(id(100, sequence), 1, &[]));
    let from = cursor(&[(100, 100)]);
    let mut stream = node.reader.subscribe_topics([(topic(1), from), (topic(2), Cursor::new())]);
    node.commit_one(id(100, 1201), 2, &[]);
    let past = caught_up(&mut stream, WaveId::INITIAL).await;
    let mut live = Vec::new();
    if past.len() == 1100 {
        live = take(&mut stream, 1).await;
    }
    let all: Vec<EnvelopeId> = (101..=1201).map(|sequence| id(100, sequence)).collect();
    assert_eq!([past, live].concat(), all);
    node.commit_one(id(100, 1202), 3, &[]);
    node.commit_one(id(100, 1203), 1, &[]);
    assert_eq!(take(&mut stream, 1).await, [id(100, 1203)]);
    assert!(is_silent(&mut stream).await);
}

#[tokio::test]
async fn without_a_cursor_a_stream_begins_now() {
    let node = Node::new();
    node.commit_one(id(100, 1), 1, &[]);
    let mut streams = [
        node.reader.subscribe_topics_sharing([topic(1)], None),
        node.reader.subscribe_originators([OriginatorId(100)], None),
        node.reader.subscribe_all(),
    ];
    node.commit_one(id(100, 2), 1, &[]);
    for stream in &mut streams {
        assert_eq!(caught_up(stream, WaveId::INITIAL).await, []);
        assert_eq!(take(stream, 1).await, [id(100, 2)]);
    }
}

#[tokio::test]
async fn only_dependants_of_a_commit_wait_for_it() {
    let node = Node::new();
    let from = Cursor::new;
    let mut own = node.reader.subscribe_topics([(topic(1), from()), (topic(2), from())]);
    let mut shared = node.reader.subscribe_topics_sharing([topic(1), topic(2)], Some(from()));
    let mut all = node.reader.subscribe_all();
    assert_eq!(caught_up(&mut own, WaveId::INITIAL).await, []);
    assert_eq!(caught_up(&mut shared, WaveId::INITIAL).await, []);

    node.commit_one(id(100, 1), 1, &[id(0, 1)]);
    node.commit_one(id(100, 2), 2, &[]);
    assert_eq!(take(&mut all, 2).await, [id(100, 1), id(100, 2)], "not gated");
    assert_eq!(take(&mut own, 1).await, [id(100, 2)], "the other topic goes on");
    assert!(is_silent(&mut own).await);
    assert!(is_silent(&mut shared).await, "one cursor must not move past what was not shown");

    node.commit_one(id(0, 1), 1, &[]);
    assert_eq!(take(&mut own, 2).await, [id(0, 1), id(100, 1)]);
    assert_eq!(take(&mut shared, 3).await, [id(0, 1), id(100, 1), id(100, 2)]);
}

#[tokio::test]
async fn a_dependency_that_came_to_nothing_frees_what_waited() {
    let node = Node::new();
    let mut stream = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    caught_up(&mut stream, WaveId::INITIAL).await;
    node.commit_one(id(100, 1), 1, &[id(0, 1)]);
    assert!(is_silent(&mut stream).await);
    node.store.commit(&[missing(id(0, 1))]).unwrap();
    node.heads.announce(id(0, 1));
    node.hub.publish(&[], &cursor(&[(0, 1)]));
    assert_eq!(take(&mut stream, 1).await, [id(100, 1)]);
}

/// A node signs thousands of envelopes that depend on places which no chain will ever have.
#[tokio::test]
async fn what_never_comes_wakes_no_stream_and_the_end_of_a_wait_reads_one_topic() {
    let node = Node::new();
    let name = |n: u16| Topic::parse([&[0], &n.to_be_bytes()[..]].concat().into()).unwrap();
    let at = |id: EnvelopeId, topic, on: &[EnvelopeId]| {
        committed(id, topic, i64::try_from(id.sequence.0).unwrap(), on.to_vec())
    };
    let count = 3000;
    let never = |n: u16| at(id(200, u64::from(n)), name(n), &[id(0, (1 << 62) + u64::from(n))]);
    node.commit((1..=count / 2).map(never).collect());
    let names = || (1..=count).map(name);
    let mut own = node.reader.subscribe_topics(names().map(|name| (name, Cursor::new())));
    let mut shared = node.reader.subscribe_topics_sharing(names(), Some(Cursor::new()));
    for stream in [&mut own, &mut shared] {
        assert_eq!(caught_up(stream, WaveId::INITIAL).await, []);
    }
    node.commit((count / 2 + 1..=count).map(never).collect());
    node.commit(vec![at(id(300, 1), name(7), &[id(0, 600)])]);
    let wakeups = || node.hub.counters().wakeups.get();
    // Pages are read on threads of low priority: nothing may be left to do in several looks, not in one.
    let (mut before, mut same) = (wakeups(), 0);
    while same < 10 {
        for stream in [&mut own, &mut shared] {
            assert!(is_silent(stream).await);
        }
        same = if wakeups() == before { same + 1 } else { 0 };
        before = wakeups();
    }
    let registrations = node.hub.registrations();
    for sequence in 1..600 {
        node.commit(vec![at(id(0, sequence), name(9999), &[])]);
        node.commit(vec![at(id(100, sequence), name(9999), &[])]);
    }
    for stream in [&mut own, &mut shared] {
        assert!(is_silent(stream).await);
    }
    assert_eq!(wakeups(), before, "commits that nothing waits for");
    assert_eq!(node.hub.registrations(), registrations);

    node.commit(vec![at(id(0, 600), name(7), &[])]);
    for stream in [&mut own, &mut shared] {
        assert_eq!(take(stream, 2).await, [id(0, 600), id(300, 1)]);
        assert!(is_silent(stream).await);
    }
    assert_eq!(wakeups(), before + 4, "each stream is told once and reads once");
    assert_eq!(node.hub.registrations(), registrations);
    drop((own, shared));
    // Large streams leave on a thread of their own.
    while node.hub.registrations() > 0 {
        tokio::task::spawn_blocking(|| ()).await.unwrap();
    }
}

/// Streams of thousands of topics come back before streams of a few.
#[tokio::test]
async fn a_small_stream_is_not_served_behind_large_ones() {
    let node = Node::new();
    let name = |n: u16| Topic::parse([&[0], &n.to_be_bytes()[..]].concat().into()).unwrap();
    let envelope = |n: u16| committed(id(100, u64::from(n)), name(n), i64::from(n), vec![]);
    node.commit((1..=4000).map(envelope).collect());
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let open = |topics: std::ops::RangeInclusive<u16>| {
        let topics = topics.map(|n| (name(n), Cursor::new())).collect::<Vec<_>>();
        let (len, order) = (topics.len(), Arc::clone(&order));
        let mut stream = node.reader.subscribe_topics(topics);
        tokio::spawn(async move {
            assert_eq!(caught_up(&mut stream, WaveId::INITIAL).await.len(), len);
            order.lock().unwrap().push(len);
        })
    };
    let large = (0..20).map(|_| open(1..=4000)).collect::<Vec<_>>();
    let small = (0..100).map(|n| open(n * 5 + 1..=n * 5 + 5));
    for stream in large.into_iter().chain(small.collect::<Vec<_>>()) {
        stream.await.unwrap();
    }
    let order = order.lock().unwrap();
    assert!(order[..100].iter().all(|&topics| topics == 5), "{order:?}");
}

/// A hostile node has had an envelope stored that fits into no answer.
#[tokio::test]
async fn what_fits_into_no_answer_stops_nothing() {
    let node = Node::new();
    let mut huge = committed(id(200, 1), topic(1), 15, vec![]);
    let statement = [&huge.bytes[..], &vec![0; PAGE_LEN_BYTES_MAX + 1024]].concat();
    huge.bytes = statement.into();
    node.store.commit(&[append(&committed(id(100, 1), topic(1), 10, vec![]))]).unwrap();
    node.store
        .commit(&[append(&huge), append(&committed(id(200, 2), topic(1), 17, vec![]))])
        .unwrap();
    node.store.commit(&[append(&committed(id(100, 2), topic(1), 13, vec![]))]).unwrap();
    node.store.commit(&[append(&Committed { id: id(300, 1), ..huge })]).unwrap();
    [id(100, 2), id(200, 2), id(300, 1)].into_iter().for_each(|head| node.heads.announce(head));
    let expected = [id(100, 1), id(100, 2), id(200, 2)];
    let reader = &node.reader;
    assert_eq!(ids_of(&reader.query_topics(&[topic(1)], &Cursor::new(), 0).unwrap()), expected);
    let strands = [100, 200, 300].map(OriginatorId);
    assert_eq!(ids_of(&reader.query_originators(&strands, &Cursor::new(), 0).unwrap()), expected);
    let newest: Vec<Bytes> = reader.newest(&[topic(1)]).unwrap().into_iter().flatten().collect();
    assert_eq!(ids_of(&newest), [id(200, 2)]);
    for mut stream in [
        reader.subscribe_topics([(topic(1), Cursor::new())]),
        reader.subscribe_topics_sharing([topic(1)], Some(Cursor::new())),
        reader.subscribe_originators(strands, Some(Cursor::new())),
    ] {
        assert_eq!(caught_up(&mut stream, WaveId::INITIAL).await, expected);
    }
}

#[tokio::test]
async fn a_slow_reader_costs_bounded_memory_and_still_gets_everything() {
    let node = Node::new();
    let count = 4000; // more than a page of any of them
    let mut topics = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    let strand = node.reader.subscribe_originators([OriginatorId(100)], Some(Cursor::new()));
    let mut strand = strand.in_entries();
    let mut all = node.reader.subscribe_all();
    for stream in [&mut topics, &mut strand, &mut all] {
        caught_up(stream, WaveId::INITIAL).await;
    }
    for sequence in 1..=count {
        node.commit_one(id(100, sequence), 1, &[]);
        for stream in [&topics, &strand, &all] {
            assert!(stream.listener.len_bytes() <= BatchLimits::QUEUE.len_bytes);
        }
    }
    let everything: Vec<EnvelopeId> = (1..=count).map(|sequence| id(100, sequence)).collect();
    for stream in [&mut topics, &mut strand, &mut all] {
        assert_eq!(stream.listener.len_bytes(), 0, "what was too much is given back");
        assert_eq!(take(stream, everything.len()).await, everything);
        assert!(is_silent(stream).await);
    }
}

#[tokio::test]
async fn a_dropped_stream_leaves_nothing_in_the_hub() {
    let node = Node::new();
    let mut stream = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    change(&mut stream, WaveId(1), &[(topic(2), Cursor::new())], &[topic(1)]).await;
    let others = (node.reader.subscribe_all(), node.reader.subscribe_originators([], None));
    assert_eq!(node.hub.registrations(), 2);
    drop((stream, others));
    assert_eq!(node.hub.registrations(), 0);
}

/// Each has thousands of topics to leave. A thread for each would take the cores from publishers, and the threads that
/// replication needs.
#[test]
fn streams_of_many_topics_that_end_leave_in_their_turns() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let node = Node::new();
        let name = |n: usize| Topic::parse([&[0][..], &n.to_be_bytes()].concat().into()).unwrap();
        let topics = || (0..=TURN_TOPICS).map(|n| (name(n), Cursor::new())).collect::<Vec<_>>();
        let streams: Vec<_> = (0..3).map(|_| node.reader.subscribe_topics(topics())).collect();
        let (log, registered) = (streams[0].log.clone(), node.hub.registrations());
        let barrier = Arc::new(Barrier::new(STREAM_PAGES_AT_ONCE + 1));
        for _ in 0..STREAM_PAGES_AT_ONCE {
            let barrier = Arc::clone(&barrier);
            let occupied = move || (0..2).for_each(|_| _ = barrier.wait());
            log.page_threads.run(ReaderId::default(), JobSize::Small, occupied);
        }
        barrier.wait(); // all are occupied
        let charge = Arc::new(());
        streams.into_iter().for_each(|stream| stream.end(Arc::clone(&charge)));
        tokio::task::spawn_blocking(|| ()).await.unwrap(); // work of before has been done on the only thread
        assert_eq!((node.hub.registrations(), Arc::strong_count(&charge)), (registered, 4));
        node.commit(vec![committed(id(100, 1), name(0), 0, vec![])]);
        assert_eq!(node.hub.counters().waiting_bytes.get(), 0, "none takes anything in");
        barrier.wait();
        while node.hub.registrations() > 0 || Arc::strong_count(&charge) > 1 {
            tokio::task::yield_now().await;
        }
    });
}

#[tokio::test]
async fn waiting_can_be_given_up_at_any_time() {
    let node = Node::new();
    (1..=100).for_each(|sequence| node.commit_one(id(100, sequence), 1, &[]));
    let mut stream = node.reader.subscribe_topics([(topic(1), Cursor::new())]);
    let mut got = Vec::new();
    while got.len() < 100 {
        match poll(&mut stream).await {
            Some(SubscriptionEvent::Envelopes { envelopes, .. }) => got.extend(ids_of(&envelopes)),
            Some(_) => {}
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(got, (1..=100).map(|sequence| id(100, sequence)).collect::<Vec<_>>());
}

#[test]
fn strands_are_read_by_time_without_what_is_invalid_or_missing() {
    let node = Node::new();
    let at = |id, ns| committed(id, topic(1), ns, vec![]);
    let changes = [
        append(&at(id(100, 1), 10)),
        append_invalid(&at(id(100, 2), 11)),
        missing(id(100, 3)),
        append(&at(id(100, 4), 40)),
        append(&committed(id(200, 1), topic(2), 20, vec![id(0, 99)])),
        append(&at(id(300, 1), 30)),
    ];
    node.store.commit(&changes).unwrap();
    let ask = |ids: &[u32], from: &[(u32, u64)], limit| {
        let ids: Vec<OriginatorId> = ids.iter().map(|&id| OriginatorId(id)).collect();
        ids_of(&node.reader.query_originators(&ids, &cursor(from), limit).unwrap())
    };
    assert_eq!(ask(&[200, 100, 200], &[], 0), [id(100, 1), id(200, 1), id(100, 4)]);
    assert_eq!(ask(&[100], &[(100, 1)], 0), [id(100, 4)]);
    assert_eq!(ask(&[300, 100], &[], 2), [id(100, 1), id(300, 1)]);
    assert_eq!(ask(&[400], &[], 0), []);
}

#[test]
fn queries_read_one_page_from_the_log() {
    let node = Node::new();
    for sequence in 1..=1500 {
        node.commit_one(id(100, sequence), 1, &[]);
    }
    node.commit_one(id(200, 1), 1, &[id(0, 1)]);
    let ask = |from: &[(u32, u64)], limit| {
        let topics = [topic(1), topic(2), topic(1)];
        ids_of(&node.reader.query_topics(&topics, &cursor(from), limit).unwrap())
    };
    assert_eq!(ask(&[], 0).len(), PAGE_ENVELOPES_MAX);
    assert_eq!(ask(&[], 2), [id(100, 1), id(100, 2)]);
    assert_eq!(ask(&[(100, 1499)], 0), [id(100, 1500)], "the other originator waits for a commit");
    assert_eq!(ask(&[(100, 1499), (0, 1)], 0), [id(200, 1), id(100, 1500)]);
}

/// Three strands commit without pause, each on its own thread, while streams of all kinds start,
/// stop and resume.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_every_stream_gets_each_envelope_once() {
    let node = Node::new();
    let done = watch::Sender::new(false);
    let writers = STRANDS.map(|strand| {
        let node = node.clone();
        tokio::task::spawn_blocking(move || write(&node, strand, 2500))
    });
    let readers: Vec<_> =
        (0..12).map(|seed| tokio::spawn(read_all(node.clone(), seed, done.subscribe()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    done.send_replace(true);
    for reader in readers {
        reader.await.unwrap();
    }
}

const STRANDS: [u32; 3] = [0, 100, 200];

fn topic_of(id: EnvelopeId) -> Topic {
    topic(u8::try_from(id.sequence.0 % 3).unwrap())
}

fn write(node: &Node, strand: u32, count: u64) {
    let dice = &mut Dice::new(u64::from(strand));
    let mut sequence = 0;
    while sequence < count {
        let mut group = Vec::new();
        for _ in 0..=dice.below(6) {
            sequence += 1;
            let chain = node.heads.get().get(OriginatorId(0)).0;
            // The last commit of the group, or the next one.
            let near = chain + dice.below(4);
            let on = id(0, near.saturating_sub((near + 3 - sequence % 3) % 3));
            // Queries leave out commits that name no earlier one, and streams show them.
            let may_depend = strand != 0 && chain > 3;
            let depends_on = if may_depend && dice.chance(4) { vec![on] } else { vec![] };
            let (id, at) = (id(strand, sequence), i64::try_from(sequence).unwrap());
            group.push(committed(id, topic_of(id), at, depends_on));
        }
        node.commit(group);
    }
}

/// One reader, who knows where it is whatever it reads with.
struct Reading {
    node: Node,
    kind: u64,
    names: Vec<Topic>,
    reached: BTreeMap<Topic, Cursor>,
    got: Vec<EnvelopeId>,
}

impl Reading {
    fn shared(&self) -> Cursor {
        let mut shared = Cursor::new();
        self.reached.values().for_each(|cursor| shared.merge(cursor));
        shared
    }

    fn open(&self) -> Subscription {
        let (reader, names) = (&self.node.reader, self.names.iter().cloned());
        match self.kind {
            0 if self.got.len().is_multiple_of(2) => {
                reader.subscribe_topics_sharing(names, Some(self.shared()))
            }
            0 => reader.subscribe_topics_sharing_in_turn(names, &self.shared()).unwrap(),
            1 => {
                let topics = names.map(|name| {
                    let from = self.reached.get(&name).cloned().unwrap_or_default();
                    (name, from)
                });
                // Half of them wait for their turn, and listen from then on.
                match self.got.len() % 2 {
                    0 => reader.subscribe_topics(topics),
                    _ => reader.subscribe_topics_in_turn(topics.collect()).unwrap(),
                }
            }
            _ => {
                let strands = STRANDS.map(OriginatorId);
                reader.subscribe_originators(strands, Some(self.shared())).in_entries()
            }
        }
    }

    fn take(&mut self, envelopes: &[Bytes]) {
        for id in ids_of(envelopes) {
            self.got.push(id);
            self.reached.entry(topic_of(id)).or_default().advance(id);
        }
    }

    /// Returns the answer of queries, to compare with.
    fn queried(&self) -> BTreeSet<EnvelopeId> {
        let reader = &self.node.reader;
        match self.kind {
            0 => pages(|from| reader.query_topics(&self.names, from, 0).unwrap()),
            1 => {
                let topics = self.names.iter().map(|name| {
                    pages(|from| reader.query_topics(std::slice::from_ref(name), from, 0).unwrap())
                });
                topics.flatten().collect()
            }
            _ => {
                let strands = STRANDS.map(OriginatorId);
                pages(|from| reader.query_originators(&strands, from, 0).unwrap())
            }
        }
    }
}

fn pages(ask: impl Fn(&Cursor) -> Vec<Bytes>) -> BTreeSet<EnvelopeId> {
    let mut from = Cursor::new();
    let mut all = BTreeSet::new();
    loop {
        let page = ids_of(&ask(&from));
        if page.is_empty() {
            return all;
        }
        for id in page {
            assert!(all.insert(id), "{id} twice");
            from.advance(id);
        }
    }
}

/// Reads with one stream after the other, each from where the last one ended; with the last one
/// to the end.
async fn read_all(node: Node, seed: u64, mut done: watch::Receiver<bool>) {
    let dice = &mut Dice::new(seed);
    let names = (0..=u8::try_from(seed / 3 % 3).unwrap()).map(topic).collect();
    let mut reading =
        Reading { node, kind: seed % 3, names, reached: BTreeMap::new(), got: Vec::new() };
    let mut finishing = false;
    while !finishing {
        finishing = *done.borrow();
        let mut stream = reading.open();
        let mut left = if finishing { usize::MAX } else { dice.index(900) };
        while left > 0 {
            let event = tokio::select! {
                event = stream.next() => event.unwrap(),
                _ = done.wait_for(|done| *done), if !finishing => break,
            };
            match event {
                SubscriptionEvent::CaughtUp(_) if finishing => break,
                SubscriptionEvent::CaughtUp(_) | SubscriptionEvent::TopicsLive { .. } => {}
                SubscriptionEvent::Entries { entries, .. } => {
                    left = left.saturating_sub(entries.count);
                    reading.take(&entries.envelopes().collect::<Vec<_>>());
                }
                SubscriptionEvent::Envelopes { envelopes, .. } => {
                    left = left.saturating_sub(envelopes.len());
                    reading.take(&envelopes);
                }
            }
            if dice.chance(8) {
                tokio::task::yield_now().await;
            }
        }
    }
    let mut last: BTreeMap<(Option<Topic>, OriginatorId), EnvelopeId> = BTreeMap::new();
    for &id in &reading.got {
        let lane = ((reading.kind == 1).then(|| topic_of(id)), id.originator);
        assert!(last.insert(lane, id).is_none_or(|last| last < id), "{id} after {last:?}");
    }
    let got: BTreeSet<EnvelopeId> = reading.got.iter().copied().collect();
    assert_eq!(got, reading.queried());
}
