//! Disputes about trees: the peer that holds another one is asked for its envelopes, and none of its claims costs more.

use super::*;
use crate::replication::follower::allowance::ANSWER_WITHIN;
use crate::replication::follower::choice::STALL_TIMEOUT;
use crate::replication::follower::disputes::{
    DISPUTE_EVERY, DISPUTE_WANTS_MAX, DISPUTED_BYTES_MAX,
};
use crate::replication::follower::search::SEARCH_EVERY;

const MOMENT: Duration = Duration::from_millis(1);

/// Holds places up to `stored`. The source and another peer are connected.
fn beside(stored: u64) -> Rig {
    let mut rig = Rig::connected(stored);
    rig.up(OTHER);
    rig
}

/// Holds places up to 9 without these ones, which are marked missing. A relay is the source, and claims no more.
fn relayed(missing: impl IntoIterator<Item = (SequenceId, SequenceId)>) -> Rig {
    let mut rig = Rig::new(9);
    rig.follower = Follower::new(SOURCE, SequenceId(9), missing, rig.now);
    rig.up(OTHER);
    rig.claims(OTHER, 9);
    assert_eq!(rig.asks(OTHER), Some((9, None)));
    rig
}

fn dispute(rig: &mut Rig, peer: OriginatorId, agreed: u64, disputed: u64) -> Vec<Effect> {
    rig.follower.handle_disputed(rig.now, peer, SequenceId(agreed), SequenceId(disputed));
    rig.effects()
}

fn whole(places: impl IntoIterator<Item = u64>) -> Vec<StrandItem<VerifyResult>> {
    let mut items = envelopes(places);
    items.push(StrandItem::End);
    items
}

/// Returns the wants that have an end: after, up to.
fn wants_with_end(effects: &[Effect]) -> Vec<(u64, u64)> {
    let range = |effect: &Effect| match effect {
        Effect::Want { want, .. } => Some((want.after.0, want.up_to()?.0)),
        _ => None,
    };
    effects.iter().filter_map(range).collect()
}

#[test]
fn the_holder_of_another_tree_is_asked_once_for_the_places_since_the_agreed_one() {
    let mut rig = beside(9);
    dispute(&mut rig, OTHER, 4, 50);
    assert_eq!(rig.asks(OTHER), Some((4, Some(9))), "what is not held yet is not compared");
    assert_eq!(rig.asks(SOURCE), Some((9, None)), "the strand goes on");
    assert_eq!(rig.answer(OTHER, whole(5..=9)), [compares(OTHER, 5..=9)]);
    assert_eq!(rig.wait(DISPUTE_EVERY * 3), []);
}

/// An equivocator that ends its connections makes the observer the source.
#[test]
fn a_source_that_holds_another_tree_is_asked_between_new_envelopes() {
    let mut rig = relayed([]);
    assert_eq!(dispute(&mut rig, OTHER, 4, 9), []);
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(OTHER), Some((4, Some(9))));
    let effects = rig.answer(OTHER, whole(5..=9));
    assert_eq!(effects[0], compares(OTHER, 5..=9));
    assert_eq!(rig.asks(OTHER), Some((9, None)));
}

#[test]
fn a_peer_that_disputes_without_end_is_asked_for_one_window_a_minute() {
    let mut rig = beside(10_000);
    dispute(&mut rig, OTHER, 0, 10_000);
    for after in [0, 1_024, 2_048] {
        let through = after + 1_024;
        assert_eq!(rig.asks(OTHER), Some((after, Some(through))));
        assert_eq!(dispute(&mut rig, OTHER, 0, 10_000), [], "that one is under way");
        rig.answer(OTHER, whole(after + 1..=through));
        assert_eq!(dispute(&mut rig, OTHER, 0, 10_000), []);
        assert_eq!(rig.wait(DISPUTE_EVERY - MOMENT), []);
        rig.wait(MOMENT);
    }
    // The fourth one is the last.
    assert_eq!(rig.asks(OTHER), Some((3_072, Some(4_096))));
    rig.answer(OTHER, whole(3_073..=4_096));
    assert_eq!(dispute(&mut rig, OTHER, 0, 10_000), []);
    assert_eq!(rig.wait(DISPUTE_EVERY * 3), []);
}

#[test]
fn a_peer_that_disputes_and_does_not_answer_gets_few_wants_and_holds_up_nothing() {
    let mut rig = relayed([]);
    dispute(&mut rig, OTHER, 4, 9);
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(OTHER), Some((4, Some(9))));
    rig.claims(OTHER, 10);
    rig.wait(STALL_TIMEOUT);
    assert_eq!(rig.asks(OTHER), Some((9, None)), "new envelopes do not wait");
    rig.answer(OTHER, envelopes([10]));
    rig.follower.handle_durable(SequenceId(10));
    let further = rig.wait(DISPUTE_EVERY * 10);
    assert_eq!(wants_with_end(&further), [(4, 9)].repeat(DISPUTE_WANTS_MAX - 1));
    assert_eq!(rig.asks(OTHER), Some((10, None)));
}

/// The same at a source that is also to be asked for missing places.
#[test]
fn an_unanswered_dispute_takes_no_turn_of_missing_places() {
    let mut rig = relayed([(SequenceId(2), SequenceId(3))]);
    dispute(&mut rig, OTHER, 0, 9);
    let wants = wants_with_end(&rig.wait(DISPUTE_EVERY));
    let (disputed, missing) = wants.split_at(DISPUTE_WANTS_MAX);
    assert_eq!(disputed, [(0, 9)].repeat(DISPUTE_WANTS_MAX));
    assert_eq!(missing, [(1, 3)]);
}

/// The strand's node can begin a search at any time. So can a peer that disputes and does not answer.
#[test]
fn a_search_waits_two_seconds_for_a_dispute_and_does_not_end_it() {
    let mut rig = beside(9);
    dispute(&mut rig, OTHER, 4, 9);
    rig.answer(OTHER, envelopes([5]));
    rig.answer(SOURCE, envelopes([11]));
    assert_eq!(rig.asks(SOURCE), Some((9, Some(10))));
    rig.wait(ANSWER_WITHIN - MOMENT);
    assert_eq!(rig.asks(OTHER), Some((4, Some(9))), "it may be on its way");
    assert!(rig.wait(MOMENT).contains(&Effect::Stop { peer: OTHER }));
    assert_eq!(rig.asks(OTHER), Some((9, Some(10))));
    rig.answer(OTHER, envelopes([10]));
    assert_eq!(rig.asks(OTHER), Some((5, Some(9))), "only for the rest");
    // So it is when the connection breaks.
    rig.down(OTHER);
    rig.up(OTHER);
    assert_eq!(rig.asks(OTHER), Some((5, Some(9))));
}

/// Played by the strand's node, which has told two stories: it leaves a place out and sends it at once, many times.
#[test]
fn searches_that_follow_each_other_do_not_keep_a_dispute_from_its_answer() {
    let mut rig = beside(9);
    dispute(&mut rig, OTHER, 4, 9);
    for place in (10..30).step_by(2) {
        rig.answer(SOURCE, envelopes([place + 1]));
        assert_eq!(rig.asks(SOURCE), Some((place - 1, Some(place))), "a search");
        assert_eq!(rig.asks(OTHER), Some((4, Some(9))));
        rig.answer(SOURCE, envelopes([place]));
        rig.follower.handle_durable(SequenceId(place));
        rig.answer(SOURCE, envelopes([place + 1]));
        rig.follower.handle_durable(SequenceId(place + 1));
    }
    rig.answer(SOURCE, envelopes([31]));
    let effects = rig.answer(OTHER, whole(5..=9));
    assert!(effects.contains(&compares(OTHER, 5..=9)));
    rig.answer(SOURCE, vec![StrandItem::End]);
    assert_eq!(count_appends(&rig.wait(SEARCH_EVERY)), 0, "it has not answered for the gap");
    assert_eq!(rig.asks(OTHER), Some((29, Some(30))));
}

/// A bad outer layer has a strand that is shown first begin anew, and its node can send one at any time.
#[test]
fn the_next_follower_of_a_strand_goes_on_with_its_disputes() {
    let mut rig = beside(9);
    dispute(&mut rig, OTHER, 4, 9);
    rig.answer(OTHER, envelopes([5]));
    let anew = Follower::new(SOURCE, SequenceId(7), [], rig.now);
    rig.follower = anew.with_disputes_of(&rig.follower);
    rig.asked.clear();
    rig.up(SOURCE);
    rig.up(OTHER);
    assert_eq!(rig.asks(OTHER), None, "it has yet to pass these places again");
    rig.answer(SOURCE, envelopes([8, 9]));
    assert_eq!(rig.asks(OTHER), Some((5, Some(9))));
}

#[test]
fn a_dispute_costs_no_more_bytes_than_it_may() {
    let mut rig = beside(9);
    dispute(&mut rig, OTHER, 0, 9);
    let bytes = Bytes::from(vec![0; DISPUTED_BYTES_MAX / 2]);
    let long = |place| StrandItem::Envelope(Ok(LogEntry { bytes: bytes.clone(), ..entry(place) }));
    let effects = rig.answer(OTHER, (1..=9).map(long).collect());
    assert!(effects.contains(&Effect::Stop { peer: OTHER }));
    let compared = |effect: &Effect| match effect {
        Effect::Write(StrandWrite::Compare { entries, .. }) => entries.len(),
        _ => 0,
    };
    assert_eq!(effects.iter().map(compared).sum::<usize>(), 2);
    assert_eq!(rig.wait(DISPUTE_EVERY * 3), []);
}

#[test]
fn no_dispute_is_taken_to_the_strands_own_node_or_about_the_own_strand() {
    let mut rig = beside(9);
    assert_eq!(dispute(&mut rig, SOURCE, 4, 9), []);
    assert_eq!(rig.wait(DISPUTE_EVERY), []);
    let mut rig = beside(9);
    rig.follower = rig.follower.reporting_finds([OTHER].into());
    assert_eq!(dispute(&mut rig, OTHER, 4, 9), []);
}
