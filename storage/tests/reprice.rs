//! Pricing minutes again: in bounded steps, with strands in turn, and without delays of other work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_storage::{Change, CommitError, Facts, Family, SkipReason, Store, Validity};
use parking_lot::Mutex;

/// A node that dates its whole strand into one minute. Its id is below that of the honest node.
const LIAR: OriginatorId = OriginatorId(101);
/// Items of the log that one step reads.
const STEP: u64 = 1024;
/// Longer than any successful step takes, also on a busy machine.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// All envelopes are in one minute, so each amount depends on all envelopes before it.
fn in_one_minute(at: EnvelopeId) -> Facts {
    Facts { originator_ns: 40_000_000_000, ..facts(at) }
}

fn derive(at: EnvelopeId, _: &Bytes, _: Validity) -> Option<Facts> {
    Some(in_one_minute(at))
}

fn extend_to(store: &Store, originator: OriginatorId, last: u64) {
    let head = store.snapshot().head(originator).unwrap().0;
    let change = |s| append_with(originator, s, in_one_minute(id(originator, s)));
    let changes: Vec<Change> = (head + 1..=last).map(change).collect();
    store.commit(&changes).unwrap();
}

/// Asserts that the rows equal those of a rebuild.
fn assert_right(store: &Store) {
    assert!(!store.has_unpriced());
    let digests = store.snapshot().projection_digests().unwrap();
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
}

#[test]
fn a_minute_that_spans_a_strand_holds_up_no_other_strand() {
    let store = in_memory();
    extend_to(&store, LIAR, 2 * STEP + 10);
    extend_to(&store, PEER, 1);
    store.record_rates(&[rate(0, 1)]).unwrap();
    let derived = Mutex::new(Vec::new());
    let counting = |at: EnvelopeId, bytes: &Bytes, validity| {
        derived.lock().push(at.originator);
        derive(at, bytes, validity)
    };
    let mut steps = Vec::new();
    while store.reprice(&counting, 1).unwrap() == 1 {
        let originators = std::mem::take(&mut *derived.lock());
        assert!(originators.windows(2).all(|two| two[0] == two[1]), "a step is of one strand");
        steps.push((originators[0], originators.len() as u64));
    }
    assert_eq!(steps, [(LIAR, STEP), (PEER, 1), (LIAR, STEP), (LIAR, 10)]);
    assert_right(&store);
}

#[test]
fn changes_between_two_steps_are_in_the_amounts() {
    let step = |store: &Store| assert_eq!(store.reprice(&derive, 1).unwrap(), 1);
    for change in 0..3 {
        let store = in_memory();
        extend_to(&store, LIAR, 4);
        store.commit(&[skip(LIAR, 5, 5, SkipReason::Missing)]).unwrap();
        extend_to(&store, LIAR, STEP + 10);
        store.record_rates(&[rate(0, 1)]).unwrap();
        step(&store);
        match change {
            0 => {
                let late = append_with(LIAR, 5, in_one_minute(id(LIAR, 5)));
                store.commit(&[late]).unwrap();
            }
            1 => extend_to(&store, LIAR, 3 * STEP),
            _ => store.record_rates(&[rate(30, 7)]).unwrap(),
        }
        assert!(store.has_unpriced());
        while store.reprice(&derive, 1).unwrap() == 1 {}
        assert_right(&store);
    }
}

/// A rate comes late, and the node ends before the amounts are corrected, or between two steps of that.
#[test]
fn amounts_that_wait_for_their_rate_are_those_of_a_rebuild_after_a_restart() {
    for steps in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&settings(folder.path())).unwrap();
        extend_to(&store, LIAR, STEP + 10);
        extend_to(&store, PEER, 1);
        store.record_rates(&[rate(0, 1)]).unwrap();
        assert_eq!(store.reprice(&derive, steps).unwrap(), steps);
        drop(store);
        let store = Store::open(&settings(folder.path())).unwrap();
        assert!(store.has_unpriced());
        while store.reprice(&derive, 1).unwrap() == 1 {}
        assert_right(&store);
    }
}

#[test]
fn rates_and_commits_wait_for_no_scan() {
    let store = in_memory();
    extend_to(&store, LIAR, 10);
    store.record_rates(&[rate(0, 1)]).unwrap();
    let (is_first, went_on) = (AtomicBool::new(true), AtomicBool::new(false));
    let meanwhile = |at: EnvelopeId, bytes: &Bytes, validity| {
        if is_first.swap(false, Ordering::Relaxed) {
            let (store, (done, is_done)) = (store.clone(), mpsc::channel());
            std::thread::spawn(move || {
                store.record_rates(&[rate(0, 1), rate(30, 7)]).unwrap();
                extend_to(&store, PEER, 3);
                done.send(()).unwrap();
            });
            went_on.store(is_done.recv_timeout(WAIT_MAX).is_ok(), Ordering::Relaxed);
        }
        derive(at, bytes, validity)
    };
    store.reprice(&meanwhile, 1).unwrap();
    assert!(went_on.into_inner(), "a rate and a commit to another strand have waited for the scan");
    while store.reprice(&derive, 1).unwrap() == 1 {}
    assert_right(&store);
}

/// Without the mark, the amounts would count as correct, and this node would attest them.
#[test]
fn an_unreadable_mark_counts_as_a_minute_to_be_priced_again() {
    let store = in_memory();
    extend_to(&store, PEER, 1);
    store.record_rates(&[rate(0, 1)]).unwrap();
    // No row of a mark, behind those of the strand.
    store.put_raw_row(Family::Reprice, b"damaged", &[]);
    for _ in 0..2 {
        store.reprice(&derive, 10).unwrap_err();
        assert!(store.has_unpriced());
    }
}

#[test]
fn known_rates_change_nothing() {
    let store = in_memory();
    extend_to(&store, PEER, 1);
    store.record_rates(&[rate(0, 1), rate(30, 7)]).unwrap();
    while store.reprice(&derive, 1).unwrap() == 1 {}
    store.record_rates(&[rate(30, 7), rate(0, 1)]).unwrap();
    assert!(!store.has_unpriced(), "nothing was new, so nothing was marked");
    assert!(store.record_rates(&[rate(0, 2)]).is_err());
    assert!(store.record_rates(&[rate(60, 2), rate(60, 3)]).is_err());
}

/// An endpoint had made up a rate, in the place of the chain's first one or before it.
#[test]
fn rates_that_were_dropped_make_room_for_others_and_leave_no_amounts() {
    let made_up = rate(30, 7);
    for of_chain in [rate(30, 2), rate(600, 2)] {
        let honest = in_memory();
        honest.record_rates(&[of_chain]).unwrap();
        extend_to(&honest, PEER, 3);
        let expected = honest.snapshot().projection_digests().unwrap();
        on_each(|store| {
            store.record_rates(&[made_up]).unwrap();
            store.note_rates_complete(9).unwrap();
            extend_to(store, PEER, 3);
            let other = store.record_rates(&[rate(30, 2)]);
            assert_eq!(other, Err(CommitError::OtherRates { start_unix_s: 30 }));
            store.drop_rates().unwrap();
            assert!(store.snapshot().rates().unwrap().is_empty());
            assert_eq!(store.snapshot().rates_complete_until_ns().unwrap(), None);
            store.rebuild(&derive, &mut |_| {}).unwrap();
            store.record_rates(&[of_chain]).unwrap();
            assert_eq!(store.snapshot().rates().unwrap(), [of_chain]);
            while store.reprice(&derive, 1).unwrap() == 1 {}
            assert_eq!(store.snapshot().projection_digests().unwrap(), expected);
        });
    }
}
