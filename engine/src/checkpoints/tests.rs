//! Tests of the decisions on checkpoints.

use hawser_proto::merkle::{LeafData, leaf_hash};

use super::*;

const NODE: OriginatorId = OriginatorId(100);

fn root(of: u8) -> TreeHash {
    leaf_hash(LeafData::Signed(&[of]))
}

fn signed(size: u64, of: u8, time_ns: u64) -> Checkpoint {
    Checkpoint { node: NODE, originator: NODE, size, root: root(of), time_ns }
}

fn after(last: Option<Checkpoint>, size: u64, at_last: Option<u8>, now: u64) -> CheckpointDecision {
    let tree = TreeState { size, root: root(9), root_at_last: at_last.map(root) };
    decide(NODE, NODE, last.as_ref(), tree, now)
}

#[test]
fn a_strand_is_signed_when_it_has_grown() {
    assert_eq!(after(None, 0, None, 5), CheckpointDecision::Nothing);
    assert_eq!(after(None, 7, None, 5), CheckpointDecision::Sign(signed(7, 9, 5)));
    let last = Some(signed(7, 1, 5));
    assert_eq!(after(last, 7, Some(1), 6), CheckpointDecision::Nothing);
    assert_eq!(after(last, 8, Some(1), 6), CheckpointDecision::Sign(signed(8, 9, 6)));
}

#[test]
fn the_time_ascends_when_the_clock_does_not() {
    let last = Some(signed(7, 1, 5));
    for now in [0, 4, 5] {
        assert_eq!(after(last, 8, Some(1), now), CheckpointDecision::Sign(signed(8, 9, 6)));
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn a_strand_is_observed_while_its_node_signs_nothing() {
    let start = Instant::now();
    let pace = ObserverPace { after: Duration::from_secs(30), every: Duration::from_secs(5) };
    let mut silent = SilentStrands::new(pace);
    let (signs, is_silent) = (OriginatorId(200), OriginatorId(300));
    let strand = |(originator, signed)| HeldStrand { originator, size: 7, signed };
    let mut at = |seconds, held: &[(OriginatorId, u64)]| {
        let held = || Ok::<_, ()>(held.iter().copied().map(strand).collect());
        silent.due(start + Duration::from_secs(seconds), held).unwrap()
    };
    let both = [(signs, 7), (is_silent, 0)];
    assert_eq!(at(0, &both), []);
    assert_eq!(at(29, &both), [], "it may show its first one yet");
    assert_eq!(at(30, &both), [], "it is not looked at so soon again");
    assert_eq!(at(34, &both), [is_silent]);
    assert_eq!(at(39, &[(signs, 7), (is_silent, 7)]), [], "it signs now");
    assert_eq!(at(80, &both), [], "and has to be silent as long again");
    assert_eq!(at(110, &both), [is_silent]);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "one start; from there on time is an argument")]
fn a_node_that_signs_once_and_no_further_is_observed() {
    let start = Instant::now();
    let pace = ObserverPace { after: Duration::from_secs(30), every: Duration::from_secs(5) };
    let mut silent = SilentStrands::new(pace);
    let originator = OriginatorId(300);
    let mut at = |seconds, size, signed| {
        let held = || Ok::<_, ()>(vec![HeldStrand { originator, size, signed }]);
        silent.due(start + Duration::from_secs(seconds), held).unwrap()
    };
    // It signs a few seconds behind its strand, which grows without a pause.
    for second in (0..120).step_by(5) {
        assert_eq!(at(second, 10 + second, 8 + second), [], "{second}");
    }
    // The last size that it has not signed is held since second 115.
    assert_eq!(at(120, 200, 125), [], "it has signed that, but not what is held now");
    for second in [125, 140, 149] {
        assert_eq!(at(second, 200 + second, 130), [], "{second}");
    }
    assert_eq!(at(155, 500, 130), [originator]);
    assert_eq!(at(160, 500, 499), [], "it has covered what was held");
    assert_eq!(at(165, 500, 500), []);
}

#[test]
fn nothing_that_contradicts_an_earlier_checkpoint_is_signed() {
    let last = Some(signed(7, 1, 5));
    let contradiction = CheckpointDecision::Contradiction { size: 7 };
    assert_eq!(after(last, 8, Some(2), 6), contradiction);
    assert_eq!(after(last, 7, Some(2), 6), contradiction);
    assert_eq!(after(last, 6, None, 6), CheckpointDecision::Nothing);
}
