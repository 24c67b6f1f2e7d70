//! The newest visible envelope, over a store.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::testing::{
    Dice, MemoryRows, StoppedClock, append, committed, id, id_of, store, topic,
};
use super::*;
use crate::runtime::Heads;
use crate::runtime::Reader;
use crate::runtime::read::hub::Hub;

const NOW_NS: i64 = 1_800_000_000_000_000_000;
const FAR_NS: i64 = 4_102_444_800_000_000_000; // the year 2100

fn reader_of(envelopes: &[(EnvelopeId, u8, i64, Vec<EnvelopeId>)]) -> Reader {
    let store = store();
    let mut heads = Cursor::new();
    for (id, name, ns, depends_on) in envelopes {
        let envelope = committed(*id, topic(*name), *ns, depends_on.clone());
        store.commit(&[append(&envelope)]).unwrap();
        heads.advance(*id);
    }
    Reader::new(store, Heads::new(heads), Hub::new(), Arc::new(StoppedClock(NOW_NS)))
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
fn any_number_of_dependants_is_passed_over() {
    let mut envelopes = vec![(id(0, 1), 2, 1, vec![]), (id(200, 1), 1, 2, vec![])];
    envelopes.push((id(100, 1), 1, 3, vec![id(0, 1)]));
    for sequence in 2..=500 {
        let at = i64::try_from(sequence).unwrap() + 10;
        envelopes.push((id(100, sequence), 1, at, vec![id(0, 2)]));
    }
    let reader = reader_of(&envelopes);
    assert_eq!(newest(&reader, &[1]), [Some(id(100, 1))]);
}

/// At a node that has strands of the older network, a payer names such a place in many messages, so that other nodes
/// search below them, and miss those of members in between.
#[test]
fn a_message_that_names_a_strand_which_this_node_lacks_may_be_the_newest() {
    let mut envelopes = vec![];
    for sequence in 1..=100 {
        let on = if sequence == 30 { vec![] } else { vec![id(11, 7)] };
        envelopes.push((id(100, sequence), 1, i64::try_from(sequence).unwrap(), on));
    }
    let reader = reader_of(&envelopes);
    assert_eq!(newest(&reader, &[1]), [Some(id(100, 100))]);
}

#[test]
fn a_time_that_has_not_come_hides_nothing() {
    let reader = reader_of(&[
        (id(100, 1), 1, NOW_NS - 10, vec![]),
        (id(200, 1), 1, NOW_NS - 20, vec![]),
        (id(200, 2), 1, FAR_NS, vec![]),
        (id(200, 3), 2, NOW_NS - 40, vec![]),
        (id(300, 1), 1, NOW_NS + FUTURE_NS_MAX + 1, vec![]),
        (id(100, 2), 2, NOW_NS - 50, vec![]),
        (id(100, 3), 3, FAR_NS, vec![]),
        (id(200, 4), 3, FAR_NS - 1, vec![]),
        (id(200, 5), 3, FAR_NS - 2, vec![]),
        (id(100, 4), 4, NOW_NS + FUTURE_NS_MAX, vec![]),
        (id(100, 5), 5, NOW_NS - 10, vec![]),
        (id(300, 2), 5, NOW_NS + 1, vec![]),
        (id(300, 3), 5, NOW_NS + FUTURE_NS_MAX, vec![]),
    ]);
    let expected = [id(100, 1), id(200, 3), id(200, 5), id(100, 4), id(100, 5)];
    assert_eq!(newest(&reader, &[1, 2, 3, 4, 5]), expected.map(Some));
}

/// The clocks of honest nodes differ a little.
#[test]
fn what_a_node_dates_a_little_ahead_is_its_last_at_once() {
    let reader = reader_of(&[
        (id(100, 1), 1, NOW_NS - 20, vec![]),
        (id(200, 1), 1, NOW_NS - 10, vec![]),
        (id(200, 2), 1, NOW_NS + FUTURE_NS_MAX, vec![]),
        (id(200, 3), 1, NOW_NS + FUTURE_NS_MAX + 1, vec![]),
        (id(100, 2), 2, NOW_NS - 20, vec![]),
        (id(100, 3), 2, NOW_NS + 1, vec![]),
        (id(200, 4), 3, NOW_NS + 2, vec![]),
        (id(300, 1), 3, NOW_NS + 1, vec![]),
        (id(0, 1), 4, NOW_NS + FUTURE_NS_MAX, vec![]),
        (id(100, 4), 4, NOW_NS, vec![]),
    ]);
    let expected = [id(200, 2), id(100, 3), id(300, 1), id(0, 1)];
    assert_eq!(newest(&reader, &[1, 2, 3, 4]), expected.map(Some), "of 4, no node dates 0:1");
}

#[test]
fn a_node_that_is_always_a_little_ahead_hides_no_other() {
    const AHEAD_NS: i64 = FUTURE_NS_MAX - 1_000_000_000;
    let (mut rows, mut now_ns) = (vec![], NOW_NS);
    for round in 1..=200 {
        rows.push(row(id(200, round), now_ns + AHEAD_NS, vec![]));
        now_ns += AHEAD_NS / 2;
        rows.push(row(id(100, round), now_ns, vec![]));
        let heads: Cursor = [id(100, round), id(200, round)].into_iter().collect();
        let (newest, reads) = ask_at(&rows, &heads, now_ns);
        assert_eq!(newest, Some(id(100, round)), "round {round}");
        assert!(reads <= 10, "{reads} rows were read");
        now_ns += AHEAD_NS / 2;
        let newest = ask_at(&rows, &heads, now_ns).0;
        assert_eq!(newest, Some(id(200, round)), "its time has come in round {round}");
    }
}

#[test]
fn in_a_strand_its_order_decides_and_across_strands_the_time() {
    let reader = reader_of(&[
        (id(100, 1), 1, NOW_NS - 30, vec![]),
        (id(200, 1), 1, NOW_NS - 10, vec![]),
        (id(200, 2), 1, NOW_NS - 40, vec![]),
    ]);
    assert_eq!(newest(&reader, &[1]), [Some(id(100, 1))], "200:2 is the last that 200 says");
}

/// The answer by looking at every row.
fn model(rows: &[TopicRow], heads: &Cursor) -> Option<EnvelopeId> {
    let visible = |row: &&TopicRow| {
        !row.id.originator.is_node() || row.depends_on.iter().all(|on| heads.covers(*on))
    };
    // For each strand, the last that its readers may see, the last that is not far ahead, and the last time that has
    // come.
    let mut strands: BTreeMap<_, (&TopicRow, Option<&TopicRow>, Option<i64>)> = BTreeMap::new();
    for row in rows.iter().filter(visible) {
        let (last, near, come) = strands.entry(row.id.originator).or_insert((row, None, None));
        *last = row;
        let is_near = row.originator_ns <= NOW_NS + FUTURE_NS_MAX;
        if is_near {
            *near = Some(row);
        }
        if row.originator_ns <= NOW_NS || (is_near && !row.id.originator.is_node()) {
            *come = Some(row.originator_ns);
        }
    }
    let ranked = strands.into_values().map(|(last, near, come)| {
        let shown = near.unwrap_or(last);
        (come.is_some(), come.unwrap_or(shown.originator_ns.saturating_neg()), shown.id)
    });
    ranked.max().map(|(_, _, id)| id)
}

/// Asks for the newest of topic 1 in memory. Returns it and the number of rows that were looked at.
fn ask(rows: &[TopicRow], heads: &Cursor) -> (Option<EnvelopeId>, usize) {
    ask_at(rows, heads, NOW_NS)
}

fn ask_at(rows: &[TopicRow], heads: &Cursor, now_ns: i64) -> (Option<EnvelopeId>, usize) {
    let mut memory = MemoryRows::default();
    rows.iter().for_each(|row| memory.insert(topic(1), row.clone()));
    let found = newest_visible(&mut memory, heads, &topic(1), now_ns).unwrap().map(|row| row.id);
    (found, memory.reads)
}

fn row(id: EnvelopeId, originator_ns: i64, depends_on: Vec<EnvelopeId>) -> TopicRow {
    TopicRow { id, originator_ns, len_bytes: 9, depends_on, envelope: None }
}

/// A hostile node fills the topic with envelopes of 2100, or with such that wait for ever.
#[test]
fn a_hundred_thousand_rows_that_do_not_count_cost_few_reads() {
    for kind in 0..4 {
        let mut rows = vec![row(id(100, 1), NOW_NS - 500, vec![])];
        rows.extend((1..=50_000).map(|n| row(id(200, 3 * n), NOW_NS - 100_000 + n as i64, vec![])));
        rows.extend((50_001..=150_000).map(|n| match kind {
            0 => row(id(200, 3 * n), FAR_NS + n as i64, vec![]),
            1 => row(id(200, 3 * n), NOW_NS - 1, vec![id(0, 1 << 62)]),
            2 => row(id(200, 3 * n), NOW_NS + n as i64, vec![]),
            _ => row(
                id(200, 3 * n),
                if n % 2 == 0 { FAR_NS } else { i64::MIN },
                vec![id(0, 1 << 62)],
            ),
        }));
        let heads: Cursor = [id(100, 1), id(200, 1_000_000)].into_iter().collect();
        let (newest, reads) = ask(&rows, &heads);
        // 50,000 rows below NOW - 50,000 ns: older than that of 100.
        assert_eq!(newest, Some(id(100, 1)));
        rows.remove(0);
        let last = if kind == 2 { 450_000 } else { 150_000 };
        assert_eq!(ask(&rows, &heads).0, Some(id(200, last)), "kind {kind}");
        assert!(reads <= 250, "{reads} rows were read");
    }
}

/// Rows of some strands in the topic. `dated` gives the time of each.
fn strands(dice: &mut Dice, mut dated: impl FnMut(&mut Dice, i64) -> i64) -> Vec<TopicRow> {
    let mut rows = Vec::new();
    for originator in [0, 100, 200, 300] {
        let (mut ns, mut sequence) = (NOW_NS - 400, 0);
        for _ in 0..dice.below(200) {
            sequence += 1 + dice.below(3);
            ns = dated(dice, ns);
            rows.push(row(id(originator, sequence), ns, vec![]));
        }
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Honest strands, one of which may date ahead for good.
    #[test]
    fn of_strands_in_the_order_of_their_times_the_newest_is_that_of_the_model(seed: u64) {
        let dice = &mut Dice::new(seed);
        let rows = strands(dice, |dice, ns| {
            let step = i64::try_from(dice.below(6)).unwrap();
            if dice.chance(400) { ns.max(FAR_NS) + step } else { ns + step }
        });
        let heads: Cursor = rows.iter().map(|row| row.id).collect();
        let (found, reads) = ask(&rows, &heads);
        prop_assert_eq!(found, model(&rows, &heads));
        prop_assert!(reads <= 4 * 500, "{} rows were read", reads);
    }

    /// A node with arbitrary times and dependencies affects the newest envelope of its own strand only.
    #[test]
    fn a_hostile_strand_hides_no_other(seed: u64) {
        let dice = &mut Dice::new(seed);
        let mut rows = strands(dice, |dice, ns| ns + i64::try_from(dice.below(6)).unwrap());
        for hostile in rows.iter_mut().filter(|row| row.id.originator == OriginatorId(200)) {
            let near_ns = NOW_NS + FUTURE_NS_MAX;
            hostile.originator_ns = *dice.pick(&[i64::MIN, 0, NOW_NS, near_ns, FAR_NS, i64::MAX]);
            if dice.chance(3) {
                hostile.depends_on = vec![id(0, 1 << 62)];
            }
        }
        let heads: Cursor = rows.iter().map(|row| row.id).collect();
        let honest: Vec<TopicRow> =
            rows.iter().filter(|row| row.id.originator != OriginatorId(200)).cloned().collect();
        let (found, expected) = (ask(&rows, &heads).0, model(&honest, &heads));
        let of_hostile = found.filter(|id| id.originator == OriginatorId(200));
        match of_hostile {
            None => prop_assert_eq!(found, expected),
            Some(id) => {
                let of_strand = || rows.iter().filter(|row| row.id.originator == id.originator);
                let shown = of_strand().find(|row| row.id == id).unwrap();
                prop_assert!(shown.depends_on.is_empty());
                // A time that has come hides what is earlier, and nothing else.
                let has_come = |row: &&TopicRow| {
                    row.id <= id && row.depends_on.is_empty() && row.originator_ns <= NOW_NS
                };
                let hides_ns = of_strand().filter(has_come).map(|row| row.originator_ns).max();
                let is_hidden = |row: &&TopicRow| row.originator_ns <= NOW_NS;
                let hidden_ns = honest.iter().filter(is_hidden).map(|row| row.originator_ns).max();
                prop_assert!(hidden_ns <= hides_ns, "{:?} hides {:?}", hides_ns, hidden_ns);
            }
        }
    }
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
                let visible =
                    !id.originator.is_node() || depends_on.iter().all(|on| heads.covers(*on));
                if visible {
                    last.insert(id.originator, (*ns, *id));
                }
            }
            expected[usize::from(name)] = last.into_values().max().map(|(_, id)| id);
        }
        prop_assert_eq!(newest(&reader_of(&envelopes), &[0, 1, 2, 3, 4]), expected);
    }
}
