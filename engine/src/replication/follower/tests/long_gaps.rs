//! Gaps that are too long to be asked of all peers at once.

use super::search::pass_over;
use super::*;

/// Other software leaves long ranges unused, too. A minute for each would have gateways count this node as late.
#[test]
fn long_gaps_in_a_row_cost_one_minute_together_if_the_strands_own_node_has_left_them() {
    for (source, other, further) in
        [(SOURCE, OTHER, SEARCH_AGAIN_AFTER), (OTHER, THIRD, SEARCH_FOR)]
    {
        let mut rig = Rig::new(0);
        rig.follower.handle_peer_up(rig.now, source, SequenceId(50_000));
        rig.follower.handle_peer_up(rig.now, other, SequenceId::NONE);
        rig.effects();
        rig.answer(source, envelopes([1]));
        let mut passes = |place| {
            let before = rig.now;
            pass_over(&mut rig, place, None);
            rig.now - before
        };
        assert_eq!(passes(10_000), SEARCH_FOR, "it has just been claimed");
        for place in [20_000, 30_000, 40_000] {
            assert_eq!(passes(place), further, "{source} {place}");
        }
    }
}

/// The peer holds the range and begins to send it late. A node that joins must not pass it over.
#[test]
fn a_long_range_that_a_peer_sends_is_not_passed_over_however_old_the_claim_is() {
    let mut rig = Rig::connected(0);
    rig.up(OTHER);
    rig.claims(SOURCE, 9_000);
    rig.answer(SOURCE, envelopes([1]));
    rig.now += SEARCH_FOR * 2;
    rig.answer(SOURCE, envelopes([5_000]));
    rig.answer(SOURCE, vec![StrandItem::End]);
    assert_eq!(rig.asks(OTHER), Some((1, Some(4_999))));
    assert_eq!(count_appends(&rig.wait(SEARCH_AGAIN_AFTER * 2)), 0, "it may be slow");
    for place in 2..12 {
        assert!(rig.answer(OTHER, envelopes([place])).contains(&appends([place])));
        assert_eq!(count_appends(&rig.wait(Duration::from_secs(1))), 0, "{place}");
    }
    rig.answer(OTHER, envelopes(12..=4_999));
    assert_eq!(rig.follower.accepted(), SequenceId(4_999));
    assert!(!rig.follower.is_searching());
}
