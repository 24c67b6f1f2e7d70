//! Second statements for places that the same answer, or an earlier one, has taken before.

use super::*;

/// Another statement for a place, as an answer over gRPC has it.
fn second(entry: LogEntry) -> StrandItem<VerifyResult> {
    StrandItem::Second(Ok(entry))
}

fn out_of_order() -> Effect {
    Effect::Disconnect { peer: SOURCE, violation: PeerViolation::OutOfOrder }
}

fn has_comparison(effects: &[Effect]) -> bool {
    effects.iter().any(|it| matches!(it, Effect::Write(StrandWrite::Compare { .. })))
}

#[test]
fn an_envelope_for_a_place_that_was_taken_ends_the_connection_and_is_compared() {
    for again in [1, 2] {
        let mut rig = Rig::connected(0);
        let effects = rig.answer(SOURCE, envelopes([1, 2, again, 3]));
        assert_eq!(effects, [out_of_order(), appends([1, 2]), compares(SOURCE, [again])]);
        rig.up(SOURCE);
        assert_eq!(rig.asks(SOURCE), Some((0, None)), "the next connection begins anew");
    }
}

#[test]
fn an_envelope_for_a_place_that_the_answer_has_not_taken_is_not_compared() {
    let mut rig = Rig::connected(5);
    assert_eq!(rig.answer(SOURCE, envelopes([6, 5])), [out_of_order(), appends([6])]);
    let mut rig = Rig::connected(5);
    let gap = StrandItem::Gap { from: SequenceId(7), to: SequenceId(8), expired: false };
    let items = [envelopes([6]), vec![gap], envelopes([7])].concat();
    assert_eq!(rig.answer(SOURCE, items), [out_of_order(), appends([6])]);
}

#[test]
fn a_second_statement_over_grpc_is_compared_and_ends_no_session() {
    let mut rig = Rig::connected(0);
    let items = [envelopes([1, 2]), vec![second(entry(1))], envelopes([3])].concat();
    assert_eq!(rig.answer(SOURCE, items), [appends([1, 2, 3]), compares(SOURCE, [1])]);
}

/// An earlier stream of the peer has taken its place.
#[test]
fn a_second_statement_alone_is_compared_and_ends_no_want() {
    let mut rig = Rig::connected(5);
    let asked = rig.asks(SOURCE);
    assert_eq!(rig.answer(SOURCE, vec![second(entry(4))]), [compares(SOURCE, [4])]);
    assert_eq!(rig.asks(SOURCE), asked);
}

/// The last place of a search ends its want.
#[test]
fn a_second_statement_for_the_last_place_of_a_search_is_compared() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([2]));
    rig.answer(SOURCE, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((0, Some(1))));
    let (request, _) = rig.asked[&OTHER];
    let effects = rig.answer(OTHER, [envelopes([1]), vec![second(entry(1))]].concat());
    let writes: Vec<_> = effects.into_iter().filter(|it| matches!(it, Effect::Write(_))).collect();
    assert_eq!(writes, [appends([1]), compares(OTHER, [1])]);
    let late = rig.deliver(OTHER, request, vec![second(entry(1))]);
    assert!(!has_comparison(&late), "the want is over");
}

/// The second statement has a wrong signature, no envelope is held at its place, or it belongs to another strand.
#[test]
fn a_second_statement_that_cannot_be_evidence_is_dropped() {
    let forged = StrandItem::Second(Err(PeerViolation::ForgedSignature));
    for worthless in [forged, second(entry(3)), second(entry_of(OTHER, 1))] {
        let mut rig = Rig::connected(0);
        let items = [envelopes([1, 2]), vec![worthless]].concat();
        assert_eq!(rig.answer(SOURCE, items), [appends([1, 2])]);
        assert!(rig.asks(SOURCE).is_some(), "the session goes on");
    }
}

#[test]
fn the_own_strand_and_those_of_the_older_network_have_no_second_statements() {
    let mut own = own_strand_with_a_gap();
    let items = [envelopes([10]), vec![second(entry(10))], envelopes([10])].concat();
    let effects = own.answer(SOURCE, items);
    assert!(count_appends(&effects) == 1 && !has_comparison(&effects), "{effects:?}");

    for older in OriginatorId::MIGRATED {
        let mut rig = Rig::new(0);
        let follower = Follower::new(older, SequenceId::NONE, [], rig.now);
        rig.follower = follower.with_source(SOURCE).of_older_network();
        rig.up(SOURCE);
        let row = || StrandItem::Envelope(Ok(entry_of(older, 1)));
        let effects = rig.answer(SOURCE, vec![row(), second(entry_of(older, 1)), row()]);
        assert!(count_appends(&effects) == 1 && !has_comparison(&effects), "{effects:?}");
    }
}
