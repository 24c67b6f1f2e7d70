//! The most expensive queries, in turns.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use hawser_storage::Store;
use prost::Message as _;

use super::*;
use crate::read::ReadMemory;
use crate::read::testing::{StoppedClock, append, committed, cursor, id, id_of, ids_of, store};
use crate::runtime::Reader;

const TOPICS: u16 = 150;
const ORIGINATORS: u32 = 100;

/// Counts what is held, and refuses what goes beyond a bound.
#[derive(Debug)]
struct CountedMemory {
    held: AtomicUsize,
    most: AtomicUsize,
    bound: usize,
}

impl CountedMemory {
    fn of(bound: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), most: AtomicUsize::new(0), bound })
    }
}

impl ReadMemory for CountedMemory {
    fn take(&self, bytes: usize) -> bool {
        let held = self.held.load(Ordering::Relaxed) + bytes;
        if held > self.bound {
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
    Reader::over(store.clone(), Arc::new(StoppedClock(i64::MAX / 2))).unwrap()
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
        // Of each strand, no more lanes than the page may have envelopes, and one.
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

#[test]
fn another_look_for_an_envelope_that_is_gone_is_work() {
    let store = crowded();
    let mut query = reader(&store).newest_query(vec![name(3)]);
    query.is_one_view = false;
    query.lacking = Some(Lacking::new(vec![(id(100, 9_999), 0)], 0, 1));
    let snapshot = store.snapshot();
    query.read(&snapshot, 100).unwrap();
    assert_eq!(query.again, [0]);
    let spent = query.read(&snapshot, 100).unwrap();
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

/// Envelopes are committed while a page is planned. It has the places up to the heads at its start.
#[test]
fn a_page_is_that_of_the_heads_at_its_start() {
    let store = crowded();
    let reader = reader(&store);
    let mut query = reader.topics_query(names(), &Cursor::new(), 1000);
    assert_eq!(query.turn().unwrap(), None);
    let late = committed(id(100, u64::from(TOPICS) + 1), name(0), 1, Vec::new());
    store.commit(&[append(&late)]).unwrap();
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
