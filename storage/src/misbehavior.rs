//! Writing and reading evidence against nodes. It is recorded beside the log, never derived, and stays
//! when its envelopes are pruned.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use hawser_proto::OriginatorId;
use rocksdb::ReadOptions;

use crate::error::{CommitError, ReadError};
use crate::facts::{FactBatch, each_fact};
use crate::keys::Key;
use crate::keys::fact::{Fact as _, FactClass};
use crate::keys::misbehavior::{Evidence, EvidenceTime, FactKey, Misbehavior};
use crate::snapshot::Snapshot;
use crate::store::Store;

/// A piece of evidence with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvidence {
    /// The position, which contains the time of storing.
    pub at: EvidenceTime,
    /// The evidence.
    pub evidence: Evidence,
}

/// The number of pieces of evidence that are kept about one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvidenceCounts {
    proven: u64,
    claims: u64,
}

impl EvidenceCounts {
    /// Returns the number of facts that every reader can verify.
    #[must_use]
    pub fn proven(self) -> u64 {
        self.proven
    }

    /// Returns the number of facts that rest on this node's clock.
    #[must_use]
    pub fn claims(self) -> u64 {
        self.claims
    }
}

impl Store {
    /// Records evidence at `now_ns` as one write, and returns the facts that were new when it is
    /// durable. A fact (node, kind, place, and the difference of two statements) is stored once: the first
    /// evidence for it stays. Two statements are not stored below a graver pair for the same place.
    ///
    /// Keeps about each node up to 10,000 equivocations (two statements of different content), 10,000 leaves of another
    /// statement, 10,000 other proven facts and 10,000 claims, 256 MiB of each. Proven facts are kept for ever, and
    /// further ones are not stored; claims are kept for 30 days, and the oldest ones make room.
    ///
    /// A fact whose row the disk has damaged is stored again, once.
    ///
    /// # Errors
    /// When the database fails. After [`CommitError::Write`] the store is poisoned.
    pub fn record_evidence(
        &self,
        now_ns: u64,
        evidence: &[Evidence],
    ) -> Result<Vec<Evidence>, CommitError> {
        let database = self.database();
        let mut batch = FactBatch::new(&database, &database.evidence, now_ns)?;
        let mut fresh = Vec::new();
        for piece in evidence {
            #[cfg(feature = "faults")]
            let piece = &changed_if_faulty(piece);
            let (fact, covering) = (FactKey::of(piece), FactKey::covering(piece));
            if batch.stage(fact, covering, || piece.encode()).is_some() {
                fresh.push(piece.clone());
            }
        }
        batch.write()?;
        Ok(fresh)
    }

    /// Removes claims, as evidence and as reports, that were stored more than 30 days before `now_ns`, and submitted
    /// ones that exceed their common bound. Proofs stay.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn forget_old_claims(&self, now_ns: u64) -> Result<(), CommitError> {
        let database = self.database();
        database.forget_old(now_ns, &database.evidence)?;
        database.forget_old(now_ns, &database.reports)
    }

    /// Removes the claims of one kind about a node for which `is_over` returns true, and returns their number when that
    /// is durable. Evidence of a kind that proves a fault stays.
    ///
    /// # Errors
    /// When the database fails, or nothing may be written.
    pub fn withdraw_claims(
        &self,
        accused: OriginatorId,
        misbehavior: Misbehavior,
        is_over: impl Fn(&Evidence) -> bool,
    ) -> Result<usize, CommitError> {
        let database = self.database();
        let kind = FactKey::first_of(accused, misbehavior);
        let is_kind = |fact: FactKey| FactKey { sequence: kind.sequence, ..fact } == kind;
        let is_over = |record: &[u8]| Evidence::decode(record).is_some_and(|it| is_over(&it));
        database.withdraw((accused, kind.class()), &database.evidence, is_kind, is_over)
    }

    /// Returns the number of pieces of evidence about each node that has any.
    #[must_use]
    pub fn evidence_counts(&self) -> BTreeMap<OriginatorId, EvidenceCounts> {
        let mut counts: BTreeMap<OriginatorId, EvidenceCounts> = BTreeMap::new();
        for (&(accused, share), amount) in self.database().evidence.lock().amounts() {
            if amount.records > 0 {
                let of_node = counts.entry(accused).or_default();
                let count =
                    if share.is_proven() { &mut of_node.proven } else { &mut of_node.claims };
                *count += amount.records;
            }
        }
        counts
    }

    /// Returns the number of pieces of evidence about each node that were not stored since the start, because the
    /// node's room for proven facts is full. Evidence that is found again counts again.
    #[must_use]
    pub fn evidence_left_out(&self) -> BTreeMap<OriginatorId, u64> {
        self.database().evidence.lock().left_out_by_node()
    }
}

#[cfg(feature = "faults")]
fn changed_if_faulty(piece: &Evidence) -> Evidence {
    let mut changed = piece.clone();
    if crate::faults::is_on(crate::faults::SeededFault::OtherEvidence)
        && let [first, .., last] = &mut changed.envelopes[..]
    {
        last.clone_from(first);
    }
    changed
}

impl Store {
    /// Returns the number of rows of evidence and of reports that could not be read since the start. At most 1,024 of
    /// each are counted.
    #[must_use]
    pub fn evidence_unreadable(&self) -> u64 {
        let database = self.database();
        let evidence = database.evidence.lock().unreadable();
        evidence + database.reports.lock().unreadable()
    }
}

impl Snapshot<'_> {
    fn note_unreadable(&self, key: &[u8], error: &ReadError) {
        self.database().evidence.lock().note_unreadable(key, error);
    }

    /// Returns evidence of this kind against a node, ascending by place: at most `limit` pieces. Passes over rows that
    /// the disk has damaged.
    ///
    /// # Errors
    /// When the database fails.
    pub fn evidence_about(
        &self,
        accused: OriginatorId,
        misbehavior: Misbehavior,
        limit: usize,
    ) -> Result<Vec<Evidence>, ReadError> {
        let mut found = Vec::new();
        if limit > 0 {
            self.each_evidence_about(accused, misbehavior, |piece| {
                found.push(piece.evidence);
                if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        Ok(found)
    }

    /// Shows `look` each piece of evidence of this kind against a node, ascending by place, until it ends the walk.
    /// Holds one piece at a time: a node may sign long envelopes. Passes over rows that the disk has damaged.
    ///
    /// # Errors
    /// When the database fails.
    pub fn each_evidence_about(
        &self,
        accused: OriginatorId,
        misbehavior: Misbehavior,
        mut look: impl FnMut(StoredEvidence) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let first = FactKey::first_of(accused, misbehavior);
        let open = || self.rows(FactKey::FAMILY, ReadOptions::default());
        each_fact::<FactKey>(&self.database().db, open, &first.encode(), |key, fact| {
            match fact {
                Ok((fact, _)) if (FactKey { sequence: first.sequence, ..fact }) != first => {
                    return ControlFlow::Break(());
                }
                Ok((_, row)) => match self.row(row.at, Evidence::decode) {
                    Ok(Some(evidence)) => return look(StoredEvidence { at: row.at, evidence }),
                    Ok(None) => {}
                    Err(error) => self.note_unreadable(&row.at.encode(), &error),
                },
                Err(error) => self.note_unreadable(key, &error),
            }
            ControlFlow::Continue(())
        })
    }

    /// Returns evidence that was stored after `after`, oldest first: at most `limit` pieces, and no more
    /// once they have `len_bytes_max` bytes. Empty at the end. Passes over rows that the disk has damaged.
    ///
    /// # Errors
    /// When the database fails.
    pub fn evidence(
        &self,
        after: EvidenceTime,
        limit: usize,
        len_bytes_max: usize,
    ) -> Result<Vec<StoredEvidence>, ReadError> {
        let (mut found, mut len_bytes) = (Vec::new(), 0);
        self.each_record(&self.database().evidence, after, |at, value| {
            if found.len() >= limit || len_bytes >= len_bytes_max {
                return Some(ControlFlow::Break(()));
            }
            let evidence = Evidence::decode(value)?;
            len_bytes += value.len();
            found.push(StoredEvidence { at, evidence });
            Some(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;
    use hawser_proto::{EnvelopeId, SequenceId};

    use super::*;
    use crate::testing::store;
    use crate::write_fault::WriteFault;

    const ACCUSED: OriginatorId = OriginatorId(200);

    fn piece(sequence: u64) -> Evidence {
        Evidence {
            misbehavior: Misbehavior::TimeBack,
            at: EnvelopeId::new(ACCUSED, SequenceId(sequence)),
            from: None,
            envelopes: vec![Bytes::from_static(b"an envelope")],
        }
    }

    fn all(store: &Store) -> Vec<StoredEvidence> {
        store.snapshot().evidence(EvidenceTime::default(), 9, usize::MAX).unwrap()
    }

    /// The caller repeats evidence that could not be stored at each commit of its strand.
    #[test]
    fn evidence_that_an_error_keeps_out_does_not_count() {
        let store = store();
        store.fail_next_write();
        for _ in 0..3 {
            assert!(store.record_evidence(1, &[piece(1), piece(2)]).is_err());
        }
        assert!(store.evidence_counts().is_empty());
    }

    /// The removal of older claims is another write. The caller logs, counts and reports only what it is told of.
    #[test]
    fn evidence_that_is_stored_is_returned_though_older_claims_cannot_be_removed() {
        let store = store();
        let claim = |place| Evidence { misbehavior: Misbehavior::TimeAhead, ..piece(place) };
        let claims: Vec<_> = (1..=10_001).map(claim).collect();
        let writes = AtomicU32::new(0);
        let second =
            move || (writes.fetch_add(1, Ordering::Relaxed) == 1).then_some(WriteFault::Lost);
        store.set_write_faults(Some(Arc::new(second)));
        assert_eq!(store.record_evidence(1, &claims).unwrap().len(), claims.len());
        assert!(store.is_poisoned(), "the second write has failed");
    }

    #[test]
    fn a_damaged_fact_keeps_out_no_evidence_and_is_recorded_once_more() {
        let store = store();
        assert_eq!(store.record_evidence(1, &[piece(2)]).unwrap().len(), 1);
        store.put_raw_row(FactKey::FAMILY, &FactKey::of(&piece(2)).encode(), b"damaged");
        let fresh = store.record_evidence(2, &[piece(1), piece(2), piece(3)]).unwrap();
        assert_eq!(fresh, [piece(1), piece(2), piece(3)]);
        assert_eq!(store.record_evidence(3, &[piece(1), piece(2), piece(3)]).unwrap(), []);
        assert_eq!(all(&store).len(), 4, "one is there twice, and none is lost");
        assert_eq!(store.evidence_unreadable(), 1);
    }

    #[test]
    fn a_damaged_record_is_passed_over_and_the_others_are_read() {
        let store = store();
        store.record_evidence(1, &[piece(1), piece(2), piece(3)]).unwrap();
        store.put_raw_row(EvidenceTime::FAMILY, &all(&store)[1].at.encode(), b"damaged");
        for _ in 0..2 {
            let read: Vec<_> = all(&store).into_iter().map(|it| it.evidence).collect();
            assert_eq!(read, [piece(1), piece(3)]);
            let about = store.snapshot().evidence_about(ACCUSED, Misbehavior::TimeBack, 9);
            assert_eq!(about.unwrap(), [piece(1), piece(3)]);
        }
        assert_eq!(store.evidence_unreadable(), 1, "it is named once");
    }

    #[test]
    fn claims_of_one_kind_that_are_over_are_withdrawn_and_may_come_again() {
        let store = store();
        let of = |misbehavior, sequence| Evidence { misbehavior, ..piece(sequence) };
        let gap = |sequence| of(Misbehavior::Gap, sequence);
        let others = [of(Misbehavior::TimeAhead, 1), piece(1)];
        let about_another =
            Evidence { at: EnvelopeId::new(OriginatorId(300), SequenceId(1)), ..gap(1) };
        let recorded =
            [gap(1), gap(2), others[0].clone(), others[1].clone(), about_another.clone()];
        store.record_evidence(1, &recorded).unwrap();
        let withdraw = |misbehavior, sequence| {
            let is_over = |it: &Evidence| it.at.sequence == SequenceId(sequence);
            store.withdraw_claims(ACCUSED, misbehavior, is_over).unwrap()
        };
        assert_eq!(withdraw(Misbehavior::Gap, 1), 1);
        assert_eq!(withdraw(Misbehavior::Gap, 1), 0, "it is gone");
        assert_eq!(withdraw(Misbehavior::TimeBack, 1), 0, "a proof stays");
        let left: Vec<_> = all(&store).into_iter().map(|it| it.evidence).collect();
        let [ahead, back] = others;
        assert_eq!(left, [gap(2), ahead, back, about_another]);
        let counts = store.evidence_counts()[&ACCUSED];
        assert_eq!((counts.proven(), counts.claims()), (1, 2));
        assert_eq!(store.record_evidence(2, &[gap(1)]).unwrap(), [gap(1)]);
    }

    #[test]
    fn a_damaged_claim_keeps_no_old_claims() {
        let store = store();
        let claim = |sequence| Evidence { misbehavior: Misbehavior::TimeAhead, ..piece(sequence) };
        store.record_evidence(1, &[claim(1), claim(2), claim(3)]).unwrap();
        store.put_raw_row(FactKey::FAMILY, &FactKey::of(&claim(2)).encode(), b"damaged");
        store.forget_old_claims(u64::MAX).unwrap();
        let left: Vec<_> = all(&store).into_iter().map(|it| it.evidence).collect();
        assert_eq!(left, [claim(2)]);
    }
}
