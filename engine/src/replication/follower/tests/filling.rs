//! Walks over places that are marked missing: the source beside other peers, and more ranges than memory has.

use super::*;
use crate::replication::follower::choice::STALL_TIMEOUT;
use crate::replication::follower::filling::WINDOW_FOR;
use crate::replication::ranges::RANGES_MAX;

const MOMENT: Duration = Duration::from_millis(1);

fn ranges(
    ranges: impl IntoIterator<Item = (u64, u64)>,
) -> impl Iterator<Item = (SequenceId, SequenceId)> {
    ranges.into_iter().map(|(from, to)| (SequenceId(from), SequenceId(to)))
}

/// Holds places up to `stored` except for these ranges, which are marked missing. The source is connected.
fn with_missing(stored: u64, missing: impl IntoIterator<Item = (u64, u64)>) -> Rig {
    let mut rig = Rig::new(stored);
    rig.follower = Follower::new(SOURCE, SequenceId(stored), ranges(missing), rig.now);
    rig.up(SOURCE);
    assert_eq!(rig.asks(SOURCE), Some((stored, None)));
    rig
}

/// Runs the follower for `duration`. The source answers that it does not hold the places it is asked for, or sends
/// nothing if `is_silent`. Returns the times of the wants for each range, by the place before it.
fn walks(rig: &mut Rig, duration: Duration, is_silent: bool) -> BTreeMap<u64, Vec<Instant>> {
    let (end, mut asked) = (rig.now + duration, BTreeMap::<u64, Vec<Instant>>::new());
    let mut last = rig.asked.get(&SOURCE).map(|(request, _)| *request);
    while let Some(at) = rig.follower.poll_timeout().filter(|at| *at <= end) {
        rig.wait(at.saturating_duration_since(rig.now));
        let Some((request, want)) = rig.asked.get(&SOURCE).copied() else { continue };
        let Some(to) = want.up_to().filter(|_| last != Some(request)) else { continue };
        last = Some(request);
        asked.entry(want.after.0).or_default().push(rig.now);
        if !is_silent {
            let gap = StrandItem::Gap { from: want.after.next(), to, expired: false };
            rig.answer(SOURCE, vec![gap, StrandItem::End]);
        }
    }
    asked
}

#[test]
fn the_source_is_asked_for_one_range_and_then_for_what_comes_next() {
    let mut rig = with_missing(9, [(2, 3), (6, 6)]);
    assert_eq!(rig.wait(FILL_PAUSE - MOMENT), []);
    rig.wait(MOMENT);
    assert_eq!(rig.asks(SOURCE), Some((1, Some(3))));
    assert_eq!(rig.follower.source(), Some(SOURCE));
    let mut found = envelopes([3]);
    found.push(StrandItem::End);
    assert!(rig.answer(SOURCE, found).contains(&compares(SOURCE, [3])));
    assert_eq!(rig.asks(SOURCE), Some((9, None)), "at once");
    assert_eq!(rig.answer(SOURCE, envelopes([10])), [appends([10])]);
    rig.follower.handle_durable(SequenceId(10));
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(SOURCE), Some((5, Some(6))));
    rig.answer(SOURCE, vec![StrandItem::End]);
    assert_eq!(rig.asks(SOURCE), Some((10, None)));
    // That was the last range.
    assert_eq!(rig.wait(FILL_EVERY - MOMENT), []);
    rig.wait(MOMENT);
    assert_eq!(rig.asks(SOURCE), Some((1, Some(2))));
}

#[test]
fn a_source_that_has_more_to_send_is_asked_for_no_missing_place() {
    let mut rig = with_missing(9, [(2, 3)]);
    rig.claims(SOURCE, 11);
    assert_eq!(rig.wait(FILL_PAUSE * 2), []);
    rig.answer(SOURCE, envelopes([10, 11]));
    assert_eq!(rig.wait(FILL_PAUSE), [], "what it has sent is not on disk");
    rig.follower.handle_durable(SequenceId(11));
    rig.wait(MOMENT);
    assert_eq!(rig.asks(SOURCE), Some((1, Some(3))));
}

/// The want for what comes next is sent again before any peer can take the place of the source.
#[test]
fn new_envelopes_do_not_wait_for_the_answer_about_missing_places() {
    for peer in [SOURCE, OTHER] {
        let mut rig = with_missing(9, [(2, 3), (6, 6)]);
        rig.up(OTHER);
        rig.wait(FILL_PAUSE);
        assert_eq!(rig.asks(SOURCE), Some((1, Some(3))));
        rig.claims(peer, 10);
        rig.wait(STALL_TIMEOUT);
        assert_eq!(rig.asks(SOURCE), Some((9, None)), "{peer} claims more");
        assert!(rig.answer(SOURCE, envelopes([10])).contains(&appends([10])));
        rig.follower.handle_durable(SequenceId(10));
        assert_eq!(rig.follower.source(), Some(SOURCE));
        // It has said nothing about the first range, which has its turn again in the next walk.
        rig.wait(FILL_PAUSE);
        assert_eq!(rig.asks(SOURCE), Some((5, Some(6))));
    }
}

#[test]
fn a_source_that_never_ends_its_answer_holds_up_nothing() {
    let mut rig = with_missing(9, [(2, 3)]);
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(SOURCE), Some((1, Some(3))));
    // It goes on naming places.
    rig.answer(
        SOURCE,
        vec![StrandItem::Gap { from: SequenceId(2), to: SequenceId(2), expired: true }],
    );
    rig.wait(STALL_AFTER);
    assert_eq!(rig.asks(SOURCE), Some((9, None)));
    assert_eq!(rig.follower.accepted(), SequenceId(9));
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(SOURCE), Some((2, Some(3))), "only for the rest");
    for (_, times) in walks(&mut rig, FILL_EVERY * 6, true) {
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= FILL_EVERY), "{times:?}");
    }
}

#[test]
fn a_long_range_comes_in_pieces_between_new_envelopes() {
    let mut rig = with_missing(1_000, [(1, 900)]);
    for piece in 0..9 {
        rig.wait(FILL_PAUSE);
        let before = piece * 100;
        assert_eq!(rig.asks(SOURCE), Some((before, Some(900))));
        rig.answer(SOURCE, envelopes(before + 1..=before + 100));
        rig.claims(SOURCE, 1_001 + piece);
        rig.wait(STALL_TIMEOUT);
        assert_eq!(rig.asks(SOURCE), Some((1_000 + piece, None)));
        rig.answer(SOURCE, envelopes([1_001 + piece]));
        rig.follower.handle_durable(SequenceId(1_001 + piece));
    }
    assert_eq!(rig.wait(FILL_EVERY * 2), [], "all of it was found");
}

/// The ranges are such as a node of other software leaves: ids that aborted transactions have used up.
#[test]
fn each_of_many_ranges_is_asked_for_at_most_once_in_ten_minutes() {
    const RANGES: u64 = 500;
    for is_silent in [false, true] {
        let burned = (1..=RANGES).map(|n| (n * 2, n * 2));
        let mut rig = with_missing(RANGES * 2 + 1, burned);
        let hours = if is_silent { 12 } else { 2 };
        let asked = walks(&mut rig, Duration::from_secs(3_600) * hours, is_silent);
        assert_eq!(asked.len() as u64, RANGES);
        for times in asked.values() {
            assert!(times.len() >= 2, "each has its turn");
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= FILL_EVERY), "{times:?}");
        }
        let mut all: Vec<_> = asked.into_values().flatten().collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] >= FILL_PAUSE), "with pauses");
    }
}

#[test]
fn a_source_that_refuses_is_asked_for_what_comes_next_after_a_while() {
    let mut rig = with_missing(9, [(2, 3), (6, 6)]);
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.answer(SOURCE, vec![StrandItem::Closed]), []);
    rig.wait(RETRY_AFTER);
    assert_eq!(rig.asks(SOURCE), Some((9, None)));
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(SOURCE), Some((5, Some(6))));
}

/// Each peer has said already, in the search, that it does not hold the places.
#[test]
fn places_that_were_searched_for_have_their_turn_in_the_next_walk() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([1, 4]));
    for peer in [SOURCE, OTHER] {
        rig.answer(peer, vec![StrandItem::End]);
    }
    rig.wait(SEARCH_FOR);
    assert_eq!(rig.follower.accepted(), SequenceId(3), "marked missing");
    rig.follower.handle_durable(SequenceId(3));
    rig.answer(SOURCE, envelopes([4]));
    rig.follower.handle_durable(SequenceId(4));
    let wants = rig.wait(FILL_EVERY - MOMENT);
    assert!(!wants.iter().any(|it| matches!(it, Effect::Want { .. })), "{wants:?}");
    rig.wait(MOMENT);
    assert_eq!([SOURCE, OTHER].map(|peer| rig.asks(peer)), [Some((1, Some(3))); 2]);
}

/// A relay has left the places out, and the other peer was behind, so that it could not hold them.
#[test]
fn a_peer_that_was_behind_is_asked_for_missing_places_as_soon_as_it_claims_them() {
    let mut rig = Rig::new(0);
    for (peer, head) in [(OTHER, 4), (THIRD, 1)] {
        rig.follower.handle_peer_up(rig.now, peer, SequenceId(head));
    }
    rig.effects();
    rig.answer(OTHER, envelopes([1, 4]));
    for peer in [OTHER, THIRD] {
        rig.answer(peer, vec![StrandItem::End]);
    }
    rig.wait(SEARCH_FOR);
    assert_eq!(rig.follower.accepted(), SequenceId(3), "marked missing");
    rig.answer(OTHER, envelopes([4]));
    rig.follower.handle_durable(SequenceId(4));
    assert_eq!(rig.claims(THIRD, 2), []);
    let effects = rig.claims(THIRD, 3);
    assert!(matches!(effects[..], [Effect::Want { peer: THIRD, .. }]), "{effects:?}");
    assert_eq!(rig.asks(THIRD), Some((1, Some(3))));
    assert!(rig.answer(THIRD, envelopes([2])).contains(&compares(THIRD, [2])));
    rig.answer(THIRD, vec![StrandItem::End]);
    assert_eq!(rig.claims(THIRD, 4), [], "once");
    let wants = rig.wait(FILL_EVERY - SEARCH_AGAIN_AFTER);
    let asks_third = |it: &Effect| matches!(it, Effect::Want { peer: THIRD, .. });
    assert!(!wants.iter().any(asks_third), "its walk is not begun anew: {wants:?}");
}

/// A relay has left the places out, and chosen ones for which the search does not wait for the peer that holds them.
#[test]
fn a_peer_that_has_not_answered_in_a_search_is_asked_again_at_its_end() {
    const SHORTLY: Duration = Duration::from_millis(100);
    let asks_third = |it: &Effect| matches!(it, Effect::Want { peer: THIRD, .. });
    for has_answered in [false, true] {
        let mut rig = Rig::new(0);
        for peer in [OTHER, THIRD] {
            rig.follower.handle_peer_up(rig.now, peer, SequenceId(4));
        }
        rig.effects();
        rig.answer(OTHER, envelopes([1, 4]));
        rig.answer(OTHER, vec![StrandItem::End]);
        rig.wait(SEARCH_FOR - SHORTLY);
        if has_answered {
            rig.answer(THIRD, vec![StrandItem::End]);
        }
        let effects = rig.wait(SHORTLY);
        assert_eq!(rig.follower.accepted(), SequenceId(3), "marked missing");
        assert_eq!(effects.iter().any(asks_third), !has_answered, "{effects:?}");
        rig.answer(OTHER, envelopes([4]));
        rig.follower.handle_durable(SequenceId(4));
        if !has_answered {
            assert_eq!(rig.asks(THIRD), Some((1, Some(3))));
            assert!(rig.answer(THIRD, envelopes([2])).contains(&compares(THIRD, [2])));
            rig.answer(THIRD, vec![StrandItem::End]);
        }
        let effects = rig.wait(SEARCH_AGAIN_AFTER);
        assert!(!effects.iter().any(asks_third), "once: {effects:?}");
    }
}

/// The peer has just come back, and gets what it lacks a moment later.
#[test]
fn a_peer_that_connects_and_is_behind_is_asked_again_for_what_it_then_passes() {
    let mut rig = with_missing(9, [(2, 3), (6, 6)]);
    rig.follower.handle_peer_up(rig.now, OTHER, SequenceId(4));
    rig.effects();
    for (after, up_to) in [(1, 3), (5, 6)] {
        assert_eq!(rig.asks(OTHER), Some((after, Some(up_to))));
        rig.answer(OTHER, vec![StrandItem::End]);
    }
    assert_eq!(rig.claims(OTHER, 5), []);
    let effects = rig.claims(OTHER, 6);
    assert!(matches!(effects[..], [Effect::Want { peer: OTHER, .. }]), "{effects:?}");
    assert_eq!(rig.asks(OTHER), Some((5, Some(6))));
    rig.answer(OTHER, vec![StrandItem::End]);
    assert_eq!(rig.claims(OTHER, 9), []);
}

/// A strand's own node can begin a search at any time. Its peers must still be asked for what it hides.
#[test]
fn searches_put_no_walk_off() {
    let mut rig = with_missing(9, [(2, 3)]);
    rig.up(OTHER);
    let begin = rig.now;
    assert_eq!(rig.asks(OTHER), Some((1, Some(3))));
    rig.answer(OTHER, vec![StrandItem::End]);
    rig.wait(FILL_PAUSE);
    rig.answer(SOURCE, vec![StrandItem::End]);
    for behind in (11..=27).step_by(2) {
        rig.answer(SOURCE, envelopes([behind]));
        rig.answer(SOURCE, vec![StrandItem::End]);
        rig.wait(SEARCH_FOR);
        rig.answer(SOURCE, envelopes([behind]));
        assert_eq!(rig.follower.accepted(), SequenceId(behind));
        rig.follower.handle_durable(SequenceId(behind));
    }
    rig.wait(begin + FILL_EVERY - rig.now);
    assert_eq!(rig.asks(OTHER), Some((1, Some(3))));
}

/// Returns the place of the effect that asks for further ranges.
fn reads_below(effects: &[Effect]) -> Option<Option<u64>> {
    effects.iter().find_map(|effect| match effect {
        Effect::ReadMissing { below } => Some(below.map(|place| place.0)),
        _ => None,
    })
}

#[test]
fn ranges_that_memory_has_no_room_for_have_their_turn() {
    let highest: Vec<_> = (1..=RANGES_MAX as u64).map(|n| (n * 2 + 10, n * 2 + 10)).collect();
    let mut rig = with_missing(3_000, highest.clone());
    rig.up(OTHER);
    assert_eq!(rig.asks(OTHER), Some((11, Some(12))));
    let effects = rig.wait(WINDOW_FOR);
    assert_eq!(reads_below(&effects), Some(Some(12)));
    rig.follower.handle_missing(rig.now, Some(SequenceId(12)), ranges([(3, 4)]).collect());
    rig.effects();
    // The other peer has not answered yet.
    rig.answer(OTHER, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((2, Some(4))));
    rig.answer(OTHER, envelopes([3, 4]));

    // Below these there are none, so the highest ones follow.
    let effects = rig.wait(WINDOW_FOR);
    assert_eq!(reads_below(&effects), Some(None), "all of this window was found");
    rig.follower.handle_missing(rig.now, Some(SequenceId(3)), Vec::new());
    assert_eq!(reads_below(&rig.effects()), Some(None));
    rig.follower.handle_missing(rig.now, None, ranges(highest[1..].iter().copied()).collect());
    rig.effects();
    rig.answer(OTHER, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((13, Some(14))));
    // These are all.
    assert_eq!(reads_below(&rig.wait(WINDOW_FOR * 2)), None);
}

/// The marks may not be on disk yet when the highest ranges are read.
#[test]
fn places_that_are_marked_while_a_window_is_read_are_kept() {
    let mut rig = with_missing(9, [(2, 2), (4, 4)]);
    rig.answer(SOURCE, envelopes([12]));
    rig.answer(SOURCE, vec![StrandItem::End]);
    rig.wait(SEARCH_FOR);
    assert_eq!(rig.follower.accepted(), SequenceId(11), "marked missing");
    rig.follower.handle_missing(rig.now, None, ranges([(2, 2), (4, 4)]).collect());
    rig.up(OTHER);
    for (after, up_to) in [(1, 2), (3, 4), (9, 11)] {
        assert_eq!(rig.asks(OTHER), Some((after, Some(up_to))));
        rig.answer(OTHER, vec![StrandItem::End]);
    }
}
