//! Pruning beside commits to the same strand that the disk has not synced yet.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::*;
use hawser_proto::EnvelopeId;
use hawser_storage::{Change, Expiring, Facts, Store, Validity};

fn plain(at: u64) -> Change {
    append_with(OWN, at, Facts { addresses: Vec::new(), ..facts(id(OWN, at)) })
}

/// Returns a store with twenty envelopes that expire.
fn twenty() -> Store {
    let store = in_memory();
    store.commit(&(1..=20).map(plain).collect::<Vec<_>>()).unwrap();
    store
}

/// Removes one envelope.
fn prune(store: &Store, place: u64) {
    let derive = |at: EnvelopeId, _: &bytes::Bytes, _: Validity| {
        Some(Facts { addresses: Vec::new(), ..facts(at) })
    };
    let expired = Expiring { expiry_unix_s: place, id: id(OWN, place), payer: None, receipt: None };
    let done = store.prune(&[expired], &derive).unwrap();
    assert_eq!(done.pruned.len(), 1);
}

/// Makes the first write wait in `hold`, like a sync that hangs; later writes are reported to `later`.
fn hold_first_write(store: &Store, hold: impl FnOnce() + Send + 'static, later: Sender<()>) {
    let hold = Mutex::new(Some(hold));
    let later = Mutex::new(later);
    store.set_write_faults(Some(Arc::new(move || {
        let first = hold.lock().unwrap().take();
        match first {
            Some(hold) => hold(),
            None => _ = later.lock().unwrap().send(()),
        }
        None
    })));
}

/// A busy publisher's commits are in a sync nearly always. Pruning that waited for the head would get one short turn
/// between two of them, and the publisher would wait for pruning to use it. This test then runs for ever.
#[test]
fn pruning_does_not_wait_for_a_commit_that_only_adds_to_the_strand() {
    let store = twenty();
    let (began, has_begun) = channel();
    let (go_on, may_go_on): (Sender<()>, Receiver<()>) = channel();
    let hold = move || {
        began.send(()).unwrap();
        let _ = may_go_on.recv();
    };
    let (later, _later_writes) = channel();
    hold_first_write(&store, hold, later);
    thread::scope(|scope| {
        let commit = scope.spawn(|| store.commit(&[plain(21)]));
        has_begun.recv().unwrap();
        prune(&store, 3);
        go_on.send(()).unwrap();
        commit.join().unwrap().unwrap();
    });
    let snapshot = store.snapshot();
    assert!(snapshot.get(id(OWN, 3)).unwrap().is_none());
    assert!(snapshot.get(id(OWN, 21)).unwrap().is_some());
}

/// It has read the row of a place, or the marks around it, and pruning would change both.
#[test]
fn pruning_waits_for_a_commit_with_a_place_below_the_head() {
    let store = twenty();
    let (began, has_begun) = channel();
    let (later, later_writes) = channel();
    let (told, is_told) = channel();
    let hold = move || {
        began.send(()).unwrap();
        // Long enough for a write that does not wait. One that does is not seen however long it takes.
        let second = later_writes.recv_timeout(Duration::from_millis(100));
        told.send(second.is_ok()).unwrap();
    };
    hold_first_write(&store, hold, later);
    thread::scope(|scope| {
        let commit = scope.spawn(|| store.commit(&[plain(3), plain(21)]));
        has_begun.recv().unwrap();
        prune(&store, 3);
        commit.join().unwrap().unwrap();
    });
    assert!(!is_told.recv().unwrap(), "pruning wrote before the commit had ended");
    assert!(store.snapshot().get(id(OWN, 3)).unwrap().is_none());
}
