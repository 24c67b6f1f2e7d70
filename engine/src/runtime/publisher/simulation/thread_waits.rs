//! The time for which a publish waits for cores: for threads that slept when it was queued for them.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError, bounded, unbounded};
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::{Bytes, SecretKey};
use tokio::sync::oneshot;

use super::{CLIENT, NODE, Process, Sim};
use crate::admission::Writer;
use crate::runtime::PublishCaller;
use crate::runtime::counters::Stopwatch;
use crate::runtime::publisher::admit::AdmissionJob;
use crate::runtime::publisher::commit::{self, SignedGroup};
use crate::runtime::publisher::request::{InFlightShare, PendingReply, Request};

/// The time since work was queued, when a thread begins with it.
const WAIT: Duration = Duration::from_secs(5);

/// Sends an item to a thread that sleeps: a channel without room takes one only then.
fn send_to_sleeper<T>(sender: &Sender<T>, mut item: T) {
    while let Err(TrySendError::Full(back)) = sender.try_send(item) {
        item = back;
        std::thread::yield_now();
    }
}

/// A small request that was queued [`WAIT`] ago.
fn request(process: &mut Process, envelope: usize) -> Request {
    process.request(1, vec![envelope]);
    let mut request = process.requests.pop().unwrap();
    request.reply.queued = Stopwatch::started(WAIT);
    request
}

fn sim() -> Sim {
    let sim = Sim::new(0);
    sim.outcomes.lock().fails_one_in = 0;
    sim
}

#[test]
fn a_request_waits_for_the_sequencing_thread_to_get_a_core_only_while_that_sleeps() {
    let mut sim = sim();
    let (asleep, busy) = (request(&mut sim.process, 0), request(&mut sim.process, 1));
    let (_written, writes) = bounded(1);
    let sequencer = &mut sim.process.sequencer;

    let (sender, requests) = unbounded();
    sender.send(busy).unwrap();
    let group = sequencer.next_group(&requests, &writes).unwrap();
    assert_eq!(group[0].reply.thread_wait, Duration::ZERO, "it waited for other requests");

    let (sender, requests) = bounded(0);
    let group = std::thread::scope(|scope| {
        let thread = scope.spawn(|| sequencer.next_group(&requests, &writes));
        send_to_sleeper(&sender, asleep);
        thread.join().unwrap().unwrap()
    });
    assert!(group[0].reply.thread_wait >= WAIT);
}

/// A slow disk keeps the thread busy. Connections that do not publish are not the reason.
#[test]
fn a_group_waits_for_the_commit_thread_to_get_a_core_only_while_that_sleeps() {
    let mut sim = sim();
    let process = &mut sim.process;
    let mut group = |envelope| -> SignedGroup {
        process.request(1, vec![envelope]);
        process.sequence(1);
        let mut group = process.handed.try_recv().unwrap();
        group.answers[0].0.queued = Stopwatch::started(WAIT);
        group
    };
    let (first, behind) = (group(0), group(1));

    let (sender, groups) = bounded(0);
    let first = std::thread::scope(|scope| {
        let thread = scope.spawn(|| commit::next_group(&groups));
        send_to_sleeper(&sender, first);
        thread.join().unwrap().unwrap()
    });
    let (sender, groups) = unbounded();
    sender.send(behind).unwrap();
    let behind = commit::next_group(&groups).unwrap();
    assert_eq!(behind.answers[0].0.thread_wait, Duration::ZERO, "it waited for a write");

    process.committing.commit(first, &groups);
    process.committing.commit(behind, &groups);
    let answers = process.awaited.iter_mut().map(|(_, answer)| answer.try_recv().unwrap().unwrap());
    let waits: Vec<_> = answers.map(|published| published.thread_wait).collect();
    assert!(waits[0] >= WAIT, "the publisher is told: {waits:?}");
    assert_eq!(waits[1], Duration::ZERO);
}

#[test]
fn a_request_waits_for_a_worker_that_sleeps_to_get_a_core() {
    let sim = sim();
    let process = &sim.process;
    let (sender, requests) = unbounded();
    *process.state.to_sequencer.lock() = Some(sender);
    let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
    let client = Bytes::from(hex::decode(CLIENT).unwrap());
    // The workers are those of all tests of this process, so others may keep them busy.
    loop {
        let (sender, _answer) = oneshot::channel();
        let permit = process.in_flight.clone().try_acquire_owned().unwrap();
        let in_flight = Arc::new(InFlightShare::of(permit));
        let mut reply = PendingReply::new(sender, in_flight, Stopwatch::start());
        reply.queued = Stopwatch::started(WAIT);
        let envelopes = vec![PayerEnvelope::sign(client.clone(), NODE, 30, &payer)];
        let caller = PublishCaller::default();
        AdmissionJob::start(&process.state, Writer::Payer, caller, envelopes, reply);
        let Request { reply, .. } = requests.recv_timeout(Duration::from_secs(60)).unwrap();
        if reply.thread_wait > Duration::ZERO {
            assert!(reply.thread_wait >= WAIT);
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
