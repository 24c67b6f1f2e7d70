//! Strands whose envelopes expire, for tests of pruning.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use hawser_proto::EnvelopeId;
use hawser_storage::{
    Change, Expiring, Facts, InvalidRule, LogEntry, LogItem, Mark, PrunedBatch, SkipReason, Store,
    Validity, WriteFault,
};

use super::*;

/// Returns the facts of an envelope: a pure function of its place, as the engine's are of its bytes.
pub(crate) fn derived(at: EnvelopeId) -> (Option<InvalidRule>, Option<Facts>) {
    let random = digest(at.sequence.0 * 1_000 + u64::from(at.originator.0));
    if random[0] < 30 {
        return (Some(InvalidRule(random[1])), None);
    }
    let facts = Facts {
        topic: Some(topic(&format!("t{}", random[2] % 4))),
        originator_ns: i64::from(random[3]) * 3_000_000_000,
        depends_on: Vec::new(),
        expiry_unix_s: (random[5] > 30).then(|| u64::from(random[6])),
        // Few digests, so that several places often share one.
        receipt: Some(digest(u64::from(random[8] % 16))),
        charge: (random[9] > 50).then(|| charge(random[10] % 3, u64::from(random[12]))),
        counts_for_congestion: random[13] > 50,
        addresses: match random[14] > 230 {
            true => facts(at).addresses,
            false => Vec::new(),
        },
    };
    (None, Some(facts))
}

pub(crate) fn change(at: EnvelopeId) -> Change {
    let (invalid, facts) = derived(at);
    Change::Append(LogEntry { validity: Validity::of(invalid), facts, ..entry(at) })
}

pub(crate) fn derive(at: EnvelopeId, bytes: &bytes::Bytes, validity: Validity) -> Option<Facts> {
    assert_eq!(bytes, &entry(at).bytes);
    derived(at).1.filter(|_| validity == Validity::Valid)
}

pub(crate) fn expiring(store: &Store) -> Vec<Expiring> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        after = store
            .snapshot()
            .expiring(after, 7, |it| {
                all.push(it);
                ControlFlow::Continue(())
            })
            .unwrap();
        if after.is_none() {
            return all;
        }
    }
}

pub(crate) fn prune(store: &Store, expired: &[Expiring]) -> PrunedBatch {
    store.prune(expired, &derive).unwrap()
}

pub(crate) fn reprice(store: &Store) {
    while store.reprice(&derive, 3).unwrap() == 3 {}
}

/// Returns the digests that pruning must not change.
pub(crate) fn kept(store: &Store) -> BTreeMap<&'static str, [u8; 32]> {
    let mut digests = store.snapshot().projection_digests().unwrap();
    digests.retain(|name, _| ["usage", "usage_by_payer", "congestion", "inbox"].contains(name));
    assert_eq!(digests.len(), 4);
    digests
}

pub(crate) fn bring_up(store: &Store) {
    while !store.extend_trees(100).unwrap() {}
}

/// Returns size and root of both trees.
pub(crate) fn trees(store: &Store) -> Vec<(u64, [u8; 32])> {
    bring_up(store);
    let snapshot = store.snapshot();
    let tree = |originator| {
        let size = snapshot.tree_size(originator).unwrap();
        (size, snapshot.root(originator, size).unwrap().0)
    };
    [OWN, PEER].map(tree).to_vec()
}

/// Returns the result of a scan of each strand: `None` for a place with an envelope, the reason for an empty one.
pub(crate) fn strand_items(store: &Store) -> BTreeMap<EnvelopeId, Option<SkipReason>> {
    let snapshot = store.snapshot();
    let mut items = BTreeMap::new();
    for head in snapshot.heads().unwrap().iter() {
        for item in snapshot.log(id(head.originator, 0), head.sequence) {
            match item.unwrap() {
                LogItem::Envelope { id, bytes, .. } => {
                    assert_eq!(bytes, entry(id).bytes);
                    assert_eq!(items.insert(id, None), None);
                }
                LogItem::Skipped { from, through, reason } => {
                    for place in from.0..=through.0 {
                        assert_eq!(items.insert(id(head.originator, place), Some(reason)), None);
                    }
                }
            }
        }
        assert_eq!(items.range(id(head.originator, 1)..=head).count() as u64, head.sequence.0);
    }
    items
}

/// Interrupts a write of `work` with a fault that leaves all of it on the disk or nothing, and reopens the store.
pub(crate) fn break_off(store: &Store, fault: WriteFault, work: impl FnOnce()) {
    store.set_write_faults(Some(Arc::new(move || Some(fault))));
    work();
    store.set_write_faults(None);
    store.reopen().unwrap();
    store.accept_writes();
}

/// Turns random numbers into the next change of one of the strands.
pub(crate) fn next_change(heads: &mut [u64; 2], (is_own, kind): (bool, u8)) -> Change {
    let (originator, head) = match is_own {
        true => (OWN, &mut heads[0]),
        false => (PEER, &mut heads[1]),
    };
    let next = *head + 1;
    let (change, last) = match (is_own, kind) {
        (false, 0) => (skip(originator, next, next + 2, SkipReason::Missing), next + 2),
        (false, 1) => (skip(originator, next, next, SkipReason::Expired), next),
        (_, 2) => (skip(originator, next, next + 1, SkipReason::Void), next + 1),
        _ => (change(id(originator, next)), next),
    };
    *head = last;
    change
}

/// Asserts that the mark of a pruned place reaches to its last adjacent pruned place.
pub(crate) fn assert_neighbours_are_one_row(store: &Store, gone: &BTreeSet<EnvelopeId>) {
    for (&at, reason) in &strand_items(store) {
        if *reason == Some(SkipReason::Pruned) {
            let mark = store.snapshot().mark(at).unwrap();
            let Some(Mark::Pruned { through }) = mark else { panic!("{at}: {mark:?}") };
            let next = EnvelopeId { sequence: through.next(), ..at };
            assert!(!gone.contains(&next), "{} ends at {}", at, through);
        }
    }
}
