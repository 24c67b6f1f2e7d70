//! Large requests turn by turn: their pieces beside small requests, and their answers when a piece fails.

use std::collections::HashMap;

use hawser_proto::{Bytes, SequenceId};
use hawser_rules::PicoDollarPrice;
use hawser_storage::LogEntry;

use super::{IN_FLIGHT, NODE, PIECE, Process, Sim};
use crate::ledger::PicoDollarBalance;
use crate::own_strand::OwnStrandStatus;
use crate::runtime::PublishCaller;
use crate::runtime::publisher::error::PublishError;
use crate::runtime::publisher::large::LargeRequests;

#[test]
fn pieces_of_large_requests_take_turns_and_let_small_requests_pass() {
    let mut sim = Sim::new(0);
    sim.outcomes.lock().fails_one_in = 0;
    let process = &mut sim.process;
    // Returns the envelopes of the next group.
    let next = |process: &mut Process| -> Vec<usize> {
        process.sequence(9);
        let group = process.handed.try_recv().unwrap();
        let receipt = |entry: &LogEntry| entry.facts.as_ref().unwrap().receipt.unwrap();
        let envelopes = group.entries.iter().map(|entry| receipt(entry)[0].into()).collect();
        process.ready.0.send(group).unwrap();
        envelopes
    };
    process.request(1, (0..6).collect());
    process.request(2, (6..10).collect());
    assert_eq!(next(process), [0, 1], "one piece, not all of the request");
    process.request(3, vec![20]);
    assert_eq!(next(process), [20], "a small request has a group without a piece");
    assert_eq!(next(process), [6, 7], "the other caller has its turn");
    assert!(next(process).is_empty(), "two pieces wait for their write");
    process.request(3, vec![21]);
    assert_eq!(next(process), [21], "a small request does not wait for that");
    process.commit(usize::MAX);
    assert_eq!(next(process), [2, 3]);
    for small in 12..15 {
        process.request(3, vec![small]);
        assert_eq!(next(process), [small]);
    }
    process.request(3, vec![15]);
    assert_eq!(next(process), [15, 8, 9], "small requests without end do not stop a large one");
    process.commit(usize::MAX);
    assert_eq!(next(process), [4, 5]);
    assert_eq!(sim.process.awaited.len(), 8);
    sim.process.commit(usize::MAX);
    sim.take_answers();
    assert!(sim.process.awaited.is_empty() && sim.refused == 0);
    let ids = |envelopes: std::ops::Range<usize>| envelopes.map(|it| sim.ids[&it].0);
    assert_eq!(ids(0..6).collect::<Vec<_>>(), [1, 2, 7, 8, 15, 16]);
    assert_eq!(ids(6..10).collect::<Vec<_>>(), [4, 5, 13, 14]);
}

/// The owner of an IPv6 /48 sends a large request from each of its addresses.
#[test]
fn large_requests_of_all_addresses_of_a_site_do_not_all_go_before_that_of_another() {
    let mut sim = Sim::new(0);
    let process = &mut sim.process;
    let mut large = LargeRequests::new(PIECE);
    let flood = (0..3).map(|address| PublishCaller { site: 1, address });
    for caller in flood.chain([PublishCaller { site: 2, address: 9 }]) {
        process.request_of(caller, (0..4).collect());
        large.push(process.requests.pop().unwrap());
    }
    let mut order = Vec::new();
    for group in 1.. {
        let Some((request, _)) = large.take_piece(group, group - 1, false) else { break };
        order.push(request.caller.address);
        drop(large.put_back(request));
    }
    assert_eq!(order, [0, 9, 1, 9, 2, 0, 1, 2]);
    assert!(large.is_empty());
}

/// A peer's claim can stop signing in the middle of a large request, and its end can let it begin again, while the disk
/// takes a piece.
#[test]
fn places_of_a_piece_are_in_flight_until_it_is_written_and_are_not_given_out_again() {
    let mut sim = Sim::new(0);
    sim.outcomes.lock().fails_one_in = 0;
    sim.process.request(1, (0..6).collect());
    sim.process.sequence(1);
    sim.process.state.own_strand.set(OwnStrandStatus::Asking);
    sim.process.request(2, vec![20]);
    sim.process.sequence(1);
    sim.take_answers();
    assert_eq!((sim.process.awaited.len(), sim.refused), (1, 1), "nothing is signed any more");
    let is_idle = |process: &Process| process.in_flight.available_permits() == IN_FLIGHT;
    assert!(!is_idle(&sim.process), "the first piece has places");
    sim.process.state.own_strand.set(OwnStrandStatus::Ready);
    sim.process.request(2, vec![20]);
    sim.process.sequence(1);
    sim.take_answers();
    assert_eq!(sim.refused, 2, "the end of the strand cannot be read before the piece is there");
    sim.process.commit(usize::MAX);
    assert!(is_idle(&sim.process));
    sim.process.request(2, vec![20]);
    for _ in 0..2 {
        sim.process.sequence(1); // once more, because the end of the strand is read again at the first time
        sim.process.commit(usize::MAX);
    }
    sim.take_answers();
    assert_eq!(sim.ids, HashMap::from([(20, SequenceId(3))]), "behind the piece");
}

/// A gateway that gets an error looks for the envelopes once, and publishes those that it does not find at another
/// node: they would be paid twice if they became readable later.
#[test]
fn a_large_request_that_fails_is_answered_when_its_pieces_can_be_read() {
    let mut sim = Sim::new(0);
    sim.outcomes.lock().fails_one_in = 0;
    sim.process.request(1, (0..6).collect());
    sim.process.sequence(1);
    sim.process.state.own_strand.set(OwnStrandStatus::Asking);
    sim.process.sequence(1);
    sim.take_answers();
    assert_eq!((sim.process.awaited.len(), sim.refused), (1, 0), "the first piece is not written");
    sim.process.commit(usize::MAX);
    assert_eq!(sim.process.heads.get().get(NODE), SequenceId(2), "readers get it");
    sim.take_answers();
    assert_eq!((sim.process.awaited.len(), sim.refused), (0, 1));
}

/// Congestion can make the rest of a request cost more than was checked before its first piece. A publisher that
/// repeats it would else be asked to repeat it without end.
#[test]
fn a_large_request_that_has_only_repeated_envelopes_is_told_why_it_is_refused() {
    let fail_after = |added: usize| {
        let mut sim = Sim::new(0);
        sim.process.request(1, (0..6).collect());
        let mut large = LargeRequests::new(PIECE);
        large.push(sim.process.requests.pop().unwrap());
        let (mut request, piece) = large.take_piece(1, 0, false).unwrap();
        let answer = piece.iter().map(|it| Bytes::copy_from_slice(it.envelope.as_bytes()));
        request.add(answer.collect(), added, 0);
        let (price, left) = (PicoDollarPrice(2), PicoDollarBalance(1));
        request.fail(PublishError::Balance { price, left, index: 0 });
        let (_, mut answer) = sim.process.awaited.pop().unwrap();
        answer.try_recv().unwrap().unwrap_err()
    };
    assert_eq!(
        fail_after(0),
        PublishError::Balance { price: PicoDollarPrice(2), left: PicoDollarBalance(1), index: 2 }
    );
    assert!(matches!(fail_after(1), PublishError::Unavailable { .. }));
}
