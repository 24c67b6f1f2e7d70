//! The amount of evidence, or of reports, about each node.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;
use parking_lot::{Mutex, MutexGuard};

use crate::error::ReadError;
use crate::keys::fact::{Fact, FactClass};

/// Records of one class about one node that are kept. Specified (`docs/protocol/misbehavior.md`). Further proofs
/// would prove nothing more, and a node must not fill this one's disk with its own faults.
pub(crate) const RECORDS_MAX: u64 = 10_000;
/// Their bytes. Specified (same page).
pub(crate) const LEN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Unreadable rows that are named and counted. A guess: more lines tell an operator nothing more.
const UNREADABLE_MAX: usize = 1024;

/// Records and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Amount {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
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
