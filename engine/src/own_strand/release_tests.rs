//! Releases that fail, and are tried again.

use super::*;

/// A release that leaves out places up to this one.
fn skip(through: Option<u64>) -> Option<Release> {
    Some(Release { skip_through: through.map(SequenceId) })
}

fn held(held: u64) -> StrandObservation {
    StrandObservation { held: SequenceId(held), ..StrandObservation::default() }
}

/// A guard of an unknown folder, which holds the places up to 5.
fn unknown(start: Instant) -> OwnStrandGuard {
    let standing = FolderStanding::Unknown(UnknownFolder::Contradicted);
    let mut guard = OwnStrandGuard::new(standing, SequenceId::NONE, start, 0);
    guard.observe(start, held(5));
    guard
}

fn say(guard: &mut OwnStrandGuard, start: Instant, gap: u64) {
    let about = guard.status();
    guard.note_confirmation(start, 0, OperatorConfirmation { gap, about });
}

/// Played by a script that starts copies of one folder on several machines at once, restored ones or promoted ones: a
/// majority of peers answers each of them before one has signed.
#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn folders_that_a_majority_releases_at_once_seldom_continue_at_one_place() {
    let start = Instant::now();
    let peer = OriginatorId(200);
    let mut ends = BTreeSet::new();
    for start_ns in 0..100 {
        let gap = gap_of_start(&[7; 16], start_ns);
        assert!((GAP..=GAP_MAX).contains(&gap) && gap.is_multiple_of(GAP), "{gap}");
        let mut guard = unknown(start).with_gap(gap);
        let claims = BTreeMap::from([(peer, Some(SequenceId(5)))]);
        let seen = StrandObservation { others: BTreeSet::from([peer]), claims, ..held(5) };
        guard.observe(start + LISTEN_FOR, seen);
        assert_eq!(guard.release(start + LISTEN_FOR), skip(Some(5 + gap)));
        ends.insert(gap);
    }
    assert!(ends.len() > 60, "{} different ones of 100; 83 are expected", ends.len());
    // Folders that started at the same time, and are no copies.
    let ends: BTreeSet<u64> = (0..100).map(|first| gap_of_start(&[first; 16], 0)).collect();
    assert!(ends.len() > 60, "{} different ones of 100; 83 are expected", ends.len());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn a_release_that_failed_leaves_out_more_only_if_more_is_shown() {
    let start = Instant::now();
    let mut guard = unknown(start);
    say(&mut guard, start, GAP);
    assert_eq!(guard.release(start), skip(Some(5 + GAP)));
    guard.note_left_out();
    guard.observe(start, held(5 + GAP));
    assert_eq!(guard.release(start), skip(None), "the gap is there already");
    guard.note_declared(SequenceId(9), 0);
    guard.observe(start, held(5 + GAP));
    assert_eq!(guard.release(start), skip(Some(9 + GAP)));
    guard.note_left_out();
    guard.observe(start, held(9 + GAP));
    assert_eq!(guard.release(start), skip(None));
    guard.note_released();
    assert_eq!(guard.status(), OwnStrandStatus::Ready);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn places_that_may_be_declared_are_left_out_whatever_the_operator_says_then() {
    let start = Instant::now();
    for gap in [0, 7, GAP] {
        let mut guard = unknown(start);
        say(&mut guard, start, GAP);
        // Several attempts, each of which fails behind the statement.
        for _ in 0..3 {
            assert_eq!(guard.release(start), skip(Some(5 + GAP)), "no gap above the first one");
            guard.note_declaring(SequenceId(5 + GAP));
            guard.observe(start, held(5));
        }
        say(&mut guard, start, gap);
        assert_eq!(guard.release(start), skip(Some(5 + GAP)), "{gap}");
        // A place that a peer shows meanwhile counts with its gap.
        guard.note_declared(SequenceId(9), 0);
        guard.observe(start, held(5));
        assert_eq!(guard.release(start), skip(Some((9 + gap).max(5 + GAP))), "{gap}");
    }
}

/// Two folders continue behind gaps of one width, once in 256 pairs. A peer shows each the other one's statement after
/// both have signed.
#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn a_statement_about_the_same_gap_stops_a_node_that_has_signed_behind_it() {
    let (start, end, later_ns) = (Instant::now(), 5 + GAP, i64::MAX);
    let others = [
        (end, later_ns, true),
        // It signs places that this node has signed meanwhile.
        (end + 1, later_ns, true),
        // With its narrower gap it has to stop by itself.
        (end - 1, later_ns, false),
        // Both operators have confirmed within the seconds by which clocks differ.
        (end, 1, true),
        // One of this node's own earlier runs.
        (end, 0, false),
    ];
    for (through, time_ns, is_second) in others {
        let mut guard = unknown(start);
        say(&mut guard, start, GAP);
        assert_eq!(guard.release(start), skip(Some(end)));
        guard.note_declaring(SequenceId(end));
        guard.note_left_out();
        guard.note_released();
        let seen = StrandObservation { has_signed: true, ..held(end + 3) };
        guard.observe(start, seen.clone());
        guard.note_declared(SequenceId(through), time_ns);
        guard.observe(start, seen);
        let is_stopped = guard.status() == OwnStrandStatus::Stopped;
        assert_eq!(is_stopped, is_second, "{through} at {time_ns}");
    }
}

/// The statements of a node that keeps no more of them are shown again in each session.
#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn a_statement_that_was_shown_before_the_release_stops_nothing_when_it_is_shown_again() {
    let start = Instant::now();
    let mut guard = unknown(start);
    guard.note_declared(SequenceId(9), 1);
    guard.observe(start, held(5));
    say(&mut guard, start, 0);
    assert_eq!(guard.release(start), skip(Some(9)));
    guard.note_declaring(SequenceId(9));
    guard.note_left_out();
    guard.note_released();
    let seen = StrandObservation { has_signed: true, ..held(12) };
    for (through, status) in [(9, OwnStrandStatus::Ready), (10, OwnStrandStatus::Stopped)] {
        guard.observe(start, seen.clone());
        guard.note_declared(SequenceId(through), 1);
        guard.observe(start, seen.clone());
        assert_eq!(guard.status(), status, "{through}");
    }
}

/// The disk hangs when a peer claims more than the node holds, or a repair of the strand does not let go.
#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn the_time_of_a_claim_begins_when_its_peer_is_asked() {
    let (start, peer) = (Instant::now(), OriginatorId(200));
    let mut guard = OwnStrandGuard::new(FolderStanding::Newest, SequenceId::NONE, start, 0);
    let claims = || BTreeMap::from([(peer, Some(SequenceId(9)))]);
    let seen = || StrandObservation { claims: claims(), ..held(5) };
    guard.observe(start, seen());
    let asked_at = start + Duration::from_secs(60);
    guard.note_unasked(asked_at);
    guard.observe(asked_at, seen());
    assert_eq!((guard.source(), guard.release(asked_at)), (Some(peer), None));
    let over_at = asked_at + Duration::from_secs(10);
    guard.observe(over_at, seen());
    assert_eq!((guard.source(), guard.release(over_at)), (None, skip(None)), "it shows nothing");
}

/// A machine was set back. A request had places when a peer showed that, and the disk takes it afterwards.
#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn what_had_places_when_the_gate_closed_stops_the_node_once_it_is_signed() {
    let start = Instant::now();
    let contradicted = || {
        let standing = FolderStanding::Newest;
        let mut guard = OwnStrandGuard::new(standing, SequenceId::NONE, start, 0);
        guard.observe(start, held(5));
        guard.note_released();
        guard.note_shown(start, OriginatorId(200), SequenceId(6), Some(-1));
        guard.observe(start, held(5));
        assert_eq!(guard.status().reason(), Some(UnknownFolder::Contradicted));
        guard
    };
    let signed = |place| StrandObservation { has_signed: true, ..held(place) };
    let mut guard = contradicted();
    guard.observe(start, signed(6));
    assert_eq!(guard.status(), OwnStrandStatus::Stopped);

    // What is signed behind the gap of the release stops nothing.
    let mut guard = contradicted();
    say(&mut guard, start, GAP);
    guard.observe(start, held(6 + GAP));
    guard.note_released();
    guard.observe(start, signed(7 + GAP));
    assert_eq!(guard.status(), OwnStrandStatus::Ready);
}
