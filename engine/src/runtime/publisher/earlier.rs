//! Earlier publishes of the same envelopes. They are looked up on disk while a request is admitted, so that
//! the sequencing thread, which all publishes pass, reads no disk.

use std::collections::{HashMap, HashSet, VecDeque};

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_storage::{Mark, ReadError, Store};

/// Names a group of requests, in the order in which the groups are written.
pub(super) type Generation = u64;

/// Names a publish; see [`crate::facts::receipt`].
pub(super) type Receipt = [u8; 32];

/// Receipts of stored groups that stay in memory. A guess: some tenths of a second of publishing, while a
/// request mostly takes some milliseconds from its look-up to its turn.
const KEPT_MAX: usize = 8192;
/// Bytes of their envelopes that stay in memory. A guess: those of as many envelopes of 4 KiB.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// The outcome of a look on the disk, as of a moment.
#[derive(Debug, Default)]
pub(super) struct LookUp {
    /// The newest group that was stored before.
    stored: Generation,
    /// Everything that was found is durable.
    is_durable: bool,
    /// The highest place of everything that was found.
    last: SequenceId,
    found: HashMap<Receipt, Bytes>,
    /// Earlier publishes whose envelopes have expired and are pruned.
    expired: HashSet<Receipt>,
}

impl LookUp {
    /// Looks for earlier publishes on the disk. `stored` was read before. Blocks on the disk.
    pub(super) fn read(
        store: &Store,
        node: OriginatorId,
        stored: Generation,
        receipts: impl Iterator<Item = Receipt>,
    ) -> Result<Self, ReadError> {
        let snapshot = store.snapshot();
        let (mut found, mut expired) = (HashMap::new(), HashSet::new());
        let mut last = SequenceId::NONE;
        for receipt in receipts {
            let Some(sequence) = snapshot.receipt(&receipt)? else { continue };
            let id = EnvelopeId::new(node, sequence);
            if let Some(bytes) = snapshot.get(id)? {
                found.insert(receipt, bytes);
                last = last.max(sequence);
            } else if matches!(snapshot.mark(id)?, Some(Mark::Pruned { .. })) {
                expired.insert(receipt);
            }
        }
        Ok(Self { stored, is_durable: snapshot.is_durable(), last, found, expired })
    }

    /// Looks for earlier publishes in the database's memory. Returns the outcome if that excludes every one, and `None`
    /// if the disk has to be read. `stored` was read before. Never waits for the disk.
    pub(super) fn none_in_memory(
        store: &Store,
        stored: Generation,
        receipts: impl Iterator<Item = Receipt>,
    ) -> Option<Self> {
        let is_new = store.lacks_receipts_for_sure(receipts);
        // Nothing was found that might not be durable.
        is_new.then(|| Self { stored, is_durable: true, ..Self::default() })
    }

    /// Joins the outcomes for the parts of a request, as of the earliest moment of them.
    pub(super) fn of_parts<E>(parts: impl IntoIterator<Item = Result<Self, E>>) -> Result<Self, E> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().transpose()?.unwrap_or_default();
        for part in parts {
            let Self { stored, is_durable, last, found, expired } = part?;
            all.stored = all.stored.min(stored);
            all.is_durable &= is_durable;
            all.last = all.last.max(last);
            all.found.extend(found);
            all.expired.extend(expired);
        }
        Ok(all)
    }

    /// Returns the outcome for some of the publishes, as of the same moment.
    pub(super) fn part(&self, receipts: impl Iterator<Item = Receipt>) -> Self {
        let Self { stored, is_durable, last, .. } = *self;
        let (mut found, mut expired) = (HashMap::new(), HashSet::new());
        for receipt in receipts {
            if let Some(bytes) = self.found.get(&receipt) {
                found.insert(receipt, bytes.clone());
            } else if self.expired.contains(&receipt) {
                expired.insert(receipt);
            }
        }
        Self { stored, is_durable, last, found, expired }
    }

    /// Adds the results of a later look-up of the receipts that this one did not find.
    pub(super) fn renewed_by(mut self, later: Self) -> Self {
        debug_assert!(self.stored <= later.stored, "it was read later");
        self.stored = later.stored;
        self.is_durable &= later.is_durable;
        self.last = self.last.max(later.last);
        self.found.extend(later.found);
        self.expired.extend(later.expired);
        self
    }

    /// Returns the newest group that was stored before.
    pub(super) fn stored(&self) -> Generation {
        self.stored
    }

    /// Returns true if an earlier publish was found, whether or not it has expired.
    pub(super) fn knows(&self, receipt: &Receipt) -> bool {
        self.found.contains_key(receipt) || self.expired.contains(receipt)
    }

    /// Returns true if an earlier publish was stored and has expired since: there is no envelope to answer with.
    pub(super) fn has_expired(&self, receipt: &Receipt) -> bool {
        self.expired.contains(receipt)
    }

    /// Returns the envelope of an earlier publish.
    pub(super) fn get(&self, receipt: &Receipt) -> Option<&Bytes> {
        self.found.get(receipt)
    }

    /// Returns true if everything that was found is durable. After a failed write, while the database is open for
    /// reading only, the look may have shown what the disk does not have in the end.
    pub(super) fn is_durable(&self) -> bool {
        self.is_durable
    }

    /// An outcome of a database that is open for reading only.
    #[cfg(test)]
    pub(super) fn of_read_only(receipt: Receipt, bytes: Bytes) -> Self {
        Self { found: HashMap::from([(receipt, bytes)]), ..Self::default() }
    }

    /// Returns the envelopes of earlier publishes, in the order of `receipts`. `None` if one of them was not found, or
    /// if not all of them are known to be durable and readable, which places up to `head` are. Asks for the head only
    /// if one was found: nearly all publishes are new.
    pub(super) fn all_stored(
        &self,
        head: impl FnOnce() -> SequenceId,
        receipts: impl Iterator<Item = Receipt>,
    ) -> Option<Vec<Bytes>> {
        if self.found.is_empty() || !self.is_durable || self.last > head() {
            return None;
        }
        receipts.map(|receipt| self.get(&receipt).cloned()).collect()
    }
}

/// The envelopes of the last groups. Some are on their way to disk. Others are stored, but an earlier look-up has not
/// seen them.
///
/// Those on their way are bounded by the memory for requests that wait, the others by [`KEPT_MAX`] and
/// [`KEPT_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct RecentGroups {
    /// Envelopes by receipt, each with the group that contained it.
    envelopes: HashMap<Receipt, (Generation, Bytes)>,
    /// Groups that contained envelopes, oldest first.
    groups: VecDeque<RecentGroup>,
    len_bytes: usize,
    /// Groups before this one are forgotten.
    first: Generation,
}

#[derive(Debug)]
struct RecentGroup {
    generation: Generation,
    receipts: Vec<Receipt>,
    len_bytes: usize,
}

impl RecentGroups {
    /// Remembers a group that has been signed. A group of repeats adds nothing, because a caller can send any
    /// number of them.
    pub(super) fn push(
        &mut self,
        generation: Generation,
        envelopes: impl IntoIterator<Item = (Receipt, Bytes)>,
    ) {
        let mut group = RecentGroup { generation, receipts: Vec::new(), len_bytes: 0 };
        for (receipt, bytes) in envelopes {
            group.len_bytes += bytes.len();
            group.receipts.push(receipt);
            self.envelopes.insert(receipt, (generation, bytes));
        }
        if !group.receipts.is_empty() {
            self.len_bytes += group.len_bytes;
            self.groups.push_back(group);
        }
    }

    /// Forgets the oldest groups up to `stored` until the rest is within the bound.
    pub(super) fn forget(&mut self, stored: Generation) {
        while (self.envelopes.len() > KEPT_MAX || self.len_bytes > KEPT_BYTES_MAX)
            && let Some(group) = self.groups.pop_front_if(|group| group.generation <= stored)
        {
            for receipt in &group.receipts {
                // A later group may have brought the same again.
                if self.envelopes.get(receipt).is_some_and(|it| it.0 == group.generation) {
                    self.envelopes.remove(receipt);
                }
            }
            self.len_bytes -= group.len_bytes;
            self.first = group.generation + 1;
        }
    }

    /// Forgets all groups: the strand has been read again behind group `last`, and may hold what no group
    /// has brought.
    pub(super) fn restart_after(&mut self, last: Generation) {
        *self = Self { first: last + 2, ..Self::default() };
    }

    /// Returns the first group that is not forgotten.
    pub(super) fn first(&self) -> Generation {
        self.first
    }

    /// Returns the envelope of a publish in one of the groups.
    pub(super) fn get(&self, receipt: &Receipt) -> Option<&Bytes> {
        self.envelopes.get(receipt).map(|(_, bytes)| bytes)
    }

    /// Returns true if half of what may stay has come since the look-up. These groups and the look-up together may soon
    /// not know every earlier publish any more.
    pub(super) fn is_aging(&self, look_up: &LookUp) -> bool {
        let since = self.groups.partition_point(|group| group.generation <= look_up.stored);
        let (mut count, mut len_bytes) = (0, 0);
        for group in self.groups.range(since..) {
            count += group.receipts.len();
            len_bytes += group.len_bytes;
        }
        count > KEPT_MAX / 2 || len_bytes > KEPT_BYTES_MAX / 2
    }

    /// Returns true if these groups and the look-up together know every earlier publish.
    pub(super) fn complete(&self, look_up: &LookUp) -> bool {
        look_up.stored.saturating_add(1) >= self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(numbers: std::ops::Range<usize>) -> HashMap<Receipt, Bytes> {
        let receipt = |number: usize| {
            let mut receipt = [0; 32];
            receipt[..8].copy_from_slice(&number.to_be_bytes());
            (receipt, Bytes::from(number.to_string()))
        };
        numbers.map(receipt).collect()
    }

    fn knows(recent: &RecentGroups, number: usize) -> bool {
        group(number..number + 1).keys().all(|receipt| recent.get(receipt).is_some())
    }

    fn look_up(stored: Generation) -> LookUp {
        LookUp { stored, ..LookUp::default() }
    }

    #[test]
    fn parts_of_a_request_are_joined_as_of_the_earliest_moment() {
        let part =
            |stored, numbers| Ok(LookUp { stored, found: group(numbers), ..LookUp::default() });
        let all = LookUp::of_parts([part(7, 0..2), part(5, 2..4), part(6, 4..5)]);
        let all: Result<_, &str> = all;
        let all = all.unwrap();
        assert_eq!(all.stored, 5, "a group after the fifth may contain what one part did not find");
        assert!(group(0..5).keys().all(|receipt| all.get(receipt).is_some()));
        let renewed = all.renewed_by(LookUp { stored: 9, found: group(5..6), ..LookUp::default() });
        assert_eq!(renewed.stored(), 9);
        assert!(group(0..6).keys().all(|receipt| renewed.knows(receipt)));
        assert_eq!(LookUp::of_parts([part(7, 0..2), Err("gone")]).unwrap_err(), "gone");
    }

    #[test]
    fn only_what_is_stored_and_durable_answers_a_request() {
        let part = |is_durable, numbers: std::ops::Range<usize>| LookUp {
            is_durable,
            last: SequenceId(numbers.end as u64),
            found: group(numbers),
            ..LookUp::default()
        };
        let answer = |parts: [LookUp; 2], numbers| {
            let all = LookUp::of_parts(parts.map(Ok::<_, &str>)).unwrap();
            let found = all.all_stored(|| SequenceId(4), group(numbers).into_keys());
            found.map(|found| found.len())
        };
        assert_eq!(answer([part(true, 0..2), part(true, 2..4)], 0..4), Some(4));
        assert_eq!(answer([part(true, 0..2), part(true, 2..4)], 0..5), None, "one is new");
        assert_eq!(answer([part(true, 0..2), part(false, 2..4)], 0..4), None, "one may be lost");
        assert_eq!(answer([part(true, 0..2), part(true, 2..5)], 0..5), None, "no reader sees one");
    }

    #[test]
    fn groups_are_forgotten_when_they_are_stored_and_too_many() {
        let mut recent = RecentGroups::default();
        for generation in 1..=6 {
            let from = usize::try_from(generation).unwrap() * 2000;
            recent.push(generation, group(from..from + 2000));
        }
        recent.forget(0);
        assert!(knows(&recent, 2000) && recent.complete(&look_up(0)), "nothing is stored yet");
        recent.forget(1);
        assert!(!knows(&recent, 2000) && knows(&recent, 4000));
        recent.forget(6);
        assert!(!knows(&recent, 5999) && knows(&recent, 6000), "8,000 receipts may stay");
        assert!(!recent.complete(&look_up(1)), "the second group is neither here nor looked up");
        assert!(recent.complete(&look_up(2)));
    }

    #[test]
    fn large_envelopes_are_forgotten_earlier() {
        let mut recent = RecentGroups::default();
        for generation in 1..=12_u8 {
            let large = Bytes::from(vec![generation; 4 << 20]);
            recent.push(generation.into(), [([generation; 32], large)]);
            recent.forget(u64::from(generation) - 1);
        }
        let kept = (1..=12).filter(|number| recent.get(&[*number; 32]).is_some());
        assert_eq!(kept.collect::<Vec<u8>>(), [5, 6, 7, 8, 9, 10, 11, 12]);
        assert!(recent.complete(&look_up(4)) && !recent.complete(&look_up(3)));
    }

    #[test]
    fn a_look_up_is_aging_before_groups_since_then_are_forgotten() {
        let mut recent = RecentGroups::default();
        for generation in 1..=4 {
            let from = usize::try_from(generation).unwrap() * 2000;
            recent.push(generation, group(from..from + 2000));
        }
        let is_aging = |stored| recent.is_aging(&look_up(stored));
        assert_eq!([0, 1, 2, 4, 9].map(is_aging), [true, true, false, false, false]);
        assert!(recent.complete(&look_up(0)), "it still knows everything");
        let mut recent = RecentGroups::default();
        recent.push(1, [([1; 32], Bytes::from(vec![1; 20 << 20]))]);
        assert!(recent.is_aging(&look_up(0)) && !recent.is_aging(&look_up(1)));
    }

    #[test]
    fn groups_of_repeats_leave_no_trace() {
        let mut recent = RecentGroups::default();
        recent.push(1, group(0..5));
        for generation in 2..100_000 {
            recent.push(generation, []);
            recent.forget(generation);
        }
        assert_eq!((recent.groups.len(), recent.envelopes.len()), (1, 5));
        assert!(recent.complete(&look_up(0)));
    }

    #[test]
    fn a_look_up_of_before_the_strand_was_read_again_is_not_enough() {
        let mut recent = RecentGroups::default();
        recent.push(1, group(0..5));
        recent.restart_after(1);
        assert!(!knows(&recent, 1));
        assert!(!recent.complete(&look_up(0)) && !recent.complete(&look_up(1)));
        recent.push(2, group(5..9));
        assert!(recent.complete(&look_up(2)));
    }
}
