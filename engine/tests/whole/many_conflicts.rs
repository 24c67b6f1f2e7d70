//! A node that signs many second statements, or answers in many small pieces, costs the others few writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hawser_proto::{EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Change, LogEntry, SkipReason, Store, Validity};

use crate::common;
use crate::follow::{Follower, OTHER, SOURCE, envelope, strand};

/// Writes that do not depend on how much was sent: the task that brings trees up has its own steps.
const WRITES_MAX: usize = 20;

/// A strand with places 1 to `missing` marked missing, and the next one held.
fn with_missing(missing: u64) -> Store {
    let store = common::store();
    let (from, through) = (SequenceId(1), SequenceId(missing));
    let skip = Change::Skip { originator: SOURCE, from, through, reason: SkipReason::Missing };
    let (id, bytes) =
        (EnvelopeId::new(SOURCE, through.next()), envelope(SOURCE, missing + 1, "true"));
    let entry = LogEntry { id, bytes, validity: Validity::Valid, facts: None };
    store.commit(&[skip, Change::Append(entry)]).unwrap();
    store
}

/// Conflicts and late finds alternate, so that writing the finds between two conflicts is a write for each.
#[tokio::test(flavor = "multi_thread")]
async fn many_conflicts_between_finds_are_one_write_and_their_evidence_another() {
    const PLACES: u64 = 200;
    let follower = Follower::start(with_missing(PLACES));
    let (mut other, mut third) =
        (follower.connect(OTHER, &[]), follower.connect(OriginatorId(400), &[]));
    assert_eq!(other.want(SOURCE).await, (0, Some(PLACES)));
    assert_eq!(third.want(SOURCE).await, (0, Some(PLACES)));
    let even: Vec<u64> = (1..=PLACES).filter(|place| place % 2 == 0).collect();
    third.send(strand(SOURCE, &even)).await;
    let held = || follower.held(SOURCE).len() as u64;
    follower.until("the finds are stored", || held() == PLACES / 2 + 1).await;

    let store = follower.engine().store().clone();
    let writes = Arc::new(AtomicUsize::new(0));
    let counted = writes.clone();
    store.set_write_faults(Some(Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        None
    })));
    let of = |place| envelope(SOURCE, place, if place % 2 == 0 { "other" } else { "true" });
    other.send((1..=PLACES).map(of)).await;
    let proven = || store.evidence_counts().get(&SOURCE).map_or(0, |counts| counts.proven());
    follower.until("all is evidence", || proven() == PLACES / 2).await;
    let counted = || follower.replication.counters().conflicts.get();
    follower.until("all is compared", || counted() == PLACES / 2).await;
    assert_eq!(follower.held(SOURCE), strand(SOURCE, &(1..=PLACES + 1).collect::<Vec<_>>()));
    let writes = writes.load(Ordering::Relaxed);
    assert!(writes <= WRITES_MAX, "{writes} writes");
    follower.stop().await;
}

/// One peer sends the strand and another one late finds, each envelope by itself, while a sync hangs.
#[tokio::test(flavor = "multi_thread")]
async fn pieces_that_wait_for_the_disk_together_are_written_together() {
    const PIECES: u64 = 100;
    let store = with_missing(PIECES);
    let follower = Follower::start(store.clone());
    // A source that claims more is asked for no missing places.
    let mut source = follower.connect(SOURCE, &[(SOURCE, 2 * PIECES + 2)]);
    let mut other = follower.connect(OTHER, &[]);
    assert_eq!(source.want(SOURCE).await, (PIECES + 1, None));
    assert_eq!(other.want(SOURCE).await, (0, Some(PIECES)));

    let (writes, hangs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
    let (counted, hanging) = (writes.clone(), hangs.clone());
    store.set_write_faults(Some(Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        while hanging.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    })));
    let next = PIECES + 2;
    source.send(strand(SOURCE, &[next])).await;
    follower.until("a sync hangs", || writes.load(Ordering::SeqCst) >= 1).await;
    for piece in 1..=PIECES {
        source.send(strand(SOURCE, &[next + piece])).await;
        other.send(strand(SOURCE, &[piece])).await;
    }
    let received = || follower.replication.counters().verified.get();
    follower.until("all is checked", || received() == 2 * PIECES + 1).await;
    hangs.store(false, Ordering::SeqCst);
    follower.wait_for(SOURCE, next + PIECES).await;
    let held = || follower.held(SOURCE).len() as u64;
    follower.until("all is stored", || held() == next + PIECES).await;
    let writes = writes.load(Ordering::SeqCst);
    assert!(writes <= WRITES_MAX, "{writes} writes");
    follower.stop().await;
}
