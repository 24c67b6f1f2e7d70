//! Tests of the claims of one peer.

use super::*;

#[test]
fn a_claim_is_dated_at_most_some_seconds_late_and_few_are_kept() {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let start = Instant::now();
    let mut claims = ClaimTimes::begin(start, SequenceId::NONE);
    let at = |tenth: u64| start + Duration::from_millis(100 * tenth);
    for tenth in 1..=3000 {
        assert!(claims.note(at(tenth), SequenceId(10 * tenth)));
        assert!(!claims.note(at(tenth), SequenceId(10 * tenth - 5)), "it has claimed more");
        assert_eq!(claims.head(), SequenceId(10 * tenth));
        assert!(claims.0.len() <= 26, "{} claims", claims.0.len());
    }
    assert_eq!(claims.since(SequenceId(30_001)), None);
    for tenth in 2401..=3000 {
        let since = claims.since(SequenceId(10 * tenth)).unwrap();
        assert!((at(tenth)..=at(tenth) + 2 * NOTED_EVERY).contains(&since), "{tenth}");
    }
    assert!(claims.since(SequenceId(7)).unwrap() + SEARCH_FOR <= at(3000));
}
