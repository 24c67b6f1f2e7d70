//! The newest visible envelope, over a store.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::testing::{Dice, append, committed, cursor, id, id_of, store, topic};
use super::*;
use crate::runtime::Heads;
use crate::runtime::{Hub, Reader};

fn reader_of(envelopes: &[(EnvelopeId, u8, i64, Vec<EnvelopeId>)]) -> Reader {
    let store = store();
    let mut heads = Cursor::new();
    for (id, name, ns, depends_on) in envelopes {
        let envelope = committed(*id, topic(*name), *ns, depends_on.clone());
        store.commit(&[append(&envelope)]).unwrap();
        heads.advance(*id);
    }
    Reader::new(store, Heads::new(heads), Hub::new())
}

fn newest(reader: &Reader, names: &[u8]) -> Vec<Option<EnvelopeId>> {
    let topics: Vec<Topic> = names.iter().map(|&name| topic(name)).collect();
    reader.newest(&topics).unwrap().iter().map(|bytes| bytes.as_ref().map(id_of)).collect()
}

#[test]
fn answers_are_aligned_with_the_request_also_for_repeated_and_unknown_topics() {
    let reader = reader_of(&[
        (id(100, 1), 1, 10, vec![]),
        (id(100, 2), 2, 20, vec![]),
        (id(200, 1), 1, 5, vec![]),
    ]);
    let got = newest(&reader, &[2, 1, 9, 2, 1]);
    let (one, two) = (Some(id(100, 1)), Some(id(100, 2)));
    assert_eq!(got, [two, one, None, two, one]);
}

#[test]
fn of_equal_times_the_highest_id_wins() {
    let reader = reader_of(&[(id(100, 1), 1, 10, vec![]), (id(200, 1), 1, 10, vec![])]);
    assert_eq!(newest(&reader, &[1]), [Some(id(200, 1))]);
}

#[test]
fn what_waits_for_its_commit_is_passed_over_however_much_of_it_there_is() {
    let mut envelopes = vec![(id(0, 1), 2, 1, vec![]), (id(200, 1), 1, 2, vec![])];
    envelopes.push((id(100, 1), 1, 3, vec![id(0, 1)]));
    for sequence in 2..=500 {
        let at = i64::try_from(sequence).unwrap() + 10;
        envelopes.push((id(100, sequence), 1, at, vec![id(0, 2)]));
    }
    let reader = reader_of(&envelopes);
    assert_eq!(newest(&reader, &[1]), [Some(id(100, 1))]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_newest_is_the_last_visible_one_of_some_strand(seed: u64) {
        let dice = &mut Dice::new(seed);
        let mut envelopes = Vec::new();
        let len = 1 + dice.below(300);
        for originator in [0, 100, 200] {
            let mut ns = 0;
            for sequence in 1..=dice.below(len) {
                ns += i64::try_from(dice.below(4)).unwrap();
                let on = id(0, dice.below(len * 2));
                let depends_on = if dice.chance(2) { vec![on] } else { vec![] };
                let name = u8::try_from(dice.below(4)).unwrap();
                envelopes.push((id(originator, sequence), name, ns, depends_on));
            }
        }
        let heads: Cursor = envelopes.iter().map(|(id, ..)| *id).collect();
        let mut expected = vec![None; 5];
        for name in 0..4u8 {
            let mut last = BTreeMap::new();
            for (id, _, ns, depends_on) in envelopes.iter().filter(|row| row.1 == name) {
                let visible = id.originator == cursor(&[(0, 1)]).iter().next().unwrap().originator
                    || depends_on.iter().all(|on| heads.covers(*on));
                if visible {
                    last.insert(id.originator, (*ns, *id));
                }
            }
            expected[usize::from(name)] = last.into_values().max().map(|(_, id)| id);
        }
        prop_assert_eq!(newest(&reader_of(&envelopes), &[0, 1, 2, 3, 4]), expected);
    }
}
