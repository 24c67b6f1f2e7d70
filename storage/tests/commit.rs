//! Commits, in memory and on disk alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::*;
use hawser_proto::price::{PicoDollarPrice, PicoDollarsPerByteDay, Rate};
use hawser_proto::{Address, EnvelopeId, OriginatorId, SequenceId, minute_of};
use hawser_storage::SkipReason::{Expired, Missing, Pruned, Void};
use hawser_storage::{
    Change, CommitError, InvalidRule, LogEntry, LogItem, Mark, Store, UsageRow, Validity,
};

/// Returns the strand as a reader gets it, abbreviated: `5`, `!5` invalid, `w5` waiting, `5-7?` missing, `5-7x`
/// void, `5-7e` expired.
fn log_text(store: &Store, originator: OriginatorId) -> String {
    let snapshot = store.snapshot();
    let through = snapshot.head(originator).unwrap();
    let items = snapshot.log(id(originator, 0), through).map(|item| match item.unwrap() {
        LogItem::Envelope { id, bytes, validity } => {
            assert_eq!(snapshot.get(id).unwrap(), Some(bytes));
            let sign = match validity {
                Validity::Valid => "",
                Validity::Invalid(_) => "!",
                Validity::Waiting => "w",
            };
            format!("{sign}{}", id.sequence)
        }
        LogItem::Skipped { from, through, reason } => {
            let reason = match reason {
                Missing => "?",
                Void => "x",
                Expired => "e",
                Pruned => "p",
            };
            format!("{from}-{through}{reason}")
        }
    });
    items.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_store_is_without_commits_until_one_changes_something() {
    on_each(|store| {
        let for_ever = Duration::MAX;
        assert!(store.is_without_commits_for(for_ever));
        store.commit(&[]).unwrap();
        assert!(store.is_without_commits_for(for_ever), "it changed nothing");
        extend(store, OWN, 1);
        assert!(!store.is_without_commits_for(for_ever));
    });
}

#[test]
fn everything_that_follows_from_an_envelope_is_there_with_it() {
    on_each(|store| {
        let at = id(OWN, 1);
        store.commit(&[append(OWN, 1)]).unwrap();
        let snapshot = store.snapshot();
        let (entry, facts) = (entry(at), facts(at));
        let minute = minute_of(facts.originator_ns);
        assert_eq!(snapshot.head(OWN).unwrap(), SequenceId(1));
        assert_eq!(snapshot.heads().unwrap(), [at].into_iter().collect());
        assert_eq!(snapshot.get(at).unwrap(), Some(entry.bytes.clone()));
        assert_eq!(snapshot.mark(at).unwrap(), None);
        assert_eq!(last_of(&snapshot, facts.topic.unwrap().as_bytes()), Some(at));
        assert_eq!(snapshot.receipt(&digest(1)).unwrap(), Some(SequenceId(1)));
        assert_eq!(snapshot.congestion(OWN, minute).unwrap(), 1);
        assert_eq!(
            snapshot.usage(OWN, minute, Address([7; 20])).unwrap(),
            Some(UsageRow {
                picodollars: PicoDollarPrice(10),
                messages: 1,
                bytes: u64::try_from(entry.bytes.len()).unwrap(),
                last_sequence: SequenceId(1),
                stated_picodollars: PicoDollarPrice(10),
            })
        );
    });
}

#[test]
fn a_snapshot_does_not_see_later_commits() {
    on_each(|store| {
        extend(store, OWN, 2);
        let before = store.snapshot();
        extend(store, OWN, 1);
        assert_eq!(before.head(OWN).unwrap(), SequenceId(2));
        assert_eq!(before.get(id(OWN, 3)).unwrap(), None);
        assert_eq!(before.receipt(&digest(3)).unwrap(), None);
        assert_eq!(before.get_many(&[id(OWN, 3)]).unwrap(), [None]);
        assert_eq!(before.log(id(OWN, 0), SequenceId(9)).count(), 2);
        let mut topics = before.topics();
        assert_eq!(topics.seek(topic("t0").as_bytes(), id(OWN, 0)).unwrap(), None);
        assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(3));
    });
}

#[test]
fn a_refused_change_leaves_nothing_of_its_group() {
    on_each(|store| {
        extend(store, OWN, 1);
        let digests = store.snapshot().projection_digests().unwrap();
        let refused = [append(PEER, 1), append(OWN, 2), append(OWN, 4)];
        assert_eq!(
            store.commit(&refused),
            Err(CommitError::Gap { after: SequenceId(2), got: id(OWN, 4) })
        );
        let snapshot = store.snapshot();
        assert_eq!(snapshot.heads().unwrap(), [id(OWN, 1)].into_iter().collect());
        assert_eq!(snapshot.get(id(OWN, 2)).unwrap(), None);
        assert_eq!(snapshot.projection_digests().unwrap(), digests);
        store.commit(&[append(PEER, 1), append(OWN, 2)]).unwrap();
        assert!(!store.is_poisoned());
    });
}

#[test]
fn envelopes_that_are_held_change_nothing() {
    on_each(|store| {
        extend(store, OWN, 3);
        let digests = store.snapshot().projection_digests().unwrap();
        store.commit(&[append(OWN, 2), append(OWN, 3)]).unwrap();
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
        // The same within one group.
        store.commit(&[append(OWN, 4), append(OWN, 4), append(OWN, 5), append(OWN, 4)]).unwrap();
        assert_eq!(log_text(store, OWN), "1 2 3 4 5");
        let row = store.snapshot().usage(OWN, 0, Address([7; 20])).unwrap().unwrap();
        assert_eq!(row.messages, 5);
    });
}

#[test]
fn one_statement_signed_twice_is_held_once() {
    on_each(|store| {
        extend(store, PEER, 1);
        let first = store.snapshot().get(id(PEER, 1)).unwrap();
        let again = LogEntry { bytes: signed("envelope 200:1", 2), ..entry(id(PEER, 1)) };
        assert_ne!(Some(&again.bytes), first.as_ref());
        store.commit(&[Change::Append(again)]).unwrap();
        assert_eq!(store.snapshot().get(id(PEER, 1)).unwrap(), first);
    });
}

#[test]
fn another_statement_for_the_same_place_is_a_conflict() {
    on_each(|store| {
        extend(store, PEER, 1);
        let other = |at| Change::Append(LogEntry { bytes: signed("another", 1), ..entry(at) });
        let conflict = Err(CommitError::Conflict { at: id(PEER, 1) });
        assert_eq!(store.commit(&[other(id(PEER, 1))]), conflict);
        let conflict = Err(CommitError::Conflict { at: id(PEER, 2) });
        assert_eq!(store.commit(&[append(PEER, 2), other(id(PEER, 2))]), conflict);
        assert_eq!(log_text(store, PEER), "1");
    });
}

/// No place is left out because the disk fails to read it.
fn never(_: EnvelopeId) -> bool {
    false
}

/// A conflict must not count as held: what comes behind it may be a repeat, a late find or another conflict.
#[test]
fn conflicts_are_left_out_and_all_else_is_one_write() {
    on_each(|store| {
        store.commit(&[append(PEER, 1), skip(PEER, 2, 4, Missing), append(PEER, 5)]).unwrap();
        store.commit(&[skip(PEER, 6, 7, Void), append(PEER, 8)]).unwrap();
        let other =
            |at| Change::Append(LogEntry { bytes: signed("another", 1), ..entry(id(PEER, at)) });
        let changes = [
            other(1),
            append(PEER, 2),
            other(2),
            append(PEER, 1),
            other(6),
            append(PEER, 4),
            other(6),
            append(PEER, 6),
            append(PEER, 9),
            other(9),
        ];
        let writes = Arc::new(AtomicUsize::new(0));
        let counted = writes.clone();
        store.set_write_faults(Some(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            None
        })));
        let before = |conflicts: &[usize]| {
            assert_eq!(conflicts, [0, 2, 4, 6, 7, 9]);
            assert_eq!(writes.load(Ordering::Relaxed), 0);
            assert_eq!(log_text(store, PEER), "1 2-4? 5 6-7x 8");
            Ok(())
        };
        let failed = |conflicts: &[usize]| {
            before(conflicts).and(Err(CommitError::NoRoom { free: 1, wanted: 2 }))
        };
        assert_eq!(
            store.commit_around_conflicts(&changes, never, failed),
            Err(CommitError::NoRoom { free: 1, wanted: 2 })
        );
        assert_eq!(writes.load(Ordering::Relaxed), 0, "nothing is stored without what comes first");
        let left_out = store.commit_around_conflicts(&changes, never, before).unwrap();
        assert_eq!(left_out, [0, 2, 4, 6, 7, 9]);
        assert_eq!(writes.load(Ordering::Relaxed), 1);
        assert_eq!(log_text(store, PEER), "1 2 3-3? 4 5 6-7x 8 9");
        let held = entry(id(PEER, 2)).bytes;
        assert_eq!(store.snapshot().get(id(PEER, 2)).unwrap(), Some(held));
        assert_eq!(store.commit_around_conflicts(&changes[..1], never, |_| Ok(())).unwrap(), [0]);
        assert_eq!(writes.load(Ordering::Relaxed), 1, "conflicts alone are no write");
        store.set_write_faults(None);
        // Other errors refuse all of it.
        let gap = [append(PEER, 3), other(1), append(PEER, 11)];
        let gap =
            store.commit_around_conflicts(&gap, never, |_| unreachable!("it is refused first"));
        assert_eq!(gap, Err(CommitError::Gap { after: SequenceId(9), got: id(PEER, 11) }));
        assert_eq!(log_text(store, PEER), "1 2 3-3? 4 5 6-7x 8 9");
    });
}

/// Evidence takes a sync, or many. While a writer of rates waits for a commit, each other commit waits for the writer.
#[test]
fn nothing_waits_for_what_is_made_durable_before_conflicts_are_left_out() {
    on_each(|store| {
        store.commit(&[append(PEER, 1)]).unwrap();
        let other = LogEntry { bytes: signed("another", 1), ..entry(id(PEER, 1)) };
        let changes = [Change::Append(other), append(PEER, 2)];
        let mut calls = 0;
        let before = |left_out: &[usize]| {
            assert_eq!(left_out, [0]);
            calls += 1;
            let (done, is_done) = std::sync::mpsc::channel();
            let others = store.clone();
            std::thread::spawn(move || {
                others.record_rates(&[rate(calls, 1)]).unwrap();
                others.commit(&[append(OWN, calls), append(PEER, 2)]).unwrap();
                let _ = done.send(());
            });
            // With the locks of the commit held, they would wait for ever.
            is_done.recv_timeout(Duration::from_secs(60)).expect("others go on meanwhile");
            Ok(())
        };
        assert_eq!(store.commit_around_conflicts(&changes, never, before).unwrap(), [0]);
        assert_eq!(calls, 1);
        assert_eq!([OWN, PEER].map(|strand| log_text(store, strand)), ["1", "1 2"]);
    });
}

/// The envelope that is there may be another one at the second look.
#[test]
fn what_conflicts_only_after_the_first_look_is_noted_too() {
    on_each(|store| {
        store.commit(&[append(PEER, 1), skip(PEER, 2, 2, Missing)]).unwrap();
        let other =
            |at| Change::Append(LogEntry { bytes: signed("another", 1), ..entry(id(PEER, at)) });
        let changes = [other(1), other(2)];
        let mut noted = Vec::new();
        let before = |left_out: &[usize]| {
            if noted.is_empty() {
                store.commit(&[append(PEER, 2)]).unwrap();
            }
            noted.push(left_out.to_vec());
            Ok(())
        };
        assert_eq!(store.commit_around_conflicts(&changes, never, before).unwrap(), [0, 1]);
        assert_eq!(noted, [vec![0], vec![0, 1]]);
    });
}

#[test]
fn places_outside_a_strand_are_refused() {
    on_each(|store| {
        let outside = |change| match store.commit(&[change]) {
            Err(CommitError::OutOfRange { at }) => at.sequence.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(outside(append_invalid(PEER, 0, 1)), 0);
        assert_eq!(outside(append_invalid(PEER, u64::MAX, 1)), u64::MAX);
        assert_eq!(outside(skip(PEER, 0, 1, Missing)), 0);
        assert_eq!(outside(skip(PEER, 1, u64::MAX, Missing)), u64::MAX);
        assert_eq!(outside(skip(PEER, 2, 1, Missing)), 1);
        store.commit(&[skip(PEER, 1, SequenceId::MAX.0, Void)]).unwrap();
        assert_eq!(store.snapshot().head(PEER).unwrap(), SequenceId::MAX);
        assert_eq!(log_text(store, PEER), "1-9223372036854775807x");
    });
}

#[test]
fn a_skipped_range_is_told_and_moves_the_head() {
    on_each(|store| {
        let gap = skip(PEER, 2, 1_000_001, Missing);
        store.commit(&[append(PEER, 1), gap, append(PEER, 1_000_002)]).unwrap();
        assert_eq!(log_text(store, PEER), "1 2-1000001? 1000002");
        let snapshot = store.snapshot();
        let missing = Some(Mark::Missing { through: SequenceId(1_000_001) });
        assert_eq!(snapshot.mark(id(PEER, 2)).unwrap(), missing);
        assert_eq!(snapshot.mark(id(PEER, 5_000)).unwrap(), missing);
        assert_eq!(snapshot.mark(id(PEER, 1_000_001)).unwrap(), missing);
        assert_eq!(snapshot.mark(id(PEER, 1_000_002)).unwrap(), None);
        assert_eq!(snapshot.mark(id(OriginatorId(201), 5_000)).unwrap(), None);
        let part: Vec<_> =
            snapshot.log(id(PEER, 10), SequenceId(20)).collect::<Result<_, _>>().unwrap();
        assert_eq!(
            part,
            [LogItem::Skipped { from: SequenceId(11), through: SequenceId(20), reason: Missing }]
        );
    });
}

#[test]
fn a_skip_leaves_alone_what_the_head_has_passed() {
    on_each(|store| {
        store.commit(&[append(PEER, 1), skip(PEER, 2, 4, Missing)]).unwrap();
        store.commit(&[skip(PEER, 1, 4, Void)]).unwrap();
        assert_eq!(log_text(store, PEER), "1 2-4?");
        store.commit(&[skip(PEER, 1, 6, Void)]).unwrap();
        assert_eq!(log_text(store, PEER), "1 2-4? 5-6x");
        assert_eq!(
            store.commit(&[skip(PEER, 8, 9, Void)]),
            Err(CommitError::Gap { after: SequenceId(6), got: id(PEER, 8) })
        );
    });
}

#[test]
fn late_finds_fill_missing_ranges_from_every_side() {
    on_each(|store| {
        store.commit(&[skip(PEER, 1, 9, Missing), append(PEER, 10)]).unwrap();
        let fills = [
            (1, "1 2-9? 10"),
            (5, "1 2-4? 5 6-9? 10"),
            (9, "1 2-4? 5 6-8? 9 10"),
            (6, "1 2-4? 5 6 7-8? 9 10"),
            (4, "1 2-3? 4 5 6 7-8? 9 10"),
        ];
        for (sequence, expected) in fills {
            store.commit(&[append(PEER, sequence)]).unwrap();
            assert_eq!(log_text(store, PEER), expected);
        }
        // Several in one group, an invalid one among them, the others of a range that ends.
        let last = [append(PEER, 8), append_invalid(PEER, 7, 3), append(PEER, 3), append(PEER, 2)];
        store.commit(&last).unwrap();
        assert_eq!(log_text(store, PEER), "1 2 3 4 5 6 !7 8 9 10");
        let snapshot = store.snapshot();
        assert_eq!(snapshot.mark(id(PEER, 7)).unwrap(), Some(Mark::Invalid(InvalidRule(3))));
        assert_eq!(snapshot.mark(id(PEER, 8)).unwrap(), None);
        assert_eq!(snapshot.head(PEER).unwrap(), SequenceId(10));
    });
}

#[test]
fn a_group_may_mark_a_range_and_fill_it_at_once() {
    on_each(|store| {
        let group = [
            skip(PEER, 1, 5, Missing),
            append(PEER, 6),
            append(PEER, 3),
            append(PEER, 4),
            append(PEER, 1),
            append(PEER, 3),
        ];
        store.commit(&group).unwrap();
        assert_eq!(log_text(store, PEER), "1 2-2? 3 4 5-5? 6");
    });
}

#[test]
fn a_void_place_is_never_filled() {
    on_each(|store| {
        store.commit(&[append(PEER, 1), skip(PEER, 2, 4, Void), append(PEER, 5)]).unwrap();
        let conflict = Err(CommitError::Conflict { at: id(PEER, 3) });
        assert_eq!(store.commit(&[append(PEER, 3)]), conflict);
        assert_eq!(log_text(store, PEER), "1 2-4x 5");
    });
}

#[test]
fn an_expired_place_is_told_as_such_and_may_be_filled() {
    on_each(|store| {
        store.commit(&[skip(PEER, 1, 5, Expired), append(PEER, 6)]).unwrap();
        assert_eq!(log_text(store, PEER), "1-5e 6");
        store.commit(&[append(PEER, 3)]).unwrap();
        assert_eq!(log_text(store, PEER), "1-2e 3 4-5e 6");
        let expired = Some(Mark::Expired { through: SequenceId(5) });
        assert_eq!(store.snapshot().mark(id(PEER, 5)).unwrap(), expired);
    });
}

#[test]
fn missing_places_are_listed_by_strand() {
    on_each(|store| {
        let ranges = |originator| -> Vec<(u64, u64)> {
            let missing = store.snapshot().missing(originator).unwrap();
            missing.into_iter().map(|(from, through)| (from.0, through.0)).collect()
        };
        assert_eq!(ranges(PEER), []);
        let strand = [
            skip(PEER, 1, 2, Expired),
            append_invalid(PEER, 3, 7),
            skip(PEER, 4, 8, Missing),
            append(PEER, 9),
            skip(PEER, 10, 11, Void),
            skip(PEER, 12, 12, Missing),
        ];
        store.commit(&strand).unwrap();
        store.commit(&[skip(OWN, 1, 3, Missing)]).unwrap();
        store.commit(&[skip(OriginatorId(201), 1, 9, Missing)]).unwrap();
        assert_eq!(ranges(PEER), [(4, 8), (12, 12)]);
        let last = |originator, most| -> Vec<(u64, u64)> {
            let missing = store.snapshot().last_missing(originator, most).unwrap();
            missing.into_iter().map(|(from, through)| (from.0, through.0)).collect()
        };
        assert_eq!(last(PEER, 0), []);
        assert_eq!(last(PEER, 1), [(12, 12)]);
        assert_eq!(last(PEER, 9), [(4, 8), (12, 12)]);
        assert_eq!(last(OriginatorId(202), 9), []);
        let below = |place, most| -> Vec<(u64, u64)> {
            let missing = store.snapshot().missing_below(PEER, SequenceId(place), most).unwrap();
            missing.into_iter().map(|(from, through)| (from.0, through.0)).collect()
        };
        assert_eq!(below(13, 1), [(12, 12)]);
        assert_eq!(below(12, 9), [(4, 8)]);
        assert_eq!(below(4, 9), [], "nor a range of another strand");
        let after = |originator, place, marks_max| -> Vec<(u64, u64)> {
            let after = EnvelopeId::new(originator, SequenceId(place));
            let missing = store.snapshot().missing_after(after, marks_max).unwrap();
            missing.into_iter().map(|(from, through)| (from.0, through.0)).collect()
        };
        assert_eq!(after(PEER, 0, 9), [(4, 8), (12, 12)]);
        assert_eq!(after(PEER, 4, 9), [(12, 12)], "one that begins before it is left out");
        assert_eq!(after(PEER, 0, 3), [(4, 8)], "the third mark");
        assert_eq!(after(PEER, 12, 9), [], "nor a range of another strand");
        let has_unheld = |(from, through)| {
            store.snapshot().has_unheld(id(PEER, from), SequenceId(through)).unwrap()
        };
        let found = [(2, 2), (3, 3), (5, 6), (9, 11), (9, 12), (13, 20)].map(has_unheld);
        assert_eq!(found, [true, false, true, false, true, false]);
        store.commit(&[append(PEER, 6), append(PEER, 12)]).unwrap();
        assert_eq!(ranges(PEER), [(4, 5), (7, 8)], "a find is not missing any more");
        assert_eq!(ranges(OWN), [(1, 3)]);
    });
}

#[test]
fn marks_of_one_strand_say_nothing_about_another() {
    on_each(|store| {
        store.commit(&[skip(OriginatorId(199), 1, 50, Missing), append(PEER, 1)]).unwrap();
        assert_eq!(log_text(store, PEER), "1");
        assert_eq!(store.snapshot().mark(id(PEER, 0)).unwrap(), None);
        assert_eq!(
            store.commit(&[append(OriginatorId(201), 2)]),
            Err(CommitError::Gap { after: SequenceId(0), got: id(OriginatorId(201), 2) })
        );
    });
}

#[test]
fn counters_add_up_over_groups_minutes_and_payers() {
    on_each(|store| {
        let charged = |sequence: u64, payer: u8, picodollars| {
            let charge = Some(charge(payer, picodollars));
            append_with(
                PEER,
                sequence,
                hawser_storage::Facts { charge, ..facts(id(PEER, sequence)) },
            )
        };
        store.commit(&[charged(1, 1, 5), charged(2, 2, 7), charged(3, 1, 11)]).unwrap();
        store.commit(&[charged(4, 1, 13)]).unwrap();
        let later: Vec<_> = (5..=100).map(|sequence| charged(sequence, 1, 1)).collect();
        store.commit(&later).unwrap();
        let snapshot = store.snapshot();
        let row = |minute, payer| snapshot.usage(PEER, minute, Address([payer; 20])).unwrap();
        // Places up to 99 fall into minute 0, place 100 into minute 1.
        assert_eq!(row(0, 1).unwrap().picodollars, PicoDollarPrice(5 + 11 + 13 + 95));
        assert_eq!(row(0, 1).unwrap().messages, 98);
        assert_eq!(row(0, 1).unwrap().last_sequence, SequenceId(99));
        assert_eq!(row(0, 2).unwrap().picodollars, PicoDollarPrice(7));
        assert_eq!(row(1, 1).unwrap().messages, 1);
        assert_eq!(row(1, 2), None);
        assert_eq!(snapshot.usage(OWN, 0, Address([1; 20])).unwrap(), None);
        assert_eq!(snapshot.congestion(PEER, 0).unwrap(), 99);
        assert_eq!(snapshot.congestion(PEER, 1).unwrap(), 1);
        assert_eq!(snapshot.congestion(PEER, 2).unwrap(), 0);
    });
}

#[test]
fn receipts_are_kept_for_the_own_strand_and_point_to_the_highest_place() {
    on_each(|store| {
        let with = |originator, sequence, number| {
            let facts = hawser_storage::Facts {
                receipt: Some(digest(number)),
                ..facts(id(originator, sequence))
            };
            append_with(originator, sequence, facts)
        };
        store.commit(&[with(PEER, 1, 77)]).unwrap();
        assert_eq!(store.snapshot().receipt(&digest(77)).unwrap(), None);
        store.commit(&[skip(OWN, 1, 2, Missing), with(OWN, 3, 77)]).unwrap();
        store.commit(&[with(OWN, 1, 77), with(OWN, 2, 88)]).unwrap();
        assert_eq!(store.snapshot().receipt(&digest(77)).unwrap(), Some(SequenceId(3)));
        assert_eq!(store.snapshot().receipt(&digest(88)).unwrap(), Some(SequenceId(2)));
    });
}

/// A repeat that was taken for a new envelope would be charged again.
#[test]
fn memory_alone_excludes_no_receipt_that_is_stored() {
    on_each(|store| {
        extend(store, OWN, 9);
        let excludes = |number| store.lacks_receipts_for_sure([digest(number)]);
        assert!(excludes(10), "all receipts are in memory");
        assert!(!(1..=9).any(excludes));
        store.flush().unwrap();
        assert!(!(1..=9).any(excludes), "they may be on the disk alone");
        for number in 1..=9 {
            let stored = store.snapshot().receipt(&digest(number)).unwrap();
            assert_eq!(stored, Some(SequenceId(number)));
        }
        assert!(!(1..=9).any(excludes), "the cache has them");
        assert!(!store.lacks_receipts_for_sure([digest(10), digest(9)]), "one is stored");
    });
}

#[test]
fn recorded_rates_never_change() {
    on_each(|store| {
        let rate = |start_unix_s, message_fee| Rate {
            start_unix_s,
            message_fee: PicoDollarPrice(message_fee),
            storage_fee: PicoDollarsPerByteDay(2),
            congestion_fee: PicoDollarPrice(3),
            target_rate_per_minute: 4,
        };
        store.record_rates(&[rate(20, 1), rate(10, 1)]).unwrap();
        store.record_rates(&[rate(20, 1), rate(30, 5)]).unwrap();
        let other = Err(CommitError::OtherRates { start_unix_s: 20 });
        assert_eq!(store.record_rates(&[rate(40, 1), rate(20, 9)]), other);
        let other = Err(CommitError::OtherRates { start_unix_s: 50 });
        assert_eq!(store.record_rates(&[rate(50, 1), rate(50, 2)]), other);
        assert_eq!(store.snapshot().rates().unwrap(), [rate(10, 1), rate(20, 1), rate(30, 5)]);
    });
}

#[test]
fn after_a_failed_write_nothing_more_is_accepted() {
    on_each(|store| {
        extend(store, OWN, 2);
        store.fail_next_write();
        assert!(matches!(store.commit(&[append(OWN, 3)]), Err(CommitError::Write(_))));
        assert!(store.is_poisoned());
        let poisoned = |result| matches!(result, Err(CommitError::Poisoned { .. }));
        assert!(poisoned(store.commit(&[append(OWN, 3)])));
        // Also for changes that are held already, and for those that write nothing.
        assert!(poisoned(store.commit(&[append(OWN, 1)])));
        assert!(poisoned(store.commit(&[])));
        assert_eq!(store.record_rates(&[]), Ok(()), "rates that are recorded can be confirmed");
        // Reads still succeed.
        assert_eq!(log_text(store, OWN), "1 2");
    });
}

#[test]
fn strands_are_written_at_once_from_many_threads() {
    on_each(|store| {
        std::thread::scope(|scope| {
            for originator in 100..104 {
                scope.spawn(move || {
                    for sequence in 1..=40 {
                        store.commit(&[append(OriginatorId(originator), sequence)]).unwrap();
                    }
                });
            }
        });
        let expected = (100..104).map(|originator| id(OriginatorId(originator), 40)).collect();
        assert_eq!(store.snapshot().heads().unwrap(), expected);
    });
}

#[test]
fn groups_that_share_strands_in_any_order_do_not_block_each_other() {
    on_each(|store| {
        std::thread::scope(|scope| {
            for order in [[OWN, PEER], [PEER, OWN]] {
                scope.spawn(move || {
                    for sequence in 1..=40 {
                        store.commit(&order.map(|strand| append(strand, sequence))).unwrap();
                    }
                });
            }
        });
        let expected = [id(OWN, 40), id(PEER, 40)].into_iter().collect();
        assert_eq!(store.snapshot().heads().unwrap(), expected);
        let row = store.snapshot().usage(OWN, 0, Address([7; 20])).unwrap().unwrap();
        assert_eq!(row.messages, 40);
    });
}
