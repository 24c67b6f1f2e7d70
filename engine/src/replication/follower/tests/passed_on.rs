//! Envelopes that a peer passes on without having checked them.

use super::*;

/// The rules that the originator of an envelope can have broken.
const OF_ORIGINATORS: [PeerViolation; 3] =
    [PeerViolation::NotCanonical, PeerViolation::ChainProof, PeerViolation::ForgedSignature];

/// Returns an envelope that no node takes.
fn bad(violation: PeerViolation) -> StrandItem<VerifyResult> {
    StrandItem::Envelope(Err(violation))
}

/// A hostile node could otherwise give such envelopes to a peer of other software, and so delay that peer's strand.
#[test]
fn other_software_that_passes_on_what_it_has_not_checked_keeps_its_connection() {
    for violation in OF_ORIGINATORS {
        let mut rig = Rig::new(7);
        rig.follower.handle_peer_up(rig.now, OTHER, SequenceId(20));
        rig.effects();
        assert_eq!(rig.asks(OTHER), Some((7, None)));
        let mut items = envelopes([8]);
        items.push(bad(violation));
        items.extend(envelopes([9]));
        let effects = rig.answer(OTHER, items);
        assert_eq!(effects, [Effect::Stop { peer: OTHER }, appends([8])]);
        rig.follower.handle_durable(SequenceId(8));
        let almost = SEARCH_FOR - Duration::from_secs(1);
        assert_eq!(rig.wait(almost), [], "it would send the same again");
        rig.wait(Duration::from_secs(1));
        assert_eq!(rig.asks(OTHER), Some((8, None)));
    }
}

#[test]
fn what_other_software_has_not_checked_is_taken_from_another_peer() {
    let mut rig = Rig::three(7);
    rig.claims(OTHER, 20);
    rig.claims(THIRD, 9);
    rig.down(SOURCE);
    assert_eq!(rig.asked_without_end(), [OTHER]);
    rig.answer(OTHER, vec![bad(PeerViolation::ForgedSignature)]);
    assert_eq!(rig.asked_without_end(), [THIRD]);
    assert_eq!(rig.asks(THIRD), Some((7, None)));
}

#[test]
fn who_has_checked_or_made_an_envelope_has_no_such_excuse() {
    for violation in OF_ORIGINATORS {
        let mut rig = Rig::new(7);
        rig.follower.handle_peer_up(rig.now, OTHER, SequenceId(20));
        rig.follower.handle_proven(OTHER);
        rig.effects();
        let effects = rig.answer(OTHER, vec![bad(violation)]);
        assert_eq!(effects, [Effect::Disconnect { peer: OTHER, violation }]);
        let mut rig = Rig::connected(7);
        let effects = rig.answer(SOURCE, vec![bad(violation)]);
        assert_eq!(effects, [Effect::Disconnect { peer: SOURCE, violation }]);
    }
    // An order that it chooses itself.
    let mut rig = Rig::new(7);
    rig.follower.handle_peer_up(rig.now, OTHER, SequenceId(20));
    rig.effects();
    let effects = rig.answer(OTHER, envelopes([8, 8]));
    let violation = PeerViolation::OutOfOrder;
    assert!(effects.contains(&Effect::Disconnect { peer: OTHER, violation }), "{effects:?}");
}

#[test]
fn in_a_search_such_a_peer_counts_as_one_that_does_not_hold_the_places() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.answer(SOURCE, envelopes([1, 3]));
    assert_eq!(rig.asks(OTHER), Some((1, Some(2))));
    let effects = rig.answer(OTHER, vec![bad(PeerViolation::ForgedSignature)]);
    assert_eq!(effects, [Effect::Stop { peer: OTHER }]);
    assert!(rig.follower.is_searching(), "another peer may hold them");
    rig.wait(SEARCH_AGAIN_AFTER);
    assert_eq!(rig.asks(OTHER), Some((1, Some(2))), "it may have got them since");
}

/// Played by the strand's node, which has told two stories, and has the holder of the second one pass on a forged
/// envelope. No peer has said anything about the gap that the node leaves meanwhile.
#[test]
fn what_such_a_peer_passes_on_in_a_dispute_answers_no_search() {
    let mut rig = Rig::connected(9);
    rig.up(OTHER);
    rig.follower.handle_disputed(rig.now, OTHER, SequenceId(4), SequenceId(9));
    rig.effects();
    assert_eq!(rig.asks(OTHER), Some((4, Some(9))));
    rig.answer(SOURCE, envelopes([11]));
    assert_eq!(rig.asks(OTHER), Some((4, Some(9))), "the dispute has time");
    rig.answer(OTHER, vec![bad(PeerViolation::ForgedSignature)]);
    assert_eq!(rig.asks(OTHER), Some((9, Some(10))));
    assert_eq!(count_appends(&rig.wait(3 * SEARCH_FOR)), 0, "nothing is marked missing");
    rig.answer(OTHER, envelopes([10]));
    assert_eq!(rig.follower.accepted(), SequenceId(10));
}
