//! Some projections are rebuilt: the others stay readable, and commits continue if each row depends on one envelope
//! only.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{self, *};
use bytes::Bytes;
use hawser_proto::{EnvelopeId, OriginatorId};
use hawser_storage::{
    Change, Facts, InvalidRule, LogEntry, ReadError, RebuildError, RebuildReport, SkipReason,
    Store, TimeRule, Validity, WriteFault,
};

/// For each family: the families that are rebuilt together with it, and true if commits continue meanwhile.
const GROUPS: [(&str, &[&str], bool); 7] = [
    ("congestion", &["congestion", "usage", "usage_by_payer"], false),
    ("expiry", &["expiry"], true),
    ("inbox", &["inbox"], true),
    ("receipt", &["receipt"], true),
    ("topic", &["topic"], true),
    ("usage", &["congestion", "usage", "usage_by_payer"], false),
    ("usage_by_payer", &["congestion", "usage", "usage_by_payer"], false),
];
/// Envelopes of each strand. Both together take several steps for which commits wait, and one part of a rebuild
/// that blocks all commits.
const ENVELOPES: u64 = 1500;
/// Places of the other strand that are filled late or never.
const LATE: u64 = 60;
/// Time between two envelopes by their facts, nanoseconds.
const STEP_NS: u64 = 600_000_000;

fn derive(at: EnvelopeId, _: &Bytes, validity: Validity) -> Option<Facts> {
    (validity == Validity::Valid).then(|| facts(at))
}

/// An envelope that states its place and the time that its facts have.
fn timed(at: EnvelopeId) -> Change {
    let bytes = support::timed(at, at.sequence.0 * STEP_NS);
    Change::Append(LogEntry { bytes, ..entry(at) })
}

fn append_timed(store: &Store, originator: OriginatorId, places: impl Iterator<Item = u64>) {
    let changes: Vec<_> = places.map(|place| timed(id(originator, place))).collect();
    store.commit(&changes).unwrap();
}

fn fill(store: &Store) {
    append_timed(store, OWN, 1..=ENVELOPES);
    append_timed(store, PEER, 1..=ENVELOPES);
    let (from, through) = (ENVELOPES + 1, ENVELOPES + LATE);
    store.commit(&[skip(PEER, from, through, SkipReason::Missing)]).unwrap();
    store.commit(&[append_invalid(PEER, through + 1, 8)]).unwrap();
    settle(store);
}

/// Prices all marked minutes again.
fn settle(store: &Store) {
    while store.reprice(&derive, 3).unwrap() == 3 {}
}

fn condemn(store: &Store, family: &str) {
    store.condemn_damaged(&[family]).unwrap();
    store.reopen().unwrap();
    store.accept_writes();
}

/// Rebuilds. `beside` is called between two steps.
fn rebuild_beside(
    store: &Store,
    beside: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<RebuildReport, RebuildError> {
    store.rebuild_while(&derive, &mut |made| beside(made.done))
}

fn assert_equal(store: &Store, expected: &Store, what: &str) {
    assert!(!store.has_stale_projections(), "{what}");
    let digests = |store: &Store| store.snapshot().projection_digests().unwrap();
    assert_eq!(digests(store), digests(expected), "{what}");
}

/// New envelopes and a late find.
fn grow(store: &Store, step: u64) {
    for (originator, count) in [(OWN, 3), (PEER, 2)] {
        let head = store.snapshot().head(originator).unwrap().0;
        append_timed(store, originator, head + 1..=head + count);
    }
    append_timed(store, PEER, (0..2).map(|at| ENVELOPES + 1 + (2 * step + at) % LATE));
}

/// Does the concurrent work of a node: the log grows, and marks change both in the rebuilt part and in the rest.
fn go_on(store: &Store, step: u64) {
    grow(store, step);
    let is_broken_at = |ns| (u64::try_from(ns).unwrap() / STEP_NS + step).is_multiple_of(5);
    let rule = TimeRule {
        originator: PEER,
        rule: InvalidRule(17),
        is_broken_at: &is_broken_at,
        replaces: &|_| false,
        judge: &|_| Validity::Valid,
        basis: &step.to_be_bytes(),
    };
    assert!(store.judge_times(&rule, &derive).unwrap().marked > 100);
}

#[test]
fn only_damaged_projections_are_hidden_and_made_anew() {
    let expected = in_memory();
    fill(&expected);
    for (family, group, _) in GROUPS {
        on_each(|store| {
            fill(store);
            condemn(store, family);
            assert_eq!(store.stale_projections(), group, "{family}");
            let snapshot = store.snapshot();
            let is_hidden = |result: Result<(), ReadError>, of: &str| {
                let hidden = matches!(result, Err(ReadError::Rebuilding { .. }));
                assert_eq!(hidden, group.contains(&of), "{family}: {of}");
            };
            is_hidden(snapshot.receipt(&digest(1)).map(drop), "receipt");
            let first = snapshot.topics().seek(topic("t0").as_bytes(), id(OWN, 0)).map(drop);
            is_hidden(first, "topic");
            is_hidden(snapshot.congestion(OWN, 0).map(drop), "congestion");
            let is_needed = group.contains(&"receipt") || group.contains(&"usage");
            assert_eq!(store.lacks_projections_of_publishing(), is_needed, "{family}");
            drop(snapshot);
            let report = rebuild_beside(store, &mut |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(report.envelopes, 2 * ENVELOPES + 1, "{family}");
            assert_equal(store, &expected, family);
            go_on(store, 0);
        });
    }
}

#[test]
fn commits_go_on_while_projections_of_single_envelopes_are_made() {
    for (family, _, _) in GROUPS.into_iter().filter(|(_, _, goes_on)| *goes_on) {
        let (store, expected) = (in_memory(), in_memory());
        [&store, &expected].into_iter().for_each(fill);
        condemn(&store, family);
        go_on(&store, 0); // before it begins
        let mut step = 0;
        rebuild_beside(&store, &mut |_| {
            step += 1;
            go_on(&store, step);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(step >= 3, "{family}: {step} steps");
        (0..=step).for_each(|step| go_on(&expected, step));
        [&store, &expected].into_iter().for_each(settle);
        assert_equal(&store, &expected, family);
        // The rows also equal those of a rebuild of all projections.
        store.rebuild(&derive, &mut |_| {}).unwrap();
        assert_equal(&store, &expected, family);
    }
}

/// A strand of several steps, and of several parts of a rebuild that commits wait for.
fn fill_long(store: &Store) {
    append_timed(store, OWN, 1..=LONG);
    settle(store);
}

/// Envelopes of such a strand.
const LONG: u64 = 4_500;

#[test]
fn one_that_was_broken_off_goes_on_at_the_next_start() {
    // The last two are made together with the first.
    for &(family, group, _) in &GROUPS[..5] {
        let folder = tempfile::tempdir().unwrap();
        let (store, expected) = (Store::open(&settings(folder.path())).unwrap(), in_memory());
        [&store, &expected].into_iter().for_each(fill_long);
        condemn(&store, family);
        let mut made = 0;
        let stopped = rebuild_beside(&store, &mut |done| {
            made = done;
            ControlFlow::Break(())
        });
        assert_eq!(stopped, Err(RebuildError::Stopped));
        assert!(0 < made && made < LONG, "{family}: {made}");
        drop(store);
        let store = Store::open(&settings(folder.path())).unwrap();
        assert_eq!(store.stale_projections(), group, "{family}");
        let mut reported = Vec::new();
        let report = rebuild_beside(&store, &mut |done| {
            reported.push(done);
            ControlFlow::Continue(())
        });
        assert!(
            reported[0] > made,
            "{family}: what was done is not done again: {reported:?} after {made}"
        );
        assert_eq!(report.unwrap().envelopes, LONG, "{family}");
        assert_equal(&store, &expected, family);
    }
}

/// For a failure of each write, also if the disk has the write: the next rebuild of the set makes the same rows.
#[test]
fn one_goes_on_whichever_write_has_failed() {
    for (family, _, _) in [GROUPS[0], GROUPS[4]] {
        let (store, mut failed) = (in_memory(), 0);
        fill_long(&store);
        let digests = store.snapshot().projection_digests().unwrap();
        for (nth, fault) in
            (0..6).flat_map(|nth| [(nth, WriteFault::Lost), (nth, WriteFault::Kept)])
        {
            condemn(&store, family);
            let written = AtomicU64::new(0);
            store.set_write_faults(Some(Arc::new(move || {
                (written.fetch_add(1, Ordering::SeqCst) == nth).then_some(fault)
            })));
            let interrupted = rebuild_beside(&store, &mut |_| ControlFlow::Continue(()));
            store.set_write_faults(None);
            if interrupted.is_err() {
                failed += 1;
                store.reopen().unwrap();
                store.accept_writes();
                if family == "topic" {
                    // Marks may change meanwhile, both in the rebuilt part and in the rest, and back again.
                    for is_broken in [true, false] {
                        let rule = TimeRule {
                            originator: OWN,
                            rule: InvalidRule(17),
                            is_broken_at: &|_| is_broken,
                            replaces: &|_| false,
                            judge: &|_| Validity::Valid,
                            basis: &[u8::from(is_broken)],
                        };
                        let judged = store.judge_times(&rule, &derive).unwrap();
                        assert!(judged.marked + judged.unmarked > 0, "{judged:?}");
                    }
                }
                let report = rebuild_beside(&store, &mut |_| ControlFlow::Continue(())).unwrap();
                assert_eq!(report.envelopes, LONG, "{family}: {nth}, {fault:?}");
            }
            settle(&store);
            assert!(!store.has_stale_projections(), "{family}: {nth}, {fault:?}");
            let after = store.snapshot().projection_digests().unwrap();
            assert_eq!(after, digests, "{family}: {nth}, {fault:?}");
        }
        assert!(failed > 6, "{family}: {failed} rebuilds were interrupted");
    }
}

#[test]
fn one_that_was_broken_off_counts_nothing_twice_that_came_between() {
    for (family, group, goes_on) in GROUPS {
        let folder = tempfile::tempdir().unwrap();
        let (store, expected) = (Store::open(&settings(folder.path())).unwrap(), in_memory());
        [&store, &expected].into_iter().for_each(fill);
        condemn(&store, family);
        let stopped = rebuild_beside(&store, &mut |_| ControlFlow::Break(()));
        assert_eq!(stopped, Err(RebuildError::Stopped));
        let come = |store: &Store| if goes_on { go_on(store, 0) } else { grow(store, 0) };
        [&store, &expected].into_iter().for_each(come);
        drop(store);
        let store = Store::open(&settings(folder.path())).unwrap();
        assert_eq!(store.stale_projections(), group, "{family}");
        let mut calls = 0;
        rebuild_beside(&store, &mut |_| {
            calls += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(calls > 1, goes_on, "{family}: {calls} steps");
        [&store, &expected].into_iter().for_each(settle);
        assert_equal(&store, &expected, family);
    }
}

#[test]
fn damage_met_while_others_are_made_adds_to_them() {
    let (store, expected) = (in_memory(), in_memory());
    [&store, &expected].into_iter().for_each(fill);
    condemn(&store, "topic");
    condemn(&store, "receipt");
    assert_eq!(store.stale_projections(), ["receipt", "topic"]);
    rebuild_beside(&store, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_equal(&store, &expected, "both");
}
