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

/// The peer may have got the place in between.
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
    assert_eq!(answers.0.len(), ASKED_RANGES_MAX);
    assert!(denies(&answers, 1_100));
    let later = now + SEARCH_AGAIN_AFTER;
    answers.add(later, answer(0, 1, &[], later));
    assert_eq!(answers.0.len(), 1, "the others count no more");
}
