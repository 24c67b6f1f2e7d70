//! Damaged marks cost their own strand, and no other one.

use crate::support::*;
use hawser_proto::{OriginatorId, SequenceId};
use hawser_storage::SkipReason::Missing;
use hawser_storage::{Family, LogItem, Store};

/// Strands behind that of [`PEER`].
const MIDDLE: OriginatorId = OriginatorId(300);
const LAST: OriginatorId = OriginatorId(400);

/// Returns a store with three strands of five places, of which the second and the third are missing. The mark of these
/// is damaged in the first and in the last strand, so the one between has damaged rows on both sides.
fn damaged() -> Store {
    let store = in_memory();
    for strand in [PEER, MIDDLE, LAST] {
        let changes =
            [append(strand, 1), skip(strand, 2, 3, Missing), append(strand, 4), append(strand, 5)];
        store.commit(&changes).unwrap();
    }
    for strand in [PEER, LAST] {
        let key = [&strand.0.to_be_bytes()[..], &2_u64.to_be_bytes()].concat();
        store.put_raw_row(Family::Mark, &key, &[0xff]);
    }
    store
}

#[test]
fn damaged_marks_of_its_neighbours_are_no_error_of_a_strand() {
    let store = damaged();
    let snapshot = store.snapshot();
    let items: Vec<_> = snapshot.log(id(MIDDLE, 0), SequenceId(5)).map(Result::unwrap).collect();
    let (from, through) = (SequenceId(2), SequenceId(3));
    assert_eq!(items.len(), 4);
    assert_eq!(items[1], LogItem::Skipped { from, through, reason: Missing });
    assert_eq!(snapshot.mark(id(MIDDLE, 1)).unwrap(), None);
    assert!(snapshot.mark(id(PEER, 2)).is_err(), "its own is one");
    assert!(snapshot.mark(id(PEER, 3)).is_err(), "it may cover the next place");
    for place in [1, 4, 5] {
        assert_eq!(snapshot.mark(id(PEER, place)), Ok(None), "no range covers an envelope");
    }
    assert_eq!(snapshot.missing(MIDDLE).unwrap(), [(from, through)]);
    assert_eq!(snapshot.last_missing(MIDDLE, 8).unwrap(), [(from, through)]);
    assert!(snapshot.waiting(MIDDLE).unwrap().is_empty());
    assert_eq!(snapshot.oldest(MIDDLE).unwrap(), None);
    let behind = snapshot.first_not_held(PEER, SequenceId(3), SequenceId(5));
    assert_eq!(behind, Ok(None), "reports go on behind an earlier one that ends there");
    assert!(snapshot.first_not_held(PEER, SequenceId(1), SequenceId(5)).is_err());
    let not_held = snapshot.first_not_held(MIDDLE, SequenceId::NONE, SequenceId(5)).unwrap();
    assert_eq!(not_held, Some((from, through)));
    for place in [1, 2, 6] {
        store.commit(&[append(MIDDLE, place)]).unwrap();
    }
    assert_eq!(store.snapshot().missing(MIDDLE).unwrap(), [(through, through)]);
}

/// Each query asks what has expired in all strands.
#[test]
fn a_strand_with_damaged_marks_may_have_expired_as_a_whole_and_others_have_not() {
    let store = damaged();
    assert_eq!(*store.oldest().unwrap(), [id(PEER, 6), id(LAST, 6)]);
}
