//! Tests of the allowance of one peer.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A peer that came for the first time an hour before the returned time.
fn settled() -> (WaitAllowance, Instant) {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let first = Instant::now();
    (WaitAllowance::new(first), first + 60 * SEARCH_FOR)
}

#[test]
fn a_search_rests_for_a_peer_that_has_come_or_gone() {
    for settles_for in [SEARCH_AGAIN_AFTER, SEARCH_FOR] {
        let (mut allowance, now) = settled();
        assert!(allowance.note_change(now));
        let end = now + settles_for;
        assert_eq!(allowance.settles_until(now + SECOND, settles_for), end, "before it is paid");
        assert_eq!(allowance.settle(now + SECOND, settles_for), end);
        assert_eq!(allowance.left_at(now + SECOND).as_secs(), 60 - settles_for.as_secs());
        // Further searches cost nothing more.
        assert_eq!(allowance.settle(now + 9 * SECOND, settles_for), end);
        assert!(allowance.left_at(now + 9 * SECOND) >= allowance.left_at(now + SECOND));
    }
}

/// Each time would be a minute otherwise, as long as ten seconds are left.
#[test]
fn searches_rest_for_a_peer_that_comes_and_goes_for_a_minute_in_all() {
    let (mut allowance, begin) = settled();
    let (mut now, mut rested) = (begin, Duration::ZERO);
    while now < begin + 10 * SEARCH_FOR {
        allowance.note_change(now);
        let until = allowance.settle(now, SEARCH_FOR).max(now);
        rested += until - now;
        now = until + SECOND;
    }
    assert!(rested <= 2 * SEARCH_FOR, "a minute, and one that came back in ten: {rested:?}");
}

/// At the start of this node each peer comes for the first time.
#[test]
fn the_first_connection_of_a_peer_costs_nothing() {
    let (mut allowance, later) = settled();
    let first = later - 60 * SEARCH_FOR;
    assert_eq!(allowance.settle(first, SEARCH_FOR), first + SEARCH_FOR);
    assert_eq!(allowance.left_at(first), ALLOWANCE_MAX);
}
