//! Pages of strands in turns, over a store.

use hawser_proto::{Cursor, OriginatorId};

use super::*;
use crate::read::testing::{
    StoppedClock, append, append_invalid, committed, id, ids_of, store, topic,
};
use crate::runtime::Reader;

/// A hostile node has had envelopes stored that break rules, in front of those that readers get.
#[test]
fn a_page_goes_on_behind_invalid_envelopes_and_ends_at_the_heads_of_its_first_turn() {
    let run = u64::try_from(ROWS_PER_TURN).unwrap();
    let store = store();
    let envelope = |sequence| committed(id(100, sequence), topic(1), 1, Vec::new());
    let mut changes: Vec<_> =
        (1..=run).map(|sequence| append_invalid(&envelope(sequence))).collect();
    changes.push(append(&envelope(run + 1)));
    store.commit(&changes).unwrap();
    let reader = Reader::over(store.clone(), Arc::new(StoppedClock(i64::MAX / 2))).unwrap();
    let strands = [OriginatorId(100), OriginatorId(100), OriginatorId(200)];
    let mut query = reader.originators_query(&strands, &Cursor::new(), 0);
    assert_eq!(query.turn(), Ok(None), "more is passed over than a turn looks at");
    store.commit(&[append(&envelope(run + 2))]).unwrap();
    let page = query.turn().unwrap().expect("the rest fits into a turn");
    assert_eq!(ids_of(&page), [id(100, run + 1)]);

    let all = reader.query_originators(&strands, &Cursor::new(), 0).unwrap();
    assert_eq!(ids_of(&all), [id(100, run + 1), id(100, run + 2)]);
}

/// Followers judge envelopes themselves, and payers owe for some of those that are marked.
#[test]
fn envelopes_that_are_marked_invalid_are_in_a_page_only_if_they_are_asked_for() {
    let store = store();
    let envelope =
        |originator, sequence| committed(id(originator, sequence), topic(1), 1, Vec::new());
    let (chain, node) = (1, 100);
    let changes = [
        append(&envelope(node, 1)),
        append_invalid(&envelope(node, 2)),
        append(&envelope(node, 3)),
        append_invalid(&envelope(chain, 1)),
    ];
    store.commit(&changes).unwrap();
    let reader = Reader::over(store, Arc::new(StoppedClock(i64::MAX / 2))).unwrap();
    let strands = [OriginatorId(chain), OriginatorId(node)];
    let query = || reader.originators_query(&strands, &Cursor::new(), 0);
    let page = query().turn().unwrap().expect("it fits into a turn");
    assert_eq!(ids_of(&page), [id(node, 1), id(node, 3)]);
    let page = query().with_marked().turn().unwrap().expect("it fits into a turn");
    assert_eq!(ids_of(&page), [id(node, 1), id(node, 2), id(node, 3)]);
}

/// Played by a caller who names as many originators as a query may, nearly all of which have written nothing.
#[test]
fn the_ends_of_thousands_of_strands_are_looked_up_in_turns() {
    const STRANDS: u32 = 10_000;
    let store = store();
    let held = [id(1000, 1), id(1000 + STRANDS / 2, 1), id(999 + STRANDS, 1)];
    let envelope =
        |&id: &EnvelopeId| append(&committed(id, topic(1), i64::from(id.originator.0), Vec::new()));
    let changes: Vec<_> = held.iter().map(envelope).collect();
    store.commit(&changes).unwrap();
    let reader = Reader::over(store, Arc::new(StoppedClock(i64::MAX / 2))).unwrap();
    let strands: Vec<_> = (1000..1000 + STRANDS).map(OriginatorId).collect();
    let mut query = reader.originators_query(&strands, &Cursor::new(), 0);
    let mut turns = 1;
    let page = loop {
        match query.turn().unwrap() {
            Some(page) => break page,
            None => turns += 1,
        }
    };
    assert_eq!(ids_of(&page), held);
    assert!(turns >= strands.len() * ROWS_PER_SEEK / ROWS_PER_TURN, "{turns} turns");
}
