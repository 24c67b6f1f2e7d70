//! Places that have expired at their own node, and those that cannot have.

use hawser_proto::{Topic, TopicKind};
use hawser_storage::Facts;

use super::*;

const TWO_DAYS_NS: i64 = 2 * 86_400 * 1_000_000_000;
pub(super) const NOW_NS: i64 = 10 * TWO_DAYS_NS;

/// An envelope of this time.
pub(super) fn dated(sequence: u64, originator_ns: i64) -> StrandItem<VerifyResult> {
    let facts = Facts {
        topic: Some(Topic::new(TopicKind::GroupMessages, &[1]).unwrap()),
        originator_ns,
        depends_on: Vec::new(),
        expiry_unix_s: None,
        receipt: None,
        charge: None,
        counts_for_congestion: false,
        addresses: Vec::new(),
    };
    let entry = LogEntry { validity: Validity::Valid, facts: Some(facts), ..entry(sequence) };
    StrandItem::Envelope(Ok(entry))
}

fn gap(from: u64, to: u64) -> StrandItem<VerifyResult> {
    StrandItem::Gap { from: SequenceId(from), to: SequenceId(to), expired: true }
}

#[test]
fn what_is_too_young_to_have_expired_is_searched_for() {
    for (age_ns, accepted) in [(TWO_DAYS_NS, 5), (TWO_DAYS_NS - 1, 0)] {
        let mut rig = Rig::connected(0);
        rig.follower.note_wall(NOW_NS);
        rig.answer(SOURCE, vec![gap(1, 4), dated(5, NOW_NS - age_ns)]);
        assert_eq!(rig.follower.accepted(), SequenceId(accepted));
        assert_eq!(rig.follower.is_searching(), accepted == 0);
    }
}

/// Played by a node that shows a message to one follower alone, and dates the next one back: all others would never
/// search for the message.
#[test]
fn a_node_that_dates_back_is_not_believed_about_places_behind_a_young_one() {
    const OLD_NS: i64 = NOW_NS - TWO_DAYS_NS;
    // A time in the future decides nothing.
    for (before_ns, accepted) in [(OLD_NS, 3), (OLD_NS + 1, 1), (NOW_NS + TWO_DAYS_NS, 3)] {
        let mut rig = Rig::connected(0);
        rig.follower.note_wall(NOW_NS);
        rig.answer(SOURCE, vec![dated(1, before_ns), gap(2, 2), dated(3, OLD_NS)]);
        assert_eq!(rig.follower.accepted(), SequenceId(accepted));
        assert_eq!(rig.follower.is_searching(), accepted == 1);
    }
    let mut again = Rig::new(1);
    again.follower =
        Follower::new(SOURCE, SequenceId(1), [], again.now).behind_time(Some(OLD_NS + 1));
    again.follower.note_wall(NOW_NS);
    again.up(SOURCE);
    again.answer(SOURCE, vec![gap(2, 2), dated(3, OLD_NS)]);
    assert!(again.follower.is_searching(), "after a restart");
}

/// Played by a node that dates back by days, and waits until what it had dated before is old, too. A node whose clock
/// was put right by a second is honest.
#[test]
fn what_follows_a_step_back_may_be_younger_than_it_states_by_the_step() {
    const OLD_NS: i64 = NOW_NS - TWO_DAYS_NS;
    const SECOND_NS: i64 = 1_000_000_000;
    let believes = |earlier_ns: i64, step_ns: i64, behind_ns: i64| {
        let mut rig = Rig::new(0);
        let follower = Follower::new(SOURCE, SequenceId(0), [], rig.now);
        rig.follower = follower.stepped_back(earlier_ns);
        rig.follower.note_wall(NOW_NS);
        rig.up(SOURCE);
        let (first, second) = (dated(1, OLD_NS), dated(2, OLD_NS - step_ns));
        rig.answer(SOURCE, vec![first, second, gap(3, 3), dated(4, behind_ns)]);
        let is_searching = rig.follower.is_searching();
        assert_eq!(rig.follower.accepted(), SequenceId(if is_searching { 2 } else { 4 }));
        !is_searching
    };
    assert!(believes(0, SECOND_NS, OLD_NS), "a step that is no fault");
    assert!(!believes(0, TWO_DAYS_NS, OLD_NS));
    assert!(!believes(0, TWO_DAYS_NS, OLD_NS - TWO_DAYS_NS + 1));
    assert!(believes(0, TWO_DAYS_NS, OLD_NS - TWO_DAYS_NS), "it is old in any case");
    // By the evidence of earlier runs.
    assert!(believes(0, 0, OLD_NS) && !believes(1, 0, OLD_NS) && !believes(i64::MAX, 0, OLD_NS));
}

/// Nothing is on disk yet when the connection breaks, so the places are asked for again; meanwhile their node prunes
/// one more.
#[test]
fn places_that_are_accepted_already_may_be_told_as_expired() {
    let mut rig = Rig::connected(0);
    rig.follower.note_wall(NOW_NS);
    rig.answer(SOURCE, vec![gap(1, 4), dated(5, NOW_NS - TWO_DAYS_NS)]);
    rig.down(SOURCE);
    rig.up(SOURCE);
    assert_eq!(rig.asks(SOURCE), Some((0, None)));
    rig.answer(SOURCE, vec![gap(1, 5), dated(6, NOW_NS - TWO_DAYS_NS)]);
    assert_eq!(rig.follower.accepted(), SequenceId(6));
}

/// A follower that takes the strand from `OTHER`, while `peers` are connected too and claim to hold five places.
fn relayed(follower: impl FnOnce(Follower) -> Follower, peers: &[OriginatorId]) -> Rig {
    let mut rig = Rig::new(0);
    rig.follower = follower(Follower::new(SOURCE, SequenceId(0), [], rig.now).with_source(OTHER));
    rig.follower.note_wall(NOW_NS);
    for peer in std::iter::once(OTHER).chain(peers.iter().copied()) {
        rig.up(peer);
        rig.claims(peer, 5);
    }
    rig
}

/// A relay shows the envelope, and the strand's own node says only that the places before it have expired.
#[test]
fn the_word_of_the_strands_own_node_ends_a_search() {
    for (age_ns, is_over) in [(TWO_DAYS_NS, true), (TWO_DAYS_NS - 1, false)] {
        let rig = || {
            let mut rig = relayed(|follower| follower, &[SOURCE]);
            rig.answer(OTHER, vec![gap(1, 4), dated(5, NOW_NS - age_ns)]);
            assert!(rig.follower.is_searching(), "the word of a relay");
            rig
        };
        let mut part = rig();
        part.answer(SOURCE, vec![gap(1, 3)]);
        assert!(part.follower.is_searching(), "a part of it");
        let mut whole = rig();
        whole.answer(OTHER, vec![gap(1, 4)]);
        assert!(whole.follower.is_searching(), "the word of a relay");
        whole.answer(SOURCE, vec![gap(1, 4)]);
        assert_eq!(whole.follower.is_searching(), !is_over);
        assert_eq!(whole.follower.accepted(), SequenceId(if is_over { 4 } else { 0 }));
    }
}

/// A node that has lost its folder takes its own strand from its peers, and they may all have pruned.
#[test]
fn a_node_believes_its_peers_about_its_own_strand_if_they_all_say_the_same() {
    let rig = || {
        let mut rig = relayed(|follower| follower.reporting_finds([OTHER, THIRD].into()), &[THIRD]);
        rig.answer(OTHER, vec![gap(1, 4), dated(5, NOW_NS - TWO_DAYS_NS)]);
        rig.answer(OTHER, vec![gap(1, 4)]);
        assert!(rig.follower.is_searching(), "one peer may hide what another one holds");
        rig
    };
    let mut all = rig();
    let effects = all.answer(THIRD, vec![gap(1, 2), gap(3, 4)]);
    assert!(!all.follower.is_searching());
    let (changes, through) = (vec![skips(1, 4, SkipReason::Expired)], SequenceId(4));
    assert!(effects.contains(&Effect::Write(StrandWrite::Append { changes, through })));
    // A place that one of them holds is not passed over.
    let mut some = rig();
    some.answer(THIRD, vec![gap(1, 3), dated(4, NOW_NS - TWO_DAYS_NS)]);
    assert_eq!(some.follower.accepted(), SequenceId(3));
    let mut none = rig();
    none.answer(THIRD, vec![dated(1, 0)]);
    assert_eq!((none.follower.accepted(), none.follower.is_searching()), (SequenceId(1), true));
}

/// The peers that connect first after a restore may all be attackers.
#[test]
fn a_node_believes_only_most_of_the_others_that_its_own_places_have_expired() {
    let (fourth, fifth) = (OriginatorId(500), OriginatorId(600));
    for (others, is_over) in [
        (vec![OTHER], true),
        (vec![OTHER, THIRD, fourth], true),
        (vec![OTHER, THIRD, fourth, fifth], false),
        (vec![OTHER, fourth], false),
    ] {
        let beside = others.iter().copied().collect();
        let mut rig = relayed(|follower| follower.reporting_finds(beside), &[THIRD]);
        rig.answer(OTHER, vec![gap(1, 4), dated(5, NOW_NS - TWO_DAYS_NS)]);
        rig.answer(OTHER, vec![gap(1, 4)]);
        rig.answer(THIRD, vec![gap(1, 4)]);
        assert_eq!(rig.follower.is_searching(), !is_over, "{others:?}");
        assert_eq!(rig.follower.accepted(), SequenceId(if is_over { 4 } else { 0 }), "{others:?}");
        if !is_over {
            rig.answer(THIRD, vec![StrandItem::End]);
            let effects = rig.wait(SEARCH_FOR);
            let (changes, through) = (vec![skips(1, 4, SkipReason::Missing)], SequenceId(4));
            assert!(effects.contains(&Effect::Write(StrandWrite::Append { changes, through })));
        }
    }
}

/// A snapshot has left out what had expired.
#[test]
fn missing_places_that_their_own_node_no_longer_keeps_are_asked_for_until_they_are_marked() {
    let expired = |from, through| {
        let (from, through) = (SequenceId(from), SequenceId(through));
        Effect::Expired { from, through }
    };
    let stated = |effects: Vec<Effect>| {
        let is_stated = |effect: &Effect| matches!(effect, Effect::Expired { .. });
        effects.into_iter().filter(is_stated).collect::<Vec<_>>()
    };
    let mut rig = Rig::new(9);
    let missing = [(SequenceId(2), SequenceId(6)), (SequenceId(8), SequenceId(8))];
    rig.follower = Follower::new(SOURCE, SequenceId(9), missing, rig.now);
    rig.up(SOURCE);
    rig.up(OTHER);
    assert_eq!(rig.asks(OTHER), Some((1, Some(6))));
    assert_eq!(stated(rig.answer(OTHER, vec![gap(2, 6), StrandItem::End])), []);
    rig.down(OTHER);
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(SOURCE), Some((1, Some(6))));
    // A statement about more than it was asked for counts for the want alone.
    let effects = rig.answer(SOURCE, vec![gap(2, 4), gap(5, 99), StrandItem::End]);
    assert_eq!(stated(effects), [expired(2, 4), expired(5, 6)]);
    rig.follower.handle_expired(SequenceId(2), SequenceId(4));
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(SOURCE), Some((7, Some(8))));
    rig.answer(SOURCE, vec![StrandItem::End]);
    rig.wait(FILL_EVERY);
    assert_eq!(rig.asks(SOURCE), Some((4, Some(6))), "not marked yet");
    rig.follower.handle_expired(SequenceId(5), SequenceId(6));
    rig.answer(SOURCE, vec![StrandItem::End]);
    rig.wait(FILL_PAUSE);
    assert_eq!(rig.asks(SOURCE), Some((7, Some(8))), "the others have their turn");
}
