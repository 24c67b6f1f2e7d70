//! Look-ups of earlier publishes on a disk that is slow or damaged, while the sequencing thread goes on.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use hawser_proto::{Bytes, SequenceId};
use hawser_storage::Family;
use parking_lot::Mutex;

use super::groups::long;
use super::{ADMITTED, NODE, PIECE, PublishSettings, Sim, admitted};
use crate::facts;
use crate::own_strand::OwnStrandStatus;
use crate::runtime::publisher::error::PublishError;
use crate::runtime::publisher::own_end;
use crate::runtime::publisher::sequence::SequencerThread;
use crate::runtime::publisher::state::PublisherState;
use crate::runtime::{Priority, PublishCaller, Workers};
use crate::sequencer::Admitted;

/// A run over a disk that takes all writes.
fn sim() -> Sim {
    let sim = Sim::new(0);
    sim.outcomes.lock().fails_one_in = 0;
    sim
}

/// A caller in a site of its own.
fn alone(number: usize) -> PublishCaller {
    PublishCaller { site: number, address: number }
}

/// Damages the row of a receipt on the disk: a thread that reads it gets an error.
fn damage_receipt(sim: &Sim, envelope: usize) {
    sim.store.put_raw_row(Family::Receipt, &ADMITTED[envelope].receipt, b"damaged");
}

/// Lets signing begin anew, as after the claim of a peer. The next turn of the sequencing half reads the end of the
/// strand again.
pub(super) fn begin_anew(state: &PublisherState) {
    state.own_strand.set(OwnStrandStatus::Asking);
    state.own_strand.set(OwnStrandStatus::Ready);
}

/// Removes the first envelope of the strand, as if it had expired.
fn prune_first(sim: &Sim) {
    let mut expired = Vec::new();
    let each = |it| {
        expired.push(it);
        ControlFlow::Continue(())
    };
    sim.store.snapshot().expiring(None, 1, each).unwrap();
    let derive = |_, bytes: &Bytes, validity| facts::of_stored(bytes, validity, NODE);
    assert_eq!(sim.store.prune(&expired, &derive).unwrap().pruned.len(), 1);
}

/// Other publishers store tens of MiB meanwhile, and one of them sends an envelope of the request.
#[test]
fn a_large_request_is_looked_up_once_however_much_is_stored_while_it_waits() {
    let mut sim = sim();
    sim.process.request(1, (0..6).collect());
    let large = sim.process.requests.pop().unwrap();
    sim.process.request(2, vec![5]);
    let long = long();
    for number in 0..40 {
        let envelope = Admitted { receipt: [100 + number; 32], ..long.clone() };
        drop(sim.process.request_for(alone(2), vec![envelope]));
    }
    sim.process.sequence(41);
    sim.process.commit(usize::MAX);
    (0..6).for_each(|envelope| damage_receipt(&sim, envelope));
    sim.process.requests.push(large);
    for _ in 0..3 {
        sim.process.sequence(1);
        assert!(sim.process.outdated.is_empty());
        sim.process.commit(usize::MAX);
    }
    sim.take_answers();
    assert_eq!((sim.process.awaited.len(), sim.refused), (0, 0));
    let ids = (0..6_usize).map(|envelope| sim.ids[&envelope].0);
    assert_eq!(ids.collect::<Vec<_>>(), [42, 43, 44, 45, 46, 1], "the last one is a repeat");
    assert!(sim.process.state.envelopes.is_empty());
}

/// A part of the disk cannot be read. The requests that need it were looked up before the end of the strand was read
/// again.
#[test]
fn a_look_up_that_fails_refuses_its_request_alone() {
    let mut sim = sim();
    sim.process.request(1, (0..6).collect());
    sim.process.request(2, vec![10]);
    let mut damaged = sim.process.request_for(alone(3), vec![ADMITTED[11].clone()]);
    let mut large = sim.process.request_for(alone(4), ADMITTED[12..16].to_vec());
    begin_anew(&sim.process.state);
    [11, 14].into_iter().for_each(|envelope| damage_receipt(&sim, envelope));
    sim.process.sequence(4);
    sim.process.sequence(4);
    assert!(damaged.try_recv().unwrap().is_err(), "it is answered while the others go on");
    for _ in 0..6 {
        sim.process.sequence(4);
        sim.process.commit(usize::MAX);
    }
    sim.take_answers();
    assert_eq!((sim.process.awaited.len(), sim.refused), (0, 0));
    let mut published: Vec<usize> = sim.ids.keys().copied().collect();
    published.sort_unstable();
    assert_eq!(published, [0, 1, 2, 3, 4, 5, 10]);
    let refused = large.try_recv().unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "earlier publishes cannot be read");
    assert!(sim.process.state.envelopes.is_empty());
}

/// Played by a reader who sends a public envelope again shortly before it expires, beside new ones of the same payer,
/// while a peer's claim lets the node read the end of its strand again.
#[test]
fn what_expires_before_the_second_look_up_is_not_published_again() {
    let mut sim = sim();
    sim.process.request(1, vec![3, 4]);
    sim.process.sequence(1);
    sim.process.commit(usize::MAX);
    sim.take_answers();
    let mut copies: Vec<_> = [vec![10, 3], vec![11, 12, 13, 3]]
        .into_iter()
        .map(|envelopes: Vec<usize>| {
            let envelopes = envelopes.iter().map(|&it| ADMITTED[it].clone()).collect();
            sim.process.request_for(alone(2), envelopes)
        })
        .collect();
    begin_anew(&sim.process.state);
    prune_first(&sim);
    for _ in 0..4 {
        sim.process.sequence(2);
        sim.process.commit(usize::MAX);
    }
    for (answer, place) in copies.iter_mut().zip([1, 3]) {
        let refused = answer.try_recv().unwrap();
        let Err(PublishError::Refused(refusal)) = refused else { panic!("{refused:?}") };
        let named: Vec<_> = refusal.envelopes.iter().map(|it| (it.index, it.rule)).collect();
        assert_eq!(named, [(place, "PUBLISHED_BEFORE")], "{refusal}");
    }
    let head = sim.store.snapshot().head(NODE).unwrap();
    assert_eq!(head, SequenceId(2), "nothing got a place");
    assert!(sim.process.state.envelopes.is_empty());
}

/// Requests wait for a disk that takes long, small ones and large ones, and others come.
#[test]
fn requests_that_are_looked_up_again_hold_no_later_one_up() {
    let mut sim = sim();
    sim.process.request(1, (0..6).collect());
    sim.process.request(2, vec![10]);
    begin_anew(&sim.process.state);
    sim.process.sequence(2);
    sim.process.commit(usize::MAX);
    let waiting = std::mem::take(&mut sim.process.outdated);
    assert_eq!(waiting.len(), 2);
    sim.process.request(3, vec![12, 3]);
    sim.process.sequence(1);
    sim.process.commit(usize::MAX);
    sim.take_answers();
    let expected = HashMap::from([(12, SequenceId(1)), (3, SequenceId(2))]);
    assert_eq!((&sim.ids, sim.refused), (&expected, 0));
    sim.process.outdated = waiting;
    for _ in 0..4 {
        sim.process.sequence(2);
        sim.process.commit(usize::MAX);
    }
    sim.take_answers();
    assert_eq!((sim.process.awaited.len(), sim.refused, sim.ids.len()), (0, 0, 8));
}

/// The threads themselves: a read of the disk hangs. It holds up neither other requests nor the second look-up of a
/// large one, which other threads make.
#[test]
fn a_look_up_that_hangs_is_not_one_of_the_sequencing_thread() {
    let sim = sim();
    let state = sim.process.state.clone();
    drop(sim);
    let state = Arc::into_inner(state).expect("no thread of the process is left");
    let (to_sequencer, requests) = unbounded();
    let workers = Workers::start(1);
    let to_sequencer = Mutex::new(Some(to_sequencer));
    let state = Arc::new(PublisherState { workers: workers.clone(), to_sequencer, ..state });
    let (go, wait) = bounded::<()>(0);
    workers.spawn(Priority::LookUp(alone(9)), move || wait.recv().unwrap());

    let settings =
        PublishSettings { idempotent: true, require_balance: false, publishes_per_payer: None };
    let first = own_end::resume(&state.store, NODE).unwrap();
    let (to_committer, groups) = unbounded();
    let sequencer = SequencerThread::new(state.clone(), settings, first, to_committer, PIECE);
    let (written, writes) = bounded(1);
    let thread = std::thread::spawn(move || sequencer.run(&requests, &writes));
    let send = |envelope: usize| {
        let (request, answer) = admitted(&state, alone(1), vec![ADMITTED[envelope].clone()]);
        state.send_to_sequencer(request);
        answer
    };
    // Returns the receipts of the next group.
    let next = || -> Vec<_> {
        let group = groups.recv_timeout(Duration::from_secs(60)).expect("a group is made");
        group.entries.iter().map(|it| it.facts.as_ref().unwrap().receipt.unwrap()).collect()
    };
    let (large, _large) = admitted(&state, alone(2), ADMITTED[5..9].to_vec());
    begin_anew(&state);
    let _first = send(1);
    assert!(next().is_empty(), "it is looked up again");
    let _second = send(2);
    assert_eq!(next(), [[2; 32]], "which holds no other request up");
    state.send_to_sequencer(large);
    assert!(next().is_empty(), "it is looked up again, too");
    assert_eq!(next(), [[5; 32], [6; 32]]);
    go.send(()).unwrap();
    assert_eq!(next(), [[1; 32]]);
    // The rest of the large request waits for a write.
    drop(written);
    state.drain();
    thread.join().unwrap();
}
