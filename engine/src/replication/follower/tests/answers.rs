//! The gaps behind that of a search, which are asked for in the same search.

use super::expiry::{NOW_NS, dated};
use super::*;
use crate::replication::follower::allowance::ANSWER_WITHIN;
use crate::replication::follower::choice::STALL_TIMEOUT;
use crate::replication::follower::search::SEARCH_EVERY;
use crate::replication::link::WantedItems;

/// A time after which other peers have had long enough for what a relay leaves out.
const LONG_AGO_NS: i64 = NOW_NS - 120_000_000_000;

/// A follower that holds place 1, two minutes after `source` claimed 99 places and `other` connected.
fn behind(source: OriginatorId, other: OriginatorId) -> Rig {
    let mut rig = Rig::new(0);
    rig.follower.note_wall(NOW_NS);
    for (peer, head) in [(source, 99), (other, 0)] {
        rig.follower.handle_peer_up(rig.now, peer, SequenceId(head));
    }
    rig.effects();
    rig.answer(source, envelopes([1]));
    rig.now += 2 * SEARCH_FOR;
    rig
}

/// Every other place: those between are not used.
fn every_other(first: u64, last: u64) -> Vec<StrandItem<VerifyResult>> {
    (first..=last).step_by(2).map(|place| dated(place, LONG_AGO_NS)).collect()
}

/// The answer of a peer that holds every other place up to 39, and one more.
fn answer_with(one_more: Option<u64>) -> Vec<StrandItem<VerifyResult>> {
    let places = (3..=39).filter(|place| place % 2 == 1 || Some(*place) == one_more);
    let mut items: Vec<_> = places.map(|place| dated(place, LONG_AGO_NS)).collect();
    items.push(StrandItem::End);
    items
}

/// A follower for whose first gaps a search has ended.
fn searched(source: OriginatorId, other: OriginatorId, one_more: Option<u64>) -> Rig {
    let mut rig = behind(source, other);
    rig.answer(source, every_other(3, 41));
    for peer in [source, other] {
        assert_eq!(rig.asks(peer), Some((1, Some(40))));
    }
    rig.answer(source, answer_with(None));
    rig.answer(other, answer_with(one_more));
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig
}

/// One search for each would be a second for each. The strand of a node that is gone comes from a relay.
#[test]
fn gaps_side_by_side_are_asked_for_at_once_and_passed_over_together() {
    for (source, other) in [(SOURCE, OTHER), (OTHER, THIRD)] {
        let mut rig = searched(source, other, None);
        rig.answer(source, every_other(3, 43));
        assert_eq!(rig.follower.accepted(), SequenceId(41));
        assert_eq!(rig.asks(source), Some((41, Some(42))), "what no peer was asked for");
        assert_eq!(rig.follower.searches(), 21, "operators see each gap");
    }
}

#[test]
fn a_place_that_a_peer_has_shown_is_not_passed_over() {
    let mut rig = searched(SOURCE, OTHER, Some(20));
    rig.answer(SOURCE, every_other(3, 43));
    assert_eq!(rig.follower.accepted(), SequenceId(19));
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.asks(OTHER), Some((19, Some(42))));
    assert!(rig.answer(OTHER, envelopes([20])).contains(&appends([20])));
}

/// The peer may have received the place since, or another one that holds it may have connected.
#[test]
fn old_answers_and_those_of_an_earlier_connection_pass_nothing_over() {
    for is_new in [false, true] {
        let mut rig = searched(SOURCE, OTHER, None);
        if is_new {
            rig.down(OTHER);
            rig.up(OTHER);
        } else {
            rig.now += SEARCH_AGAIN_AFTER;
        }
        rig.answer(SOURCE, every_other(3, 43));
        assert_eq!(rig.follower.accepted(), SequenceId(3));
        assert!(rig.follower.is_searching());
    }
}

/// A relay that knows what all peers lack for a moment must not have it passed over.
#[test]
fn a_relay_has_no_young_place_passed_over_by_what_peers_have_said() {
    let mut rig = searched(OTHER, THIRD, None);
    rig.answer(OTHER, vec![dated(3, LONG_AGO_NS), dated(5, LONG_AGO_NS + 1)]);
    assert_eq!(rig.follower.accepted(), SequenceId(3));
    assert!(rig.follower.is_searching());
}

/// The strand's node may hang. Other peers may still search for earlier places, and need the second minute.
#[test]
fn the_silence_of_the_strands_node_does_not_deny_a_young_place() {
    let mut rig = Rig::connected(0);
    rig.follower.note_wall(NOW_NS);
    rig.follower.handle_peer_up(rig.now, OTHER, SequenceId(9));
    rig.effects();
    let minute_old = || dated(5, NOW_NS - 60_000_000_000);
    rig.wait(2 * STALL_TIMEOUT);
    rig.answer(OTHER, vec![dated(1, LONG_AGO_NS), dated(3, LONG_AGO_NS), minute_old()]);
    assert_eq!([SOURCE, OTHER].map(|peer| rig.asks(peer)), [Some((1, Some(4))); 2]);
    rig.answer(OTHER, vec![dated(3, LONG_AGO_NS), StrandItem::End]);
    rig.wait(SEARCH_FOR);
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.follower.handle_durable(SequenceId(2));
    rig.wait(2 * STALL_TIMEOUT);
    rig.answer(OTHER, vec![dated(3, LONG_AGO_NS), minute_old()]);
    assert_eq!(rig.follower.accepted(), SequenceId(3));
    assert!(rig.follower.is_searching());
}

/// Only then can the strand's own node say that they have expired.
#[test]
fn places_that_can_have_expired_are_searched_for_one_by_one() {
    let mut rig = searched(SOURCE, OTHER, None);
    let old_ns = NOW_NS - 3 * 86_400_000_000_000;
    rig.answer(SOURCE, vec![dated(3, old_ns), dated(5, old_ns)]);
    assert_eq!(rig.follower.accepted(), SequenceId(3));
    assert!(rig.follower.is_searching());
}

/// Each gap would otherwise cost the two seconds that a silent peer has.
#[test]
fn a_peer_that_does_not_answer_has_had_its_time_for_all_gaps_that_it_was_asked_for() {
    for refuses in [false, true] {
        let mut rig = behind(SOURCE, OTHER);
        rig.answer(SOURCE, every_other(3, 41));
        rig.answer(SOURCE, answer_with(None));
        rig.wait(SEARCH_FOR - Duration::from_millis(100));
        if refuses {
            rig.answer(OTHER, vec![StrandItem::Closed]);
        }
        rig.wait(Duration::from_millis(100));
        assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
        rig.answer(SOURCE, every_other(3, 43));
        assert_eq!(rig.follower.accepted(), SequenceId(41));
    }
}

/// A relay can leave out much of what the peer holds, so that its answer takes long.
#[test]
fn a_peer_that_is_still_sending_denies_only_what_it_has_passed() {
    const MOMENT: Duration = Duration::from_millis(1);
    let mut rig = behind(SOURCE, OTHER);
    rig.answer(SOURCE, every_other(3, 41));
    rig.answer(SOURCE, answer_with(None));
    rig.answer(OTHER, every_other(3, 9));
    assert_eq!(count_appends(&rig.wait(ANSWER_WITHIN - MOMENT)), 0, "the rest may come soon");
    rig.wait(MOMENT);
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, every_other(3, 43));
    assert_eq!(rig.follower.accepted(), SequenceId(9));
    assert!(rig.follower.is_searching());
}

/// An envelope that is too long for gaps before and behind it to be asked for with one want.
fn long(place: u64) -> StrandItem<VerifyResult> {
    let StrandItem::Envelope(Ok(entry)) = dated(place, LONG_AGO_NS) else { panic!("an envelope") };
    StrandItem::Envelope(Ok(LogEntry { bytes: Bytes::from(vec![0; 65 * 1024]), ..entry }))
}

/// Every other place, with a long envelope each.
fn far_apart(first: u64, last: u64) -> Vec<StrandItem<VerifyResult>> {
    (first..=last).step_by(2).map(long).collect()
}

/// Each of them would cost a search of its own otherwise, one a second, and a node with some in a second would leave
/// a strand that falls behind.
#[test]
fn gaps_that_lie_apart_are_asked_for_one_after_the_other_in_one_search() {
    for (source, other) in [(SOURCE, OTHER), (OTHER, THIRD)] {
        let mut rig = behind(source, other);
        rig.answer(source, far_apart(3, 9));
        for after in [1, 3, 5, 7] {
            assert_eq!(rig.follower.accepted(), SequenceId(1), "{after}");
            for peer in [source, other] {
                assert_eq!(rig.asks(peer), Some((after, Some(after + 1))));
                rig.answer(peer, vec![StrandItem::End]);
            }
        }
        assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
        rig.answer(source, far_apart(3, 11));
        assert_eq!(rig.follower.accepted(), SequenceId(9));
        assert_eq!(rig.asks(source), Some((9, Some(10))), "what no peer was asked for");
        assert_eq!(rig.follower.searches(), 5, "operators see each gap");
    }
}

#[test]
fn a_place_of_a_gap_that_lies_apart_is_not_passed_over_if_a_peer_has_shown_it() {
    let mut rig = behind(SOURCE, OTHER);
    rig.answer(SOURCE, far_apart(3, 5));
    for peer in [SOURCE, OTHER] {
        rig.answer(peer, vec![StrandItem::End]);
    }
    rig.answer(SOURCE, vec![StrandItem::End]);
    rig.answer(OTHER, vec![dated(4, LONG_AGO_NS), StrandItem::End]);
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, far_apart(3, 5));
    assert_eq!(rig.follower.accepted(), SequenceId(3));
    rig.wait(SEARCH_EVERY);
    assert_eq!(rig.asks(OTHER), Some((3, Some(4))));
    assert!(rig.answer(OTHER, envelopes([4])).contains(&appends([4])));
}

/// A peer that answers for the first gap, and then no more, would make each gap cost more than without such wants.
#[test]
fn answers_about_gaps_that_lie_apart_put_the_end_of_a_search_off_by_a_second() {
    const MOMENT: Duration = Duration::from_millis(1);
    let mut rig = behind(SOURCE, OTHER);
    rig.answer(SOURCE, far_apart(3, 7));
    rig.answer(OTHER, vec![StrandItem::End]);
    for _ in 0..3 {
        rig.answer(SOURCE, vec![StrandItem::End]);
    }
    assert_eq!(rig.asks(OTHER), Some((3, Some(4))));
    assert_eq!(count_appends(&rig.wait(SEARCH_EVERY - MOMENT)), 0);
    rig.wait(MOMENT);
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, far_apart(3, 7));
    assert_eq!(rig.follower.accepted(), SequenceId(3), "it may hold the place");
    assert!(rig.follower.is_searching());
}

/// A search for gaps that lie apart, of which one lies so far up that it has a want of its own at a peer which has no
/// time left.
fn beside_a_peer_without_time_left() -> Rig {
    let mut rig = behind(SOURCE, OTHER);
    for _ in 0..3 {
        rig.down(OTHER);
        rig.up(OTHER);
    }
    rig.now += SEARCH_AGAIN_AFTER;
    let mut items = far_apart(3, 9);
    items.push(dated(1_027, LONG_AGO_NS));
    rig.answer(SOURCE, items);
    assert_eq!(rig.asks(SOURCE), Some((1, Some(2))));
    assert_eq!(rig.asks(OTHER), Some((1, Some(8))), "no further than an answer can reach");
    rig
}

/// The peer may hang: with a want for each gap, each would cost two seconds.
#[test]
fn a_peer_without_time_left_is_asked_for_gaps_that_lie_apart_with_one_want() {
    let mut rig = beside_a_peer_without_time_left();
    for _ in 0..5 {
        rig.answer(SOURCE, vec![StrandItem::End]);
    }
    rig.wait(2 * ANSWER_WITHIN);
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, far_apart(3, 11));
    assert_eq!(rig.follower.accepted(), SequenceId(9));
    assert_eq!(rig.asks(OTHER), Some((9, Some(10))));
}

/// A slow peer would send all of it twice otherwise.
#[test]
fn a_peer_without_time_left_that_answers_is_asked_for_no_gap_twice() {
    let mut rig = beside_a_peer_without_time_left();
    rig.answer(OTHER, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((9, Some(1_026))));
    rig.answer(OTHER, vec![StrandItem::End]);
    for _ in 0..5 {
        rig.answer(SOURCE, vec![StrandItem::End]);
    }
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, far_apart(3, 11));
    assert_eq!(rig.follower.accepted(), SequenceId(11));
}

/// A search for sixteen gaps that lie apart, beside peers over gRPC. Both have answered about the first gap.
fn over_grpc() -> Rig {
    let mut rig = behind(SOURCE, OTHER);
    [SOURCE, OTHER]
        .into_iter()
        .for_each(|peer| rig.follower.handle_gap_wants(peer, GapWants::Ranges));
    rig.answer(SOURCE, far_apart(3, 33));
    for peer in [SOURCE, OTHER] {
        assert_eq!(rig.asks(peer), Some((1, Some(2))));
        rig.answer(peer, vec![StrandItem::End]);
    }
    rig
}

/// A peer answers a want for the gaps of some ranges. It holds at most one of their places.
fn lacks_all_but(rig: &mut Rig, peer: OriginatorId, held: Option<u64>) -> Vec<Effect> {
    let (_, want) = rig.asked[&peer];
    let WantedItems::GapsOf(ranges) = want.items else { panic!("{want:?}") };
    let places = ranges.iter().flat_map(|(first, last)| first.0..=last.0);
    let gaps = places.filter(|place| Some(*place) != held).map(SequenceId);
    let gaps = gaps.map(|place| StrandItem::Gap { from: place, to: place, expired: false });
    let items = gaps.chain([StrandItem::End]).collect();
    rig.answer(peer, items)
}

/// A second has room for five such answers, and each of these would be about one range only.
#[test]
fn peers_over_grpc_are_asked_for_four_gaps_that_lie_apart_at_once() {
    let mut rig = over_grpc();
    for after in [3, 11, 19, 27] {
        assert_eq!(rig.follower.accepted(), SequenceId(1), "{after}");
        rig.wait(SEARCH_EVERY / 5);
        for peer in [SOURCE, OTHER] {
            let last = (after + 7).min(32);
            assert_eq!(rig.asks(peer), Some((after, Some(last))));
            let (_, want) = rig.asked[&peer];
            let asked =
                (after + 1..=last).step_by(2).map(|place| (SequenceId(place), SequenceId(place)));
            let WantedItems::GapsOf(ranges) = want.items else { panic!("{want:?}") };
            assert_eq!(ranges.iter().collect::<Vec<_>>(), asked.collect::<Vec<_>>());
            lacks_all_but(&mut rig, peer, None);
        }
    }
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, far_apart(3, 35));
    assert_eq!(rig.follower.accepted(), SequenceId(33));
    assert_eq!(rig.asks(SOURCE), Some((33, Some(34))), "what no peer was asked for");
}

#[test]
fn a_place_that_a_peer_over_grpc_may_hold_is_not_passed_over() {
    let mut rig = over_grpc();
    for _ in 0..4 {
        lacks_all_but(&mut rig, SOURCE, None);
        lacks_all_but(&mut rig, OTHER, Some(6));
    }
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, far_apart(3, 33));
    assert_eq!(rig.follower.accepted(), SequenceId(5));
    rig.wait(SEARCH_EVERY);
    assert_eq!(rig.asks(OTHER), Some((5, Some(6))));
    assert!(rig.answer(OTHER, envelopes([6])).contains(&appends([6])));
}

#[test]
fn a_peer_over_grpc_that_answers_about_no_range_puts_the_end_of_a_search_off_by_a_second() {
    const MOMENT: Duration = Duration::from_millis(1);
    let mut rig = over_grpc();
    for _ in 0..4 {
        lacks_all_but(&mut rig, SOURCE, None);
    }
    assert_eq!(count_appends(&rig.wait(SEARCH_EVERY - MOMENT)), 0);
    rig.wait(MOMENT);
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, far_apart(3, 33));
    assert_eq!(rig.follower.accepted(), SequenceId(3), "it may hold the place");
    assert!(rig.follower.is_searching());
}

/// The peer's first answer is about the gap of the search, so that it counts there.
#[test]
fn a_peer_that_comes_back_is_asked_for_the_gap_of_a_search_first() {
    let mut rig = behind(SOURCE, OTHER);
    rig.answer(SOURCE, far_apart(3, 5));
    rig.answer(OTHER, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((3, Some(4))));
    rig.down(OTHER);
    rig.up(OTHER);
    assert_eq!(rig.asks(OTHER), Some((1, Some(2))));
    assert!(rig.answer(OTHER, envelopes([2])).contains(&appends([2])));
}

/// Each peer sends what lies between the gaps once more.
#[test]
fn what_lies_between_gaps_that_are_asked_for_at_once_is_bounded() {
    for (items, asked) in [
        (vec![dated(3, LONG_AGO_NS), long(5), dated(7, LONG_AGO_NS)], 4),
        (vec![long(3), dated(5, LONG_AGO_NS)], 2),
        (vec![dated(3, LONG_AGO_NS), dated(1_026, LONG_AGO_NS)], 2),
        (vec![dated(3, LONG_AGO_NS), dated(1_025, LONG_AGO_NS)], 1_024),
    ] {
        let mut rig = behind(SOURCE, OTHER);
        rig.answer(SOURCE, items);
        assert_eq!(rig.asks(OTHER), Some((1, Some(asked))));
    }
}

/// The answer of a peer to a want for gaps alone. It holds every other place from 3 on, and one more.
fn names_gaps_but(held: Option<u64>) -> Vec<StrandItem<VerifyResult>> {
    let places = (4..=98).step_by(2).filter(|place| Some(*place) != held).map(SequenceId);
    let gaps = places.map(|place| StrandItem::Gap { from: place, to: place, expired: false });
    gaps.chain([StrandItem::End]).collect()
}

/// A follower that is asking two peers for gaps alone. The source has shown it the first gap and no other.
fn asking_for_gaps() -> Rig {
    let mut rig = behind(SOURCE, OTHER);
    for peer in [SOURCE, OTHER] {
        rig.follower.handle_gap_wants(peer, GapWants::All);
    }
    rig.answer(SOURCE, vec![long(3)]);
    for peer in [SOURCE, OTHER] {
        assert_eq!(rig.asks(peer), Some((1, Some(2))));
        rig.answer(peer, vec![StrandItem::End]);
        assert_eq!(rig.asks(peer), Some((3, Some(99))), "up to what the source has claimed");
        assert!(rig.asked[&peer].1.is_for_gaps());
    }
    rig
}

/// Returns a follower whose search for its first gap has ended. The other peer names all gaps of the strand except
/// `held`.
fn named(held: Option<u64>) -> Rig {
    let mut rig = asking_for_gaps();
    rig.answer(SOURCE, names_gaps_but(None));
    assert_eq!(rig.follower.accepted(), SequenceId(1));
    rig.answer(OTHER, names_gaps_but(held));
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig
}

/// A node with ten such gaps in a second would leave a strand that falls behind: a message shows few of them.
#[test]
fn gaps_that_peers_have_named_are_passed_over_however_far_apart_they_lie() {
    let mut rig = named(None);
    rig.answer(SOURCE, far_apart(3, 83));
    assert_eq!(rig.follower.accepted(), SequenceId(83));
    assert!(!rig.follower.is_searching());
    assert_eq!(rig.follower.searches(), 41, "operators see each gap");
}

#[test]
fn a_place_that_a_peer_has_not_named_as_a_gap_is_searched_for() {
    let mut rig = named(Some(20));
    rig.answer(SOURCE, far_apart(3, 83));
    assert_eq!(rig.follower.accepted(), SequenceId(19));
    rig.wait(SEARCH_EVERY);
    assert_eq!(rig.asks(OTHER), Some((19, Some(20))));
    assert!(rig.answer(OTHER, envelopes([20])).contains(&appends([20])));
}

/// The peer may have received the place since, or another one that holds it may have connected.
#[test]
fn gaps_that_were_named_long_ago_or_over_an_earlier_connection_pass_nothing_over() {
    for is_new in [false, true] {
        let mut rig = named(None);
        if is_new {
            rig.down(OTHER);
            rig.up(OTHER);
        } else {
            rig.now += SEARCH_AGAIN_AFTER;
        }
        rig.answer(SOURCE, far_apart(3, 83));
        assert_eq!(rig.follower.accepted(), SequenceId(3));
        assert!(rig.follower.is_searching());
    }
}

/// The peer may get a place while its answer is on the way.
#[test]
fn named_gaps_count_from_the_time_at_which_they_were_asked_for() {
    const LATE: Duration = Duration::from_millis(500);
    let mut rig = asking_for_gaps();
    rig.now += LATE;
    for peer in [SOURCE, OTHER] {
        rig.answer(peer, names_gaps_but(None));
    }
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.now += SEARCH_AGAIN_AFTER - LATE;
    rig.answer(SOURCE, far_apart(3, 83));
    assert_eq!(rig.follower.accepted(), SequenceId(3));
    assert!(rig.follower.is_searching());
}

/// A relay that claims more than exists would have the node say that it lacks what it is about to sign.
#[test]
fn the_strands_own_node_is_asked_for_gaps_up_to_its_own_claim_behind_what_a_relay_has_left_out() {
    let mut rig = Rig::connected(0);
    rig.follower.note_wall(NOW_NS);
    rig.follower.handle_peer_up(rig.now, OTHER, SequenceId(99));
    [SOURCE, OTHER].into_iter().for_each(|peer| rig.follower.handle_gap_wants(peer, GapWants::All));
    rig.effects();
    rig.wait(2 * STALL_TIMEOUT);
    rig.answer(OTHER, vec![long(1), long(3), long(5)]);
    assert_eq!([SOURCE, OTHER].map(|peer| rig.asks(peer)), [Some((1, Some(2))); 2]);
    rig.claims(SOURCE, 7);
    for (peer, last) in [(SOURCE, 7), (OTHER, 99)] {
        rig.answer(peer, vec![StrandItem::End]);
        assert_eq!(rig.asks(peer), Some((3, Some(last))));
        assert!(rig.asked[&peer].1.is_for_gaps());
    }
}

/// A relay that knows what all peers lack for a moment must not have it passed over.
#[test]
fn a_relay_has_no_young_place_passed_over_by_the_gaps_that_peers_have_named() {
    let mut rig = behind(OTHER, THIRD);
    for peer in [OTHER, THIRD] {
        rig.follower.handle_gap_wants(peer, GapWants::All);
    }
    rig.answer(OTHER, vec![long(3)]);
    for peer in [OTHER, THIRD] {
        rig.answer(peer, vec![StrandItem::End]);
        rig.answer(peer, names_gaps_but(None));
    }
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(OTHER, vec![long(3), long(5), dated(7, LONG_AGO_NS + 1)]);
    assert_eq!(rig.follower.accepted(), SequenceId(5));
    assert!(rig.follower.is_searching());
}

/// Such a peer could prolong a search with envelopes that no want has asked for.
#[test]
fn a_peer_that_sends_an_envelope_where_gaps_alone_were_asked_for_is_sent_away() {
    let mut rig = asking_for_gaps();
    let effects = rig.answer(OTHER, vec![dated(4, LONG_AGO_NS)]);
    let violation = PeerViolation::OutOfOrder;
    assert!(effects.contains(&Effect::Disconnect { peer: OTHER, violation }), "{effects:?}");
}

/// A peer that names the gaps of the search, and then no more, may hold all others.
#[test]
fn a_want_for_gaps_alone_puts_the_end_of_a_search_off_by_a_second() {
    const MOMENT: Duration = Duration::from_millis(1);
    let mut rig = asking_for_gaps();
    rig.answer(SOURCE, names_gaps_but(None));
    assert_eq!(count_appends(&rig.wait(SEARCH_EVERY - MOMENT)), 0);
    rig.wait(MOMENT);
    assert_eq!(rig.follower.accepted(), SequenceId(2), "marked missing");
    rig.answer(SOURCE, far_apart(3, 83));
    assert_eq!(rig.follower.accepted(), SequenceId(3), "it may hold the place");
    assert!(rig.follower.is_searching());
}

/// An older version, or a peer over gRPC.
#[test]
fn a_peer_that_does_not_name_gaps_is_asked_for_the_ranges_that_are_known() {
    let mut rig = behind(SOURCE, OTHER);
    rig.follower.handle_gap_wants(SOURCE, GapWants::All);
    rig.answer(SOURCE, far_apart(3, 5));
    for peer in [SOURCE, OTHER] {
        rig.answer(peer, vec![StrandItem::End]);
    }
    assert_eq!(rig.asks(SOURCE), Some((3, Some(99))));
    assert_eq!(rig.asks(OTHER), Some((3, Some(4))));
    assert!(!rig.asked[&OTHER].1.is_for_gaps());
    rig.answer(SOURCE, names_gaps_but(None));
    rig.answer(OTHER, vec![StrandItem::End]);
    rig.answer(SOURCE, far_apart(3, 83));
    assert_eq!(rig.follower.accepted(), SequenceId(5), "what both have said");
}

/// The source has no gaps to name there: most gaps are found where a strand ends.
#[test]
fn nothing_is_asked_behind_the_last_envelope_that_the_source_has_claimed() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    [SOURCE, OTHER].into_iter().for_each(|peer| rig.follower.handle_gap_wants(peer, GapWants::All));
    rig.answer(SOURCE, envelopes([2]));
    for peer in [SOURCE, OTHER] {
        assert_eq!(rig.asks(peer), Some((0, Some(1))));
        let effects = rig.answer(peer, vec![StrandItem::End]);
        assert!(!effects.iter().any(|it| matches!(it, Effect::Want { .. })), "{effects:?}");
    }
}

/// The clock of a source comes later than its envelopes, or the source sends none.
#[test]
fn gaps_are_asked_for_up_to_what_the_source_has_shown_if_it_claims_less() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.follower.handle_gap_wants(OTHER, GapWants::All);
    rig.answer(SOURCE, far_apart(3, 9));
    assert_eq!(rig.asks(OTHER), Some((0, Some(2))));
    rig.answer(OTHER, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((3, Some(9))));
}
