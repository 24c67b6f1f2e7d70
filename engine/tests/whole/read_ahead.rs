//! Pages that are read for a peer: its wants together take bounded memory, for any progress of its reading.

use hawser_engine::replication::StrandItem;
use hawser_engine::runtime::replication::{PageReads, StrandPage, StrandPart, StrandReader};
use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, InvalidRule, LogEntry, SkipReason, Store, Validity};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common;
use crate::follow::{Follower, WAIT_MAX};

/// Bytes that may be read for one peer and not written yet.
const AHEAD_MAX: usize = 32 << 20;
const PAGE_MAX: usize = 1 << 20;
const LONG: usize = 1000 << 10;
const STRANDS: u32 = 40;

fn strand(index: u32) -> OriginatorId {
    OriginatorId(1000 + index)
}

/// Appends an envelope that is nothing but long. Peers are sent invalid ones too.
fn append(store: &Store, originator: OriginatorId, sequence: u64, len: usize) {
    let id = EnvelopeId::new(originator, SequenceId(sequence));
    let (bytes, validity) = (Bytes::from(vec![7; len]), Validity::Invalid(InvalidRule(1)));
    store.commit(&[Change::Append(LogEntry { id, bytes, validity, facts: None })]).unwrap();
}

fn reader(follower: &Follower, index: u32, end: u64, reads: &PageReads) -> StrandReader {
    let (start, part) = (SequenceId::NONE, StrandPart::Items(Some(SequenceId(end))));
    follower.replication.reader(strand(index), start, part, PAGE_MAX, reads.clone()).unwrap()
}

fn len(page: &StrandPage) -> usize {
    let len = |item: &StrandItem<Bytes>| match item {
        StrandItem::Envelope(bytes) => bytes.len(),
        _ => 0,
    };
    page.items.iter().map(len).sum()
}

/// Reads the next page of a strand beside others.
fn read_next(tasks: &mut JoinSet<(StrandReader, StrandPage)>, mut reader: StrandReader) {
    tasks.spawn(async move {
        let page = reader.next().await.unwrap().unwrap();
        (reader, page)
    });
}

async fn next(tasks: &mut JoinSet<(StrandReader, StrandPage)>) -> (StrandReader, StrandPage) {
    timeout(WAIT_MAX, tasks.join_next()).await.expect("there is room").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_wants_much_and_reads_nothing_has_bounded_memory_and_takes_none_of_others() {
    let store = common::store();
    for index in 0..STRANDS {
        append(&store, strand(index), 1, LONG);
        append(&store, strand(index), 2, LONG);
    }
    let follower = Follower::start(store);
    let hostile = follower.replication.page_reads();
    let (mut waiting, mut unwritten) = (JoinSet::new(), Vec::new());
    for index in 0..STRANDS {
        read_next(&mut waiting, reader(&follower, index, 2, &hostile));
    }
    for _ in 0..AHEAD_MAX / PAGE_MAX {
        unwritten.push(next(&mut waiting).await);
    }

    let honest = follower.replication.page_reads();
    for index in 0..STRANDS {
        let (mut reader, mut read) = (reader(&follower, index, 2, &honest), 0);
        while let Some(page) = timeout(WAIT_MAX, reader.next()).await.unwrap().unwrap() {
            read += len(&page);
        }
        assert_eq!(read, 2 * LONG);
    }
    assert_eq!(honest.bytes_ahead(), 0, "what is written is given back");

    assert!(waiting.try_join_next().is_none(), "no page was read in the meantime");
    let held: usize = unwritten.iter().map(|(_, page)| len(page)).sum();
    assert!(held <= AHEAD_MAX, "{held} bytes are held");
    assert!((held..=AHEAD_MAX).contains(&hostile.bytes_ahead()));

    // The room goes round: strands that have had none come before the second page of others.
    let mut first_pages = unwritten.len();
    for (reader, page) in unwritten {
        drop(page);
        read_next(&mut waiting, reader);
    }
    let mut second_pages = 0;
    while second_pages < STRANDS {
        let (reader, page) = next(&mut waiting).await;
        assert!(hostile.bytes_ahead() <= AHEAD_MAX);
        if reader.position() == SequenceId(2) {
            second_pages += 1;
        } else {
            first_pages += 1;
            drop(page);
            read_next(&mut waiting, reader);
        }
    }
    assert_eq!(first_pages, usize::try_from(STRANDS).unwrap());
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_longer_than_all_room_is_read_alone() {
    let store = common::store();
    append(&store, strand(0), 1, AHEAD_MAX + 1);
    append(&store, strand(1), 1, LONG);
    append(&store, strand(2), 1, 3 * LONG);
    let follower = Follower::start(store);
    let reads = follower.replication.page_reads();
    let mut waiting = JoinSet::new();
    read_next(&mut waiting, reader(&follower, 1, 1, &reads));
    let (_, small) = next(&mut waiting).await;

    read_next(&mut waiting, reader(&follower, 0, 1, &reads));
    // Envelopes longer than a page have room of their length.
    let other = follower.replication.page_reads();
    let (_, long) = {
        read_next(&mut waiting, reader(&follower, 2, 1, &other));
        next(&mut waiting).await
    };
    assert_eq!((len(&long), other.bytes_ahead()), (3 * LONG, 3 * LONG));
    assert!(waiting.try_join_next().is_none(), "another page is held");
    drop(small);
    let (_, longest) = next(&mut waiting).await;
    assert_eq!((len(&longest), reads.bytes_ahead()), (AHEAD_MAX + 1, AHEAD_MAX));
    drop(longest);
    assert_eq!(reads.bytes_ahead(), 0);
    follower.stop().await;
}

/// A peer that replaces its wants without end has the first page of each read for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_page_of_a_want_is_short_and_the_next_ones_are_longer() {
    const EACH: usize = 1 << 10;
    const PLACES: u64 = 1_500;
    let store = common::store();
    for place in 1..=PLACES {
        append(&store, strand(0), place, EACH);
    }
    let follower = Follower::start(store);
    let reads = follower.replication.page_reads();
    let (mut reader, mut pages) = (reader(&follower, 0, PLACES, &reads), Vec::new());
    while let Some(page) = timeout(WAIT_MAX, reader.next()).await.unwrap().unwrap() {
        pages.push(len(&page));
    }
    let left = usize::try_from(PLACES).unwrap() * EACH - (64 + 128 + 256 + 512) * EACH;
    assert_eq!(pages, [64 * EACH, 128 * EACH, 256 * EACH, 512 * EACH, left]);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_side_by_side_are_one_and_the_work_for_a_page_is_bounded() {
    const GAPS: u64 = 1000;
    let store = common::store();
    let skip = |place: u64| Change::Skip {
        originator: strand(0),
        from: SequenceId(place),
        through: SequenceId(place),
        reason: if place.is_multiple_of(2) { SkipReason::Void } else { SkipReason::Missing },
    };
    store.commit(&(1..=GAPS).map(skip).collect::<Vec<_>>()).unwrap();
    let follower = Follower::start(store);
    let reads = follower.replication.page_reads();
    let part = StrandPart::Items(Some(SequenceId(GAPS)));
    let reader = follower.replication.reader(strand(0), SequenceId::NONE, part, 6400, reads);
    let (mut reader, mut last) = (reader.unwrap(), 0);
    while let Some(page) = timeout(WAIT_MAX, reader.next()).await.unwrap().unwrap() {
        let [StrandItem::Gap { from, to, expired: false }] = page.items[..] else {
            panic!("{:?}", page.items)
        };
        assert_eq!(from.0, last + 1);
        assert!(to >= from && to.0 <= last + 100, "{from} to {to}");
        last = to.0;
    }
    assert_eq!(last, GAPS);
    follower.stop().await;
}

fn skip(from: u64, through: u64, reason: SkipReason) -> Change {
    let (from, through) = (SequenceId(from), SequenceId(through));
    Change::Skip { originator: strand(0), from, through, reason }
}

/// Reads the gaps of a strand behind `after` and up to `end` as for a peer.
async fn gaps(follower: &Follower, after: u64, end: u64) -> Vec<(u64, u64)> {
    let reads = follower.replication.page_reads();
    let (after, end) = (SequenceId(after), SequenceId(end));
    let part = StrandPart::Gaps(end);
    let reader = follower.replication.reader(strand(0), after, part, PAGE_MAX, reads.clone());
    let mut reader = reader.unwrap();
    let page = timeout(WAIT_MAX, reader.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(reader.position(), end, "the end of the answer");
    assert!(reader.next().await.unwrap().is_none(), "one page");
    let gap = |item: &StrandItem<Bytes>| match item {
        StrandItem::Gap { from, to, expired: false } => (from.0, to.0),
        item => panic!("{item:?}"),
    };
    let gaps = page.items.iter().map(gap).collect();
    drop(page);
    assert_eq!(reads.bytes_ahead(), 0, "the room is given back");
    gaps
}

/// A follower takes each named place for one that the peer does not hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gaps_of_a_range_are_the_missing_places_and_those_behind_the_head() {
    let store = common::store();
    append(&store, strand(0), 1, 9);
    store.commit(&[skip(2, 3, SkipReason::Missing), skip(4, 4, SkipReason::Missing)]).unwrap();
    append(&store, strand(0), 5, 9);
    // Whether they may be passed over is for the search for them.
    store.commit(&[skip(6, 7, SkipReason::Expired)]).unwrap();
    append(&store, strand(0), 8, 9);
    store.commit(&[skip(9, 9, SkipReason::Missing)]).unwrap();
    append(&store, strand(0), 10, 9);
    let follower = Follower::start(store);
    assert_eq!(gaps(&follower, 0, 20).await, [(2, 4), (9, 9), (11, 20)]);
    assert_eq!(gaps(&follower, 4, 9).await, [(9, 9)]);
    assert_eq!(gaps(&follower, 4, 8).await, []);
    assert_eq!(gaps(&follower, 15, 20).await, [(16, 20)]);
    follower.stop().await;
}

/// A node can leave out as many places of its strand as it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gaps_of_one_answer_are_bounded() {
    const GAPS: u64 = 2_000;
    let store = common::store();
    for number in 0..GAPS {
        store.commit(&[skip(2 * number + 1, 2 * number + 1, SkipReason::Missing)]).unwrap();
        append(&store, strand(0), 2 * number + 2, 9);
    }
    let follower = Follower::start(store);
    let gaps = gaps(&follower, 0, 2 * GAPS).await;
    assert_eq!((gaps.len(), gaps.last()), (256, Some(&(511, 511))));
    follower.stop().await;
}
