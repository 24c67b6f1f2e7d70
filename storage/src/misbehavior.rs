//! Writing and reading evidence against nodes. It is recorded beside the log, never derived, and stays
//! when its envelopes are pruned.

use std::collections::{BTreeMap, BTreeSet};

use hawser_proto::OriginatorId;
use rocksdb::{DB, ReadOptions, WriteBatch};

use crate::database::{Database, family_of};
use crate::error::{CommitError, DatabaseError, ReadError};
use crate::evidence_index::{EvidenceCounts, EvidenceIndex};
use crate::family::Family;
use crate::keys::Key;
use crate::keys::misbehavior::{Evidence, EvidenceTime, FactKey, FactRow, Misbehavior, Share};
use crate::raw_rows::stored;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::unread::PartRead;

/// Claims that are kept about one node. Specified (`docs/protocol/misbehavior.md`).
const CLAIMS_MAX: u64 = 10_000;
/// Equivocations, and other proven facts, that are kept about one node for ever. Later ones prove nothing
/// more, and a node must not fill this one's disk with its own faults. Specified (same page).
const PROVEN_MAX: u64 = 10_000;
/// Bytes of evidence of each share that are kept about one node. Specified (same page).
const LEN_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Time for which a claim is kept. Specified (same page): 30 days.
const CLAIM_KEPT_NS: u64 = 30 * 24 * 60 * 60 * 1_000_000_000;
/// Claims that are removed at once when there are too many, so that the search for the oldest ones is
/// paid by many new ones. Guessed.
const CLAIMS_REMOVED: usize = 1_000;

/// A piece of evidence with its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvidence {
    /// The position, which also says when it was stored.
    pub at: EvidenceTime,
    /// The evidence.
    pub evidence: Evidence,
}

/// Reads the index of the evidence from the database. What cannot be read is not in it: of those facts more is kept than
/// the bounds say, until the next start.
pub(crate) fn load_index(db: &DB) -> PartRead<EvidenceIndex> {
    let mut index = EvidenceIndex::default();
    let read = add_to_index(db, &mut index);
    if read.is_err() {
        // New evidence must not take the place of another piece.
        let mut rows = db.raw_iterator_cf(family_of(db, EvidenceTime::FAMILY));
        rows.seek_to_last();
        index.last = index.last.max(rows.key().and_then(EvidenceTime::decode).unwrap_or_default());
        if let Err(error) = rows.status().map_err(DatabaseError::from)
            && !error.is_corruption()
        {
            return Err(error.into()); // the last one may still be found
        }
    }
    Ok((index, read))
}

fn add_to_index(db: &DB, index: &mut EvidenceIndex) -> Result<(), ReadError> {
    let mut rows = db.raw_iterator_cf(family_of(db, Family::MisbehaviorFact));
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        let (fact, row) = decode_fact(key, value)?;
        index.counts.entry(fact.accused).or_default().add(fact.share(), row.len_bytes);
        index.last = index.last.max(row.at);
        rows.next();
    }
    Ok(rows.status().map_err(DatabaseError::from)?)
}

fn decode_fact(key: &[u8], value: &[u8]) -> Result<(FactKey, FactRow), ReadError> {
    let decoded = FactKey::decode(key).zip(FactRow::decode(value));
    decoded.ok_or_else(|| ReadError::corrupt(Family::MisbehaviorFact, key))
}

impl Store {
    /// Records evidence at `now_ns` as one write, and returns the facts that were new when it is
    /// durable. A fact (node, kind, place, and the severity of two statements) is stored once: the first
    /// evidence for it stays. Two statements are not stored below a graver pair for the same place.
    ///
    /// Keeps about each node up to 10,000 equivocations (two statements of different content), 10,000
    /// other proven facts and 10,000 claims, 256 MiB of each. Proven facts are kept for ever, and further
    /// ones are not stored; claims are kept for 30 days, and the oldest ones make room.
    ///
    /// # Errors
    /// When the database fails. After [`CommitError::Write`] the store is poisoned.
    pub fn record_evidence(
        &self,
        now_ns: u64,
        evidence: &[Evidence],
    ) -> Result<Vec<Evidence>, CommitError> {
        self.database().record_evidence(now_ns, evidence)
    }

    /// Returns the number of pieces of evidence about each node that has any.
    #[must_use]
    pub fn evidence_counts(&self) -> BTreeMap<OriginatorId, EvidenceCounts> {
        let database = self.database();
        let index = database.evidence.lock();
        index
            .counts
            .iter()
            .filter(|(_, it)| it.proven() + it.claims() > 0)
            .map(|(&a, &b)| (a, b))
            .collect()
    }

    /// Returns the number of pieces of evidence about each node that were not stored since the start, because the node's
    /// room for proven facts is full. Evidence that is met again counts again.
    #[must_use]
    pub fn evidence_left_out(&self) -> BTreeMap<OriginatorId, u64> {
        self.database().evidence.lock().left_out.by_node()
    }
}

impl Database {
    fn record_evidence(
        &self,
        now_ns: u64,
        evidence: &[Evidence],
    ) -> Result<Vec<Evidence>, CommitError> {
        self.check_writable()?;
        let mut index = self.evidence.lock();
        let mut batch = WriteBatch::default();
        let (mut fresh, mut staged) = (Vec::new(), BTreeSet::new());
        // Taken over when the rows are written: after an error the rows are not there, and must not count.
        let mut grown: BTreeMap<OriginatorId, EvidenceCounts> = BTreeMap::new();
        let mut last = index.last;
        for piece in evidence {
            let fact = FactKey::of(piece);
            if self.is_covered(piece, &staged)? {
                continue;
            }
            let value = piece.encode();
            let len_bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
            let held = || index.counts.get(&fact.accused).copied().unwrap_or_default();
            let counts = grown.entry(fact.accused).or_insert_with(held);
            if !has_room(counts, fact.share(), len_bytes) {
                index.left_out.note(fact.accused, fact.share(), "evidence");
                continue;
            }
            staged.insert(fact);
            counts.add(fact.share(), len_bytes);
            last = last.next(now_ns);
            let row = FactRow { at: last, len_bytes };
            batch.put_cf(self.family(Family::Misbehavior), last.encode(), value);
            batch.put_cf(self.family(FactKey::FAMILY), fact.encode(), row.encode());
            fresh.push(piece.clone());
        }
        if fresh.is_empty() {
            return Ok(fresh);
        }
        self.write_durable(batch)?;
        index.last = last;
        index.counts.append(&mut grown);
        let accused: BTreeSet<OriginatorId> = fresh
            .iter()
            .filter(|it| it.misbehavior.is_claim())
            .map(|it| it.at.originator)
            .collect();
        for accused in accused {
            self.make_room(now_ns, accused, &mut index)?;
        }
        Ok(fresh)
    }

    /// Returns true if a fact that is stored or `staged` makes the evidence needless.
    fn is_covered(
        &self,
        evidence: &Evidence,
        staged: &BTreeSet<FactKey>,
    ) -> Result<bool, ReadError> {
        for fact in FactKey::covering(evidence) {
            if staged.contains(&fact) || stored(&self.db, fact, FactRow::decode)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes the oldest claims about a node once there are too many, and with them those that are too
    /// old to be kept.
    fn make_room(
        &self,
        now_ns: u64,
        accused: OriginatorId,
        index: &mut EvidenceIndex,
    ) -> Result<(), CommitError> {
        let counts = index.counts.entry(accused).or_default();
        let kept = *counts.of(Share::Claims);
        if kept.pieces <= CLAIMS_MAX && kept.bytes <= LEN_BYTES_MAX {
            return Ok(());
        }
        let mut claims = self.claims_about(accused)?;
        claims.sort_unstable_by_key(|(_, row)| row.at);
        let (evidence, facts) = (self.family(Family::Misbehavior), self.family(FactKey::FAMILY));
        let mut batch = WriteBatch::default();
        for (number, (fact, row)) in claims.into_iter().enumerate() {
            let is_old = row.at.server_time_ns.saturating_add(CLAIM_KEPT_NS) < now_ns;
            if number >= CLAIMS_REMOVED
                && !is_old
                && counts.of(Share::Claims).bytes <= LEN_BYTES_MAX
            {
                break;
            }
            batch.delete_cf(evidence, row.at.encode());
            batch.delete_cf(facts, fact.encode());
            counts.remove(Share::Claims, row.len_bytes);
        }
        self.write_buffered(batch)
    }

    fn claims_about(&self, accused: OriginatorId) -> Result<Vec<(FactKey, FactRow)>, ReadError> {
        let mut rows = self.db.raw_iterator_cf(self.family(FactKey::FAMILY));
        let mut claims = Vec::new();
        rows.seek(FactKey::first_claim(accused).encode());
        while let Some((key, value)) = rows.item() {
            let (fact, row) = decode_fact(key, value)?;
            if fact.accused != accused {
                break;
            }
            claims.push((fact, row));
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(claims)
    }
}

/// Returns true if another piece may be stored. Claims make room for themselves.
fn has_room(counts: &mut EvidenceCounts, share: Share, len_bytes: u32) -> bool {
    let kept = counts.of(share);
    share == Share::Claims
        || (kept.pieces < PROVEN_MAX && kept.bytes + u64::from(len_bytes) <= LEN_BYTES_MAX)
}

impl Snapshot<'_> {
    /// Returns evidence of this kind against a node, ascending by place: at most `limit` pieces.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn evidence_about(
        &self,
        accused: OriginatorId,
        misbehavior: Misbehavior,
        limit: usize,
    ) -> Result<Vec<Evidence>, ReadError> {
        let first = FactKey::first_of(accused, misbehavior);
        let mut rows = self.rows(FactKey::FAMILY, ReadOptions::default());
        let mut found = Vec::new();
        rows.seek(first.encode());
        while let Some((key, value)) = rows.item() {
            let (fact, row) = decode_fact(key, value)?;
            let is_same = FactKey { sequence: first.sequence, ..fact } == first;
            if !is_same || found.len() >= limit {
                break;
            }
            found.extend(self.row(row.at, Evidence::decode)?);
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(found)
    }

    /// Returns evidence that was stored after `after`, oldest first: at most `limit` pieces, and no more
    /// once they have `len_bytes_max` bytes. Empty at the end.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub fn evidence(
        &self,
        after: EvidenceTime,
        limit: usize,
        len_bytes_max: usize,
    ) -> Result<Vec<StoredEvidence>, ReadError> {
        let mut rows = self.rows(EvidenceTime::FAMILY, ReadOptions::default());
        let (mut found, mut len_bytes) = (Vec::new(), 0);
        rows.seek(after.encode());
        while let Some((key, value)) = rows.item() {
            let corrupt = || ReadError::corrupt(EvidenceTime::FAMILY, key);
            let at = EvidenceTime::decode(key).ok_or_else(corrupt)?;
            if at > after {
                if found.len() >= limit || len_bytes >= len_bytes_max {
                    break;
                }
                len_bytes += value.len();
                let evidence = Evidence::decode(value).ok_or_else(corrupt)?;
                found.push(StoredEvidence { at, evidence });
            }
            rows.next();
        }
        rows.status().map_err(DatabaseError::from)?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hawser_proto::{EnvelopeId, SecretKey, SequenceId};

    use super::*;
    use crate::settings::StoreIdentity;

    /// A caller repeats evidence that could not be stored, at each commit of its strand.
    #[test]
    fn evidence_that_an_error_keeps_out_does_not_count() {
        let accused = OriginatorId(200);
        let public_key = SecretKey::from_bytes(&[1; 32]).unwrap().public_key();
        let identity =
            StoreIdentity { network: "test".into(), node: OriginatorId(100), public_key };
        let store = Store::in_memory(identity, |_, _| 0).unwrap();
        let piece = |sequence| Evidence {
            misbehavior: Misbehavior::TimeBack,
            at: EnvelopeId::new(accused, SequenceId(sequence)),
            from: None,
            envelopes: vec![Bytes::from_static(b"an envelope")],
        };
        let database = store.database();
        let damaged = FactKey::of(&piece(2)).encode();
        database.db.put_cf(database.family(FactKey::FAMILY), damaged, b"damaged").unwrap();
        for _ in 0..3 {
            assert!(store.record_evidence(1, &[piece(1), piece(2)]).is_err());
        }
        assert!(store.evidence_counts().is_empty());
        database.db.delete_cf(database.family(FactKey::FAMILY), damaged).unwrap();
        assert_eq!(store.record_evidence(1, &[piece(1), piece(2)]).unwrap().len(), 2);
        assert_eq!(store.evidence_counts()[&accused].proven(), 2);
    }
}
