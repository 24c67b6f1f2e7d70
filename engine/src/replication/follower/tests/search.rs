//! Searches for places that a peer has left out: when they end, and when they go on.

use hawser_proto::envelope::{OriginatorEnvelope, Proof};
use hawser_proto::minute::MINUTE_NS;
use hawser_proto::pb::xmtp::xmtpv4::envelopes as pb;
use prost::Message as _;

use super::expiry::{NOW_NS, dated};
use super::*;
use crate::replication::follower::allowance::ANSWER_WITHIN;
use crate::replication::follower::choice::STALL_TIMEOUT;
use crate::replication::follower::search::SEARCH_EVERY;

/// Begins a search: the source has left out the places 1 to `gap`, and says that it does not hold them.
fn searching(gap: u64) -> Rig {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([gap + 1]));
    rig.answer(SOURCE, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((0, Some(gap))));
    rig
}

fn marks_missing(effects: &[Effect], from: u64, through: u64) -> bool {
    let changes = vec![skips(from, through, SkipReason::Missing)];
    let through = SequenceId(through);
    effects.contains(&Effect::Write(StrandWrite::Append { changes, through }))
}

/// A hostile source can begin a search for a whole backlog, which takes an honest peer longer than a minute.
#[test]
fn nothing_is_marked_missing_of_a_range_that_a_peer_is_sending() {
    let mut rig = searching(20_000);
    for first in (1..=20_000).step_by(2_000) {
        let effects = rig.wait(SEARCH_FOR / 2);
        assert_eq!(count_appends(&effects), 0, "before {first}");
        rig.answer(OTHER, envelopes(first..first + 2_000));
        rig.follower.handle_durable(rig.follower.accepted());
    }
    assert_eq!(rig.follower.accepted(), SequenceId(20_000));
    assert!(!rig.follower.is_searching());
}

/// The peer has fewer places than are missing, and gets the others meanwhile. It says each time that it holds no more.
#[test]
fn nothing_is_marked_missing_of_a_range_of_which_a_peer_sends_more_each_minute() {
    let mut rig = searching(6_000);
    for first in [1, 2_001] {
        rig.answer(OTHER, envelopes(first..first + 2_000));
        rig.follower.handle_durable(rig.follower.accepted());
        for _ in 0..6 {
            for peer in [SOURCE, OTHER] {
                rig.answer(peer, vec![StrandItem::End]);
            }
            let effects = rig.wait(SEARCH_AGAIN_AFTER);
            assert_eq!(count_appends(&effects), 0, "after {first}");
        }
    }
    rig.answer(OTHER, envelopes(4_001..=6_000));
    assert_eq!(rig.follower.accepted(), SequenceId(6_000));
    assert!(!rig.follower.is_searching());
}

#[test]
fn a_few_long_envelopes_let_a_search_go_on_too() {
    let mut rig = searching(4);
    for sequence in 1..=4 {
        let effects = rig.wait(SEARCH_FOR - Duration::from_secs(1));
        assert_eq!(count_appends(&effects), 0, "before {sequence}");
        let long = LogEntry { bytes: Bytes::from(vec![0; 2 << 20]), ..entry(sequence) };
        rig.answer(OTHER, vec![StrandItem::Envelope(Ok(long))]);
        assert_eq!(count_appends(&rig.wait(Duration::from_secs(1))), 0, "after {sequence}");
    }
    assert_eq!(rig.follower.accepted(), SequenceId(4));
}

/// A peer that alone holds a range must not hold the strand up for a minute with each place of it.
#[test]
fn a_range_that_comes_place_by_place_is_marked_missing() {
    let mut rig = searching(100);
    assert_eq!(count_appends(&rig.wait(SEARCH_FOR / 2)), 0);
    rig.answer(OTHER, envelopes([1]));
    let effects = rig.wait(SEARCH_FOR / 2);
    assert!(marks_missing(&effects, 2, 100), "{effects:?}");
}

/// The disk fails, say, and what the other peer has sent waits in this node.
#[test]
fn time_in_which_this_node_does_not_look_ends_no_search() {
    let mut rig = searching(3);
    for second in 0..300 {
        rig.now += Duration::from_secs(1);
        rig.follower.handle_backlog(rig.now);
        rig.follower.handle_timeout(rig.now);
        assert_eq!(count_appends(&rig.effects()), 0, "after {second} s");
    }
    assert!(rig.answer(OTHER, envelopes([1])).contains(&appends([1])));
    let effects = rig.wait(SEARCH_AGAIN_AFTER);
    assert!(marks_missing(&effects, 2, 3), "the search ends soon afterwards: {effects:?}");
}

/// Otherwise a relay that holds every second place of a backlog makes the strand search for all others.
#[test]
fn a_relay_that_leaves_out_what_another_peer_holds_is_left_for_that_one() {
    let mut rig = Rig::new(0);
    for peer in [OTHER, THIRD] {
        rig.follower.handle_peer_up(rig.now, peer, SequenceId(9));
    }
    rig.effects();
    assert_eq!(rig.follower.source(), Some(OTHER));
    rig.answer(OTHER, envelopes([2]));
    assert!(rig.answer(THIRD, envelopes([1])).contains(&appends([1])));
    assert_eq!(rig.follower.source(), Some(THIRD));
    assert_eq!((rig.asks(THIRD), rig.asks(OTHER)), (Some((0, None)), None));
}

/// Each search asks all peers: a node could have all others ask one another hundreds of times a second.
#[test]
fn a_strand_with_one_gap_after_the_other_has_all_peers_asked_once_a_second() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    let mut asked = 0;
    for missing in (1..400).step_by(2) {
        for next in [missing + 1, missing, missing + 1] {
            let effects = rig.answer(SOURCE, envelopes([next]));
            asked += effects.iter().filter(|it| asks_other(it)).count();
        }
    }
    assert_eq!((rig.follower.accepted(), rig.follower.searches()), (SequenceId(400), 200));
    assert_eq!(asked, 1);
    rig.answer(SOURCE, envelopes([402]));
    assert_eq!(rig.asks(OTHER), None);
    rig.wait(SEARCH_EVERY);
    assert_eq!(rig.asks(OTHER), Some((400, Some(401))));
}

/// Lets the peers say that they do not hold what they are asked for, until the search ends. `silent` says nothing.
fn end_search(rig: &mut Rig, silent: Option<OriginatorId>) {
    while rig.follower.is_searching() {
        let is_range = |(peer, (_, want)): &(&OriginatorId, &(RequestId, Want))| {
            want.up_to().is_some() && Some(**peer) != silent
        };
        match rig.asked.iter().find(is_range).map(|(peer, (request, _))| (*peer, *request)) {
            Some((peer, request)) => {
                rig.asked.remove(&peer);
                rig.deliver(peer, request, vec![StrandItem::End]);
            }
            None => {
                let at = rig.follower.poll_timeout().unwrap();
                rig.wait(at.saturating_duration_since(rig.now));
            }
        }
    }
}

/// A time after which other peers have had long enough for what a relay leaves out.
const LONG_AGO_NS: i64 = NOW_NS - 2 * MINUTE_NS;

/// Lets the source pass over the place before `place`, up to the end of the search for it. The envelope at `place` is
/// two minutes old.
pub(super) fn pass_over(rig: &mut Rig, place: u64, silent: Option<OriginatorId>) {
    let source = rig.follower.source().unwrap();
    rig.follower.note_wall(NOW_NS);
    rig.answer(source, vec![dated(place, LONG_AGO_NS)]);
    assert!(rig.follower.is_searching(), "{place}");
    end_search(rig, silent);
    rig.answer(source, vec![dated(place, LONG_AGO_NS)]);
    assert_eq!(rig.follower.accepted(), SequenceId(place));
}

/// Other software leaves ids unused, and callers who give up their requests can make it leave many. A minute for each
/// of them would be hours. The strand of a node that is gone comes from a relay.
#[test]
fn a_strand_with_many_unused_ids_falls_behind_by_one_search_and_not_by_one_for_each() {
    for peers in [[SOURCE, OTHER], [OTHER, THIRD]] {
        let mut rig = Rig::new(0);
        for (peer, head) in peers.into_iter().zip([43, 0]) {
            rig.follower.handle_peer_up(rig.now, peer, SequenceId(head));
        }
        rig.effects();
        rig.answer(peers[0], envelopes([1]));
        let begin = rig.now;
        pass_over(&mut rig, 3, None);
        let took = rig.now - begin;
        assert_eq!(took, SEARCH_FOR, "peers have a minute for what has just been claimed");
        for place in (5..=41).step_by(2) {
            pass_over(&mut rig, place, None);
        }
        assert!(rig.now - begin <= SEARCH_FOR + 20 * SEARCH_EVERY, "{:?}", rig.now - begin);
        // A peer that does not answer may hold the place.
        let before = rig.now;
        pass_over(&mut rig, 43, Some(peers[1]));
        assert_eq!(rig.now - before, SEARCH_FOR);
    }
}

/// The connection of the peer that holds the place may be lost at that moment.
#[test]
fn a_place_that_a_peer_holds_is_found_however_old_the_claim_is() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.claims(SOURCE, 9);
    rig.answer(SOURCE, envelopes([1]));
    pass_over(&mut rig, 3, None);
    rig.answer(SOURCE, envelopes([5]));
    rig.answer(SOURCE, vec![StrandItem::End]);
    rig.wait(SEARCH_EVERY);
    assert!(rig.answer(OTHER, envelopes([4])).contains(&appends([4])));
    assert!(rig.answer(SOURCE, envelopes([5])).contains(&appends([5])));
    rig.answer(SOURCE, envelopes([7]));
    rig.down(OTHER);
    rig.answer(SOURCE, vec![StrandItem::End]);
    assert!(rig.follower.is_searching());
    rig.up(OTHER);
    assert!(rig.answer(OTHER, envelopes([6])).contains(&appends([6])));
}

/// A follower that holds place 1, two minutes after `source` claimed nine places and `others` connected.
fn claimed_long_ago(source: OriginatorId, others: &[OriginatorId]) -> Rig {
    let mut rig = Rig::new(0);
    rig.follower.note_wall(NOW_NS);
    rig.follower.handle_peer_up(rig.now, source, SequenceId(9));
    others.iter().for_each(|peer| rig.follower.handle_peer_up(rig.now, *peer, SequenceId::NONE));
    rig.effects();
    rig.answer(source, envelopes([1]));
    rig.now += 2 * SEARCH_FOR;
    rig
}

/// An envelope of this time that breaks a rule.
fn invalid(sequence: u64, originator_ns: i64) -> StrandItem<VerifyResult> {
    let statement = pb::UnsignedOriginatorEnvelope {
        originator_node_id: SOURCE.0,
        originator_sequence_id: sequence,
        originator_ns,
        ..Default::default()
    };
    let proof = Proof::Transaction([1; 32]);
    let bytes = OriginatorEnvelope::encode(statement.encode_to_vec().into(), proof);
    StrandItem::Envelope(Ok(LogEntry { bytes, ..entry(sequence) }))
}

/// The relay has claimed the places before they existed. The other peer is connected all the time, and gets place 2 a
/// moment after it has answered.
#[test]
fn a_relay_passes_over_no_place_that_other_peers_may_be_about_to_get() {
    let young = [NOW_NS, NOW_NS + 1, LONG_AGO_NS + 1].map(|ns| vec![dated(3, ns)]);
    let no_facts = [envelopes([3]), vec![invalid(3, LONG_AGO_NS + 1)]];
    for behind in young.into_iter().chain(no_facts) {
        let mut rig = claimed_long_ago(OTHER, &[THIRD]);
        rig.answer(OTHER, behind);
        rig.answer(OTHER, vec![StrandItem::End]);
        let effects = rig.answer(THIRD, vec![StrandItem::End]);
        assert_eq!(count_appends(&effects), 0);
        assert!(rig.follower.is_searching());
    }

    let mut rig = claimed_long_ago(OTHER, &[THIRD]);
    rig.answer(OTHER, vec![dated(3, NOW_NS)]);
    for peer in [OTHER, THIRD] {
        rig.answer(peer, vec![StrandItem::End]);
    }
    assert_eq!(count_appends(&rig.wait(SEARCH_AGAIN_AFTER)), 0);
    assert!(rig.answer(THIRD, envelopes([2])).contains(&appends([2])));

    for behind in [dated(3, LONG_AGO_NS), invalid(3, LONG_AGO_NS)] {
        let mut rig = claimed_long_ago(OTHER, &[THIRD]);
        rig.answer(OTHER, vec![behind]);
        rig.answer(OTHER, vec![StrandItem::End]);
        assert!(marks_missing(&rig.answer(THIRD, vec![StrandItem::End]), 2, 2));
    }
}

/// Place 2 was not used, and the other peer has to search for it for a minute before it takes place 3. The relay does
/// not wait for that, or waits until it is almost over.
#[test]
fn a_relay_passes_over_no_place_behind_one_that_other_peers_still_search_for() {
    for age_s in [0, 60] {
        let mut rig = claimed_long_ago(OTHER, &[THIRD]);
        rig.answer(OTHER, vec![dated(4, NOW_NS - age_s * 1_000_000_000)]);
        for _ in 0..=6 - age_s / 10 {
            for peer in [OTHER, THIRD] {
                rig.answer(peer, vec![StrandItem::End]);
            }
            assert_eq!(count_appends(&rig.wait(SEARCH_AGAIN_AFTER)), 0, "{age_s} s");
        }
        rig.answer(THIRD, envelopes([3]));
        let effects = rig.wait(SEARCH_FOR);
        assert!(marks_missing(&effects, 2, 2), "only the unused one: {effects:?}");
        assert!(rig.answer(OTHER, envelopes([3])).contains(&appends([3])));
    }
}

/// Returns a follower that is connected to the strand's own node and to a relay, which has sent what follows place 1.
fn beside_a_relay() -> Rig {
    let mut rig = Rig::connected(0);
    rig.follower.note_wall(NOW_NS);
    rig.follower.handle_peer_up(rig.now, OTHER, SequenceId(9));
    rig.effects();
    rig.wait(2 * STALL_TIMEOUT);
    rig.answer(OTHER, vec![dated(2, NOW_NS)]);
    rig
}

/// A relay that sends what follows an unused id first would make this node late otherwise.
#[test]
fn a_search_takes_a_minute_if_the_strands_own_node_can_answer() {
    let mut rig = beside_a_relay();
    for peer in [SOURCE, OTHER] {
        assert_eq!(count_appends(&rig.answer(peer, vec![StrandItem::End])), 0);
    }
    assert!(marks_missing(&rig.wait(SEARCH_FOR), 1, 1));
}

/// A link that breaks is noticed some seconds later. The relay may have begun the search meanwhile.
#[test]
fn a_search_takes_two_minutes_if_the_strands_own_node_goes_without_an_answer() {
    for (has_answered, has_left) in [(false, false), (false, true), (true, false)] {
        let mut rig = beside_a_relay();
        rig.answer(OTHER, vec![StrandItem::End]);
        if has_answered {
            rig.answer(SOURCE, vec![StrandItem::End]);
        }
        if has_left {
            rig.follower.handle_membership(rig.now, false);
            rig.effects();
        } else {
            rig.down(SOURCE);
        }
        assert_eq!(marks_missing(&rig.wait(SEARCH_FOR), 1, 1), has_answered);
        if !has_answered {
            assert!(marks_missing(&rig.wait(SEARCH_FOR), 1, 1));
        }
    }
}

/// The strand's node may hang, and other peers may still search for earlier places.
#[test]
fn a_search_takes_two_minutes_if_the_strands_own_node_stays_and_does_not_answer() {
    let mut rig = beside_a_relay();
    rig.answer(OTHER, vec![StrandItem::End]);
    assert_eq!(count_appends(&rig.wait(SEARCH_FOR * 2 - Duration::from_secs(1))), 0);
    assert!(marks_missing(&rig.wait(Duration::from_secs(1)), 1, 1));
}

/// A registered peer stays connected and says nothing. Each gap would cost a minute otherwise.
#[test]
fn a_peer_that_answers_no_search_holds_a_strand_up_for_a_minute_and_not_for_one_at_each_gap() {
    for source in [SOURCE, OTHER] {
        let mut rig = claimed_long_ago(source, &[THIRD]);
        let begin = rig.now;
        pass_over(&mut rig, 3, Some(THIRD));
        assert_eq!(rig.now - begin, SEARCH_FOR, "it may be slow");
        for place in [5, 7] {
            pass_over(&mut rig, place, Some(THIRD));
        }
        let took = rig.now - begin;
        assert!(took <= SEARCH_FOR + 2 * SEARCH_AGAIN_AFTER, "{took:?}");
        // It is asked like all others, has two seconds, and what it sends counts.
        rig.answer(source, vec![dated(9, LONG_AGO_NS)]);
        rig.answer(source, vec![StrandItem::End]);
        let effects = rig.wait(ANSWER_WITHIN - Duration::from_millis(1));
        assert_eq!(count_appends(&effects), 0, "{effects:?}");
        assert_eq!(rig.asks(THIRD), Some((7, Some(8))));
        assert!(rig.answer(THIRD, envelopes([8])).contains(&appends([8])));
    }
}

/// The search after that is as long as the first one: a peer that was away for an hour, say, is not left out.
#[test]
fn a_peer_that_was_silent_is_waited_for_again_ten_minutes_later() {
    let mut rig = claimed_long_ago(SOURCE, &[OTHER]);
    for (place, longest) in [(3, true), (5, false), (7, true)] {
        let begin = rig.now;
        pass_over(&mut rig, place, Some(OTHER));
        assert_eq!(rig.now - begin >= SEARCH_FOR, longest, "{place}");
        if place == 5 {
            rig.now += SEARCH_FOR * 10;
        }
    }
}

#[test]
fn a_peer_that_answers_each_search_late_uses_its_minute_up_too() {
    let mut rig = Rig::new(0);
    rig.follower.handle_peer_up(rig.now, SOURCE, SequenceId(99));
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([1]));
    rig.now += 2 * SEARCH_FOR;
    rig.follower.note_wall(NOW_NS);
    let begin_gap = |rig: &mut Rig, place| {
        rig.answer(SOURCE, vec![dated(place, LONG_AGO_NS)]);
        assert!(rig.follower.is_searching(), "{place}");
        rig.answer(SOURCE, vec![StrandItem::End]);
    };
    let mut waited = 0;
    for place in (3..=61).step_by(2) {
        begin_gap(&mut rig, place);
        rig.wait(Duration::from_secs(9));
        if rig.follower.is_searching() {
            waited += 1;
            assert!(marks_missing(&rig.answer(OTHER, vec![StrandItem::End]), place - 1, place - 1));
        }
        rig.answer(SOURCE, vec![dated(place, LONG_AGO_NS)]);
    }
    assert!((2..=12).contains(&waited), "{waited} times");
}

/// Ten registered peers are silent in turns. Each would have its minute back when its turn comes again otherwise, so
/// that each gap would cost one.
#[test]
fn peers_that_take_turns_with_their_silence_do_not_hold_a_strand_up_for_a_minute_at_each_gap() {
    let others: Vec<_> = (3..13).map(|number| OriginatorId(number * 100)).collect();
    let mut rig = Rig::new(0);
    rig.follower.handle_peer_up(rig.now, SOURCE, SequenceId(999));
    for peer in &others {
        rig.up(*peer);
    }
    rig.effects();
    rig.answer(SOURCE, envelopes([1]));
    rig.now += 2 * SEARCH_FOR;
    let mut silent = others.iter().cycle().copied();
    let mut pass_gaps = |rig: &mut Rig, first: u64, count: u64| {
        let begin = rig.now;
        for place in (first..first + 2 * count).step_by(2) {
            pass_over(rig, place, silent.next());
        }
        rig.now - begin
    };
    let took = pass_gaps(&mut rig, 3, 10);
    assert_eq!(took, SEARCH_FOR * 10, "each may be slow");
    let took = pass_gaps(&mut rig, 23, 100);
    assert!(took <= ANSWER_WITHIN * 100 * 3, "{took:?}");
}

/// That uses up the allowance of the peer, and nothing that other peers do uses it up.
#[test]
fn a_peer_that_comes_and_goes_puts_the_end_of_searches_off_a_few_times_only() {
    let mut rig = claimed_long_ago(SOURCE, &[OTHER, THIRD]);
    for _ in 0..3 {
        rig.down(OTHER);
        rig.up(OTHER);
    }
    rig.now += SEARCH_AGAIN_AFTER;
    for (peer, is_put_off) in [(OTHER, false), (THIRD, true)] {
        rig.down(peer);
        rig.up(peer);
        let place = rig.follower.accepted().0 + 2;
        rig.answer(SOURCE, vec![dated(place, LONG_AGO_NS)]);
        rig.wait(SEARCH_EVERY);
        for peer in [SOURCE, OTHER, THIRD] {
            rig.answer(peer, vec![StrandItem::End]);
        }
        assert_eq!(rig.follower.is_searching(), is_put_off, "{peer}");
        rig.answer(SOURCE, vec![dated(place, LONG_AGO_NS)]);
    }
}

/// Each time would be a minute otherwise, six times, if a relay has left the places out.
#[test]
fn a_peer_that_comes_and_goes_holds_up_what_a_relay_has_left_out_for_a_minute_in_all() {
    let mut rig = claimed_long_ago(OTHER, &[THIRD]);
    let begin = rig.now;
    for place in [3, 5, 7, 9] {
        rig.down(THIRD);
        rig.up(THIRD);
        pass_over(&mut rig, place, None);
    }
    let took = rig.now - begin;
    assert!((SEARCH_FOR / 2..=SEARCH_FOR + 4 * SEARCH_EVERY).contains(&took), "{took:?}");
}

/// One that is gone for the first time in a while has its minute, also if the search begins only after that.
#[test]
fn a_peer_that_has_just_gone_has_a_minute_to_come_back_with_what_a_relay_has_left_out() {
    for is_searching in [false, true] {
        let mut rig = claimed_long_ago(OTHER, &[THIRD]);
        let leave_out = |rig: &mut Rig| {
            rig.answer(OTHER, vec![dated(3, LONG_AGO_NS)]);
            rig.answer(OTHER, vec![StrandItem::End]);
        };
        if is_searching {
            leave_out(&mut rig);
        }
        rig.down(THIRD);
        if !is_searching {
            leave_out(&mut rig);
        }
        assert_eq!(count_appends(&rig.wait(SEARCH_FOR - Duration::from_secs(1))), 0);
        assert!(rig.follower.is_searching());
        rig.up(THIRD);
        assert!(rig.answer(THIRD, envelopes([2])).contains(&appends([2])));
    }
}

/// The node waits for little longer before it signs again.
#[test]
fn a_search_in_a_nodes_own_strand_takes_a_minute() {
    let mut rig = Rig::new(0);
    let follower = Follower::new(SOURCE, SequenceId(0), [], rig.now).with_source(OTHER);
    rig.follower = follower.reporting_finds([OTHER].into());
    rig.follower.note_wall(NOW_NS);
    rig.up(OTHER);
    rig.answer(OTHER, vec![dated(3, NOW_NS)]);
    rig.answer(OTHER, vec![StrandItem::End]);
    assert!(marks_missing(&rig.wait(SEARCH_FOR), 1, 2));
}

/// A peer that breaks a rule may connect again, as one whose connection was lost.
#[test]
fn a_search_does_not_end_at_the_moment_at_which_a_peer_breaks_a_rule() {
    let mut rig = claimed_long_ago(SOURCE, &[OTHER, THIRD]);
    rig.follower.handle_proven(OTHER);
    rig.effects();
    rig.answer(SOURCE, envelopes([3]));
    for peer in [SOURCE, THIRD] {
        assert_eq!(count_appends(&rig.answer(peer, vec![StrandItem::End])), 0);
    }
    let forged = vec![StrandItem::Envelope(Err(PeerViolation::ForgedSignature))];
    let effects = rig.answer(OTHER, forged);
    assert_eq!(count_appends(&effects), 0, "{effects:?}");
    assert!(rig.follower.is_searching());
    assert!(marks_missing(&rig.wait(SEARCH_AGAIN_AFTER), 2, 2));
}

/// The node that has left is connected, and is asked for nothing.
#[test]
fn a_search_does_not_wait_for_the_answer_of_a_node_that_has_left() {
    let mut rig = claimed_long_ago(OTHER, &[]);
    rig.follower.handle_membership(rig.now, false);
    rig.up(SOURCE);
    pass_over(&mut rig, 3, None);
    let before = rig.now;
    pass_over(&mut rig, 5, None);
    assert_eq!(rig.now, before);
}

/// Begins a search for 20,000 places that the source has left out, beside ten other peers. Returns these.
fn searching_beside_ten() -> (Rig, Vec<OriginatorId>) {
    let mut rig = Rig::connected(0);
    let others: Vec<_> = (3..13).map(|number| OriginatorId(number * 100)).collect();
    for peer in &others {
        rig.up(*peer);
    }
    rig.answer(SOURCE, envelopes([20_001]));
    assert_eq!(rig.asks(SOURCE), Some((0, Some(20_000))));
    (rig, others)
}

fn asked(rig: &Rig, peers: &[OriginatorId]) -> usize {
    peers.iter().filter(|peer| rig.asks(**peer).is_some()).count()
}

/// Otherwise one envelope behind a backlog has every peer send all of it.
#[test]
fn a_long_range_is_asked_of_the_next_peer_when_nothing_comes() {
    let (mut rig, others) = searching_beside_ten();
    assert_eq!(asked(&rig, &others), 0);
    rig.wait(STALL_TIMEOUT);
    assert_eq!(asked(&rig, &others), 1);
    for first in (1..=18_000).step_by(2_000) {
        rig.answer(OTHER, envelopes(first..first + 2_000));
        rig.wait(STALL_TIMEOUT / 4);
        assert_eq!(asked(&rig, &others), 1, "it sends");
    }
    rig.wait(STALL_TIMEOUT);
    assert_eq!(rig.asks(THIRD), Some((18_000, Some(20_000))), "only what is still missing");
    assert_eq!(asked(&rig, &others), 2);
    // No peer is sending any more.
    for peer in [SOURCE, OTHER, THIRD] {
        rig.answer(peer, vec![StrandItem::End]);
        rig.asked.remove(&peer);
    }
    assert_eq!(rig.asks(OriginatorId(500)), Some((18_000, Some(20_000))));
    assert_eq!(asked(&rig, &others), 1);
}

/// Envelopes that come keep no other peer from being asked: a hostile peer can send one from time to time.
#[test]
fn a_trickle_keeps_no_peer_from_its_turn_in_a_long_search() {
    let (mut rig, others) = searching_beside_ten();
    rig.wait(STALL_TIMEOUT);
    for place in 1..=60 {
        rig.answer(OTHER, envelopes([place]));
        rig.wait(Duration::from_millis(500));
    }
    assert_eq!(asked(&rig, &others), others.len());
    assert!(rig.follower.is_searching());
}

fn asks_other(effect: &Effect) -> bool {
    matches!(effect, Effect::Want { peer: OTHER, .. })
}
