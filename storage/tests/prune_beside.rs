//! Pruning beside commits to the same strand that the disk has not synced yet.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::*;
use bytes::Bytes;
use hawser_proto::{EnvelopeId, SequenceId};
use hawser_storage::{Change, Expiring, Facts, InvalidRule, LogEntry, SkipReason, Store, Validity};

/// Longer than a write takes to begin, also on a busy machine. Only a writer that writes nothing lets it pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the facts of an envelope that may be pruned: it is no source of inboxes.
fn derive(at: EnvelopeId, _: &Bytes, _: Validity) -> Option<Facts> {
    Some(Facts { addresses: Vec::new(), ..facts(at) })
}

fn stored(at: EnvelopeId) -> LogEntry {
    LogEntry { facts: Some(Facts { addresses: Vec::new(), ..facts(at) }), ..entry(at) }
}

fn plain(at: EnvelopeId) -> Change {
    Change::Append(stored(at))
}

fn shown(at: EnvelopeId) -> Change {
    let entry = stored(at);
    Change::Append(LogEntry { facts: entry.facts.map(Facts::unbooked), ..entry })
}

/// Returns a store with twenty envelopes of this node that expire.
fn twenty() -> Store {
    let store = in_memory();
    store.commit(&(1..=20).map(|at| plain(id(OWN, at))).collect::<Vec<_>>()).unwrap();
    store
}

/// Returns a store with twenty envelopes of a peer that expire, five places that are missing but for the one before the
/// last, which was found late, and two unverified envelopes.
fn twenty_with_open_ends() -> Store {
    let store = in_memory();
    store.commit(&(1..=20).map(|at| plain(id(PEER, at))).collect::<Vec<_>>()).unwrap();
    store.commit(&[skip(PEER, 21, 25, SkipReason::Missing)]).unwrap();
    store.commit(&[plain(id(PEER, 24))]).unwrap();
    store.commit_shown(&[shown(id(PEER, 26)), shown(id(PEER, 27))]).unwrap();
    store
}

/// Removes one envelope.
fn prune(store: &Store, at: EnvelopeId) {
    let expiry_unix_s = at.sequence.0;
    let expired = Expiring { expiry_unix_s, id: at, payer: None, receipt: None };
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
        let commit = scope.spawn(|| store.commit(&[plain(id(OWN, 21))]));
        has_begun.recv().unwrap();
        prune(&store, id(OWN, 3));
        go_on.send(()).unwrap();
        commit.join().unwrap().unwrap();
    });
    let snapshot = store.snapshot();
    assert!(snapshot.get(id(OWN, 3)).unwrap().is_none());
    assert!(snapshot.get(id(OWN, 21)).unwrap().is_some());
}

/// Returns true if pruning of a place writes nothing while the first write of `write` hangs.
fn pruning_waits_for(store: &Store, pruned: EnvelopeId, write: impl FnOnce(&Store) + Send) -> bool {
    let (began, has_begun) = channel();
    let (later, later_writes) = channel();
    let (told, is_told) = channel();
    let hold = move || {
        began.send(()).unwrap();
        // Long enough for a write that does not wait. One that does is not seen however long it takes.
        let second = later_writes.recv_timeout(Duration::from_millis(100));
        told.send(second.is_err()).unwrap();
    };
    hold_first_write(store, hold, later);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(store));
        has_begun.recv_timeout(PATIENCE).unwrap();
        prune(store, pruned);
        writer.join().unwrap();
    });
    is_told.recv().unwrap()
}

/// It has read the row of a place, or the marks around it, and pruning would change both.
#[test]
fn pruning_waits_for_a_commit_with_a_place_below_the_head() {
    let store = twenty();
    let commit = |store: &Store| {
        store.commit(&[plain(id(OWN, 3)), plain(id(OWN, 21))]).unwrap();
    };
    assert!(pruning_waits_for(&store, id(OWN, 3), commit));
    assert!(store.snapshot().get(id(OWN, 3)).unwrap().is_none());
}

/// Each of them has read marks, envelopes or figures before it writes, and pruning would change these. One that pruning
/// does not wait for could bring back rows of a pruned envelope, or lose its figures.
#[test]
fn pruning_waits_for_each_writer_at_or_below_the_head() {
    let at = |place| id(PEER, place);
    let late = |store: &Store| store.commit(&[plain(id(PEER, 23))]).unwrap();
    assert!(pruning_waits_for(&twenty_with_open_ends(), at(3), late), "a late find");

    let skipped = |store: &Store| {
        store.commit(&[skip(PEER, 28, 30, SkipReason::Missing)]).unwrap();
    };
    assert!(pruning_waits_for(&twenty_with_open_ends(), at(3), skipped), "a mark at the head");

    let verified = |store: &Store| {
        let verdict = stored(id(PEER, 26));
        let done = store.commit_verified(PEER, &[verdict], &derive).unwrap();
        assert_eq!(done.through, SequenceId(26));
    };
    assert!(pruning_waits_for(&twenty_with_open_ends(), at(3), verified), "a verdict");

    let withdrawn = |store: &Store| {
        let broken = [(SequenceId(26), InvalidRule(2))];
        assert_eq!(store.withdraw_shown(PEER, &broken, &derive).unwrap(), 1);
    };
    assert!(pruning_waits_for(&twenty_with_open_ends(), at(3), withdrawn), "a withdrawal");

    let expired = |store: &Store| {
        assert!(store.expire_missing(id(PEER, 22), SequenceId(23)).unwrap());
    };
    assert!(pruning_waits_for(&twenty_with_open_ends(), at(3), expired), "an expired place");

    let priced = |store: &Store| {
        assert_eq!(store.reprice(&derive, 1).unwrap(), 1);
    };
    assert!(pruning_waits_for(&twenty_with_open_ends(), at(3), priced), "another price");
}
