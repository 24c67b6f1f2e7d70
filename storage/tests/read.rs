//! Reading, in memory and on disk alike.

use std::collections::BTreeMap;

use crate::support::*;
use hawser_proto::{Address, EnvelopeId, OriginatorId, SequenceId, Topic, TopicKind};
use hawser_storage::{
    Change, Facts, LogEntry, LogItem, SkipReason, Store, TopicRow, UsageRow, Validity,
};
use proptest::prelude::*;

fn on_topic(at: EnvelopeId, topic: Topic, originator_ns: i64) -> Change {
    let topic = Some(topic);
    append_with(at.originator, at.sequence.0, Facts { topic, originator_ns, ..facts(at) })
}

fn rows(store: &Store, topic: &[u8], from: EnvelopeId) -> Vec<EnvelopeId> {
    let snapshot = store.snapshot();
    let mut scan = snapshot.topics();
    let mut ids: Vec<_> = scan.seek(topic, from).unwrap().into_iter().map(|row| row.id).collect();
    while let Some(row) = scan.next_row().unwrap() {
        ids.push(row.id);
    }
    ids
}

#[test]
fn many_envelopes_are_read_in_the_order_asked_for() {
    on_each(|store| {
        extend(store, OWN, 5);
        extend(store, PEER, 5);
        let asked = [id(PEER, 2), id(OWN, 9), id(OWN, 1), id(PEER, 2), id(OWN, 1)];
        for ids in [asked.to_vec(), {
            let mut sorted = asked;
            sorted.sort();
            sorted.to_vec()
        }] {
            let expected: Vec<_> =
                ids.iter().map(|&at| (at != id(OWN, 9)).then(|| entry(at).bytes)).collect();
            assert_eq!(store.snapshot().get_many(&ids).unwrap(), expected);
        }
        assert_eq!(store.snapshot().get_many(&[]).unwrap(), []);
    });
}

#[test]
fn usage_is_read_by_payer_originator_and_minute() {
    on_each(|store| {
        let charged = |originator, sequence, payer: u8, minute: i64| {
            let at = id(originator, sequence);
            let charge = Some(charge(payer, sequence));
            let originator_ns = minute * 60_000_000_000;
            append_with(originator, sequence, Facts { charge, originator_ns, ..facts(at) })
        };
        store
            .commit(&[
                charged(PEER, 1, 7, 5),
                charged(OWN, 1, 7, 9),
                charged(OWN, 2, 6, 9),
                charged(OWN, 3, 7, 9),
                charged(OWN, 4, 8, 9),
                charged(OWN, 5, 7, 4),
            ])
            .unwrap();
        let used = |payer: u8| {
            let mut rows = Vec::new();
            let each = |originator, minute, row: UsageRow| {
                rows.push((originator, minute, row.messages, row.picodollars.0));
            };
            store.snapshot().usage_of_payer(Address([payer; 20]), each).unwrap();
            rows
        };
        assert_eq!(used(7), [(OWN, 4, 1, 5), (OWN, 9, 2, 4), (PEER, 5, 1, 1)]);
        assert_eq!(used(8), [(OWN, 9, 1, 4)]);
        assert_eq!(used(5), []);
        for (through, read) in [
            (8, vec![(OWN, 4), (OWN, 9), (PEER, 5)]),
            (9, vec![(OWN, 4), (PEER, 5)]),
            (u32::MAX, vec![(OWN, 4), (PEER, 5)]),
        ] {
            let mut rows = Vec::new();
            let each = |originator, minute, _: UsageRow| {
                rows.push((originator, minute));
                (originator == OWN).then_some(through)
            };
            store.snapshot().usage_of_payer_skipping(Address([7; 20]), each).unwrap();
            assert_eq!(rows, read, "rows up to minute {through} are passed over");
        }
        for rows_max in 1..=4 {
            let (mut rows, mut after, mut reads) = (Vec::new(), None, 0);
            loop {
                let snapshot = store.snapshot();
                let mut read = 0;
                after = snapshot
                    .usage_after(Address([7; 20]), after, rows_max, |originator, minute, row| {
                        read += 1;
                        rows.push((originator, minute, row.messages, row.picodollars.0));
                    })
                    .unwrap();
                reads += 1;
                assert!(read <= rows_max, "{read} of {rows_max}");
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(rows, used(7), "in parts of {rows_max}");
            assert_eq!(reads, 3 / rows_max + 1);
        }
    });
}

#[test]
fn large_and_small_envelopes_survive_being_written_out() {
    on_each(|store| {
        let large = |sequence: u64| {
            let text = format!("{sequence}").repeat(10_000);
            let at = id(PEER, sequence);
            Change::Append(LogEntry { bytes: signed(&text, 1), ..entry(at) })
        };
        let changes = [large(1), append(PEER, 2), large(3)];
        store.commit(&changes).unwrap();
        store.flush().unwrap();
        for change in &changes {
            let Change::Append(entry) = change else { unreachable!() };
            assert_eq!(store.snapshot().get(entry.id).unwrap(), Some(entry.bytes.clone()));
        }
        assert!(store.disk_bytes() > 40_000, "{}", store.disk_bytes());
    });
}

#[test]
fn a_row_says_all_that_a_page_plan_needs() {
    on_each(|store| {
        let at = id(PEER, 1);
        let depends_on = vec![id(OriginatorId(0), 4), id(OriginatorId(1), 5)];
        let facts = Facts {
            topic: Some(topic("deps")),
            originator_ns: -3,
            depends_on: depends_on.clone(),
            ..facts(at)
        };
        store.commit(&[append_with(PEER, 1, facts)]).unwrap();
        let len_bytes = u32::try_from(entry(at).bytes.len()).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(
            snapshot.topics().seek(topic("deps").as_bytes(), EnvelopeId::default()).unwrap(),
            Some(TopicRow { id: at, originator_ns: -3, len_bytes, depends_on, envelope: None })
        );
    });
}

#[test]
fn one_scan_serves_many_topics_and_ends_each_where_it_ends() {
    on_each(|store| {
        extend(store, OWN, 7);
        extend(store, PEER, 7);
        for written_out in [false, true] {
            if written_out {
                store.flush().unwrap();
            }
            let snapshot = store.snapshot();
            let mut scan = snapshot.topics();
            assert_eq!(scan.next_row().unwrap(), None);
            for _ in 0..2 {
                let first = scan.seek(topic("t1").as_bytes(), id(OWN, 2)).unwrap().unwrap();
                assert_eq!(first.id, id(OWN, 4));
                assert_eq!(scan.next_row().unwrap().unwrap().id, id(OWN, 7));
                assert_eq!(scan.next_row().unwrap().unwrap().id, id(PEER, 1));
                assert_eq!(scan.seek(topic("none").as_bytes(), id(OWN, 0)).unwrap(), None);
                assert_eq!(scan.next_row().unwrap(), None);
                let last = scan.seek(topic("t0").as_bytes(), id(PEER, 6)).unwrap().unwrap();
                assert_eq!(last.id, id(PEER, 6));
                assert_eq!(scan.next_row().unwrap(), None);
                assert_eq!(scan.next_row().unwrap(), None);
            }
        }
    });
}

#[test]
fn topics_that_begin_alike_are_kept_apart() {
    on_each(|store| {
        let names = ["a", "a\0", "a\0\0\0\0", "aa", "b"];
        for (sequence, name) in (1..).zip(names) {
            store.commit(&[on_topic(id(PEER, sequence), topic(name), 0)]).unwrap();
        }
        for (sequence, name) in (1..).zip(names) {
            let found = rows(store, topic(name).as_bytes(), EnvelopeId::default());
            assert_eq!(found, [id(PEER, sequence)], "{name:?}");
        }
    });
}

#[test]
fn a_topic_too_long_for_the_index_is_stored_and_not_found_by_topic() {
    on_each(|store| {
        let long = Topic::new(TopicKind::Welcomes, &vec![1; 70_000]).unwrap();
        store.commit(&[on_topic(id(PEER, 1), long.clone(), 0)]).unwrap();
        let snapshot = store.snapshot();
        assert!(snapshot.get(id(PEER, 1)).unwrap().is_some());
        assert_eq!(rows(store, long.as_bytes(), EnvelopeId::default()), []);
        assert_eq!(last_of(&snapshot, long.as_bytes()), None);
    });
}

#[test]
fn rows_of_a_topic_are_read_backwards_to_its_first_and_no_further() {
    on_each(|store| {
        let highest = OriginatorId(u32::MAX);
        let own = [id(OriginatorId(0), 7), id(OWN, 2), id(OWN, 5), id(highest, 1)];
        // Adjacent rows of other topics in the index do not count.
        for (name, ids) in
            [("newess", vec![id(PEER, 1)]), ("newest", own.into()), ("newesu", vec![id(PEER, 2)])]
        {
            for at in ids {
                for sequence in store.snapshot().head(at.originator).unwrap().0 + 1..at.sequence.0 {
                    store
                        .commit(&[on_topic(id(at.originator, sequence), topic("other"), 0)])
                        .unwrap();
                }
                store.commit(&[on_topic(at, topic(name), 0)]).unwrap();
            }
        }
        let back_from = |through| {
            let snapshot = store.snapshot();
            let mut scan = snapshot.topics();
            let name = topic("newest");
            let mut ids: Vec<_> = scan
                .seek_back(name.as_bytes(), through)
                .unwrap()
                .into_iter()
                .map(|row| row.id)
                .collect();
            while let Some(row) = scan.previous_row().unwrap() {
                ids.push(row.id);
            }
            ids.reverse();
            ids
        };
        for flushed in [false, true] {
            if flushed {
                store.flush().unwrap();
            }
            assert_eq!(back_from(id(highest, u64::MAX)), own);
            assert_eq!(back_from(id(OWN, 5)), own[..3]);
            assert_eq!(back_from(id(OWN, 4)), own[..2]);
            assert_eq!(back_from(id(OriginatorId(0), 6)), []);
        }
    });
}

#[test]
fn a_strand_is_read_from_any_place_to_any_place() {
    on_each(|store| {
        extend(store, OriginatorId(199), 3);
        store
            .commit(&[
                append(PEER, 1),
                append_invalid(PEER, 2, 8),
                skip(PEER, 3, 5, SkipReason::Missing),
                skip(PEER, 6, 6, SkipReason::Void),
                append(PEER, 7),
            ])
            .unwrap();
        extend(store, OriginatorId(201), 3);
        for after in 0..9 {
            for through in 0..9 {
                let snapshot = store.snapshot();
                let places: Vec<u64> = snapshot
                    .log(id(PEER, after), SequenceId(through))
                    .flat_map(|item| match item.unwrap() {
                        LogItem::Envelope { id, validity, .. } => {
                            assert_eq!(validity != Validity::Valid, id.sequence == SequenceId(2));
                            id.sequence.0..=id.sequence.0
                        }
                        LogItem::Skipped { from, through, .. } => from.0..=through.0,
                    })
                    .collect();
                let expected: Vec<u64> = (after + 1..=through.min(7)).collect();
                assert_eq!(places, expected, "after {after} through {through}");
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Topic rows, written in any order, are read by topic, originator, sequence.
    #[test]
    fn topic_rows_come_in_order(
        topics in proptest::collection::vec((0u32..3, "[ab]{1,3}"), 1..40),
        flush_at in 0usize..40,
        from in (0u32..4, 0u64..12),
    ) {
        let store = in_memory();
        let mut next: BTreeMap<u32, u64> = BTreeMap::new();
        let mut model: BTreeMap<String, Vec<EnvelopeId>> = BTreeMap::new();
        for (index, (originator, name)) in topics.into_iter().enumerate() {
            let sequence = next.entry(originator).or_default();
            *sequence += 1;
            let at = id(OriginatorId(originator), *sequence);
            store.commit(&[on_topic(at, topic(&name), 0)]).unwrap();
            model.entry(name).or_default().push(at);
            if index == flush_at {
                store.flush().unwrap();
            }
        }
        let from = id(OriginatorId(from.0), from.1);
        for (name, mut expected) in model {
            expected.sort();
            expected.retain(|&at| at >= from);
            prop_assert_eq!(rows(&store, topic(&name).as_bytes(), from), expected);
        }
    }
}
