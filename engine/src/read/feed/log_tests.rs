//! Streams of strands over a store.

use hawser_storage::Store;

use super::super::{Feed, Interest};
use super::*;
use crate::read::limits::BatchLimits;
use crate::read::log_page::LogFilling;
use crate::read::memory::{PageMemory, Unlimited};
use crate::read::testing::{append, append_invalid, committed, cursor, id, ids_of, store, topic};

/// Reads a page of one envelope, and returns it with the number of turns of this work.
fn page(store: &Store, ranges: Vec<LogRange>, work: usize) -> (LogPage, usize) {
    let memory = PageMemory::new(Arc::new(Unlimited), 0);
    let mut filling = LogFilling::new(ranges, BatchLimits::of_query(1), memory);
    for turns in 1..100_000 {
        if let Some(page) = filling.fill(&store.snapshot(), work).unwrap() {
            return (page, turns);
        }
    }
    panic!("it makes no progress");
}

/// A hostile node has had envelopes stored that break rules. Another strand fills the pages meanwhile.
#[test]
fn a_stream_passes_over_a_run_of_invalid_envelopes_once_and_not_for_each_page() {
    const RUN: u64 = 3000;
    const WORK: usize = 100;
    let store = store();
    let invalid = |sequence| append_invalid(&committed(id(100, sequence), topic(1), 1, Vec::new()));
    store.commit(&(1..=RUN).map(invalid).collect::<Vec<_>>()).unwrap();
    let others = (1..=5).map(|at| committed(id(200, at), topic(1), 2, Vec::new()));
    let last = committed(id(100, RUN + 1), topic(1), 9, Vec::new());
    let valid: Vec<_> = others.chain([last]).collect();
    store.commit(&valid.iter().map(append).collect::<Vec<_>>()).unwrap();
    let heads = Arc::new(store.snapshot().heads().unwrap());

    let mut feed = LogFeed::new(None, Cursor::new());
    let (mut got, mut turns_of_pages) = (Vec::new(), Vec::new());
    while let Some(Read::Log(ranges)) = feed.poll_read(&heads) {
        let (page, turns) = page(&store, ranges, WORK);
        turns_of_pages.push(turns);
        feed.handle_page(page);
        while let Some(event) = feed.poll_event() {
            if let SubscriptionEvent::Envelopes { envelopes, .. } = event {
                got.extend(ids_of(&envelopes));
            }
        }
    }
    assert_eq!(got, valid.iter().map(|it| it.id).collect::<Vec<_>>());
    let (first, later) = turns_of_pages.split_first().unwrap();
    assert!(*first > 10 && later.len() >= 5, "{turns_of_pages:?}");
    assert!(later.iter().all(|turns| *turns <= 2), "{turns_of_pages:?}");
}

/// An envelope may come from disk and live, and a page in entries names none of its envelopes.
#[test]
fn envelopes_of_a_page_in_entries_come_once() {
    let store = store();
    let envelope = |at| Arc::new(committed(id(100, at), topic(1), 1, Vec::new()));
    let all: Vec<_> = (1..=5).map(envelope).collect();
    let stored: Vec<_> = all[..4].iter().map(|it| append(it)).collect();
    store.commit(&stored).unwrap();
    let heads = Arc::new(store.snapshot().heads().unwrap());

    let mut feed = LogFeed::new(Some([OriginatorId(100)].into()), Cursor::new());
    let Some(Read::Log(ranges)) = feed.poll_read(&heads) else { panic!("it catches up") };
    let memory = PageMemory::new(Arc::new(Unlimited), 0);
    let mut filling = LogFilling::new(ranges, BatchLimits::STRANDS, memory).with_entries();
    let page = filling.fill(&store.snapshot(), 100).unwrap().unwrap();
    feed.handle_live(&all[3..]);
    feed.handle_page(page);
    let (mut from_disk, mut live) = (Vec::new(), Vec::new());
    while let Some(event) = feed.poll_event() {
        match event {
            SubscriptionEvent::Entries { entries, .. } => from_disk.extend(entries.envelopes()),
            SubscriptionEvent::Envelopes { envelopes, .. } => live.extend(envelopes),
            _ => {}
        }
    }
    assert_eq!(ids_of(&from_disk), [1, 2, 3, 4].map(|at| id(100, at)));
    assert_eq!(ids_of(&live), [id(100, 5)]);
    feed.handle_live(&all);
    assert_eq!(feed.poll_event(), None, "it has them");
}

/// Played by streams that name ten thousand strands, which open and end without a pause. Each registration takes time
/// of a thread that other tasks need.
#[test]
fn a_stream_of_very_many_strands_is_one_registration_and_brings_only_its_own() {
    let strands = |count: u32| (100..100 + count).map(OriginatorId).collect::<BTreeSet<_>>();
    let live = |count: u32| {
        let mut feed = Feed::Log(Box::new(LogFeed::new(Some(strands(count)), Cursor::new())));
        feed.skip_to(&Arc::default());
        feed
    };
    let many = 10_000;
    let some = u32::try_from(ROUTED_STRANDS_MAX).unwrap();
    assert_eq!(live(many).interests(), [Interest::Everything]);
    assert_eq!(live(some + 1).interests(), [Interest::Everything]);
    let each: Vec<_> = strands(some).into_iter().map(Interest::Originator).collect();
    assert_eq!(live(some).interests(), each);

    // The hub hands it the envelopes of all strands.
    let mut feed = live(many);
    let of = |originator| Arc::new(committed(id(originator, 1), topic(1), 1, Vec::new()));
    feed.handle_live(&[0, 99, 100, 10_099, 10_100].map(of));
    let mut got = Vec::new();
    while let Some(event) = feed.poll_event() {
        if let SubscriptionEvent::Envelopes { envelopes, .. } = event {
            got.extend(ids_of(&envelopes));
        }
    }
    assert_eq!(got, [id(100, 1), id(10_099, 1)]);
}

#[test]
fn what_is_kept_while_a_page_is_read_is_within_the_bounds_of_the_stream() {
    let envelope = |at| Arc::new(committed(id(100, at), topic(1), 1, Vec::new()));
    let all: Vec<_> = (1..=20).map(envelope).collect();
    let queue = BatchLimits::queue(3 * crate::read::wire_len_bytes(all[0].bytes.len()) + 16);
    let mut feed = LogFeed::new(None, Cursor::new());
    feed.bound_tails(queue);
    assert!(feed.poll_read(&Arc::default()).is_some(), "it catches up");
    for item in all {
        feed.handle_live(&[item]);
        assert!(feed.kept_bytes() <= queue.len_bytes, "{} bytes", feed.kept_bytes());
    }
}

/// The reader of the stream has no memory for envelopes that come while pages are read.
#[test]
fn what_is_dropped_instead_of_kept_is_read_from_disk() {
    let store = store();
    let envelope = |at| Arc::new(committed(id(100, at), topic(1), 1, Vec::new()));
    let all: Vec<_> = (1..=3).map(envelope).collect();
    store.commit(&all.iter().map(|it| append(it)).collect::<Vec<_>>()).unwrap();
    let heads = Arc::new(store.snapshot().heads().unwrap());
    let mut feed = LogFeed::new(None, Cursor::new());
    let mut next = feed.poll_read(&Arc::new(cursor(&[(100, 1)])));
    feed.handle_live(&all[1..]);
    assert!(feed.kept_bytes() > 0);
    feed.lose_tails();
    assert_eq!(feed.kept_bytes(), 0);
    let mut got = Vec::new();
    while let Some(Read::Log(ranges)) = next {
        let (read, _) = page(&store, ranges, 100);
        feed.handle_page(read);
        while let Some(event) = feed.poll_event() {
            if let SubscriptionEvent::Envelopes { envelopes, .. } = event {
                got.extend(ids_of(&envelopes));
            }
        }
        next = feed.poll_read(&heads);
    }
    assert_eq!(got, [1, 2, 3].map(|at| id(100, at)));
}
