//! The most expensive queries, in turns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hawser_proto::OriginatorId;
use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_storage::{Change, Store};
use prost::Message as _;

use super::*;
use crate::committed::Committed;
use crate::read::ReadMemory;
use crate::read::feed::SubscriptionEvent;
use crate::read::testing::{
    Dice, StoppedClock, append, append_invalid, committed, cursor, id, id_of, ids_of, missing,
    store,
};
use crate::runtime::read::hub::Hub;
use crate::runtime::{Heads, Reader};

const TOPICS: u16 = 150;
const ORIGINATORS: u32 = 100;
/// The time of readers. Later times have not come.
const HORIZON_NS: i64 = i64::MAX / 2;

/// Counts what is held, and refuses what goes beyond a bound.
#[derive(Debug)]
struct CountedMemory {
    held: AtomicUsize,
    most: AtomicUsize,
    bound: AtomicUsize,
}

impl CountedMemory {
    fn of(bound: usize) -> Arc<Self> {
        let (held, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { held, most, bound: AtomicUsize::new(bound) })
    }
}

impl ReadMemory for CountedMemory {
    fn take(&self, bytes: usize) -> bool {
        let held = self.held.load(Ordering::Relaxed) + bytes;
        if held > self.bound.load(Ordering::Relaxed) {
            return false;
        }
        self.held.store(held, Ordering::Relaxed);
        self.most.fetch_max(held, Ordering::Relaxed);
        true
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn name(n: u16) -> Topic {
    Topic::parse([&[0], n.to_be_bytes().as_slice()].concat().into()).unwrap()
}

fn names() -> Vec<Topic> {
    (0..TOPICS).map(name).collect()
}

/// Encodes an envelope with a payload of `len_bytes`.
fn bytes_with(id: EnvelopeId, originator_ns: i64, len_bytes: usize) -> Bytes {
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: id.originator.0,
        originator_sequence_id: id.sequence.0,
        originator_ns,
        payer_envelope_bytes: Bytes::from(vec![7; len_bytes]),
        ..Default::default()
    };
    OriginatorEnvelope::encode(statement.encode_to_vec().into(), Proof::Transaction([1; 32]))
}

/// A store in which each of a hundred originators has an envelope in each topic.
fn crowded() -> Store {
    crowded_with(TOPICS, 0)
}

/// A store in which each of a hundred originators has an envelope in each of `topics`, with a payload of `len_bytes`.
fn crowded_with(topics: u16, len_bytes: usize) -> Store {
    let store = store();
    for originator in 100..100 + ORIGINATORS {
        let changes: Vec<_> = (0..topics)
            .map(|n| {
                let at = i64::from(n) * 1000 + i64::from(originator);
                let id = id(originator, u64::from(n) + 1);
                let mut envelope = committed(id, name(n), at, Vec::new());
                if len_bytes > 0 {
                    envelope.bytes = bytes_with(id, at, len_bytes);
                }
                append(&envelope)
            })
            .collect();
        store.commit(&changes).unwrap();
    }
    store
}

fn reader(store: &Store) -> Reader {
    Reader::over(store.clone(), Arc::new(StoppedClock(HORIZON_NS))).unwrap()
}

/// A reader of a log that grows, with the heads that are announced to it.
fn announced(store: &Store) -> (Reader, Heads) {
    let heads = Heads::new(store.snapshot().heads().unwrap());
    let clock = Arc::new(StoppedClock(HORIZON_NS));
    (Reader::new(store.clone(), heads.clone(), Hub::new(), clock), heads)
}

/// Takes turns until there is an answer, and returns it with their number.
fn in_turns<T>(mut turn: impl FnMut() -> Result<Option<T>, QueryError>) -> (T, usize) {
    let mut turns = 0;
    loop {
        turns += 1;
        assert!(turns < 10_000);
        if let Some(answer) = turn().unwrap() {
            return (answer, turns);
        }
    }
}

#[test]
fn a_page_of_crowded_topics_takes_many_turns_and_little_memory() {
    const LIMIT: usize = 20;
    let store = crowded();
    let seeks = usize::from(TOPICS) * ORIGINATORS as usize;
    let least = seeks * ROWS_PER_SEEK / ROWS_PER_TURN;
    // Cursors at the beginning, in the middle and just below the head.
    for seen in [0, u64::from(TOPICS) / 2, u64::from(TOPICS) - 2] {
        let last_seen: Vec<_> = (100..100 + ORIGINATORS).map(|it| (it, seen)).collect();
        let memory = CountedMemory::of(usize::MAX);
        let charged = reader(&store).charged_to(memory.clone());
        let mut query = charged.topics_query(names(), &cursor(&last_seen), LIMIT);
        let (page, turns) = in_turns(|| query.turn());
        let expected: Vec<_> =
            (0..u32::try_from(LIMIT).unwrap()).map(|it| id(100 + it, seen + 1)).collect();
        assert_eq!(ids_of(&page), expected);
        let left = usize::from(TOPICS) - usize::try_from(seen).unwrap();
        assert!(turns >= least * left / usize::from(TOPICS), "{turns} turns from {seen}");
        assert!(turns <= 3 * least + 2, "{turns} turns from {seen}");
        // Each strand has at most one lane more than the page may have envelopes.
        let lanes = ORIGINATORS as usize * (LIMIT + 1);
        let most = memory.most.load(Ordering::Relaxed);
        let bound = lanes * 256 + usize::from(TOPICS) * 160 + BatchLimits::BESIDE_LEN_BYTES;
        assert!(most <= bound + 100_000, "{most} bytes");
        drop(query);
        let answer = memory.held.load(Ordering::Relaxed);
        assert!(answer <= 2 * page.iter().map(Bytes::len).sum::<usize>() + LIMIT * 300);
    }
}

/// Envelopes that come with their rows stay in memory until the next turn.
#[test]
fn envelopes_between_turns_are_charged() {
    const WIDE: u16 = 40;
    let store = crowded_with(WIDE, 1800);
    let asked = || -> Vec<Topic> { (0..WIDE).map(name).collect() };

    let memory = CountedMemory::of(usize::MAX);
    let mut query =
        reader(&store).charged_to(memory.clone()).topics_query(asked(), &Cursor::new(), 1000);
    let (mut kept_most, mut turns) = (0, 0);
    while query.turn().unwrap().is_none() {
        turns += 1;
        assert!(turns < 10_000);
        if query.reading.is_none() {
            let plan = query.plan.as_ref().map_or(0, PagePlan::beside_bytes);
            let kept = plan + query.filling.beside_bytes();
            assert!(kept <= memory.held.load(Ordering::Relaxed), "{kept} bytes");
            kept_most = kept_most.max(kept);
        }
    }
    assert!(kept_most > BatchLimits::BESIDE_LEN_BYTES / 2, "{kept_most} bytes");

    let memory = CountedMemory::of(usize::MAX);
    let mut query = reader(&store).charged_to(memory.clone()).newest_query(asked());
    let mut kept_most = 0;
    while query.turn().unwrap().is_none() {
        let found = query.newest.values().flatten().filter_map(|row| row.envelope.as_ref());
        let kept: usize = found.map(Bytes::len).sum();
        let topics = usize::from(WIDE) * NEWEST_TOPIC_BYTES;
        assert!(topics + kept <= memory.held.load(Ordering::Relaxed), "{kept} bytes");
        kept_most = kept_most.max(kept);
    }
    assert!(kept_most > 0, "rows bring envelopes");
}

#[test]
fn the_newest_envelopes_of_crowded_topics_take_many_turns() {
    let store = crowded();
    let memory = CountedMemory::of(usize::MAX);
    let mut query = reader(&store).charged_to(memory.clone()).newest_query(names());
    let (newest, turns) = in_turns(|| query.turn());
    let ids: Vec<_> = newest.iter().map(|bytes| id_of(bytes.as_ref().unwrap())).collect();
    let expected: Vec<_> = (0..TOPICS).map(|n| id(99 + ORIGINATORS, u64::from(n) + 1)).collect();
    assert_eq!(ids, expected);
    let seeks = usize::from(TOPICS) * ORIGINATORS as usize;
    assert!(turns >= seeks * ROWS_PER_SEEK / ROWS_PER_TURN, "{turns} turns");
}

/// The most topics that a request may name, with an envelope each: the price of such a read is known, wherever its
/// cursor is.
#[test]
fn topics_with_one_envelope_each_take_few_turns_and_little_memory() {
    const MANY: u16 = 10_000;
    const LIMIT: usize = 1000;
    /// Two searches for each topic with the rows that they find, and envelopes that are read from the log.
    const TURNS_MAX: usize = 35;
    let store = store();
    let one = |n: u16| committed(id(100, u64::from(n) + 1), name(n), i64::from(n), Vec::new());
    let changes: Vec<_> = (0..MANY).map(|n| append(&one(n))).collect();
    changes.chunks(1000).for_each(|some| store.commit(some).unwrap());
    let asked = || -> Vec<Topic> { (0..MANY).map(name).collect() };
    let check = |what: &str, turns: usize, memory: &CountedMemory, answer: &[Bytes]| {
        assert!(turns <= TURNS_MAX, "{what}: {turns} turns");
        let lanes = (LIMIT + 1) * 256;
        let of_topics = usize::from(MANY) * NEWEST_TOPIC_BYTES;
        let of_read = of_topics + lanes + BatchLimits::BESIDE_LEN_BYTES;
        let of_answer = 2 * answer.iter().map(Bytes::len).sum::<usize>() + answer.len() * 300;
        let most = memory.most.load(Ordering::Relaxed);
        assert!(most <= of_read + of_answer + 100_000, "{what}: {most} bytes");
    };
    // Cursors at the beginning, in the middle and just below the head.
    for seen in [0, MANY / 2, MANY - 2] {
        let memory = CountedMemory::of(usize::MAX);
        let charged = reader(&store).charged_to(memory.clone());
        let last_seen = cursor(&[(100, u64::from(seen))]);
        let mut query = charged.topics_query(asked(), &last_seen, LIMIT);
        let (page, turns) = in_turns(|| query.turn());
        assert_eq!(page.len(), LIMIT.min(usize::from(MANY - seen)));
        check(&format!("a page from {seen}"), turns, &memory, &page);
    }
    let memory = CountedMemory::of(usize::MAX);
    let mut query = reader(&store).charged_to(memory.clone()).newest_query(asked());
    let (newest, turns) = in_turns(|| query.turn());
    let newest: Vec<_> = newest.into_iter().flatten().collect();
    assert_eq!(newest.len(), usize::from(MANY));
    assert!(turns >= usize::from(MANY) * ROWS_PER_SEEK / ROWS_PER_TURN, "{turns} turns");
    check("newest envelopes", turns, &memory, &newest);
}

/// A caller may name topics in any order, so that each search reads other blocks of the index.
#[test]
fn newest_envelopes_of_many_topics_are_looked_for_in_the_order_of_the_index() {
    const MANY: u16 = 600;
    let store = store();
    let one = |n: u16| committed(id(100, u64::from(n) + 1), name(n), i64::from(n), Vec::new());
    let changes: Vec<_> = (0..MANY).map(|n| append(&one(n))).collect();
    store.commit(&changes).unwrap();
    let mut query = reader(&store).newest_query((0..MANY).rev().map(name).collect());
    let (newest, _) = in_turns(|| query.turn());
    assert!(query.order.is_sorted_by(|a, b| a > b), "the last one that was named is the first");
    let ids: Vec<_> = newest.iter().map(|bytes| id_of(bytes.as_ref().unwrap())).collect();
    let expected: Vec<_> = (0..MANY).rev().map(|n| id(100, u64::from(n) + 1)).collect();
    assert_eq!(ids, expected, "the answer has the order of the request");
}

#[test]
fn another_look_for_an_envelope_that_is_gone_is_work() {
    let store = crowded();
    let mut query = reader(&store).newest_query(vec![name(3)]);
    query.is_one_view = false;
    query.lacking = Some(Lacking::new(vec![(id(100, 9_999), 0)], 0, 1));
    let snapshot = store.snapshot();
    let heads = snapshot.heads().unwrap();
    query.read(&snapshot, &heads, 100).unwrap();
    assert_eq!(query.again, [0]);
    let spent = query.read(&snapshot, &heads, 100).unwrap();
    assert!(spent >= ORIGINATORS as usize * ROWS_PER_SEEK, "{spent}");
    let newest = query.turn().unwrap().expect("there is nothing more to do");
    assert_eq!(id_of(newest[0].as_ref().unwrap()), id(99 + ORIGINATORS, 4));
}

#[test]
fn a_small_page_takes_one_turn() {
    let store = crowded();
    let reader = reader(&store);
    let mut query = reader.topics_query(vec![name(3)], &Cursor::new(), 100);
    assert_eq!(query.turn().unwrap().unwrap().len(), 100);
    let mut query = reader.newest_query(vec![name(3)]);
    assert_eq!(query.turn().unwrap().unwrap().len(), 1);
    let mut query = reader.topics_query(Vec::new(), &Cursor::new(), 100);
    assert_eq!(query.turn().unwrap(), Some(Vec::new()));
}

/// Shared memory saves two allocations for each envelope: its own, and one when it is encoded.
#[test]
fn the_envelopes_of_a_page_of_one_topic_share_memory_that_is_charged() {
    let store = crowded_with(1, 500);
    let memory = CountedMemory::of(usize::MAX);
    let reader = reader(&store).charged_to(memory.clone());
    let mut page = reader.topics_query(vec![name(0)], &Cursor::new(), 60).turn().unwrap().unwrap();
    assert_eq!(page.len(), 60);
    page.sort_unstable_by_key(|bytes| bytes.as_ptr());
    let is_apart = |pair: &&[Bytes]| pair[0].as_ptr_range().end != pair[1].as_ptr();
    let pieces = 1 + page.windows(2).filter(is_apart).count();
    assert!(pieces <= 6, "{pieces} pieces");
    // A hundred strands have a row each, and all of them were read.
    let read_bytes = page.iter().map(Bytes::len).sum::<usize>() / 60 * 100;
    assert!(memory.held.load(Ordering::Relaxed) >= 2 * read_bytes);
}

#[test]
fn a_plan_that_its_reader_has_no_memory_for_ends() {
    let store = crowded();
    let memory = CountedMemory::of(10_000);
    let mut query =
        reader(&store).charged_to(memory.clone()).topics_query(names(), &Cursor::new(), 1000);
    let refused = loop {
        match query.turn() {
            Ok(page) => assert_eq!(page, None),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, QueryError::NoMemory(_)), "{refused}");
    drop(query);
    assert_eq!(memory.held.load(Ordering::Relaxed), 0);
}

/// A stream of crowded topics cannot hold memory that its caller may not have: it waits without its plan.
#[tokio::test]
async fn the_plan_of_a_stream_is_charged_and_dropped_while_its_reader_has_no_memory() {
    let store = crowded();
    let lanes = usize::from(TOPICS) * ORIGINATORS as usize;
    let memory = CountedMemory::of(lanes * 256 / 2);
    let topics = names().into_iter().map(|topic| (topic, Cursor::new()));
    let mut stream = reader(&store).charged_to(memory.clone()).subscribe_topics(topics);
    let waits = tokio::time::timeout(Duration::from_millis(500), stream.next()).await;
    assert!(waits.is_err(), "it goes on without memory: {waits:?}");
    let began = Instant::now();
    while memory.held.load(Ordering::Relaxed) > 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "it holds memory while it waits");
        let waits = tokio::time::timeout(Duration::from_millis(1), stream.next()).await;
        assert!(waits.is_err(), "it goes on without memory: {waits:?}");
    }
    assert!(memory.most.load(Ordering::Relaxed) > 0, "its plan was charged");

    memory.bound.store(usize::MAX, Ordering::Relaxed);
    let mut got = BTreeSet::new();
    loop {
        match stream.next().await.unwrap() {
            SubscriptionEvent::Envelopes { envelopes, .. } => {
                for id in ids_of(&envelopes) {
                    assert!(got.insert(id), "{id:?} came twice");
                }
            }
            SubscriptionEvent::CaughtUp(_) => break,
            SubscriptionEvent::TopicsLive { .. } => {}
            SubscriptionEvent::Entries { .. } => unreachable!("asked for by no stream here"),
        }
    }
    assert_eq!(got.len(), lanes);
    assert!(memory.most.load(Ordering::Relaxed) >= lanes * 256);
    let held = memory.held.load(Ordering::Relaxed);
    assert!(
        held < lanes * 256 / 4,
        "{held} bytes: more than the last page, so the plan is still charged"
    );
}

/// Envelopes are committed while a page is planned. It has the places up to the heads at its start.
#[test]
fn a_page_is_that_of_the_heads_at_its_start() {
    let store = crowded();
    let (reader, heads) = announced(&store);
    let mut query = reader.topics_query(names(), &Cursor::new(), 1000);
    assert_eq!(query.turn().unwrap(), None);
    let late = committed(id(100, u64::from(TOPICS) + 1), name(0), 1, Vec::new());
    store.commit(&[append(&late)]).unwrap();
    heads.announce(late.id);
    let (page, _) = in_turns(|| query.turn());
    let ids = ids_of(&page);
    assert!(!ids.contains(&late.id));
    assert_eq!(ids.len(), 1000);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 1000);
}

/// Readers who lack nothing of their topics cost no search, however many topics and originators there are.
#[test]
fn a_reader_just_below_the_head_pays_for_what_is_new() {
    let store = crowded();
    let ends: Vec<_> = (100..100 + ORIGINATORS).map(|it| (it, u64::from(TOPICS))).collect();
    let late = committed(id(100, u64::from(TOPICS) + 1), name(7), 1, Vec::new());
    store.commit(&[append(&late)]).unwrap();
    let mut asked = names();
    asked.extend((TOPICS..9_000).map(name));
    let mut query = reader(&store).topics_query(asked, &cursor(&ends), 100);
    let page = query.turn().unwrap().expect("a look at each topic, and a search for one");
    assert_eq!(ids_of(&page), [late.id]);
}

/// A log whose commits are announced later, and one that has only what was announced.
struct Pair {
    store: Store,
    heads: Heads,
    reader: Reader,
    announced_log: Store,
    /// Changes that are durable and have not been announced.
    unannounced: Vec<Change>,
    /// Places that are marked missing, and what a peer may still bring for them.
    lost: Vec<Committed>,
    ends: BTreeMap<u32, u64>,
}

impl Pair {
    /// A chain's strand, another one, and three nodes'.
    const STRANDS: [u32; 5] = [0, 1, 100, 200, 300];

    fn new() -> Self {
        let log = store();
        let (reader, heads) = announced(&log);
        let (unannounced, lost, ends) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { store: log, heads, reader, announced_log: store(), unannounced, lost, ends }
    }

    /// Commits something to a strand: mostly an envelope, which may depend on a place of a chain that is there or not.
    fn commit(&mut self, dice: &mut Dice) {
        let strand = *dice.pick(&Self::STRANDS);
        let end = self.ends.entry(strand).or_default();
        *end += 1;
        let place = id;
        let id = place(strand, *end);
        let depends_on = match dice.below(3) {
            0 => vec![place(u32::from(dice.chance(2)), dice.below(*end + 4) + 1)],
            _ => Vec::new(),
        };
        let has_come = !dice.chance(9);
        let at = i64::try_from(dice.below(1000)).unwrap()
            + if has_come { 0 } else { HORIZON_NS / 2 * 3 };
        let envelope = committed(id, name(u16::try_from(dice.below(5)).unwrap()), at, depends_on);
        let change = match dice.below(8) {
            0 => append_invalid(&envelope),
            1 => {
                self.lost.push(envelope);
                missing(id)
            }
            _ => append(&envelope),
        };
        self.store.commit(std::slice::from_ref(&change)).unwrap();
        self.unannounced.push(change);
    }

    /// Announces everything.
    fn announce(&mut self) {
        for change in self.unannounced.drain(..) {
            self.announced_log.commit(std::slice::from_ref(&change)).unwrap();
            self.heads.announce(change.end());
        }
    }

    /// A peer brings an envelope for a place below the announced head: that is announced to no reader.
    fn find(&mut self, dice: &mut Dice) {
        let known = self.heads.get();
        if let Some(at) = self.lost.iter().position(|it| known.covers(it.id)) {
            let found = append(&self.lost.remove(at));
            if dice.chance(2) {
                for log in [&self.store, &self.announced_log] {
                    log.commit(std::slice::from_ref(&found)).unwrap();
                }
            }
        }
    }

    /// Compares answers about everything that is announced with those of heads that are read from the log.
    fn compare(&self, dice: &mut Dice) {
        let from_log = reader(&self.announced_log);
        let mut asked: Vec<Topic> = (0..6).filter(|_| !dice.chance(3)).map(name).collect();
        asked.extend(asked.first().cloned());
        let newest = |of: &Reader| in_turns_of(|| of.newest_query(asked.clone()));
        assert_eq!(newest(&self.reader), newest(&from_log));

        let ends = self.ends.iter().map(|(&strand, &end)| id(strand, dice.below(end + 1)));
        let mut seen: Cursor = ends.filter(|it| it.sequence.0 > 0).collect();
        let limit = dice.index(7);
        loop {
            let [page, other] =
                [&self.reader, &from_log].map(|it| it.query_topics(&asked, &seen, limit).unwrap());
            assert_eq!(ids_of(&page), ids_of(&other), "after {seen:?}");
            assert_eq!(page, other);
            assert!(ids_of(&page).into_iter().all(|it| self.heads.get().covers(it)));
            if page.is_empty() {
                return;
            }
            ids_of(&page).into_iter().for_each(|it| seen.advance(it));
        }
    }
}

/// Answers of newest envelopes, all turns of them.
fn in_turns_of(begin: impl Fn() -> NewestQuery) -> Vec<Option<Bytes>> {
    let mut query = begin();
    in_turns(|| query.turn()).0
}

/// Readers get announced envelopes only, as if the log had no others: the heads in memory take the place of those of
/// the log.
#[test]
fn pages_up_to_the_announced_heads_are_those_of_a_log_that_ends_there() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut dice = Dice::new(seed);
        let mut pair = Pair::new();
        for _ in 0..120 {
            match dice.below(10) {
                0 => pair.announce(),
                1 => pair.compare(&mut dice),
                2 => pair.find(&mut dice),
                _ => pair.commit(&mut dice),
            }
        }
        pair.compare(&mut dice);
        pair.announce();
        assert_eq!(*pair.heads.get(), pair.store.snapshot().heads().unwrap());
        pair.compare(&mut dice);
    }
}

/// Heads are taken before the view. The other way around a page would count on places that its view lacks.
#[test]
fn a_view_has_every_place_up_to_its_heads_while_the_log_grows() {
    let store = store();
    let (reader, heads) = announced(&store);
    let log = reader.topics_query(Vec::new(), &Cursor::new(), 1).log;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for sequence in 1..=3000 {
                let envelope = committed(id(100, sequence), name(0), 1, Vec::new());
                store.commit(&[append(&envelope)]).unwrap();
                heads.announce(envelope.id);
            }
            is_over.store(true, Ordering::Release);
        });
        while !is_over.load(Ordering::Acquire) {
            let (heads, view) = log.heads_and_view();
            let stored = view.heads().unwrap();
            assert!(heads.iter().all(|it| stored.covers(it)), "{heads:?} beyond {stored:?}");
        }
    });
    assert_eq!(log.heads_and_view().0.get(OriginatorId(100)).0, 3000);
}

/// Any account may have the chain order thousands of such commits before the first one of a group.
#[test]
fn commits_that_a_query_leaves_out_take_memory_for_one_page_alone() {
    const STRAYS: u64 = 2_000;
    let store = store();
    let at = |sequence: u64| i64::try_from(sequence).unwrap();
    let elsewhere = id(0, 1);
    let mut changes = vec![append(&committed(elsewhere, name(2), 1, Vec::new()))];
    changes.extend((2..2 + STRAYS).map(|sequence| {
        append(&committed(id(0, sequence), name(1), at(sequence), vec![elsewhere]))
    }));
    let on_stray = committed(id(100, 1), name(1), at(2 * STRAYS), vec![id(0, 2)]);
    let on_nothing = committed(id(100, 2), name(1), at(3 * STRAYS), Vec::new());
    changes.extend([append(&on_stray), append(&on_nothing)]);
    store.commit(&changes).unwrap();
    let mut query = reader(&store).topics_query(vec![name(1)], &Cursor::new(), 1);
    let mut most_bytes = 0;
    let (page, turns) = in_turns(|| {
        let answer = query.turn();
        most_bytes = query.plan.as_ref().map_or(0, PagePlan::held_bytes).max(most_bytes);
        answer
    });
    assert_eq!(ids_of(&page), [id(100, 2)]);
    assert!(turns > 2 && most_bytes < 2048, "{turns} turns, {most_bytes} bytes");
}
