//! Tests of the allowances of peers.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const PEER: OriginatorId = OriginatorId(300);
const HONEST: OriginatorId = OriginatorId(400);

/// A peer that came for the first time an hour before the returned time.
fn settled() -> (WaitAllowances, Instant) {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let first = Instant::now();
    let mut allowances = WaitAllowances::new(first);
    assert!(allowances.note_change(first, PEER));
    (allowances, first + 60 * SEARCH_FOR)
}

/// Beside an honest one, ten peers that have used their allowances up at the returned time.
fn ten_used_up() -> (WaitAllowances, Instant, Vec<OriginatorId>) {
    let (mut allowances, now) = settled();
    let peers: Vec<_> = (10..20).map(OriginatorId).collect();
    for peer in peers.iter().chain([&HONEST]) {
        assert!(allowances.note_change(now, *peer));
    }
    peers.iter().for_each(|peer| allowances.take(now, *peer, ALLOWANCE_MAX));
    (allowances, now, peers)
}

#[test]
fn a_search_rests_for_a_peer_that_has_come_or_gone() {
    for settles_for in [SEARCH_AGAIN_AFTER, SEARCH_FOR] {
        let (mut allowances, now) = settled();
        assert!(allowances.note_change(now, PEER));
        let (end, next) = (now + settles_for, now + SECOND);
        assert_eq!(allowances.settles_until(next, settles_for), Some(end), "before it is paid");
        assert_eq!(allowances.settle(next, PEER, settles_for), Some(end));
        assert_eq!(allowances.left_at(PEER, next).as_secs(), 60 - settles_for.as_secs());
        // Further searches cost nothing more.
        let before = allowances.left_at(PEER, next);
        assert_eq!(allowances.settle(now + 9 * SECOND, PEER, settles_for), Some(end));
        assert!(allowances.left_at(PEER, now + 9 * SECOND) >= before);
    }
}

/// Each time would be a minute otherwise, as long as ten seconds are left.
#[test]
fn searches_rest_for_a_peer_that_comes_and_goes_for_a_minute_in_all() {
    let (mut allowances, begin) = settled();
    let (mut now, mut rested) = (begin, Duration::ZERO);
    while now < begin + 10 * SEARCH_FOR {
        allowances.note_change(now, PEER);
        let until = allowances.settle(now, PEER, SEARCH_FOR).unwrap().max(now);
        rested += until - now;
        now = until + SECOND;
    }
    assert!(rested <= 2 * SEARCH_FOR, "a minute, and one that came back in ten: {rested:?}");
}

/// At the start of this node each peer comes for the first time.
#[test]
fn the_first_connection_of_a_peer_costs_nothing() {
    let (mut allowances, later) = settled();
    let first = later - 60 * SEARCH_FOR;
    assert_eq!(allowances.settle(first, PEER, SEARCH_FOR), Some(first + SEARCH_FOR));
    assert_eq!(allowances.left_at(PEER, first), ALLOWANCE_MAX);
}

/// Each of them would have its minute back in ten, so that one of them has one in each minute.
#[test]
fn ten_peers_get_back_together_what_one_would() {
    let (mut allowances, now, peers) = ten_used_up();
    let later = now + 10 * SEARCH_FOR;
    for is_given in [false, true] {
        if is_given {
            allowances.give_back(later);
        }
        for peer in &peers {
            assert_eq!(allowances.left_at(*peer, later), ALLOWANCE_MAX / 10, "{is_given}");
        }
    }
}

/// Searches wait for the honest peer as if the silent ones were not there, and it gets its share of the allowance that
/// is restored.
#[test]
fn an_honest_peer_loses_nothing_to_others_that_are_silent() {
    let (mut allowances, now, peers) = ten_used_up();
    assert_eq!(allowances.left_at(HONEST, now), ALLOWANCE_MAX);
    let used_up: BTreeSet<_> = peers.into_iter().collect();
    assert_eq!(allowances.settle_all(now + SEARCH_FOR, SEARCH_FOR), used_up);
    let later = now + SEARCH_FOR;
    allowances.take(later, HONEST, SECOND);
    assert_eq!(allowances.left_at(HONEST, later + 110 * SECOND), ALLOWANCE_MAX);
}

#[test]
fn a_peer_that_lacks_little_leaves_the_rest_of_its_share_to_others() {
    let (mut allowances, now) = settled();
    assert!(allowances.note_change(now, HONEST));
    allowances.take(now, HONEST, SECOND);
    allowances.take(now, PEER, ALLOWANCE_MAX);
    // Two seconds to share in the first twenty, and then one in ten.
    let later = now + 120 * SECOND;
    allowances.give_back(later);
    assert_eq!(allowances.left_at(HONEST, later), ALLOWANCE_MAX);
    assert_eq!(allowances.left_at(PEER, later), 11 * SECOND);
    allowances.give_back(later + 600 * SECOND);
    assert_eq!(allowances.lacks(), (Duration::ZERO, 0));
}
