//! Pruning with failing writes and crashes, by seed. After any failed write, and any loss of the write-ahead log's
//! end by a crash, tallies, receipts, marks, records and leaves equal those of a log that was never pruned.
//!
//! Real parts: the store, on RocksDB's memory environment, or on files for crashes. Simulated parts: the outcome of
//! each write, and the place at which a crash cuts the write-ahead log. A seed is a run.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::pruning::*;
use crate::support::*;
use hawser_proto::{EnvelopeId, SequenceId};
use hawser_storage::{Change, SkipReason, Store, WriteFault};

/// Seeds of runs over failing writes.
const SEEDS: u64 = 200;
/// Seeds of runs over crashes, each on files.
const CRASH_SEEDS: u64 = 24;
/// Environment variable that sets the number of seeds of both kinds, as for other simulations.
const COUNT_VARIABLE: &str = "HAWSER_SIM_SEEDS";
/// Steps of one run.
const STEPS: u64 = 24;

fn seeds(usual: u64) -> std::ops::Range<u64> {
    let count = std::env::var(COUNT_VARIABLE).ok();
    0..count.map_or(usual, |it| it.parse().expect("the number of seeds is a number"))
}

/// Random numbers of a seed.
struct Dice {
    seed: u64,
    thrown: Cell<u64>,
}

impl Dice {
    fn new(seed: u64) -> Self {
        Self { seed, thrown: Cell::new(0) }
    }

    fn below(&self, end: u64) -> u64 {
        self.thrown.set(self.thrown.get() + 1);
        let mixed = digest(self.seed.wrapping_mul(1_000_003).wrapping_add(self.thrown.get()));
        u64::from_be_bytes(mixed[..8].try_into().unwrap()) % end
    }

    fn chance(&self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// Fails one write of the next step, or none.
fn arm(store: &Store, dice: &Dice) {
    let nth = dice.below(6);
    let fault = if dice.chance(2) { WriteFault::Lost } else { WriteFault::Kept };
    let written = AtomicU64::new(0);
    store.set_write_faults(Some(Arc::new(move || {
        (written.fetch_add(1, Ordering::SeqCst) == nth).then_some(fault)
    })));
}

/// Reads the log again if a write has failed.
fn recover(store: &Store) {
    store.set_write_faults(None);
    if store.is_poisoned() {
        store.reopen().unwrap();
        store.accept_writes();
    }
}

/// The groups of changes that were made to a log, each with the strands' heads after it, and the current heads.
#[derive(Default)]
struct Made {
    heads: [u64; 2],
    groups: Vec<(Vec<Change>, [u64; 2])>,
}

impl Made {
    /// Makes the next group of changes.
    fn group(&self, dice: &Dice) -> (Vec<Change>, [u64; 2]) {
        let mut heads = self.heads;
        let count = 1 + dice.below(12);
        let kind = || u8::try_from(dice.below(12)).unwrap();
        let next = |_| next_change(&mut heads, (dice.chance(2), kind()));
        let changes = (0..count).map(next).collect();
        (changes, heads)
    }

    fn note(&mut self, group: (Vec<Change>, [u64; 2])) {
        self.heads = group.1;
        self.groups.push(group);
    }
}

fn heads(store: &Store) -> [u64; 2] {
    let snapshot = store.snapshot();
    [OWN, PEER].map(|it| snapshot.head(it).unwrap().0)
}

/// Does one step of any kind. Adds its commit to `made` if the disk has it in the end.
fn step(store: &Store, made: &mut Made, dice: &Dice, has_faults: bool) {
    let arm = || {
        if has_faults && dice.chance(2) {
            arm(store, dice);
        }
    };
    if store.has_stale_projections() {
        arm();
        let _ = store.rebuild(&derive, &mut |_| {});
        return recover(store);
    }
    match dice.below(10) {
        0..=3 => {
            let group = made.group(dice);
            arm();
            let _ = store.commit(&group.0);
            recover(store);
            if heads(store) == group.1 {
                made.note(group);
            }
        }
        4..=7 => {
            let chosen: Vec<_> = expiring(store).into_iter().filter(|_| dice.chance(2)).collect();
            arm();
            let _ = store.prune(&chosen, &derive);
            recover(store);
        }
        8 => {
            arm();
            let _ = store.extend_trees(5);
            recover(store);
        }
        _ => {
            arm();
            let _ = match dice.below(3) {
                0 => store.record_rates(&[rate(0, 1), rate(200, 1000)]).is_ok(),
                1 => store.reprice(&derive, 3).is_ok(),
                _ => store.rebuild(&derive, &mut |_| {}).is_ok(),
            };
            recover(store);
        }
    }
    assert_eq!(heads(store), made.heads, "commits are there as a whole or not at all");
}

/// Returns a log that was never pruned, with the same changes and rates.
fn unpruned(made: &Made, rates: &[hawser_proto::price::Rate]) -> Store {
    let mirror = in_memory();
    for (changes, _) in &made.groups {
        mirror.commit(changes).unwrap();
    }
    if !rates.is_empty() {
        mirror.record_rates(rates).unwrap();
    }
    mirror
}

/// Compares a log with one that was never pruned. Returns the number of its pruned places.
fn assert_only_pruned(store: &Store, made: &Made, seed: u64) -> usize {
    if store.has_stale_projections() {
        store.rebuild(&derive, &mut |_| {}).unwrap();
    }
    let mirror = unpruned(made, &store.snapshot().rates().unwrap());
    [store, &mirror].into_iter().for_each(reprice);
    let digests = |store: &Store| {
        let mut digests = kept(store);
        let all = store.snapshot().projection_digests().unwrap();
        digests.insert("receipt", all["receipt"]);
        digests
    };
    assert_eq!(digests(store), digests(&mirror), "seed {seed}: tallies and receipts");
    assert_eq!(trees(store), trees(&mirror), "seed {seed}: trees");
    let (now, before) = (strand_items(store), strand_items(&mirror));
    assert_eq!(now.len(), before.len(), "seed {seed}");
    let gone: std::collections::BTreeSet<EnvelopeId> =
        now.iter().filter(|(_, it)| **it == Some(SkipReason::Pruned)).map(|(at, _)| *at).collect();
    for (at, item) in &now {
        if gone.contains(at) {
            assert_eq!(before[at], None, "seed {seed}: {at} had an envelope");
            let snapshot = store.snapshot();
            let mut records = snapshot.pruned(at.originator, at.sequence, at.sequence);
            let recorded = records.next().unwrap().unwrap().0;
            assert_eq!(recorded, *at, "seed {seed}: its record is there");
        } else {
            assert_eq!(item, &before[at], "seed {seed}: {at}");
        }
        let leaf = |store: &Store| store.snapshot().leaf(*at).unwrap();
        assert_eq!(leaf(store), leaf(&mirror), "seed {seed}: the leaf of {at}");
    }
    assert_neighbours_are_one_row(store, &gone);
    assert!(expiring(store).iter().all(|it| !gone.contains(&it.id)), "seed {seed}");
    let rows = store.snapshot().projection_digests().unwrap();
    store.rebuild(&derive, &mut |_| {}).unwrap();
    assert_eq!(store.snapshot().projection_digests().unwrap(), rows, "seed {seed}: a rebuild");
    gone.len()
}

#[test]
fn no_failing_write_leaves_an_envelope_half_pruned() {
    let mut gone = 0;
    for seed in seeds(SEEDS) {
        let (dice, store, mut made) = (Dice::new(seed), in_memory(), Made::default());
        (0..STEPS).for_each(|_| step(&store, &mut made, &dice, true));
        gone += assert_only_pruned(&store, &made, seed);
    }
    assert!(gone > 0, "something is pruned");
}

fn newest_wal(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|it| it == "log")).max().unwrap()
}

/// A crash loses the end of the unsynced data. This cut may lose synced commits too, because pruning has to be
/// consistent with any end.
#[test]
fn no_crash_leaves_an_envelope_half_pruned() {
    let mut gone = 0;
    for seed in seeds(CRASH_SEEDS) {
        let dice = Dice::new(seed ^ 0x00c0_ffee);
        let folder = tempfile::tempdir().unwrap();
        // The first start creates its own files, so the later commits are in a separate write-ahead log.
        drop(Store::open(&settings(folder.path())).unwrap());
        let (store, mut made) = (Store::open(&settings(folder.path())).unwrap(), Made::default());
        (0..STEPS).for_each(|_| step(&store, &mut made, &dice, false));
        drop(store);
        let wal = fs::OpenOptions::new().write(true).open(newest_wal(folder.path())).unwrap();
        let len = wal.metadata().unwrap().len();
        wal.set_len(len - dice.below(len / 2 + 1)).unwrap();
        let store = Store::open(&settings(folder.path())).unwrap();
        let held = heads(&store);
        made.groups.retain(|(_, after)| (0..2).all(|it| after[it] <= held[it]));
        made.heads = held;
        let ends: BTreeMap<_, _> =
            made.groups.iter().flat_map(|(changes, _)| changes).map(end_of).collect();
        let ends = [OWN, PEER].map(|it| ends.get(&it).copied().unwrap_or_default().0);
        assert_eq!(ends, held, "seed {seed}: whole groups");
        gone += assert_only_pruned(&store, &made, seed);
    }
    assert!(gone > 0, "something is pruned");
}

fn end_of(change: &Change) -> (hawser_proto::OriginatorId, SequenceId) {
    let end = change.end();
    (end.originator, end.sequence)
}
