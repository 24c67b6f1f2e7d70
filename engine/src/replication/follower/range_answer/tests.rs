//! Tests of the answers of one peer.

use super::*;

/// Returns an answer for a range, of a peer that has sent these places.
fn answer(after: u64, up_to: u64, sent: &[u64], at: Instant) -> RangeAnswer {
    let mut shown = ShownPlaces::of_short(SequenceId(after), SequenceId(up_to)).unwrap();
    sent.iter().for_each(|place| shown.add(SequenceId(*place)));
    RangeAnswer::new(shown, SequenceId(up_to), at)
}

#[test]
fn an_answer_denies_what_it_covers_and_does_not_show() {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let now = Instant::now();
    let mut answers = RangeAnswers::default();
    answers.add(now, answer(100, 1_124, &[101, 164, 165, 1_124, 1_125, 100, 0], now));
    let denies = |from, through| answers.denies(now, SequenceId(from), SequenceId(through));
    for (from, through, expected) in [
        (102, 163, true),
        (102, 164, false),
        (165, 165, false),
        (166, 1_123, true),
        (1_123, 1_124, false),
        (100, 100, false),
        (1_125, 1_125, false),
    ] {
        assert_eq!(denies(from, through), expected, "{from} to {through}");
    }
    assert!(ShownPlaces::of_short(SequenceId(0), SequenceId(1_025)).is_none(), "not short");
    let shown = ShownPlaces::of_short(SequenceId(0), SequenceId(1_024)).unwrap();
    assert_eq!(shown.words.len() * size_of::<u64>(), 128);
}

#[test]
fn of_a_range_whose_gaps_were_asked_for_what_is_not_named_is_not_denied() {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let now = Instant::now();
    let places = |from, to| (SequenceId(from), SequenceId(to));
    let mut answer = RangeAnswer::without_gaps(places(100, 1_123), now).unwrap();
    for (from, to) in [(0, 101), (500, 500), (1_120, u64::MAX), (40, 50), (2_000, 3_000)] {
        answer.note_gap(places(from, to));
    }
    for (from, through, expected) in [
        (100, 101, true),
        (101, 102, false),
        (102, 499, false),
        (500, 500, true),
        (1_120, 1_123, true),
        (1_123, 1_124, false),
        (99, 100, false),
    ] {
        let denies = answer.denies(now, SequenceId(from), SequenceId(through));
        assert_eq!(denies, expected, "{from} to {through}");
    }
    assert!(RangeAnswer::without_gaps(places(1, 1_025), now).is_none(), "not short");
}

/// The peer may have received the place in between.
#[test]
fn the_newest_answer_about_a_place_counts_and_few_are_kept() {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let now = Instant::now();
    let mut answers = RangeAnswers::default();
    let denies = |answers: &RangeAnswers, place| {
        let place = SequenceId(place);
        answers.denies(now, place, place)
    };
    answers.add(now, answer(0, 9, &[], now));
    answers.add(now, answer(9, 10, &[], now));
    assert!(denies(&answers, 5) && denies(&answers, 10));
    answers.add(now, answer(4, 6, &[5], now));
    assert!(!denies(&answers, 5) && denies(&answers, 10));
    for range in 0..1_000 {
        answers.add(now, answer(100 + range, 101 + range, &[], now));
    }
    assert_eq!(answers.ranges.len(), ASKED_RANGES_MAX);
    assert!(denies(&answers, 1_100));
    let later = now + SEARCH_AGAIN_AFTER;
    answers.add(later, answer(0, 1, &[], later));
    assert_eq!(answers.ranges.len(), 1, "the others count no more");
}

/// Returns an answer that names these gaps, about the places up to 1,000,000.
fn named(gaps: impl IntoIterator<Item = Places>, at: Instant) -> NamedGaps {
    let mut named = NamedGaps::new(SequenceId(0), SequenceId(1_000_000), at);
    gaps.into_iter().for_each(|gap| named.add(gap));
    named
}

fn places(from: u64, through: u64) -> Places {
    (SequenceId(from), SequenceId(through))
}

#[test]
fn named_gaps_deny_their_places_and_no_others() {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let now = Instant::now();
    let mut answers = RangeAnswers::default();
    // Two of them side by side are one.
    answers.add_named(named([places(3, 5), places(6, 9), places(11, 11)], now));
    for (from, through, expected) in [
        (2, 3, false),
        (3, 9, true),
        (5, 6, true),
        (9, 10, false),
        (9, 11, false),
        (10, 10, false),
        (11, 11, true),
        (12, 12, false),
    ] {
        let (from, through) = places(from, through);
        assert_eq!(answers.denies(now, from, through), expected, "{from} to {through}");
        assert_eq!(answers.says_none(now, from, through), expected, "{from} to {through}");
    }
    assert!(!answers.denies(now + SEARCH_AGAIN_AFTER, SequenceId(4), SequenceId(4)));
}

/// A peer can send as many as its frames allow.
#[test]
fn few_named_gaps_are_kept_and_the_others_deny_nothing() {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let now = Instant::now();
    let mut answers = RangeAnswers::default();
    answers.add_named(named((1..10_000).map(|number| places(2 * number, 2 * number)), now));
    let last = 2 * MAX_ANSWERED_GAPS as u64;
    for (place, expected) in [(2, true), (last, true), (last + 2, false), (19_998, false)] {
        assert_eq!(answers.denies(now, SequenceId(place), SequenceId(place)), expected, "{place}");
    }
}

/// The peer may have received the place in between.
#[test]
fn of_named_gaps_and_an_answer_about_a_range_the_newer_one_counts() {
    #[expect(clippy::disallowed_methods, reason = "any moment will do to count from")]
    let now = Instant::now();
    let denies =
        |answers: &RangeAnswers, place| answers.denies(now, SequenceId(place), SequenceId(place));
    let mut answers = RangeAnswers::default();
    answers.add_named(named([places(3, 9)], now));
    answers.add(now, answer(3, 6, &[5], now));
    assert_eq!(
        [3, 4, 5, 6, 7].map(|place| denies(&answers, place)),
        [true, true, false, true, true]
    );
    answers.add_named(named([places(5, 5)], now));
    assert_eq!([3, 4, 5, 6].map(|place| denies(&answers, place)), [false, false, true, false]);
}
