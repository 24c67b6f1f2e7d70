//! The amount of evidence, or of reports, about each node.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;
use parking_lot::{Mutex, MutexGuard};

use crate::error::ReadError;
use crate::keys::fact::{Fact, FactClass};

/// Records of one class about one node that are kept. Specified (`docs/protocol/misbehavior.md`). Further proofs
/// would prove nothing more, and a node must not fill this one's disk with its own faults.
const RECORDS_MAX: u64 = 10_000;
/// Their bytes. Specified (same page).
const LEN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Records of one class about one node, and their bytes.
pub(crate) const CLASS_MAX: Amount = Amount { records: RECORDS_MAX, bytes: LEN_BYTES_MAX };
/// Records about all nodes together that strangers submitted and that prove nothing, and their bytes. Specified (same
/// page). A guess: four times the bound of a single node. Without it, strangers could make a node keep 25 GiB about a
/// network of a hundred nodes.
const SUBMITTED_MAX: Amount = Amount { records: 4 * RECORDS_MAX, bytes: 4 * LEN_BYTES_MAX };
/// Divisor of a bound that is freed when there are too many records: a tenth, so that one search for the oldest ones
/// serves many new ones. A guess.
const FREED_PART: u64 = 10;
/// Unreadable rows that are named and counted. A guess: more lines tell an operator nothing more.
const UNREADABLE_MAX: usize = 1024;

/// Records and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Amount {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
}

impl Amount {
    /// Returns true if neither the records nor the bytes exceed those of `bound`.
    pub(crate) fn is_within(self, bound: Self) -> bool {
        self.records <= bound.records && self.bytes <= bound.bytes
    }

    /// Returns the amount that is left of a bound once a part of it is freed.
    pub(crate) fn after_freeing(self) -> Self {
        let rest = |bound: u64| bound - bound / FREED_PART;
        Self { records: rest(self.records), bytes: rest(self.bytes) }
    }
}

/// The share of a node in a common room, and the nodes that exceed it, each with the class of its records.
#[derive(Debug)]
pub(crate) struct OverShare<C> {
    pub(crate) share: Amount,
    pub(crate) nodes: Vec<(OriginatorId, C)>,
}

/// The amounts by node and class, and the key of the last record. Has an entry for each accused node and class, which
/// the registry bounds.
#[derive(Debug)]
pub(crate) struct FactIndex<F: Fact> {
    pub(crate) last: F::Time,
    amounts: BTreeMap<(OriginatorId, F::Class), Amount>,
    /// The number of records that were not stored since the start because there was no room in their class.
    left_out: BTreeMap<(OriginatorId, F::Class), u64>,
    /// The keys of rows that could not be read since the start. Bounded by [`UNREADABLE_MAX`].
    unreadable: BTreeSet<Vec<u8>>,
}

impl<F: Fact> Default for FactIndex<F> {
    fn default() -> Self {
        Self {
            last: F::Time::default(),
            amounts: BTreeMap::new(),
            left_out: BTreeMap::new(),
            unreadable: BTreeSet::new(),
        }
    }
}

impl<F: Fact> FactIndex<F> {
    /// Returns the amounts by node and class.
    pub(crate) fn amounts(&self) -> &BTreeMap<(OriginatorId, F::Class), Amount> {
        &self.amounts
    }

    /// Returns the amount of one class about one node.
    pub(crate) fn of(&self, about: (OriginatorId, F::Class)) -> Amount {
        self.amounts.get(&about).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, about: (OriginatorId, F::Class), len_bytes: u32) {
        let amount = self.amounts.entry(about).or_default();
        amount.records += 1;
        amount.bytes += u64::from(len_bytes);
    }

    pub(crate) fn remove(&mut self, about: (OriginatorId, F::Class), len_bytes: u32) {
        let amount = self.amounts.entry(about).or_default();
        amount.records = amount.records.saturating_sub(1);
        amount.bytes = amount.bytes.saturating_sub(u64::from(len_bytes));
    }

    /// Returns true if another record may be stored, besides those that are kept and `added` now. Classes that prove
    /// nothing make room for themselves.
    pub(crate) fn has_room(
        &self,
        about: (OriginatorId, F::Class),
        added: Amount,
        len_bytes: u32,
    ) -> bool {
        let kept = self.of(about);
        !about.1.is_proven()
            || (kept.records + added.records < RECORDS_MAX
                && kept.bytes + added.bytes + u64::from(len_bytes) <= LEN_BYTES_MAX)
    }

    /// Returns the share of each node in what strangers submitted, with the nodes above it, once there is too much
    /// about all nodes together. `None` if all fits.
    ///
    /// The shares are equal, and nodes with less leave the rest to the others. So a flood about some nodes costs no
    /// record about a node that has less than its share.
    pub(crate) fn over_share(&self) -> Option<OverShare<F::Class>> {
        let submitted = || self.amounts.iter().filter(|((_, class), _)| class.is_submitted());
        let sum = submitted().fold(Amount::default(), |sum, (_, amount)| Amount {
            records: sum.records.saturating_add(amount.records),
            bytes: sum.bytes.saturating_add(amount.bytes),
        });
        if sum.is_within(SUBMITTED_MAX) {
            return None;
        }
        let room = SUBMITTED_MAX.after_freeing();
        let share = Amount {
            records: equal_share(submitted().map(|(_, it)| it.records).collect(), room.records),
            bytes: equal_share(submitted().map(|(_, it)| it.bytes).collect(), room.bytes),
        };
        let over = submitted().filter(|(_, amount)| !amount.is_within(share));
        Some(OverShare { share, nodes: over.map(|(about, _)| *about).collect() })
    }

    /// Counts a record for which there is no room. Logs only the first one of each node and class, because room for
    /// proofs is never freed.
    pub(crate) fn note_left_out(&mut self, (accused, class): (OriginatorId, F::Class)) {
        let count = self.left_out.entry((accused, class)).or_default();
        *count = count.saturating_add(1);
        if *count == 1 {
            tracing::warn!(
                code = "misbehavior_left_out",
                %accused,
                share = ?class,
                piece = F::RECORD,
                "there is no room for more proof against this node: what follows is counted and not stored"
            );
        }
    }

    /// Returns the number of records about each node that were left out.
    pub(crate) fn left_out_by_node(&self) -> BTreeMap<OriginatorId, u64> {
        let mut sums = BTreeMap::new();
        for (&(accused, _), &count) in &self.left_out {
            let sum: &mut u64 = sums.entry(accused).or_default();
            *sum = sum.saturating_add(count);
        }
        sums
    }

    /// Counts a row of a fact or of a record that cannot be read, and names it in the log once.
    pub(crate) fn note_unreadable(&mut self, key: &[u8], error: &ReadError) {
        if self.unreadable.len() < UNREADABLE_MAX && self.unreadable.insert(key.to_vec()) {
            tracing::error!(
                code = "evidence_unreadable",
                piece = F::RECORD,
                row = %hex::encode(key),
                %error,
                "a row of evidence or of a report cannot be read: it is passed over"
            );
        }
    }

    /// Returns the number of rows that could not be read since the start.
    pub(crate) fn unreadable(&self) -> u64 {
        self.unreadable.len() as u64
    }
}

/// Returns the largest share with which amounts fit into `room` when those above the share are cut to it; `u64::MAX` if
/// all fit as they are.
fn equal_share(mut amounts: Vec<u64>, room: u64) -> u64 {
    amounts.sort_unstable();
    let (mut room, mut left) = (room, amounts.len() as u64);
    for amount in amounts {
        let share = room / left;
        if amount > share {
            return share;
        }
        room -= amount;
        left -= 1;
    }
    u64::MAX
}

/// The index of the kept records of one kind, and the lock of their writes.
pub(crate) struct IndexedFacts<F: Fact> {
    /// Never locked during a write: operators count the records, and wait for no disk.
    index: Mutex<FactIndex<F>>,
    /// Locked by the one writer of such records, before the index.
    writes: Mutex<()>,
}

impl<F: Fact> IndexedFacts<F> {
    pub(crate) fn new(index: FactIndex<F>) -> Self {
        Self { index: Mutex::new(index), writes: Mutex::default() }
    }

    /// Locks the index. Callers neither read nor write the disk meanwhile.
    pub(crate) fn lock(&self) -> MutexGuard<'_, FactIndex<F>> {
        self.index.lock()
    }

    /// Waits for other writers of such records, and keeps them waiting until the returned value is dropped.
    pub(crate) fn begin_write(&self) -> MutexGuard<'_, ()> {
        self.writes.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_cuts_only_those_with_more_and_takes_what_the_others_leave() {
        assert_eq!(equal_share(vec![], 10), u64::MAX);
        assert_eq!(equal_share(vec![3, 7], 10), u64::MAX, "all fit");
        assert_eq!(equal_share(vec![10, 10, 10], 10), 3);
        assert_eq!(
            equal_share(vec![100, 1, 100, 2], 13),
            5,
            "1 and 2 stay, and 10 are left for two"
        );
        assert_eq!(equal_share(vec![u64::MAX; 3], 2), 0, "more nodes than room");
    }
}
