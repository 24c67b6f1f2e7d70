//! The cost of pruning for commits beside it: what it reads under the lock of a strand's head, and while it waits.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};

use crate::support::pruning::*;
use crate::support::*;
use hawser_proto::EnvelopeId;
use hawser_storage::{Change, ExpiredEnvelope, Expiring, Facts, SkipReason, Store, Validity};
use parking_lot::Mutex;
use rocksdb::perf::{PerfContext, PerfMetric};

/// Returns the facts of an envelope whose removal hides no inbox.
fn plain_facts(at: EnvelopeId) -> Facts {
    Facts { addresses: Vec::new(), ..facts(at) }
}

fn plain(place: u64) -> Change {
    append_with(PEER, place, plain_facts(id(PEER, place)))
}

fn expired(places: impl Iterator<Item = u64>) -> Vec<Expiring> {
    let at = |place| Expiring { expiry_unix_s: place, id: id(PEER, place), ..Expiring::default() };
    places.map(at).collect()
}

fn derive_all(expired: &[ExpiredEnvelope]) -> Vec<Option<Facts>> {
    expired.iter().map(|it| Some(plain_facts(it.id))).collect()
}

/// Prunes, and returns the number of writes.
fn prune_all(store: &Store, expired: &[Expiring]) -> u64 {
    let (mut writes, mut pruned) = (0, 0);
    let end = store.prune_many(expired, &derive_all, &mut |done| {
        writes += 1;
        pruned += done.pruned.len();
        ControlFlow::Continue(())
    });
    assert_eq!((end, pruned), (Ok(ControlFlow::Continue(())), expired.len()));
    writes
}

/// Each write changes the mark of the same range. A search from above would pass the values that the row had before,
/// with a search for each, while commits wait.
#[test]
fn a_write_finds_the_mark_of_the_write_before_at_its_place() {
    let store = in_memory();
    store.commit(&(1..=1000).map(plain).collect::<Vec<_>>()).unwrap();
    let mut counted = PerfContext::default();
    counted.reset();
    let writes = prune_all(&store, &expired(1..1000));
    assert!(counted.metric(PerfMetric::NextOnMemtableCount) >= 999, "steps are counted");
    let steps_back = counted.metric(PerfMetric::PrevOnMemtableCount);
    assert!(steps_back < writes, "{steps_back} steps back in {writes} writes");
}

#[test]
fn marks_between_two_writes_are_found() {
    // With one of these distances, a mark lies at the end of every write.
    for distance in 31..=34 {
        let store = in_memory();
        let is_missing = |place: &u64| place.is_multiple_of(distance);
        let change = |place| match is_missing(&place) {
            true => skip(PEER, place, place, SkipReason::Missing),
            false => plain(place),
        };
        store.commit(&(1..=500).map(change).collect::<Vec<_>>()).unwrap();
        let places: Vec<u64> = (1..500).filter(|place| !is_missing(place)).collect();
        prune_all(&store, &expired(places.iter().copied()));
        let items = strand_items(&store);
        for (at, reason) in items.range(..id(PEER, 500)) {
            let expected = match is_missing(&at.sequence.0) {
                true => SkipReason::Missing,
                false => SkipReason::Pruned,
            };
            assert_eq!(*reason, Some(expected), "{at}, of each {distance}");
        }
        let gone: BTreeSet<_> = places.iter().map(|place| id(PEER, *place)).collect();
        assert_neighbours_are_one_row(&store, &gone);
        let digests = store.snapshot().projection_digests().unwrap();
        let derive = |at: EnvelopeId, _: &bytes::Bytes, validity: Validity| {
            (validity == Validity::Valid).then(|| plain_facts(at))
        };
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests, "a rebuild");
    }
}

/// Makes the next write hang until the sender is dropped. Returns a receiver that says when it hangs, and the sender.
fn hang_next_write(store: &Store) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (hang, hung) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (is_first, released) = (AtomicBool::new(true), Mutex::new(released));
    store.set_write_faults(Some(Arc::new(move || {
        if is_first.swap(false, Ordering::Relaxed) {
            hang.send(()).unwrap();
            let _ = released.lock().recv();
        }
        None
    })));
    (hung, release)
}

/// The time between two commits is then for writes.
#[test]
fn the_next_envelopes_are_read_while_a_commit_has_the_strand() {
    let store = in_memory();
    store.commit(&(1..=600).map(plain).collect::<Vec<_>>()).unwrap();
    let (hung, release) = hang_next_write(&store);
    let parts = AtomicUsize::new(0);
    let mut pruned = 0;
    let parts_before_release = std::thread::scope(|scope| {
        let commit = scope.spawn(|| store.commit(&[plain(601)]));
        hung.recv().unwrap();
        let pruning = scope.spawn(|| {
            let derive = |expired: &[ExpiredEnvelope]| {
                parts.fetch_add(1, Ordering::SeqCst);
                derive_all(expired)
            };
            store.prune_many(&expired(1..600), &derive, &mut |done| {
                pruned += done.pruned.len();
                ControlFlow::Continue(())
            })
        });
        // It waits when nothing else is to be done.
        while store.waited_for_commits().is_zero() {
            std::thread::yield_now();
        }
        let before = parts.load(Ordering::SeqCst);
        drop(release);
        commit.join().unwrap().unwrap();
        assert_eq!(pruning.join().unwrap(), Ok(ControlFlow::Continue(())));
        before
    });
    assert_eq!(parts_before_release, 2, "one is read ahead");
    assert_eq!((parts.into_inner(), pruned), (3, 599), "of 256 envelopes each");
}

/// A commit to another strand has the turn to write. If pruning stood behind it, the next commit would stand behind
/// pruning.
#[test]
fn pruning_waits_between_commits_to_other_strands_too() {
    let store = in_memory();
    store.commit(&(1..=3).map(plain).collect::<Vec<_>>()).unwrap();
    let (hung, release) = hang_next_write(&store);
    let change = [append_with(OWN, 1, plain_facts(id(OWN, 1)))];
    let waited = std::thread::scope(|scope| {
        let commit = scope.spawn(|| store.commit(&change));
        hung.recv().unwrap();
        assert!(store.waited_for_commits().is_zero());
        // It ends while the commit still waits for its disk, which may be slow.
        prune_all(&store, &expired(1..3));
        let waited = store.waited_for_commits();
        drop(release);
        commit.join().unwrap().unwrap();
        waited
    });
    assert!(!waited.is_zero(), "it let the commit go first");
}
