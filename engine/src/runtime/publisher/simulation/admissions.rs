//! Requests between their arrival and the sequencing thread.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use hawser_proto::envelope::PayerEnvelope;
use hawser_proto::{Bytes, SecretKey, SequenceId};
use hawser_storage::ChainPosition;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{ADMITTED, CLIENT, IN_FLIGHT, NODE, Sim};
use crate::admission::Writer;
use crate::runtime::counters::Stopwatch;
use crate::runtime::publisher::admit::AdmissionJob;
use crate::runtime::publisher::balance::Balances;
use crate::runtime::publisher::earlier::LookUp;
use crate::runtime::publisher::request::{InFlightShare, PendingReply};
use crate::runtime::publisher::state::PublisherState;
use crate::runtime::publisher::{PublishError, Publisher};
use crate::runtime::report_history::ReportHistory;
use crate::runtime::{LedgerAppender, Priority, PublishCaller, Workers};

/// The state of a node that takes publishes only from payers who can pay, without its threads.
fn with_balances(sim: Sim) -> PublisherState {
    sim.outcomes.lock().fails_one_in = 0;
    let state = sim.process.state.clone();
    drop(sim);
    let state = Arc::into_inner(state).expect("no thread of the process is left");
    let position = ChainPosition { block: 1, hash: [1; 32] };
    state.store.note_payers_read(position).unwrap();
    state.store.note_payer_reports_read(position).unwrap();
    let (clock, registry) = (state.ports.clock.clone(), state.ports.registry.clone());
    let ledger = LedgerAppender::new(state.store.clone());
    let history = ReportHistory::new(state.store.clone(), clock, registry, ledger);
    PublisherState { balances: Some(Balances::new(history)), ..state }
}

/// The disk hangs, so what is in flight stays there.
#[test]
fn a_request_that_finds_no_room_is_refused_after_a_while() {
    let sim = Sim::new(0);
    let state = sim.process.state.clone();
    let all = u32::try_from(IN_FLIGHT).unwrap();
    let _all = state.in_flight.clone().try_acquire_many_owned(all).unwrap();
    let publisher = Publisher { state };
    let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
    let client = Bytes::from(hex::decode(CLIENT).unwrap());
    let envelopes = vec![PayerEnvelope::sign(client, NODE, 30, &payer)];
    let caller = PublishCaller::default();
    let begun = publisher.take_room(Writer::Payer, caller, envelopes);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    assert_eq!(runtime.block_on(begun).err(), Some(PublishError::Busy));
}

/// Any caller can publish with payers whose balances have to be read, and any number of envelopes may be stored
/// meanwhile.
#[test]
fn a_request_that_waits_for_its_payers_balance_holds_its_envelopes() {
    let (sender, requests) = unbounded();
    let workers = Workers::start(1);
    let state = Arc::new(PublisherState {
        workers: workers.clone(),
        to_sequencer: Mutex::new(Some(sender)),
        ..with_balances(Sim::new(0))
    });
    let (go, wait) = bounded::<()>(0);
    let other = PublishCaller { site: 1, address: 1 };
    workers.spawn(Priority::LookUp(other), move || wait.recv().unwrap());

    let held = state.hold(std::iter::once([1; 32]));
    assert!(state.none_in_memory(held).is_ok(), "nothing is stored");
    assert!(state.envelopes.is_empty());
    let (sender, _answer) = oneshot::channel();
    let permit = state.in_flight.clone().try_acquire_owned().unwrap();
    let in_flight = Arc::new(InFlightShare::of(permit));
    let reply = PendingReply::new(sender, in_flight, Stopwatch::start());
    let payer = SecretKey::from_bytes(&[9; 32]).unwrap();
    let client = Bytes::from(hex::decode(CLIENT).unwrap());
    let envelopes = vec![PayerEnvelope::sign(client, NODE, 30, &payer)];
    let caller = PublishCaller::default();
    AdmissionJob::start(&state, Writer::Payer, caller, envelopes, reply);
    // The only worker takes this job after the checks of the request, which then waits for its look-up.
    let (checked, is_checked) = bounded(1);
    workers.spawn(Priority::Caller(caller), move || checked.send(()).unwrap());
    is_checked.recv().unwrap();

    assert!(!state.envelopes.is_empty(), "what is signed meanwhile is known");
    go.send(()).unwrap();
    let request = requests.recv_timeout(Duration::from_secs(60)).expect("the request is admitted");
    let held: Vec<_> = request.earlier.held.receipts().collect();
    assert_eq!(held, [request.envelopes[0].receipt]);
    drop(request);
    assert!(state.envelopes.is_empty());
}

/// A write had failed when the request was looked up. The end of the write-ahead log showed an envelope that was lost
/// before the log was read again.
#[test]
fn a_repeat_of_what_only_a_read_only_database_has_shown_is_looked_up_again() {
    let mut sim = Sim::new(0);
    sim.outcomes.lock().fails_one_in = 0;
    sim.process.request(0, vec![3]);
    let receipt = ADMITTED[3].receipt;
    let held = sim.process.state.hold(std::iter::once(receipt));
    let lost = LookUp::of_read_only(held, receipt, Bytes::from_static(b"lost"));
    sim.process.requests[0].earlier = lost;
    sim.process.sequence(1);
    assert_eq!(sim.process.outdated.len(), 1);
    sim.process.sequence(1);
    sim.process.commit(usize::MAX);
    sim.take_answers();
    assert_eq!(sim.ids, HashMap::from([(3, SequenceId(1))]), "it is published anew");
}
