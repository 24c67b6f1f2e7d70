//! Pruning removes the envelopes and nothing else: tallies, trees, the order of places and the result of a rebuild
//! are unchanged.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::support::pruning::*;
use crate::support::*;
use hawser_proto::{EnvelopeId, OriginatorId, SequenceId, StatementDifference};
use hawser_storage::{
    Change, CommitError, Evidence, EvidenceTime, ExpiredEnvelope, Expiring, Facts, Family,
    LogEntry, Mark, Misbehavior, PrunedBatch, SkipReason, Store, Validity, WriteFault,
};
use parking_lot::Mutex;
use proptest::prelude::*;

/// Returns the places that topics have rows of.
fn topic_rows(store: &Store) -> BTreeSet<EnvelopeId> {
    let snapshot = store.snapshot();
    let mut scan = snapshot.topics();
    let mut places = BTreeSet::new();
    for name in ["t0", "t1", "t2", "t3"] {
        let mut row = scan.seek(topic(name).as_bytes(), id(OriginatorId(0), 0)).unwrap();
        while let Some(found) = row {
            places.insert(found.id);
            row = scan.next_row().unwrap();
        }
    }
    places
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_but_the_named_envelopes_goes(
        groups in proptest::collection::vec(
            (proptest::collection::vec((any::<bool>(), 0u8..12), 1..30), any::<u64>(), 0u8..5), 1..8),
        late_rate in 0usize..8,
    ) {
        let (store, mirror) = (in_memory(), in_memory());
        let (mut heads, mut gone) = ([0_u64; 2], BTreeSet::new());
        for (index, (steps, picks, crash)) in groups.into_iter().enumerate() {
            for step in steps {
                let change = next_change(&mut heads, step);
                store.commit(std::slice::from_ref(&change)).unwrap();
                mirror.commit(&[change]).unwrap();
            }
            if index == late_rate {
                for store in [&store, &mirror] {
                    store.record_rates(&[rate(0, 1), rate(200, 1000)]).unwrap();
                }
            }
            let all = expiring(&store);
            let chosen: Vec<_> = all
                .iter()
                .enumerate()
                .filter(|(at, _)| picks >> (at % 64) & 1 == 1)
                .map(|(_, it)| *it)
                .collect();
            let before = strand_items(&store);
            match crash {
                0 => break_off(&store, WriteFault::Lost, || _ = store.prune(&chosen, &derive)),
                1 => break_off(&store, WriteFault::Kept, || _ = store.prune(&chosen, &derive)),
                _ => {}
            }
            prune(&store, &chosen);
            let after = strand_items(&store);
            for (at, was) in before {
                let is_gone = after[&at] == Some(SkipReason::Pruned);
                let facts = derived(at).1;
                let is_chosen = chosen.iter().any(|it| it.id == at);
                let stays = at.sequence.0 == heads[usize::from(at.originator == PEER)]
                    || facts.is_some_and(|facts| !facts.addresses.is_empty());
                if was.is_none() {
                    prop_assert_eq!(is_gone, is_chosen && !stays, "{}", at);
                } else {
                    prop_assert_eq!(after[&at], was, "{}", at);
                }
                if is_gone {
                    gone.insert(at);
                }
            }
        }
        [&store, &mirror].into_iter().for_each(reprice);
        prop_assert_eq!(kept(&store), kept(&mirror), "tallies");
        prop_assert_eq!(trees(&store), trees(&mirror), "trees");
        let expected: BTreeSet<_> =
            topic_rows(&mirror).into_iter().filter(|at| !gone.contains(at)).collect();
        prop_assert_eq!(topic_rows(&store), expected);
        prop_assert!(expiring(&store).iter().all(|it| !gone.contains(&it.id)));
        assert_payers_are_recorded(&store);

        let digests = store.snapshot().projection_digests().unwrap();
        store.rebuild(&derive, &mut |_| {}).unwrap();
        prop_assert_eq!(store.snapshot().projection_digests().unwrap(), digests, "a rebuild");
        assert_payers_are_recorded(&store);
        assert_neighbours_are_one_row(&store, &gone);
    }
}

/// Asserts that each row of the index names the payer that was charged, and in the own strand the receipt.
fn assert_payers_are_recorded(store: &Store) {
    for row in expiring(store) {
        let facts = derived(row.id).1.expect("only a valid envelope has a row");
        assert_eq!(row.payer, facts.charge.map(|charge| charge.payer), "{}", row.id);
        let receipt = facts.receipt.filter(|_| row.id.originator == OWN);
        assert_eq!(row.receipt, receipt, "{}", row.id);
    }
}

#[test]
fn payers_come_with_the_envelopes_in_the_order_of_a_strand_and_rows_of_older_versions_have_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    twenty(&store);
    let digests = store.snapshot().projection_digests().unwrap();
    drop(store);
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, folder.path()).unwrap();
    let db = rocksdb::DB::open_cf(&options, folder.path(), names).unwrap();
    let expiries = db.cf_handle("expiry").unwrap();
    let rows: Vec<_> = db.iterator_cf(expiries, rocksdb::IteratorMode::Start).collect();
    for (key, value) in rows.into_iter().map(Result::unwrap) {
        assert_eq!(value[..20], [7; 20]);
        assert_eq!(value.len(), if key[8..12] == OWN.0.to_be_bytes() { 52 } else { 20 });
        match key.last() {
            Some(3) => db.put_cf(expiries, key, []).unwrap(),
            Some(4) => db.put_cf(expiries, key, &value[..20]).unwrap(),
            _ => {}
        }
    }
    drop(db);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests, "a payer is no fact");
    let chosen: Vec<_> =
        expiring(&store).into_iter().filter(|it| [2, 3, 4].contains(&it.id.sequence.0)).collect();
    let deleted = std::cell::RefCell::new(Vec::new());
    let derive_all = |expired: &[ExpiredEnvelope]| {
        let facts = expired.iter().map(|it| {
            assert_eq!(it.bytes, entry(it.id).bytes);
            deleted.borrow_mut().push((it.id, it.payer, it.receipt));
            derive_plain(it.id, &it.bytes, Validity::Valid)
        });
        facts.collect()
    };
    let mut pruned = 0;
    let goes_on = store.prune_many(&chosen, &derive_all, &mut |done| {
        pruned += done.pruned.len();
        ControlFlow::Continue(())
    });
    assert_eq!((goes_on.unwrap(), pruned), (ControlFlow::Continue(()), 6));
    let payer = |place| (place != 3).then_some(hawser_proto::Address([7; 20]));
    let receipt = |it, place: u64| (it == OWN && place == 2).then_some(digest(place));
    let expected = [OWN, PEER]
        .map(|it| [2, 3, 4].map(|place| (id(it, place), payer(place), receipt(it, place))));
    assert_eq!(deleted.into_inner(), expected.concat());
    store.rebuild(&derive_plain, &mut |_| {}).unwrap();
    assert!(expiring(&store).iter().all(|it| it.payer.is_some()), "a rebuild tells all");
}

/// A commit may wait for the disk. Others of its strand must not wait for pruning, too, which stood in line meanwhile.
#[test]
fn pruning_waits_between_commits_and_tells_for_how_long() {
    let store = in_memory();
    extend(&store, OWN, 4);
    let expired: Vec<_> = expiring(&store).into_iter().filter(|it| it.id.sequence.0 <= 2).collect();
    assert_eq!((expired.len(), store.waited_for_commits()), (2, Duration::ZERO));
    let (hang, hung) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let (is_first, released) = (AtomicBool::new(true), Mutex::new(released));
    store.set_write_faults(Some(Arc::new(move || {
        if is_first.swap(false, Ordering::Relaxed) {
            hang.send(()).unwrap();
            let _ = released.lock().recv();
        }
        None
    })));
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| store.commit(&[append(OWN, 5)]));
        hung.recv().unwrap();
        let pruning = scope.spawn(|| store.prune(&expired, &derive_plain).unwrap());
        while store.waited_for_commits().is_zero() {
            std::thread::yield_now();
        }
        drop(release);
        commit.join().unwrap().unwrap();
        assert_eq!(pruning.join().unwrap().pruned.len(), 2);
    });
}

/// There are more envelopes than one write takes, and every third one stays.
#[test]
fn several_writes_prune_what_one_does() {
    let (store, mirror) = (in_memory(), in_memory());
    for store in [&store, &mirror] {
        let plain = |at| {
            let facts = Facts { addresses: Vec::new(), ..facts(id(PEER, at)) };
            append_with(PEER, at, facts)
        };
        store.commit(&(1..=1000).map(plain).collect::<Vec<_>>()).unwrap();
    }
    let (thirds, others): (Vec<u64>, Vec<u64>) = (1..1000).partition(|at| at % 3 == 0);
    assert_eq!(prune_plain(&store, PEER, &others), others);
    assert_neighbours_are_one_row(&store, &others.iter().map(|at| id(PEER, *at)).collect());
    assert_eq!(prune_plain(&store, PEER, &thirds), thirds);
    let mark = store.snapshot().mark(id(PEER, 1)).unwrap();
    assert_eq!(mark, Some(Mark::Pruned { through: SequenceId(999) }), "all are one range");
    assert_eq!(kept(&store), kept(&mirror));
    assert_eq!(trees(&store), trees(&mirror));
}

/// The outcomes of all writes together name every pruned envelope, and no write follows the one at which the caller
/// stops.
#[test]
fn pruning_ends_behind_the_write_that_its_caller_ends_it_with() {
    let store = in_memory();
    let plain = |at| {
        let facts = Facts { addresses: Vec::new(), ..facts(id(PEER, at)) };
        append_with(PEER, at, facts)
    };
    store.commit(&(1..=500).map(plain).collect::<Vec<_>>()).unwrap();
    // The last one stays, because it is the head, and so does the first one, whose expiry differs from that in the
    // index.
    let at = |place: u64| Expiring {
        expiry_unix_s: place.max(2),
        id: id(PEER, place),
        ..Expiring::default()
    };
    let expired: Vec<_> = (1..=500).map(at).collect();
    let derive_all = |expired: &[ExpiredEnvelope]| {
        expired.iter().map(|it| derive_plain(it.id, &it.bytes, Validity::Valid)).collect()
    };
    let run = |writes_max: usize| {
        let (mut pruned, mut refused, mut writes) = (Vec::new(), Vec::new(), 0);
        let end = store.prune_many(&expired, &derive_all, &mut |done| {
            pruned.extend(done.pruned.iter().map(|(id, _)| id.sequence.0));
            refused.extend(done.refused.iter().map(|id| id.sequence.0));
            writes += 1;
            if writes == writes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (end.unwrap(), pruned, refused)
    };
    let (end, pruned, refused) = run(3);
    assert_eq!((end, refused), (ControlFlow::Break(()), vec![1]));
    assert!(pruned.iter().copied().eq(2..2 + pruned.len() as u64), "{pruned:?}");
    let held = (1..=500).filter(|place| store.snapshot().get(id(PEER, *place)).unwrap().is_some());
    assert_eq!(held.count(), 500 - pruned.len());
    let (end, rest, refused) = run(usize::MAX);
    assert_eq!((end, pruned.len() + rest.len()), (ControlFlow::Continue(()), 498));
    let expected: Vec<u64> = (1..=pruned.len() as u64 + 1).chain([500]).collect();
    let mut refused = refused;
    refused.sort_unstable();
    assert_eq!(refused, expected);
}

/// Twenty envelopes of each strand that all expire, in one minute.
fn twenty(store: &Store) {
    for originator in [OWN, PEER] {
        let plain = |at| {
            let facts = Facts { addresses: Vec::new(), ..facts(id(originator, at)) };
            append_with(originator, at, facts)
        };
        store.commit(&(1..=20).map(plain).collect::<Vec<_>>()).unwrap();
    }
}

fn derive_plain(at: EnvelopeId, _: &bytes::Bytes, _: Validity) -> Option<Facts> {
    Some(Facts { addresses: Vec::new(), ..facts(at) })
}

fn prune_plain(store: &Store, originator: OriginatorId, places: &[u64]) -> Vec<u64> {
    let at = |place: &u64| Expiring {
        expiry_unix_s: *place,
        id: id(originator, *place),
        payer: None,
        receipt: None,
    };
    let expired: Vec<_> = places.iter().map(at).collect();
    let done = store.prune(&expired, &derive_plain).unwrap();
    done.pruned.iter().map(|(id, _)| id.sequence.0).collect()
}

/// Evidence holds both statements itself, and needs neither the log nor its marks.
#[test]
fn two_statements_for_a_place_stay_evidence_when_the_place_is_pruned() {
    on_each(|store| {
        twenty(store);
        let evidence = Evidence {
            misbehavior: Misbehavior::TwoStatements(StatementDifference::Content),
            at: id(PEER, 4),
            from: Some(OWN),
            envelopes: vec![signed("one", 1), signed("another", 1)],
        };
        store.record_evidence(7, std::slice::from_ref(&evidence)).unwrap();
        let kept = || {
            let start = EvidenceTime::default();
            store.snapshot().evidence(start, usize::MAX, usize::MAX).unwrap()
        };
        let before = kept();
        assert_eq!((before.len(), &before[0].evidence), (1, &evidence));
        assert_eq!(prune_plain(store, PEER, &[3, 4, 5]), [3, 4, 5]);
        assert_eq!(store.snapshot().get(id(PEER, 4)).unwrap(), None);
        assert_eq!(kept(), before);
        store.rebuild(&derive_plain, &mut |_| {}).unwrap();
        assert_eq!(kept(), before);
    });
}

#[test]
fn a_repeat_of_a_pruned_envelope_changes_nothing_and_another_one_is_a_conflict() {
    on_each(|store| {
        twenty(store);
        assert_eq!(prune_plain(store, PEER, &[3, 4, 5]), [3, 4, 5]);
        let (before, digests) =
            (strand_items(store), store.snapshot().projection_digests().unwrap());
        let facts = derive_plain(id(PEER, 4), &bytes::Bytes::new(), Validity::Valid).unwrap();
        store.commit(&[append_with(PEER, 4, facts.clone())]).unwrap();
        assert_eq!(strand_items(store), before, "it does not come back");
        assert_eq!(store.snapshot().projection_digests().unwrap(), digests, "nor is it counted");
        let other = LogEntry::valid(id(PEER, 4), signed("another", 1), facts);
        let refused = store.commit(&[Change::Append(other)]);
        assert_eq!(refused, Err(CommitError::Conflict { at: id(PEER, 4) }));
    });
}

#[test]
fn the_receipt_of_a_pruned_publish_stays_and_names_the_highest_place() {
    let store = in_memory();
    let same =
        |at: u64| Facts { receipt: Some(digest(1)), addresses: Vec::new(), ..facts(id(OWN, at)) };
    let changes: Vec<_> = (1..=6).map(|at| append_with(OWN, at, same(at))).collect();
    store.commit(&changes).unwrap();
    let prune = |place: u64| {
        let expired =
            [Expiring { expiry_unix_s: place, id: id(OWN, place), payer: None, receipt: None }];
        let derive = |at: EnvelopeId, _: &bytes::Bytes, _| match at.sequence.0 {
            7 => Some(facts(at)),
            place => Some(same(place)),
        };
        assert_eq!(store.prune(&expired, &derive).unwrap().pruned.len(), 1);
        let receipt = store.snapshot().receipt(&digest(1)).unwrap();
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_eq!(store.snapshot().receipt(&digest(1)).unwrap(), receipt, "a rebuild");
        receipt.map(|it| it.0)
    };
    assert_eq!(prune(2), Some(6), "a later place has the same digest");
    store.commit(&[append(OWN, 7)]).unwrap();
    assert_eq!(prune(6), Some(6), "the newest has gone, and the request is still known");
}

#[test]
fn what_the_log_needs_as_it_is_stays() {
    on_each(|store| {
        twenty(store);
        store.commit(&[append(OWN, 21), append_invalid(OWN, 22, 8), append(OWN, 23)]).unwrap();
        let at = |expiry_unix_s, place| Expiring {
            expiry_unix_s,
            id: id(OWN, place),
            payer: None,
            receipt: None,
        };
        let named = [at(1, 2), at(21, 21), at(22, 22), at(23, 23), at(99, 99), at(3, 3)];
        let derive = |at: EnvelopeId, _: &bytes::Bytes, _| Some(facts(at));
        let done = store.prune(&named, &|at, bytes, validity| {
            // The address of place 21 is in an inbox.
            if at.sequence.0 == 21 {
                derive(at, bytes, validity)
            } else {
                derive_plain(at, bytes, validity)
            }
        });
        let PrunedBatch { pruned, refused } = done.unwrap();
        let places: Vec<_> = pruned.iter().map(|(id, _)| id.sequence.0).collect();
        assert_eq!(places, [3]);
        let mut refused: Vec<_> = refused.iter().map(|id| id.sequence.0).collect();
        refused.sort_unstable();
        // Refused: another expiry, an inbox's address, a mark, the head, and a place without an envelope.
        assert_eq!(refused, [2, 21, 22, 23, 99]);
        assert_eq!(prune_plain(store, OWN, &[3]), [0; 0], "it has gone already");
    });
}

/// No peer brings a damaged mark back.
#[test]
fn a_mark_that_cannot_be_read_keeps_no_other_strand_from_being_pruned() {
    let store = in_memory();
    twenty(&store);
    let key = [&OWN.0.to_be_bytes()[..], &10_u64.to_be_bytes()].concat();
    store.put_raw_row(Family::Mark, &key, &[0xff]);
    let mut expired = expiring(&store);
    expired.retain(|it| (2..5).contains(&it.id.sequence.0));
    let done = store.prune(&expired, &derive_plain).unwrap();
    let pruned: Vec<_> = done.pruned.iter().map(|(at, _)| *at).collect();
    assert_eq!(pruned, [2, 3, 4].map(|place| id(PEER, place)));
    assert_eq!(done.refused, [2, 3, 4].map(|place| id(OWN, place)));
}

#[test]
fn amounts_are_priced_again_from_the_records() {
    let (store, mirror) = (in_memory(), in_memory());
    [&store, &mirror].into_iter().for_each(twenty);
    prune_plain(&store, PEER, &[1, 2, 3, 7, 9]);
    assert_eq!(kept(&store), kept(&mirror));
    let before = kept(&store);
    for store in [&store, &mirror] {
        store.record_rates(&[rate(0, 5)]).unwrap();
        while store.reprice(&derive_plain, 3).unwrap() == 3 {}
    }
    assert_eq!(kept(&store), kept(&mirror));
    assert_ne!(kept(&store), before, "the rate changes amounts");
}

#[test]
fn a_tree_that_waits_for_a_place_goes_on_over_pruned_ones() {
    let (store, mirror) = (in_memory(), in_memory());
    for store in [&store, &mirror] {
        let plain = |at| {
            append_with(
                PEER,
                at,
                derive_plain(id(PEER, at), &bytes::Bytes::new(), Validity::Valid).unwrap(),
            )
        };
        store.commit(&[plain(1), skip(PEER, 2, 2, SkipReason::Missing)]).unwrap();
        store.commit(&(3..=9).map(plain).collect::<Vec<_>>()).unwrap();
        assert_eq!(trees(store)[1].0, 1);
    }
    assert_eq!(prune_plain(&store, PEER, &[1, 3, 4, 8]), [1, 3, 4, 8]);
    for store in [&store, &mirror] {
        let found = derive_plain(id(PEER, 2), &bytes::Bytes::new(), Validity::Valid).unwrap();
        store.commit(&[append_with(PEER, 2, found)]).unwrap();
        while store.reprice(&derive_plain, 3).unwrap() == 3 {}
    }
    assert_eq!(trees(&store), trees(&mirror));
    assert_eq!(trees(&store)[1].0, 9);
    assert_eq!(kept(&store), kept(&mirror), "a late find beside pruned places");
    let leaf = store.snapshot().leaf(id(PEER, 4)).unwrap();
    assert!(leaf.is_some() && leaf == mirror.snapshot().leaf(id(PEER, 4)).unwrap());
}

#[test]
fn the_place_behind_the_last_expired_one_is_told_and_only_of_strands_in_which_something_expired() {
    let store = in_memory();
    twenty(&store);
    let oldest = |originator| {
        let found = store.snapshot().oldest(originator).unwrap();
        let of_all = store.oldest().unwrap();
        let expected = of_all.iter().find(|it| it.originator == originator).map(|it| it.sequence);
        assert_eq!(found, expected, "what is remembered follows every change");
        found.map(|it| it.0)
    };
    assert_eq!(oldest(PEER), None);
    prune_plain(&store, PEER, &[2, 3]);
    assert_eq!(oldest(PEER), Some(4), "one that is kept longer hides nothing");
    prune_plain(&store, PEER, &[1, 7]);
    assert_eq!(oldest(PEER), Some(8));
    assert_eq!(oldest(OWN), None);
    let other = OriginatorId(300);
    store.commit(&[skip(other, 1, 4, SkipReason::Expired)]).unwrap();
    assert_eq!(oldest(other), Some(5), "nothing is retained");
    store.commit(&[skip(other, 5, 6, SkipReason::Missing), append(other, 7)]).unwrap();
    assert_eq!(oldest(other), Some(5), "missing places are passed");
    let missing = OriginatorId(400);
    store.commit(&[skip(missing, 1, 4, SkipReason::Missing), append(missing, 5)]).unwrap();
    assert_eq!(oldest(missing), None, "missing is not expired");
    store.commit(&[append(other, 4), append(other, 8)]).unwrap();
    assert_eq!(oldest(other), Some(4), "a late find at the end");
    let older = OriginatorId::MIGRATED[0];
    let unused = |from, through| skip(older, from, through, SkipReason::Expired);
    let plain = |at| {
        append_with(
            older,
            at,
            derive_plain(id(older, at), &bytes::Bytes::new(), Validity::Valid).unwrap(),
        )
    };
    store
        .commit(&[unused(1, 3), plain(4), unused(5, 8), plain(9), unused(10, 10), plain(11)])
        .unwrap();
    assert_eq!(oldest(older), None, "row numbers that were never used have not expired");
    assert_eq!(prune_plain(&store, older, &[4]), [4]);
    assert_eq!(oldest(older), Some(5));
}

#[test]
fn a_scrub_knows_pruned_places_and_misses_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    twenty(&store);
    prune_plain(&store, PEER, &[1, 2, 3, 9]);
    let mut go_on = |_| ControlFlow::Continue(());
    assert_eq!(store.scrub(&mut go_on).unwrap().damages, []);
    drop(store);
    let options = rocksdb::Options::default();
    let names = rocksdb::DB::list_cf(&options, folder.path()).unwrap();
    let db = rocksdb::DB::open_cf(&options, folder.path(), names).unwrap();
    let key = [&PEER.0.to_be_bytes()[..], &2_u64.to_be_bytes()].concat();
    db.delete_cf(db.cf_handle("pruned").unwrap(), key).unwrap();
    drop(db);
    let store = Store::open(&settings(folder.path())).unwrap();
    let damages = store.scrub(&mut go_on).unwrap().damages;
    let [damage] = &damages[..] else { panic!("{damages:?}") };
    assert_eq!((damage.family, damage.first), ("pruned", Some(id(PEER, 2))));
    assert!(store.rebuild(&derive_plain, &mut |_| {}).is_err(), "tallies would be wrong");
}

#[test]
fn files_give_back_the_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    let long = |at: u64| {
        let facts = derive_plain(id(OWN, at), &bytes::Bytes::new(), Validity::Valid);
        let random: Vec<u8> = (0..30).flat_map(|part| digest(at * 1000 + part)).collect();
        LogEntry { bytes: random.into(), facts, ..entry(id(OWN, at)) }
    };
    let changes: Vec<_> = (1..=4000).map(|at| Change::Append(long(at))).collect();
    store.commit(&changes).unwrap();
    store.flush().unwrap();
    let before = store.disk_bytes();
    let places: Vec<u64> = (1..4000).collect();
    assert_eq!(prune_plain(&store, OWN, &places).len(), 3999);
    drop(store);
    // The run that has pruned them may be another one.
    let store = Store::open(&settings(folder.path())).unwrap();
    store.compact_pruned().unwrap();
    // The write-ahead log and the manifest take some room of their own.
    assert!(store.disk_bytes() < before / 2, "{} of {before}", store.disk_bytes());
    assert_eq!(store.snapshot().get(id(OWN, 4000)).unwrap(), Some(long(4000).bytes));
}

#[test]
fn pruned_places_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&settings(folder.path())).unwrap();
    twenty(&store);
    prune_plain(&store, OWN, &[1, 2, 3]);
    let (before, digests) = (strand_items(&store), store.snapshot().projection_digests().unwrap());
    drop(store);
    let store = Store::open(&settings(folder.path())).unwrap();
    assert_eq!(strand_items(&store), before);
    assert_eq!(before[&id(OWN, 2)], Some(SkipReason::Pruned));
    assert_eq!(store.prune(&[], &derive_plain), Ok(PrunedBatch::default()));
    store.rebuild(&derive_plain, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), digests);
    // The strand goes on.
    extend(&store, OWN, 3);
    assert_eq!(store.snapshot().head(OWN).unwrap(), SequenceId(23));
}
