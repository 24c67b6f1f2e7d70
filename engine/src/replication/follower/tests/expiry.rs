//! Places that have expired at their own node, and those that cannot have.

use hawser_proto::{Topic, TopicKind};
use hawser_storage::Facts;

use super::*;

#[test]
fn what_is_too_young_to_have_expired_is_searched_for() {
    let dated = |sequence, originator_ns| {
        let facts = Facts {
            topic: Topic::new(TopicKind::GroupMessages, &[1]).unwrap(),
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
    };
    let gap =
        |from, to| StrandItem::Gap { from: SequenceId(from), to: SequenceId(to), expired: true };
    let two_days_ns = 2 * 86_400 * 1_000_000_000;
    for (age_ns, accepted) in [(two_days_ns, 5), (two_days_ns - 1, 0)] {
        let mut rig = Rig::connected(0);
        rig.follower.note_wall(10 * two_days_ns);
        rig.answer(SOURCE, vec![gap(1, 4), dated(5, 10 * two_days_ns - age_ns)]);
        assert_eq!(rig.follower.accepted(), SequenceId(accepted));
        assert_eq!(rig.follower.is_searching(), accepted == 0);
    }
    // A relay shows the envelope, and the strand's own node says only that the places before it have expired.
    for (age_ns, is_over) in [(two_days_ns, true), (two_days_ns - 1, false)] {
        let mut rig = Rig::connected(0);
        rig.follower.note_wall(10 * two_days_ns);
        rig.answer(SOURCE, vec![dated(5, 10 * two_days_ns - age_ns)]);
        assert!(rig.follower.is_searching());
        rig.answer(SOURCE, vec![gap(1, 3)]);
        assert!(rig.follower.is_searching(), "a part of it");
        let mut rig = Rig::connected(0);
        rig.follower.note_wall(10 * two_days_ns);
        rig.answer(SOURCE, vec![dated(5, 10 * two_days_ns - age_ns)]);
        rig.answer(SOURCE, vec![gap(1, 4)]);
        assert_eq!(rig.follower.is_searching(), !is_over);
        assert_eq!(rig.follower.accepted(), SequenceId(if is_over { 4 } else { 0 }));
    }
}
