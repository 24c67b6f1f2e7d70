//! Earlier publishes of the same envelopes. They are looked up on disk while a request is admitted, so that
//! the sequencing thread, which all publishes pass, reads no disk.

use std::collections::{HashMap, HashSet};

use hawser_proto::{Bytes, EnvelopeId, OriginatorId, SequenceId};
use hawser_rules::is_free;
use hawser_storage::{Mark, ReadError, Store};

use super::in_flight::{HeldReceipts, Receipt};
use crate::admission::AdmissionError;
use crate::sequencer::Admitted;

/// The outcome of a look on the disk. What has been signed since then for the same envelopes is known by their
/// receipts, which it holds.
#[derive(Debug)]
pub(super) struct LookUp {
    /// The envelopes of the request, or of the part of it that has no places yet.
    pub(super) held: HeldReceipts,
    /// The number of times that the end of the strand had been read again before.
    round: u64,
    /// Everything that was found is durable.
    is_durable: bool,
    /// The highest place of everything that was found.
    last: SequenceId,
    found: HashMap<Receipt, Bytes>,
    /// Earlier publishes whose envelopes have expired and are pruned.
    expired: HashSet<Receipt>,
}

impl LookUp {
    /// Looks for earlier publishes of held envelopes on the disk. `round` was read before. Blocks on the disk.
    pub(super) fn read(
        store: &Store,
        node: OriginatorId,
        round: u64,
        held: HeldReceipts,
    ) -> Result<Self, ReadError> {
        let snapshot = store.snapshot();
        let (mut found, mut expired) = (HashMap::new(), HashSet::new());
        let mut last = SequenceId::NONE;
        for receipt in held.receipts() {
            let Some(sequence) = snapshot.receipt(&receipt)? else { continue };
            let id = EnvelopeId::new(node, sequence);
            if let Some(bytes) = snapshot.get(id)? {
                found.insert(receipt, bytes);
                last = last.max(sequence);
            } else if matches!(snapshot.mark(id)?, Some(Mark::Pruned { .. })) {
                expired.insert(receipt);
            }
        }
        Ok(Self { held, round, is_durable: snapshot.is_durable(), last, found, expired })
    }

    /// Looks for earlier publishes of held envelopes in the database's memory. Returns the outcome if that excludes
    /// every one. `round` was read before. Never waits for the disk.
    ///
    /// # Errors
    /// The held envelopes, if the disk has to be read.
    pub(super) fn none_in_memory(
        store: &Store,
        round: u64,
        held: HeldReceipts,
    ) -> Result<Self, HeldReceipts> {
        let is_new = store.lacks_receipts_for_sure(held.receipts());
        if is_new { Ok(Self::none(round, held)) } else { Err(held) }
    }

    /// The outcome if there is no earlier publish.
    fn none(round: u64, held: HeldReceipts) -> Self {
        let (last, found, expired) = (SequenceId::NONE, HashMap::new(), HashSet::new());
        // Nothing was found that might not be durable.
        Self { held, round, is_durable: true, last, found, expired }
    }

    /// Joins the outcomes for the parts of a request, in their order. There is at least one.
    pub(super) fn of_parts<E>(parts: impl IntoIterator<Item = Result<Self, E>>) -> Result<Self, E> {
        let mut parts = parts.into_iter();
        let mut all = parts.next().expect("a request has a part")?;
        for part in parts {
            let Self { held, round, is_durable, last, found, expired } = part?;
            all.held.append(held);
            all.round = all.round.min(round);
            all.is_durable &= is_durable;
            all.last = all.last.max(last);
            all.found.extend(found);
            all.expired.extend(expired);
        }
        Ok(all)
    }

    /// Returns true if the outcome and what has been signed since then together know every earlier publish. They do
    /// not if the end of the strand has been read again since, which is then a later `round`: the strand may hold what
    /// was signed before and not written as it seemed. Nor if the database was open for reading only: the look may have
    /// shown what the disk does not have in the end.
    pub(super) fn is_complete(&self, round: u64) -> bool {
        self.is_durable && self.round == round
    }

    /// Refuses what was published before and has expired. A payer's envelopes are public, and no signature covers their
    /// retention: taken as new ones, they would let any reader have their payer charged again. Envelopes that are free,
    /// as this node's own are, may be published again.
    pub(super) fn refused_as_expired(&self, envelopes: &[Admitted]) -> Option<AdmissionError> {
        let is_expired = |(_, it): &(usize, &Admitted)| {
            self.expired.contains(&it.receipt) && !is_free(it.envelope.client().topic().kind())
        };
        let expired = envelopes.iter().enumerate().filter(is_expired).map(|(index, _)| index);
        AdmissionError::of_expired(expired)
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
    pub(super) fn of_read_only(held: HeldReceipts, receipt: Receipt, bytes: Bytes) -> Self {
        let found = HashMap::from([(receipt, bytes)]);
        Self { is_durable: false, found, ..Self::none(0, held) }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::publisher::in_flight::EnvelopesInFlight;

    fn group(numbers: std::ops::Range<usize>) -> HashMap<Receipt, Bytes> {
        let receipt = |number: usize| {
            let mut receipt = [0; 32];
            receipt[..8].copy_from_slice(&number.to_be_bytes());
            (receipt, Bytes::from(number.to_string()))
        };
        numbers.map(receipt).collect()
    }

    /// A look-up of a round that has found these publishes.
    fn look_up(round: u64, numbers: std::ops::Range<usize>) -> LookUp {
        let found = group(numbers);
        let held = Arc::<EnvelopesInFlight>::default().hold(found.keys().copied());
        LookUp { found, ..LookUp::none(round, held) }
    }

    #[test]
    fn parts_of_a_request_are_joined_as_of_the_earliest_round() {
        let all = [look_up(7, 0..2), look_up(5, 2..4), look_up(6, 4..5)];
        let held: Vec<_> = all.iter().flat_map(|part| part.held.receipts()).collect();
        let all = LookUp::of_parts(all.map(Ok::<_, &str>)).unwrap();
        let is_complete = [4, 5, 6, 7].map(|round| all.is_complete(round));
        assert_eq!(is_complete, [false, true, false, false], "one part may lack what is there");
        assert!(group(0..5).keys().all(|receipt| all.get(receipt).is_some()));
        assert_eq!(all.held.receipts().collect::<Vec<_>>(), held, "in the order of the request");
        assert_eq!(LookUp::of_parts([Ok(look_up(7, 0..2)), Err("gone")]).unwrap_err(), "gone");
    }

    #[test]
    fn a_look_at_what_may_be_lost_is_not_complete() {
        let all = [look_up(5, 0..2), LookUp { is_durable: false, ..look_up(5, 2..4) }];
        assert!(!LookUp::of_parts(all.map(Ok::<_, &str>)).unwrap().is_complete(5));
    }

    #[test]
    fn only_what_is_stored_and_durable_answers_a_request() {
        let part = |is_durable, numbers: std::ops::Range<usize>| LookUp {
            is_durable,
            last: SequenceId(numbers.end as u64),
            ..look_up(0, numbers)
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
}
